"""The workers of one machine: started, watched, started again when they die, asked to leave together."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from litmus.jobs.forks import CONTEXT, forked
from litmus.jobs.posts import Post
from litmus.study.stage import Stage
from litmus.study.worker import SAVE_SEC, work, worker_log

DEATHS_IN_A_ROW = 10
"""Workers that die one after the other, with no trial ended in between, before that is taken for a reason to stop."""

News = tuple[str, int, dict[str, Any]]


@dataclass
class _Seat:
    """One worker's place, and who sits there now."""

    post: Post
    process: Any
    news: Any
    done: bool = False
    silent: bool = False
    """Whether it has closed its end of the news: after that, a poll says yes for ever."""


@dataclass
class Pool:
    """Runs one worker a post on ``stage`` until none has anything left to do.

    ``problem`` says why it gave up, if it did.
    """

    stage: Stage
    posts: Sequence[Post]
    on_death: Callable[[], Any] = lambda: None
    problem: str = ""
    deaths: int = 0
    _seats: list[_Seat] = field(default_factory=list)
    _leaving_since: float | None = None

    def run(self, tick_sec: float = 0.5) -> Iterator[list[News]]:
        """Yields what was heard, at least every ``tick_sec``."""
        try:
            self._seats = [self._seat(post) for post in self.posts]
            while any(not seat.done for seat in self._seats):
                yield self._listen(tick_sec)
                self._look_after()
        finally:
            self.kill()

    def leave(self) -> None:
        """Ask all to save their trainings' state and go."""
        if self._leaving_since is None:
            self._leaving_since = time.monotonic()
        for seat in self._seats:
            _signal(seat.process, signal.SIGTERM)

    def kill(self) -> None:
        for seat in self._seats:
            _signal(seat.process, signal.SIGKILL)
            with contextlib.suppress(ValueError, AssertionError):
                seat.process.join(5.0)
            seat.news.close()

    def _seat(self, post: Post) -> _Seat:
        hear, tell = CONTEXT.Pipe(duplex=False)
        process = forked(work, (self.stage, post, tell), f"worker-{post.index}")
        tell.close()
        return _Seat(post, process, hear)

    def _listen(self, timeout_sec: float) -> list[News]:
        living = [seat for seat in self._seats if not seat.done]
        sources = [seat.process.sentinel for seat in living] + [seat.news for seat in living if not seat.silent]
        ready = connection.wait(sources, timeout_sec)
        heard: list[News] = []
        for seat in living:
            if not seat.silent and seat.news in ready:
                try:
                    while seat.news.poll():
                        heard.append(seat.news.recv())
                except (EOFError, OSError):
                    seat.silent = True
        if any(word == "ended" for word, _, _ in heard):
            self.deaths = 0
        return heard

    def _look_after(self) -> None:
        late = self._leaving_since is not None and time.monotonic() - self._leaving_since > SAVE_SEC + 15
        for place, seat in enumerate(self._seats):
            if seat.done:
                continue
            if late:
                _signal(seat.process, signal.SIGKILL)
            if seat.process.is_alive() or not seat.silent:
                continue
            if seat.process.exitcode == 0 or self._leaving_since is not None:
                seat.done = True
                continue
            self.deaths += 1
            self.on_death()
            if self.deaths >= DEATHS_IN_A_ROW:
                log = worker_log(self.stage.folder, seat.post.index)
                self.problem = (
                    f"{self.deaths} workers died one after the other, the last by {_cause(seat.process)}: {log}"
                )
                seat.done = True
                self.leave()
                continue
            seat.news.close()
            self._seats[place] = self._seat(seat.post)


def _signal(process: Any, signum: int) -> None:
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signum)


def _cause(process: Any) -> str:
    code = process.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
