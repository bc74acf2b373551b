"""The trace of a run against the same steps made by hand."""

import json

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from litmus.callbacks import Trace
from litmus.callbacks.trace import digest_tensors
from litmus.checkpoints import read, saved
from litmus.config import load_config
from litmus.data.batch import Batch
from litmus.experiment import checked_data, make_classifier, run
from litmus.optim import build_optimizer
from litmus.tracking import find_run

SMALL = [
    *("model.name=mlp", "model.depth=2", "model.width=8", "optim.lr=0.1", "data.num_train=200", "data.batch_size=32"),
    *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
]


def config_of(home, *overrides):
    return load_config([], [*SMALL, f"tracking.home={home}", *overrides])


def trace_of(result):
    return json.loads((result.run.dir / "artifacts/trace.json").read_text())


def by_hand(config, num_steps):
    """Rows of the first steps in a plain loop: no trainer, no callback."""
    data = checked_data(config)
    network = make_classifier(config, data).network.train()
    options = config.optim.model_dump()
    optimizer = build_optimizer(network, num_train=data.info.num_train, **options)
    batches = iter(data.loader("train"))
    rows = []
    for step in range(1, num_steps + 1):
        row = {"step": step, "order": [], "batch": [], "loss": []}
        optimizer.zero_grad()
        for _ in range(config.train.accumulate):
            batch = data.to_batch(Batch(*next(batches)), epoch=0)
            loss = F.cross_entropy(network(batch.images), batch.labels) / config.train.accumulate
            loss.backward()
            row["order"].append(digest_tensors([("idx", batch.idx)]))
            row["batch"].append(digest_tensors([("images", batch.images), ("labels", batch.labels)]))
            row["loss"].append(loss.item().hex())
        row["gradient"] = digest_tensors((f"network.{name}", p.grad) for name, p in network.named_parameters())
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip or torch.inf)
        optimizer.step()
        row["weights"] = digest_tensors((f"network.{name}", value) for name, value in network.state_dict().items())
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    "overrides",
    [["augment.shift=0.1"], ["train.accumulate=2", "train.grad_clip=0.01", "augment.mixup=0.4"]],
    ids=["augmented", "accumulated, clipped, mixed"],
)
def test_the_first_steps_are_those_of_a_loop_written_by_hand(tmp_path, overrides):
    config = config_of(tmp_path, "train.epochs=1", "train.trace_steps=3", *overrides)
    trace = trace_of(run(config, say=lambda line: None))
    assert trace["steps"] == by_hand(config, 3)


def test_an_epoch_has_the_weights_it_ended_with_and_its_metrics_to_the_last_bit(tmp_path):
    config = config_of(tmp_path, "train.epochs=2", "train.trace_steps=0", "checkpoint.evaluate=last")
    result = run(config, say=lambda line: None)
    trace = trace_of(result)
    assert trace["steps"] == []
    assert [(row["epoch"], row["step"]) for row in trace["epochs"]] == [(1, 7), (2, 14)]
    last = read(saved(result.run.dir / "checkpoints", "last")[0].path)["state_dict"]
    assert trace["epochs"][-1]["weights"] == digest_tensors(last.items())
    logged = dict(find_run(result.run.uid, home=tmp_path).history("val/loss"))
    assert {row["step"]: float.fromhex(row["metrics"]["val/loss"]) for row in trace["epochs"]} == logged


def test_with_a_moving_average_the_raw_weights_are_traced_and_the_evaluated_ones_beside_them(tmp_path):
    config = config_of(tmp_path, "train.epochs=1", "train.ema_decay=0.9", "checkpoint.evaluate=last")
    result = run(config, say=lambda line: None)
    (row,) = trace_of(result)["epochs"]
    checkpoint = read(saved(result.run.dir / "checkpoints", "last")[0].path)
    assert row["weights"] == digest_tensors(checkpoint["raw_state_dict"].items())
    assert row["evaluated"] == digest_tensors(checkpoint["state_dict"].items())
    assert row["weights"] != row["evaluated"]


def test_a_training_in_steps_is_traced_at_its_validations_and_where_an_epoch_ends_without(tmp_path):
    config = config_of(tmp_path, "train.steps=11", "train.val_every=5", "train.trace_steps=1")
    rows = trace_of(run(config, say=lambda line: None))["epochs"]
    assert [(row["epoch"], row["step"], bool(row["metrics"])) for row in rows] == [
        (1, 5, True),
        (1, 7, False),
        (2, 10, True),
        (2, 11, True),
    ]


def test_after_the_traced_steps_no_hook_of_a_step_is_left(tmp_path):
    seen = []

    def watch(kind, row):
        seen.append((kind, row["step"]))

    trace = Trace(tmp_path / "trace.json", 2, watch)
    config = config_of(tmp_path, "train.epochs=1")
    data = checked_data(config)
    _fit(config, data, trace)
    assert seen == [("start", 0), ("step", 1), ("step", 2), ("epoch", 7)]
    assert [getattr(trace, hook) for hook in ("on_train_batch_start", "on_train_batch_end")] == [None, None]


def test_a_resumed_trace_goes_on_behind_its_rows_and_its_state_is_plain_json(tmp_path):
    config = config_of(tmp_path, "train.epochs=2", "train.trace_steps=10")
    data = checked_data(config)
    whole = Trace(tmp_path / "whole.json", 10)
    _fit(config, data, whole)
    half = Trace(tmp_path / "half.json", 10)
    path = _fit(config, data, half, max_epochs=1)
    state = half.state_dict()
    assert json.loads(json.dumps(state)) == state
    resumed = Trace(tmp_path / "resumed.json", 10)
    _fit(config, data, resumed, ckpt_path=path)
    # Order and generators are another's care: here, that rows are neither lost nor doubled.
    assert resumed.start == whole.start
    assert resumed.steps[:7] == whole.steps[:7]
    assert [row["step"] for row in resumed.steps] == list(range(1, 11))
    assert [row["step"] for row in resumed.epochs] == [7, 14]


def test_a_fit_that_fails_leaves_the_rows_before_it(tmp_path):
    def watch(kind, row):
        if (kind, row["step"]) == ("step", 3):
            raise RuntimeError("as if the machine had gone")

    config = config_of(tmp_path, "train.epochs=1")
    with pytest.raises(RuntimeError, match="as if"):
        _fit(config, checked_data(config), Trace(tmp_path / "trace.json", 20, watch))
    assert [row["step"] for row in json.loads((tmp_path / "trace.json").read_text())["steps"]] == [1, 2, 3]


def _fit(config, data, trace, *, max_epochs=None, ckpt_path=None):
    trainer = L.Trainer(
        max_epochs=max_epochs or config.train.length,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[trace],
    )
    trainer.fit(make_classifier(config, data), datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    path = trace.path.with_suffix(".ckpt")
    trainer.save_checkpoint(path)
    return path


def test_a_digest_is_of_name_type_shape_and_bits():
    one = torch.arange(6.0).reshape(2, 3)
    same = digest_tensors([("w", one)])
    assert digest_tensors([("w", one.clone())]) == same
    assert digest_tensors([("w", one.T.contiguous().T)]) == same  # memory format
    others = [
        [("v", one)],
        [("w", one.double())],
        [("w", one.reshape(3, 2))],
        [("w", torch.nextafter(one, torch.tensor(9.0)))],
        [("w", one), ("w", one)],
        [("w", -torch.zeros(6).reshape(2, 3))],
        [("w", torch.zeros(2, 3))],
        [("w", torch.zeros(0, 3))],
        [("w", torch.tensor(0, dtype=torch.int64))],
        [("w", one.bfloat16())],
        [],
    ]
    found = {digest_tensors(other) for other in others}
    assert same not in found
    assert len(found) == len(others)
