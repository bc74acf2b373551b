"""Optuna's storage, made once, locked and patient: what several workers on several machines need of it."""

from __future__ import annotations

import hashlib
import os
import re
import select
import sqlite3
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel, TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState

from litmus.errors import Refused, refuse
from litmus.study.patience import is_away, patiently
from litmus.study.place import BUSY_SEC, FILE, Place, connect, connect_arguments, place_of
from litmus.tracking.spool import Lock

__all__ = [
    "FILE",
    "Held",
    "Occupied",
    "Place",
    "Storage",
    "ask",
    "exclusive",
    "fail_stale",
    "first_beats",
    "is_away",
    "open_storage",
    "patiently",
    "place_of",
    "stale_numbers",
    "try_hold",
    "without_heartbeat",
]

# A worker that is stopped (SIGSTOP, a suspended machine) inside a transaction holds the study's row: the server ends
# its session before the others are tired of waiting. Optuna compares times without their zone: with any but UTC, every
# heartbeat would be an hour old when summer time begins.
_SESSION = "SET TIME ZONE 'UTC'; SET idle_in_transaction_session_timeout = '20s'; SET lock_timeout = '45s'"
_OPEN_SEC = 120.0
_inherited: list[Any] = []


class Occupied(TimeoutError):
    """Another process has held what one process has at a time for longer than we wait."""


class Storage(RDBStorage):
    """Optuna's, with what it leaves to chance where processes share a sqlite file, or are forked.

    Optuna reads a trial's state, then writes it. PostgreSQL locks the row in between, sqlite nothing: two workers get
    the same waiting trial, and a late finisher overwrites a verdict. Here the two are one transaction.

    A forked process gets connections of its own; a storage cannot be pickled: open one there.
    """

    def __init__(self, place: Place, *, heartbeat_sec: int, grace_sec: int):
        settings: dict[str, Any] = {"connect_args": {"timeout": BUSY_SEC}}
        if place.database is None:
            # The worker's thread, the heartbeat's, the table's; forty of us must not use up a server's 100 connections.
            settings = {"pool_size": 2, "max_overflow": 3, "pool_pre_ping": True}
            settings["connect_args"] = connect_arguments(place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats have been experimental since 2020
            super().__init__(
                place.url.replace("{", "{{").replace("}", "}}"),  # Optuna puts it through str.format
                settings,
                heartbeat_interval=heartbeat_sec,
                grace_period=grace_sec,
            )
        self.engine.dispose()  # connections made before these listened
        sqlalchemy.event.listen(self.engine, "connect", _on_connect)
        sqlalchemy.event.listen(self.engine, "checkout", _on_checkout)
        sqlalchemy.event.listen(self.scoped_session, "after_begin", _on_begin)
        weakref.finalize(self, _dispose, self.engine, os.getpid())

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self.scoped_session.remove()
        self.scoped_session(info={_AT_ONCE: True})
        try:
            return super().set_trial_state_values(trial_id, state, values)
        finally:
            self.scoped_session.remove()

    def __getstate__(self) -> dict[Any, Any]:
        raise TypeError("a storage belongs to one process; call open_storage in the other")

    def close(self) -> None:
        """Close its connections; it opens new ones when it is used again."""
        self.scoped_session.remove()
        self.engine.dispose()


def _dispose(engine: sqlalchemy.Engine, pid: int) -> None:
    if pid == os.getpid():
        engine.dispose()


_AT_ONCE = "at once"


def _on_begin(session: Any, transaction: Any, connection: Any) -> None:
    if session.info.get(_AT_ONCE) and connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _on_connect(connection: Any, record: Any) -> None:
    record.info["pid"] = os.getpid()
    if hasattr(connection, "pgconn"):
        connection.execute(_SESSION)
        connection.commit()
    else:
        # The write-ahead log is whole after a kill; after a power cut its last commits may be missing.
        connection.execute("PRAGMA synchronous = NORMAL")


def _on_checkout(connection: Any, record: Any, proxy: Any) -> None:
    if record.info["pid"] != os.getpid():
        _inherited.append(connection)  # closing it here would close the parent's
        record.dbapi_connection = proxy.dbapi_connection = None
        raise sqlalchemy.exc.DisconnectionError("a connection of the process that this one was forked from")


def open_storage(place: Place, *, heartbeat_sec: int, grace_sec: int) -> Storage:
    """The storage at ``place``, its tables made or checked by one process at a time.

    Args:
        heartbeat_sec: how often a worker promises to call ``record_heartbeat``.
        grace_sec: how long after the last heartbeat a trial counts as lost.

    Raises:
        Refused: the tables are of an Optuna too old or too new.
        Occupied: another process has been making them for two minutes.
    """
    with exclusive(place, timeout_sec=_OPEN_SEC):
        if place.database is not None:
            _use_log(place.database)
        try:
            return Storage(place, heartbeat_sec=heartbeat_sec, grace_sec=grace_sec)
        except RuntimeError as error:
            if "compatible with the table schema" not in str(error):
                raise
            raise _other_version(place, str(error)) from None


def _use_log(database: Path) -> None:
    """sqlite's write-ahead log, a property of the file: readers and the writer do not wait for each other."""
    with closing(sqlite3.connect(database, timeout=BUSY_SEC)) as db:
        db.execute("PRAGMA journal_mode = WAL")


def _other_version(place: Place, says: str) -> Refused:
    found = re.search(r"set up by optuna ([^)]*)\)", says)
    maker = f"optuna {found[1]}" if found else "another optuna"
    by = f"was made by {maker}, and optuna {optuna.__version__} is installed"
    if "storage upgrade" in says:
        return refuse(
            "--storage", f"{by}; bring it up to date: optuna storage upgrade --storage {place.shown}", place.label
        )
    return refuse("--storage", f"{by}; install that one, or a newer: pip install -U optuna", place.label)


# One at a time


class Held(Protocol):
    """What one process has until it releases it or dies."""

    @property
    def lost(self) -> bool:
        """Whether it is ours no more: the connection to PostgreSQL broke, the lock's file was removed."""

    def release(self) -> None: ...


class _HeldFile:
    def __init__(self, lock: Lock):
        self._lock, self._inode = lock, lock.path.stat().st_ino

    @property
    def lost(self) -> bool:
        try:
            return self._lock.path.stat().st_ino != self._inode
        except OSError:
            return True

    def release(self) -> None:
        self._lock.release()


class _HeldConnection:
    def __init__(self, connection: Any):
        self._connection = connection

    @property
    def lost(self) -> bool:
        """Asks nobody and so never waits: a server that ends the session has said so and hung up, which can be read."""
        connection = self._connection
        try:
            while not connection.closed and select.select([connection], [], [], 0)[0]:
                connection.pgconn.consume_input()  # raises at the end of the stream
        except Exception:  # whatever it is, we cannot say that we hold it
            return True
        return bool(connection.closed)

    def release(self) -> None:
        self._connection.close()


def try_hold(place: Place, name: str) -> Held | None:
    """Take the role ``name``, or None where another process has it, on this or any machine that uses ``place``.

    It passes on when its holder releases it, ends, is killed or, with PostgreSQL, is out of reach for a minute.
    """
    if place.database is not None:
        lock = Lock(_lock_file(place.database, name))
        return _HeldFile(lock) if lock.acquire() else None
    connection = connect(place)
    try:
        (taken,) = connection.execute("SELECT pg_try_advisory_lock(%s)", [_lock_number(name)]).fetchone()  # type: ignore[misc]
    except BaseException:
        connection.close()
        raise
    if not taken:
        connection.close()
        return None
    return _HeldConnection(connection)


@contextmanager
def exclusive(place: Place, *, timeout_sec: float = 60.0, name: str = "exclusive") -> Iterator[None]:
    """One process at a time, of all that use ``place`` on any machine; its death by SIGKILL lets the next one in.

    Raises:
        Occupied: it took longer than ``timeout_sec``.
    """
    says = f"another process has had {place.label} ({name}) to itself for {timeout_sec:g} s; is one stopped or hung?"
    if place.database is not None:
        lock = Lock(_lock_file(place.database, name))
        if not lock.acquire(timeout_sec):
            raise Occupied(says)
        try:
            yield
        finally:
            lock.release()
        return
    import psycopg

    with closing(connect(place)) as connection:
        try:
            # 0 would be no limit. The server's queue is in order of asking.
            connection.execute(f"SET lock_timeout = {max(1, round(timeout_sec * 1000))}")
            connection.execute("SELECT pg_advisory_lock(%s)", [_lock_number(name)])
        except psycopg.errors.LockNotAvailable:
            raise Occupied(says) from None
        yield


def _lock_file(database: Path, name: str) -> Path:
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}-{_lock_number(name) % 2**32:08x}"


def _lock_number(name: str) -> int:
    """64 bits, as an advisory lock has them; they share their space with whatever else uses the database."""
    return int.from_bytes(hashlib.blake2b(f"litmus/{name}".encode(), digest_size=8).digest(), "big", signed=True)


# Trials, and those whose worker is gone


def ask(study: optuna.Study) -> optuna.Trial:
    """``study.ask()`` without the warning that heartbeats need ``study.optimize``: our workers beat by themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used", UserWarning)
        return study.ask()


def set_user_attrs(trial: optuna.Trial, attrs: Mapping[str, Any]) -> None:
    """``trial.set_user_attr`` for several, in one transaction."""
    storage = _rdb(trial.study)
    with _create_scoped_session(storage.scoped_session, True) as session:
        for key, value in attrs.items():
            storage._set_trial_attr_without_commit(session, TrialUserAttributeModel, trial._trial_id, key, value)
    trial._cached_frozen_trial.user_attrs.update(attrs)


def stale_numbers(study: optuna.Study) -> list[int]:
    """Numbers of the running trials whose last heartbeat is older than the grace time, by the database's clock."""
    storage = study._storage
    assert isinstance(storage, BaseHeartbeat)
    return _numbers(study, set(storage._get_stale_trial_ids(study._study_id)))


def fail_stale(study: optuna.Study) -> list[int]:
    """FAIL the stale trials; numbers of those that this call failed, and no other process.

    If the database goes away in the middle, some have failed and the error does not tell which: whoever requeues them
    looks for FAIL trials that have no successor.
    """
    failed: list[int] = []
    for number in stale_numbers(study):
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            storage = study._storage
            trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
            if storage.set_trial_state_values(trial_id, state=TrialState.FAIL):
                failed.append(number)
    return failed


def without_heartbeat(study: optuna.Study, older_than_sec: float) -> list[int]:
    """Numbers of running trials that never had a heartbeat and began that long ago: killed before the first.

    The database has no other time of them than ``datetime_start``, the local time of the machine that asked, read here
    against this machine's. A clock that is ahead there makes its trial look younger by as much, one that is behind
    older, and another time zone shifts it by hours: let ``older_than_sec`` be larger than the clocks differ, or call
    ``first_beats``, for which no clock but the database's counts.
    """
    before = datetime.now() - timedelta(seconds=older_than_sec)
    silent = _silent(study)
    return [trial.number for trial in silent if trial.datetime_start is not None and trial.datetime_start < before]


def first_beats(study: optuna.Study) -> list[int]:
    """Give each running trial without a heartbeat its first, and their numbers.

    A living worker goes on from there. A trial that lost its worker before the first beat becomes stale after the grace
    time like any other, by the database's clock alone.
    """
    silent = _silent(study)
    storage = study._storage
    assert isinstance(storage, BaseHeartbeat)
    for trial in silent:
        storage.record_heartbeat(trial._trial_id)
    return [trial.number for trial in silent]


def _silent(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return []
    storage = _rdb(study)
    with storage.engine.connect() as connection:
        heard = set(
            connection.execute(
                sqlalchemy.select(TrialHeartbeatModel.trial_id)
                .join(TrialModel, TrialModel.trial_id == TrialHeartbeatModel.trial_id)
                .where(TrialModel.study_id == study._study_id, TrialModel.state == TrialState.RUNNING)
            ).scalars()
        )
    return [trial for trial in running if trial._trial_id not in heard]


def _rdb(study: optuna.Study) -> RDBStorage:
    storage = getattr(study._storage, "_backend", study._storage)  # a study puts a cache before it
    assert isinstance(storage, RDBStorage)
    return storage


def _numbers(study: optuna.Study, ids: set[int]) -> list[int]:
    return [trial.number for trial in study.get_trials(deepcopy=False) if trial._trial_id in ids] if ids else []
