"""What claims are drawn as, in one style: arms side by side, means over a setting, courses such as losses in time."""

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
        order: names by whose places colours and markers are taken, so that a series looks alike in several panels;
            default: those of ``series``.
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
    order: Sequence[str] = ()
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curves:
    """One pair of axes with a course of its own for each series: losses over epochs, a histogram's outline.

    Attributes:
        series: name -> (x, y), y (seeds, len(x)), or (len(x),) for a single course. NaN is a gap.
        marks: what it is -> x, drawn from bottom to top.
    """

    series: Mapping[str, tuple[Any, Any]]
    y: str
    x_name: str = ""
    lines: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    title: str = ""


def draw(
    panels: Sequence[Panel | Curves | Lines],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    width: float = 4.0,
    columns: int | None = None,
    one_legend: bool = False,
) -> Path:
    """The panels in rows under one message. PNG, and an SVG of the same name beside it.

    Args:
        width: of a panel, in inches.
        columns: panels in a row; default: all.
        one_legend: the panels have the same series, which are named once, at the right; else each at its curve's end.
    """
    columns = columns or len(panels)
    rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    longest = max((len(name) for panel in panels for name in names_beside(panel)), default=0)
    named = min(2.2, 0.35 + 0.075 * longest)
    beside = 0.1 if one_legend else named
    gap, tall = 0.75, 2.6

    def room(panel: Panel | Curves | Lines) -> float:
        return beside if names_beside(panel) else 0.25

    across = [max(gap + width + room(row[at]) for row in rows if at < len(row)) for at in range(columns)]
    titled = 0.25 if any(panel.title for panel in panels) else 0.1
    under = [0.95 if any(map(_beside_each_other, row)) else 0.7 for row in rows]
    head = 0.45 + (0.17 * (subtitle.count("\n") + 1) if subtitle else 0)
    total = max(0.2 + sum(across) + (named + 0.2 if one_legend else 0.0), 6.0)
    figure = style.new_figure(total, head + sum(titled + tall + below for below in under))
    style.write_title(figure, title, subtitle)
    top = head
    for row, below in zip(rows, under, strict=True):
        for at, panel in enumerate(row):
            whole = across[at] - gap - room(panel)
            axes = style.add_axes(figure, 0.2 + sum(across[:at]) + gap - 0.1, top + titled, whole, tall)
            if panel.title:
                style.write(axes, 0, 1.04, panel.title, size=9, weight="bold", transform=axes.transAxes)
            if isinstance(panel, Lines):
                draw_lines(axes, panel, {name: (color, marker) for name, color, marker, _ in _styled(panel)})
            elif isinstance(panel, Curves):
                _courses(axes, panel, named=not one_legend)
            elif panel.x is None:
                _side_by_side(axes, panel)
            else:
                _over(axes, panel, named=not one_legend)
        top += titled + tall + below
    if one_legend:
        canvas, left = style.canvas(figure), 0.2 + sum(across)
        for at, (name, color, marker, _) in enumerate(_styled(panels[0])):
            y = head + titled + 0.15 + 0.22 * at
            canvas.plot([left, left + 0.3], [y, y], color=color, linewidth=1.8, marker=marker, markersize=4.5)
            style.write(canvas, left + 0.4, y, style.legible(name), size=8.5, va="center")
    return style.save(figure, path, svg=True)


def names_beside(panel: Panel | Curves | Lines) -> list[str]:
    """Of the curves that are named at their ends."""
    if isinstance(panel, Lines):
        return [name for name, line in panel.series.items() if panel.ends and not line.faint]
    return [] if _beside_each_other(panel) else list(panel.series)


def _beside_each_other(panel: Panel | Curves | Lines) -> bool:
    return isinstance(panel, Panel) and panel.x is None


def _courses(axes: Any, panel: Curves, *, named: bool = True) -> None:
    _scale_y(axes, panel, [rows for _, rows in panel.series.values()])
    places = np.concatenate([np.asarray(x, dtype=float) for x, _ in panel.series.values()] or [np.array([0.0, 1.0])])
    low, high = float(places.min()), float(places.max())
    if panel.log_x:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.1)
        _tick_log(axes.xaxis, low / 1.1, high * 1.1)
    else:
        pad = 0.02 * (high - low or 1)
        axes.set_xlim(low - pad, high + pad)
    ends = []
    for name, color, marker, (x, values) in _styled(panel):
        rows = np.atleast_2d(np.asarray(values, dtype=float))
        means, low_ends, high_ends = _bands(rows)
        if len(rows) > 1:
            axes.fill_between(x, low_ends, high_ends, color=color, alpha=0.15, linewidth=0, zorder=1)
            for row in rows:
                axes.plot(x, row, color=color, alpha=0.3, linewidth=0.6, zorder=2)
        axes.plot(
            x, means, color=color, linewidth=1.6, marker=marker, markersize=4.5, zorder=3,
            markevery=max(1, len(means) // 8),
        )  # fmt: skip
        last = next((value for value in means[::-1] if math.isfinite(value)), math.nan)
        if math.isfinite(last):
            ends.append((float(last), name, color))
    for name, place in panel.marks.items():
        axes.axvline(place, color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            style.legible(name), (place, 0.98), xycoords=("data", "axes fraction"), xytext=(3, 0), va="top",
            textcoords="offset points", fontsize=7.5, color=style.SOFT, family=style.FONT, parse_math=False,
        )  # fmt: skip
    _mark_lines(axes, panel)
    style.name_axes(axes, panel.x_name, panel.y)
    if named:
        style.label_ends(axes, ends)


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
        means, low, high = _bands(rows)
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
            style.write(
                axes, at, 0.5, panel.unfinished, size=8, color=color, ha="center", va="center", rotation=90,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    _mark_lines(axes, panel)
    axes.set_xticks(range(len(names)))
    turned = max(map(len, names), default=0) * len(names) > 44
    labels = [style.shortened(style.legible(name), 22) for name in names]
    how = {"rotation": 25, "ha": "right"} if turned else {}
    axes.set_xticklabels(labels, family=style.FONT, fontsize=8, color=style.INK, **how)
    style.name_axes(axes, panel.x_name, panel.y)
    _say_lost(axes, panel)


def _bands(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, low and high of each column of (seeds, n)."""
    return tuple(np.array(column) for column in zip(*(_interval(column) for column in rows.T), strict=True))


def _styled(panel: Panel | Curves | Lines) -> list[tuple[str, str, str, Any]]:
    order = list(getattr(panel, "order", ()) or panel.series)
    at = {name: order.index(name) for name in panel.series}
    return [
        (name, COLORS[at[name] % len(COLORS)], MARKERS[at[name] % len(MARKERS)], values)
        for name, values in panel.series.items()
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


def _scale_y(axes: Any, panel: Panel | Curves, series: Sequence[Any] | None = None) -> None:
    given = list(panel.series.values()) if series is None else series
    values = [np.asarray(rows, dtype=float).reshape(-1) for rows in given]
    seen = np.concatenate([*values, np.array(list(panel.lines.values()), dtype=float)])
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        seen = np.array([0.0, 1.0])
    if panel.log_y and (seen > 0).any():
        seen = seen[seen > 0]
        axes.set_yscale("log")
        pad = max(1.4, float(seen.max() / seen.min()) ** 0.06)
        low, high = float(seen.min()) / pad, float(seen.max()) * pad
        axes.set_ylim(low, high)
        _tick_log(axes.yaxis, low, high)
        return
    low, high = float(seen.min()), float(seen.max())
    pad = 0.06 * (high - low or abs(high) or 1)
    fixed = getattr(panel, "y_range", None)
    axes.set_ylim(*fixed or (0 if 0 <= low < 0.35 * high else low - pad, high + pad))
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _tick_log(axis: Any, low: float, high: float) -> None:
    """Round numbers along a logarithmic axis, three to seven of them where there are so many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    every = max(1, math.ceil((last - first) / 7))
    ways: list[list[float]] = [
        [factor * 10.0**power for power in powers for factor in factors]
        for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10))
    ]
    ways.append([10.0**power for power in powers if power % every == 0])
    inside = [[one for one in way if low <= one * (1 + 1e-9) and one * (1 - 1e-9) <= high] for way in ways]
    places = next((kept for kept in inside if 3 <= len(kept) <= 7), inside[2])
    if len(places) < 2:
        places = [float(f"{value:.2g}") for value in (low * (high / low) ** 0.2, low * (high / low) ** 0.8)]
    axis.set_ticks(places, [_round(one) for one in places], family=style.FONT)
    axis.set_ticks([], minor=True)


def _round(value: float) -> str:
    if 1e-3 <= value < 1e6:
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{digit}e{int(power)}"


def _mark_lines(axes: Any, panel: Panel | Curves) -> None:
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
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.1 if panel.log_y and low > 0 else high + 0.1 * (high - low))
        style.write(axes, 0.99, 0.98, text, size=7.5, color=style.SOFT, ha="right", va="top", transform=axes.transAxes)
