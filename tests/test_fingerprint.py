"""What counts as the same world, and what of a config decides."""

import json
from dataclasses import replace

import pytest
import torch

from litmus.config import deciding, load_config
from litmus.data.batch import DataInfo
from litmus.experiment import keep_fingerprint, make_trainer
from litmus.fingerprint import Fingerprint, compare, config_digest, take_fingerprint
from litmus.tracking import Run, environment

INFO = DataInfo("digits", 10, 1, (8, 8), tuple("0123456789"), 9, 9, 9, 9, (0.5,), (0.5,), "d" * 32, "5" * 32, "here")
FACTS = environment()


def taken(*overrides, **options):
    return take_fingerprint(load_config([], ["train.accelerator=cpu", *overrides]), INFO, **{"facts": FACTS, **options})


def differing(then, now):
    return [field.name for field in compare(then, now) if field.differs]


def test_the_same_world_has_the_same_fingerprint_through_json_too():
    then = taken()
    assert Fingerprint.from_json(then.to_json()) == then
    assert differing(then, taken()) == []


@pytest.mark.parametrize(
    "override",
    [
        "name=other", "tracking.home=elsewhere", "tracking.tags.owner=me", "insight=true", "data.target_err=0.1",
        "diagnosis.tolerance=0.1",
        "data.root=/elsewhere", "train.log_every=7", "train.trace_steps=3", "train.profiler=simple",
    ],
)  # fmt: skip
def test_what_only_names_finds_shows_or_keeps_does_not_decide(override):
    assert config_digest(load_config([], [override])) == config_digest(load_config([]))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "data.batch_size=64", "data.eval_batch_size=64", "data.split_seed=1", "model.depth=8", "optim.lr=0.2",
        "schedule.name=cosine", "augment.hflip=0.5", "train.epochs=3", "train.ema_decay=0.9", "train.accumulate=2",
        "train.deterministic=false", "train.precision=bf16-mixed", "checkpoint.evaluate=last", "freeze.layers=body",
        "early_stopping.name=gl",
    ],
)  # fmt: skip
def test_what_changes_a_number_decides(override):
    assert config_digest(load_config([], [override])) != config_digest(load_config([]))


def test_a_key_that_begins_like_one_left_out_decides():
    keys = deciding(load_config([]))
    assert "model.name" in keys
    assert not any(key.startswith(("tracking.", "diagnosis.")) or key in ("name", "insight") for key in keys)


@pytest.mark.parametrize(
    ("name", "value"),
    [("torch", "2.0"), ("python", "3.10.0"), ("threads", "3"), ("device", "H100"), ("deterministic", "false")],
)
def test_each_deciding_field_differs_by_itself(name, value):
    then = taken()
    assert differing(replace(then, decides={**then.decides, name: value}), taken()) == [name]


def test_a_field_that_the_record_does_not_have_differs():
    then = taken()
    decides = {name: value for name, value in then.decides.items() if name != "blas"}
    assert differing(replace(then, decides=decides), taken()) == ["blas"]


def test_other_packages_and_the_lock_are_shown_where_they_differ_and_do_not_decide():
    then = taken()
    packages = {**then.packages, "mlflow": "1.0", "numpy": "1.0"}  # numpy's is a field of its own
    fields = compare(replace(then, packages=packages, tells={**then.tells, "lock": "no requirements.lock"}), taken())
    assert [field.name for field in fields if not field.same] == ["lock", "mlflow"]
    assert not any(field.differs for field in fields)


def test_an_environment_variable_that_changes_arithmetic_is_a_field_set_or_unset(monkeypatch):
    then = taken()
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    assert differing(then, taken()) == ["env.ONEDNN_DEFAULT_FPMATH_MODE"]
    assert differing(taken(), then) == ["env.ONEDNN_DEFAULT_FPMATH_MODE"]


def test_the_number_of_threads_counts_and_the_variable_that_sets_it_does_not(monkeypatch):
    then = taken()
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    assert differing(then, taken()) == []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert differing(then, taken()) == ["threads"]
    finally:
        torch.set_num_threads(before)


def test_torchs_switches_are_seen():
    then = taken()
    try:
        torch.set_float32_matmul_precision("medium")
        assert differing(then, taken()) == ["matmul precision"]
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_flag_that_is_taken_before_the_trainer_is_the_one_that_holds_in_it(tmp_path, deterministic):
    config = load_config([], [f"train.deterministic={str(deterministic).lower()}", "train.accelerator=cpu"])
    said = take_fingerprint(config, INFO, facts=FACTS).decides["deterministic"]
    with Run.start(home=tmp_path, experiment="t", name="t", send="off") as tracked:
        make_trainer(config, tracked, [])
    assert torch.are_deterministic_algorithms_enabled() == (said == "true") == deterministic


def test_what_is_not_a_fingerprint_is_not_taken_for_one():
    for text in ("[]", "{}", json.dumps({"decides": 3}), "{"):
        with pytest.raises(ValueError):
            Fingerprint.from_json(text)


def test_a_run_that_goes_on_in_another_world_keeps_its_first_fingerprint_and_says_what_changed(tmp_path):
    first = taken()
    with Run.start(home=tmp_path, experiment="t", name="t", send="off") as tracked:
        keep_fingerprint(tracked, first)
        keep_fingerprint(tracked, first)
        tracked.flush()
        assert "litmus.changed_world" not in tracked._spool.texts("tag")
        keep_fingerprint(tracked, replace(first, decides={**first.decides, "torch": "2.0", "threads": "9"}))
        tracked.flush()
        assert tracked._spool.texts("tag")["litmus.changed_world"] == "torch, threads"
    assert Fingerprint.from_json((tracked.dir / "artifacts/fingerprint.json").read_text()) == first
