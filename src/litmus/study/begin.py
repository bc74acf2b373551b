"""From a file to a study in the storage: checked against data and networks, made once, gone on with unchanged."""

from __future__ import annotations

import json
import os
from typing import Any

import optuna
from optuna.trial import TrialState

from litmus.config import RunConfig, deciding
from litmus.config.study import StudyConfig, base_config, trial_config
from litmus.errors import Problem, Refused, nearest, refuse
from litmus.jobs.forks import answer_of
from litmus.study.ledger import FINGERPRINT, STUDY_UID
from litmus.study.stage import Stage
from litmus.study.storage import Storage, exclusive

PREPARED, DATA = "litmus.prepared", "litmus.data_digest"
WARM_START = 5
"""How many of an older study's best are tried first."""
_MOST_CHECKED = 64


def existing(name: str, storage: Storage) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def fingerprint_of(stage: Stage) -> dict[str, Any]:
    """What must not change while a study goes on, in plain values: the question, not how or how long it is searched."""
    config = stage.config
    space = {
        f"space.{key}": [entry.model_dump(mode="json", exclude_unset=True, exclude={"role"}) for entry in entries]
        for key, entries in config.space.items()
    }
    base = {f"base: {key}": value for key, value in deciding(stage.base).items() if key not in config.space}
    plain = {"objective": list(config.objective), "seeds": config.seeds, **space, **base}
    return dict(json.loads(json.dumps(plain, default=str)))


def check_same(stage: Stage, study: optuna.Study, *, source: str) -> None:
    """Refuse to go on with a study under another question, with everything that differs."""
    name = stage.config.name
    now, then = fingerprint_of(stage), study.user_attrs.get(FINGERPRINT)
    if then is None:
        if study.get_trials(deepcopy=False):
            says = f"there is a study of this name at {stage.place.label} that Litmus did not make; choose another name"
            raise refuse("name", says, name, source=source)
        return
    problems = [
        Problem(key, f"was {then.get(key)!r} when study {name} began", now.get(key))
        for key in dict.fromkeys([*now, *then])
        if now.get(key) != then.get(key)
    ]
    if problems:
        says = (
            "its trials would not compare with those before: give the study a new name "
            f"(--warm-start {name} begins it with the best of the old one)"
        )
        raise Refused([*problems, Problem("name", says, name)], source=source)


def prepare(stage: Stage, storage: Storage, digest: str, *, warm_start: str | None, source: str) -> optuna.Study:
    """The study in the storage, made whole by whoever comes first, or comes after one that was killed in it.

    Args:
        digest: of the data, which must be the same for all of its trials.
        warm_start: an older study, whose best are tried after the base and what the study begins with.
    """
    name = stage.config.name
    with exclusive(stage.place):
        study = existing(name, storage)
        if study is None:
            study = optuna.create_study(study_name=name, storage=storage, directions=stage.directions)
        attrs = study.user_attrs
        if STUDY_UID not in attrs:
            study.set_user_attr(STUDY_UID, os.urandom(16).hex())
        if FINGERPRINT not in attrs:
            study.set_user_attr(FINGERPRINT, fingerprint_of(stage))
        if attrs.get(DATA, digest) != digest:
            says = f"was {attrs[DATA]} when study {name} began: other images; give the study a new name"
            raise refuse("data", says, digest, source=source)
        if DATA not in attrs:
            study.set_user_attr(DATA, digest)
        if PREPARED not in attrs:
            for params in [*stage.queue(), *_best_of_old(stage, storage, warm_start)]:
                study.enqueue_trial(params, skip_if_exists=True)
            study.set_user_attr(PREPARED, True)
    return optuna.load_study(study_name=name, storage=storage)


def check_old(storage: Storage, warm_start: str | None, *, begun: bool) -> None:
    """Raises ``Refused`` for an older study that is not there, or that comes too late."""
    if warm_start is None:
        return
    if begun:
        raise refuse("--warm-start", "is for a study that begins, and this one has begun; leave it out", warm_start)
    if existing(warm_start, storage) is None:
        names = [name for name in optuna.get_all_study_names(storage) if not name.endswith(".confirm")]
        says = f"there is no such study; {nearest(warm_start, names)}" if names else "there is no other study here"
        raise refuse("--warm-start", says, warm_start)


def _best_of_old(stage: Stage, storage: Storage, warm_start: str | None) -> list[dict[str, Any]]:
    """Parameters of the best trials of an older study, as far as they lie in this one's space; the rest is drawn."""
    old = existing(warm_start, storage) if warm_start is not None else None
    if old is None:
        return []
    complete = [trial for trial in old.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    sign = 1 if old.directions[0].name == "MINIMIZE" else -1
    complete.sort(key=lambda trial: (sign * trial.values[0], trial.number))
    known: dict[str, Any] = {parameter.name: parameter.distribution for parameter in stage.space.parameters}
    return [
        {name: value for name, value in trial.params.items() if _lies_in(known.get(name), value)}
        for trial in complete[:WARM_START]
    ]


def _lies_in(distribution: Any, value: Any) -> bool:
    if distribution is None:
        return False
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):  # a choice that this one does not have
        return False


# --- against data and networks ----------------------------------------------------------------------------------------


def check_data(config: StudyConfig, *, source: str) -> str:
    """Refuse what only the data and the networks can tell, in a process apart: this one imports neither.

    Returns:
        The data's digest.
    """
    problems, digest = answer_of(_check, (config,), "the check of the base config")
    if problems:
        raise Refused(problems, source=source)
    return str(digest)


def _check(config: StudyConfig, tell: Any) -> None:
    from litmus.experiment import check, checked_data, quiet_libraries
    from litmus.jobs.job import stand_apart
    from litmus.study.space import corners
    from litmus.weights import follow_weights

    stand_apart()
    problems: list[Problem] = []
    digest = ""
    try:
        with quiet_libraries():
            base = follow_weights(base_config(config))
            info = checked_data(base).info
            digest = info.digest
            seen = {_shape(base)}
            for values in corners(config):
                corner = trial_config(config, values)
                if _shape(corner) in seen or len(seen) > _MOST_CHECKED:
                    continue  # to the data and the network it is one that was checked
                seen.add(_shape(corner))
                words = ", ".join(f"{key}={value}" for key, value in values.items())
                problems += [
                    Problem(f"space: {one.where}", f"{one.says} (at {words})", one.value) for one in check(corner, info)
                ]
    except Refused as refused:
        problems += refused.problems
    tell.send((problems, digest))


def _shape(config: RunConfig) -> str:
    """What ``check`` looks at: without the rates and strengths that no network or image can contradict."""
    idle = ("optim.", "schedule.", "seed", "diagnosis.", "early_stopping")
    plain = {k: v for k, v in deciding(config).items() if not k.startswith(idle) and not k.endswith("keep_prob")}
    return json.dumps(plain, sort_keys=True, default=str)
