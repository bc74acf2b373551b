"""What a study is: the space of configs that is searched, by what, for how long, and what is believed in the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from litmus.config import load
from litmus.config.explain import Root, explain
from litmus.config.schema import METRICS, RunConfig, Section, as_tuple, leaves, names_of, one_of
from litmus.errors import Problem, Refused, nearest, refuse

OBJECTIVES: dict[str, Literal["min", "max"]] = {
    **{name: way for name, way in METRICS.items() if not name.startswith("train/")},
    "time/train_sec": "min",
    "model/num_params": "min",
}
"""What a study may seek, and which way is better. Errors are rates in [0, 1]."""

ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "nothing", "__bool__": lambda _: False})()
"""Where a config has no such key: another optimizer's ``momentum``."""


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _finite(inner)
    return value


def _number(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"wants a number, found {'true/false' if isinstance(value, bool) else type(value).__name__}")
    return _finite(value)


def _objectives(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _objective(name: str) -> str:
    if name.startswith("test/"):
        raise ValueError("the test set decides nothing: what it chose it can no longer judge; val/err, val/loss")
    if name in METRICS and name not in OBJECTIVES:
        raise ValueError(
            "is measured while the weights change, under augmentation and dropout: a regularised trial would lose by "
            "its regularisation; train_eval/err and train_eval/loss see the training images as validation does"
        )
    if name not in OBJECTIVES:
        raise ValueError(f"is not an objective; {nearest(name, OBJECTIVES)}; all: {', '.join(OBJECTIVES)}")
    return name


Number = Annotated[Any, AfterValidator(_number)]
Value = Annotated[Any, AfterValidator(_finite)]
Text = Annotated[str, Field(min_length=1)]


# --- the space --------------------------------------------------------------------------------------------------------


class ParameterConfig(Section):
    """One entry of the space: a range (``low`` and ``high``), ``choices``, or one value that is ``fixed``."""

    low: Number = None
    high: Number = None
    log: bool = False
    """Draw evenly in the logarithm: for what works by factors, as rates and lambdas do."""
    step: Number = None
    """Only ``low``, ``low + step``, ... up to ``high``."""
    whole: bool = Field(False, alias="int")
    """Whole numbers only; implied where the config's key takes nothing else."""
    also: Value = Field(None, alias="or")
    """One more value outside the range, often 0 with ``log``; a switch of its own decides between the two."""
    choices: Annotated[tuple[Value, ...], BeforeValidator(as_tuple)] | None = None
    even: bool = False
    """Give every choice the same number of trials, whatever the sampler thinks of it: for a fair comparison."""
    fixed: Value = None
    """Stated and not searched; stands over the base's value."""
    when: dict[str, Value] = Field(default_factory=dict)
    """Dotted key -> the value, or the list of values, of it with which this entry counts."""
    role: Literal["scientific", "nuisance", "fixed"] | None = None
    """``scientific``: what the study is about; ``nuisance``: tuned so that the comparison is fair; ``fixed``: neither.
    Default: nuisance for ``optim.lr`` and everything under ``when``, else scientific."""

    @property
    def kind(self) -> Literal["range", "choices", "fixed"]:
        return "fixed" if "fixed" in self.model_fields_set else "range" if self.choices is None else "choices"

    @property
    def has_also(self) -> bool:
        return "also" in self.model_fields_set

    @property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """``when`` with a tuple of values for every key."""
        return {key: tuple(v) if isinstance(v, list | tuple) else (v,) for key, v in self.when.items()}

    @model_validator(mode="after")
    def _makes_sense(self) -> ParameterConfig:
        if problems := _entry_problems(self):
            raise ValueError("; ".join(problems))
        return self


def _entry_problems(entry: ParameterConfig) -> list[str]:
    """What is wrong with an entry by itself."""
    given, found = entry.model_fields_set, []
    ways = [way for way in ("range", "choices", "fixed") if given & ({"low", "high"} if way == "range" else {way})]
    if not ways or (ways == ["range"] and None in (entry.low, entry.high)):
        return ["wants low and high, or choices, or fixed"]
    if len(ways) > 1:
        return [f"is {' and '.join(ways)} at once: keep one"]
    alien = {
        "range": {"even": "choices"},
        "choices": {"log": "a range", "step": "a range", "whole": "a range", "also": "a range"},
        "fixed": {"log": "a range", "step": "a range", "whole": "a range", "also": "a range", "even": "choices"},
    }[ways[0]]
    found += [f"{_alias(key)} is for {owner}" for key, owner in alien.items() if key in given]
    if (entry.role == "fixed") != (ways == ["fixed"]) and entry.role is not None:
        found.append(f"role {entry.role} {'needs fixed: VALUE' if entry.role == 'fixed' else 'is not that of fixed'}")
    if entry.even and entry.when:
        found.append("even counts all trials: it goes without when")
    found += [f"when {key}: needs at least one value" for key, values in entry.conditions.items() if not values]
    if ways == ["choices"]:
        return found + _choices_problems(entry)
    return found + (_range_problems(entry) if ways == ["range"] else [])


def _choices_problems(entry: ParameterConfig) -> list[str]:
    choices = list(entry.choices or ())
    if not choices:
        return ["choices is empty"]
    repeated = [value for place, value in enumerate(choices) if value in choices[:place]]
    if repeated:
        return [f"choices has {repeated[0]!r} twice"]
    if len(choices) == 1:
        return [f"one choice is no search: {{fixed: {choices[0]}}}"]
    return []


def _range_problems(entry: ParameterConfig) -> list[str]:
    low, high, step, found = entry.low, entry.high, entry.step, []
    if low > high:
        found.append(f"low {low} > high {high}")
    elif low == high:
        found.append(f"low and high are both {low}: no search; {{fixed: {low}}}")
    if entry.log and low <= 0:
        found.append(f"log wants low > 0, found {low}" + ("; `or: 0` adds the zero" if low == 0 < high else ""))
    if entry.log and step is not None:
        found.append("log and step exclude each other")
    if step is not None and step <= 0:
        found.append(f"step must be > 0, found {step}")
    elif step is not None and low < high and not entry.log:
        steps = (_decimal(high) - _decimal(low)) / _decimal(step)
        if steps < 1:
            found.append(f"step {step} is wider than the range")
        elif steps != int(steps):
            last = float(_decimal(low) + int(steps) * _decimal(step))
            found.append(f"high {high} is not low + k x step; the last that is: {last:g}")
    if entry.whole:
        found += [
            f"int wants whole numbers, {name} is {value}"
            for name, value in (("low", low), ("high", high), ("step", step))
            if value is not None and value != int(value)
        ]
    if entry.has_also and is_number(entry.also) and low <= entry.also <= high:
        found.append(f"or: {entry.also} lies inside the range")
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))


def _alias(key: str) -> str:
    return ParameterConfig.model_fields[key].alias or key


def _entries(value: Any) -> Any:
    """One entry, or a list of entries apart by ``when``."""
    if not isinstance(value, dict | list | tuple | ParameterConfig):
        raise ValueError("wants a range {low: ..., high: ...}, {choices: [...]} or {fixed: ...}")
    return (value,) if isinstance(value, dict | ParameterConfig) else as_tuple(value)


Entries = Annotated[tuple[ParameterConfig, ...], BeforeValidator(_entries), Field(min_length=1)]


# --- samplers and pruners ---------------------------------------------------------------------------------------------


class SamplerSection(Section):
    """What proposes the next config."""


class TPEConfig(SamplerSection):
    """Tree-structured Parzen estimator: two densities, of the good and of the rest (Bergstra et al. 2011)."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(10, ge=0)
    """Trials drawn at random before it models."""
    n_ei_candidates: int = Field(24, ge=1)
    multivariate: bool | None = None
    """Model parameters jointly; default: with one objective, or where the space has conditions."""
    group: bool | None = None
    """A joint model for every branch of the space; default: where the space has conditions."""
    constant_liar: bool = True
    """Count trials that still run as bad, so that several workers do not propose the same."""


class GPConfig(SamplerSection):
    """Gaussian process; learns from finished trials only, and knows no conditions."""

    name: Literal["gp"] = "gp"
    n_startup_trials: int = Field(10, ge=1)
    deterministic_objective: bool = False


class CMAESConfig(SamplerSection):
    """Covariance matrix adaptation (Hansen 2016); for ranges alone, two or more."""

    name: Literal["cmaes"] = "cmaes"
    n_startup_trials: int = Field(1, ge=0)
    popsize: int | None = Field(None, ge=4)
    consider_pruned_trials: bool = False
    use_separable_cma: bool = False
    with_margin: bool = False
    lr_adapt: bool = False


class QMCConfig(SamplerSection):
    """A quasi-random sequence: covers the space more evenly than chance."""

    name: Literal["qmc"] = "qmc"
    qmc_type: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True
    """Randomised by the study's seed; the plain sequence starts in the corner of the lowest values."""


class RandomConfig(SamplerSection):
    name: Literal["random"] = "random"


class GridConfig(SamplerSection):
    """Every point once; ranges of real numbers need a ``step``."""

    name: Literal["grid"] = "grid"


class NSGA2Config(SamplerSection):
    """A genetic algorithm for several objectives (Deb et al. 2002)."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int | None = Field(None, ge=2)
    """Default: a fifth of ``n_trials``, between 4 and 50. The first generation is drawn at random."""
    mutation_prob: float | None = Field(None, ge=0, le=1)
    crossover_prob: float = Field(0.9, ge=0, le=1)
    swapping_prob: float = Field(0.5, ge=0, le=1)


class PrunerSection(Section):
    """What ends a trial early. It sees the objective at each validation, counted from 0."""


class NonePruner(PrunerSection):
    name: Literal["none"] = "none"


class RankPruner(PrunerSection):
    n_startup_trials: int | None = Field(None, ge=0)
    """Trials that finish before any is pruned; default: max(5, 2 x workers)."""
    n_warmup_steps: int | None = Field(None, ge=0)
    """Validations before which none is pruned; default: a third of a full training's, for regularised arms start
    slower."""
    interval_steps: int = Field(1, ge=1)
    n_min_trials: int = Field(1, ge=1)
    """Trials that must have come so far before a value is judged."""


class MedianConfig(RankPruner):
    """Ends what is, at its best, worse than the median of the others at the same validation."""

    name: Literal["median"] = "median"


class PercentileConfig(RankPruner):
    """Keeps the best ``percentile`` percent at each validation."""

    name: Literal["percentile"] = "percentile"
    percentile: float = Field(25.0, gt=0, lt=100)


class HyperbandConfig(PrunerSection):
    """Successive halving with several starting budgets (Li et al. 2018); worth it from about 100 trials."""

    name: Literal["hyperband"] = "hyperband"
    min_resource: int = Field(1, ge=1)
    """Validations before the first cut."""
    reduction_factor: int = Field(3, ge=2)
    bootstrap_count: int = Field(0, ge=0)


class ASHAConfig(PrunerSection):
    """Asynchronous successive halving (Li et al. 2020)."""

    name: Literal["asha"] = "asha"
    min_resource: int = Field(1, ge=1)
    """Validations before the first cut."""
    reduction_factor: int = Field(4, ge=2)
    min_early_stopping_rate: int = Field(0, ge=0)
    bootstrap_count: int = Field(0, ge=0)


WRAPPED = [member for member in leaves(PrunerSection) if member is not NonePruner]


class PatientConfig(PrunerSection):
    """Lets ``wraps`` end a trial only where its best of the last ``patience`` validations is no better, by more than
    ``min_delta``, than its best before."""

    name: Literal["patient"] = "patient"
    wraps: one_of(WRAPPED, "median") = MedianConfig()  # type: ignore[valid-type]
    patience: int = Field(ge=1)
    min_delta: float = Field(0.0, ge=0)


SAMPLERS = leaves(SamplerSection)
PRUNERS = leaves(PrunerSection)
STUDY_CHOICES: dict[str, tuple[list[type[Section]], str]] = {
    "sampler": (SAMPLERS, "tpe"),
    "pruner": (PRUNERS, "median"),
    "pruner.wraps": (WRAPPED, "median"),
}


# --- the whole --------------------------------------------------------------------------------------------------------


class ConfirmConfig(Section):
    """The best trials are trained again before one is named: the best of many is best partly by luck."""

    top: int = Field(3, ge=0, le=100)
    """Trials that are trained again; 0 for none."""
    seeds: int = Field(5, ge=1, le=100)
    """Fresh seeds, the same for each of them and for the base."""
    of_each: str | None = None
    """A key searched by ``choices``: the best ``top`` of each choice instead of all, for comparing choices."""


class StudyConfig(Section):
    """A search over configs: ``litmus tune STUDY``."""

    name: str = Field(max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the study is called; the same name goes on with the same study. Default: the file's name."""
    base: Annotated[tuple[Text, ...], BeforeValidator(_objectives), Field(min_length=1)]
    """A config file, or a list of files and ``a.b=c`` overrides as ``litmus fit`` takes them. Files are looked for from
    the current folder, else beside the study's file."""
    objective: Annotated[
        tuple[Annotated[str, AfterValidator(_objective)], ...],
        BeforeValidator(_objectives),
        Field(min_length=1, max_length=2),
    ]
    """What is sought, or a list of two between which the study finds the trade-off."""
    space: dict[str, Entries] = Field(min_length=1)
    """Dotted key of the config -> its range, choices or fixed value; or a list of such, apart by ``when``."""
    sampler: one_of(*STUDY_CHOICES["sampler"]) = TPEConfig()  # type: ignore[valid-type]
    pruner: one_of(*STUDY_CHOICES["pruner"]) | None = None  # type: ignore[valid-type]
    """Default: median; none with two objectives, an objective known only at the end, or a sampler that learns nothing
    from pruned trials (gp, cmaes) or wants every point (grid)."""
    n_trials: int | None = Field(None, ge=1, le=1_000_000)
    """Finished trials in all, over restarts and workers; may be left out for ``sampler: {name: grid}``."""
    time_limit_sec: float | None = Field(None, gt=0)
    """No trial starts later than this after the command did."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Of the search; the runs' own is the base config's."""
    seeds: int = Field(1, ge=1, le=100)
    """Trainings per trial, with seeds ``seed``, ``seed + 1``, ... of the base; the objective is their mean."""
    first: Annotated[tuple[dict[str, Value], ...], BeforeValidator(as_tuple)] = ()
    """Trials to begin with, after the base config, which is always trial 0: dotted key -> value; the rest is the
    base's."""
    confirm: ConfirmConfig = ConfirmConfig()
    max_failures: int = Field(5, ge=1)
    """Failures in a row, by the trials' own doing, that stop the study."""
    max_retry: int = Field(3, ge=0)
    """How often a trial whose worker was lost is taken up again."""
    heartbeat_sec: int = Field(15, ge=1)
    """A worker shows that it lives this often."""
    grace_sec: int = Field(120, ge=1)
    """A worker silent for so long is lost."""

    _plain_base: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit(self) -> StudyConfig:
        problems = _study_problems(self)
        try:
            self._plain_base = _read_base(self.base)
        except Refused as refused:
            problems += [Problem(f"base: {p.where}", p.says, p.value) for p in refused.problems]
        if problems:
            raise Refused(problems, source="study")
        return self

    @property
    def directions(self) -> tuple[str, ...]:
        """``minimize`` or ``maximize`` for each objective, Optuna's words."""
        return tuple(f"{OBJECTIVES[name]}imize" for name in self.objective)

    @property
    def chosen_pruner(self) -> Any:
        """The pruner's section; where none is given, the one that fits the rest."""
        if self.pruner is not None:
            return self.pruner
        return MedianConfig() if not _unprunable(self) and self.sampler.name not in ("gp", "cmaes") else NonePruner()


def _unprunable(study: StudyConfig) -> str:
    """Why no trial of this study could be ended early, or an empty text."""
    if len(study.objective) > 1:
        return "two objectives cannot prune: a trial may be worse in one and better in the other"
    if study.objective[0] not in METRICS:
        return f"{study.objective[0]} is known only at the end of a trial"
    if study.sampler.name == "grid":
        return "a grid wants every point to its end"
    return ""


def _study_problems(study: StudyConfig) -> list[Problem]:
    """What is wrong between parts of the study that are each right; needs no config."""
    found: list[Problem] = []
    if len(set(study.objective)) < len(study.objective):
        found.append(Problem("objective", "has the same twice", list(study.objective)))
    if study.grace_sec < 3 * study.heartbeat_sec:
        says = f"must be at least 3 x heartbeat_sec = {3 * study.heartbeat_sec}: a beat may be late"
        found.append(Problem("grace_sec", says, study.grace_sec))
    if study.n_trials is None and study.sampler.name != "grid":
        found.append(Problem("n_trials", "is needed: how many trials in all"))
    if study.pruner is not None and study.pruner.name != "none" and (why := _unprunable(study)):
        found.append(Problem("pruner", f"{why}; leave it out", study.pruner.name))
    if len(study.objective) > 1 and study.sampler.name not in ("tpe", "nsga2"):
        found.append(Problem("sampler.name", "seeks one objective; two are for tpe and nsga2", study.sampler.name))
    if len(study.objective) == 1 and study.sampler.name == "nsga2":
        found.append(Problem("sampler.name", "is for two objectives; one is for tpe, gp or cmaes", "nsga2"))
    if study.sampler.name == "tpe" and study.sampler.group and study.sampler.multivariate is False:
        found.append(Problem("sampler.group", "models jointly: it goes without multivariate: false", True))
    variants = [key for key in ("use_separable_cma", "with_margin", "lr_adapt") if getattr(study.sampler, key, False)]
    if len(variants) > 1:
        found.append(Problem(f"sampler.{variants[1]}", f"goes without {variants[0]}: keep one", True))
    size = getattr(study.sampler, "population_size", None)
    if size is not None and study.n_trials is not None and 2 * size > study.n_trials:
        says = f"leaves no second generation: at most half of n_trials = {study.n_trials}"
        found.append(Problem("sampler.population_size", says, size))
    return found


def _read_base(base: Sequence[str]) -> dict[str, Any]:
    files = [part for part in base if "=" not in part or Path(part).exists()]
    return load.merge(files, [part for part in base if part not in files])


# --- reading ----------------------------------------------------------------------------------------------------------

STUDY = Root(StudyConfig, STUDY_CHOICES)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's file, then ``a.b=c`` overrides: ``n_trials=10``, ``sampler.name=random``,
    ``space.optim.lr.low=0.01``.

    Raises:
        Refused: with every problem of the file, the overrides and the base config's files.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(path)
    try:
        read = load.read_yaml(path, "configs/studies")
        load.refuse_growth(OmegaConf.to_container(read, resolve=False))
        data: Any = OmegaConf.to_container(read, resolve=True)
    except OmegaConfBaseException as error:
        raise refuse(
            str(getattr(error, "full_key", None) or path), str(error).splitlines()[0], source="study"
        ) from None
    except Refused as refused:
        raise Refused(refused.problems, source="study") from None
    problems = [problem for override in overrides if (problem := _override(data, override))]
    if problems:
        raise Refused(problems, source="study")
    data.setdefault("name", path.stem)
    data["base"] = _beside(data.get("base"), path.parent)
    return parse_study(data, source=str(path))


def parse_study(data: dict[str, Any], *, source: str = "study") -> StudyConfig:
    """Check a nested dictionary. Raises ``Refused`` with every problem at once."""
    try:
        return StudyConfig.model_validate(
            {key: value for key, value in data.items() if value is not None or key != "base"}
        )
    except ValidationError as error:
        raise Refused([_explain(item, data) for item in error.errors(include_url=False)], source=source) from None
    except Refused as refused:
        raise Refused(refused.problems, source=source) from None


def _explain(error: Any, data: Any) -> Problem:
    problem, location = explain(error, data, STUDY), error["loc"]
    if location[0] == "space" and error["type"] == "extra_forbidden" and "." not in location[1]:
        says = f"keys of the config are written whole: {location[1]}.{location[-1]}: {{...}}"
        return Problem(f"space.{location[1]}", says)
    if location[0] == "space" and error["type"] == "value_error" and isinstance(error["input"], dict):
        return Problem(problem.where, problem.says)  # which says what of the entry is wrong
    if location[0] in ("sampler", "pruner") and error["type"] == "extra_forbidden":
        return Problem(problem.where, f"{problem.says}; {_signature(location)}", problem.value)
    return problem


def _signature(location: Sequence[Any]) -> str:
    """What the sampler or pruner takes; its class is the last tag of a union on the way to the key."""
    members = {member.__name__: member for member in (*SAMPLERS, *PRUNERS)}
    member = members[next(part for part in reversed(location) if part in members)]
    fields = {key: field for key, field in member.model_fields.items() if key != "name"}
    takes = ", ".join(key if field.is_required() else f"{key}={field.default}" for key, field in fields.items())
    return f"{names_of(member)[0]} takes {takes or 'no arguments'}"


def _beside(base: Any, folder: Path) -> Any:
    """The base's files as they are found: from the current folder, else from the study's."""

    def found(part: Any) -> Any:
        if not isinstance(part, str) or "=" in part or Path(part).exists() or not (folder / part).exists():
            return part
        return str(folder / part)

    return [found(part) for part in base] if isinstance(base, list) else found(base)


def _override(data: dict[str, Any], override: str) -> Problem | None:
    """Set one ``a.b=c`` in the plain study; the keys of the space are kept whole."""
    from omegaconf import OmegaConf

    key, equals, text = override.partition("=")
    path = _path(key.strip(), data)
    if not equals or not all(path):
        return Problem(override, "is not an override; overrides read a.b=c")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
    except Exception as error:  # the YAML scanner and OmegaConf's grammar each raise their own
        return Problem(key, f"cannot be read: {str(error).splitlines()[0]}", text)
    here: Any = data
    for part in path[:-1]:
        inner = here[int(part)] if _is_place(here, part) else None
        if isinstance(here, dict):
            inner = here[part] = here[part] if here.get(part) is not None else {}
        if not isinstance(inner, dict | list):
            return Problem(key, f"there is no {part!r} to set a value in")
        here = inner
    last: Any = path[-1]
    if isinstance(here, list):
        if not _is_place(here, last):
            return Problem(key, f"wants the place of an entry, 0 to {len(here) - 1}")
        here[int(last)] = value
        return None
    for old in _displaced(here, path, value):
        del here[old]
    here[last] = value
    return None


def _is_place(here: Any, part: str) -> bool:
    return isinstance(here, list) and part.isdigit() and int(part) < len(here)


def _displaced(here: dict[str, Any], path: list[str], value: Any) -> list[str]:
    """Keys that lose their meaning: another sampler's arguments, the range of what is now a choice."""
    head, last = ".".join(path[:-1]), path[-1]
    if last == "name" and head in STUDY_CHOICES:
        new = next((member for member in STUDY_CHOICES[head][0] if value in names_of(member)), None)
        return [old for old in here if new is not None and old not in new.model_fields]
    if path[0] != "space" or len(path) < 3:
        return []
    ways = [{"low", "high", "step", "log", "int", "or"}, {"choices", "even"}, {"fixed"}]
    mine = next((way for way in ways if last in way), set())
    displaced = set().union(*ways) - mine if mine else set()
    return [old for old in here if old in displaced or (last == "fixed" and old == "role")]


def _path(key: str, data: dict[str, Any]) -> list[str]:
    """``space.optim.lr.0.low`` -> space, optim.lr, 0, low."""
    head, _, rest = key.partition(".")
    if head != "space" or not rest:
        return key.split(".")
    known: Any = data.get("space") if isinstance(data.get("space"), dict) else {}
    whole = next((name for name in sorted(known, key=len, reverse=True) if f"{rest}.".startswith(f"{name}.")), None)
    if whole is not None:
        return ["space", whole, *[part for part in rest[len(whole) + 1 :].split(".") if part]]
    dotted, _, last = rest.rpartition(".")
    fields = {field.alias or name for name, field in ParameterConfig.model_fields.items()}
    return ["space", dotted, last] if dotted and last in fields else ["space", rest]


def study_to_dict(study: StudyConfig) -> dict[str, Any]:
    """Plain nested JSON values of all that was given; ``parse_study`` of it gives an equal study."""
    plain = study.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for section in ("sampler", "pruner"):  # a name may be left out in the file
        if getattr(study, section) is not None:
            plain[section] = {"name": getattr(study, section).name, **plain.get(section, {})}
    return plain


def study_schema() -> dict[str, Any]:
    """JSON schema of ``StudyConfig`` for editors; the docstrings under the fields are its descriptions."""
    import sys

    load.describe(sys.modules[__name__], StudyConfig)
    schema = StudyConfig.model_json_schema()
    properties = schema["properties"]
    for place, key in ((properties["space"], "additionalProperties"), (properties, "base"), (properties, "objective")):
        many = place[key]  # one may stand for a list of one
        about = {word: many.pop(word) for word in ("title", "description") if word in many}
        place[key] = {**about, "anyOf": [many["items"], many]}
    properties["objective"]["anyOf"][0]["enum"] = list(OBJECTIVES)  # the list's items are the same dictionary
    schema["required"] = [key for key in schema["required"] if key != "name"]  # the file's name stands for it
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- configs of a study -----------------------------------------------------------------------------------------------


def always_fixed(study: StudyConfig) -> dict[str, Any]:
    """Dotted key -> value of what the study fixes without a condition."""
    return {
        key: entry.fixed
        for key, entries in study.space.items()
        for entry in entries
        if entry.kind == "fixed" and not entry.when
    }


def base_config(study: StudyConfig) -> RunConfig:
    """The config that the study starts from: the base with what the study fixes. Raises ``Refused``."""
    always = always_fixed(study)
    base = trial_config(study, always)
    here = {
        key: entry.fixed
        for key, entries in study.space.items()
        for entry in entries
        if entry.when
        and entry.kind == "fixed"
        and all(among(lookup(base, other), values) for other, values in entry.conditions.items())
    }
    return trial_config(study, {**always, **here}) if here else base


def trial_config(study: StudyConfig, values: Mapping[str, Any], *, seed: int | None = None) -> RunConfig:
    """The base with dotted ``values``, as ``litmus fit BASE a.b=c ...`` would make it. Raises ``Refused``."""
    plain: dict[str, Any] = copy.deepcopy(study._plain_base)
    named: dict[str, Any] = {}
    for key, value in values.items():
        _put(named, key, value)
    load.leave_old_members(plain, named)
    for key, value in values.items():
        _put(plain, key, value)
    if seed is not None:
        plain["seed"] = seed
    return load.parse_config(plain, source="trial")


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(plain.get(section), dict):
            plain[section] = {}
        plain = plain[section]
    plain[last] = copy.deepcopy(value)


def lookup(config: RunConfig, key: str) -> Any:
    """The plain value of a dotted key, lists for tuples; ``ABSENT`` where this config has no such key."""
    here: Any = config
    for part in key.split("."):
        if isinstance(here, dict):
            here = here.get(part, ABSENT)
        elif isinstance(here, Section) and part in type(here).model_fields:
            here = getattr(here, part)
        else:
            return ABSENT
    return load.to_dict(here) if isinstance(here, Section) else _plain(here)


def _plain(value: Any) -> Any:
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def same(one: Any, other: Any) -> bool:
    """Equal, where true is not 1; lists and tuples alike."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def among(value: Any, allowed: Iterable[Any]) -> bool:
    return any(same(value, other) for other in allowed)
