"""A run being recorded: every call writes to the run directory, a background sender brings it to MLflow."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import itertools
import logging
import os
import re
import socket
import sqlite3
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self

from litmus.errors import refuse
from litmus.tracking import sender
from litmus.tracking.delivery import OWNER_LOCK
from litmus.tracking.destination import DEFAULT_HOME, RUNS, Destination, absolute_home, destination_of, resolve
from litmus.tracking.masking import mask_lines, mask_secrets
from litmus.tracking.names import as_text, check_artifact, check_key, flatten
from litmus.tracking.spool import ARTIFACTS, FILE, Lock, Spool, as_json, blake2b_of, now_ms
from litmus.tracking.store import MAX_DIGEST_CHARS, MAX_NAME_CHARS, MAX_PARAM_CHARS, MAX_TAG_CHARS, UID_TAG

Status = Literal["FINISHED", "FAILED", "KILLED"]

_WRITE_EVERY_SEC = 0.5
_LOOK_EVERY_SEC = 5.0
_SAY_ALIVE_EVERY_SEC = 60.0
_LAST_TRIES = 3
_WHOLE_WAIT = 6  # times the silence that is waited out at the end
_DRAIN_AT = 20_000  # entries in memory, some 6 MB
_MAX_BUFFERED = 200_000  # the same while the disk cannot be written

log = logging.getLogger("litmus.tracking")


class Run:
    """One run's record. Made by ``Run.start``; a context manager that says how the run ended.

    No call waits for a server, and none raises because of one: what is logged is
    appended to ``dir/spool.sqlite`` within half a second (at once by ``flush``)
    and sent from there. Secrets are masked before they are written. Safe to use
    from several threads.

    Attributes:
        uid: 32 hexadecimal digits, ours; MLflow finds the run by its tag ``litmus.run_uid``.
        dir: the run directory; its ``artifacts`` folder mirrors MLflow's.
        name: as shown in MLflow.
        uri: where it is sent, without a password.
        started_at: seconds since the epoch; of a continued run, of its first start.
        continued: whether ``start`` found an earlier attempt of this run.
    """

    def __init__(self, directory: Path, spool: Spool, destination: Destination, lock: Lock, *, continued: bool):
        meta = spool.meta
        self.dir = directory
        self.uid = meta["uid"]
        self.name = meta["name"]
        self.uri = destination.label
        self.started_at = int(meta["started_at"]) / 1000
        self.continued = continued
        self._destination = destination
        self._spool = spool
        self._lock = lock
        self._buffer: deque[tuple[int, str, str | None, Any, int | None]] = deque()
        self._known_keys: set[str] = set()
        self._params = spool.texts("param")
        self._write_lock = threading.Lock()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_until_closed, name="litmus-spool", daemon=True)
        self._link = sender.Link()
        self._mode: sender.Mode = "off"
        self._complete: bool | None = None
        self._ended = False  # before we came: only added to
        self._warned: set[str] = set()
        self._last_id: str | None = None
        self._dropped = 0
        self._restarts = 0

    @classmethod
    def start(
        cls,
        *,
        home: str | os.PathLike[str] = DEFAULT_HOME,
        uri: str | None = None,
        experiment: str,
        name: str,
        kind: str = "train",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        uid: str | None = None,
        parent_uid: str | None = None,
        send: sender.Mode = "process",
    ) -> Run:
        """Open a new run, or continue the one of this ``uid`` if ``home`` holds it.

        Args:
            home: folder of the embedded store and of the run directories.
            uri: a server or sqlite file; by default ``MLFLOW_TRACKING_URI``, else the embedded store.
            experiment: MLflow's experiment, ``<project>/<data>``.
            name: of the run; the directory is ``<home>/runs/<name>-<first 8 of uid>``.
            kind: tag ``litmus.kind``: train, study, trial, confirm, curve, ...
            params: the config, nested or dotted.
            tags: anything to filter by.
            uid: 32 hexadecimal digits; a fresh one by default. A continued run keeps its
                parameters: one that changed is logged as the tag ``changed.<parameter>``.
            parent_uid: the run it hangs under in MLflow, sent to the same place.
            send: ``process`` (nothing runs in this process), ``thread`` (for processes that have
                imported MLflow anyway) or ``off`` (until ``litmus sync``: nodes without a network).

        Raises:
            Refused: the URI, a name MLflow does not take, a home that cannot be written, or a
                run that another process is writing (which one is said).
            ValueError: a parameter or tag name MLflow does not take.
        """
        destination = resolve(uri, home)
        experiment = _checked_name("tracking.experiment", experiment)
        name = _checked_name("tracking.name", name)
        if uid is not None and not re.fullmatch(r"[0-9a-f]{32}", uid):
            raise ValueError(f"uid {uid!r} is not 32 hexadecimal digits")
        for what, keys in (("parameter", dict(flatten(params or {}))), ("tag", tags or {})):
            for key in keys:  # before there is a directory to leave behind
                check_key(key, what)
        uid = uid or uuid.uuid4().hex
        runs = absolute_home(home) / RUNS
        directory, continued = _directory(runs, name, uid)

        spool, lock = _owned(directory, home, create=not continued)
        if not continued:
            spool.set_meta(
                uid=uid,
                name=name,
                experiment=experiment,
                kind=kind,
                parent_uid=parent_uid or "",
                started_at=str(now_ms()),
                uri="" if destination.embedded else destination.label,
            )
        spool.set_meta(owner_pid=str(os.getpid()), owner_host=socket.gethostname())
        run = cls(directory, spool, destination, lock, continued=continued)
        attempt = int(spool.texts("tag").get("litmus.attempt", 0)) + 1
        if continued:
            run._put("status", "status", "RUNNING")
        run.set_tags(
            {
                UID_TAG: uid,
                "litmus.kind": kind,
                "litmus.attempt": attempt,
                **({"litmus.parent_uid": parent_uid} if parent_uid else {}),
                "mlflow.user": _user(),
                "mlflow.source.name": Path(sys.argv[0]).name or "python",
                "mlflow.source.type": "LOCAL",
                **(tags or {}),
            }
        )
        run.log_params(params or {})
        run._drain()
        run._begin(send)
        return run

    @classmethod
    def take_over(cls, directory: Path, *, send: sender.Mode = "process") -> Run:
        """Go on with a run that another process opened and handed over: the same attempt, of which nothing is repeated.

        Raises:
            Refused: as ``reopen``.
        """
        run = cls.reopen(directory)
        run._ended = False
        run._spool.set_meta(owner_pid=str(os.getpid()), owner_host=socket.gethostname())
        if run._spool.status != "RUNNING":  # somebody looked in between, and found nobody
            run._put("status", "status", "RUNNING")
            run.set_tags({"litmus.fail_reason": ""})
        run._begin(send)
        return run

    def _begin(self, send: sender.Mode) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._spool.say_alive()
        self._mode = send
        self._link = sender.start(self.dir, self._destination, send)
        self._writer.start()
        atexit.register(self._abandon)

    @classmethod
    def reopen(cls, directory: Path) -> Run:
        """Add to the record of a run that has ended; how and when it ended, and all it holds, stay.

        Nothing is sent from here: ``sync`` does that, as for any run.

        Raises:
            Refused: no run directory, one that cannot be written, or one that another process is writing.
        """
        directory = Path(os.path.abspath(directory))
        if not (directory / FILE).is_file():
            raise refuse("run", "is no run directory", str(directory))
        spool, lock = _owned(directory, directory.parent.parent, create=False)
        run = cls(directory, spool, destination_of(directory, spool.meta.get("uri", "")), lock, continued=True)
        run._ended = True
        return run

    @property
    def finished(self) -> bool:
        """Whether ``finish`` was called: what is logged after that is not kept."""
        return self._complete is not None

    # What is known of it in MLflow

    @property
    def id(self) -> str | None:
        """MLflow's run id, as soon as the sender knows it."""
        if self._complete is not None:
            return self._last_id
        return self._spool.destination(self.uri).run_id

    def wait_id(self, timeout_sec: float = 10.0) -> str | None:
        """MLflow's run id; waits for the sender, up to ``timeout_sec``, and not at all for one that cannot deliver."""
        until = time.monotonic() + timeout_sec
        while (found := self.id) is None and time.monotonic() < until and self._complete is None:
            if self._mode == "off" or self._link.dead or self._spool.destination(self.uri).error:
                break
            time.sleep(0.02)
        return found

    # Logging

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, timestamp_ms: int | None = None) -> None:
        """Points of several metrics at one step; numbers or tensors of one element. A few microseconds.

        Raises:
            ValueError: a name MLflow does not take.
            TypeError: a value that is no number, or a step that is no integer.
        """
        values = {}
        for key, value in metrics.items():
            if key not in self._known_keys:
                self._known_keys.add(check_key(key, "metric"))
            values[key] = value if type(value) is float else float(value)
        if type(step) is not int:
            step = _as_step(step)
        self._add((timestamp_ms or now_ms(), "metric", None, values, step))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The config, nested or dotted, as MLflow parameters. They are written once: a changed one becomes a tag.

        A value over MLflow's 6000 characters becomes the artifact ``params/<name>.txt``, and the parameter says so.
        """
        for key, value in flatten(params):
            check_key(key, "parameter")
            text = self._within_limit(key, as_text(mask_secrets(value, key=key)), MAX_PARAM_CHARS, "params")
            known = self._params.setdefault(key, text)
            if known != text:
                self.set_tags({f"changed.{key}": text})
            else:
                self._put("param", key, text)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags, the last value counts; one over 8000 characters becomes the artifact ``tags/<name>.txt``."""
        for key, value in tags.items():
            check_key(key, "tag")
            text = as_text(mask_secrets(value, key=key))
            self._put("tag", key, self._within_limit(key, text, MAX_TAG_CHARS, "tags"))

    def _within_limit(self, key: str, text: str, limit: int, folder: str) -> str:
        if len(text) <= limit:
            return text
        name = f"{folder}/{re.sub(r'[^A-Za-z0-9._-]+', '-', key)}.txt"
        self.log_text(text, name)
        return f"({len(text)} characters, see the artifact {name})"

    def log_dataset(self, name: str, source: str, digest: str, context: str = "train") -> None:
        """A data set the run used, as MLflow's dataset input; nothing is read.

        Args:
            name: such as ``cifar10``.
            source: URL, absolute path, or the code it comes from.
            digest: of the data; MLflow keeps its first 36 characters.
            context: what it was used for: train, val, test.
        """
        if not name or len(name) > MAX_NAME_CHARS:
            raise ValueError(f"data set name {name[:40]!r}: 1 to {MAX_NAME_CHARS} characters")
        fields = {"source": mask_secrets(str(source)), "digest": digest[:MAX_DIGEST_CHARS], "context": context}
        self._put("dataset", mask_secrets(name), as_json(fields))

    def log_text(self, text: str, name: str) -> Path:
        """Text as the artifact ``name`` (``config.yaml``, ``tables/errors.csv``), masked. Returns where it lies."""
        return self._keep(check_artifact(name), text=[mask_secrets(text, name=name)])

    def log_artifact(self, path: str | os.PathLike[str], folder: str = "") -> Path:
        """A file, or a folder with all in it, as an artifact in ``folder``; text files are masked.

        It is copied into the run directory now, so the original may change or go.
        Returns where the copy lies.

        Raises:
            FileNotFoundError: there is nothing at ``path``.
        """
        path = Path(path)
        name = check_artifact(f"{folder.strip('/')}/{path.name}".lstrip("/"))
        if path.is_dir():
            for file in sorted(item for item in path.rglob("*") if item.is_file()):
                inner = file.parent.relative_to(path).as_posix()
                self.log_artifact(file, name if inner == "." else f"{name}/{inner}")
            return self.dir / ARTIFACTS / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file to keep as the artifact {name!r}")
        if _is_text(path):
            with contextlib.suppress(UnicodeDecodeError), path.open(encoding="utf-8", newline="") as lines:
                return self._keep(name, text=mask_lines(lines, name=name))
        return self._keep(name, file=path)

    def _keep(self, name: str, *, text: Iterable[str] | None = None, file: Path | None = None) -> Path:
        target = self.dir / ARTIFACTS / PurePosixPath(name)
        fresh = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                with fresh.open("w", encoding="utf-8", newline="") as out:
                    out.writelines(text)
                digest = blake2b_of(fresh)
            elif target.exists() and target.samefile(file or target):
                digest = blake2b_of(target)
            else:
                digest = blake2b_of(file or target, copy=fresh)
            if fresh.exists():
                os.replace(fresh, target)
        except UnicodeDecodeError:  # no text after all
            fresh.unlink(missing_ok=True)
            raise
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            self._warn("artifact", f"the artifact {name} could not be kept in {target.parent}: {error}")
            return target
        self._put("artifact", name, as_json({"bytes": target.stat().st_size, "digest": digest}))
        return target

    # From memory to disk

    def _put(self, kind: str, key: str, value: Any) -> None:
        self._add((now_ms(), kind, key, value, None))

    def _add(self, entry: tuple[int, str, str | None, Any, int | None]) -> None:
        if self._complete is None:
            self._buffer.append(entry)
            if len(self._buffer) >= _DRAIN_AT and "disk" not in self._warned:
                self._drain()  # faster than the writer: who logs so much writes it down
        else:
            self._warn("late", f"run {self.name} is finished: what is logged after that is not kept")

    def flush(self) -> None:
        """Everything logged so far is on disk when this returns: killing the process loses none of it.

        Call it when a checkpoint is saved, so that a resumed run has every point before it.
        """
        self._drain()

    def _drain(self) -> None:
        with self._write_lock:
            taken = []
            rows: list[tuple[int, str, str, Any, int | None]] = []
            while self._buffer:
                entry = self._buffer.popleft()
                taken.append(entry)
                at, kind, key, value, step = entry
                if key is None:
                    rows += [(at, kind, name, number, step) for name, number in value.items()]
                else:
                    rows.append((at, kind, key, value, step))
            if not rows:
                return
            try:
                self._spool.append(rows)
            except sqlite3.Error as error:
                self._buffer.extendleft(reversed(self._within_bounds(taken)))
                self._warn("disk", f"{self._spool.path} cannot be written now, keeping it in memory: {error}")

    def _within_bounds(self, entries: list[tuple[int, str, str | None, Any, int | None]]) -> list[Any]:
        """The same without the oldest metric points that are too many for memory; all else is little and stays."""
        too_many = max(0, len(entries) - _MAX_BUFFERED)
        points = itertools.islice((k for k, entry in enumerate(entries) if entry[1] == "metric"), too_many)
        lost = set(points)
        self._dropped += len(lost)
        return [entry for k, entry in enumerate(entries) if k not in lost] if lost else entries

    def _write_until_closed(self) -> None:
        looked_at = said_at = time.monotonic()
        while not self._closing.wait(_WRITE_EVERY_SEC):
            self._drain()
            with contextlib.suppress(sqlite3.Error):
                if time.monotonic() - looked_at >= _LOOK_EVERY_SEC:
                    looked_at = time.monotonic()
                    self._look_after_sender()
                if time.monotonic() - said_at >= _SAY_ALIVE_EVERY_SEC:
                    said_at = time.monotonic()
                    self._spool.say_alive()

    def _look_after_sender(self) -> None:
        if dead := self._link.dead:
            if self._restarts == 0 and not self._spool.destination(self.uri).error:
                self._restarts += 1
                self._link = sender.start(self.dir, self._destination, self._mode)
            else:
                self._warn("sender", f"{dead}; the run goes on and is recorded in {self.dir}")
        elif error := self._spool.destination(self.uri).error:
            safe = f"the run goes on, is recorded in {self.dir} and is sent when it can be"
            self._warn("store", f"{_short(error)}; {safe}")

    def _warn(self, about: str, text: str) -> None:
        """Once per cause: training prints its own lines."""
        if about not in self._warned:
            self._warned.add(about)
            log.warning("%s", text)

    # The end

    def hand_over(self) -> None:
        """Leave the run open, all of it on disk, for a process that will ``take_over``; nothing more is kept here."""
        if self._complete is None:
            self._closing.set()
            if self._writer.is_alive():
                self._writer.join(5.0)
            self._drain()
            self._mode = "off"
            self._close("another process goes on with it")

    def finish(self, status: Status = "FINISHED", *, timeout_sec: float = 10.0) -> bool:
        """Say how the run ended and wait until it is sent. Later calls change nothing.

        Args:
            status: how it ended.
            timeout_sec: how long the server may be silent before the wait is given up, and a
                sixth of how long the whole wait may take. A sqlite store, which only a busy
                machine delays, may be silent for all of that.

        Returns:
            True if MLflow has everything. If not, the reason and the command that sends
            the rest were logged as a warning (not with ``send="off"``, where it is no surprise).
        """
        if self._complete is not None:
            return self._complete
        if status not in ("FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"status {status!r} is not FINISHED, FAILED or KILLED")
        if not self._ended:
            self._put("status", "status", status)
        self._closing.set()
        if self._writer.is_alive():
            self._writer.join(5.0)
        self._drain()
        reason = "the wait was interrupted"
        try:
            reason = self._wait_until_sent(timeout_sec)
        finally:  # a second Ctrl-C here must not leave the run open
            complete = self._close(reason)
        return complete

    def _wait_until_sent(self, timeout_sec: float) -> str:
        """Empty when all is sent, else why not."""
        if self._mode == "off":
            return "nothing is sent while the run goes on, as asked"
        asked_at = now_ms()
        began = heard_at = time.monotonic()
        silence_sec = timeout_sec if self._destination.database is None else timeout_sec * _WHOLE_WAIT
        heard: object = None
        tries = 0
        self._link.wake()
        while True:
            try:
                state = self._spool.destination(self.uri)
                if self._spool.is_sent(self.uri):
                    return ""
                progress = (state.run_id, state.sent, len(self._spool.undelivered(self.uri)))
            except sqlite3.Error as error:
                return str(error)
            now = time.monotonic()
            if progress != heard:
                heard, heard_at = progress, now
            if state.error and state.error_at >= asked_at:
                tries += 1
                if tries == _LAST_TRIES:
                    return state.error
                time.sleep(0.3)
                asked_at = now_ms()
                self._link.wake()
            if dead := self._link.dead:
                return state.error or dead
            if now - heard_at >= silence_sec or now - began >= timeout_sec * _WHOLE_WAIT:
                return state.error or f"{self.uri} has not answered for {now - heard_at:.0f} s"
            time.sleep(0.02)

    def _close(self, reason: str) -> bool:
        self._link.leave()
        self._last_id = self._spool.destination(self.uri).run_id
        left = self._spool.unsent(self.uri) + len(self._buffer)
        self._spool.close()
        self._lock.release()
        atexit.unregister(self._abandon)
        self._complete = left == 0 and not reason
        if self._dropped:
            log.warning("%d entries were lost: %s could not be written", self._dropped, self.dir)
        if not self._complete and self._mode != "off":
            log.warning(
                "%d entries of run %s are not in MLflow yet (%s). They are safe in %s; send them with: litmus sync %s",
                left,
                self.name,
                _short(reason),
                self.dir,
                self.dir.name,
            )
        return self._complete

    def _abandon(self) -> None:
        """The program ends without a word on this run: the sender, or a later `sync`, will call it KILLED."""
        self._closing.set()
        with contextlib.suppress(sqlite3.Error):
            self._drain()
            self._link.wake()
            self._spool.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._complete is not None:
            return
        if error is None or self._ended:
            self.finish()
            return
        says = " ".join(f"{type(error).__name__}: {error}".split())
        self.set_tags({"litmus.fail_reason": says[:1000]})
        killed = not isinstance(error, Exception)  # signals: KeyboardInterrupt, SystemExit and the like
        if not killed:
            self.log_text("".join(traceback.format_exception(kind, error, trace)), "traceback.txt")
        self.finish("KILLED" if killed else "FAILED")


def _owned(directory: Path, home: str | os.PathLike[str], *, create: bool) -> tuple[Spool, Lock]:
    """The spool of a run directory, and the lock that makes it ours to write."""
    lock = Lock(directory / OWNER_LOCK)
    try:
        if not lock.acquire(0.0 if create else 1.0):
            with Spool(directory) as spool:
                holder = spool.meta
            by = f"process {holder.get('owner_pid')} on {holder.get('owner_host')}"
            raise refuse("run", f"is in use by {by}; stop that one first", str(directory))
        if create:
            _clear_unborn(directory)
        return Spool(directory, create=create), lock
    except (OSError, sqlite3.Error) as error:
        lock.release()
        raise refuse("tracking.home", f"cannot be written: {error}", str(home)) from None
    except ValueError as error:
        lock.release()
        raise refuse("run", str(error)) from None


def _clear_unborn(directory: Path) -> None:
    """Remove a spool that never got as far as a uid: its process was killed in the first milliseconds of the run."""
    if not (directory / FILE).exists():
        return
    try:
        with Spool(directory) as spool:
            born = "uid" in spool.meta
    except ValueError:
        born = False
    if not born:
        for path in directory.glob(f"{FILE}*"):
            path.unlink()


def directory_of(uid: str, home: str | os.PathLike[str] = DEFAULT_HOME) -> Path | None:
    """The directory of the run with this ``uid``, if ``home`` holds it: by its name, without a look at the others."""
    for found in (absolute_home(home) / RUNS).glob(f"*-{uid[:8]}"):
        with contextlib.suppress(OSError, ValueError, sqlite3.Error), Spool(found) as spool:
            if spool.meta.get("uid") == uid:
                return found
    return None


def _directory(runs: Path, name: str, uid: str) -> tuple[Path, bool]:
    """The run's directory, and whether it was there."""
    if (found := directory_of(uid, runs.parent)) is not None:
        return found, True
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "run"
    directory = runs / f"{slug}-{uid[:8]}"
    try:
        directory.mkdir(parents=True, exist_ok=True)  # left by a process that was killed before there was more
    except OSError as error:
        raise refuse("tracking.home", f"cannot be written: {error}", str(runs.parent)) from None
    return directory, False


def _is_text(path: Path) -> bool:
    """Whatever its name says: binary formats have a zero byte early."""
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def _checked_name(where: str, name: str) -> str:
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > 250 or any(ord(char) < 32 for char in text):
        raise refuse(where, "is 1 to 250 characters on one line", name)
    return str(mask_secrets(text))


def _as_step(step: Any) -> int:
    if isinstance(step, bool) or int(step) != step:
        raise TypeError(f"step {step!r} is no integer")
    return int(step)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
