"""SIGTERM and Ctrl-C: remembered while a step runs, obeyed where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self


class Stopped(BaseException):
    """The run was asked to stop and has; like KeyboardInterrupt no ``Exception``, which code that goes on would catch.

    Attributes:
        signum: the signal; a process that ends with it exits with 128 + ``signum``, 130 or 143.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum


class Signals:
    """Takes SIGTERM and SIGINT from ``with`` to its end.

    The first one raises ``Stopped`` where the program stands, or, while ``deferred``, is kept in ``pending`` for who
    deferred it. A second Ctrl-C ends the process at once with 130; a second SIGTERM, which schedulers send, changes
    nothing. Only the main thread can take signals: elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self.deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def obey(self) -> None:
        """Raise ``Stopped`` if a signal came while it was deferred."""
        if self.pending is not None:
            raise Stopped(self.pending)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            if signum == signal.SIGINT:
                os._exit(128 + signum)
            return
        self.pending = signum
        if not self.deferred:
            raise Stopped(signum)
