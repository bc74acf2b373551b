"""What the curves of one run say besides its errors. Each reading is silent (``no sign``) unless it has to speak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_SIGN = "no sign"

Row = Mapping[str, float]
"""One validation: ``epoch`` or ``step``, and of ``train`` (running), ``train_eval`` and ``val`` what was logged of
``loss`` (nats) and ``err`` (a rate), and ``train/lr``."""

FEWEST_ROWS = 4
"""Validations that a trend takes."""

LOSS_RISE = 0.10
"""Validation loss above its lowest, as a part of it: early stopping's own default, GL with alpha 10."""


@dataclass(frozen=True)
class Reading:
    """One thing that a run's curves, units or answers say."""

    name: str
    """In words with underscores: the end of a tag."""
    status: str
    """``no sign``, or a word or two for what is seen."""
    sentence: str
    """With the numbers that it rests on."""
    value: float | None = None
    """Its one number; what that is stands at the function that makes the reading."""

    @property
    def speaks(self) -> bool:
        return self.status != NO_SIGN


def read_curves(
    rows: Sequence[Row],
    *,
    num_classes: int,
    unit: str = "epochs",
    stops: Mapping[str, int | None] | None = None,
    stopped: str | None = None,
    held_back: bool = False,
) -> list[Reading]:
    """Every reading of the curves alone.

    Args:
        rows: the validations of one training, in order.
        num_classes: K; a network that knows nothing has a loss of ln K and an error of 1 - 1/K.
        unit: ``epochs`` or ``steps``, what a row's place is told in.
        stops: criterion -> position of the row at which it would have ended the training; None where it would not.
        stopped: why early stopping ended this training, if it did.
        held_back: see ``learning_rate``.
    """
    return [
        early_stopping(rows, unit=unit, stops=stops, stopped=stopped),
        overfitting(rows, unit=unit),
        progress(rows, unit=unit),
        divergence(rows, num_classes=num_classes, unit=unit),
        learning_rate(rows, num_classes=num_classes, held_back=held_back),
    ]


def early_stopping(
    rows: Sequence[Row],
    *,
    unit: str = "epochs",
    stops: Mapping[str, int | None] | None = None,
    stopped: str | None = None,
) -> Reading:
    """What ending at the lowest validation loss gains over ending at the end (Prechelt 1998).

    ``pays`` where the loss ended more than a tenth above its lowest; ``stopped`` where a criterion ended the run. The
    value is that rise, GL of the last validation, in percent. Loss and error may disagree: both are told.
    """
    loss = _column(rows, "val/loss")
    if not np.isfinite(loss).any():
        return Reading("early_stopping", NO_SIGN, "no validation loss was recorded")
    best, last = int(np.nanargmin(loss)), len(rows) - 1
    rise = 100 * (float(loss[last]) / float(loss[best]) - 1) if loss[best] > 0 else 0.0
    err = _column(rows, "val/err")
    errs = f", err {err[best]:.4f} there and {err[last]:.4f} at the end" if np.isfinite(err[[best, last]]).all() else ""
    at = f"{_noun(unit)} {_place(rows[best], unit)}"
    sentence = f"validation loss is lowest at {at} ({loss[best]:.4g})"
    if best != last:
        sentence += f" and {rise:.0f}% above that at {_place(rows[last], unit)}, the end{errs}"
    else:
        sentence += ", the end"
    if stops:
        told = [f"{name} {'never' if k is None else f'at {_place(rows[k], unit)}'}" for name, k in stops.items()]
        sentence += f"; would have stopped: {', '.join(told)}"
    if stopped:
        return Reading("early_stopping", "stopped", sentence, rise)
    return Reading("early_stopping", "pays" if rise > 100 * LOSS_RISE else NO_SIGN, sentence, rise)


def overfitting(rows: Sequence[Row], *, unit: str = "epochs") -> Reading:
    """From when on validation loss rises while training loss falls; the value is that epoch (or step).

    ``overfits`` where validation loss ended more than a tenth above its lowest, all of the last three validations lie
    above it, and the loss on training images seen the same way (else the running one) fell meanwhile.
    """
    loss = _column(rows, "val/loss")
    train = _column(rows, "train_eval/loss")
    train = train if np.isfinite(train).all() else _column(rows, "train/loss")
    if len(rows) < FEWEST_ROWS or not np.isfinite(loss).all() or not np.isfinite(train).all():
        return Reading("overfitting", NO_SIGN, "too few validations to tell")
    best = int(loss.argmin())
    rises = bool((loss[-3:] > (1 + LOSS_RISE) * loss[best]).all()) and best < len(rows) - 3
    if not rises or train[-3:].max() >= train[best]:
        return Reading("overfitting", NO_SIGN, "validation loss does not rise while training loss falls")
    place = _place(rows[best], unit)
    sentence = (
        f"since {_noun(unit)} {place} training loss fell from {train[best]:.4g} to {train[-1]:.4g}, "
        f"validation loss rose from {loss[best]:.4g} to {loss[-1]:.4g}"
    )
    return Reading("overfitting", "overfits", sentence, float(rows[best].get(unit.removesuffix("s"), best + 1)))


def progress(rows: Sequence[Row], *, unit: str = "epochs") -> Reading:
    """Whether validation loss still fell at the end: ``still improving``, then a longer training is worth trying.

    A line through the last k validations (a fifth of all, from 4 to 20); the interval of its slope is Student's, made
    wider by the residuals' correlation from one validation to the next. It must lie below 0, and k more validations at
    the upper end of it must gain 2% or more. Where the schedule has taken the rate below a tenth of its highest, curves
    flatten or fall by design and nothing is read. The value is the slope, in nats a validation.
    """
    loss, rate = _column(rows, "val/loss"), _column(rows, "train/lr")
    k = min(20, max(FEWEST_ROWS, math.ceil(len(rows) / 5)))
    if len(rows) < FEWEST_ROWS or not np.isfinite(loss[-k:]).all():
        return Reading("progress", NO_SIGN, "too few validations to tell")
    slope, low, high = trend(loss[-k:])
    if _annealed(rate):
        says = f"the rate has fallen to {rate[-1]:.2g}: the end of this curve does not tell what a longer one would do"
        return Reading("progress", NO_SIGN, says, slope)
    per = f"{slope:+.2g} nats a validation (95% {low:+.2g} to {high:+.2g}) over the last {k}"
    if high < 0 and -high * k >= 0.02 * loss[-1]:
        return Reading("progress", "still improving", f"validation loss still falls: {per}", slope)
    return Reading("progress", NO_SIGN, f"validation loss no longer falls for sure: {per}", slope)


def divergence(rows: Sequence[Row], *, num_classes: int, unit: str = "epochs") -> Reading:
    """``diverged``, ``at chance``, ``spikes`` or no sign; the value is the last training loss in nats.

    Diverged: the last training loss (seen as validation sees it where recorded) is above 1.1 ln K, or is not finite.
    At chance: within a tenth of ln K, with an error of at least 0.9 (1 - 1/K). Spikes: the running loss jumped by more
    than half of ln K from one validation to the next, twice or more, and came down again.
    """
    chance = math.log(num_classes)
    running = _column(rows, "train/loss")
    clean = _column(rows, "train_eval/loss")
    loss = clean if np.isfinite(clean).any() else running
    err = _column(rows, "train_eval/err" if np.isfinite(clean).any() else "train/err")
    if not len(rows) or np.isnan(loss).all():
        return Reading("divergence", NO_SIGN, "no training loss was recorded")
    end = float(loss[-1])
    if not math.isfinite(end) or end > 1.1 * chance:
        says = (
            f"training loss ended at {end:.4g}, above ln {num_classes} = {chance:.3f} of a network that knows nothing"
        )
        return Reading("divergence", "diverged", says, end)
    if end > 0.9 * chance and (math.isnan(err[-1]) or err[-1] >= 0.9 * (1 - 1 / num_classes)):
        says = (
            f"training loss ended at {end:.4g}, that of a network that knows nothing (ln {num_classes} = {chance:.3f})"
        )
        return Reading("divergence", "at chance", says, end)
    jumps = np.diff(running)
    spikes = [int(k) + 1 for k in np.flatnonzero(jumps > 0.5 * chance) if running[k + 2 :].size]
    if len(spikes) >= 2:
        places = ", ".join(_place(rows[k], unit) for k in spikes[:4])
        says = (
            f"the running loss jumped by more than half of ln {num_classes} {len(spikes)} times: {_noun(unit)} {places}"
        )
        return Reading("divergence", "spikes", says, end)
    return Reading("divergence", NO_SIGN, f"training loss came down, to {end:.4g}", end)


def learning_rate(rows: Sequence[Row], *, num_classes: int, held_back: bool = False) -> Reading:
    """``too high``, ``too low`` or no sign, from the shape of the training loss; the value is the highest rate used.

    The loss is that on training images seen as validation sees them, else the running one, in units of ln K. Too high:
    it ended diverged, or it never left chance and was restless, or all its rises together, and those of the running
    loss, came to more than ln K while it had not yet settled. Too low: the rate was not lowered, the loss fell at every
    validation, ended above a third of ln K, and fell in the last third at no less than a third of its pace in the
    first: the start of a curve, not a whole one. A training that is much too short looks the same, and is named in the
    sentence. A network that gradients do not reach stays at chance quietly: that is no sign of a rate.

    Args:
        held_back: whether dropout or decay is so strong that a loss may stay at chance, restless, for its sake: then
            only a loss above that of chance speaks against the rate.
    """
    chance = math.log(num_classes)
    clean, running, rate = (_column(rows, key) for key in ("train_eval/loss", "train/loss", "train/lr"))
    loss = (clean if np.isfinite(clean).all() else running) / chance
    top = float(np.nanmax(rate)) if np.isfinite(rate).any() else None
    named = f"rate {top:.2g}" if top is not None else "the rate"
    if len(rows) < FEWEST_ROWS or np.isnan(loss).any():
        return Reading("learning_rate", NO_SIGN, "too few validations to tell", top)
    rises = float(np.clip(np.diff(loss), 0, None).sum()) if np.isfinite(loss).all() else math.inf
    if not loss[-1] <= 1.1:
        says = f"{named} is too high: training loss ended above that of a network that knows nothing"
        return Reading("learning_rate", "too high", says, top)
    if held_back:
        return Reading("learning_rate", NO_SIGN, "dropout or decay is strong: the curves do not tell of the rate", top)
    started_high = np.isfinite(running).all() and running[0] > 1.5 * chance
    if loss.min() > 0.9 and (rises > 0.02 or started_high):
        says = f"{named} is too high: training loss jumped at the start and never left chance"
        return Reading("learning_rate", "too high", says, top)
    both = np.isfinite(running).all()
    restless = float(np.clip(np.diff(running), 0, None).sum()) / chance if both else rises
    if min(rises, restless) > 1.0 and np.median(loss[-max(3, len(loss) // 3) :]) > 0.05:
        says = f"{named} is too high: training loss rose by {rises * chance:.2g} nats in all, between falls"
        return Reading("learning_rate", "too high", says, top)
    third = max(1, (len(loss) - 1) // 3)
    first, last = float(loss[0] - loss[third]), float(loss[-1 - third] - loss[-1])
    steady = bool((np.diff(loss) < 0).all()) and not _lowered(rate)
    if steady and loss[-1] > 1 / 3 and first > 0.005 and last >= first / 3:
        says = (
            f"{named} is too low, or the training far too short: training loss falls at every validation, is at "
            f"{loss[-1] * chance:.3g} nats, and has hardly slowed ({first * chance:.2g} in the first third, "
            f"{last * chance:.2g} in the last)"
        )
        return Reading("learning_rate", "too low", says, top)
    return Reading("learning_rate", NO_SIGN, f"the curves do not speak against {named}", top)


def read_units(layers: Sequence[tuple[str, str, float, float]], num_images: int) -> Reading:
    """From ``litmus.diagnosis.units``: ``dead`` or ``saturated`` where a layer has half of its units so.

    The value is the largest share of a layer, of the kind that is told.

    Args:
        layers: (name, activation, dead share of units, saturated share of outputs) of each activation layer.
        num_images: probe images that were shown.
    """
    if not layers:
        return Reading("units", NO_SIGN, "no ReLU, sigmoid or tanh layer to look at")
    dead = max(layers, key=lambda layer: layer[2])
    saturated = max(layers, key=lambda layer: layer[3])
    shares = {"dead": [one[2] for one in layers], "saturated": [one[3] for one in layers]}
    for status, layer in (("dead", dead), ("saturated", saturated)):
        share = max(shares[status])
        if share >= 0.5:
            what = "of the units are 0 on every image" if status == "dead" else "of the outputs are at the ends"
            many = sum(one >= 0.5 for one in shares[status])
            says = f"{share:.0%} {what} in {layer[0]} ({layer[1]}), half or more in {many} of {len(layers)} layers"
            return Reading("units", status, f"{says}; {num_images:,} training images", share)
    worst = max(dead[2], saturated[3])
    says = f"at most {dead[2]:.0%} of a layer's units are dead, {saturated[3]:.0%} of its outputs saturated"
    return Reading("units", NO_SIGN, f"{says}; {num_images:,} training images", worst)


def read_mismatch(*, train_dev_err: float | None, status: str | None, value: float | None, elsewhere: bool) -> Reading:
    """Whether validation images are of another kind than training images.

    The value is validation error above train-dev error.

    Args:
        train_dev_err: of held-out images like the training images; None without such a split.
        status: of the mismatch gap, ``high``, ``low`` or ``undecided``.
        value: of the mismatch gap.
        elsewhere: whether validation images come from a source of their own.
    """
    if train_dev_err is not None and status is not None and value is not None:
        word = {"high": "high", "undecided": "undecided"}.get(status, NO_SIGN)
        says = f"validation error is {value:+.4f} from train-dev error {train_dev_err:.4f}: mismatch is {status}"
        return Reading("mismatch", word, says, value)
    if elsewhere:
        says = (
            "validation images have a folder of their own: data.train_dev_fraction=0.1 would tell variance from a "
            "mismatch of the two"
        )
        return Reading("mismatch", "not measured", says)
    return Reading("mismatch", NO_SIGN, "validation images are cut from the same set as training images")


def trend(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """Slope of a line through equally spaced values, and Student's interval of it.

    The standard error is multiplied by sqrt((1 + r) / (1 - r)), r the residuals' correlation at lag one where positive
    (at most 0.9): curves of one training are not independent draws.

    Raises:
        ValueError: fewer than three values.
    """
    from scipy.special import stdtrit

    y = np.asarray(values, dtype=np.float64)
    n = len(y)
    if n < 3:
        raise ValueError(f"{n} values: a slope with an interval takes three")
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    squares = float(residual @ residual)
    error = math.sqrt(squares / (n - 2) / float(x @ x))
    lag = float(residual[1:] @ residual[:-1]) / squares if squares > 0 else 0.0
    lag = min(max(lag, 0.0), 0.9)
    half = float(stdtrit(n - 2, (1 + level) / 2)) * error * math.sqrt((1 + lag) / (1 - lag))
    return slope, slope - half, slope + half


def _column(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    return np.array([row.get(key, math.nan) for row in rows], dtype=np.float64)


def _annealed(rate: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(rate).any() and rate[-1] < 0.1 * np.nanmax(rate))


def _lowered(rate: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(rate).any() and rate[-1] < 0.5 * np.nanmax(rate))


def _noun(unit: str) -> str:
    return unit.removesuffix("s")


def _place(row: Row, unit: str) -> str:
    return f"{int(row[_noun(unit)]):,}" if _noun(unit) in row else "?"
