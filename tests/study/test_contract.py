"""Each line of the fault contract, on studies of a few trials. The workers are those of `litmus tune`."""

import os
import signal
import sqlite3
import threading
import time
import warnings
from contextlib import closing

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from litmus.errors import Refused
from litmus.jobs.forks import CONTEXT
from litmus.study.keeper import Keeper
from litmus.study.storage import open_storage
from litmus.study.tune import reap
from litmus.study.worker import Leave
from litmus.tracking import sender
from litmus.tracking.spool import Spool
from tests.study import small


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes longer than these studies; it is tested elsewhere."""
    monkeypatch.setattr(Keeper, "draw", lambda self, **how: [])


@pytest.fixture
def long_study(tmp_path):
    """Two trials, the second long enough to be caught in the act."""
    return small.write(tmp_path, **small.long_then_short(n_trials=2))


def kill_child(news, message):
    if message[1] == 1:
        os.kill(small.owner_of(small.Path(message[2]["directory"])), signal.SIGKILL)


def wait_for(happens, timeout_sec=40.0):
    until = time.monotonic() + timeout_sec
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def under_way(path, origin):
    """Whether trial ``origin`` has a checkpoint to go on from, and still runs."""
    if not list(path.parent.glob(f"mlruns/runs/{path.stem}-t{origin:04d}-*/checkpoints/last*.ckpt")):
        return False
    with closing(sqlite3.connect(path.parent / "mlruns/studies.db")) as database:  # opening a storage takes too long
        return database.execute("SELECT state FROM trials WHERE number = ?", [origin]).fetchone() == ("RUNNING",)


# --- 1 and 7


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_saves_its_trial_and_the_same_command_goes_on_to_exactly_n(tmp_path, signum, code):
    path = small.write(tmp_path, **small.long_then_short(n_trials=2))

    def stop():
        wait_for(lambda: under_way(path, 1))
        os.kill(os.getpid(), signum)

    stopper = threading.Thread(target=stop)
    small.stage_of(path)  # its storage is there to be watched
    stopper.start()
    stopped, said = small.search(path)
    stopper.join()
    assert stopped == code
    assert f"stopped by {signum.name}; 1 of 2 trials are finished" in said
    assert said.splitlines()[-1] == f"next     litmus tune {path}"
    assert small.states(path) == ["COMPLETE", "FAIL", "WAITING"]
    assert small.facts_of(small.run_of(path, 1))["status"] == "KILLED"

    code, said = small.search(path)
    assert code == 0
    assert "1 of them finished before" in said
    assert small.states(path) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert small.trials(path)[2].params == small.trials(path)[1].params
    assert [small.starts(path, origin) for origin in (0, 1)] == [1, 2]
    assert "resume after last" in small.log_of(path, 1)
    code, said = small.search(path)
    assert (code, len(small.trials(path)), small.starts(path, 0)) == (0, 3, 1)


def test_a_killed_command_takes_all_along_and_the_same_command_goes_on(long_study, tmp_path):
    small.stage_of(long_study)
    process = CONTEXT.Process(target=small.command, args=(str(long_study), str(tmp_path / "log")))
    process.start()
    try:
        wait_for(lambda: under_way(long_study, 1))
        child = small.owner_of(small.run_of(long_study, 1))
    finally:
        process.kill()
        process.join()
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    code, said = small.search(long_study)
    assert code == 0
    assert "trials 1 had lost their worker; they go on first" in said
    assert small.states(long_study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [small.starts(long_study, origin) for origin in (0, 1)] == [1, 2]
    assert "resume after last" in small.log_of(long_study, 1)


def test_a_worker_that_is_asked_to_leave_has_its_trial_saved_and_queued_again(long_study):
    stage = small.stage_of(long_study)

    def leave():
        wait_for(lambda: under_way(long_study, 1))
        worker.ask_to_leave(signal.SIGTERM, None)

    news = small.News()
    worker = small.worker_of(stage, news)
    leaver = threading.Thread(target=leave)
    leaver.start()
    worker.run()
    leaver.join()
    assert news.facts("ended")["state"] == "COMPLETE"
    stopped, again = small.trials(long_study)[1:]
    assert stopped.user_attrs["litmus.fail_reason"] == "stopped: its worker was asked to stop"
    assert (again.state, again.params) == (TrialState.WAITING, stopped.params)
    assert again.user_attrs["litmus.origin"] == 1
    small.worker_of(stage, small.News()).run()
    assert small.states(long_study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "resume after last" in small.log_of(long_study, 1)


# --- 2


def test_a_killed_child_fails_its_trial_with_the_reason_and_the_worker_goes_on(long_study):
    news = small.News(opened=kill_child)
    small.worker_of(small.stage_of(long_study, "seed=3"), news).run()
    killed = small.trials(long_study)[1]
    assert killed.state == TrialState.FAIL
    assert killed.user_attrs["litmus.fail_reason"].startswith("killed: its process ended by SIGKILL")
    assert small.states(long_study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert small.starts(long_study, 1) == 1  # what fails by itself is not tried again
    facts = small.facts_of(small.run_of(long_study, 1))
    assert (facts["status"], facts["litmus.state"]) == ("FAILED", "FAIL")
    assert facts["litmus.fail_reason"] == killed.user_attrs["litmus.fail_reason"]


# --- 3


def test_a_killed_worker_is_replaced_and_its_trial_goes_on_from_its_checkpoint(long_study):
    small.stage_of(long_study)
    pids = []

    def kill():
        wait_for(lambda: under_way(long_study, 1))
        worker = int(small.trials(long_study)[1].user_attrs["litmus.worker"].split("|")[-2])
        pids.extend([worker, small.owner_of(small.run_of(long_study, 1))])
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code, _ = small.search(long_study)
    killer.join()
    assert code == 0
    assert small.states(long_study) == ["COMPLETE", "FAIL", "COMPLETE"]
    lost, again = small.trials(long_study)[1:]
    assert lost.user_attrs["litmus.fail_reason"] == "lost: its worker is gone"
    assert (again.params, again.user_attrs["litmus.attempt"]) == (lost.params, 2)
    assert small.starts(long_study, 1) == 2
    assert "resume after last" in small.log_of(long_study, 1)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert len(list((long_study.parent / "mlruns/runs").glob("small-t0001-*"))) == 1


def test_a_trial_that_loses_its_worker_too_often_fails_for_good(long_study):
    stage = small.stage_of(long_study, "max_retry=1", "n_trials=1")

    worker = small.worker_of(stage, small.News())
    for again in ([0], []):  # taken up once, and no second time
        trial = worker.next_trial()
        while trial.user_attrs.get("litmus.origin", trial.number):
            trial = worker.next_trial()
        trial.set_user_attr("litmus.worker", small.dead_name(worker))
        assert worker.ledger.reclaim() == again
    lineage = worker.ledger.lineages()[0]
    assert (lineage.state, [one.state.name for one in lineage.attempts]) == ("failed", ["FAIL", "FAIL"])


# --- 4


def away(*args, **how):
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = 5
    raise OperationalError("UPDATE trials", {}, locked)


def test_a_database_that_is_away_for_a_while_loses_and_doubles_nothing(tmp_path):
    path = small.write(tmp_path)
    stage = small.stage_of(path)
    worker = small.worker_of(stage, small.News())
    seen, gone = set(), [0]

    def flaky(call):
        def sometimes(*args, **how):
            if (call.__name__, args) not in seen:  # every one finds nobody, and is answered when it asks again
                seen.add((call.__name__, args))
                gone[0] += 1
                away()
            return call(*args, **how)

        return sometimes

    for name in ("set_trial_state_values", "set_trial_user_attr", "record_heartbeat", "set_trial_intermediate_value"):
        setattr(worker.storage, name, flaky(getattr(worker.storage, name)))
    worker.run()
    assert gone[0] > 10
    assert small.states(path) == ["COMPLETE"] * 3
    assert [small.starts(path, origin) for origin in range(3)] == [1, 1, 1]
    assert all(len(trial.intermediate_values) <= 2 for trial in small.trials(path))


def test_a_lock_that_is_held_for_two_seconds_is_waited_for(tmp_path):
    path = small.write(tmp_path, n_trials=1)
    stage = small.stage_of(path)

    def lock(news, message):
        database = sqlite3.connect(stage.place.database, isolation_level=None, check_same_thread=False)
        database.execute("BEGIN EXCLUSIVE")
        threading.Timer(2.0, lambda: (database.execute("ROLLBACK"), database.close())).start()

    news = small.News(opened=lock)
    small.worker_of(stage, news).run()
    assert news.words(0) == ["began", "opened", "ended"]
    assert small.states(path) == ["COMPLETE"]


def test_a_value_that_could_not_be_told_is_told_later_from_the_run_directory(tmp_path):
    path = small.write(tmp_path, n_trials=1)
    stage = small.stage_of(path)
    news = small.News(note=lambda news, message: worker.ask_to_leave(signal.SIGTERM, None))
    worker = small.worker_of(stage, news)
    worker._name = small.dead_name(worker)
    worker.study.tell = away
    with pytest.raises(Leave):
        worker.run()
    assert "is away" in news.facts("note")["says"]
    assert small.states(path) == ["RUNNING"]

    small.worker_of(stage, small.News()).run()
    assert small.states(path) == ["FAIL", "COMPLETE"]
    assert "an earlier attempt had ended: nothing is trained again" in small.log_of(path, 0)
    assert small.log_of(path, 0).count("train/loss") == 1
    result = small.json.loads((small.run_of(path, 0) / "artifacts/result.json").read_text())
    assert small.trials(path)[1].value == result["val"]["err"]


# --- 5


@pytest.mark.parametrize("when", ["reporting", "silent", "told"])
def test_a_worker_that_lost_its_lease_never_crashes_and_never_overwrites(tmp_path, when):
    keys = small.long_then_short(n_trials=2, heartbeat_sec=1, grace_sec=3, max_retry=0)
    objective = {"objective": "train_eval/err"} if when == "silent" else {}
    path = small.write(tmp_path, **(keys | objective))
    stage = small.stage_of(path, *(["pruner.name=median"] if when == "reporting" else []), "n_trials=2")

    def take(number):
        other = optuna.load_study(study_name="small", storage=open_storage(stage.place, heartbeat_sec=1, grace_sec=3))
        stage.ledger(other, other._storage._backend).fail(other.get_trials()[number], "surplus, as somebody decided")

    def taken(news, message):
        if message[1] == 1 and when != "told":
            take(1)

    news = small.News(opened=taken)
    worker = small.worker_of(stage, news)
    if when == "told":
        end = worker.end

        def too_late(current, outcome):
            if current.number == 1:
                take(1)
            end(current, outcome)

        worker.end = too_late
    worker.run()
    taken_trial = small.trials(path)[1]
    assert (taken_trial.state, taken_trial.value) == (TrialState.FAIL, None)
    assert taken_trial.user_attrs["litmus.fail_reason"] == "surplus, as somebody decided"
    assert "superseded" in news.words(1)
    assert small.states(path).count("COMPLETE") == 2


# --- 6


def points(database):
    with sqlite3.connect(database) as db:
        rows = db.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
        count = db.execute("SELECT count(*) FROM runs").fetchone()[0]
    return count, sorted(rows)


def test_mlflow_away_from_beginning_to_end_slows_and_fails_nothing_and_sync_completes_it_once(tmp_path, litmus):
    path = small.write(tmp_path, base={"tracking.offline": False, "tracking.uri": "http://127.0.0.1:9"})
    began = time.monotonic()
    code, said = small.search(path)
    assert code == 0
    assert "runs are not in MLflow yet; they are safe here: litmus sync --all" in said
    assert small.states(path) == ["COMPLETE"] * 3
    took = [trial.datetime_complete - trial.datetime_start for trial in small.trials(path)]
    assert max(one.total_seconds() for one in took) < 5  # MLflow's own client tries for minutes
    assert time.monotonic() - began < 60

    sender._close_process()  # as at the end of the command; until then it goes on trying
    database, home = tmp_path / "server.db", tmp_path / "mlruns"
    sync = ("sync", "--all", "--home", home, "--uri", f"sqlite:///{database}")
    code, said, _ = litmus(*sync)
    assert code == 0, said
    count, sent = points(database)
    assert count == 4
    here = 0
    for directory in small.runs(path):
        with Spool(directory) as spool:
            here += sum(len(set(spool.history(key))) for key in spool.last_metrics())
    assert len(sent) == here
    assert litmus(*sync)[0] == 0
    assert points(database) == (count, sent)


# --- 9


def test_another_question_under_the_same_name_is_refused_with_what_differs(tmp_path):
    path = small.write(tmp_path, n_trials=2)
    assert small.search(path)[0] == 0
    before = small.states(path)
    for override, says in (
        ("space.optim.lr.high=0.5", "space.optim.lr"),
        ("space.model.keep_prob={low: 0.5, high: 1.0}", "space.model.keep_prob"),
        ("objective=val/loss", "objective"),
        ("seeds=2", "seeds"),
        ("base.10=optim.l2_lambda=1", "base: optim.l2_lambda"),
    ):
        told = small.refusal(path, override)
        assert says in told
        assert "when study small began" in told
        assert "--warm-start small begins it with the best of the old one" in told
    assert small.states(path) == before
    assert small.names(path) == ["small"]

    assert "no such study" in small.refusal(path, "name=next", warm_start="smal")
    assert small.names(path) == ["small"]
    code, _ = small.search(path, "name=next", "space.optim.lr.high=0.9", warm_start="small")
    assert code == 0
    old = min((t for t in small.trials(path)), key=lambda trial: (trial.value, trial.number))
    assert [trial.params for trial in small.trials(path, "next")][:2] == [
        small.trials(path)[0].params,
        (old if old.number else small.trials(path)[1]).params,
    ]


# --- 10


def test_reap_ends_what_a_dead_machine_left_running_and_trains_nothing(tmp_path):
    from mlflow import MlflowClient

    path = small.write(tmp_path, n_trials=2, base={"tracking.offline": False})
    assert small.search(path, "n_trials=1")[0] == 0
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its first import configures tables in ways that SQLAlchemy deprecates
        client = MlflowClient(uri)
    (child,) = (run for run in all_runs(client) if run.data.tags["litmus.kind"] == "trial")
    client.update_run(child.info.run_id, status="RUNNING")  # as its machine left it, and went

    stage = small.stage_of(path)
    worker = small.worker_of(stage, small.News())
    trial = worker.patient(worker.next_trial)
    trial.set_user_attr("litmus.worker", small.dead_name(worker))
    said = []
    assert reap(path, say=said.append) == 0
    assert "small-t0001: its worker is gone; queued again" not in said  # it had no parameters yet: it was no trial
    assert small.states(path)[:2] == ["COMPLETE", "FAIL"]
    assert f"{child.info.run_name}: was RUNNING in MLflow, and is ended" in said
    assert client.get_run(child.info.run_id).info.status == "FINISHED"
    assert said[-1] == f"next     litmus tune {path}"
    assert small.starts(path, 1) == 0

    with pytest.raises(Refused, match="there is no such study"):
        reap(path, ["name=other"])


def all_runs(client):
    found = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(found)
