"""Studies that take seconds, workers that die at a chosen moment, and an account of what a study came to."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.trial import TrialState

from litmus.config.study import base_config, load_study
from litmus.experiment import objective_of
from litmus.jobs.job import Outcome
from litmus.jobs.posts import Post
from litmus.study import worker
from litmus.study.begin import prepare
from litmus.study.ledger import RUN_UID, WORKER
from litmus.study.pool import Pool
from litmus.study.stage import Stage
from litmus.study.storage import open_storage, place_of
from litmus.tracking import directory_of
from litmus.tracking.spool import Spool

NAME = "killed"
BASE: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "synthetic", "num_images": 150, "num_classes": 3, "image_size": 8, "batch_size": 16},
    "model": {"name": "mlp", "depth": 2, "width": 8, "keep_prob": 0.9},
    "optim": {"name": "adam", "lr": 0.01},
    "train": {"epochs": 6, "accelerator": "cpu"},
    "tracking": {"system_metrics": False},
}
STEPS_AN_EPOCH = 7  # of 105 images that train
STUDY: dict[str, Any] = {
    "name": NAME,
    "base": "base.yaml",
    "objective": "val/loss",
    "space": {
        "optim.lr": {"low": 1e-4, "high": 0.1, "log": True},
        "model.keep_prob": {"low": 0.5, "high": 1.0},
    },
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "confirm": {"top": 0},
    "max_retry": 50,
    "max_failures": 50,
    "heartbeat_sec": 1,
    "grace_sec": 4,
}


def write_study(
    folder: Path, *, epochs: int = 6, offline: bool = False, tracking: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """``study.yaml`` and its base in ``folder``, whose runs are below it."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {"home": str(folder / "mlruns"), "offline": offline, **(tracking or {})}
    train = {**BASE["train"], "epochs": epochs}
    base = {**BASE, "train": train, "tracking": {**BASE["tracking"], **where}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


class Bench:
    """A study in a storage, without the process that is typed: a test starts its workers, and looks."""

    def __init__(self, path: Path, *, url: str | None = None, workers: int = 2, begun: bool = False):
        self.folder = path.parent
        config = load_study(path)
        base = base_config(config)
        self.place = place_of(url, base.tracking.home)
        self.storage = open_storage(self.place, heartbeat_sec=config.heartbeat_sec, grace_sec=config.grace_sec)
        if begun:
            study = optuna.load_study(study_name=config.name, storage=self.storage)
        else:
            unborn = Stage(config, base, self.place, "", workers)
            study = prepare(unborn, self.storage, "0" * 32, warm_start=None, source=str(path))
        self.stage = Stage(config, base, self.place, str(study.user_attrs["litmus.uid"]), workers)
        self.ledger = self.stage.ledger(study, self.storage)
        self.posts = [Post(k) for k in range(workers)]

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        self.storage.close()

    def pool(self, *, reclaims: bool = False) -> Pool:
        """Workers that are started again when they die. ``reclaims``: who starts them sees to their trials, too."""
        return Pool(self.stage, self.posts, on_death=self.ledger.reclaim if reclaims else lambda: None)

    def run(self, *, limit_sec: float = 120, reclaims: bool = False) -> list[tuple[str, int, dict[str, Any]]]:
        """Until the workers have nothing left to do; the news."""
        news, until = [], time.monotonic() + limit_sec
        pool = self.pool(reclaims=reclaims)
        for heard in pool.run(0.2):
            news += heard
            assert time.monotonic() < until, f"not done in {limit_sec} s: {account(self)['states']}"
        assert not pool.problem, pool.problem
        return news


# --- workers that die at a chosen moment ------------------------------------------------------------------------------


def lay(stage: Stage, moment: str, count: int, *, chance: float | None = None) -> None:
    """Have ``count`` workers die at ``moment``, each passage with ``chance``."""
    folder = stage.folder / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{moment}.{number}").write_text(str(chance or CHANCES[moment]))


def left(stage: Stage) -> list[str]:
    """Deaths that have not come."""
    return sorted(path.name for path in (stage.folder / "tokens").glob("*"))


class Fate:
    """Kills a process where a token lies for the moment; each token once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.random = random.Random(os.getpid() * 1000 + time.monotonic_ns() % 1000)

    def due(self, moment: str) -> bool:
        for token in self.folder.glob(f"{moment}.*"):
            try:
                if self.random.random() >= float(token.read_text()):
                    return False
                token.unlink()
            except FileNotFoundError:
                continue
            return True
        return False

    def strike(self, moment: str) -> None:
        if self.due(moment):
            os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = {
    "ask": "within ask, after the trial became RUNNING",
    "first_beat": "before the first heartbeat",
    "save": "while the training saves its state",
    "before_tell": "before the result is told",
    "after_tell": "after it was told",
    "fail": "after a lost trial was failed, before it is queued again",
    "before_queue": "about to queue it again, under the lock",
    "after_queue": "queued, the lock still held",
}
CHANCES = {**dict.fromkeys(MOMENTS, 0.6), "save": 0.3, "fail": 1.0, "after_queue": 1.0, "lose": 0.5}
"""That a passage is the one; all that were laid come to pass if there are passages enough."""


def faulty_work(stage: Stage, post: Post, news: Any) -> None:
    """``litmus.study.worker.work``, with deaths as ``lay`` says."""
    from litmus.study import ledger
    from litmus.study.storage import Storage

    fate = Fate(stage.folder / "tokens")

    def around(owner: Any, name: str, before: str = "", after: str = "", if_true: bool = False) -> None:
        function = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            if before:
                fate.strike(before)
            found = function(*args, **options)
            if after and (found or not if_true):
                fate.strike(after)
            return found

        setattr(owner, name, wrapped)

    running = Storage.set_trial_state_values

    def set_state(self: Any, trial_id: int, state: TrialState, values: Any = None) -> bool:
        done = running(self, trial_id, state, values)
        if state == TrialState.RUNNING and done:
            fate.strike("ask")
        return done

    Storage.set_trial_state_values = set_state  # type: ignore[method-assign]
    around(Storage, "_create_new_trial", after="ask")
    around(worker, "ask", after="first_beat")
    around(worker.Worker, "_told", before="before_tell", after="after_tell")
    around(worker.Worker, "report", after="lose")
    around(ledger.Ledger, "fail", after="fail", if_true=True)
    around(ledger.Ledger, "_queue_again", before="before_queue", after="after_queue")
    worker.run_job = faulty_run_job
    worker.work(stage, post, news)


def writing_work(stage: Stage, post: Post, news: Any) -> None:
    """A worker that does everything a worker does with the storage, and trains nothing."""

    def train(self: worker.Worker, current: worker.Current, job: Any) -> Outcome:
        for at, value in enumerate((1.0, 0.0, 2.0)):
            self.report(current, [[at, value]])
        self._beaten_at = 0.0
        self.beat(current)
        return Outcome("COMPLETE", (float(current.number),), epochs=1.0, seconds=0.1)

    worker.Worker.train = train  # type: ignore[method-assign]
    worker.work(stage, post, news)


def faulty_run_job(job: Any, door: str) -> None:
    """A training that, at a save, kills its worker first."""
    from multiprocessing import parent_process

    from litmus import checkpoints
    from litmus.jobs.job import run_job

    fate = Fate(job.log.parent.parent / "tokens")
    sync = os.fsync

    def fsync(number: int) -> None:
        if ".part" in os.readlink(f"/proc/self/fd/{number}") and fate.due("save"):
            os.kill(parent_process().pid, signal.SIGKILL)  # type: ignore[union-attr]
            time.sleep(5)  # the end comes here
        sync(number)

    checkpoints.os.fsync = fsync
    run_job(job, door)


# --- the command ------------------------------------------------------------------------------------------------------


class Tune:
    """``litmus tune`` as it is typed, in ``folder``, started as often as wanted."""

    def __init__(self, path: Path, *, workers: int = 4, url: str | None = None, overrides: tuple[str, ...] = ()):
        self.folder = path.parent
        self.argv = [sys.executable, "-P", "-m", "litmus.cli", "tune", str(path), *overrides]
        self.argv += ["--workers", str(workers), "--share", *(["--storage", url] if url else [])]
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        env = {**os.environ, "PYTHONWARNINGS": "ignore"}
        with (self.folder / "tune.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=self.folder, stdout=log, stderr=log, env=env, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    @property
    def output(self) -> str:
        return (self.folder / "tune.log").read_text(errors="replace")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, timeout_sec: float) -> int:
        assert self.process is not None
        return self.process.wait(timeout_sec)


def kind_of(pid: int) -> str:
    """Of a process of a study: worker, training, else nothing: by where it writes."""
    try:
        output = os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""
    name = Path(output).name
    return "worker" if re.match(r"worker-\d+\.log", name) else "training" if re.match(r".*-[tc]\d+\.log", name) else ""


def processes_of(stage: Stage) -> dict[int, str]:
    """pid -> kind, of its workers and trainings."""
    found, logs = {}, str((stage.folder / "logs").absolute())
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "fd/1").startswith(logs) and (kind := kind_of(int(entry.name))):
                found[int(entry.name)] = kind
        except OSError:
            continue
    return found


def forkservers(pid: int) -> list[int]:
    """Children of the command that fork others."""
    with suppress(psutil.Error):
        children = psutil.Process(pid).children()
        return [one.pid for one in children if "forkserver" in " ".join(one.cmdline())]
    return []


def processes_in(folder: Path) -> dict[int, str]:
    """pid -> kind, of what runs in ``folder``."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                found[process.pid] = kind_of(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def running_in(folder: Path, bench: Bench) -> list[int]:
    """Numbers of the trials that processes in ``folder`` are at, past their first epoch."""
    pids, trials = processes_in(folder), bench.ledger.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    workers = {t.number: t.user_attrs.get(WORKER, "").split("|")[-2:-1] for t in trials if t.intermediate_values}
    return [number for number, pid in workers.items() if pid and int(pid[0]) in pids]


# --- what it came to --------------------------------------------------------------------------------------------------


def account(bench: Bench) -> dict[str, Any]:
    """What the storage and the run directories say of a study."""
    trials = bench.ledger.study.get_trials(deepcopy=False)
    known = bench.ledger.lineages()
    ended = Counter(
        lineage.origin
        for lineage in known.values()
        for trial in lineage.attempts
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    return {
        "known": known,
        "states": Counter(lineage.state for lineage in known.values()),
        "open": [t.number for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)],
        "twice": [origin for origin, count in ended.items() if count > 1],
        "failed": {one.origin: one.reason for one in known.values() if one.state == "failed"},
        "again": [one.origin for one in known.values() if len(one.attempts) > 1],
    }


def wrongs(bench: Bench, *, allow: str = "killed: ", runs: bool = True) -> list[str]:
    """What is not as it must be once a study has ended; trials may have failed of ``allow`` alone.

    ``runs``: look into the run directories, too.
    """
    found, facts = [], account(bench)
    if facts["states"]["finished"] != bench.stage.n_trials:
        found.append(f"{facts['states']['finished']} finished of {bench.stage.n_trials}")
    if facts["open"] or set(facts["states"]) - {"finished", "failed", "void"}:
        found.append(f"left open: {facts['open']}, {facts['states']}")
    found += [f"trial {origin} finished twice" for origin in facts["twice"]]
    found += [f"trial {n} failed: {why}" for n, why in facts["failed"].items() if not why.startswith(allow)]
    for lineage in facts["known"].values():
        if runs and lineage.state == "finished":
            found += [f"trial {lineage.origin}: {one}" for one in wrongs_of_run(bench, lineage)]
    return found


def wrongs_of_run(bench: Bench, lineage: Any) -> list[str]:
    directory = directory_of(bench.ledger.uid_of(lineage.last), bench.stage.home)
    if directory is None:
        return ["has no run directory"]
    with Spool(directory) as spool:
        status = spool.status
    complete = lineage.last.state == TrialState.COMPLETE
    if status != ("FINISHED" if complete else "KILLED"):
        return [f"run is {status}"]
    if not complete or "litmus.duplicate_of" in lineage.last.user_attrs:
        return []
    result = json.loads((directory / "artifacts/result.json").read_text())
    value = objective_of(result, "val/loss")
    return [] if value == lineage.last.values[0] else [f"was told {lineage.last.values[0]}, came to {value}"]


def wrongs_of_log(bench: Bench, lineage: Any) -> list[str]:
    """Of a lineage that was trained in several attempts: whether each went on where the one before had saved."""
    log = bench.stage.folder / "logs" / f"{bench.stage.name_of(lineage.origin)}.log"
    found, reached = [], 0
    for attempt in re.split(r"^--- .*\n", log.read_text(errors="replace"), flags=re.MULTILINE)[1:]:
        epochs = [int(word) for word in re.findall(r"^ *(\d+)/\d+ ", attempt, flags=re.MULTILINE)]
        if resumed := re.search(r"^resume after last-(\d+)", attempt, flags=re.MULTILINE):
            begun = int(resumed[1]) // STEPS_AN_EPOCH
        else:
            begun = 0
        # Of an epoch that has been shown the state is being saved, of those before it has been.
        if (epochs or resumed) and begun < reached - 1:
            found.append(f"epoch {reached} was shown, and the next attempt began after {begun}")
        if epochs and epochs[0] != begun + 1:
            found.append(f"began with epoch {epochs[0]} after {begun}")
        reached = max([reached, *epochs])
    return found


def in_mlflow(bench: Bench, kind: str = "trial", store: Path | None = None) -> Counter[tuple[str, str]]:
    """(uid, status) of the runs in ``store``, by default the embedded one, each as often as it is there."""
    with closing(sqlite3.connect(store or Path(bench.stage.home) / "mlflow.db")) as db:
        rows = db.execute(
            "SELECT uid.value, runs.status FROM runs JOIN tags AS uid USING (run_uuid) JOIN tags AS kind"
            " USING (run_uuid) WHERE uid.key = 'litmus.run_uid' AND kind.key = 'litmus.kind' AND kind.value = ?",
            [kind],
        )
        return Counter(rows.fetchall())


def expected_in_mlflow(bench: Bench) -> Counter[tuple[str, str]]:
    """One run for each lineage that was a config, with the status that it came to."""
    wanted: Counter[tuple[str, str]] = Counter()
    for lineage in bench.ledger.lineages().values():
        if RUN_UID in lineage.last.user_attrs and lineage.state in ("finished", "failed"):
            complete = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}
            wanted[bench.ledger.uid_of(lineage.last), complete.get(lineage.last.state, "FAILED")] += 1
    return wanted


def train_alone(directory: Path, folder: Path) -> list[str]:
    """Where a run differs from its config trained alone and undisturbed."""
    from safetensors.torch import load_file

    from tests.reliability import children

    config = yaml.safe_load((directory / "artifacts/config.yaml").read_text())
    config["tracking"] = {**config["tracking"], "home": str(folder / "mlruns"), "offline": True}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    process = children.start(children.command_line, "fit", str(folder / "config.yaml"), log=folder / "log")
    process.join(120)
    if process.exitcode != 0:
        return [f"alone: exit code {process.exitcode}: {(folder / 'log').read_text()[-300:]}"]
    (alone,) = (folder / "mlruns/runs").glob("*")
    found = []
    ours, theirs = (load_file(one / "artifacts/weights.safetensors") for one in (directory, alone))
    if ours.keys() != theirs.keys() or any(not ours[key].equal(theirs[key]) for key in ours):
        found.append("other weights")
    ours, theirs = (json.loads((one / "artifacts/trace.json").read_text()) for one in (directory, alone))
    if ours["steps"] != theirs["steps"]:
        found.append(f"other steps: {[one['step'] for one in ours['steps']]}")
    results = [json.loads((one / "artifacts/result.json").read_text()) for one in (directory, alone)]
    ours, theirs = (objective_of(result, "val/loss") for result in results)
    return found if ours == theirs else [*found, f"val/loss {ours} and {theirs}"]


def wait_for(condition: Callable[[], bool], limit_sec: float) -> None:
    until = time.monotonic() + limit_sec
    while not condition():
        assert time.monotonic() < until, f"not within {limit_sec} s"
        time.sleep(0.1)


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
