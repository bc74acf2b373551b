"""The process that trains one trial: it knows a config and a door to knock at, and nothing of Optuna.

So a process that dies of memory, of its own code or of a signal takes nothing along. What it came to is in its run
directory before anybody is told: who runs the same trial again finds it there, finished or ready to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from litmus.channel import Channel, Closed
from litmus.config import RunConfig
from litmus.errors import DiskTrouble, NonFinite, Refused
from litmus.stopping import Signals, Stopped

EXTRA_SEEDS = "seeds"
"""Folder of a run directory: trainings of the same trial by other seeds, which are no runs of their own in MLflow."""

LOST = "lost"
"""First word of the reason of what ended for no fault of its own, and is run again."""

State = Literal["COMPLETE", "PRUNED", "FAIL", "STOPPED"]


@dataclass(frozen=True)
class Job:
    """One trial, ready to be trained.

    Attributes:
        seeds: of its trainings, the config's first; the objective is their mean.
        objectives: names of ``OBJECTIVES``.
        metric: that is reported at each validation; None where nothing may end the training early.
        devices: for CUDA_VISIBLE_DEVICES, empty to leave it.
        log: takes what the training prints.
        splits: evaluated in the end. Never test where anything is chosen by the outcome.
        evicts: whether another process that still holds the run directory is ended; else this one fails, as ``Busy``.
    """

    config: RunConfig
    kind: str
    name: str
    uid: str
    parent_uid: str
    tags: Mapping[str, str]
    seeds: tuple[int, ...]
    objectives: tuple[str, ...]
    metric: str | None
    log: Path
    devices: tuple[str, ...] = ()
    threads: int = 1
    splits: tuple[str, ...] = ("train_eval", "val")
    evicts: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a trial came to. ``values`` are those of the objectives of a COMPLETE one, ``reports`` a PRUNED one's."""

    state: State
    values: tuple[float, ...] = ()
    reason: str = ""
    epochs: float = 0.0
    seconds: float = 0.0
    reports: tuple[float, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "values": list(self.values), "reports": list(self.reports)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Outcome:
        return cls(**{**plain, "values": tuple(plain["values"]), "reports": tuple(plain["reports"])})


def uid_of(root: str, *parts: object) -> str:
    """32 hexadecimal digits for a run below ``root``, a study or a sweep: whoever computes them finds the same run."""
    return blake2b("/".join(map(str, (root, *parts))).encode(), digest_size=16).hexdigest()


def outcome_of(directory: Path | None, objectives: Sequence[str]) -> Outcome | None:
    """What the run in ``directory`` came to; None if it has not ended by itself."""
    from litmus.experiment import PRUNED, RESULT, objective_of
    from litmus.tracking.spool import ARTIFACTS, Spool

    if directory is None:
        return None
    with Spool(directory) as spool:
        status = spool.status
    artifacts = directory / ARTIFACTS
    if status == "FINISHED" and (artifacts / RESULT).is_file():
        result = json.loads((artifacts / RESULT).read_text())
        values = tuple(objective_of(result, name) for name in objectives)
        return Outcome("COMPLETE", values, epochs=result["epochs"], seconds=result["trained_sec"])
    if status == "KILLED" and (artifacts / PRUNED).is_file():
        pruned = json.loads((artifacts / PRUNED).read_text())
        return Outcome("PRUNED", epochs=pruned["epochs"], reports=tuple(pruned["reports"]))
    return None


# --- the process ------------------------------------------------------------------------------------------------------


def stand_by(hear: Connection, log: Path) -> None:
    """A fresh fork that waits for what to do, (function, arguments); it leaves when it gets nothing."""
    stand_apart(log)
    try:
        function, arguments = hear.recv()
    except (EOFError, OSError):
        os._exit(0)
    hear.close()
    function(*arguments)


def run_job(job: Job, door: str, then: Callable[[Path], None] | None = None) -> None:
    """Train ``job`` in this process, a fresh fork that stands apart, and say at ``door`` how it went.

    ``then`` is called with the run directory of one that is complete, and is a part of it: where it raises, the job
    has failed, though its run has not.
    """
    began = time.monotonic()
    write_to(job.log)
    if job.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
    import torch

    torch.set_num_threads(job.threads)
    print(f"--- {job.name}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
    code, channel = 0, Channel.to(door)
    with Signals() as signals:
        try:
            outcome = train_job(job, signals, channel, door)
            if then is not None and outcome.state == "COMPLETE":
                from litmus.tracking import directory_of

                directory = directory_of(job.uid, job.config.tracking.home)
                assert directory is not None
                then(directory)
        except Stopped as stopped:
            outcome, code = Outcome("STOPPED", reason=str(stopped)), stopped.exit_code
        except Exception as error:
            traceback.print_exc()
            outcome, code = Outcome("FAIL", reason=reason_for(error)), 1
        signals.deferred = True
        with_time = replace(outcome, seconds=outcome.seconds or time.monotonic() - began)
        try:
            channel.send(ended=with_time.plain())
        except Closed:
            print("nobody is there to hear how it ended; it is in the run directory")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Busy(RuntimeError):
    """Another process still holds the run directory."""


def reason_for(error: Exception) -> str:
    """What a trial failed of, its class of failure first."""
    import torch

    says = " ".join(str(error).split())[:400]
    if isinstance(error, Refused):
        return "refused: " + "; ".join(map(str, error.problems))
    if isinstance(error, NonFinite):
        return f"not finite: {str(error).splitlines()[0]}"
    if isinstance(error, Busy):
        return f"{LOST}: {says}"
    if isinstance(error, DiskTrouble):
        return f"disk: {says}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory: {says or 'no more to be had'}"
    return f"error: {type(error).__name__}: {says}"


def end_with_worker() -> None:
    """End at once when the worker that started this process is gone, whatever it waits in: the trial is run again."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(0, signal.SIGKILL)  # the group that setsid made: ranks and loader processes, too

    threading.Thread(target=wait, name="litmus-worker-watch", daemon=True).start()


def stand_apart(log: Path | None = None) -> None:
    """A process of its own among those of a study: out of the terminal's reach (Ctrl-C is for who was typed), gone with
    who started it, and, with ``log``, writing there."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if log is not None:
        write_to(log)
    end_with_worker()


def write_to(log: Path) -> None:
    """From now on, all that this process prints."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def train_job(job: Job, signals: Signals, channel: Channel, door: str) -> Outcome:
    """All trainings of a job; each is taken up where an earlier attempt left it."""
    from litmus.experiment import RESULT, logged_objective
    from litmus.tracking import Run, directory_of
    from litmus.tracking.spool import ARTIFACTS

    home = job.config.tracking.home
    outcome = _train(job, job.config, job.uid, home, signals, channel, door)
    directory = directory_of(job.uid, home)
    if outcome.state != "COMPLETE" or len(job.seeds) == 1 or directory is None:
        return outcome
    apart = {"tracking": {**job.config.tracking.model_dump(), "home": str(directory / EXTRA_SEEDS), "offline": True}}
    outcomes = [outcome]
    for seed in job.seeds[1:]:
        config = RunConfig.model_validate({**job.config.model_dump(), **apart, "seed": seed})
        alone = replace(job, kind="seed", name=f"{job.name}-seed{seed}", metric=None)
        outcomes.append(_train(alone, config, uid_of(job.uid, seed), config.tracking.home, signals, channel, door))
    means = [sum(values) / len(outcomes) for values in zip(*(one.values for one in outcomes), strict=True)]
    with Run.reopen(directory) as tracked:
        for number, one in enumerate(outcomes):
            values = dict(zip(job.objectives, one.values, strict=True))
            tracked.log_metrics({f"seed_{logged_objective(name)}": v for name, v in values.items()}, step=number)
        mean = {logged_objective(name): v for name, v in zip(job.objectives, means, strict=True)}
        table = json.loads((directory / ARTIFACTS / RESULT).read_text())
        tracked.log_metrics(mean, step=table["evaluated"]["step"] + 1)  # after the first seed's own
    return Outcome(
        "COMPLETE",
        tuple(means),
        epochs=sum(one.epochs for one in outcomes),
        seconds=sum(one.seconds for one in outcomes),
    )


def _train(job: Job, config: RunConfig, uid: str, home: str, signals: Signals, channel: Channel, door: str) -> Outcome:
    from litmus.experiment import conduct, open_run, quiet_libraries
    from litmus.launch import beginning_of, scope_of, supervise
    from litmus.resume import Resume
    from litmus.tracking import directory_of

    directory, resume = directory_of(uid, home), None
    if directory is not None:
        evict(directory, patience_sec=20.0 if job.evicts else 0.0, end=job.evicts)
        if (before := outcome_of(directory, job.objectives)) is not None:
            print("an earlier attempt had ended: nothing is trained again")
            channel.send(opened=str(directory))
            return before
        resume = Resume(uid, directory, job.name)
    scope = {
        "splits": list(job.splits),
        "pictures": False,
        "objectives": list(job.objectives),
        "metric": job.metric,
        "address": door,
    }
    with quiet_libraries():
        record = {"kind": job.kind, "uid": uid, "name": job.name, "parent_uid": job.parent_uid or None}
        how: dict[str, Any] = {**record, "tags": dict(job.tags), "send": "off"}
        try:
            opened = open_run(config, resume=resume, **how)
        except Refused as refused:
            if resume is None or not any("begin anew" in str(problem) for problem in refused.problems):
                raise
            shutil.rmtree(resume.checkpoints)  # none of them is whole
            opened = open_run(config, resume=resume, **how)
        folder = opened.tracked.dir
        channel.send(opened=str(folder))
        if config.train.world_size == 1:
            conduct(opened, folder, signals, say=print, scope=scope_of({"scope": scope}))
        else:
            with opened.tracked as tracked:
                tracked.hand_over()
            signals.obey()
            code = supervise(folder, opened.config, {**beginning_of(opened), "scope": scope})
            if code > 128:
                raise Stopped(code - 128)
            if code:
                raise _as_raised(fail_reason_of(folder) or f"its processes ended with exit code {code}")
    outcome = outcome_of(folder, job.objectives)
    if outcome is None:
        raise RuntimeError("the training ended without a result")
    return outcome


def _as_raised(reason: str) -> Exception:
    """The error of another process, from its class and what it said: a trial fails of the same in one or in two."""
    known: dict[str, type[Exception]] = {"NonFinite": NonFinite, "DiskTrouble": DiskTrouble}
    known |= {"OutOfMemoryError": MemoryError, "MemoryError": MemoryError}
    name, _, says = reason.partition(": ")
    return known[name](says) if name in known else RuntimeError(reason)


def fail_reason_of(directory: Path) -> str:
    from litmus.tracking.spool import Spool

    with Spool(directory) as spool:
        return spool.texts("tag").get("litmus.fail_reason", "")


def evict(directory: Path, *, patience_sec: float = 20.0, end: bool = True) -> None:
    """With ``end``, end the process of an earlier attempt that still holds the run directory: it is its no longer.

    Such a one is left where a worker was stopped for longer than the grace period, and its child trains on. Of another
    machine nothing can be ended: it is waited for, and, being told at its next report, stops by itself.

    Raises:
        Busy: it is still there after ``patience_sec``.
    """
    from litmus.tracking.delivery import OWNER_LOCK
    from litmus.tracking.spool import Lock, Spool

    until = time.monotonic() + patience_sec
    lock = Lock(directory / OWNER_LOCK)
    while not lock.acquire():
        with Spool(directory) as spool:
            pid, host = spool.meta.get("owner_pid", ""), spool.meta.get("owner_host", "")
        if end and host == socket.gethostname() and pid.isdigit() and int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)  # the lock is held, so the process that holds it lives, and is this
        if time.monotonic() > until:
            raise Busy(f"{directory} is still in use by process {pid} on {host}")
        time.sleep(0.1)
    lock.release()


def clear(directory: Path | None) -> None:
    """Remove the checkpoints of a training that has ended for good: its weights are an artifact, nothing resumes."""
    if directory is not None:
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        for extra in directory.glob("seeds/runs/*/checkpoints"):
            shutil.rmtree(extra, ignore_errors=True)
