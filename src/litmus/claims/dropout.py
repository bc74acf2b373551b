"""Claims on dropout: what it does to the gap, what it costs, and where it must not stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from litmus.claims.base import Claim, Table, of_measure, of_result
from litmus.claims.evidence import Evidence, mean_of, monotone, ordering, reported, within
from litmus.claims.figures import Panel, draw
from litmus.claims.regularisation import WEIGHTS, by_seed, means_of, number
from litmus.config import Field, Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.designs import changed
from litmus.sweep.engine import Done

LEARNT = 0.1
"""Training loss in nats that counts as learnt, where the time to it is reported."""


class DropoutGap(Claim):
    """The loss gap over keep_prob, Monte Carlo against one pass, and what dropout costs."""

    class Settings(Section):
        keep_probs: Numbers
        """Falling from 1, in (0, 1]."""
        passes: int = Field(30, ge=2)
        """Thinned networks of the Monte Carlo average."""

    @property
    def measure(self) -> Measure:
        return Measure("litmus.claims.measure_dropout:averaged", {"passes": self.settings.passes})

    def cells(self) -> list[Cell]:
        keep = list(self.settings.keep_probs)
        if keep[0] != 1 or keep != sorted(set(keep), reverse=True) or len(keep) < 3 or keep[-1] <= 0:
            raise self.refuse("keep_probs", "must begin with 1 and fall, above 0, at least three of them", keep)
        return [
            cell
            for one in keep
            for cell in self.over_seeds(name_of(one), {"model.keep_prob": float(one)}, (WEIGHTS, self.measure))
        ]

    def read(self, done: Mapping[str, Done]) -> Table:
        wanted: dict[str, Callable[[Done], float]] = {
            "train_loss": of_result("train_eval", "loss"),
            "val_loss": of_result("val", "loss"),
            "gap": lambda one: one.result()["val"]["loss"] - one.result()["train_eval"]["loss"],
            "train_err": of_result("train_eval"),
            "val_err": of_result("val"),
            **{
                name: of_measure(self.measure, name)
                for name in ("one_nll", "mc_nll", "thinned_nll", "one_err", "mc_err", "saved_bytes")
            },
            "norm": of_measure(WEIGHTS, "norm"),
            "steps_to_learn": lambda one: first_below(one.history("train_eval/loss"), LEARNT),
            "step_ms": lambda one: 1000 * one.result()["trained_sec"] / self.base.train.length,
        }
        keep = list(self.settings.keep_probs)
        table: Table = {"keep_probs": keep}
        for name, value in wanted.items():
            table[name] = [self.per_seed(done, name_of(one), value) for one in keep]
        table["rows"] = [
            {"keep_prob": one, "seed": seed, **{name: table[name][at][seed] for name in wanted}}
            for at, one in enumerate(keep)
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        keep = table["keep_probs"]

        def each(name: str, digits: int = 3) -> str:
            return ", ".join(f"{mean_of(row, digits)} at {one:g}" for one, row in zip(keep, table[name], strict=True))

        learnt = ", ".join(
            f"{mean_of([value for value in row if math.isfinite(value)]) if any(map(math.isfinite, row)) else 'never'} "
            f"at {one:g}" + (f" ({never} never)" if 0 < (never := sum(map(math.isinf, row))) < len(row) else "")
            for one, row in zip(keep, table["steps_to_learn"], strict=True)
        )
        return [
            monotone("val/loss - train_eval/loss falls with keep_prob", by_seed(table["gap"]), rising=False),
            *(
                ordering(
                    f"Monte Carlo NLL below that of one pass, keep_prob {one:g}",
                    table["mc_nll"][at], table["one_nll"][at],
                )
                for at, one in enumerate(keep)
                if one < 1
            ),
            reported("val/loss", each("val_loss")),
            reported("val/err", each("val_err")),
            reported(f"steps to a training loss of {LEARNT:g} ('trains faster')", learnt),
            reported("ms a step ('trains faster')", each("step_ms")),
            reported("MB kept for the backward pass ('less memory')", megabytes(keep, table["saved_bytes"])),
            reported("||W|| ('smaller weights')", each("norm")),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        keep = table["keep_probs"]
        order = sorted(range(len(keep)), key=lambda at: keep[at])
        x = [keep[at] for at in order]

        def over(name: str) -> list[tuple[float, ...]]:
            return by_seed([table[name][at] for at in order])

        gaps = ", ".join(number(gap) for gap in means_of(table["gap"]))
        return draw(
            [
                Panel({"gap": over("gap")}, "val loss - train loss (nats)", "keep_prob", x),
                Panel({"val": over("val_loss"), "train": over("train_loss")}, "loss (nats)", "keep_prob", x),
                Panel({"one pass": over("one_nll"), "average": over("mc_nll")}, "val NLL (nats)", "keep_prob", x),
                Panel({"val": over("val_err")}, "error rate", "keep_prob", x),
            ],
            path,
            title=f"Loss gap {gaps} nats at keep_prob {', '.join(f'{one:g}' for one in keep)}",
            subtitle=f"{self.base.model.name} on {self.base.data.name}, {self.base.data.num_train or 'all'} training "
            f"images, {self.base.train.length} {self.base.train.unit} each; average: {self.settings.passes} thinned "
            f"networks; {self.spec.seeds} seeds, bands: 95% intervals",
            width=3.4,
            columns=2,
        )  # fmt: skip


class DropoutBeforeBN(Claim):
    """The variance that a batch norm reads behind dropout, in training over that in evaluation. Nothing is trained."""

    class Settings(Section):
        keep_probs: Numbers
        """Of the first panel, in (0, 1]; ``judged`` among them."""
        judged: float = Field(0.5, gt=0, lt=1)
        images: int = Field(256, ge=2)
        """Training images that go through the networks as they were initialised."""
        samples: int = Field(1_000_000, ge=2)
        """Draws of N(0, 1)."""

    def read(self, done: Mapping[str, Done]) -> Table:
        import torch

        from litmus.claims.measure_dropout import predicted_ratio, ratios_in_network, variance_ratio
        from litmus.experiment import eval_batches, make_data, make_network, quiet_libraries

        settings = self.settings
        keep = list(settings.keep_probs)
        if settings.judged not in keep or not all(0 < one <= 1 for one in keep) or keep != sorted(set(keep)):
            raise self.refuse("keep_probs", f"must rise in (0, 1] and hold judged = {settings.judged:g}", keep)
        ratios = [[variance_ratio(one, seed=seed, num=settings.samples) for one in keep] for seed in self.seeds]
        arms = {
            "in the blocks": {"model.keep_prob": settings.judged, "model.head_keep_prob": 1.0},
            "before the head": {"model.keep_prob": 1.0, "model.head_keep_prob": settings.judged},
        }
        with quiet_libraries():
            data = make_data(self.base)
            info = data.prepare()
            batch = next(iter(eval_batches(data, "train_eval", torch.device("cpu"))))
        inside: dict[str, list[dict[str, float]]] = {}
        for arm, changes in arms.items():
            for seed in self.seeds:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    network = make_network(changed(self.base, changes), info)
                found = ratios_in_network(network, batch.images[: settings.images], seed=seed)
                inside.setdefault(arm, []).append(found)
        return {
            "keep_probs": keep,
            "judged": settings.judged,
            "ratios": ratios,
            "predicted": [predicted_ratio(one) for one in keep],
            "inside": inside,
            "rows": [
                {"keep_prob": one, "seed": seed, "ratio": ratios[seed][at]}
                for at, one in enumerate(keep)
                for seed in self.seeds
            ],
        }

    def judge(self, table: Table) -> list[Evidence]:
        at = table["keep_probs"].index(table["judged"])
        found, wanted = [row[at] for row in table["ratios"]], table["predicted"][at]
        after = [ratio for norms in table["inside"]["before the head"] for ratio in norms.values()]
        blocks = [max(norms.values()) for norms in table["inside"]["in the blocks"]]
        return [
            within(
                f"training over evaluation variance at keep_prob {table['judged']:g}, {wanted:.4g} by the formula",
                found, 0.99 * wanted, 1.01 * wanted,
            ),
            within("dropout behind the last batch norm: smallest ratio of any norm", [min(after)], 1, 1),
            within("dropout behind the last batch norm: largest ratio of any norm", [max(after)], 1, 1),
            reported("largest ratio of a batch norm of the net as initialised, dropout in its blocks", mean_of(blocks)),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        keep, at = table["keep_probs"], table["keep_probs"].index(table["judged"])
        measured = sum(row[at] for row in table["ratios"]) / len(table["ratios"])
        names = list(table["inside"]["in the blocks"][0])
        series = {arm: [[norms[name] for name in names] for norms in rows] for arm, rows in table["inside"].items()}
        return draw(
            [
                Panel(
                    {"by the formula": table["predicted"], "measured": table["ratios"]},
                    "variance, training / evaluation", "keep_prob", keep,
                    title="ReLU(N(0, 1)), dropout, batch norm",
                ),
                Panel(
                    series, "variance, training / evaluation", "batch norm, from the input on",
                    list(range(1, len(names) + 1)),
                    title=f"{self.base.model.name}{self.base.model.depth}: where dropout stands",
                ),
            ],
            path,
            title=f"Dropout at keep_prob {keep[at]:g} makes the variance {measured:.3f} times that of evaluation",
            subtitle=f"at the input of a batch norm; right: the network as initialised, on {self.base.data.name}, "
            f"keep_prob {keep[at]:g}; {len(table['ratios'])} seeds",
        )  # fmt: skip


def name_of(keep_prob: float) -> str:
    return f"keep={keep_prob:g}"


def first_below(history: list[tuple[int, float]], bound: float) -> float:
    """The first step whose value is below ``bound``; infinite where none is."""
    return float(next((step for step, value in history if value < bound), math.inf))


def megabytes(keep: list[float], values: list[list[float]]) -> str:
    return ", ".join(f"{sum(row) / len(row) / 1e6:.3g} at {one:g}" for one, row in zip(keep, values, strict=True))
