"""What a user is told when an input is refused: the key or path, the value, what is allowed, the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input.

    Args:
        where: dotted key (``optim.lr``), path or command-line argument.
        says: what is wrong and what is allowed, in one sentence without a full stop.
        value: what was found; ``...`` when there is none to show.
    """

    where: str
    says: str
    value: Any = ...

    def __str__(self) -> str:
        shown = "" if self.value is ... else f" = {_short(self.value)}"
        return f"{self.where}{shown}: {self.says}"


class Refused(Exception):
    """Input refused before any compute. Carries every problem found, not only the first; the command line exits 2."""

    def __init__(self, problems: Problem | Iterable[Problem], *, source: str = ""):
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source or 'input'} is refused, {count} problem{'s' * (count != 1)}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class NonFinite(ArithmeticError):
    """A loss or a gradient became NaN or infinite; the command line exits 65. ``facts`` is what is known of it."""

    def __init__(self, says: str, facts: dict[str, Any] | None = None):
        super().__init__(says)
        self.facts = facts or {}


class DiskTrouble(OSError):
    """The disk is full or fails while a result is written; the command line exits 74."""


def refuse(where: str, says: str, value: Any = ..., *, source: str = "") -> Refused:
    """A ``Refused`` with one problem, for ``raise refuse("data.path", "is not a folder", path)``."""
    return Refused(Problem(where, says, value), source=source)


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for a mistyped name, or the list of known names when none is near and they are few."""
    names = sorted(known)
    typed = str(name).lower()
    close = difflib.get_close_matches(typed, names, n=5, cutoff=0.6)
    swapped = [known for known in close if sorted(known.lower()) == sorted(typed)]  # two letters in the wrong order
    close = close or [known for known in names if len(typed) > 3 and known.lower().startswith(typed[:3])]
    if close:
        return f"did you mean {(swapped or close)[0]!r}?"
    listed = ", ".join(names[:24]) + (", ..." if len(names) > 24 else "")
    return f"one of: {listed}"


def _short(value: Any) -> str:
    text, width = repr(value), 300 if isinstance(value, str) else 80  # a path is of use only as a whole
    return text if len(text) <= width else text[: width - 3] + "..."
