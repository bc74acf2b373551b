"""Trainings as points in the plane of avoidable bias and generalisation gap, where the tolerance draws four boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from litmus.claims.figures import COLORS, MARKERS
from litmus.diagnosis import style

BOXES = {
    (False, False): "low bias, low variance",
    (True, False): "high bias",
    (False, True): "high variance",
    (True, True): "high bias, high variance",
}
"""(bias is high, gap is high) -> the verdict there."""
BEHIND = {"color": "white", "alpha": 0.7, "pad": 0.5}
TICKS = (0.0, 0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Group:
    """Trainings of one config, a seed each; NaN where one diverged.

    Attributes:
        bias, gap: (seeds,) rates.
        bias_ends, gap_ends: (seeds, 2) ends of their intervals.
    """

    bias: Sequence[float]
    gap: Sequence[float]
    bias_ends: Sequence[Sequence[float]]
    gap_ends: Sequence[Sequence[float]]


def draw_plane(
    groups: Mapping[str, Group],
    path: str | Path,
    *,
    tolerance: float,
    title: str,
    subtitle: str = "",
    joined: bool = False,
) -> Path:
    """Every training with its two intervals, on axes of square roots, which leave the small box its room.

    Args:
        groups: name -> trainings; named beside the figure, in this order.
        tolerance: largest gap that is small: the border of the boxes, on both axes.
        joined: the groups follow one another: arrows lead from mean to mean, and they are numbered.

    Returns:
        The PNG's path; an SVG of the same name lies beside it.
    """
    names = [
        style.legible(f"{at}. {name}" if joined else name) + _lost(group)
        for at, (name, group) in enumerate(groups.items(), 1)
    ]
    beside = min(3.2, max((style.width_of(name, 8.5, bold=True) for name in names), default=0) + 0.5)
    wide, tall, left, top = 5.2, 3.6, 0.85, 0.8
    figure = style.new_figure(left + wide + 0.3 + beside, top + tall + 0.65)
    style.write_title(figure, title, subtitle)
    axes = style.add_axes(figure, left, top, wide, tall)
    points = list(groups.values())
    for which, setter, ticks in (("bias", axes.set_xlim, axes.set_xticks), ("gap", axes.set_ylim, axes.set_yticks)):
        low, high = _limits(points, which, tolerance)
        setter(low, high)
        shown = [tick for tick in TICKS if _root(tick) <= high and (tick == 0 or tick >= tolerance)]
        ticks([_root(tick) for tick in shown], [f"{tick:g}" for tick in shown])
    _boxes(axes, tolerance)
    style.name_axes(axes, "avoidable bias: training error above the target", "gap: validation less training error")
    for at, (group, color, marker) in enumerate(
        zip(points, _cycle(COLORS, points), _cycle(MARKERS, points), strict=True)
    ):
        bias, gap = _root(group.bias), _root(group.gap)
        axes.hlines(gap, *_root(group.bias_ends).T, color=color, linewidth=1, alpha=0.55, zorder=2)
        axes.vlines(bias, *_root(group.gap_ends).T, color=color, linewidth=1, alpha=0.55, zorder=2)
        axes.plot(bias, gap, linestyle="", marker=marker, markersize=6, color=color, markeredgecolor="white",
                  markeredgewidth=0.6, zorder=4)  # fmt: skip
        _name(figure, left + wide + 0.3, top + 0.15 + 0.26 * at, names[at], color, marker)
    if joined:
        _arrows(axes, points)
    return style.save(figure, path, svg=True)


def _cycle(items: Sequence[str], like: Sequence[Any]) -> list[str]:
    return [items[at % len(items)] for at in range(len(like))]


def _root(values: Any) -> Any:
    """Signed square root: a gap can lie below 0 by chance."""
    array = np.asarray(values, dtype=float)
    return np.sign(array) * np.sqrt(np.abs(array))


def _limits(points: Sequence[Group], which: str, tolerance: float) -> tuple[float, float]:
    ends = np.concatenate([np.ravel(getattr(group, f"{which}_ends")) for group in points] or [np.zeros(0)])
    seen = ends[np.isfinite(ends)]
    low, high = min(0.0, *seen, 0.0), max(4 * tolerance, *seen, 0.0)
    low, high = float(_root(low)), float(_root(high))
    return low - (0.16 if which == "gap" else 0.05) * (high - low), high + 0.05 * (high - low)


def _boxes(axes: Any, tolerance: float) -> None:
    border = float(_root(tolerance))
    axes.axvline(border, color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.axhline(border, color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    (left, right), (low, top) = axes.get_xlim(), axes.get_ylim()
    for (bias, gap), name in BOXES.items():
        x = 0.985 if bias else (border - left) / (right - left) / 2
        y = (border - low) / (top - low) + 0.015 if gap else 0.02
        text = name if bias else name.replace(", ", ",\n").replace("high variance", "high\nvariance")
        style.write(axes, x, y, text, size=8, color=style.SOFT, ha="right" if bias else "center", va="bottom",
                    transform=axes.transAxes, zorder=1.5, bbox=BEHIND)  # fmt: skip


def _lost(group: Group) -> str:
    lost = sum(not math.isfinite(value) for value in group.bias)
    return f" ({lost} diverged)" if lost else ""


def _name(figure: Any, left: float, top: float, name: str, color: str, marker: str) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    text = style.fitted(name, width - left - 0.25, 8.5, bold=True)
    place = Line2D([(left + 0.06) / width], [1 - top / height], marker=marker, markersize=6, color=color,
                   linestyle="", transform=figure.transFigure)  # fmt: skip
    figure.add_artist(place)
    style.write(figure, (left + 0.2) / width, 1 - top / height, text, size=8.5, color=color, va="center", weight="bold")


def _arrows(axes: Any, points: Sequence[Group]) -> None:
    """From mean to mean of what did not diverge."""
    means = []
    for group in points:
        both = np.array([group.bias, group.gap], dtype=float)
        both = both[:, np.isfinite(both).all(axis=0)]
        if both.size:
            means.append(_root(both.mean(axis=1)))
    for start, end in pairwise(means):
        arrow = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.1, "alpha": 0.75, "shrinkA": 5, "shrinkB": 6}
        axes.annotate("", end, start, arrowprops=arrow, zorder=3)
