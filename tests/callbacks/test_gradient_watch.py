"""Gradients watched in real trainings: what is seen, and that nothing changes by it."""

import json
import math
import re
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from litmus.callbacks import GradientWatch, gradient_watch
from litmus.checkpoints import read, saved
from litmus.config import deciding, load_config
from litmus.diagnosis.gradient_flow import FlowAt, measure_flow
from litmus.errors import Refused
from litmus.experiment import checked_data, make_classifier, run, training_probe
from litmus.stopping import Signals
from litmus.tracking import find_run

SMALL = [
    *("model.name=mlp", "model.depth=4", "model.width=8", "optim.lr=0.1", "data.num_train=200", "data.batch_size=32"),
    *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
]


def config_of(home, *overrides):
    return load_config([], [*SMALL, f"tracking.home={home}", *overrides])


def train(home, *overrides):
    return run(config_of(home, *overrides), say=lambda line: None)


def rows_of(result):
    table = json.loads((result.run.dir / "artifacts/gradients.json").read_text())
    return [FlowAt.of(row) for row in table["rows"]]


def trace_of(result):
    return json.loads((result.run.dir / "artifacts/trace.json").read_text())


HARD = {
    "dropout, batch norm, mixup, clipped, accumulated": [
        *("model.name=residual", "model.depth=8", "model.width=4", "model.keep_prob=0.8", "augment.mixup=0.4"),
        *("train.grad_clip=0.5", "train.accumulate=2", "train.epochs=2"),
    ],
    "moving average, one-cycle": [
        "train.ema_decay=0.9",
        "schedule.name=one_cycle",
        "train.steps=15",
        "train.val_every=4",
    ],
    "frozen features, thawed later": [
        *(
            "model.name=residual",
            "model.depth=8",
            "model.width=4",
            "freeze.layers=body",
            "freeze.until=2",
            "train.epochs=4",
        ),
    ],
}


@pytest.mark.parametrize("overrides", HARD.values(), ids=HARD)
def test_a_watched_training_is_the_same_to_the_last_bit(tmp_path, overrides):
    plain, watched = (train(tmp_path, *overrides, *more) for more in ([], ["watch=gradients"]))
    assert trace_of(plain) == trace_of(watched)
    assert len(rows_of(watched)) == len(trace_of(watched)["epochs"]) + 1 or "train.steps=15" in overrides
    assert not (plain.run.dir / "artifacts/gradients.json").exists()


def test_the_first_row_is_the_flow_of_the_untrained_network_on_training_images_as_validation_sees_them(tmp_path):
    config = config_of(tmp_path, "train.epochs=1", "watch=gradients", "augment.shift=0.3", "augment.mixup=0.5")
    result = run(config, say=lambda line: None)
    data = checked_data(config)
    chosen = data.indices("train")
    pixels, labels = data.images("train")[chosen], data.images("train").labels[chosen]
    images = (pixels.float() / 255 - data.info.mean[0]) / data.info.std[0]
    first, last = rows_of(result)
    expected = measure_flow(make_classifier(config, data).network, images, labels, batch_size=32)
    assert first.flow.loss == pytest.approx(expected.loss, rel=1e-6)
    for ours, theirs in zip(first.flow.layers, expected.layers, strict=True):
        assert ours.log10_delta == pytest.approx(theirs.log10_delta, abs=1e-5)
    assert (first.step, last.step, first.flow.num_images, first.flow.batch_size) == (0, 7, 200, 29)
    assert last.log10_update is None  # no step followed


def test_the_probe_is_a_thousand_images_where_there_are_as_many(tmp_path):
    data = checked_data(config_of(tmp_path, "data.num_train=1200"))
    images, labels = training_probe(data)(torch.device("cpu"))
    assert len(images) == len(labels) == 1000
    counts = torch.bincount(labels)
    assert counts.min() >= 90  # stratified
    assert torch.equal(images, training_probe(data)(torch.device("cpu"))[0])


class Weights(L.Callback):
    """The weights before each step and after the last."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.keep(pl_module)

    def on_train_end(self, trainer, pl_module):
        self.keep(pl_module)

    def keep(self, pl_module):
        self.seen.append({name: p.detach().clone() for name, p in pl_module.network.named_parameters()})


def test_the_relative_update_is_how_far_the_next_step_moved_the_weights(tmp_path, monkeypatch):
    from litmus import experiment

    weights, make = Weights(), experiment.make_callbacks
    monkeypatch.setattr(experiment, "make_callbacks", lambda *args: [*make(*args), weights])
    options = ["optim.name=adam", "optim.lr=0.01", "optim.l2_lambda=5", "optim.l1_lambda=1", "train.grad_clip=0.1"]
    result = train(tmp_path, *options, "train.epochs=3", "watch=gradients")
    rows = rows_of(result)
    assert [row.step for row in rows] == [0, 7, 14, 21]
    for row in rows[:-1]:
        before, after = weights.seen[row.step], weights.seen[row.step + 1]
        for layer, update in zip(row.flow.layers, row.log10_update, strict=True):
            w, v = before[f"{layer.name}.weight"], after[f"{layer.name}.weight"]
            assert update == pytest.approx(math.log10((v - w).norm() / w.norm()), abs=1e-4)
    kept = find_run(result.run.uid, home=tmp_path)
    assert dict(kept.history("gradients/relative_update")) == pytest.approx(
        {row.step: row.relative_update for row in rows[:-1]}
    )


def test_metrics_tag_picture_and_table_are_in_the_record_and_the_end_says_so(tmp_path):
    said = []
    sigmoid = ["model.activation=sigmoid", "model.init=xavier_normal", "model.depth=12", "model.width=16"]
    result = run(config_of(tmp_path, "train.epochs=2", "watch=[gradients]", *sigmoid), say=said.append)
    kept, rows = find_run(result.run.uid, home=tmp_path), rows_of(result)
    for name, value in rows[-1].flow.metrics().items():
        assert dict(kept.history(name)) == pytest.approx({row.step: row.flow.metrics()[name] for row in rows})
        assert kept.metrics[name] == pytest.approx(value)
    assert set(rows[0].flow.metrics()) >= {"gradients/saturated", "gradients/decades_per_layer"}
    assert kept.tags["litmus.gradients"] == "vanishing"
    assert {"gradients.json", "pictures/gradients.png"} <= set(kept.artifacts())
    text = "\n".join(said)
    assert re.search(r"gradients vanishing: \|\|dL/dz\|\| changes by -\d\.\d decades", text)
    assert f"picture  {result.run.dir / 'pictures/gradients.png'}" in text


def test_frozen_layers_are_absent_until_they_thaw(tmp_path):
    rows = rows_of(train(tmp_path, *HARD["frozen features, thawed later"], "watch=gradients"))
    assert [len(row.flow.layers) for row in rows] == [1, 1, 1, 8, 8]
    assert rows[0].flow.layers[0].name == "head"
    assert [len(row.log10_update or ()) for row in rows] == [1, 1, 1, 8, 0]


def test_with_a_moving_average_the_raw_weights_are_measured(tmp_path):
    result = train(tmp_path, "train.epochs=1", "train.ema_decay=0.99", "watch=gradients")
    checkpoint = read(saved(result.run.dir / "checkpoints", "last")[0].path)
    for layer in rows_of(result)[-1].flow.layers:
        raw, average = (
            checkpoint[which][f"network.{layer.name}.weight"].double().norm().log10().item()
            for which in ("raw_state_dict", "state_dict")
        )
        assert layer.log10_weight == pytest.approx(raw, abs=1e-6)
        assert abs(raw - average) > 1e-5


class StopAt(L.Callback):
    """Sends itself SIGTERM in step ``step``."""

    def __init__(self, step, signals):
        self.step, self.signals = step, signals

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.signals.pending = 15


@pytest.mark.parametrize("step", [3, 7, 8, 10])
def test_a_run_cut_and_resumed_ends_with_the_rows_of_one_that_was_not(tmp_path, step, monkeypatch):
    from litmus import experiment
    from litmus.resume import choose
    from litmus.stopping import Stopped

    config = config_of(tmp_path, "train.epochs=3", "watch=gradients", "model.keep_prob=0.9")
    whole = run(config, say=lambda line: None)
    make = experiment.make_callbacks
    with Signals() as signals:
        monkeypatch.setattr(experiment, "make_callbacks", lambda *args: [StopAt(step, signals), *make(*args)])
        with pytest.raises(Stopped):
            run(config.model_copy(update={"name": "cut"}), signals=signals, say=lambda line: None)
    monkeypatch.setattr(experiment, "make_callbacks", make)
    again, resume, _ = choose("cut", None, home=str(tmp_path), allow_changed=False)
    resumed = run(again, resume=resume, say=lambda line: None)
    assert rows_of(resumed) == rows_of(whole)
    assert trace_of(resumed) == trace_of(whole)
    kept, other = (find_run(one.run.uid, home=tmp_path) for one in (resumed, whole))
    for name in ("gradients/relative_update", "gradients/first_to_last_log10"):
        assert dict(kept.history(name)) == dict(other.history(name))


def test_a_second_validation_at_a_step_takes_the_place_of_the_first(tmp_path):
    config = config_of(tmp_path)
    data = checked_data(config)
    module = SimpleNamespace(network=make_classifier(config, data).network, loggers=[])
    watch = GradientWatch(training_probe(data), batch_size=32)
    for step in (0, 7, 7, 14):
        watch._look(SimpleNamespace(global_step=step), module)
    assert [row.step for row in watch.rows] == [0, 7, 14]


def test_a_training_that_diverges_leaves_what_was_seen(tmp_path):
    from litmus.errors import NonFinite

    with pytest.raises(NonFinite):
        train(tmp_path, "name=wild", "optim.lr=5", "model.depth=20", "model.width=64", "watch=gradients")
    kept = find_run("wild", home=str(tmp_path))
    rows = json.loads(kept.artifact("gradients.json").read_text())["rows"]
    assert rows[0]["step"] == 0
    assert rows[0]["relative_update"] > 0.1
    assert kept.tags["litmus.gradients"].startswith("healthy")


def test_a_batch_too_large_for_the_device_is_halved(monkeypatch):
    tried = []

    def short_of_memory(network, images, labels, *, batch_size):
        tried.append(batch_size)
        if batch_size > limit:
            raise torch.OutOfMemoryError("none left")
        return measure_flow(network, images, labels, batch_size=batch_size)

    monkeypatch.setattr(gradient_watch, "measure_flow", short_of_memory)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    images, labels = torch.randn(40, 1, 2, 2), torch.zeros(40, dtype=torch.int64)
    watch, limit = GradientWatch(lambda device: (images, labels), 64), 20
    assert watch._measure(network).batch_size == 14  # three parts of at most 16
    watch._measure(network)
    assert tried == [64, 32, 16, 16]
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        watch._measure(network)
    assert tried[4:] == [16, 8, 4, 2]


def test_weights_that_were_zero_have_no_relative_update():
    assert math.isnan(gradient_watch.relative_update(torch.ones(3), torch.zeros(3)))
    assert gradient_watch.relative_update(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])) == pytest.approx(
        math.log10(3 / 4)
    )
    assert gradient_watch.relative_update(torch.ones(2), torch.ones(2)) == -math.inf


def test_the_optimizer_is_left_without_hooks(make_trainer, learner, data):
    module = learner()
    watch = GradientWatch(lambda device: next(iter(data())), 4)
    trainer = make_trainer(watch, max_epochs=2)
    trainer.fit(module, data(), data())
    optimizer = trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert [row.step for row in watch.rows] == [0, 3, 6]
    trainer.validate(module, data(), verbose=False)
    assert [row.step for row in watch.rows] == [0, 3, 6]  # only while it trains


# --- the key ----------------------------------------------------------------------------------------------------------


def test_watching_decides_no_number_and_is_off_by_default():
    off, on = (load_config([], [*SMALL, *more]) for more in ([], ["watch=gradients"]))
    assert (off.watch, on.watch) == ((), ("gradients",))
    assert deciding(off) == deciding(on)
    assert load_config([], [*SMALL, "watch=[]"]) == off


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("gradient", "'gradient' cannot be watched; did you mean 'gradients'?"),
        ("[gradients,gradients]", "names gradients twice"),
        ("7", "wants names, such as [gradients]"),
        ("[1]", "wants names, such as [gradients]"),
    ],
)
def test_what_cannot_be_watched_is_refused(value, says):
    with pytest.raises(Refused, match=re.escape(says)):
        load_config([], [*SMALL, f"watch={value}"])


def test_fsdp_has_no_whole_layers_to_watch():
    with pytest.raises(Refused, match=re.escape("watch = ['gradients']: looks at whole layers, which fsdp cuts")):
        load_config([], ["train.devices=2", "train.strategy=fsdp", "train.accelerator=gpu", "watch=gradients"])


@pytest.mark.proof
def test_of_two_processes_the_first_one_watches_and_neither_waits_or_trains_otherwise(here, litmus):
    words = [*SMALL, "train.devices=2", "train.epochs=2", "model.norm=batch", "train.timeout_sec=60"]
    traces = []
    for name, more in (("plain", []), ("watched", ["watch=gradients"])):
        code, said, _ = litmus("fit", *words, f"name={name}", *more)
        assert code == 0, said
        traces.append(find_run(name).artifact("trace.json").read_text())
    assert traces[0] == traces[1]
    rows = json.loads(find_run("watched").artifact("gradients.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [0, 7, 14]
    assert rows[0]["flow"]["batch_size"] <= 16  # batch norm sees the images of one device
