"""Which errors of a database pass by themselves, and how to wait until they have."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import exc

T = TypeVar("T")

LONGEST_WAIT_SEC = 2.0
_SQLITE_AWAY = {5, 6, 15}  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL: another process is at it
# PostgreSQL's SQLSTATE: connection lost or refused; shut down, crashed, starting, session ended; too many connections;
# a lock or a statement that took too long; serialization, deadlock; a primary that became a replica.
_STATES_AWAY = re.compile(r"08...|57P0[1235]|25P03|53300|55P03|57014|40001|40P01|25006")
# Without a connection there is no SQLSTATE, only text.
_NEVER = re.compile(
    r"password authentication failed|no password supplied|(?:role|database) \"[^\"]*\" does not exist"
    r"|no pg_hba.conf entry|not permitted to log in|permission denied|certificate|invalid (?:dsn|connection option)"
)


def is_away(error: BaseException) -> bool:
    """Whether a database error is worth another try: locked, restarting, connection lost, too many clients.

    The outermost database error in the chain of causes decides: Optuna wraps it in StorageInternalError, and ``tell``
    hides it behind another exception. A full disk, a damaged file, a missing table, a violated constraint stay.
    """
    for one in _chain(error):
        if isinstance(one, exc.TimeoutError):  # all connections of the pool are in use
            return True
        if isinstance(one, exc.DBAPIError):
            if one.connection_invalidated:
                return True
            one = one.orig or one
        if isinstance(one, sqlite3.Error):
            return getattr(one, "sqlite_errorcode", 0) & 0xFF in _SQLITE_AWAY
        if any(base.__module__.startswith("psycopg") for base in type(one).__mro__):
            return _postgresql_away(one)
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _postgresql_away(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None)
    if state:
        return _STATES_AWAY.fullmatch(state) is not None
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"}) and not _NEVER.search(str(error))


def patiently(
    call: Callable[[], T],
    *,
    patience_sec: float,
    say: Callable[[str], None] = lambda line: None,
    on_wait: Callable[[], None] | None = None,
) -> T:
    """``call()``, again and again while the database is away, for ``patience_sec`` at most.

    What it calls must bear being done twice: a commit whose answer was lost has happened.

    Args:
        say: is told once that we wait, and once that the database is back.
        on_wait: called before each wait; may raise to get out.

    Raises:
        Exception: whatever the call raised that no waiting helps; the last one, with a note, when patience is over.
    """
    began, wait_sec, waits = time.monotonic(), 0.05, 0
    while True:
        try:
            result = call()
        except Exception as error:
            gone_sec = time.monotonic() - began
            if not is_away(error):
                raise
            if gone_sec >= patience_sec:
                error.add_note(f"the database of studies was away for {gone_sec:.0f} s")
                raise
            if not waits:
                say(f"the database of studies is away ({_shortly(error)}); trying again for {patience_sec:.0f} s")
        else:
            if waits:
                say(f"the database of studies is back after {time.monotonic() - began:.0f} s")
            return result
        if on_wait is not None:
            on_wait()
        waits += 1
        time.sleep(max(0.0, min(wait_sec, patience_sec - gone_sec)))
        wait_sec = min(2 * wait_sec, LONGEST_WAIT_SEC)


def _shortly(error: BaseException) -> str:
    for one in _chain(error):
        if isinstance(one, exc.DBAPIError) and one.orig is not None:
            return str(one.orig).strip().splitlines()[0][:120]
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
