"""The picture of a learning curve over training-set sizes. As in ``litmus.diagnosis.plots``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from litmus.diagnosis import style
from litmus.diagnosis.curve import CurveReading
from litmus.diagnosis.plots import _scale_y
from litmus.diagnosis.power_law import PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = 60
_WIDTH = 7.35
_BESIDE = 0.09
"""Inches from a mean, to its left, of the trainings behind it."""


def data_curve(
    reading: CurveReading,
    path: str | Path,
    *,
    equal: Literal["steps", "epochs"],
    early_stopping: bool,
    length: int | None = None,
    svg: bool = False,
) -> Path:
    """Train and validation error against the number of training images, and where the law leads.

    Dots are single trainings, bands 95% of their mean; the law of validation error is a line, dashed beyond the sizes
    that were measured. The logarithmic x axis ends at 4 times the largest size.

    Args:
        reading: from ``litmus.diagnosis.read_curve``.
        path: of the PNG.
        equal: what all sizes were trained for as many of.
        early_stopping: whether a criterion could end a training before.
        length: how many steps or epochs that were.
    """
    points, law, target = reading.points, reading.law, reading.diagnosis.target_err
    sizes = np.array([point.size for point in points])
    figure = style.new_figure(10, 5.3)
    axes = style.add_axes(figure, 0.8, 1.2, _WIDTH, 3.4)
    axes.set_xscale("log", base=2)
    end = law.limit if isinstance(law, PowerLaw) else sizes[-1]
    pad = max(1.04, (end / sizes[0]) ** 0.03)
    axes.set_xlim(sizes[0] / pad, end * pad)
    beside = (end / sizes[0] * pad**2) ** (-_BESIDE / _WIDTH)
    scale = _scale_errs(axes, reading)
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _name_sizes(axes, sizes, end)
    style.name_axes(axes, "training images (log scale)", "error rate" + scale)

    labels: list[tuple[float, str, str]] = []
    for name, color in (("train", style.TRAIN), ("val", style.VAL)):
        means = np.array([getattr(point, f"{name}_err") for point in points])
        ends = np.array([getattr(point, f"{name}_interval") for point in points])
        joined = name == "train" or not isinstance(law, PowerLaw)
        if len(points) > 1:
            axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=color, alpha=0.14, linewidth=0, zorder=2)
        else:
            axes.plot([sizes[0]] * 2, ends[0], color=color, linewidth=6, alpha=0.2, solid_capstyle="butt", zorder=2)
        each = [getattr(point, f"{name}_errs") for point in points]
        if len(each[0]) > 1:
            left = np.repeat(sizes * beside, len(each[0]))
            axes.plot(left, np.ravel(each), ".", color=color, alpha=0.6, markersize=4, markeredgewidth=0, zorder=4,
                      clip_on=False)  # fmt: skip
        axes.plot(sizes, means, "o", color=color, markersize=5.5, markeredgecolor="white", linewidth=1.8, zorder=5,
                  linestyle="-" if joined else "", clip_on=False)  # fmt: skip
        labels.append((means[-1], f"{name} {style.number(float(means[-1]))}", color))
    if isinstance(law, PowerLaw):
        twice, at_end = _draw_law(axes, law)
        now = f"val {style.number(points[-1].val_err)} now"
        labels[1:] = [(at_end, f"{style.number(twice)} with 2x", style.VAL), (at_end, now, style.VAL)]
    if target > 0:
        axes.axhline(target, color=style.GREEN, linewidth=1.2, linestyle=(0, (5, 3)), zorder=3)
        labels.append((target, f"target {style.number(target)}", style.GREEN))
    style.label_ends(axes, labels)
    style.write_title(figure, *_message(reading, equal, early_stopping, length))
    return style.save(figure, path, svg=svg)


def _draw_law(axes: Axes, law: PowerLaw) -> tuple[float, float]:
    """Returns the errors foretold at 2 and 4 times the largest size."""
    first, last = law.sizes[0], law.sizes[-1]
    inside, beyond = np.geomspace(first, last, _STEPS), np.geomspace(last, law.limit, _STEPS)
    beyond[-1] = law.limit
    inside[[0, -1]] = first, last
    axes.plot(inside, [law.predict(n) for n in inside], color=style.VAL, linewidth=1.8, zorder=3)
    foretold = [law.predict(n) for n in beyond]
    axes.plot(beyond, foretold, color=style.VAL, linewidth=1.6, linestyle=(0, (4, 2.5)), zorder=3)
    for same_images, alpha in ((False, 0.14), (True, 0.22)):
        ends = np.array([law.predict_interval(n, same_images=same_images) for n in beyond])
        axes.fill_between(beyond, ends[:, 0], ends[:, 1], color=style.VAL, alpha=alpha, linewidth=0, zorder=2)
    axes.axvline(last, color=style.SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    style.write(axes, last, 1.015, "measured  ", size=8, color=style.SOFT, ha="right",
                transform=axes.get_xaxis_transform())  # fmt: skip
    style.write(axes, last, 1.015, "  foretold", size=8, color=style.SOFT, transform=axes.get_xaxis_transform())
    twice = law.predict(2 * last)
    axes.plot(
        2 * last, twice, "o", color="white", markersize=6, markeredgecolor=style.VAL, markeredgewidth=1.4, zorder=5
    )
    return twice, foretold[-1]


def _scale_errs(axes: Axes, reading: CurveReading) -> str:
    """Logarithmic where no error is 0 and they lie far apart: a law without floor is straight there."""
    target, law = reading.diagnosis.target_err, reading.law
    means = np.array([[point.train_err, point.val_err] for point in reading.points])
    top = max(max(point.val_interval.high, point.train_interval.high) for point in reading.points)
    lows = [errs for point in reading.points for errs in (*point.train_errs, *point.val_errs)]
    if isinstance(law, PowerLaw):
        top = max(top, law.predict_interval(law.limit).high)
        lows.append(law.predict(law.limit))
    if min(lows) > 0 and means.max() > 10 * means.min():
        low, high = min(*lows, target or 1.0) / 1.25, 1.15 * top
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ticks = [tick for decade in (1e-4, 1e-3, 1e-2, 0.1) for tick in (decade, 2 * decade, 5 * decade)]
        ticks = [tick for tick in (*ticks, 1.0) if low <= tick <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        return ", log scale"
    return _scale_y(axes, np.append(means.ravel(), top), "err", target)


def _name_sizes(axes: Axes, sizes: np.ndarray, end: int) -> None:
    """A tick at each size and at its doublings beyond, as many named as have room."""
    ticks = [*sizes.tolist(), *(factor * int(sizes[-1]) for factor in (2, 4) if factor * sizes[-1] <= end)]
    low, high = np.log(axes.get_xlim())
    inches = _WIDTH * (np.log(ticks) - low) / (high - low)
    names, free = [], np.inf
    for tick, at in zip(reversed(ticks), reversed(inches), strict=True):  # the largest sizes matter most
        name = f"{tick:,}"
        half = style.width_of(name, 8) / 2
        shown = at + half + 0.08 <= free
        names.append(name if shown else "")
        free = at - half if shown else free
    axes.set_xticks(ticks, names[::-1])
    axes.minorticks_off()


def _message(reading: CurveReading, equal: str, early_stopping: bool, length: int | None) -> tuple[str, str]:
    num_seeds = len(reading.points[0].val_errs)
    trained = f"as many {equal} at every size" + (f" ({length:,})" if length is not None else "")
    stopping = "early stopping may end them before" if early_stopping else "no early stopping"
    seeds = f"{num_seeds} seeds (dots)" if num_seeds > 1 else "1 seed"
    level = 100 * reading.diagnosis.level
    bands = f"bands: {level:g}%" + ("; inner, foretold: on the same validation images" if reading.gain else "")
    return reading.headline, f"{reading.forecast}\n{reading.shape}\n{trained}, {stopping}; {seeds}; {bands}"
