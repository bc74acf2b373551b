import pytest
import torch
from made import NAN, SEEDS, Finished, around, is_drawn, losses, made_claim, name, outcomes

from litmus.claims.measure_scale import body_weights, scale_of
from litmus.claims.scale import worst
from litmus.errors import Refused
from litmus.networks import build_network


def network(norm: str, eps: float = 1e-10):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        how = {"norm_eps": eps} if norm == "batch" else {}
        return build_network(
            "plain", in_channels=1, num_classes=3, image_size=(8, 8), depth=8, width=4, norm=norm, **how
        )


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 1, 8, 8, generator=generator), torch.randint(0, 3, (32,), generator=generator)


def test_before_batch_norm_the_scale_of_the_weights_is_the_rates_alone():
    found = scale_of(network("batch"), *batch(), 0.1, factor=10.0)
    assert len(found["cosines"]) == 7
    assert max(found["cosines"]) < 1e-6
    assert found["output"] < 1e-6
    assert found["matched"] < 1e-6
    assert 0.5 < found["unmatched"] < 1.5  # a hundredth of the step


def test_without_batch_norm_none_of_it_holds():
    found = scale_of(network("none"), *batch(), 0.1, factor=10.0)
    assert max(found["cosines"]) > 0.01
    assert found["output"] > 1
    assert found["matched"] > 0.1


def test_a_large_eps_breaks_the_invariance():
    found = scale_of(network("batch", eps=0.1), *batch(), 0.1, factor=10.0)
    assert found["output"] > 1e-2


def test_the_effective_rate_is_the_rate_over_the_squared_norm_of_the_body():
    body = network("batch")
    squares = sum(float(p.detach().double().square().sum()) for n, p in body.named_parameters() if ".conv" in n)
    found = scale_of(body, *batch(), 0.2)
    assert found["norm"] ** 2 == pytest.approx(squares)
    assert found["rate"] == pytest.approx(0.2 / squares)


def test_the_measure_leaves_the_network_as_it_was():
    net = network("batch").eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    scale_of(net, *batch(), 0.1)
    assert not net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_weights_that_are_all_zero_have_no_cosine_and_no_step():
    net = network("batch")
    with torch.no_grad():
        for weight in body_weights(net):
            weight.zero_()
    found = scale_of(net, *batch(), 0.1)
    assert found["rate"] == float("inf")
    assert max(found["cosines"]) == 0


def table_of(**changes):
    arms, table = 5, {"lambdas": [0, 1, 3, 10, 30], "factor": 10.0}
    values = {"cosine": 1e-6, "output": 1e-6, "matched": 1e-6, "unmatched": 0.9, "norm": 3.0, "val_err": 0.02}
    for what, value in values.items():
        table[what], table[f"{what}_without"] = around([value] * arms, 0), [10 * value] * 5
    table["rate"], table["rate_without"] = around([0.01, 0.02, 0.04, 0.08, 0.2]), [0.01] * 5
    table["val_loss"], table["val_loss_without"] = around([0.1] * arms), [0.1] * 5
    return {**table, **changes}


def test_the_claim_holds_on_exact_identities_and_a_rising_rate():
    claim = made_claim("bn_times_decay")
    assert outcomes(claim.judge(table_of())) == ["supported"] * 4


def test_the_claim_is_contradicted_by_a_scale_that_matters_and_a_rate_that_falls():
    table = table_of(
        cosine=around([0.1] * 5), output=around([2.0] * 5), matched=around([0.5] * 5), rate=around([5, 4, 3, 2, 1])
    )
    assert outcomes(made_claim("bn_times_decay").judge(table)) == ["contradicted"] * 4


def test_one_arm_of_one_seed_that_is_not_invariant_or_diverged_leaves_it_open():
    table = table_of()
    table["cosine"][4][2] = 0.1
    table["rate"][4][1] = table["output"][4][1] = NAN
    assert outcomes(made_claim("bn_times_decay").judge(table)) == [
        "inconclusive",
        "inconclusive",
        "supported",
        "inconclusive",
    ]
    assert worst([[1.0, 5.0], [3.0, 2.0]]) == [3.0, 5.0]


@pytest.mark.parametrize("lost", [False, True])
def test_it_is_drawn_with_and_without_trainings_that_diverged(tmp_path, lost):
    table = table_of()
    if lost:
        for what in ("cosine", "output", "norm", "rate", "val_err"):
            table[what][4] = [NAN] * 5
            table[f"{what}_without"] = [NAN] * 5
    assert is_drawn(made_claim("bn_times_decay"), table, tmp_path)


def test_it_reads_the_worst_layer_and_the_arm_without_a_norm():
    claim = made_claim("bn_times_decay", "settings.lambdas=[0,1,2]")
    found = {"cosines": [1e-7, 3e-7], "output": 1e-6, "matched": 1e-6, "unmatched": 0.9, "norm": 2.0, "rate": 0.0125}
    done = {
        name(arm, seed): Finished(losses(0.1, 0.2), {"scale": {**found, "norm": float(arm == "no norm")}})
        for arm in ("lambda=0", "lambda=1", "lambda=2", "no norm")
        for seed in SEEDS
    }
    table = claim.read(done)
    assert table["cosine"] == [[3e-7] * 5] * 3
    assert table["norm_without"] == [1.0] * 5
    assert len(table["rows"]) == 20


@pytest.mark.parametrize(
    ("override", "says"),
    [("settings.lambdas=[1,2,3]", "settings.lambdas.*begin with 0"), ("settings.factor=1", "settings.factor.*> 1")],
)
def test_wrong_settings_are_refused(override, says):
    with pytest.raises(Refused, match=says):
        made_claim("bn_times_decay", override).cells()
