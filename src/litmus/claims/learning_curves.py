"""Claims on the number of training images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, in_seeds, mean_of, reported, within
from litmus.config import Numbers, RunConfig, Section, WholeNumbers
from litmus.config.claim import Texts, claim_base
from litmus.curve import Design, name_of
from litmus.diagnosis import style
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed
from litmus.sweep.engine import Done

NET, SMALL = "base", "small"
SPLITS = {"train": "train_eval", "val": "val"}


class MoreData(Claim):
    """Error of a network, and of one that is too small, over nested training sets; the largest foretold.

    Early stopping is the base's, none where it has none: with a rate that decays, a criterion that sees the noise of
    the first half would end the trainings of some sizes there.
    """

    class Settings(Section):
        sizes: WholeNumbers
        """Rising, at least five of them; each at most 4 times the one before, as far as a law is trusted."""
        needed: int
        """Seeds in which the forecast has to hold."""
        slope: Numbers
        """Between which two numbers the slope of log err against log n has to lie."""
        small: Texts
        """Overrides that make the network too small."""

    def __init__(self, spec: Any):
        super().__init__(spec)
        sizes, slope = list(self.settings.sizes), list(self.settings.slope)
        if sizes != sorted(set(sizes)) or len(sizes) < 5 or sizes[0] < 1:
            raise self.refuse("sizes", "must be >= 1 and rise, at least five of them", sizes)
        if sizes[-1] > 4 * sizes[-2]:
            raise self.refuse(
                "sizes", "the largest is at most 4 times the one before: no law is trusted further", sizes
            )
        if not 1 <= self.settings.needed <= spec.seeds:
            raise self.refuse("needed", f"must lie in [1, seeds = {spec.seeds}]", self.settings.needed)
        if len(slope) != 2 or slope[0] >= slope[1]:
            raise self.refuse("slope", "is a lower and an upper bound", slope)
        self.design = Design(sizes=self.settings.sizes, seeds=spec.seeds)

    def configs(self) -> dict[str, RunConfig]:
        small = self.spec.model_copy(update={"base": (*self.spec.base, *self.settings.small)})
        return {NET: self.base, SMALL: claim_base(small, source=f"claim {self.spec.name}: settings.small")}

    def cells(self) -> list[Cell]:
        found = []
        for label, config in self.configs().items():
            if config.train.unit != "steps":
                raise self.refuse_base("train.epochs", "equal steps are wanted: set train.steps", config.train.length)
            cells = self.design.cells(config, self.settings.sizes, self.settings.sizes[-1])
            found += [
                replace(
                    cell,
                    name=f"{label}, {cell.name}",
                    config=changed(cell.config, {"early_stopping": config.early_stopping}),
                )
                for cell in cells
            ]
        return found

    def refuse_base(self, key: str, says: str, value: Any) -> Exception:
        from litmus.errors import refuse

        return refuse(f"base: {key}", says, value, source=f"claim {self.spec.name}")

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"sizes": list(self.settings.sizes), "rows": [], "arms": {}, "num_val": 0}
        for label in self.configs():
            arm: dict[str, list[list[float]]] = {name: [] for name in SPLITS}
            for size in self.settings.sizes:
                of_size = [done[f"{label}, {name_of(size, seed)}"] for seed in self.seeds]
                results = [None if one.diverged else one.result() for one in of_size]
                for name, split in SPLITS.items():
                    arm[name].append([math.nan if one is None else one[split]["err"] for one in results])
                table["num_val"] = max(table["num_val"], *(one["val"]["num_images"] for one in results if one), 0)
                table["rows"] += [
                    {"network": label, "images": size, "seed": seed, **{name: arm[name][-1][seed] for name in SPLITS}}
                    for seed in self.seeds
                ]
            table["arms"][label] = arm
        return table

    def judge(self, table: Table) -> list[Evidence]:
        sizes, val = table["sizes"], np.array(table["arms"][NET]["val"], dtype=float)
        what = f"{sizes[-1]:,} images foretold by the law of the others, nearer than by the last value"
        low, high = self.settings.slope
        slopes = slopes_of(sizes, val)
        held = held_out(table)
        if held is None:
            lost = f"{int(np.isnan(val).sum())} trainings diverged"
            found = [Evidence(what, "inconclusive", lost)]
        else:
            one = in_seeds(what, held.per_seed, needed=self.settings.needed)
            found = [one, reported("over the means", held.sentence)]
        finite = [slope for slope in slopes if math.isfinite(slope)]
        name = f"slope of log err against log n between {low:g} and {high:g}"
        whole = len(finite) == len(slopes)
        found.append(within(name, slopes, low, high) if whole else Evidence(name, "inconclusive", mean_of(slopes)))
        small = table["arms"][SMALL]
        for name, at in (("fewest", 0), ("most", -1)):
            found.append(
                reported(
                    f"too small a network, {name} images",
                    f"train/err {mean_of(small['train'][at])}, val/err {mean_of(small['val'][at])}, slope "
                    f"{mean_of(slopes_of(sizes, small['val']))}",
                )
            )
        return found

    def draw(self, table: Table, path: Path) -> Path:
        held = held_out(table)
        title = "No forecast: trainings diverged"
        if held is not None:
            right = sum(held.per_seed)
            title = f"Foretold {held.predicted:.3f} and measured {held.err:.3f} at {held.size:,} images"
            title += f"; in {right} of {len(held.per_seed)} seeds it holds"
        train, stop = self.base.train, self.base.early_stopping
        length = f"at most {train.length:,}, early stopping ({stop.name})" if stop else f"{train.length:,} each"
        figure = style.new_figure(10.4, 4.2)
        style.write_title(
            figure,
            title,
            f"Nested, stratified sets, others for each of {len(self.seeds)} seeds (dots); equal steps: {length}, "
            f"{self.base.checkpoint.evaluate} weights",
        )
        for at, (label, head) in enumerate(((NET, self.named(NET)), (SMALL, self.named(SMALL)))):
            axes = style.add_axes(figure, 0.75 + 5.2 * at, 1.05, 3.6, 2.5)
            style.write(axes, 0, 1.05, head, size=9, weight="bold", transform=axes.transAxes)
            draw_arm(axes, table["sizes"], table["arms"][label], table["num_val"] if label == NET and held else 0)
        return style.save(figure, path, svg=True)

    def named(self, label: str) -> str:
        model = self.configs()[label].model
        sizes = [f"{key} {getattr(model, key)}" for key in ("depth", "width") if hasattr(model, key)]
        return style.legible(f"{model.name}, {', '.join(sizes)}")


def held_out(table: Table) -> Any:
    """The forecast of the largest size, ``HeldOut``; None where trainings diverged."""
    from litmus.diagnosis.power_law import check_held_out

    errs = np.array(table["arms"][NET]["val"], dtype=float)
    if not np.isfinite(errs).all():
        return None
    found = check_held_out(table["sizes"], errs, table["num_val"])
    return found if hasattr(found, "per_seed") else None


def slopes_of(sizes: Sequence[int], errs: Any) -> list[float]:
    """Slope of log err against log n, for each seed; NaN with an error that is 0 or missing.

    Args:
        errs: (sizes, seeds) rates.
    """
    rates: NDArray[np.float64] = np.asarray(errs, dtype=float)
    x = np.log(sizes)
    return [
        float(np.polyfit(x, np.log(column), 1)[0]) if (column > 0).all() and np.isfinite(column).all() else math.nan
        for column in rates.T
    ]


def draw_arm(axes: Any, sizes: Sequence[int], arm: Mapping[str, Any], num_val: int) -> None:
    """Train and validation error on two logarithmic axes; with ``num_val`` > 0 the law and its forecast too."""
    from litmus.diagnosis.paired import interval
    from litmus.diagnosis.power_law import PowerLaw, check_held_out, fit_power_law

    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    ends, seen = [], [0.0]
    for name, color, marker in (("train", style.TRAIN, "s"), ("val", style.VAL, "o")):
        rows = np.array(arm[name], dtype=float)
        seen += rows[np.isfinite(rows)].tolist()
        means = []
        for size, row in zip(sizes, rows, strict=True):
            finite = row[np.isfinite(row)]
            mean, low, high = interval(finite.tolist()) if len(finite) else (math.nan,) * 3
            means.append(mean)
            axes.plot([size / 1.06] * len(finite), finite, ".", color=color, markersize=3.5, alpha=0.6, zorder=3)
            if len(finite) > 1:
                axes.vlines(size, low, high, color=color, linewidth=1.5, zorder=3)
        axes.plot(sizes, means, color=color, marker=marker, markersize=4.5, linewidth=1.4, zorder=4)
        last = next((mean for mean in reversed(means) if math.isfinite(mean)), None)
        if last is not None:
            ends.append((last, name, color))
    if num_val:
        val = np.array(arm["val"], dtype=float)
        law, held = fit_power_law(sizes[:-1], val[:-1], num_val), check_held_out(sizes, val, num_val)
        if isinstance(law, PowerLaw) and hasattr(held, "interval"):
            n = np.geomspace(sizes[0], sizes[-1], 60).clip(sizes[0], sizes[-1])
            axes.plot(n, [law.predict(one) for one in n], color=style.INK, linewidth=1, linestyle=(0, (4, 3)), zorder=5)
            axes.vlines(sizes[-1] * 1.06, *held.interval, color=style.INK, linewidth=1.5, zorder=5)
            text = "dashed: law of all sizes but the largest,\nbar: its 95% forecast there"
            style.write(axes, 0.98, 0.97, text, size=7.5, ha="right", va="top", transform=axes.transAxes)
            seen += list(held.interval)
    axes.set_ylim(0, 1.25 * max(seen) or 1)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for label in axes.get_xticklabels():
        label.set(rotation=40, ha="right")
    style.name_axes(axes, "training images (log scale)", "error rate")
    style.label_ends(axes, ends)
