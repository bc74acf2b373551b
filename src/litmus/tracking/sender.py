"""The background sender: it keeps destinations up to date with spools while a run trains.

It lives in a process of its own, one for all runs that a process starts. There,
importing MLflow (seconds) and writing its database cost training no GIL time,
a request that hangs hangs nobody, and what MLflow prints goes to a log file.
The two share nothing but the spool. Processes that have MLflow imported already
(a study's forked trials, tests) can send from a thread instead.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Literal

from litmus.tracking.delivery import SEND_LOCK, Delivery, settle
from litmus.tracking.destination import Destination
from litmus.tracking.masking import mask_secrets
from litmus.tracking.spool import Lock, Spool, now_ms
from litmus.tracking.store import RunDeleted, StoreTrouble, import_mlflow

Mode = Literal["process", "thread", "off"]

LOG_FILE = "sender.log"
POLL_SEC = 1.0  # how stale MLflow may be while a run trains; one batch costs the sender 2 to 5 ms
MAX_BACKOFF_SEC = 30.0
DRAIN_SEC = 20.0  # how long the sender goes on after its run's process was killed

log = logging.getLogger("litmus.tracking")


class Courier(threading.Thread):
    """Sends one run to one destination until it is complete, in whatever process it was started."""

    def __init__(self, directory: Path, destination: Destination):
        super().__init__(name=f"litmus-sender-{directory.name}", daemon=True)
        self.directory = directory
        self.destination = destination
        self._wake = threading.Event()
        self._leave = threading.Event()
        self._orphaned = threading.Event()

    def wake(self) -> None:
        """Try now."""
        self._wake.set()

    def leave(self, *, orphaned: bool = False) -> None:
        """Stop at the next chance; ``orphaned``: the run's process is gone, send what is left first."""
        (self._orphaned if orphaned else self._leave).set()
        self._wake.set()

    def run(self) -> None:
        try:
            with Spool(self.directory) as spool:
                lock = Lock(self.directory / SEND_LOCK)
                while not lock.acquire(0.2):  # the sender of a killed predecessor is still at it
                    if self._leave.is_set() or self._orphaned.is_set():
                        return
                try:
                    self._send_until_done(spool)
                finally:
                    lock.release()
        except (sqlite3.Error, OSError, ValueError):
            log.exception("the sender of %s stopped", self.directory)

    def _send_until_done(self, spool: Spool) -> None:
        delivery = Delivery(spool, self.destination)
        label = self.destination.label
        backoff = POLL_SEC
        while True:
            self._wake.clear()
            orphaned = self._orphaned.is_set()
            if orphaned:
                settle(spool)
            closed = spool.status != "RUNNING"  # read before sending: what is written meanwhile is the next round's
            began = now_ms()
            try:
                delivery.deliver()
            except (StoreTrouble, RunDeleted) as error:
                says = str(mask_secrets(str(error)))
                log.info("%s: %s", self.directory.name, says)
                spool.update_destination(label, error=says, error_at=began)
                if delivery.gave_up or orphaned:
                    return
                backoff = min(backoff * 2, MAX_BACKOFF_SEC)
            else:
                if spool.destination(label).error is not None:
                    spool.update_destination(label, error=None)
                backoff = POLL_SEC
                if orphaned or (closed and spool.is_sent(label)):
                    return
            if self._leave.is_set():
                return
            self._wake.wait(backoff)


class Link:
    """What a run holds of its sender, thread or process."""

    def wake(self) -> None:
        """Look at the spool now."""

    def leave(self) -> None:
        """The run is over: stop, done or not."""

    @property
    def dead(self) -> str:
        """Why nothing will be sent any more; empty while it may."""
        return ""


class _DeadLink(Link):
    def __init__(self, reason: str):
        self._reason = reason

    @property
    def dead(self) -> str:
        return self._reason


class _ThreadLink(Link):
    def __init__(self, directory: Path, destination: Destination):
        # Here, in the caller's thread: two threads importing large packages at once can each see half of one.
        import_mlflow()
        self._courier = Courier(directory, destination)
        self._courier.start()

    def wake(self) -> None:
        self._courier.wake()

    def leave(self) -> None:
        self._courier.leave()
        self._courier.join(0.5)

    @property
    def dead(self) -> str:
        return "" if self._courier.is_alive() else "the sender has stopped"


class _ProcessLink(Link):
    def __init__(self, process: _Process, directory: Path):
        self._process, self._directory = process, directory

    def wake(self) -> None:
        self._process.tell(wake=str(self._directory))

    def leave(self) -> None:
        self._process.tell(leave=str(self._directory))

    @property
    def dead(self) -> str:
        code = self._process.popen.poll()
        return "" if code is None else f"the sender process ended with code {code}, see {self._process.log}"


class _Process:
    """The sender process of this process."""

    def __init__(self, log_path: Path):
        self.log = log_path
        self.pid = os.getpid()
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        with log_path.open("a") as output:
            self.popen = subprocess.Popen(
                # -P: a file `typing.py` in the user's folder must not shadow the library
                [sys.executable, "-P", "-m", "litmus.tracking.sender", str(os.getpid())],
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
                start_new_session=True,  # Ctrl-C in the terminal is for the run; the sender ends with it, not before
            )

    def tell(self, **message: str) -> None:
        stdin = self.popen.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it died: `dead` says so
            stdin.write((json.dumps(message) + "\n").encode())

    @property
    def usable(self) -> bool:
        return self.pid == os.getpid() and self.popen.poll() is None

    def close(self, timeout_sec: float) -> None:
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()
        try:
            self.popen.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


_process: _Process | None = None
_process_lock = threading.Lock()


def start(directory: Path, destination: Destination, mode: Mode) -> Link:
    """Begin to send a run; returns at once (in ``thread`` mode after MLflow is imported)."""
    if mode == "off":
        return Link()
    if mode == "thread":
        return _ThreadLink(directory, destination)
    global _process
    with _process_lock:
        if _process is None or not _process.usable:
            if _process is not None:
                _process.close(0.0)
            try:
                _process = _Process(directory / LOG_FILE)
            except OSError as error:  # no process to be had: the run is recorded all the same
                return _DeadLink(f"the sender process could not be started ({error})")
        # The address goes through the pipe: a password in it is seen neither by `ps` nor on disk.
        _process.tell(
            send=str(directory),
            uri=destination.uri,
            label=destination.label,
            database=str(destination.database or ""),
            embedded="yes" if destination.embedded else "",
        )
        return _ProcessLink(_process, directory)


@atexit.register
def _close_process() -> None:
    global _process
    if _process is not None and _process.pid == os.getpid():
        _process.close(DRAIN_SEC + 5)
        _process = None


_of_parents: list[_Process] = []


def _forget_process() -> None:
    """In a forked child: the sender is the parent's, and must see the pipe end when the parent does."""
    global _process, _process_lock
    if _process is not None:
        if _process.popen.stdin is not None:
            _process.popen.stdin.close()
        _of_parents.append(_process)  # dropped, it would warn that its process still runs
    _process, _process_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_process)


class _Masked(logging.Formatter):
    """Libraries log addresses and answers as they come."""

    def format(self, record: logging.LogRecord) -> str:
        return str(mask_secrets(super().format(record)))


def main(parent: int, commands: IO[bytes]) -> None:
    """The sender process: obey the lines on standard input until the other end is gone, then send what is left."""
    import signal

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a scheduler signals the whole job; the run decides what it means
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)  # training first
    handler = logging.StreamHandler()
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    threading.excepthook = lambda died: log.error("%s died", died.thread, exc_info=died.exc_value)

    couriers: dict[str, Courier] = {}
    gone = threading.Event()

    def obey() -> None:
        for line in commands:
            message = json.loads(line)
            if directory := message.get("send"):
                database = Path(message["database"]) if message["database"] else None
                destination = Destination(message["uri"], message["label"], database, bool(message["embedded"]))
                couriers[directory] = Courier(Path(directory), destination)
                couriers[directory].start()
            elif courier := couriers.get(message.get("wake", "")):
                courier.wake()
            elif courier := couriers.pop(message.get("leave", ""), None):
                courier.leave()
        gone.set()

    threading.Thread(target=obey, name="litmus-commands", daemon=True).start()
    # Forked data workers hold the pipe open after their parent was killed: ask who our parent is as well.
    while not gone.wait(2.0) and os.getppid() in (parent, 0):
        pass
    deadline = time.monotonic() + DRAIN_SEC
    for courier in list(couriers.values()):
        courier.leave(orphaned=True)
    for courier in list(couriers.values()):
        courier.join(max(0.0, deadline - time.monotonic()))
    logging.shutdown()
    os._exit(0)  # not through atexit: a hanging request must not keep us


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdin.buffer)
