"""What weight decay can do where a batch norm takes the scale of the weights away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table, of_measure, of_result
from litmus.claims.evidence import Evidence, below, mean_of, monotone, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.regularisation import by_seed, label, means_of, number
from litmus.config import Field, Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

SAME = 1e-3
"""What counts as no change: of a cosine, and of logits as a part of their own spread or of a step's."""


class BNTimesDecay(Claim):
    """cos(W, dL/dW), f(cW) and the effective rate lr / ||W||^2 of convolutional nets with and without batch norm."""

    class Settings(Section):
        lambdas: Numbers
        """Rising, the first 0."""
        factor: float = Field(10.0, gt=1)
        """c."""

    @property
    def measure(self) -> Measure:
        return Measure("litmus.claims.measure_scale:scale", {"factor": self.settings.factor})

    def cells(self) -> list[Cell]:
        lambdas = self.settings.lambdas
        if lambdas[0] != 0 or list(lambdas) != sorted(set(lambdas)) or len(lambdas) < 3:
            raise self.refuse("lambdas", "must begin with 0 and rise, at least three of them", list(lambdas))
        arms: list[tuple[str, dict[str, Any]]]
        arms = [(label(value), {"optim.l2_lambda": float(value)}) for value in lambdas]
        arms.append(("no norm", {"optim.l2_lambda": 0.0, "model.norm": "none", "optim.lr": self.base.optim.lr / 10}))
        return [cell for name, changes in arms for cell in self.over_seeds(name, changes, (self.measure,))]

    def read(self, done: Mapping[str, Done]) -> Table:
        wanted: dict[str, Callable[[Done], float]] = {
            "cosine": lambda one: max(one.measured(self.measure)["cosines"]),
            **{name: of_measure(self.measure, name) for name in ("output", "matched", "unmatched", "norm", "rate")},
            "val_err": of_result("val"),
            "val_loss": of_result("val", "loss"),
        }
        lambdas = list(self.settings.lambdas)
        names = [*map(label, lambdas), "no norm"]
        table: Table = {"lambdas": lambdas, "factor": self.settings.factor}
        for what, value in wanted.items():
            *with_norm, without = (self.per_seed(done, name, value) for name in names)
            table[what], table[f"{what}_without"] = with_norm, without
        table["rows"] = [
            {"arm": name, "seed": seed, **{what: (*table[what], table[f"{what}_without"])[at][seed] for what in wanted}}
            for at, name in enumerate(names)
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        c = f"{table['factor']:g}"

        def without(what: str) -> str:
            return mean_of(table[f"{what}_without"])

        return [
            below("|cos(W, dL/dW)| is about 0 in every layer", worst(table["cosine"]), SAME),
            below(f"f({c} W) = f(W): change of a logit over their spread", worst(table["output"]), SAME),
            below(f"a step from {c} W at {c}^2 lr is a step from W at lr", worst(table["matched"]), SAME),
            monotone("lr / ||W||^2 rises with lambda", by_seed(table["rate"]), rising=True),
            reported(
                f"the same step from {c} W at lr itself, as a part of it missed", mean_of(pooled(table["unmatched"]))
            ),
            reported(
                "without batch norm",
                f"largest |cos| {without('cosine')}, change of a logit {without('output')}",
            ),
            reported(
                "val/err",
                ", ".join(
                    f"{mean_of(errs)} at {one:g}" for one, errs in zip(table["lambdas"], table["val_err"], strict=True)
                ),
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        x, rates, errs = table["lambdas"], means_of(table["rate"]), means_of(table["val_err"])
        x_name, c = "lambda, log scale", f"{table['factor']:g}"
        train = self.base.train
        return draw(
            [
                Panel(
                    {
                        "BN: |cos(W, dL/dW)|": worst(table["cosine"]),
                        f"BN: f({c}W) - f(W)": worst(table["output"]),
                        "no BN: |cos(W, dL/dW)|": table["cosine_without"],
                        f"no BN: f({c}W) - f(W)": table["output_without"],
                    },
                    "cosine; change over spread of logits", log_y=True, lines={"taken as none": SAME},
                ),
                Panel(
                    {"all W": by_seed(table["norm"])}, "norm of the weights before a norm", x_name, x,
                    log_x=True, log_y=True,
                ),
                Panel({"lr / ||W||²": by_seed(table["rate"])}, "effective rate", x_name, x, log_x=True, log_y=True),
                Panel({"val": by_seed(table["val_err"])}, "error rate", x_name, x, log_x=True),
            ],
            path,
            title=f"lambda 0 to {x[-1]:g}: effective rate {number(rates[0])} to {number(rates[-1])}, "
            f"val error {number(errs[0])} to {number(errs[-1])}",
            subtitle=f"{self.base.model.name}{self.base.model.depth} on {self.base.data.name}, {train.length} "
            f"{train.unit}, {self.spec.seeds} seeds; dots: seeds, bands: 95% intervals",
            width=3.4,
            columns=2,
        )  # fmt: skip


def worst(arms: list[list[float]]) -> list[float]:
    """Of each seed the largest of all arms; NaN where one diverged."""
    return [max(row) if all(value == value for value in row) else float("nan") for row in by_seed(arms)]


def pooled(arms: list[list[float]]) -> list[float]:
    """Of each seed the mean over the arms."""
    return [sum(row) / len(row) for row in by_seed(arms)]
