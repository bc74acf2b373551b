from __future__ import annotations

import pytest
import torch

from litmus.callbacks import EMA, BestCheckpoint, LastCheckpoint


def follow(weights, start, decay):
    """The written average over ``weights`` after each step, from ``start``."""
    average, averages = start.clone(), []
    for t, weight in enumerate(weights, 1):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weight
        averages.append(average.clone())
    return averages


class Recording:
    """The optimizer of a ``learner``, and copies of what it left after each of its steps."""

    def __init__(self):
        self.weights, self.statistics = [], []

    def __call__(self, network):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        self.start = network[0].weight.detach().clone()
        optimizer.register_step_post_hook(lambda *_: self.note(network))
        return optimizer

    def note(self, network):
        self.weights.append(network[0].weight.detach().clone())
        self.statistics.append(network[1].running_mean.clone())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_sees_the_written_average_and_training_goes_on_from_the_weights(
    accumulate, learner, data, make_trainer
):
    recording, plain = Recording(), Recording()
    module = learner(recording)
    make_trainer(EMA(0.3), max_epochs=3, accumulate_grad_batches=accumulate).fit(module, data(), data())
    make_trainer(max_epochs=3, accumulate_grad_batches=accumulate).fit(learner(plain), data(), data())
    steps = len(recording.weights) // 3
    assert steps == (3 if accumulate == 1 else 2)
    averages = follow(recording.weights, recording.start, 0.3)
    seen = [weight for _, weight in module.seen]
    for epoch in range(3):
        torch.testing.assert_close(seen[3 * epoch], averages[steps * (epoch + 1) - 1])
    assert not torch.allclose(averages[-1], recording.weights[-1], rtol=1e-3)
    for weight, expected in zip(recording.weights, plain.weights, strict=True):
        assert torch.equal(weight, expected)  # the average leaves no trace in the training


def test_norm_statistics_are_averaged_and_counts_are_not(learner, data, make_trainer):
    recording = Recording()
    module = learner(recording)
    make_trainer(EMA(0.9), max_epochs=2).fit(module, data(), data())
    expected = follow(recording.statistics, torch.zeros(4), 0.9)[-1]
    torch.testing.assert_close(module.network[1].running_mean, expected)
    assert module.network[1].num_batches_tracked == 6


def test_early_steps_are_averaged_over_few():
    # (1 + t) / (10 + t) at t = 1: the first step has weight 9/11, whatever the decay
    averages = follow([torch.ones(1)] * 100, torch.zeros(1), 0.999)
    assert averages[0].item() == pytest.approx(9 / 11)
    assert averages[99].item() > 0.999


def test_checkpoint_holds_both_and_is_tested_with_the_average(learner, data, make_trainer, tmp_path, kept):
    recording = Recording()
    module = learner(recording)
    best = BestCheckpoint(tmp_path, "val/loss", "max")  # the first epoch, so that best and last differ
    trainer = make_trainer(EMA(0.5), best, max_epochs=3)
    trainer.fit(module, data(), data())
    checkpoint = torch.load(kept(tmp_path, "best"), weights_only=True)
    average = follow(recording.weights, recording.start, 0.5)[2]
    torch.testing.assert_close(checkpoint["state_dict"]["network.0.weight"], average)
    assert torch.equal(checkpoint["raw_state_dict"]["network.0.weight"], recording.weights[2])
    assert checkpoint["state_dict"].keys() == checkpoint["raw_state_dict"].keys()

    trainer.test(module, data(), ckpt_path="best", verbose=False)  # Lightning's own callback tests the raw weights here
    assert module.seen[-1][0] == "test"
    assert torch.equal(module.seen[-1][1], checkpoint["state_dict"]["network.0.weight"])


def test_after_the_fit_the_average_is_there_for_good(learner, data, make_trainer):
    recording = Recording()
    module = learner(recording)
    trainer = make_trainer(EMA(0.5), max_epochs=2)
    trainer.fit(module, data(), data())
    average = follow(recording.weights, recording.start, 0.5)[-1]
    torch.testing.assert_close(module.network[0].weight.detach(), average)
    trainer.test(module, data(), verbose=False)
    trainer.validate(module, data(), verbose=False)
    assert torch.equal(module.seen[-1][1], module.network[0].weight.detach())
    torch.testing.assert_close(module.seen[-1][1], average)


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 12}])
def test_resumed_run_ends_with_the_same_weights_and_average(length, learner, data, make_trainer, tmp_path, kept):
    def fit(folder, ckpt_path=None, **options):
        module = learner()
        callbacks = EMA(0.7), BestCheckpoint(tmp_path / folder, "val/loss", "min"), LastCheckpoint(tmp_path / folder)
        make_trainer(*callbacks, **(length | options)).fit(module, data(), data(), ckpt_path=ckpt_path)
        return torch.load(kept(tmp_path / folder, "last"), weights_only=True)

    whole = fit("whole")
    fit("half", **({"max_epochs": 2} if "max_steps" not in length else {"max_steps": 6}))
    resumed = fit("resumed", kept(tmp_path / "half", "last"))
    for states in ("state_dict", "raw_state_dict"):
        for name, tensor in whole[states].items():
            assert torch.equal(tensor, resumed[states][name]), (states, name)
    assert whole["callbacks"]["EMA"] == resumed["callbacks"]["EMA"] == {"num_updates": 12}


def test_a_failing_validation_gives_the_weights_back(learner, data, make_trainer):
    recording = Recording()
    module = learner(recording)

    def fails(batch, batch_idx):
        raise RuntimeError("no image")

    module.validation_step = fails
    with pytest.raises(RuntimeError, match="no image"):
        make_trainer(EMA(0.9), max_epochs=1).fit(module, data(), data())
    assert torch.equal(module.network[0].weight, recording.weights[-1])


def test_a_checkpoint_written_during_validation_is_the_same_way_round(learner, data, make_trainer, tmp_path):
    recording = Recording()
    module = learner(recording)
    trainer = make_trainer(EMA(0.5), max_epochs=1)
    module.on_validation_epoch_end = lambda: trainer.save_checkpoint(tmp_path / "during.ckpt", weights_only=False)
    trainer.fit(module, data(), data())
    checkpoint = torch.load(tmp_path / "during.ckpt", weights_only=True)
    assert torch.equal(checkpoint["raw_state_dict"]["network.0.weight"], recording.weights[-1])
    average = follow(recording.weights, recording.start, 0.5)[-1]
    torch.testing.assert_close(checkpoint["state_dict"]["network.0.weight"], average)


def test_shared_weights_are_averaged_once(learner, data, make_trainer):
    recording = Recording()
    module = learner(recording)
    module.again = module.network[0]  # a second name in the state dict
    make_trainer(EMA(0.5), max_epochs=1).fit(module, data(), data())
    average = follow(recording.weights, recording.start, 0.5)[-1]
    torch.testing.assert_close(module.network[0].weight.detach(), average)


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5])
def test_a_decay_outside_the_open_unit_interval_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay = {decay}"):
        EMA(decay)
