"""A real MLflow server behind a door that can be shut in every way, and a comparison of what it has with a spool."""

from __future__ import annotations

import http.client
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from litmus.tracking.spool import Spool


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """``mlflow server`` on a sqlite store that takes artifacts itself; killed and started as often as wanted."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, timeout_sec=120):
        argv = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        argv += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        argv += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=env, start_new_session=True)
        until = time.monotonic() + timeout_sec
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < until, "the server did not start in time"
            time.sleep(0.1)

    def _answers(self):
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)) as connection:
                connection.request("GET", "/health")
                return connection.getresponse().status == 200
        except OSError:
            return False

    def kill(self):
        """SIGKILL to all of its processes, whatever they are at."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def facts(self, uid):
        """How often the store holds each metric point, parameter, tag, status and file of our run."""
        with sqlite3.connect(self.folder / "mlflow.db") as db:
            where = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'litmus.run_uid' AND value = ?)"
            rows = {
                kind: db.execute(f"SELECT {columns} FROM {table} WHERE {where}", [uid]).fetchall()
                for kind, table, columns in (
                    ("metric", "metrics", "key, CASE WHEN is_nan THEN NULL ELSE value END, step, timestamp"),
                    ("param", "params", "key, value"),
                    ("tag", "tags", "key, value"),
                    ("status", "runs", "status"),
                    ("run", "runs", "run_uuid"),
                )
            }
        db.close()
        ids = [run_id for (run_id,) in rows.pop("run")]
        found = Counter((kind, *row) for kind, some in rows.items() for row in some)
        for run_id in ids:
            (folder,) = (self.folder / "artifacts").glob(f"*/{run_id}/artifacts")
            found += Counter(files_in(folder))
        return found


class Door:
    """Stands before a server. ``mode``: ok, error (a 500) or hang; ``down`` refuses; ``lose_answers`` as many times
    has the request carried out and answers with a 500."""

    def __init__(self, server: Server):
        self.server, self.port, self.mode, self.lose_answers = server, free_port(), "ok", 0
        self.uri = f"http://127.0.0.1:{self.port}"
        self.num_spoilt = 0
        self.up()

    def up(self):
        door = self
        self._release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                mode = door.mode
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if mode == "hang":
                    door.num_spoilt += 1
                    door._release.wait(30)
                    self.close_connection = True
                    return
                status, kind, answer = 500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "broken"}'
                if mode == "ok":
                    try:
                        headers = {key: value for key, value in self.headers.items() if key != "Connection"}
                        with closing(http.client.HTTPConnection("127.0.0.1", door.server.port, timeout=60)) as there:
                            there.request(self.command, self.path, body, headers)
                            got = there.getresponse()
                            whole = got.read()
                    except OSError:  # it was killed meanwhile
                        door.num_spoilt += 1
                        self.close_connection = True
                        return
                    if door.lose_answers > 0:
                        door.lose_answers -= 1
                        door.num_spoilt += 1
                    else:
                        status, kind, answer = got.status, got.headers.get("Content-Type", ""), whole
                else:
                    door.num_spoilt += 1
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = pass_on

            def log_message(self, *args):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, request, client_address):
                pass  # a client that gave up on us

        self._http = Listener(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def down(self):
        self._release.set()
        self._http.shutdown()
        self._http.server_close()

    def facts(self, uid):
        return self.server.facts(uid)


def files_in(folder: Path):
    return [
        ("file", path.relative_to(folder).as_posix(), path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    ]


def facts_of_fake(server, uid):
    """The same of the server of a hundred lines in tests/tracking, which keeps points as a set."""
    found = Counter()
    for run in server.runs.values():
        if run["tags"].get("litmus.run_uid") == uid:
            found += Counter(
                {
                    ("metric", key, None if math.isnan(value) else value, step, at)
                    for key, value, at, step in run["metrics"]
                }
            )
            found += Counter(("param", *item) for item in run["params"].items())
            found += Counter(("tag", *item) for item in run["tags"].items())
            found += Counter([("status", run["info"]["status"])])
            found += Counter(files_in(server.artifacts / run["info"]["run_id"]))
    return found


def differences(directory: Path, there: Counter):
    """(metric points recorded, facts that are missing, facts that are double or not ours)."""
    with Spool(directory) as spool:
        points = spool._all("SELECT 'metric', key, value, step, at FROM log WHERE kind = 'metric'")
        params, tags = spool.texts("param"), spool.texts("tag")
        wanted = Counter(points) + Counter([("status", spool.status)])
    wanted += Counter(("param", *item) for item in params.items()) + Counter(("tag", *item) for item in tags.items())
    wanted += Counter(files_in(directory / "artifacts"))
    mlflows = Counter({fact: n for fact, n in there.items() if fact[0] == "tag" and fact[1].startswith("mlflow.")})
    return len(points), wanted - there, there - wanted - mlflows
