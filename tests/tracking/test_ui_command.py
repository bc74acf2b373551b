"""MLflow's UI on the right store."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from litmus.errors import Refused
from litmus.tracking.stored import sync
from litmus.tracking.ui import server_url, ui_command


def test_the_ui_opens_the_embedded_store_on_this_machine_alone(home):
    argv, env = ui_command(home)
    assert argv[:5] == [sys.executable, "-P", "-m", "mlflow", "server"]
    options = dict(zip(argv[5::2], argv[6::2], strict=True))
    assert options == {
        "--backend-store-uri": f"sqlite:///{home}/mlflow.db",
        "--default-artifact-root": (home / "artifacts").as_uri(),
        "--host": "127.0.0.1",
        "--port": "5000",
        "--workers": "1",
    }
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_server_is_opened_in_a_browser(home):
    uri = "http://me:hunter2@mlflow.example.org"
    assert server_url(home=home, uri=uri) == "http://mlflow.example.org"
    assert server_url(home=home) is None
    with pytest.raises(Refused, match="open it in a browser") as refused:
        ui_command(home, uri)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_is_a_port(home, port):
    with pytest.raises(Refused, match="port"):
        ui_command(home, port=port)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.read().decode()
    except OSError:
        return ""


@pytest.mark.proof
def test_a_real_server_shows_the_run_takes_runs_dies_and_comes_back(home, store, start, eventually, tmp_path):
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    argv, env = ui_command(home, port=port)

    def serve():
        with (tmp_path / "server.log").open("a") as log:
            process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        eventually(lambda: _answer(f"{url}/health") == "OK", timeout_sec=120)
        return process

    def kill(process):  # and its worker
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not _answer(f"{url}/health"))

    embedded = start(send="thread", name="embedded")
    embedded.log_text("seed: 0\n", "config.yaml")
    assert embedded.finish(timeout_sec=60)
    server = serve()
    try:
        assert "<html" in _answer(url)
        got = _answer(f"{url}/get-artifact?path=config.yaml&run_uuid={embedded.id}")
        assert got == "seed: 0\n"

        run = start(send="thread", uri=url, name="served", home=tmp_path / "other")
        for step in range(100):
            run.log_metrics({"train/loss": 0.5, "lr": 0.1}, step=step)
        assert run.wait_id(60)
        kill(server)
        for step in range(100, 200):
            run.log_metrics({"train/loss": 0.5, "lr": 0.1}, step=step)
            time.sleep(0.005)
        run.log_text("seed: 1\n", "config.yaml")
        assert not run.finish(timeout_sec=2)
        server = serve()
        for _ in range(2):
            assert sync(run.dir).complete
        (served,) = [remote for remote in store.runs() if remote.name == "served"]
        assert served.status == "FINISHED"
        assert len(store.history(served.id, "train/loss")) == 200
        assert _answer(f"{url}/get-artifact?path=config.yaml&run_uuid={served.id}") == "seed: 1\n"
    finally:
        kill(server)
