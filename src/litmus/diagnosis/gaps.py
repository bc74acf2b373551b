"""Bias or variance, read from the error rates of one run, with the uncertainty that the number of images leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

Status = Literal["high", "low", "undecided"]


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def wilson(errors: float, n: int, level: float = 0.95, *, population: int | None = None) -> Interval:
    """Interval of an error rate (Wilson 1927; Newcombe 1998a, method 3).

    Args:
        errors: wrong among the ``n`` images seen; a mean over seeds need not be whole.
        n: images seen.
        level: coverage in (0, 1).
        population: how many images there are to see, when the rate over exactly these is meant: the finite population
            correction shrinks the interval, to a point when all were seen. Default: a sample of endlessly many.

    Raises:
        ValueError: on counts that cannot be.
    """
    _check_counts(errors, n)
    return _score(errors / n, _effective(n, population), _z(level))


def newcombe(
    errors_a: float,
    n_a: int,
    errors_b: float,
    n_b: int,
    level: float = 0.95,
    *,
    population_a: int | None = None,
    population_b: int | None = None,
) -> Interval:
    """Interval of ``errors_a / n_a - errors_b / n_b``, two independent error rates (Newcombe 1998b, method 10).

    Populations as in ``wilson``; with ``population_b=n_b`` the rate b is exact and only a is sampled.
    Not for two models on the same images: those are paired.
    """
    _check_counts(errors_a, n_a)
    _check_counts(errors_b, n_b)
    a, b, z = errors_a / n_a, errors_b / n_b, _z(level)
    return _difference(a, _score(a, _effective(n_a, population_a), z), b, _score(b, _effective(n_b, population_b), z))


class Gaps(NamedTuple):
    """One run's errors, taken apart."""

    avoidable_bias: float
    """Training error above the target, never below 0."""
    generalisation_gap: float
    """Validation error above training error: of *one* model. ``variance`` is a word for many."""


def error_gaps(*, target_err: float, train_err: float, val_err: float) -> Gaps:
    """Take validation error apart into target, avoidable bias and generalisation gap (Ng 2018, ch. 20-23).

    ``train_err`` is over training images seen as validation sees them, without augmentation or dropout; anything else
    overstates the bias. All are rates. A target above the training error leaves no bias to avoid.
    """
    for name, rate in (("target_err", target_err), ("train_err", train_err), ("val_err", val_err)):
        _check_rate(name, rate)
    return Gaps(avoidable_bias=max(0.0, train_err - target_err), generalisation_gap=val_err - train_err)


@dataclass(frozen=True)
class Gap:
    """A gap held against the tolerance."""

    value: float
    interval: Interval
    status: Status
    more_images: int | None = 0
    """How many more images, in each split that was sampled, would decide if the rates stayed; None: no number would."""


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose_errors`` found."""

    target_err: float
    train_err: float
    val_err: float
    tolerance: float
    level: float
    bias: Gap
    gap: Gap
    train_is_exact: bool
    """Whether ``train_err`` is over all training images."""
    notes: tuple[str, ...] = ()
    """What makes the numbers themselves doubtful, a sentence each."""
    moves: tuple[str, ...] = ()
    """What to change next, in order; empty when nothing is high."""

    @property
    def verdict(self) -> str:
        """``high bias``, ``high variance``, ``high bias, high variance``, ``low bias, low variance`` or ``undecided``.

        What is high is named even when the other gap is undecided; *low* takes two decisions, and so the absence of
        one, with nothing high, is ``undecided``.
        """
        high = [f"high {name}" for name, gap in self._named() if gap.status == "high"]
        if high:
            return ", ".join(high)
        undecided = any(gap.status == "undecided" for _, gap in self._named())
        return "undecided" if undecided else "low bias, low variance"

    @property
    def sentence(self) -> str:
        """The verdict, the numbers behind it and the next moves, in one line."""
        bias = f"target {_rate(self.target_err)}, avoidable bias {self._with_interval(self.bias)}"
        gap = f"gap {self._with_interval(self.gap)}"
        show_bias = self.bias.status != "low" or self.target_err > 0
        parts = [
            f"{self.verdict}: train {_rate(self.train_err)}{f' ({bias})' if show_bias else ''}, "
            f"val {_rate(self.val_err)} ({gap})"
        ]
        for name, found in self._named():
            if found.status == "undecided":
                where = "train_eval" if name == "bias" else "val" if self.train_is_exact else "val and train_eval each"
                parts.append(
                    f"{name} undecided at tolerance {_rate(self.tolerance)}, "
                    + ("however many images" if found.more_images is None else "")
                    + (f"about {found.more_images:,} more images in {where} would decide" if found.more_images else "")
                )
        if self.moves:
            parts.append(f"next: {', '.join(self.moves)}")
        return "; ".join(parts)

    def _with_interval(self, gap: Gap) -> str:
        low, high = gap.interval
        if low < high:
            return f"{_rate(gap.value)}, {100 * self.level:.4g}% {_rate(low)}..{_rate(high)}"
        return f"{_rate(gap.value)}{', exact' if self.train_is_exact else ''}"

    def _named(self) -> tuple[tuple[str, Gap], tuple[str, Gap]]:
        return ("bias", self.bias), ("variance", self.gap)


def diagnose_errors(
    train_err: float,
    val_err: float,
    num_train: int,
    num_val: int,
    target_err: float = 0.0,
    tolerance: float = 0.02,
    *,
    level: float = 0.95,
    train_population: int | None = None,
    **facts: Any,
) -> Diagnosis:
    """Say whether a run suffers from bias or from variance, and what to try next.

    A gap is *high* when its interval lies above ``tolerance``, *low* when it lies at or below, else *undecided*.

    Args:
        train_err: error rate over training images seen as validation sees them: evaluation mode, no augmentation.
        val_err: error rate of the same weights on validation images.
        num_train: images behind ``train_err``.
        num_val: images behind ``val_err``.
        target_err: error that one could hope for (Bayes or human level).
        tolerance: largest gap that is small.
        level: coverage of the intervals.
        train_population: how many training images there are; when ``num_train`` is all of them, ``train_err`` is
            exact. Default: unknown, ``train_err`` counts as sampled.
        **facts: what the run already does, for ``next_moves``.

    Raises:
        ValueError: on rates outside [0, 1] and counts that cannot be.
    """
    gaps = error_gaps(target_err=target_err, train_err=train_err, val_err=val_err)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie in (0, 1), is {tolerance}")
    z, n_val = _z(level), _effective(num_val, None)
    n_train = _effective(num_train, train_population)

    def bias_interval(more: int) -> Interval:
        low, high = _score(train_err, _more(n_train, num_train, train_population, more), z)
        return Interval(max(0.0, low - target_err), max(0.0, high - target_err))

    def gap_interval(more: int) -> Interval:
        train = _score(train_err, _more(n_train, num_train, train_population, more), z)
        return _difference(val_err, _score(val_err, n_val + more, z), train_err, train)

    bias = _decided(tolerance, gaps.avoidable_bias, bias_interval)
    gap = _decided(tolerance, gaps.generalisation_gap, gap_interval)
    notes = []
    if target_err > train_err:
        notes.append(
            f"target {_rate(target_err)} is above the training error {_rate(train_err)}: no bias is left to avoid, "
            f"and the target is not the best possible error"
        )
    if gap.interval.high < 0:
        notes.append(
            f"validation error {_rate(val_err)} is below training error {_rate(train_err)} by more than chance: the "
            f"splits differ, or train_err was not measured as validation is"
        )
    moves = next_moves(bias=bias.status == "high", variance=gap.status == "high", **facts)
    return Diagnosis(
        target_err, train_err, val_err, tolerance, level, bias, gap, math.isinf(n_train), tuple(notes), tuple(moves)
    )


def next_moves(
    *,
    bias: bool,
    variance: bool,
    model: str | None = None,
    norm: str | None = None,
    keep_prob: float | None = None,
    l2_lambda: float | None = None,
    augments: bool | None = None,
    stops_early: bool | None = None,
    stopped_early: bool | None = None,
    data_limited: bool = False,
    data_helps: bool = True,
    unit: Literal["epochs", "steps"] = "epochs",
    transferred: bool = False,
    frozen: bool = False,
) -> list[str]:
    """What to change next, as config keys, in the course's order: bias first, then variance (Ng 2018, ch. 25 and 26).

    Moves that the run has already made, or cannot make, are left out. What is None is unknown and counts as not done.

    Args:
        bias: whether avoidable bias is high.
        variance: whether the generalisation gap is high.
        model: ``model.name``.
        norm: ``model.norm``.
        keep_prob: ``model.keep_prob``; at 0.5 or below it is as low as it goes.
        l2_lambda: ``optim.l2_lambda``; at 1000 or above it is as high as it goes.
        augments: whether training images are augmented.
        stops_early: whether an early-stopping criterion is set.
        stopped_early: whether it ended this run: a longer training would then change nothing.
        data_limited: whether ``data.num_train`` left training images out.
        data_helps: False when a learning curve has shown that more data would gain next to nothing.
        unit: what the training length is counted in.
        transferred: whether it began with learnt weights, whose shapes a wider network would not have.
        frozen: whether layers were held still to the end.
    """
    bigger = "a larger model.backbone" if model == "timm" else "model.width or model.depth up"
    deep = {"plain": "residual", "mlp": "residual_mlp"}.get(model or "")
    lighter = [
        "optim.l2_lambda down" if l2_lambda else "",
        "model.keep_prob up" if keep_prob is not None and keep_prob < 1 else "",
        "weaker augment.*" if augments else "",
    ]
    against_bias = [
        "fewer freeze.layers, or freeze.until an epoch" if frozen else "",
        bigger if model == "timm" or not transferred else "",
        f"model.name={deep}" if deep and not transferred else "",
        f"train.{unit} up" if not stopped_early else "",
        "optim.lr (see litmus lr)",
        " or ".join(filter(None, lighter)),
    ]
    more_data = ("data.num_train up or " if data_limited else "more data or ") if data_helps else ""
    against_variance = [
        f"{more_data}{'stronger ' if augments else ''}augment.*",
        "freeze.layers=body" if transferred and not frozen else "",
        "optim.l2_lambda up" if (l2_lambda or 0) < 1000 else "",
        "model.keep_prob down" if (keep_prob or 1) > 0.5 else "",
        "early_stopping.name=gl" if stops_early is False else "",
        "model.norm=batch" if norm == "none" else "",
    ]
    first = [move for move in against_bias if move] if bias else []
    second = [move for move in against_variance if move] if variance else []
    if first and second:
        # Less regularisation against bias and more of it against variance cancel out: bias is treated by capacity.
        first = [move for move in first if move != against_bias[-1]] or first
        first[0], second[0] = f"first {first[0]}", f"then {second[0]}"
    return first + second


def held_against(tolerance: float, interval: Interval) -> Status:
    """*High* when the interval lies above the tolerance, *low* when it lies at or below, else *undecided*."""
    rounding = 1e-9  # 0.16 - 0.14 is not above 0.02
    if interval.low > tolerance + rounding:
        return "high"
    return "low" if interval.high <= tolerance + rounding else "undecided"


def _decided(tolerance: float, value: float, interval_with: Callable[[int], Interval]) -> Gap:
    interval = interval_with(0)
    gap = Gap(value, interval, held_against(tolerance, interval))
    if gap.status != "undecided":
        return gap
    # With the rates held, score intervals are nested in n: the first n that decides is found by bisection.
    beyond = 1
    while held_against(tolerance, interval_with(beyond)) == "undecided":
        beyond *= 2
        if beyond > 2**40:
            return replace(gap, more_images=None)
    below = beyond // 2
    while beyond - below > 1:
        middle = (below + beyond) // 2
        still = held_against(tolerance, interval_with(middle)) == "undecided"
        below, beyond = (middle, beyond) if still else (below, middle)
    return replace(gap, more_images=beyond)


def _score(rate: float, n: float, z: float) -> Interval:
    """All p with |rate - p| <= z sqrt(p (1 - p) / n); the ends of a rate of 0 or 1 are exact."""
    if math.isinf(n):
        return Interval(rate, rate)
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Interval(0.0 if rate == 0 else min(low, rate), 1.0 if rate == 1 else max(high, rate))


def _difference(a: float, around_a: Interval, b: float, around_b: Interval) -> Interval:
    return Interval(
        a - b - math.hypot(a - around_a.low, around_b.high - b),
        a - b + math.hypot(around_a.high - a, b - around_b.low),
    )


def _effective(n: int, population: int | None) -> float:
    """Size of the endless sample that is as sharp as ``n`` drawn without replacement from ``population``."""
    if n < 1:
        raise ValueError(f"an error rate needs at least 1 image, got n = {n}")
    if population is None:
        return float(n)
    if population < n:
        raise ValueError(f"n = {n} images cannot come from a population of {population}")
    return math.inf if population == n else n * (population - 1) / (population - n)


def _more(effective: float, n: int, population: int | None, more: int) -> float:
    """``_effective`` after ``more`` images, of which a population may not have enough."""
    if not more or math.isinf(effective):
        return effective
    return _effective(n + more if population is None else min(n + more, population), population)


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), is {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def _check_counts(errors: float, n: int) -> None:
    if n < 1 or not 0 <= errors <= n:
        raise ValueError(f"{errors} errors of {n} images cannot be")


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:  # also refuses NaN
        raise ValueError(f"{name} must be a rate in [0, 1], is {rate}")


def _rate(rate: float) -> str:
    """Three decimals, four for small rates, no trailing zeros."""
    text = f"{rate:.{3 if abs(rate) >= 0.00995 else 4}f}".rstrip("0").rstrip(".")
    return text if float(text) else "0"
