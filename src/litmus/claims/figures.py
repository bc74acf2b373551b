"""The two figures that claims are drawn as, in one style: arms side by side, and curves over a setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from litmus.claims.lines import Lines, draw_lines
from litmus.diagnosis import style
from litmus.diagnosis.paired import interval

COLORS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.SKY, "#CC79A7", style.INK, style.SOFT)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A series is told by its marker too: in grey print, and by who sees colours otherwise."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        series: name -> values. Over ``x``: (seeds, len(x)), or (len(x),) for what is exact. Side by side: one row of
            seeds for each name.
        x: the setting, numbers; None for arms side by side.
        lines: level -> what it is, drawn across: a published number, a bound.
        log_x, log_y: logarithmic axes; of ``x`` the 0 is put to the left of the smallest.
        unfinished: what a NaN means, said where there is one.
    """

    series: Mapping[str, Any]
    y: str
    x_name: str = ""
    x: Sequence[float] | None = None
    lines: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    title: str = ""
    unfinished: str = "diverged"


def draw(
    panels: Sequence[Panel | Lines], path: str | Path, *, title: str, subtitle: str = "", width: float = 4.0
) -> Path:
    """The panels in a row, under one message. PNG, and an SVG of the same name beside it."""
    gap = 0.75
    longest = [max(map(len, names_beside(panel)), default=0) for panel in panels]
    room = [min(2.2, 0.35 + 0.075 * letters) if letters else 0.25 for letters in longest]
    total = 0.2 + sum(gap + width + beside_it for beside_it in room)
    below = 0.95 if any(side_by_side(panel) for panel in panels) else 0.7
    tall = 2.6
    lines = max(1, subtitle.count("\n") + 1) if subtitle else 0
    top = 0.55 + 0.17 * lines + (0.25 if any(panel.title for panel in panels) else 0.1)
    figure = style.new_figure(max(total, 6.0), top + tall + below)
    style.write_title(figure, title, subtitle)
    left = 0.2
    for panel, beside_it in zip(panels, room, strict=True):
        axes = style.add_axes(figure, left + gap - 0.1, top, width, tall)
        if panel.title:
            style.write(axes, 0, 1.04, panel.title, size=9, weight="bold", transform=axes.transAxes)
        if isinstance(panel, Lines):
            draw_lines(axes, panel, {name: (color, marker) for name, color, marker, _ in _styled(panel)})
        elif panel.x is None:
            _side_by_side(axes, panel)
        else:
            _over(axes, panel)
        left += gap + width + beside_it
    return style.save(figure, path, svg=True)


def names_beside(panel: Panel | Lines) -> list[str]:
    """Of the curves that are named at their ends."""
    if isinstance(panel, Lines):
        return [name for name, line in panel.series.items() if panel.ends and not line.faint]
    return [] if panel.x is None else list(panel.series)


def side_by_side(panel: Panel | Lines) -> bool:
    return isinstance(panel, Panel) and panel.x is None


def _over(axes: Any, panel: Panel) -> None:
    assert panel.x is not None
    at, ticks = _places(panel.x, log=panel.log_x)
    axes.set_xlim(at[0] - 0.04 * (at[-1] - at[0] or 1), at[-1] + 0.04 * (at[-1] - at[0] or 1))
    axes.set_xticks(at if len(at) <= 9 else at[:: math.ceil(len(at) / 8)])
    shown = ticks if len(at) <= 9 else ticks[:: math.ceil(len(at) / 8)]
    axes.set_xticklabels(shown, family=style.FONT, fontsize=8)
    _scale_y(axes, panel)
    ends = []
    for name, color, marker, values in _styled(panel):
        rows = np.atleast_2d(np.asarray(values, dtype=float))
        means, low, high = (np.array(column) for column in zip(*(_interval(column) for column in rows.T), strict=True))
        if len(rows) > 1:
            axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0, zorder=1)
            for row in rows:
                axes.plot(at, row, linestyle="", marker=".", markersize=3, color=color, alpha=0.5, zorder=2)
        axes.plot(at, means, color=color, linewidth=1.6, marker=marker, markersize=4.5, zorder=3)
        last = next((value for value in means[::-1] if math.isfinite(value)), math.nan)
        if math.isfinite(last):
            ends.append((float(last), name, color))
    _mark_lines(axes, panel)
    style.name_axes(axes, panel.x_name, panel.y)
    _say_lost(axes, panel)
    style.label_ends(axes, ends)


def _side_by_side(axes: Any, panel: Panel) -> None:
    names = list(panel.series)
    axes.set_xlim(-0.6, len(names) - 0.4)
    _scale_y(axes, panel)
    generator = np.random.default_rng(0)
    for at, (_, color, marker, values) in enumerate(_styled(panel)):
        row = np.asarray(values, dtype=float).reshape(-1)
        mean, low, high = _interval(row)
        scatter = at - 0.18 + 0.1 * (generator.random(len(row)) - 0.5)
        axes.plot(scatter, row, linestyle="", marker=".", markersize=5, color=color, alpha=0.6, zorder=2)
        if math.isfinite(low) and low < high:
            axes.vlines(at + 0.1, low, high, color=color, linewidth=2, zorder=3)
        axes.plot([at + 0.1], [mean], marker=marker, markersize=6, color=color, zorder=4)
    _mark_lines(axes, panel)
    axes.set_xticks(range(len(names)))
    turned = max(map(len, names), default=0) * len(names) > 44
    labels = [style.shortened(style.legible(name), 22) for name in names]
    how = {"rotation": 25, "ha": "right"} if turned else {}
    axes.set_xticklabels(labels, family=style.FONT, fontsize=8, color=style.INK, **how)
    style.name_axes(axes, panel.x_name, panel.y)
    _say_lost(axes, panel)


def _styled(panel: Panel | Lines) -> list[tuple[str, str, str, Any]]:
    return [
        (name, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], values)
        for i, (name, values) in enumerate(panel.series.items())
    ]


def _interval(values: Any) -> tuple[float, float, float]:
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return (math.nan,) * 3
    mean, low, high = interval(finite)
    return (mean, low, high) if len(finite) > 1 else (mean, mean, mean)


def _places(x: Sequence[float], *, log: bool) -> tuple[list[float], list[str]]:
    """Where each value stands, and its label; on a logarithmic axis a leading 0 one step to the left."""
    labels = [f"{value:,.4g}" for value in x]
    if not log:
        return [float(value) for value in x], labels
    positive = [math.log10(value) for value in x if value > 0]
    step = (positive[-1] - positive[0]) / max(len(positive) - 1, 1) or 1.0
    zeros = len(x) - len(positive)
    return [positive[0] - step * (zeros - i) for i in range(zeros)] + positive, labels


def _scale_y(axes: Any, panel: Panel) -> None:
    values = [np.asarray(rows, dtype=float).reshape(-1) for rows in panel.series.values()]
    seen = np.concatenate([*values, np.array(list(panel.lines.values()), dtype=float)])
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        seen = np.array([0.0, 1.0])
    if panel.log_y and (seen > 0).any():
        seen = seen[seen > 0]
        axes.set_yscale("log")
        axes.set_ylim(seen.min() / 1.4, seen.max() * 1.4)
        return
    low, high = float(seen.min()), float(seen.max())
    pad = 0.06 * (high - low or abs(high) or 1)
    axes.set_ylim(0 if 0 <= low < 0.35 * high else low - pad, high + pad)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _mark_lines(axes: Any, panel: Panel) -> None:
    for name, level in panel.lines.items():
        axes.axhline(level, color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            style.legible(name), (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", fontsize=7.5, color=style.SOFT, family=style.FONT, parse_math=False,
        )  # fmt: skip


def _say_lost(axes: Any, panel: Panel) -> None:
    lost = [
        f"{name} {int(np.isnan(np.asarray(values, dtype=float)).sum())}"
        for name, values in panel.series.items()
        if np.isnan(np.asarray(values, dtype=float)).any()
    ]
    if lost:
        text = style.shortened(f"{panel.unfinished}: {', '.join(lost)}", 60)
        style.write(axes, 0.99, 0.98, text, size=7.5, color=style.SOFT, ha="right", va="top", transform=axes.transAxes)
