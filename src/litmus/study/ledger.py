"""Which trials of an Optuna study count: what is finished, lost, to be run again, surplus. Rules first, then their use.

A trial of ours may be several of Optuna's: one that was lost with its worker is FAIL there, and queued again under a
new number. Together they are a *lineage*, named by its first number, the *origin*; it has one MLflow run and one run
directory, and goes on from its last checkpoint.

Everything is decided from what the storage holds, so that whoever comes next, after any crash, decides the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from litmus.jobs.job import LOST, uid_of
from litmus.study.storage import Place, Storage, exclusive, fail_stale, first_beats

ORIGIN, ATTEMPT = "litmus.origin", "litmus.attempt"
WORKER, REASON, SHA, RUN_UID = "litmus.worker", "litmus.fail_reason", "litmus.config_sha", "litmus.run_uid"
STUDY_UID, FINGERPRINT = "litmus.uid", "litmus.fingerprint"
DUPLICATE_OF, EPOCHS, SECONDS = "litmus.duplicate_of", "litmus.epochs", "litmus.seconds"

STOPPED, SURPLUS, DUPLICATE = "stopped", "surplus", "duplicate"
"""First words of a reason, as ``LOST`` is: stopped ones are queued again always, lost ones so often; the others never
were a trial."""

State = Literal["finished", "running", "waiting", "pending", "failed", "void"]


@dataclass(frozen=True)
class Lineage:
    """The attempts at one trial, in order.

    ``state``: finished (complete or pruned), running, waiting to be run, pending (lost, and not queued again yet),
    failed for good, or void: it never was a trial of the study.
    """

    origin: int
    attempts: tuple[FrozenTrial, ...]
    state: State

    @property
    def last(self) -> FrozenTrial:
        """The attempt that counts."""
        ended = [trial for trial in self.attempts if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return ended[0] if ended else self.attempts[-1]

    @property
    def trained_as(self) -> int:
        """Origin of the lineage whose training this is: another's, where this one is a copy."""
        return int(self.last.user_attrs.get(DUPLICATE_OF, self.origin))

    @property
    def alive(self) -> bool:
        """Whether it holds one of the study's places."""
        return self.state in ("finished", "running", "waiting", "pending")

    @property
    def reason(self) -> str:
        return reason_of(self.last)


def reason_of(trial: FrozenTrial) -> str:
    """Why it failed. Optuna fails a silent trial without a word: that is a lost one."""
    if trial.state != TrialState.FAIL:
        return ""
    return str(trial.user_attrs.get(REASON, f"{LOST}: its worker fell silent"))


def lineages(trials: Iterable[FrozenTrial], *, max_retry: int) -> dict[int, Lineage]:
    """Origin -> lineage, of all trials of a study."""
    attempts: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.number):
        attempts[trial.user_attrs.get(ORIGIN, trial.number)].append(trial)
    return {
        origin: Lineage(origin, tuple(group), _state(group, max_retry)) for origin, group in sorted(attempts.items())
    }


def _state(attempts: Sequence[FrozenTrial], max_retry: int) -> State:
    states = {trial.state for trial in attempts}
    if states & {TrialState.COMPLETE, TrialState.PRUNED}:
        return "finished"
    if TrialState.RUNNING in states:
        return "running"
    if TrialState.WAITING in states:
        return "waiting"
    last = attempts[-1]
    first_word = reason_of(last).partition(":")[0].partition(" ")[0]
    if first_word in (SURPLUS, DUPLICATE):
        return "void"
    if first_word not in (LOST, STOPPED):
        return "failed"
    if not (last.params or "fixed_params" in last.system_attrs):
        return "void"  # it ended before it was anything that could be run again
    lost = sum(reason_of(trial).startswith(LOST) for trial in attempts)
    return "pending" if lost <= max_retry else "failed"


def is_surplus(trial: FrozenTrial, known: dict[int, Lineage], *, n_trials: int) -> bool:
    """Whether ``n_trials`` lineages that live are older.

    That set only shrinks, since a new lineage has a higher number: so no two workers, whatever they see of each other
    at the time, keep more than ``n_trials`` together.
    """
    origin = trial.user_attrs.get(ORIGIN, trial.number)
    return sum(lineage.alive and lineage.origin < origin for lineage in known.values()) >= n_trials


def failures_in_a_row(known: dict[int, Lineage]) -> list[Lineage]:
    """The lineages that failed for good after the last one that finished, in the order in which they ended."""
    ended = [lineage for lineage in known.values() if lineage.state in ("finished", "failed")]
    ended.sort(key=lambda lineage: (lineage.last.datetime_complete is None, lineage.last.datetime_complete))
    row: list[Lineage] = []
    for lineage in ended:
        row = [*row, lineage] if lineage.state == "failed" else []
    return row


# --- who runs a trial -------------------------------------------------------------------------------------------------


def myself(index: int) -> str:
    """This worker, so that people know it and others on its machine can tell when it is gone: host and number, then
    host, boot, name space, pid, start."""
    return "|".join((f"{socket.gethostname()}/{index}", *_here(), str(os.getpid()), _started(os.getpid())))


def is_here(worker: str) -> bool:
    """Whether that worker is, or was, one of this machine."""
    return worker.count("|") == 5 and tuple(worker.split("|")[1:-2]) == _here()


def is_gone(worker: str) -> bool:
    """Whether that process is known to be gone; of another machine, nothing is known."""
    if not is_here(worker):
        return False
    pid, started = worker.split("|")[-2:]
    return pid.isdigit() and _started(int(pid)) != started


def _here() -> tuple[str, ...]:
    boot = name_space = ""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()[:8]
        name_space = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot, name_space


def _started(pid: int) -> str:
    """When the process began, in words that differ for another one of the same number; empty if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


# --- a study ----------------------------------------------------------------------------------------------------------


class Ledger:
    """The rules above, applied to one study in one storage.

    Args:
        storage: what the study was opened on, for what Optuna's ``Study`` does not do: an attribute of another
            worker's trial.
        place: of the storage, for the lock under which trials are queued again.
        n_trials: the total, over workers and restarts.
        grace_sec: of silence, after which a trial counts as lost.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: Storage,
        place: Place,
        *,
        n_trials: int,
        max_retry: int,
        grace_sec: float,
    ) -> None:
        self.study, self.storage, self.place = study, storage, place
        self.n_trials, self.max_retry, self.grace_sec = n_trials, max_retry, grace_sec
        self.uid = str(study.user_attrs[STUDY_UID])
        self._looked_at = 0.0

    def lineages(self) -> dict[int, Lineage]:
        return lineages(self.study.get_trials(deepcopy=False), max_retry=self.max_retry)

    def uid_of(self, trial: FrozenTrial | optuna.Trial) -> str:
        """Of the MLflow run of the trial's lineage."""
        return uid_of(self.uid, self.study.study_name, trial.user_attrs.get(ORIGIN, trial.number))

    def needs_reclaim(self, known: Mapping[int, Lineage]) -> bool:
        """Whether somebody must see to a trial, as far as a look at the trials tells; or has not asked for a while."""
        if time.monotonic() - self._looked_at > self.grace_sec / 3:
            return True
        return any(lineage.state == "pending" for lineage in known.values()) or any(
            is_gone(trial.user_attrs.get(WORKER, ""))
            for lineage in known.values()
            for trial in lineage.attempts
            if trial.state == TrialState.RUNNING
        )

    def reclaim(self) -> list[int]:
        """Find the trials whose worker is gone, and queue again what may be; origins of those queued.

        On this machine a process that is gone is seen at once, elsewhere by its silence. Safe to be killed in, at any
        line: what was failed and not queued is *pending* to the next who looks.
        """
        self._looked_at = time.monotonic()
        with exclusive(self.place):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if is_gone(trial.user_attrs.get(WORKER, "")):
                    self.fail(trial, f"{LOST}: its worker is gone")
            fail_stale(self.study)
            first_beats(self.study)  # killed before its own first: from now on its silence is counted
            pending = [lineage for lineage in self.lineages().values() if lineage.state == "pending"]
            for lineage in pending:
                self._queue_again(lineage)
        return [lineage.origin for lineage in pending]

    def _queue_again(self, lineage: Lineage) -> None:
        last = lineage.attempts[-1]
        attrs = {key: value for key, value in last.user_attrs.items() if key not in (REASON, WORKER)}
        system = {key: value for key, value in last.system_attrs.items() if not key.startswith("constraints")}
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=last.params,
                distributions=last.distributions,
                user_attrs={**attrs, ORIGIN: lineage.origin, ATTEMPT: len(lineage.attempts) + 1},
                system_attrs=system,
            )
        )

    def fail(self, trial: FrozenTrial | optuna.Trial, reason: str) -> bool:
        """FAIL with a reason; False if it had ended already, which changes nothing."""
        try:
            self.storage.set_trial_user_attr(trial._trial_id, REASON, reason[:1000])
            return bool(self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL))
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
