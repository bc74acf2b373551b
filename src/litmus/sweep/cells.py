"""What is trained in a sweep, what is measured of it, and under which name both are found again."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litmus.config import RunConfig, deciding
from litmus.jobs.job import uid_of

TRAINING_CODE = (
    *("networks", "data", "callbacks", "criteria.py", "optim.py", "classifier.py", "evaluation.py", "experiment.py"),
    *("ranks.py", "strategy.py", "transfer.py", "weights.py"),
)
"""Sources that decide what a training comes to: where one changes, nothing that was trained before is reused."""
WATCHING = "litmus.diagnosis.gradient_flow"
"""What ``watch`` looks with."""


@dataclass(frozen=True)
class Measure:
    """Something to be measured of a trained network: ``module:function``, called with a ``Look`` and ``args``.

    It returns plain values and numpy arrays by name, which are kept in the run directory.

    Attributes:
        of_checkpoints: it reads checkpoints, which are cleared once a cell is done. What was trained without it, or
            for other code of it, cannot be measured any more and is trained again.
    """

    function: str
    args: Mapping[str, Any] = field(default_factory=dict)
    of_checkpoints: bool = False

    @property
    def key(self) -> str:
        """Of its result's file: another code or other arguments are another measurement."""
        module, _, name = self.function.partition(":")
        plain = json.dumps([self.function, dict(self.args)], sort_keys=True)
        return f"{name}-{hashlib.blake2b((plain + source_of(module)).encode(), digest_size=8).hexdigest()}"

    def load(self) -> Callable[..., Mapping[str, Any]]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Cell:
    """One training of a sweep.

    Attributes:
        name: unique in its sweep, for people: ``width=4, seed 2``.
        measures: what is wanted of it besides ``result.json``.
    """

    name: str
    config: RunConfig
    measures: tuple[Measure, ...] = ()


def cell_uid(config: RunConfig, data_digest: str, measures: Sequence[Measure] = ()) -> str:
    """Of the run that trains ``config`` on these images with this code: whoever computes it finds the same.

    What is watched changes no number of a training, but is kept with it: one that was not watched does not do.
    """
    plain = json.dumps(deciding(config), sort_keys=True, default=str)
    looks = [*config.watch, source_of(WATCHING)] if config.watch else []
    looks += sorted({measure.key for measure in measures if measure.of_checkpoints})
    return uid_of("cell", plain, data_digest, training_code(), version("torch"), *looks)


@cache
def training_code() -> str:
    root, summary = Path(__file__).resolve().parents[1], hashlib.blake2b(digest_size=16)
    for part in TRAINING_CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            summary.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return summary.hexdigest()


@cache
def source_of(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))
