"""Groups of layers, what patterns mean, what is frozen with a layer, and when it thaws."""

import pytest
import torch
from torch import nn

from litmus.networks import NETWORKS, build_network
from litmus.networks.layers import (
    FreezePlan,
    frozen_modules,
    is_still,
    layer_groups,
    lr_factors,
    match_layers,
    plan_freezing,
    set_frozen_,
)

BACKBONES = ("test_resnet", "test_efficientnet_gn", "test_vit", "test_convnext", "test_coatnet", "test_efficientnet")


def build(name, **options):
    torch.manual_seed(0)
    return build_network(name, image_size=(32, 32), num_classes=4, **{**NETWORKS[name].small, **options})


EVERY = [(name, {}) for name in NETWORKS] + [("timm", {"backbone": backbone}) for backbone in BACKBONES]
every_network = pytest.mark.parametrize(
    ("name", "options"), EVERY, ids=[f"{n} {o.get('backbone', '')}" for n, o in EVERY]
)


@every_network
@pytest.mark.parametrize("blocks", [False, True], ids=["stages", "blocks"])
def test_every_parameter_is_in_one_group_and_the_head_is_the_last(name, options, blocks):
    network = build(name, **options)
    groups = layer_groups(network, blocks=blocks)
    assert sorted(p for names in groups.values() for p in names) == sorted(n for n, _ in network.named_parameters())
    assert list(groups)[-1] == "head"
    assert groups["head"] == ("head.weight", "head.bias")


def test_groups_of_a_residual_network_are_its_stages_or_its_blocks():
    network = build("residual", depth=14)
    assert list(layer_groups(network)) == ["stem", "stages.0", "stages.1", "stages.2", "head"]
    blocks = [f"stages.{stage}.blocks.{block}" for stage in range(3) for block in range(2)]
    assert list(layer_groups(network, blocks=True)) == ["stem", *blocks, "head"]


def test_groups_of_a_timm_backbone_are_timms_under_their_names():
    assert list(layer_groups(build("timm"))) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


def test_the_norm_behind_a_preactivation_network_belongs_to_its_last_block():
    network = build("residual", depth=8, preactivation=True)
    assert "end.norm.weight" in layer_groups(network)["stages.2"]
    assert "end.norm.weight" in layer_groups(network, blocks=True)["stages.2.blocks.0"]


@every_network
def test_body_is_all_but_the_head(name, options):
    network = build(name, **options)
    names = {n for n, _ in network.named_parameters()}
    assert match_layers(network, ["body"]) == names - {"head.weight", "head.bias"}


def test_a_number_means_the_stem_and_so_many_blocks():
    network = build("residual", depth=14)
    assert {n.split(".")[0] for n in match_layers(network, 0)} == {"stem"}
    assert match_layers(network, 2) == match_layers(network, ["stem", "stages.0"])
    assert match_layers(network, 6) == match_layers(network, ["body"])
    with pytest.raises(ValueError, match="7: the network has 6 blocks above its stem"):
        match_layers(network, 7)


def test_patterns_name_modules_and_parameters_with_or_without_backbone():
    network = build("timm")
    assert match_layers(network, ["layer[12]"]) == match_layers(network, ["backbone.layer1", "backbone.layer2"])
    plain = build("plain")
    assert match_layers(plain, ["stem.conv.weight"]) == {"stem.conv.weight"}
    assert match_layers(plain, ["*norm*"]) == {n for n, _ in plain.named_parameters() if "norm" in n}


def test_a_pattern_without_a_match_names_the_nearest_layer():
    with pytest.raises(ValueError, match=r"'stmem' matches no layer; did you mean 'stem'\?"):
        match_layers(build("plain"), ["stmem"])
    with pytest.raises(ValueError, match=r"'layer5' matches no layer; did you mean 'layer[1-4]'\?"):
        match_layers(build("timm"), ["layer5"])


def test_what_is_inside_a_frozen_layer_is_in_evaluation_mode_and_nothing_else():
    network = build("residual", depth=8, keep_prob=0.5, head_keep_prob=0.5)
    set_frozen_(network, match_layers(network, ["stem", "stages.0"]))
    evaluating = {name for name, module in network.named_modules() if not module.training}
    assert {name.split(".")[0] for name in evaluating} <= {"stem", "stages"}
    assert "stages.0.blocks.0.branch.dropout" in evaluating
    assert not [name for name in evaluating if name.startswith(("stages.1", "stages.2"))]
    assert network.training
    set_frozen_(network, frozenset())
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_a_module_with_one_learning_parameter_is_not_frozen():
    network = build("plain")
    names = match_layers(network, ["stem"]) - {"stem.norm.bias"}
    assert frozen_modules(network, names) == [network.stem.conv]


def test_only_a_frozen_body_without_noise_stands_still():
    network = build("residual", depth=8, keep_prob=0.5)
    assert not is_still(network)
    set_frozen_(network, match_layers(network, ["body"]))
    assert is_still(network)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(network.features(images), network.features(images))
    set_frozen_(network, match_layers(network, ["stem", "stages.*"]) - {"stages.1.blocks.0.branch.norm1.bias"})
    assert not is_still(network)


def test_gradual_unfreezing_goes_from_the_head_down():
    network = build("residual", depth=8)
    plan = plan_freezing(network, ["body"], until=2, thaw_every=3)
    assert [(thaw.at, thaw.groups) for thaw in plan.thaws] == [
        (2, ("stages.2",)),
        (5, ("stages.1",)),
        (8, ("stages.0",)),
        (11, ("stem",)),
    ]
    assert plan.frozen_at(0) == plan.frozen_at(1) == match_layers(network, ["body"])
    assert plan.frozen_at(2) == plan.frozen_at(4) == match_layers(network, ["stem", "stages.0", "stages.1"])
    assert plan.frozen_at(11) == frozenset()
    assert plan.thaws_at("stem.conv.weight") == 11
    assert plan.thaws_at("head.weight") == 0


def test_only_groups_that_hold_something_frozen_take_a_turn():
    plan = plan_freezing(build("residual", depth=8), ["stem", "stages.1"], until=1, thaw_every=1)
    assert [(thaw.at, thaw.groups) for thaw in plan.thaws] == [(1, ("stages.1",)), (2, ("stem",))]


def test_held_to_the_end_never_thaws():
    plan = plan_freezing(build("residual", depth=8), ["stem"])
    assert plan == FreezePlan(match_layers(build("residual", depth=8), ["stem"]))
    assert plan.thaws_at("stem.conv.weight") is None
    assert plan.frozen_at(10**9) == plan.held


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ValueError, match="leaves nothing to train"):
        plan_freezing(build("plain"), ["body", "head"], until=3)


def test_layer_decay_halves_the_rate_from_group_to_group_below_the_head():
    network = build("residual", depth=8)
    factors = lr_factors(network, layer_decay=0.5)
    assert factors["stages.2.blocks.0.branch.conv1.weight"] == 0.5
    assert factors["stem.conv.weight"] == 0.5**4
    assert "head.weight" not in factors


def test_a_later_pattern_counts_and_multiplies_the_decay():
    network = build("residual", depth=8)
    factors = lr_factors(network, layer_decay=0.5, by_pattern={"body": 0.1, "stem": 8.0})
    assert factors["stages.2.blocks.0.branch.conv1.weight"] == pytest.approx(0.05)
    assert factors["stem.conv.weight"] == pytest.approx(0.5)
    assert lr_factors(network) == {}


def test_a_network_without_stages_of_its_own_is_grouped_by_its_children():
    from litmus.networks import Network

    class Two(Network):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Linear(2, 3), nn.Linear(3, 3)
            self.dropout, self.head = nn.Identity(), nn.Linear(3, 2)

    assert layer_groups(Two()) == {
        "low": ("low.weight", "low.bias"),
        "high": ("high.weight", "high.bias"),
        "head": ("head.weight", "head.bias"),
    }
