"""MLflow absent, killed, hanging, broken and back: nothing is lost, nothing is double, and training does not wait."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from litmus.tracking import Run, list_runs, sync
from litmus.tracking.destination import resolve
from litmus.tracking.store import Store
from tests.reliability.outages import Door, Server, differences, facts_of_fake, free_port
from tests.tracking.conftest import FakeServer


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def set_mode(mode):
    def change(server):
        server.mode = mode

    return change


def lose_five(server):
    server.lose_answers = 5


def down(server):
    server.down()


def up(server):
    server.mode = "ok"
    server.up()


def killed(server):
    if isinstance(server, Door):
        server.server.kill()
    else:
        server.down()


def started_again(server):
    if isinstance(server, Door):
        server.server.start()
    else:
        server.up()


def nothing(server):
    pass


OUTAGES = {
    # before the run, after a third of its steps, after two thirds, before the sync
    "absent at start, comes later": (down, nothing, up, nothing),
    "absent all the time": (down, nothing, nothing, up),
    "killed in the middle, started again": (nothing, killed, started_again, nothing),
    "killed in the middle for good": (nothing, killed, nothing, started_again),
    "hanging in the middle": (nothing, set_mode("hang"), set_mode("ok"), nothing),
    "hanging from the start to the end": (set_mode("hang"), nothing, nothing, set_mode("ok")),
    "answering 500 in the middle": (nothing, set_mode("error"), set_mode("ok"), nothing),
    "answering 500 to the end": (nothing, set_mode("error"), nothing, set_mode("ok")),
    "losing answers, then refusing": (lose_five, lose_five, down, up),
    "hanging, then 500, then refusing": (set_mode("hang"), set_mode("error"), down, up),
}


def train(run, server, outage, *, steps, wait_sec):
    """Log as a training does, with the outage on its way; returns how long the end took."""
    for step in range(steps):
        if step in (steps // 3, 2 * steps // 3):
            time.sleep(wait_sec)  # let the sender meet what there is
            outage[1 if step == steps // 3 else 2](server)
        loss = 1 / (step + 1) if step % 97 else float("nan")
        run.log_metrics({"train/loss": loss, "train/err": step / steps, "lr": 0.1, "time": step * 0.37}, step=step)
        if step % (steps // 5) == 0:
            run.set_tags({"at": step})
            run.log_text(f"{step}\n" * 50, f"tables/{step}.csv")
    run.log_text("weights\n", "weights.txt")
    began = time.monotonic()
    run.finish(timeout_sec=3)
    return time.monotonic() - began


def survive(server, folder, name, *, steps, wait_sec, send, facts):
    """One run through one outage, then synced twice: (points, missing, double, seconds that the end took)."""
    outage = OUTAGES[name]
    outage[0](server)
    run = Run.start(
        home=folder,
        uri=server.uri,
        experiment="litmus/outages",
        name="n",
        params={"optim": {f"key{k}": k / 7 for k in range(150)}},
        send=send,
    )
    run.log_dataset("digits", "scikit-learn", "0" * 32)
    ended_sec = train(run, server, outage, steps=steps, wait_sec=wait_sec)
    outage[3](server)
    first = sync(run.dir, uri=server.uri)
    assert first.complete, first.error
    there = facts(server, run.uid)
    again = sync(run.dir, uri=server.uri)
    assert (again.complete, again.sent) == (True, 0)
    assert facts(server, run.uid) == there
    num_points, missing, double = differences(run.dir, there)
    return num_points, missing, double, ended_sec


@pytest.mark.parametrize("name", OUTAGES)
def test_no_point_is_lost_or_double_whatever_happens_to_a_server(name, tmp_path, monkeypatch):
    monkeypatch.setattr("litmus.tracking.sender.POLL_SEC", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server = FakeServer(tmp_path / "artifacts")
    try:
        num_points, missing, double, ended_sec = survive(
            server, tmp_path / "runs", name, steps=300, wait_sec=0.2, send="thread", facts=facts_of_fake
        )
    finally:
        server.down()
    assert (num_points, missing, double) == (1200, {}, {})
    assert ended_sec < 6


CHILD = """
import os, signal, sys
from litmus.tracking import Run
run = Run.start(home=sys.argv[1], uri=sys.argv[2], experiment="litmus/outages", name="killed", params={"seed": 0})
for step in range(int(sys.argv[3])):
    run.log_metrics({"train/loss": 1 / (step + 1), "lr": 0.1}, step=step)
run.log_text("seed: 0\\n", "config.yaml")
run.flush()
print(run.dir, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_absent(server, folder, *, steps):
    """A training process killed while the server is away; its directory is sent from another place."""
    argv = [sys.executable, "-P", "-c", CHILD, str(folder), server.uri, str(steps)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory = Path(done.stdout.strip())
    copy = shutil.copytree(directory, folder / "elsewhere" / directory.name)
    shutil.rmtree(directory)
    return copy


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_no_point_is_lost_or_double_with_a_real_server(figure, tmp_path):
    server = Server(tmp_path / "server")
    server.start()
    door = Door(server)
    found, slowest = {}, 0.0
    try:
        for name in OUTAGES:
            before = door.num_spoilt
            num_points, missing, double, ended_sec = survive(
                door,
                tmp_path / "runs",
                name,
                steps=3000,
                wait_sec=4.0,
                send="process",
                facts=lambda door, uid: door.facts(uid),
            )
            assert door.num_spoilt > before or "absent" in name or "killed" in name, "there was no outage"
            found[name] = (num_points, sum(missing.values()), sum(double.values()))
            slowest = max(slowest, ended_sec)
        door.down()
        copy = killed_while_absent(door, tmp_path / "runs", steps=3000)
        door.up()
        for _ in range(2):
            assert sync(copy, uri=door.uri).complete
        num_points, missing, double = differences(copy, door.facts(_uid(copy)))
        found["training killed while absent"] = (num_points, sum(missing.values()), sum(double.values()))
    finally:
        door.down()
        server.kill()
    points, missing, double = (sum(column) for column in zip(*found.values(), strict=True))
    text = f"{missing} missing, {double} double of {points:,} points in {len(found)} outages"
    bad = "; ".join(f"{name}: {row}" for name, row in found.items() if any(row[1:]))
    note = bad or f"a run that ends in one waits {slowest:.1f} s at most"
    figure("outage", text, holds=(missing, double) == (0, 0) and slowest < 15, note=note)


def _uid(directory):
    from litmus.tracking.spool import Spool

    with Spool(directory) as spool:
        return spool.meta["uid"]


# --- what it costs ----------------------------------------------------------------------------------------------------


def small_training(steps, log):
    """Seconds of ``steps`` steps of a small convolutional network: wall, processor, processor within ``log``."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    logging = 0.0
    wall, processor = time.perf_counter(), time.process_time()
    for step in range(steps):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metrics = {"train/loss": loss.item(), "train/err": 0.5, "lr": 0.01}
        began = time.thread_time()
        log(metrics, step)
        logging += time.thread_time() - began
    return time.perf_counter() - wall, time.process_time() - processor, logging


def processor_sec_of(thread):
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


COSTING = ("absent", "killed in the middle", "hanging", "answering 500")


def costs(folder, server, *, rounds, steps):
    """name -> (wall, processor) seconds and the share of the processor time that tracking took, for each round.

    Without tracking and under each outage in turn. The share counts what it takes of this process: the calls that
    log, and the thread that writes; the sender is another process.
    """
    door = Door(server)
    found = {name: [] for name in ("no tracking", *COSTING)}
    try:
        small_training(steps // 4, lambda metrics, step: None)  # warm
        for _ in range(rounds):
            found["no tracking"].append((*small_training(steps, lambda metrics, step: None)[:2], 0.0))
            for name in COSTING:
                door.mode = {"hanging": "hang", "answering 500": "error"}.get(name, "ok")
                uri = f"http://127.0.0.1:{free_port()}" if name == "absent" else door.uri
                if name == "killed in the middle":
                    uri = server.uri
                    if server.process is None:
                        server.start()
                run = Run.start(home=folder, uri=uri, experiment="litmus/cost", name="n", send="process")
                try:
                    before = processor_sec_of(run._writer)

                    def log(metrics, step, run=run):
                        run.log_metrics(metrics, step=step)

                    wall, processor, logging = small_training(steps // 2, log)
                    if name == "killed in the middle":
                        server.kill()
                    more = small_training(steps // 2, log)
                    ours = logging + more[2] + processor_sec_of(run._writer) - before
                    whole = processor + more[1]
                    found[name].append((wall + more[0], whole, ours / (whole - ours)))
                finally:
                    run.finish(timeout_sec=0.1)
    finally:
        door.down()
        server.kill()
    return found


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_an_outage_costs_a_training_less_than_two_percent(figure, tmp_path):
    rounds, steps = 5, 200
    found = costs(tmp_path / "runs", Server(tmp_path / "server"), rounds=rounds, steps=steps)
    middle = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    low, mid, high = statistics.quantiles([wall for wall, *_ in found["no tracking"]], n=4)
    noise = (high - low) / mid
    walls = {name: middle[name][0] / middle["no tracking"][0] - 1 for name in COSTING}
    shares = {name: middle[name][2] for name in COSTING}
    quiet = noise < 0.01
    cost = walls if quiet else shares
    what = (
        "wall time" if quiet else "processor time of logging and of the writing thread in that of the training process"
    )
    note = f"{what}; " + ", ".join(f"{name} {value:+.2%}" for name, value in cost.items())
    if not quiet:
        note += f"; wall time {max(walls.values()):+.1%} at most, where {noise:.0%} between quartiles is noise"
    text = f"at most {max(cost.values()):+.2%} (median of {rounds} rounds)"
    figure("outage_cost", text, holds=max(cost.values()) < 0.02, note=note)


def test_what_a_training_spends_on_tracking_is_counted_and_small(tmp_path):
    server = FakeServer(tmp_path / "artifacts")
    server.mode = "hang"
    run = Run.start(home=tmp_path / "runs", uri=server.uri, experiment="litmus/cost", name="n", send="process")
    try:
        before = processor_sec_of(run._writer)
        _, whole, logging = small_training(60, lambda metrics, step: run.log_metrics(metrics, step=step))
        ours = logging + processor_sec_of(run._writer) - before
        assert 0 < ours < 0.05 * whole  # measured: under 0.01
    finally:
        run.finish(timeout_sec=0.1)
        server.down()


# --- the first use of a store -----------------------------------------------------------------------------------------


def _use(home, index, go, out):
    try:
        go.wait()
        with Run.start(home=home, experiment="litmus/first", name=f"n{index}", send="thread") as run:
            run.log_metrics({"a": float(index)}, step=0)
            assert run.finish(timeout_sec=60), "not sent"
        out.put(run.id)
    except BaseException as error:
        out.put(repr(error))
    finally:
        out.close()
        out.join_thread()
        os._exit(0)


def first_use(home, processes):
    """How many of as many processes that use a store which is not there, at once, have their run in it."""
    import multiprocessing

    from litmus.tracking.store import import_mlflow

    import_mlflow()
    fork = multiprocessing.get_context("fork")
    go, out = fork.Event(), fork.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking a process with threads
        started = [fork.Process(target=_use, args=(home, index, go, out)) for index in range(processes)]
        for process in started:
            process.start()
    go.set()
    answers = [out.get(timeout=300) for _ in started]
    for process in started:
        process.join()
    there = {run.id for run in Store(resolve(None, home)).runs() if run.status == "FINISHED" and run.metrics}
    return sum(answer in there for answer in answers), answers


def test_three_processes_use_a_fresh_store_at_once(tmp_path):
    num, answers = first_use(tmp_path / "mlruns", 3)
    assert num == 3, answers


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_eight_processes_use_a_fresh_store_at_once(figure, tmp_path):
    rounds, processes, num, bad = 20, 8, 0, []
    for number in range(rounds):
        home = tmp_path / str(number) / "mlruns"
        started, answers = first_use(home, processes)
        num += started
        bad += [answer for answer in answers if " " in answer or "(" in answer]
        assert len(list_runs(home=home)) == processes
        shutil.rmtree(home)
    figure("first_use", f"{num} of {rounds * processes}", holds=num == rounds * processes, note=json.dumps(bad)[2:-2])
