"""Sweeps of a second or two: a network of one layer on 120 made-up images; and what is measured of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np

from litmus.config import load_config
from litmus.jobs.posts import Post
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Sweep, plan

BASE = {
    "data.name": "synthetic",
    "data.num_images": 120,
    "data.image_size": 4,
    "data.channels": 1,
    "data.num_classes": 3,
    "model.name": "mlp",
    "model.depth": 2,
    "model.width": 8,
    "train.epochs": 2,
    "train.accelerator": "cpu",
    "optim.lr": 0.05,
    "tracking.system_metrics": False,
    "tracking.offline": True,
}


def words(home: Path, **changes) -> list[str]:
    plain = {**BASE, "tracking.home": str(home), **changes}
    return [f"{key}={json.dumps(value)}" for key, value in plain.items()]


def config(home: Path, **changes):
    return load_config([], words(home, **changes))


def cells(home: Path, *measures: Measure, seeds: int = 2, **changes) -> list[Cell]:
    return [Cell(f"seed {seed}", config(home, seed=seed, **changes), measures) for seed in range(seeds)]


def sweep(home: Path, given: list[Cell], *, workers: int = 1, **how) -> Sweep:
    posts = [Post(k) for k in range(workers)]
    return Sweep(
        plan(given), posts, home=home.absolute(), parent_uid="0" * 32, kind="cell", prefix="small", tags={},
        logs=(home / "logs").absolute(), **how,
    )  # fmt: skip


def run(made: Sweep) -> dict:
    return {one.cell.name: one for fresh in made.run() for one in fresh}


# Measures: called in the process that trained


def num_weights(look, *, scale: int = 1):
    values = [p.detach().numpy().ravel() for p in look.trained.network.parameters()]
    return {"num": scale * sum(map(len, values)), "first": values[0], "home": str(look.home)}


def dies_once(look, *, flag: str):
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid()}


def dies(look, *, log: str):
    with Path(log).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def raises(look):
    raise ValueError("nothing to measure here")


def odd(look):
    return {"nan": float("nan"), "array": np.arange(3), "words": ["a", "b"], "none": None}


def steps_of_checkpoints(look):
    return {"steps": [path.name for path in sorted((look.directory / "checkpoints").glob("last-*"))]}
