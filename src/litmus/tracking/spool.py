"""The local truth of a run: an append-only sqlite log in the run directory, and the locks around it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
FILE = "spool.sqlite"
ARTIFACTS = "artifacts"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,  -- ms since the epoch: part of a metric's identity in MLflow
    kind TEXT NOT NULL,   -- metric, param, tag, dataset, artifact, status
    key TEXT NOT NULL,
    value,                -- REAL for a metric (NULL is NaN), TEXT for the rest
    step INTEGER
);
-- A run resumed from a checkpoint logs some steps again: the same value at the same step is the same fact.
CREATE UNIQUE INDEX metric_once ON log (key, step, value) WHERE kind = 'metric';
CREATE UNIQUE INDEX param_once ON log (key) WHERE kind = 'param';
CREATE INDEX fact ON log (kind, key) WHERE kind != 'metric';
CREATE TABLE destination (
    label TEXT PRIMARY KEY,          -- where it is sent, without passwords
    run_id TEXT,                     -- MLflow's id there
    sent INTEGER NOT NULL DEFAULT 0, -- every row up to this seq is there, artifacts aside
    error TEXT, error_at INTEGER     -- why the last attempt failed, and when that attempt began (ms)
);
CREATE TABLE delivered (label TEXT, seq INTEGER, PRIMARY KEY (label, seq));           -- artifacts that are there
CREATE TABLE skipped (label TEXT, seq INTEGER, reason TEXT, PRIMARY KEY (label, seq)); -- rows MLflow will never take
"""

_COLUMNS = "at, kind, key, value, step"

# Distinct keys by jumping from one to the next in the index: a million points cost as little as ten.
_LAST_METRICS = """
WITH RECURSIVE keys (key) AS (
    SELECT min(key) FROM log WHERE kind = 'metric'
    UNION ALL
    SELECT (SELECT min(key) FROM log WHERE kind = 'metric' AND key > keys.key) FROM keys WHERE keys.key IS NOT NULL
)
SELECT keys.key, (SELECT coalesce(value, 'nan') FROM log WHERE kind = 'metric' AND log.key = keys.key
                  ORDER BY step DESC, at DESC, value DESC LIMIT 1)
FROM keys WHERE keys.key IS NOT NULL
"""


@dataclass(frozen=True)
class Row:
    """One logged fact. ``value`` is a float for a metric, text (JSON for data sets and artifacts) for the rest."""

    seq: int
    at: int
    kind: str
    key: str
    value: Any
    step: int | None


@dataclass(frozen=True)
class Sent:
    """How far one destination is: MLflow's run id there, the last row sent, and the last error, if any."""

    run_id: str | None = None
    sent: int = 0
    error: str | None = None
    error_at: int = 0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Spool:
    """A run's log. Written by the process that trains, read by the one that sends; any number of readers.

    Killing the process loses nothing that was appended. sqlite's write-ahead log is
    used where it works; it does not on network file systems, which get a
    rollback journal (slower commits, never on the training thread).

    Args:
        directory: the run directory.
        create: make a new spool; refused by ``FileExistsError`` if there is one.

    Raises:
        FileNotFoundError: there is no spool and ``create`` is false.
        ValueError: the spool was written by a newer Litmus, or is no spool.
    """

    def __init__(self, directory: Path, *, create: bool = False):
        self.directory = directory
        self.path = directory / FILE
        if create == self.path.exists():
            raise (FileExistsError if create else FileNotFoundError)(str(self.path))
        self._lock = threading.RLock()
        self._db = self._connect(create)

    def _connect(self, create: bool) -> sqlite3.Connection:
        try:
            db = self._prepared(create)
        except sqlite3.OperationalError:
            if create:
                raise
            # A run directory on a read-only disk can still be read, as nobody can be writing to it.
            db = self._open(f"{self.path.as_uri()}?mode=ro&immutable=1")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is not a run's spool: {error}") from None
        try:
            (found,) = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:
            db.close()
            raise ValueError(f"{self.path} is not a run's spool: {error}") from None
        if int(found) > FORMAT:
            db.close()
            raise ValueError(f"{self.path} has format {found}; this Litmus reads up to {FORMAT}")
        return db

    def _prepared(self, create: bool) -> sqlite3.Connection:
        db = self._open(f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}")
        try:
            journal = "TRUNCATE" if on_network(self.directory) else "WAL"
            db.execute(f"PRAGMA journal_mode={journal}")
            db.execute("PRAGMA synchronous=NORMAL")
            if create:
                db.executescript(f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES ('format', '{FORMAT}'); COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _open(uri: str) -> sqlite3.Connection:
        # Used from the training, writing and sending threads, one at a time under the lock.
        return sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _all(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    # What the run says

    def append(self, rows: Iterable[tuple[int, str, str, Any, int | None]]) -> None:
        """Rows of (at, kind, key, value, step), all or none. A parameter or a metric point that is there stays."""
        with self._transaction() as db:
            db.executemany(f"INSERT INTO log ({_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def set_meta(self, **values: str) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def say_alive(self) -> None:
        """Note the time, for other machines, and move what the write-ahead log holds into the file itself.

        A copy of the directory that was made without ``spool.sqlite-wal`` then lacks only what came after.
        """
        self.set_meta(alive_at=str(now_ms()))
        self._all("PRAGMA wal_checkpoint(PASSIVE)")

    def damage(self) -> str:
        """What sqlite finds wrong with the file, as after a copy made while the run wrote; empty when it is whole."""
        try:
            ((found, *_),) = self._all("PRAGMA quick_check(1)")
        except sqlite3.DatabaseError as error:
            return str(error)
        return "" if found == "ok" else str(found)

    @property
    def heard_at(self) -> int:
        """When the run last wrote anything, in ms since the epoch."""
        logged = self._all("SELECT at FROM log ORDER BY seq DESC LIMIT 1")
        return max(int(logged[0][0]) if logged else 0, int(self.meta.get("alive_at", 0)))

    @property
    def meta(self) -> dict[str, str]:
        return dict(self._all("SELECT key, value FROM meta"))

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED, as the run itself said last."""
        rows = self._all("SELECT value FROM log WHERE kind = 'status' ORDER BY seq DESC LIMIT 1")
        return rows[0][0] if rows else "RUNNING"

    @property
    def ended_at(self) -> int | None:
        """When it finished, failed or was killed, in ms since the epoch."""
        rows = self._all("SELECT value, at FROM log WHERE kind = 'status' ORDER BY seq DESC LIMIT 1")
        return rows[0][1] if rows and rows[0][0] != "RUNNING" else None

    def texts(self, kind: str) -> dict[str, str]:
        """Parameters, tags, data sets or artifacts by name; of one written twice, the last."""
        return dict(self._all("SELECT key, value FROM log WHERE kind = ? AND kind != 'metric' ORDER BY seq", kind))

    def last_metrics(self) -> dict[str, float]:
        """Per metric, the value at the highest step."""
        return {key: float(value) for key, value in self._all(_LAST_METRICS)}

    def history(self, key: str) -> list[tuple[int, float, int]]:
        """(step, value, ms since the epoch) of one metric, by step."""
        rows = self._all("SELECT step, value, at FROM log WHERE kind = 'metric' AND key = ? ORDER BY step, seq", key)
        return [(step, _number(value), at) for step, value, at in rows]

    # What was sent

    def after(self, seq: int, limit: int) -> list[Row]:
        """The next rows in the order they were written, artifacts left out: those are delivered on their own."""
        rows = self._all(
            f"SELECT seq, {_COLUMNS} FROM log WHERE seq > ? AND kind != 'artifact' ORDER BY seq LIMIT ?",
            seq,
            limit,
        )
        return [
            Row(row[0], row[1], row[2], row[3], _number(row[4]) if row[2] == "metric" else row[4], row[5])
            for row in rows
        ]

    def undelivered(self, label: str) -> list[Row]:
        """Artifacts that are not at this destination yet; of a path written twice, only the last counts."""
        rows = self._all(
            f"SELECT max(seq), {_COLUMNS} FROM log WHERE kind = 'artifact' GROUP BY key"
            " HAVING max(seq) NOT IN (SELECT seq FROM delivered WHERE label = ? UNION"
            " SELECT seq FROM skipped WHERE label = ?) ORDER BY seq",
            label,
            label,
        )
        return [_row(row) for row in rows]

    def unsent(self, label: str) -> int:
        """How many facts this destination still lacks."""
        sent = self.destination(label).sent
        ((rows,),) = self._all("SELECT count(*) FROM log WHERE seq > ? AND kind != 'artifact'", sent)
        return rows + len(self.undelivered(label))

    def is_sent(self, label: str) -> bool:
        """Whether this destination has everything; cheap however long the log is."""
        rows = self._all("SELECT seq FROM log WHERE kind != 'artifact' ORDER BY seq DESC LIMIT 1")
        return self.destination(label).sent >= (rows[0][0] if rows else 0) and not self.undelivered(label)

    def destination(self, label: str) -> Sent:
        rows = self._all("SELECT run_id, sent, error, coalesce(error_at, 0) FROM destination WHERE label = ?", label)
        return Sent(*rows[0]) if rows else Sent()

    def destinations(self) -> dict[str, str | None]:
        """MLflow's run id at every place this run was sent to."""
        return dict(self._all("SELECT label, run_id FROM destination"))

    def update_destination(self, label: str, **values: Any) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO destination (label) VALUES (?)", (label,))
            for column, value in values.items():
                db.execute(f"UPDATE destination SET {column} = ? WHERE label = ?", (value, label))

    def forget_destination(self, label: str) -> None:
        """Send everything again: what was there is gone."""
        with self._transaction() as db:
            for table in ("destination", "delivered", "skipped"):
                db.execute(f"DELETE FROM {table} WHERE label = ?", (label,))

    def mark_delivered(self, label: str, seq: int) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO delivered VALUES (?, ?)", (label, seq))

    def mark_skipped(self, label: str, seq: int, reason: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", (label, seq, reason))

    def give_up(self, label: str, reason: str) -> None:
        """All that this destination lacks it is never to have."""
        rows = self._all("SELECT max(seq) FROM log WHERE kind != 'artifact' AND seq > ?", self.destination(label).sent)
        with self._transaction() as db:
            lacking = [seq for (seq,) in rows if seq is not None] + [row.seq for row in self.undelivered(label)]
            db.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", [(label, seq, reason) for seq in lacking])
        if rows[0][0] is not None:
            self.update_destination(label, sent=rows[0][0])

    def skipped(self, label: str) -> list[str]:
        """Rows this destination refuses for good, one sentence each."""
        rows = self._all(
            "SELECT log.kind, log.key, skipped.reason FROM skipped JOIN log USING (seq) WHERE label = ? ORDER BY seq",
            label,
        )
        return [f"{kind} {key}: {reason}" for kind, key, reason in rows]


def _row(values: tuple[Any, ...]) -> Row:
    seq, at, kind, key, value, step = values
    return Row(seq, at, kind, key, _number(value) if kind == "metric" else value, step)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)  # sqlite keeps NaN as NULL


class Lock:
    """A lock between processes that the kernel releases when its holder dies.

    It is sqlite's own (a transaction on an empty file), so it works wherever the
    spool does, needs no clean-up, and is not inherited by forked data workers as
    ``flock`` is: a killed run can be resumed while its workers are still dying.
    """

    def __init__(self, path: Path):
        self.path = path
        self._db: sqlite3.Connection | None = None

    def acquire(self, timeout_sec: float = 0.0) -> bool:
        """True if we hold it now; waits up to ``timeout_sec``."""
        db = sqlite3.connect(self.path, timeout=timeout_sec, isolation_level=None, check_same_thread=False)
        try:
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            db.close()
            if "locked" not in str(error):
                raise
            return False
        self._db = db
        return True

    def release(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


@contextmanager
def locked(path: Path, *, timeout_sec: float) -> Iterator[None]:
    """Hold the lock at ``path``; ``TimeoutError`` if another process keeps it longer than ``timeout_sec``."""
    lock = Lock(path)
    if not lock.acquire(timeout_sec):
        raise TimeoutError(f"{path} has been held by another process for {timeout_sec:g} s")
    try:
        yield
    finally:
        lock.release()


_NETWORK = {
    "nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "orangefs",
    "pvfs2", "panfs", "wekafs", "glusterfs", "gfs2", "ocfs2", "davfs",
    *(f"fuse.{name}" for name in ("sshfs", "ceph", "glusterfs", "juicefs", "rclone", "s3fs", "gcsfuse", "davfs")),
}  # fmt: skip


def on_network(path: Path) -> bool:
    """Whether ``path`` lies on a network file system, where sqlite's write-ahead log must not be used."""
    return bool(network_filesystem(path))


def network_filesystem(path: Path, mounts: str | None = None) -> str:
    """Kind of the network file system that ``path`` lies on, such as ``nfs4``; empty for a local one.

    Args:
        mounts: text of ``/proc/mounts``, which is read where it is left out; a system without one has only local disks.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text() if sys.platform.startswith("linux") else ""
        except OSError:
            return ""
    real, best, kind = os.path.realpath(path), "", ""
    for line in mounts.splitlines():
        _, point, fstype, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fstype
    return kind if kind in _NETWORK else ""


def blake2b_of(path: Path, *, copy: Path | None = None) -> str:
    """32 hexadecimal digits over a file's bytes (BLAKE2b), which are written to ``copy`` as they are read."""
    summary = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file, open(os.devnull if copy is None else copy, "wb") as out:
        while piece := file.read(2**20):
            summary.update(piece)
            out.write(piece)
    return summary.hexdigest()


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
