"""NaN and infinity, put in at twenty places: nothing of the training moves, and the message says where it was."""

import copy
import math

import pytest
import torch

from litmus.callbacks import EMA, FiniteGuard
from litmus.checkpoints import newest_whole
from litmus.errors import NonFinite
from tests.reliability.training import EVERYTHING, merged, train

STEP = 5  # the optimizer's, counted from 1
BATCH = 8  # its second one, counted from 0: an epoch has seven, and its last step one


def in_images(value):
    def harm(classifier, batch, loss):
        batch.images[0, 0, 0, 0] = value

    return "batch", harm


def in_labels(value):
    def harm(classifier, batch, loss):
        batch.labels[0, 0] = value

    return "batch", harm


def in_weight(value, where):
    def harm(classifier, batch, loss):
        with torch.no_grad():
            dict(classifier.named_parameters())[where].flatten()[0] = value

    return "batch", harm


def in_loss(value):
    """Of the loss alone: its gradient stays finite."""
    return "loss", lambda classifier, batch, loss: loss + value


def times_loss(value):
    return "loss", lambda classifier, batch, loss: loss * value


def in_gradient(value, place):
    def harm(classifier, batch, loss):
        parameters = [p for p in classifier.parameters() if p.requires_grad]
        parameters[place].grad.flatten()[-1] = value

    return "gradient", harm


NAN, INF = math.nan, math.inf
PLACES = {
    "nan in an image": (in_images(NAN), {}),
    "infinity in an image": (in_images(INF), {}),
    "nan in a label": (in_labels(NAN), {}),
    "infinity in a label": (in_labels(INF), {}),
    "nan in the loss": (in_loss(NAN), {}),
    "infinity in the loss": (in_loss(INF), {}),
    "minus infinity in the loss": (in_loss(-INF), {}),
    "nan times the loss, without accumulation": (times_loss(NAN), {"train": {"accumulate": 1}}),
    "nan in the loss, in bf16": (in_loss(NAN), {"train": {"precision": "bf16-mixed"}}),
    "infinity times the loss, unclipped": (times_loss(INF), {"train": {"grad_clip": None}}),
    "nan in the stem's gradient": (in_gradient(NAN, 0), {}),
    "infinity in the stem's gradient": (in_gradient(INF, 0), {}),
    "nan in the head's gradient": (in_gradient(NAN, -1), {}),
    "infinity in the head's gradient": (in_gradient(INF, -1), {}),
    "minus infinity in a norm's gradient": (in_gradient(-INF, 1), {}),
    "nan in a gradient, unclipped": (in_gradient(NAN, 4), {"train": {"grad_clip": None}}),
    "nan in a gradient, adam": (in_gradient(NAN, 4), {"optim": {"name": "adam", "lr": 0.01}}),
    "nan in a gradient, no average": (in_gradient(NAN, 4), {"train": {"ema_decay": None}}),
    "infinity in a gradient, without accumulation": (in_gradient(INF, 4), {"train": {"accumulate": 1}}),
    "nan in a gradient, training in steps": (in_gradient(NAN, 4), {"train": {"epochs": None, "steps": 6}}),
}


def everything_of(trainer, classifier):
    """Weights, moments, average, rates: all that an optimizer's step moves."""
    average = next((one for one in trainer.callbacks if isinstance(one, EMA)), None)
    return copy.deepcopy(
        {
            "weights": [p.detach() for p in classifier.parameters()],
            "moments": [
                value
                for state in trainer.optimizers[0].state.values()
                for value in state.values()
                if torch.is_tensor(value)
            ],
            "average": average._average if average else [],
            "steps": trainer.global_step,
        }
    )


def stopped_at(place, folder, monkeypatch):
    """Train with the harm done; returns (what was before the step, after it, the error)."""
    (kind, harm), changes = PLACES[place]
    seen = {}
    from litmus.classifier import ImageClassifier

    trained, looked = ImageClassifier.training_step, FiniteGuard.on_before_optimizer_step
    count = {"batch": -1}
    at = BATCH if changes.get("train", {}).get("accumulate") != 1 else STEP - 1

    def training_step(self, batch, batch_idx):
        count["batch"] += 1
        now = count["batch"] == at
        if now and kind == "batch":
            harm(self, batch, None)
        loss = trained(self, batch, batch_idx)
        return harm(self, batch, loss) if now and kind == "loss" else loss

    def before_step(self, trainer, pl_module, optimizer):
        if count["batch"] == at:
            if kind == "gradient":
                harm(pl_module, None, None)
            seen["before"] = everything_of(trainer, pl_module)
            seen["trainer"], seen["module"] = trainer, pl_module
        looked(self, trainer, pl_module, optimizer)

    monkeypatch.setattr(ImageClassifier, "training_step", training_step)
    monkeypatch.setattr(FiniteGuard, "on_before_optimizer_step", before_step)
    torn_down = FiniteGuard.on_exception
    monkeypatch.setattr(
        FiniteGuard,
        "on_exception",
        lambda self, trainer, pl_module, error: (
            seen.setdefault("after", everything_of(trainer, pl_module)),
            torn_down(self, trainer, pl_module, error),
        ),
    )
    with pytest.raises(NonFinite) as caught:
        train(folder, merged(EVERYTHING, {"train": {"epochs": 2}, "checkpoint": {"every_steps": 2}}, changes))
    return seen["before"], seen["after"], caught.value


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_stops_before_anything_moves(place, tmp_path, monkeypatch):
    before, after, error = stopped_at(place, tmp_path, monkeypatch)
    assert before["steps"] == after["steps"] == error.facts["step"] - 1
    for part in ("weights", "moments", "average"):
        pairs = zip(before[part], after[part], strict=True)
        assert all(torch.equal(one, other) or one.isnan().any() for one, other in pairs), part
    assert "the weights were not touched" in str(error)
    assert len(error.facts["images"]) in (16, 25, 32)  # of all batches of the step
    assert error.facts["last_checkpoint"] is not None
    good = newest_whole(next(tmp_path.glob("runs/*")) / "checkpoints")
    assert str(good.path) == error.facts["last_checkpoint"]
    assert good.path.name in str(error)


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_twenty_places(figure, tmp_path):
    wrong = []
    for number, place in enumerate(PLACES):
        with pytest.MonkeyPatch.context() as patch:
            try:
                test_what_is_not_finite_stops_before_anything_moves(place, tmp_path / str(number), patch)
            except (AssertionError, pytest.fail.Exception) as error:
                wrong.append(f"{place}: {error}")
    assert len(PLACES) == 20
    figure("non_finite", f"{20 - len(wrong)} of 20", holds=not wrong, note="; ".join(wrong))


def test_large_gradients_whose_norm_overflows_go_on(tmp_path, monkeypatch):
    """Squares of 1e30 are infinite in float32; the entries are not, and clipping makes them small."""
    trained = []
    looked = FiniteGuard.on_before_optimizer_step

    def huge(self, trainer, pl_module, optimizer):
        for parameter in pl_module.parameters():
            parameter.grad.fill_(1e30)
        looked(self, trainer, pl_module, optimizer)
        trained.append(trainer.global_step)
        for parameter in pl_module.parameters():
            parameter.grad.zero_()

    monkeypatch.setattr(FiniteGuard, "on_before_optimizer_step", huge)
    assert train(tmp_path, merged(EVERYTHING, {"train": {"epochs": 1}})) is not None
    assert len(trained) == 4
