"""Bias and variance over a sweep, drawn. As in ``litmus.diagnosis.plots``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from litmus.diagnosis import style
from litmus.diagnosis.decomposition import (
    WORDS,
    Decomposition,
    Decompositions,
    Estimate,
    peak,
    percent,
    standard_errors_between,
    variance_peak,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = ("squared", "zero_one", "cross_entropy")
BIAS, VARIANCE, TOTAL, NOISE = style.BLUE, style.RED, style.INK, style.GREEN

_UNITS = {
    "squared": "squared error of probabilities",
    "zero_one": "error rate",
    "cross_entropy": "cross-entropy (nats)",
    "regression": "squared error",
}
_WIDTHS = {1: 5.9, 2: 3.3, 3: 2.55}  # of a panel, by how many there are
_LEFT, _RIGHT, _TOP, _HEIGHT = 0.75, 1.15, 1.0, 2.6


def decomposition_sweep(
    sweep: Mapping[float, Decomposition | Decompositions] | Mapping[str, Decomposition | Decompositions],
    path: str | Path,
    *,
    x: str = "width",
    losses: Sequence[str] = LOSSES,
    svg: bool = False,
) -> Path:
    """Bias, variance and their sum over one setting, a panel for each loss, with the highest variance marked.

    Bands are the intervals, dashes the reshuffles. Where the noise is known it is a line; the bias is then without it.
    Numbers are drawn in their order, on logarithms where they span more than a decade (a 0 among them then has a place
    of its own at the left); names side by side, in the order given.

    Args:
        sweep: what ``decompose`` or one of its kin found, by the value of the setting: all numbers or all names.
        path: of the PNG.
        x: the name of the setting, with its unit if it has one.
        losses: which of ``Decompositions`` to draw; a sweep of single decompositions has one panel.

    Raises:
        ValueError: an empty sweep, numbers and names mixed, numbers that are not finite, decompositions of different
            kinds, an unknown loss, or values that are not finite.
    """
    place = _place(sweep)
    rows = [sweep[value] for value in place.values]
    panels = _panels(rows, losses)
    wide = _WIDTHS[len(panels)]
    if place.names:
        wide = max(wide, 0.17 * len(rows))
    each = _LEFT + wide + _RIGHT
    title, *beneath = [*_fitting(_message(panels[0], place, x), each * len(panels) - 0.4), _basis(panels, place)]
    return _draw_row([(panel, place) for panel in panels], x, title, beneath, Path(path), svg=svg)


def decomposition_sweeps(
    sweeps: Mapping[str, Mapping[float, Decomposition]],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    x: str = "width",
    svg: bool = False,
) -> Path:
    """The same sweep under several conditions, a panel for each, on one scale. Otherwise as ``decomposition_sweep``.

    Args:
        sweeps: condition -> sweep over numbers; an empty one, of which nothing is known, has an empty panel.
        title, subtitle: the message, and what it rests on.

    Raises:
        ValueError: as ``decomposition_sweep``, for any of them; no condition at all.
    """
    if not sweeps:
        raise ValueError("an empty sweep has nothing to draw")
    panels: list[tuple[list[Decomposition], _Place | None]] = []
    for sweep in sweeps.values():
        place = _place(sweep) if sweep else None
        panels.append((_panels([sweep[value] for value in place.values], LOSSES)[0] if place else [], place))
    return _draw_row(panels, x, title, subtitle.split("\n"), Path(path), svg=svg, heads=list(sweeps))


def _draw_row(
    panels: Sequence[tuple[list[Decomposition], _Place | None]],
    x: str,
    title: str,
    beneath: Sequence[str],
    path: Path,
    *,
    svg: bool,
    heads: Sequence[str] = (),
) -> Path:
    """``heads``: what each panel is called; then they share their scale."""
    wide, under = _WIDTHS[min(len(panels), 3)], 0.6
    turned = [False] * len(panels)
    for i, (panel, place) in enumerate(panels):
        if place is not None and place.names:
            room = wide / len(panel) - 0.06
            widest = max(style.width_of(label, 8) for label in place.labels)
            turned[i] = widest > room
            wide = max(wide, 0.17 * len(panel))
            under = max(under, 0.5 + widest) if turned[i] else under
    each = _LEFT + wide + _RIGHT
    room = each * len(panels) - 0.4
    top = _TOP + 0.17 * (len(beneath) - 1) + (0.2 if heads else 0)
    figure = style.new_figure(each * len(panels), top + _HEIGHT + under)
    everything = [one for panel, place in panels if place for _, _, found in _series(panel) for one in found]
    for i, (panel, place) in enumerate(panels):
        axes = style.add_axes(figure, each * i + _LEFT, top, wide, _HEIGHT)
        if heads:
            head = style.fitted(style.legible(heads[i]), wide + _RIGHT, 9, bold=True)
            style.write(axes, 0, 1.11, head, size=9, weight="bold", transform=axes.transAxes)
        if place is None:
            style.write(axes, 0.5, 0.5, "nothing to draw", color=style.SOFT, ha="center", transform=axes.transAxes)
            continue
        _draw(axes, panel, place, everything if heads else None)
        _label_places(axes, place, wide, turned[i])
        log = ", log scale" if place.log else ""
        style.name_axes(axes, style.fitted(style.legible(x) + log, wide, 9), _UNITS[panel[0].loss])
    style.write_title(figure, title, "\n".join(style.fitted(line, room, 8.5) for line in beneath))
    return style.save(figure, path, svg=svg)


class _Place(NamedTuple):
    values: list[Any]
    """The keys of the sweep, in the order drawn."""
    at: list[float]
    labels: list[str]
    names: bool
    log: bool


def _place(sweep: Mapping[Any, Any]) -> _Place:
    if not sweep:
        raise ValueError("an empty sweep has nothing to draw")
    values = list(sweep)
    named = [isinstance(value, str) for value in values]
    if all(named):
        labels = [_label(value, i) for i, value in enumerate(values, 1)]
        return _Place(values, [float(i) for i in range(len(values))], labels, names=True, log=False)
    if any(named):
        raise ValueError(f"a sweep is over numbers or over names, not both: {values}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"a sweep is over finite numbers, got {values}")
    values.sort()
    labels = [f"{value:,.6g}" for value in values]
    positive = [value for value in values if value > 0]
    if values[0] < 0 or len(positive) < 2 or positive[-1] <= 10 * positive[0]:
        return _Place(values, [float(value) for value in values], labels, names=False, log=False)
    steps = [math.log10(value) for value in positive]
    zero = [steps[0] - (steps[-1] - steps[0]) / (len(steps) - 1)] * (len(values) - len(positive))
    return _Place(values, zero + steps, labels, names=False, log=True)


def _label(name: str, position: int) -> str:
    """A name on one line; ``no. 3`` when the font has none of its letters."""
    text = style.shortened(style.legible(name), 18)
    return text if set(text) - {"?", " "} else f"no. {position}"


def _panels(rows: list[Any], losses: Sequence[str]) -> list[list[Decomposition]]:
    if all(isinstance(row, Decompositions) for row in rows):
        if not losses or set(losses) - set(LOSSES) or len(set(losses)) < len(losses):
            raise ValueError(f"losses are among {', '.join(LOSSES)}, each once, got {list(losses)}")
        panels = [[getattr(row, loss) for row in rows] for loss in losses]
    elif len({type(row) for row in rows}) == 1 and isinstance(rows[0], Decomposition):
        panels = [rows]
    else:
        raise ValueError(f"a sweep is of one kind of decomposition, got {sorted({type(row).__name__ for row in rows})}")
    for panel in panels:
        if len({tuple(one.parts) for one in panel}) > 1:
            raise ValueError("the noise must be known everywhere in a sweep, or nowhere")
        if not all(math.isfinite(part.value) for one in panel for part in (*one.parts.values(), one.total)):
            raise ValueError(f"not every {panel[0].called} is finite")
    return panels


def _series(panel: list[Decomposition]) -> list[tuple[str, str, list[Estimate]]]:
    """Name, colour and estimates of each curve, in the order drawn."""
    bias, variance, *noise = panel[0].parts
    return [
        *((WORDS[name], NOISE, [one.parts[name] for one in panel]) for name in noise),
        ("total", TOTAL, [one.total for one in panel]),
        (WORDS[bias], BIAS, [one.parts[bias] for one in panel]),
        (WORDS[variance], VARIANCE, [one.parts[variance] for one in panel]),
    ]


def _draw(axes: Axes, panel: list[Decomposition], place: _Place, scaled_by: Sequence[Estimate] | None = None) -> None:
    apart = place.names or len(panel) == 1  # nothing lies between names: no lines, no bands
    series = _series(panel)
    at = np.array(place.at)
    low, high = at[0], at[-1]
    pad = 0.5 if apart else 0.03 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    _scale(axes, scaled_by or [one for _, _, estimates in series for one in estimates])
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    size = 5.0 if len(panel) <= 12 else 3.5
    labels = []
    for i, (name, color, estimates) in enumerate(series):
        values = [one.value for one in estimates]
        labels.append((values[-1], name, color))
        if color == NOISE:
            ends, level = axes.get_xlim(), values[0]
            axes.plot(*((ends, [level] * 2) if len(set(values)) == 1 else (at, values)), color=color, linewidth=1.3,
                      linestyle=(0, (5, 3)), zorder=2)  # fmt: skip
            continue
        where = at + 0.16 * (i - len(series) + 2) if apart else at
        told = np.array([one.interval or (math.nan, math.nan) for one in estimates])
        if apart:
            axes.vlines(where, *told.T, color=color, linewidth=1.3, zorder=3)
        else:
            axes.fill_between(where, *told.T, color=color, alpha=0.16, linewidth=0, zorder=1)
        for x, one in zip(where, estimates, strict=True):
            if len(one.points) > 1:
                axes.plot([x] * len(one.points), one.points, "_", color=color, markersize=9, markeredgewidth=1,
                          zorder=5)  # fmt: skip
        axes.plot(where, values, color=color, linewidth=0 if apart else 1.8, marker="o", markersize=size,
                  markeredgecolor="white", markeredgewidth=size / 7, zorder=4)  # fmt: skip
    style.label_ends(axes, labels)
    if len(panel) > 1:
        _mark_peak(axes, panel, place)


def _mark_peak(axes: Axes, panel: list[Decomposition], place: _Place) -> None:
    top = variance_peak(panel).position
    left, right = axes.get_xlim()
    share = (place.at[top] - left) / (right - left)
    side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
    axes.axvline(place.at[top], color=VARIANCE, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    text = f"highest variance: {style.shortened(place.labels[top], 18)}"
    style.write(axes, place.at[top], 1.03, text, size=8, color=VARIANCE, ha=side, transform=axes.get_xaxis_transform())


def _scale(axes: Axes, estimates: Sequence[Estimate]) -> None:
    """From 0, or from below when something is negative. Intervals that dwarf the values are cut off."""
    values = [value for one in estimates for value in (one.value, *one.points)]
    ends = [end for one in estimates if one.interval for end in one.interval]
    low, high = min(0.0, *values), max(0.0, *values)
    reach = (high - low) or 1.0
    low, high = max(min([low, *ends]), low - 0.4 * reach), min(max([high, *ends]), high + 0.6 * reach)
    axes.set_ylim(low - (0.04 * (high - low) if low < 0 else 0), high + 0.05 * reach)


def _label_places(axes: Axes, place: _Place, inches: float, turned: bool) -> None:
    """Ticks at the sweep's own values, as many as fit."""
    left, right = axes.get_xlim()
    centres = [(at - left) / (right - left) * inches for at in place.at]
    widths = [0.12 if turned else style.width_of(label, 8) + 0.06 for label in place.labels]

    def follow(every: int) -> list[int]:
        """The first, and from it every so many-th that leaves room for the one before."""
        kept = [0]
        for i in range(every, len(centres), every):
            if centres[i] - centres[kept[-1]] >= (widths[i] + widths[kept[-1]]) / 2:
                kept.append(i)
        return kept

    count = len(centres)
    kept = follow(1)
    if np.allclose(np.diff(centres), np.diff(centres)[:1]):  # evenly spaced places get evenly spaced labels
        kept = next(kept for every in range(1, count + 1) if len(kept := follow(every)) == len(range(0, count, every)))
    axes.set_xticks([place.at[i] for i in kept], [place.labels[i] for i in kept], parse_math=False)
    if turned:
        axes.tick_params(axis="x", labelrotation=90)


def _basis(panels: list[list[Decomposition]], place: _Place) -> str:
    first = panels[0][0]
    same = all(one.basis == first.basis and one.level == first.level for one in panels[0])
    shown = [first.basis if same else f"{len(panels[0])} settings, not all on as many models and images"]
    drawn = [part for panel in panels for one in panel for part in (one.total, one.variance_part)]
    if any(one.interval for one in drawn):
        how = "lines" if place.names or len(panels[0]) == 1 else "bands"
        shown.append(f"{how}: {percent(first.level) + ' ' if same else ''}intervals")
    if any(len(one.points) > 1 for one in drawn):
        shown.append("dashes: reshuffles")
    return "; ".join(shown)


def _fitting(message: str, inches: float) -> list[str]:
    """The message, in two where it is too wide for a title and has two halves."""
    return [message] if style.width_of(message, 12, bold=True) <= inches else message.split("; ")


def _message(panel: list[Decomposition], place: _Place, x: str) -> str:
    """What happens to bias and variance, as far as it is beyond chance."""
    bias, variance = list(panel[0].parts)[:2]
    x = style.shortened(style.legible(x), 24)
    if len(panel) == 1:
        found = panel[0].parts
        return (
            f"At {x} {place.labels[0]}: {WORDS[bias]} {style.number(found[bias].value)}, "
            f"{WORDS[variance]} {style.number(found[variance].value)}"
        )
    if place.names:
        best = min(range(len(panel)), key=lambda i: panel[i].total.value)
        found = panel[best].parts
        return (
            f"{panel[0].called.capitalize()} is lowest at {x} = {place.labels[best]}: {WORDS[bias]} "
            f"{style.number(found[bias].value)}, {WORDS[variance]} {style.number(found[variance].value)}"
        )
    said = [_course([one.parts[name] for one in panel], place, x) for name in (bias, variance)]
    return f"{WORDS[bias].capitalize()} {said[0]}; {WORDS[variance]} {said[1]}"


def _course(sweep: list[Estimate], place: _Place, x: str) -> str:
    upside_down = [replace(one, value=-one.value) for one in sweep]
    for word, turn in (("peaks", peak(sweep)), ("is lowest", peak(upside_down))):
        if turn.decided:
            return f"{word} at {x} {place.labels[turn.position]} ({style.number(sweep[turn.position].value)})"
    first, last = sweep[0], sweep[-1]
    apart = standard_errors_between(last, first)
    ends = f"from {style.number(first.value)} to {style.number(last.value)}"
    if apart is None:
        return f"goes {ends}"
    if abs(apart) > 2:
        return f"{'rises' if apart > 0 else 'falls'} {ends}"
    return f"goes {ends}, within chance"
