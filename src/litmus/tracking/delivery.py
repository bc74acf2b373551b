"""Send what a spool holds and a destination lacks: at least once, and exactly once in effect.

MLflow ignores a metric row that it has (same key, timestamp, step and value) and
overwrites a tag, a status and an artifact by the same; a run is found again by
our uid. So a batch that was sent twice, because an answer was lost, changes nothing.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from litmus.errors import Problem, Refused, refuse
from litmus.tracking.destination import Destination
from litmus.tracking.masking import mask_secrets
from litmus.tracking.names import check_artifact
from litmus.tracking.spool import ARTIFACTS, Lock, Row, Spool, blake2b_of, now_ms
from litmus.tracking.store import (
    ATTEMPT_TAG,
    MAX_METRICS,
    MAX_PARAMS,
    MAX_TAGS,
    RowsRefused,
    RunDeleted,
    RunGone,
    Store,
    StoreTrouble,
    attempt_in,
)

OWNER_LOCK = ".owner.lock"
SEND_LOCK = ".send.lock"
_SILENT_MS = 600_000
_MAX_BATCH_CHARS = 400_000  # MLflow's servers refuse a request of a megabyte, and JSON grows

log = logging.getLogger("litmus.tracking")


class StoreLike(Protocol):
    """What a delivery needs of a store; ``Store`` is the real one."""

    def attach(self, *, uid: str, experiment: str, name: str, started_at: int, tags: dict[str, str]) -> str: ...
    def attempt_of(self, run_id: str) -> int: ...
    def link_parent(self, run_id: str, *, experiment: str, parent_uid: str) -> bool: ...
    def exists(self, run_id: str) -> bool: ...
    def send(
        self, run_id: str, *, metrics: list[tuple[str, float, int, int]], params: dict[str, str], tags: dict[str, str]
    ) -> None: ...
    def send_dataset(self, run_id: str, *, name: str, source: str, digest: str, context: str) -> None: ...
    def set_status(self, run_id: str, status: str, at: int) -> None: ...
    def upload(self, run_id: str, path: Path, name: str) -> None: ...


@dataclass
class _Batch:
    rows: list[Row] = field(default_factory=list)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    chars: int = 0

    def takes(self, row: Row) -> bool:
        full = {"metric": len(self.metrics) >= MAX_METRICS, "param": len(self.params) >= MAX_PARAMS}
        entities = len(self.metrics) + len(self.params) + len(self.tags)
        return (
            not full.get(row.kind, row.kind == "tag" and len(self.tags) >= MAX_TAGS)
            and entities < MAX_METRICS
            and self.chars + _chars(row) <= _MAX_BATCH_CHARS
        )

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.chars += _chars(row)
        if row.kind == "metric":
            self.metrics.append((row.key, row.value, row.at, row.step or 0))
        else:
            (self.params if row.kind == "param" else self.tags)[row.key] = row.value


def _chars(row: Row) -> int:
    return len(row.key) + (80 if row.kind == "metric" else len(row.value))


class _Superseded(Exception):
    """The store has the record of a later attempt at the run, made in another directory; nothing of ours is sent."""


class Delivery:
    """One run on its way to one destination.

    Args:
        spool: the run's log, opened by the caller.
        destination: where it goes.
        open_store: makes the store; it is called at the first ``deliver``, as it may take seconds or fail.
    """

    def __init__(self, spool: Spool, destination: Destination, open_store: Callable[[Destination], StoreLike] = Store):
        self.spool = spool
        self.destination = destination
        self.label = destination.label
        self._open_store = open_store
        self._store: StoreLike | None = None
        self._run_id = ""
        self._parent = ""  # its uid, until we hang under it
        self._failures: dict[int, int] = {}  # artifact row -> failed uploads
        self.gave_up = False

    def deliver(self) -> None:
        """Send all that is there now; nothing where the store has a later attempt at this run from elsewhere.

        Raises:
            StoreTrouble: not now; what was sent before is kept.
            RunDeleted: never; ``gave_up`` is set.
        """
        try:
            self._deliver()
        except RunGone:  # the store was deleted and made anew under us
            self._forget()
            self._deliver()
        except RunDeleted:
            self.gave_up = True
            raise
        except _Superseded as later:
            self.spool.give_up(self.label, str(later))

    def verify(self) -> None:
        """If what we sent before is no longer there, begin again. For `sync`: costs one request."""
        store = self._connected()
        known = self.spool.destination(self.label).run_id
        if known and not store.exists(known):
            self._forget()

    def _forget(self) -> None:
        self.spool.forget_destination(self.label)
        self._run_id = ""

    def _connected(self) -> StoreLike:
        if self._store is None:
            self._store = self._open_store(self.destination)
        return self._store

    def _deliver(self) -> None:
        store = self._connected()
        if not self._run_id:
            meta = self.spool.meta
            self._parent = meta.get("parent_uid", "")
            self._run_id = store.attach(
                uid=meta["uid"],
                experiment=meta["experiment"],
                name=meta["name"],
                started_at=int(meta["started_at"]),
                tags=dict(list(self.spool.texts("tag").items())[:MAX_TAGS]),
            )
            self.spool.update_destination(self.label, run_id=self._run_id)
            self._check_attempt(store)
        if self._parent and store.link_parent(
            self._run_id, experiment=self.spool.meta["experiment"], parent_uid=self._parent
        ):
            self._parent = ""
        self._send_rows(store)
        self._send_artifacts(store)

    def _check_attempt(self, store: StoreLike) -> None:
        tags = self.spool.texts("tag")
        if ATTEMPT_TAG in tags and (theirs := store.attempt_of(self._run_id)) > (ours := attempt_in(tags)):
            raise _Superseded(f"attempt {ours} at this run, of which attempt {theirs} is recorded elsewhere")

    def _send_rows(self, store: StoreLike) -> None:
        sent = self.spool.destination(self.label).sent
        while rows := self.spool.after(sent, MAX_METRICS):
            batch = _Batch()
            for row in rows:
                if row.kind in ("metric", "param", "tag"):
                    if not batch.takes(row):
                        self._send_batch(store, batch)
                        batch = _Batch()
                    batch.add(row)
                    continue
                self._send_batch(store, batch)
                batch = _Batch()
                self._send_one(store, row)
            self._send_batch(store, batch)
            sent = rows[-1].seq

    def _send_batch(self, store: StoreLike, batch: _Batch) -> None:
        if not batch.rows:
            return
        try:
            store.send(self._run_id, metrics=batch.metrics, params=batch.params, tags=batch.tags)
        except RowsRefused as refusal:
            if len(batch.rows) == 1:
                self._skip(batch.rows[0], refusal)
            for half in (batch.rows[: len(batch.rows) // 2], batch.rows[len(batch.rows) // 2 :]):
                if len(batch.rows) > 1:  # find the one that is refused and send the rest
                    part = _Batch()
                    for row in half:
                        part.add(row)
                    self._send_batch(store, part)
            return
        self.spool.update_destination(self.label, sent=batch.rows[-1].seq)

    def _send_one(self, store: StoreLike, row: Row) -> None:
        try:
            if row.kind == "dataset":
                store.send_dataset(self._run_id, name=row.key, **json.loads(row.value))
            elif row.kind == "status":
                self._check_attempt(store)
                store.set_status(self._run_id, row.value, row.at)
        except RowsRefused as refusal:
            self._skip(row, refusal)
        self.spool.update_destination(self.label, sent=row.seq)

    def _skip(self, row: Row, refusal: Exception) -> None:
        says = str(mask_secrets(str(refusal)))  # a server may quote whatever it was sent
        self.spool.mark_skipped(self.label, row.seq, says)
        self.spool.update_destination(self.label, sent=row.seq)
        log.warning("MLflow at %s refuses %s %r: %s", self.label, row.kind, row.key, says)

    def _send_artifacts(self, store: StoreLike) -> None:
        trouble: StoreTrouble | None = None
        # One file that fails must not keep the others: those that never failed go first.
        waiting = self.spool.undelivered(self.label)
        for row in sorted(waiting, key=lambda row: (self._failures.get(row.seq, 0), row.seq)):
            path = self.spool.directory / ARTIFACTS / row.key
            try:
                if problem := escape(self.spool.directory, row.key):
                    self.spool.mark_skipped(self.label, row.seq, problem)
                    continue
                if not path.is_file():
                    self.spool.mark_skipped(self.label, row.seq, f"{path} is not there any more")
                    continue
                recorded = json.loads(row.value).get("digest")
                if recorded and (found := blake2b_of(path)) != recorded:
                    says = f"{path} is not what was recorded: digest {found}, recorded {recorded}"
                    self.spool.mark_skipped(self.label, row.seq, says)
                    continue
                store.upload(self._run_id, path, row.key)
                self.spool.mark_delivered(self.label, row.seq)
            except RowsRefused as refusal:
                self.spool.mark_skipped(self.label, row.seq, str(mask_secrets(str(refusal))))
            except StoreTrouble as error:
                self._failures[row.seq] = self._failures.get(row.seq, 0) + 1
                trouble = error
                if self._failures[row.seq] == 1 and len(self._failures) > 2:
                    break  # it is the store and not the file: do not wait for every file's time-out
        if trouble is not None:
            raise trouble


def owner_is_gone(spool: Spool) -> bool:
    """Whether the process that records a run is gone; a directory that cannot be written answers no.

    This machine knows by the owner's lock, which is free. Another machine's lock cannot be seen from here (a copy has
    none), but its run writes something every minute: it is gone when it has been silent for ten.
    """
    with _ownerless(spool) as gone:
        return gone


@contextmanager
def _ownerless(spool: Spool) -> Iterator[bool]:
    """Whether it is; while it is, no process can take the run up."""
    here = spool.meta.get("owner_host") == socket.gethostname()
    lock = Lock(spool.directory / OWNER_LOCK)
    gone = False
    if here or now_ms() - spool.heard_at >= _SILENT_MS:
        with suppress(sqlite3.Error):
            gone = lock.acquire()
    try:
        yield gone
    finally:
        lock.release()


def settle(spool: Spool) -> bool:
    """Say KILLED of a run whose process is gone without a word; True if that was so."""
    if spool.status != "RUNNING":
        return False
    with _ownerless(spool) as gone:
        if gone:
            at, meta = spool.heard_at or now_ms(), spool.meta  # nobody was there to note when it ended
            by = f"({meta.get('owner_pid')})"
            if meta.get("owner_host") != socket.gethostname():
                by = f"({meta.get('owner_pid')} on {meta.get('owner_host')})"
            reason = f"its process {by} ended without a word"
            spool.append([(at, "tag", "litmus.fail_reason", reason, None), (at, "status", "status", "KILLED", None)])
        return gone


@dataclass(frozen=True)
class Synced:
    """What a `sync` did: how many facts and artifacts it sent, what MLflow refuses, and why it stopped, if it did."""

    directory: Path
    label: str
    run_id: str | None
    sent: int
    left: int
    refused: list[str]
    error: str | None = None

    @property
    def complete(self) -> bool:
        return self.left == 0 and self.error is None


def escape(directory: Path, name: str) -> str:
    """Why a run directory's artifact of this name is not sent: it lies elsewhere. Empty if it is the run's own."""
    try:
        check_artifact(name)
    except ValueError as error:
        return str(error)
    root = (directory / ARTIFACTS).resolve()
    real = (directory / ARTIFACTS / name).resolve()
    if root != directory.resolve() / ARTIFACTS or not real.is_relative_to(root):
        return f"artifact {name!r} is a link to {real}, out of the run's artifacts"
    return ""


def _check_directory(spool: Spool) -> None:
    """Refuse a run directory, which may come from anywhere, that is torn or names files that are not its own."""
    if damage := spool.damage():
        raise refuse(str(spool.path), f"is damaged: {damage}")
    meta, where = spool.meta, str(spool.directory)
    problems = [
        Problem(where, f"its spool does not say the run's {key}: a torn copy?", meta.get(key, ""))
        for key, allowed in (("uid", r"[0-9a-f]{32}"), ("name", ".+"), ("experiment", ".+"), ("started_at", r"\d+"))
        if not re.fullmatch(allowed, meta.get(key, ""))
    ]
    escapes = (escape(spool.directory, name) for name in spool.texts("artifact"))
    problems += [Problem(where, says) for says in escapes if says]
    if problems:
        raise Refused(problems, source="run")


def sync_spool(directory: Path, destination: Destination, *, wait_sec: float = 5.0) -> Synced:
    """Bring one destination up to date with a run directory. Twice is the same as once. Never raises for the store.

    Raises:
        Refused: a directory that is torn, or whose artifacts lie outside it; nothing was sent.
    """
    with Spool(directory) as spool:
        _check_directory(spool)
        lock = Lock(directory / SEND_LOCK)
        error: str | None = None
        before = spool.unsent(destination.label)
        try:
            if not lock.acquire(wait_sec):
                raise StoreTrouble("another process is sending this run just now")
            settle(spool)
            delivery = Delivery(spool, destination)
            delivery.verify()
            before = spool.unsent(destination.label)
            delivery.deliver()
            spool.update_destination(destination.label, error=None)
        except (StoreTrouble, RunDeleted) as trouble:
            error = str(mask_secrets(str(trouble)))
        except sqlite3.OperationalError as trouble:
            error = f"{directory} cannot be written, and what was sent is noted there: {trouble}"
        finally:
            lock.release()
        left = spool.unsent(destination.label)
        return Synced(
            directory,
            destination.label,
            spool.destination(destination.label).run_id,
            before - left,
            left,
            spool.skipped(destination.label),
            error,
        )
