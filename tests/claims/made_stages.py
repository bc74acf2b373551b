"""Trainings that were never run: a claim's stages and tables, tested on results that a function makes up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from tests.sweep import small

words = small.words


def claim(name: str, *overrides: str, full: bool = False) -> Any:
    return make_claim(load_claim(name, overrides, full=full))


@dataclass
class Made:
    """What became of a cell, as ``result(cell)`` says: a dict like ``result.json``, or None for one that diverged."""

    cell: Any
    table: dict[str, Any] | None
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def diverged(self) -> bool:
        return self.table is None

    @property
    def directory(self) -> Path:
        return Path("runs") / self.cell.name.replace(" ", "-").replace(",", "")

    def result(self) -> dict[str, Any]:
        assert self.table is not None
        return self.table

    def measured(self, measure: Any) -> dict[str, Any]:
        assert measure in self.cell.measures
        return {"err": self.result()["val"]["err"] + 0.01, "loss": 1.0}

    def history(self, metric: str) -> list[tuple[int, float]]:
        assert metric == "val/err"
        return list(self.curve)


def errors(err: float, loss: float | None = None) -> dict[str, Any]:
    """A result whose errors and losses are these on every split."""
    one = {"err": err, "loss": err if loss is None else loss}
    return {"train_eval": one, "val": one}


def conduct(one: Any, result: Any, curve: Any = lambda cell: ()) -> tuple[dict[str, Made], list[int]]:
    """All stages of a claim: what became of each cell, and how many each stage has."""
    stages = [one.cells()]
    done: dict[str, Made] = {}
    while stages[-1]:
        fresh = {cell.name: Made(cell, result(cell), tuple(curve(cell))) for cell in stages[-1]}
        assert len(fresh) == len(stages[-1])
        assert not set(fresh) & set(done), "a stage asked for what was done"
        done |= fresh
        stages.append(one.then(done))
        assert len(stages) < 20
    return done, [len(stage) for stage in stages[:-1]]


def outcomes(evidence: Any) -> list[Any]:
    return [one.outcome for one in evidence if one.outcome is not None]


NAN = math.nan
