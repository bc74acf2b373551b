"""Bias or variance, read from the error rates of one run, with the uncertainty that the number of images leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from litmus.diagnosis.moves import next_moves

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
    more_seeds: int | None = 0
    """The same of training seeds, where there are several."""


GAPS = {"bias": "avoidable bias", "variance": "variance", "mismatch": "data mismatch"}
"""What each gap is called in sentences."""


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose_errors`` or ``diagnose_seeds`` found."""

    target_err: float
    train_err: float
    val_err: float
    tolerance: float
    level: float
    bias: Gap
    gap: Gap
    """Variance: validation error above training error; with a train-dev split, the error there above training error."""
    train_is_exact: bool
    """Whether ``train_err`` is over all training images."""
    notes: tuple[str, ...] = ()
    """What makes the numbers themselves doubtful, a sentence each."""
    moves: tuple[str, ...] = ()
    """What to change next, in order, each as overrides behind ``litmus fit CONFIG`` or as advice; empty when nothing is
    high."""
    reasons: tuple[str, ...] = ()
    """Of each move."""
    ready: tuple[bool, ...] = ()
    """Whether each move is made of overrides."""
    train_dev_err: float | None = None
    mismatch: Gap | None = None
    """Validation error above train-dev error; None without such a split."""
    num_seeds: int = 1
    train_interval: Interval | None = None
    val_interval: Interval | None = None
    train_dev_interval: Interval | None = None

    @property
    def verdict(self) -> str:
        """``high bias``, ``high variance``, ``high bias, high variance``, ``low bias, low variance`` or ``undecided``.

        What is high is named even when the other gap is undecided; *low* takes two decisions, and so the absence of
        one, with nothing high, is ``undecided``. With a train-dev split, ``high mismatch`` may stand in the list.
        """
        high = [f"high {name}" for name, gap in self.gaps.items() if gap.status == "high"]
        if high:
            return ", ".join(high)
        undecided = any(gap.status == "undecided" for gap in self.gaps.values())
        return "undecided" if undecided else ", ".join(f"low {name}" for name in self.gaps)

    @property
    def gaps(self) -> dict[str, Gap]:
        """By name, in the order in which they are treated."""
        return {"bias": self.bias, "variance": self.gap, **({"mismatch": self.mismatch} if self.mismatch else {})}

    @property
    def dominant_gap(self) -> str:
        """The largest gap by its value, ``bias``, ``variance`` or ``mismatch``; ``none`` where all are low.

        It says where most of the error lies. What to treat first is another question: the recipe begins with bias.
        """
        if all(gap.status == "low" for gap in self.gaps.values()):
            return "none"
        return max(self.gaps, key=lambda name: self.gaps[name].value)

    @property
    def sentence(self) -> str:
        """The verdict, the numbers behind it and the next moves, in one line."""
        return "; ".join([self.finding, *([f"next: {', '.join(self.moves)}"] if self.moves else [])])

    @property
    def finding(self) -> str:
        """The verdict and the numbers behind it, without the moves."""
        bias = f"target {_rate(self.target_err)}, avoidable bias {self._with_interval(self.bias)}"
        show_bias = self.bias.status != "low" or self.target_err > 0
        errors = [f"train {_rate(self.train_err)}{f' ({bias})' if show_bias else ''}"]
        if self.train_dev_err is not None and self.mismatch is not None:
            errors.append(f"train-dev {_rate(self.train_dev_err)} (gap {self._with_interval(self.gap)})")
            errors.append(f"val {_rate(self.val_err)} (mismatch {self._with_interval(self.mismatch)})")
        else:
            errors.append(f"val {_rate(self.val_err)} (gap {self._with_interval(self.gap)})")
        over = f" over {self.num_seeds} seeds" if self.num_seeds > 1 else ""
        parts = [f"{self.verdict}{over}: {', '.join(errors)}"]
        sizes = sorted(gap.value for gap in self.gaps.values())
        if self.dominant_gap != "none" and self.verdict.count("high") != 1 and sizes[-1] - sizes[-2] > 5e-4:
            parts.append(f"the larger gap is {GAPS[self.dominant_gap]}")
        for name, found in self.gaps.items():
            if found.status == "undecided":
                parts.append(f"{name} undecided at tolerance {_rate(self.tolerance)}, {self._to_decide(name, found)}")
        return "; ".join(parts)

    def _to_decide(self, name: str, gap: Gap) -> str:
        split = "train_dev" if name == "variance" and self.mismatch else "val"
        beside = "train_dev" if name == "mismatch" else "" if self.train_is_exact else "train_eval"
        where = "train_eval" if name == "bias" else f"{split} and {beside} each" if beside else split
        ways = []
        if gap.more_images:
            ways.append(f"about {gap.more_images:,} more images in {where}")
        if gap.more_seeds:
            ways.append(f"about {gap.more_seeds:,} more seed{'s' * (gap.more_seeds > 1)}")
        if ways:
            return f"{' or '.join(ways)} would decide"
        return "however many images" + (" or seeds alone" if self.num_seeds > 1 else "")

    def _with_interval(self, gap: Gap) -> str:
        low, high = gap.interval
        if low < high:
            return f"{_rate(gap.value)}, {100 * self.level:.4g}% {_rate(low)}..{_rate(high)}"
        return f"{_rate(gap.value)}{', exact' if self.train_is_exact else ''}"


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
    train_dev_err: float | None = None,
    num_train_dev: int | None = None,
    **facts: Any,
) -> Diagnosis:
    """Say whether a run suffers from bias or from variance, and what to try next (Ng 2018, ch. 20-27, 40-41).

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
        train_dev_err: error rate on images like the training images that were held out from training, where validation
            images come from elsewhere: variance is then read up to here, and what is above is data mismatch.
        num_train_dev: images behind ``train_dev_err``.
        **facts: what the run already does, for ``next_moves``; without any, a run of Litmus's defaults is meant.

    Raises:
        ValueError: on rates outside [0, 1] and counts that cannot be.
    """
    gaps = error_gaps(target_err=target_err, train_err=train_err, val_err=val_err)
    _check_tolerance(tolerance)
    if (train_dev_err is None) != (num_train_dev is None):
        raise ValueError(f"train_dev_err = {train_dev_err} and num_train_dev = {num_train_dev} go together")
    z = _z(level)
    n_train, n_val = _effective(num_train, train_population), _effective(num_val, None)

    def train(more: int) -> Interval:
        return _score(train_err, _more(n_train, num_train, train_population, more), z)

    def val(more: int) -> Interval:
        return _score(val_err, n_val + more, z)

    def bias_interval(more: int) -> Interval:
        low, high = train(more)
        return Interval(max(0.0, low - target_err), max(0.0, high - target_err))

    bias = _decided(tolerance, gaps.avoidable_bias, bias_interval)
    mismatch, dev_interval = None, None
    if train_dev_err is None or num_train_dev is None:
        variance = _decided(
            tolerance, gaps.generalisation_gap, lambda more: _difference(val_err, val(more), train_err, train(more))
        )
    else:
        dev, n_dev = float(train_dev_err), _effective(num_train_dev, None)
        _check_rate("train_dev_err", dev)

        def held_out(more: int) -> Interval:
            return _score(dev, n_dev + more, z)

        dev_interval = held_out(0)
        variance = _decided(
            tolerance, dev - train_err, lambda more: _difference(dev, held_out(more), train_err, train(more))
        )
        mismatch = _decided(tolerance, val_err - dev, lambda more: _difference(val_err, val(more), dev, held_out(more)))
    found = Diagnosis(
        target_err,
        train_err,
        val_err,
        tolerance,
        level,
        bias,
        variance,
        math.isinf(n_train),
        notes=tuple(_notes(target_err, train_err, val_err, train(0), val(0), mismatch)),
        train_dev_err=train_dev_err,
        mismatch=mismatch,
        train_interval=train(0),
        val_interval=val(0),
        train_dev_interval=dev_interval,
    )
    more = bias.more_images if train_population is not None and bias.status == "undecided" else None
    seen_more = num_train + more if more else None
    return with_moves(found, num_train=train_population or num_train, seen_more=seen_more, **facts)


def diagnose_seeds(
    errors: Sequence[tuple[float, float]],
    num_train: int,
    num_val: int,
    target_err: float = 0.0,
    tolerance: float = 0.02,
    *,
    level: float = 0.95,
    train_population: int | None = None,
    **facts: Any,
) -> Diagnosis:
    """``diagnose_errors`` over several trainings that differ in their seed alone, on the same images.

    The rates are means over seeds. Their interval has two parts, added as squares: Student's t over the seeds, which
    differ in initialisation and order, and that of the images, which all seeds share and which no number of seeds
    makes smaller. The second takes each image's error as decided anew, as for one run: where the seeds disagree about
    an image, it is somewhat too wide.

    Args:
        errors: ``(train_err, val_err)`` of each seed, two or more.
        num_train, num_val: images behind each of them.

    The others are those of ``diagnose_errors``.

    Raises:
        ValueError: fewer than two seeds, rates outside [0, 1], counts that cannot be.
    """
    if len(errors) < 2:
        raise ValueError(f"{len(errors)} seed: two or more say how far seeds differ; one is diagnose_errors's")
    for train_err, val_err in errors:
        error_gaps(target_err=target_err, train_err=train_err, val_err=val_err)
    _check_tolerance(tolerance)
    z, seeds = _z(level), len(errors)
    train_errs, val_errs = [one for one, _ in errors], [one for _, one in errors]
    train_err, val_err = math.fsum(train_errs) / seeds, math.fsum(val_errs) / seeds
    differences = [val - train for train, val in errors]
    n_train, n_val = _effective(num_train, train_population), _effective(num_val, None)

    def train(more: int) -> Interval:
        return _score(train_err, _more(n_train, num_train, train_population, more), z)

    def val(more: int) -> Interval:
        return _score(val_err, n_val + more, z)

    def bias_interval(images: int, more_seeds: int) -> Interval:
        low, high = _widened(train_err, train(images), _t_half(train_errs, level, more_seeds))
        return Interval(max(0.0, low - target_err), max(0.0, high - target_err))

    def gap_interval(images: int, more_seeds: int) -> Interval:
        sampled = _difference(val_err, val(images), train_err, train(images))
        return _widened(val_err - train_err, sampled, _t_half(differences, level, more_seeds), low=-1.0)

    bias_value = max(0.0, train_err - target_err)
    found = Diagnosis(
        target_err,
        train_err,
        val_err,
        tolerance,
        level,
        _with_seeds(tolerance, bias_value, bias_interval),
        _with_seeds(tolerance, val_err - train_err, gap_interval),
        train_is_exact=False,
        notes=tuple(_notes(target_err, train_err, val_err, train(0), val(0), None)),
        num_seeds=seeds,
        train_interval=_widened(train_err, train(0), _t_half(train_errs, level)),
        val_interval=_widened(val_err, val(0), _t_half(val_errs, level)),
    )
    return with_moves(found, num_train=train_population or num_train, **facts)


def with_moves(found: Diagnosis, **facts: Any) -> Diagnosis:
    """The same with what to change next; ``facts`` as ``next_moves`` takes them."""
    high = {name: gap.status == "high" for name, gap in found.gaps.items()}
    moves = next_moves(bias=high["bias"], variance=high["variance"], mismatch=high.get("mismatch", False), **facts)
    texts, reasons, ready = (tuple(column) for column in zip(*moves, strict=True)) if moves else ((), (), ())
    return replace(found, moves=texts, reasons=reasons, ready=ready)


def _notes(
    target_err: float, train_err: float, val_err: float, train: Interval, val: Interval, mismatch: Gap | None
) -> Iterator[str]:
    if target_err > train_err:
        yield (
            f"target {_rate(target_err)} is above the training error {_rate(train_err)}: no bias is left to avoid, "
            f"and the target is not the best possible error"
        )
    if mismatch is None and _difference(val_err, val, train_err, train).high < 0:
        yield (
            f"validation error {_rate(val_err)} is below training error {_rate(train_err)} by more than chance: the "
            f"splits differ, or train_err was not measured as validation is"
        )


def _t_half(values: Sequence[float], level: float, more: int = 0) -> float:
    """Half of Student's interval of the mean; with ``more`` values of the same spread, what it would be."""
    from scipy.special import stdtrit

    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return float(stdtrit(n + more - 1, (1 + level) / 2)) * spread / math.sqrt(n + more)


def _widened(value: float, around: Interval, half: float, low: float = 0.0) -> Interval:
    return Interval(
        max(low, value - math.hypot(value - around.low, half)), min(1.0, value + math.hypot(around.high - value, half))
    )


def _with_seeds(tolerance: float, value: float, interval_with: Callable[[int, int], Interval]) -> Gap:
    """Undecided, it says how many images, or seeds, would decide by themselves."""
    gap = _decided(tolerance, value, lambda images: interval_with(images, 0))
    if gap.status != "undecided":
        return gap
    seeds = _decided(tolerance, value, lambda more: interval_with(0, more), most=10_000)
    return replace(gap, more_seeds=seeds.more_images)


def held_against(tolerance: float, interval: Interval) -> Status:
    """*High* when the interval lies above the tolerance, *low* when it lies at or below, else *undecided*."""
    rounding = 1e-9  # 0.14 - 0.12 is not above 0.02
    if interval.low > tolerance + rounding:
        return "high"
    return "low" if interval.high <= tolerance + rounding else "undecided"


def _decided(tolerance: float, value: float, interval_with: Callable[[int], Interval], *, most: int = 2**40) -> Gap:
    interval = interval_with(0)
    gap = Gap(value, interval, held_against(tolerance, interval))
    if gap.status != "undecided":
        return gap
    # With the rates held, score intervals are nested in n: the first n that decides is found by bisection.
    beyond = 1
    while held_against(tolerance, interval_with(beyond)) == "undecided":
        beyond *= 2
        if beyond > most:
            return replace(gap, more_images=None)
    below = beyond // 2
    while beyond - below > 1:
        middle = (below + beyond) // 2
        below, beyond = (
            (middle, beyond) if held_against(tolerance, interval_with(middle)) == "undecided" else (below, middle)
        )
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


def _check_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie in (0, 1), is {tolerance}")


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:  # also refuses NaN
        raise ValueError(f"{name} must be a rate in [0, 1], is {rate}")


def _rate(rate: float) -> str:
    """Three decimals, four for small rates, no trailing zeros."""
    text = f"{rate:.{3 if abs(rate) >= 0.00995 else 4}f}".rstrip("0").rstrip(".")
    return text if float(text) else "0"
