"""Landscapes of one and of a few dimensions, on which an optimizer's rate of convergence is known exactly: toys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, reported, within
from litmus.claims.figures import draw
from litmus.claims.lines import Line, Lines
from litmus.config import Section
from litmus.sweep.cells import Cell
from litmus.sweep.engine import Done

if TYPE_CHECKING:
    from torch import Tensor

DIMENSIONS = 20
TILT = 0.15
"""Of the double well (x^2 - 1)^2 + TILT x: the left well, at x < 0, is the deeper one."""
ADAPTIVE_STEPS = 2000


class ToyLandscapes(Claim):
    """Our own optimizers in float64: a quadratic, constant gradients, and a double well. Nothing is trained."""

    class Settings(Section):
        kappa: float = 100.0
        """Condition number of the quadratic, L / mu."""
        steps: int = 1000
        tolerance: float = 0.05
        """Part of the analytic value by which a measured one may differ."""
        well_lr: float = 0.01
        well_momentum: float = 0.9

    def cells(self) -> list[Cell]:
        bounds = {
            "kappa": (1, 1e4),
            "steps": (199, 1e5),
            "tolerance": (0, 1),
            "well_lr": (0, 0.1),
            "well_momentum": (0, 1),
        }
        for key, (low, high) in bounds.items():
            if not low < getattr(self.settings, key) < high:
                raise self.refuse(key, f"must lie between {low:g} and {high:g}", getattr(self.settings, key))
        return []

    def read(self, done: Mapping[str, Done]) -> Table:
        asked = self.settings
        table: Table = {"kappa": asked.kappa, "steps": asked.steps, "quadratic": {}, "rows": []}
        for name, (options, rate) in methods(asked.kappa).items():
            curves = [distances(options, asked.kappa, asked.steps, seed) for seed in self.seeds]
            found = [slope(curve) for curve in curves]
            table["quadratic"][name] = {"analytic": rate, "options": options, "found": found, "log10": curves[0]}
            table["rows"] += [
                {"method": name, "seed": seed, "nats_per_step": value, "analytic": rate}
                for seed, value in zip(self.seeds, found, strict=True)
            ]
        table["adaptive"] = {
            "adagrad": step_sizes({"name": "adagrad", "lr": 1.0}, ADAPTIVE_STEPS),
            "rmsprop": step_sizes({"name": "rmsprop", "lr": 1.0, "rho": 0.99}, ADAPTIVE_STEPS),
        }
        table["well"] = well(asked.well_lr, asked.well_momentum)
        return table

    def judge(self, table: Table) -> list[Evidence]:
        wide = self.settings.tolerance
        found = [
            within(
                f"{name} on the quadratic, nats a step",
                one["found"],
                *sorted(((1 - wide) * one["analytic"], (1 + wide) * one["analytic"])),
            )
            for name, one in table["quadratic"].items()
        ]
        adagrad, rmsprop = table["adaptive"]["adagrad"], table["adaptive"]["rmsprop"]
        power = exponent(adagrad)
        found.append(
            within(
                "AdaGrad's step under a constant gradient, power of t", [power], -0.5 * (1 + wide), -0.5 * (1 - wide)
            )
        )
        found.append(within("RMSProp's step there at the end, in units of lr", [rmsprop[-1]], 1 - wide, 1 + wide))
        wells = table["well"]
        return [
            *found,
            reported("RMSProp's first step, without a correction of its average", f"{rmsprop[0]:.3g} lr"),
            reported(
                "double well from the shallow side",
                f"gradient descent ends in the deeper well from {wells['deep_share']['sgd']:.0%} of the starts, "
                f"momentum from {wells['deep_share']['momentum']:.0%}; from the deeper side momentum ends in the "
                f"shallow one from {wells['lost_share']['momentum']:.0%}",
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        quadratic = table["quadratic"]
        steps = list(range(0, min(200, table["steps"]) + 1, 4))
        series = {
            name: Line(steps, [one["log10"][step] for step in steps], dots=False) for name, one in quadratic.items()
        }
        for name, one in quadratic.items():
            start = one["log10"][steps[-1]] + one["analytic"] * steps[-1] / math.log(10)
            series[f"{name}, analytic"] = Line(
                steps, [start - one["analytic"] * step / math.log(10) for step in steps], dots=False, faint=True
            )
        times = np.unique(np.geomspace(1, ADAPTIVE_STEPS, 40).astype(int))
        adaptive = {
            name: Line(times.tolist(), [sizes[t - 1] for t in times], dots=False)
            for name, sizes in table["adaptive"].items()
        }
        adaptive["t^(-1/2)"] = Line(times.tolist(), (times**-0.5).tolist(), dots=False, faint=True)
        wells = table["well"]
        paths = {
            name: Line(list(range(len(x))), x, dots=False)
            for name, x in zip(("gradient descent", "momentum"), wells["paths"].values(), strict=True)
        }
        return draw(
            [
                Lines(series, "log10 of the distance", "step", title=f"Quadratic, kappa = {table['kappa']:g}"),
                Lines(
                    adaptive, "step in units of lr", "t, log scale", log_x=True, log_y=True, title="Constant gradient"
                ),
                Lines(paths, "x", "step", lines=stationary(), title="Double well, from one start"),
            ],
            path,
            title=title_of(table),
            subtitle="Toys, in float64 with the optimizers of every training here: exact, and they say nothing of "
            "networks. Dashed grey: analytic",
            width=2.5,
        )


def methods(kappa: float) -> dict[str, tuple[dict[str, Any], float]]:
    """Method -> its options at the best rate for eigenvalues 1 to ``kappa``, and -log of its analytic rate.

    Gradient descent and heavy ball: Polyak 1964. Nesterov with lr = 1/L: the root of its slowest mode is 1 - 1/sqrt
    kappa, a double one.
    """
    root = math.sqrt(kappa)
    ball = (root - 1) / (root + 1)
    return {
        "gradient descent": ({"name": "sgd", "lr": 2 / (1 + kappa)}, -math.log((kappa - 1) / (kappa + 1))),
        "momentum": ({"name": "momentum", "lr": 4 / (1 + root) ** 2, "momentum": ball**2}, -math.log(ball)),
        "Nesterov": ({"name": "nesterov", "lr": 1 / kappa, "momentum": ball}, -math.log(1 - 1 / root)),
    }


def _walk(
    start: np.ndarray, options: Mapping[str, Any], gradient: Callable[[Tensor], Tensor], steps: int
) -> np.ndarray:
    """Where the optimizer stands before the first and after each step: (steps + 1, len(start)), float64."""
    import torch
    from torch import nn

    from litmus.optim import build_optimizer

    module = nn.Module()
    module.x = x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = build_optimizer(module, num_train=1, **options)
    seen = [x.detach().clone()]
    for _ in range(steps):
        x.grad = gradient(x.detach())
        optimizer.step()
        seen.append(x.detach().clone())
    return torch.stack(seen).numpy()


def distances(options: Mapping[str, Any], kappa: float, steps: int, seed: int) -> list[float]:
    """log10 of the distance to the minimum of 1/2 sum lambda x^2, lambda from 1 to ``kappa``, from a random start."""
    import torch

    eigenvalues = torch.logspace(0, math.log10(kappa), DIMENSIONS, dtype=torch.float64)
    start = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    walked = _walk(start, options, lambda x: eigenvalues * x, steps)
    return [float(value) for value in np.log10(np.linalg.norm(walked, axis=1))]


def slope(log10: list[float]) -> float:
    """Nats a step by which the distance shrinks over the second half: the first has the faster modes in it."""
    middle = len(log10) // 2
    return (log10[middle] - log10[-1]) * math.log(10) / (len(log10) - 1 - middle)


def step_sizes(options: Mapping[str, Any], steps: int) -> list[float]:
    """How far each step goes where the gradient is 1 everywhere."""
    walked = _walk(np.zeros(1), options, lambda x: x * 0 + 1, steps)[:, 0]
    return [float(value) for value in -np.diff(walked)]


def exponent(sizes: list[float]) -> float:
    """Power of t that the steps follow over the last decade."""
    last, first = len(sizes), len(sizes) // 10
    return math.log(sizes[last - 1] / sizes[first - 1]) / math.log(last / first)


def slope_of_well(x: Any) -> Any:
    """f'(x) of f = (x^2 - 1)^2 + TILT x."""
    return 4 * x * (x**2 - 1) + TILT


def stationary() -> dict[str, float]:
    """Where the double well is level."""
    low, middle, high = sorted(float(root) for root in np.roots([4, 0, -4, TILT]).real)
    return {"deeper well": low, "barrier": middle, "shallow well": high}


def well(lr: float, momentum: float, *, steps: int = 400, starts: int = 41) -> dict[str, Any]:
    """Ends of both optimizers from many starts at rest, on the shallow side (x > 0) and on the deeper one.

    Returns:
        ``deep_share`` and ``lost_share``: part of the starts on the shallow (deeper) side that end on the other;
        ``paths``: the first steps from the farthest start on the shallow side from which the two end apart; from the
        farthest of all where none do.
    """
    from_shallow, from_deep = np.linspace(0.2, 2.0, starts), -np.linspace(0.2, 2.0, starts)
    options: dict[str, dict[str, Any]] = {
        "sgd": {"name": "sgd", "lr": lr},
        "momentum": {"name": "momentum", "lr": lr, "momentum": momentum},
    }

    def walk(start: np.ndarray, one: dict[str, Any]) -> np.ndarray:
        return _walk(start, one, slope_of_well, steps)

    shallow = {name: walk(from_shallow, one) for name, one in options.items()}
    deep = {name: walk(from_deep, one) for name, one in options.items()}
    differ = np.flatnonzero((shallow["momentum"][-1] < 0) & (shallow["sgd"][-1] > 0))
    at = int(differ[-1]) if len(differ) else starts - 1
    return {
        "deep_share": {name: float((walked[-1] < 0).mean()) for name, walked in shallow.items()},
        "lost_share": {name: float((walked[-1] > 0).mean()) for name, walked in deep.items()},
        "paths": {name: [float(x) for x in walked[:81, at]] for name, walked in shallow.items()},
    }


def title_of(table: Table) -> str:
    rates = ", ".join(
        f"{name} {math.exp(-sum(one['found']) / len(one['found'])):.3f} ({math.exp(-one['analytic']):.3f})"
        for name, one in table["quadratic"].items()
    )
    return f"Distance left after a step, found (and analytic): {rates}"
