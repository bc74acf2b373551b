"""Runs read back, listed and named."""

import subprocess
import sys
import time

import pytest

from litmus.errors import Refused
from litmus.tracking.stored import find_run, list_runs, sync, unsynced


@pytest.fixture
def done(start):
    """A run that ended, unsent unless it says otherwise."""

    def make(status="FINISHED", metrics=None, **settings):
        run = start(**settings)
        run.log_metrics(metrics or {"val/err": 0.25, "test/err": 0.3}, step=3)
        run.log_text("seed: 0\n", "config.yaml")
        run.finish(status, timeout_sec=20)
        return run

    return make


def test_a_home_that_does_not_exist_has_no_runs(home):
    assert list_runs(home=home) == []
    assert unsynced(home) == []
    with pytest.raises(Refused, match="no run"):
        find_run("latest", home=home)
    with pytest.raises(Refused, match="no run"):
        find_run("abcd1234", home=home)
    assert not home.exists()


def test_a_run_is_read_back_as_it_was_logged(done, home):
    run = done(params={"optim": {"lr": 0.1}}, tags={"a": 1}, kind="confirm")
    (stored,) = list_runs(home=home)
    assert (stored.uid, stored.name, stored.status, stored.kind) == (run.uid, "resnet8", "FINISHED", "confirm")
    assert (stored.experiment, stored.dir, stored.id) == ("litmus/digits", run.dir, None)
    assert stored.id8 == run.uid[:8]
    assert stored.metrics == {"val/err": 0.25, "test/err": 0.3}
    assert stored.params == {"optim.lr": "0.1"}
    assert stored.tags["a"] == "1"
    assert stored.history("val/err") == [(3, 0.25)]
    assert stored.started_at == run.started_at
    assert 0 <= stored.elapsed_sec < 60
    assert stored.artifact("config.yaml").read_text() == "seed: 0\n"
    assert stored.unsent > 0
    with pytest.raises(Refused, match=r"did you mean 'config\.yaml'"):
        stored.artifact("config.yml")


def test_a_whole_uid_is_found_without_a_look_at_the_other_runs(done, home, monkeypatch):
    run, other = done(), done()

    def look(*where):
        raise AssertionError("the other runs were read")

    monkeypatch.setattr("litmus.tracking.stored._local", look)
    assert find_run(run.uid, home=home).dir == run.dir
    assert find_run(other.uid, home=home).dir == other.dir
    with pytest.raises(AssertionError):
        find_run(run.uid[:8], home=home)


def test_runs_are_listed_newest_first_by_experiment_and_up_to_a_limit(done, home):
    names = [done(name=f"run{index}", experiment=f"litmus/{'ab'[index % 2]}").name for index in range(4)]
    assert [run.name for run in list_runs(home=home)] == names[::-1]
    assert [run.name for run in list_runs(home=home, limit=2)] == ["run3", "run2"]
    assert [run.name for run in list_runs(home=home, experiment="litmus/a")] == ["run2", "run0"]


def test_listing_runs_that_all_have_directories_does_not_import_mlflow(done, store, home):
    done(send="thread")
    code = f"""
import sys
from litmus.tracking import find_run, list_runs
(run,) = list_runs(home={str(home)!r})
assert find_run(run.id[:6], home={str(home)!r}) == run
print(run.status, "mlflow" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["FINISHED", "False"]


def test_a_hundred_runs_are_listed_in_under_a_second(home, start):
    import shutil

    from litmus.tracking.spool import Spool

    first = start()
    first.finish()
    for index in range(99):
        copy = first.dir.parent / f"copy-{index:08x}"
        shutil.copytree(first.dir, copy)
        with Spool(copy) as spool:
            spool.set_meta(uid=f"{index:032x}")
    began = time.perf_counter()
    assert len(list_runs(home=home)) == 20
    assert time.perf_counter() - began < 1  # measured: 0.06 s


def test_every_way_to_name_a_run_finds_it(done, home, monkeypatch):
    other = done(name="other", uid="0" * 32)
    run = done(name="mine", uid="0123456789abcdef" * 2)
    for reference in (
        "mine",
        run.uid,
        run.uid[:8],
        run.uid[:4],
        run.uid[:6].upper(),
        run.dir.name,
        str(run.dir),
        "latest",
    ):
        assert find_run(reference, home=home).uid == run.uid, reference
    assert find_run("0000", home=home).uid == other.uid


def test_an_ambiguous_or_unknown_name_is_refused_with_what_there_is(done, home):
    for uid in ("abcd0" + "0" * 27, "abcd1" + "0" * 27):
        done(name="twin", uid=uid)
    done(name="resnet20", uid="1" * 32)
    for reference in ("abcd", "twin"):
        with pytest.raises(Refused, match="2 runs fit") as refused:
            find_run(reference, home=home)
        assert "abcd0000 (twin, FINISHED" in str(refused.value)
        assert "abcd1000 (twin, FINISHED" in str(refused.value)
    with pytest.raises(Refused, match="did you mean 'resnet20'"):
        find_run("resnet2", home=home)
    with pytest.raises(Refused, match="is unknown"):
        find_run("111", home=home)  # a prefix of three names nothing
    with pytest.raises(Refused, match="is empty"):
        find_run(" ", home=home)


def test_a_run_that_only_the_store_knows_is_found_and_its_artifacts_with_it(done, store, home):
    import shutil

    run = done(send="thread", params={"seed": 0})
    here = done(name="here")
    shutil.rmtree(run.dir)
    for reference in (run.id, run.id[:8], run.uid[:8], "resnet8"):
        found = find_run(reference, home=home)
        assert (found.id, found.uid, found.dir) == (run.id, run.uid, None)
    assert found.metrics == {"val/err": 0.25, "test/err": 0.3}
    assert found.params == {"seed": "0"}
    assert found.history("val/err") == [(3, 0.25)]
    assert found.artifact("config.yaml").read_text() == "seed: 0\n"
    with pytest.raises(Refused, match=r"config\.yaml"):
        found.artifact("confg.yaml")
    assert [r.name for r in list_runs(home=home)] == [here.name, "resnet8"]


def test_a_server_that_is_away_hides_no_local_run(done, home, server, caplog):
    done(uri=server.uri)
    server.down()
    (run,) = list_runs(home=home, uri=server.uri)
    assert run.status == "FINISHED"
    assert "only the runs in" in caplog.records[0].message
    with pytest.raises(Refused, match="is unknown"):
        find_run("fedcba98", home=home, uri=server.uri)


def test_runs_of_other_machines_are_listed_from_the_server(done, home, server, tmp_path):
    done(uri=server.uri, send="thread", name="local")
    done(uri=server.uri, send="thread", name="remote", home=tmp_path / "another-machine")
    listed = list_runs(home=home, uri=server.uri)
    assert {(run.name, run.dir is None) for run in listed} == {("local", False), ("remote", True)}


def test_unsynced_runs_are_those_that_ended_and_were_not_sent(done, start, store, home):
    sent = done(send="thread", name="sent")
    waiting = done(name="waiting")
    running = start(name="running")
    assert unsynced(home) == [waiting.dir]
    assert sync(waiting.dir).complete
    assert unsynced(home) == []
    assert {run.name: run.status for run in list_runs(home=home)} == {
        sent.name: "FINISHED",
        waiting.name: "FINISHED",
        running.name: "RUNNING",
    }


def test_syncing_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(Refused, match="is no run directory"):
        sync(tmp_path)


def test_a_directory_that_is_damaged_is_passed_over_by_name(done, home, caplog):
    done()
    (home / "runs" / "broken").mkdir()
    (home / "runs" / "broken" / "spool.sqlite").write_text("torn " * 500)
    assert len(list_runs(home=home)) == 1
    assert any("broken" in record.message for record in caplog.records)
