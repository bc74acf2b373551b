"""Read runs back: from their directories, which costs milliseconds, else from MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from litmus.errors import Refused, nearest, refuse
from litmus.tracking import sender
from litmus.tracking.delivery import Synced, owner_is_gone, settle, sync_spool
from litmus.tracking.destination import (
    DEFAULT_HOME,
    RUNS,
    Destination,
    absolute_home,
    destination_of,
    embedded_uri,
    resolve,
)
from litmus.tracking.names import check_artifact
from litmus.tracking.run import directory_of
from litmus.tracking.spool import ARTIFACTS, FILE, Spool, blake2b_of, now_ms
from litmus.tracking.store import UID_TAG, Remote, RowsRefused, RunDeleted, RunGone, Store, StoreTrouble

DOWNLOADS = "downloads"
BEST = "best:"
BEST_TAG = "litmus.best_run"
"""Of a study's parent run: the uid of the run that its winner is."""
_MIN_PREFIX = 4

log = logging.getLogger("litmus.tracking")


@dataclass(frozen=True)
class StoredRun:
    """A run as it was recorded.

    Args:
        id: MLflow's id; None for a run that was never sent.
        uid: ours, 32 hexadecimal digits; empty for a run that Litmus did not make.
        status: RUNNING, FINISHED, FAILED or KILLED; KILLED also when its process is gone without a word.
        started_at: seconds since the epoch.
        ended_at: likewise, None while it runs.
        dir: the run directory, None if this machine does not hold it.
        params: by dotted name, as text.
        metrics: per metric, the value at the highest step.
        tags: as text.
        unsent: facts that MLflow lacks.
    """

    id: str | None
    uid: str
    name: str
    experiment: str
    status: str
    started_at: float
    ended_at: float | None
    dir: Path | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    unsent: int = 0
    _destination: Destination | None = field(default=None, repr=False, compare=False)
    _home: Path | None = field(default=None, repr=False, compare=False)

    @property
    def id8(self) -> str:
        """What a user types to name it: the first 8 characters of MLflow's id, else of ours."""
        return (self.id or self.uid)[:8]

    @property
    def kind(self) -> str:
        return self.tags.get("litmus.kind", "")

    @property
    def folder(self) -> Path:
        """Where this machine keeps the run's files: its directory, else the folder of what was downloaded of it."""
        return self.dir or (self._home or absolute_home(DEFAULT_HOME)) / DOWNLOADS / (self.id or self.uid)

    @property
    def elapsed_sec(self) -> float | None:
        return None if self.ended_at is None else self.ended_at - self.started_at

    def artifact(self, path: str) -> Path:
        """A local file with this artifact, downloaded if this machine does not have it.

        Raises:
            Refused: the run has no such artifact (the nearest name it has is said), its server is away, or the
                bytes are no longer those that were recorded, neither here nor in MLflow.
            ValueError: the path leaves the run.
        """
        check_artifact(path)
        recorded = self._recorded_digest(path)
        here = None if self.dir is None else self.dir / ARTIFACTS / path
        if here is not None and here.is_file():
            if not here.resolve().is_relative_to((self.folder / ARTIFACTS).resolve()):
                raise refuse(str(here), f"is a link to {here.resolve()}, out of the run's artifacts")
            found = recorded and blake2b_of(here)
            if found == recorded:
                return here
            says = f"is not what run {self.id8} recorded: digest {found}, recorded {recorded}"
            try:
                copy = self._downloaded(path)
            except (Refused, StoreTrouble):  # MLflow is away, or has it no longer
                copy = None
            if copy is None or blake2b_of(copy) != recorded:
                raise refuse(str(here), f"{says}; MLflow has no whole copy of it either")
            log.warning("%s %s; MLflow's copy is whole and is used: %s", here, says, copy)
            return copy
        copy = self._downloaded(path)
        if copy is None:
            raise refuse("artifact", f"run {self.id8} has no such artifact; {nearest(path, self.artifacts())}", path)
        if recorded and (found := blake2b_of(copy)) != recorded:
            raise refuse(str(copy), f"is not what run {self.id8} recorded: digest {found}, recorded {recorded}")
        return copy

    def _recorded_digest(self, path: str) -> str:
        """Of an artifact's bytes as they were logged; empty where that is not known here."""
        if self.dir is None:
            return ""
        with Spool(self.dir) as spool:
            return str(json.loads(spool.texts("artifact").get(path, "{}")).get("digest", ""))

    def _downloaded(self, path: str) -> Path | None:
        """MLflow's copy, None if it has none."""
        if self.id is None or self._destination is None or self._home is None:
            return None
        with contextlib.suppress(FileNotFoundError), _answering(self._destination) as store:
            return store.download(self.id, path, self._home / DOWNLOADS / self.id)
        return None

    def artifacts(self) -> list[str]:
        """Paths of its artifacts."""
        if self.dir is not None:
            with Spool(self.dir) as spool:
                return sorted(spool.texts("artifact"))
        if self.id is None or self._destination is None:
            return []
        with _answering(self._destination) as store:
            return store.artifacts(self.id)

    def data_digests(self) -> dict[str, str]:
        """Digest of each data set by name; empty where this machine does not hold the run's directory."""
        if self.dir is None:
            return {}
        with Spool(self.dir) as spool:
            return {name: str(json.loads(fields)["digest"]) for name, fields in spool.texts("dataset").items()}

    def history(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, by step; empty if it was not logged."""
        if self.dir is not None:
            with Spool(self.dir) as spool:
                return [(step, value) for step, value, _ in spool.history(metric)]
        if self.id is None or self._destination is None:
            return []
        with _answering(self._destination) as store:
            return [(step, value) for step, value, _ in store.history(self.id, metric)]


def list_runs(
    *,
    home: str | os.PathLike[str] = DEFAULT_HOME,
    uri: str | None = None,
    limit: int = 20,
    experiment: str | None = None,
) -> list[StoredRun]:
    """The newest runs first: those in ``home``, and those only MLflow knows.

    The embedded store is asked only if it holds a run that has no directory here
    (MLflow takes seconds to import); a server always, and if it is away, what is
    here is listed with a warning.
    """
    home = absolute_home(home)
    destination = resolve(uri, home)
    found = list(_local(home, destination, limit=limit, experiment=experiment))
    if _may_know_more(destination, home):
        try:
            with _reachable(destination) as store:
                remote = store.runs(limit=limit, experiment=experiment)
        except StoreTrouble as trouble:
            log.warning("only the runs in %s are listed: %s", home, trouble)
        else:
            here = {run.uid for run in found} | {uid for uid, _ in _uids(home)}
            found += [_from_remote(r, destination, home) for r in remote if r.tags.get(UID_TAG) not in here]
    return sorted(found, key=lambda run: run.started_at, reverse=True)[:limit]


def local_runs(home: str | os.PathLike[str] = DEFAULT_HOME) -> list[StoredRun]:
    """The runs that have a directory in ``home``, the newest first; nothing else is asked."""
    home = absolute_home(home)
    return list(_local(home, resolve(None, home)))


def find_run(reference: str, *, home: str | os.PathLike[str] = DEFAULT_HOME, uri: str | None = None) -> StoredRun:
    """The one run that ``reference`` names.

    Args:
        reference: MLflow's run id or our uid, a prefix of 4 characters or more of either, the
            run's name, its directory, ``latest``, or ``best:STUDY`` for a study's winner. Run directories are looked
            at before MLflow.

    Raises:
        Refused: no run, with the nearest name, or several, with how to tell them apart.
    """
    home = absolute_home(home)
    destination = resolve(uri, home)
    reference = str(reference).strip()
    if not reference:
        raise refuse("run", "is empty; give an id, a prefix of it, a name or `latest`", reference)
    if (Path(reference).expanduser() / FILE).is_file():
        directory = Path(os.path.abspath(Path(reference).expanduser()))
        try:
            return _read(directory, destination, home)
        except (ValueError, KeyError, sqlite3.Error) as error:
            raise refuse("run", f"is no whole run directory: {error}", str(directory)) from None
    if os.sep in reference and Path(reference).expanduser().is_dir():
        raise refuse("run", f"is no run directory: it has no {FILE}", reference)

    if reference.startswith(BEST):
        return _best_of(reference.removeprefix(BEST), home=home, uri=uri)
    if reference == "latest":
        newest = list_runs(home=home, uri=uri, limit=1)
        if not newest:
            raise refuse("run", f"there is no run yet in {home} or at {destination.label}", reference)
        return newest[0]

    if re.fullmatch("[0-9a-f]{32}", reference) and (own := directory_of(reference, home)) is not None:
        with contextlib.suppress(ValueError, KeyError, sqlite3.Error):
            return _read(own, destination, home)  # a whole uid: without a look at the other runs, which may be hundreds

    local = list(_local(home, destination))
    matches = _matching(reference, local)
    trouble = ""
    if not matches:
        try:
            matches = _ask(reference, destination, home)
        except StoreTrouble as error:
            trouble = f" ({error})"
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(f"{run.id8} ({run.name}, {run.status}, {_when(run)})" for run in matches[:6])
        more = f" and {len(matches) - 6} more" if len(matches) > 6 else ""
        raise refuse("run", f"{len(matches)} runs fit: {shown}{more}", reference)
    if not local:
        raise refuse("run", f"is unknown; there is no run in {home / RUNS}{trouble}", reference)
    known = {run.name for run in local} | {run.id8 for run in local} | {"latest"}
    raise refuse("run", f"is unknown; {nearest(reference, known)}{trouble}", reference)


def _best_of(study: str, *, home: Path, uri: str | None) -> StoredRun:
    """The winner of a study, by the study's name; of several of one name, of the newest."""
    known = [run for run in list_runs(home=home, uri=uri, limit=100_000) if run.kind == "study"]
    found = next((run for run in known if run.name == study), None)
    if found is None:
        names = {run.name for run in known}
        says = f"no such study; {nearest(study, names)}" if names else "there is no study here: litmus tune STUDY"
        raise refuse("run", says, f"{BEST}{study}")
    if BEST_TAG not in found.tags:
        raise refuse("run", f"study {study} has no finished trial yet", f"{BEST}{study}")
    return find_run(found.tags[BEST_TAG], home=home, uri=uri)


def put_right(
    wanted: Mapping[str, str], *, home: str | os.PathLike[str] = DEFAULT_HOME, uri: str | None = None
) -> list[str]:
    """End runs that MLflow believes to be running, though whoever recorded them is gone for good; their names.

    Args:
        wanted: uid -> the status that each has come to.

    Raises:
        Refused: the store does not answer.
    """
    home = absolute_home(home)
    destination = resolve(uri, home)
    if destination.database is not None and not destination.database.is_file():
        return []
    ended = []
    with _answering(destination) as store:
        for run in store.runs(query="attributes.status = 'RUNNING'", limit=100_000):
            status = wanted.get(run.tags.get(UID_TAG, ""))
            if status is not None:
                store.set_status(run.id, status, now_ms())
                ended.append(run.name)
    return ended


def follow(directory: Path, *, home: str | os.PathLike[str], uri: str | None = None) -> sender.Link:
    """Send, from a process in the background, what another process of this machine records in ``directory``."""
    return sender.start(directory, resolve(uri, home), "process")


def wait_sent(
    links: Mapping[Path, sender.Link],
    *,
    home: str | os.PathLike[str],
    uri: str | None = None,
    patience_sec: float = 30.0,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Wait until MLflow has the runs that are followed, or is known not to take them now; how many it still lacks.

    Args:
        links: run directory -> what ``follow`` gave.
        stopped: ends the waiting.
    """
    label, left = resolve(uri, home).label, set(links)
    until = time.monotonic() + patience_sec
    for link in links.values():
        link.wake()
    while left and time.monotonic() < until and not stopped():
        for directory in list(left):
            with contextlib.suppress(OSError, ValueError), Spool(directory) as spool:
                if spool.is_sent(label):
                    left.discard(directory)
                elif spool.destination(label).error:
                    until = min(until, time.monotonic() + 3.0)
        time.sleep(0.05)
    return len(left)


def sync(run: str | os.PathLike[str], *, home: str | os.PathLike[str] | None = None, uri: str | None = None) -> Synced:
    """Send what MLflow lacks of a run directory, from whatever machine holds it. Twice is the same as once.

    Args:
        run: the run directory.
        home: whose embedded store takes it; by default the one the directory lies in, else ``mlruns``.
        uri: a server or sqlite file; by default where the run was sent when it was made.

    Raises:
        Refused: no run directory, or a wrong ``uri``. A store that is away is no error: see ``Synced.error``.
    """
    directory = Path(os.path.abspath(Path(run).expanduser()))
    return sync_spool(directory, recipient(directory, home=home, uri=uri))


def recipient(directory: Path, *, home: str | os.PathLike[str] | None = None, uri: str | None = None) -> Destination:
    """Where a run directory is sent; arguments and ``Refused`` as for ``sync``."""
    try:
        with Spool(directory) as spool:
            recorded = spool.meta.get("uri", "")
    except (OSError, ValueError, sqlite3.Error) as error:
        raise refuse("run", f"is no run directory: {error}", str(directory)) from None
    return destination_of(directory, recorded, uri=uri, home=home)


def unsynced(home: str | os.PathLike[str] = DEFAULT_HOME) -> list[Path]:
    """Run directories with facts that the place they were meant for lacks, oldest first; running ones left out."""
    home = absolute_home(home)
    found = []
    for directory in _directories(home):
        with _readable(directory) as spool:
            if spool is None:
                continue
            settle(spool)
            recorded = spool.meta.get("uri", "")
            label = recorded or resolve(embedded_uri(home), home).label
            if spool.status != "RUNNING" and spool.unsent(label):
                found.append((int(spool.meta["started_at"]), directory))
    return [directory for _, directory in sorted(found)]


def _directories(home: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(home / RUNS):
            if os.path.isfile(os.path.join(entry.path, FILE)):
                yield Path(entry.path)


@contextlib.contextmanager
def _readable(directory: Path) -> Iterator[Spool | None]:
    try:
        spool = Spool(directory)
    except (OSError, ValueError, sqlite3.Error) as error:
        log.warning("%s is passed over: %s", directory, error)
        yield None
        return
    with spool:
        yield spool


def _uids(home: Path) -> Iterator[tuple[str, Path]]:
    for directory in _directories(home):
        with _readable(directory) as spool:
            if spool is not None:
                yield spool.meta.get("uid", ""), directory


def _local(
    home: Path, destination: Destination, *, limit: int | None = None, experiment: str | None = None
) -> Iterable[StoredRun]:
    newest: list[tuple[int, Path]] = []
    for directory in _directories(home):
        with _readable(directory) as spool:
            if spool is not None:
                meta = spool.meta
                if experiment in (None, meta.get("experiment")):
                    newest.append((int(meta.get("started_at", 0)), directory))
    for _, directory in sorted(newest, reverse=True)[:limit]:
        with contextlib.suppress(OSError, ValueError, sqlite3.Error):
            yield _read(directory, destination, home)


def _read(directory: Path, destination: Destination, home: Path) -> StoredRun:
    with Spool(directory) as spool:
        meta, ids = spool.meta, spool.destinations()
        status, ended_at = spool.status, spool.ended_at
        if status == "RUNNING" and owner_is_gone(spool):
            status = "KILLED"
        return StoredRun(
            id=ids.get(destination.label) or next(filter(None, ids.values()), None),
            uid=meta["uid"],
            name=meta["name"],
            experiment=meta["experiment"],
            status=status,
            started_at=int(meta["started_at"]) / 1000,
            ended_at=None if ended_at is None else ended_at / 1000,
            dir=directory,
            params=spool.texts("param"),
            metrics=spool.last_metrics(),
            tags=spool.texts("tag"),
            unsent=spool.unsent(destination.label),
            _destination=destination,
            _home=home,
        )


def _from_remote(remote: Remote, destination: Destination, home: Path) -> StoredRun:
    return StoredRun(
        id=remote.id,
        uid=remote.tags.get(UID_TAG, ""),
        name=remote.name,
        experiment=remote.experiment,
        status=remote.status,
        started_at=remote.started_at / 1000,
        ended_at=None if remote.ended_at is None else remote.ended_at / 1000,
        dir=None,
        params=remote.params,
        metrics=remote.metrics,
        tags=remote.tags,
        _destination=destination,
        _home=home,
    )


def _may_know_more(destination: Destination, home: Path) -> bool:
    """Whether MLflow is worth its import: a server always, a sqlite store if it has a run we have no directory of."""
    if destination.database is None:
        return True
    if not destination.database.is_file():
        return False
    try:
        db = sqlite3.connect(f"{destination.database.as_uri()}?mode=ro", uri=True, timeout=2)
        with contextlib.closing(db):
            (runs,) = db.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()
            ours = {uid for (uid,) in db.execute("SELECT value FROM tags WHERE key = ?", (UID_TAG,))}
    except sqlite3.Error:
        return True  # a schema we do not know: let MLflow read it
    here = {uid for uid, _ in _uids(home)}
    return runs > len(ours) or not ours <= here


def _matching(reference: str, runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Those with this id, else with this name, else with this prefix: the first rule that finds any decides."""
    runs = list(runs)
    prefix = reference.lower() if len(reference) >= _MIN_PREFIX else "\0"
    rules: list[Callable[[StoredRun], bool]] = [
        lambda run: reference.lower() in (run.id, run.uid),
        lambda run: reference == run.name or (run.dir is not None and reference == run.dir.name),
        lambda run: run.uid.startswith(prefix) or (run.id or "").startswith(prefix),
    ]
    for rule in rules:
        if found := [run for run in runs if rule(run)]:
            return found
    return []


def _ask(reference: str, destination: Destination, home: Path) -> list[StoredRun]:
    if not _may_know_more(destination, home):
        return []
    with _reachable(destination) as store:
        quoted = reference.replace("'", "")
        prefix = quoted.lower()
        queries = [f"attributes.run_name = '{quoted}'"]
        if len(prefix) >= _MIN_PREFIX and all(char in "0123456789abcdef" for char in prefix):
            queries += [f"attributes.run_id LIKE '{prefix}%'", f"tags.`{UID_TAG}` LIKE '{prefix}%'"]
        found = {run.id: run for query in queries for run in store.runs(query=query, limit=50)}
    return _matching(reference, [_from_remote(run, destination, home) for run in found.values()])


@contextlib.contextmanager
def _reachable(destination: Destination) -> Iterator[Store]:
    """A store to read from. A sqlite file that is not there is not made for a question."""
    if destination.database is not None and not destination.database.is_file():
        raise StoreTrouble(f"there is no store at {destination.label} yet")
    yield Store(destination, patience_sec=10)  # somebody waits for the answer


@contextlib.contextmanager
def _answering(destination: Destination) -> Iterator[Store]:
    """The same for what only the store has: without an answer there is nothing to go on with."""
    try:
        with _reachable(destination) as store:
            yield store
    except StoreTrouble as trouble:
        raise refuse("tracking.uri", f"does not answer, and only it has this: {trouble}", destination.label) from None
    except (RowsRefused, RunGone, RunDeleted) as error:
        raise refuse("tracking.uri", f"answers with what cannot be used: {error}", destination.label) from None


def _when(run: StoredRun) -> str:
    return datetime.fromtimestamp(run.started_at).strftime("%Y-%m-%d %H:%M")
