"""From dotted keys to Optuna's parameters and back, and what of a study can be refused before anything is trained."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from litmus.config.keys import (
    NOT_SEARCHED,
    known_keys,
    names_while,
    owners,
    section_of,
    takes_only_whole,
)
from litmus.config.schema import CHOICES, RunConfig
from litmus.config.study import (
    ABSENT,
    StudyConfig,
    always_fixed,
    among,
    base_config,
    lookup,
    same,
    trial_config,
)
from litmus.errors import Problem, Refused, nearest
from litmus.study.branch import Branch, Parameter, condition_text, either, text_of

__all__ = ["Branch", "Parameter", "Space", "check_study", "corners", "notes"]

MAX_GRID = 100_000
MAX_CORNERS = 256
MAX_NAME = 512  # Optuna's column; sqlite would take more, PostgreSQL fails at the first trial


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
        return self._walk(lambda branch: branch.drawn(lambda name: _suggest(trial, name, distributions[name])))

    def values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same from the parameters of a trial that has been drawn. What was not drawn (yet) is left out."""
        return self._walk(lambda branch: branch.drawn(lambda name: params.get(name, ABSENT)))

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
        rows = [(b.key, b.allowed(), f"when {condition_text(b.when)}" if b.when else "", b.role) for b in self.branches]
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
            if values is not None and same(values.get(other.key, ABSENT), high):
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
        return values if id(branch) in active and same(values[branch.key], value) else None

    def _ask(self, branch: Branch, value: Any, base: RunConfig, asked: dict[str, Any]) -> bool:
        """Put into ``asked`` what must be drawn for a branch to count with this value."""
        if branch.key in asked and not same(asked[branch.key], value):
            return False
        asked[branch.key] = value
        for key, allowed in branch.when.items():
            if key not in self._searched:
                continue
            if key in asked:
                if not among(asked[key], allowed):
                    return False
                continue
            own = lookup(base, key)
            for wish in [own, *allowed] if among(own, allowed) else allowed:
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
            among(values.get(key, ABSENT), allowed)
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


def check_study(study: StudyConfig) -> list[Problem]:
    """Everything that can be refused without data and without a network: all of it at once."""
    try:
        base = base_config(study)
    except Refused as refused:
        return [Problem(f"base: {p.where}", p.says, p.value) for p in refused.problems]
    try:
        space = Space.from_study(study)
    except Refused as refused:
        told = {problem.where for problem in refused.problems}
        sound = [b for b in _branches(study) if not b.when and f"space.{b.name}" not in told]
        return refused.problems + _corner_problems(study, Space(sound, study), base)
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
    widen = "widen the range" if branch.entry.has_also else f"widen the range, or add `or: {text_of(value)}`"
    return Problem(branch.key, f"lies outside the space: {branch.allowed()}{hint}; {widen}", value)


def _branches(study: StudyConfig) -> list[Branch]:
    found = []
    for key, entries in study.space.items():
        for entry in entries:
            name = f"{key}[{condition_text(entry.conditions)}]" if len(entries) > 1 else key
            numbers = [end for end in (entry.low, entry.high, entry.step) if end is not None]
            implied = all(isinstance(end, int) for end in numbers) and takes_only_whole(key)
            found.append(Branch(key, entry, name, whole=entry.kind == "range" and (entry.whole or implied)))
    return found


def _in_order(branches: Sequence[Branch]) -> tuple[list[Branch], list[str]]:
    """Branches behind what their conditions look at, else as they stand; and the keys of a circle, where there is one.

    What is drawn evenly comes first, so that workers who start together see each other's.
    """
    waiting = sorted(dict.fromkeys(branch.key for branch in branches), key=lambda key: _is_even(branches, key))
    needs = {
        key: {other for b in branches if b.key == key for other in b.when} & set(waiting) - {key} for key in waiting
    }
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
        having = owners(key)
        head, _, last = key.partition(".")
        if reason is not None:
            found[where] = Problem(where, f"is not searched: it {reason}")
        elif having is None:
            known = [name for name in known_keys(study, base) if name not in NOT_SEARCHED]
            found[where] = Problem(where, f"is not a key of the config; {nearest(key, known)}")
        elif last == "name" and head in CHOICES and (unknown := _unknown_names(branch, having)):
            found[where] = Problem(where, f"{unknown[0]!r} is not known; {nearest(unknown[0], having)}")
        elif having and (names := names_while(study, base, head, branch.when)) and not names <= having:
            only = sorted(having & names) or sorted(having)
            means = f"exists only with {head}.name: {', '.join(only)}"
            says = f"{means}; add `when: {{{head}.name: [{', '.join(only)}]}}`"
            if not having & names:
                says = f"{means}; here it is {', '.join(sorted(names))}"
            found[where] = Problem(where, says)
        elif not last and section_of(key) and branch.entry.kind != "fixed":
            found[where] = Problem(where, f"is a section: search a key of it, {key}.KEY")
        elif branch.entry.kind == "range" and not branch.whole and takes_only_whole(key):
            says = "takes whole numbers: low, high and step want to be such"
            found[where] = Problem(where, says, [branch.entry.low, branch.entry.high])
        elif any(len(parameter.name) > MAX_NAME for parameter in branch.parameters()):
            says = f"its condition or choice makes a name of more than {MAX_NAME} characters, which storage cannot keep"
            found[where] = Problem(where[:80], says)
    evens = [branch.key for branch in branches if branch.entry.even]
    if len(evens) > 1:
        found["even"] = Problem(f"space.{evens[1]}", f"one key is drawn evenly, here already {evens[0]}")
    return list(found.values())


def _unknown_names(branch: Branch, known: Iterable[str]) -> list[str]:
    values = [branch.entry.fixed] if branch.entry.kind == "fixed" else branch.entry.choices or ()
    return [str(value) for value in values if value not in known]


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
            elif key not in searched and not among(own, allowed):
                found.append(
                    Problem(where, f"when {key} is {either(allowed)}: never, it is {text_of(own)} in the base")
                )
            elif key in searched:
                others = [b for b in branches if b.key == key]
                for value in allowed:
                    if all(b.params(value) is None or _unlikely(b, value) for b in others):
                        ranges = "; ".join(b.allowed() for b in others)
                        found.append(Problem(where, f"when {key} is {text_of(value)}: never drawn, it is {ranges}"))
    for key in searched:
        mine = [branch for branch in branches if branch.key == key]
        for one, other in itertools.combinations(mine, 2):
            if not any(
                name in other.when and not any(among(value, other.when[name]) for value in values)
                for name, values in one.when.items()
            ):
                says = f"has two entries that can count at once: when {condition_text(one.when) or 'always'}, and when "
                found.append(Problem(f"space.{key}", f"{says}{condition_text(other.when) or 'always'}"))
    return found


def _unlikely(branch: Branch, value: Any) -> bool:
    """A single number out of a range without a step is drawn with probability 0."""
    return branch.num_points() is None and not (branch.entry.has_also and same(branch.entry.also, value))


def _corner_problems(study: StudyConfig, space: Space, base: RunConfig) -> list[Problem]:
    """What the config says to the edges of the space, each complaint once, at the plainest edge that raises it."""
    found: dict[tuple[str, str], Problem] = {}
    for values in space.corners(base):
        for problem in _complaints(study, values):
            place = (problem.where, problem.says)
            if place in found:
                continue
            changed = {k: v for k, v in values.items() if not same(v, lookup(base, k))}
            for key in list(changed):
                fewer = {other: value for other, value in changed.items() if other != key}
                if place in {(p.where, p.says) for p in _complaints(study, fewer)}:
                    changed = fewer
            key = problem.where if problem.where in values else next(iter(changed), problem.where)
            corner = ", ".join(f"{name} = {text_of(value)}" for name, value in changed.items())
            whole = f"{problem.where}: {problem.says}" if isinstance(problem.value, dict) else str(problem)
            own = problem.says if problem.where == key and len(changed) <= 1 else whole
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
