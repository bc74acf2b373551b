"""Workers killed at random and at the worst moments: the study ends with its total, nothing lost, nothing twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from multiprocessing import forkserver
from pathlib import Path

import pytest

from litmus.study.place import connect
from litmus.study.pool import Pool
from litmus.tracking import directory_of, sync, unsynced
from tests.reliability import study_help as help_

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"])


@pytest.fixture(autouse=True)
def faulty(monkeypatch):
    help_.quiet()
    monkeypatch.setattr("litmus.study.pool.work", help_.faulty_work)
    monkeypatch.setattr("litmus.study.pool.DEATHS_IN_A_ROW", 100)


@pytest.fixture
def url(request):
    database = request.node.callspec.params["database"] if hasattr(request.node, "callspec") else "sqlite"
    return request.getfixturevalue("postgresql") if database == "postgresql" else None


# --- at the worst moments


def die_at(moments, path, *, url=None, chance=None):
    """A study whose workers die at each of ``moments``, so many times: what is wrong."""
    with help_.Bench(path, url=url) as bench:
        for moment, deaths in moments.items():
            help_.lay(bench.stage, moment, deaths, chance=chance)
        bench.run(limit_sec=60 + 15 * sum(moments.values()))
        wrong = help_.wrongs(bench, allow="nothing")
        wrong += [f"{token} did not happen" for token in help_.left(bench.stage) if not token.startswith("lose")]
        facts = help_.account(bench)
        for origin in facts["again"]:
            wrong += [f"trial {origin}: {one}" for one in help_.wrongs_of_log(bench, facts["known"][origin])]
    return wrong


def test_workers_that_die_at_the_worst_moments_lose_nothing(tmp_path):
    path = help_.write_study(tmp_path, epochs=2, offline=True, n_trials=5)
    assert die_at(dict.fromkeys(help_.MOMENTS, 1), path, chance=1.0) == []


@pytest.mark.proof
@pytest.mark.timeout(3000)
@BOTH
def test_ten_workers_die_at_each_of_the_worst_moments(database, url, tmp_path, figure):
    wrong = {}
    for moment in help_.MOMENTS:
        path = help_.write_study(tmp_path / moment, epochs=2, offline=True, n_trials=25, name=f"dies-{moment}")
        moments = {moment: 10, **({"lose": 20} if moment in ("fail", "before_queue", "after_queue") else {})}
        began = time.monotonic()
        wrong[moment] = [f"{moment}: {one}" for one in die_at(moments, path, url=url)]
        print(f"{moment}: {wrong[moment] or 'nothing wrong'}, {time.monotonic() - began:.0f} s", flush=True)
    found = [one for some in wrong.values() for one in some]
    figure(
        f"study_moments_{database}",
        f"{10 * len(wrong)} deaths at {len(wrong)} moments, {len(found)} wrong",
        holds=not found,
        note="; ".join(found[:5]),
    )


# --- at random


def kill_at_random(tune, bench, *, kills, n_trials, seed):
    """While the study runs; how many of each kind."""
    rng = random.Random(seed)
    killed = Counter()
    until = time.monotonic() + 30 + 12 * kills
    while killed.total() < kills:
        assert time.monotonic() < until, f"{killed} after {30 + 12 * kills} s"
        assert tune.exit_code is None, f"{killed}, exit code {tune.exit_code}: {tune.output[-1500:]}"
        finished = help_.account(bench)["states"]["finished"]
        if finished < killed.total() * (n_trials - 6) / kills:
            time.sleep(0.1)
            continue
        time.sleep(rng.uniform(0, 0.6))
        kind = rng.choices(["worker", "training", "main", "server"], [68, 20, 8, 4])[0]
        if kind == "main":
            tune.kill()
            killed[kind] += 1
            time.sleep(rng.uniform(0, 1))
            tune.start()
        else:
            if kind == "server":  # that all are forked from
                pids = help_.forkservers(tune.process.pid)
            else:
                pids = [pid for pid, what in help_.processes_of(bench.stage).items() if what == kind]
            if not pids:
                continue
            try:
                os.kill(rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[kind] += 1
        if killed.total() % 10 == 0:
            print(f"{killed.total()} kills, {finished} finished, {time.strftime('%X')}", flush=True)
    return killed


def survive_kills(folder, *, kills, n_trials, seed, url=None, alone=10, epochs=6):
    path = help_.write_study(folder, epochs=epochs, n_trials=n_trials)
    tune = help_.Tune(path, workers=4, url=url)
    tune.start()
    try:
        for _ in range(600):
            if "trial  state" in tune.output:
                break
            time.sleep(0.1)
        with help_.Bench(path, url=url, begun=True) as bench:
            killed = kill_at_random(tune, bench, kills=kills, n_trials=n_trials, seed=seed)
            code = tune.wait(600)
            wrong = [] if code == 0 else [f"exit code {code}: {tune.output[-1000:]}"]
            wrong += what_is_wrong(tune, bench, killed, folder, alone)
            facts = help_.account(bench)
    finally:
        for pid in help_.processes_in(folder):
            os.kill(pid, signal.SIGKILL)
    return killed, facts, wrong


def what_is_wrong(tune, bench, killed, folder, alone):
    wrong = help_.wrongs(bench)
    facts = help_.account(bench)
    if len(facts["failed"]) > killed["training"]:
        wrong.append(f"{len(facts['failed'])} failed of {killed['training']} killed trainings")
    for origin in facts["again"]:
        wrong += [f"trial {origin}: {one}" for one in help_.wrongs_of_log(bench, facts["known"][origin])]
    until = time.monotonic() + 30
    while (left := help_.processes_in(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    if left:
        wrong.append(f"{len(left)} processes are left: {left}")
    for directory in unsynced(bench.stage.home):
        if not (sent := sync(directory)).complete:
            wrong.append(f"{directory.name}: {sent.error}")
    there, wanted = help_.in_mlflow(bench), help_.expected_in_mlflow(bench)
    if there != wanted:
        wrong.append(f"in MLflow {list((there - wanted).items())[:4]} instead of {list((wanted - there).items())[:4]}")
    if (studies := sum(help_.in_mlflow(bench, "study").values())) != 1:
        wrong.append(f"{studies} parent runs")
    again = [origin for origin in facts["again"] if facts["known"][origin].state == "finished"]
    for origin in again[:: max(1, len(again) // alone)][:alone]:
        directory = directory_of(bench.ledger.uid_of(facts["known"][origin].last), bench.stage.home)
        found = help_.train_alone(directory, folder / f"alone-{origin}")
        wrong += [f"trial {origin} alone: {one}" for one in found]
    return wrong


@pytest.mark.proof
@pytest.mark.timeout(3000)
@BOTH
def test_a_hundred_kills_lose_no_trial_of_two_hundred(database, url, tmp_path, figure):
    killed, facts, wrong = survive_kills(tmp_path, kills=100, n_trials=200, seed=5, url=url)
    figure(
        f"study_kills_{database}",
        f"killed {killed['worker']} workers, {killed['main']} `litmus tune`, {killed['server']} forkservers, "
        f"{killed['training']} trainings: "
        f"{facts['states']['finished']} of 200 finished, {len(facts['again'])} went on after a loss, "
        f"{len(facts['failed'])} failed with their training, {len(wrong)} wrong",
        holds=not wrong,
        note="; ".join(wrong[:5]),
    )


def test_workers_and_trainings_killed_at_random_lose_nothing(tmp_path):
    rng, killed, now = random.Random(2), Counter(), time.monotonic()
    path = help_.write_study(tmp_path, epochs=4, offline=True, n_trials=6)
    with help_.Bench(path) as bench:
        for _ in bench.pool(reclaims=True).run(0.1):
            assert time.monotonic() < now + 100
            kind = "training" if killed["worker"] == 3 else "worker"
            pids = [pid for pid, what in help_.processes_of(bench.stage).items() if what == kind]
            if pids and killed.total() < 4 and rng.random() < 0.2:
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed[kind] += 1
        wrong, facts = help_.wrongs(bench), help_.account(bench)
        for origin in facts["again"]:
            wrong += help_.wrongs_of_log(bench, facts["known"][origin])
    assert (killed.total(), wrong) == (4, [])
    assert len(facts["failed"]) <= 1


# --- the process that all are forked from


@pytest.mark.proof
def test_a_training_goes_on_elsewhere_when_the_process_that_all_are_forked_from_is_killed(tmp_path):
    path = help_.write_study(tmp_path, epochs=20, offline=True, n_trials=2)
    killed = None
    with help_.Bench(path, workers=1) as bench:
        pool = bench.pool(reclaims=True)
        for _ in pool.run(0.1):
            reported = [one for one in bench.ledger.study.get_trials(deepcopy=False) if one.intermediate_values]
            if reported and killed is None:
                killed = forkserver._forkserver._forkserver_pid
                os.kill(killed, signal.SIGKILL)
        assert help_.wrongs(bench, allow="nothing") == []
        first = bench.ledger.lineages()[0]
        assert [one.state.name for one in first.attempts] == ["FAIL", "COMPLETE"]
        assert help_.wrongs_of_log(bench, first) == []


@pytest.mark.proof
def test_who_is_killed_while_asking_for_a_fork_ends_nobody_else(tmp_path):
    script = tmp_path / "fork.py"
    script.write_text(
        "import multiprocessing, socket\n"
        "from multiprocessing import forkserver\n"
        "context = multiprocessing.get_context('forkserver')\n"
        "context.set_forkserver_preload(['litmus.study.warm'])\n"
        "if __name__ == '__main__':\n"
        "    for _ in range(3):\n"
        "        process = context.Process(target=print, args=('forked',), daemon=True)\n"
        "        process.start()\n"
        "        process.join()\n"
        "        print(process.exitcode, forkserver._forkserver._forkserver_pid, flush=True)\n"
        "        with socket.socket(socket.AF_UNIX) as asking:\n"
        "            asking.connect(forkserver._forkserver._forkserver_address)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line != "forked"]
    assert len(lines) == 3
    assert len(set(lines)) == 1  # the same server, and each came to exit code 0
    assert lines[0].startswith("0 ")


# --- a database that is away


def held(bench, server, how, sec):
    """Take the database away for ``sec``, from the main thread, which a server of tests dies with."""
    if how == "sqlite":
        with closing(sqlite3.connect(bench.place.database, isolation_level=None, timeout=30)) as db:
            db.execute("BEGIN EXCLUSIVE")
            time.sleep(sec)
            db.execute("ROLLBACK")
    elif how == "postgresql":
        with closing(connect(bench.place)) as connection, connection.transaction():
            connection.execute("LOCK TABLE studies, trials, trial_heartbeats IN ACCESS EXCLUSIVE MODE")
            time.sleep(sec)
    else:
        server.stop()
        time.sleep(sec)
        server.start()


def outage(folder, how, sec, request, *, times=1, runs=True):
    """(trials that were lost, what is wrong) of a study whose database is taken away."""
    server = None if how == "sqlite" else request.getfixturevalue("server")
    url = server and server.new_database()
    path = help_.write_study(folder, epochs=4, offline=True, n_trials=8, heartbeat_sec=1, grace_sec=30)
    with help_.Bench(path, url=url) as bench:
        ended, held_at, news = 0, 0, []
        for heard in bench.pool().run(0.1):
            news += heard
            ended += sum(word == "ended" for word, _, _ in heard)
            if held_at < times and ended >= 2 * (held_at + 1):
                held_at += 1
                held(bench, server, how, sec)
        wrong = [*help_.wrongs(bench, allow="nothing", runs=runs), *(["never held"] if held_at < times else [])]
        wrong += [f"worker: {facts}" for word, _, facts in news if word == "superseded"]
        return help_.account(bench)["again"], wrong


@pytest.fixture
def writing(monkeypatch):
    monkeypatch.setattr("litmus.study.pool.work", help_.writing_work)


@pytest.mark.usefixtures("writing")
def test_a_database_that_is_locked_for_a_while_costs_no_trial(tmp_path, request):
    assert outage(tmp_path, "sqlite", 2, request, runs=False) == ([], [])


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_database_that_is_away_costs_no_trial(tmp_path, request, figure):
    waits = {"sqlite": 10, "postgresql": 10, "stopped": 4}
    seen = {how: outage(tmp_path / how, how, sec, request, times=2) for how, sec in waits.items()}
    lost = sum(len(again) for again, _ in seen.values())
    wrong = [f"{how}: {one}" for how, (_, some) in seen.items() for one in some]
    says = f"{2 * len(seen)} outages: {lost} lost, {len(wrong)} doubled or missing"
    figure("study_locks", says, holds=not lost and not wrong, note="; ".join(wrong[:5]))


# --- a worker that comes back


def processes_that_write(log):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(entry / "fd/1") == str(log):
                found.append(int(entry.name))
    return found


def stop_and_wake(path, *, child, url=None):
    """Stop a worker in its second epoch, alone or with its ``child``, until its trial is finished by another."""
    with help_.Bench(path, url=url) as bench:
        stopped, origin, news, wrong, log = [], None, [], [], None
        pids = set()
        pool = bench.pool()
        for heard in pool.run(0.1):
            news += heard
            facts = help_.account(bench)
            if origin is None:
                running = [one.last for one in facts["known"].values() if one.state == "running"]
                under_way = [trial for trial in running if len(trial.intermediate_values) > 1]
                if under_way:
                    origin = under_way[0].number
                    log = (bench.stage.folder / "logs" / f"{bench.stage.name_of(origin)}.log").absolute()
                    trainings = processes_that_write(log)
                    stopped = [int(under_way[0].user_attrs["litmus.worker"].split("|")[-2])]
                    stopped += trainings if child else []
                    pids |= set(trainings)
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)
            elif stopped and facts["known"][origin].state == "finished":
                wrong += [f"its old training {pid} lives" for pid in pids & set(processes_that_write(log))]
                before = facts["known"][origin].last
                for pid in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                stopped = []
        if pool.deaths:
            wrong.append(f"{pool.deaths} workers died")
        facts = help_.account(bench)
        after = facts["known"][origin]
        wrong += help_.wrongs(bench, allow="nothing") + help_.wrongs_of_log(bench, after)
        if [trial.state.name for trial in after.attempts] != ["FAIL", "COMPLETE"] or after.last.values != before.values:
            wrong.append(f"attempts {[trial.state.name for trial in after.attempts]}")
        late = [number for word, number, _ in news if word == "superseded"]
        return wrong + ([] if late == [origin] else [f"superseded: {late} instead of {[origin]}"])


def test_a_worker_that_comes_back_overwrites_nothing_and_lives_on(tmp_path):
    path = help_.write_study(tmp_path, epochs=12, offline=True, n_trials=3, grace_sec=3)
    assert stop_and_wake(path, child=False) == []


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_workers_that_come_back_overwrite_nothing(tmp_path, request, figure):
    wrong = []
    for number in range(10):
        path = help_.write_study(tmp_path / str(number), epochs=12, offline=True, n_trials=4)
        url = request.getfixturevalue("server").new_database() if number % 4 >= 2 else None
        wrong += [f"{number}: {one}" for one in stop_and_wake(path, child=bool(number % 2), url=url)]
    says = f"10 of 10 superseded, {len(wrong)} wrong"
    figure("study_stopped", says, holds=not wrong, note="; ".join(wrong[:5]))


# --- many at once


def write_in_crowds(path, *, workers, url=None):
    with help_.Bench(path, url=url, workers=workers) as bench:
        began = time.monotonic()
        pool = Pool(bench.stage, bench.posts)
        news = [one for heard in pool.run(0.2) for one in heard]
        sec = time.monotonic() - began
        wrong = [facts["says"] for word, _, facts in news if word in ("note", "superseded")]
        wrong += [f"{pool.deaths} workers died"] if pool.deaths else []
        facts = help_.account(bench)
        wrong += [f"{facts['states']}"] if facts["states"]["finished"] != bench.stage.n_trials else []
        wrong += [f"left open {facts['open']}"] if facts["open"] else []
        wrong += [f"again: {facts['again']}, twice: {facts['twice']}"] if facts["again"] or facts["twice"] else []
        wrong += [f"failed: {facts['failed']}"] if facts["failed"] else []
        told = [one.last for one in facts["known"].values() if one.state == "finished"]
        wrong += [f"trial {t.number} lost reports" for t in told if list(t.intermediate_values.values()) != [1, 0, 2]]
    return sec, wrong


@pytest.mark.usefixtures("writing")
def test_several_writers_make_the_exact_total(tmp_path):
    path = help_.write_study(tmp_path, offline=True, n_trials=24, heartbeat_sec=5, grace_sec=60)
    assert write_in_crowds(path, workers=4)[1] == []


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("writing")
def test_eight_and_sixteen_writers_without_an_error(tmp_path, request, figure):
    wrong, words = [], []
    for database in ("sqlite", "postgresql"):
        for workers in (8, 16):
            folder = tmp_path / f"{database}{workers}"
            path = help_.write_study(folder, offline=True, n_trials=400, heartbeat_sec=5, grace_sec=60)
            url = request.getfixturevalue("server").new_database() if database == "postgresql" else None
            sec, some = write_in_crowds(path, workers=workers, url=url)
            wrong += [f"{database}, {workers}: {one}" for one in some]
            words.append(f"{workers} on {database} {400 / sec:.0f} trials/s")
            print(words[-1], some[:3], flush=True)
    figure("study_writers", f"{len(wrong)} errors; {', '.join(words)}", holds=not wrong, note="; ".join(wrong[:5]))


# --- two commands


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_two_commands_share_a_study_and_the_machine_of_one_may_die(tmp_path, postgresql, figure):
    store = tmp_path / "mlflow.db"
    tracking = {"uri": f"sqlite:///{store}"}
    paths = [help_.write_study(tmp_path / name, epochs=4, n_trials=40, tracking=tracking) for name in ("one", "other")]
    tunes = [help_.Tune(path, workers=2, url=postgresql) for path in paths]
    try:
        for tune in tunes:
            tune.start()
        help_.wait_for(lambda: all("trial  state" in tune.output for tune in tunes), 120)
        with help_.Bench(paths[1], url=postgresql, begun=True) as bench:
            help_.wait_for(lambda: help_.account(bench)["states"]["finished"] >= 12, 120)
            help_.wait_for(lambda: help_.running_in(paths[0].parent, bench), 60)
            for pid in help_.processes_in(paths[0].parent):  # all at once, as when its machine is gone
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            tunes[0].kill()
            wrong = [] if (code := tunes[1].wait(300)) == 0 else [f"exit code {code}: {tunes[1].output[-500:]}"]
            facts = help_.account(bench)
            trials = len(bench.ledger.study.trials)
            tunes[0].start()  # the same command: there is nothing left to do
            wrong += [] if (code := tunes[0].wait(200)) == 0 else [f"exit code {code}: {tunes[0].output[-500:]}"]
            wrong += [] if len(bench.ledger.study.trials) == trials else ["the first went on with a whole study"]
            wrong += [] if facts["states"]["finished"] == 40 and not facts["open"] else [f"{facts['states']}"]
            wrong += [f"twice: {facts['twice']}"] if facts["twice"] else []
            wrong += [] if facts["again"] else ["no trial of the one that is gone was taken over"]
            for directory in (one for path in paths for one in unsynced(path.parent / "mlruns")):
                sync(directory)
            there, wanted = help_.in_mlflow(bench, store=store), help_.expected_in_mlflow(bench)
            if there != wanted:
                wrong.append(f"MLflow {list((there - wanted).items())[:3]} for {list((wanted - there).items())[:3]}")
            studies = help_.in_mlflow(bench, "study", store=store)
            wrong += [] if sum(studies.values()) == 1 else [f"{len(studies)} parent runs"]
    finally:
        for pid in [pid for path in paths for pid in help_.processes_in(path.parent)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    says = f"40 of 40 finished, {len(facts['again'])} taken over, one parent run, {len(wrong)} wrong"
    figure("study_two_commands", says, holds=not wrong, note="; ".join(wrong[:5]))
