"""Where studies live: an sqlite file on this machine, or a PostgreSQL database for many. Checked before it is used."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from litmus.errors import Problem, Refused, nearest, refuse
from litmus.paths import shown
from litmus.tracking.masking import MASK, is_secret_name
from litmus.tracking.spool import network_filesystem

if TYPE_CHECKING:
    import psycopg

FILE = "studies.db"
ENVIRONMENT = "LITMUS_STORAGE"
"""Environment variable with the address, so that its password is on no command line."""
INSTALL = "pip install 'litmus[postgresql]'"

CONNECT_SEC = 5
BUSY_SEC = 60
"""How long a statement waits for another process's lock on the sqlite file."""
_CHECK_BUSY_SEC = 30
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_ADVICE = (
    "leave it out for a sqlite file in the home, or write sqlite:////absolute/path/studies.db (one machine) "
    "or postgresql://user@host/database (any number)"
)


@dataclass(frozen=True)
class Place:
    """Where studies are stored.

    Args:
        url: SQLAlchemy's address, with whatever password it carries; never printed or written down.
        label: the same without the password: what messages and records say.
        database: the sqlite file, or None for PostgreSQL.
    """

    url: str = field(repr=False)
    label: str
    database: Path | None = None

    @property
    def shown(self) -> str:
        """Address without password as Optuna's own commands take it; the file relative to the folder one is in."""
        if self.database is not None:
            return f"sqlite:///{shown(self.database)}"
        return self.label.replace("postgresql://", "postgresql+psycopg://", 1)


def place_of(url: str | None, home: str | os.PathLike[str]) -> Place:
    """The place named by ``url``, else by ``LITMUS_STORAGE``, else ``studies.db`` in ``home``, which is made if absent.

    It is looked at: the folder, the file, the server and what the database already holds.

    Raises:
        Refused: with every reason found and the way out.
    """
    where, given = "--storage", (url or "").strip()
    if not given:
        given = os.environ.get(ENVIRONMENT, "").strip()
        where = f"--storage (from the environment variable {ENVIRONMENT})"
    if not given:
        folder = Path(os.path.abspath(Path(home).expanduser()))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refuse("home", f"cannot be made: {error.strerror}", str(folder)) from None
        return _sqlite(folder / FILE, "the storage of studies")

    parsed = _parse(given, where)
    scheme = parsed.drivername.lower()
    if scheme in _SQLITE:
        file = parsed.database or ""
        if parsed.query or not file or file == ":memory:" or file.startswith("file:"):
            says = "names no file: workers are processes, which share one; write sqlite:////absolute/path/studies.db"
            raise refuse(where, says, _without_password(given))
        return _sqlite(Path(os.path.abspath(Path(file).expanduser())), where)
    if scheme in _POSTGRESQL:
        return _postgresql(parsed, where)
    raise refuse(where, _wrong_scheme(scheme), _without_password(given))


def _parse(given: str, where: str) -> URL:
    label = _without_password(given)
    if "://" not in given:
        looks_like_file = given.endswith((".db", ".sqlite", ".sqlite3")) or "/" in given
        hint = f"did you mean sqlite:///{given}?" if looks_like_file and ":" not in given else _ADVICE
        raise refuse(where, f"is no address; {hint}", label)
    encode = "in a password write @ as %40, : as %3A and / as %2F"
    try:
        parsed = make_url(given)
    except ArgumentError:
        raise refuse(where, f"is no address; {_ADVICE}", label) from None
    except ValueError:  # its text is the part that it took for a port: it may be a password's end
        raise refuse(where, f"has a port that is no number, or a password to be encoded: {encode}", label) from None
    if "@" in (parsed.host or ""):
        raise refuse(where, f"has an @ in its password: {encode}", label)
    return parsed


def _wrong_scheme(scheme: str) -> str:
    engine, _, driver = scheme.partition("+")
    if engine in ("postgresql", "postgres"):
        return f"names the driver {driver!r}; psycopg 3 is what is tested: write postgresql://"
    if engine in ("mysql", "mariadb", "mssql", "oracle", "redis", "journal"):
        return f"is {engine}: only sqlite and postgresql are tested with kills and outages; {_ADVICE}"
    return f"has an unknown scheme {scheme!r}; {nearest(scheme, ('sqlite', 'postgresql'))} {_ADVICE}"


def _without_password(given: str) -> str:
    """Any text that may be an address, without what stands before its last @ but the user's name."""
    head, found, rest = given.partition("://")
    if not found:
        return MASK + given[given.rindex("@") :] if "@" in given else given
    rest, question, query = rest.partition("?") if "@" not in rest.partition("?")[2] else (rest, "", "")
    if "@" in rest:
        user, at = rest.split(":", 1)[0].split("@", 1)[0], rest.rindex("@")
        rest = f"{user}{rest[at:]}"
    pairs = [pair for pair in query.split("&") if not is_secret_name(pair.partition("=")[0])]
    return f"{head}://{rest}{question if any(pairs) else ''}{'&'.join(pairs)}"


# sqlite


def _sqlite(database: Path, where: str) -> Place:
    folder, name = database.parent, str(shown(database))
    server = "studies over several machines need PostgreSQL: --storage postgresql://user@host/database"
    problems = []

    def add(says: str) -> None:
        problems.append(Problem(where, says, name))

    if bad := sorted(set(str(database)) & set("%?")):
        add(f"has {' and '.join(bad)} in its path, which a sqlite address cannot carry")
    if database.is_dir():
        add(f"is a folder; name the file in it, such as {name}/{FILE}")
    elif not folder.is_dir():
        add(f"lies in a folder that does not exist: mkdir -p {shown(folder)}")
    else:
        if kind := network_filesystem(folder):
            add(
                f"lies on a network file system ({kind}), where sqlite's locks do not hold and files are damaged; "
                f"use a local disk (--home), or {server}"
            )
        if says := _unwritable(database):
            add(says)
        elif database.exists() and not problems:
            problems += _what_it_holds(database, where, name)
    nodes = max((_number(os.environ.get(key)) for key in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES")), default=1)
    if nodes > 1:
        add(f"is a file of one machine, and this job has {nodes} (SLURM_JOB_NUM_NODES); {server}")
    if problems:
        raise Refused(problems)
    address = f"sqlite:///{database.as_posix()}"
    return Place(address, address, database)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 1


def _unwritable(database: Path) -> str:
    """Why sqlite could not write there; tried in the folder, since permissions do not tell of read-only disks.

    The file itself is never opened here: closing it would drop the locks of every connection that this process has to
    it, and the next process to leave would delete the log with our trials in it.
    """
    try:
        with tempfile.TemporaryFile(dir=database.parent):  # sqlite keeps its log beside the file
            pass
    except OSError as error:
        return f"cannot be written: {shown(database.parent)}: {error.strerror}"
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        return f"cannot be written: {shown(database)}: {os.strerror(errno.EACCES)}"
    return ""


def _what_it_holds(database: Path, where: str, name: str) -> list[Problem]:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=_CHECK_BUSY_SEC)) as db:
            tables = {table for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        says = f"has been locked by another program for {_CHECK_BUSY_SEC} s" if "locked" in str(error) else str(error)
        return [Problem(where, says, name)]
    except sqlite3.DatabaseError:
        return [Problem(where, "is not a sqlite database; name another file, or move this one away", name)]
    return [Problem(where, says, name)] if (says := _others(tables, alone=True)) else []


def _others(tables: set[str], *, alone: bool) -> str:
    """Why studies cannot live among these tables; with ``alone`` there may be none but theirs.

    An Optuna that was killed while it made its tables left a part of them: that is no reason.
    """
    from optuna.storages._rdb.models import BaseModel

    theirs = set(BaseModel.metadata.tables)
    other = tables - theirs - {"alembic_version"}
    another = f"name another one for studies, such as {FILE}" if alone else "make one for studies: createdb studies"
    if {"experiments", "runs"} <= tables:
        return f"is MLflow's database, and both keep their version in the table alembic_version; {another}"
    if "version_info" in tables:
        return ""
    if "alembic_version" in tables:
        return f"is another application's database (it has a table alembic_version of its own); {another}"
    if other and (alone or tables & theirs):
        return f"is another application's database (tables {', '.join(sorted(other)[:4])}); {another}"
    return ""


# PostgreSQL


def _postgresql(parsed: URL, where: str) -> Place:
    parsed = parsed.set(drivername="postgresql+psycopg")
    label = _label(parsed)
    try:
        found = importlib.util.find_spec("psycopg") is not None
        if found:
            import psycopg
    except ImportError:  # psycopg without libpq
        found = False
    if not found:
        raise refuse(where, f"needs the driver psycopg 3, which is not installed: {INSTALL}", label)

    place = Place(parsed.render_as_string(hide_password=False), label)
    try:
        with connect(place) as connection:
            tables, schema, may_create, replica = connection.execute(
                "SELECT coalesce((SELECT array_agg(tablename::text) FROM pg_catalog.pg_tables"
                " WHERE schemaname = ANY (current_schemas(false))), '{}'), current_schema(),"
                " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), pg_is_in_recovery()"
            ).fetchone()  # type: ignore[misc]
    except psycopg.Error as error:
        raise refuse(where, _plainly(error, parsed), label) from None
    if replica:
        raise refuse(where, "is a replica, which can only be read; name the primary server", label)
    if says := _others(set(tables), alone=False):
        raise refuse(where, says, label)
    if not may_create and "version_info" not in tables:
        user, schema = parsed.username or "USER", schema or "public"
        says = f"lets you make no tables; ask its owner: GRANT CREATE, USAGE ON SCHEMA {schema} TO {user}"
        raise refuse(where, says, label)
    return place


def _label(parsed: URL) -> str:
    query = {key: value for key, value in parsed.query.items() if not is_secret_name(key)}
    # Not parsed.set(password=None), which leaves it as it is.
    bare = URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database, query)
    return bare.render_as_string()


def connect_arguments(place: Place) -> dict[str, Any]:
    """libpq's, less those in the address: give up soon, and notice within a minute that the server is gone."""
    arguments = {
        "connect_timeout": CONNECT_SEC,
        "application_name": "litmus tune",
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # ms
    }
    given = make_url(place.url).query
    return {key: value for key, value in arguments.items() if key not in given}


def connect(place: Place) -> psycopg.Connection[Any]:
    """A connection of its own to a PostgreSQL place, each statement its own transaction.

    The server notices within a minute that this machine is gone, and frees what the connection held.
    """
    import psycopg

    parsed = make_url(place.url)
    arguments = parsed.get_dialect()().create_connect_args(parsed)[1]
    connection = psycopg.connect(**connect_arguments(place), **arguments, autocommit=True)
    connection.execute("SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3")
    return connection


def _plainly(error: Exception, parsed: URL) -> str:
    text = str(error).strip()
    text = " ".join(text.replace(str(parsed.password), MASK).split()) if parsed.password else " ".join(text.split())
    host = parsed.host or os.environ.get("PGHOST", "localhost")
    port = parsed.port or os.environ.get("PGPORT", "5432")
    user, database = parsed.username or os.environ.get("PGUSER", "you"), parsed.database or "your user's name"
    server = f"the server at {host}, port {port},"
    if re.search(r"password authentication failed|no password supplied", text):
        return (
            f"{server} refuses the password of {user!r}; it is read from the address, PGPASSWORD or ~/.pgpass "
            "(whose mode must be 600)"
        )
    if re.search(r'role "[^"]*" does not exist', text):
        return f"{server} does not know the user {user!r}; make it there: createuser --pwprompt {user}"
    if re.search(r'database "[^"]*" does not exist', text):
        return f"{server} has no database {database!r}; make it: createdb -h {host} -p {port} -U {user} {database}"
    if "no pg_hba.conf entry" in text:
        return f"{server} does not let {user!r} in from this machine (no pg_hba.conf entry); its administrator can"
    if re.search(r"too many clients|remaining connection slots", text):
        return f"{server} has no connection left (max_connections); start fewer workers or raise it"
    if re.search(r"starting up|shutting down", text):
        return f"{server} is starting up or shutting down; try again in a moment"
    start = "start it (`sudo systemctl start postgresql`), or leave the option out for a sqlite file on one machine"
    if re.search(r"[Cc]onnection refused|No such file or directory", text):
        return f"names a server at {host}, port {port}, where none listens; {start}"
    if re.search(r"timeout|timed out", text):
        return f"names a server at {host}, port {port}, that did not answer in {CONNECT_SEC} s; is it up? {start}"
    if re.search(r"resolve|not known|translate host name|getaddrinfo", text):
        return f"names a host {host!r} that is not known here"
    return f"cannot be used: {text[:300]}"
