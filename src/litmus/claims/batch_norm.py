"""The claim on what batch norm is for: fewer steps, and rates at which nothing else trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from litmus.claims.base import Claim, Table, cell_name, of_result
from litmus.claims.evidence import Evidence, in_seeds, mean_of, ordering, reported
from litmus.claims.figures import Panel, draw
from litmus.config import Numbers, Section, WholeNumbers
from litmus.config.schema import Keep, Positive
from litmus.sweep.cells import Cell
from litmus.sweep.engine import Done

NAN = math.nan
NORMS = {"batch": "batch norm", "none": "no norm"}
WITH = {"batch": "with batch norm", "none": "without"}


class BatchNormSpeed(Claim):
    """A plain network with and without batch norm, over rates and over batch sizes."""

    class Settings(Section):
        rates: Numbers
        """Rising."""
        target: Positive
        """Training loss in nats that is to be reached."""
        stable_below: Keep
        """A rate is stable where the training stays finite and train/err ends below this."""
        ratio: Positive = 3.0
        """Of the largest stable rates, at least."""
        batch_sizes: WholeNumbers
        batch_rate: Positive
        """Of the trainings over batch sizes."""

    def cells(self) -> list[Cell]:
        rates, sizes = list(self.settings.rates), list(self.settings.batch_sizes)
        if rates != sorted(set(rates)) or rates[0] <= 0 or len(rates) < 2:
            raise self.refuse("rates", "must rise, above 0, at least two of them", rates)
        if sizes != sorted(set(sizes)) or sizes[0] < 2:
            raise self.refuse("batch_sizes", "must rise, from 2 on: batch norm needs two images", sizes)
        if self.base.train.unit != "steps" or not self.base.train.val_every:
            raise self.refuse("base", "must count in steps: train.steps and train.val_every", self.base.train.unit)
        cells = []
        for norm in NORMS:
            for rate in rates:
                cells += self.over_seeds(by_rate(norm, rate), {"model.norm": norm, "optim.lr": float(rate)})
            for size in sizes:
                changes = {"model.norm": norm, "optim.lr": self.settings.batch_rate, "data.batch_size": int(size)}
                cells += self.over_seeds(by_size(norm, size), changes)
        return cells

    def read(self, done: Mapping[str, Done]) -> Table:
        settings = self.settings
        rates, sizes = list(settings.rates), list(settings.batch_sizes)
        table: Table = {"rates": rates, "batch_sizes": sizes, "ratio": settings.ratio}
        table |= {"steps": {}, "stable": {}, "by_batch": {}, "rows": [], "target": settings.target}
        for norm in NORMS:
            at = [[done[cell_name(by_rate(norm, rate), seed)] for rate in rates] for seed in self.seeds]
            table["steps"][norm] = [
                [reached(one.history("train_eval/loss"), settings.target) for one in row] for row in at
            ]
            table["stable"][norm] = [
                [one.complete and of_result("train_eval")(one) < settings.stable_below for one in row] for row in at
            ]
            by_batch = [self.per_seed(done, by_size(norm, size), of_result("train_eval", "loss")) for size in sizes]
            table["by_batch"][norm] = [list(row) for row in zip(*by_batch, strict=True)]
            table["rows"] += [
                {"norm": norm, "rate": rate, "seed": seed, "steps": table["steps"][norm][seed][k],
                 "stable": table["stable"][norm][seed][k]}
                for k, rate in enumerate(rates)
                for seed in self.seeds
            ]  # fmt: skip
            table["rows"] += [
                {"norm": norm, "batch_size": size, "seed": seed, "loss": table["by_batch"][norm][seed][k]}
                for k, size in enumerate(sizes)
                for seed in self.seeds
            ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        fastest = {norm: [least(row) for row in rows] for norm, rows in table["steps"].items()}
        largest = {norm: largest_stable(table, norm) for norm in NORMS}
        pairs = list(zip(fastest["batch"], fastest["none"], strict=True))
        ratios = [none / batch for batch, none in pairs]
        stable = list(zip(largest["batch"], largest["none"], strict=True))
        held = [batch > 0 and batch >= table["ratio"] * none * (1 - 1e-9) for batch, none in stable]
        what = f"steps to a training loss of {table['target']:g}, each at its best rate"
        return [
            ordering(f"{what}: batch norm below none", fastest["batch"], fastest["none"]),
            in_seeds(f"largest stable rate with batch norm at least {table['ratio']:g} times that without", held),
            reported(what, ", ".join(f"{NORMS[norm]} {mean_of(fastest[norm])}" for norm in NORMS)),
            reported("how many times fewer", mean_of(ratios)),
            reported(
                "largest stable rate",
                ", ".join(f"{NORMS[norm]} {' '.join(f'{rate:g}' for rate in largest[norm])}" for norm in NORMS),
            ),
            *(
                reported(f"training loss at the end, batch of {size}", ", ".join(
                    f"{NORMS[norm]} {mean_of([row[at] for row in table['by_batch'][norm]])}" for norm in NORMS
                ))
                for at, size in enumerate(table["batch_sizes"])
            ),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        fastest = {norm: [least(row) for row in rows] for norm, rows in table["steps"].items()}
        told = [
            f"{average(fastest[norm]):.0f} {how}" if average(fastest[norm]) > 0 else f"never {how}"
            for norm, how in WITH.items()
        ]
        largest = {norm: max(largest_stable(table, norm), default=0.0) for norm in NORMS}
        base, settings, target = self.base, self.settings, table["target"]
        stable = ", ".join(f"{largest[norm]:g} {how}" for norm, how in WITH.items())
        return draw(
            [
                Panel({NORMS[norm]: table["steps"][norm] for norm in NORMS},
                      f"steps to a training loss of {table['target']:g}", "learning rate, log scale", table["rates"],
                      log_x=True, unfinished="not reached"),
                Panel({NORMS[norm]: table["by_batch"][norm] for norm in NORMS}, "training loss at the end (nats)",
                      "images a batch, log scale", table["batch_sizes"], log_x=True, log_y=True),
            ],
            path, width=3.4, title=f"Steps to a training loss of {target:g} at the best rate: {', '.join(told)}",
            subtitle=f"{base.data.name}, plain network of {base.model.depth} layers, at most {base.train.length} steps "
            f"of {base.optim.name}; batch of {base.data.batch_size} (left), rate {settings.batch_rate:g} (right)\n"
            f"largest stable rate: {stable}; dots: seeds, bands: 95% intervals",
        )  # fmt: skip


def by_rate(norm: str, rate: float) -> str:
    return f"{NORMS[norm]}, rate {rate:g}"


def by_size(norm: str, size: int) -> str:
    return f"{NORMS[norm]}, batch of {size}"


def reached(history: Sequence[tuple[int, float]], target: float) -> float:
    """First step at which the value was at most ``target``; NaN if it never was."""
    return next((float(step) for step, value in sorted(history) if value <= target), NAN)


def largest_stable(table: Table, norm: str) -> list[float]:
    """Of each seed; 0 where no rate is stable."""
    return [
        max((rate for rate, held in zip(table["rates"], row, strict=True) if held), default=0.0)
        for row in table["stable"][norm]
    ]


def least(values: Sequence[float]) -> float:
    """The smallest that is a number; NaN when none is."""
    return min((value for value in values if value == value), default=NAN)


def average(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else NAN
