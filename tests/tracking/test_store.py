"""MLflow itself: what it keeps of a run, and that its store is there when several want it at once."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing

import mlflow
import pytest

from litmus.errors import Refused
from litmus.tracking.destination import resolve
from litmus.tracking.store import RowsRefused, RunDeleted, RunGone, Store, StoreTrouble

UID = "a" * 32


def attach(store, uid=UID, **changes):
    settings = {"experiment": "litmus/digits", "name": "resnet8", "started_at": 1000, "tags": {"x": "1"}}
    return store.attach(uid=uid, **{**settings, **changes})


def client(store):
    return mlflow.MlflowClient(store.destination.uri)


def test_a_run_is_made_once_and_found_by_its_uid(store):
    first = attach(store)
    assert attach(Store(store.destination)) == first
    assert attach(store, uid="b" * 32) != first
    run = client(store).get_run(first)
    assert (run.info.run_name, run.info.start_time, run.data.tags["x"]) == ("resnet8", 1000, "1")
    assert run.data.tags["litmus.run_uid"] == UID


def test_identical_points_are_one_row_and_the_last_step_is_the_last_value(store):
    run_id = attach(store)
    points = [("val/err", 0.5, 1000, 0), ("val/err", 0.25, 2000, 1), ("nan", float("nan"), 1000, 0)]
    for _ in range(3):
        store.send(run_id, metrics=points, params={"seed": "0"}, tags={"a": "b"})
    assert store.history(run_id, "val/err") == [(0, 0.5, 1000), (1, 0.25, 2000)]
    assert len(store.history(run_id, "nan")) == 1
    assert store.get(run_id).metrics["val/err"] == 0.25


def test_a_data_set_is_an_input_that_mlflow_can_resolve(store):
    run_id = attach(store)
    sources = {"web": "https://example.org/x.tgz", "disk": "/data/x", "code": "scikit-learn load_digits"}
    for _ in range(2):
        for name, source in sources.items():
            store.send_dataset(run_id, name=name, source=source, digest="d" * 64, context="train")
    inputs = client(store).get_run(run_id).inputs.dataset_inputs
    found = {item.dataset.name: mlflow.data.get_source(item.dataset) for item in inputs}
    assert len(inputs) == 3
    assert (found["web"].url, found["disk"].uri) == ("https://example.org/x.tgz", "/data/x")
    assert found["code"].to_dict() == {"tags": {"mlflow.source.name": "scikit-learn load_digits"}}
    assert {item.dataset.digest for item in inputs} == {"d" * 36}
    assert {item.tags[0].value for item in inputs} == {"train"}


def test_an_artifact_shares_its_bytes_with_the_run_directory(store, tmp_path):
    run_id = attach(store)
    (tmp_path / "w.bin").write_bytes(b"one")
    store.upload(run_id, tmp_path / "w.bin", "weights/w.bin")
    there = store.download(run_id, "weights/w.bin", tmp_path)
    assert there.samefile(tmp_path / "w.bin")
    assert there.is_relative_to(store.destination.artifacts)
    assert store.artifacts(run_id) == ["weights/w.bin"]
    (tmp_path / "new.bin").write_bytes(b"two")
    store.upload(run_id, tmp_path / "new.bin", "weights/w.bin")
    assert there.read_bytes() == b"two"
    assert (tmp_path / "w.bin").read_bytes() == b"one"
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        store.download(run_id, "nothing.txt", tmp_path)


def test_status_and_end_time_are_ours(store):
    run_id = attach(store)
    store.set_status(run_id, "FAILED", 5000)
    info = client(store).get_run(run_id).info
    assert (info.status, info.end_time) == ("FAILED", 5000)
    store.set_status(run_id, "RUNNING", 6000)  # continued
    store.set_status(run_id, "FINISHED", 7000)
    info = client(store).get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 7000)


def test_a_child_is_nested_under_its_parent(store):
    child = attach(store, uid="c" * 32)
    assert not store.link_parent(child, experiment="litmus/digits", parent_uid=UID)
    parent = attach(store)
    assert store.link_parent(child, experiment="litmus/digits", parent_uid=UID)
    assert client(store).get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_mlflows_complaints_are_sorted_by_what_to_do_about_them(store):
    run_id = attach(store)
    store.send(run_id, params={"seed": "0"})
    with pytest.raises(RowsRefused, match="seed"):
        store.send(run_id, params={"seed": "1"})
    with pytest.raises(RunGone):
        store.send("f" * 32, tags={"a": "b"})
    assert not store.exists("f" * 32)
    client(store).delete_run(run_id)
    with pytest.raises(RunDeleted):
        store.send(run_id, tags={"a": "b"})
    with pytest.raises(RunDeleted, match=run_id):
        attach(store)


def test_an_experiment_deleted_in_mlflow_is_brought_back(store):
    attach(store)
    experiment = client(store).get_experiment_by_name("litmus/digits")
    client(store).delete_experiment(experiment.experiment_id)
    attach(store, uid="b" * 32)
    assert client(store).get_experiment_by_name("litmus/digits").lifecycle_stage == "active"


def test_a_store_that_vanishes_is_trouble_and_is_not_made_anew_in_silence(store):
    attach(store)
    store.destination.database.unlink()
    with pytest.raises(StoreTrouble, match=r"mlflow\.db was removed"):
        attach(store)
    assert not store.destination.database.exists()


def test_a_file_that_is_no_store_is_trouble(home):
    home.mkdir()
    (home / "mlflow.db").write_text("this is no database " * 100)
    with pytest.raises(StoreTrouble, match="not a database"):
        Store(resolve(None, home))


def test_only_the_embedded_store_is_migrated_and_a_copy_is_kept(store, tmp_path):
    run_id = attach(store)
    database = store.destination.database
    with sqlite3.connect(database) as db:
        (head,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        db.execute("UPDATE alembic_version SET version_num = 'b7c8d9e0f1a2'")
    db.close()
    from mlflow.store.db import utils

    def upgrade(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{head}'")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", upgrade)
        other = resolve(f"sqlite:///{database}", tmp_path / "elsewhere")
        with pytest.raises(StoreTrouble, match="out-of-date"):
            Store(other)
        migrated = Store(store.destination)
    assert migrated.exists(run_id)
    with sqlite3.connect(f"{database}.before-migration") as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == ("b7c8d9e0f1a2",)
    copy.close()


DIES = """
import os, signal, sys
import sqlalchemy
from litmus.tracking.destination import resolve
from litmus.tracking.store import Store
left = int(sys.argv[2])
@sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
def count(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
Store(resolve(None, sys.argv[1]))
"""


@pytest.mark.parametrize("statements", [20, 200])
def test_a_store_whose_maker_is_killed_is_made_by_the_next(home, statements):
    done = subprocess.run([sys.executable, "-c", DIES, home, str(statements)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (home / "mlflow.db").exists()
    assert sorted(path.name for path in home.iterdir() if "new" in path.name)
    store = Store(resolve(None, home))
    assert store.exists(attach(store))
    assert not [path.name for path in home.iterdir() if "new" in path.name]


def test_a_migration_that_was_cut_begins_again_from_the_copy(store):
    """MLflow's own migrations are no transactions: a table of the next version stands, its number is not there yet."""
    run_id = attach(store)
    database = store.destination.database
    with closing(sqlite3.connect(database)) as db, db:
        (head,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        db.execute("UPDATE alembic_version SET version_num = 'b7c8d9e0f1a2'")
    from mlflow.store.db import utils

    calls = []

    def upgrade(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE of_the_next_version (x INTEGER)")
        calls.append("begun")
        if len(calls) == 1:
            raise KeyboardInterrupt
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{head}'")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", upgrade)
        with pytest.raises(KeyboardInterrupt):
            Store(store.destination)
        assert Store(store.destination).exists(run_id)
    assert calls == ["begun", "begun"]
    assert sorted(path.name for path in database.parent.iterdir() if "migrat" in path.name) == [
        "mlflow.db.before-migration"
    ]


def test_a_migration_killed_at_its_very_end_is_not_taken_for_one_that_was_cut(store):
    """Else the next one, a year later, would begin from the copy of this one."""
    marker = store.destination.database.with_name(".mlflow.db.migrating")
    marker.touch()
    run_id = attach(store)
    assert Store(store.destination).exists(run_id)
    assert not marker.exists()


def _open_and_attach(home, index, results):
    try:
        results.put(attach(Store(resolve(None, home)), uid=f"{index:032x}"))
    except BaseException as error:
        results.put(error)
    finally:
        results.close()
        results.join_thread()
        os._exit(0)


def test_processes_that_open_a_fresh_store_at_once_all_start(home):
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking a process with threads
        processes = [fork.Process(target=_open_and_attach, args=(home, index, results)) for index in range(4)]
        for process in processes:
            process.start()
    got = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({run_id for run_id in got if isinstance(run_id, str)}) == 4, got
    store = Store(resolve(None, home))
    assert len(store.runs()) == 4
    assert {run.experiment for run in store.runs()} == {"litmus/digits"}


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mlruns", "file store"),
        ("./mlruns", "file store"),
        ("file:///data/mlruns", "file store"),
        ("C:/mlruns", "file store"),
        ("postgresql://u:hunter2@h/mlflow", "mlflow server --backend-store-uri"),
        ("mysql+pymysql://h/mlflow", "mlflow server --backend-store-uri"),
        ("ftp://h/x", "unknown scheme 'ftp'"),
        ("databricks", "file store"),
        ("http://", "no host"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_wrong_address_is_refused_with_advice_and_without_its_password(home, uri, says, monkeypatch):
    with pytest.raises(Refused, match=r"tracking\.uri") as refused:
        resolve(uri, home)
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Refused, match="MLFLOW_TRACKING_URI"):
        resolve(None, home)


@pytest.mark.parametrize("name", ["a%20b", "what?"])
def test_a_folder_that_no_sqlite_address_can_name_is_refused(tmp_path, name):
    with pytest.raises(Refused, match=r"tracking\.home"):
        resolve(None, tmp_path / name)
    with pytest.raises(Refused, match=r"tracking\.uri"):
        resolve(f"sqlite:///{tmp_path}/{name}/x.db", tmp_path)


def test_the_address_is_the_given_one_else_the_environments_else_embedded(home, monkeypatch):
    assert resolve(None, home).uri == f"sqlite:///{home}/mlflow.db"
    assert resolve(None, home).embedded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@server:5000/")
    server = resolve(None, home)
    assert (server.uri, server.label) == ("http://me:hunter2@server:5000", "http://server:5000")
    other = resolve("sqlite:///relative/x.db", home)
    assert (other.database.name, other.database.is_absolute(), other.embedded) == ("x.db", True, False)
    assert other.artifacts == other.database.parent / "artifacts"
