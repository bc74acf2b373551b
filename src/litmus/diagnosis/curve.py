"""Read a learning curve, error against the number of training images: bias, variance, what more data would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis.gaps import (
    Diagnosis,
    Gap,
    Interval,
    Status,
    diagnose_errors,
    held_against,
    newcombe,
    next_moves,
    wilson,
)
from litmus.diagnosis.power_law import HeldOut, NoFit, PowerLaw, check_held_out, checked_curve, fit_power_law

A_DOUBLING_MATTERS = 0.25
"""Part of the tolerance that an error or a gap must change by, when the data double, for the change to count."""
_MOST_SEEDS = 1000


class Point(NamedTuple):
    """One size of a learning curve, over its seeds."""

    size: int
    """Training images."""
    train_errs: tuple[float, ...]
    """Of each seed, over training images seen as validation sees them."""
    val_errs: tuple[float, ...]
    train_err: float
    """Mean over the seeds, as the two below."""
    val_err: float
    gap: float
    train_interval: Interval
    """Student's t over the seeds and the sampling of images together, as the two below."""
    val_interval: Interval
    gap_interval: Interval


@dataclass(frozen=True)
class Trend:
    """How the gap changes when the data double, over the upper half of the sizes."""

    per_doubling: float
    interval: Interval
    """Student's t over the seeds; without bound for one seed."""
    status: Literal["narrows", "flat", "widens", "undecided"]
    """*Flat* when the interval is within a quarter of the tolerance of 0, else as its sign says."""
    since: int
    """The smallest size that was read."""


@dataclass(frozen=True)
class Gain:
    """What twice the largest number of images would bring."""

    size: int
    err: float
    """Validation error foretold there."""
    interval: Interval
    """On the same validation images as those of today's error."""
    fall: float
    """From the law's value at the largest size to the one there."""
    fall_interval: Interval
    status: Status
    """*High*: the fall is more than a quarter of the tolerance, more data helps. *Low*: less, it helps little."""


@dataclass(frozen=True)
class CurveReading:
    """What ``read_curve`` found."""

    points: tuple[Point, ...]
    diagnosis: Diagnosis
    """At the largest size, with the seeds in its intervals."""
    law: PowerLaw | NoFit
    """Of the validation error."""
    held_out: HeldOut | NoFit
    trend: Trend | None
    """None for one size."""
    gain: Gain | None
    """None without a law."""
    notes: tuple[str, ...]
    """What limits the reading, a sentence each."""

    @property
    def verdict(self) -> str:
        """As of a single run, at the largest size: see ``Diagnosis.verdict``."""
        return self.diagnosis.verdict

    @property
    def moves(self) -> tuple[str, ...]:
        """What to change next, in order; without more data where the curve shows that it helps little."""
        return self.diagnosis.moves

    @property
    def headline(self) -> str:
        """Verdict, and whether more data helps: ``High variance, and more data helps``."""
        helps = {"high": "more data helps", "low": "more data helps little", "undecided": "more data: undecided"}
        return self.verdict.capitalize() + (f"; {helps[self.gain.status]}" if self.gain else "")

    @property
    def forecast(self) -> str:
        """``with 2x data: 0.083 (95% 0.079 to 0.088), now 0.095``, on the same images; or why there is none."""
        now = self.points[-1].val_err
        if isinstance(self.law, NoFit):
            return f"no forecast: {self.law.reason}"
        assert self.gain is not None
        low, high = self.gain.interval
        return f"with 2x data: {self.gain.err:.3f} ({100 * self.law.level:g}% {low:.3f} to {high:.3f}), now {now:.3f}"

    @property
    def shape(self) -> str:
        """How train and validation error stand to one another and where the gap goes."""
        last, bias, gap = self.points[-1], self.diagnosis.bias.status, self.diagnosis.gap.status
        stand = f"train {last.train_err:.3f}, val {last.val_err:.3f} at {last.size:,} images"
        if bias == "high" and gap != "high":
            stand += ": they meet high"
        if self.trend is None:
            return stand
        low, high = self.trend.interval
        goes = {
            "narrows": "still narrows",
            "flat": "is flat",
            "widens": "widens",
            "undecided": "may narrow or not",
        }[self.trend.status]
        ends = f", {100 * self.diagnosis.level:g}% {low:+.4f} to {high:+.4f}" if math.isfinite(low) else ""
        return f"{stand}; the gap {goes} ({self.trend.per_doubling:+.4f} a doubling{ends})"

    @property
    def sentence(self) -> str:
        """Headline, shape, forecast and next moves in one line."""
        parts = [self.headline, self.shape, self.forecast]
        if self.moves:
            parts.append(f"next: {', '.join(self.moves)}")
        return "; ".join(parts)


def read_curve(
    sizes: Sequence[int],
    train_errs: ArrayLike,
    val_errs: ArrayLike,
    *,
    num_val: int,
    num_train: Sequence[int] | None = None,
    target_err: float = 0.0,
    tolerance: float = 0.02,
    level: float = 0.95,
    seed: int = 0,
    **facts: Any,
) -> CurveReading:
    """Read bias and variance off a learning curve (Ng 2018, ch. 28-32).

    The verdict is ``diagnose_errors``'s on the means at the largest size. Its intervals are widened by Student's t
    over the seeds, so that the two can differ only in what is left undecided. High bias: train and validation error
    meet high. High variance: a gap, and ``trend`` says whether it still narrows. What more data brings is read from
    the law of the validation error, not from the gap: a gap can narrow because training error rises.

    Args:
        sizes: (S,) numbers of training images, rising.
        train_errs: (S, R) error rates over training images seen as validation sees them, a column for each seed.
        val_errs: (S, R) on the same validation images throughout.
        num_val: validation images.
        num_train: (S,) images behind each training error; default: all of them.
        target_err: error that one could hope for.
        tolerance: largest gap that is small.
        level: coverage of the intervals.
        seed: of the bootstrap.
        **facts: what the runs already do, for ``next_moves``.

    Raises:
        ValueError: as ``fit_power_law``, and for train and validation errors of different shapes.
    """
    ns, train = checked_curve(sizes, train_errs, "train_errs")
    _, val = checked_curve(sizes, val_errs, "val_errs")
    if train.shape != val.shape:
        raise ValueError(f"train_errs are {train.shape} and val_errs {val.shape}: a rate of each for every training")
    seen = [int(n) for n in ns] if num_train is None else [int(n) for n in num_train]
    if len(seen) != len(ns):
        raise ValueError(f"num_train has {len(seen)} numbers for {len(ns)} sizes")

    law = fit_power_law(sizes, val, num_val, level=level, seed=seed)
    gain = _gain(law, tolerance)
    diagnosis, notes = _diagnose(
        int(ns[-1]), train[-1], val[-1], seen[-1], num_val, target_err, tolerance, level,
        {**facts, "data_helps": gain is None or gain.status != "low"},
    )  # fmt: skip
    if train.shape[1] == 1:
        notes.append("one seed: intervals hold the sampling of images alone, trainings differ by more")
    law_notes = (note for note in law.notes if not note.startswith("one seed")) if isinstance(law, PowerLaw) else ()
    return CurveReading(
        points=tuple(
            _point(int(n), train[row], val[row], seen[row], num_val, level) for row, n in enumerate(ns)
        ),
        diagnosis=diagnosis,
        law=law,
        held_out=check_held_out(sizes, val, num_val, level=level, seed=seed),
        trend=_trend(ns, val - train, tolerance, level),
        gain=gain,
        notes=(*diagnosis.notes, *notes, *law_notes),
    )  # fmt: skip


def _point(size: int, train: NDArray, val: NDArray, num_train: int, num_val: int, level: float) -> Point:
    train_err, val_err = float(train.mean()), float(val.mean())
    wrong_train, wrong_val = train_err * num_train, val_err * num_val
    around_train = wilson(wrong_train, num_train, level, population=size)
    around_val = wilson(wrong_val, num_val, level)
    around_gap = newcombe(wrong_val, num_val, wrong_train, num_train, level, population_b=size)
    return Point(
        size=size,
        train_errs=tuple(train.tolist()),
        val_errs=tuple(val.tolist()),
        train_err=train_err,
        val_err=val_err,
        gap=val_err - train_err,
        train_interval=_clipped(_with_seeds(train_err, around_train, _half(train, level))),
        val_interval=_clipped(_with_seeds(val_err, around_val, _half(val, level))),
        gap_interval=_with_seeds(val_err - train_err, around_gap, _half(val - train, level)),
    )


def _diagnose(
    size: int,
    train: NDArray,
    val: NDArray,
    num_train: int,
    num_val: int,
    target_err: float,
    tolerance: float,
    level: float,
    facts: dict[str, Any],
) -> tuple[Diagnosis, list[str]]:
    """``diagnose_errors`` at the means, its intervals widened by the seeds; and what would decide."""
    found = diagnose_errors(
        float(train.mean()), float(val.mean()), num_train, num_val, target_err, tolerance,
        level=level, train_population=size, **facts,
    )  # fmt: skip
    bias, bias_note = _widened("bias", found.bias, train, tolerance, level, lowest=0.0)
    gap, gap_note = _widened("variance", found.gap, val - train, tolerance, level, lowest=-1.0)
    moves = next_moves(bias=bias.status == "high", variance=gap.status == "high", **facts)
    return replace(found, bias=bias, gap=gap, moves=tuple(moves)), [note for note in (bias_note, gap_note) if note]


def _widened(
    name: str, images_only: Gap, values: NDArray, tolerance: float, level: float, *, lowest: float
) -> tuple[Gap, str]:
    def with_half(half: float) -> tuple[Interval, Status]:
        wide = _with_seeds(images_only.value, images_only.interval, half)
        interval = Interval(max(lowest, wide.low), wide.high)
        return interval, held_against(tolerance, interval)

    half = _half(values, level)
    interval, status = with_half(half)
    widened = replace(images_only, interval=interval, status=status)
    if status != "undecided":
        return widened, ""
    if images_only.status == "undecided":
        alone = held_against(tolerance, Interval(images_only.value - half, images_only.value + half))
        return widened, f"{name} undecided between the seeds too" if alone == "undecided" else ""
    counts = range(len(values) + 1, _MOST_SEEDS)
    enough = next((n for n in counts if with_half(_half(values, level, n))[1] != "undecided"), None)
    more = "no practical number of seeds would decide"
    if enough:
        more = f"about {enough - len(values)} more seed{'s' * (enough > len(values) + 1)} would decide"
    return widened, f"{name} undecided between the seeds: {more}"


def _gain(law: PowerLaw | NoFit, tolerance: float) -> Gain | None:
    if isinstance(law, NoFit):
        return None
    size = 2 * law.sizes[-1]
    fall, interval = law.gain(2.0)
    status = held_against(A_DOUBLING_MATTERS * tolerance, interval)
    return Gain(size, law.predict(size), law.predict_interval(size, same_images=True), fall, interval, status)


def _trend(ns: NDArray[np.int64], gaps: NDArray[np.float64], tolerance: float, level: float) -> Trend | None:
    """Slope of each seed's gap against log2 n over the upper half of the sizes, at least three of them."""
    if len(ns) < 2:
        return None
    first = max(0, min(len(ns) - 3, len(ns) // 2))
    doublings = np.log2(ns[first:] / ns[first])
    off = doublings - doublings.mean()
    slopes = off @ gaps[first:] / (off @ off)
    slope, half = float(slopes.mean()), math.inf if len(slopes) == 1 else _half(slopes, level)
    low, high = slope - half, slope + half
    small = A_DOUBLING_MATTERS * tolerance
    status: Literal["narrows", "flat", "widens", "undecided"] = "undecided"
    if -small <= low and high <= small:
        status = "flat"
    elif high < 0:
        status = "narrows"
    elif low > 0:
        status = "widens"
    return Trend(slope, Interval(low, high), status, int(ns[first]))


def _half(values: NDArray[np.float64], level: float, num_seeds: int | None = None) -> float:
    """Half width of Student's t interval of the mean; 0 for one seed. With ``num_seeds`` of the same deviation."""
    if len(values) == 1:
        return 0.0
    from scipy.special import stdtrit

    n = num_seeds or len(values)
    return float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(n))


def _with_seeds(value: float, images: Interval, half: float) -> Interval:
    """Two independent uncertainties as one, each side by itself."""
    return Interval(value - math.hypot(value - images.low, half), value + math.hypot(images.high - value, half))


def _clipped(rate: Interval) -> Interval:
    return Interval(max(0.0, rate.low), min(1.0, rate.high))
