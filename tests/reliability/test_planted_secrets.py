"""Secrets planted wherever a training may meet one: none is in a file that it leaves or a line that it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from litmus import commands
from litmus.tracking import Run, record, sender
from tests.tracking.conftest import FakeServer

BODY = "a1B2c3D4e5F6g7H8j9K0m1N2p3Q4r5S6"  # behind whatever makes a shape
PEM = "-----BEGIN {0}PRIVATE KEY-----\n{1}\n-----END {0}PRIVATE KEY-----\n"

# what is planted -> (the secret, a word beside it that shows it was carried)
IN_TAGS = {
    "a name that says so": ("api_key", "{}", "correct-horse-01"),
    "a password on the command line": ("db_password", "{}", "correct-horse-02"),
    "GitHub": ("github", "use {}", f"ghp_{BODY}a1B2"),
    "AWS key": ("aws", "{}", "AKIA" + "IOSFODNN7EXAMPLE"),
    "database address": ("database", "postgresql://me:{}@db.example.org/x", "correct-horse-03"),
    "header": ("header", "Bearer {}", "correct.horse.04"),
    "signed address": ("archive", "https://b.example.org/x?X-Amz-Signature={}", "0f1e2d3c4b5a6978"),
    "JSON web token": ("web", "{}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
}
IN_ENVIRONMENT = {  # carried by a tag of an innocent name
    "token of the environment": ("HF_TOKEN", "correct-horse-05"),
    "password of the environment": ("MLFLOW_TRACKING_PASSWORD", "correct-horse-06"),
}
IN_NAMES = {"run name": f"hf_{BODY}", "experiment": f"sk-proj-{BODY}"}
IN_THE_REPOSITORY = {  # file, content as committed (None: new), content now
    "changed YAML": ("hub.yaml", "hub:\n  lr: 1\n", "hub:\n  password: {}\n", "correct-horse-07"),
    "changed Python": ("train.py", "x = 1\n", 'api_key = "{}"\n', "correct-horse-08"),
    "changed ini": ("aws.ini", "[default]\n", "[default]\naws_secret_access_key = {}\n", "correct/horse+09" + BODY),
    "new .env": ("local.env", None, "SECRET_KEY={}\n", "correct-horse-10"),
    "new private key": ("id_rsa", None, PEM.format("RSA ", "{}"), f"MIIE{BODY}11"),
    "new service account": ("gcp.json", None, '{{"private_key": "' + PEM.format("", "{}") + '"}}\n', f"MIIE{BODY}12"),
    "new .netrc": ("netrc.txt", None, "machine h.example.org login me password {}\n", "correct-horse-13"),
    "new kaggle.json": ("kaggle.json", None, '{{"username":"me","key":"{}"}}\n', "0a1b2c3d" * 4),
    "new connection string": ("azure.txt", None, "AccountName=x;AccountKey={};\n", f"{BODY}14=="),
    "new notebook": ("a.ipynb", None, '{{"source": ["login(\\"{}\\")"]}}\n', f"glpat-{BODY}"),
}
IN_CALLS = {
    "address of the server": "correct-horse-15",
    "source of the data": "correct-horse-16",
    "log file": f"xoxb-{BODY}",
    "page": "AIza" + "S" * 35,
    "what an error says": "correct-horse-17",
    "what a server quotes": f"dckr_pat_{BODY}",
    "refused override": "correct-horse-18",
    "traceback on the screen": "correct.horse.19",
}
PLANTED = {
    **{what: plant[-1] for plants in (IN_TAGS, IN_ENVIRONMENT, IN_THE_REPOSITORY) for what, plant in plants.items()},
    **IN_NAMES,
    **IN_CALLS,
}
FAST = ["model.name=mlp", "model.depth=2", "model.width=8", "train.epochs=1", "train.accelerator=cpu"]


class Quoting(FakeServer):
    """A server that will not take one parameter, and quotes a secret that it was sent some other way."""

    def _runs_log_batch(self, body):
        if any(param["key"] == "bad" for param in body.get("params", [])):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"bad: {PLANTED['what a server quotes']}"}
        return super()._runs_log_batch(body)


def repository(folder):
    """Files with secrets in them, changed or new since the last commit."""

    def git(*words):
        subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@x", *words], check=True)

    folder.mkdir()
    git("init", "-q")
    for name, before, _, _ in IN_THE_REPOSITORY.values():
        if before is not None:
            (folder / name).write_text(before)
    git("add", ".")
    git("commit", "-q", "-m", "before")
    for name, _, now, secret in IN_THE_REPOSITORY.values():
        (folder / name).write_text(now.format(secret))
    return folder


def fit(folder, litmus, monkeypatch):
    """A short training into the embedded store; returns what it printed."""
    tags = [f"tracking.tags.{key}={text.format(secret)}" for key, text, secret in IN_TAGS.values()]
    tags += [f"tracking.tags.seen_{number}={value}" for number, (_, value) in enumerate(IN_ENVIRONMENT.values())]
    for name, value in IN_ENVIRONMENT.values():
        monkeypatch.setenv(name, value)
    names = [f"name={IN_NAMES['run name']}", f"tracking.experiment={IN_NAMES['experiment']}"]
    planted = repository(folder / "repository")
    monkeypatch.setattr(record, "_repository", lambda: planted)
    argv = ["fit", *FAST, *names, *tags, f"tracking.home={folder / 'home'}"]
    monkeypatch.setattr(sys, "argv", ["litmus", *argv])
    code, out, err = litmus(*argv)
    assert code == 0, err
    return out + err


def log_and_fail(run, folder):
    run.log_dataset("d", f"https://me:{PLANTED['source of the data']}@example.org/d.zip", "0" * 32)
    for name, text in (("train.log", "log file"), ("page.html", "page")):
        (folder / name).write_text(f"<p>{PLANTED[text]}</p>\n")
        run.log_artifact(folder / name)
        (folder / name).unlink()
    run.log_params({"bad": 1})
    raise RuntimeError(f"GET https://me:{PLANTED['what an error says']}@example.org/x failed")


def call(folder, litmus, monkeypatch, caplog):
    """What a training cannot carry: runs that log to a server that quotes, and commands that fail."""
    server = Quoting(folder / "server")
    said = ""
    address = server.uri.replace("://", f"://me:{PLANTED['address of the server']}@")
    home = folder / "home"
    try:
        run = Run.start(home=home, uri=address, experiment="e", name="calls", send="process")
        with pytest.raises(RuntimeError), run:
            log_and_fail(run, folder)
        said += "".join(litmus("sync", run.dir, "--home", home, "--uri", address)[1:])
        said += "".join(litmus("runs", "--home", home, "--uri", address)[1:])
    finally:
        server.down()
    code, *words = litmus("fit", f"hub.token={PLANTED['refused override']}")
    assert code == 2

    def failing(*args, **kwargs):
        raise RuntimeError(f"Authorization: Bearer {PLANTED['traceback on the screen']}")

    monkeypatch.setattr(commands, "list_runs", failing)
    code, *more = litmus("runs", "--home", home)
    assert code == 1
    return said + "".join([*words, *more, *(record.getMessage() for record in caplog.records)])


def leaks(folder, litmus, monkeypatch, caplog):
    """Which of the planted secrets are in a file or on the screen; asserts that each was carried there, masked."""
    sender._close_process()  # this test's own, whose log lies in its home
    try:
        printed = fit(folder, litmus, monkeypatch)
        printed += call(folder, litmus, monkeypatch, caplog)
    finally:
        sender._close_process()
    files = {
        path: path.read_bytes() for top in ("home", "server") for path in (folder / top).rglob("*") if path.is_file()
    }
    written = b"\n".join(files.values()).decode("utf-8", "replace")
    carried = [name for name, *_ in IN_THE_REPOSITORY.values()] + [key for key, *_ in IN_TAGS.values()]
    carried += ["seen_0", "seen_1", "page.html", "train.log"]
    assert [word for word in carried if word not in written] == []
    assert "hub = {'token': '[masked]'}" in printed
    assert "RuntimeError: Authorization: Bearer [masked]" in printed
    assert {"mlflow.db", "spool.sqlite", "sender.log", "code.diff", "config.yaml", "traceback.txt"} <= {
        path.name for path in files
    }
    return {what: [str(path) for path, content in files.items() if secret.encode() in content]
            + (["the screen"] if secret in printed else [])
            for what, secret in PLANTED.items()
            if secret in written or secret in printed or any(secret in str(path) for path in files)}  # fmt: skip


def test_no_planted_secret_is_left_anywhere(tmp_path, litmus, monkeypatch, caplog):
    assert leaks(tmp_path, litmus, monkeypatch, caplog) == {}


@pytest.mark.proof
def test_no_planted_secret_leaks(figure, tmp_path, litmus, monkeypatch, caplog):
    found = leaks(tmp_path, litmus, monkeypatch, caplog)
    places = len([path for path in Path(tmp_path / "home").rglob("*") if path.is_file()])
    note = json.dumps(found) if found else f"every byte of {places} files, the screen and the log searched"
    figure("secrets", f"{len(found)} of {len(PLANTED)} leaked", holds=not found, note=note)
