"""Range checks of the constructors: each names the option, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

from litmus.errors import nearest


def one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{option} = {value!r} is unknown; {nearest(value, allowed)}")


def at_least(option: str, value: int, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{option} = {value!r} must be a whole number of at least {lowest}")


def probability_to_keep(option: str, value: float) -> None:
    """In (0, 1]: keeping nothing learns nothing."""
    if not 0 < value <= 1:
        raise ValueError(f"{option} = {value!r} must lie in (0, 1]; it is the probability to keep, 1 keeps everything")
