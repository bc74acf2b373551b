"""Runs on their way: servers that are absent, broken, hanging, killed and back, and a process that is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from litmus.tracking.spool import Spool
from litmus.tracking.stored import sync


def log_for_a_while(run, steps=200):
    """Metrics as training logs them; the slowest of the calls but one in a hundred, in seconds."""
    costs = []
    for step in range(steps):
        began = time.perf_counter()
        run.log_metrics({"train/loss": 1 / (step + 1), "lr": 0.1}, step=step)
        costs.append(time.perf_counter() - began)
        time.sleep(0.001)
    return sorted(costs)[int(steps * 0.99) - 1]


def points(server):
    (run,) = server.runs.values()
    return len(run["metrics"])


def rows(home):
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as db:
        tables = ("runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets")
        found = {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}
    db.close()
    return found


def test_a_run_reaches_the_embedded_store_whole_and_sync_adds_nothing(start, store, home):
    run = start(send="thread", params={"optim": {"lr": 0.1}}, tags={"a": 1})
    log_for_a_while(run)
    run.log_dataset("digits", "scikit-learn load_digits", "0" * 64)
    run.log_text("seed: 0\n", "config.yaml")
    assert run.wait_id(20) is not None
    assert run.finish(timeout_sec=20)
    (remote,) = store.runs()
    assert (remote.id, remote.status, remote.name) == (run.id, "FINISHED", "resnet8")
    assert remote.params == {"optim.lr": "0.1"}
    assert remote.metrics == {"train/loss": 1 / 200, "lr": 0.1}
    assert len(store.history(run.id, "train/loss")) == 200
    assert store.artifacts(run.id) == ["config.yaml"]
    before = rows(home)
    for _ in range(2):
        synced = sync(run.dir)
        assert (synced.complete, synced.sent, synced.run_id) == (True, 0, run.id)
    assert rows(home) == before


def test_a_folder_may_have_an_odd_name(start, store_template, tmp_path):
    home = tmp_path / "my runs #1, für +all"
    home.mkdir()
    shutil.copy(store_template, home / "mlflow.db")
    run = start(home=home, send="thread")
    run.log_text("x", "tables/a b.txt")
    assert run.finish(timeout_sec=20)
    assert (home / "artifacts" / "litmus-digits" / run.id / "artifacts" / "tables" / "a b.txt").read_text() == "x"


def test_a_copied_run_directory_is_synced_from_elsewhere(start, server, tmp_path):
    run = start(send="off", uri=server.uri)
    log_for_a_while(run, 10)
    run.log_text("seed: 0\n", "config.yaml")
    run.finish()
    copy = shutil.copytree(run.dir, tmp_path / "another-machine" / run.dir.name)
    shutil.rmtree(run.dir)
    for _ in range(2):
        assert sync(copy).complete
    assert points(server) == 20
    (remote,) = server.runs.values()
    assert remote["info"]["status"] == "FINISHED"
    assert (server.artifacts / remote["info"]["run_id"] / "config.yaml").read_text() == "seed: 0\n"


def test_two_copies_of_one_run_are_one_run_in_mlflow(start, server, tmp_path):
    run = start(send="off", uri=server.uri)
    log_for_a_while(run, 10)
    run.finish()
    copy = shutil.copytree(run.dir, tmp_path / "copy")
    assert sync(run.dir).run_id == sync(copy).run_id
    assert len(server.runs) == 1
    assert points(server) == 20


@pytest.mark.parametrize("mode", ["down", "error", "hang"])
def test_a_server_in_trouble_costs_training_nothing_and_the_data_nothing(start, server, caplog, monkeypatch, mode):
    monkeypatch.setattr("litmus.tracking.run._LOOK_EVERY_SEC", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.mode = mode
    if mode == "down":
        server.down()
    run = start(send="thread", uri=server.uri)
    assert log_for_a_while(run) < 5e-3
    began = time.monotonic()
    assert not run.finish(timeout_sec=1.5)
    assert time.monotonic() - began < 4
    (warning,) = [record.message for record in caplog.records if "not in MLflow yet" in record.message]
    assert f"litmus sync {run.dir.name}" in warning
    assert {
        "down": "refuses connections",
        "error": "answers with an error 500",
        "hang": "does not answer in time",
    }[mode] in warning
    assert len([record for record in caplog.records if "the run goes on" in record.message]) <= 1

    if mode == "down":
        server.up()
    server.mode = "ok"
    assert sync(run.dir).complete
    assert points(server) == 400


def test_a_server_that_dies_in_the_middle_and_comes_back_gets_every_point_once(start, server, eventually, caplog):
    run = start(send="thread", uri=server.uri)
    log_for_a_while(run, 100)
    eventually(lambda: server.runs and points(server) > 0)
    server.down()
    for step in range(100, 200):
        run.log_metrics({"train/loss": 0.5, "lr": 0.1}, step=step)
    run.flush()
    time.sleep(0.3)  # an attempt fails
    server.up()
    server.lose_answers = 2
    assert run.finish(timeout_sec=5)  # it tries again at the end
    assert server.lose_answers == 0
    assert points(server) == 400
    assert len(server.runs) == 1


def test_a_dead_server_is_said_once_while_training_goes_on(start, server, caplog, monkeypatch, eventually):
    monkeypatch.setattr("litmus.tracking.run._LOOK_EVERY_SEC", 0.05)
    server.down()
    run = start(send="thread", uri=server.uri)
    eventually(lambda: any("the run goes on" in record.message for record in caplog.records))
    time.sleep(0.3)
    assert len([record for record in caplog.records if "the run goes on" in record.message]) == 1
    assert run.wait_id(5) is None  # at once: nobody will know it


def test_a_broken_server_is_asked_ever_less_often(start, server, monkeypatch):
    monkeypatch.setattr("litmus.tracking.sender.POLL_SEC", 0.05)
    server.mode = "error"
    start(send="thread", uri=server.uri)
    time.sleep(2.0)
    assert 2 <= len(server.requests) <= 7  # after 0.1, 0.2, 0.4, 0.8 s; 40 without a pause that grows


HANGING = """
import sys, time
from litmus.tracking import Run
began = time.monotonic()
with Run.start(home=sys.argv[1], uri=sys.argv[2], experiment="e", name="n") as run:
    run.log_metrics({"a": 1.0}, step=0)
    run.finish(timeout_sec=1)
print(time.monotonic() - began)
"""


def test_a_program_ends_soon_though_its_server_hangs(home, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    server.mode = "hang"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(home), server.uri], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 5
    assert time.monotonic() - began < 10
    assert "send them with: litmus sync" in done.stderr


def test_a_password_in_the_address_reaches_the_server_and_no_file(start, server, caplog):
    address = server.uri.replace("://", "://me:secret-in-the-uri@")
    run = start(send="thread", uri=address)
    assert run.finish(timeout_sec=20)
    written = b"".join(path.read_bytes() for path in run.dir.rglob("*") if path.is_file())
    assert b"secret-in-the-uri" not in written
    assert not sync(run.dir).error  # this server asks for none


def test_a_child_run_hangs_under_its_parent(start, server):
    parent = start(send="thread", uri=server.uri, kind="study")
    assert parent.wait_id(20)
    child = start(send="thread", uri=server.uri, kind="trial", parent_uid=parent.uid)
    assert child.finish(timeout_sec=20)
    tags = server.runs[child.id]["tags"]
    assert tags["mlflow.parentRunId"] == parent.id
    assert (tags["litmus.kind"], tags["litmus.parent_uid"]) == ("trial", parent.uid)


def test_a_continued_run_goes_on_as_the_same_run_in_mlflow(start, server):
    run = start(send="thread", uri=server.uri, params={"lr": 0.1})
    run.log_metrics({"train/loss": 0.5}, step=0)
    assert run.finish("KILLED", timeout_sec=20)
    again = start(send="thread", uri=server.uri, uid=run.uid, params={"lr": 0.2})
    again.log_metrics({"train/loss": 0.5}, step=0)
    again.log_metrics({"train/loss": 0.4}, step=1)
    assert again.finish(timeout_sec=20)
    assert (again.id, len(server.runs), points(server)) == (run.id, 1, 2)
    remote = server.runs[run.id]
    assert (remote["info"]["status"], remote["params"]) == ("FINISHED", {"lr": "0.1"})
    assert remote["tags"]["changed.lr"] == "0.2"


def test_nobody_sends_a_run_that_asked_for_silence(start, server, caplog):
    run = start(send="off", uri=server.uri)
    assert not run.finish()
    assert server.requests == []
    assert caplog.records == []


KILLED = """
import os, signal, sys, warnings
from litmus.tracking.run import Run
run = Run.start(home={home!r}, experiment="litmus/digits", name="killed", params={{"seed": 0}})
assert "mlflow" not in sys.modules
for step in range(50):
    run.log_metrics({{"train/loss": 0.5}}, step=step)
run.flush()
print(run.dir, flush=True)
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")  # Python 3.12 on what follows
child = os.fork()  # a data worker, which outlives its parent and holds what that had open
if child == 0:
    import time
    os.close(1)
    os.close(2)
    time.sleep(30)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_a_killed_run_with_every_point_that_was_flushed(store, home, eventually, tmp_path):
    (tmp_path / "typing.py").write_text("raise ImportError('the user folder is not on the path of the sender')")
    done = subprocess.run(
        [sys.executable, "-P", "-c", KILLED.format(home=str(home))], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""
    directory, worker = done.stdout.split()
    try:
        (remote,) = eventually(lambda: [run for run in store.runs() if run.status == "KILLED"], timeout_sec=90)
        assert len(store.history(remote.id, "train/loss")) == 50
        assert remote.tags["litmus.fail_reason"].endswith("ended without a word")
        with Spool(home / "runs" / directory.rsplit("/", 1)[-1]) as spool:
            assert eventually(lambda: spool.is_sent(store.destination.label))
    finally:
        os.kill(int(worker), signal.SIGKILL)


FINISHED = """
import os, signal, sys
from litmus.tracking import Run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in a shell's background has it ignored
try:
    with Run.start(home={home!r}, experiment="litmus/digits", name="interrupted") as run:
        {busy}  # while the sender imports MLflow
        run.log_metrics({{"train/loss": 0.5}}, step=0)
        os.killpg(0, signal.SIGINT)  # as Ctrl-C in a terminal does: to all its processes
        signal.pause()
except KeyboardInterrupt:
    print(run.id)
with Run.start(home={home!r}, experiment="litmus/digits", name="whole") as second:
    pass
print(second.id)
assert "mlflow" not in sys.modules
"""


def start_and_finish(home, busy="import json"):
    code = FINISHED.format(home=str(home), busy=busy)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, start_new_session=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_program_sends_its_runs_from_one_other_process_and_says_nothing(store, home):
    assert sorted(start_and_finish(home)) == sorted(run.id for run in store.runs())
    assert {run.name: run.status for run in store.runs()} == {"interrupted": "KILLED", "whole": "FINISHED"}
    logs = list(home.glob("runs/*/sender.log"))
    assert len(logs) == 1


@pytest.mark.proof
def test_twenty_programs_start_and_finish(store, home):
    ids = [run_id for _ in range(20) for run_id in start_and_finish(home, "import torch")]
    assert sorted(ids) == sorted(run.id for run in store.runs())
    assert len(ids) == 40


def test_a_sender_that_dies_is_replaced_once(start, server, monkeypatch, eventually, caplog):
    from litmus.tracking import sender

    real, started = sender.start, []

    def starts_a_dead_one_first(directory, destination, mode):
        started.append(mode)
        return real(directory, destination, mode) if len(started) == 2 else sender._DeadLink("it died")

    monkeypatch.setattr("litmus.tracking.run._LOOK_EVERY_SEC", 0.05)
    monkeypatch.setattr(sender, "start", starts_a_dead_one_first)
    run = start(send="thread", uri=server.uri)
    eventually(lambda: len(started) == 2)
    assert run.finish(timeout_sec=20)
    assert caplog.records == []


def test_a_run_whose_sender_cannot_be_started_is_recorded_all_the_same(start, server, monkeypatch, caplog):
    from litmus.tracking import sender

    def no_process(*args, **kwargs):
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr(sender, "_process", None)  # that of an earlier test in this process would do
    monkeypatch.setattr(sender.subprocess, "Popen", no_process)
    run = start(send="process", uri=server.uri)
    run.log_metrics({"a": 1.0}, step=0)
    assert run.wait_id(5) is None
    assert not run.finish(timeout_sec=5)
    assert "Resource temporarily unavailable" in caplog.records[-1].message
    assert sync(run.dir).complete
