"""Maps that claims are drawn as: a grid of numbers for each arm, one scale of colours for each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from litmus.diagnosis import style


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
