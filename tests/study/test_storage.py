"""Studies in sqlite and in PostgreSQL, under many processes, kills and outages."""

import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from litmus.errors import Refused
from litmus.study import storage
from litmus.study.storage import exclusive, open_storage, patiently, place_of, try_hold
from tests.study import crowd as jobs

optuna.logging.set_verbosity(optuna.logging.ERROR)


def opened(place, *, heartbeat_sec=5, grace_sec=20):
    return open_storage(place, heartbeat_sec=heartbeat_sec, grace_sec=grace_sec)


def study_in(place, name="a", **kwargs):
    return optuna.create_study(storage=opened(place, **kwargs), study_name=name)


def until(truth, timeout_sec=15):
    end = time.monotonic() + timeout_sec
    while not truth():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_eight_workers_on_an_empty_database_make_its_tables_once(place, crowd):
    assert crowd(jobs.open_it, 8, place) == ["opened"] * 8
    assert len(study_in(place).trials) == 0


def test_one_process_at_a_time_is_alone(place, crowd, tmp_path):
    (tmp_path / "inside").write_text("0")
    assert crowd(jobs.overlap, 6, place, tmp_path / "inside") == [0] * 6


def test_who_waits_too_long_for_a_place_is_told_whom_for(place, start, processes):
    ready = processes.Event()
    holder = start(jobs.hold_exclusive, place, ready)
    assert ready.wait(20)
    with (
        pytest.raises(storage.Occupied, match=r"another process has had .* to itself for 0.2 s"),
        exclusive(place, timeout_sec=0.2),
    ):
        raise AssertionError
    os.kill(holder.pid, signal.SIGKILL)
    began = time.monotonic()
    with exclusive(place, timeout_sec=10):
        assert time.monotonic() - began < 2


def test_a_role_passes_on_when_its_holder_is_killed(place, start, processes):
    ready = processes.Event()
    holder = start(jobs.hold_role, place, ready)
    assert ready.wait(20)
    assert try_hold(place, "parent of a") is None
    other = try_hold(place, "parent of b")
    assert other is not None
    other.release()
    os.kill(holder.pid, signal.SIGKILL)
    until(lambda: (mine := try_hold(place, "parent of a")) and (mine.release() is None))


def test_a_role_has_one_holder_in_one_process_too(place):
    held = try_hold(place, "parent of a")
    assert held is not None
    assert try_hold(place, "parent of a") is None
    assert not held.lost
    held.release()
    again = try_hold(place, "parent of a")
    assert again is not None
    again.release()


def test_a_role_is_lost_with_the_server(server, postgresql, tmp_path):
    held = try_hold(place_of(postgresql, tmp_path), "parent of a")
    server.stop()
    server.start()
    until(lambda: held.lost)
    held.release()


def test_a_role_is_lost_with_its_file(tmp_path):
    held = try_hold(place_of(None, tmp_path), "parent of a/b c")
    (file,) = (path for path in (tmp_path / "studies.db.locks").iterdir() if not path.name.endswith("journal"))
    assert file.name.startswith("parent_of_a_b_c-")
    file.unlink()
    assert held.lost
    held.release()


def test_a_waiting_trial_goes_to_one_worker(place, crowd):
    study = study_in(place)
    for x in range(40):
        study.enqueue_trial({"x": x})
    taken = [number for numbers in crowd(jobs.take_waiting, 4, place, "a") for number in numbers]
    assert sorted(number for number in taken if number < 40) == list(range(40))
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize(
    ("state", "outcomes"),
    [(TrialState.RUNNING, [False, True]), (TrialState.FAIL, [True, "UpdateFinishedTrialError"])],
)
def test_of_two_who_change_a_trial_at_the_same_moment_one_does(place, monkeypatch, state, outcomes):
    """A worker that takes a waiting trial, or gives a verdict: both have read it before either writes."""
    study = study_in(place)
    study.enqueue_trial({"x": 1})
    if state == TrialState.FAIL:
        storage.ask(study)
    meet, check = threading.Barrier(2), RDBStorage.check_trial_is_updatable

    def checked(self, trial_id, found):
        with suppress(threading.BrokenBarrierError):
            meet.wait(0.5)
        check(self, trial_id, found)

    monkeypatch.setattr(RDBStorage, "check_trial_is_updatable", checked)

    def change(own):
        try:
            return own.set_trial_state_values(study.trials[0]._trial_id, state)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            return type(error).__name__

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(change, [opened(place), opened(place)]), key=str) == sorted(outcomes, key=str)


def test_a_lock_that_passes_is_ridden_out(tmp_path, monkeypatch):
    place = place_of(None, tmp_path)
    monkeypatch.setattr(storage, "BUSY_SEC", 0.2)
    study, said = study_in(place), []
    number = storage.ask(study).number
    with closing(sqlite3.connect(place.database, isolation_level=None)) as other, ThreadPoolExecutor(1) as thread:
        other.execute("BEGIN IMMEDIATE")
        told = thread.submit(patiently, lambda: study.tell(number, 0.5), patience_sec=20, say=said.append)
        time.sleep(3)
        other.execute("COMMIT")
        assert told.result(20).value == 0.5
    assert [(trial.number, trial.value) for trial in study.trials] == [(number, 0.5)]
    assert len(said) == 2
    assert "database is locked" in said[0]


def test_nothing_is_lost_or_doubled_while_the_server_is_away(server, postgresql, tmp_path, start):
    place = place_of(postgresql, tmp_path)
    study = study_in(place)
    workers = [start(jobs.work, place, "a", 15, 30.0) for _ in range(2)]
    until(lambda: len(study.trials) > 4)
    server.kill()
    time.sleep(3)
    server.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = patiently(lambda: study.get_trials(), patience_sec=10)
    told = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    # A trial that was made while the server died, whose number nobody heard of, may be left over: it has no heartbeat.
    assert len(told) == 30
    left = [trial.number for trial in trials if trial.state != TrialState.COMPLETE]
    assert left == storage.without_heartbeat(study, -1)
    assert len(left) <= 2
    assert all(trial.value == trial.number and "litmus.worker" in trial.user_attrs for trial in told)


def test_a_heartbeat_waits_for_the_server(server, postgresql, tmp_path):
    study = study_in(place_of(postgresql, tmp_path), heartbeat_sec=1, grace_sec=60)
    trial, own, said = storage.ask(study), study._storage, []
    server.stop()
    with ThreadPoolExecutor(1) as thread:
        beat = thread.submit(patiently, lambda: own.record_heartbeat(trial._trial_id), patience_sec=20, say=said.append)
        time.sleep(3)
        server.start()
        beat.result(20)
    assert storage.without_heartbeat(study, -1) == []
    assert len(said) == 2
    assert "is away" in said[0]
    assert "is back" in said[1]


def test_a_trial_is_lost_when_its_heart_stops_and_only_then(place):
    study = study_in(place, heartbeat_sec=1, grace_sec=1)
    beaten, silent, still = (storage.ask(study) for _ in range(3))
    study._storage.record_heartbeat(beaten._trial_id)
    study._storage.record_heartbeat(still._trial_id)
    assert storage.stale_numbers(study) == []
    set_heartbeat(study, still, seconds_ago=100)
    assert storage.stale_numbers(study) == [still.number]
    assert storage.fail_stale(study) == [still.number]
    assert storage.fail_stale(study) == []
    assert study.trials[still.number].state == TrialState.FAIL
    assert study.trials[silent.number].state == TrialState.RUNNING


def set_heartbeat(study, trial, *, seconds_ago):
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds_ago)
    with study._storage._backend.engine.begin() as connection:
        statement = sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = :at WHERE trial_id = :id")
        statement = statement.bindparams(sqlalchemy.bindparam("at", type_=sqlalchemy.DateTime))
        connection.execute(statement, {"at": at, "id": trial._trial_id})


def test_a_trial_killed_before_its_first_beat_is_found(place):
    study = study_in(place, heartbeat_sec=1, grace_sec=1)
    silent, beaten = storage.ask(study), storage.ask(study)
    study._storage.record_heartbeat(beaten._trial_id)
    assert storage.without_heartbeat(study, 60) == []
    assert storage.without_heartbeat(study, -1) == [silent.number]
    assert storage.first_beats(study) == [silent.number]
    assert storage.first_beats(study) == []
    set_heartbeat(study, silent, seconds_ago=100)
    assert storage.fail_stale(study) == [silent.number]


def test_heartbeats_are_in_universal_time_whatever_zone_the_server_is_in(place):
    """The tests' server is in Berlin: in its own time, the hour that summer time skips would make every trial stale."""
    study = study_in(place)
    trial = storage.ask(study)
    study._storage.record_heartbeat(trial._trial_id)
    study._storage.record_heartbeat(trial._trial_id)  # the first is made another way than those that follow
    with study._storage._backend.engine.connect() as connection:
        (at,) = connection.execute(sqlalchemy.text("SELECT heartbeat FROM trial_heartbeats")).scalars()
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    assert abs(datetime.now(UTC).replace(tzinfo=None) - at) < timedelta(seconds=10)


def test_a_forked_process_has_connections_of_its_own(place):
    study = study_in(place)
    storage.ask(study)
    mine = backend(study)
    receive, send = os.pipe()
    if (pid := os.fork()) == 0:
        with os.fdopen(send, "w") as out:
            out.write(f"{storage.ask(study).number} {backend(study)}")
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as file:
        number, others = file.read().split(" ", 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert number == "1"
    assert others != str(mine) or place.database is not None
    assert [trial.number for trial in study.trials] == [0, 1]


def backend(study):
    with study._storage._backend.engine.connect() as connection:
        return 0 if connection.dialect.name == "sqlite" else connection.connection.driver_connection.info.backend_pid


def test_a_storage_is_not_sent_to_another_process(tmp_path):
    import pickle

    with pytest.raises(TypeError, match="call open_storage in the other"):
        pickle.dumps(opened(place_of(None, tmp_path)))


def test_a_braced_path_is_the_path(tmp_path):
    (tmp_path / "{SCHEMA_VERSION} {x}").mkdir()
    place = place_of(None, tmp_path / "{SCHEMA_VERSION} {x}")
    study_in(place)
    assert place.database.stat().st_size > 0


def test_sqlite_keeps_a_write_ahead_log(tmp_path):
    with opened(place_of(None, tmp_path)).engine.connect() as connection:
        read = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
    assert read == {"journal_mode": "wal", "synchronous": 1}


@pytest.mark.parametrize(
    ("version", "says"),
    [("v3.0.0.a", "optuna storage upgrade --storage sqlite:///"), ("v99.0.0.a", "pip install -U optuna")],
)
def test_tables_of_another_optuna_are_refused_with_the_command(here, version, says):
    place = place_of(None, "mlruns")
    opened(place).close()
    with closing(sqlite3.connect(place.database)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", [version])
        db.execute("UPDATE version_info SET library_version = '4.0.1'")
    with pytest.raises(Refused) as refused:
        opened(place)
    assert says in str(refused.value)
    assert "was made by optuna 4.0.1" in str(refused.value)


def test_a_file_made_by_optuna_itself_goes_on(here):
    made = optuna.create_study(storage=RDBStorage("sqlite:///own.db"), study_name="a")
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    place = place_of("sqlite:///own.db", "mlruns")
    assert len(optuna.load_study(study_name="a", storage=opened(place)).trials) == 2
    assert not (here / "mlruns").exists()
