import math

import numpy as np
import pytest
import torch
from made import NAN, SEEDS, Finished, around, is_drawn, losses, made_claim, name, outcomes
from torch import nn

from litmus.claims.dropout import first_below, name_of
from litmus.claims.measure_dropout import average_of, predicted_ratio, ratios_in_network, saved_bytes, variance_ratio
from litmus.errors import Refused
from litmus.networks import build_network

KEEP = [1, 0.8, 0.5, 0.3]


def mlp(keep_prob: float, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        how = {"in_channels": 1, "num_classes": 3, "image_size": (4, 4), "depth": 3, "width": 32, **changes}
        return build_network("mlp", keep_prob=keep_prob, **how)


def batch(num=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 1, 4, 4, generator=generator), torch.randint(0, 3, (num,), generator=generator)


# --- measures


def test_the_average_of_thinned_networks_is_no_worse_than_a_thinned_one():
    images, labels = batch()
    found = average_of(mlp(0.5).eval(), [images[:40], images[40:]], [labels[:40], labels[40:]], passes=10)
    assert found["mc_nll"] < found["thinned_nll"]  # Jensen


def test_without_dropout_all_passes_are_the_one():
    images, labels = batch()
    network = mlp(1.0).eval().requires_grad_(False)
    found = average_of(network, [images], [labels], passes=5)
    truth = float(nn.functional.cross_entropy(network(images).double(), labels))
    assert found["one_nll"] == pytest.approx(truth)
    assert found["mc_nll"] == pytest.approx(truth)
    assert found["thinned_nll"] == pytest.approx(truth)
    assert found["one_err"] == found["mc_err"] == float((network(images).argmax(1) != labels).double().mean())


def test_dropout_stores_its_masks_for_the_backward_pass():
    images, labels = batch()
    without, with_dropout = (saved_bytes(mlp(keep), images, labels) for keep in (1.0, 0.5))
    masks_at_least = 2 * 64 * 32  # bytes of bool masks of two hidden layers
    assert with_dropout - without >= masks_at_least


def test_saved_bytes_of_one_linear_layer_are_its_input_and_the_log_probabilities():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(x.flatten(1))

    images, labels = batch(8)
    found = saved_bytes(Head(), images, labels)
    wanted = 4 * 8 * 16 + 4 * 8 * 3 + 8 * 8  # inputs, log-probabilities, labels
    assert wanted <= found <= wanted + 16  # and the sum of the class weights, a number


def test_saved_bytes_leaves_the_networks_mode_and_the_random_state():
    network, state = mlp(0.5).eval(), torch.random.get_rng_state()
    saved_bytes(network, *batch())
    assert not network.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_ratio_before_a_batch_norm_is_the_formulas():
    assert predicted_ratio(0.5) == pytest.approx(2.467, abs=5e-4)
    assert predicted_ratio(1) == 1
    state = torch.random.get_rng_state()
    for keep in (0.3, 0.8):
        assert variance_ratio(keep, seed=0, num=400_000) == pytest.approx(predicted_ratio(keep), rel=0.02)
    assert variance_ratio(1, seed=0, num=1000) == pytest.approx(1)
    assert variance_ratio(0.5, seed=3, num=1000) == variance_ratio(0.5, seed=3, num=1000)
    assert variance_ratio(0.5, seed=3, num=1000) != variance_ratio(0.5, seed=4, num=1000)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_formula_agrees_with_a_numerical_integral():
    z = np.linspace(-9, 9, 400_001)
    weights = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    relu = np.maximum(z, 0)
    mean, square = (relu * weights).sum(), (relu**2 * weights).sum()
    assert predicted_ratio(0.7) == pytest.approx((square / 0.7 - mean**2) / (square - mean**2), rel=1e-6)


def test_in_a_network_the_norms_behind_dropout_see_another_variance_and_those_before_it_the_same():
    how = {"in_channels": 1, "num_classes": 3, "image_size": (8, 8), "depth": 8, "width": 4}
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = build_network("plain", keep_prob=0.5, **how).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inside = ratios_in_network(network, images, seed=0)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    head = ratios_in_network(build_network("plain", head_keep_prob=0.5, **how), images, seed=0)
    assert len(inside) == len(head) == 7
    assert set(head.values()) == {1.0}
    assert max(inside.values()) > 1.3
    assert inside["stem.norm"] == 1.0


# --- dropout_gap


def gap_table(**changes):
    def arms(*values):
        return around(values)

    table = {
        "keep_probs": KEEP,
        "gap": arms(0.6, 0.5, 0.4, 0.2),
        "val_loss": arms(0.6, 0.55, 0.5, 0.5),
        "train_loss": arms(0.0, 0.05, 0.1, 0.3),
        "val_err": arms(0.18, 0.17, 0.17, 0.2),
        "one_nll": arms(0.6, 0.55, 0.5, 0.5),
        "mc_nll": arms(0.6, 0.54, 0.48, 0.45),
        "steps_to_learn": [[80.0] * 5, [120.0] * 5, [200.0] * 4 + [math.inf], [math.inf] * 5],
        "step_ms": arms(5, 6, 6, 6),
        "saved_bytes": arms(3e6, 4e6, 4e6, 4e6),
        "norm": arms(9, 10, 11, 12),
    }
    return {**table, **changes}


def test_the_gap_claim_holds_when_gaps_fall_and_averages_are_better():
    evidence = made_claim("dropout_gap").judge(gap_table())
    assert outcomes(evidence) == ["supported"] * 4
    learnt = next(one for one in evidence if "steps to" in one.what)
    assert learnt.found == "80 at 1, 120 at 0.8, 200 at 0.5 (1 never), never at 0.3"


def test_the_gap_claim_is_contradicted_by_rising_gaps_and_worse_averages():
    table = gap_table(gap=around([0.2, 0.3, 0.4, 0.5]), mc_nll=around([0.6, 0.7, 0.7, 0.7]))
    assert outcomes(made_claim("dropout_gap").judge(table)) == ["contradicted"] * 4


def test_the_gap_claim_is_open_when_a_seed_disagrees_or_diverged():
    table = gap_table()
    table["gap"][3][0] = NAN
    table["mc_nll"][2][1] = 0.9
    for name_ in table:
        if name_ not in ("keep_probs", "gap", "mc_nll"):
            table[name_][3][0] = NAN
    assert outcomes(made_claim("dropout_gap").judge(table)) == [
        "inconclusive",
        "supported",
        "inconclusive",
        "supported",
    ]


@pytest.mark.parametrize("lost", [False, True])
def test_the_gap_is_drawn_with_and_without_trainings_that_diverged(tmp_path, lost):
    table = gap_table()
    if lost:
        for what in ("gap", "val_loss", "train_loss", "val_err", "one_nll", "mc_nll"):
            table[what][3] = [NAN] * 5
    assert is_drawn(made_claim("dropout_gap"), table, tmp_path)


def test_the_gap_claim_reads_losses_averages_and_costs():
    claim = made_claim("dropout_gap")
    nll = {"one_nll": 0.5, "mc_nll": 0.4, "thinned_nll": 0.6, "one_err": 0.2, "mc_err": 0.19, "saved_bytes": 100}
    history = {"train_eval/loss": [(40, 0.5), (80, 0.05), (120, 0.2)]}
    result = {**losses(0.1, 0.5), "trained_sec": 4.0}
    done = {
        name(name_of(keep), seed): Finished(result, {"averaged": nll, "weights": {"norm": 3.0}}, history)
        for keep in KEEP
        for seed in SEEDS
    }
    done[name(name_of(0.3), 4)] = Finished()
    table = claim.read(done)
    assert table["gap"][0] == [0.4] * 5
    assert table["steps_to_learn"][1] == [80.0] * 5
    assert table["step_ms"][0][0] == 4000 / claim.base.train.length
    assert math.isnan(table["mc_nll"][3][4])
    assert first_below([(1, 0.3)], 0.1) == math.inf


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.keep_probs=[0.8,0.5,0.3]", "settings.keep_probs.*begin with 1"),
        ("settings.keep_probs=[1,0.5,0.8]", "settings.keep_probs.*fall"),
        ("settings.keep_probs=[1,0.5,0]", "settings.keep_probs.*above 0"),
        ("settings.passes=1", "settings.passes.*>= 2"),
    ],
)
def test_settings_that_make_no_gap_claim_are_refused(override, says):
    with pytest.raises(Refused, match=says):
        made_claim("dropout_gap", override).cells()


# --- dropout_before_bn


def norm_table(ratio=2.467, head=1.0):
    keep = [0.5, 0.8, 1]
    return {
        "keep_probs": keep,
        "judged": 0.5,
        "ratios": [[ratio + 0.001 * (seed - 2), 1.4, 1.0] for seed in SEEDS],
        "predicted": [predicted_ratio(one) for one in keep],
        "inside": {
            "in the blocks": [{"stem.norm": 1.0, "last.norm": 1.9}] * 5,
            "before the head": [{"stem.norm": 1.0, "last.norm": head}] * 5,
        },
    }


def test_the_norm_claim_is_decided_by_one_percent_and_by_exact_ones():
    claim = made_claim("dropout_before_bn")
    assert outcomes(claim.judge(norm_table())) == ["supported"] * 3
    assert outcomes(claim.judge(norm_table(ratio=2.6, head=1.1))) == ["contradicted", "supported", "contradicted"]
    table = norm_table()
    table["ratios"][0][0] = 2.6
    assert outcomes(claim.judge(table))[0] == "inconclusive"
    assert outcomes(claim.judge(norm_table(ratio=NAN)))[0] == "contradicted"
    table["ratios"][0][0] = NAN
    assert outcomes(claim.judge(table))[0] == "inconclusive"


def test_the_norm_claim_is_drawn(tmp_path):
    assert is_drawn(made_claim("dropout_before_bn"), norm_table(), tmp_path)


def test_the_norm_claim_is_measured_without_a_training():
    claim = made_claim("dropout_before_bn", "settings.samples=20000", "settings.images=32")
    assert claim.cells() == []
    state = torch.random.get_rng_state()
    table = claim.read({})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert table == claim.read({})
    assert outcomes(claim.judge(table))[1:] == ["supported", "supported"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.keep_probs=[0.3,0.8]", "settings.keep_probs.*hold judged = 0.5"),
        ("settings.keep_probs=[0.5,0.3]", "settings.keep_probs.*rise"),
        ("settings.judged=1.0", "settings.judged.*< 1"),
    ],
)
def test_settings_that_make_no_norm_claim_are_refused(override, says):
    with pytest.raises(Refused, match=says):
        made_claim("dropout_before_bn", override).read({})
