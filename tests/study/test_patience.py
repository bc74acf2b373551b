"""Which errors of a database pass, told by real ones, and how long is waited for them."""

import sqlite3
from contextlib import closing

import optuna
import pytest
import sqlalchemy
from sqlalchemy import exc

from litmus.study.patience import is_away, patiently
from litmus.study.place import place_of
from litmus.study.storage import ask, open_storage

psycopg = pytest.importorskip("psycopg")


def locked():
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 5
    return error


def raised(statement, url, connect_args=None, **kwargs):
    engine = sqlalchemy.create_engine(url, connect_args=connect_args or {}, **kwargs)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    except Exception as error:
        return error
    finally:
        engine.dispose()
    raise AssertionError("nothing was raised")


def test_a_locked_file_passes_a_missing_table_and_a_damaged_file_stay(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE t (id INTEGER UNIQUE)")
        other.execute("INSERT INTO t VALUES (1)")
        other.execute("BEGIN EXCLUSIVE")
        assert is_away(raised("INSERT INTO t VALUES (2)", url, {"timeout": 0}))
    assert not is_away(raised("INSERT INTO t VALUES (1)", url))
    assert not is_away(raised("SELECT * FROM absent", url))
    assert not is_away(raised("SELECT * FROM absent", f"sqlite:///{tmp_path}/absent/x.db"))
    (tmp_path / "x.db").write_bytes(b"no database" * 500)
    assert not is_away(raised("SELECT * FROM t", url))


def test_a_full_disk_stays(tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (x BLOB)")
        db.execute("PRAGMA max_page_count = 4")
        with pytest.raises(sqlite3.OperationalError, match="full") as full:
            db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert not is_away(full.value)


@pytest.mark.parametrize(
    ("statement", "away"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", True),
        ("SET statement_timeout = 20; SELECT pg_sleep(5)", True),
        ("SET TRANSACTION READ ONLY; CREATE TABLE t (id INTEGER)", True),  # a primary that became a replica
        ("SELECT * FROM absent", False),
        ("CREATE TABLE a (id INTEGER UNIQUE); INSERT INTO a VALUES (1), (1)", False),
        ("SELECT 1 / 0", False),
        ("no sql", False),
    ],
)
def test_what_a_server_says_passes_or_stays(postgresql, tmp_path, statement, away):
    assert is_away(raised(statement, place_of(postgresql, tmp_path).url)) == away


def test_a_server_out_of_connections_passes_a_wrong_password_stays(server, postgresql, tmp_path):
    place = place_of(postgresql, tmp_path)
    wrong = sqlalchemy.make_url(place.url).set(password="wrong")
    assert not is_away(raised("SELECT 1", wrong))
    assert not is_away(raised("SELECT 1", sqlalchemy.make_url(place.url).set(database="absent")))
    assert is_away(raised("SELECT 1", sqlalchemy.make_url(place.url).set(port=9)))
    server.psql("CREATE ROLE one LOGIN PASSWORD 'one' CONNECTION LIMIT 0")
    assert is_away(raised("SELECT 1", sqlalchemy.make_url(place.url).set(username="one", password="one")))
    server.stop()
    try:
        assert is_away(raised("SELECT 1", place.url))
    finally:
        server.start()


def test_tell_hides_the_error_that_counts_and_it_is_found(server, postgresql, tmp_path):
    storage = open_storage(place_of(postgresql, tmp_path), heartbeat_sec=5, grace_sec=20)
    study = optuna.create_study(storage=storage)
    trial = ask(study)
    server.stop()
    try:
        with pytest.raises(Exception) as hidden:
            study.tell(trial, 1.0)
    finally:
        server.start()
    assert not isinstance(hidden.value, exc.DBAPIError)
    assert is_away(hidden.value)


def test_the_outermost_database_error_decides():
    def chain(first, second):
        try:
            try:
                raise first
            except Exception:
                raise second  # noqa: B904
        except Exception as error:
            return error

    assert is_away(chain(locked(), UnboundLocalError("values")))
    assert not is_away(chain(locked(), sqlite3.IntegrityError("UNIQUE constraint failed")))
    assert is_away(chain(sqlite3.IntegrityError("UNIQUE constraint failed"), locked()))
    assert not is_away(UnboundLocalError("values"))
    assert not is_away(ConnectionRefusedError("another server's"))
    alone = UnboundLocalError("values")
    alone.__context__, alone.__suppress_context__ = locked(), True
    assert not is_away(alone)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now, self.waits = 100.0, []
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, sec):
        self.waits.append(sec)
        self.now += sec


def test_waits_grow_to_two_seconds_and_it_is_said_twice(monkeypatch):
    clock, said = Clock(monkeypatch), []

    def call():
        if clock.now < 110:
            raise locked()
        return "told"

    assert patiently(call, patience_sec=60, say=said.append) == "told"
    assert clock.waits[:7] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert max(clock.waits) == 2.0
    assert said == [
        "the database of studies is away (database is locked); trying again for 60 s",
        "the database of studies is back after 11 s",
    ]


def test_patience_ends_with_the_last_error_and_a_note(monkeypatch):
    clock = Clock(monkeypatch)

    def call():
        raise locked()

    with pytest.raises(sqlite3.OperationalError) as last:
        patiently(call, patience_sec=5)
    assert sum(clock.waits) == pytest.approx(5)
    assert last.value.__notes__ == ["the database of studies was away for 5 s"]


def test_what_waiting_does_not_help_is_raised_at_once(monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 / 0, patience_sec=60)
    assert clock.waits == []


def test_a_wait_can_be_left(monkeypatch):
    clock = Clock(monkeypatch)

    def call():
        raise locked()

    def stop():
        if clock.now > 102:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patiently(call, patience_sec=60, on_wait=stop)
    assert clock.now < 105
