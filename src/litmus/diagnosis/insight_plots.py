"""Pictures that are made on request: a closer look at one run's answers. As in ``litmus.diagnosis.plots``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis import style
from litmus.diagnosis.calibration import Calibration
from litmus.diagnosis.confusion import Confusion
from litmus.diagnosis.embedding import NEIGHBOURS, Embedding
from litmus.diagnosis.losses import TopLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 8
_TILE, _GAP = 1.0, 0.16
_SHEET_WIDTH = COLUMNS * (_TILE + _GAP) - _GAP + 0.4

# Okabe & Ito's, and four more that differ from them in lightness.
CLASS_COLORS = (
    style.BLUE, style.ORANGE, style.GREEN, style.RED, style.SKY,
    "#CC79A7", "#7A4A1E", "#9ACD32", "#5B2A86", "#8A8A8A",
)  # fmt: skip
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "h")
MOST_NAMED = 20
"""Up to so many classes have their names in an embedding."""


def reliability(found: Calibration, path: str | Path, *, split: str = "test", svg: bool = False) -> Path:
    """Accuracy against confidence, bin by bin, above how many images are how confident (Guo et al. 2017, fig. 4).

    Args:
        found: from ``litmus.diagnosis.reliability``.
        path: of the PNG.
        split: which images these are, for the title.
    """
    from matplotlib.patheffects import withStroke

    figure = style.new_figure(6.0, 6.3)
    left, width, top, side = 0.75, 4.9, 1.25, 3.4
    axes = style.add_axes(figure, left, top, width, side)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.plot([0, 1], [0, 1], color=style.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    style.write(axes, 0.03, 0.095, "as right as sure", color=style.SOFT, size=8, rotation=34.7, zorder=2)
    filled = [one for one in found.bins if one.count]
    for one in filled:
        axes.plot([one.confidence] * 2, [one.confidence, one.accuracy], color=style.WRONG, linewidth=5, alpha=0.35,
                  solid_capstyle="butt", zorder=3)  # fmt: skip
        axes.plot([one.confidence] * 2, one.interval, color=style.BLUE, linewidth=1.2, zorder=4)
        axes.plot(one.confidence, one.accuracy, "o", color=style.BLUE, markersize=6, markeredgecolor="white", zorder=5,
                  clip_on=False)  # fmt: skip
    style.name_axes(axes, "", "accuracy in the bin")
    axes.tick_params(labelbottom=False)

    below = style.add_axes(figure, left, top + side + 0.2, width, 0.75)
    counts = np.array([one.count for one in found.bins])
    lows, highs = (np.array([getattr(one, end) for one in found.bins]) for end in ("low", "high"))
    below.set(xlim=(0, 1), ylim=(0, 1.25 * counts.max()), yticks=[])
    below.spines["left"].set_visible(False)
    below.bar(lows, counts, width=highs - lows, align="edge", color=style.SKY, edgecolor="white", linewidth=1)
    for one in filled:
        height = one.count + 0.06 * counts.max()
        style.write(below, (one.low + one.high) / 2, height, f"{one.count:,}", size=6.5, color=style.SOFT, ha="center",
                    zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
    for row, (value, color, name) in enumerate(
        ((found.confidence, style.RED, "mean confidence"), (found.accuracy, style.BLUE, "accuracy"))
    ):
        below.axvline(value, color=color, linewidth=1.4, zorder=4)
        x, ha = (0.01, "left") if min(found.confidence, found.accuracy) > 0.35 else (0.99, "right")
        style.write(below, x, 0.84 - 0.2 * row, f"line: {name}", size=8, color=color, ha=ha, transform=below.transAxes)
    style.name_axes(below, "confidence: probability of the predicted class", "images")

    low, high = found.interval
    sure, right = f"sure at {found.confidence:.3f}", f"right at {found.accuracy:.3f}"
    title = f"{found.tendency.capitalize()}: {sure}, {right}"
    if found.tendency == "undecided":
        title = f"{sure.capitalize()}, {right}: the same within chance"
    style.write_title(
        figure,
        title,
        f"{found.num_images:,} {split} images; accuracy 95% {low:.3f} to {high:.3f}; lines: 95% of each bin\n"
        f"ECE {style.number(found.ece)} over {len(found.bins)} bins; by chance alone, calibrated, it would be about "
        f"{style.number(found.ece_by_chance)}\n"
        f"largest gap {style.number(found.mce)}, Brier score {style.number(found.brier)}, "
        f"NLL {style.number(found.nll)} nats",
    )
    return style.save(figure, path, svg=svg)


def top_losses(
    images: ArrayLike,
    losses: Sequence[TopLoss],
    names: Sequence[str],
    class_names: Sequence[str],
    path: str | Path,
    *,
    split: str = "test",
    svg: bool = False,
) -> Path:
    """The images that cost the most, the worst first: what each is labelled, what it is taken for, its loss.

    Args:
        images: ``(N, C, H, W)`` uint8, one for each of ``losses``.
        losses: from ``litmus.diagnosis.top_losses``.
        names: what each image is called, in a dozen letters: its number in the data set, or its file.
        class_names: K names.
        path: of the PNG.
        split: which images these are, for the title.
    """
    pictures = style.checked_images(images)
    if not 1 <= len(losses) == len(pictures) == len(names):
        raise ValueError(f"{len(pictures)} images, {len(losses)} losses and {len(names)} names, wanted as many of each")
    classes = [style.printable(name, idx, 40) for idx, name in enumerate(class_names)]
    text, above = 0.58, 0.85
    lines = -(-len(losses) // COLUMNS)
    figure = style.new_figure(_SHEET_WIDTH, above + lines * (_TILE + text) + 0.06)
    canvas = style.canvas(figure)
    for i, (one, picture, name) in enumerate(zip(losses, pictures, names, strict=True)):
        left, top = 0.2 + (i % COLUMNS) * (_TILE + _GAP), above + (i // COLUMNS) * (_TILE + text)
        wrong = one.predicted != one.label
        style.place(canvas, picture, left, top, _TILE, frame=style.WRONG if wrong else None)
        under = top + _TILE
        style.write(canvas, left, under + 0.11, f"{one.loss:.2f}", size=7.5, weight="bold", va="center")
        room = _TILE - style.width_of(f"{one.loss:.2f}", 7.5, bold=True) - 0.08
        style.write(canvas, left + _TILE, under + 0.11, style.fitted(style.printable(name, i, 60), room, 6.5), size=6.5,
                    color=style.SOFT, va="center", ha="right")  # fmt: skip
        style.caption(canvas, left, under + 0.25, _TILE, classes[one.label], one.probability, style.INK)
        said, color = (f"→ {classes[one.predicted]}", style.WRONG) if wrong else ("→ the same", style.RIGHT)
        style.caption(canvas, left, under + 0.39, _TILE, said, one.confidence, color)
    num_wrong = sum(one.predicted != one.label for one in losses)
    style.write_title(
        figure,
        f"The {len(losses)} {split} images that cost the most: mislabelled, or hard",
        f"{num_wrong} of them wrong; under each its loss in nats and its name, its label and what it is taken for, "
        "each with its probability",
    )
    return style.save(figure, path, svg=svg)


def confused_pairs(
    pairs: Sequence[tuple[Confusion, ArrayLike, ArrayLike]],
    num_images: Sequence[int],
    class_names: Sequence[str],
    path: str | Path,
    *,
    split: str = "test",
    svg: bool = False,
) -> Path:
    """A row for each pair of classes: images of the one that are taken for the other, the most confident first.

    Args:
        pairs: from ``litmus.diagnosis.most_confused``, each with images of it, ``(N, C, H, W)`` uint8, and the
            probability given to the predicted class, ``(N,)``; the first 8 are drawn.
        num_images: ``(K,)`` images of each class.
        class_names: K names.
        path: of the PNG.
        split: which images these are, for the title.

    Raises:
        ValueError: no pair.
    """
    if not pairs:
        raise ValueError("there is no pair to draw: no class is taken for another")
    names = [style.printable(name, idx, 40) for idx, name in enumerate(class_names)]
    aside, above, text = 2.3, 0.85, 0.3
    most = min(COLUMNS, max(len(np.asarray(images)) for _, images, _ in pairs))
    width = 0.2 + aside + most * (_TILE + _GAP) + 0.1
    figure = style.new_figure(max(width, 7.4), above + len(pairs) * (_TILE + text))
    canvas = style.canvas(figure)
    for row, (pair, images, confidence) in enumerate(pairs):
        top = above + row * (_TILE + text)
        room = aside - 0.15
        style.write(canvas, 0.2, top + 0.2, style.fitted(names[pair.label], room, 9.5, bold=True), size=9.5,
                    weight="bold", va="center")  # fmt: skip
        taken = style.fitted(f"taken for {names[pair.predicted]}", room, 9)
        style.write(canvas, 0.2, top + 0.43, taken, size=9, color=style.WRONG, va="center")
        part = f"{pair.count:,} of {num_images[pair.label]:,} ({style.number(pair.rate)})"
        style.write(canvas, 0.2, top + 0.66, part, size=8.5, color=style.SOFT, va="center")
        sure = np.asarray(confidence, dtype=float).reshape(-1)
        for i, picture in enumerate(style.checked_images(images)[:COLUMNS]):
            left = 0.2 + aside + i * (_TILE + _GAP)
            style.place(canvas, picture, left, top, _TILE)
            style.write(canvas, left + _TILE / 2, top + _TILE + 0.1, f"{sure[i]:.2f}", size=7, color=style.SOFT,
                        ha="center", va="center")  # fmt: skip
    first, last = (style.printable(class_names[idx], idx) for idx in (pairs[0][0].label, pairs[0][0].predicted))
    style.write_title(
        figure,
        f"Most often, {first} is taken for {last}",
        f"pairs by the part of a class's {split} images that goes astray; under each image: how sure the network was",
    )
    return style.save(figure, path, svg=svg)


def grad_cam(
    images: ArrayLike,
    labels: ArrayLike,
    predicted: ArrayLike,
    probabilities: ArrayLike,
    heat_of_predicted: ArrayLike,
    heat_of_label: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    *,
    grid: tuple[int, int],
    layer: str,
    svg: bool = False,
) -> Path:
    """Where the network looks: mistakes with what speaks for either class, then right answers.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels, predicted: ``(N,)`` classes.
        probabilities: ``(N, K)``.
        heat_of_predicted, heat_of_label: ``(N, H, W)`` in [0, 1], Grad-CAM for the predicted and for the true class.
        class_names: K names.
        path: of the PNG.
        grid: (h, w) of the maps that the heat was read from.
        layer: where that was.
    """
    pictures = style.checked_images(images)
    true, said = (np.asarray(classes).reshape(-1) for classes in (labels, predicted))
    chances = np.asarray(probabilities, dtype=float)
    for_said, for_label = (np.asarray(heat, dtype=np.float32) for heat in (heat_of_predicted, heat_of_label))
    shape = (len(true), *pictures.shape[2:])
    if not len(pictures) == len(said) == len(chances) or not for_said.shape == for_label.shape == shape:
        raise ValueError(f"images {pictures.shape}, heat {for_said.shape} and {for_label.shape} do not fit together")
    names = [style.printable(name, idx, 40) for idx, name in enumerate(class_names)]
    sections = [
        (np.flatnonzero(true != said), 3, "mistakes: the image, what speaks for the answer, what speaks for the label"),
        (np.flatnonzero(true == said), 2, "right: the image, what speaks for the answer"),
    ]
    close, apart, text, head, above = 0.05, 0.28, 0.3, 0.36, 0.82

    def per_line(tiles: int) -> int:
        return int((9.9 + apart) // (tiles * _TILE + (tiles - 1) * close + apart))

    lines = [-(-len(chosen) // per_line(tiles)) for chosen, tiles, _ in sections]
    figure = style.new_figure(10.3, above + sum(head + count * (_TILE + text) for count in lines if count) + 0.05)
    canvas = style.canvas(figure)
    y = above
    for (chosen, tiles, heading), count, color in zip(sections, lines, (style.WRONG, style.RIGHT), strict=True):
        if not len(chosen):
            continue
        style.write(canvas, 0.2, y + 0.18, heading, weight="bold", color=color, size=9.5, va="center")
        y += head
        for i, idx in enumerate(chosen):
            across = tiles * _TILE + (tiles - 1) * close
            left, top = 0.2 + (i % per_line(tiles)) * (across + apart), y + (i // per_line(tiles)) * (_TILE + text)
            style.place(canvas, pictures[idx], left, top, _TILE)
            heats = [(for_said[idx], said[idx], color)] + ([(for_label[idx], true[idx], style.INK)] * (tiles == 3))
            for j, (heat, asked, ink) in enumerate(heats, start=1):
                at = left + j * (_TILE + close)
                style.place(canvas, _overlay(pictures[idx], heat), at, top, _TILE)
                style.caption(canvas, at, top + _TILE + 0.11, _TILE, names[asked], chances[idx, asked], ink)
        y += count * (_TILE + text)
    silent = int((for_said.reshape(len(true), -1).max(axis=1, initial=0) == 0).sum())
    note = f"; nothing speaks for {silent} of the answers" if silent else ""
    style.write_title(
        figure,
        "Where the network sees its answer (Grad-CAM)",
        f"read from {grid[0]}x{grid[1]} places of the layer '{layer}', each map on a scale of its own, "
        f"yellow where it is strongest{note}",
    )
    return style.save(figure, path, svg=svg)


def _overlay(image_CHW: NDArray[np.uint8], heat_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image in pale grey, at a tile's pixels, with the heat in colour over it."""
    from matplotlib import colormaps
    from PIL import Image

    _, height, width = image_CHW.shape
    factor = max(1.0, _TILE * style.DPI / max(height, width))
    size = (round(width * factor), round(height * factor))
    grey = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0) @ np.array([0.299, 0.587, 0.114])
    flat = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    heat = np.asarray(Image.fromarray(heat_HW).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    light = 0.15 + 0.85 * np.asarray(flat)[..., None] / 255
    strength = 0.7 * heat[..., None]
    mixed = (1 - strength) * light + strength * colormaps["inferno"](0.35 + 0.5 * heat)[..., :3]
    return np.ascontiguousarray((255 * mixed).round().astype(np.uint8).transpose(2, 0, 1))


def embedding(
    found: Embedding,
    labels: ArrayLike,
    predicted: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    *,
    knn_err: float,
    head_err: float,
    num_features: int,
    split: str = "test",
    svg: bool = False,
) -> Path:
    """The features in the plane, coloured by class; wrong predictions are ringed.

    Up to 20 classes are named at the median of their points, of more only the 12 with the most mistakes.

    Args:
        found: from ``litmus.diagnosis.embed``, M points.
        labels, predicted: ``(M,)`` classes.
        class_names: K names.
        path: of the PNG.
        knn_err: leave-one-out error of neighbours in the features, from ``litmus.diagnosis.knn_err``.
        head_err: error of the network's own head on the same images.
        num_features: F, how many dimensions were flattened to two.
        split: which images these are, for the title.
    """
    true, said = (np.asarray(classes).reshape(-1) for classes in (labels, predicted))
    points, num_classes = found.points, len(class_names)
    if not len(points) == len(true) == len(said):
        raise ValueError(f"{len(points)} points for {len(true)} labels and {len(said)} predictions")
    figure = style.new_figure(8.4, 8.2)
    axes = style.add_axes(figure, 0.2, 0.95, 8.0, 7.1, bare=True)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = 1.08 * np.max((high - low) / (8.0, 7.1)) or 1.0  # one unit is as long across as up
    (x, y), half = (low + high) / 2, reach * np.array([8.0, 7.1]) / 2
    axes.set(xlim=(x - half[0], x + half[0]), ylim=(y - half[1], y + half[1]))
    size = float(np.clip(3600 / max(len(points), 1), 9, 40))
    for label in np.unique(true):
        mine = points[true == label]
        axes.scatter(mine[:, 0], mine[:, 1], s=size, color=class_color(label), marker=class_marker(label), alpha=0.75,
                     linewidths=0, zorder=2)  # fmt: skip
    wrong = true != said
    axes.scatter(points[wrong, 0], points[wrong, 1], s=3.2 * size + 12, facecolors="none", edgecolors=style.INK,
                 linewidths=0.9 if wrong.sum() < 200 else 0.5, zorder=3)  # fmt: skip

    named = np.unique(true)
    if num_classes > MOST_NAMED:
        mistakes = np.bincount(true[wrong], minlength=num_classes)
        named = np.array([label for label in np.argsort(-mistakes, kind="stable")[:12] if mistakes[label]], dtype=int)
    _name_classes(axes, points, true, named, class_names)
    beneath = (
        f"{len(points):,} {split} images, {num_features} features in two dimensions by {found.method}"
        + (f" (perplexity {found.perplexity:.3g})" if found.perplexity else "")
        + (f"; ringed: {int(wrong.sum())} wrong predictions" if wrong.any() else "; no prediction is wrong")
        + ("\nnear means alike; distances between clusters and their sizes mean nothing" if found.perplexity else "")
        + ("; named: classes with most mistakes" if num_classes > MOST_NAMED and len(named) else "")
    )
    neighbours, head = style.number(knn_err), style.number(head_err)
    title = f"{NEIGHBOURS} nearest neighbours in the features err at {neighbours}, the head at {head}"
    style.write_title(figure, title, beneath)
    return style.save(figure, path, svg=svg)


def class_color(label: int) -> str:
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def class_marker(label: int) -> str:
    return CLASS_MARKERS[label // len(CLASS_COLORS) % len(CLASS_MARKERS)]


def _name_classes(
    axes: Axes, points: NDArray[np.float64], true: NDArray, named: NDArray, class_names: Sequence[str]
) -> None:
    """Names at the medians, moved up or down where they would lie on each other."""
    from matplotlib.patheffects import withStroke

    width, height = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    placed: list[tuple[float, float, float]] = []  # centre and half width of each name, in inches
    for label in named:
        name = style.printable(class_names[label], int(label))
        x, y = np.median(points[true == label], axis=0)
        across, up = (x - x0) / (x1 - x0) * width, (y - y0) / (y1 - y0) * height
        half = style.width_of(name, 9.5, bold=True) / 2 + 0.04
        across = float(np.clip(across, half, width - half))
        for shift in (step * sign * 0.09 for step in range(20) for sign in (1, -1)):
            if all(abs(up + shift - v) > 0.17 or abs(across - u) > half + h for u, v, h in placed):
                up += shift
                break
        placed.append((across, up, half))
        style.write(
            axes, across / width, up / height, name, size=9.5, weight="bold", color=style.INK, ha="center", va="center",
            transform=axes.transAxes, zorder=5,
            path_effects=[withStroke(linewidth=3, foreground=class_color(label)),
                          withStroke(linewidth=2.2, foreground="white")],
        )  # fmt: skip
