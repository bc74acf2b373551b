"""An MLflow store made once, and an MLflow server of a hundred lines that can be broken at will."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from litmus.tracking.destination import resolve
from litmus.tracking.run import Run
from litmus.tracking.store import Store


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("litmus.tracking.sender.POLL_SEC", 0.1)


@pytest.fixture(scope="session")
def store_template(tmp_path_factory) -> Path:
    """A fresh sqlite store; MLflow takes seconds to make one."""
    home = tmp_path_factory.mktemp("template")
    Store(resolve(f"sqlite:///{home}/mlflow.db", home))
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path) -> Path:
    """A home without a store."""
    return tmp_path / "mlruns"


@pytest.fixture
def store(home, store_template) -> Store:
    """The store embedded in ``home``, made and empty."""
    home.mkdir()
    shutil.copy(store_template, home / "mlflow.db")
    return Store(resolve(None, home))


@pytest.fixture
def start(home):
    """Start a run that is finished at the end of the test, whatever the test does."""
    started: list[Run] = []

    def start_run(**changes: Any) -> Run:
        settings: dict[str, Any] = {"home": home, "experiment": "litmus/digits", "name": "resnet8", "send": "off"}
        started.append(Run.start(**{**settings, **changes}))
        return started[-1]

    yield start_run
    for run in started:
        run.finish("KILLED", timeout_sec=0.1)


class FakeServer:
    """Enough of MLflow's REST interface for runs, in memory. ``mode``: ok, error (500) or hang."""

    def __init__(self, artifacts: Path):
        self.mode = "ok"
        self.lose_answers = 0  # so many requests are carried out and answered with a 500
        self.requests: list[str] = []
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts = artifacts
        self.port = 0
        self.up()

    def up(self) -> None:
        """Listen, after ``down`` at the same address."""
        self._release = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                path, _, query = self.path.partition("?")
                body |= {k: v for k, _, v in (part.partition("=") for part in query.split("&") if part)}
                status, answer = fake.answer(path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = handle_one

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False  # a request that hangs is no reason to wait

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gave up on us

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self.uri = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = path.rsplit("/mlflow/", 1)[-1]
        self.requests.append(name)
        if self.mode == "hang":
            self._release.wait(20)
        if self.mode == "error":
            return 500, {"error_code": "INTERNAL_ERROR", "message": "broken on purpose"}
        status, answer = getattr(self, "_" + re.sub(r"\W", "_", name), self._unknown)(body)
        if self.lose_answers > 0 and status == 200:
            self.lose_answers -= 1
            return 500, {"error_code": "INTERNAL_ERROR", "message": "lost on the way back"}
        return status, answer

    def _unknown(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "no such endpoint"}

    def _missing(self) -> tuple[int, dict[str, Any]]:
        return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not there"}

    def _experiments_get_by_name(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = urllib.parse.unquote_plus(body["experiment_name"])
        if name not in self.experiments:
            return self._missing()
        return 200, {"experiment": {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}}

    def _experiments_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.experiments[body["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[body["name"]]}

    def _runs_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run_id = uuid.uuid4().hex
        self.runs[run_id] = {
            "info": {
                "run_id": run_id,
                "run_name": body.get("run_name", ""),
                "experiment_id": body["experiment_id"],
                "status": "RUNNING",
                "start_time": body["start_time"],
                "lifecycle_stage": "active",
                "artifact_uri": (self.artifacts / run_id).as_uri(),
            },
            "metrics": set(),
            "params": {},
            "tags": {tag["key"]: tag["value"] for tag in body.get("tags", [])},
            "inputs": {},
        }
        return 200, {"run": self._shown(self.runs[run_id])}

    def _shown(self, run: dict[str, Any]) -> dict[str, Any]:
        last = {key: (value, at, step) for key, value, at, step in sorted(run["metrics"], key=lambda m: (m[3], m[2]))}
        return {
            "info": run["info"],
            "data": {
                "metrics": [{"key": k, "value": v, "timestamp": t, "step": s} for k, (v, t, s) in last.items()],
                "params": [{"key": k, "value": v} for k, v in run["params"].items()],
                "tags": [{"key": k, "value": v} for k, v in run["tags"].items()],
            },
        }

    def _runs_search(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        wanted = re.search(r"litmus\.run_uid` = '(\w+)'", body.get("filter", ""))
        found = [r for r in self.runs.values() if not wanted or r["tags"].get("litmus.run_uid") == wanted[1]]
        return 200, {"runs": [self._shown(run) for run in found]}

    def _experiments_search(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        listed = [{"experiment_id": i, "name": n, "lifecycle_stage": "active"} for n, i in self.experiments.items()]
        return 200, {"experiments": listed}

    def _experiments_get(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = {i: n for n, i in self.experiments.items()}[body["experiment_id"]]
        return 200, {"experiment": {"experiment_id": body["experiment_id"], "name": name, "lifecycle_stage": "active"}}

    def _runs_get(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs.get(body["run_id"])
        return (200, {"run": self._shown(run)}) if run else self._missing()

    def _runs_log_batch(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs.get(body["run_id"])
        if run is None:
            return self._missing()
        metrics, params, tags = (body.get(part, []) for part in ("metrics", "params", "tags"))
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        for m in metrics:  # identical rows are one row, as in MLflow
            run["metrics"].add((m["key"], float(m["value"]), int(m["timestamp"]), int(m.get("step", 0))))
        for p in params:
            if run["params"].setdefault(p["key"], p["value"]) != p["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"param {p['key']} changed"}
        run["tags"].update({t["key"]: t["value"] for t in tags})
        return 200, {}

    def _runs_set_tag(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.runs[body["run_id"]]["tags"][body["key"]] = body["value"]
        return 200, {}

    def _runs_update(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs.get(body["run_id"])
        if run is None:
            return self._missing()
        run["info"] |= {key: body[key] for key in ("status", "end_time") if key in body}
        return 200, {"run_info": run["info"]}

    def _runs_log_inputs(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        for item in body["datasets"]:
            self.runs[body["run_id"]]["inputs"][item["dataset"]["name"], item["dataset"]["digest"]] = item
        return 200, {}


@pytest.fixture
def server(tmp_path) -> Iterator[FakeServer]:
    fake = FakeServer(tmp_path / "server-artifacts")
    yield fake
    fake.down()


@pytest.fixture
def eventually():
    """Wait for the first true answer of a condition; the test fails if none comes."""

    def wait(condition, timeout_sec: float = 20.0):
        until = time.monotonic() + timeout_sec
        while not (answer := condition()):
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.02)
        return answer

    return wait
