"""MLflow's store and registry. Importing this module does not import MLflow; opening a ``Store`` does."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from litmus.tracking.destination import Destination
from litmus.tracking.spool import locked

UID_TAG = "litmus.run_uid"
ATTEMPT_TAG = "litmus.trial_attempt"
"""Several machines may have recorded one run in turn, each in a directory of its own: the last attempt's counts."""

# MLflow's own limits (mlflow/utils/validation.py).
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100
MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_KEY_CHARS, MAX_NAME_CHARS = 6000, 8000, 250, 500
MAX_DIGEST_CHARS = 36

_CREATE_TIMEOUT_SEC = 180.0
_import_lock = threading.Lock()


class StoreTrouble(Exception):
    """The store cannot be reached or does not work now; trying again later may help."""


class RowsRefused(Exception):
    """The store works and will never take these rows."""


class RunGone(Exception):
    """The store has no such run: it was created anew."""


class RunDeleted(Exception):
    """Someone deleted the run in MLflow; nothing is sent to it any more."""


@dataclass(frozen=True)
class Remote:
    """A run as the store knows it; times in ms since the epoch."""

    id: str
    name: str
    experiment: str
    status: str
    started_at: int
    ended_at: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def import_mlflow(patience_sec: int = 30) -> Any:
    """MLflow, quiet and with short patience.

    MLflow reads these variables when it is imported or called. They are set only
    where the user has not: no usage reports to its vendor, no log lines or links
    on the user's screen, no progress bars, and a request that gives up in seconds
    (the default is 8 tries of 120 s each), as our sender has a patience of its own.
    """
    with _import_lock:
        for name, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "CRITICAL",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(patience_sec),
        }.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():  # deprecations between MLflow and SQLAlchemy are not our users' business
            warnings.simplefilter("ignore")
            import mlflow
            import mlflow.store.tracking.sqlalchemy_store  # what opening a store imports, sooner or later

        return mlflow


class Store:
    """A client of one destination, with MLflow's errors sorted into what the sender must do about them.

    Args:
        destination: the place; a sqlite store that is not there is made.
        patience_sec: how long a request may take, if nobody said so before in this process.
    """

    def __init__(self, destination: Destination, *, patience_sec: int = 30):
        self.destination = destination
        import_mlflow(patience_sec)
        with _sorted_errors(destination):
            from mlflow.tracking import MlflowClient

            if destination.database is not None:
                create_sqlite_store(destination)
            self._client = MlflowClient(tracking_uri=destination.uri, registry_uri=destination.uri)

    def attach(self, *, uid: str, experiment: str, name: str, started_at: int, tags: Mapping[str, str]) -> str:
        """MLflow's id of our run, found by its uid, made if it is not there. ``RunDeleted`` if it was deleted."""
        with self._errors():
            experiment_id = self._experiment_id(experiment)
            found = self._by_uid(experiment_id, uid)
            if found is None:
                found = self._client.create_run(
                    experiment_id, start_time=started_at, tags={**tags, UID_TAG: uid}, run_name=name
                )
            if found.info.lifecycle_stage == "deleted":
                raise RunDeleted(f"run {found.info.run_id} was deleted in MLflow at {self.destination.label}")
            return found.info.run_id

    def attempt_of(self, run_id: str) -> int:
        """Which attempt at the run the store has the record of."""
        with self._errors():
            return attempt_in(self._client.get_run(run_id).data.tags)

    def link_parent(self, run_id: str, *, experiment: str, parent_uid: str) -> bool:
        """Nest the run under its parent; False if the parent is not in the store (yet)."""
        with self._errors():
            parent = self._by_uid(self._experiment_id(experiment), parent_uid)
            if parent is None:
                return False
            self._client.set_tag(run_id, "mlflow.parentRunId", parent.info.run_id)
            return True

    def exists(self, run_id: str) -> bool:
        try:
            with self._errors():
                self._client.get_run(run_id)
        except RunGone:
            return False
        return True

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._artifact_location(name)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)  # its name cannot be used again otherwise
        return str(found.experiment_id)

    def _artifact_location(self, experiment: str) -> str | None:
        root = self.destination.artifacts
        if root is None:
            return None
        folder = "".join(char if char.isalnum() or char in "._-" else "-" for char in experiment).strip(".") or "runs"
        return (root / folder).as_uri()

    def _by_uid(self, experiment_id: str, uid: str) -> Any:
        from mlflow.entities import ViewType

        query = f"tags.`{UID_TAG}` = '{uid}'"
        found = self._client.search_runs([experiment_id], query, run_view_type=ViewType.ALL, max_results=10)
        # Two senders that lost touch may both have made it: agree on one without talking.
        return min(found, key=lambda run: (run.info.lifecycle_stage == "deleted", run.info.run_id), default=None)

    def send(
        self,
        run_id: str,
        *,
        metrics: Iterable[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """One batch within MLflow's limits; metrics are (key, value, ms since the epoch, step)."""
        with self._errors():
            from mlflow.entities import Metric, Param, RunTag

            self._client.log_batch(
                run_id,
                metrics=[Metric(*metric) for metric in metrics],
                params=[Param(*item) for item in (params or {}).items()],
                tags=[RunTag(*item) for item in (tags or {}).items()],
            )

    def send_dataset(self, run_id: str, *, name: str, source: str, digest: str, context: str) -> None:
        with self._errors():
            from mlflow.data.code_dataset_source import CodeDatasetSource
            from mlflow.data.dataset_source_registry import get_dataset_source_from_json
            from mlflow.data.http_dataset_source import HTTPDatasetSource
            from mlflow.data.meta_dataset import MetaDataset
            from mlflow.entities import DatasetInput, InputTag

            if source.startswith(("http://", "https://")):
                origin: Any = HTTPDatasetSource(url=source)
            elif os.path.isabs(source):
                origin = get_dataset_source_from_json(json.dumps({"uri": source}), "local")
            else:  # made or shipped by code: scikit-learn's digits, our synthetic images
                origin = CodeDatasetSource(tags={"mlflow.source.name": source})
            dataset = MetaDataset(origin, name=name, digest=digest[:MAX_DIGEST_CHARS])  # type: ignore[abstract]
            tag = InputTag(key="mlflow.data.context", value=context)
            self._client.log_inputs(run_id, datasets=[DatasetInput(dataset._to_mlflow_entity(), [tag])])

    def set_status(self, run_id: str, status: str, at: int) -> None:
        """RUNNING, or how the run ended at ``at`` (ms since the epoch)."""
        with self._errors():
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=at)

    def upload(self, run_id: str, path: Path, name: str) -> None:
        """Put the file at ``name`` (posix, relative) among the run's artifacts, replacing one of that name."""
        with self._errors():
            folder = str(PurePosixPath(name).parent)
            beside = self._local_artifacts(run_id)
            if beside is None:
                self._client.log_artifact(run_id, str(path), None if folder == "." else folder)
                return
            # On our own disk: share the bytes with the run directory instead of keeping weights twice.
            target = beside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                os.link(path, fresh)
            except OSError:
                shutil.copy2(path, fresh)
            os.replace(fresh, target)

    def _local_artifacts(self, run_id: str) -> Path | None:
        if self.destination.database is None:
            return None
        from mlflow.utils.file_utils import local_file_uri_to_path

        uri = self._client.get_run(run_id).info.artifact_uri
        return Path(local_file_uri_to_path(uri)) if uri.startswith("file:") else None

    def runs(self, *, query: str = "", experiment: str | None = None, limit: int = 1000) -> list[Remote]:
        """Runs, newest first; ``query`` in MLflow's filter language."""
        with self._errors():
            names = {e.experiment_id: e.name for e in self._client.search_experiments()}
            wanted = [id for id, name in names.items() if experiment in (None, name)]
            found: list[Any] = []
            token = None
            while wanted and len(found) < limit:
                page = self._client.search_runs(
                    wanted,
                    query,
                    max_results=min(limit - len(found), 1000),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
                found += page
                token = page.token
                if not token:
                    break
            return [_remote(run, names.get(run.info.experiment_id, "")) for run in found]

    def get(self, run_id: str) -> Remote:
        with self._errors():
            run = self._client.get_run(run_id)
            return _remote(run, self._client.get_experiment(run.info.experiment_id).name)

    def history(self, run_id: str, key: str) -> list[tuple[int, float, int]]:
        """(step, value, ms since the epoch) of one metric, by step."""
        with self._errors():
            points = self._client.get_metric_history(run_id, key)
            return sorted((point.step, point.value, point.timestamp) for point in points)

    def artifacts(self, run_id: str) -> list[str]:
        with self._errors():
            found: list[str] = []
            folders = [""]
            while folders:
                for item in self._client.list_artifacts(run_id, folders.pop() or None):
                    (folders if item.is_dir else found).append(item.path)
            return sorted(found)

    def download(self, run_id: str, name: str, into: Path) -> Path:
        """A local copy of one artifact; of a store on this disk, the file itself."""
        with self._errors():
            beside = self._local_artifacts(run_id)
            if beside is not None:
                if not (beside / name).exists():
                    raise FileNotFoundError(f"{beside / name}: the run has no artifact {name!r}")
                real = (beside / name).resolve()
                if not real.is_relative_to(beside.resolve()):
                    raise StoreTrouble(f"{beside / name} is a link to {real}, out of the run's artifacts")
                return beside / name
            if name not in self.artifacts(run_id):
                raise FileNotFoundError(f"run {run_id} at {self.destination.label} has no artifact {name!r}")
            into.mkdir(parents=True, exist_ok=True)
            return Path(self._client.download_artifacts(run_id, name, str(into)))

    def register(self, name: str, *, run_id: str, folder: str, tags: Mapping[str, str]) -> str:
        """A new version of the registered model ``name``, made if it is not there: the run's artifacts in ``folder``.

        Returns the version, a number as text.
        """
        with self._errors():
            from mlflow.exceptions import MlflowException

            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{folder}"
            return str(self._client.create_model_version(name, source, run_id, tags=dict(tags)).version)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        database = self.destination.database
        if database is not None and not database.exists():
            raise StoreTrouble(f"{database} was removed while it was in use")
        with _sorted_errors(self.destination):
            yield


def create_sqlite_store(destination: Destination) -> None:
    """Make or migrate a sqlite store so that any number of processes can open it at once, and any can be killed.

    MLflow's migrations race when two processes open a new file: one holds our lock, the others wait. Killed among
    them, a process would leave tables that no later one can make or complete: a new store is made under another name
    and appears whole. Only the embedded store is migrated to a newer MLflow, after a copy was kept, which one that was
    cut begins from again; another's store may be in use by an older MLflow.
    """
    database = destination.database
    assert database is not None
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(f".{database.name}.lock"), timeout_sec=_CREATE_TIMEOUT_SEC):
        from mlflow.exceptions import MlflowException

        if not database.exists() or not database.stat().st_size:
            _make(destination, database)
        try:
            _try(destination, database)
        except MlflowException as error:
            if not (destination.embedded and "out-of-date database schema" in str(error)):
                raise
            _migrate(destination, database)
            _try(destination, database)
        _begun(database).unlink(missing_ok=True)  # of one killed at its very end: its copy is old by the next migration


def _begun(database: Path) -> Path:
    """There while a migration is under way."""
    return database.with_name(f".{database.name}.migrating")


def _try(destination: Destination, database: Path) -> None:
    """Open it as MLflow does, which makes the tables of one that is empty."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    assert destination.artifacts is not None
    SqlAlchemyStore(f"sqlite:///{database.as_posix()}", destination.artifacts.as_uri()).engine.dispose()


def _make(destination: Destination, database: Path) -> None:
    draft = database.with_name(f".{database.name}.new")
    for name in (draft.name, f"{draft.name}-journal", f"{draft.name}-wal", f"{draft.name}-shm"):
        draft.with_name(name).unlink(missing_ok=True)  # of one that was killed here
    _try(destination, draft)
    draft.replace(database)


def _migrate(destination: Destination, database: Path) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db

    kept, begun = Path(f"{database}.before-migration"), _begun(database)
    if begun.exists():  # and was cut: what it left is of no version
        _copy_database(kept, database)
    else:
        _copy_database(database, kept)
        begun.touch()
    engine = sqlalchemy.create_engine(destination.uri)
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()


def _copy_database(source: Path, target: Path) -> None:
    """By sqlite, which sees to those who have either open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as copy:
        old.backup(copy)


def attempt_in(tags: Mapping[str, str]) -> int:
    """Which attempt, from 1, a record with these tags is of; a run that is no trial has one."""
    given = tags.get(ATTEMPT_TAG, "")
    return int(given) if given.isdigit() else 1


def _remote(run: Any, experiment: str) -> Remote:
    info, data = run.info, run.data
    return Remote(
        id=info.run_id,
        name=info.run_name or "",
        experiment=experiment,
        status=info.status,
        started_at=info.start_time or 0,
        ended_at=info.end_time,
        params=data.params,
        metrics=data.metrics,
        tags=data.tags,
    )


# What hides in a request library's paragraph, and how a person would say it.
_PLAIN = [
    (r"Connection refused|actively refused", "refuses connections: no server listens there"),
    (r"timed out|[Tt]imeout", "does not answer in time"),
    (r"Failed to resolve|Name or service not known|getaddrinfo|nodename nor servname", "has a name that is not known"),
    (r"too many (\d+) error responses|error code (5\d\d)", "answers with an error {0}"),
    (r"error code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED|CUSTOMER_UNAUTHORIZED",
     "refuses who we are; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed", "has a certificate that is not trusted"),
    (r"RemoteDisconnected|Connection aborted|Connection reset", "closed the connection"),
]  # fmt: skip


def _plainly(text: str, destination: Destination) -> str:
    for pattern, says in _PLAIN:
        if destination.database is None and (found := re.search(pattern, text)):
            return f"{destination.label} {says.format(*filter(None, found.groups()))}"
    return text.replace(destination.uri, destination.label)[:500]


@contextmanager
def _sorted_errors(destination: Destination) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (StoreTrouble, RowsRefused, RunGone, RunDeleted, FileNotFoundError):
        raise
    except MlflowException as error:
        says = _plainly(" ".join(str(error).split()), destination)
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RunGone(says) from error
        if "must be in the 'active' state" in says:
            raise RunDeleted(says) from error
        # Only this code says "these values, never". Others (a proxy's 400, a database's complaint under load)
        # may pass, and a row that waits is better than a row that is lost.
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise RowsRefused(says) from error
        raise StoreTrouble(says) from error
    except Exception as error:  # whatever a driver, proxy or plugin raises, training must not meet it
        raise StoreTrouble(_plainly(f"{type(error).__name__}: {error}", destination)) from error
