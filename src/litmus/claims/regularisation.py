"""Claims on what holds a network back from learning its training images by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from litmus.claims.base import Claim, Table, of_result
from litmus.claims.evidence import Evidence, mean_of, monotone, ordering, reported
from litmus.claims.figures import Panel, draw
from litmus.config import Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

WEIGHTS = Measure("litmus.claims.measures:weights")


class L2Shrinks(Claim):
    """The norm of the weights and the validation loss over lambda."""

    class Settings(Section):
        lambdas: Numbers
        """Rising, the first 0."""

    def cells(self) -> list[Cell]:
        lambdas = self.settings.lambdas
        if lambdas[0] != 0 or list(lambdas) != sorted(set(lambdas)) or len(lambdas) < 3:
            raise self.refuse("lambdas", "must begin with 0 and rise, at least three of them", list(lambdas))
        return [
            cell
            for value in lambdas
            for cell in self.over_seeds(label(value), {"optim.l2_lambda": float(value)}, (WEIGHTS,))
        ]

    def read(self, done: Mapping[str, Done]) -> Table:
        wanted = {
            "norm": lambda one: one.measured(WEIGHTS)["norm"],
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
        return table

    def judge(self, table: Table) -> list[Evidence]:
        losses, lambdas = table["val_loss"], table["lambdas"]
        means = [sum(row) / len(row) for row in losses]
        finite = [at for at in range(1, len(means)) if math.isfinite(means[at])]
        best = min(finite, key=lambda at: means[at]) if finite else 1
        err_0, err_best = table["val_err"][0], table["val_err"][best]
        return [
            monotone("||W|| falls as lambda rises", list(zip(*table["norm"], strict=True)), rising=False),
            ordering(f"val/loss at lambda = {lambdas[best]:g} below that at 0", losses[best], losses[0]),
            reported("val/err", f"{mean_of(err_0)} at 0, {mean_of(err_best)} at lambda = {lambdas[best]:g}"),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        x = table["lambdas"]
        by_seed = {name: list(zip(*table[name], strict=True)) for name in ("norm", "val_loss", "train_loss", "val_err")}
        return draw(
            [
                Panel({"||W||": by_seed["norm"]}, "norm of the weights", "lambda, log scale", x, log_x=True),
                Panel(
                    {"val": by_seed["val_loss"], "train": by_seed["train_loss"]},
                    "loss (nats)", "lambda, log scale", x, log_x=True,
                ),
                Panel({"val": by_seed["val_err"]}, "error rate", "lambda, log scale", x, log_x=True),
            ],
            path,
            title="A larger lambda shrinks the weights; the loss has a best value, the error hardly moves",
            subtitle=f"{self.base.model.name} on {self.base.data.name}, {self.base.data.num_train or 'all'} training "
            f"images, {self.base.train.length} {self.base.train.unit}; dots: seeds, bands: 95% intervals",
            width=2.8,
        )  # fmt: skip


def label(value: float) -> str:
    return f"lambda={value:g}"
