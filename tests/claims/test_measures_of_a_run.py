"""Measures read a finished run as a sweep's processes do: from its directory alone."""

from types import SimpleNamespace

import pytest
import torch

from litmus.claims.measure_dropout import averaged
from litmus.claims.measure_scale import scale
from litmus.claims.measure_splits import both_ends, transformed
from litmus.config import parse_config
from litmus.experiment import run
from litmus.sweep.look import Look


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("claims")
    config = parse_config(
        {
            "data": {"name": "digits", "num_train": 200, "label_noise": 0.4, "train_eval_size": 200},
            "model": {"name": "mlp", "depth": 2, "width": 64, "keep_prob": 0.8},
            "optim": {"name": "momentum", "lr": 0.2},
            "train": {"epochs": 25, "accelerator": "cpu"},
            "checkpoint": {"monitor": "val/loss", "evaluate": "best"},
            "tracking": {"home": str(home), "offline": True, "system_metrics": False},
        }
    )
    result = run(config, say=lambda text: None)
    return SimpleNamespace(result=result, look=Look(result.run.dir, home))


def test_both_ends_are_the_weights_of_the_lowest_val_loss_and_the_last_ones(trained):
    found = both_ends(trained.look, split="test")
    result = trained.result
    assert found["best"]["step"] == result.kept.step < found["last"]["step"] == 50
    assert found["best"]["loss"] == pytest.approx(result.evaluations["test"].loss, rel=1e-6)
    assert found["best"]["err"] == result.evaluations["test"].err
    assert found["last"]["loss"] != found["best"]["loss"]


def test_a_run_whose_checkpoints_are_gone_is_not_measured(trained, tmp_path):
    look = Look(trained.look.directory, trained.look.home)
    assert look.trained is not None
    object.__setattr__(look, "directory", tmp_path)
    with pytest.raises(RuntimeError, match="no whole best checkpoint"):
        both_ends(look)


def test_clean_images_give_the_errors_that_the_run_recorded(trained):
    num = trained.result.info.num_test
    found = transformed(trained.look, split="test", transforms={"shift": 0.25, "rotate": 90.0}, images=num)["err"]
    assert found["clean"] == trained.result.evaluations["test"].err
    assert found["shift"] > found["clean"] + 0.1
    few = transformed(trained.look, split="test", transforms={}, images=10)["err"]
    assert list(few) == ["clean"]
    assert few["clean"] * 10 == pytest.approx(round(few["clean"] * 10))


def test_one_pass_is_the_evaluation_that_the_run_recorded(trained):
    found = averaged(trained.look, passes=3)
    assert found["one_nll"] == pytest.approx(trained.result.evaluations["val"].loss, rel=1e-5)
    assert found["one_err"] == pytest.approx(trained.result.evaluations["val"].err)
    assert found["mc_nll"] < found["thinned_nll"]
    assert found["saved_bytes"] > 128 * 64  # the mask of a batch


def test_the_scale_is_measured_at_the_runs_rate_and_images(trained):
    found = scale(trained.look)
    assert found["rate"] == pytest.approx(0.2 / found["norm"] ** 2)
    assert len(found["cosines"]) == 1
    assert scale(trained.look) == found


def test_a_network_that_learnt_wrong_labels_is_measured_against_them(trained):
    noisy = trained.result.evaluations["train_eval"]
    clean = trained.look.data.images("train").labels[noisy.idx]
    assert (noisy.labels != clean).double().mean() == pytest.approx(0.4, abs=0.1)
    assert torch.equal(noisy.labels, trained.look.data.labels("train")[noisy.idx])
