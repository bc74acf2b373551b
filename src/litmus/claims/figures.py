"""The figures that claims are drawn as, in one style: arms side by side, curves over a setting, and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
        y_range: of the axis, where panels are to be compared; default: what the values need.
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
    y_range: tuple[float, float] | None = None


def draw(
    panels: Sequence[Panel],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    width: float = 4.0,
    one_legend: bool = False,
) -> Path:
    """The panels in a row, under one message. PNG, and an SVG of the same name beside it.

    Args:
        width: of a panel, in inches.
        one_legend: the panels have the same series, which are named once, at the right; else each at its curve's end.
    """
    longest = max((len(name) for panel in panels for name in panel.series), default=0)
    named = min(2.2, 0.35 + 0.075 * longest)
    beside, gap = 0.1 if one_legend else named, 0.75
    total = 0.2 + sum(gap + width + (beside if panel.x is not None else 0.25) for panel in panels)
    total += named + 0.2 if one_legend else 0.0
    below = 0.95 if any(panel.x is None for panel in panels) else 0.7
    tall = 2.6
    lines = max(1, subtitle.count("\n") + 1) if subtitle else 0
    top = 0.55 + 0.17 * lines + (0.25 if any(panel.title for panel in panels) else 0.1)
    figure = style.new_figure(max(total, 6.0), top + tall + below)
    style.write_title(figure, title, subtitle)
    left = 0.2
    for panel in panels:
        axes = style.add_axes(figure, left + gap - 0.1, top, width, tall)
        if panel.title:
            style.write(axes, 0, 1.04, panel.title, size=9, weight="bold", transform=axes.transAxes)
        if panel.x is None:
            _side_by_side(axes, panel)
        else:
            _over(axes, panel, named=not one_legend)
        left += gap + width + (beside if panel.x is not None else 0.25)
    if one_legend:
        canvas = style.canvas(figure)
        for at, (name, color, marker, _) in enumerate(_styled(panels[0])):
            y = top + 0.15 + 0.22 * at
            canvas.plot([left, left + 0.3], [y, y], color=color, linewidth=1.8, marker=marker, markersize=4.5)
            style.write(canvas, left + 0.4, y, style.legible(name), size=8.5, va="center")
    return style.save(figure, path, svg=True)


@dataclass(frozen=True)
class Map:
    """A grid of numbers: ``rows`` from the bottom up, (len(rows), len(columns)), NaN for none."""

    columns: Sequence[float]
    rows: Sequence[Sequence[float]]


def draw_maps(
    quantities: Sequence[tuple[str, str, float, float, Sequence[Map]]],
    names: Sequence[str],
    path: str | Path,
    *,
    title: str,
    x: str,
    y: str,
    subtitle: str = "",
) -> Path:
    """A row of maps for each quantity, a column for each arm; one scale of colours a row.

    Args:
        quantities: what it is (log10), a colour map, the ends of its scale, and a map for each arm.
        names: of the arms; a second line is written beneath.
    """
    from matplotlib import colormaps

    each = min(2.3, 7.6 / max(len(names), 1))
    tall, gap, left, top = 1.35, 0.22, 0.75, 1.1
    total = left + len(names) * (each + gap) + 1.25
    figure = style.new_figure(max(total, 6.0), top + len(quantities) * (tall + gap) + 0.45)
    style.write_title(figure, title, subtitle)
    canvas = style.canvas(figure)
    for column, name in enumerate(names):
        at = left + column * (each + gap)
        first, _, second = name.partition("\n")
        up = top - (0.23 if second else 0.08)
        style.write(canvas, at, up, style.fitted(style.legible(first), each, 8, bold=True), size=8, weight="bold")
        style.write(canvas, at, top - 0.08, style.fitted(style.legible(second), each, 7.5), size=7.5, color=style.SOFT)
    for row, (says, colors, low, high, maps) in enumerate(quantities):
        down = top + row * (tall + gap)
        colormap = colormaps[colors].with_extremes(bad=style.FAINT)
        image: Any = None
        for column, one in enumerate(maps):
            axes = style.add_axes(figure, left + column * (each + gap), down, each, tall)
            values = np.array([list(line) for line in one.rows] or [[]], dtype=float)
            if not values.size:
                values = np.full((1, 1), np.nan)
            height, width = values.shape
            image = axes.imshow(
                np.ma.masked_invalid(values), cmap=colormap, vmin=low, vmax=high, origin="lower", aspect="auto",
                interpolation="nearest", extent=(-0.5, width - 0.5, 0.5, height + 0.5),
            )  # fmt: skip
            last = row == len(quantities) - 1
            ticks = np.unique(np.linspace(0, width - 1, min(width, 4)).round().astype(int))
            axes.set_xticks(ticks, [f"{one.columns[t]:,g}" if last and len(one.columns) else "" for t in ticks])
            axes.set_yticks(sorted({1, height}), [f"{k}" if column == 0 else "" for k in sorted({1, height})])
            style.name_axes(axes, x if last else "", y if column == 0 else "")
        right = left + len(names) * (each + gap)
        style.write(canvas, right, down + 0.02, says, size=8, va="top", linespacing=1.3)
        scale = style.add_axes(figure, right, down + 0.5, 0.12, tall - 0.6)
        bar = figure.colorbar(image, cax=scale, extend="both")
        bar.outline.set_visible(False)
        bar.set_ticks([low, (low + high) / 2, high])
        bar.set_ticklabels([power(low), power((low + high) / 2), power(high)])
    return style.save(figure, path, svg=True)


def power(log10: float) -> str:
    """A tick of a logarithmic scale: ``1e-6``, ``1``."""
    return "1" if log10 == 0 else f"1e{log10:g}"


def _over(axes: Any, panel: Panel, *, named: bool) -> None:
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
        every = max(1, math.ceil(len(at) / 12))
        axes.plot(at, means, color=color, linewidth=1.6, marker=marker, markersize=4.5, markevery=every, zorder=3)
        last = next((value for value in means[::-1] if math.isfinite(value)), math.nan)
        if math.isfinite(last):
            ends.append((float(last), name, color))
    _mark_lines(axes, panel)
    style.name_axes(axes, panel.x_name, panel.y)
    _say_lost(axes, panel)
    if named:
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
        if math.isfinite(mean):
            axes.plot([at + 0.1], [mean], marker=marker, markersize=6, color=color, zorder=4)
        elif len(row):
            middle = axes.get_xaxis_transform()
            style.write(axes, at, 0.5, panel.unfinished, size=8, color=color, ha="center", va="center", rotation=90,
                        transform=middle)  # fmt: skip
    _mark_lines(axes, panel)
    axes.set_xticks(range(len(names)))
    turned = max(map(len, names), default=0) * len(names) > 44
    labels = [style.shortened(style.legible(name), 22) for name in names]
    how = {"rotation": 25, "ha": "right"} if turned else {}
    axes.set_xticklabels(labels, family=style.FONT, fontsize=8, color=style.INK, **how)
    style.name_axes(axes, panel.x_name, panel.y)
    _say_lost(axes, panel)


def _styled(panel: Panel) -> list[tuple[str, str, str, Any]]:
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
    axes.set_ylim(*panel.y_range or (0 if 0 <= low < 0.35 * high else low - pad, high + pad))
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
