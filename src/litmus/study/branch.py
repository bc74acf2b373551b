"""One entry of a space: what it allows, and how Optuna's parameters give its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from litmus.config.study import ABSENT, ParameterConfig, is_number, same

MAX_POINTS = 64
"""Points of a range that are each tried against the config; of longer ones, the first two and the last."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the search.

    Args:
        name: Optuna's: the dotted key, ``key[condition]`` where the key has several entries, ``key=value`` for the
            switch that ``or`` adds.
        key: dotted key of the config.
        when: dotted key -> values with which the parameter counts.
        distribution: None for what is fixed.
        role: scientific, nuisance or fixed.
        fixed: the value of what is fixed, else ``...``.
        switch: True where the values are False (the range counts) and True (the value of ``or`` does).
        even: every choice gets the same number of trials.
    """

    name: str
    key: str
    when: Mapping[str, tuple[Any, ...]]
    distribution: BaseDistribution | None
    role: str
    fixed: Any = ...
    switch: bool = False
    even: bool = False


@dataclass(frozen=True)
class Branch:
    """One entry of the space: what a dotted key is drawn from while its conditions hold."""

    key: str
    entry: ParameterConfig
    name: str
    whole: bool

    @property
    def when(self) -> dict[str, tuple[Any, ...]]:
        return self.entry.conditions

    @property
    def role(self) -> str:
        if self.entry.kind == "fixed":
            return "fixed"
        default = "nuisance" if self.key == "optim.lr" or self.entry.when else "scientific"
        return self.entry.role or default

    @property
    def switch(self) -> str:
        return f"{self.name}={text_of(self.entry.also)}"

    def distribution(self) -> BaseDistribution:
        entry = self.entry
        if entry.choices is not None:
            return CategoricalDistribution([storable(value) for value in entry.choices])
        if self.whole:
            return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
        step = None if entry.step is None else float(entry.step)
        return FloatDistribution(float(entry.low), float(entry.high), log=entry.log, step=step)

    def parameters(self) -> list[Parameter]:
        common = {"key": self.key, "when": self.when, "role": self.role}
        if self.entry.kind == "fixed":
            return [Parameter(self.name, distribution=None, fixed=self.entry.fixed, **common)]  # type: ignore[arg-type]
        found = []
        if self.entry.has_also:
            both = CategoricalDistribution([False, True])
            found.append(Parameter(self.switch, distribution=both, switch=True, **common))  # type: ignore[arg-type]
        main = Parameter(self.name, distribution=self.distribution(), even=self.entry.even, **common)  # type: ignore[arg-type]
        return [*found, main]

    def value(self, param: Any) -> Any:
        """The config's value for Optuna's: lists from their text, multiples of a step without the digits of a sum."""
        entry = self.entry
        if entry.choices is not None:
            return next(value for value in entry.choices if same(storable(value), param))
        if self.whole:
            return int(param)
        return float(param) if entry.step is None else self._on_step(float(param))

    def _on_step(self, value: float) -> float:
        low, step = Decimal(repr(self.entry.low)), Decimal(repr(self.entry.step))
        return float(low + round((Decimal(repr(value)) - low) / step) * step)

    def drawn(self, ask: Callable[[str], Any]) -> Any:
        """The config's value, where ``ask`` knows Optuna's parameters by name; ``ABSENT`` where it does not."""
        if self.entry.kind == "fixed":
            return self.entry.fixed
        if self.entry.has_also:
            switch = ask(self.switch)
            if switch is ABSENT or switch:
                return ABSENT if switch is ABSENT else self.entry.also
        param = ask(self.name)
        return ABSENT if param is ABSENT else self.value(param)

    def params(self, value: Any) -> dict[str, Any] | None:
        """Optuna's parameters that give this value, or None where none does."""
        entry = self.entry
        if entry.kind == "fixed":
            return {} if same(value, entry.fixed) else None
        if entry.choices is not None:
            held = [choice for choice in entry.choices if same(choice, value)]
            return {self.name: storable(held[0])} if held else None
        if entry.has_also and same(value, entry.also):
            return {self.switch: True}
        off = {self.switch: False} if entry.has_also else {}
        if not is_number(value) or not entry.low <= value <= entry.high or (self.whole and value != int(value)):
            return None
        if self.whole:
            inside = (int(value) - int(entry.low)) % int(entry.step or 1) == 0
            return {**off, self.name: int(value)} if inside else None
        if entry.step is not None and abs(self._on_step(float(value)) - value) > 1e-9 * abs(entry.step):
            return None
        return {**off, self.name: float(value)}

    def points(self) -> list[Any] | None:
        """Every value, or None where they are not to be counted."""
        entry = self.entry
        if entry.kind == "fixed":
            return [entry.fixed]
        if entry.choices is not None:
            return list(entry.choices)
        also = [entry.also] if entry.has_also else []
        if self.whole:
            return [*also, *range(int(entry.low), int(entry.high) + 1, int(entry.step or 1))]
        if entry.step is None:
            return None
        low, step = Decimal(repr(entry.low)), Decimal(repr(entry.step))
        steps = int((Decimal(repr(entry.high)) - low) / step)
        return [*also, *(float(low + k * step) for k in range(steps + 1))]

    def num_points(self) -> int | None:
        entry = self.entry
        if self.whole and entry.kind == "range":
            return (int(entry.high) - int(entry.low)) // int(entry.step or 1) + 1 + entry.has_also
        if entry.kind == "range" and entry.step is None:
            return None
        if entry.kind == "range":
            low, high, step = (Decimal(repr(end)) for end in (entry.low, entry.high, entry.step))
            return int((high - low) / step) + 1 + entry.has_also
        return len(self.points() or ())

    def extremes(self) -> list[Any]:
        entry = self.entry
        if entry.kind != "range":
            return self.points() or []
        ends = [int(end) if self.whole else float(end) for end in (entry.low, entry.high)]
        return [*ends, *([entry.also] if entry.has_also else [])]

    def samples(self) -> list[Any]:
        """What is tried one by one: all points, or of many the extremes and the one after the first."""
        count = self.num_points()
        if count is not None and count <= MAX_POINTS:
            return self.points() or []
        second = [int(self.entry.low) + int(self.entry.step or 1)] if self.whole else []
        return [*self.extremes(), *second]

    def middle(self) -> Any:
        entry = self.entry
        if entry.kind != "range":
            return (self.points() or [None])[0]
        centre = (entry.low * entry.high) ** 0.5 if entry.log else (entry.low + entry.high) / 2
        if self.whole:
            step = int(entry.step or 1)
            return int(entry.low) + int((centre - entry.low) // step) * step
        return float(centre) if entry.step is None else self._on_step(float(centre))

    def nearest(self, value: Any) -> Any:
        """The allowed value next to a number; ``...`` where there is no sense of near."""
        numbers = [n for n in (self.entry.choices or ()) if is_number(n)] if self.entry.kind == "choices" else []
        if not is_number(value) or self.entry.kind == "fixed" or (self.entry.kind == "choices" and not numbers):
            return ...
        if numbers:
            return min(numbers, key=lambda number: abs(number - value))
        inside = min(max(value, self.entry.low), self.entry.high)
        if self.whole:
            step = int(self.entry.step or 1)
            return int(self.entry.low) + min(
                round((inside - self.entry.low) / step), int(self.entry.high - self.entry.low) // step
            ) * step  # fmt: skip
        return inside if self.entry.step is None else self._on_step(float(inside))

    def allowed(self) -> str:
        entry = self.entry
        if entry.kind == "fixed":
            return f"{text_of(entry.fixed)}, fixed"
        if entry.choices is not None:
            return f"{', '.join(map(text_of, entry.choices))}{', evenly' if entry.even else ''}"
        kind = f"{', log' if entry.log else ''}{f', step {entry.step:g}' if entry.step is not None else ''}"
        whole = ", whole" if self.whole and entry.step is None else ""
        return f"{entry.low:g} to {entry.high:g}{kind}{whole}{f', or {text_of(entry.also)}' if entry.has_also else ''}"


# --- values -----------------------------------------------------------------------------------------------------------


def storable(value: Any) -> Any:
    """Optuna's storage holds plain values; a list stands there as its text."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def text_of(value: Any) -> str:
    """A value as YAML writes it; numbers so that two different ones read differently."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.15g}"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def either(values: Iterable[Any]) -> str:
    return "|".join(map(text_of, values))


def condition_text(when: Mapping[str, tuple[Any, ...]]) -> str:
    return ",".join(f"{key}={either(values)}" for key, values in when.items())
