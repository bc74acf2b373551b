"""What a study may conclude: statistics in, sentences out. Knows nothing of Optuna.

A search's best value is the best of many noisy ones and so too good. What is concluded rests on candidates trained anew
on fresh seeds, each against the base on the *same* seeds: paired differences, Student's t interval, exact sign test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from litmus.diagnosis import wilson
from litmus.diagnosis.paired import FEWEST_SEEDS, Direction, compare

FEWEST_TRIALS = 20
"""Finished trials from which importances are put into a sentence."""
NEAR_BORDER = 0.05
"""Part of a range, on its own scale, that counts as its border."""


@dataclass(frozen=True)
class Candidate:
    """A config trained anew on fresh seeds.

    Args:
        name: ``base`` or ``trial 17``.
        number: of the trial; None for a base that was not searched.
        values: dotted config values in which it differs from the base.
        searched: the value that the search saw.
        scores: the objective on each fresh seed; the same seeds, in the same order, for all candidates.
    """

    name: str
    number: int | None
    values: Mapping[str, Any]
    searched: float | None
    scores: tuple[float, ...]

    @property
    def is_base(self) -> bool:
        return self.name == "base"

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


class Range(NamedTuple):
    """What was searched for one number."""

    key: str
    low: float
    high: float
    log: bool = False
    down: bool = True
    """Whether the config allows less than ``low``."""
    up: bool = True


class OnTest(NamedTuple):
    """The networks of one candidate on the test images, a count of errors each."""

    name: str
    errors: tuple[int, ...]
    num_images: int


def shrinkage(candidate: Candidate, *, direction: Direction = "minimize") -> float:
    """By how much fresh seeds are worse than what the search saw: the winner's curse. NaN without either."""
    if candidate.searched is None or not candidate.scores:
        return math.nan
    return (1 if direction == "minimize" else -1) * (candidate.mean - candidate.searched)


def choose(candidates: Sequence[Candidate], direction: Direction) -> Candidate:
    """The best mean over fresh seeds. Ties go to the base, then to the lower trial number.

    Raises:
        ValueError: without candidates, or if they were not trained on as many seeds.
    """
    if len({len(candidate.scores) for candidate in candidates}) != 1 or not candidates[0].scores:
        counts = {candidate.name: len(candidate.scores) for candidate in candidates}
        raise ValueError(f"candidates are compared over the same fresh seeds, got {counts}")
    sign = 1 if direction == "minimize" else -1
    best = min(sign * candidate.mean for candidate in candidates)
    tied = [c for c in candidates if math.isclose(sign * c.mean, best, rel_tol=1e-12, abs_tol=1e-15)]
    return min(tied, key=lambda c: (not c.is_base, c.number if c.number is not None else -1))


def at_border(values: Mapping[str, Any], ranges: Sequence[Range]) -> list[tuple[Range, Literal["lower", "upper"]]]:
    """Ranges whose value lies within ``NEAR_BORDER`` of an end beyond which the config would allow more."""
    found: list[tuple[Range, Literal["lower", "upper"]]] = []
    for one in ranges:
        value = values.get(one.key)
        if not isinstance(value, int | float) or isinstance(value, bool) or one.high <= one.low:
            continue
        if one.log and value <= 0:
            continue  # the 0 beside a logarithmic range has no border
        scale = math.log if one.log else float
        place = (scale(value) - scale(one.low)) / (scale(one.high) - scale(one.low))
        if 0 <= place <= NEAR_BORDER and one.down:
            found.append((one, "lower"))
        elif 1 - NEAR_BORDER <= place <= 1 and one.up:
            found.append((one, "upper"))
    return found


# Sentences


def verdict(
    metric: str,
    direction: Direction,
    candidates: Sequence[Candidate] = (),
    *,
    importances: Mapping[str, float] | None = None,
    finished: int = 0,
    ranges: Sequence[Range] = (),
    searched: Mapping[str, Any] | None = None,
    tested: Sequence[OnTest] = (),
) -> list[str]:
    """What the study found, a sentence each: importances, winner against base, cautions, test errors.

    Args:
        metric: the objective; differences of errors are told in points, 0.01 being one.
        direction: of the objective.
        candidates: the base and the trials that were trained anew; empty before that.
        importances: dotted name -> share, which sum to 1.
        finished: trials behind the importances.
        ranges: what was searched, to say where the optimum lies at a border.
        searched: dotted values of the search's best trial, whose borders are told when there is no winner yet.
        tested: the test set, touched once after the choice: the winner, and the base to stand beside it.
    """
    says = _importance(importances or {}, finished)
    base = next((candidate for candidate in candidates if candidate.is_base), None)
    others = [candidate for candidate in candidates if not candidate.is_base]
    values = searched or {}
    if not candidates or not candidates[0].scores:
        says.append(
            "nothing was trained anew on fresh seeds: the search's best value is the best of many and so too good"
        )
    else:
        winner = choose(candidates, direction)
        values = winner.values
        if base is None:
            says.append(f"{winner.name} is best on fresh seeds; the base was not among them, so nothing is compared")
        elif not others:
            says.append("only the base was trained anew: there is nothing to compare it with")
        elif winner.is_base:
            says.append(_base_won(metric, direction, base, others))
        else:
            says += _winner(metric, direction, base, winner, len(others))
        says += _shrinks(metric, direction, winner)
    says += [
        f"{one.key} = {_plain(values[one.key])} lies at the {side} border of its range "
        f"({_plain(one.low)} to {_plain(one.high)}{', log' if one.log else ''}): widen it"
        for one, side in at_border(values, ranges)
    ]
    return says + _test_errors(tested)


def front_sentence(metrics: Sequence[str], front: Sequence[tuple[str, Sequence[float]]], finished: int) -> str:
    """Of two objectives there is no one winner: the two ends of the Pareto front, best in the first and in the second.

    Args:
        metrics: names of the objectives.
        front: name and values of the trials on it, in the order of the first objective, the best one first.
        finished: trials that it was found among.
    """

    def end(one: tuple[str, Sequence[float]]) -> str:
        return f"{one[0]} ({', '.join(f'{name} {_rate(value)}' for name, value in zip(metrics, one[1], strict=True))})"

    if not front:
        return "no trial has finished: there is no Pareto front yet"
    if len(front) == 1:
        return f"{end(front[0])} is best of {finished} finished trials in {' and '.join(metrics)} alike"
    return (
        f"{len(front)} of {finished} finished trials are on the Pareto front, from {end(front[0])} to {end(front[-1])}"
        ": which is best is a choice between them"
    )


def _importance(importances: Mapping[str, float], finished: int) -> list[str]:
    if finished < FEWEST_TRIALS:
        return [
            f"{finished} finished trial{'s' * (finished != 1)}: too few to say which parameter matters "
            f"({FEWEST_TRIALS} are the least)"
        ]
    ranked = sorted(importances.items(), key=lambda item: -item[1])
    if len(ranked) < 2:
        return []
    (first, share), (second, next_share) = ranked[:2]
    if share - next_share < 0.05:
        return [
            f"{first} and {second} matter about as much ({share:.2f} and {next_share:.2f} of the explained variance)"
        ]
    return [f"{first} matters most ({share:.2f} of the explained variance), then {second} ({next_share:.2f})"]


def _winner(metric: str, direction: Direction, base: Candidate, winner: Candidate, compared: int) -> list[str]:
    found = compare(base.scores, winner.scores, direction=direction)
    if found.of < 2:
        by = _amount(metric, found.difference)
        return [
            f"{winner.name} is ahead of the base by {by} on 1 fresh seed: one seed is no evidence, take {FEWEST_SEEDS}"
        ]
    wide = compare(base.scores, winner.scores, direction=direction, level=1 - 0.05 / compared)
    by, low, high = _amounts(metric, found.difference, found.low, found.high)
    on = f"better on {found.better} of {found.of} fresh seeds"
    rests = f"95% interval {low} to {high}; {on}"
    same = found.low == found.high
    if same:
        rests = f"by the same on every seed, so there is no interval; {on}"
    says = []
    if found.of < FEWEST_SEEDS:
        head = "is ahead of" if found.low > 0 else "is not shown to be better than"
        says.append(
            f"{winner.name} {head} the base: {by} ({rests}); {found.of} seeds are too few for an order, "
            f"{FEWEST_SEEDS} are the least"
        )
    elif found.low <= 0:
        says.append(f"{winner.name} is not shown to be better than the base: {by} ({rests}), which holds 0")
    elif wide.low <= 0:
        _, low, high = _amounts(metric, wide.difference, wide.low, wide.high)
        says.append(
            f"{winner.name} is not shown to be better than the base: {by} ({rests}), but it is the best of {compared} "
            f"candidates, and the interval that allows for that (Bonferroni) holds 0: {low} to {high}"
        )
        return says
    else:
        says.append(f"{winner.name} beats the base by {by} ({rests}, sign test p = {found.p:.2g})")
    if compared > 1:
        _, low, high = _amounts(metric, wide.difference, wide.low, wide.high)
        widened = "" if same else f"; the interval that allows for that (Bonferroni) is {low} to {high}"
        says.append(f"it is the best of {compared} candidates and the base on the same seeds{widened}")
    return says


def _base_won(metric: str, direction: Direction, base: Candidate, others: Sequence[Candidate]) -> str:
    second = choose(others, direction)
    found = compare(base.scores, second.scores, direction=direction)
    head = f"the base itself is best on fresh seeds, of {len(others) + 1} candidates"
    if found.difference == 0:
        return f"{head}: {second.name} equals it in the mean, and a tie goes to the base"
    if found.of < 2:
        return f"{head}: {second.name} comes next, {_amount(metric, found.difference)} worse on 1 fresh seed"
    by, low, high = _amounts(metric, -found.difference, -found.high, -found.low)
    how = f"95% interval {low} to {high}" if found.low < found.high else "the same on every seed"
    beside = "" if found.high < 0 else ", which holds 0"
    return f"{head}: {second.name} comes next, {by} worse ({how}{beside}; better on {found.better} of {found.of} seeds)"


def _shrinks(metric: str, direction: Direction, winner: Candidate) -> list[str]:
    lost = shrinkage(winner, direction=direction)
    if math.isnan(lost) or winner.searched is None:
        return []
    seen, again = _rate(winner.searched), _rate(winner.mean)
    if lost <= 0:
        return [f"{winner.name} did not shrink: {seen} in the search, {again} on fresh seeds"]
    return [
        f"{winner.name} shrank by {_amount(metric, lost)}: {seen} in the search, {again} on fresh seeds "
        "(the best of many is too good)"
    ]


def _test_errors(tested: Sequence[OnTest]) -> list[str]:
    says = []
    for one in tested:
        mean = sum(one.errors) / len(one.errors)
        low, high = wilson(round(mean), one.num_images)  # of one network: the same images under all are no new ones
        several = f", mean of {len(one.errors)} networks" if len(one.errors) > 1 else ""
        says.append(
            f"test error of {one.name}: {_rate(mean / one.num_images)} "
            f"(95% {_rate(low)} to {_rate(high)} for {one.num_images:,} images{several})"
        )
    if says:
        says[-1] += "; the test set was touched once, after the choice"
    return says


def _amount(metric: str, difference: float) -> str:
    """A distance without sign, with its unit."""
    return _amounts(metric, abs(difference), abs(difference) / 2, 1.5 * abs(difference))[0]


def _amounts(metric: str, *numbers: float) -> tuple[str, ...]:
    """A difference with its unit, then the ends of its interval, to the digits that the interval's width allows."""
    in_points = metric.endswith("err")
    scaled = [100 * number if in_points else number for number in numbers]
    width = max(scaled) - min(scaled) if all(map(math.isfinite, scaled)) else 0.0
    width = width or abs(scaled[0])
    digits = min(max(math.ceil(-math.log10(width)) + 1, 0), 6) if width > 0 else 1
    unit = " points" if in_points else " s" if metric.endswith("sec") else ""
    texts = [f"{number:.{digits}f}" for number in scaled]
    texts = [text.removeprefix("-") if not float(text) else text for text in texts]
    return texts[0] + unit, *texts[1:]


def _rate(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
