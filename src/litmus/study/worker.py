"""One worker: takes trials from the storage, one after another, has each trained in a process of its own, tells.

It holds the Optuna trial and gives its signs of life; the training knows neither. So whatever a training does to its
process, the worker is there to say how it ended; and when the worker itself is gone, its training ends with it and
somebody else finds the trial silent.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from litmus.channel import Channel, Closed, Door
from litmus.jobs.forks import (
    CONTEXT,
    SERVER_GONE,
    Standby,
    end_process,
    epitaph,
    forget_main,
    share_forkserver,
    signal_process,
)
from litmus.jobs.job import LOST, Job, Outcome, clear, outcome_of, run_job, stand_apart
from litmus.jobs.posts import Post
from litmus.study.ledger import (
    DUPLICATE,
    DUPLICATE_OF,
    EPOCHS,
    ORIGIN,
    RUN_UID,
    SECONDS,
    SHA,
    STOPPED,
    SURPLUS,
    WORKER,
    Ledger,
    Lineage,
    failures_in_a_row,
    is_surplus,
    myself,
    reason_of,
)
from litmus.study.stage import Stage
from litmus.study.storage import ask, is_away, open_storage, patiently, set_user_attrs

T = TypeVar("T")

POLL_SEC = 0.5
PATIENCE_SEC = 3600.0
"""How long a database may be away before a worker gives up; what it had to tell is in the run directory."""
SAVE_SEC = 60.0
"""How long a training may take to save its state when it is asked to stop."""
EXIT_SEC = 10.0
"""How long a training's process may take to be gone after its last word."""
_DUPLICATES_BEFORE_WAIT = 10

CONTEXT.set_forkserver_preload(["litmus.study.warm"])


class Leave(BaseException):
    """The worker was asked to end."""


@dataclass
class Current:
    """The trial that is being trained."""

    trial: optuna.Trial
    number: int
    origin: int
    directory: Path | None = None
    reported: set[int] | None = None
    lost_lease: bool = False


def work(stage: Stage, post: Post, news: Any) -> None:
    """The worker's process: take trials of ``stage`` until there is none left to take.

    Args:
        news: a connection; gets (word, number, facts) of each trial as it begins and ends.
    """
    stand_apart(worker_log(stage.folder, post.index))
    share_forkserver()
    forget_main()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    worker = Worker(stage, post, news)
    signal.signal(signal.SIGTERM, worker.ask_to_leave)  # before this it holds nothing, and ends
    with contextlib.suppress(Leave):
        worker.run()
    worker.await_the_end()
    worker.end_standby()
    os._exit(0)


class Worker:
    def __init__(self, stage: Stage, post: Post, news: Any) -> None:
        self.stage, self.post, self.news = stage, post, news
        self.leaving = self.server_gone = False
        self._name = myself(post.index)
        study = stage.config
        self.storage = self.patient(
            lambda: open_storage(stage.place, heartbeat_sec=study.heartbeat_sec, grace_sec=study.grace_sec)
        )
        self.study = self.patient(
            lambda: optuna.load_study(study_name=stage.study_name, storage=self.storage, pruner=stage.pruner())
        )
        self.ledger = stage.ledger(self.study, self.storage)
        self._beaten_at = 0.0
        self._duplicates = 0
        self._standby: Standby | None = None
        self._ending: Any = None

    # --- the loop

    def ask_to_leave(self, signum: int, frame: FrameType | None) -> None:
        self.leaving = True

    def run(self) -> None:
        while self.may_begin():
            trial = self.patient(self.next_trial)
            if trial is None:
                time.sleep(POLL_SEC)
                continue
            try:
                self.have_trained(trial)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.say("superseded", trial.number, says="it was taken from this worker, which had been silent")

    def may_begin(self) -> bool:
        if self.leaving or (self.post.until is not None and time.time() >= self.post.until):
            return False
        known = self.patient(self.ledger.lineages)
        if len(failures_in_a_row(known)) >= self.stage.config.max_failures:
            return False
        return not self.stage.is_over(known)

    def next_trial(self) -> optuna.Trial | None:
        """A trial to run; None while all places are taken by trials that may still fail."""
        known = self.ledger.lineages()
        if self.ledger.needs_reclaim(known):
            for origin in self.ledger.reclaim():
                self.say("queued", origin)
            known = self.ledger.lineages()
        waiting = any(lineage.state == "waiting" for lineage in known.values())
        full = sum(lineage.alive for lineage in known.values()) >= self.ledger.n_trials
        if not waiting and (full or not self.stage.draws):
            return None
        count = sum(len(lineage.attempts) for lineage in known.values())
        self.study.sampler = self.stage.sampler(seed_of(self.stage.config.seed, self.post.index, count))
        trial = ask(self.study)
        self._beaten_at = time.monotonic()
        with self.unless_away():  # asked once more, it would be another trial, and this one nobody's until it is stale
            self.storage.record_heartbeat(trial._trial_id)
        return trial

    # --- one trial

    def have_trained(self, trial: optuna.Trial) -> None:
        current = Current(trial, trial.number, int(trial.user_attrs.get(ORIGIN, trial.number)))
        self.patient(lambda: trial.set_user_attr(WORKER, self._name))
        known = self.patient(self.ledger.lineages)
        attempts = known[current.origin].attempts if current.origin in known else ()
        frozen = next((one for one in attempts if one.number == current.number), None) or self.frozen(current)
        if is_surplus(frozen, known, n_trials=self.ledger.n_trials):
            self.patient(lambda: self.ledger.fail(trial, SURPLUS))
            return
        try:
            job = self.patient(lambda: self.stage.job(trial, self.ledger))
        except Exception as error:
            if is_away(error) or isinstance(error, optuna.exceptions.UpdateFinishedTrialError):
                raise
            self.end(current, Outcome("FAIL", reason=_why_no_job(error)))
            return
        job = replace(job, devices=self.post.devices, threads=self.post.threads)
        sha = self.stage.sha(job)
        twin = next((one for one in known.values() if _is_twin(one, current.origin, sha)), None)
        if twin is not None and twin.state != "finished":
            self.patient(lambda: self.ledger.fail(trial, f"{DUPLICATE} of trial {twin.origin}, which runs"))
            self._duplicates += 1
            if self._duplicates > _DUPLICATES_BEFORE_WAIT:
                time.sleep(POLL_SEC)  # a small space: wait for what it would be a copy of
            return
        self._duplicates = 0
        self.patient(lambda: set_user_attrs(trial, {SHA: sha, RUN_UID: job.uid}))
        if twin is not None:
            self.copy(current, job, twin)
            return
        self.say("began", current.number, origin=current.origin)
        outcome = self.train(current, job)
        self.end(current, outcome)
        if self.server_gone:
            raise RuntimeError(SERVER_GONE)  # who started this worker starts another server, and another worker

    def train(self, current: Current, job: Job) -> Outcome:
        """Have the job trained by a child; how it ended, by its word, else by what it left.

        After its last word the child may take a while to be gone: ``await_the_end``, before another one trains.
        """
        self.await_the_end()
        door, channels, ended = Door(), list[Channel](), list[Outcome]()
        asked_at: float | None = None
        process = self._process_for(job, door)
        try:
            while True:
                for ready in self._ready([door, *channels, process.sentinel]):
                    if ready is door:
                        channels.append(door.accept())
                    elif isinstance(ready, Channel):
                        self._hear(ready, channels, current, ended)
                if ended:
                    break
                if not process.is_alive():
                    for channel in list(channels):  # what it said before it went
                        self._hear(channel, channels, current, ended)
                    break
                self.beat(current)
                if self.leaving or current.lost_lease:
                    asked_at = asked_at or time.monotonic()
                    late = current.lost_lease or time.monotonic() - asked_at > SAVE_SEC
                    # Again and again: it may just have been born.
                    signal_process(process, signal.SIGKILL if late else signal.SIGTERM)
        finally:
            orphaned = False
            if ended:
                self._ending = process
            else:
                orphaned = end_process(process)
            for channel in channels:
                channel.close()
            door.close()
        if ended:
            return ended[-1]
        from litmus.tracking import directory_of

        # Killed before it could say so, it may have found that an earlier attempt had ended.
        before = outcome_of(current.directory or directory_of(job.uid, self.stage.home), job.objectives)
        if before is not None:
            return before
        if orphaned:
            self.server_gone = True
            return Outcome("FAIL", reason=f"{LOST}: {SERVER_GONE}")
        return Outcome("FAIL", reason=epitaph(process.exitcode))

    def await_the_end(self) -> None:
        """Of the process of the training before, which said how it went and had nothing left to do."""
        process, self._ending = self._ending, None
        if process is not None:
            process.join(EXIT_SEC)
            end_process(process)

    def _process_for(self, job: Job, door: Door) -> Any:
        """One that trains the job: who stood by, else a new one."""
        try:
            if self._standby is None or not self._standby.give(run_job, job, door.path):
                self.end_standby()
                self._standby = Standby(self._standby_log)
                self._standby.give(run_job, job, door.path)  # if it is gone already, so it is to who waits for its end
        except BaseException:
            door.close()
            raise
        process, self._standby = self._standby.process, None
        return process

    def end_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.end()

    @property
    def _standby_log(self) -> Path:
        return worker_log(self.stage.folder, self.post.index).with_name(f"standby-{self.post.index}.log")

    def _ready(self, sources: list[Any]) -> list[Any]:
        buffered = [source for source in sources if isinstance(source, Channel) and source.holds_more]
        due = self._beaten_at + self.stage.config.heartbeat_sec - time.monotonic()
        return buffered or connection.wait(sources, timeout=max(0.0, min(due, 1.0)))

    def _hear(self, channel: Channel, channels: list[Channel], current: Current, ended: list[Outcome]) -> None:
        try:
            message = channel.receive(0.0)
            if message is None:
                return
            if "reports" in message:
                at = message["reports"][-1][0]
                if not self.stage.prunes:  # the training need not wait for the database
                    channel.send(of=at, stop=current.lost_lease)
                stop = self.report(current, message["reports"])
                if self.stage.prunes:
                    channel.send(of=at, stop=stop)
            elif "opened" in message:
                if current.directory is None:  # the first: a trial's other seeds have folders of their own in it
                    current.directory = Path(message["opened"])
                    self.say("opened", current.number, directory=message["opened"])
                if self._standby is None and not self.leaving:
                    with contextlib.suppress(OSError, EOFError):  # what happened will show when it is needed
                        self._standby = Standby(self._standby_log)
            elif "ended" in message:
                ended.append(Outcome.of(message["ended"]))
        except Closed:
            channels.remove(channel)
            channel.close()

    def report(self, current: Current, reports: list[list[float]]) -> bool:
        """Pass on what is new of a curve; whether the training is to stop. A database that is away stops nothing."""
        if current.reported is None:
            current.reported = set()
        try:
            for at, value in reports:
                if int(at) not in current.reported and math.isfinite(value):
                    current.trial.report(value, int(at))
                    current.reported.add(int(at))
            return self.stage.prunes and bool(current.trial.should_prune())
        except optuna.exceptions.UpdateFinishedTrialError:
            current.lost_lease = True
            return True
        except Exception as error:
            if not is_away(error):
                raise
            return False

    def beat(self, current: Current) -> None:
        """A sign of life, and a look whether the trial is still ours. A database that is away gets it later."""
        study = self.stage.config
        if time.monotonic() - self._beaten_at < study.heartbeat_sec:
            return
        self._beaten_at = time.monotonic()
        with self.unless_away():
            if self.storage.get_trial(current.trial._trial_id).state != TrialState.RUNNING:
                current.lost_lease = True
                return
            self.storage.record_heartbeat(current.trial._trial_id)

    # --- its end

    def end(self, current: Current, outcome: Outcome) -> None:
        """Tell Optuna, once and for all; what another has ended meanwhile stays as it is."""
        facts: dict[str, Any] = {"state": outcome.state, "values": list(outcome.values), "reason": outcome.reason}
        facts |= {"epochs": outcome.epochs, "seconds": outcome.seconds, "origin": current.origin}
        if current.lost_lease:
            self.say("superseded", current.number, **facts)
            return
        if outcome.state == "COMPLETE" and not all(map(math.isfinite, outcome.values)):
            says = ", ".join(f"{value:g}" for value in outcome.values)
            outcome = replace(outcome, state="FAIL", reason=f"not finite: the objective is {says}")
        if outcome.state == "STOPPED":
            by = "its worker was asked to stop" if self.leaving else "its process was asked to stop"
            outcome = replace(outcome, reason=f"{STOPPED}: {by}")
        told = self.patient(lambda: self.tell(current, outcome))
        if not told:
            self.say("superseded", current.number, **facts)
            return
        if outcome.state in ("COMPLETE", "PRUNED"):
            clear(current.directory)
        elif outcome.state == "FAIL" and not outcome.reason.startswith(LOST):
            directory = self.patient(lambda: record_failure(self.stage, self.ledger, self.frozen(current)))
            if current.directory is None and directory is not None:
                self.say("opened", current.number, directory=str(directory))
        self.say("ended", current.number, **facts | {"state": outcome.state, "reason": outcome.reason})
        if outcome.state == "STOPPED" or outcome.reason.startswith(LOST):
            with self.unless_away():  # else whoever comes next finds it pending
                self.ledger.reclaim()

    def tell(self, current: Current, outcome: Outcome) -> bool:
        """False if the trial had ended already, by somebody else's word."""
        trial = current.trial
        try:
            spent = {EPOCHS: outcome.epochs, SECONDS: round(outcome.seconds, 3)}
            if any(spent.values()):
                set_user_attrs(trial, {key: value for key, value in spent.items() if value})
            if outcome.state == "COMPLETE":
                return self._told(current, TrialState.COMPLETE, list(outcome.values))
            if outcome.state == "PRUNED":
                for at, value in enumerate(outcome.reports):
                    self.report(current, [[at, value]])
                if not trial.params:
                    return self.ledger.fail(trial, "pruned without parameters")  # would empty TPE's space for ever
                return self._told(current, TrialState.PRUNED, None)
            return self.ledger.fail(trial, outcome.reason)
        except optuna.exceptions.UpdateFinishedTrialError:
            return self.frozen(current).state.name == outcome.state

    def _told(self, current: Current, state: TrialState, values: list[float] | None) -> bool:
        found = self.study.tell(current.trial, values, state=state, skip_if_finished=True)
        return found.state == state

    def copy(self, current: Current, job: Job, twin: Lineage) -> None:
        """End a trial of a config that was trained before as that one ended: it would come to the same, bit for bit."""
        last = twin.last
        self.patient(lambda: current.trial.set_user_attr(DUPLICATE_OF, twin.origin))
        self.say("began", current.number, origin=current.origin)
        if last.state == TrialState.COMPLETE:
            outcome = Outcome("COMPLETE", tuple(last.values))
        else:
            curve = tuple(last.intermediate_values[at] for at in sorted(last.intermediate_values))
            outcome = Outcome("PRUNED", reports=curve)
        current.directory = self.stage.record_copy(job, twin, outcome)
        self.say("opened", current.number, directory=str(current.directory))
        self.end(current, outcome)

    # --- the database

    def frozen(self, current: Current) -> FrozenTrial:
        return self.storage.get_trial(current.trial._trial_id)

    def patient(self, call: Callable[[], T]) -> T:
        """``call``, again while the database is away; leaves when asked to."""

        def on_wait() -> None:
            if self.leaving:
                raise Leave

        return patiently(
            call, patience_sec=PATIENCE_SEC, say=lambda text: self.say("note", -1, says=text), on_wait=on_wait
        )

    @contextlib.contextmanager
    def unless_away(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_away(error):
                raise

    def say(self, word: str, number: int, **facts: Any) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: we end with who started us
            self.news.send((word, number, facts))


def worker_log(folder: Path, index: int) -> Path:
    return (folder / "logs" / f"worker-{index}.log").absolute()


def seed_of(seed: int, worker: int, num_trials: int) -> int:
    """Of a sampler that is made anew for each trial: a restart of the search draws no number again."""
    from litmus.jobs.job import uid_of

    return int(uid_of(str(seed), worker, num_trials)[:8], 16)


def record_failure(stage: Stage, ledger: Ledger, trial: FrozenTrial) -> Path | None:
    """See to it that the run of a trial which failed for good says FAILED, and why; its directory.

    Its process may have ended without a word, before it had begun a run, or its worker before it could do this: whoever
    comes next on the same machine does it.
    """
    from litmus.errors import Refused
    from litmus.tracking import directory_of

    if RUN_UID not in trial.user_attrs:
        return None  # it never was a config that could be trained
    reason = reason_of(trial)
    directory = directory_of(ledger.uid_of(trial), stage.home)
    try:
        if directory is None or not _has_begun(directory):
            return stage.record_failed(stage.job_again(trial, ledger), reason)
        settle(directory, reason)
    except Refused:  # somebody is at it
        return None
    return directory


def _has_begun(directory: Path) -> bool:
    """Whether the run got as far as its tags and parameters; its process may have been killed in between."""
    from litmus.tracking.spool import Spool
    from litmus.tracking.store import UID_TAG

    with Spool(directory) as spool:
        return UID_TAG in spool.texts("tag")


def settle(directory: Path, reason: str) -> None:
    """Say FAILED of a run whose process could not do so itself, or of which all that was known is that it was gone."""
    from litmus.tracking import Run
    from litmus.tracking.spool import Spool

    with Spool(directory) as spool:
        if spool.status in ("FINISHED", "FAILED"):
            return
    tracked = Run.take_over(directory, send="off")
    tracked.set_tags({"litmus.fail_reason": reason, "litmus.state": "FAIL"})
    tracked.finish("FAILED")


def _is_twin(lineage: Lineage, origin: int, sha: str) -> bool:
    """Whether it is another trial of the same config, which was trained or is older."""
    if lineage.origin == origin or lineage.last.user_attrs.get(SHA) != sha:
        return False
    return lineage.state == "finished" or (lineage.state in ("running", "waiting") and lineage.origin < origin)


def _why_no_job(error: Exception) -> str:
    from litmus.jobs.job import reason_for

    return reason_for(error)
