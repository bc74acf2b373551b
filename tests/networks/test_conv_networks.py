import pytest
import torch
import torch.nn.functional as F
from torch import nn

from litmus.networks import UnreadableImageSize, build_network, num_params

TINY = {"depth": 8, "width": 4}


def blocks(network):
    return [block for stage in network.stages for block in stage.blocks]


def built(name, seed=0, **options):
    torch.manual_seed(seed)
    return build_network(name, **options)


def test_shortcut_is_free_of_parameters():
    plain, residual = (build_network(name, depth=20) for name in ("plain", "residual"))
    assert num_params(plain) == num_params(residual) == 269_722  # 0.27M, He et al. 2015, table 6


@pytest.mark.parametrize(
    ("depth", "option_a", "option_b"),
    [
        (20, 269_722, 272_474),
        (32, 464_154, 466_906),
        (44, 658_586, 661_338),
        (56, 853_018, 855_770),
        (110, 1_727_962, 1_730_714),
    ],
)
def test_parameters_are_the_papers(depth, option_a, option_b):
    assert num_params(build_network("residual", depth=depth)) == option_a
    assert num_params(build_network("residual", depth=depth, shortcut="B")) == option_b


def test_a_gate_costs_one_convolution_a_block():
    gates = sum(9 * c_in * c + c for c_in, c in [(16, 16), (16, 32), (32, 64)])
    assert num_params(build_network("highway", depth=8)) - num_params(build_network("plain", depth=8)) == gates


def test_depth_counts_weighted_layers():
    for depth in (8, 14, 20):
        weighted = [m for m in build_network("residual", depth=depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(weighted) == depth


@pytest.mark.parametrize("side", [32, 28, 8, 4])
def test_stages_halve_the_image_and_double_the_channels(side):
    network, shapes = built("residual", **TINY, image_size=(side, side)), []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.randn(2, 3, side, side))
    assert shapes == [(4, side, side), (8, side // 2, side // 2), (16, side // 4, side // 4)]


@pytest.mark.parametrize("size", [(7, 7), (13, 9), (5, 32)])
def test_odd_sides_round_up_in_branch_and_shortcut_alike(size):
    for options in ({"shortcut": "A"}, {"shortcut": "B"}, {"preactivation": True}):
        assert built("residual", **TINY, **options, image_size=size)(torch.randn(2, 3, *size)).shape == (2, 10)


def test_plain_and_residual_differ_in_the_sum_and_nothing_else():
    plain, residual = built("plain", depth=14, width=4), built("residual", depth=14, width=4)
    assert list(plain.state_dict()) == list(residual.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(value, residual.state_dict()[key]), key
    for block in blocks(residual):
        block.shortcut = nn.Module()
        block.shortcut.forward = lambda x: 0.0
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(plain(x), residual(x))


@pytest.mark.parametrize("norm_position", ["before", "after"])
def test_a_residual_block_is_the_plain_block_plus_its_input_before_the_last_activation(norm_position):
    options = {"depth": 14, "width": 4, "norm": "none", "norm_position": norm_position}
    plain, residual = (blocks(built(name, **options))[1] for name in ("plain", "residual"))
    x = torch.randn(3, 4, 8, 8)
    branch = plain.branch(x)
    torch.testing.assert_close(plain(x), F.relu(branch))
    torch.testing.assert_close(residual(x), F.relu(branch + x))


def test_option_a_keeps_every_second_pixel_and_adds_empty_channels():
    block = blocks(built("residual", **TINY))[1]
    x = torch.randn(2, 4, 8, 8)
    carried = block.shortcut(x)
    assert torch.equal(carried[:, :4], x[:, :, ::2, ::2])
    assert carried.shape == (2, 8, 4, 4)
    assert not carried[:, 4:].any()


def written_residual(network, x):
    """He et al. 2015, sec. 4.2 with option A, from the state dict by functional calls alone, in training mode."""
    weights = network.state_dict()

    def conv_norm(x, conv, norm, stride=1):
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        return F.batch_norm(x, None, None, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True)

    x = F.relu(conv_norm(x, "stem.conv", "stem.norm"))
    for stage in range(3):
        for block in range(len(network.stages[stage].blocks)):
            at = f"stages.{stage}.blocks.{block}.branch"
            stride = 2 if stage and not block else 1
            y = F.relu(conv_norm(x, f"{at}.conv1", f"{at}.norm1", stride))
            y = conv_norm(y, f"{at}.conv2", f"{at}.norm2")
            if stride == 2:
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, torch.zeros_like(x)], dim=1)
            x = F.relu(y + x)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), weights["head.weight"], weights["head.bias"])


def test_residual_is_the_papers_network():
    network = built("residual", depth=14, width=4).double()
    for key, value in network.named_parameters():
        if "norm" in key:
            nn.init.uniform_(value, 0.5, 1.5)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x), written_residual(network, x))


def written_preactivation(network, x, shortcut):
    """He et al. 2016, fig. 4e, by functional calls; the first activation is shared by both paths of the first block."""
    weights = network.state_dict()

    def norm_relu(x, name):
        return F.relu(F.batch_norm(x, None, None, weights[f"{name}.weight"], weights[f"{name}.bias"], training=True))

    x = norm_relu(F.conv2d(x, weights["stem.conv.weight"], padding=1), "stem.norm")
    for stage in range(3):
        for block in range(len(network.stages[stage].blocks)):
            at = f"stages.{stage}.blocks.{block}"
            stride = 2 if stage and not block else 1
            a = x if stage == block == 0 else norm_relu(x, f"{at}.enter.norm1")
            y = F.conv2d(a, weights[f"{at}.branch.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(norm_relu(y, f"{at}.branch.norm2"), weights[f"{at}.branch.conv2.weight"], padding=1)
            if stride == 2 and shortcut == "A":
                x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], dim=1)
            elif stride == 2:
                x = F.conv2d(a, weights[f"{at}.shortcut.conv.weight"], stride=2)
            x = x + y
    x = norm_relu(x, "end.norm").mean((2, 3))
    return F.linear(x, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_preactivation_is_the_second_papers_network(shortcut):
    network = built("residual", depth=14, width=4, preactivation=True, shortcut=shortcut).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x), written_preactivation(network, x, shortcut))
    assert num_params(build_network("residual", preactivation=True)) == 269_722


def test_highway_mixes_the_plain_block_and_the_carried_input_by_its_gate():
    for block in blocks(built("highway", depth=14, width=4, norm="none"))[:3]:  # the third changes shape
        x = torch.randn(2, 4, 8, 8)
        transform = block.out(block.branch(x))
        gate = torch.sigmoid(
            F.conv2d(x, block.gate.conv.weight, block.gate.conv.bias, stride=block.gate.conv.stride, padding=1)
        )
        torch.testing.assert_close(block(x), gate * transform + (1 - gate) * block.shortcut(x))
        assert 0 < gate.min() < gate.max() < 1


@pytest.mark.parametrize("init", ["he_normal", "torch_default"])
def test_gates_begin_nearly_closed_whatever_the_init(init):
    network = built("highway", **TINY, gate_bias=-3.0, init=init)
    assert all((block.gate.conv.bias == -3).all() for block in blocks(network))


def test_a_shut_highway_block_is_its_shortcut():
    network = built("highway", depth=14, width=4, gate_bias=-200.0)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(blocks(network)[1](x), x)


def test_zero_gamma_starts_every_block_as_its_shortcut():
    network = built("residual", depth=14, width=4, zero_gamma=True)
    x = torch.rand(2, 4, 8, 8)  # not negative, as behind a ReLU
    assert torch.equal(blocks(network)[1](x), x)
    network(torch.randn(4, 3, 8, 8)).logsumexp(1).sum().backward()
    assert all(block.branch.norm2.weight.grad.any() for block in blocks(network))  # it can leave zero


@pytest.mark.parametrize("options", [{"norm": "none"}, {"norm_position": "after"}, {"preactivation": True}])
def test_zero_gamma_without_a_gamma_to_zero_is_refused(options):
    with pytest.raises(ValueError, match="zero_gamma = True has no gamma to zero"):
        build_network("residual", zero_gamma=True, **options)


@pytest.mark.parametrize("name", ["plain", "residual"])
@pytest.mark.parametrize(
    ("options", "biases"),
    [
        ({}, False),
        ({"norm": "group", "norm_groups": 2}, False),
        ({"norm": "none"}, True),
        ({"norm_position": "after"}, True),
    ],
)
def test_convolutions_have_a_bias_unless_a_norm_follows(name, options, biases):
    convs = [m for m in built(name, **TINY, **options).modules() if isinstance(m, nn.Conv2d)]
    assert {conv.bias is not None for conv in convs} == {biases}


@pytest.mark.parametrize("norm_position", ["before", "after"])
def test_norms_stand_where_they_are_told(norm_position):
    network, order = built("plain", **TINY, norm_position=norm_position), []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(lambda m, i, o, name=name: order.append(name.split(".")[-1].rstrip("12")))
    network(torch.randn(2, 3, 8, 8))
    pair = ["norm", "act"] if norm_position == "before" else ["act", "norm"]
    assert order == pair * 7


def test_norm_options_reach_every_norm():
    network = built("residual", **TINY, norm_momentum=0.3, norm_eps=1e-3, shortcut="B")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 7 + 2
    assert {(m.momentum, m.eps) for m in norms} == {(0.3, 1e-3)}
    groups = [
        m for m in built("residual", **TINY, norm="group", norm_groups=4).modules() if isinstance(m, nn.GroupNorm)
    ]
    assert {m.num_groups for m in groups} == {4}


def test_norm_momentum_is_the_weight_of_the_new_batch():
    network = built("plain", **TINY, norm_momentum=0.25)
    x = torch.randn(4, 3, 8, 8)
    stem = network.stem.conv(x)
    network(x)
    torch.testing.assert_close(network.stem.norm.running_mean, 0.25 * stem.mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("activation", "module"),
    {
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
    }.items(),
)
def test_every_activation_is_used_everywhere(activation, module):
    acts = [m for m in built("plain", **TINY, activation=activation).modules() if isinstance(m, module)]
    assert len(acts) == 7  # stem and two in each of three blocks


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depth": 21}, "depth = 21 is not 6n \\+ 2; the nearest are 20 and 26"),
        ({"depth": 2}, "depth = 2 must be a whole number of at least 8"),
        ({"width": 0}, "width = 0"),
        ({"width": 2.5}, "width = 2.5"),
        ({"activation": "rellu"}, "activation = 'rellu' is unknown; did you mean 'relu'"),
        ({"norm": "bach"}, "norm = 'bach' is unknown; did you mean 'batch'"),
        ({"norm_position": "inside"}, "norm_position = 'inside' is unknown; one of: after, before"),
        ({"norm_momentum": 1.5}, "norm_momentum = 1.5 must lie in"),
        ({"norm_eps": 0.0}, "norm_eps = 0.0 must be above 0"),
        ({"norm_groups": 0}, "norm_groups = 0"),
        ({"norm": "group", "width": 12}, "norm_groups = 8 does not divide a layer of 12 channels"),
        ({"init": "hee_normal"}, "init = 'hee_normal' is unknown; did you mean 'he_normal'"),
        ({"init": "normal", "init_std": 0}, "init_std = 0 must be above 0"),
        ({"keep_prob": 0}, "keep_prob = 0 must lie in \\(0, 1\\]"),
        ({"keep_prob": 1.5}, "keep_prob = 1.5"),
        ({"keep_prob": float("nan")}, "keep_prob = nan"),
        ({"head_keep_prob": 0.0}, "head_keep_prob = 0.0"),
        ({"dropout": "chanel"}, "dropout = 'chanel' is unknown"),
        ({"shortcut": "C"}, "shortcut = 'C' is unknown; one of: A, B"),
    ],
)
def test_an_option_out_of_range_is_named(options, says):
    with pytest.raises(ValueError, match=says):
        build_network("residual", **options)


def test_plain_refuses_to_drop_its_only_path():
    with pytest.raises(ValueError, match="dropout = 'stochastic_depth' would cut the only path"):
        build_network("plain", dropout="stochastic_depth", keep_prob=0.9)


@pytest.mark.parametrize("name", ["plain", "residual", "highway"])
def test_images_that_the_last_stage_cannot_see_are_refused(name):
    with pytest.raises(
        UnreadableImageSize, match=r"cannot read images of 32x3; the smallest square .* is 4x4"
    ) as caught:
        build_network(name, image_size=(32, 3))
    assert (caught.value.image_size, caught.value.smallest) == ((32, 3), 4)
    assert built(name, **TINY, image_size=(4, 4))(torch.randn(2, 3, 4, 4)).shape == (2, 10)


def test_hooks_see_the_layers_own_output():
    """An activation in place would overwrite what a hook on the norm before it has kept, and full hooks would fail."""
    network, kept = built("residual", **TINY), {}
    norm = blocks(network)[0].branch.norm1
    norm.register_forward_hook(lambda module, inputs, output: kept.update(forward=output))
    norm.register_full_backward_hook(lambda module, grad_in, grad_out: kept.update(backward=grad_out[0]))
    network(torch.randn(4, 3, 8, 8)).logsumexp(1).sum().backward()
    assert kept["forward"].min() < 0
    assert kept["backward"].any()
