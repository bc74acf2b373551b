"""Send what a spool holds and a destination lacks: at least once, and exactly once in effect.

MLflow ignores a metric row that it has (same key, timestamp, step and value) and
overwrites a tag, a status and an artifact by the same; a run is found again by
our uid. So a batch that was sent twice, because an answer was lost, changes nothing.
"""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from litmus.tracking.destination import Destination
from litmus.tracking.masking import mask_secrets
from litmus.tracking.spool import ARTIFACTS, Lock, Row, Spool, now_ms
from litmus.tracking.store import (
    MAX_METRICS,
    MAX_PARAMS,
    MAX_TAGS,
    RowsRefused,
    RunDeleted,
    RunGone,
    Store,
    StoreTrouble,
)

OWNER_LOCK = ".owner.lock"
SEND_LOCK = ".send.lock"
_MAX_BATCH_CHARS = 400_000  # MLflow's servers refuse a request of a megabyte, and JSON grows

log = logging.getLogger("litmus.tracking")


class StoreLike(Protocol):
    """What a delivery needs of a store; ``Store`` is the real one."""

    def attach(self, *, uid: str, experiment: str, name: str, started_at: int, tags: dict[str, str]) -> str: ...
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
        """Send all that is there now.

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
        if self._parent and store.link_parent(
            self._run_id, experiment=self.spool.meta["experiment"], parent_uid=self._parent
        ):
            self._parent = ""
        self._send_rows(store)
        self._send_artifacts(store)

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
                store.set_status(self._run_id, row.value, row.at)
        except RowsRefused as refusal:
            self._skip(row, refusal)
        self.spool.update_destination(self.label, sent=row.seq)

    def _skip(self, row: Row, refusal: Exception) -> None:
        self.spool.mark_skipped(self.label, row.seq, str(refusal))
        self.spool.update_destination(self.label, sent=row.seq)
        log.warning("MLflow at %s refuses %s %r: %s", self.label, row.kind, row.key, refusal)

    def _send_artifacts(self, store: StoreLike) -> None:
        trouble: StoreTrouble | None = None
        # One file that fails must not keep the others: those that never failed go first.
        waiting = self.spool.undelivered(self.label)
        for row in sorted(waiting, key=lambda row: (self._failures.get(row.seq, 0), row.seq)):
            path = self.spool.directory / ARTIFACTS / row.key
            try:
                if not path.is_file():
                    self.spool.mark_skipped(self.label, row.seq, f"{path} is not there any more")
                    continue
                store.upload(self._run_id, path, row.key)
                self.spool.mark_delivered(self.label, row.seq)
            except RowsRefused as refusal:
                self.spool.mark_skipped(self.label, row.seq, str(refusal))
            except StoreTrouble as error:
                self._failures[row.seq] = self._failures.get(row.seq, 0) + 1
                trouble = error
                if self._failures[row.seq] == 1 and len(self._failures) > 2:
                    break  # it is the store and not the file: do not wait for every file's time-out
        if trouble is not None:
            raise trouble


def settle(spool: Spool) -> bool:
    """Say KILLED of a run whose process is gone without a word; True if that was so.

    Only the machine that ran it can know: the owner's lock is free and the owner was here.
    """
    if spool.status != "RUNNING" or spool.meta.get("owner_host") != socket.gethostname():
        return False
    lock = Lock(spool.directory / OWNER_LOCK)
    if not lock.acquire():
        return False  # it lives, or it was resumed
    try:
        at = now_ms()
        reason = f"its process ({spool.meta.get('owner_pid')}) ended without a word"
        spool.append([(at, "tag", "litmus.fail_reason", reason, None), (at, "status", "status", "KILLED", None)])
    finally:
        lock.release()
    return True


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


def sync_spool(directory: Path, destination: Destination, *, wait_sec: float = 5.0) -> Synced:
    """Bring one destination up to date with a run directory. Twice is the same as once. Never raises for the store."""
    with Spool(directory) as spool:
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
