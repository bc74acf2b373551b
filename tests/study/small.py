"""Studies of a second or two: a network of one layer on 120 made-up images, trained in forks of one warm process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna

from litmus.config.study import base_config, load_study
from litmus.errors import Refused
from litmus.jobs.forks import share_forkserver
from litmus.jobs.posts import Post
from litmus.study.begin import check_data, prepare
from litmus.study.ledger import STUDY_UID
from litmus.study.stage import Stage
from litmus.study.storage import open_storage, place_of
from litmus.study.tune import Options, tune
from litmus.study.worker import Worker
from litmus.tracking.spool import Spool
from tests.sweep.small import BASE

LONG = 120
"""Epochs of a training that is caught in the act."""


def write(folder: Path, name: str = "small", *, base: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A study's file in ``folder``, its runs beside it."""
    plain = {**BASE, "tracking.home": str(folder / "mlruns"), **(base or {})}
    study = {
        "base": [f"{key}={json.dumps(value)}" for key, value in plain.items()],
        "objective": "val/err",
        "space": {"optim.lr": {"low": 0.001, "high": 1.0, "log": True}},
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
        "n_trials": 3,
        "confirm": {"top": 0},
        **keys,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(study, indent=1))
    return path


def long_then_short(**keys: Any) -> dict[str, Any]:
    """Keys of a study with the base, then one trial of ``LONG`` epochs; all else of 2."""
    space = {"optim.lr": {"low": 0.001, "high": 1.0, "log": True}, "train.epochs": {"low": 2, "high": LONG}}
    return {"space": space, "first": [{"train.epochs": LONG, "optim.lr": 0.01}], **keys}


def search(path: Path, *overrides: str, **options: Any) -> tuple[int, str]:
    """``litmus tune`` in this process: its exit code and what it said of its own, without the table."""
    said: list[str] = []
    code = tune(path, overrides, Options(**options), say=said.append)
    return code, "\n".join(said)


def refusal(path: Path, *overrides: str, **options: Any) -> str:
    """What ``litmus tune`` refuses; an AssertionError if it does not."""
    try:
        search(path, *overrides, **options)
    except Refused as refused:
        return str(refused)
    raise AssertionError(f"{path} {overrides} was not refused")


def command(path: str, log: str) -> None:
    """``litmus tune`` as a process that can be killed, a fork of the server that this one is a fork of."""
    os.setsid()
    share_forkserver()
    with open(log, "a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    raise SystemExit(tune(path))


def storage(path: Path):
    config = load_study(path)
    return open_storage(place_of(None, base_config(config).tracking.home), heartbeat_sec=15, grace_sec=120)


def trials(path: Path, name: str | None = None) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name or path.stem, storage=storage(path)).get_trials(deepcopy=False)


def states(path: Path, name: str | None = None) -> list[str]:
    return [trial.state.name for trial in trials(path, name)]


def names(path: Path) -> list[str]:
    """Of the studies in the storage."""
    return optuna.get_all_study_names(storage(path))


def lineages(path: Path, name: str | None = None):
    from litmus.study.ledger import lineages

    return lineages(trials(path, name), max_retry=3)


def starts(path: Path, origin: int) -> int:
    """How often a process began to train trial ``origin``."""
    return log_of(path, origin).count("--- ")


def log_of(path: Path, origin: int, kind: str = "t") -> str:
    log = path.parent / "mlruns/studies" / path.stem / "logs" / f"{path.stem}-{kind}{origin:04d}.log"
    return log.read_text() if log.exists() else ""


def runs(path: Path) -> list[Path]:
    return sorted((path.parent / "mlruns/runs").glob(f"{path.stem}-*"))


def run_of(path: Path, origin: int, kind: str = "t") -> Path:
    """The one run directory of a trial."""
    (found,) = (path.parent / "mlruns/runs").glob(f"{path.stem}-{kind}{origin:04d}-*")
    return found


def facts_of(directory: Path) -> dict[str, Any]:
    with Spool(directory) as spool:
        return {"status": spool.status, **spool.texts("tag")}


def owner_of(directory: Path) -> int:
    """The process that trains there."""
    with Spool(directory) as spool:
        return int(spool.meta["owner_pid"])


class News:
    """What a worker says, kept; ``when`` gives what to do at the first of a word."""

    def __init__(self, **when: Any):
        self.heard: list[tuple[str, int, dict[str, Any]]] = []
        self.when = when

    def send(self, message: tuple[str, int, dict[str, Any]]) -> None:
        self.heard.append(message)
        act = self.when.get(message[0])
        if act is not None:
            act(self, message)

    def words(self, number: int | None = None) -> list[str]:
        return [word for word, which, _ in self.heard if number is None or which == number]

    def facts(self, word: str) -> dict[str, Any]:
        return next(facts for said, _, facts in self.heard if said == word)


def stage_of(path: Path, *overrides: str) -> Stage:
    """The study of a file, made in its storage as ``litmus tune`` makes it."""
    config = load_study(path, overrides)
    base = base_config(config)
    place = place_of(None, base.tracking.home)
    opened = open_storage(place, heartbeat_sec=config.heartbeat_sec, grace_sec=config.grace_sec)
    stage = Stage(config, base, place, "", 1)
    study = prepare(stage, opened, check_data(config, source=str(path)), warm_start=None, source=str(path))
    return Stage(config, base, place, str(study.user_attrs[STUDY_UID]), 1)


def worker_of(stage: Stage, news: News, *, index: int = 0) -> Worker:
    """A worker in this process; it trains in others."""
    return Worker(stage, Post(index), news)


def dead_name(worker: Worker) -> str:
    """The worker's name, were it the name of a process that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    *place, _, _ = worker._name.split("|")
    return "|".join([*place, str(gone.pid), "1.00"])
