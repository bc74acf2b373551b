"""Claims on transfer: what learnt weights are worth, by how near they were learnt and how many labels there are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table, cell_name, from_run, lowest, of_result, value_of
from litmus.claims.evidence import Evidence, lower_on_average, mean_of, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.lines import Line, Lines
from litmus.config import Numbers, RunConfig, Section, WholeNumbers
from litmus.errors import refuse
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

SCRATCH = "from scratch"
PILOT = 1000
"""How far the first pilot's seed is from the first of the others."""

val_err = of_result("val")


class Transfer(Claim):
    """Arms that differ in where they start and in what learns, over numbers of labels.

    Pilots on seeds of their own give each arm its rate at the fewest and at the most labels, by validation error;
    the sizes between take that of the nearer, by their ratio. Seed k draws its own labelled images, validation images,
    order and head, the same for all arms.
    """

    class Settings(Section):
        labels: WholeNumbers
        """Training images of the target, rising, two or more."""
        rates: Numbers
        """Tried by the pilots for each arm."""
        pilots: int = 1
        """Seeds of the pilots."""

    def check_sizes(self) -> None:
        labels, rates = self.settings.labels, self.settings.rates
        if list(labels) != sorted(set(labels)) or len(labels) < 2 or labels[0] < 1:
            raise self.refuse("labels", "must rise and be > 0, at least two of them", list(labels))
        if list(rates) != sorted(set(rates)) or rates[0] <= 0:
            raise self.refuse("rates", "must rise and be > 0", list(rates))
        if self.settings.pilots < 1:
            raise self.refuse("pilots", "must be >= 1", self.settings.pilots)

    @property
    def pilots(self) -> range:
        return range(PILOT, PILOT + self.settings.pilots)

    def target(self, arm: str, labels: int, by: int, rate: float, changes: Mapping[str, Any]) -> RunConfig:
        """The training of an arm on its ``labels`` images, on the seed that is ``by`` further."""
        seed = seeded(self.base, by)
        paired = {"seed": seed, "data.split_seed": seed, "data.num_train": labels, "optim.lr": float(rate)}
        return changed(self.base, {**changes, **paired})

    def near_size(self, labels: int) -> int:
        """The pilot's size for ``labels``: the fewest or the most, whichever is nearer by ratio."""
        few, many = self.settings.labels[0], self.settings.labels[-1]
        return few if labels**2 <= few * many else many

    def rate_of(self, done: Mapping[str, Done], arm: str, labels: int) -> float:
        """By the pilots' mean validation error; the smallest where one diverged at each."""
        size = self.near_size(labels)
        scores = {
            rate: statistics.fmean(value_of(done[pilot_name(arm, size, rate, by)], val_err) for by in self.pilots)
            for rate in self.settings.rates
        }
        found = lowest(scores)
        return self.settings.rates[0] if found is None else found

    def by_labels(self, done: Mapping[str, Done], arms: Sequence[str]) -> Table:
        """Validation errors (labels, seeds) of each arm, and the rates that the pilot gave it."""
        labels = list(self.settings.labels)
        table: Table = {"labels": labels, "val_err": {}, "rates": {}, "rows": []}
        for arm in arms:
            table["rates"][arm] = [self.rate_of(done, arm, n) for n in labels]
            table["val_err"][arm] = [self.per_seed(done, target_label(arm, n), val_err) for n in labels]
            table["rows"] += [
                {"arm": arm, "labels": n, "seed": seed, "lr": rate, "val_err": row[seed]}
                for n, rate, row in zip(labels, table["rates"][arm], table["val_err"][arm], strict=True)
                for seed in self.seeds
            ]
        return table


class TransferNear(Transfer):
    """Five classes of a data set, from the weights of a network that learnt the other five."""

    ARMS = (SCRATCH, "frozen body", "probe, then tuned")

    class Settings(Transfer.Settings):
        source: dict[str, dict[str, Any]]
        """Section -> key -> value: changes to the base that make it the source's training."""
        ratio_at: int
        """Labels at which the steps are compared."""
        every: int = 15
        """Steps between two validations there."""

    def cells(self) -> list[Cell]:
        self.check_sizes()
        asked = self.settings
        if asked.ratio_at not in asked.labels:
            raise self.refuse("ratio_at", f"must be one of labels, {list(asked.labels)}", asked.ratio_at)
        mine, others = asked.source.get("data", {}), list(self.base.data.classes or ())
        if not mine.get("classes") or "num_train" not in mine:
            raise self.refuse("source.data", "must set classes and num_train", mine)
        if set(mine["classes"]) & set(others):
            raise self.refuse("source.data.classes", f"must be others than the target's, {others}", mine["classes"])
        sources = [Cell(source_name(by), self.source(by)) for by in (*self.seeds, *self.pilots)]
        return sources + [
            cell
            for labels in (asked.labels[0], asked.labels[-1])
            for rate in asked.rates
            for by in self.pilots
            for cell in [Cell(pilot_name(SCRATCH, labels, rate, by), self.target(SCRATCH, labels, by, rate, {}))]
        ]

    def source(self, by: int) -> RunConfig:
        seed = seeded(self.base, by)
        changes = {
            f"{section}.{key}": tuple(value) if isinstance(value, list) else value
            for section, values in self.settings.source.items()
            for key, value in values.items()
        }
        return changed(self.base, {**changes, "seed": seed, "data.split_seed": seed})

    def then(self, done: Mapping[str, Done]) -> list[Cell]:
        few, many = self.settings.labels[0], self.settings.labels[-1]
        lost = [name for by in (*self.seeds, *self.pilots) if (done[name := source_name(by)]).diverged]
        if lost:
            raise refuse("settings.source", f"diverged on {len(lost)} seeds: nothing can start from it", lost)
        if pilot_name(self.ARMS[1], few, self.settings.rates[0], PILOT) not in done:
            return [
                Cell(pilot_name(arm, n, rate, by), self.target(arm, n, by, rate, self.start(done, arm, by)))
                for arm in self.ARMS[1:]
                for n in (few, many)
                for rate in self.settings.rates
                for by in self.pilots
            ]
        if cell_name(target_label(SCRATCH, few), 0) in done:
            return []
        return [
            Cell(cell_name(target_label(arm, n), by), self.measured(done, arm, n, by))
            for n in self.settings.labels
            for arm in self.ARMS
            for by in self.seeds
        ]

    def measured(self, done: Mapping[str, Done], arm: str, labels: int, by: int) -> RunConfig:
        changes = self.start(done, arm, by)
        if labels == self.settings.ratio_at:
            changes["train.val_every"] = self.settings.every
        return self.target(arm, labels, by, self.rate_of(done, arm, labels), changes)

    def start(self, done: Mapping[str, Done], arm: str, by: int) -> dict[str, Any]:
        """Where an arm starts from, and what of it is held still."""
        if arm == SCRATCH:
            return {}
        freeze: dict[str, Any] = {"layers": "body"}
        if arm != self.ARMS[1]:
            freeze |= {"until": self.base.train.length // 2, "lr_after": 0.1}
        return {"model.weights": from_run(done[source_name(by)]), "freeze": freeze}

    def read(self, done: Mapping[str, Done]) -> Table:
        table = self.by_labels(done, self.ARMS)
        at, length = self.settings.ratio_at, self.base.train.length
        curves = {
            arm: [
                [] if one.diverged else one.history("val/err")
                for one in (done[cell_name(target_label(arm, at), seed)] for seed in self.seeds)
            ]
            for arm in self.ARMS
        }
        goals = [curve[-1][1] if curve else math.nan for curve in curves[SCRATCH]]
        return table | {
            "source_err": [value_of(done[source_name(seed)], val_err) for seed in self.seeds],
            "ratio_at": at,
            "length": length,
            "steps": {
                arm: [first_step(curve, goal) for curve, goal in zip(curves[arm], goals, strict=True)]
                for arm in self.ARMS
            },
            "curves": {
                arm: {"steps": [step for step, _ in found[0]], "err": [[err for _, err in one] for one in found]}
                for arm, found in curves.items()
                if all(found)
            },
        }

    def judge(self, table: Table) -> list[Evidence]:
        errors, labels = table["val_err"], table["labels"]
        scratch, frozen = errors[SCRATCH], errors[self.ARMS[1]]
        few = labels[0]
        found = [
            lower_on_average(
                f"val/err of the frozen body below that from scratch at {few} labels", frozen[0], scratch[0]
            )
        ]
        for arm in self.ARMS[1:]:
            told = [f"{n}: {mean_of(errors[arm][at])} against {mean_of(scratch[at])}" for at, n in enumerate(labels)]
            found.append(reported(f"val/err of {arm} against from scratch, by labels", "; ".join(told)))
        cross = crossing(labels, frozen, scratch)
        found.append(
            reported(
                "the frozen body's gain",
                f"is gone at {cross} labels"
                if cross is not None
                else f"is there at all of {few} to {labels[-1]} labels",
            )
        )
        found.append(told_rates(table, self.settings.rates))
        steps = {arm: median_of(table["steps"][arm], table["length"]) for arm in self.ARMS}
        return found + [
            reported(
                f"steps until the error that scratch ends with at {table['ratio_at']} labels",
                f"{SCRATCH} {steps[SCRATCH]}, {arm} {steps[arm]} (median and range; ratio {ratio(table, arm)})",
            )
            for arm in self.ARMS[1:]
        ]

    def draw(self, table: Table, path: Path) -> Path:
        errors = {arm: list(zip(*rows, strict=True)) for arm, rows in table["val_err"].items()}
        curves = {
            arm: Line(found["steps"], found["err"], dots=False)
            for arm, found in table["curves"].items()
            if found["steps"]
        }
        panels: list[Panel | Lines] = [
            Panel(errors, "validation error rate", "labels, log scale", table["labels"], log_x=True)
        ]
        if curves:
            panels.append(
                Lines(curves, "validation error rate", "optimizer step", title=f"At {table['ratio_at']} labels")
            )
        few, scratch, frozen = table["labels"][0], table["val_err"][SCRATCH], table["val_err"][self.ARMS[1]]
        cross = crossing(table["labels"], frozen, scratch)
        beyond = f"; no gain from {cross} labels on" if cross is not None else ""
        config = self.base
        return draw(
            panels,
            path,
            title=f"{few} labels: error {short_mean(scratch[0])} from scratch, {short_mean(frozen[0])} on frozen "
            f"features of {len(self.settings.source['data']['classes'])} other classes{beyond}",
            subtitle=f"{config.model.name} on {config.data.name}, {config.train.length} {config.train.unit} of "
            f"{config.data.batch_size} images for every arm, rates from pilot seeds; {self.spec.seeds} paired seeds, "
            "bands: 95% intervals",
        )


def source_name(by: int) -> str:
    return f"source, seed {by}"


def pilot_name(arm: str, labels: int, rate: float, by: int) -> str:
    return f"pilot {arm}, n={labels}, lr={rate:g}, seed {by}"


def told_rates(table: Table, tried: Sequence[float]) -> Evidence:
    """Which rates the pilots chose, and whether the best was the last that was tried."""
    arms = []
    for arm, rates in table["rates"].items():
        found = dict(zip(table["labels"], rates, strict=True))
        few, many = (f"{rate:g}{' (end)' if rate in (tried[0], tried[-1]) else ''}" for rate in (rates[0], rates[-1]))
        arms.append(f"{arm} {few} at {min(found)} labels, {many} at {max(found)}")
    return reported("rates by the pilots' validation error", "; ".join(arms))


def target_label(arm: str, labels: int) -> str:
    return f"{arm}, n={labels}"


def first_step(curve: Sequence[tuple[int, float]], goal: float) -> float:
    """The first step at which the error is at most ``goal``; infinity where none is; NaN without a curve or a goal."""
    if not curve or math.isnan(goal):
        return math.nan
    return float(next((step for step, err in curve if err <= goal), math.inf))


Rows = Sequence[Sequence[float]]


def crossing(labels: Sequence[int], arm: Rows, scratch: Rows) -> int | None:
    """The fewest labels from which on the arm is on average no better than scratch; None where it is at the most."""
    found = None
    for n, one, base in reversed(list(zip(labels, arm, scratch, strict=True))):
        if fmean_or_inf(one) < fmean_or_inf(base):
            break
        found = n
    return found


def fmean_or_inf(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return mean if math.isfinite(mean) else math.inf


def median_of(steps: Sequence[float], length: int) -> str:
    """``60 (45 to > 300)``: median and range over seeds."""
    known = sorted(value for value in steps if not math.isnan(value))
    if not known:
        return "not known"

    def shown(value: float) -> str:
        return f"{value:g}" if math.isfinite(value) else f"> {length}"

    return f"{shown(statistics.median_high(known))} ({shown(known[0])} to {shown(known[-1])})"


def ratio(table: Table, arm: str) -> str:
    """Of the medians: how many times fewer steps."""
    medians = [
        statistics.median_high(known) if (known := [v for v in table["steps"][name] if not math.isnan(v)]) else math.nan
        for name in (SCRATCH, arm)
    ]
    if math.isinf(medians[1]) and math.isfinite(medians[0]):
        return f"below {medians[0] / table['length']:.2g}"
    return f"{medians[0] / medians[1]:.2g}" if all(map(math.isfinite, medians)) else "not known"


def short_mean(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{statistics.fmean(finite):.3f}" if finite else "not known"
