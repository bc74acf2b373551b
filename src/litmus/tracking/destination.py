"""Where runs are sent: the embedded store, another sqlite store, or a server. No MLflow here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from litmus.errors import refuse
from litmus.tracking.masking import MASK

DEFAULT_HOME = "mlruns"
RUNS = "runs"
DATABASE = "mlflow.db"


@dataclass(frozen=True)
class Destination:
    """A place that takes runs.

    Args:
        uri: MLflow's tracking URI, absolute, with whatever password it carries; never written down.
        label: the same without the password: what spools, messages and logs say.
        database: the sqlite file, or None for a server.
        embedded: it is the home's own ``mlflow.db``, which we create and migrate.
    """

    uri: str
    label: str
    database: Path | None = None
    embedded: bool = False

    @property
    def artifacts(self) -> Path | None:
        """Where a sqlite store keeps artifacts: beside the file. A server decides for itself."""
        return None if self.database is None else self.database.parent / "artifacts"


def absolute_home(home: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(Path(home).expanduser()))


def resolve(uri: str | None, home: str | os.PathLike[str]) -> Destination:
    """The place named by ``uri``, else by ``MLFLOW_TRACKING_URI``, else the store embedded in ``home``.

    Whether a server answers is not asked here: a dead one is no reason to refuse a run.

    Raises:
        Refused: a file store, or a scheme that is neither sqlite nor http(s).
    """
    home = absolute_home(home)
    given = (uri or "").strip()
    where = "tracking.uri"
    if not given:
        given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        where = "tracking.uri (from the environment variable MLFLOW_TRACKING_URI)"
    if not given:
        return _sqlite(home / DATABASE, "tracking.home", embedded=True)

    label = without_password(given)
    if MASK in given:  # the config of a run that is read back
        given = label
        from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        if without_password(from_environment).rstrip("/") == label.rstrip("/"):
            given = from_environment
    try:
        scheme = urlsplit(given).scheme.lower()
    except ValueError as error:
        raise refuse(where, f"is no address: {error}", label) from None
    advice = f"leave it empty for the store in {home}, or use sqlite:////absolute/path/mlflow.db or http(s)://host:port"
    if scheme in ("http", "https"):
        if not urlsplit(given).hostname:
            raise refuse(where, "names no host; write http://host:port", label)
        return Destination(given.rstrip("/"), label.rstrip("/"))
    if scheme == "sqlite":
        path = given.removeprefix("sqlite:///") if given.startswith("sqlite:///") else ""
        if not path or path == ":memory:":
            raise refuse(where, f"names no file; {advice}", label)
        database = Path(os.path.abspath(Path(path).expanduser()))
        if database.is_dir():
            raise refuse(where, "is a folder; name the file in it, such as .../mlflow.db", label)
        return _sqlite(database, where, embedded=database == home / DATABASE)
    if scheme in ("postgresql", "mysql", "mssql") or re.match(r"(postgresql|mysql|mssql)\+", scheme):
        raise refuse(
            where,
            "is a database; start `mlflow server --backend-store-uri` on it and give the server's http address here",
            label,
        )
    if scheme in ("", "file") or re.fullmatch(r"[a-z]", scheme):  # a bare path; c: is a drive
        raise refuse(where, f"is a file store, which MLflow no longer takes; {advice}", label)
    raise refuse(where, f"has an unknown scheme {scheme!r}; {advice}", label)


def embedded_uri(home: str | os.PathLike[str]) -> str:
    """The address of the store in ``home``, whatever the environment names."""
    return f"sqlite:///{(absolute_home(home) / DATABASE).as_posix()}"


def destination_of(
    directory: Path, recorded: str, *, uri: str | None = None, home: str | os.PathLike[str] | None = None
) -> Destination:
    """Where the run in ``directory`` goes: to ``uri``, else to the place that it wrote down when it was made.

    ``recorded`` is empty for the store embedded in ``home``, which is by default the one that the directory lies in.
    """
    if home is None:
        home = directory.parent.parent if directory.parent.name == RUNS else DEFAULT_HOME
    # The record leaves out a password, so the environment's address of the same server is the better one.
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri is None and recorded and from_environment and resolve(from_environment, home).label == recorded:
        uri = from_environment
    if uri is None and not recorded:
        uri = embedded_uri(home)
    return resolve(uri or recorded, home)


def _sqlite(database: Path, where: str, *, embedded: bool) -> Destination:
    if bad := set(str(database)) & set("%?"):
        raise refuse(
            where, f"has {' and '.join(sorted(bad))} in its path, which a sqlite address cannot carry", str(database)
        )
    uri = f"sqlite:///{database.as_posix()}"
    return Destination(uri, uri, database, embedded)


def without_password(uri: str) -> str:
    return re.sub(r"(://)[^/]*@", r"\1", uri)  # a password may have an @ in it
