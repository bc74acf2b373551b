"""Pictures of several runs side by side: their curves, their final errors, and the keys in which they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from litmus.diagnosis import style
from litmus.diagnosis.paired import interval
from litmus.diagnosis.plots import _scale_y, _whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, "#CC79A7", style.SKY, style.INK)
"""Of the first arms, in this order (Okabe & Ito 2008); further ones are grey."""
GREY = "#b5b5b5"
MOST_ROWS, MOST_KEYS = 30, 7
_FEWEST_FOR_A_BAND = 3  # the t interval of two seeds is 9 standard deviations wide to either side

History = Mapping[str, Sequence[tuple[float, float]]]
"""Metric -> (x, value) of one run."""


@dataclass(frozen=True)
class ArmErrors:
    """Final errors of one arm.

    Args:
        val: one for each seed, rates in [0, 1].
        test: likewise; empty where the runs were not tested.
        val_interval: 95%, around the mean; an end that is not finite is not drawn.
        test_interval: likewise.
        note: a word beside the row, such as the verdict.
    """

    name: str
    val: Sequence[float]
    test: Sequence[float] = ()
    val_interval: tuple[float, float] | None = None
    test_interval: tuple[float, float] | None = None
    note: str = ""


def curves(
    arms: Mapping[str, Sequence[History]],
    path: str | Path,
    *,
    title: str,
    unit: Literal["epochs", "steps"] = "epochs",
    svg: bool = False,
) -> Path:
    """``val/err``, ``val/loss`` and ``train/loss`` of every run, one panel each, one colour an arm.

    Thin lines are runs; the thick one is the mean over an arm's runs, as far as all of them go, with the 95% t interval
    of the mean as a band from three runs on. The first seven arms have colours, further ones are grey.

    Args:
        arms: name -> a history for each run; values that are not finite leave a hole.
        path: of the PNG.
        title: the message.
        unit: of x.

    Raises:
        ValueError: without a finite value.
    """
    panels = [name for name in ("val/err", "val/loss", "train/loss") if _any_finite(arms, name)]
    if not panels:
        raise ValueError("no finite value of val/err, val/loss or train/loss to draw")
    width, legend = 3.05, 2.35
    figure = style.new_figure(0.2 + len(panels) * (width + 0.85) + legend, 4.2)
    for column, metric in enumerate(panels):
        axes = style.add_axes(figure, 0.8 + column * (width + 0.85), 1.0, width, 2.6)
        drawn = [_draw_arm(axes, [_points(run, metric) for run in runs], i) for i, runs in enumerate(arms.values())]
        values = np.concatenate([points for arm in drawn for points in arm])
        scale = _scale_y(axes, values[:, 1], metric.partition("/")[2], 0.0)
        if axes.get_yscale() == "log":  # else a band that nears 0 presses the curves together
            axes.set_ylim(values[:, 1].min() / 1.25, values[:, 1].max() * 1.25)
        xs = values[:, 0]
        pad = 0.03 * (xs.max() - xs.min()) or 0.5
        axes.set_xlim(xs.min() - pad, xs.max() + pad)
        _whole_ticks(axes, xs)
        axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        what = "error rate" if metric.endswith("err") else "cross-entropy (nats)"
        style.name_axes(axes, "epoch" if unit == "epochs" else "optimizer step", what + scale)
        style.write(axes, 0, 1.03, metric, transform=axes.transAxes, weight="bold", va="bottom")
    _legend(figure, list(arms), 0.5 + len(panels) * (width + 0.85), 1.0, legend - 0.4)
    most = max(map(len, arms.values()))
    thick = "thin: runs; thick: mean over an arm's seeds, as far as all go" if most > 1 else "one run an arm"
    if most >= _FEWEST_FOR_A_BAND:
        thick += "; band: 95% t interval of the mean"
    style.write_title(figure, style.legible(title), thick)
    return style.save(figure, path, svg=svg)


def errors(arms: Sequence[ArmErrors], path: str | Path, *, title: str, reference: str = "", svg: bool = False) -> Path:
    """A row for each arm: a dot for each seed, the mean with its 95% interval; validation, and test beside it.

    Of more than 30 arms the best are drawn, and the reference.

    Raises:
        ValueError: without an arm.
    """
    if not arms:
        raise ValueError("there is no arm to draw")
    kept = sorted(arms, key=lambda arm: float(np.mean(arm.val)))[:MOST_ROWS]
    if reference and all(arm.name != reference for arm in kept):
        kept = [*kept[:-1], next(arm for arm in arms if arm.name == reference)]
    rows = [arm for arm in arms if any(arm is one for one in kept)]
    tested = any(arm.test for arm in rows)
    names = [style.fitted(style.legible(arm.name), 3.0, 8.5) for arm in rows]
    left = 0.35 + max(style.width_of(name, 8.5, bold=True) for name in names)
    notes = max([style.width_of(arm.note, 8) for arm in rows if arm.note], default=0.0)
    width, height = 3.6, 0.3 * len(rows) + 0.15
    figure = style.new_figure(max(left + (1 + tested) * (width + 0.35) + notes + 0.25, 6.5), height + 1.5)
    for column, split in enumerate(("val", "test") if tested else ("val",)):
        axes = style.add_axes(figure, left + column * (width + 0.35), 0.8, width, height)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        for row, arm in enumerate(rows):
            _draw_row(axes, row, arm, split, style.INK if arm.name == reference else style.BLUE)
        _error_axis(axes, rows, split)
        style.name_axes(axes, f"{split} error rate")
        if column == 0:
            beside = axes.get_yaxis_transform()
            for row, (arm, name) in enumerate(zip(rows, names, strict=True)):
                weight = "bold" if arm.name == reference else "normal"
                style.write(
                    axes, -0.12 / width, row, name, size=8.5, ha="right", va="center", transform=beside, weight=weight
                )
    last = figure.axes[-1]
    for row, arm in enumerate(rows):
        style.write(
            last, 1 + 0.1 / width, row, arm.note, size=8, color=style.SOFT, va="center",
            transform=last.get_yaxis_transform(),
        )  # fmt: skip
    left_out = f"; the best {len(rows)} of {len(arms)} arms" if len(rows) < len(arms) else ""
    test = "; hollow: test, reported only" if tested else ""
    bold = "; bold: the reference" if reference else ""
    beneath = f"dots: runs; tick: mean over seeds; line: 95% interval{test}{bold}{left_out}"
    style.write_title(figure, style.legible(title), beneath)
    return style.save(figure, path, svg=svg)


def parallel(
    rows: Sequence[Mapping[str, Any]], values: Sequence[float], path: str | Path, *, metric: str, svg: bool = False
) -> Path:
    """A line for each arm over the keys in which arms differ, by colour of its error; the best ones on top.

    Numbers have a scale, logarithmic over more than a factor of 20; all else stands in its places. Up to seven keys.

    Args:
        rows: key -> value for each arm; a key that an arm does not have is left out of it.
        values: the metric for each arm, lower being better.
        metric: its name.

    Raises:
        ValueError: without a key or an arm, or with a value that is not finite.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    heights = np.asarray(values, dtype=float)
    if not keys or len(heights) != len(rows) or not np.isfinite(heights).all():
        raise ValueError(f"{len(rows)} arms over {len(keys)} keys need as many finite values, got {list(values)}")
    shown = keys[:MOST_KEYS]
    spacing = max(1.55, 4.6 / len(shown))
    scales = [_Scale([row[key] for row in rows if key in row]) for key in shown]
    top = _Scale([float(value) for value in heights])
    absent = any(key not in row for row in rows for key in shown)
    width = spacing * len(shown)
    figure = style.new_figure(width + 1.9, 4.1)
    axes = style.add_axes(figure, 0.95, 1.15, width, 2.7, bare=True)
    axes.set(xlim=(0, len(shown)), ylim=(-0.16 if absent else -0.03, 1.03))
    colors = _shades(heights)
    order = np.argsort(-heights, kind="stable")
    for place, i in enumerate(order):
        shift = 0.05 * (place / max(len(order) - 1, 1) - 0.5)  # lines through one category would hide each other
        line = [
            scale.place(rows[i][key]) + shift * (scale.choices is not None) if key in rows[i] else -0.13
            for key, scale in zip(shown, scales, strict=True)
        ]
        best = heights[i] == heights.min()
        axes.plot(
            range(len(shown) + 1), [*line, top.place(float(heights[i]))], color=colors[i],
            linewidth=2.4 if best else 1.1, zorder=3 if best else 2, clip_on=False,
        )  # fmt: skip
    for column, (name, scale) in enumerate([*zip(shown, scales, strict=True), (metric, top)]):
        axes.plot([column, column], [0, 1], color=style.SOFT, linewidth=0.9, zorder=4, clip_on=False)
        fits = style.fitted(style.legible(name), spacing - 0.12, 8)
        style.write(axes, column, 1.09, fits, size=8, ha="center", va="bottom", weight="bold")
        for at, text in scale.ticks():
            style.write(
                axes, column + 0.08 / spacing, at, style.shortened(style.legible(text), 14), size=7, va="center",
                zorder=6, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6},
            )  # fmt: skip
    if absent:
        style.write(axes, -0.06, -0.13, "no such key", size=7, color=style.SOFT, ha="right", va="center")
    out = f"; {len(keys) - len(shown)} more keys left out" if len(keys) > len(shown) else ""
    beneath = f"a line is an arm; dark: lower {metric}, thick: the lowest{out}"
    title = f"{len(rows)} arms over {len(keys)} key{'s' * (len(keys) != 1)}: {metric} {style.number(heights.min())} to "
    style.write_title(figure, title + style.number(heights.max()), beneath)
    return style.save(figure, path, svg=svg)


class _Scale:
    """Places values on 0..1: numbers on a line, all else in a row."""

    def __init__(self, values: Sequence[Any]):
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        self.choices: list[str] | None = None
        self.log = False
        if len(numbers) < len(values):
            self.choices = list(dict.fromkeys(map(_word, values)))
            return
        self.low, self.high = float(min(numbers)), float(max(numbers))
        self.log = self.low > 0 and self.high / self.low > 20
        self.seen = sorted(set(map(float, numbers)))

    def place(self, value: Any) -> float:
        if self.choices is not None:
            return self.choices.index(_word(value)) / max(len(self.choices) - 1, 1) if len(self.choices) > 1 else 0.5
        if self.high <= self.low:
            return 0.5
        scale = np.log if self.log else float
        return float((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low)))

    def ticks(self) -> list[tuple[float, str]]:
        """The values themselves where they are few and apart, else the ends and what lies well between."""
        if self.choices is not None:
            every = -(-len(self.choices) // 12)
            return [(self.place(one), one) for one in self.choices[::every]]
        kept: list[float] = []
        for value in [self.low, self.high, *self.seen]:
            if all(abs(self.place(value) - self.place(one)) > 0.09 for one in kept):
                kept.append(value)
        return [(self.place(value), style.number(value) if value < 1000 else f"{value:,.0f}") for value in kept]


def _word(value: Any) -> str:
    """As it would be typed: ``true``, ``null``, ``adam``."""
    return value if isinstance(value, str) else json.dumps(value)


def _any_finite(arms: Mapping[str, Sequence[History]], metric: str) -> bool:
    return any(len(_finite(_points(run, metric))) for runs in arms.values() for run in runs)


def _points(run: History, metric: str) -> NDArray[np.float64]:
    return np.array(run.get(metric, ()), dtype=float).reshape(-1, 2)


def _finite(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.isfinite(points).all(axis=1)]


def _draw_arm(axes: Axes, runs: Sequence[NDArray[np.float64]], number: int) -> list[NDArray[np.float64]]:
    """Draws one arm; returns the finite points of each of its runs."""
    color = COLORS[number] if number < len(COLORS) else GREY
    above = 20 - min(number, 10)
    alone = len(runs) == 1
    for points in runs:
        axes.plot(
            points[:, 0], points[:, 1], color=color, linewidth=1.6 if alone else 0.7, alpha=1.0 if alone else 0.45,
            marker="o" if len(points) <= 2 else "", markersize=3.5, zorder=above if alone else above - 11,
        )  # fmt: skip
    if not alone:
        xs, means, low, high = _mean_of(runs)
        axes.plot(
            xs, means, color=color, linewidth=2.0 if color != GREY else 1.0, zorder=above,
            marker="o" if len(xs) <= 2 else "", markersize=5,
        )  # fmt: skip
        if len(runs) >= _FEWEST_FOR_A_BAND:
            axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0, zorder=above - 12)
    return [_finite(points) for points in runs]


def _mean_of(runs: Sequence[NDArray[np.float64]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """x, mean, low and high of the 95% interval, where every run has a finite value."""
    found = [dict(_finite(points).tolist()) for points in runs]
    xs = sorted(set.intersection(*(set(one) for one in found)))
    rows = [interval([one[x] for one in found]) for x in xs]
    return xs, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _legend(figure: Figure, names: Sequence[str], left: float, top: float, width: float) -> None:
    canvas = style.add_axes(figure, left, top, width, 3.0, bare=True)
    canvas.set(xlim=(0, width), ylim=(3.0, 0))
    for i, name in enumerate(names[: len(COLORS)]):
        y = 0.1 + 0.26 * i
        canvas.plot([0.02, 0.24], [y, y], color=COLORS[i], linewidth=2.4, solid_capstyle="round")
        text = style.fitted(style.legible(name), width - 0.42, 8.5)
        style.write(canvas, 0.32, y, text, size=8.5, color=style.INK, va="center")
    if len(names) > len(COLORS):
        y = 0.1 + 0.26 * len(COLORS)
        canvas.plot([0.02, 0.24], [y, y], color=GREY, linewidth=2.4, solid_capstyle="round")
        more = len(names) - len(COLORS)
        style.write(canvas, 0.32, y, f"{more} more arm{'s' * (more != 1)}", size=8.5, color=style.SOFT, va="center")


def _draw_row(axes: Axes, row: int, arm: ArmErrors, split: str, color: str) -> None:
    values = np.array(arm.val if split == "val" else arm.test, dtype=float)
    if not len(values):
        return
    around = arm.val_interval if split == "val" else arm.test_interval
    if around is not None and np.isfinite(around).all():
        axes.plot(around, [row, row], color=color, linewidth=1.4, alpha=0.55, zorder=2, solid_capstyle="butt")
    spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(1)
    how: Any = {"facecolors": color if split == "val" else "white", "edgecolors": color if split == "test" else "white"}
    axes.scatter(values, row + spread, s=20, linewidths=0.9 if split == "test" else 0.5, zorder=4, **how)
    if len(values) > 1:
        mean = values.mean()
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=color, linewidth=2.0, zorder=3, solid_capstyle="butt")


def _error_axis(axes: Axes, rows: Sequence[ArmErrors], split: str) -> None:
    """From what is drawn; wide intervals of few seeds are cut off at the frame rather than press the dots together."""
    dots = np.array([value for arm in rows for value in (arm.val if split == "val" else arm.test)], dtype=float)
    if not len(dots):
        axes.set(xticks=[])
        return
    low, high = float(dots.min()), float(dots.max())
    around = [arm.val_interval if split == "val" else arm.test_interval for arm in rows]
    finite = [one for one in around if one is not None and np.isfinite(one).all()]
    ends = [end for one in finite for end in one]
    usual = float(np.median([end - begin for begin, end in finite])) if finite else 0.0
    room = max(0.8 * (high - low), usual) or 0.2 * high or 0.01
    left = max(min([low - 0.1 * room, *ends]), low - room, 0.0)
    right = min(max([high + 0.1 * room, *ends]), high + room, 1.0)
    axes.set_xlim(left - 0.03 * (right - left), right + 0.03 * (right - left))
    axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _shades(values: NDArray[np.float64]) -> list[str]:
    """Dark for low, by rank: a single bad arm would make all others one shade. Equal values have one."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ranks = np.unique(values, return_inverse=True)[1]
    return [to_hex(colormaps["viridis"](0.92 * rank / max(ranks.max(), 1))) for rank in ranks]
