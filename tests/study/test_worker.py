"""One worker without a training: what it takes, what it fails as surplus, what of a trial that another ended."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import optuna
import pytest
from optuna.trial import TrialState

from litmus.channel import Channel
from litmus.jobs.forks import CONTEXT, Standby, answer_of, forked
from litmus.jobs.job import Outcome, uid_of
from litmus.jobs.posts import Post
from litmus.study import confirm
from litmus.study.ledger import RUN_UID, lineages, reason_of
from litmus.study.worker import Current, Worker, record_failure
from litmus.tracking import Run, directory_of, find_run
from litmus.tracking.spool import Spool
from tests.reliability.study_help import Bench, write_study


class News(list):
    def send(self, item):
        self.append(item)

    def words(self):
        return [(word, number) for word, number, _ in self]


@pytest.fixture
def bench(tmp_path):
    with Bench(write_study(tmp_path, offline=True, n_trials=2)) as bench:
        yield bench


@pytest.fixture
def worker(bench):
    worker = Worker(bench.stage, Post(0), News())
    yield worker
    worker.await_the_end()
    worker.end_standby()
    worker.storage.close()


def take(worker):
    trial = worker.next_trial()
    return Current(trial, trial.number, trial.number)


def test_a_trial_that_n_others_are_older_than_is_surplus_and_not_trained(bench, worker, monkeypatch):
    monkeypatch.setattr(Worker, "train", lambda *args: pytest.fail("it was trained"))
    # Three workers that looked at the same moment: each saw a free place.
    taken = [take(worker)]
    worker.ledger.n_trials = 9
    taken += [take(worker), take(worker)]
    worker.ledger.n_trials = 2
    worker.have_trained(taken[2].trial)
    assert [one.state for one in bench.ledger.study.trials] == [TrialState.RUNNING] * 2 + [TrialState.FAIL]
    assert reason_of(bench.ledger.study.trials[2]) == "surplus"
    assert lineages(bench.ledger.study.trials, max_retry=1)[2].state == "void"


def test_nothing_is_taken_while_all_places_are(worker):
    assert take(worker).number == 0
    assert take(worker).number == 1
    assert worker.next_trial() is None


@pytest.mark.parametrize("outcome", [Outcome("COMPLETE", (0.5,), epochs=2), Outcome("FAIL", reason="error: late")])
def test_what_another_has_ended_stays_as_it_is(bench, worker, outcome):
    current = take(worker)
    bench.ledger.fail(bench.ledger.study.trials[0], "lost: its worker fell silent")
    worker.end(current, outcome)
    assert worker.news.words() == [("superseded", 0)]
    (trial,) = [one for one in bench.ledger.study.trials if one.number == 0]
    assert (trial.state, reason_of(trial)) == (TrialState.FAIL, "lost: its worker fell silent")


def test_the_checkpoints_go_only_after_the_trial_was_told(bench, worker, tmp_path):
    for ended, left in ((True, True), (False, False)):
        current = take(worker)
        current.directory = tmp_path / f"run{current.number}"
        (current.directory / "checkpoints").mkdir(parents=True)
        if ended:
            bench.ledger.fail(bench.ledger.study.trials[current.number], "lost: gone")
        worker.end(current, Outcome("COMPLETE", (0.5,)))
        assert (current.directory / "checkpoints").exists() == left


def test_a_run_whose_process_died_before_it_could_say_so_is_failed(bench, worker):
    current = take(worker)
    uid = bench.ledger.uid_of(current.trial)
    current.trial.set_user_attr(RUN_UID, uid)
    run = Run.start(home=bench.stage.home, experiment="x", name="t", uid=uid, send="off")
    run.hand_over()
    worker.end(current, Outcome("FAIL", reason="killed: its process ended by SIGKILL"))
    assert worker.news.words() == [("opened", 0), ("ended", 0)]
    with Spool(run.dir) as spool:
        assert (spool.status, spool.texts("tag")["litmus.state"]) == ("FAILED", "FAIL")


@pytest.mark.parametrize("error", [EOFError, ConnectionRefusedError])
def test_a_process_is_asked_for_again_where_the_forkserver_has_just_died(error, monkeypatch):
    class Asked:
        starts = 0

        def __init__(self, **given):
            self.given = given

        def start(self):
            Asked.starts += 1
            if Asked.starts < 3:
                raise error

    monkeypatch.setattr(CONTEXT, "Process", Asked)
    process = forked(print, (1,), "name")
    assert (Asked.starts, process.given) == (3, {"target": print, "args": (1,), "name": "name"})
    Asked.starts = -9
    with pytest.raises(error):
        forked(print, (), "name")


def test_a_training_that_dies_before_it_begins_a_run_has_one_that_says_so(bench, worker):
    """One run below the study for each trial: the UI must not lose those of which it knows least."""
    trial = worker.next_trial()
    job = bench.stage.job(trial, bench.ledger)
    trial.set_user_attr(RUN_UID, job.uid)
    worker.end(Current(trial, 0, 0), Outcome("FAIL", reason="killed: its process ended by SIGKILL"))
    assert worker.news.words() == [("opened", 0), ("ended", 0)]
    stored = find_run(job.uid, home=bench.stage.home)
    assert (stored.status, stored.kind, stored.name) == ("FAILED", "trial", job.name)
    assert stored.tags["litmus.fail_reason"].startswith("killed")
    assert stored.params["optim.lr"] == str(job.config.optim.lr)


def test_a_run_that_was_only_known_to_be_gone_is_failed_by_who_comes_next(bench, worker):
    current = take(worker)
    uid = bench.ledger.uid_of(current.trial)
    current.trial.set_user_attr(RUN_UID, uid)
    run = Run.start(home=bench.stage.home, experiment="x", name="t", uid=uid, send="off")
    run.finish("KILLED")  # as a look at its directory says of a process that is gone
    bench.ledger.fail(current.trial, "error: its worker was killed between the two")
    (trial,) = bench.ledger.study.get_trials(deepcopy=False)
    assert record_failure(bench.stage, bench.ledger, trial) == run.dir
    with Spool(run.dir) as spool:
        assert spool.status == "FAILED"


def test_where_nothing_can_be_drawn_a_failed_trial_is_not_replaced(bench, worker, monkeypatch):
    """A confirmation's trials are all queued: one more would be a trial of nothing."""
    monkeypatch.setattr(type(bench.stage), "draws", False)
    assert take(worker).number == 0  # the base config, which was queued
    bench.ledger.fail(bench.ledger.study.trials[0], "not finite: the loss")
    assert worker.next_trial() is None
    assert not worker.may_begin()
    monkeypatch.setattr(type(bench.stage), "draws", True)
    assert worker.may_begin()


@pytest.fixture(scope="module")
def forked_fresh(tmp_path_factory):
    """What a child of a study's own forkserver finds: a process has one forkserver, that of whoever asked first."""
    script = tmp_path_factory.mktemp("fork") / "fork.py"
    script.write_text(
        "import gc, json, sys, torch\n"
        "def look(tell):\n"
        "    tell.send({'frozen': gc.get_freeze_count(), 'no_cuda': torch.cuda._is_in_bad_fork(),\n"
        "               'main': sys.modules['__main__'].__name__ != '__main__'})\n"
        "if __name__ == '__main__':\n"
        "    from litmus.study import worker\n"
        "    from fork import look\n"
        "    found = []\n"
        "    for _ in range(2):\n"
        "        hear, tell = worker.CONTEXT.Pipe(duplex=False)\n"
        "        process = worker.CONTEXT.Process(target=look, args=(tell,))\n"
        "        process.start()\n"
        "        found.append(hear.recv())\n"
        "        process.join()\n"
        "        worker.forget_main()\n"
        "    print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_what_the_forkserver_imported_is_no_matter_for_a_trainings_garbage_collector(forked_fresh):
    """Else the first full collection in each child copies every page that it shares with its siblings."""
    assert forked_fresh[0]["frozen"] > 100_000


def test_the_forkserver_never_looked_at_cuda_which_no_child_could_use_then(forked_fresh):
    """torch marks the children of a process that has, with or without a GPU: a trial on one would fail at once."""
    assert not forked_fresh[0]["no_cuda"]


def test_a_training_does_not_import_the_command_once_more(forked_fresh):
    assert [one["main"] for one in forked_fresh] == [True, False]


def killed_the_first_time(marker, tell):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    tell.send("an answer")


def fails(tell):
    sys.exit(3)


def test_a_process_apart_that_is_killed_is_begun_again_and_one_that_fails_is_not(tmp_path):
    assert answer_of(killed_the_first_time, (tmp_path / "seen",), "the check") == "an answer"
    with pytest.raises(RuntimeError, match="the check ended with exit code 3, without an answer"):
        answer_of(fails, (), "the check")


def test_a_training_killed_as_it_found_its_trial_finished_is_told_as_finished(bench, worker, monkeypatch):
    """An earlier attempt had ended; the next one's process is killed before it can say which run it is."""
    trial = worker.next_trial()
    job = bench.stage.job(trial, bench.ledger)
    run = Run.start(home=bench.stage.home, experiment="x", name="t", uid=job.uid, send="off")
    table = {name: {"loss": 0.25, "err": 0.25} for name in ("train_eval", "val")}
    run.log_text(json.dumps({**table, "epochs": 2, "trained_sec": 1.0, "num_params": 3}), "result.json")
    run.finish()
    monkeypatch.setattr("litmus.study.worker.run_job", dies_at_once)
    outcome = worker.train(Current(trial, 0, 0), job)
    assert (outcome.state, outcome.values) == ("COMPLETE", (0.25,))


def dies_at_once(job, door):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_was_killed_before_its_first_fact_gets_all_of_them(bench, worker):
    trial = worker.next_trial()
    job = bench.stage.job(trial, bench.ledger)
    trial.set_user_attr(RUN_UID, job.uid)
    run = Run.start(home=bench.stage.home, experiment="x", name="t", uid=job.uid, send="off")
    run.hand_over()
    with closing(sqlite3.connect(run.dir / "spool.sqlite")) as db, db:
        db.execute("DELETE FROM log")
    worker.end(Current(trial, 0, 0), Outcome("FAIL", reason="killed: its process ended by SIGKILL"))
    stored = find_run(job.uid, home=bench.stage.home)
    assert (stored.status, stored.kind, stored.tags["litmus.run_uid"]) == ("FAILED", "trial", job.uid)
    assert stored.params["optim.lr"] == str(job.config.optim.lr)


def test_the_run_of_a_copy_is_the_one_that_was_trained(bench):
    attrs = {"litmus.duplicate_of": 7}
    trial = optuna.create_trial(value=0.5, user_attrs=attrs)
    trial.number = 3
    (copy,) = lineages([trial], max_retry=1).values()
    assert copy.trained_as == 7
    assert confirm.runs_of(bench.stage, None, None, copy) == [uid_of(bench.stage.uid, bench.stage.study_name, 7)]


def pid_of(bench, trial):
    """Of the process that trained it."""
    with Spool(directory_of(bench.ledger.uid_of(trial), bench.stage.home)) as spool:
        return int(spool.meta["owner_pid"])


def test_the_next_training_begins_in_a_process_that_stood_by(bench, worker):
    worker.have_trained(worker.next_trial())
    standby = worker._standby.process
    assert standby.is_alive()
    worker.have_trained(worker.next_trial())
    first, second = (bench.ledger.study.trials[number] for number in (0, 1))
    assert [trial.state.name for trial in (first, second)] == ["COMPLETE", "COMPLETE"]
    assert pid_of(bench, second) == standby.pid != pid_of(bench, first)
    worker.await_the_end()
    assert not standby.is_alive()
    last = worker._standby.process
    worker.end_standby()
    assert not last.is_alive()
    assert worker._standby is None


def test_one_that_stood_by_and_is_gone_is_replaced(bench, worker):
    worker.have_trained(worker.next_trial())
    os.kill(worker._standby.process.pid, signal.SIGKILL)
    worker._standby.process.join()
    worker.have_trained(worker.next_trial())
    assert [trial.state.name for trial in bench.ledger.study.trials] == ["COMPLETE", "COMPLETE"]


def test_one_that_stands_by_leaves_when_it_is_told_nothing(tmp_path):
    standby = Standby(tmp_path / "standby.log")
    assert standby.process.is_alive()
    standby._tell.close()
    standby.process.join(20)
    assert standby.process.exitcode == 0


def says_the_end_and_stays(job, door):
    channel = Channel.to(door)
    channel.send(ended=Outcome("COMPLETE", (0.25,), epochs=1).plain())
    time.sleep(60)


def test_a_training_that_stays_after_its_last_word_is_ended_before_another_begins(bench, worker, monkeypatch):
    monkeypatch.setattr("litmus.study.worker.run_job", says_the_end_and_stays)
    monkeypatch.setattr("litmus.study.worker.EXIT_SEC", 0.5)
    worker.have_trained(worker.next_trial())
    assert bench.ledger.study.trials[0].values == [0.25]  # told at once
    first = worker._ending
    assert first.is_alive()
    worker.have_trained(worker.next_trial())
    assert not first.is_alive()
    assert bench.ledger.study.trials[1].values == [0.25]


@pytest.mark.parametrize("prunes", [False, True])
def test_a_training_waits_for_the_database_only_where_it_may_be_pruned(bench, worker, monkeypatch, prunes):
    said = []

    class Training:
        def receive(self, timeout_sec):
            return {"reports": [[0, 0.5]]}

        def send(self, **answer):
            said.append(answer)

    monkeypatch.setattr(type(bench.stage), "prunes", prunes)
    monkeypatch.setattr(worker, "report", lambda current, reports: said.append("in the database") or prunes)
    worker._hear(Training(), [], Current(worker.next_trial(), 0, 0), [])
    assert said == (
        ["in the database", {"of": 0, "stop": True}] if prunes else [{"of": 0, "stop": False}, "in the database"]
    )
