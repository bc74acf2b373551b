"""Runs grouped into arms: one for each config but for the seed. What tells them apart, and what makes them unfair."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from litmus.compare.select import Training
from litmus.errors import Problem, nearest

ABSENT = "-"
SEVERAL = "(several)"
_NOT_A_FACTOR = ("config", "seed", "data", "splits", "weights")
"""Fields of the fingerprint that are told of on their own, or are the config's."""
_DECIDE_VALIDATION = (
    *("data.split_seed", "data.val_fraction", "data.test_fraction", "data.num_images", "data.num_classes"),
    *("data.classes", "data.name", "train.limit_batches"),
)


@dataclass(frozen=True)
class Arm:
    """Runs of one config.

    Args:
        label: what it has and the others have not, short.
        values: every key that differs between runs -> the arm's value as text; ``-`` where its config has no such key.
        runs: by block, which is what runs of two arms are paired by: the seed, and with ``by`` all else that differs.
    """

    label: str
    values: dict[str, str]
    runs: dict[tuple[str, ...], Training]

    @property
    def trainings(self) -> list[Training]:
        return list(self.runs.values())

    @property
    def val_errs(self) -> list[float]:
        return [one.val_err for one in self.trainings]

    @property
    def test_errs(self) -> list[float]:
        """Of the runs that were tested."""
        return [one.test_err for one in self.trainings if one.test_err is not None]

    @property
    def mean(self) -> float:
        return sum(self.val_errs) / len(self.val_errs)


@dataclass(frozen=True)
class Arms:
    """All arms, in the order in which they were met.

    Args:
        factors: keys that differ between arms.
        beside: with ``by``, the other keys that differ, over which runs are paired beside the seed.
        notes: runs that were left out.
    """

    arms: list[Arm]
    factors: list[str]
    beside: list[str]
    notes: list[str]


def group(trainings: Sequence[Training], by: str | None = None) -> tuple[Arms, list[Problem]]:
    """Put runs into arms.

    Args:
        by: the factor: a config key, or a field of the fingerprint such as ``code``. All else that differs is then
            what runs are paired by, beside the seed. Default: every config key that differs.

    Returns:
        The arms, and why they cannot be compared.
    """
    rows = [dict(one.values) for one in trainings]
    if by is not None:
        if problems := by_problems(trainings, by):
            return _none(), problems
        if by in _fields(trainings):
            rows = [{**row, by: one.world.get(by, ABSENT)} for row, one in zip(rows, trainings, strict=True)]
    texts = [{key: text_of(value) for key, value in row.items()} for row in rows]
    keys = list(dict.fromkeys(key for row in texts for key in row))
    differing = [key for key in keys if len({row.get(key, ABSENT) for row in texts}) > 1]
    if by is not None and by not in differing:
        return _none(), [Problem("--by", f"is {texts[0][by]} in every run: there is nothing to compare", by)]
    factors = [by] if by is not None else differing
    beside = [key for key in differing if key != by] if by is not None else []

    held: dict[tuple[str, ...], dict[tuple[str, ...], Training]] = {}
    again = 0
    for one, row in zip(trainings, texts, strict=True):
        arm = held.setdefault(tuple(row.get(key, ABSENT) for key in factors), {})
        block = (str(one.seed), *(row.get(key, ABSENT) for key in beside))
        before = arm.get(block)
        again += before is not None
        if before is None or one.run.started_at > before.run.started_at:
            arm[block] = one
    if len(held) < 2:
        return _none(), [Problem("run", _one_arm(trainings))]
    notes = []
    if again:
        times = "once" if again == 1 else f"{again} times"
        notes.append(f"the same config and seed stands there again {times}: only the newest of equal runs counts")
    shared = _one_section_each(factors, [dict(zip(factors, arm, strict=True)) for arm in held])
    short = len({tuple(_rounded(value) for value in arm) for arm in held}) == len(held)
    made = []
    for own, runs in held.items():
        values = dict(zip(factors, own, strict=True))
        mine = [texts[i] for i, one in enumerate(trainings) if any(one is kept for kept in runs.values())]
        for key in beside:
            found = {row.get(key, ABSENT) for row in mine}
            values[key] = found.pop() if len(found) == 1 else SEVERAL
        label = _label({key: _rounded(value) for key, value in values.items()} if short else values, shared)
        made.append(Arm(label, values, runs))
    return Arms(made, factors, beside, notes), []


def by_problems(trainings: Sequence[Training], by: str) -> list[Problem]:
    """Whether ``by`` can be a factor of these runs at all."""
    if by == "seed":
        return [Problem("--by", "runs are paired by their seeds; a factor is what else differs", by)]
    known = {key for one in trainings for key in one.values} | _fields(trainings)
    return [] if by in known else [Problem("--by", f"no run has it; {nearest(by, known)}", by)]


def fairness(arms: Arms, reference: int = 0, by: str | None = None) -> list[str]:
    """What else differs between the runs, a sentence each: it makes a difference of errors hard to lay to the factors.

    Args:
        reference: the arm that the others are held against.
        by: the field of the fingerprint that is the factor, if it is one.
    """
    return [*_images(arms), *_budget(arms), *_several_factors(arms, reference), *_surroundings(arms, by)]


def text_of(value: Any) -> str:
    """A config value for a table: as it would be typed."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def short_key(key: str) -> str:
    """``model.init`` as ``init``; ``model.name`` and its like by their section."""
    *sections, last = key.split(".")
    return sections[-1] if last == "name" and sections else last


def _none() -> Arms:
    return Arms([], [], [], [])


def _fields(trainings: Sequence[Training]) -> set[str]:
    """Of the fingerprint, those that can be a factor."""
    return {key for one in trainings for key in one.world} - set(_NOT_A_FACTOR)


def _one_arm(trainings: Sequence[Training]) -> str:
    seeds = len({one.seed for one in trainings})
    says = f"nothing differs between these {len(trainings)} runs but the seed ({seeds} of them): there is one arm"
    fields = sorted(_fields(trainings))
    differing = [field for field in fields if len({one.world.get(field) for one in trainings}) > 1]
    return says + (f"; --by {differing[0]} compares by what else differs: {', '.join(differing)}" if differing else "")


def _one_section_each(factors: Sequence[str], arms: Sequence[dict[str, str]]) -> list[str]:
    """The fewest keys that tell the arms apart, ``*.name`` and what all arms have first."""
    everywhere = [key for key in factors if all(arm[key] != ABSENT for arm in arms)]
    order = sorted(factors, key=lambda key: (key not in everywhere, not key.endswith(".name")))
    chosen: list[str] = []
    told = 1
    for key in order:
        apart = len({tuple(arm[name] for name in [*chosen, key]) for arm in arms})
        if apart > told:
            chosen.append(key)
            told = apart
    return [key for key in factors if key in chosen]


def _label(values: dict[str, str], keys: Sequence[str]) -> str:
    names = Counter(short_key(key) for key in keys)
    named = {key: short_key(key) if names[short_key(key)] == 1 else key for key in keys}
    return ", ".join(f"{named[key]}={values[key]}" for key in keys)


def _rounded(text: str) -> str:
    """A drawn number of 17 digits is no name."""
    try:
        return f"{float(text):.4g}" if len(text) > 6 and "." in text else text
    except ValueError:
        return text


def _images(arms: Arms) -> Iterator[str]:
    every = [one for arm in arms.arms for one in arm.trainings]
    if len({one.data for one in every}) > 1:
        yield "the images differ (data digest): errors are not on the same images"
    elif len({one.splits for one in every}) > 1:
        keys = [key for key in (*arms.factors, *arms.beside) if key.startswith("data.")]
        if any(key in _DECIDE_VALIDATION for key in keys) or not keys:
            yield "the splits differ (split digest): the runs were not validated on the same images"


def _budget(arms: Arms) -> Iterator[str]:
    steps = {arm.label: {one.steps for one in arm.trainings} - {0} for arm in arms.arms}
    every = set().union(*steps.values())
    if len({frozenset(found) for found in steps.values()}) > 1 and len(every) > 1:
        yield (
            f"the arms were trained for different numbers of optimizer steps, {min(every):,} to {max(every):,}: "
            "match them before a difference is laid to anything else"
        )


def _several_factors(arms: Arms, at: int) -> Iterator[str]:
    reference = arms.arms[at]
    both = [
        [
            key
            for key in arms.factors
            if ABSENT not in (arm.values[key], reference.values[key]) and arm.values[key] != reference.values[key]
        ]
        for arm in arms.arms
        if arm is not reference
    ]
    many = [keys for keys in both if len(keys) > 1]
    if many:
        keys = f"{', '.join(many[0][:4])}{', ...' if len(many[0]) > 4 else ''}"
        yield (
            f"{len(many)} of {len(both)} arms differ from {reference.label} in several keys at once ({keys}): a "
            "difference of theirs belongs to none of them alone"
        )


def _surroundings(arms: Arms, by: str | None) -> Iterator[str]:
    every = [one for arm in arms.arms for one in arm.trainings if one.world]
    for field in dict.fromkeys(key for one in every for key in one.world):
        values = Counter(one.world.get(field, ABSENT) for one in every)
        if field in (*_NOT_A_FACTOR, by) or len(values) < 2:
            continue
        sets = {frozenset(one.world.get(field, ABSENT) for one in arm.trainings if one.world) for arm in arms.arms}
        where = "not alike in all arms" if len(sets) > 1 else "in every arm"
        shown = ", ".join(f"{value[:40]} ({count} runs)" for value, count in values.most_common(3))
        yield f"{field} differs between runs, {where}: {shown}"
