"""From dotted keys to Optuna's parameters and back, and what of a study can be refused before anything is trained."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args, get_origin

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from litmus.config.schema import CHOICES, RunConfig, Section, names_of
from litmus.config.study import (
    ABSENT,
    NOT_SEARCHED,
    ParameterConfig,
    StudyConfig,
    always_fixed,
    base_config,
    lookup,
    trial_config,
)
from litmus.errors import Problem, Refused, nearest

MAX_GRID = 100_000
MAX_CORNERS = 256
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
        return f"{self.name}={_text(self.entry.also)}"

    def distribution(self) -> BaseDistribution:
        entry = self.entry
        if entry.choices is not None:
            return CategoricalDistribution([_storable(value) for value in entry.choices])
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
            return next(value for value in entry.choices if _same(_storable(value), param))
        if self.whole:
            return int(param)
        return float(param) if entry.step is None else self._on_step(float(param))

    def _on_step(self, value: float) -> float:
        low, step = Decimal(repr(self.entry.low)), Decimal(repr(self.entry.step))
        return float(low + round((Decimal(repr(value)) - low) / step) * step)

    def params(self, value: Any) -> dict[str, Any] | None:
        """Optuna's parameters that give this value, or None where none does."""
        entry = self.entry
        if entry.kind == "fixed":
            return {} if _same(value, entry.fixed) else None
        if entry.choices is not None:
            held = [choice for choice in entry.choices if _same(choice, value)]
            return {self.name: _storable(held[0])} if held else None
        if entry.has_also and _same(value, entry.also):
            return {self.switch: True}
        off = {self.switch: False} if entry.has_also else {}
        if not _is_number(value) or not entry.low <= value <= entry.high or (self.whole and value != int(value)):
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
        numbers = [n for n in (self.entry.choices or ()) if _is_number(n)] if self.entry.kind == "choices" else []
        if not _is_number(value) or self.entry.kind == "fixed" or (self.entry.kind == "choices" and not numbers):
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
            return f"{_text(entry.fixed)}, fixed"
        if entry.choices is not None:
            return f"{', '.join(map(_text, entry.choices))}{', evenly' if entry.even else ''}"
        kind = f"{', log' if entry.log else ''}{f', step {entry.step:g}' if entry.step is not None else ''}"
        whole = ", whole" if self.whole and entry.step is None else ""
        return f"{entry.low:g} to {entry.high:g}{kind}{whole}{f', or {_text(entry.also)}' if entry.has_also else ''}"


class Space:
    """What a study searches: for each trial the dotted values that its config takes.

    A condition looks at what the trial drew for its key; where that key is not drawn in the trial, the condition does
    not hold. A condition on a key that no entry searches looks at the base.
    """

    def __init__(self, branches: Sequence[Branch], study: StudyConfig):
        self.branches = tuple(branches)
        self.study = study
        self.parameters = tuple(parameter for branch in branches for parameter in branch.parameters())
        self._searched = {branch.key for branch in branches}

    @classmethod
    def from_study(cls, study: StudyConfig) -> Space:
        """Raises ``Refused`` with what is wrong with keys and conditions."""
        base = base_config(study)
        branches = _branches(study)
        problems = _key_problems(study, base, branches) + _condition_problems(base, branches)
        ordered, circle = _in_order(branches)
        if circle:
            says = f"conditions go round in a circle: {' -> '.join([*circle, circle[0]])}"
            problems.append(Problem(f"space.{circle[0]}", says))
        if problems:
            raise Refused(problems, source="study")
        return cls(ordered, study)

    @property
    def conditional(self) -> bool:
        """Whether a parameter counts in some trials only, by ``when`` or by ``or``."""
        searched = {parameter.key for parameter in self.parameters if parameter.distribution is not None}
        return any(
            branch.entry.kind != "fixed" and (branch.entry.has_also or searched & branch.when.keys())
            for branch in self.branches
        )

    @property
    def sha(self) -> str:
        """Digest of names, distributions, conditions and fixed values; the order of keys in the file is no matter."""
        lines = sorted(
            json.dumps(
                [
                    parameter.name,
                    parameter.key,
                    None if parameter.distribution is None else distribution_to_json(parameter.distribution),
                    {key: sorted(map(repr, values)) for key, values in sorted(parameter.when.items())},
                    None if parameter.fixed is ... else repr(parameter.fixed),
                    parameter.even,
                ],
                sort_keys=True,
            )
            for parameter in self.parameters
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    @property
    def num_trials(self) -> int:
        """Trials in all: the study's ``n_trials``, or the points of its grid."""
        return self.study.n_trials if self.study.n_trials is not None else len(self.grid())

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Dotted key -> value for an Optuna trial; fixed ones included."""
        distributions = {parameter.name: parameter.distribution for parameter in self.parameters}
        return self._walk(lambda branch: branch_value(branch, lambda name: _suggest(trial, name, distributions[name])))

    def values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same from the parameters of a trial that has been drawn. What was not drawn (yet) is left out."""
        return self._walk(lambda branch: branch_value(branch, lambda name: params.get(name, ABSENT)))

    def params_of(self, config: RunConfig) -> dict[str, Any]:
        """Optuna's parameters that give this config's values.

        Raises:
            Refused: for every value outside the space, with the nearest allowed one and how to widen it.
        """
        problems: list[Problem] = []
        found: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for branch in self.branches:
            if not self._holds(branch, values):
                continue
            value = lookup(config, branch.key)
            params = branch.params(value)
            if params is None:
                problems.append(_outside(branch, value))
            else:
                found |= params
            values[branch.key] = value
        if problems:
            raise Refused(problems, source="study")
        return found

    def first(self) -> list[dict[str, Any]]:
        """Optuna's parameters of the trials to begin with: the base config, then the study's ``first``.

        Raises:
            Refused: for every value outside the space.
        """
        found, problems = [], []
        for place, values in enumerate([{}, *self.study.first]):
            where = "base" if place == 0 else f"first.{place - 1}"
            unknown = [
                key for key in values if not any(b.key == key and b.entry.kind != "fixed" for b in self.branches)
            ]
            says = "is not searched"
            problems += [Problem(f"{where}: {k}", f"{says}; {nearest(k, self._searched)}", values[k]) for k in unknown]
            if unknown:
                continue
            try:
                found.append(self.params_of(self._filled(values)))
            except Refused as refused:
                problems += [Problem(f"{where}: {p.where}", p.says, p.value) for p in refused.problems]
        if problems:
            raise Refused(problems, source="study")
        return list({json.dumps(params, sort_keys=True): params for params in found}.values())

    def _filled(self, values: Mapping[str, Any]) -> RunConfig:
        """The base with these values, and with what the study fixes while they hold."""
        given = {**always_fixed(self.study), **values}
        config = trial_config(self.study, given)

        def choose(branch: Branch) -> Any:
            return branch.entry.fixed if branch.entry.kind == "fixed" else lookup(config, branch.key)

        drawn = self._walk(choose)
        fixed = {b.key: b.entry.fixed for b in self._active(drawn) if b.entry.kind == "fixed"}
        return trial_config(self.study, {**given, **fixed})

    def grid(self) -> list[dict[str, Any]]:
        """Optuna's parameters of every point, conditions followed.

        Raises:
            Refused: where a range has no step, or there are more than 100,000 points.
        """
        uncounted = [branch for branch in self.branches if branch.num_points() is None]
        if uncounted:
            says = "a grid needs a step, int: true, or choices"
            raise Refused([Problem(f"space.{branch.name}", says) for branch in uncounted], source="study")
        points = list(itertools.islice(self._combinations(Branch.points), MAX_GRID + 1))
        if len(points) > MAX_GRID:
            raise Refused(Problem("space", f"makes a grid of more than {MAX_GRID:,} points"), source="study")
        return [self._params(values) for values in points]

    def describe(self) -> list[str]:
        """Lines for the head of a study: what is searched, in which range, when, and as what."""
        rows = [(b.key, b.allowed(), f"when {_condition(b.when)}" if b.when else "", b.role) for b in self.branches]
        wide = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        return [
            "  ".join(
                part for part in (f"{key:<{wide[0]}}", f"{allowed:<{wide[1]}}", f"{when:<{wide[2]}}", role) if part
            )
            for key, allowed, when, role in rows
        ]

    def corners(self, base: RunConfig) -> list[dict[str, Any]]:
        """Dotted values of the space's edges: each sample alone against the base, then combinations of extremes."""
        singles = [
            values
            for branch in self.branches
            for sample in branch.samples()
            if (values := self._with(branch, sample, base)) is not None
        ]
        combinations = list(itertools.islice(self._combinations(Branch.extremes), MAX_CORNERS + 1))
        if len(combinations) > MAX_CORNERS:
            combinations = list(self._pairs(base))
        unique = {json.dumps(values, sort_keys=True): values for values in [*singles, *combinations]}
        return list(unique.values())

    def _pairs(self, base: RunConfig) -> Iterator[dict[str, Any]]:
        """Two extremes at a time against the base; of many, a sample that is the same in every process."""
        ends = [(branch, end) for branch in self.branches for end in branch.extremes() if branch.entry.kind != "fixed"]
        pairs = [pair for pair in itertools.combinations(ends, 2) if pair[0][0] is not pair[1][0]]
        if len(pairs) > MAX_CORNERS:
            pairs = random.Random(0).sample(pairs, MAX_CORNERS)
        for (one, low), (other, high) in pairs:
            values = self._with(one, low, base, {other.key: high} if one.key != other.key else {})
            if values is not None and _same(values.get(other.key, ABSENT), high):
                yield values

    def never(self, base: RunConfig) -> list[Branch]:
        """Branches whose conditions cannot hold together."""
        return [b for b in self.branches if b.entry.kind != "fixed" and self._with(b, b.extremes()[0], base) is None]

    def _with(
        self, branch: Branch, value: Any, base: RunConfig, wanted: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The base's values with one of a branch, and what its conditions ask; None where they cannot hold."""
        asked = dict(wanted or {})
        if not self._ask(branch, value, base, asked):
            return None

        def choose(branch: Branch) -> Any:
            for value in (asked.get(branch.key, ABSENT), lookup(base, branch.key)):
                if value is not ABSENT and branch.params(value) is not None:
                    return value
            return branch.middle()

        values = self._walk(choose)
        active = {id(b) for b in self._active(values)}
        return values if id(branch) in active and _same(values[branch.key], value) else None

    def _ask(self, branch: Branch, value: Any, base: RunConfig, asked: dict[str, Any]) -> bool:
        """Put into ``asked`` what must be drawn for a branch to count with this value."""
        if branch.key in asked and not _same(asked[branch.key], value):
            return False
        asked[branch.key] = value
        for key, allowed in branch.when.items():
            if key not in self._searched:
                continue
            if key in asked:
                if not _among(asked[key], allowed):
                    return False
                continue
            own = lookup(base, key)
            for wish in [own, *allowed] if _among(own, allowed) else allowed:
                tried = next((b for b in self.branches if b.key == key and b.params(wish) is not None), None)
                attempt = dict(asked)
                if tried is not None and self._ask(tried, wish, base, attempt):
                    asked.update(attempt)
                    break
            else:
                return False
        return True

    def _walk(self, choose: Callable[[Branch], Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for branch in self.branches:
            if self._holds(branch, values) and (value := choose(branch)) is not ABSENT:
                values[branch.key] = value
        return values

    def _holds(self, branch: Branch, values: Mapping[str, Any]) -> bool:
        return all(
            _among(values.get(key, ABSENT), allowed)
            for key, allowed in branch.when.items()
            if key in self._searched  # any other was found to hold in the base
        )

    def _active(self, values: Mapping[str, Any]) -> list[Branch]:
        return [branch for branch in self.branches if branch.key in values and self._holds(branch, values)]

    def _params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for branch in self._active(values):
            found |= branch.params(values[branch.key]) or {}
        return found

    def _combinations(self, options: Callable[[Branch], list[Any] | None]) -> Iterator[dict[str, Any]]:
        """Dotted values of every combination, conditions followed; the last branch changes fastest."""

        def below(place: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if place == len(self.branches):
                yield dict(values)
                return
            branch = self.branches[place]
            if not self._holds(branch, values):
                yield from below(place + 1, values)
                return
            for value in options(branch) or ():
                yield from below(place + 1, {**values, branch.key: value})

        yield from below(0, {})


def _suggest(trial: Any, name: str, distribution: BaseDistribution | None) -> Any:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


def branch_value(branch: Branch, ask: Callable[[str], Any]) -> Any:
    """The dotted key's value, where ``ask`` knows Optuna's parameters by name; ``ABSENT`` where it does not."""
    if branch.entry.kind == "fixed":
        return branch.entry.fixed
    if branch.entry.has_also:
        switch = ask(branch.switch)
        if switch is ABSENT or switch:
            return ABSENT if switch is ABSENT else branch.entry.also
    param = ask(branch.name)
    return ABSENT if param is ABSENT else branch.value(param)


def check_study(study: StudyConfig) -> list[Problem]:
    """Everything that can be refused without data and without a network: all of it at once."""
    try:
        base = base_config(study)
    except Refused as refused:
        return [Problem(f"base: {p.where}", p.says, p.value) for p in refused.problems]
    try:
        space = Space.from_study(study)
    except Refused as refused:
        return refused.problems
    found = [Problem(f"space.{b.name}", "its conditions never hold together") for b in space.never(base)]
    try:
        space.first()
    except Refused as refused:
        found += refused.problems
    return found + _corner_problems(study, space, base) + _search_problems(study, space, base)


def notes(study: StudyConfig) -> list[str]:
    """What is allowed, and yet worth knowing before a study."""
    found, sampler, pruner, total = [], study.sampler, study.chosen_pruner.name, study.n_trials or 0
    if pruner != "none" and sampler.name in ("gp", "cmaes") and not getattr(sampler, "consider_pruned_trials", False):
        found.append(f"{sampler.name} learns from finished trials only: what {pruner} ends early teaches it nothing")
    if pruner == "hyperband" and total < 100:
        found.append(f"hyperband splits {total} trials over its brackets; it is worth it from about 100")
    startup = getattr(sampler, "n_startup_trials", 0)
    if study.n_trials is not None and startup >= total:
        found.append(f"all {total} trials are drawn at random: {sampler.name} begins after {startup}")
    if any(name.startswith("train_eval/") for name in study.objective):
        found.append("an objective over training images rewards memory: it says what can be fitted, not what is learnt")
    return found


def corners(study: StudyConfig) -> list[dict[str, Any]]:
    """Dotted values of the space's edges: every sample of a parameter alone against the base, and every combination of
    extremes; where these are more than 256, pairs of them. Conditions are followed."""
    return Space.from_study(study).corners(base_config(study))


# --- what can be wrong ------------------------------------------------------------------------------------------------


def _outside(branch: Branch, value: Any) -> Problem:
    if value is ABSENT:
        return Problem(branch.key, f"the config has none; the space wants {branch.allowed()}")
    near = branch.nearest(value)
    hint = f"; the nearest is {near:g}" if near is not ... else ""
    if branch.entry.kind == "fixed":
        return Problem(branch.key, f"is {branch.allowed()} in the study", value)
    if branch.entry.kind == "choices":
        return Problem(branch.key, f"lies outside the space: {branch.allowed()}{hint}; add it to the choices", value)
    widen = "widen the range" if branch.entry.has_also else f"widen the range, or add `or: {_text(value)}`"
    return Problem(branch.key, f"lies outside the space: {branch.allowed()}{hint}; {widen}", value)


def _branches(study: StudyConfig) -> list[Branch]:
    found = []
    for key, entries in study.space.items():
        for entry in entries:
            name = f"{key}[{_condition(entry.conditions)}]" if len(entries) > 1 else key
            numbers = [end for end in (entry.low, entry.high, entry.step) if end is not None]
            implied = all(isinstance(end, int) for end in numbers) and _takes_only_whole(key)
            found.append(Branch(key, entry, name, whole=entry.kind == "range" and (entry.whole or implied)))
    return found


def _in_order(branches: Sequence[Branch]) -> tuple[list[Branch], list[str]]:
    """Branches behind what their conditions look at, else as they stand; and the keys of a circle, where there is one.

    What is drawn evenly comes first, so that workers who start together see each other's.
    """
    waiting = sorted(dict.fromkeys(branch.key for branch in branches), key=lambda key: _is_even(branches, key))
    needs = {key: {other for b in branches if b.key == key for other in b.when} & set(waiting) for key in waiting}
    placed: list[str] = []
    while waiting:
        ready = next((key for key in waiting if needs[key] <= set(placed)), None)
        if ready is None:
            circle = [waiting[0]]
            while (after := next(key for key in waiting if key in needs[circle[-1]])) not in circle:
                circle.append(after)
            return list(branches), circle[circle.index(after) :]
        placed.append(ready)
        waiting.remove(ready)
    return sorted(branches, key=lambda branch: placed.index(branch.key)), []


def _is_even(branches: Iterable[Branch], key: str) -> int:
    return 0 if any(branch.key == key and branch.entry.even for branch in branches) else 1


def _key_problems(study: StudyConfig, base: RunConfig, branches: Sequence[Branch]) -> list[Problem]:
    found: dict[str, Problem] = {}
    for branch in branches:
        key, where = branch.key, f"space.{branch.name}"
        reason = next((why for name, why in NOT_SEARCHED.items() if f"{key}.".startswith(f"{name}.")), None)
        owners = _owners(key)
        head, _, last = key.partition(".")
        if reason is not None:
            found[where] = Problem(where, f"is not searched: it {reason}")
        elif owners is None:
            known = [name for name in _known_keys(study, base) if name not in NOT_SEARCHED]
            found[where] = Problem(where, f"is not a key of the config; {nearest(key, known)}")
        elif owners and (names := _names(study, base, head, branch.when)) and not names <= owners:
            only = sorted(owners & names) or sorted(owners)
            means = f"exists only with {head}.name: {', '.join(only)}"
            says = f"{means}; add `when: {{{head}.name: [{', '.join(only)}]}}`"
            if not owners & names:
                says = f"{means}; here it is {', '.join(sorted(names))}"
            found[where] = Problem(where, says)
        elif not last and _section_of(key) and branch.entry.kind != "fixed":
            found[where] = Problem(where, f"is a section: search a key of it, {key}.KEY")
        elif branch.entry.kind == "range" and not branch.whole and _takes_only_whole(key):
            says = "takes whole numbers: low, high and step want to be such"
            found[where] = Problem(where, says, [branch.entry.low, branch.entry.high])
    evens = [branch.key for branch in branches if branch.entry.even]
    if len(evens) > 1:
        found["even"] = Problem(f"space.{evens[1]}", f"one key is drawn evenly, here already {evens[0]}")
    return list(found.values())


def _owners(key: str) -> set[str] | None:
    """Names of the section that have this key; empty where the section has no names; None where no one has it."""
    head, dot, last = key.partition(".")
    if head in CHOICES and dot:
        return {n for member in CHOICES[head][0] if last in member.model_fields for n in names_of(member)} or None
    field = RunConfig.model_fields.get(head)
    if field is None:
        return None
    section = _section_of(head)
    return set() if not dot or (section is not None and last in section.model_fields) else None


def _section_of(head: str) -> type[Section] | None:
    if head in CHOICES:
        return CHOICES[head][0][0]
    field = RunConfig.model_fields.get(head)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _names(study: StudyConfig, base: RunConfig, head: str, when: Mapping[str, tuple[Any, ...]]) -> set[str]:
    """The names that a section can have while the conditions hold."""
    key = f"{head}.name"
    own = lookup(base, key)
    entries = study.space.get(key, ())
    names = {value for entry in entries for value in ([entry.fixed] if entry.kind == "fixed" else entry.choices or ())}
    if not entries or any(entry.when for entry in entries):
        names.add(CHOICES[head][1] if own is ABSENT else own)
    return {name for name in names if isinstance(name, str) and (key not in when or _among(name, when[key]))}


def _known_keys(study: StudyConfig, base: RunConfig) -> list[str]:
    found = []
    for head in RunConfig.model_fields:
        if head in CHOICES:
            names = _names(study, base, head, {})
            members = [member for member in CHOICES[head][0] if names & set(names_of(member))]
            found += [f"{head}.{key}" for member in members for key in member.model_fields]
        elif section := _section_of(head):
            found += [f"{head}.{key}" for key in section.model_fields]
    return list(dict.fromkeys(found))


def _takes_only_whole(key: str) -> bool:
    """Whether the config's key takes whole numbers and no others."""
    head, dot, last = key.partition(".")
    sections = CHOICES[head][0] if head in CHOICES else [_section_of(head)] if dot else [RunConfig]
    fields = [
        section.model_fields[last or head] for section in sections if section and (last or head) in section.model_fields
    ]
    kinds = {kind for field in fields for kind in _kinds(field.annotation)}
    return int in kinds and float not in kinds


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (tuple, list, dict):  # numbers inside a list are not the key's own
        return set()
    inner = get_args(annotation)
    return {kind for part in inner for kind in _kinds(part)} if inner else {annotation}


def _condition_problems(base: RunConfig, branches: Sequence[Branch]) -> list[Problem]:
    found = []
    searched = {branch.key for branch in branches}
    for branch in branches:
        for key, allowed in branch.when.items():
            where = f"space.{branch.name}"
            own = lookup(base, key)
            if key == branch.key:
                found.append(Problem(where, "is its own condition"))
            elif key not in searched and own is ABSENT:
                found.append(
                    Problem(where, f"when {key}: is neither searched nor in the base; {nearest(key, searched)}")
                )
            elif key not in searched and not _among(own, allowed):
                found.append(Problem(where, f"when {key} is {_either(allowed)}: never, it is {_text(own)} in the base"))
            elif key in searched:
                others = [b for b in branches if b.key == key]
                for value in allowed:
                    if all(b.params(value) is None or _unlikely(b, value) for b in others):
                        ranges = "; ".join(b.allowed() for b in others)
                        found.append(Problem(where, f"when {key} is {_text(value)}: never drawn, it is {ranges}"))
    for key in searched:
        mine = [branch for branch in branches if branch.key == key]
        for one, other in itertools.combinations(mine, 2):
            if not any(
                name in other.when and not any(_among(value, other.when[name]) for value in values)
                for name, values in one.when.items()
            ):
                says = f"has two entries that can count at once: when {_condition(one.when) or 'always'}, and when "
                found.append(Problem(f"space.{key}", f"{says}{_condition(other.when) or 'always'}"))
    return found


def _unlikely(branch: Branch, value: Any) -> bool:
    """A single number out of a range without a step is drawn with probability 0."""
    return branch.num_points() is None and not (branch.entry.has_also and _same(branch.entry.also, value))


def _corner_problems(study: StudyConfig, space: Space, base: RunConfig) -> list[Problem]:
    """What the config says to the edges of the space, each complaint once, at the plainest edge that raises it."""
    found: dict[tuple[str, str], Problem] = {}
    for values in space.corners(base):
        for problem in _complaints(study, values):
            place = (problem.where, problem.says)
            if place in found:
                continue
            changed = {k: v for k, v in values.items() if not _same(v, lookup(base, k))}
            for key in list(changed):
                fewer = {other: value for other, value in changed.items() if other != key}
                if place in {(p.where, p.says) for p in _complaints(study, fewer)}:
                    changed = fewer
            key = problem.where if problem.where in values else next(iter(changed), problem.where)
            corner = ", ".join(f"{name} = {_text(value)}" for name, value in changed.items())
            own = problem.says if problem.where == key and len(changed) <= 1 else str(problem)
            found[place] = Problem(f"space.{key}", f"the config refuses {corner}: {own}")
    return list(found.values())


def _complaints(study: StudyConfig, values: Mapping[str, Any]) -> list[Problem]:
    try:
        trial_config(study, values)
    except Refused as refused:
        return refused.problems
    return []


def _search_problems(study: StudyConfig, space: Space, base: RunConfig) -> list[Problem]:
    """What sampler, pruner and number of trials make of this space."""
    found: list[Problem] = []
    sampler = study.sampler.name
    searched = [branch for branch in space.branches if branch.entry.kind != "fixed"]
    if not searched:
        return [Problem("space", "fixes everything: nothing is left to search")]
    choices = [branch.name for branch in searched if branch.entry.kind == "choices"]
    varying = [b.name for b in searched if b.entry.has_also or set(b.when) & {other.key for other in searched}]
    if sampler == "cmaes" and choices:
        says = f"moves in ranges; {', '.join(choices)} would be drawn at random: take tpe, or fix them"
        found.append(Problem("sampler.name", says, sampler))
    if sampler in ("cmaes", "gp", "qmc") and varying:
        says = f"knows neither `when` nor `or`; {', '.join(varying)} would be drawn at random: take tpe"
        found.append(Problem("sampler.name", says, sampler))
    if sampler == "cmaes" and len(searched) == 1:
        found.append(Problem("sampler.name", "needs two ranges or more: with one it draws at random", sampler))
    even = next((branch for branch in searched if branch.entry.even), None)
    if even is not None and sampler == "grid":
        found.append(Problem(f"space.{even.key}", "even is for samplers that draw: a grid holds every point once"))
    elif even is not None and study.n_trials is not None and study.n_trials % len(even.entry.choices or ()):
        count = len(even.entry.choices or ())
        near = [count * (study.n_trials // count), count * (study.n_trials // count + 1)]
        says = (
            f"must be a multiple of the {count} choices of {even.key}, drawn evenly: {near[0] or near[1]} or {near[1]}"
        )
        found.append(Problem("n_trials", says, study.n_trials))
    if sampler == "grid":
        try:
            points = len(space.grid())
            if study.n_trials is not None and study.n_trials != points:
                says = f"must be the grid's {points:,} points; leave it out"
                found.append(Problem("n_trials", says, study.n_trials))
        except Refused as refused:
            found += refused.problems
    elif study.n_trials is not None and study.n_trials < 1 + len(study.first):
        found.append(Problem("n_trials", f"is less than the base and the {len(study.first)} of first", study.n_trials))
    each = study.confirm.of_each
    if each is not None and not any(b.key == each and b.entry.kind == "choices" for b in searched):
        listed = [b.key for b in searched if b.entry.kind == "choices"]
        says = (
            f"wants a key searched by choices; {nearest(each, listed)}" if listed else "no key is searched by choices"
        )
        found.append(Problem("confirm.of_each", says, each))
    length = [key for key in ("train.epochs", "train.steps") if any(branch.key == key for branch in searched)]
    prunes = study.chosen_pruner.name != "none"
    if length and prunes:
        says = "is searched, and a pruner compares trials at the same validation: set pruner: {name: none}"
        found.append(Problem(f"space.{length[0]}", says))
    if study.pruner is not None and prunes and base.train.unit == "epochs" and not length:
        validations = base.train.length // (base.train.val_every or 1)
        if validations < 2:
            says = "has nothing to cut: a training of the base is validated once"
            found.append(Problem("pruner", says, study.pruner.name))
    return found


# --- small things -----------------------------------------------------------------------------------------------------


def _storable(value: Any) -> Any:
    """Optuna's storage holds plain values; a list stands there as its text."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _same(one: Any, other: Any) -> bool:
    """Equal, where true is not 1; lists and tuples alike."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _among(value: Any, allowed: Iterable[Any]) -> bool:
    return any(_same(value, other) for other in allowed)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return (
        f"{value:g}"
        if isinstance(value, float)
        else json.dumps(value)
        if isinstance(value, list | dict)
        else str(value)
    )


def _either(values: Iterable[Any]) -> str:
    return "|".join(map(_text, values))


def _condition(when: Mapping[str, tuple[Any, ...]]) -> str:
    return ",".join(f"{key}={_either(values)}" for key, values in when.items())
