"""A PostgreSQL server of one's own for tests: made in a folder, stopped, killed and started as often as wanted."""

from __future__ import annotations

import ctypes
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PASSWORD = "p{0}/%:@ss-of-tests"  # with everything that an address must encode
QUOTED = "p%7B0%7D%2F%25%3A%40ss-of-tests"
USER = "litmus"
_CONFIG = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 60
timezone = 'Europe/Berlin'
"""


def binaries() -> Path | None:
    """The folder with initdb and postgres: in PATH, or where Debian has them, the newest version first."""
    if (found := shutil.which("initdb")) and shutil.which("postgres"):
        return Path(found).resolve().parent
    folders = sorted(map(Path, glob.glob("/usr/lib/postgresql/*/bin")), key=lambda path: float(path.parent.name))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _user() -> str | None:
    """Who runs it where we are root, which PostgreSQL refuses to be."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


class Server:
    """One cluster in a folder of its own; ``start`` may follow any ``stop`` or ``kill``.

    It dies with the thread that started it (PR_SET_PDEATHSIG), so that a killed test run leaves none behind: start it
    from the main thread.
    """

    def __init__(self) -> None:
        self.bin, self.user = binaries(), _user()
        # A short path, and one that the other user can walk: pytest's own are 0700.
        self.folder = Path(tempfile.mkdtemp(prefix="litmus-pg-"))
        self.data, self.port, self.process = self.folder / "data", 0, None
        self.port = free_port()
        self._databases = 0
        if self.user:
            shutil.chown(self.folder, self.user)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        argv = [self.bin / "initdb", "-D", self.data, "-U", USER, "--pwfile", secret, "--auth", "scram-sha-256"]
        argv += ["--no-sync", "--no-instructions", "--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(_CONFIG)

    def _as_user(self) -> dict:
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "cwd": "/"} if self.user else {"cwd": "/"}

    def start(self, timeout_sec: float = 30) -> None:
        argv = [self.bin / "postgres", "-D", self.data, "-p", str(self.port)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                **self._as_user(),
            )
        until = time.monotonic() + timeout_sec
        while subprocess.run(
            [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "PostgreSQL did not start in time"
            time.sleep(0.02)

    def stop(self) -> None:
        """As an administrator would in a hurry: sessions are told that it shuts down."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash is: all of its processes at once, without a word."""
        self._end(signal.SIGQUIT)

    def _end(self, signum: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(signum)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
        self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """URL, password included, of a database made for the caller."""
        self._databases += 1
        name = f"studies_{self._databases}"
        self.psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{database}"

    def psql(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
