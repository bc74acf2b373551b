import math

import numpy as np
import pytest
import torch
from torch import nn

from litmus.networks import INITS, build_network, gain, initialise_, lsuv_
from litmus.networks.blocks import ACTIVATIONS

HERMITE_X, HERMITE_W = np.polynomial.hermite_e.hermegauss(200)


def second_moment(activation, variance=1.0):
    """E[f(z)^2] for z ~ N(0, variance), by Gauss-Hermite quadrature."""
    z = torch.from_numpy(HERMITE_X) * math.sqrt(variance)
    f = ACTIVATIONS[activation]() if activation != "linear" else nn.Identity()
    return float((torch.from_numpy(HERMITE_W) * f(z).square()).sum() / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("activation", ["linear", "relu", "leaky_relu", "elu", "gelu", "silu"])
def test_gain_undoes_what_the_activation_takes(activation):
    assert gain(activation) ** 2 * second_moment(activation) == pytest.approx(1, rel=2e-3)  # kinks limit the quadrature


@pytest.mark.parametrize(("activation", "moment"), [("elu", 0.644945), ("gelu", 0.425221), ("silu", 0.355776)])
def test_stated_second_moments_are_the_integrals(activation, moment):
    z = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(ACTIVATIONS[activation]()(z).square() * density, z)) == pytest.approx(moment, abs=1e-6)
    assert gain(activation) == pytest.approx(moment**-0.5)


def test_gains_by_convention_are_torchs():
    for activation in ("linear", "sigmoid", "tanh", "relu"):
        assert gain(activation) == pytest.approx(nn.init.calculate_gain(activation))
    assert gain("leaky_relu", negative_slope=0.2) == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2))
    with pytest.raises(ValueError, match=r"activation = 'rellu' is unknown; did you mean 'relu'\?"):
        gain("rellu")


def weight_variance(init, activation, fan_in, fan_out):
    g2 = gain(activation) ** 2
    return {
        "normal": 0.03**2,
        "xavier_uniform": 2 / (fan_in + fan_out),
        "xavier_normal": 2 / (fan_in + fan_out),
        "he_uniform": g2 / fan_in,
        "he_normal": g2 / fan_in,
        "lecun_normal": 1 / fan_in,
        "orthogonal": g2 / max(fan_in, fan_out),
        "lsuv": 1 / max(fan_in, fan_out),
        "torch_default": 1 / (3 * fan_in),
    }[init]


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (lambda: nn.Linear(300, 200), 300, 200),
        (lambda: nn.Linear(150, 400), 150, 400),
        (lambda: nn.Conv2d(30, 50, 3), 270, 450),
        (lambda: nn.Conv2d(60, 40, 1), 60, 40),
    ],
    ids=["linear", "growing", "conv3x3", "conv1x1"],
)
def test_weights_have_the_stated_variance(init, activation, layer, fan_in, fan_out):
    torch.manual_seed(0)
    layer = layer()
    initialise_(layer, init=init, activation=activation, std=0.03)
    if init in ("orthogonal", "lsuv"):  # rows are layer outputs: torch orthogonalises (out, in * kernel area)
        fan_out = layer.weight.shape[0]
    assert layer.weight.var().item() == pytest.approx(weight_variance(init, activation, fan_in, fan_out), rel=0.06)
    if init.endswith("_uniform"):
        assert layer.weight.abs().max().item() <= math.sqrt(3 * weight_variance(init, activation, fan_in, fan_out))
    assert (init == "torch_default") == bool(layer.bias.any())


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_orthogonal_keeps_the_norm_up_to_the_gain(activation):
    layer = nn.Linear(64, 32)
    initialise_(layer, init="orthogonal", activation=activation)
    rows = layer.weight @ layer.weight.T
    torch.testing.assert_close(rows, gain(activation) ** 2 * torch.eye(32), atol=1e-5, rtol=0)


def pre_activations(network, images):
    found = []
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: found.append(o.double()))
    network.eval()
    with torch.no_grad():
        network(images)
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("init", ["xavier_uniform", "he_uniform", "he_normal", "lecun_normal", "orthogonal", "normal"])
def test_pre_activations_have_the_variance_of_theory(init, activation):
    """E[z_l^2] = fan_in * Var(w) * E[f(z_(l-1))^2], chained from unit inputs, on wide layers (He 2015, eq. 7)."""
    torch.manual_seed(0)
    width = 784
    options = {"depth": 4, "width": width, "in_channels": 1, "image_size": (28, 28)}
    network = build_network("mlp", **options, activation=activation, init=init, init_std=0.03)
    z = pre_activations(network, torch.randn(200, 1, 28, 28))[:-1]
    expected, reads = [], 1.0
    for _ in z:
        expected.append(
            width * reads * (0.03**2 if init == "normal" else weight_variance(init, activation, width, width))
        )
        reads = second_moment(activation, expected[-1])
    assert [float(layer.square().mean()) for layer in z] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("activation", ["relu", "gelu", "elu"])
def test_he_keeps_the_variance_in_convolutions_too(activation):
    torch.manual_seed(0)
    network = build_network("plain", depth=8, width=64, norm="none", activation=activation, image_size=(8, 8))
    layers = pre_activations(network, torch.randn(16, 3, 8, 8))[1:3]  # stride 1, so padding is the only loss
    inner = [layer[:, :, 2:-2, 2:-2] for layer in layers]
    stem_gain = gain(activation) ** 2  # the stem's input met no activation
    reads = second_moment(activation, stem_gain) * stem_gain
    for z in inner:
        assert float(z.square().mean()) == pytest.approx(reads, rel=0.1)
        reads = second_moment(activation, reads) * stem_gain


def test_relu_with_xavier_shrinks_activations_by_half_a_power_of_two_a_layer():
    """2^(-(L-1)/2) from the first hidden layer to the L-th; He's stays (measured: see the tolerance)."""
    for init, slope in (("xavier_normal", -math.log10(2) / 2), ("he_normal", 0.0)):
        torch.manual_seed(0)
        options = {"depth": 51, "width": 256, "in_channels": 1, "image_size": (16, 16)}
        z = pre_activations(build_network("mlp", **options, init=init), torch.randn(64, 1, 16, 16))
        decades = [float(torch.log10(z[layer - 1].std() / z[0].std())) for layer in (10, 30, 50)]
        assert decades == pytest.approx([slope * 9, slope * 29, slope * 49], abs=0.25)


def test_the_head_begins_with_the_linear_gain():
    torch.manual_seed(0)
    network = build_network("mlp", in_channels=1, image_size=(8, 8), depth=2, width=4000, num_classes=50)
    assert network.head.weight.var().item() == pytest.approx(1 / 4000, rel=0.02)
    assert network.layers[0].before.linear.weight.var().item() == pytest.approx(2 / 64, rel=0.02)


@pytest.mark.parametrize("preactivation", [False, True])
def test_gates_and_projections_begin_with_their_own_gain(preactivation):
    torch.manual_seed(0)
    gate = build_network("highway", depth=8, width=64).stages[0].blocks[0].gate.conv
    assert gate.weight.var().item() == pytest.approx(1 / (64 * 9), rel=0.03)
    residual = build_network("residual", depth=8, width=64, shortcut="B", preactivation=preactivation)
    projection = residual.stages[1].blocks[0].shortcut.conv
    assert projection.weight.var().item() == pytest.approx(1 / 64, rel=0.05)


def test_norms_begin_as_the_identity_and_biases_at_zero():
    network = build_network("residual", depth=8, width=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.bias)
    initialise_(network, init="he_normal", activation="relu")
    for key, parameter in network.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.full_like(parameter, "norm" in key and key.endswith("weight"))), key


def test_torch_default_is_what_torch_draws():
    torch.manual_seed(0)
    drawn = nn.Linear(64, 16)
    torch.manual_seed(0)
    network = build_network("mlp", in_channels=1, image_size=(8, 8), depth=2, width=16, init="torch_default")
    assert torch.equal(network.layers[0].before.linear.weight, drawn.weight)
    assert torch.equal(network.layers[0].before.linear.bias, drawn.bias)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {"depth": 14, "width": 8, "norm": "none"}),
        ("plain", {"depth": 8, "width": 8, "norm": "none", "activation": "tanh", "keep_prob": 0.5}),
        ("residual", {"depth": 8, "width": 8, "norm": "none", "shortcut": "B"}),
        ("highway", {"depth": 8, "width": 8, "norm": "none"}),
        ("mlp", {"depth": 5, "width": 64, "activation": "sigmoid"}),
    ],
)
def test_lsuv_gives_every_layer_unit_variance(name, options):
    torch.manual_seed(0)
    network = build_network(name, **options, init="lsuv", image_size=(16, 16))
    images = torch.randn(32, 3, 16, 16) * 3 + 1
    before = pre_activations(build_network(name, **options, init="lsuv", image_size=(16, 16)), images)
    assert max(abs(float(z.var()) - 1) for z in before) > 0.3  # orthogonal alone does not
    told = lsuv_(network, images)
    measured = [float(z.var(correction=0)) for z in pre_activations(network, images)]
    assert measured == pytest.approx([1] * len(measured), abs=0.011)
    weighted = [key for key, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(told) == sorted(weighted)
    assert all(abs(variance - 1) <= 0.01 for variance in told.values())


def test_lsuv_leaves_directions_modes_statistics_and_hooks_alone():
    torch.manual_seed(0)
    network = build_network("residual", depth=8, width=4, init="lsuv")
    network.stages[0].eval()
    weight = network.stem.conv.weight.clone()
    modes = [m.training for m in network.modules()]
    random = torch.get_rng_state()
    lsuv_(network, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(network.stem.conv.weight / network.stem.conv.weight.norm(), weight / weight.norm())
    assert [m.training for m in network.modules()] == modes
    assert int(network.stem.norm.num_batches_tracked) == 0
    assert not any(m._forward_hooks for m in network.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_lsuv_repeats_until_it_is_near_enough():
    """A bias of its own variance makes one scaling miss; more come nearer."""
    torch.manual_seed(0)
    layer = nn.Linear(20, 200)
    nn.init.normal_(layer.bias, std=0.7)
    images, once, often = torch.randn(500, 20), nn.Sequential(layer), nn.Sequential(nn.Linear(20, 200))
    often.load_state_dict(once.state_dict())
    first = lsuv_(once, images, max_iterations=1)["0"]
    assert abs(lsuv_(often, images)["0"] - 1) < 0.01 < abs(first - 1)


@pytest.mark.parametrize(
    "images", [torch.zeros(4, 3, 8, 8), torch.full((4, 3, 8, 8), float("nan"))], ids=["flat", "nan"]
)
def test_lsuv_names_the_layer_it_cannot_scale(images):
    network = build_network("plain", depth=8, width=4, norm="none", init="lsuv", image_size=(8, 8))
    with pytest.raises(ValueError, match=r"LSUV cannot scale layer 'stem.conv'"):
        lsuv_(network, images)
    assert network.training
    assert not any(m._forward_hooks for m in network.modules())


def test_lsuv_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="tolerance = 0 must be above 0"):
        lsuv_(nn.Linear(2, 2), torch.zeros(1, 2), tolerance=0)
    with pytest.raises(ValueError, match="max_iterations = 0"):
        lsuv_(nn.Linear(2, 2), torch.zeros(1, 2), max_iterations=0)
