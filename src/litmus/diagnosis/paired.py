"""Two configs, or two networks, held against each other: over shared seeds, over others, or on the same images.

A seed moves every config alike (its draw of the first weights and of the order), so that differences seed by seed are
sharper than means. Three seeds can order nothing: an exact sign test takes five of five for p = 0.031.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from litmus.diagnosis.gaps import Interval, wilson

Direction = Literal["minimize", "maximize"]

FEWEST_SEEDS = 5
"""Below it the sign test cannot reach 0.05: 5 of 5 has p = 0.031, 4 of 4 has 0.063."""
_EXACT_UP_TO = 8
"""Points up to which ``spearman`` goes through every order, of which there are 40,320."""


@dataclass(frozen=True)
class Paired:
    """One candidate against the base over the same seeds. Positive differences: the candidate is better."""

    difference: float
    low: float
    """Of the t interval; without bound when there is one seed."""
    high: float
    better: int
    """Seeds on which the candidate was better; an equal score is not."""
    of: int
    p: float
    """Exact sign test, one-sided: the chance of so many better seeds if either were as likely to win; equal seeds are
    left out. Twice it is the two-sided one (5 of 5: 0.031, two-sided 0.063)."""
    p_mean: float
    """Student's t test of the mean difference, two-sided; 1 when there is one seed."""


class Unpaired(NamedTuple):
    """What ``welch`` found of mean(a) - mean(b)."""

    difference: float
    low: float
    """Without bound, as ``high``, when one side has a single value."""
    high: float
    p: float
    """Two-sided; 1 when one side has a single value."""


class Rank(NamedTuple):
    """What ``spearman`` found."""

    rho: float
    """In [-1, 1]; NaN when all values of one side are equal."""
    p: float
    """Two-sided."""


def interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, low, high: Student's t interval of the mean. One value leaves both ends unbounded.

    Raises:
        ValueError: without a value, and for one that is not finite.
    """
    array = _finite(values, "an interval")
    mean = float(array.mean())
    if len(array) == 1:
        return mean, -math.inf, math.inf
    error = _standard_error(array)
    if not error:
        return mean, mean, mean
    half = _t_quantile((1 + level) / 2, len(array) - 1) * error
    return mean, mean - half, mean + half


def compare(base: Sequence[float], other: Sequence[float], *, direction: Direction, level: float = 0.95) -> Paired:
    """Hold a candidate's scores against the base's, seed by seed.

    Raises:
        ValueError: if there are not as many scores of both, or one is not finite.
    """
    if len(base) != len(other):
        raise ValueError(f"paired scores come from the same seeds, got {len(base)} and {len(other)}")
    sign = 1 if direction == "minimize" else -1
    differences = [sign * (one - two) for one, two in zip(base, other, strict=True)]
    mean, low, high = interval(differences, level=level)
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    error = _standard_error(np.asarray(differences)) if len(differences) > 1 else math.inf
    p_mean = _p_of_t(mean, error, max(len(differences) - 1, 1))
    return Paired(mean, low, high, better, len(differences), sign_test(better, better + worse), p_mean)


def sign_test(better: int, of: int) -> float:
    """P(at least ``better`` of ``of``) when either side is as likely to win: exact, one-sided."""
    return sum(math.comb(of, k) for k in range(better, of + 1)) / 2**of


def welch(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Unpaired:
    """mean(a) - mean(b) of two independent samples, with the degrees of freedom of Welch 1947.

    For arms that share no seeds; where they do, ``compare`` is sharper.

    Raises:
        ValueError: a side without a value, or a value that is not finite.
    """
    one, two = _finite(a, "Welch's interval"), _finite(b, "Welch's interval")
    difference = float(one.mean() - two.mean())
    if min(len(one), len(two)) == 1:
        return Unpaired(difference, -math.inf, math.inf, 1.0)
    parts = [_standard_error(side) ** 2 for side in (one, two)]
    error = math.sqrt(sum(parts))
    freedom = 1.0
    if error:
        shares = (part / error**2 for part in parts)  # squares of squares of small errors would underflow
        freedom = 1 / sum(share**2 / (len(side) - 1) for share, side in zip(shares, (one, two), strict=True))
    half = _t_quantile((1 + level) / 2, freedom) * error
    return Unpaired(difference, difference - half, difference + half, _p_of_t(difference, error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family, adjusted so that one below alpha is wrong in alpha of families (Holm 1979).

    In the order given; uniformly more powerful than Bonferroni's, under the same (no) assumptions.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):  # also refuses NaN
        raise ValueError(f"p values lie in [0, 1], got {list(p_values)}")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def mcnemar(only_a: int, only_b: int) -> float:
    """Whether two networks err equally often on the same images: exact, two-sided p (McNemar 1947).

    Args:
        only_a: images that a alone has wrong.
        only_b: images that b alone has wrong. Images that both have wrong, or right, say nothing.

    Raises:
        ValueError: on a negative count.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts are at least 0, got {only_a} and {only_b}")
    return min(1.0, 2 * sign_test(max(only_a, only_b), only_a + only_b))


def newcombe_paired(both: int, only_a: int, only_b: int, n: int, level: float = 0.95) -> Interval:
    """Interval of err(a) - err(b) of two networks on the same ``n`` images (Newcombe 1998c, method 10).

    Args:
        both: images that both have wrong.
        only_a: that a alone has wrong.
        only_b: that b alone has wrong.
        n: all images.

    Raises:
        ValueError: on counts that cannot be.
    """
    neither = n - both - only_a - only_b
    if n < 1 or min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"{both} + {only_a} + {only_b} errors of {n} images cannot be")
    a, b = (both + only_a) / n, (both + only_b) / n
    around_a, around_b = wilson(both + only_a, n, level), wilson(both + only_b, n, level)
    product = (both + only_a) * (neither + only_b) * (both + only_b) * (neither + only_a)
    together = float(both * neither - only_a * only_b)
    if together > 0:
        together = max(together - n / 2, 0)  # his correction for continuity
    phi = together / math.sqrt(product) if product else 0.0

    def reach(up: float, down: float) -> float:
        return math.sqrt(max(up * up - 2 * phi * up * down + down * down, 0))

    low, high = reach(a - around_a.low, around_b.high - b), reach(around_a.high - a, b - around_b.low)
    return Interval(a - b - low, a - b + high)


def spearman(x: Sequence[float], y: Sequence[float]) -> Rank:
    """Rank correlation, ties at their mean rank (Spearman 1904).

    p is exact up to 8 points: the share of all orders of y with so large a correlation; beyond, from Student's t.

    Raises:
        ValueError: not as many x as y, fewer than 2, or one that is not finite.
    """
    from scipy.stats import rankdata

    one, two = _finite(x, "a rank correlation"), _finite(y, "a rank correlation")
    n = len(one)
    if n != len(two) or n < 2:
        raise ValueError(f"a rank correlation needs as many x as y, at least 2, got {n} and {len(two)}")
    ranks = [rankdata(side) - (n + 1) / 2 for side in (one, two)]
    scale = math.sqrt(float((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    if not scale:
        return Rank(math.nan, 1.0)
    rho = float(np.clip(ranks[0] @ ranks[1] / scale, -1, 1))
    if n <= _EXACT_UP_TO:
        orders = np.array(list(itertools.permutations(ranks[1])))
        return Rank(rho, float((np.abs(orders @ ranks[0] / scale) >= abs(rho) - 1e-9).mean()))
    return Rank(rho, _p_of_t(rho, math.sqrt((1 - rho * rho) / (n - 2)), n - 2))


def _finite(values: Sequence[float], what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{what} needs finite values, got {list(values)}")
    return array


def _standard_error(array: np.ndarray) -> float:
    """Of the mean of two values or more; 0 where they are equal but for rounding."""
    spread = float(array.std(ddof=1))
    return 0.0 if spread < 1e-12 * np.abs(array).max() else spread / math.sqrt(len(array))


def _t_quantile(level: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, level))


def _p_of_t(value: float, error: float, freedom: float) -> float:
    from scipy.special import stdtr

    if not error:
        return 1.0 if value == 0 else 0.0
    return min(1.0, 2 * float(stdtr(freedom, -abs(value) / error)))
