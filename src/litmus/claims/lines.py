"""Curves that do not share their places: each with its own x, beside single results that are marked on top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from litmus.diagnosis import style
from litmus.diagnosis.paired import interval

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
"""Of the curves in turn: colours are seven, and told apart by these too."""


@dataclass(frozen=True)
class Line:
    """Values over ``x``: (len(x),), or (seeds, len(x)) drawn as their mean and its 95% band."""

    x: Sequence[float]
    y: Any
    dots: bool = True
    """A marker at each value, for curves of few values."""
    faint: bool = False
    """Thin and grey: what a formula says, beside what was found."""


@dataclass(frozen=True)
class Mark:
    """Single results at one place: a dot a seed, their mean larger, with its 95% interval.

    Attributes:
        of: the series whose colour it takes.
        hollow: of a second kind; ``Lines.legend`` says which.
    """

    of: str
    x: float
    y: Sequence[float]
    hollow: bool = False


@dataclass(frozen=True)
class Lines:
    """One pair of axes.

    Attributes:
        top, bottom: ends of the y axis; what lies beyond is drawn at the edge.
        lines: name -> level, drawn across.
        legend: what stands in the upper left corner, a line each.
        unfinished: what the crosses at the upper edge mean, where a curve has no number; said where there are any.
    """

    series: Mapping[str, Line]
    y: str
    x_name: str
    marks: Sequence[Mark] = ()
    lines: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    top: float | None = None
    bottom: float | None = None
    title: str = ""
    legend: Sequence[str] = ()
    unfinished: str = "crosses: diverged"
    ends: bool = True
    """Names at the right of the curves; else none, for a panel whose neighbour has them."""


def draw_lines(axes: Any, panel: Lines, styled: Mapping[str, tuple[str, str]]) -> None:
    """Into axes that exist. ``styled``: name -> (colour, marker)."""
    low, high = _ends(panel)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(*_across(panel))
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    ends, lost = [], False
    for at, (name, line) in enumerate(panel.series.items()):
        color, marker = (style.SOFT, "") if line.faint else styled[name]
        rows = np.atleast_2d(np.asarray(line.y, dtype=float))
        means, lows, highs = (np.array(part) for part in zip(*map(_interval, rows.T), strict=True))
        if len(rows) > 1:
            axes.fill_between(line.x, _held(lows, low, high), _held(highs, low, high), color=color, alpha=0.15, lw=0)
        dash: Any = (0, (4, 3)) if line.faint else DASHES[at % len(DASHES)] if not line.dots else "-"
        axes.plot(
            line.x, _held(means, low, high), color=color, linestyle=dash, linewidth=1 if line.faint else 1.6,
            marker=marker if line.dots else "", markersize=4, zorder=2 if line.faint else 3,
        )  # fmt: skip
        if not line.faint and (gone := [x for x, mean in zip(line.x, means, strict=True) if not math.isfinite(mean)]):
            lost = True
            axes.plot(gone, [high] * len(gone), "x", color=color, markersize=6, mew=1.6, clip_on=False, zorder=5)
        last = next((value for value in means[::-1] if math.isfinite(value)), math.nan)
        if math.isfinite(last) and not line.faint:
            ends.append((float(np.clip(last, low, high)), name, color))
    for mark in panel.marks:
        _draw_mark(axes, mark, styled[mark.of], low, high)
    for name, level in panel.lines.items():
        axes.axhline(level, color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            style.legible(name), (0.99, level), xycoords=("axes fraction", "data"), xytext=(0, 2.5), ha="right",
            textcoords="offset points", fontsize=7.5, color=style.SOFT, family=style.FONT, parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.3, "lw": 0},
        )  # fmt: skip
    for at, text in enumerate([*panel.legend, *([panel.unfinished] if lost else [])]):
        style.write(axes, 0.02, 0.93 - 0.06 * at, text, size=7.5, color=style.SOFT, va="top", transform=axes.transAxes)
    if panel.log_y:
        _label_decades(axes, low, high)
    style.name_axes(axes, panel.x_name, panel.y)
    if panel.ends:
        style.label_ends(axes, ends)


def _draw_mark(axes: Any, mark: Mark, styled: tuple[str, str], low: float, high: float) -> None:
    color, marker = styled
    values = _held(np.asarray(mark.y, dtype=float), low, high)
    if not np.isfinite(values).any():
        return
    mean, left, right = _interval(values)
    axes.plot([mark.x] * len(values), values, linestyle="", marker=".", markersize=4, color=color, alpha=0.6, zorder=4)
    if left < right:
        axes.vlines(mark.x, *_held(np.array([left, right]), low, high), color=color, linewidth=1.8, zorder=4)
    face = "white" if mark.hollow else color
    axes.plot([mark.x], [mean], marker=marker, markersize=9, color=face, markeredgecolor=color, zorder=5, mew=1.6)


def _interval(values: Any) -> tuple[float, float, float]:
    finite = [float(value) for value in np.asarray(values, dtype=float).reshape(-1) if math.isfinite(value)]
    if not finite:
        return (math.nan,) * 3
    return interval(finite) if len(finite) > 1 else (finite[0],) * 3


def _held(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What lies beyond the axes at their edge; NaN stays."""
    return np.clip(values, low, high)


def _ends(panel: Lines) -> tuple[float, float]:
    parts = [np.asarray(line.y, dtype=float).reshape(-1) for line in panel.series.values()]
    parts += [np.asarray(mark.y, dtype=float) for mark in panel.marks] + [np.array(list(panel.lines.values()))]
    seen = np.concatenate(parts) if parts else np.array([])
    seen = seen[np.isfinite(seen)]
    if panel.log_y:
        seen = seen[seen > 0]
    if not len(seen):
        return (0.1, 1.0) if panel.log_y else (0.0, 1.0)
    low, high = float(seen.min()), float(seen.max())
    if panel.log_y:
        low, high = low / 1.3, high * 1.3
    else:
        pad = 0.06 * (high - low or abs(high) or 1)
        low, high = (0.0 if 0 <= low < 0.35 * high else low - pad), high + pad
    return (panel.bottom if panel.bottom is not None else low), (panel.top if panel.top is not None else high)


def _label_decades(axes: Any, low: float, high: float) -> None:
    """Ticks at 1, 2, 5, 10, ... where the axis has fewer than two decades, which would show one number or none."""
    if high / low >= 100:
        return
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], family=style.FONT, fontsize=8)


def _across(panel: Lines) -> tuple[float, float]:
    seen = np.concatenate(
        [np.asarray(line.x, dtype=float) for line in panel.series.values()]
        + [np.array([mark.x for mark in panel.marks], dtype=float)]
    )
    seen = seen[seen > 0] if panel.log_x else seen
    if not len(seen):
        return 0.1, 1.0
    low, high = float(seen.min()), float(seen.max())
    if panel.log_x:
        margin = (high / low) ** 0.04 if high > low else 1.5
        return low / margin, high * margin
    margin = 0.03 * (high - low or abs(high) or 1)
    return low - margin, high + margin
