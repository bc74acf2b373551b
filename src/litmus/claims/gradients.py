"""Claims on whether the gradient arrives: at initialisation, in training, and what is learnt where it does not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litmus.claims.base import Claim, Table, cell_name, of_result
from litmus.claims.evidence import Evidence, above, below, in_seeds, mean_of, reported, within
from litmus.claims.figures import Panel, draw
from litmus.claims.maps import Map, draw_maps
from litmus.config import Numbers, Section, WholeNumbers, Words
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

if TYPE_CHECKING:
    from litmus.diagnosis.gradient_flow import Flow

NAN = math.nan
INITS = {"xavier_normal": "Xavier", "he_normal": "He", "normal": "normal(0.01)"}
ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}


class Vanishing(Claim):
    """The gradient's way back through networks as they are drawn, without a training."""

    class Settings(Section):
        depths: WholeNumbers
        """Rising and even, as a network with shortcuts wants them; the last is judged and drawn."""
        activations: Words
        inits: Words
        num_images: int = 256

    def __init__(self, spec: Any):
        super().__init__(spec)
        depths = list(self.settings.depths)
        if depths != sorted(set(depths)) or depths[0] < 4 or any(depth % 2 for depth in depths):
            raise self.refuse("depths", "must rise and be even, from 4 on", depths)
        if self.settings.num_images < 10:
            raise self.refuse("num_images", "must be at least 10, one of each digit", self.settings.num_images)
        for key, known in (("activations", ACTIVATIONS), ("inits", INITS)):
            if set(getattr(self.settings, key)) != set(known):
                says = f"the condition is about {', '.join(known)}: all of them"
                raise self.refuse(key, says, list(getattr(self.settings, key)))

    def read(self, done: Mapping[str, Done]) -> Table:
        """Without trainings: every network is drawn, shown the images and forgotten, in double precision."""
        settings, depths = self.settings, list(self.settings.depths)
        flows = {
            (activation, init, skip): [
                self._flows(depth, activation, init, skip=skip, num_images=settings.num_images) for depth in depths
            ]
            for activation in settings.activations
            for init in settings.inits
            for skip in (False, True)
        }
        table: Table = {"depths": depths, "arms": {}, "rows": []}
        for (activation, init, skip), by_depth in flows.items():
            name = start(activation, init, skip=skip)
            arm: dict[str, Any] = {
                "per_layer": [[flow.decades_per_layer for flow in seeds] for seeds in by_depth],
                "first_to_last": [[flow.first_to_last for flow in seeds] for seeds in by_depth],
                "weights": [[flow.weight_gradient_ratio for flow in seeds] for seeds in by_depth],
                "activations": [[shrinking(flow) for flow in seeds] for seeds in by_depth],
                "curves": {what: [curve(flow, what) for flow in by_depth[-1]] for what in CURVES},
            }
            table["arms"][name] = arm
            table["rows"] += [
                {"arm": name, "depth": depth, "seed": seed, **{k: arm[k][at][seed] for k in arm if k != "curves"}}
                for at, depth in enumerate(depths)
                for seed in self.seeds
            ]
        return table

    def _flows(self, depth: int, activation: str, init: str, *, skip: bool, num_images: int) -> list[Flow]:
        import torch

        from litmus.diagnosis.gradient_flow import measure_flow
        from litmus.experiment import make_data, make_network, training_probe

        plain = {**self.base.model.model_dump(), "depth": depth, "activation": activation, "init": init}
        config = changed(self.base, {"model": {**plain, "name": "residual_mlp" if skip else "mlp"}})
        data = make_data(config)
        images, labels = training_probe(data, num_images)(torch.device("cpu"))
        found = []
        for seed in self.seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seeded(config, seed))
                network = make_network(config, data.info)
            found.append(measure_flow(network, images, labels, batch_size=num_images, dtype=torch.float64))
        return found

    def judge(self, table: Table) -> list[Evidence]:
        arms, deep = table["arms"], table["depths"][-1]

        def slope(activation: str, init: str, what: str = "per_layer") -> list[float]:
            return arms[start(activation, init)][what][-1]

        by = f"over {deep} layers, decades a layer"
        trap = arms[start("tanh", "normal")]
        found = [
            within(f"||dL/dz||, sigmoid, Xavier, {by}", slope("sigmoid", "xavier_normal"), -0.67, -0.59),
            within(f"activations, ReLU, Xavier, {by}", slope("relu", "xavier_normal", "activations"), -0.16, -0.14),
            within(f"||dL/dz||, ReLU, He, {by}", slope("relu", "he_normal"), -0.02, 0.02),
            reported(
                f"the first layer's over the head's, tanh, normal(0.01), {deep} layers, in decades",
                f"||dL/dz|| {mean_of(trap['first_to_last'][-1])}, ||dL/dW|| {mean_of(trap['weights'][-1])}",
            ),
        ]
        for name in SHOWN:
            rows = zip(table["depths"], arms[name]["first_to_last"], strict=True)
            values = ", ".join(f"{average(row):.2f} at {depth}" for depth, row in rows)
            found.append(reported(f"||dL/dz||, first over head, {name}, in decades", values))
        return found

    def draw(self, table: Table, path: Path) -> Path:
        deep, arms = table["depths"][-1], table["arms"]
        layers = list(range(1, deep + 1))
        shown = list(SHOWN)
        seen = [
            value
            for name in shown
            for what in ("delta", "gradient")
            for row in arms[name]["curves"][what]
            for value in row
            if math.isfinite(value)
        ]
        ends = (min(seen, default=0.0) - 2, max(seen, default=0.0) + 2)
        panels = [
            Panel({name: arms[name]["curves"][what] for name in shown}, says, "weighted layer, from the input",
                  layers[: len(arms[shown[0]]["curves"][what][0])], unfinished="zero or not finite", title=title,
                  y_range=None if what == "std" else ends)
            for what, (title, says) in CURVES.items()
        ]  # fmt: skip
        shrunk = average(arms[shown[0]]["first_to_last"][-1])
        kept = average(arms[shown[4]]["first_to_last"][-1])
        trap, hidden = (average(arms[shown[2]][what][-1]) for what in ("first_to_last", "weights"))
        return draw(
            panels, path, width=2.7, one_legend=True,
            title=f"From the head to the first of {deep} layers: {signed(shrunk)} decades with sigmoid, "
            f"{signed(kept)} with ReLU and He",
            subtitle="at initialisation, without norm; mean and 95% interval of seeds, dots: seeds\n"
            f"the trap (right): tanh, normal(0.01) has changed by {signed(trap)} decades, its weights' gradients by "
            f"{signed(hidden)}",
        )  # fmt: skip


class GradientsInTraining(Claim):
    """Depth against time, of four networks: what the watch saw every few steps."""

    class Settings(Section):
        arms: dict[str, dict[str, Any]]
        """Name -> overrides of the base."""
        vanishes: str
        """The arm that is to vanish all along."""
        arrives: str
        """The arm in which the gradient is to arrive all along."""

    def cells(self) -> list[Cell]:
        settings = self.settings
        if settings.vanishes == settings.arrives:
            raise self.refuse("arrives", "is to be another arm than settings.vanishes", settings.arrives)
        for key in ("vanishes", "arrives"):
            if getattr(settings, key) not in settings.arms:
                raise self.refuse(key, f"is none of the arms: {', '.join(settings.arms)}", getattr(settings, key))
        if "gradients" not in self.base.watch:
            raise self.refuse("base", "must have watch=[gradients]", list(self.base.watch))
        return [cell for name, changes in settings.arms.items() for cell in self.over_seeds(name, changes)]

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"arms": list(self.settings.arms), "looks": {}, "rows": []}
        table["train_err"] = {name: self.per_seed(done, name, of_result("train_eval")) for name in self.settings.arms}
        for name in self.settings.arms:
            table["looks"][name] = [looks(done[cell_name(name, seed)]) for seed in self.seeds]
            table["rows"] += [
                {"arm": name, "seed": seed, **{k: look[k] for k in ("step", "verdict", "first_to_last", "update")}}
                for seed in self.seeds
                for look in table["looks"][name][seed]
            ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        def verdicts(name: str) -> list[list[str]]:
            return [[look["verdict"] for look in seen] or ["not seen"] for seen in table["looks"][name]]

        gone, there = self.settings.vanishes, self.settings.arrives
        found = [
            in_seeds(f"{gone} vanishes at every look", [set(one) == {"vanishing"} for one in verdicts(gone)]),
            in_seeds(
                f"{there} vanishes at none", [not {"vanishing", "not seen"} & set(one) for one in verdicts(there)]
            ),
        ]
        for name in table["arms"]:
            first, last = (
                average([seen[at]["first_to_last"] for seen in table["looks"][name] if seen]) for at in (0, -1)
            )
            says = f"{signed(first)} decades at the start, {signed(last)} in the end; train/err "
            found.append(reported(name, says + mean_of(table["train_err"][name])))
        return found

    def draw(self, table: Table, path: Path) -> Path:
        rows = []
        for what, (says, colors, low, high) in LOOKS.items():
            maps = [Map(*grid(table["looks"][name], what)) for name in table["arms"]]
            rows.append((says, colors, low, high, maps))
        ended = [
            signed(average([seen[-1]["first_to_last"] for seen in table["looks"][name] if seen]))
            for name in table["arms"]
        ]
        errors = [mean_of(table["train_err"][name], 2).partition(" (")[0] for name in table["arms"]]
        names = [f"{name}\ntrain/err {err}" for name, err in zip(table["arms"], errors, strict=True)]
        base = self.base
        return draw_maps(
            rows, names, path, title=f"From the head to the first layer in the end, in decades: {', '.join(ended)}",
            subtitle=f"{base.data.name}, {base.model.depth} layers of {base.model.width}, {base.optim.name}, rate "
            f"{base.optim.lr:g}; a layer's colour is the mean of {self.spec.seeds} seeds; grey: no number",
            x="optimizer step", y="layer",
        )  # fmt: skip


class HeVsXavier30(Claim):
    """Thirty layers by activation and initialisation: the best of some rates, by training error."""

    class Settings(Section):
        rates: Numbers

    ARMS = (("sigmoid", "xavier_normal"), ("tanh", "xavier_normal"), ("relu", "xavier_normal"), ("relu", "he_normal"))
    CHANCE = 0.8
    """A network that answers one class for all images errs on about 0.9 of ten classes."""

    def cells(self) -> list[Cell]:
        rates = list(self.settings.rates)
        if rates != sorted(set(rates)) or rates[0] <= 0 or len(rates) < 2:
            raise self.refuse("rates", "must rise, above 0, at least two of them", rates)
        return [
            cell
            for activation, init in self.ARMS
            for rate in rates
            for cell in self.over_seeds(
                f"{start(activation, init)}, rate {rate:g}",
                {"model.activation": activation, "model.init": init, "optim.lr": float(rate)},
            )
        ]

    def read(self, done: Mapping[str, Done]) -> Table:
        rates = list(self.settings.rates)
        table: Table = {"rates": rates, "arms": [start(*one) for one in self.ARMS], "train_err": {}, "val_err": {}}
        for name in table["arms"]:
            for what, split in (("train_err", "train_eval"), ("val_err", "val")):
                rows = [self.per_seed(done, f"{name}, rate {rate:g}", of_result(split)) for rate in rates]
                table[what][name] = [list(row) for row in zip(*rows, strict=True)]
        table["rows"] = [
            {"arm": name, "rate": rate, "seed": seed, **{w: table[w][name][seed][at] for w in ("train_err", "val_err")}}
            for name in table["arms"]
            for at, rate in enumerate(rates)
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        best = {name: [least(row) for row in rows] for name, rows in table["train_err"].items()}
        sigmoid, tanh, xavier, he = (best[start(*one)] for one in self.ARMS)
        found = [
            above("train/err of ReLU, Xavier, at its best rate", xavier, 0.5),
            below("train/err of ReLU, He, at its best rate", he, 0.05),
            below("train/err of tanh, Xavier, at its best rate", tanh, 0.05),
            above("sigmoid, Xavier, at its best rate, is at chance: train/err above 0.8", sigmoid, self.CHANCE),
        ]
        for name, rows in table["val_err"].items():
            values = [chosen(err, by) for err, by in zip(rows, table["train_err"][name], strict=True)]
            found.append(
                reported(f"{name}, at its best rate", f"train/err {mean_of(best[name])}, val/err {mean_of(values)}")
            )
        return found

    def draw(self, table: Table, path: Path) -> Path:
        best = {name: [least(row) for row in rows] for name, rows in table["train_err"].items()}
        told = [
            f"{average(best[start('relu', init)]):.3f} with {INITS[init]}" for init in ("he_normal", "xavier_normal")
        ]
        lines = {"chance": 0.9}
        base = self.base
        return draw(
            [
                Panel(best, "training error rate, best rate", lines=lines, y_range=(-0.03, 1)),
                Panel(table["train_err"], "training error rate", "learning rate, log scale", table["rates"],
                      log_x=True, lines=lines, y_range=(-0.03, 1)),
            ],
            path, title=f"Training error of {base.model.depth} ReLU layers: {', '.join(told)}", width=3.6,
            subtitle=f"{base.data.name}, {base.model.width} units a layer, {base.train.length} {base.train.unit} of "
            f"{base.optim.name}; dots: seeds, bars and bands: 95% intervals",
        )  # fmt: skip


# --- what is read off flows

CURVES = {
    "delta": ("what arrives", "‖∂L/∂z‖ over the head's (log10)"),
    "std": ("what went forward", "std of activations (log10)"),
    "gradient": ("the trap: weights' gradients", "‖∂L/∂W‖ over the head's (log10)"),
}
LOOKS: dict[str, tuple[str, str, float, float]] = {
    "delta": ("‖∂L/∂z‖ over\nthe head's", "RdBu_r", -6, 6),
    "relative": ("‖∂L/∂W‖ / ‖W‖\nover the head's", "RdBu_r", -6, 6),
    "std": ("std of\nactivations", "viridis", -6, 1),
}


def curve(flow: Any, what: str) -> list[float]:
    """log10 over the layers, from the input; of the spread without the head, which no activation reads."""
    last = flow.layers[-1]
    values = {
        "delta": [layer.log10_delta - last.log10_delta for layer in flow.layers],
        "gradient": [layer.log10_gradient - last.log10_gradient for layer in flow.layers],
        "relative": [layer.log10_relative - last.log10_relative for layer in flow.layers],
        "std": [math.log10(layer.std) if layer.std > 0 else NAN for layer in flow.layers if layer.activation],
    }[what]
    return [value if math.isfinite(value) else NAN for value in values]


def shrinking(flow: Any) -> float:
    """Decades that a layer adds to the activations' spread on the way forward, by least squares; NaN of one layer."""
    import numpy as np

    values = np.array([value for value in curve(flow, "std") if math.isfinite(value)])
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else NAN


def looks(done: Done) -> list[dict[str, Any]]:
    """What the watch saw of a training; of one that diverged, what it had seen till then, as far as it was kept."""
    from litmus.diagnosis.gradient_flow import FlowAt
    from litmus.experiment import WATCHED

    path: Any = None if done.directory is None else done.directory / "artifacts" / WATCHED
    if path is None or not path.is_file():
        return []
    rows = [FlowAt.of(row) for row in json.loads(path.read_text())["rows"]]
    return [
        {
            "step": row.step,
            "verdict": row.flow.verdict,
            "first_to_last": row.flow.first_to_last,
            "update": row.relative_update,
            **{what: curve(row.flow, what) for what in LOOKS},
        }
        for row in rows
    ]


def grid(seen: Sequence[Sequence[Mapping[str, Any]]], what: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and of each layer from the input the mean over the seeds at each step, NaN where no seed has a number."""
    steps = sorted({look["step"] for looks in seen for look in looks})
    num = max((len(look[what]) for looks in seen for look in looks), default=1)
    at: dict[int, list[Any]] = {
        step: [look[what] for looks in seen for look in looks if look["step"] == step] for step in steps
    }
    return steps, [[average([column[layer] for column in at[step]]) for step in steps] for layer in range(num)]


# --- words and numbers


def start(activation: str, init: str, *, skip: bool = False) -> str:
    return f"{ACTIVATIONS[activation]}, {INITS[init]}" + (", skip" if skip else "")


def average(values: Sequence[float]) -> float:
    """Of the finite ones; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else NAN


def signed(decades: float) -> str:
    """``-0.6``, ``+0.0``; ``not finite`` without a number."""
    return f"{round(decades, 1) + 0.0:+.1f}" if math.isfinite(decades) else "not finite"


def least(values: Sequence[float]) -> float:
    """The smallest, trainings that diverged aside; NaN when all did."""
    return min((value for value in values if value == value), default=NAN)


def chosen(values: Sequence[float], by: Sequence[float]) -> float:
    """The value where ``by`` is least."""
    finite = [at for at, value in enumerate(by) if value == value]
    return values[min(finite, key=lambda at: by[at])] if finite else NAN


SHOWN = (
    start("sigmoid", "xavier_normal"), start("tanh", "xavier_normal"), start("tanh", "normal"),
    start("relu", "xavier_normal"), start("relu", "he_normal"), start("relu", "he_normal", skip=True),
)  # fmt: skip
"""Starts that are drawn, of those that are measured."""
