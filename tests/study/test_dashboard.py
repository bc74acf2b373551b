"""optuna-dashboard opens what open_storage made, as the README says."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest

from litmus.study.storage import ask, open_storage, place_of
from tests.postgres import PASSWORD, free_port

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'litmus[dashboard]'")


def fill(place):
    study = optuna.create_study(
        storage=open_storage(place, heartbeat_sec=5, grace_sec=20), study_name="digits", direction="minimize"
    )
    for x in (0.1, 0.3):
        trial = ask(study)
        trial.suggest_float("optim.lr", 0, 1)
        trial.set_user_attr("litmus.worker", 0)
        study.tell(trial, x)
    ask(study)
    return study


def test_the_dashboard_shows_a_study_on_this_machine_only(here):
    place = place_of(None, "mlruns")
    study, port = fill(place), free_port()
    assert place.shown == "sqlite:///mlruns/studies.db"
    program = Path(sys.executable).with_name("optuna-dashboard")
    argv = [program, place.shown, "--port", str(port), "--server", "wsgiref"]
    with (here / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        answer = wait_for(f"http://127.0.0.1:{port}/api/studies", process, here / "log")
    finally:
        process.kill()
        process.wait(10)
    assert [one["study_name"] for one in answer["study_summaries"]] == ["digits"]
    assert f"http://127.0.0.1:{port}" in (here / "log").read_text()
    assert len(study.trials) == 3


def wait_for(url, process, log, timeout_sec=60):
    until = time.monotonic() + timeout_sec
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the dashboard's own
def test_the_dashboard_reads_either_kind(place, monkeypatch):
    from optuna_dashboard import wsgi
    from optuna_dashboard._storage_url import get_storage

    fill(place)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    storage = get_storage(place.shown)
    try:
        app = wsgi(storage)
        (study,) = call(app, "/api/studies")["study_summaries"]
        detail = call(app, f"/api/studies/{study['study_id']}")
    finally:
        storage._backend.engine.dispose() if hasattr(storage, "_backend") else storage.engine.dispose()
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Running"]
    assert [trial["values"][0] for trial in detail["trials"][:2]] == [0.1, 0.3]


def call(app, path):
    from wsgiref.util import setup_testing_defaults

    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    status = []
    body = b"".join(app(environ, lambda line, headers, info=None: status.append(line)))
    assert status[0].startswith("200"), body
    return json.loads(body)
