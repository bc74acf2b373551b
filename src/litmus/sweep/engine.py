"""Trains the cells of a sweep, several at a time, each in a process of its own; what is there already is taken.

Nothing has to be written down of how far it got: a cell that is finished has a run that says so, and one that was
stopped or killed goes on from its checkpoint. So the same command again does what is left.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litmus.channel import Channel, Closed, Door
from litmus.config import RunConfig, deciding
from litmus.errors import Problem, Refused
from litmus.jobs.forks import Standby, answer_of, end_process, epitaph, signal_process
from litmus.jobs.job import LOST, Job, Outcome, clear, outcome_of, run_job, stand_apart
from litmus.jobs.posts import Post
from litmus.sweep.cells import Cell, Measure, cell_uid
from litmus.sweep.look import kept, measure_all

if TYPE_CHECKING:
    from litmus.data.batch import DataInfo

ATTEMPTS = 3
"""How often a training is begun whose process is killed: by the system for want of memory, or by anybody."""
SAVE_SEC = 60.0
"""How long trainings may take to save their state when they are asked to stop."""
BUSY_SEC = 1.0
"""How long a cell that another command trains is left alone before it is looked at again."""
EXIT_SEC = 10.0
MAX_NAME = 100
NOT_FINITE = "not finite"
"""First words of the reason of a training that diverged: an answer, which is not asked for again."""


@dataclass(frozen=True)
class Planned:
    """A cell with which nothing is wrong. ``data`` is the digest of its images and splits, and of the weights that it
    starts from, where it starts from any."""

    cell: Cell
    uid: str
    data: str


@dataclass(frozen=True)
class Done:
    """What became of a cell: COMPLETE, or FAIL with a reason.

    Attributes:
        directory: of its run; None where it never began one.
        found: whether it had been trained before.
    """

    cell: Cell
    outcome: Outcome
    directory: Path | None
    found: bool = False

    @property
    def diverged(self) -> bool:
        return self.outcome.state == "FAIL" and self.outcome.reason.startswith(NOT_FINITE)

    @property
    def complete(self) -> bool:
        return self.outcome.state == "COMPLETE"

    def result(self) -> dict[str, Any]:
        """``result.json`` of a complete one."""
        assert self.directory is not None
        return dict(json.loads((self.directory / "artifacts" / "result.json").read_text()))

    def measured(self, measure: Measure) -> dict[str, Any]:
        """What ``measure`` found of a complete one."""
        found = kept(self.directory, measure) if self.directory is not None else None
        if found is None:
            raise RuntimeError(f"{self.cell.name}: {measure.function} was not measured")
        return found

    def history(self, metric: str) -> list[tuple[int, float]]:
        """(step, value), of one that began."""
        from litmus.tracking.spool import Spool

        if self.directory is None:
            return []
        with Spool(self.directory) as spool:
            return [(step, value) for step, value, _ in spool.history(metric)]


def plan(cells: Sequence[Cell], *, source: str = "config") -> list[Planned]:
    """Check every cell against data and network, in a process apart, and name its run.

    Raises:
        Refused: everything that is wrong, with the names of the cells.
    """
    problems, resolved, digests = answer_of(_check, ([cell.config for cell in cells],), "the check of the configs")
    if problems:
        named: dict[str, tuple[Problem, list[str]]] = {}
        for at, problem in problems:
            named.setdefault(str(problem), (problem, []))[1].append(cells[at].name)
        raise Refused([_with_names(problem, names, len(cells)) for problem, names in named.values()], source=source)
    return [
        Planned(Cell(cell.name, config, cell.measures), cell_uid(config, digest, cell.measures), digest)
        for cell, config, digest in zip(cells, resolved, digests, strict=True)
    ]


def data_of(config: RunConfig, *, source: str = "config") -> DataInfo:
    """What the data of a config are, found out in a process apart.

    Raises:
        Refused: data that are not there or not right.
    """
    problems, info = answer_of(_look_at, (config,), "the look at the data")
    if problems:
        raise Refused(problems, source=source)
    return info


def _look_at(config: RunConfig, tell: Any) -> None:
    from litmus.experiment import make_data, quiet_libraries
    from litmus.weights import follow_weights

    stand_apart()
    with quiet_libraries():
        try:
            tell.send(([], make_data(follow_weights(config)).prepare()))
        except Refused as refused:
            tell.send((refused.problems, None))


def _with_names(problem: Problem, names: Sequence[str], of: int) -> Problem:
    if len(names) == of:
        return problem
    shown = "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Problem(problem.where, f"{problem.says} (in {shown})", problem.value)


def _check(configs: Sequence[RunConfig], tell: Any) -> None:
    """Problems as (place, problem), configs with their weights found, and digests of their data."""
    from litmus.experiment import check, make_data, quiet_libraries
    from litmus.weights import digest_of_file, find_weights, follow_weights

    stand_apart()
    problems: list[tuple[int, Problem]] = []
    resolved, digests = list(configs), [""] * len(configs)
    seen: dict[Any, Any] = {}
    with quiet_libraries():
        for at, given in enumerate(configs):
            try:
                config = resolved[at] = follow_weights(given)
                data = json.dumps(config.data.model_dump(mode="json"), sort_keys=True)
                if data not in seen:
                    seen[data] = make_data(config).prepare()
                info = seen[data]
                digests[at] = f"{info.digest}/{info.split_digest}"
                if (origin := find_weights(config)) is not None:
                    if origin.file not in seen:
                        seen[origin.file] = digest_of_file(origin.file)
                    digests[at] += f"/{seen[origin.file]}"
                shape = _shape(config)
                if shape not in seen:
                    seen[shape] = check(config, info)
                problems += [(at, problem) for problem in seen[shape]]
            except Refused as refused:
                problems += [(at, problem) for problem in refused.problems]
    tell.send((problems, resolved, digests))


def _shape(config: RunConfig) -> str:
    """What ``check`` looks at: without the rates and strengths that no network or image can contradict."""
    idle = {"seed", "train.epochs", "train.steps", *(f"optim.{key}" for key in ("lr", "l2_lambda", "l1_lambda"))}
    plain = {k: v for k, v in deciding(config).items() if k not in idle and not k.startswith("early_stopping")}
    return json.dumps(plain, sort_keys=True, default=str)


@dataclass
class _Slot:
    """One training at a time, at its post."""

    post: Post
    log: Path
    planned: Planned | None = None
    process: Any = None
    door: Any = None
    channels: list[Channel] = field(default_factory=list)
    standby: Standby | None = None
    ended: Outcome | None = None
    directory: Path | None = None

    @property
    def busy(self) -> bool:
        return self.planned is not None

    def begin(self, planned: Planned, job: Job, then: Any) -> None:
        self.planned, self.door, self.ended, self.directory = planned, Door(), None, None
        if self.standby is None or not self.standby.give(run_job, job, self.door.path, then):
            self.end_standby()
            self.standby = Standby(self.log)
            self.standby.give(run_job, job, self.door.path, then)
        self.process, self.standby = self.standby.process, None

    def prepare(self) -> None:
        """Begin the process that will train the next cell."""
        if self.standby is None:
            with contextlib.suppress(OSError, EOFError):
                self.standby = Standby(self.log)

    def end_standby(self) -> None:
        if self.standby is not None:
            self.standby.end()
            self.standby = None

    def sources(self) -> list[Any]:
        return [self.door, *self.channels, self.process.sentinel] if self.busy else []

    def listen(self, ready: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """What was heard: ("opened", directory)."""
        if self.door in ready:
            self.channels.append(self.door.accept())
            return
        dead = not self.process.is_alive()
        for channel in list(self.channels):
            if not (dead or channel in ready or channel.holds_more):
                continue
            try:
                while (message := channel.receive(0.0)) is not None:
                    if "opened" in message and self.directory is None:
                        self.directory = Path(message["opened"])
                        yield "opened", self.directory
                    elif "ended" in message:
                        self.ended = Outcome.of(message["ended"])
            except Closed:
                channel.close()
                self.channels.remove(channel)

    def outcome(self) -> Outcome | None:
        """How it ended, once it has; then the slot is free."""
        if self.ended is None and self.process.is_alive():
            return None
        found = self.ended
        if found is not None:
            self.process.join(EXIT_SEC)
        end_process(self.process)
        if found is None:
            found = Outcome("FAIL", reason=f"{LOST}: {epitaph(self.process.exitcode)}")
        self.close()
        return found

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        if self.door is not None:
            self.door.close()
        self.channels, self.planned, self.door = [], None, None

    def kill(self) -> None:
        if self.busy:
            end_process(self.process)
            self.close()
        self.end_standby()


class Sweep:
    """Trains what is planned; iterate over ``run()``, which yields each cell as it is done.

    Args:
        planned: cells; two of one training are trained once.
        posts: how many at a time, and where.
        home: of the runs.
        parent_uid: the run that they hang under in MLflow; a run that was there before stays where it is.
        kind: of their runs.
        prefix: of their runs' names.
        tags: of their runs.
        splits: evaluated at the end of each training.
        on_open: called with each run directory as it is begun.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        posts: Sequence[Post],
        *,
        home: Path,
        parent_uid: str,
        kind: str,
        prefix: str,
        tags: Mapping[str, str],
        logs: Path,
        splits: tuple[str, ...] = ("train_eval", "val"),
        on_open: Callable[[Path], None] = lambda directory: None,
    ):
        self.home, self.parent_uid, self.kind, self.prefix = home, parent_uid, kind, prefix
        self.tags, self.splits, self.logs, self.on_open = dict(tags), splits, logs, on_open
        self.by_uid: dict[str, list[Planned]] = {}
        for one in planned:
            self.by_uid.setdefault(one.uid, []).append(one)
        self._slots = [_Slot(post, logs / f"standby-{post.index}.log") for post in posts]
        self._waiting: deque[tuple[float, Planned]] = deque()
        self._begun: dict[str, int] = {}
        self._leaving_since: float | None = None

    @property
    def running(self) -> int:
        return sum(slot.busy for slot in self._slots)

    def leave(self) -> None:
        """Ask the trainings to save their state and end; nothing more is begun."""
        self._leaving_since = self._leaving_since or time.monotonic()

    def kill(self) -> None:
        for slot in self._slots:
            slot.kill()

    def run(self, tick_sec: float = 0.5) -> Iterator[list[Done]]:
        """What is done since the last time, at least every ``tick_sec``; first what had been done before."""
        there = []
        for group in self.by_uid.values():
            before = self._before(group)
            if before is None:
                self._waiting.append((0.0, group[0]))
            else:
                there += before
        yield there
        try:
            while (self._waiting and self._leaving_since is None) or self.running:
                self._begin()
                yield self._listen(tick_sec)
                self._press()
        finally:
            self.kill()

    def _before(self, group: Sequence[Planned]) -> list[Done] | None:
        """What the run of these cells came to, if nothing is left to do."""
        from litmus.tracking import directory_of

        directory = directory_of(group[0].uid, self.home)
        outcome = outcome_of(directory, ())
        if outcome is None:
            outcome = diverged_before(directory)
        elif any(kept(directory, measure) is None for measure in measures_of(group)):  # type: ignore[arg-type]
            return None
        if outcome is None:
            return None
        return [Done(one.cell, outcome, directory, found=True) for one in group]

    def _begin(self) -> None:
        if self._leaving_since is not None:
            return
        for slot in self._slots:
            if slot.busy or not self._waiting:
                continue
            not_before, planned = self._waiting[0]
            if time.monotonic() < not_before:
                return
            self._waiting.popleft()
            self._begun[planned.uid] = self._begun.get(planned.uid, 0) + 1
            group = self.by_uid[planned.uid]
            then = partial(_measure, str(self.home), measures_of(group))
            slot.begin(planned, self.job(planned, slot.post), then)

    def job(self, planned: Planned, post: Post) -> Job:
        config = planned.cell.config
        name = f"{self.prefix}-{slug(planned.cell.name)}"[:MAX_NAME]
        tracking = {**config.tracking.model_dump(), "home": str(self.home)}
        config = RunConfig.model_validate({**config.model_dump(), "tracking": tracking, "insight": False})
        return Job(
            config=config,
            kind=self.kind,
            name=name,
            uid=planned.uid,
            parent_uid=self.parent_uid,
            tags={**self.tags, "litmus.cell": planned.cell.name, "litmus.fail_reason": ""},
            seeds=(config.seed,),
            objectives=(),
            metric=None,
            log=self.logs / f"{name}.log",
            devices=post.devices,
            threads=post.threads,
            splits=self.splits,
            evicts=False,
        )

    def _listen(self, timeout_sec: float) -> list[Done]:
        buffered = any(channel.holds_more for slot in self._slots for channel in slot.channels)
        sources = [source for slot in self._slots for source in slot.sources()]
        if not sources:
            time.sleep(min(timeout_sec, 0.1))
            return []
        ready = connection.wait(sources, 0.0 if buffered else timeout_sec)
        done: list[Done] = []
        for slot in self._slots:
            if not slot.busy:
                continue
            for word, what in slot.listen(ready):
                if word == "opened":
                    self.on_open(what)
                    if len(self._waiting) > sum(other.standby is not None for other in self._slots):
                        slot.prepare()
            planned, directory = slot.planned, slot.directory
            outcome = slot.outcome()
            if outcome is not None:
                assert planned is not None
                done += self._ended(planned, outcome, directory)
        return done

    def _ended(self, planned: Planned, outcome: Outcome, directory: Path | None) -> list[Done]:
        """What is known now; nothing where it is to be tried again."""
        if outcome.state == "STOPPED":
            if self._leaving_since is not None:
                return []
            outcome = Outcome("FAIL", reason=f"{LOST}: {outcome.reason}")  # by somebody else: it goes on
        if outcome.state == "FAIL" and outcome.reason.startswith(LOST):
            if "still in use" in outcome.reason:  # another command trains it
                self._begun[planned.uid] -= 1
                self._waiting.append((time.monotonic() + BUSY_SEC, planned))
                return []
            if self._leaving_since is not None:
                return []
            if self._begun[planned.uid] < ATTEMPTS:
                self._waiting.appendleft((0.0, planned))
                return []
        done = [Done(one.cell, outcome, directory) for one in self.by_uid[planned.uid]]
        if done[0].complete or done[0].diverged:
            clear(directory)
        return done

    def _press(self) -> None:
        if self._leaving_since is None:
            return
        late = time.monotonic() - self._leaving_since > SAVE_SEC
        for slot in self._slots:
            if slot.busy:
                signal_process(slot.process, signal.SIGKILL if late else signal.SIGTERM)


def slug(text: str) -> str:
    """A cell's name as a run's: ``n=50, seed 3`` as ``n-50-seed-3``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")


def measures_of(group: Sequence[Planned]) -> tuple[Measure, ...]:
    """What is wanted of one training by all cells that share it, each once."""
    return tuple({measure.key: measure for one in group for measure in one.cell.measures}.values())


def _measure(home: str, measures: tuple[Measure, ...], directory: Path) -> None:
    measure_all(str(directory), home, measures)


def diverged_before(directory: Path | None) -> Outcome | None:
    """That the run in ``directory`` had become NaN or infinite, if it had: it would again."""
    from litmus.tracking.spool import Spool

    if directory is None:
        return None
    with Spool(directory) as spool:
        status, reason = spool.status, spool.texts("tag").get("litmus.fail_reason", "")
    if status == "FAILED" and reason.startswith("NonFinite"):
        return Outcome("FAIL", reason=f"{NOT_FINITE}: {reason.partition(': ')[2].splitlines()[0]}")
    return None
