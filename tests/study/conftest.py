"""What the tests of studies share: a PostgreSQL server, and an empty place of either kind."""

import multiprocessing

import pytest

from litmus.study.place import ENVIRONMENT, place_of
from tests import postgres


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    for name in (
        ENVIRONMENT,
        "SLURM_JOB_NUM_NODES",
        "SLURM_NNODES",
        "PGPASSWORD",
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGTZ",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _cluster():
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'litmus[postgresql]'")
    server = postgres.Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def server(_cluster):
    """A running ``tests.postgres.Server``; a test may stop and kill it."""
    if _cluster.process is None:
        _cluster.start()
    return _cluster


@pytest.fixture
def postgresql(server):
    """URL, with its password, of an empty database."""
    return server.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """An empty place for studies, of either kind."""
    return place_of(None if request.param == "sqlite" else request.getfixturevalue("postgresql"), tmp_path)


@pytest.fixture(scope="session")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.study.crowd", "psycopg"])
    return context


@pytest.fixture
def crowd(processes):
    """``crowd(job, n, *args)``: what ``job(*args)`` returned, or the text of what it raised, in n processes at once."""
    from tests.study.crowd import at_once

    return lambda job, count, *args: at_once(processes, job, count, *args)


@pytest.fixture
def start(processes):
    """``start(job, *args)``: a process of its own; whatever of them is left at the end is killed."""
    started = []

    def begin(job, *args):
        process = processes.Process(target=job, args=args)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join(10)
