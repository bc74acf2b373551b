"""The pictures of a run, from tables and arrays.

Each function draws one message, writes a PNG (with ``svg=True`` an SVG beside it) and returns its path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis import style
from litmus.diagnosis.confusion import most_confused, per_class_err, pick_predictions
from litmus.diagnosis.gaps import GAPS, Diagnosis, Gap, Interval, wilson
from litmus.diagnosis.lr_range import Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = {
    "train": (style.RUNNING, 1.0, "running"),
    "train_eval": (style.TRAIN, 1.8, "train"),
    "val": (style.VAL, 1.8, "val"),
}
"""Colour, line width and label of each split, drawn in this order."""


def learning_curves(
    history: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    best_epoch: float | None = None,
    target_err: float = 0.0,
    augmented: bool = False,
    unit: Literal["epochs", "steps"] = "epochs",
    svg: bool = False,
) -> Path:
    """Loss and error over the training, one panel each.

    Args:
        history: points ``(epoch, value)`` for any of ``train/loss``, ``train_eval/loss``, ``val/loss`` and the same
            with ``err``; values that are not finite leave a hole. Other keys are left alone.
        path: of the PNG.
        best_epoch: the x of the weights that were kept: marked, and its values stand beside the curves.
        target_err: a horizontal line in the error panel.
        augmented: whether the running ``train`` values are over augmented images: said beneath the title.
        unit: of x.

    Raises:
        ValueError: if none of the series has a finite value.
    """
    curves = {
        key: np.array(history[key], dtype=float).reshape(-1, 2)
        for name in ("loss", "err")
        for key in (f"{split}/{name}" for split in SERIES)
        if len(history.get(key, ()))
    }
    if not any(np.isfinite(points).all(axis=1).any() for points in curves.values()):
        raise ValueError(f"no finite value of any split's loss or err to draw, only {sorted(history)}")

    figure = style.new_figure(10, 4.3)
    for panel, name in enumerate(("loss", "err")):
        axes = style.add_axes(figure, 0.75 + 4.95 * panel, 0.85, 3.15, 2.8)
        mine = {split: curves[f"{split}/{name}"] for split in SERIES if f"{split}/{name}" in curves}
        scale = _draw_curves(axes, mine, name, best_epoch, target_err if name == "err" else 0.0)
        what = "cross-entropy (nats)" if name == "loss" else "error rate"
        if scale is not None:
            style.name_axes(axes, "epoch" if unit == "epochs" else "optimizer step", what + scale)
    style.write_title(figure, *_curves_message(curves, best_epoch, unit, augmented))
    return style.save(figure, path, svg=svg)


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, NDArray],
    name: str,
    best_epoch: float | None,
    target: float,
) -> str | None:
    """Returns what the label of the y axis must say about its scale; None when there was nothing to draw."""
    finite = {split: points[np.isfinite(points).all(axis=1)] for split, points in curves.items()}
    finite = {split: points for split, points in finite.items() if len(points)}
    values = np.concatenate([points[:, 1] for points in finite.values()]) if finite else np.array([1.0])
    scale = _scale_y(axes, values, name, target)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if not finite:
        note = f"no {'loss' if name == 'loss' else 'error rate'} was recorded"
        style.write(axes, 0.5, 0.5, note, color=style.SOFT, ha="center", transform=axes.transAxes)
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])
        return None

    xs = np.concatenate([points[:, 0] for points in finite.values()])
    pad = 0.03 * (xs.max() - xs.min()) or 0.5
    axes.set_xlim(xs.min() - pad, xs.max() + pad)
    _whole_ticks(axes, xs)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=style.SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        at = axes.get_xaxis_transform()
        style.write(
            axes, best_epoch, 1.02, f"best: {best_epoch:,g}", size=8, color=style.SOFT, ha="center", transform=at
        )

    labels: list[tuple[float, str, str]] = []
    for split, points in finite.items():
        color, width, label = SERIES[split]
        whole = curves[split]
        dots = len(points) <= 2 or (split != "train" and len(points) <= 12)
        axes.plot(
            whole[:, 0], whole[:, 1], color=color, linewidth=width, marker="o" if dots else "", markersize=3.5,
            solid_capstyle="round", zorder=2 + width,
        )  # fmt: skip
        shown = points[-1]
        if best_epoch is not None:
            shown = points[np.abs(points[:, 0] - best_epoch).argmin()]
            if split != "train":
                axes.plot(*shown, marker="o", markersize=6.5, color=color, markeredgecolor="white", zorder=6)
        labels.append((points[-1, 1], f"{label} {style.number(shown[1])}", color))
    if target > 0:
        axes.axhline(target, color=style.GREEN, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
        labels.append((target, f"target {style.number(target)}", style.GREEN))
    style.label_ends(axes, labels)
    return scale


def _scale_y(axes: Axes, values: NDArray, name: str, target: float) -> str:
    """Choose the y axis; returns what its label must say about it.

    Losses over more than a factor of 20 are drawn on logarithms. Errors reach 0: where the last ones would be pressed
    flat, the axis is that of the square root.
    """
    low, high = float(values.min()), float(values.max())
    if name == "loss":
        if low > 0 and high / low > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            return ", log scale"
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(0 if low >= 0 and low < 0.4 * high else low - pad, high + pad)
        return ""
    top = max(high, target, 0.01)
    if np.median(values) < top / 6:
        axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), lambda y: np.square(y)))
        ticks = np.array([0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
        keep = [0.0]
        for tick in ticks[1:]:
            if np.sqrt(tick / top) - np.sqrt(keep[-1] / top) > 0.09 and tick <= 1.06 * top:
                keep.append(float(tick))
        axes.set_yticks(keep, [f"{tick:g}" for tick in keep])
        axes.set_ylim(0, 1.06 * top)
        return ", square-root scale"
    axes.set_ylim(0, 1.06 * top)
    return ""


def _whole_ticks(axes: Axes, xs: NDArray) -> None:
    from matplotlib.ticker import MaxNLocator

    whole = bool((xs == np.round(xs)).all())
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=whole, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == round(value) else f"{value:g}")


def _curves_message(
    curves: Mapping[str, NDArray], best_epoch: float | None, unit: str, augmented: bool
) -> tuple[str, str]:
    """Title and subtitle."""

    def at(key: str) -> float | None:
        points = curves.get(key, np.empty((0, 2)))
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            return None
        return float(points[-1 if best_epoch is None else np.abs(points[:, 0] - best_epoch).argmin(), 1])

    last = max(points[-1, 0] for points in curves.values())
    when = f"at {unit.removesuffix('s')} {last if best_epoch is None else best_epoch:,g}"
    when += f" (best of {last:,g})" if best_epoch is not None and last > best_epoch else ""
    title = f"Training to {unit.removesuffix('s')} {last:,g}, running values only"
    beneath = []
    for name, word in (("err", "error"), ("loss", "loss")):
        val, train = at(f"val/{name}"), at(f"train_eval/{name}")
        if val is not None:
            title = f"Validation {word} {style.number(val)} {when}"
            if train is not None:
                gap = style.number(val - train)
                beneath.append(f"training images seen the same way: {style.number(train)}, gap {gap}")
            break
        if train is not None:
            title = f"Training {word} {style.number(train)} {when}"
            break
    if any(key.startswith("train/") for key in curves):
        beneath.append(f"thin: running mean while training{', over augmented images' if augmented else ''}")
    if best_epoch is not None:
        beneath.append("numbers: at the mark")
    return title, "; ".join(beneath)


def confusion(
    matrix: ArrayLike, class_names: Sequence[str], path: str | Path, *, split: str = "test", svg: bool = False
) -> Path:
    """Which class is taken for which: rows are true classes, normalised.

    What is right is blue on the diagonal, what is wrong is orange on a scale of its own, so that rare confusions show.
    Up to 20 classes the cells hold their counts. Beside the matrix stand the errors per class (up to 30 classes) or the
    most confused pairs.

    Args:
        matrix: ``(K, K)`` counts, rows true, columns predicted.
        class_names: K names.
        path: of the PNG.
        split: which images these are, for the title.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    num_classes = len(counts)
    if counts.shape != (num_classes, num_classes) or len(class_names) != num_classes:
        raise ValueError(f"a matrix of shape {counts.shape} needs as many class names, got {len(class_names)}")
    pairs = most_confused(counts)
    names = [style.printable(name, idx) for idx, name in enumerate(class_names)]
    total, wrong = int(counts.sum()), int(counts.sum() - counts.trace())

    cell = float(np.clip(4.8 / num_classes, 0.085, 0.9)) if num_classes <= 120 else 10.2 / num_classes
    side = cell * num_classes
    size = min(9.0, 0.82 * cell * 72)
    every = 1 if size >= 4.5 else int(np.ceil(4.5 / size))
    size = max(size, 4.5)
    text = max(style.width_of(name, size) for name in names)
    left, top, aside = 0.55 + text, 1.0, 1.9 if num_classes <= 30 else 2.9
    upright = text > 0.9 * cell * every
    bottom = (text if upright else 0.15) + 0.4
    figure = style.new_figure(max(left + side + 0.2 + aside, 6.5), top + side + bottom)

    axes = style.add_axes(figure, left, top, side, side)
    axes.spines[:].set_visible(False)
    worst = pairs[0].rate if pairs else 0.0
    pooled = -(-num_classes // 300)
    colors = _confusion_colors(counts, worst, pooled)
    extent = (-0.5, len(colors) * pooled - 0.5, len(colors) * pooled - 0.5, -0.5)
    axes.imshow(colors, interpolation="nearest", extent=extent)
    axes.set(xticks=[], yticks=[])
    below, beside = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    for i in range(0, num_classes, every):  # texts, not ticks: twice as fast for 100 classes
        style.write(axes, -0.05 / side, i, names[i], size=size, ha="right", va="center", transform=beside)
        how = {"rotation": 90, "ha": "center", "va": "top"} if upright else {"ha": "center", "va": "top"}
        style.write(axes, i, -0.05 / side, names[i], size=size, transform=below, **how)
    width, height = figure.get_size_inches()
    style.write(figure, (left + side / 2) / width, 0.12 / height, "predicted class", ha="center")
    style.write(figure, 0.2 / width, 1 - (top + side / 2) / height, "true class", rotation=90, va="center")
    if num_classes <= 20:
        _write_counts(axes, counts, colors, min(9.0, 22 * cell))
        for edge in range(1, num_classes):
            axes.axhline(edge - 0.5, color="white", linewidth=1)
            axes.axvline(edge - 0.5, color="white", linewidth=1)

    if num_classes <= 30:
        _draw_class_errors(style.add_axes(figure, left + side + 0.25, top, aside - 0.75, side), counts, -0.05 / side)
    else:
        _list_pairs(figure, left + side + 0.3, top, pairs, names, counts)
    beneath = "no class is taken for another"
    if pairs:
        first, row = pairs[0], int(counts[pairs[0].label].sum())
        beneath = f"most often {names[first.label]} is taken for {names[first.predicted]}: {first.count} of {row:,}"
    beneath += "\nblue: right; orange: part of a class taken for another" + (
        f", darkest {style.number(worst)}" if pairs else ""
    )
    if pooled > 1:
        beneath += f"; a dot is the strongest of {pooled}x{pooled} cells"
    style.write_title(
        figure, f"{wrong:,} of {total:,} {split} images wrong (err {style.number(wrong / max(total, 1))})", beneath
    )
    return style.save(figure, path, svg=svg)


def _confusion_colors(counts: NDArray[np.int64], worst: float, pooled: int = 1) -> NDArray[np.float64]:
    """``(K, K, 3)``: white to blue on the diagonal, white to orange off it, by square root so that small parts show.

    With ``pooled`` above 1 each pixel is the strongest confusion of so many rows and columns.
    """
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right, wrong = 0.85 * rates.diagonal(), 0.9 * np.sqrt(rates / worst if worst else rates)
    np.fill_diagonal(wrong, 0)
    if pooled > 1:
        missing = -len(counts) % pooled
        right = np.pad(right, (0, missing), mode="edge").reshape(-1, pooled).mean(axis=1)
        wrong = np.pad(wrong, (0, missing)).reshape(len(right), pooled, len(right), pooled).max(axis=(1, 3))
    diagonal = np.eye(len(right), dtype=bool)
    strength = np.where(diagonal, right, wrong)[..., None]
    ink = np.where(diagonal[..., None], style.rgb(style.RIGHT), style.rgb(style.WRONG))
    empty = style.rgb("#f4f4f4")
    return np.clip(empty + strength * (ink - empty), 0, 1)


def _write_counts(axes: Axes, counts: NDArray[np.int64], colors: NDArray[np.float64], size: float) -> None:
    dark = colors @ np.array([0.299, 0.587, 0.114]) < 0.6
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if dark[row, column] else style.INK
        count = counts[row, column]
        shown = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
        style.write(axes, column, row, shown, size=size, color=color, ha="center", va="center")


def _draw_class_errors(axes: Axes, counts: NDArray[np.int64], below: float) -> None:
    err = per_class_err(counts)
    axes.set_ylim(len(err) - 0.5, -0.5)
    top = float(np.nanmax(err, initial=0.0)) or 1.0
    axes.set_xlim(0, top)
    axes.barh(range(len(err)), np.nan_to_num(err), height=0.55, color=style.WRONG)
    for row, value in enumerate(err):
        shown = "no images" if np.isnan(value) else f"{value:.3f}"
        style.write(axes, np.nan_to_num(value) + 0.04 * top, row, shown, size=8, color=style.SOFT, va="center")
    axes.spines["bottom"].set_visible(False)
    axes.set(xticks=[], yticks=[])
    style.write(axes, 0, below, "error rate of the class", va="top", transform=axes.transAxes)


def _list_pairs(
    figure: Figure, left: float, top: float, pairs: Sequence[Any], names: Sequence[str], counts: NDArray[np.int64]
) -> None:
    canvas = style.add_axes(figure, left, top, 2.6, 5, bare=True)
    canvas.set(xlim=(0, 2.6), ylim=(5, 0))
    style.write(canvas, 0, 0.12, "most confused", weight="bold")
    for i, pair in enumerate(pairs):
        y = 0.48 + 0.44 * i
        style.write(canvas, 0, y, f"{names[pair.label]}", size=8.5)
        style.write(canvas, 0.1, y + 0.17, f"taken for {names[pair.predicted]}", size=8.5, color=style.WRONG)
        row = int(counts[pair.label].sum())
        style.write(canvas, 2.5, y + 0.17, f"{pair.count} of {row}", size=8.5, color=style.SOFT, ha="right")
    if not pairs:
        style.write(canvas, 0, 0.45, "no class", color=style.SOFT)


def predictions(
    images: ArrayLike,
    labels: ArrayLike,
    predicted: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    *,
    split: str = "test",
    totals: tuple[int, int] | None = None,
    rows: int = 2,
    svg: bool = False,
) -> Path:
    """The most confident mistakes, framed, above typical successes.

    Beside each name stands its probability: for a mistake first what was said, then what it is.

    Args:
        images: ``(N, C, H, W)`` uint8, C 1 or 3.
        labels: ``(N,)`` true classes.
        predicted: ``(N,)`` predicted classes.
        probabilities: ``(N, K)``.
        class_names: K names.
        path: of the PNG.
        split: which images these are, for the title.
        totals: ``(wrong, images)`` of the split, when the images given are a choice from it (see ``pick_predictions``).
        rows: of 8 images, for the mistakes and for the successes each.
    """
    pictures = style.checked_images(images)
    true, said = (np.asarray(classes).reshape(-1) for classes in (labels, predicted))
    chances = np.asarray(probabilities, dtype=float)
    if not len(pictures) == len(true) == len(said) == len(chances) or chances.shape[1:] != (len(class_names),):
        raise ValueError(
            f"{len(pictures)} images, {len(true)} labels, {len(said)} predictions, probabilities {chances.shape} and "
            f"{len(class_names)} class names do not fit together"
        )
    sure = chances[np.arange(len(said)), said]
    mistakes, successes = pick_predictions(true, said, sure, mistakes=8 * rows, successes=8 * rows)
    wrong, total = totals or (int((true != said).sum()), len(true))

    tile, text, head, gap, above = 1.0, 0.42, 0.36, 0.16, 0.62
    lines = [-(-len(chosen) // 8) for chosen in (mistakes, successes)]
    height = above + sum(head + count * (tile + text) for count in lines if count) + 0.05
    figure = style.new_figure(8 * (tile + gap) + 0.4 - gap, max(height, 1.0))
    canvas = style.canvas(figure)
    names = [style.printable(name, idx, 40) for idx, name in enumerate(class_names)]
    y = above
    for chosen, heading, color in (
        (mistakes, "most confident mistakes", style.WRONG),
        (successes, "typical successes", style.RIGHT),
    ):
        if not len(chosen):
            continue
        style.write(canvas, 0.2, y + 0.2, heading, weight="bold", color=color, size=10, va="center")
        y += head
        for i, idx in enumerate(chosen):
            left, top = 0.2 + (i % 8) * (tile + gap), y + (i // 8) * (tile + text)
            style.place(canvas, pictures[idx], left, top, tile, frame=style.WRONG if true[idx] != said[idx] else None)
            style.caption(canvas, left, top + tile + 0.11, tile, names[said[idx]], sure[idx], color)
            if true[idx] != said[idx]:
                is_really = f"is {names[true[idx]]}"
                style.caption(canvas, left, top + tile + 0.26, tile, is_really, chances[idx, true[idx]], style.INK)
        y += -(-len(chosen) // 8) * (tile + text)
    title = f"{wrong:,} of {total:,} {split} images wrong (err {style.number(wrong / max(total, 1))})"
    style.write_title(figure, title, "beside each name: the probability given to that class")
    return style.save(figure, path, svg=svg)


def contact_sheet(
    sections: Mapping[str, Sequence[int]],
    images: Mapping[int, NDArray[np.uint8]],
    predicted: Mapping[int, tuple[int, float]],
    beneath: Mapping[int, tuple[str, str]],
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    wrong: Collection[int] = (),
    svg: bool = False,
) -> Path:
    """Images with what the network says of them, in sections of rows of 8.

    Args:
        sections: by heading, the images in their order; an empty heading is not drawn.
        images: (C, H, W) uint8 of each.
        predicted: class and probability of each.
        beneath: a second line for each, at the left and at the right.
        class_names: K names.
        path: of the PNG.
        wrong: those to be framed.
    """
    pictures = {idx: style.checked_images(image[None])[0] for idx, image in images.items()}
    tile, text, head, gap = 1.0, 0.42, 0.36, 0.16
    above = 0.7 + 0.16 * subtitle.count("\n")
    height = above + sum(head * bool(name) + -(-len(chosen) // 8) * (tile + text) for name, chosen in sections.items())
    figure = style.new_figure(8 * (tile + gap) + 0.4 - gap, max(height + 0.05, 1.0))
    canvas = style.canvas(figure)
    y = above
    for heading, chosen in sections.items():
        if heading:
            style.write(canvas, 0.2, y + 0.2, heading, weight="bold", size=10, va="center")
            y += head
        for i, idx in enumerate(chosen):
            left, top = 0.2 + (i % 8) * (tile + gap), y + (i // 8) * (tile + text)
            said, chance = predicted[idx]
            name = style.printable(class_names[said], said, 40)
            is_wrong = idx in wrong
            style.place(canvas, pictures[idx], left, top, tile, frame=style.WRONG if is_wrong else None)
            color = style.WRONG if is_wrong else style.RIGHT
            style.caption(canvas, left, top + tile + 0.11, tile, name, chance, color)
            note, number = map(style.legible, beneath[idx])
            room = tile - (style.width_of(number, 6) + 0.08 if number else 0)
            style.write(
                canvas, left, top + tile + 0.26, style.fitted(note, room, 6), size=6, color=style.SOFT, va="center"
            )
            style.write(
                canvas, left + tile, top + tile + 0.26, number, size=6, color=style.SOFT, va="center", ha="right"
            )
        y += -(-len(chosen) // 8) * (tile + text)
    style.write_title(figure, title, subtitle)
    return style.save(figure, path, svg=svg)


def augmented(
    original: ArrayLike,
    versions: Sequence[ArrayLike],
    labels: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    *,
    svg: bool = False,
) -> Path:
    """What augmentation makes of images: a row each, first the original, then as each epoch sees it.

    Args:
        original: ``(N, C, H, W)`` uint8; the first 8 are drawn.
        versions: the same images as augmented in epochs 0, 1, ...: each ``(N, C, H', W')`` uint8.
        labels: ``(N,)`` true classes.
        class_names: K names.
        path: of the PNG.
    """
    columns = [style.checked_images(column) for column in (original, *versions)]
    true = np.asarray(labels).reshape(-1)
    if {len(column) for column in columns} != {len(true)}:
        raise ValueError(f"{[len(column) for column in columns]} images in the columns for {len(true)} labels")
    count = min(len(true), 8)
    names = [style.printable(class_names[label], int(label)) for label in true[:count]]
    tile, gap = 1.0, 0.08
    left = 0.35 + max((style.width_of(name, 9) for name in names), default=0.0)
    width = left + len(columns) * (tile + gap) + 0.25 + 0.1
    top = 0.85
    figure = style.new_figure(max(width, 4.5), top + count * (tile + gap) + 0.12)
    canvas = style.canvas(figure)
    for row, name in enumerate(names):
        middle = top + row * (tile + gap) + tile / 2
        style.write(canvas, left - 0.12, middle, name, ha="right", va="center")
    for i, column in enumerate(columns):
        x = left + i * (tile + gap) + (0.25 if i else 0)
        heading = f"epoch {i - 1}" if i else "original"
        style.write(canvas, x + tile / 2, top - 0.1, heading, color=style.SOFT, size=8.5, ha="center")
        for row in range(count):
            style.place(canvas, column[row], x, top + row * (tile + gap), tile)
    epochs = len(versions)
    style.write_title(figure, f"What the network is shown in {epochs} epoch{'s' * (epochs != 1)}")
    return style.save(figure, path, svg=svg)


def lr_range(
    lrs: ArrayLike,
    losses: ArrayLike,
    path: str | Path,
    suggestion: Suggestion,
    *,
    configured: float | None = None,
    svg: bool = False,
) -> Path:
    """The loss of a range test against the rate, with what ``suggest_lr`` read off it.

    Args:
        lrs: ``(S,)`` rates.
        losses: ``(S,)`` training loss of the step at each rate.
        path: of the PNG.
        suggestion: from ``suggest_lr(lrs, losses)``.
        configured: the config's present rate, marked when it lies in the range.
    """
    rates, raw = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    figure = style.new_figure(8, 4.4)
    axes = style.add_axes(figure, 0.8, 1.05, 6.9, 2.75)
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1])
    finite = raw[np.isfinite(raw)]
    if len(finite):
        start, low = float(np.median(finite[: max(3, len(finite) // 10)])), float(finite.min())
        reach = max(start - low, 0.05 * abs(start), 1e-12)
        axes.set_ylim(low - 0.12 * reach, start + 0.6 * reach)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.plot(rates, raw, ".", color=style.SKY, markersize=4, zorder=2)
    tells = rates <= (suggestion.diverges_at or np.inf)  # beyond, it is smoothed from losses cut off
    axes.plot(rates[tells], suggestion.smooth[tells], color=style.BLUE, linewidth=1.8, zorder=3)
    style.name_axes(axes, "learning rate (log scale)", "training loss of the step (nats)")

    across = axes.get_xaxis_transform()
    if suggestion.diverges_at is not None:
        axes.axvspan(suggestion.diverges_at, rates[-1], color=style.FAINT, alpha=0.55, linewidth=0, zorder=1)
        style.write(axes, suggestion.diverges_at, 0.03, " diverges", color=style.SOFT, size=8.5, transform=across)
    beneath = [suggestion.note] if suggestion.note else []
    title = "No learning rate can be read off"
    lr, steepest, minimum = suggestion.lr, suggestion.steepest, suggestion.minimum
    if lr is not None and steepest is not None and minimum is not None:
        title = f"Suggested learning rate {lr:.2g}"
        found = f"loss falls fastest at {steepest:.2g} (triangle), is lowest at {minimum:.2g} (dot)"
        beneath.insert(0, found + (f", diverges from {suggestion.diverges_at:.2g}" if suggestion.diverges_at else ""))
        axes.axvline(lr, color=style.RED, linewidth=1.6, zorder=4)
        style.write(axes, lr, 1.03, f"{lr:.2g}", color=style.RED, weight="bold", ha="center", transform=across)
        for rate, marker in ((steepest, "v"), (minimum, "o")):
            level = suggestion.smooth[np.argmin(np.abs(rates - rate))]
            axes.plot(rate, level, marker=marker, markersize=7, color=style.BLUE, markeredgecolor="white", zorder=5)
    if configured is not None and rates[0] <= configured <= rates[-1]:
        axes.axvline(configured, color=style.SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=3)
        side = "right" if lr is not None and configured < lr else "left"
        style.write(
            axes, configured, 0.97, " config ", color=style.SOFT, size=8.5, va="top", ha=side, transform=across
        )  # fmt: skip
        beneath.append(f"config: {configured:.2g}")
    style.write_title(figure, title, "; ".join(beneath) + "\ndots: single steps; line: smoothed")
    return style.save(figure, path, svg=svg)


STATUS = {"high": style.RED, "undecided": style.ORANGE, "low": style.BLUE}
"""Colour of a gap by what it is held to be."""


def diagnosis(
    found: Diagnosis, path: str | Path, *, test: tuple[int, int] | None = None, moves: int = 4, svg: bool = False
) -> Path:
    """The errors as a ladder, each rung hung on the one before, with the gaps between them and what to do about these.

    A bar is a gap, coloured by its status; the grey band is the tolerance, from the rung before; the line through a dot
    is the interval of that error.

    Args:
        found: from ``diagnose_errors`` or ``diagnose_seeds``.
        path: of the PNG.
        test: ``(wrong, images)`` of the test set: a last rung without a bar, for it decides nothing.
        moves: at most so many are written beneath.
    """
    rungs: list[tuple[str, float, Interval | None, Gap | None, str]] = [("target", found.target_err, None, None, "")]
    rungs.append(("train", found.train_err, found.train_interval, found.bias, GAPS["bias"]))
    if found.train_dev_err is not None and found.mismatch is not None:
        rungs.append(("train-dev", found.train_dev_err, found.train_dev_interval, found.gap, GAPS["variance"]))
        rungs.append(("validation", found.val_err, found.val_interval, found.mismatch, GAPS["mismatch"]))
    else:
        rungs.append(("validation", found.val_err, found.val_interval, found.gap, GAPS["variance"]))
    if test is not None:
        rungs.append(("test", test[0] / test[1], wilson(*test), None, ""))

    lines = found.moves[:moves]
    step, above, beneath = 0.42, 0.82, 0.55
    tall = step * len(rungs)
    height = above + tall + beneath + (0.3 + 0.21 * len(lines) if lines else 0) + 0.1
    figure = style.new_figure(8.6, height)
    axes = style.add_axes(figure, 0.95, above, 4.35, tall)
    ends = [one.high for _, _, one, _, _ in rungs if one is not None]
    top = 1.08 * max(0.02, *ends, *(level for _, level, *_ in rungs), found.target_err + 1.5 * found.tolerance)
    axes.set(xlim=(0, min(top, 1.02)), ylim=(len(rungs) - 0.5, -0.5), yticks=[])
    axes.grid(axis="x", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    style.name_axes(axes, "error rate")

    before = 0.0
    for row, (name, level, around, gap, called) in enumerate(rungs):
        _draw_rung(axes, row, name, level, around, before, gap, found.tolerance)
        if gap is not None:
            style.write(axes, 1.03, row - 0.17, f"{called} {gap.status}", color=STATUS[gap.status], weight="bold",
                        va="center", size=8.5, transform=axes.get_yaxis_transform())  # fmt: skip
            style.write(axes, 1.03, row + 0.2, _of_gap(gap, found.level), color=style.SOFT, va="center", size=8,
                        transform=axes.get_yaxis_transform())  # fmt: skip
        before = level
    if lines:
        width, whole = figure.get_size_inches()
        y = above + tall + beneath + 0.12
        style.write(figure, 0.2 / width, 1 - y / whole, "next moves", weight="bold", va="center")
        texts = [style.fitted(f"{i}. {move}", 8.2, 8.5) for i, move in enumerate(lines, start=1)]
        left = 0.4 + max((style.width_of(text, 8.5) for text in texts if len(text) < 50), default=0.0)
        for text, why in zip(texts, found.reasons, strict=False):
            y, right = y + 0.21, max(left, 0.35 + style.width_of(text, 8.5))
            style.write(figure, 0.2 / width, 1 - y / whole, text, size=8.5, va="center")
            if right < 6.5:
                why = style.fitted(why, 8.5 - right, 8)
                style.write(figure, right / width, 1 - y / whole, why, size=8, color=style.SOFT, va="center")
    over = f", mean of {found.num_seeds} seeds" if found.num_seeds > 1 else ""
    title = f"{found.verdict.capitalize()}: train {style.number(found.train_err)}, "
    title += f"validation {style.number(found.val_err)}{over}"
    says = (
        f"bars: gaps; grey: the tolerance of {style.number(found.tolerance)}; lines: {100 * found.level:g}% intervals"
    )
    if found.train_is_exact:
        says += "; the training error is over all training images"
    style.write_title(figure, title, says)
    return style.save(figure, path, svg=svg)


def _draw_rung(
    axes: Axes, row: int, name: str, level: float, around: Interval | None, before: float, gap: Gap | None,
    tolerance: float,
) -> None:  # fmt: skip
    style.write(axes, -0.03, row, name, ha="right", va="center", transform=axes.get_yaxis_transform())
    color = style.GREEN if name == "target" else style.INK
    if gap is not None:
        axes.plot(
            [before, before], [row - 1, row + 0.36], color=style.SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=2
        )
        axes.barh(row, tolerance, left=before, height=0.72, color=style.FAINT, zorder=1.5)
        axes.barh(row, level - before, left=before, height=0.3, color=STATUS[gap.status], alpha=0.55, zorder=3)
    if around is not None and around.low < around.high:
        axes.plot(around, [row, row], color=color, linewidth=1.4, zorder=4, solid_capstyle="butt")
    axes.plot(level, row, "D" if name == "target" else "o", color=color, markersize=5.5, markeredgecolor="white",
              zorder=5, clip_on=False)  # fmt: skip
    from matplotlib.patheffects import withStroke

    room = axes.get_xlim()[1]
    side = "left" if level < 0.04 * room else "right" if level > 0.96 * room else "center"
    style.write(axes, level, row - 0.31, style.number(level), size=8, color=color, ha=side, va="center", zorder=6,
                path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip


def _of_gap(gap: Gap, level: float) -> str:
    low, high = gap.interval
    shown = style.number(gap.value)
    return f"{shown}, {100 * level:g}% {style.number(low)} to {style.number(high)}" if low < high else f"{shown}, exact"
