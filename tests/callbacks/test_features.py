"""A head on known features learns what it would learn behind its body, and nothing is known for too long."""

import pytest
import torch
from safetensors.torch import load_file

from litmus.callbacks.features import FeatureTable
from litmus.config import load_config
from litmus.experiment import run

LOCAL = ["tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]
NET = ["model.name=residual", "model.depth=8", "model.width=4", "data.batch_size=64", "data.num_train=300"]


def trained(home, *overrides):
    said: list[str] = []
    result = run(load_config([], [*LOCAL, *NET, f"tracking.home={home}", *overrides]), say=said.append)
    return result, load_file(result.run.dir / "weights.safetensors"), "\n".join(said)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.head_keep_prob=0.7", "optim.l2_lambda=1"],
        ["train.ema_decay=0.9", "train.accumulate=2"],
        ["data.drop_last=true"],
        ["train.precision=bf16-mixed", "train.channels_last=true"],
        ["freeze.until=3"],
        ["train.steps=14", "train.epochs=null", "freeze.until=8"],
        ["model.name=mlp", "model.depth=3", "model.width=16", "model.input_keep_prob=0.8"],
    ],
    ids=" ".join,
)
def test_a_run_on_known_features_ends_with_the_same_weights(overrides, tmp_path):
    mlp = "model.name=mlp" in overrides
    length = [] if "train.steps=14" in overrides else ["train.epochs=5"]
    overrides = ["freeze.layers=body", *length, *overrides]
    runs = []
    for cache in ("true", "false"):
        config = load_config(
            [],
            [
                *LOCAL,
                *([*NET[3:]] if mlp else NET),
                f"tracking.home={tmp_path}",
                *overrides,
                f"freeze.cache={cache}",
            ],
        )
        result = run(config, say=lambda line: None)
        runs.append((result, load_file(result.run.dir / "weights.safetensors")))
    (cached, ours), (plain, theirs) = runs
    assert plain.saved is None
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if any("bf16" in o for o in overrides) else {"rtol": 1e-4, "atol": 1e-6}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)
    assert cached.evaluations["test"].num_errors == plain.evaluations["test"].num_errors


def test_the_saving_is_measured_and_said(tmp_path):
    result, _, said = trained(tmp_path, "freeze.layers=body", "train.epochs=4", "model.depth=20", "model.width=16")
    assert "features of the frozen body were computed once" in said
    assert result.saved is not None
    factor = float(result.saved.split(", ")[-1].split(" times")[0])
    assert factor > 2  # 300 images through 20 layers, against a gather


@pytest.mark.parametrize(
    "overrides",
    [["freeze.layers=[stem]"], ["freeze.layers=body", "augment.shift=0.1"], ["freeze.layers=2"]],
    ids=" ".join,
)
def test_what_moves_or_is_augmented_is_never_cached(overrides, tmp_path):
    result, _, said = trained(tmp_path, "train.epochs=3", *overrides)
    assert result.saved is None
    assert "features" not in said


class Doubling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls = 0

    def features(self, images):
        self.calls += 1
        return 2 * images.flatten(1)


def test_a_table_computes_each_image_once_in_whatever_batches():
    network, table = Doubling(), FeatureTable({"train": 10})
    images = torch.arange(10.0).view(10, 1, 1, 1)

    def ask(*idx):
        idx = torch.tensor(idx)
        return table.of(network, (images[idx], idx, idx), "train").flatten().tolist()

    assert ask(3, 1) == [6, 2]
    assert ask(1, 5) == [2, 10]  # a batch with one unknown is computed whole, and only the new is kept
    assert (network.calls, table.known("train")) == (2, 3)
    assert ask(5, 3, 1) == [10, 6, 2]
    assert ask(1) == [2]
    assert network.calls == 2
    assert ask(0, 9) == [0, 18]
    assert ask(9, 5, 0) == [18, 10, 0]
    assert network.calls == 3


def test_known_features_need_no_images():
    network, table = Doubling(), FeatureTable({"val": 4})
    idx = torch.arange(4)
    first = table.of(network, (torch.ones(4, 1, 2, 2), idx, idx), "val")
    assert torch.equal(table.of(network, (torch.empty(4, 0), idx, idx), "val"), first)
