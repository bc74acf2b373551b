import pytest
import torch
from torch import nn

from litmus.networks import build_network
from litmus.networks.blocks import StochasticDepth

TINY = {"depth": 8, "width": 4}


def built(name, **options):
    torch.manual_seed(0)
    return build_network(name, **options)


def dropouts(network):
    return [m for m in network.modules() if isinstance(m, nn.Dropout | nn.Dropout2d | StochasticDepth)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {**TINY, "norm": "none", "keep_prob": 0.5}),
        ("residual", {**TINY, "norm": "none", "keep_prob": 0.5, "dropout": "spatial"}),
        ("residual", {"depth": 20, "width": 4, "norm": "none", "keep_prob": 0.2, "dropout": "stochastic_depth"}),
        ("highway", {**TINY, "norm": "none", "keep_prob": 0.5, "gate_bias": 0.0}),
        ("plain", {**TINY, "norm": "none", "head_keep_prob": 0.5}),
        ("mlp", {"depth": 3, "width": 16, "keep_prob": 0.5}),
        ("mlp", {"depth": 1, "input_keep_prob": 0.5}),
        ("residual_mlp", {"depth": 4, "width": 16, "keep_prob": 0.5}),
        ("timm", {"backbone": "test_resnet", "keep_prob": 0.5}),
        ("timm", {"backbone": "test_vit", "drop_path_keep_prob": 0.2}),
    ],
)
def test_equal_rows_of_a_batch_get_different_masks(name, options):
    network = built(name, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    logits = network(torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1))
    assert len({tuple(row.tolist()) for row in logits}) > 1
    assert len({tuple(row.tolist()) for row in network.eval()(torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1))}) == 1


def test_dropout_keeps_keep_prob_and_the_mean():
    network = built("mlp", depth=2, width=4, keep_prob=0.8)
    dropped = network.dropout(torch.ones(1000, 100))
    assert dropped.count_nonzero() / dropped.numel() == pytest.approx(0.8, abs=0.01)
    assert dropped.max() == pytest.approx(1 / 0.8)


def test_spatial_dropout_drops_whole_channels():
    block = built("residual", **TINY, keep_prob=0.5, dropout="spatial").stages[0].blocks[0]
    maps = block.branch.dropout(torch.ones(64, 4, 5, 5)).flatten(2)
    assert ((maps == 0).all(2) | (maps == 2).all(2)).all()
    assert 0.35 < (maps == 0).all(2).double().mean() < 0.65


@pytest.mark.parametrize(("dropout", "kind"), [("plain", nn.Dropout), ("spatial", nn.Dropout2d)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("residual", {}),
        ("residual", {"preactivation": True}),
        ("highway", {}),
        ("plain", {"norm": "none"}),
    ],
)
def test_dropout_stands_just_before_the_second_convolution(name, options, dropout, kind):
    network = built(name, **TINY, **options, keep_prob=0.7, dropout=dropout)
    found = dropouts(network)
    assert [type(m) for m in found] == [kind] * 3
    assert {round(m.p, 6) for m in found} == {0.3}
    for stage in network.stages:
        layers = list(stage.blocks[0].branch.children())
        assert isinstance(layers[[type(m) for m in layers].index(kind) + 1], nn.Conv2d)


@pytest.mark.parametrize(
    ("name", "options"),
    [("residual", {}), ("residual", {"preactivation": True}), ("highway", {})],
    ids=["v1", "v2", "highway"],
)
def test_stochastic_depth_follows_the_linear_rule(name, options):
    network = built(name, **options, depth=20, width=4, keep_prob=0.5, dropout="stochastic_depth")
    survival = [m.keep_prob for m in network.modules() if isinstance(m, StochasticDepth)]
    assert survival == pytest.approx([1 - block / 9 * 0.5 for block in range(1, 10)])  # Huang et al. 2016, eq. 4
    assert len(dropouts(network)) == 9  # and nothing else is dropped


def test_stochastic_depth_keeps_the_shortcut_and_divides_what_survives():
    block = built("residual", **TINY, keep_prob=0.5, dropout="stochastic_depth").stages[2].blocks[0].eval()
    x = torch.randn(1, 8, 4, 4)
    branch, shortcut = block.branch(x), block.shortcut(x)  # evaluation: nothing dropped, nothing divided
    block.branch.drop_block.train()
    out = block(x.expand(200, -1, -1, -1))
    dropped, survived = torch.relu(shortcut), torch.relu(branch / 0.5 + shortcut)
    is_dropped = torch.isclose(out, dropped, atol=1e-6).flatten(1).all(1)
    is_survived = torch.isclose(out, survived, atol=1e-6).flatten(1).all(1)
    assert (is_dropped ^ is_survived).all()
    assert 0.38 < is_dropped.double().mean() < 0.62


def test_a_dropped_highway_block_carries():
    block = built("highway", **TINY, keep_prob=0.5, dropout="stochastic_depth").stages[2].blocks[0].eval()
    x = torch.randn(1, 8, 4, 4)
    block.gate.drop_block.train()
    out = block(x.expand(100, -1, -1, -1))
    carried = torch.isclose(out, block.shortcut(x), atol=1e-6).flatten(1).all(1)
    assert 0.3 < carried.double().mean() < 0.7


def test_a_shared_seed_gives_the_same_masks():
    network, x = built("residual", **TINY, keep_prob=0.5, dropout="stochastic_depth"), torch.randn(4, 3, 8, 8)
    torch.manual_seed(1)
    first = network(x)
    torch.manual_seed(1)
    assert torch.equal(network(x), first)


def test_stochastic_depth_that_keeps_all_is_the_identity_and_draws_nothing():
    x, before = torch.randn(3, 2), torch.get_rng_state()
    assert StochasticDepth(keep_prob=1.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="keep_prob = 0 "):
        StochasticDepth(keep_prob=0)


def test_mlp_drops_what_each_layer_reads():
    network = built("mlp", depth=4, width=8, keep_prob=0.8, input_keep_prob=0.9)
    assert [round(1 - m.p, 6) for m in dropouts(network)] == [0.9, 0.8, 0.8, 0.8]
    assert dropouts(network)[-1] is network.dropout


def test_dropout_is_absent_where_everything_is_kept():
    for name in ("plain", "residual", "highway", "mlp", "residual_mlp"):
        assert dropouts(build_network(name)) == []
