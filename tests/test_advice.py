"""From config, errors and curves to what is said: replays, filters, sentences, the command to paste."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from litmus.advice import Assessment, Facts, assess, assess_seeds, command, only_accepted, replay, rows_of, told
from litmus.config import load_config
from litmus.diagnosis import diagnose_errors
from litmus.diagnosis.readings import Reading

FACTS = Facts(num_train=1000, num_classes=10, num_available=1000)


def seen(train=2, val=40, n=1000, n_val=400, **more):
    found = {"train_eval": (train, n), "val": (val, n_val), **more}
    return {split: {"num_errors": wrong, "num_images": images} for split, (wrong, images) in found.items()}


def curve(losses, **columns):
    return [
        {"epoch": k + 1, "step": 10 * (k + 1), "train/lr": 0.1}
        | dict.fromkeys(("val/loss", "train/loss", "train_eval/loss"), loss)
        | {key: values[k] for key, values in columns.items()}
        for k, loss in enumerate(losses)
    ]  # fmt: skip


def test_the_numbers_are_those_of_the_pure_function_with_the_configs_target_and_tolerance():
    config = load_config([], ["data.target_err=0.05", "diagnosis.tolerance=0.01", "train.epochs=3"])
    found = assess(config, seen(train=120), FACTS).diagnosis
    plain = diagnose_errors(0.12, 0.1, 1000, 400, 0.05, 0.01, train_population=1000)
    assert (found.bias, found.gap, found.verdict) == (plain.bias, plain.gap, "high bias")
    assert "train.epochs=6" in found.moves


def test_a_sign_of_the_curves_moves_the_moves():
    config = load_config([], ["model.name=mlp", "optim.lr=0.5"])
    high = assess(config, seen(train=900), FACTS, curve([2.3, 3.0, 4.0, 5.0]))
    assert high.diagnosis.moves[0] == "optim.lr=0.05"
    assert {one.name: one.status for one in high.readings}["divergence"] == "diverged"
    dead = replace(FACTS, layers=[("layers.0", "relu", 0.9, 0.0)], num_probed=1000)
    assert assess(config, seen(train=900), dead).diagnosis.moves[0] == "model.activation=leaky_relu"
    heavy = load_config([], ["model.name=mlp", "model.keep_prob=0.1"])
    assert assess(heavy, seen(train=900), FACTS, curve([2.0, 0.5] * 6)).diagnosis.moves[0] == "model.keep_prob=1"
    assert assess(config, seen(train=900), FACTS, curve([2.0, 0.5] * 6)).diagnosis.moves[0] == "optim.lr=0.05"
    falling = assess(config, seen(train=900), FACTS, curve([1.5, 1.0, 0.8, 0.7, 0.6, 0.5]))
    assert falling.diagnosis.moves[0] == "train.epochs=20"
    stopped = assess(config, seen(train=900), replace(FACTS, stopped="GL = 12%"), curve([2.0, 1.0, 0.9]))
    assert not any(move.startswith("train.epochs") for move in stopped.diagnosis.moves)
    assert stopped.readings[0].status == "stopped"


def test_what_nobody_looked_at_is_not_read():
    config = load_config([])
    assert [one.name for one in assess(config, seen(), FACTS).readings] == ["mismatch"]
    unknown = replace(FACTS, num_classes=None)
    assert [one.name for one in assess(config, seen(), unknown, curve([2.0] * 5)).readings] == ["mismatch"]
    noise = Reading("label_noise", "memorised", "by heart", 0.0)
    whole = assess(config, seen(), replace(FACTS, layers=[], noise=noise, elsewhere=True), curve([2.0] * 5))
    names = [one.name for one in whole.readings]
    assert names[-3:] == ["units", "label_noise", "mismatch"]
    assert whole.readings[-1].status == "not measured"
    assert len(names) == 8


def test_tags_and_metrics_are_what_a_run_is_filtered_by():
    config = load_config([])
    found = assess(config, seen(train_dev=(8, 400)), replace(FACTS, elsewhere=True), curve([2.0, 1.0, 0.5, 0.4, 0.3]))
    assert found.tags["litmus.verdict"] == "high mismatch"
    assert found.tags["litmus.dominant_gap"] == "mismatch"
    assert found.tags["litmus.reading.mismatch"] == "high"
    assert found.tags["litmus.reading.divergence"] == "no sign"
    metrics = found.metrics
    assert metrics["diagnosis/generalisation_gap"] == pytest.approx(0.098)
    assert metrics["diagnosis/variance"] == pytest.approx(0.018)
    assert metrics["diagnosis/data_mismatch"] == pytest.approx(0.08)
    low, high = found.diagnosis.mismatch.interval
    assert (metrics["diagnosis/data_mismatch_low"], metrics["diagnosis/data_mismatch_high"]) == (low, high)
    assert metrics["diagnosis/avoidable_bias_low"] == metrics["diagnosis/avoidable_bias"] == 0.002
    assert metrics["diagnosis/divergence"] == 0.3
    endless = Assessment(found.diagnosis, (Reading("divergence", "diverged", "", float("inf")),))
    assert "diagnosis/divergence" not in endless.metrics
    assert endless.table()["readings"][0]["value"] is None
    assert json.loads(json.dumps(found.table(), allow_nan=False)) == found.table()


def test_criteria_are_replayed_on_the_recorded_losses():
    losses = [1.0, 0.5, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1]
    flat = {"train/loss": [0.3] * len(losses)}
    assert replay(curve(losses, **flat)) == {"GL 10": 3, "PQ 2": 4, "UP 3": 19}
    bare = [{"epoch": row["epoch"], "val/loss": row["val/loss"]} for row in curve(losses)]
    assert replay(bare) == {"GL 10": 3, "UP 3": 19}
    assert replay([{"epoch": 1}]) == {}
    assert replay(curve([0.5, 0.4])) == {"GL 10": None, "PQ 2": None, "UP 3": None}


def test_rows_are_rebuilt_from_the_recorded_metrics():
    history = {
        "val/loss": [(10, 1.0), (20, 0.5)],
        "train/loss": [(10, 1.1), (20, 0.6)],
        "train/lr": [(5, 0.1), (20, 0.2)],
    }
    epochs = rows_of(history, load_config([], ["train.epochs=8", "train.val_every=4"]))
    assert epochs == [
        {"step": 10, "epoch": 4, "val/loss": 1.0, "train/loss": 1.1},
        {"step": 20, "epoch": 8, "val/loss": 0.5, "train/loss": 0.6, "train/lr": 0.2},
    ]
    steps = rows_of(history, load_config([], ["train.steps=20", "train.val_every=10"]))
    assert [row["step"] for row in steps] == [10, 20]
    assert not any("epoch" in row for row in steps)


def test_an_override_that_the_config_refuses_is_not_proposed():
    found = diagnose_errors(0.3, 0.3, 1000, 1000)
    made_up = replace(
        found,
        moves=("model.depth=21", "see there", "model.depth=32"),
        reasons=("a", "b", "c"),
        ready=(True, False, True),
    )  # fmt: skip
    kept = only_accepted(made_up, load_config([]))
    assert (kept.moves, kept.reasons, kept.ready) == (("see there", "model.depth=32"), ("b", "c"), (False, True))
    assert only_accepted(replace(found, moves=(), reasons=(), ready=()), load_config([])).moves == ()


def test_what_is_said_holds_finding_moves_reasons_and_readings():
    found = assess(load_config([]), seen(), FACTS, curve([2.3, 1.0, 0.6, 0.5, 0.4, 0.3]))
    lines = list(told(found.table()))
    assert lines[0].startswith("high variance: train 0.002")
    assert any(line.startswith("  next moves  1. more data: see `litmus curve`") for line in lines)
    assert any("augment.shift=0.1 augment.rotate=8" in line and "new ones" in line for line in lines)
    assert any(line.startswith("  readings    ") for line in lines)
    assert "no sign of anything: " in lines[-1]
    assert max(map(len, lines)) <= 120
    quiet = list(told(assess(load_config([]), seen(val=0), FACTS).table()))
    assert quiet[-1] == "  readings    no sign of anything: mismatch"
    many = {**found.table(), "moves": 8 * [{"text": "a=1", "why": "b", "ready": True}], "notes": ["odd"]}
    assert "              and 2 more in diagnosis.json" in list(told(many))
    assert "  note: odd" in list(told(many))


def test_the_command_is_the_first_override_quoted_for_a_shell(tmp_path):
    table = {"moves": [{"text": "see there", "ready": False}, {"text": "model.width=[8,4] seed=1", "ready": True}]}
    path = tmp_path / "my run" / "config.yaml"
    assert shlex.split(command(path, table)) == ["litmus", "fit", str(path), "model.width=[8,4]", "seed=1"]
    assert command(path, {"moves": table["moves"][:1]}) == ""
    assert command(None, table) == ""


def test_seeds_are_assessed_with_the_configs_target():
    runs = [{**seen(train=100 + k, val=44 + k), "num_train": 1000, "stopped": None} for k in range(3)]
    found = assess_seeds(load_config([], ["data.target_err=0.02"]), runs)
    assert (found.verdict, found.num_seeds, found.target_err) == ("high bias", 3, 0.02)
    assert found.train_err == pytest.approx(0.101)
    assert "train.epochs=20" in found.moves
    stopped = assess_seeds(load_config([]), [{**run, "stopped": "GL"} for run in runs])
    assert not any(move.startswith("train.epochs") for move in stopped.moves)


def test_reading_a_run_loads_no_torch():
    heavy = ["torch", "lightning", "matplotlib", "scipy"]
    code = f"import sys, litmus.advice; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
