"""What ``litmus diagnose`` says of a finished run, and what it adds to it."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from litmus.tracking import find_run
from litmus.tracking.run import Run

FAST = [
    *("model.name=mlp", "model.depth=2", "model.width=16", "train.epochs=2", "optim.lr=0.05", "name=small"),
    *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
]


@pytest.fixture
def small(here, litmus):
    """A finished run of an MLP, and what its training said."""
    _, said, _ = litmus("fit", *FAST)
    return said


def log_of(run):
    db = sqlite3.connect(run.dir / "spool.sqlite")
    try:
        return db.execute("SELECT kind, key, value, step FROM log ORDER BY seq").fetchall()
    finally:
        db.close()


def test_it_repeats_what_the_run_found_without_the_weights(small, here, litmus):
    run = find_run("small")
    (run.dir / "artifacts/weights.safetensors").unlink()
    code, said, _ = litmus("diagnose", "small")
    assert code == 0
    err, low, high = re.search(r"test/err (\S+) \(95% (\S+) to ([^;]+);", small).groups()
    assert re.search(rf"^test +{err} +{low} to {high} ", said, flags=re.MULTILINE)
    assert re.search(r"^train_eval +\S+ +exact ", said, flags=re.MULTILINE)  # all training images were seen
    kept = json.loads(run.artifact("result.json").read_text())
    assert kept["verdict"].partition(";")[0] in " ".join(said.split())
    assert [f"{i}. {move}" in said for i, move in enumerate(kept["moves"], start=1)] == [True] * len(kept["moves"])
    assert kept["moves"]
    assert "confusion.png" in said
    assert said.splitlines()[-1] == f"next     litmus diagnose {run.id8} --insight    or    litmus ui"


def test_repeating_it_loads_neither_torch_nor_mlflow(small, here):
    code = """
import sys
from litmus.cli import app
app(["diagnose", "small"], standalone_mode=False)
print([name for name in ("torch", "mlflow", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closer_look_joins_the_record_once_and_the_end_stays(small, here, litmus):
    before = find_run("small")
    code, said, _ = litmus("diagnose", "small", "--insight")
    assert code == 0
    assert "grad-cam    none: no layer gives maps over the image" in said
    assert "the run reported" not in said  # the same errors again
    pictures = re.findall(r"^picture +(\S+)$", said, flags=re.MULTILINE)
    assert [re.sub(r".*/|\.png", "", path) for path in pictures] == [
        "reliability", "top_losses", "confused_pairs", "embedding",
    ]  # fmt: skip
    assert all((here / path).is_file() for path in pictures)
    assert f"litmus sync {before.id8}" in said  # the run is offline
    after = find_run("small")
    assert {"pictures/reliability.png", "insight.json", "top_losses.csv"} <= set(after.artifacts())
    assert {"test/ece", "test/brier", "test/knn_err"} <= set(after.metrics) - set(before.metrics)
    assert (after.status, after.ended_at, after.tags) == (before.status, before.ended_at, before.tags)
    once = log_of(after)
    assert litmus("diagnose", "small", "--insight")[0] == 0
    assert log_of(after) == once


def test_a_run_that_only_the_store_holds_is_looked_at_and_said_to_be_only_here(small, here, litmus):
    litmus("sync", "small")
    run = find_run("small")
    shutil.rmtree(run.dir)
    code, said, _ = litmus("diagnose", "small")
    assert code == 0
    assert "picture" not in said
    code, said, _ = litmus("diagnose", "small", "--insight")
    assert code == 0
    assert "are not in its record" in said
    picture = f"mlruns/insight/{run.id8}/pictures/reliability.png"
    assert f"picture  {picture}" in said
    assert (here / picture).is_file()
    assert "insight.json" not in find_run("small").artifacts()


def test_changed_weights_are_noticed(small, here, litmus):
    run = find_run("small")
    kept = json.loads(run.artifact("result.json").read_text())
    kept["test"]["num_errors"] += 1
    with Run.reopen(run.dir) as record:  # a file changed by hand is refused before anything is compared
        record.log_text(json.dumps(kept), "result.json")
    _, said, _ = litmus("diagnose", "small", "--insight")
    assert "the run reported test/err" in said


def test_what_cannot_be_diagnosed_is_refused(small, here, litmus):
    code, _, said = litmus("diagnose", "smal")
    assert code == 2
    assert "did you mean 'small'?" in said

    with Run.start(home="mlruns", experiment="litmus/digits", name="range", kind="lr", send="off"):
        pass
    code, out, said = litmus("diagnose", "range", "--insight")
    assert (code, out) == (2, "")
    assert "has no result.json and no weights.safetensors: it is FINISHED, of kind lr" in said

    run = find_run("small")
    db = sqlite3.connect(run.dir / "spool.sqlite")
    db.execute("DELETE FROM log WHERE key = 'weights.safetensors'")
    db.commit()
    db.close()
    assert litmus("diagnose", "small")[0] == 0
    code, _, said = litmus("diagnose", "small", "--insight")
    assert code == 2
    assert "has no weights.safetensors" in said


def test_a_run_in_use_is_refused_before_anything_is_computed(small, here, litmus):
    run = find_run("small")
    with Run.reopen(run.dir):
        code, out, said = litmus("diagnose", "small", "--insight")
    assert (code, out) == (2, "")
    assert "is in use by process" in said
