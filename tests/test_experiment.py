"""One run from a config to a tracked result, read back from what it left."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from litmus.checkpoints import newest_whole, read
from litmus.config import dump_config, flatten, load_config
from litmus.errors import Refused
from litmus.experiment import check, checked_data, make_classifier, make_data, probe_units, run
from litmus.resume import FOLDER
from litmus.tracking import find_run

MLP = ["model.name=mlp", "model.depth=2", "model.width=32", "optim.lr=0.1", "data.batch_size=64"]
LOCAL = ["tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]


def config_of(home, *overrides):
    return load_config([], [*MLP, *LOCAL, f"tracking.home={home}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("mlruns")
    said: list[str] = []
    config = config_of(home, "train.epochs=4", "augment.shift=0.1", "tracking.tags.owner=me")
    return config, run(config, say=said.append), "\n".join(said)


def stored(result):
    return find_run(result.run.uid, home=result.run.dir.parent.parent)


def test_a_run_learns_digits(finished):
    _, result, _ = finished
    assert result.evaluations["test"].err < 0.15  # chance is 0.9
    assert result.evaluations["train_eval"].num_images == result.info.num_train


def test_the_record_holds_the_whole_config_under_its_own_names(finished):
    config, result, _ = finished
    params = stored(result).params
    assert set(flatten(config)) <= set(params)
    assert params["model.width"] == "32"
    assert load_config([stored(result).artifact("config.yaml")]) == config
    assert (result.run.dir / "artifacts").is_dir()


def test_the_record_holds_metrics_tags_pictures_and_weights(finished):
    _, result, _ = finished
    kept = stored(result)
    assert [step for step, _ in kept.history("val/err")] == [20, 40, 60, 80]
    for name in ("train/loss", "train/err", "train_eval/err", "train_step/loss", "test/err", "best/val_err"):
        assert name in kept.metrics
    assert kept.metrics["test/err"] == pytest.approx(result.evaluations["test"].err)
    assert kept.metrics["best/val_err"] == pytest.approx(min(value for _, value in kept.history("val/err")))
    assert kept.tags["owner"] == "me"
    assert kept.tags["litmus.verdict"] == result.diagnosis.verdict
    assert kept.tags["litmus.stopped"] == "after 4 epochs"
    assert kept.tags["litmus.dominant_gap"] == result.diagnosis.dominant_gap
    readings = {name.removeprefix("litmus.reading."): value for name, value in kept.tags.items() if ".reading." in name}
    assert readings == {reading.name: reading.status for reading in result.readings}
    assert {"early_stopping", "overfitting", "progress", "divergence", "learning_rate", "units", "label_noise",
            "mismatch"} == set(readings)  # fmt: skip
    low, high = result.diagnosis.gap.interval
    assert (kept.metrics["diagnosis/variance_low"], kept.metrics["diagnosis/variance_high"]) == (low, high)
    assert kept.metrics["diagnosis/avoidable_bias"] == result.diagnosis.bias.value
    assert json.loads(kept.artifact("diagnosis.json").read_text()) == result.assessment.table()
    assert "pictures/diagnosis.png" in kept.artifacts()
    assert {"config.yaml", "weights.safetensors", "result.json", "packages.txt"} <= set(kept.artifacts())
    assert {f"pictures/{name}.png" for name in ("learning_curves", "confusion", "predictions")} <= set(kept.artifacts())
    assert json.loads(kept.artifact("result.json").read_text())["test"]["err"] == result.evaluations["test"].err


def test_the_exported_weights_are_the_evaluated_ones(finished):
    config, result, _ = finished
    data = checked_data(config)
    network = make_classifier(config, data).network
    network.load_state_dict(load_file(stored(result).artifact("weights.safetensors")))
    batch = data.to_batch(next(iter(data.loader("test"))))
    with torch.inference_mode():
        logits = network.eval()(batch.images)
    assert torch.equal(logits.argmax(1), result.evaluations["test"].predicted[: len(logits)])


def test_what_is_said_ends_with_error_verdict_and_the_next_command(finished):
    _, result, said = finished
    test = result.evaluations["test"]
    assert f"test/err {test.err:.4f} (95% " in said
    assert result.diagnosis.verdict in said
    assert f"1. {result.diagnosis.moves[0]}" in said
    assert f"try      litmus fit {result.run.dir}/artifacts/config.yaml " in said
    assert said.splitlines()[-1] == f"next     litmus diagnose {result.run.uid[:8]} --insight    or    litmus ui"
    for picture in result.pictures:
        assert f"picture  {picture}" in said
        assert picture.stat().st_size > 5_000


def test_the_same_config_twice_gives_the_same_weights(finished, tmp_path):
    config, result, _ = finished
    again = run(
        load_config([_write(tmp_path, dump_config(config))], [f"tracking.home={tmp_path}"]), say=lambda line: None
    )
    ours, theirs = (load_file(one.run.dir / "weights.safetensors") for one in (result, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _write(folder, text):
    path = folder / "again.yaml"
    path.write_text(text)
    return path


def test_seeds_differ_in_weights_and_share_their_images(tmp_path):
    zero, one = (checked_data(config_of(tmp_path, f"seed={seed}")) for seed in (0, 1))
    assert zero.info == one.info
    first, second = (make_classifier(config_of(tmp_path, f"seed={seed}"), zero).network for seed in (0, 1))
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_a_run_in_steps_validates_its_last_step_and_keeps_it(tmp_path):
    result = run(
        config_of(tmp_path, "train.steps=27", "train.val_every=10", "checkpoint.evaluate=last"), say=lambda line: None
    )
    assert [step for step, _ in stored(result).history("val/loss")] == [10, 20, 27]
    assert (result.kept.which, result.kept.step) == ("last", 27)


def test_steps_are_optimizer_steps_under_accumulation(tmp_path):
    result = run(
        config_of(tmp_path, "train.steps=12", "train.val_every=6", "train.accumulate=2", "data.batch_size=32"),
        say=lambda line: None,
    )
    assert [step for step, _ in stored(result).history("val/loss")] == [6, 12]


def test_early_stopping_says_why_and_the_best_weights_are_those_of_its_metric(tmp_path):
    config = config_of(
        tmp_path, "train.epochs=30", "early_stopping.name=patience", "early_stopping.patience=1", "optim.lr=0.5"
    )
    result = run(config, say=lambda line: None)
    assert config.monitor == "val/loss"
    assert result.stopped
    history = stored(result).history("val/loss")
    assert len(history) < 30
    assert stored(result).tags["litmus.stopped"] == result.stopped
    assert result.evaluations["val"].loss == pytest.approx(min(loss for _, loss in history), rel=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.ema_decay=0.9"],
        [
            "train.precision=bf16-mixed",
            "train.channels_last=true",
            "model.name=residual",
            "model.depth=8",
            "model.width=4",
        ],
        ["train.precision=64"],
        ["schedule.name=plateau", "schedule.patience=0"],
        ["schedule.name=one_cycle", "train.grad_clip=1", "train.label_smoothing=0.1"],
        ["augment.mixup=0.2", "augment.cutmix=1.0", "optim.l1_lambda=1", "optim.l2_lambda=1"],
        ["model.name=plain", "model.depth=8", "model.width=4", "model.init=lsuv", "model.norm=none"],
        [
            "model.name=timm",
            "model.backbone=test_resnet",
            "data.image_size=32",
            "data.name=synthetic",
            "optim.name=lion",
        ],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_training_option_runs_to_the_end(overrides, tmp_path):
    overrides = [*overrides, *(["data.num_images=200"] if "data.name=synthetic" in overrides else [])]
    base = [] if any("model.name" in override for override in overrides) else MLP
    config = load_config(
        [], [*base, *LOCAL, f"tracking.home={tmp_path}", "train.epochs=1", "optim.lr=0.01", *overrides]
    )
    result = run(config, say=lambda line: None)
    assert stored(result).status == "FINISHED"
    assert torch.isfinite(result.evaluations["test"].logits).all()


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_profile_is_among_the_artifacts_and_names_the_training_step(profiler, tmp_path):
    said: list[str] = []
    config = config_of(tmp_path, f"train.profiler={profiler}", "train.limit_batches=2", "train.epochs=1")
    result = run(config, say=said.append)
    [profile] = [name for name in stored(result).artifacts() if name.startswith("profile/")]
    assert "training_step" in stored(result).artifact(profile).read_text()
    assert any(f"profile  {result.run.dir}" in line for line in said)


@pytest.mark.proof
def test_a_compiled_network_trains_to_the_same_error(tmp_path):
    errors = [
        run(config_of(tmp_path, f"train.compile={flag}", "train.epochs=3"), say=lambda line: None)
        .evaluations["test"]
        .err
        for flag in ("false", "true")
    ]
    assert errors[1] == pytest.approx(errors[0], abs=0.02)


def test_divergence_fails_the_run_and_says_what_may_help(tmp_path):
    with pytest.raises(ArithmeticError, match=r"step \d+ .* is not finite") as caught:
        run(
            config_of(tmp_path, "optim.lr=1000", "optim.name=sgd", "train.epochs=3", "model.depth=6"),
            say=lambda line: None,
        )
    assert "litmus lr" in str(caught.value)
    failed = find_run("latest", home=tmp_path)
    assert failed.status == "FAILED"
    facts = json.loads(failed.artifact("non_finite.json").read_text())
    assert len(facts["images"]) == 64
    assert facts["not_finite"] != [] or "nan" in facts["losses"]


def test_best_and_last_are_what_their_names_say(tmp_path):
    result = run(config_of(tmp_path, "train.epochs=3", "checkpoint.evaluate=last"), say=lambda line: None)
    last = read(newest_whole(result.run.dir / FOLDER, "last").path)
    assert last["epoch"] == 2
    assert result.kept.epoch == 3


ROWS = [
    (["data.batch_size=2000", "data.drop_last=true"], "data.batch_size", "1258"),
    (["data.batch_size=1257", "model.norm=batch"], "data.batch_size", "batch of 1"),
    (["augment.hue=0.1"], "augment.hue", "grey"),
    (["augment.saturation=0.1"], "augment.saturation", "grey"),
    (["augment.pad_crop=8"], "augment.pad_crop", "8 pixels"),
    (["data.mean=[0.1,0.2]", "data.std=[1.0,1.0]"], "data.mean", "1 channel"),
    (["train.accelerator=gpu"], "train.accelerator", "no GPU"),
    (["train.precision=16-mixed", "train.accelerator=auto"], "train.precision", "needs a GPU"),
    (["model.name=timm", "model.backbone=resnet19"], "model", "resnet"),
    (["model.name=timm", "model.backbone=vgg11"], "data.image_size", "8x8"),
    (["data.num_train=5000"], "data.num_train", "1258"),
    (["freeze.layers=stmem", "model.name=plain"], "freeze.layers", "did you mean 'stem'?"),
    (["freeze.layers=[body,head]"], "freeze.layers", "leaves nothing to train"),
    (["freeze.layers=5"], "freeze.layers", "has 0 blocks above its stem"),
    (
        ["freeze.until=9", "freeze.thaw_every=5", "model.depth=4"],
        "freeze.thaw_every",
        "layers.0, would thaw at 19 of 10",
    ),
    (["optim.lr_factors.stmem=0.1", "model.name=plain"], "optim.lr_factors", "did you mean 'stem'?"),
    (["data.classes=[1,12]"], "data.classes", "a number below 10"),
    (["data.classes=[one,2]"], "data.classes", "no class of the set"),
    (["data.classes=[2,2]"], "data.classes", "stands twice"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), ROWS, ids=[" ".join(row[0]) for row in ROWS])
def test_what_does_not_fit_the_data_is_refused_before_a_run_exists(overrides, key, words, tmp_path):
    if "gpu" in " ".join([*overrides, key]).lower() + words.lower() and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    model = [] if any("model.name" in override for override in overrides) else MLP
    with pytest.raises(Refused) as caught:
        run(load_config([], [*model, *LOCAL, f"tracking.home={tmp_path}/mlruns", *overrides]), say=lambda line: None)
    assert key in [problem.where for problem in caught.value.problems]
    assert words.replace(",", "") in str(caught.value).replace(",", "")
    assert not Path(tmp_path / "mlruns").exists()


def test_the_layers_that_learn_are_shown_with_their_parameters_and_rates(tmp_path):
    said: list[str] = []
    frozen = ["freeze.until=2", "freeze.thaw_every=1", "train.epochs=4", "optim.layer_decay=0.5", "model.depth=3"]
    result = run(config_of(tmp_path, *frozen), say=said.append)
    rows = [line.split() for line in said[0].splitlines() if line.startswith("       ")]
    assert rows == [
        ["layers", "parameters", "frozen", "trains", "lr"],
        ["layers.0", "2,080", "2,080", "from", "epoch", "4", "0.025"],
        ["layers.1", "1,056", "1,056", "from", "epoch", "3", "0.05"],
        ["head", "330", "from", "the", "start", "0.1"],
        ["all", "3,466", "3,136", "330", "of", "them", "at", "the", "start"],
    ]
    assert stored(result).params["freeze.layers"] == '["body"]'
    assert stored(result).artifact("layers.txt").read_text().split() == [word for row in rows for word in row]
    assert len(stored(result).history("val/err")) == 4


def test_a_probe_and_then_fine_tuning_is_one_run_of_two_schedules(tmp_path):
    phases = ["freeze.until=2", "freeze.lr_after=0.1", "train.epochs=4", "schedule.name=cosine", "train.log_every=1"]
    result = run(config_of(tmp_path, *phases), say=lambda line: None)
    rates = [rate for _, rate in stored(result).history("train_step/lr")]
    half = [0.05 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates == pytest.approx(half + [rate / 10 for rate in half], rel=1e-5)


def test_classes_that_are_left_out_leave_no_trace(tmp_path):
    config = config_of(tmp_path, "data.classes=[7,1,3]", "train.epochs=2")
    result = run(config, say=lambda line: None)
    assert result.info.class_names == ("7", "1", "3")
    assert result.evaluations["test"].logits.shape[1] == 3
    data = make_data(config)
    full = make_data(config_of(tmp_path))
    for split in ("train", "val", "test", "train_eval"):
        idx = data.indices(split)
        original = full.images(split).labels[idx] if full.prepare() else None
        assert torch.equal(torch.tensor([7, 1, 3])[data.images(split).labels[idx]], original)
    assert data.info.digest != full.info.digest


def test_a_full_disk_is_refused_with_figures(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 1000))
    config = config_of(tmp_path)
    [problem] = check(config, make_data(config).prepare())
    assert problem.where == "tracking.home"
    assert re.search(r"0 MB free, two checkpoints need about \d+ MB", problem.says)


QUIET = ("checkpointing", "progress_bar", "model_summary")


def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    off = "".join(f"{name}=False, " for name in ("logger", *(f"enable_{name}" for name in QUIET)))
    names: dict = {}
    exec(code.replace("max_epochs=", f"{off} accelerator='cpu', log_every_n_steps=1, max_epochs="), names)
    assert names["trainer"].callback_metrics["test/err"] < 0.3


def test_units_are_probed_on_a_thousand_training_images_as_validation_sees_them(tmp_path):
    config = config_of(tmp_path, "data.eval_batch_size=300", "model.activation=sigmoid")
    data = checked_data(config)
    network = make_classifier(config, data).network
    (layer,), count = probe_units(data, network, torch.device("cpu"))
    assert (layer.activation, layer.num_units, count) == ("sigmoid", 32, 1200)
    seen = torch.cat([data.to_batch(batch).images for batch in data.loader("train_eval")])[:1200]
    with torch.inference_mode():
        z = network.eval().features(seen)
    assert layer.saturated == pytest.approx(((z < 0.05) | (z > 0.95)).float().mean().item())
    assert probe_units(data, network, torch.device("cpu"), compiled=True) == ([], 0)


def test_the_target_belongs_to_the_data_and_decides_no_number(tmp_path):
    config = config_of(tmp_path, "data.target_err=0.2", "train.epochs=1")
    assert make_data(config).info == make_data(config_of(tmp_path)).info
    assert run(config, say=lambda line: None).diagnosis.target_err == 0.2
