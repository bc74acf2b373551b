import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from litmus.claims.depth import arm, bypass, of_network, rises, without_a_block
from litmus.claims.evidence import conclude
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.errors import Refused
from litmus.networks import build_network

NAN = math.nan
NETWORKS, DEPTHS = ["plain", "residual", "highway"], [8, 20, 56]


def made(name, *overrides, full=False):
    return make_claim(load_claim(name, overrides, full=full))


# --- degradation


def errors(**changes):
    table = {arm(n, d): [0.0, 0.01, 0.0, 0.0, 0.0] for n in NETWORKS for d in DEPTHS}
    table["plain-56"] = [0.7, 0.8, 0.75, 0.6, 0.9]
    return table | changes


def degraded(**changes):
    found = errors(**changes)
    curves = {
        name: [[[18, 0.9], [36, value]] if value == value else [] for value in row] for name, row in found.items()
    }
    return {"networks": NETWORKS, "depths": DEPTHS, "seeds": 5, "train_err": found, "val_err": found, "curves": curves}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "supported"),
        ({"plain-56": [NAN] * 5}, "supported"),  # no finite training is worse than any
        ({"plain-56": [0.7, 0.8, 0.75, 0.6, 0.0]}, "inconclusive"),
        ({"plain-56": [0.0] * 5}, "inconclusive"),
        ({"residual-56": [0.95] * 5}, "contradicted"),
        ({"plain-20": [0.95] * 5}, "contradicted"),
        ({"residual-56": [NAN] * 5}, "contradicted"),
        ({"plain-8": [0.99] * 5, "highway-56": [NAN] * 5}, "supported"),  # reported only
    ],
)
def test_degradation_is_judged_by_the_deepest_plain_network(changes, outcome):
    found = made("degradation").judge(degraded(**changes))
    assert conclude(found) == outcome
    assert found[0].what == "train/err of plain-20 below plain-56"
    assert found[1].what == "train/err of residual-56 below plain-56"
    assert [one.outcome for one in found[2:]] == [None] * 9


def no_warning(draw, table, path):
    drawn = draw(table, path)
    assert drawn.stat().st_size > 5000
    assert drawn.with_suffix(".svg").is_file()
    return drawn.with_suffix(".svg").read_text()


@pytest.mark.parametrize("changes", [{}, {"plain-56": [NAN] * 5}, {"plain-56": [0.5, NAN, 0.5, NAN, 0.5]}])
def test_degradation_is_drawn_whatever_diverged(changes, tmp_path):
    no_warning(made("degradation").draw, degraded(**changes), tmp_path / "d.png")


def test_a_curve_of_other_steps_leaves_holes():
    from litmus.claims.depth import along

    assert along([[2, 0.5], [6, 0.1]], [2, 4, 6]) == pytest.approx([0.5, NAN, 0.1], nan_ok=True)
    assert along([], []) == pytest.approx([NAN], nan_ok=True)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.networks=[plain,highway]", "settings.networks"),
        ("settings.networks=[plain,residual,plain]", "settings.networks"),
        ("settings.depths=[56,20]", "settings.depths"),
        ("settings.depths=[20]", "settings.depths"),
    ],
)
@pytest.mark.parametrize("name", ["degradation", "delete_a_block"])
def test_settings_of_depth_are_refused_by_their_key(name, override, says):
    with pytest.raises(Refused, match=says):
        made(name, override).cells()


@pytest.mark.parametrize("full", [False, True])
def test_both_claims_of_depth_share_their_trainings(full):
    one, two = (made(name, full=full).cells() for name in ("degradation", "delete_a_block"))
    first = {cell.name: cell.config for cell in one}
    assert {cell.name for cell in two} <= set(first)
    assert all(first[cell.name] == cell.config for cell in two)
    assert all(cell.measures for cell in two)
    assert not any(cell.measures for cell in one)
    assert {cell.config.seed for cell in one} == set(range(5))


def test_another_network_is_the_base_but_for_what_is_its_own():
    base = made("degradation").base
    assert base.model.name == "residual"
    for name in NETWORKS:
        model = of_network(base, name, 8)
        assert (model["name"], model["depth"], model["width"]) == (name, 8, 8)
        assert "shortcut" not in model


# --- delete_a_block


def deleted(residual=0.02, plain=0.8, whole=0.03):
    rise = {"residual": residual, "plain": plain, "highway": 0.1}
    table = {"networks": NETWORKS, "depths": [20, 56], "whole": {}, "without": {}, "rows": []}
    for network in NETWORKS:
        for depth in (20, 56):
            num = (depth - 2) // 2
            rows = rise[network] if isinstance(rise[network], list) else [rise[network]] * 5
            table["whole"][arm(network, depth)] = [whole] * 5
            # Two blocks matter much more: the median does not see them.
            table["without"][arm(network, depth)] = [[0.9, 0.9] + [whole + up] * (num - 2) for up in rows]
    return table


@pytest.mark.parametrize(
    ("table", "outcome"),
    [
        (deleted(), "supported"),
        (deleted(residual=0.06), "contradicted"),
        (deleted(plain=0.2), "contradicted"),
        (deleted(plain=[0.8, 0.8, 0.8, 0.8, 0.2]), "inconclusive"),
        (deleted(residual=[0.0, 0.0, 0.0, 0.0, 0.06]), "inconclusive"),
        (deleted(residual=NAN), "contradicted"),
        (deleted(plain=NAN), "contradicted"),  # a network that diverged shows nothing
    ],
)
def test_a_deleted_block_is_judged_by_the_median_over_blocks(table, outcome):
    assert conclude(made("delete_a_block").judge(table)) == outcome


def test_rises_are_medians_over_the_blocks_of_each_seed():
    table = {"whole": {"x": [0.1, 0.2]}, "without": {"x": [[0.1, 0.2, 0.9], [0.2, 0.2, 0.2]]}}
    assert rises(table, "x") == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("table", [deleted(), deleted(residual=NAN), deleted(plain=[0.5, NAN, 0.4, 0.3, 0.2])])
def test_deleted_blocks_are_drawn_whatever_diverged(table, tmp_path):
    no_warning(made("delete_a_block").draw, table, tmp_path / "d.png")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bypassed_block_carries_its_input_and_nothing_else(name):
    torch.manual_seed(0)
    network = build_network(name, depth=8, width=4, in_channels=1, image_size=(8, 8))
    x = torch.rand(2, 4, 8, 8)
    first, second = network.stages[0].blocks[0], network.stages[1].blocks[0]
    assert torch.equal(bypass(first)(x), x)
    halved = bypass(second)(x)
    assert torch.equal(halved[:, :4], x[:, :, ::2, ::2])
    assert halved.shape == (2, 8, 4, 4)
    assert not halved[:, 4:].any()


class Errors:
    """In place of a look: an error is an image with other logits than those of the whole network."""

    def __init__(self, network):
        self.trained = SimpleNamespace(network=network.eval())
        self.x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.logits = network(self.x)
        self.seen = []

    def evaluate(self, split):
        network = self.trained.network
        self.seen.append(split)
        return SimpleNamespace(err=float((network(self.x) != self.logits).any(1).double().mean()))


def test_every_block_is_deleted_once_and_put_back():
    torch.manual_seed(0)
    network = build_network("residual", depth=14, width=4, in_channels=1, image_size=(8, 8))
    blocks = [block for stage in network.stages for block in stage.blocks]
    nothing = blocks[1]  # its branch adds nothing: without it the network answers the same
    nn.init.zeros_(nothing.branch.norm2.weight)
    look = Errors(network)
    found = without_a_block(look)
    assert [block for stage in network.stages for block in stage.blocks] == blocks
    assert found["val"].shape == found["train_eval"].shape == (6,)
    assert np.array_equal(found["val"], found["train_eval"])
    assert found["val"][1] == 0
    assert (np.delete(found["val"], 1) > 0).all()
    assert look.seen == ["train_eval", "val"] * 6


# --- rescue_without_bn


def rescued(**changes):
    names = ["He", "Fixup", "zero branch", "batch norm", "He, rate 0.001", "He, rate 0.0001", "He, rate 1e-05"]
    found = {name: [0.01] * 5 for name in names} | {"He": [NAN] * 5} | changes
    return {"rate": 0.1, "arms": names, "train_err": found, "val_err": found, "rows": []}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "supported"),
        ({"He": [0.9] * 5}, "supported"),
        ({"He": [NAN, NAN, NAN, NAN, 0.3]}, "inconclusive"),
        ({"He": [0.01] * 5}, "contradicted"),
        ({"Fixup": [0.2] * 5}, "contradicted"),
        ({"Fixup": [NAN] * 5}, "contradicted"),
        ({"Fixup": [0.01, 0.01, 0.01, 0.01, 0.2]}, "inconclusive"),
        ({"zero branch": [NAN] * 5, "batch norm": [0.9] * 5}, "supported"),
    ],
)
def test_a_rescue_takes_a_net_that_is_lost_without_it(changes, outcome):
    assert conclude(made("rescue_without_bn").judge(rescued(**changes))) == outcome


@pytest.mark.parametrize(
    "changes", [{}, {"Fixup": [NAN] * 5, "He, rate 0.001": [NAN] * 5, "He, rate 0.0001": [NAN] * 5}]
)
def test_a_rescue_is_drawn_whatever_diverged(changes, tmp_path):
    no_warning(made("rescue_without_bn").draw, rescued(**changes), tmp_path / "r.png")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.small_rates=[0.001,0.01]", "settings.small_rates"),
        ("settings.small_rates=[0.1]", "below optim.lr = 0.1"),
        ("settings.small_rates=[0.0]", "settings.small_rates"),
        ("settings.small_rates=[-0.01]", "settings.small_rates"),
        ("base=[model.norm=batch,optim.lr=0.1]", "model.norm = none"),
        ("base=[model.name=plain,model.norm=none,optim.lr=0.1]", "residual network"),
    ],
)
def test_a_rescue_refuses_what_does_not_fit(override, says):
    with pytest.raises(Refused, match=says):
        made("rescue_without_bn", override).cells()


def test_all_arms_of_a_rescue_differ_in_the_start_the_norm_or_the_rate_alone():
    claim = made("rescue_without_bn")
    cells = [cell for cell in claim.cells() if cell.config.seed == 0]
    assert [cell.config.model.init for cell in cells] == ["he_normal", "fixup", "zero_branch"] + ["he_normal"] * 4
    assert [cell.config.model.norm for cell in cells] == ["none"] * 3 + ["batch"] + ["none"] * 3
    assert [cell.config.optim.lr for cell in cells] == [0.1] * 4 + [0.001, 0.0001, 0.00001]
    assert len({str(cell.config.train) + str(cell.config.data) + str(cell.config.schedule) for cell in cells}) == 1
