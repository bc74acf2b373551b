import pytest
import torch
import torch.nn.functional as F
from torch import nn

from litmus.networks import build_network, num_params


def built(name, **options):
    torch.manual_seed(0)
    return build_network(name, **{"in_channels": 1, "image_size": (8, 8)} | options)


def test_784_256_10_is_depth_2():
    network = build_network("mlp", in_channels=1, image_size=(28, 28), depth=2, width=256)
    assert num_params(network) == 784 * 256 + 256 + 256 * 10 + 10


def test_a_list_gives_each_layer_its_width():
    network = build_network("mlp", in_channels=1, image_size=(28, 28), depth=3, width=[512, 100])
    assert [layer.before.linear.out_features for layer in network.layers] == [512, 100]
    assert network.head.in_features == 100


def test_depth_1_is_softmax_regression():
    network = built("mlp", depth=1)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(x), F.linear(x.flatten(1), network.head.weight, network.head.bias))


def test_mlp_and_residual_mlp_differ_in_the_sum_and_nothing_else():
    for options in ({}, {"norm": "batch"}, {"norm": "batch", "norm_position": "after"}):
        plain, residual = (built(name, depth=6, width=16, **options) for name in ("mlp", "residual_mlp"))
        assert list(plain.state_dict()) == list(residual.state_dict())
        assert all(torch.equal(value, residual.state_dict()[key]) for key, value in plain.state_dict().items())


def test_a_residual_mlp_is_the_written_one():
    network = built("residual_mlp", depth=6, width=16)
    weights, x_BCHW = network.state_dict(), torch.randn(3, 1, 8, 8)

    def linear(x, layer):
        return F.linear(
            x, weights[f"layers.{layer}.before.linear.weight"], weights[f"layers.{layer}.before.linear.bias"]
        )

    x = F.relu(linear(x_BCHW.flatten(1), 0))
    for lower in (1, 3):
        x = F.relu(linear(F.relu(linear(x, lower)), lower + 1) + x)
    torch.testing.assert_close(network.features(x_BCHW), x)


@pytest.mark.parametrize(("position", "order"), [("before", ["norm", "act"]), ("after", ["act", "norm"])])
def test_norms_stand_where_they_are_told_in_an_mlp(position, order):
    network, seen = built("mlp", depth=3, width=8, norm="batch", norm_position=position), []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.ReLU):
            module.register_forward_hook(lambda m, i, o, name=name: seen.append(name.split(".")[-1]))
    network(torch.randn(4, 1, 8, 8))
    assert seen == order * 2
    assert (network.layers[0].before.linear.bias is None) == (position == "before")


def test_zero_gamma_starts_every_block_of_an_mlp_as_its_shortcut():
    network = built("residual_mlp", depth=8, width=16, norm="batch", zero_gamma=True)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network.features(x), network.layers[0](x.flatten(1)))
    scales = [layer.before.norm.weight for layer in network.layers]
    assert [bool(scale.any()) for scale in scales] == [True] + [True, False] * 3
    network(x).logsumexp(1).sum().backward()
    assert all(scale.grad.any() for scale in scales[2::2])  # they can leave zero


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
def test_norm_options_reach_every_norm_of_an_mlp(name):
    batch = built(name, depth=4, width=8, norm="batch", norm_momentum=0.3, norm_eps=1e-3)
    assert [(m.momentum, m.eps) for m in batch.modules() if isinstance(m, nn.BatchNorm1d)] == [(0.3, 1e-3)] * 3
    group = built(name, depth=4, width=8, norm="group", norm_groups=4, norm_eps=1e-3)
    assert [(m.num_groups, m.eps) for m in group.modules() if isinstance(m, nn.GroupNorm)] == [(4, 1e-3)] * 3


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mlp", {"depth": 0}, "depth = 0 must be a whole number of at least 1"),
        ("mlp", {"depth": 3, "width": [8]}, r"width = \[8\] names 1 layers; depth = 3 has 2 hidden ones"),
        ("mlp", {"depth": 3, "width": [8, 0]}, "width = 0 must"),
        ("mlp", {"depth": 1, "keep_prob": 0.5}, "keep_prob = 0.5 has no hidden layer to drop from at depth 1"),
        ("mlp", {"input_keep_prob": 0.0}, "input_keep_prob = 0.0"),
        ("mlp", {"norm": "group", "width": 12}, "norm_groups = 8 does not divide a layer of 12 channels"),
        ("residual_mlp", {"depth": 5}, r"depth = 5 is not 2n \+ 2; the nearest are 4 and 6"),
        ("residual_mlp", {"depth": 2}, "depth = 2 must be a whole number of at least 4"),
        ("residual_mlp", {"width": [8, 8]}, r"width = \[8, 8\] must be a whole number"),
        ("residual_mlp", {"zero_gamma": True}, "zero_gamma = True has no gamma to zero"),
        ("residual_mlp", {"zero_gamma": True, "norm": "batch", "norm_position": "after"}, "zero_gamma = True"),
    ],
)
def test_an_mlp_option_out_of_range_is_named(name, options, says):
    with pytest.raises(ValueError, match=says):
        build_network(name, **options)
