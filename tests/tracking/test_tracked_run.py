"""A run's record, before anything is sent."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litmus.errors import Refused
from litmus.tracking.masking import MASK
from litmus.tracking.run import Run
from litmus.tracking.spool import Spool


def read(run, kind):
    run.flush()
    with Spool(run.dir) as spool:
        return spool.texts(kind)


def test_parameters_have_the_configs_dotted_names_and_are_written_as_typed(start):
    run = start(
        params={"optim": {"name": "momentum", "lr": 0.1, "nesterov": False}, "seed": 0, "crop": None, "k": [1, 2]}
    )
    assert read(run, "param") == {
        "optim.name": "momentum",
        "optim.lr": "0.1",
        "optim.nesterov": "false",
        "seed": "0",
        "crop": "null",
        "k": "[1, 2]",
    }


def test_the_directory_is_named_after_the_run_and_its_uid(start, home):
    run = start(name="resnet 20/a", uid="0123456789abcdef" * 2)
    assert run.dir == home / "runs" / "resnet-20-a-01234567"
    assert len(start().uid) == 32


def test_a_value_over_mlflows_limit_becomes_an_artifact_and_the_parameter_says_so(start):
    long = "x" * 6001
    run = start(params={"model.layers": long, "fits": "y" * 6000}, tags={"story": "z" * 8001})
    assert read(run, "param")["model.layers"] == "(6001 characters, see the artifact params/model.layers.txt)"
    assert read(run, "param")["fits"] == "y" * 6000
    assert read(run, "tag")["story"].startswith("(8001 characters")
    assert (run.dir / "artifacts/params/model.layers.txt").read_text() == long
    assert set(read(run, "artifact")) == {"params/model.layers.txt", "tags/story.txt"}


@pytest.mark.parametrize("key", ["", "a//b", "/a", "../a", "a/../b", "loss!", "läss?", "a" * 251, "."])
def test_names_mlflow_refuses_are_refused_by_us(start, key):
    run = start()
    with pytest.raises(ValueError, match="metric"):
        run.log_metrics({key: 1.0}, step=0)
    with pytest.raises(ValueError, match="parameter"):
        run.log_params({key: 1})
    with pytest.raises(ValueError, match="tag"):
        run.set_tags({key: 1})


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../../b", "a\\b", "a//b", "x?y", "a/./b"])
def test_artifacts_stay_inside_the_run(start, name):
    with pytest.raises(ValueError, match="artifact"):
        start().log_text("x", name)


@pytest.mark.parametrize("bad", [{"experiment": ""}, {"name": " "}, {"name": "a\nb"}, {"experiment": "e" * 251}])
def test_experiment_and_run_names_are_refused_before_a_directory_is_made(start, home, bad):
    with pytest.raises(Refused, match=rf"tracking\.{next(iter(bad))}"):
        start(**bad)
    assert not (home / "runs").exists()


@pytest.mark.parametrize("bad", [{"params": {"a": {"b!": 1}}}, {"tags": {"c?": 1}}])
def test_a_run_that_cannot_be_started_leaves_nothing_behind(start, home, bad):
    with pytest.raises(ValueError, match="letters, digits"):
        start(**bad)
    assert not (home / "runs").exists()


def test_a_home_that_is_a_file_is_refused(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"tracking\.home"):
        start(home=tmp_path / "file")


def test_a_metric_may_be_a_tensor_of_one_element_and_nothing_longer(start):
    import torch

    run = start()
    run.log_metrics({"train/loss": torch.tensor(0.5), "n": 3}, step=torch.tensor(7))
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        run.log_metrics({"train/loss": torch.zeros(2)}, step=0)
    with pytest.raises(TypeError, match=r"1\.5 is no integer"):
        run.log_metrics({"train/loss": 0.5}, step=1.5)
    run.flush()
    with Spool(run.dir) as spool:
        assert spool.last_metrics() == {"train/loss": 0.5, "n": 3.0}
        assert spool.history("train/loss")[0][0] == 7


def test_logging_costs_microseconds_and_never_milliseconds(start):
    run = start()
    costs = []
    for step in range(5000):
        began = time.perf_counter()
        run.log_metrics({"train/loss": 0.5, "train/err": 0.25, "lr": 0.1}, step=step)
        costs.append(time.perf_counter() - began)
    costs.sort()
    assert costs[len(costs) // 2] < 50e-6  # measured: 2 us
    assert costs[int(len(costs) * 0.99)] < 5e-3
    run.flush()
    with Spool(run.dir) as spool:
        assert len(spool.history("train/loss")) == 5000


def test_what_was_flushed_survives_a_kill_and_the_rest_follows_within_a_second(start, home, eventually):
    run = start()
    run.log_metrics({"a": 1.0}, step=0)
    run.flush()
    with Spool(run.dir) as spool:
        assert spool.last_metrics() == {"a": 1.0}
    run.log_metrics({"b": 1.0}, step=0)
    with Spool(run.dir) as spool:
        assert eventually(lambda: "b" in spool.last_metrics(), timeout_sec=5)


def test_an_artifact_is_kept_as_it_was_when_it_was_logged(start, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(b"\x00\xffone")
    run = start()
    kept = run.log_artifact(source, "weights")
    source.write_bytes(b"two")
    assert kept == run.dir / "artifacts/weights/weights.bin"
    assert kept.read_bytes() == b"\x00\xffone"
    run.log_artifact(source, "weights")
    assert kept.read_bytes() == b"two"
    two = hashlib.blake2b(b"two", digest_size=16).hexdigest()
    assert json.loads(read(run, "artifact")["weights/weights.bin"]) == {"bytes": 3, "digest": two}
    assert run.log_artifact(kept, "weights").read_bytes() == b"two"  # it may lie there already


def test_a_folder_is_kept_with_all_in_it(start, tmp_path):
    (tmp_path / "plots/deep").mkdir(parents=True)
    (tmp_path / "plots/a.svg").write_text("<svg/>")
    (tmp_path / "plots/deep/b.svg").write_text("<svg/>")
    run = start()
    run.log_artifact(tmp_path / "plots")
    assert set(read(run, "artifact")) == {"plots/a.svg", "plots/deep/b.svg"}


def test_an_artifact_that_is_not_there_is_said_by_path(start, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        start().log_artifact(tmp_path / "nothing.txt")


def test_no_secret_reaches_the_run_directory(start, tmp_path, monkeypatch):
    token = "ghp_" + "a1B2" * 9
    monkeypatch.setattr(sys, "argv", ["litmus", "fit", "hub.password=pw-on-the-command-line"])
    (tmp_path / "notes.md").write_text(f"use {token}")
    run = start(
        params={"hub": {"token": "secret-in-a-param"}, "note": f"use {token}"},
        tags={"api_key": "secret-in-a-tag", "url": "postgresql://me:secret-in-a-url@db/x"},
        uri="http://me:secret-in-the-uri@127.0.0.1:1",
    )
    run.log_text("hub:\n  password: secret-in-a-text\n", "config.yaml")
    run.log_artifact(tmp_path / "notes.md")
    run.log_dataset("d", "https://me:secret-in-a-source@host/d.zip", "1")
    run.finish()
    written = b"".join(path.read_bytes() for path in run.dir.rglob("*") if path.is_file())
    assert b"secret-in" not in written
    assert token.encode() not in written
    assert b"pw-on" not in written
    assert written.count(MASK.encode()) >= 5
    assert run.uri == "http://127.0.0.1:1"


def test_a_run_is_in_use_by_one_process(start, home):
    run = start()
    code = f"""
from litmus.tracking.run import Run
from litmus.errors import Refused
try:
    Run.start(home={str(home)!r}, experiment="e", name="n", uid={run.uid!r}, send="off")
except Refused as refused:
    print(refused)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    with Spool(run.dir) as spool:
        assert f"process {spool.meta['owner_pid']} on {spool.meta['owner_host']}" in said


def test_a_continued_run_keeps_its_record_and_says_what_changed(start):
    run = start(params={"seed": 0, "lr": 0.1})
    run.log_metrics({"train/loss": 0.5}, step=0)
    run.finish("KILLED")
    again = start(name="whatever", uid=run.uid, params={"seed": 0, "lr": 0.2})
    assert again.continued
    assert (again.dir, again.started_at, again.name) == (run.dir, run.started_at, "resnet8")
    again.log_metrics({"train/loss": 0.5}, step=0)  # the step after the checkpoint, trained again
    again.log_metrics({"train/loss": 0.4}, step=1)
    assert read(again, "param") == {"seed": "0", "lr": "0.1"}
    tags = read(again, "tag")
    assert (tags["changed.lr"], tags["litmus.attempt"]) == ("0.2", "2")
    assert "changed.seed" not in tags
    with Spool(again.dir) as spool:
        assert [(step, value) for step, value, _ in spool.history("train/loss")] == [(0, 0.5), (1, 0.4)]
        assert spool.status == "RUNNING"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("lr is 7"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_the_way_out_of_the_block_is_the_runs_status(start, error, status):
    with pytest.raises(type(error)), start() as run:
        raise error
    with Spool(run.dir) as spool:
        assert spool.status == status
        assert spool.texts("tag")["litmus.fail_reason"].startswith(type(error).__name__)
        assert ("traceback.txt" in spool.texts("artifact")) == (status == "FAILED")


def test_a_block_left_in_order_is_finished_and_a_given_status_stays(start):
    with start() as run:
        pass
    with start() as failed:
        failed.finish("FAILED")
    for finished, status in ((run, "FINISHED"), (failed, "FAILED")):
        with Spool(finished.dir) as spool:
            assert spool.status == status


def test_logging_after_the_end_is_said_and_does_no_harm(start, caplog):
    run = start()
    run.finish()
    run.log_metrics({"a": 1.0}, step=0)
    run.set_tags({"a": 1})
    assert [record.message for record in caplog.records] == [
        "run resnet8 is finished: what is logged after that is not kept"
    ]


def test_a_disk_that_fails_for_a_while_costs_nothing(start, caplog, monkeypatch):
    import sqlite3

    run = start()
    real = run._spool.append

    def full(rows):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(run._spool, "append", full)
    run.log_metrics({"a": 1.0}, step=0)
    run.flush()
    run.flush()
    monkeypatch.setattr(run._spool, "append", real)
    run.log_metrics({"a": 2.0}, step=1)
    run.flush()
    with Spool(run.dir) as spool:
        assert [value for _, value, _ in spool.history("a")] == [1.0, 2.0]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"{run.dir / 'spool.sqlite'} cannot be written now, keeping it in memory"
    ]


def test_a_disk_that_fails_for_long_costs_the_oldest_points_and_nothing_else(start, caplog, monkeypatch):
    import sqlite3

    monkeypatch.setattr("litmus.tracking.run._MAX_BUFFERED", 10)
    run = start()
    real = run._spool.append

    def full(rows):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(run._spool, "append", full)
    run.log_params({"seed": 0})
    for step in range(20):
        run.log_metrics({"a": float(step)}, step=step)
    run.flush()
    monkeypatch.setattr(run._spool, "append", real)
    run.finish()
    with Spool(run.dir) as spool:
        assert [step for step, _, _ in spool.history("a")] == list(range(11, 20))
        assert (spool.texts("param"), spool.status) == ({"seed": "0"}, "FINISHED")
    assert any(record.message.startswith("11 entries were lost") for record in caplog.records)


def test_a_hundred_thousand_points_stay_on_disk_and_not_in_memory(start, server):
    server.down()
    run = start(send="thread", uri=server.uri)
    most = 0
    for step in range(120_000):
        run.log_metrics({"train/loss": 0.5}, step=step)
        most = max(most, len(run._buffer))
    assert most <= 20_000
    run.flush()
    assert len(run._buffer) == 0
    with Spool(run.dir) as spool:
        assert len(spool.history("train/loss")) == 120_000
        assert len(spool.after(0, 1000)) == 1000  # what the sender holds at once


def test_a_program_that_just_ends_leaves_a_run_that_reads_as_killed(home):
    code = f"""
from litmus.tracking.run import Run
run = Run.start(home={str(home)!r}, experiment="e", name="n", send="off")
run.log_metrics({{"a": 1.0}}, step=0)
print(run.dir)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    from litmus.tracking.stored import list_runs

    (run,) = list_runs(home=home)
    assert (str(run.dir), run.status, run.metrics) == (done.stdout.strip(), "KILLED", {"a": 1.0})


def test_importing_and_starting_a_run_needs_neither_mlflow_nor_torch(home):
    code = f"""
import sys
import litmus.tracking
from litmus.tracking import Run, SystemMetrics, list_runs, find_run, sync, ui_command, environment, mask_secrets
with Run.start(home={str(home)!r}, experiment="e", name="n", send="off") as run:
    run.log_metrics({{"a": 1.0}}, step=0)
list_runs(home={str(home)!r}); find_run("latest", home={str(home)!r}); environment()
print([name for name in ("mlflow", "torch", "lightning", "numpy", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_uid_is_32_hexadecimal_digits():
    with pytest.raises(ValueError, match="uid 'abc'"):
        Run.start(home=Path("unused"), experiment="e", name="n", uid="abc")
