"""Which runs are compared, or why not: named ones, those that fit a filter, or the trials of a study."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from litmus.config import RunConfig, deciding, load_config
from litmus.config.vary import split_values
from litmus.errors import Problem, Refused, nearest
from litmus.tracking import StoredRun, find_run, list_runs

CONFIG, RESULT, FINGERPRINT = "config.yaml", "result.json", "fingerprint.json"
"""Artifacts of a training that came to its end; the last is worth knowing, but not needed."""
CURVES = ("val/err", "val/loss", "train/loss")
"""Metrics whose whole history is read."""

_CONDITION = re.compile(r"\s*([^\s=!<>]+)\s*(==|!=|<=|>=|=|<|>)\s*(\S.*?)\s*")
_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_EVERY_RUN = 1_000_000


@dataclass(frozen=True)
class Training:
    """A finished run: what decided it, and what it came to.

    Args:
        values: dotted config key -> plain value, of all that decides the numbers but the seed.
        result: ``result.json``.
        world: what else decides, from the fingerprint: code, packages, threads, ...; empty where the run has none.
        curves: metric -> (optimizer step, value), by step, of ``CURVES``.
    """

    run: StoredRun
    config: RunConfig
    values: Mapping[str, Any]
    seed: int
    result: Mapping[str, Any]
    world: Mapping[str, str]
    curves: Mapping[str, list[tuple[int, float]]]

    @property
    def steps(self) -> int:
        """Optimizer steps that were trained; 0 where no curve was kept."""
        return max((points[-1][0] for points in self.curves.values() if points), default=0)

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        """What its training length was counted in."""
        return self.config.train.unit

    @property
    def val_err(self) -> float:
        return float(self.result["val"]["err"])

    @property
    def test_err(self) -> float | None:
        """None for a run that was not tested: a study's trial."""
        return float(self.result["test"]["err"]) if "test" in self.result else None

    @property
    def data(self) -> str:
        """Digest over every pixel and label."""
        return self.world.get("data") or self.run.tags.get("litmus.data_digest", "")

    @property
    def splits(self) -> str:
        """Digest over which image is in which split."""
        return self.world.get("splits") or self.run.tags.get("litmus.split_digest", "")


@dataclass(frozen=True)
class Condition:
    """One ``--where``: a key of the config, a metric or a word of the record, held against a value."""

    text: str
    key: str
    op: str
    values: tuple[Any, ...]

    def holds(self, facts: Mapping[str, str]) -> bool:
        """A run that has no such key does not fit, whatever the comparison."""
        if self.key not in facts:
            return False
        found = value_of(facts[self.key])
        if self.op in _NUMBERS:
            return _is_number(found) and _NUMBERS[self.op](found, self.values[0])
        return any(_same(found, value) for value in self.values) == (self.op == "=")


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """``KEY=VALUE[,VALUE...]``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``; all must hold.

    Raises:
        Refused: with every text that cannot be read.
    """
    found, problems = [], []
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            says = "reads KEY=VALUE, KEY!=VALUE, KEY<NUMBER, KEY<=NUMBER, KEY>NUMBER or KEY>=NUMBER"
            problems.append(Problem("--where", says, text))
            continue
        key, op, right = match.groups()
        op = "=" if op == "==" else op
        parts = [right] if op in _NUMBERS else split_values(right)
        values = tuple(value_of(part.strip("'\"") if part[:1] in "'\"" else part) for part in parts)
        if op in _NUMBERS and not _is_number(values[0]):
            problems.append(Problem("--where", f"{op} wants a number after it", text))
        else:
            found.append(Condition(text, key, op, values))
    if problems:
        raise Refused(problems, source="command")
    return found


def facts_of(run: StoredRun) -> dict[str, str]:
    """What a condition can ask for: config keys, metrics (their last values) and words of the record."""
    return {
        **run.params,
        **{name: repr(value) for name, value in run.metrics.items()},
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "study": run.tags.get("litmus.study", ""),
        "verdict": run.tags.get("litmus.verdict", ""),
    }


def named_runs(references: Sequence[str], *, home: str, uri: str | None) -> tuple[list[StoredRun], list[Problem]]:
    """The runs that were named, in that order, and what is wrong with the names."""
    found: list[StoredRun] = []
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for reference in references:
        try:
            run = find_run(reference, home=home, uri=uri)
        except Refused as refused:
            problems += refused.problems
            continue
        known = run.uid or run.id or ""
        if known in first:
            problems.append(Problem("run", f"is the same run as {first[known]!r}", reference))
        else:
            first[known] = reference
            found.append(run)
    if len(references) < 2:
        problems.append(Problem("run", "a comparison takes two runs or more, or --where, or --study", list(references)))
    return found, problems


def chosen_runs(
    conditions: Sequence[Condition], study: str | None, *, home: str, uri: str | None
) -> tuple[list[StoredRun], list[Problem], list[str]]:
    """The finished trainings that fit, the oldest first; what is wrong with the question; what was left out.

    Without a condition on ``kind`` these are runs of ``litmus fit``, with ``study`` the trials of its search.
    """
    runs = list_runs(home=home, uri=uri, limit=_EVERY_RUN)[::-1]
    if study is not None:
        names = {run.tags.get("litmus.study", "") for run in runs} - {""}
        if study not in names:
            says = f"no such study; {nearest(study, names)}" if names else f"there is no study in {home}"
            return [], [Problem("--study", says, study)], []
        runs = [run for run in runs if run.tags.get("litmus.study") == study]
    kind = "trial" if study is not None else "train"
    if not any(condition.key == "kind" for condition in conditions):
        runs = [run for run in runs if run.kind == kind]
    if not runs:
        return [], [Problem("--where" if study is None else "--study", f"there is no run of kind {kind} in {home}")], []
    facts = [facts_of(run) for run in runs]
    known = {key for one in facts for key in one}
    problems = [
        Problem("--where", f"no run has {condition.key}; {nearest(condition.key, known)}", condition.text)
        for condition in conditions
        if condition.key not in known
    ]
    if problems:
        return [], problems, []
    fits = [run for run, one in zip(runs, facts, strict=True) if all(condition.holds(one) for condition in conditions)]
    if not fits:
        return [], list(_why_none(conditions, facts)), []
    finished = [run for run in fits if run.status == "FINISHED" and RESULT in run.artifacts()]
    left = len(fits) - len(finished)
    notes = [f"{left} of the {len(fits)} runs that fit came to no result and are left out"] if left else []
    if len(finished) < 2:
        what = f"{len(fits)} fit, {len(finished)} of them finished: a comparison takes two runs or more"
        return [], [Problem("--where" if conditions else "--study", what)], []
    return finished, [], notes


def read_trainings(runs: Iterable[StoredRun]) -> tuple[list[Training], list[Problem]]:
    """What the runs were made of and came to; a problem for each that did not finish or cannot be read."""
    found, problems = [], []
    for run in runs:
        named = f"{run.id8} ({run.name})"
        if run.status != "FINISHED":
            problems.append(Problem("run", f"is {run.status}: only what came to its end is compared", named))
            continue
        try:
            kept = run.artifacts()
            if missing := [name for name in (CONFIG, RESULT) if name not in kept]:
                says = f"has no {' and no '.join(missing)}: it is of kind {run.kind or 'unknown'}, not a training"
                problems.append(Problem("run", says, named))
                continue
            config = load_config([run.artifact(CONFIG)])
            result = json.loads(run.artifact(RESULT).read_text())
            world = json.loads(run.artifact(FINGERPRINT).read_text())["decides"] if FINGERPRINT in kept else {}
        except Refused as refused:
            problems += refused.problems
            continue
        except (ValueError, KeyError, TypeError) as error:
            problems.append(Problem("run", f"its record cannot be read: {type(error).__name__}: {error}", named))
            continue
        values = {key: value for key, value in deciding(config).items() if key != "seed"}
        curves = {metric: run.history(metric) for metric in CURVES}
        found.append(Training(run, config, values, config.seed, result, world, curves))
    return found, problems


def data_problems(trainings: Sequence[Training]) -> list[Problem]:
    """Runs on different data sets or classes, one sentence for each data set."""

    def task(one: Training) -> str:
        data = one.config.data
        words = [data.name, *(str(getattr(data, key, "")) for key in ("path", "num_classes"))]
        return " ".join(filter(None, [*words, f"classes {list(data.classes)}" if data.classes else ""]))

    groups: dict[tuple[str, str], list[str]] = {}
    for one in trainings:
        groups.setdefault((task(one), one.data), []).append(one.run.id8)
    tasks: dict[str, list[str]] = {}
    for (name, _), ids in groups.items():
        tasks.setdefault(name, []).extend(ids)
    if len(tasks) < 2 or len({digest for _, digest in groups}) == 1:
        return []
    return [
        Problem("run", f"{len(ids)} on {name} ({', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''})")
        for name, ids in tasks.items()
    ] + [Problem("run", "errors on different images or classes say nothing of each other; --allow-different to go on")]


def value_of(text: str) -> Any:
    """A value as it is recorded or typed: ``0.1``, ``true``, ``null``, ``[1, 2]``, ``adam``."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _why_none(conditions: Sequence[Condition], facts: Sequence[Mapping[str, str]]) -> Iterable[Problem]:
    alone = [condition for condition in conditions if not any(condition.holds(one) for one in facts)]
    for condition in alone:
        values = Counter(one[condition.key] for one in facts if condition.key in one)
        shown = ", ".join(f"{value} ({count})" for value, count in values.most_common(6))
        more = f" and {len(values) - 6} more" if len(values) > 6 else ""
        yield Problem("--where", f"fits none of {len(facts)} runs; {condition.key} is {shown}{more}", condition.text)
    if not alone:
        texts = " and ".join(condition.text for condition in conditions)
        yield Problem("--where", f"each fits some of {len(facts)} runs, together they fit none", texts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, two: Any) -> bool:
    return isinstance(one, bool) == isinstance(two, bool) and one == two
