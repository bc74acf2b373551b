"""From paired numbers to *supported*, *contradicted* or *inconclusive*, by rules that are fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from litmus.diagnosis.paired import compare, interval, sign_test

Outcome = Literal["supported", "contradicted", "inconclusive"]

ALPHA = 0.05


@dataclass(frozen=True)
class Evidence:
    """One condition of a claim.

    Attributes:
        what: the condition, in words.
        outcome: None for what is only reported.
        found: the numbers it rests on, in words.
        p: of its test, one-sided; None where it is no test: an identity, an interval.
    """

    what: str
    outcome: Outcome | None
    found: str
    p: float | None = None

    @property
    def line(self) -> str:
        chance = f" (p = {self.p:.3g})" if self.p is not None else ""
        return f"{self.outcome or 'reported':<13} {self.what}: {self.found}{chance}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def conclude(evidence: Sequence[Evidence]) -> Outcome:
    """Supported when all conditions are; contradicted when one is; else inconclusive.

    Raises:
        ValueError: without a condition.
    """
    outcomes = [one.outcome for one in evidence if one.outcome is not None]
    if not outcomes:
        raise ValueError("nothing was judged")
    if "contradicted" in outcomes:
        return "contradicted"
    return "supported" if set(outcomes) == {"supported"} else "inconclusive"


def p_of(evidence: Sequence[Evidence]) -> float | None:
    """Of a claim, which holds only if all of its conditions do: the largest of theirs.

    None if none is a test, and where a condition that is none did not hold: no p speaks for the claim then.
    """
    judged = [one for one in evidence if one.outcome is not None]
    if any(one.p is None and one.outcome != "supported" for one in judged):
        return None
    return max((one.p for one in judged if one.p is not None), default=None)


def ordering(what: str, lower: Sequence[float], higher: Sequence[float], *, margin: float = 0.0) -> Evidence:
    """``lower`` lies below ``higher`` by more than ``margin`` on every seed, and by the same training otherwise.

    Supported by n of n seeds, contradicted by n of n the other way round (below by no ``margin``), where n of n is
    rarer than 1 in 20 by chance: five seeds or more. A training that diverged counts as infinitely high; a pair of
    two such ones, and an equal pair, favour neither.

    Raises:
        ValueError: as many of both, and at least one, are wanted.
    """
    _, differences = _pairs(lower, higher)
    n, better, worse = len(differences), int((differences > margin).sum()), int((differences < 0).sum())
    chance = sign_test(better, n)
    outcome: Outcome = "inconclusive"
    if better == n and chance < ALPHA:
        outcome = "supported"
    elif worse == n and sign_test(worse, n) < ALPHA:
        outcome = "contradicted"
    return Evidence(what, outcome, f"{_difference(differences)}, {better} of {n} seeds", chance)


def _pairs(lower: Sequence[float], higher: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The lower ones, infinite where they diverged, and ``higher - lower``, 0 where both did."""
    one, two = np.asarray(lower, dtype=float), np.asarray(higher, dtype=float)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"paired values come from the same seeds, got {one.shape} and {two.shape}")
    one, two = (np.where(np.isnan(values), math.inf, values) for values in (one, two))
    with np.errstate(invalid="ignore"):
        return one, np.where(one == two, 0.0, two - one)


def _difference(differences: np.ndarray) -> str:
    if not np.isfinite(differences).all():
        finite = differences[np.isfinite(differences)]
        told = f", the others by {finite.mean():.3g}" if len(finite) else ""
        return f"{(~np.isfinite(differences)).sum()} pairs with a training that diverged{told}"
    mean, low, high = interval(differences.tolist())
    return f"difference {mean:.3g} (95% {low:.3g} to {high:.3g})"


def not_above(what: str, lower: Sequence[float], higher: Sequence[float]) -> Evidence:
    """``lower`` is no higher than ``higher`` in every pair: supported by all, contradicted by none of them.

    A training that diverged counts as infinitely high; a pair of two such ones does not hold.

    Raises:
        ValueError: as many of both, and at least one, are wanted.
    """
    one, differences = _pairs(lower, higher)
    held, n = int(((differences >= 0) & np.isfinite(one)).sum()), len(one)
    outcome: Outcome = "supported" if held == n else "contradicted" if held == 0 else "inconclusive"
    return Evidence(what, outcome, f"{_difference(differences)}, {held} of {n} pairs")


def lower_on_average(what: str, lower: Sequence[float], higher: Sequence[float]) -> Evidence:
    """The mean of the paired differences is above 0: supported when their 95% interval is, contradicted when it lies
    below, inconclusive when it holds 0 or a training of a pair diverged, whose mean would be no number.

    Raises:
        ValueError: as many of both, and at least two, are wanted.
    """
    one, two = np.asarray(lower, dtype=float), np.asarray(higher, dtype=float)
    if one.shape != two.shape or one.ndim != 1 or len(one) < 2:
        raise ValueError(f"paired values come from the same seeds, two or more, got {one.shape} and {two.shape}")
    differences = two - one
    if not np.isfinite(differences).all():
        lost = int((~np.isfinite(differences)).sum())
        return Evidence(what, "inconclusive", f"{lost} of {len(differences)} pairs with a training that diverged")
    held = compare(two.tolist(), one.tolist(), direction="minimize")
    outcome: Outcome = "supported" if held.low > 0 else "contradicted" if held.high < 0 else "inconclusive"
    chance = held.p_mean / 2 if held.difference > 0 else 1 - held.p_mean / 2
    return Evidence(what, outcome, f"{_difference(differences)}, {held.better} of {held.of} seeds", chance)


def below(what: str, values: Sequence[float], bound: float) -> Evidence:
    """Every seed's value is below ``bound``: supported by all, contradicted by none of them. NaN is above."""
    return _bounded(what, values, bound, sign=1)


def above(what: str, values: Sequence[float], bound: float) -> Evidence:
    """Every seed's value is above ``bound``; NaN, a training that diverged, is above too."""
    return _bounded(what, values, bound, sign=-1)


def _bounded(what: str, values: Sequence[float], bound: float, *, sign: int) -> Evidence:
    array = np.asarray(values, dtype=float)
    if not array.size:
        raise ValueError(f"{what}: there are no values")
    array = np.where(np.isnan(array), math.inf, array)
    held = int((sign * array < sign * bound).sum())
    outcome: Outcome = "supported" if held == len(array) else "contradicted" if held == 0 else "inconclusive"
    finite = array[np.isfinite(array)]
    shown = f"{finite.min():.3g} to {finite.max():.3g}" if len(finite) else "all diverged"
    if 0 < len(finite) < len(array):
        shown += f", {len(array) - len(finite)} diverged"
    return Evidence(what, outcome, f"{shown}, {held} of {len(array)} seeds")


def within(what: str, values: Sequence[float], low: float, high: float) -> Evidence:
    """The mean lies in [low, high]: supported when its 95% interval does, contradicted when the two do not meet.

    Of one value, which has no interval, the value itself decides: for what is exact. Values that are not finite keep it
    from being supported, and contradict it when there are no others.
    """
    if lost := sum(not math.isfinite(value) for value in values):
        outcome_lost: Outcome = "contradicted" if lost == len(values) else "inconclusive"
        return Evidence(what, outcome_lost, f"{lost} of {len(values)} not finite")
    mean, left, right = interval(list(values)) if len(values) > 1 else (float(values[0]),) * 3
    outcome: Outcome = "inconclusive"
    if low <= left and right <= high:
        outcome = "supported"
    elif right < low or left > high:
        outcome = "contradicted"
    ends = f" (95% {left:.4g} to {right:.4g})" if left < right else ""
    return Evidence(what, outcome, f"{mean:.4g}{ends}, wanted {low:.4g} to {high:.4g}")


def monotone(what: str, rows: Sequence[Sequence[float]], *, rising: bool) -> Evidence:
    """Each seed's row rises (or falls) strictly: supported by all seeds, contradicted when all do the reverse.

    Args:
        rows: (seeds, steps): one row a seed, along the sweep.
    """
    array = np.asarray(rows, dtype=float)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"{what}: wanted a row of two values or more for each seed, got {array.shape}")
    steps = np.diff(array, axis=1) * (1 if rising else -1)
    held, reverse = int((steps > 0).all(axis=1).sum()), int((steps < 0).all(axis=1).sum())
    n = len(array)
    outcome: Outcome = "supported" if held == n else "contradicted" if reverse == n else "inconclusive"
    share = (steps > 0).mean()
    means = " -> ".join(f"{value:.3g}" for value in array.mean(axis=0))
    return Evidence(what, outcome, f"{means}; {held} of {n} seeds, {share:.0%} of the steps")


def in_seeds(what: str, held: Sequence[bool], *, needed: int | None = None) -> Evidence:
    """A condition of each seed holds in all of them, or in ``needed``; contradicted when it holds in none.

    Raises:
        ValueError: without a seed.
    """
    count, n = sum(map(bool, held)), len(held)
    if not n:
        raise ValueError(f"{what}: there are no seeds")
    wanted = n if needed is None else needed
    outcome: Outcome = "supported" if count >= wanted else "contradicted" if count == 0 else "inconclusive"
    return Evidence(what, outcome, f"{count} of {n} seeds" + (f", {wanted} wanted" if wanted < n else ""))


def reported(what: str, found: str) -> Evidence:
    """Worth a line, and no condition."""
    return Evidence(what, None, found)


def mean_of(values: Sequence[float], digits: int = 3) -> str:
    """``0.158 (0.151 to 0.164)``, the mean with its 95% interval; how many diverged is said."""
    finite = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(finite)
    if not finite:
        return f"all {lost} diverged"
    mean, low, high = interval(finite)
    ends = f" ({low:.{digits}g} to {high:.{digits}g})" if math.isfinite(low) and low < high else ""
    return f"{mean:.{digits}g}{ends}" + (f", {lost} diverged" if lost else "")
