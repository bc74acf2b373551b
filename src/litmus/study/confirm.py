"""Believing a winner: the best of a search trained again on fresh seeds, and only then, once, the test set.

The best of many trials is best partly by luck; that luck does not come twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from litmus.config.study import trial_config
from litmus.jobs.forks import answer_of
from litmus.jobs.job import uid_of
from litmus.study.begin import existing
from litmus.study.ledger import STUDY_UID, Ledger, Lineage
from litmus.study.stage import CANDIDATE, SEED, VALUES, Confirmation, Stage, config_sha, fresh_seeds
from litmus.study.storage import Storage, exclusive
from litmus.study.verdict import Candidate, OnTest


def candidates(stage: Stage, known: Mapping[int, Lineage]) -> list[Lineage]:
    """The base, then the best ``top`` trials, or those of each choice of ``of_each``; no config twice.

    Of two objectives: ``top`` trials from along the Pareto front, its ends among them.
    """
    confirm, sign = stage.config.confirm, 1 if stage.directions[0] == "minimize" else -1
    complete = sorted(complete_of(known), key=lambda one: (sign * one.last.values[0], one.origin))
    if len(stage.directions) > 1:
        complete = pareto(stage, known)
    seen: set[str] = set()
    groups: dict[Any, list[Lineage]] = {}
    for one in complete:
        values = stage.space.values_of(one.last.params)
        sha = config_sha(trial_config(stage.config, values))
        if sha in seen:
            continue
        seen.add(sha)
        # A choice's best may be the base itself, which is trained again in any case.
        groups.setdefault(values.get(confirm.of_each) if confirm.of_each else None, []).append(one)
    best = [one for group in groups.values() for one in _spread(group, confirm.top, len(stage.directions) > 1)]
    base = [known[0]] if 0 in known and known[0] in complete_of(known) else []
    return [*base, *(one for one in best if one.origin != 0)]


def complete_of(known: Mapping[int, Lineage]) -> list[Lineage]:
    return [one for one in known.values() if one.state == "finished" and one.last.state == TrialState.COMPLETE]


def pareto(stage: Stage, known: Mapping[int, Lineage]) -> list[Lineage]:
    """Of two objectives: the trials that no other beats in one without losing in the other, the best in the first
    one first."""
    first, second = (1 if direction == "minimize" else -1 for direction in stage.directions)
    front: list[Lineage] = []
    for one in sorted(
        complete_of(known), key=lambda one: (first * one.last.values[0], second * one.last.values[1], one.origin)
    ):
        if not front or second * one.last.values[1] < second * front[-1].last.values[1]:
            front.append(one)
    return front


def _spread(ordered: Sequence[Lineage], count: int, evenly: bool) -> list[Lineage]:
    if evenly and len(ordered) > count > 1:
        return [ordered[round(k * (len(ordered) - 1) / (count - 1))] for k in range(count)]
    return list(ordered[:count])


def confirmation_of(stage: Stage, chosen: Sequence[Lineage]) -> Confirmation:
    fields = {key: getattr(stage, key) for key in ("config", "base", "place", "uid", "workers")}
    return Confirmation(**fields, total=len(chosen) * stage.config.confirm.seeds)


def queue(confirmation: Confirmation, storage: Storage, chosen: Sequence[Lineage]) -> optuna.Study:
    """The study of the trainings, all of them queued; those that an earlier command queued are there already."""
    with exclusive(confirmation.place):
        study = existing(confirmation.study_name, storage)
        if study is None:
            study = optuna.create_study(
                study_name=confirmation.study_name, storage=storage, directions=confirmation.directions
            )
        if STUDY_UID not in study.user_attrs:
            study.set_user_attr(STUDY_UID, confirmation.uid)
        number = IntDistribution(0, 2**32 - 1)
        there = {(trial.params[CANDIDATE], trial.params[SEED]) for trial in study.get_trials(deepcopy=False)}
        for seed in fresh_seeds(confirmation.config, confirmation.base):  # a seed at a time: paired from the start
            for one in chosen:
                if (one.origin, seed) not in there:
                    study.add_trial(
                        optuna.create_trial(
                            state=TrialState.WAITING,
                            params={CANDIDATE: one.origin, SEED: seed},
                            distributions={CANDIDATE: number, SEED: number},
                            user_attrs={VALUES: json.dumps(confirmation.space.values_of(one.last.params))},
                        )
                    )
    return optuna.load_study(study_name=confirmation.study_name, storage=storage)


def scores(confirmation: Confirmation, ledger: Ledger, chosen: Sequence[Lineage]) -> list[Candidate]:
    """Each candidate with what it came to on the seeds that all of them finished: the differences are paired."""
    found = {
        (int(one.last.params[CANDIDATE]), int(one.last.params[SEED])): float(one.last.values[0])
        for one in complete_of(ledger.lineages())
    }
    chosen = [one for one in chosen if any(origin == one.origin for origin, _ in found)]  # not who failed every time
    seeds = [
        seed
        for seed in fresh_seeds(confirmation.config, confirmation.base)
        if all((one.origin, seed) in found for one in chosen)
    ]
    values = {one.origin: confirmation.space.values_of(one.last.params) for one in chosen}
    return [
        Candidate(
            name=name_of(one.origin),
            number=one.origin,
            values={
                k: v for k, v in values[one.origin].items() if one.origin == 0 or values.get(0, {}).get(k, ...) != v
            },
            searched=float(one.last.values[0]),
            scores=tuple(found[one.origin, seed] for seed in seeds),
        )
        for one in chosen
    ]


def name_of(origin: int) -> str:
    return f"trial {origin}" if origin else "base"


def runs_of(stage: Stage, storage: Storage, confirmation: Confirmation | None, one: Lineage) -> list[str]:
    """uids of the runs that trained a candidate: those of its confirmation, the first fresh seed first; without one,
    that of its trial, or of the trial that it is a copy of."""
    study = existing(confirmation.study_name, storage) if confirmation is not None else None
    if confirmation is None or study is None:
        return [uid_of(stage.uid, stage.study_name, one.trained_as)]
    complete = complete_of(confirmation.ledger(study, storage).lineages())
    mine = [training for training in complete if training.last.params[CANDIDATE] == one.origin]
    mine.sort(key=lambda training: int(training.last.params[SEED]))
    return [uid_of(stage.uid, confirmation.study_name, training.origin) for training in mine]


# --- the test set, once -----------------------------------------------------------------------------------------------


def test(stage: Stage, wanted: Mapping[str, Sequence[str]]) -> tuple[list[OnTest], list[Path]]:
    """Evaluate runs on their test set, in a process apart, and add that to their records.

    Args:
        wanted: name of a candidate -> uids of its runs.

    Returns:
        Their errors, and the run directories, which have something to send again.
    """
    counted = answer_of(_test, (stage.home, wanted, stage.folder), "the evaluation of the test set")
    directories = [Path(path) for _, _, _, paths in counted for path in paths]
    return [OnTest(name, tuple(errors), num) for name, errors, num, _ in counted if errors], directories


def _test(home: str, wanted: Mapping[str, Sequence[str]], folder: Path, tell: Any) -> None:
    from litmus.experiment import quiet_libraries
    from litmus.jobs.job import stand_apart
    from litmus.tracking import directory_of

    stand_apart((folder / "logs" / "test.log").absolute())
    counted = []
    with quiet_libraries():
        for name, uids in wanted.items():
            there = [path for uid in uids if (path := directory_of(uid, home))]  # others are on another machine
            seen = [_tested(path, home) for path in there]
            counted.append((name, [e for e, _ in seen], seen[0][1] if seen else 0, [str(path) for path in there]))
    tell.send(counted)


def _tested(directory: Path, home: str) -> tuple[int, int]:
    """Errors and images of a run's test set; evaluated once, then read."""
    from litmus.devices import best_device
    from litmus.diagnosis import wilson
    from litmus.evaluation import evaluate
    from litmus.experiment import RESULT, eval_batches, make_data
    from litmus.tracking import Run, find_run
    from litmus.trained import load_trained

    stored = find_run(str(directory), home=home)
    result = json.loads(Path(stored.artifact(RESULT)).read_text())
    if "test" not in result:
        trained = load_trained(stored)
        config, device = trained.config, best_device(trained.config.train.accelerator)
        data = make_data(config)
        data.prepare()
        batches = eval_batches(data, "test", device, config.train.limit_batches)
        bf16 = config.train.precision == "bf16-mixed"
        seen = evaluate(trained.network.to(device), batches, device=device, bf16=bf16)
        low, high = wilson(seen.num_errors, seen.num_images)
        result["test"] = {"loss": seen.loss, "err": seen.err}
        result["test"] |= {"num_errors": seen.num_errors, "num_images": seen.num_images}
        result["test_err_95"] = [low, high]
        metrics = {"test/err": seen.err, "test/loss": seen.loss, "test/err_low": low, "test/err_high": high}
        with Run.reopen(directory) as record:
            record.log_metrics(metrics, step=result["evaluated"]["step"])
            record.log_text(json.dumps(result, indent=1), RESULT)
    return int(result["test"]["num_errors"]), int(result["test"]["num_images"])
