"""Run directories that come from elsewhere: copied, torn, or made to do harm."""

import shutil
import sqlite3

import pytest

from litmus.errors import Refused
from litmus.tracking import find_run, sync
from litmus.tracking.spool import FILE, Spool


def contents(home):
    """All that a store holds, row by row and file by file."""
    with sqlite3.connect(home / "mlflow.db") as db:
        tables = ("runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets")
        found = {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}
    db.close()
    return found, {path: path.read_bytes() for path in sorted((home / "artifacts").rglob("*")) if path.is_file()}


@pytest.fixture
def other(tmp_path, store_template):
    """A home of another machine, whose store is empty."""
    home = tmp_path / "other" / "mlruns"
    home.mkdir(parents=True)
    shutil.copy(store_template, home / "mlflow.db")
    return home


def written(start, *, steps=50):
    """A run that still goes on, with everything it logged on disk."""
    run = start(params={"optim": {"lr": 0.1}}, tags={"a": 1})
    for step in range(steps):
        run.log_metrics({"train/loss": 1 / (step + 1), "lr": 0.1}, step=step)
    run.log_text("seed: 0\n", "config.yaml")
    run.flush()
    return run


def test_a_run_directory_copied_while_it_was_written_is_sent_to_the_home_that_is_named(start, other, litmus, tmp_path):
    run = written(start)
    assert (run.dir / f"{FILE}-wal").stat().st_size > 0
    copy = shutil.copytree(run.dir, tmp_path / "copies" / run.dir.name)
    code, said, _ = litmus("sync", copy, "--home", other)
    assert code == 0
    assert "sent  as run" in said
    first = contents(other)
    tables, files = first
    assert [len(tables[name]) for name in ("runs", "metrics", "params")] == [1, 100, 1]
    assert [path.name for path in files] == ["config.yaml"]
    code, said, _ = litmus("sync", copy, "--home", other)
    assert code == 0
    assert "nothing was missing" in said
    assert contents(other) == first
    assert find_run(str(copy), home=other).status == "KILLED"  # whoever wrote it is not writing the copy


def test_a_copy_without_its_write_ahead_log_holds_what_was_there_a_minute_ago_and_the_rest_can_follow(
    start, other, tmp_path
):
    run = written(start)
    run._spool.say_alive()  # as the writer does every minute
    run.log_metrics({"train/loss": 0.0}, step=50)
    run.flush()
    torn = shutil.copytree(run.dir, tmp_path / "torn" / run.dir.name, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    assert sync(torn, home=other, uri=f"sqlite:///{other}/mlflow.db").complete
    assert len(contents(other)[0]["metrics"]) == 100
    run.finish()
    assert sync(run.dir, uri=f"sqlite:///{other}/mlflow.db").complete
    tables, _ = contents(other)
    assert (len(tables["runs"]), len(tables["metrics"])) == (1, 101)
    assert "FINISHED" in tables["runs"][0]


def test_a_torn_copy_is_refused_by_path(start, other, litmus):
    run = written(start, steps=500)
    run.finish()
    spool, whole = run.dir / FILE, (run.dir / FILE).read_bytes()
    for torn in (whole[:4096], whole[:9000], whole[:8192] + bytes(4096) + whole[12288:], b"torn"):
        spool.write_bytes(torn)
        code, _, said = litmus("sync", run.dir, "--home", other)
        assert (code, "Traceback" in said, str(run.dir) in said) == (2, False, True), said
    for page in range(1, len(whole) // 4096):  # each holds something; of some, nothing is read to name the run
        spool.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        with pytest.raises(Refused, match=r"spool\.sqlite"):
            sync(run.dir, uri=f"sqlite:///{other}/mlflow.db")
    assert contents(other)[0]["runs"] == []


def test_a_folder_that_is_no_run_directory_is_refused_by_what_it_lacks(litmus, tmp_path):
    code, _, said = litmus("sync", tmp_path)
    assert code == 2
    assert f"is no run directory: it has no {FILE}" in said


@pytest.mark.parametrize("name", ["../../outside.txt", "/etc/hostname", "a/../../b", "link.txt", "folder/inner.txt"])
def test_a_run_directory_that_names_files_of_others_is_refused_and_nothing_is_sent(start, other, tmp_path, name):
    run = written(start)
    run.finish()
    (tmp_path / "outside.txt").write_text("not the run's")
    (run.dir / "artifacts/link.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/inner.txt").write_text("not the run's")
    (run.dir / "artifacts/folder").symlink_to(tmp_path / "outside")
    with Spool(run.dir) as spool:
        spool.append([(1, "artifact", name, '{"bytes": 1}', None)])
    with pytest.raises(Refused, match="artifact"):
        sync(run.dir, uri=f"sqlite:///{other}/mlflow.db")
    tables, files = contents(other)
    assert (tables["runs"], files) == ([], {})


def test_the_sender_too_leaves_out_what_lies_outside(start, server, tmp_path):
    (tmp_path / "outside.txt").write_text("not the run's")
    run = start(send="thread", uri=server.uri)
    (run.dir / "artifacts").mkdir(exist_ok=True)
    (run.dir / "artifacts/link.txt").symlink_to(tmp_path / "outside.txt")
    run._put("artifact", "link.txt", '{"bytes": 13}')
    run.finish(timeout_sec=20)
    assert list(server.artifacts.rglob("link.txt")) == []
    with Spool(run.dir) as spool:
        assert "out of the run's artifacts" in spool.skipped(run.uri)[0]


def test_a_damaged_artifact_is_not_sent_as_if_it_were_the_runs(start, other):
    run = start()
    path = run.log_text("seed: 0\n", "config.yaml")
    run.finish()
    path.write_text("seed: 1\n")
    sent = sync(run.dir, uri=f"sqlite:///{other}/mlflow.db")
    assert "is not what was recorded: digest" in sent.refused[0]
    assert contents(other)[1] == {}


def test_a_damaged_artifact_is_replaced_by_mlflows_whole_copy_or_refused(start, server, home, caplog):
    run = start(send="thread", uri=server.uri)
    path = run.log_text("seed: 0\n", "config.yaml")
    assert run.finish(timeout_sec=20)
    (there,) = server.artifacts.rglob("config.yaml")
    there.write_text(there.read_text())  # bytes of its own, as a server on another machine has
    path.unlink()
    path.write_text("seed: 1\n")
    stored = find_run(run.uid, home=home, uri=server.uri)
    assert stored.artifact("config.yaml").read_text() == "seed: 0\n"
    assert "MLflow's copy is whole and is used" in caplog.records[-1].message
    there.write_text("seed: 2\n")
    with pytest.raises(Refused, match=r"config\.yaml: is not what run \w+ recorded: digest \w{32}, recorded \w{32}"):
        stored.artifact("config.yaml")
    server.down()
    with pytest.raises(Refused, match="MLflow has no whole copy"):
        stored.artifact("config.yaml")
