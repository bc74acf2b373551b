"""What every claim has: its trainings, its table, its judgement, its figure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from litmus.claims.evidence import Evidence
from litmus.config import RunConfig, Section
from litmus.config.claim import ClaimConfig, claim_base, settings_of
from litmus.errors import Problem, Refused
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

Table = dict[str, Any]
K = TypeVar("K")


class Claim(ABC):
    """One claim, with its settings and its base config.

    A subclass has ``Settings``, a section with the claim's own keys, and:

    - ``cells``: what is trained; none where nothing has to be;
    - ``then``: what is trained after that, where it starts from those weights or is chosen by what came of them;
    - ``read``: from what was trained (or from nothing) to a table of plain numbers, NaN for a training that diverged;
    - ``judge``: from the table to evidence, the conditions of ``condition`` in its order;
    - ``draw``: from the table to one figure with one message.
    """

    Settings: ClassVar[type[Section]]
    splits: ClassVar[tuple[str, ...]] = ("train_eval", "val")
    """Evaluated after each training. A claim that chooses anything leaves test out and measures it afterwards."""

    def __init__(self, spec: ClaimConfig):
        self.spec = spec
        self.base: RunConfig = claim_base(spec, source=f"claim {spec.name}")
        self.settings: Any = settings_of(spec, self.Settings)

    def cells(self) -> list[Cell]:
        return []

    def then(self, done: Mapping[str, Done]) -> list[Cell]:
        """The next stage: cells that are known once those of ``done`` are, by names that are not in it.

        Asked again after each stage, until it has none.
        """
        return []

    @abstractmethod
    def read(self, done: Mapping[str, Done]) -> Table:
        """Plain numbers of what became of each cell, by its name."""

    @abstractmethod
    def judge(self, table: Table) -> list[Evidence]:
        """A function of the table alone; made numbers test it."""

    @abstractmethod
    def draw(self, table: Table, path: Path) -> Path:
        """The PNG at ``path``, and an SVG of the same name beside it; its path."""

    # --- help for subclasses

    @property
    def seeds(self) -> range:
        return range(self.spec.seeds)

    def over_seeds(
        self, label: str, changes: Mapping[str, Any], measures: Sequence[Measure] = (), *, base: RunConfig | None = None
    ) -> list[Cell]:
        """One arm on every seed. All arms share their seeds: initial draw, order and images are paired."""
        config = base or self.base
        return [
            Cell(cell_name(label, seed), changed(config, {**changes, "seed": seeded(config, seed)}), tuple(measures))
            for seed in self.seeds
        ]

    def per_seed(self, done: Mapping[str, Done], label: str, value: Callable[[Done], float]) -> list[float]:
        """``value`` of an arm on every seed; NaN where the training diverged."""
        return [value_of(done[cell_name(label, seed)], value) for seed in self.seeds]

    def refuse(self, key: str, says: str, value: Any) -> Refused:
        return Refused(Problem(f"settings.{key}", says, value), source=f"claim {self.spec.name}")


def cell_name(label: str, seed: int) -> str:
    return f"{label}, seed {seed}"


def value_of(one: Done, value: Callable[[Done], float]) -> float:
    """``value`` of a training; NaN where it diverged."""
    return float("nan") if one.diverged else float(value(one))


def from_run(one: Done) -> str:
    """``model.weights`` of a training that starts from the weights that this one ended with."""
    return f"run:{one.directory}"


def lowest(scores: Mapping[K, float]) -> K | None:
    """The key with the lowest score, of equal ones the first; None where no score is finite."""
    finite = {key: score for key, score in scores.items() if math.isfinite(score)}
    return min(finite, key=finite.__getitem__) if finite else None


def of_result(split: str, what: str = "err") -> Callable[[Done], float]:
    """``split/what`` of the weights that the training ended with."""
    return lambda done: float(done.result()[split][what])


def of_measure(measure: Measure, what: str) -> Callable[[Done], float]:
    """The number ``what`` that ``measure`` found."""
    return lambda done: float(done.measured(measure)[what])
