"""An experiment of many trainings, from the command that is typed to its record: the parent run of its cells."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from litmus.config import RunConfig, deciding, dump_config, flatten
from litmus.jobs.forks import CONTEXT
from litmus.jobs.job import uid_of
from litmus.jobs.posts import Post, here, make_posts
from litmus.paths import shown
from litmus.stopping import Stopped
from litmus.sweep.board import Board
from litmus.sweep.cells import Cell
from litmus.sweep.engine import Done, Planned, Sweep, plan

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What was typed of where to train."""

    workers: int | None = None
    devices: tuple[str, ...] = ()
    share: bool = False


class Incomplete(RuntimeError):
    """Some trainings came to no answer. The command line exits 1; the same command tries them again."""


def posts_for(base: RunConfig, options: Options, *, num_cells: int, source: str) -> list[Post]:
    """A training for each device; on processors as many as there are cores, with a thread each.

    A small network trains hardly faster on two threads than on one, and two at a time nearly twice as fast.
    """
    machine = here()
    on_gpu = base.train.accelerator == "gpu" or (base.train.accelerator == "auto" and machine["gpus"] > 0)
    workers = options.workers
    if workers is None and not on_gpu:
        workers = max(1, min(machine["cores"] // base.train.devices, num_cells))
    posts = make_posts(
        workers=workers,
        devices=options.devices,
        share=options.share,
        per_trial=base.train.devices,
        accelerator=base.train.accelerator,
        **machine,
        source=source,
    )
    return posts[:num_cells] or posts


class Experiment:
    """A parent run, and the trainings below it.

    Used as a context manager: whatever happens, the record says how it ended.

    Args:
        kind: of the parent run, ``curve``, ``decompose``, ``claim``; its cells are of kind ``cell``.
        name: of the parent run.
        base: what the cells have in common: where they are kept and sent.
        typed: the command, to be typed again.
        params: of the parent run, beside the base config.
        splits: evaluated at the end of each training.

    Attributes:
        run: the parent's record, from ``__enter__`` on.
    """

    def __init__(
        self,
        *,
        kind: str,
        name: str,
        base: RunConfig,
        typed: Sequence[str],
        options: Options | None = None,
        params: Mapping[str, Any] | None = None,
        experiment: str | None = None,
        splits: tuple[str, ...] = ("train_eval", "val"),
        say: Say = print,
    ):
        self.kind, self.name, self.base, self.typed, self.say = kind, name, base, list(typed), say
        self.options, self.params, self.splits = options or Options(), dict(params or {}), splits
        self.experiment = experiment or base.tracking.experiment or f"litmus/{base.data.name}"
        self.home = Path(base.tracking.home)
        self.run: Any = None
        self._planned: list[Planned] = []
        self._done: dict[str, Done] = {}
        self._links: dict[Path, Any] = {}
        self._signum: int | None = None
        self._before: dict[int, Any] = {}
        self._sweep: Sweep | None = None

    @property
    def again(self) -> str:
        return shlex.join(["litmus", *self.typed])

    def __enter__(self) -> Experiment:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if self._sweep is not None:
                self._sweep.kill()
            if self.run is not None:
                status = "FINISHED" if error is None else "KILLED" if isinstance(error, Stopped) else "FAILED"
                if error is not None:
                    self.run.set_tags({"litmus.fail_reason": f"{type(error).__name__}: {str(error)[:400]}"})
                self.run.finish(status)
                self._wait_sent()
        finally:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None and signum == signal.SIGINT:
            if self._sweep is not None:
                self._sweep.kill()
            os._exit(128 + signum)
        self._signum = signum
        if self._sweep is None:
            raise Stopped(signum)

    # --- the trainings

    def plan(self, cells: Sequence[Cell]) -> None:
        """Refuse what is wrong with any cell, then open the parent run.

        Raises:
            Refused: everything that is wrong; then there is no record.
        """
        CONTEXT.set_forkserver_preload(["litmus.jobs.warm"])
        self._add(cells)
        self.run = self._start()

    def extend(self, cells: Sequence[Cell]) -> None:
        """More cells, known once those before are done: they start from the others' weights, or were chosen by what
        came of them. The record stays the one that ``plan`` opened.

        Raises:
            Refused: everything that is wrong with them.
        """
        self._add(cells)

    def _add(self, cells: Sequence[Cell]) -> None:
        names = [cell.name for cell in cells] + [one.cell.name for one in self._planned]
        if len(set(names)) < len(names):
            raise ValueError("the cells of an experiment have names of their own")
        source = f"litmus {self.typed[0]}"
        self.posts = posts_for(self.base, self.options, num_cells=len(cells), source=source)
        self._planned += plan(cells, source=source) if cells else []

    def _start(self) -> Any:
        from litmus.tracking import Run, environment, environment_tags

        asked, cells = {**deciding(self.base), **self.params}, sorted({one.uid for one in self._planned})
        run = Run.start(
            home=self.home,
            uri=self.base.tracking.uri,
            experiment=self.experiment,
            name=self.name,
            kind=self.kind,
            uid=uid_of(self.kind, self.name, json.dumps(asked, sort_keys=True, default=str), *cells),
            params={**flatten(self.base), **self.params},
            tags={**self.base.tracking.tags, **environment_tags(environment()), "litmus.fail_reason": ""},
            send="off" if self.base.tracking.offline else "process",
        )
        run.log_text(dump_config(self.base), "config.yaml")
        return run

    def train(self, columns: Mapping[str, Callable[[Done], str]] | None = None) -> dict[str, Done]:
        """Have all cells trained that are not yet; what became of each, by its name, in the order of the plan.

        Args:
            columns: what is shown of a cell that is done, by heading; default: its errors.

        Raises:
            Stopped: by a signal; what was trained is kept, what was being trained goes on the next time.
            Incomplete: cells failed of something else than of diverging.
        """
        waiting = [one for one in self._planned if one.cell.name not in self._done]
        total = len(waiting)
        self._sweep = sweep = Sweep(
            waiting,
            self.posts,
            home=self.home.absolute(),
            parent_uid=self.run.uid,
            kind="cell",
            prefix=self.name,
            tags={"litmus.experiment": self.name, "litmus.experiment_kind": self.kind},
            logs=(self.home / "logs" / self.name).absolute(),
            splits=self.splits,
            on_open=self._follow,
        )
        done: dict[str, Done] = {}
        with Board(total, columns) as board:
            for at, fresh in enumerate(sweep.run()):
                done |= {one.cell.name: one for one in fresh}
                board.show(fresh if at else [], found=len(fresh) if at == 0 else 0, running=sweep.running)
                if self._signum is not None:
                    sweep.leave()
        self._sweep = None
        if self._signum is not None and len(done) < total:
            stopped = Stopped(self._signum)
            stopped.add_note(f"{len(done)} of {total} trainings are done and kept; those that ran saved their state")
            stopped.add_note(f"next     {self.again}")
            raise stopped
        failed = [one for one in done.values() if not one.complete and not one.diverged]
        self.run.set_tags({"litmus.cells": len(self._planned), "litmus.cells_failed": len(failed)})
        if failed:
            raise self._incomplete(failed, total)
        self._done |= done
        return {one.cell.name: self._done[one.cell.name] for one in self._planned}

    def _incomplete(self, failed: Sequence[Done], total: int) -> Incomplete:
        error = Incomplete(f"{len(failed)} of {total} trainings came to no answer")
        for one in failed[:10]:
            error.add_note(f"  {one.cell.name}: {one.outcome.reason}")
        error.add_note(f"log      {shown((self.home / 'logs' / self.name).absolute())}")
        error.add_note(f"next     {self.again}    (the others are kept)")
        return error

    # --- MLflow

    def _follow(self, directory: Path) -> None:
        if self.base.tracking.offline:
            return
        from litmus.tracking import follow

        self._links[directory] = follow(directory, home=self.home, uri=self.base.tracking.uri)

    def _wait_sent(self) -> None:
        from litmus.tracking import wait_sent

        stopped = lambda: self._signum is not None  # noqa: E731
        if left := wait_sent(self._links, home=self.home, uri=self.base.tracking.uri, stopped=stopped):
            self.say(f"note     {left} runs are not in MLflow yet; they are safe here: litmus sync --all")

    def kept(self, path: Path, folder: str = "pictures") -> Path:
        """A picture or table, as an artifact of the parent run; where it lies, as a person reads it."""
        return shown(Path(self.run.log_artifact(path, folder)))
