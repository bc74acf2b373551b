"""How gradients pass the layers, drawn: configs side by side, and over a training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from litmus.diagnosis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from litmus.diagnosis.gradient_flow import Flow, FlowAt, Verdict

COLORS = (
    style.BLUE, style.ORANGE, style.GREEN, style.RED, style.SKY, "#CC79A7", style.INK, "#8A8A8A",
)  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
VERDICTS: dict[Verdict, str] = {"vanishing": style.INK, "exploding": style.INK, "healthy": style.SOFT}
"""In the order in which they are counted, with the colour of the word: lines and maps have the others."""
MOST_LINES = len(COLORS) * len(DASHES)
MOST_MAPS = 16


def flow_by_depth(flows: Sequence[tuple[str, Flow]], path: str | Path, *, when: str, svg: bool = False) -> Path:
    """The three curves that tell whether a network can learn, over its layers; a line a config.

    Above the gradients by the pre-activations, then the activations' spread, then the weights' gradients relative to
    the weights. A value that is 0 or not finite leaves a hole.

    Args:
        flows: label and what ``measure_flow`` found; at most ``MOST_LINES`` are drawn.
        path: of the PNG.
        when: ``at initialisation``, for the title.

    Raises:
        ValueError: without a flow.
    """
    if not flows:
        raise ValueError("no flow to draw")
    shown = flows[:MOST_LINES]
    pitch = 0.4 if len(shown) <= 16 else 0.22
    tall = max(1.95, (len(shown) * pitch + 0.3) / 3 - 0.25)
    figure = style.new_figure(10, 0.95 + 3 * (tall + 0.25) + 0.45)
    panels = (
        ("‖∂L/∂z‖ (log10)", lambda layer: layer.log10_delta),
        ("std of activations (log10)", lambda layer: math.log10(layer.std) if layer.std > 0 else math.nan),
        ("‖∂L/∂W‖ / ‖W‖ (log10)", lambda layer: layer.log10_relative),
    )
    longest = max(len(flow.layers) for _, flow in shown)
    for row, (name, value) in enumerate(panels):
        axes = style.add_axes(figure, 0.8, 0.95 + row * (tall + 0.25), 5.5, tall)
        axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlim(0.5, longest + 0.5)
        for number, (_, flow) in enumerate(shown):
            heights = np.array([value(layer) for layer in flow.layers])
            heights[~np.isfinite(heights)] = np.nan
            alone = np.isfinite(heights).sum() < 3
            axes.plot(
                np.arange(1, len(heights) + 1), heights, color=COLORS[number % len(COLORS)],
                linestyle=DASHES[number // len(COLORS)], linewidth=1.7, marker="o" if alone else "", markersize=4,
            )  # fmt: skip
        _pad_y(axes)
        last = row == len(panels) - 1
        style.name_axes(axes, "weighted layer, from the input (1) to the head" if last else "", name)
        _whole_ticks(axes)
        axes.tick_params(labelbottom=last)
    _list_arms(figure, shown, pitch)
    style.write_title(figure, *_depth_message(flows, when))
    return style.save(figure, path, svg=svg)


def _depth_message(flows: Sequence[tuple[str, Flow]], when: str) -> tuple[str, str]:
    counts = Counter(flow.verdict for _, flow in flows)
    if len(flows) == 1:
        flow = flows[0][1]
        ratio = f", {_decades(flow.first_to_last)} from the head to the first layer" if len(flow.layers) > 1 else ""
        title = f"The gradient is {flow.verdict} {when}{ratio}"
    else:
        parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
        title = f"Gradients {when}: {', '.join(parts)}"
    flow = flows[0][1]
    images = sorted({one.num_images for _, one in flows})
    number = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    beneath = f"{number} training images in parts of {flow.batch_size}; "
    beneath += 'z: what a layer puts out, in front of any norm; "a layer": decades that one adds on the way back'
    if len(flows) > MOST_LINES:
        beneath += f"\ndrawn: the first {MOST_LINES} of {len(flows)}"
    return title, beneath


def _list_arms(figure: Any, shown: Sequence[tuple[str, Flow]], pitch: float) -> None:
    canvas = style.canvas(figure)
    left, top, width = 6.5, 1.05, 3.35
    for number, (label, flow) in enumerate(shown):
        y = top + number * pitch
        canvas.plot(
            [left, left + 0.32], [y, y], color=COLORS[number % len(COLORS)], linestyle=DASHES[number // len(COLORS)],
            linewidth=2.2, solid_capstyle="butt",
        )  # fmt: skip
        verdict = f"{flow.verdict}, {_per_layer(flow)}"
        name = style.legible(label) or "as it is"
        if pitch > 0.3:
            style.write(canvas, left + 0.42, y, style.fitted(name, width - 0.42, 8), size=8, va="center")
            style.write(canvas, left + 0.42, y + 0.16, verdict, size=7.5, color=VERDICTS[flow.verdict], va="center")
        else:
            room = width - 0.42 - style.width_of(verdict, 7) - 0.1
            style.write(canvas, left + 0.42, y, style.fitted(name, room, 7.5), size=7.5, va="center")
            style.write(
                canvas, left + width, y, verdict, size=7, color=VERDICTS[flow.verdict], va="center", ha="right"
            )  # fmt: skip


def flow_in_training(arms: Sequence[tuple[str, Sequence[FlowAt]]], path: str | Path, *, svg: bool = False) -> Path:
    """Depth against time: how the gradient arrives at each layer, and how far each step moves it; a row a config.

    At the left ``||dL/dz||`` of a layer over that of the last one, at the right ``||W' - W|| / ||W||`` of the next
    step; what is exactly 0 has the lowest colour. Cells without a number (layers that are frozen at that time, a last
    look that no step followed) are grey.

    Args:
        arms: label, and what was seen; at most ``MOST_MAPS`` are drawn.
        path: of the PNG.

    Raises:
        ValueError: nothing was seen in any of them.
    """
    shown = [(label, rows) for label, rows in arms if rows][:MOST_MAPS]
    if not shown:
        raise ValueError("no look at a training to draw")
    each, gap, top = (2.6, 0.75, 1.3) if len(shown) == 1 else (1.5, 0.62, 1.5)
    figure = style.new_figure(10, top + len(shown) * (each + gap) - gap + 0.55)
    grids = [_grids(rows) for _, rows in shown]
    seen = np.concatenate([ratio[np.isfinite(ratio)] for ratio, _ in grids])
    reach = float(np.clip(math.ceil(np.abs(seen).max(initial=0)), 3, 12))
    maps = (
        (0, "RdBu_r", -reach, reach, "‖∂L/∂z‖ of a layer over that of the head (log10)", 0.75),
        (1, "viridis", -6.0, 0.0, "‖ΔW‖ / ‖W‖ of the next step (log10)", 5.55),
    )
    canvas = style.canvas(figure)
    for which, colors, low, high, name, left in maps:
        image: Any = None
        for number, (label, rows) in enumerate(shown):
            y = top + number * (each + gap)
            axes = style.add_axes(figure, left, y, 3.9, each)
            image = _draw_map(axes, grids[number][which], rows, colors, low, high)
            style.name_axes(axes, "optimizer step" if number == len(shown) - 1 else "", "" if which else "layer")
            if label and not which:
                verdict = _verdicts(rows)
                room = 9.0 - style.width_of(verdict, 8.5)
                style.write(canvas, left, y - 0.13, style.fitted(style.legible(label), room, 8.5, bold=True), size=8.5,
                            weight="bold", va="center")  # fmt: skip
                color = VERDICTS[rows[-1].flow.verdict]
                style.write(canvas, 9.45, y - 0.13, verdict, size=8.5, color=color, va="center", ha="right")
        scale = style.add_axes(figure, left + 2.5, 0.8, 1.4, 0.1)
        bar = figure.colorbar(image, cax=scale, orientation="horizontal", extend="both")
        bar.outline.set_visible(False)
        bar.set_ticks([low, (low + high) / 2, high])
        style.write(canvas, left, 0.85, name.partition(" (")[0], size=8, color=style.INK, va="center")
        style.write(canvas, left, 0.99, "log10; grey: no number", size=7, color=style.SOFT, va="center")
    style.write_title(figure, *_training_message(arms, shown))
    return style.save(figure, path, svg=svg)


def _grids(rows: Sequence[FlowAt]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(L, T) each: the gradient of a layer over the last one's, and the update, in log10; NaN where there is none."""
    names = _names(rows)
    ratio, update = (np.full((len(names), len(rows)), np.nan) for _ in range(2))
    place = {name: number for number, name in enumerate(names)}
    for t, row in enumerate(rows):
        last = row.flow.layers[-1].log10_delta
        for number, layer in enumerate(row.flow.layers):
            at = place[layer.name]
            ratio[at, t] = layer.log10_delta - last if math.isfinite(last) else math.nan
            if row.log10_update is not None:
                update[at, t] = row.log10_update[number]
    for grid in (ratio, update):
        grid[np.isposinf(grid)] = np.nan
    return ratio, update


def _names(rows: Sequence[FlowAt]) -> list[str]:
    """Of the layers, in order: those of the longest look; what only others have comes first, being frozen in it."""
    longest = max(rows, key=lambda row: len(row.flow.layers)).flow.layers
    names = [layer.name for layer in longest]
    others = {layer.name: None for row in rows for layer in row.flow.layers if layer.name not in names}
    return [*others, *names]


def _draw_map(
    axes: Axes, grid: NDArray[np.float64], rows: Sequence[FlowAt], colors: str, low: float, high: float
) -> Any:
    from matplotlib import colormaps

    layers, times = grid.shape
    colormap = colormaps[colors].with_extremes(bad=style.FAINT)
    image = axes.imshow(
        np.ma.masked_where(np.isnan(grid), np.maximum(grid, -1e3)), cmap=colormap, vmin=low, vmax=high,
        origin="lower", aspect="auto", interpolation="nearest", extent=(-0.5, times - 0.5, 0.5, layers + 0.5),
    )  # fmt: skip
    every = np.unique(np.linspace(0, times - 1, min(times, 6)).round().astype(int))
    axes.set_xticks(every, [f"{rows[t].step:,}" for t in every])
    axes.set_yticks(sorted({1, layers, (layers + 1) // 2} if layers > 2 else {1, layers}))
    return image


def _verdicts(rows: Sequence[FlowAt]) -> str:
    first, last = rows[0].flow.verdict, rows[-1].flow.verdict
    return first if first == last else f"{first}, in the end {last}"


def _training_message(
    arms: Sequence[tuple[str, Sequence[FlowAt]]], shown: Sequence[tuple[str, Sequence[FlowAt]]]
) -> tuple[str, str]:
    if len(arms) == 1:
        rows = shown[0][1]
        first, last = (_decades(row.flow.first_to_last) for row in (rows[0], rows[-1]))
        title = f"The gradient in training: {_verdicts(rows)}"
        beneath = (
            f"from the head to the first layer: {first} at step {rows[0].step:,}, {last} at step {rows[-1].step:,}"
        )
    else:
        ends = Counter(rows[-1].flow.verdict for _, rows in shown)
        title = f"Gradients in training, in the end: {', '.join(f'{ends[v]} {v}' for v in VERDICTS if ends[v])}"
        beneath = "a row a config, time from left to right, the first layer at the bottom"
    if len(shown) < len(arms):
        beneath += f"; drawn: {len(shown)} of {len(arms)}"
    return title, beneath


def _decades(value: float) -> str:
    if value == -math.inf:
        return "to exactly 0"
    return f"{round(value, 1) + 0.0:+.1f} decades" if math.isfinite(value) else "not finite"


def _per_layer(flow: Flow) -> str:
    slope = flow.decades_per_layer
    return f"{round(slope, 2) + 0.0:+.2f} a layer" if math.isfinite(slope) else "no slope"


def _pad_y(axes: Axes) -> None:
    """At least two decades, and some room."""
    low, high = axes.dataLim.intervaly
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = -1.0, 1.0
    missing = max(0.0, 2 - (high - low)) / 2 + 0.06 * (high - low)
    axes.set_ylim(low - missing, high + missing)


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
