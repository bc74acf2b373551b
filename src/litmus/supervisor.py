"""Starts the processes of one training, a rank each, and sees to it that they end together.

A process that dies, or stands still, leaves the others waiting for it in a call that no signal reaches: so somebody has
to watch who waits for nothing. Imports nothing heavy; knows neither torch nor what the ranks do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

LOST_OTHERS = 75
"""Exit code of a rank that failed because another was gone: an effect, and no cause where there is another."""

GRACE_SEC = 10.0
STOPPED_SEC = 10.0
LEAVE_SEC = 60.0
EFFECT_SEC = 1.0
"""How long a cause may take to show after its effect."""
_LOOK_SEC = 0.1
_SLEPT_SEC = 2.0


@dataclass(frozen=True)
class Command:
    """What one rank runs; its output goes to ``log``, or, without one, where this process's goes."""

    argv: Sequence[str]
    env: dict[str, str]
    log: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        code: exit code of the whole, that of the rank which went first; 1 for one that was killed or stood still.
        rank: the rank which went first; None when all ended well.
        says: what it died of.
        told: whether that rank had the time to say so itself.
        first_told: whether rank 0 knows: it went first itself, or ended by itself for the same cause.
    """

    code: int = 0
    rank: int | None = None
    says: str = ""
    told: bool = False
    first_told: bool = False


class Supervisor:
    """Runs one process a command until all are gone.

    The first that fails ends the others: SIGTERM, and after ``grace_sec`` SIGKILL. One that stays stopped for
    ``stopped_sec``, while this process runs, counts as failed. SIGTERM and SIGINT are passed on; a second SIGINT kills.
    The ranks are out of the terminal's reach, so that Ctrl-C comes once, and Ctrl-Z stops them through us.
    """

    def __init__(
        self, commands: Sequence[Command], *, grace_sec: float = GRACE_SEC, stopped_sec: float = STOPPED_SEC
    ) -> None:
        self.commands, self.grace_sec, self.stopped_sec = commands, grace_sec, stopped_sec
        self.pids: dict[int, int] = {}  # rank -> pid, of those that live
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped_at: dict[int, float] = {}
        self._codes: dict[int, int] = {}
        self._signals: list[int] = []
        self._cause: Outcome | None = None
        self._cause_at = 0.0
        self._ending = False
        self._effect = False  # of the cause: that it is no more than an effect

    def run(self) -> Outcome:
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            takers = {signal.SIGTERM: self._take, signal.SIGINT: self._take, signal.SIGTSTP: self._stop_all}
            before = {signum: signal.signal(signum, taker) for signum, taker in takers.items()}
        try:
            self._start()
            self._watch()
        finally:
            self._send(signal.SIGKILL)
            for signum, handler in before.items():
                signal.signal(signum, handler)
            for process in self._processes:
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        if self._cause is None:
            return Outcome()
        cause = self._cause
        return replace(cause, first_told=cause.told and self._codes.get(0) == cause.code)

    def _start(self) -> None:
        for rank, command in enumerate(self.commands):
            with contextlib.ExitStack() as stack:
                out = None if command.log is None else stack.enter_context(command.log.open("ab"))
                process = subprocess.Popen(
                    command.argv,
                    env=command.env,
                    stdin=subprocess.PIPE,  # its end tells a rank that we are gone
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            self._processes.append(process)
            self.pids[rank] = process.pid

    def _watch(self) -> None:
        ending_at: float | None = None
        forwarded, looked_at = 0, time.monotonic()
        while self.pids:
            now = time.monotonic()
            if now - looked_at > _SLEPT_SEC:  # we were stopped ourselves, and the ranks may have been with us
                self._stopped_at = dict.fromkeys(self._stopped_at, now)
            looked_at = now
            for rank in list(self.pids):
                self._look_at(rank, now)
            for signum in self._signals[forwarded:]:
                again = signum == signal.SIGINT and forwarded and self._signals[0] == signal.SIGINT
                self._send(signal.SIGKILL if again else signum)
                forwarded += 1
            for rank, since in self._stopped_at.items():
                if now - since > self.stopped_sec:
                    self._fail(1, rank, f"stood still (stopped by a signal) for {self.stopped_sec:g} s", told=False)
            if self._cause is not None and not self._ending and now >= self._cause_at + self._effect * EFFECT_SEC:
                self._ending, ending_at = True, now + self.grace_sec
                self._send(signal.SIGTERM)
            elif ending_at is None and self._codes.get(0) == 0:
                ending_at = now + LEAVE_SEC
            if ending_at is not None and now > ending_at:
                self._send(signal.SIGKILL)
            if self.pids:
                time.sleep(_LOOK_SEC)

    def _look_at(self, rank: int, now: float) -> None:
        pid, status = os.waitpid(self.pids[rank], os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            self._stopped_at[rank] = now
            return
        self._stopped_at.pop(rank, None)
        if os.WIFCONTINUED(status):
            return
        del self.pids[rank]
        code = self._processes[rank].returncode = os.waitstatus_to_exitcode(status)
        self._codes[rank] = code
        if code in (-signal.SIGTERM, -signal.SIGINT):
            self._fail(128 - code, rank, f"was stopped by {signal.Signals(-code).name}", told=False)
        elif code < 0:
            self._fail(1, rank, f"was killed by {signal.Signals(-code).name}", told=False)
        elif code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            self._fail(code, rank, f"was stopped by {signal.Signals(code - 128).name}", told=True)
        elif code == LOST_OTHERS:
            self._fail(1, rank, "lost the others", told=False, effect=True)
        elif code:
            self._fail(code, rank, f"failed with exit code {code}", told=True)

    def _fail(self, code: int, rank: int, says: str, *, told: bool, effect: bool = False) -> None:
        if self._codes.get(0) == 0:
            return  # the first rank has finished the run: how another leaves is no matter
        by_us = self._ending and (code == 128 + signal.SIGTERM or not told)
        if self._cause is None or (self._effect and not effect and not by_us):
            self._cause, self._effect = Outcome(code, rank, f"rank {rank} {says}", told), effect
            self._cause_at = time.monotonic()

    def _send(self, signum: int) -> None:
        for pid in list(self.pids.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        self._signals.append(signum)

    def _stop_all(self, signum: int, frame: FrameType | None) -> None:
        """Ctrl-Z: all stop, and all go on together."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)


def end_with_parent() -> None:
    """End this process, whatever it waits in, when the one that supervises it is gone."""
    parent = os.getppid()
    if sys.platform == "linux":  # reaches a process that is stopped, too
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    def wait() -> None:
        while os.read(0, 64):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="litmus-parent", daemon=True).start()


def last_words(log: Path, lines: int = 12) -> list[str]:
    """The end of a rank's output, without blank lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
