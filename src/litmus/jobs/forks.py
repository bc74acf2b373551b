"""Processes forked from one that has imported everything once: begun in milliseconds, and gone without a trace.

A process that dies of memory, of its own code or of a signal takes nothing along but its own work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from litmus.jobs.job import stand_by

SERVER_GONE = "the process that trainings are forked from is gone"
SERVER_DIED = 255
"""What multiprocessing takes for the exit code of a process whose forkserver is gone."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["litmus.jobs.warm"])


def forked(target: Callable[..., Any], args: tuple[Any, ...], name: str) -> Any:
    """A process that has begun. Where the forkserver dies of it, or has just died, another one takes its place."""
    for wait_sec in (0.1, 1.0, 0.0):
        process: Any = CONTEXT.Process(target=target, args=args, name=name)
        try:
            process.start()
            break
        except (EOFError, ConnectionError):
            if not wait_sec:
                raise
            time.sleep(wait_sec)
    return process


def answer_of(target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
    """What ``target(*args, tell)`` sends in a process apart. One that is killed is begun again: it must bear that.

    Raises:
        RuntimeError: it ended by itself without an answer, or was killed three times.
    """
    for _ in range(3):
        hear, tell = CONTEXT.Pipe(duplex=False)
        process = forked(target, (*args, tell), name)
        tell.close()
        try:
            return hear.recv()
        except EOFError:
            process.join()
            if process.exitcode > 0 and process.exitcode != SERVER_DIED:
                break
        finally:
            hear.close()
            process.join()
    raise RuntimeError(f"{name} ended with exit code {process.exitcode}, without an answer")


def share_forkserver() -> None:
    """In a worker: fork from the server that it was itself forked from.

    ``multiprocessing`` means to, but asks for the server's pid, which only the process that started it has, and without
    one starts a second server, that would import everything once more.
    """
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    if server._forkserver_address is not None:
        server.ensure_running = lambda: None


def forget_main() -> None:
    """Else each child of this process imports the module that the command began with once more: 15 ms of its birth."""
    sys.modules["__main__"] = ModuleType("__main__")


class Standby:
    """A process that has begun and waits for a training. One is begun while the training before runs: it is there when
    that one ends."""

    def __init__(self, log: Path):
        hear, self._tell = CONTEXT.Pipe(duplex=False)
        self.process: Any = CONTEXT.Process(target=stand_by, args=(hear, log), name="litmus-training")
        try:
            self.process.start()
        except BaseException:
            self._tell.close()
            raise
        finally:
            hear.close()

    def give(self, function: Callable[..., None], *arguments: Any) -> bool:
        """False if it is gone."""
        try:
            if not self.process.is_alive():
                return False
            self._tell.send((function, arguments))
            return True
        except OSError:
            return False
        finally:
            self._tell.close()

    def end(self) -> None:
        self._tell.close()
        end_process(self.process)


def signal_process(process: Any, signum: int) -> None:
    """To the child's process group once it has made one, else to the child."""
    if process.pid is None or not process.is_alive():
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if signum == signal.SIGKILL and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signum)
        else:
            os.kill(process.pid, signum)


def end_process(process: Any) -> bool:
    """At once, if it has not ended. Whether it was an orphan: the forkserver, which would have told, is gone."""
    signal_process(process, signal.SIGKILL)
    process.join()
    return _end_orphan(process.pid)


def _end_orphan(pid: int | None) -> bool:
    """End a training that lives on although its end was heard: who would have told, the forkserver, is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        if pid is None or process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.Error:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(psutil.Error):
        process.wait(10)
    return True


def epitaph(exitcode: int | None) -> str:
    """What is known of a process that ended without a word."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"killed: its process ended by {name}{memory}"
    return f"error: its process ended with exit code {exitcode}, and no word"
