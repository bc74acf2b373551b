"""Side by side: the arms of an experiment, as overrides of one config."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from litmus.config.load import load_config
from litmus.config.schema import RunConfig
from litmus.errors import Problem, Refused

MAX_ARMS = 256


@dataclass(frozen=True)
class Arm:
    """What one arm changes. ``label`` says what it has and the others have not."""

    label: str
    overrides: tuple[str, ...] = ()


def arms_of(over: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Arm]:
    """Every combination of the values in ``over``, and then, for each of those, every arm of ``arms``.

    Args:
        over: ``a.b=1,2,3`` each: a key and its values. A comma inside brackets or quotes parts nothing.
        arms: ``"a.b=1 c.d=2"`` each: overrides that belong together.

    Raises:
        Refused: with everything that cannot be read, a key given twice, equal arms, and more than 256 of them.
    """
    problems: list[Problem] = []
    axes: list[list[tuple[str, tuple[str, ...]]]] = []
    keys: set[str] = set()
    for text in over:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            problems.append(Problem("--over", "reads a.b=value,value,...", text))
            continue
        if key in keys:
            problems.append(Problem("--over", f"gives {key} twice; name all of its values at once", text))
        keys.add(key)
        parts = split_values(values)
        if "" in parts:
            problems.append(Problem("--over", f"has an empty value of {key}", text))
        if doubles := sorted({part for part in parts if parts.count(part) > 1}):
            problems.append(Problem("--over", f"names {', '.join(doubles)} more than once", text))
        axes.append([(f"{_short(key)}={part}", (f"{key}={part}",)) for part in parts])
    if arms:
        axes.append([_arm(text, keys, problems) for text in arms])
        texts = [overrides for _, overrides in axes[-1]]
        problems += [
            Problem("--arm", "stands twice", text)
            for at, text in enumerate(arms)
            if texts[at] and texts[at] in texts[:at]
        ]
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > MAX_ARMS:
        problems.append(Problem("--over", f"would make {count:,} arms; at most {MAX_ARMS}"))
    if problems:
        raise Refused(problems, source="command")
    return [
        Arm(", ".join(label for label, _ in chosen if label), tuple(itertools.chain(*(words for _, words in chosen))))
        for chosen in itertools.product(*axes)
    ]


def arm_configs(sources: Sequence[str], overrides: Sequence[str], arms: Sequence[Arm]) -> list[RunConfig]:
    """The config of each arm: files, then the overrides that all have, then its own.

    Raises:
        Refused: with the problems of all arms, each once.
    """
    configs, problems = [], dict[str, Problem]()
    for arm in arms:
        try:
            configs.append(load_config(list(sources), [*overrides, *arm.overrides]))
        except Refused as refused:
            problems |= {str(problem): problem for problem in refused.problems}
    if problems:
        raise Refused(problems.values(), source="config")
    return configs


def split_values(text: str) -> list[str]:
    """``1,[2,3],"a,b"`` in its three parts, as they stand."""
    parts, depth, quote, part = [], 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()]


def _arm(text: str, taken: set[str], problems: list[Problem]) -> tuple[str, tuple[str, ...]]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        problems.append(Problem("--arm", f"cannot be read: {error}", text))
        return "", ()
    keys = [word.partition("=")[0] for word in words]
    for word, key in zip(words, keys, strict=True):
        if "=" not in word or not all(key.split(".")):
            problems.append(Problem("--arm", f"{word!r} is no override; an arm reads 'a.b=c d.e=f'", text))
        elif key in taken:
            problems.append(Problem("--arm", f"{key} has values of --over too", text))
    if doubles := sorted({key for key in keys if keys.count(key) > 1}):
        problems.append(Problem("--arm", f"gives {', '.join(doubles)} twice", text))
    label = " ".join(f"{_short(key)}={word.partition('=')[2]}" for key, word in zip(keys, words, strict=True))
    return label or "as it is", words


def _short(key: str) -> str:
    """``model.init`` as ``init``; ``model.name`` and its like by their section."""
    *sections, last = key.split(".")
    return sections[-1] if last == "name" and sections else last
