"""Claims on penalties of the weights: what holds a network back from learning its training images by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from litmus.claims.base import Claim, Table, of_measure, of_result
from litmus.claims.evidence import Evidence, mean_of, monotone, ordering, reported
from litmus.claims.figures import Curves, Panel, draw
from litmus.config import Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

WEIGHTS = Measure("litmus.claims.measures:weights")
X_NAME = "lambda, log scale"


class OverLambda(Claim):
    """A network trained at every strength of a penalty: what becomes of its weights, losses and errors."""

    class Settings(Section):
        lambdas: Numbers
        """Rising, the first 0."""

    key: ClassVar[str]
    """Of the penalty in the config."""

    def cells(self) -> list[Cell]:
        lambdas = self.settings.lambdas
        if lambdas[0] != 0 or list(lambdas) != sorted(set(lambdas)) or len(lambdas) < 3:
            raise self.refuse("lambdas", "must begin with 0 and rise, at least three of them", list(lambdas))
        return [
            cell for value in lambdas for cell in self.over_seeds(label(value), {self.key: float(value)}, (WEIGHTS,))
        ]

    def read(self, done: Mapping[str, Done]) -> Table:
        wanted = {
            "norm": of_measure(WEIGHTS, "norm"),
            "zeros": of_measure(WEIGHTS, "zeros"),
            "val_loss": of_result("val", "loss"),
            "val_err": of_result("val"),
            "train_loss": of_result("train_eval", "loss"),
        }
        lambdas = list(self.settings.lambdas)
        table: Table = {"lambdas": lambdas}
        for name, value in wanted.items():
            table[name] = [self.per_seed(done, label(one), value) for one in lambdas]
        table["rows"] = [
            {"lambda": one, "seed": seed, **{name: table[name][at][seed] for name in wanted}}
            for at, one in enumerate(lambdas)
            for seed in self.seeds
        ]
        table["densities"] = {f"{one:g}": density(done, f"{label(one)}, seed 0") for one in lambdas}
        return table

    def told(self) -> str:
        data, train = self.base.data, self.base.train
        return (
            f"{self.base.model.name} on {data.name}, {data.num_train or 'all'} training images, {train.length} "
            f"{train.unit}, {self.spec.seeds} seeds; dots: seeds, bands: 95% intervals"
        )


class L2Shrinks(OverLambda):
    """The norm of the weights and the validation loss over lambda."""

    key = "optim.l2_lambda"

    def judge(self, table: Table) -> list[Evidence]:
        losses, lambdas = table["val_loss"], table["lambdas"]
        best = best_of(losses)
        err_0, err_best = table["val_err"][0], table["val_err"][best]
        chosen = best_elsewhere(losses)
        named = ", ".join(f"{lambdas[at]:g}" for at in sorted(set(chosen)))
        return [
            monotone("||W|| falls as lambda rises", by_seed(table["norm"]), rising=False),
            ordering(
                f"val/loss at the lambda that is best on the other seeds, {named}, below that at 0",
                [losses[at][seed] for seed, at in enumerate(chosen)],
                losses[0],
            ),
            reported("val/err", f"{mean_of(err_0)} at 0, {mean_of(err_best)} at lambda = {lambdas[best]:g}"),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        x, best = table["lambdas"], best_of(table["val_loss"])
        norms, losses = means_of(table["norm"]), means_of(table["val_loss"])
        outlines = {f"lambda {name}": course for name, course in table["densities"].items() if course}
        return draw(
            [
                Panel({"||W||": by_seed(table["norm"])}, "norm of the weights", X_NAME, x, log_x=True),
                Curves(
                    {name: (course["at"], course["density"]) for name, course in outlines.items()},
                    "density of the weights, seed 0", "weight", log_y=True,
                ),
                *loss_and_error(table, x, X_NAME),
            ],
            path,
            title=f"lambda 0 to {x[-1]:g}: norm {number(norms[0])} to {number(norms[-1])}; val loss "
            f"{number(losses[0])} at 0, {number(losses[best])} at {x[best]:g}",
            subtitle=self.told(),
            width=3.4,
            columns=2,
        )  # fmt: skip


class L1Sparsifies(OverLambda):
    """The part of the weights that is exactly 0 over lambda_1, and beside it what L2 leaves at 0."""

    class Settings(OverLambda.Settings):
        l2_lambda: float
        """Of the arm with L2 in its place, above 0."""

    key = "optim.l1_lambda"

    def cells(self) -> list[Cell]:
        if not self.settings.l2_lambda > 0:
            raise self.refuse("l2_lambda", "must be above 0: it is the arm beside lambda_1", self.settings.l2_lambda)
        return super().cells() + self.over_seeds("L2", {"optim.l2_lambda": self.settings.l2_lambda}, (WEIGHTS,))

    def read(self, done: Mapping[str, Done]) -> Table:
        table = super().read(done)
        table["l2"] = {"lambda": self.settings.l2_lambda} | {
            name: self.per_seed(done, "L2", of_measure(WEIGHTS, name)) for name in ("zeros", "norm")
        }
        return table

    def judge(self, table: Table) -> list[Evidence]:
        lambdas, best = table["lambdas"], best_of(table["val_loss"])
        there = [
            f"{mean_of(table[name][0])} at 0, {mean_of(table[name][best])} at {lambdas[best]:g}"
            for name in ("val_loss", "val_err")
        ]
        zeros = mean_of(table["l2"]["zeros"])
        return [
            monotone(
                "the part of weights that are exactly 0 rises with lambda_1", by_seed(table["zeros"]), rising=True
            ),
            reported(f"exact zeros with L2, lambda = {table['l2']['lambda']:g}", zeros),
            reported("val/loss", there[0]),
            reported("val/err", there[1]),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        x, best, zeros = table["lambdas"], best_of(table["val_loss"]), means_of(table["zeros"])
        losses, l2 = means_of(table["val_loss"]), means_of([table["l2"]["zeros"]])[0]
        name = "lambda_1, log scale"
        return draw(
            [
                Panel({"weights": by_seed(table["zeros"])}, "part of weights exactly 0", name, x, log_x=True),
                Panel({"||W||": by_seed(table["norm"])}, "norm of the weights", name, x, log_x=True),
                *loss_and_error(table, x, name),
            ],
            path,
            title=f"Exact zeros: {zeros[0]:.0%} at lambda_1 = 0, {zeros[best]:.0%} at {x[best]:g}, where val loss is "
            f"{number(losses[best])} ({number(losses[0])} at 0)",
            subtitle=f"{self.told()}; exact zeros with L2 (lambda {table['l2']['lambda']:g}): {l2:.0%}",
            width=3.4,
            columns=2,
        )  # fmt: skip


def label(value: float) -> str:
    return f"lambda={value:g}"


def by_seed(values: list[list[float]]) -> list[tuple[float, ...]]:
    """(arms, seeds) as (seeds, arms)."""
    return list(zip(*values, strict=True))


def means_of(values: list[list[float]]) -> list[float]:
    """Of each arm; NaN where a seed of it diverged."""
    return [sum(row) / len(row) for row in values]


def best_of(losses: list[list[float]]) -> int:
    """Which arm after the first has the lowest mean, of those that diverged on no seed; 1 where all did."""
    means = means_of(losses)
    finite = [at for at in range(1, len(means)) if math.isfinite(means[at])]
    return min(finite, key=lambda at: means[at]) if finite else 1


def loss_and_error(table: Table, x: list[float], x_name: str) -> tuple[Panel, Panel]:
    """Both over the sweep."""
    losses = {"val": by_seed(table["val_loss"]), "train": by_seed(table["train_loss"])}
    errors = {"val": by_seed(table["val_err"])}
    return Panel(losses, "loss (nats)", x_name, x, log_x=True), Panel(errors, "error rate", x_name, x, log_x=True)


def best_elsewhere(losses: list[list[float]]) -> list[int]:
    """For each seed ``best_of`` the others: what is chosen by a loss is not judged by the same one."""
    return [best_of([row[:seed] + row[seed + 1 :] for row in losses]) for seed in range(len(losses[0]))]


def number(value: float) -> str:
    return f"{value:.3g}"


def density(done: Mapping[str, Done], name: str) -> dict[str, Any]:
    """Outline of the histogram of one training's weights: ``at`` the middle of each bin; empty where it diverged."""
    one = done[name]
    if one.diverged:
        return {}
    found = one.measured(WEIGHTS)
    counts, edges = found["counts"], found["edges"]
    widths = edges[1:] - edges[:-1]
    heights = counts / (counts.sum() * widths)
    return {
        "at": [float(at) for at in (edges[1:] + edges[:-1]) / 2],
        "density": [float(height) if height > 0 else math.nan for height in heights],
    }
