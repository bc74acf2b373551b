"""Optuna's sampler and pruner from a study's config."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from litmus.config import options
from litmus.config.study import StudyConfig
from litmus.study.space import Parameter, Space


def make_sampler(study: StudyConfig, space: Space, *, seed: int) -> BaseSampler:
    """The study's sampler. ``seed`` must differ from worker to worker: with the same one they propose the same.

    Quasi-random points are numbered over all workers and scrambled by the study's own seed, whatever ``seed`` is.
    """
    given = options(study.sampler)
    name = study.sampler.name
    with warnings.catch_warnings():  # used knowingly: groups, and the options of cmaes that ask for it
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: BaseSampler
        if name == "tpe":
            if given["group"] is None:
                given["group"] = space.conditional and given["multivariate"] is not False
            if given["multivariate"] is None and given["group"]:
                given["multivariate"] = True
            sampler = Divergent(optuna.samplers.TPESampler(seed=seed, **given))
        elif name == "gp":
            sampler = optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False, **given)
        elif name == "cmaes":
            sampler = optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False, **given)
        elif name == "qmc":
            independent = optuna.samplers.RandomSampler(seed=seed)
            sampler = optuna.samplers.QMCSampler(
                seed=study.seed, independent_sampler=independent, warn_independent_sampling=False, **given
            )
        elif name == "nsga2":
            given["population_size"] = given["population_size"] or min(50, max(4, space.num_trials // 5))
            sampler = optuna.samplers.NSGAIISampler(seed=seed, **given)
        else:  # random; and a grid's points are all enqueued
            sampler = optuna.samplers.RandomSampler(seed=seed)
    even = next((parameter for parameter in space.parameters if parameter.even), None)
    return sampler if even is None else EvenSampler(sampler, even)


def make_pruner(study: StudyConfig, *, workers: int, num_reports: int) -> optuna.pruners.BasePruner:
    """The study's pruner; ``num_reports`` is the number of validations of a full training, reported as 0, 1, ..."""
    return _pruner(study.chosen_pruner, workers, num_reports)


def _pruner(section: Any, workers: int, num_reports: int) -> optuna.pruners.BasePruner:
    given = options(section)
    if section.name in ("median", "percentile"):
        if given["n_startup_trials"] is None:
            given["n_startup_trials"] = max(5, 2 * workers)
        if given["n_warmup_steps"] is None:
            given["n_warmup_steps"] = math.ceil(num_reports / 3)
        kinds = {"median": optuna.pruners.MedianPruner, "percentile": optuna.pruners.PercentilePruner}
        return kinds[section.name](**given)
    if section.name == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=max(num_reports, section.min_resource), **given)
    if section.name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(**given)
    if section.name == "patient":
        inner = _pruner(section.wraps, workers, num_reports)
        return PatientPruner(inner, patience=section.patience, min_delta=section.min_delta)
    return optuna.pruners.NopPruner()


class PatientPruner(optuna.pruners.BasePruner):
    """Asks the inner pruner only about a trial that has stopped improving; lower is better, as for all objectives.

    Optuna's own wants the last values to be *worse* than those before: a network that is dead at chance, with the same
    error for ever, would train to the end.
    """

    def __init__(self, inner: optuna.pruners.BasePruner, *, patience: int, min_delta: float = 0.0):
        self.inner, self.patience, self.min_delta = inner, patience, min_delta

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        values = [value for _, value in sorted(trial.intermediate_values.items())]
        if len(values) <= self.patience:
            return False
        before, lately = min(values[: -self.patience]), min(values[-self.patience :])
        return not lately < before - self.min_delta and self.inner.prune(study, trial)


class Around(BaseSampler):
    """Another sampler with something around its draws; what is not drawing is the inner one's."""

    inner: BaseSampler

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.inner.after_trial(study, trial, state, values)


class Divergent(Around):
    """Shows TPE the trainings that diverged, as the worst of all trials; all else is the inner sampler's.

    A trial whose loss was no number is FAIL, and TPE knows nothing of those: it proposes the same rate again, and again
    (on Fashion-MNIST: 7 of 9 trials in a row at rates of 0.65 to 0.95). A pruned trial without any report is one that
    it ranks below all others.
    """

    def __init__(self, inner: BaseSampler):
        self.inner = inner

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(_with_divergent(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(_with_divergent(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(_with_divergent(study), trial, param_name, param_distribution)


def _with_divergent(study: optuna.Study) -> optuna.Study:
    """The same study, but that its divergent trials read as pruned before their first report."""
    kind = type(study)

    def get_trials(self: Any, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = [_as_pruned(trial) for trial in kind._get_trials(self, deepcopy, None, use_cache)]
        return [trial for trial in trials if states is None or trial.state in states]

    shown: optuna.Study = object.__new__(type(kind.__name__, (kind,), {"_get_trials": get_trials}))
    object.__setattr__(shown, "__dict__", object.__getattribute__(study, "__dict__"))
    return shown


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.FAIL or not is_divergent(trial) or not trial.params:
        return trial
    seen = copy.copy(trial)
    seen.state, seen.intermediate_values = TrialState.PRUNED, {}
    return seen


def is_divergent(trial: FrozenTrial) -> bool:
    """Whether it failed because a loss, a gradient or its objective was no number."""
    return str(trial.user_attrs.get("litmus.fail_reason", "")).startswith("not finite")


class EvenSampler(Around):
    """Gives every choice of one parameter the same number of trials; all else is the inner sampler's.

    A trial takes the choice that the trials before it took least. "Before" is by number, the first of a lineage's, so
    that workers who ask together do not need to see each other's answer: of a trial that has none yet it is known what
    it will take. A failed trial frees its place.
    """

    def __init__(self, inner: BaseSampler, parameter: Parameter):
        assert isinstance(parameter.distribution, CategoricalDistribution)
        self.inner, self.name, self.choices = inner, parameter.name, parameter.distribution.choices

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space = self.inner.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name != self.name}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self.inner.sample_relative(study, trial, search_space)  # a group of TPE's draws its whole space
        return {name: value for name, value in drawn.items() if name != self.name}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name == self.name:
            return least_taken(_all_trials(study), trial, self.name, self.choices)
        return self.inner.sample_independent(study, trial, param_name, param_distribution)


def _all_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Of the study itself: what a sampler is given under Hyperband is one bracket's part of it."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def least_taken(trials: Sequence[FrozenTrial], trial: FrozenTrial, name: str, choices: Sequence[Any]) -> Any:
    """The choice that is due for ``trial``, given what the trials before it took or are about to take."""
    counts = dict.fromkeys(range(len(choices)), 0)

    def due() -> int:
        return min(counts, key=lambda place: (counts[place], place))

    live = [other for other in trials if other.state != TrialState.FAIL and _origin(other) < _origin(trial)]
    decided = [(other, _taken(other, name)) for other in sorted(live, key=_origin)]
    for _, taken in decided:
        if taken in choices:
            counts[choices.index(taken)] += 1
    for other, taken in decided:
        if taken is None and other.state == TrialState.RUNNING:
            counts[due()] += 1
    return choices[due()]


def _origin(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("litmus.origin", trial.number))


def _taken(trial: FrozenTrial, name: str) -> Any:
    return trial.params.get(name, trial.system_attrs.get("fixed_params", {}).get(name))
