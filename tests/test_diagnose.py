"""What ``litmus diagnose`` says of a finished run, and what it adds to it."""

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys

import pytest
import yaml

from litmus.config import load_config, load_recorded
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
        "reliability", "top_losses", "confused_pairs", "embedding", "suspects",
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


def as_before(run):
    """The record as an earlier version left it: no diagnosis.json, tags and metrics; the target in its old place."""
    config = yaml.safe_load(run.artifact("config.yaml").read_text())
    config["diagnosis"]["target_err"] = config["data"].pop("target_err")
    result = json.loads(run.artifact("result.json").read_text())
    for key in ("num_classes", "num_available", "val_is_cut"):
        del result[key]
    with Run.reopen(run.dir) as record:
        record.log_text(yaml.safe_dump(config), "config.yaml")
        record.log_text(json.dumps(result), "result.json")
    db = sqlite3.connect(run.dir / "spool.sqlite")
    db.execute("DELETE FROM log WHERE key IN ('diagnosis.json', 'pictures/diagnosis.png')")
    db.execute("DELETE FROM log WHERE key LIKE 'litmus.reading%' OR key LIKE 'diagnosis/%'")
    db.commit()
    db.close()


def test_a_run_of_an_earlier_version_is_read_from_its_errors_and_curves(small, here, litmus):
    _, before, _ = litmus("diagnose", "small")
    as_before(find_run("small"))
    code, said, _ = litmus("diagnose", "small")
    assert code == 0
    findings, readings = before.split("  readings"), said.split("  readings")
    assert findings[0] == readings[0]  # errors, gaps, finding and moves
    assert "early stopping" in readings[1]
    assert "divergence" in readings[1]  # the number of classes is in the head of the weights
    assert "label noise" not in readings[1]  # takes the weights themselves
    (find_run("small").dir / "artifacts/weights.safetensors").unlink()
    _, said, _ = litmus("diagnose", "small")
    assert "divergence" not in said
    assert said.split("  readings")[0] == readings[0]


def test_a_closer_look_adds_to_an_earlier_run_what_it_lacks_once(small, here, litmus):
    before = find_run("small")
    kept = json.loads(before.artifact("diagnosis.json").read_text())
    as_before(before)
    code, said, _ = litmus("diagnose", "small", "--insight")
    assert code == 0
    after = find_run("small")
    again = json.loads(after.artifact("diagnosis.json").read_text())
    assert again["gaps"] == kept["gaps"]
    assert [one["status"] for one in again["readings"]] == [one["status"] for one in kept["readings"]]
    assert {"pictures/diagnosis.png", "suspects.csv"} <= set(after.artifacts())
    assert "picture  mlruns/runs/" in said
    assert "/diagnosis.png" in said
    assert after.tags["litmus.reading.divergence"] == before.tags["litmus.reading.divergence"]
    assert after.metrics["diagnosis/variance_high"] == before.metrics["diagnosis/variance_high"]
    once = log_of(after)
    assert litmus("diagnose", "small", "--insight")[0] == 0
    assert log_of(after) == once


def test_the_command_that_is_proposed_runs(small, here, litmus):
    _, said, _ = litmus("diagnose", "small")
    (line,) = re.findall(r"^try +litmus (.+)$", said, flags=re.MULTILINE)
    assert f"try      litmus {line}" in small
    code, said, error = litmus(*shlex.split(line), "train.epochs=1", "name=next")
    assert (code, error) == (0, "")
    proposed = line.split()[-1].partition("=")
    assert str(yaml.safe_load(proposed[2])) == find_run("next").params[proposed[0]]


def test_an_earlier_runs_config_is_typed_as_it_lies_but_nobody_else_may_use_the_old_key(small, here, litmus):
    run = find_run("small")
    as_before(run)
    record = run.dir / "artifacts/config.yaml"
    assert "target_err" in record.read_text().split("diagnosis:")[1]
    assert load_config([record]) == load_recorded(record)
    assert litmus("check", record, "data.target_err=0.1")[0] == 0
    copy = here / "mine.yaml"
    copy.write_text(record.read_text())
    code, _, said = litmus("check", copy)
    assert code == 2
    assert "diagnosis.target_err = 0.0: is not a key; did you mean data.target_err?" in said
    assert load_recorded(copy) == load_config([record])


def test_over_seeds_the_runs_that_differ_in_nothing_else_are_gathered(small, here, litmus):
    code, _, said = litmus("diagnose", "small", "--seeds")
    assert code == 2
    assert "differs from it in the seed alone: litmus fit mlruns/runs/" in said
    for seed in (1, 2):
        litmus("fit", *FAST, f"seed={seed}", f"name=small-{seed}", "diagnosis.tolerance=0.03")
    litmus("fit", *FAST, "seed=2", "name=again")  # the newest of a seed counts
    litmus("fit", *FAST, "seed=3", "optim.lr=0.06", "name=other-rate")
    litmus("fit", *FAST, "seed=4", "data.split_seed=1", "name=other-images")
    code, said, _ = litmus("diagnose", "small", "--seeds")
    assert code == 0
    rows = re.findall(r"^(\w{8})  (\d) +(0\.\d{4}) +(0\.\d{4}) +([+-]0\.\d{4})$", said, flags=re.MULTILINE)
    assert [row[1] for row in rows] == ["0", "1", "2"]
    assert [row[0] for row in rows] == [find_run(name).id8 for name in ("small", "small-1", "again")]
    assert "high bias over 3 seeds" in said
    train = [float(row[2]) for row in rows]
    assert float(re.search(r"over 3 seeds: train ([\d.]+)", said)[1]) == pytest.approx(sum(train) / 3, abs=6e-4)
    assert "try      litmus fit mlruns/runs/" in said
    code, _, said = litmus("diagnose", "small", "--seeds", "--insight")
    assert code == 2
    assert "give one of the two" in said
