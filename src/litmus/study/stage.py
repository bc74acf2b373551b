"""What the workers do: a search, or the confirmation of its best. Both are an Optuna study and a way from trial to job.

A stage is plain values, so that it reaches every worker; what is heavy it makes there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from litmus.config import RunConfig, deciding, flatten
from litmus.config.study import StudyConfig, trial_config
from litmus.jobs.job import Job, Outcome
from litmus.study.ledger import ATTEMPT, DUPLICATE_OF, ORIGIN, Ledger, Lineage
from litmus.study.samplers import make_pruner, make_sampler
from litmus.study.space import Space
from litmus.study.storage import Place, Storage

if TYPE_CHECKING:
    from litmus.tracking import Run

CANDIDATE, SEED = "candidate", "seed"
VALUES = "litmus.values"
"""Of a trial of the confirmation: the dotted values of the trial that it confirms, as JSON."""

FRESH_SEEDS_FROM = 1000
"""Seeds of a confirmation are the base config's plus this and more: no trial of a search trains with one of them."""


@dataclass(frozen=True)
class Stage:
    """The search.

    Attributes:
        base: the config that the study starts from, resolved once for all workers.
        uid: of the study, and of its parent run in MLflow.
        workers: how many there are on this machine, for samplers and pruners that ask.
    """

    config: StudyConfig
    base: RunConfig
    place: Place
    uid: str
    workers: int = 1

    kind = "trial"

    @property
    def draws(self) -> bool:
        """Whether there are more trials than those that were queued: a grid has its points, and no others."""
        return self.config.sampler.name != "grid"

    @property
    def study_name(self) -> str:
        return self.config.name

    @property
    def n_trials(self) -> int:
        return self.config.n_trials or len(self.queue())

    @property
    def home(self) -> str:
        return self.base.tracking.home

    @property
    def folder(self) -> Path:
        """Of what belongs to the study and to no run: the logs of its trials."""
        return Path(self.home) / "studies" / self.config.name

    @property
    def prunes(self) -> bool:
        return self.config.chosen_pruner.name != "none"

    @cached_property
    def space(self) -> Space:
        return Space.from_study(self.config)

    @property
    def directions(self) -> list[Any]:
        """``minimize`` or ``maximize``, for each objective."""
        return list(self.config.directions)

    def queue(self) -> list[dict[str, Any]]:
        """Parameters of the trials that are run first: the base config, then ``first``, then the points of a grid."""
        wanted = self.space.first()
        if self.config.sampler.name == "grid":
            wanted += self.space.grid()
        return [params for at, params in enumerate(wanted) if params not in wanted[:at]]

    def is_over(self, known: Mapping[int, Lineage]) -> bool:
        """Whether nothing is left to do: all are finished, or, where none can be drawn, each has come to its end."""
        if sum(lineage.state == "finished" for lineage in known.values()) >= self.n_trials:
            return True
        return not self.draws and not any(one.state in ("running", "waiting", "pending") for one in known.values())

    def ledger(self, study: optuna.Study, storage: Storage) -> Ledger:
        return Ledger(
            study,
            storage,
            self.place,
            n_trials=self.n_trials,
            max_retry=self.config.max_retry,
            grace_sec=self.config.grace_sec,
        )

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return make_sampler(self.config, self.space, seed=seed)

    def pruner(self) -> optuna.pruners.BasePruner:
        train = self.base.train
        num_reports = max(1, train.length // (train.val_every or 1)) if train.unit == "epochs" else 0
        if not num_reports:
            num_reports = max(1, train.length // train.val_every) if train.val_every else 1
        return make_pruner(self.config, workers=self.workers, num_reports=num_reports)

    def job(self, trial: optuna.Trial, ledger: Ledger) -> Job:
        """Suggest what is missing of the trial, and make it a training. ``Refused`` for a config that is none."""
        return self._job_of(self.space.suggest(trial), trial, ledger)

    def job_again(self, trial: FrozenTrial, ledger: Ledger) -> Job:
        """The same of a trial that has been drawn, whoever ran it."""
        return self._job_of(self.space.values_of(trial.params), trial, ledger)

    def _job_of(self, values: Mapping[str, Any], trial: optuna.Trial | FrozenTrial, ledger: Ledger) -> Job:
        config = trial_config(self.config, values)
        seeds = tuple((config.seed + k) % 2**32 for k in range(self.config.seeds))
        metric = self.config.objective[0] if len(self.config.objective) == 1 else None
        return self._job(trial, ledger, config, seeds, metric if metric and metric.startswith("val/") else None)

    def _job(
        self,
        trial: optuna.Trial | FrozenTrial,
        ledger: Ledger,
        config: RunConfig,
        seeds: tuple[int, ...],
        metric: str | None,
        tags: Mapping[str, str] | None = None,
    ) -> Job:
        origin = int(trial.user_attrs.get(ORIGIN, trial.number))
        name = self.name_of(origin)
        return Job(
            config=config.model_copy(update={"name": name, "insight": False}),
            kind=self.kind,
            name=name,
            uid=ledger.uid_of(trial),
            parent_uid=self.uid,
            tags={
                "litmus.study": self.config.name,
                "litmus.trial": str(origin),
                "litmus.trial_number": str(trial.number),
                "litmus.trial_attempt": str(trial.user_attrs.get(ATTEMPT, 1)),
                "litmus.space_sha": self.space.sha,
                "litmus.config_sha": config_sha(config),
                "litmus.fail_reason": "",
                **(tags or {}),
            },
            seeds=seeds,
            objectives=self.config.objective,
            metric=metric,
            log=(self.folder / "logs" / f"{name}.log").absolute(),
        )

    def name_of(self, origin: int) -> str:
        return f"{self.config.name}-t{origin:04d}"

    def sha(self, job: Job) -> str:
        """Equal for two jobs that come to the same, bit for bit."""
        return blake2b(f"{config_sha(job.config)}/{job.seeds}".encode(), digest_size=12).hexdigest()

    def record_copy(self, job: Job, twin: Lineage, outcome: Outcome) -> Path:
        """The one run in MLflow of a trial that is a copy of another's: parameters, value, and whose it is."""
        from litmus.experiment import logged_objective

        tracked = self._record(job, {DUPLICATE_OF: str(twin.origin), "litmus.state": outcome.state})
        values = outcome.values or outcome.reports[-1:]
        tracked.log_metrics(
            {logged_objective(name): value for name, value in zip(self.config.objective, values, strict=False)}, step=0
        )
        tracked.finish("FINISHED" if outcome.state == "COMPLETE" else "KILLED")
        return tracked.dir

    def record_failed(self, job: Job, reason: str) -> Path:
        """The one run in MLflow of a trial whose process was gone before it had begun one."""
        tracked = self._record(job, {"litmus.fail_reason": reason, "litmus.state": "FAIL"})
        tracked.finish("FAILED")
        return tracked.dir

    def _record(self, job: Job, tags: Mapping[str, str]) -> Run:
        from litmus.tracking import Run

        return Run.start(
            home=self.home,
            uri=self.base.tracking.uri,
            experiment=self.base.tracking.experiment or f"litmus/{self.base.data.name}",
            name=job.name,
            kind=self.kind,
            uid=job.uid,
            parent_uid=self.uid,
            params=flatten(job.config),
            tags={**self.base.tracking.tags, **job.tags, **tags},
            send="off",
        )


@dataclass(frozen=True)
class Confirmation(Stage):
    """The best trials and the base config, each trained again on the same fresh seeds.

    Its trials are all queued when it begins, with what they train in their attributes: the workers, and what saves
    them, are those of the search.
    """

    total: int = 0

    kind = "confirm"

    @property
    def draws(self) -> bool:
        return False

    @property
    def study_name(self) -> str:
        return f"{self.config.name}.confirm"

    @property
    def n_trials(self) -> int:
        return self.total

    @property
    def prunes(self) -> bool:
        return False

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)  # nothing is left to be drawn

    def pruner(self) -> optuna.pruners.BasePruner:
        return optuna.pruners.NopPruner()

    def job(self, trial: optuna.Trial, ledger: Ledger) -> Job:
        return self._confirming(trial, ledger)

    def job_again(self, trial: FrozenTrial, ledger: Ledger) -> Job:
        return self._confirming(trial, ledger)

    def _confirming(self, trial: optuna.Trial | FrozenTrial, ledger: Ledger) -> Job:
        values = json.loads(trial.user_attrs[VALUES])
        candidate, seed = int(trial.params[CANDIDATE]), int(trial.params[SEED])
        config = trial_config(self.config, values, seed=seed)
        return self._job(trial, ledger, config, (seed,), None, {"litmus.candidate": str(candidate)})

    def name_of(self, origin: int) -> str:
        return f"{self.config.name}-c{origin:04d}"

    def sha(self, job: Job) -> str:
        return f"{job.tags['litmus.candidate']}/{super().sha(job)}"  # two candidates are two, even where they are equal


def config_sha(config: RunConfig) -> str:
    """Of what decides a training's numbers."""
    plain = json.dumps(deciding(config), sort_keys=True, default=str)
    return blake2b(plain.encode(), digest_size=12).hexdigest()


def fresh_seeds(config: StudyConfig, base: RunConfig) -> list[int]:
    return [(base.seed + FRESH_SEEDS_FROM + k) % 2**32 for k in range(config.confirm.seeds)]
