from __future__ import annotations

import math

import pytest
import torch

from litmus.callbacks import BestCheckpoint, LastCheckpoint


def load(path):
    return torch.load(path, weights_only=True)


def values(*numbers):
    return [{"val/loss": number} for number in numbers]


def test_best_and_last_are_what_their_names_say(play, tmp_path, kept):
    best, last = BestCheckpoint(tmp_path, "val/loss", "min"), LastCheckpoint(tmp_path)
    play(values(0.1, 0.5, 0.4, 0.3, 0.2), best, last)
    names = sorted(path.name[:14] for path in tmp_path.iterdir())  # the last two, and the best
    assert names == ["best-000000002", "last-000000008", "last-000000010"]
    assert (load(best.best_model_path)["epoch"], load(last.last_model_path)["epoch"]) == (0, 4)
    assert (load(kept(tmp_path, "best"))["global_step"], load(kept(tmp_path, "last"))["global_step"]) == (2, 10)
    assert (best.best_value, best.best_epoch) == (pytest.approx(0.1), 0)


@pytest.mark.parametrize(
    ("mode", "numbers", "epoch"),
    [
        ("min", [0.3, 0.2, 0.2, 0.25], 1),
        ("max", [0.3, 0.4, 0.4, 0.1], 1),
        ("min", [math.nan, 0.5, -math.inf, math.nan, 0.6], 1),
        ("max", [math.inf, 0.5, math.nan], 1),
    ],
    ids=["ties keep the earliest", "of the larger too", "not finite is never best", "nor the largest"],
)
def test_best_is_the_earliest_of_the_best_finite_values(play, tmp_path, mode, numbers, epoch):
    best = BestCheckpoint(tmp_path, "val/loss", mode)
    play(values(*numbers), best)
    assert load(best.best_model_path)["epoch"] == best.best_epoch == epoch


def test_among_equal_errors_the_lower_loss_is_the_better_and_then_the_earlier(play, tmp_path):
    best = BestCheckpoint(tmp_path, "val/err", "min")
    rows = [(0.1, 0.5), (0.0, 0.4), (0.0, 0.2), (0.0, 0.2), (0.0, math.nan), (0.1, 0.1)]
    play([{"val/err": err, "val/loss": loss} for err, loss in rows], best)
    assert load(best.best_model_path)["epoch"] == best.best_epoch == 2
    assert best.best_value == 0.0


def test_without_a_finite_value_there_is_no_best(play, tmp_path, kept):
    best = BestCheckpoint(tmp_path, "val/loss", "min")
    play(values(math.nan, math.nan), best)
    assert best.best_model_path == ""
    assert kept(tmp_path, "best") is None


def test_an_older_runs_best_is_not_taken_for_ours(play, tmp_path, kept):
    (tmp_path / f"best-000000900-{'0' * 32}.ckpt").write_bytes(b"older")
    best = BestCheckpoint(tmp_path, "val/loss", "min")
    play(values(math.nan), best)
    assert best.best_model_path == ""
    play(values(0.5), best)
    assert load(best.best_model_path)["epoch"] == 0


def test_last_is_written_in_epochs_without_validation_and_after_a_last_epoch_cut_short(play, tmp_path, kept):
    last = LastCheckpoint(tmp_path)
    play(values(0.1, 0.2), last, max_epochs=3, check_val_every_n_epoch=2)
    assert load(kept(tmp_path, "last"))["epoch"] == 2
    play(values(0.1), last, max_epochs=-1, max_steps=5)  # epochs of 2 steps, in the folder of a longer training
    assert load(kept(tmp_path, "last"))["global_step"] == 5


def test_best_sees_every_validation_inside_an_epoch(play, tmp_path, kept):
    best = BestCheckpoint(tmp_path, "val/loss", "min")
    play(values(0.5, 0.1, 0.4, 0.3), best, max_epochs=2, val_check_interval=1)
    assert load(kept(tmp_path, "best"))["global_step"] == 2


@pytest.mark.parametrize("order", [1, -1])
def test_last_knows_of_the_best_of_its_own_epoch_and_a_resumed_run_keeps_it(
    order, learner, data, make_trainer, tmp_path, kept
):
    def fit(max_epochs, ckpt_path=None):
        callbacks = [BestCheckpoint(tmp_path, "val/loss", "min"), LastCheckpoint(tmp_path)][::order]
        trainer = make_trainer(*callbacks, max_epochs=max_epochs)
        trainer.fit(learner(), data(), data(), ckpt_path=ckpt_path)
        return next(callback for callback in callbacks if isinstance(callback, BestCheckpoint))

    first = fit(2)
    assert first.best_epoch == 1  # it learns: each epoch is the best so far
    resumed = fit(2, kept(tmp_path, "last"))
    assert (resumed.best_value, resumed.best_epoch) == (first.best_value, 1)
    assert resumed.best_model_path == str(kept(tmp_path, "best"))


def test_test_command_finds_the_best(learner, data, make_trainer, tmp_path, kept):
    trainer = make_trainer(BestCheckpoint(tmp_path, "val/loss", "max"), max_epochs=3)  # max: the first epoch
    module = learner()
    trainer.fit(module, data(), data())
    trainer.test(module, data(), ckpt_path="best", verbose=False)
    where, weight = module.seen[-1]
    assert where == "test"
    assert torch.equal(weight, load(kept(tmp_path, "best"))["state_dict"]["network.0.weight"])
    assert torch.equal(weight, next(seen for split, seen in module.seen if split == "val"))


def test_sanity_check_and_validation_alone_save_nothing(scripted, data, make_trainer, tmp_path):
    callbacks = BestCheckpoint(tmp_path, "val/loss", "min"), LastCheckpoint(tmp_path)
    make_trainer(*callbacks).validate(scripted(values(0.1)), data(), verbose=False)
    assert list(tmp_path.glob("*.ckpt*")) == []


def test_an_unknown_metric_is_refused_with_the_nearest(play, tmp_path):
    with pytest.raises(ValueError, match=r"'val/lost', which nobody logs; did you mean 'val/loss'\?"):
        play(values(0.1), BestCheckpoint(tmp_path, "val/lost", "min"))
    with pytest.raises(ValueError, match="mode = 'lowest'"):
        BestCheckpoint(tmp_path, "val/loss", "lowest")
