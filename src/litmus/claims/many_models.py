"""Claims on bias and variance of many models, each trained on a training set of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, Outcome, reported
from litmus.claims.figures import Panel, draw
from litmus.config import Field, Numbers, Section, WholeNumbers
from litmus.config.vary import Arm
from litmus.decompose import Design, answers_of, take_apart
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed
from litmus.sweep.engine import Done

if TYPE_CHECKING:
    from litmus.diagnosis.decomposition import Estimate

IDENTITY = 1e-6
"""How far apart two sides of an identity may be by rounding."""
ERRORS = 2.0
"""Standard errors that make a difference."""


class OverWidths(Claim):
    """Networks of several widths; each is trained by a ``Design``, whose draws and seeds all widths share."""

    design: Design

    def rising(self, key: str, at_least: int) -> None:
        values = list(getattr(self.settings, key))
        if values != sorted(set(values)) or len(values) < at_least or values[0] < 1:
            raise self.refuse(key, f"must be >= 1 and rise, at least {at_least} of them", values)

    @property
    def set_size(self) -> str:
        return f"{self.base.data.num_train:,} images" if self.base.data.num_train else "equally many images"

    def of_arm(self, label: str, changes: Mapping[str, Any]) -> list[Cell]:
        return self.design.cells(Arm(label), changed(self.base, changes))


class DecompositionWidth(OverWidths):
    """Bias^2 and variance of the squared error over the width of an MLP, on true and on noisy labels.

    ``seeds`` counts the models of each width: ``draws`` disjoint training sets in each reshuffle.
    """

    class Settings(Section):
        widths: WholeNumbers
        label_noise: Numbers = (0.0, 0.2)
        draws: int = Field(6, ge=3)

    def __init__(self, spec: Any):
        super().__init__(spec)
        self.rising("widths", 3)
        draws, noises = self.settings.draws, list(self.settings.label_noise)
        if spec.seeds % draws:
            raise self.refuse("draws", f"must divide seeds = {spec.seeds}, the models of each width", draws)
        if len(set(noises)) < len(noises) or not all(0 <= noise < 1 for noise in noises):
            raise self.refuse("label_noise", "are in [0, 1), each once", noises)
        self.design = Design(draws=draws, reshuffles=spec.seeds // draws, split="val")

    def arms(self) -> dict[tuple[float, int], list[Cell]]:
        return {
            (noise, width): self.of_arm(
                f"noise {noise:g}, width {width}", {"data.label_noise": float(noise), "model.width": width}
            )
            for noise in self.settings.label_noise
            for width in self.settings.widths
        }

    def cells(self) -> list[Cell]:
        return [cell for cells in self.arms().values() for cell in cells]

    def read(self, done: Mapping[str, Done]) -> Table:
        found = {
            arm: take_apart([done[cell.name] for cell in cells], self.design) for arm, cells in self.arms().items()
        }
        nothing: dict[str, Any] = {"value": math.nan, "std_error": None, "low": None, "high": None, "points": []}
        table: Table = {"widths": list(self.settings.widths), "noises": {}, "rows": [], "off": 0.0, "diverged": 0}
        for (noise, width), one in found.items():
            squared = one.parts.squared.table() if one.parts else {}
            of_noise = table["noises"].setdefault(f"{noise:g}", {"bias2_and_noise": [], "variance": [], "total": []})
            for name, values in of_noise.items():
                values.append(squared.get(name, nothing))
            table["diverged"] += one.diverged
            if one.parts:
                table["off"] = max(table["off"], *(off_sum(part) for part in losses_of(one.parts)))
            table["rows"].append(
                {
                    "label_noise": noise,
                    "width": width,
                    **{name: values[-1]["value"] for name, values in of_noise.items()},
                    "err": one.parts.zero_one.total.value if one.parts else math.nan,
                    "train_err": one.train_err,
                }
            )
        return table

    def judge(self, table: Table) -> list[Evidence]:
        widths, off = table["widths"], table["off"]
        sums = "supported" if off <= IDENTITY else "contradicted"
        found = [Evidence("the parts of all three losses add up", sums, f"off by {off:.1e} at most")]  # type: ignore[arg-type]
        for noise, parts in table["noises"].items():
            bias, variance = (estimates_of(parts[name]) for name in ("bias2_and_noise", "variance"))
            found.append(falls(f"label noise {noise}: bias² falls", widths, bias))
            found.append(interior_maximum(f"label noise {noise}: variance is highest in between", widths, variance))
        if table["diverged"]:
            found.append(reported("diverged", f"{table['diverged']} trainings"))
        return found

    def draw(self, table: Table, path: Path) -> Path:
        from litmus.diagnosis.decomposition import SquaredError
        from litmus.diagnosis.decomposition_plots import decomposition_sweeps

        sweeps: dict[str, dict[float, Any]] = {}
        for noise, parts in table["noises"].items():
            columns = {name: estimates_of(values) for name, values in parts.items()}
            sweeps[f"label noise {noise}"] = {
                width: SquaredError(
                    num_reshuffles=self.design.reshuffles,
                    num_models=self.design.draws,
                    num_images=0,  # of which the figure says nothing
                    level=0.95,
                    total=columns["total"][at],
                    bias2_and_noise=columns["bias2_and_noise"][at],
                    variance=columns["variance"][at],
                )
                for at, width in enumerate(table["widths"])
                if math.isfinite(columns["total"][at].value)
            }
        said = []
        for noise, parts in table["noises"].items():
            at = top(estimates_of(parts["variance"]))
            said.append(f"at width {table['widths'][at]} with label noise {noise}" if at is not None else "nowhere")
        return decomposition_sweeps(
            sweeps,
            path,
            x="width, hidden units",
            title=f"Variance is highest {' and '.join(said)}",
            subtitle=f"{self.design.draws} models on disjoint sets of {self.set_size}, {self.design.reshuffles} "
            f"reshuffles (dashes); bands: 95% intervals; {self.base.train.length:,} {self.base.train.unit}",
            svg=True,
        )


def losses_of(parts: Any) -> tuple[Any, Any, Any]:
    return parts.squared, parts.zero_one, parts.cross_entropy


def off_sum(one: Any) -> float:
    """How far the parts of a decomposition are from its total."""
    return abs(sum(part.value for part in one.parts.values()) - one.total.value)


def estimates_of(tables: Sequence[Mapping[str, Any]]) -> list[Estimate]:
    """Estimates back from their plain numbers."""
    from litmus.diagnosis.decomposition import Estimate
    from litmus.diagnosis.gaps import Interval

    return [
        Estimate(
            one["value"],
            one["std_error"],
            None if one["low"] is None else Interval(one["low"], one["high"]),
            tuple(one["points"]),
        )
        for one in tables
    ]


def top(sweep: Sequence[Estimate]) -> int | None:
    """Place of the highest; None where none is finite."""
    finite = [at for at, one in enumerate(sweep) if math.isfinite(one.value)]
    return max(finite, key=lambda at: sweep[at].value) if finite else None


def falls(what: str, x: Sequence[float], sweep: Sequence[Estimate]) -> Evidence:
    """The last lies below the first by more than 2 standard errors, and no step rises by more than 2.

    Contradicted when the last lies above the first by more than 2. Inconclusive with a value that is not finite.
    """
    from litmus.diagnosis.decomposition import standard_errors_between

    course = _course(x, sweep)
    whole = standard_errors_between(sweep[0], sweep[-1])
    steps = [standard_errors_between(b, a) for a, b in pairwise(sweep)]
    outcome: Outcome = "inconclusive"
    if whole is not None and all(math.isfinite(one.value) for one in sweep):
        if whole < -ERRORS:
            outcome = "contradicted"
        elif whole > ERRORS and all(step is not None and step <= ERRORS for step in steps):
            outcome = "supported"
    told = f", {whole:.1f} standard errors from end to end" if whole is not None and math.isfinite(whole) else ""
    return Evidence(what, outcome, course + told)


def interior_maximum(what: str, x: Sequence[float], sweep: Sequence[Estimate]) -> Evidence:
    """The highest lies between the ends and above both by more than 2 standard errors.

    Contradicted when it is an end, more than 2 above all in between. Inconclusive with a value that is not finite.
    """
    from litmus.diagnosis.decomposition import peak, standard_errors_between

    course = _course(x, sweep)
    if not all(math.isfinite(one.value) for one in sweep):
        return Evidence(what, "inconclusive", course)
    found = peak(sweep)
    if found.above_ends is not None:
        outcome: Outcome = "supported" if found.decided else "inconclusive"
        course += f"; highest at {x[found.position]:g}, {found.above_ends:.1f} standard errors"
        return Evidence(what, outcome, course)
    above = [standard_errors_between(sweep[found.position], one) for one in sweep[1:-1]]
    clear = bool(above) and all(one is not None and one > ERRORS for one in above)
    return Evidence(what, "contradicted" if clear else "inconclusive", f"{course}; highest at {x[found.position]:g}")


def _course(x: Sequence[float], sweep: Sequence[Estimate]) -> str:
    return " -> ".join(f"{one.value:.3g}" for one in sweep) + f" over {x[0]:g} to {x[-1]:g}"


# Where variance comes from


class InitVsSampling(OverWidths):
    """Variance from the training set and from the seed, over widths.

    ``seeds`` counts the models of each width: as many on each of ``subsets`` disjoint training sets.
    """

    class Settings(Section):
        widths: WholeNumbers
        subsets: int = Field(4, ge=3)

    def __init__(self, spec: Any):
        super().__init__(spec)
        self.rising("widths", 2)
        subsets = self.settings.subsets
        if spec.seeds % subsets or spec.seeds < 2 * subsets:
            says = f"must go into seeds = {spec.seeds}, the models of each width, twice or more"
            raise self.refuse("subsets", says, subsets)
        self.design = Design(draws=subsets, reshuffles=1, seeds=spec.seeds // subsets, split="val")

    def arms(self) -> dict[int, list[Cell]]:
        return {width: self.of_arm(f"width {width}", {"model.width": width}) for width in self.settings.widths}

    def cells(self) -> list[Cell]:
        return [cell for cells in self.arms().values() for cell in cells]

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"widths": list(self.settings.widths), "rows": []}
        parts = ("sampling", "initialisation", "total")
        columns: dict[str, list[Any]] = {
            name: [] for part in parts for name in (part, f"{part}_points", f"{part}_ends")
        } | {"of_pairs": []}
        for width, cells in self.arms().items():
            of_width = [done[cell.name] for cell in cells]
            if any(one.diverged for one in of_width):
                found: dict[str, Any] = dict.fromkeys(columns, math.nan)
                found |= {f"{part}_points": [math.nan] * self.settings.subsets for part in parts}
                found |= {f"{part}_ends": [math.nan] * 2 for part in parts}
            else:
                logs, _ = answers_of(of_width, self.design)
                found = sources_of(np.exp(logs[0]))
            for name, values in columns.items():
                values.append(found[name])
            errs = [math.nan if one.diverged else one.result()["val"]["err"] for one in of_width]
            table["rows"].append(
                {"width": width, **{part: found[part] for part in parts}, "of_pairs": found["of_pairs"],
                 "val_err": sum(errs) / len(errs)}
            )  # fmt: skip
        return {**table, **columns}

    def judge(self, table: Table) -> list[Evidence]:
        sums = np.array(table["sampling"], dtype=float) + np.array(table["initialisation"], dtype=float)
        off = np.abs(sums - np.array(table["of_pairs"], dtype=float))
        outcome: Outcome = "inconclusive"
        if np.isfinite(off).all():
            outcome = "supported" if off.max() <= IDENTITY else "contradicted"
        what = "sampling + initialisation is the variance between models that share neither subset nor seed"
        found = [Evidence(what, outcome, f"off by {off.max():.1e} at most")]
        for at, width in enumerate(table["widths"]):
            low, high = table["sampling_ends"][at]
            first, last = table["initialisation_ends"][at]
            found.append(
                reported(
                    f"width {width}",
                    f"sampling {table['sampling'][at]:.3g} (95% {low:.3g} to {high:.3g}), initialisation "
                    f"{table['initialisation'][at]:.3g} ({first:.3g} to {last:.3g}), {share(table, at):.0%} of both",
                )
            )
        return found

    def draw(self, table: Table, path: Path) -> Path:
        widths = table["widths"]
        names = {"total": "total", "sampling": "sampling", "initialisation": "initialisation"}
        finite = [at for at in range(len(widths)) if math.isfinite(table["total"][at])]
        ends = dict.fromkeys((finite[0], finite[-1])) if finite else ()
        said = ", ".join(f"{share(table, at):.0%} at width {widths[at]}" for at in ends)
        return draw(
            [
                Panel(
                    {name: list(zip(*table[f"{part}_points"], strict=True)) for part, name in names.items()},
                    "variance of the probabilities", "width, hidden units (log scale)", widths, log_x=True,
                )
            ],
            path,
            title=f"Part of the variance that is the seed's: {said or 'not known, trainings diverged'}",
            subtitle=f"{self.design.draws} disjoint sets of {self.set_size} x {self.design.seeds} seeds; "
            f"dots: what each set says (jackknife);\nbands: 95% intervals; "
            f"{self.base.train.length:,} {self.base.train.unit}",
            width=5.6,
        )  # fmt: skip


def sources_of(probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Sampling and initialisation variance, what each subset says of them, and their sum by another way.

    Args:
        probabilities: (S, R, N, K): S >= 3 subsets, R seeds on each, no seed on two subsets.

    Returns:
        ``sampling``, ``initialisation`` and ``total``; ``..._ends`` of their 95% intervals; ``..._points``, S jackknife
        pseudo-values each, whose mean is the estimate and whose t interval is that interval; ``of_pairs``, half the
        mean squared distance of two models that share neither subset nor seed.
    """
    from litmus.diagnosis.decomposition import variance_sources

    whole, num = variance_sources(probabilities), len(probabilities)
    without = [variance_sources(np.delete(probabilities, s, axis=0)) for s in range(num)]
    found: dict[str, Any] = {"of_pairs": between_subsets(probabilities)}
    for part in ("sampling", "initialisation", "total"):
        estimate = getattr(whole, part)
        found[part] = estimate.value
        found[f"{part}_ends"] = list(estimate.interval)
        found[f"{part}_points"] = [num * estimate.value - (num - 1) * getattr(one, part).value for one in without]
    return found


def between_subsets(probabilities: NDArray[np.float64]) -> float:
    """Half the mean squared distance, summed over classes and averaged over images, of models of two subsets."""
    num_subsets, num_seeds, num_images, _ = probabilities.shape
    flat = probabilities.reshape(num_subsets, num_seeds, -1)
    halves = [
        np.square(flat[s, :, None] - flat[t, None]).sum(axis=-1).mean() / 2 / num_images
        for s in range(num_subsets)
        for t in range(s)
    ]
    return float(np.mean(halves))


def share(table: Table, at: int) -> float:
    """The seed's part of the variance at a width."""
    return table["initialisation"][at] / table["total"][at] if table["total"][at] else math.nan
