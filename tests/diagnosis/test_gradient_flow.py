"""Gradients by layer: against exact decay, torch's own autograd, and the values that theory or measurement gave."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litmus.diagnosis.gradient_flow import (
    Flow,
    FlowAt,
    LayerFlow,
    log10_norm,
    measure_flow,
    story,
    to_json,
    weighted_layers,
)
from litmus.networks import build_network


def digits(num=1000):
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:num, None]
    return (images - images.mean()) / images.std(), torch.tensor(found.target[:num])


def some(num=64, channels=1, side=8, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, channels, side, side, generator=generator), torch.arange(num) % classes


def net(name="mlp", seed=0, **options):
    torch.manual_seed(seed)
    options = {"in_channels": 1, "image_size": (8, 8), "num_classes": 10, **options}
    return build_network(name, **options)


def deep(**options):
    return net(**{"depth": 30, "width": 128, **options})


def chain(*spectra):
    """Linear layers without biases, each orthogonal times a diagonal of singular values times orthogonal."""
    torch.manual_seed(0)
    layers = []
    for values in spectra:
        layer = nn.Linear(len(values), len(values), bias=False)
        left, right = (nn.init.orthogonal_(torch.empty(len(values), len(values))) for _ in range(2))
        layer.weight.data = left @ torch.diag(torch.tensor(values)) @ right
        layers.append(layer)
    return nn.Sequential(nn.Flatten(), *layers)


def layer(name, delta, gradient=0.0, weight=0.0):
    return LayerFlow(name, "Linear", delta, gradient, weight, "", 0.0, 1.0, None, None)


def flow(*layers, loss=2.3):
    return Flow(layers, 1000, 100, "batch", 64, loss)


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.5, 1.0, 3.0])
def test_a_chain_of_one_singular_value_changes_the_gradient_by_exactly_that_at_each_layer(value):
    images, labels = some(side=4, classes=16)
    found = measure_flow(chain(*[[value] * 16] * 12), images, labels, dtype=torch.float64)
    steps = [b.log10_delta - a.log10_delta for a, b in pairwise(found.layers)]
    assert steps == pytest.approx([-math.log10(value)] * 11, abs=1e-6)  # the weights are float32
    assert found.decades_per_layer == pytest.approx(math.log10(value), abs=1e-6)
    assert found.first_to_last == pytest.approx(11 * math.log10(value), abs=1e-5)
    assert value == 1 or found.r2 == pytest.approx(1, abs=1e-6)


def test_a_chain_with_a_spectrum_has_the_gradient_that_its_matrices_give():
    network = chain([2.0, 1.0, 0.5, 0.1], [1.5, 0.7, 0.2, 0.05], [1.0, 0.9, 0.3, 0.2], [1.0, 1.0, 1.0, 0.5])
    images, labels = some(side=2, classes=4)
    found = measure_flow(network, images, labels, batch_size=7, dtype=torch.float64)
    weights = [module.weight.detach().double() for module in network[1:]]
    logits = network[1:].double()(images.flatten(1).double()).detach()
    network.float()
    delta = (logits.softmax(1) - F.one_hot(labels, 4)) / len(labels)
    for number in (3, 2, 1, 0):
        assert found.layers[number].log10_delta == pytest.approx(math.log10(float(delta.norm())), abs=1e-9)
        delta = delta @ weights[number]


@pytest.mark.parametrize("name", ["mlp", "residual", "highway", "residual_mlp", "plain"])
def test_every_number_is_that_of_torchs_autograd_by_hand(name):
    options = {"width": 4, "norm": "none", "activation": "tanh"} | ({"depth": 8} if name != "mlp" else {"depth": 4})
    network = net(name, **options)
    images, labels = some(num=24)
    found = measure_flow(network, images, labels, dtype=torch.float64)

    kept: dict[str, torch.Tensor] = {}
    twin = net(name, **options).double()
    twin.load_state_dict(network.state_dict())
    modules = dict(twin.named_modules())
    for one in found.layers:
        modules[one.name].register_forward_hook(lambda m, i, out, name=one.name: kept.update({name: out}))
    loss = F.cross_entropy(twin(images.double()), labels)
    deltas = torch.autograd.grad(loss, [kept[one.name] for one in found.layers], retain_graph=True)
    weights = [modules[one.name].weight for one in found.layers]
    gradients = torch.autograd.grad(loss, weights)
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    assert len(found.layers) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in network.modules())
    for one, delta, gradient, weight in zip(found.layers, deltas, gradients, weights, strict=True):
        assert one.log10_delta == pytest.approx(delta.norm().log10().item(), abs=1e-10)
        assert one.log10_gradient == pytest.approx(gradient.norm().log10().item(), abs=1e-10)
        assert one.log10_weight == pytest.approx(weight.norm().log10().item(), abs=1e-10)
        assert one.log10_relative == pytest.approx((gradient.norm() / weight.norm()).log10().item(), abs=1e-10)


def test_parts_add_up_to_the_whole_where_nothing_is_normalised():
    network, (images, labels) = net(depth=5, width=16, activation="tanh"), some(num=50)
    whole, parts = (measure_flow(network.double(), images, labels, batch_size=size) for size in (50, 7))
    assert parts.batch_size == 7
    for a, b in zip(whole.layers, parts.layers, strict=True):
        for name in ("log10_delta", "log10_gradient", "mean", "std", "saturated"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-12)


DECADES = [  # over 29 steps, MLP of width 128 on digits; SCIENCE.md has one draw's values, the rest is theory
    ("sigmoid", "xavier_normal", "none", -18.2, 0.4),
    ("tanh", "xavier_normal", "none", -0.6, 0.3),
    ("tanh", "normal", "none", -27.5, 0.4),  # 29 log10(0.01 sqrt 128) = -27.4
    ("relu", "normal", "none", -31.9, 0.6),  # 29 log10(0.01 sqrt 64) = -31.8
    ("relu", "xavier_normal", "none", -4.4, 0.6),  # -29/2 log10 2 = -4.4
    ("relu", "he_normal", "none", 0.0, 0.6),
    ("relu", "he_normal", "batch", 2.4, 0.4),  # 29/2 log10(pi / (pi - 1)) = 2.4 (Yang et al. 2019)
]


@pytest.mark.parametrize(("activation", "init", "norm", "decades", "tolerance"), DECADES)
def test_thirty_layers_change_the_gradient_by_the_decades_that_theory_says(activation, init, norm, decades, tolerance):
    images, labels = digits(1000)
    found = measure_flow(deep(activation=activation, init=init, norm=norm), images, labels)
    assert found.first_to_last == pytest.approx(decades, abs=tolerance)
    assert found.decades_per_layer == pytest.approx(decades / 29, abs=tolerance / 29 + 0.01)
    assert found.verdict == ("vanishing" if decades < -3 else "healthy")


def test_the_ratio_of_weight_gradients_stays_near_one_where_everything_has_vanished():
    images, labels = digits(300)
    found = measure_flow(deep(activation="tanh", init="normal"), images, labels)
    assert abs(found.weight_gradient_ratio) < 0.3
    assert found.first_to_last < -27
    assert found.verdict == "vanishing"


def test_relu_under_xavier_shrinks_activations_by_a_root_of_two_a_layer():
    images, labels = digits(300)
    layers = measure_flow(deep(activation="relu", init="xavier_normal"), images, labels).layers
    hidden = [math.log10(one.std) for one in layers[:-1]]
    assert (hidden[-1] - hidden[0]) / 28 == pytest.approx(-math.log10(2) / 2, abs=0.03)


def test_precision_follows_what_the_numbers_need_and_changes_nothing_else():
    images, labels = digits(200)
    for network, precision in (
        (deep(width=32), 32),
        (deep(width=32, init="normal"), 64),
        (deep(width=32).double(), 64),
    ):
        chosen, exact = (measure_flow(network, images, labels, dtype=dtype) for dtype in (None, torch.float64))
        assert (chosen.precision, exact.precision) == (precision, 64)
        for a, b in zip(chosen.layers, exact.layers, strict=True):
            for name in ("log10_delta", "log10_gradient", "log10_weight", "mean", "std", "dead"):
                assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-4)


def test_an_overflow_of_single_precision_is_no_infinity():
    images, labels = digits(50)
    found = measure_flow(net(depth=20, width=64, init="normal", init_std=20.0), images, labels)
    assert (found.precision, found.verdict) == (64, "exploding")
    assert math.isfinite(found.first_to_last)
    assert measure_flow(
        net(depth=20, width=64, init="normal", init_std=20.0), images, labels, dtype=torch.float32
    ).loss != (found.loss)


def test_double_precision_holds_what_single_loses():
    images, labels = digits(100)
    network = net(depth=90, width=32, activation="sigmoid", init="xavier_normal")
    assert measure_flow(network, images, labels).layers[0].log10_delta < -50
    single = measure_flow(network, images, labels, dtype=torch.float32)
    assert single.layers[0].log10_delta == -math.inf
    assert single.first_to_last == -math.inf
    assert single.verdict == "vanishing"
    assert "exactly 0 at layers.0.before.linear; the first layer that it reaches is layers." in single.sentence


@pytest.mark.parametrize(
    ("values", "log10"), [([3e-200, 4e-200], math.log10(5e-200)), ([3e200, 4e200], math.log10(5e200))]
)
def test_a_norm_neither_underflows_nor_overflows_in_its_squares(values, log10):
    assert log10_norm(torch.tensor(values, dtype=torch.float64)) == pytest.approx(log10, abs=1e-9)


def test_norms_of_nothing_zeros_and_nan():
    assert log10_norm(torch.zeros(3)) == log10_norm(torch.zeros(0)) == -math.inf
    assert math.isnan(log10_norm(torch.tensor([1.0, math.nan])))
    assert log10_norm(torch.tensor([1.0, -math.inf])) == math.inf


# --- activations ------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """One hidden layer whose pre-activations are the pixels."""

    def __init__(self, act, width):
        super().__init__()
        self.linear, self.act, self.head = nn.Linear(width, width, bias=False), act, nn.Linear(width, 2)
        self.linear.weight.data = torch.eye(width)

    def forward(self, x):
        return self.head(self.act(self.linear(x.flatten(1))))


def pixels(*columns):
    return torch.tensor(columns).T[:, None, None, :], torch.zeros(len(columns[0]), dtype=torch.int64)


def test_a_unit_is_dead_when_it_is_zero_on_every_image_of_every_part():
    # always negative; above 0 in the first part alone; always above; exactly 0
    images, labels = pixels([-1.0, -2.0, -3.0, -4.0], [0.5, -1.0, -1.0, -1.0], [1.0] * 4, [0.0] * 4)
    found = measure_flow(Fixed(nn.ReLU(), 4), images, labels, batch_size=2)
    assert found.layers[0].dead == 0.5
    assert found.dead == 0.5
    assert found.layers[1].dead is None
    assert measure_flow(Fixed(nn.GELU(), 4), images, labels).dead is None


def test_a_channel_is_dead_when_it_is_zero_at_every_place():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2))
    network[0].weight.data = torch.tensor([1.0, -1.0, 0.0, 0.0])[:, None, None, None]
    network[0].bias.data = torch.tensor([-3.5, -2.0, -1.0, 0.0])
    images = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]).expand(3, 1, 2, 2)
    found = measure_flow(network, images, torch.zeros(3, dtype=torch.int64))
    assert found.layers[0].dead == 0.75  # one place of the first channel is above 3.5
    assert found.layers[0].mean == pytest.approx(0.5 / 16)


@pytest.mark.parametrize(
    ("act", "edge"), [(nn.Sigmoid(), math.log(19)), (nn.Tanh(), math.atanh(0.95))], ids=["sigmoid", "tanh"]
)
def test_saturated_is_what_lies_beyond_the_edges(act, edge):
    inside, outside = 0.99 * edge, 1.01 * edge
    images, labels = pixels([inside, outside, -inside, -outside], [0.0, 0.0, 0.0, -outside])
    found = measure_flow(Fixed(act, 2), images, labels, batch_size=3)
    assert found.layers[0].saturated == pytest.approx(3 / 8)
    assert found.saturated == pytest.approx(3 / 8)
    assert measure_flow(Fixed(nn.ReLU(), 2), images, labels).saturated is None


def test_mean_and_spread_are_those_of_all_outputs_whatever_the_parts():
    images, labels = pixels([1.0, 5.0, 2.0, 8.0, 1e8], [2.0, -3.0, 0.5, 1.0, 1e8])
    found = measure_flow(Fixed(nn.ReLU(), 2), images, labels, batch_size=2, dtype=torch.float64).layers[0]
    values = images.double().clamp(min=0)
    assert found.activation == "ReLU"
    assert found.mean == pytest.approx(values.mean().item(), rel=1e-12)
    assert found.std == pytest.approx(values.std(correction=0).item(), rel=1e-9)


def test_without_an_activation_the_layers_own_output_is_described():
    images, labels = some(num=20)
    network = net(depth=1)
    head = measure_flow(network, images, labels).layers[0]
    logits = network(images).detach().double()
    assert (head.name, head.activation) == ("head", "")
    assert head.mean == pytest.approx(logits.mean().item(), abs=1e-6)
    assert head.std == pytest.approx(logits.std(correction=0).item(), abs=1e-6)


def test_an_activation_belongs_to_the_layers_it_reads_through_norms_and_sums():
    images, labels = some(num=20)
    network = net("residual", depth=8, width=4, shortcut="B")
    by_name = {one.name: one for one in measure_flow(network, images, labels).layers}
    joined = by_name["stages.1.blocks.0.branch.conv2"], by_name["stages.1.blocks.0.shortcut.conv"]
    assert [one.activation for one in joined] == ["ReLU", "ReLU"]
    assert joined[0].std == joined[1].std
    assert joined[0].std != by_name["stages.1.blocks.0.branch.conv1"].std
    gate = measure_flow(net("highway", depth=8, width=4, gate_bias=-6.0), images, labels)
    assert {one.name: one.saturated for one in gate.layers}["stages.0.blocks.0.gate.conv"] > 0.99


def test_a_layer_that_no_activation_reads_is_not_given_the_next_ones():
    bottleneck = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 10))
    images, labels = some(num=20)
    assert [one.activation for one in measure_flow(bottleneck, images, labels).layers] == ["", "Tanh", ""]


def test_timms_backbones_are_measured_too():
    images, labels = some(num=8, channels=3, side=32)
    found = measure_flow(net("timm", backbone="test_efficientnet", in_channels=3, image_size=(32, 32)), images, labels)
    assert found.layers[-1].name == "head"
    assert {"SiLU"} <= {one.activation for one in found.layers}
    assert len({one.name for one in found.layers}) == len(found.layers) > 10


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_the_network_its_gradients_modes_hooks_and_the_generator_stay_as_they_were():
    network = net("residual", depth=8, width=4, keep_prob=0.5, head_keep_prob=0.5)
    network.stages[1].eval()
    images, labels = some(num=16)
    calls = []
    network.head.register_forward_hook(lambda *_: calls.append("forward"))
    network.head.register_full_backward_hook(lambda *_: calls.append("backward"))
    F.cross_entropy(network(images), labels).backward()
    calls.clear()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    modes, hooks = [m.training for m in network.modules()], [len(m._forward_hooks) for m in network.modules()]
    drawn, pixels_before = torch.get_rng_state(), images.clone()

    first, again = (measure_flow(network, images, labels) for _ in range(2))

    assert first == again  # dropout would differ
    assert calls == []
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients, network.parameters(), strict=True))
    assert [m.training for m in network.modules()] == modes
    assert [len(m._forward_hooks) for m in network.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(images, pixels_before)


def test_it_measures_where_gradients_are_off():
    network, (images, labels) = net(depth=3, width=8), some(num=16)
    expected = measure_flow(network, images, labels)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert measure_flow(network, images.clone(), labels.clone()) == expected


def test_a_compiled_network_is_measured_uncompiled():
    network, (images, labels) = net(depth=3, width=8), some(num=16)
    expected = measure_flow(network, images, labels)
    network.compile(backend=lambda *_: pytest.fail("compiled for a measurement"))
    assert measure_flow(network, images, labels) == expected


def test_frozen_layers_are_absent_and_their_norms_keep_their_statistics():
    network, (images, labels) = net("plain", depth=8, width=4), some(num=64)
    whole = measure_flow(network, images, labels)
    for part in (network.stem, network.stages[0]):
        part.requires_grad_(False)
    left = measure_flow(network, images, labels)
    assert [one.name for one in left.layers] == [one.name for one in whole.layers[3:]]
    assert left.loss != whole.loss  # the frozen part is normalised by its running statistics, 0 and 1
    network.stem.norm.running_mean += 1
    assert measure_flow(network, images, labels).loss != left.loss


def test_batch_norm_by_the_batch_or_by_its_running_statistics():
    network, (images, labels) = net("plain", depth=8, width=4), some(num=64)
    by_batch, by_running = (measure_flow(network, images, labels, batch_norm=how) for how in ("batch", "running"))
    network.eval()
    assert by_running.loss == pytest.approx(F.cross_entropy(network(images), labels).item(), rel=1e-5)
    network.train()
    assert by_batch.loss == pytest.approx(F.cross_entropy(network(images), labels).item(), rel=1e-5)
    assert measure_flow(network, images, labels, batch_size=8).loss != by_batch.loss
    with pytest.raises(ValueError, match="batch_norm = 'train': 'batch' or 'running'"):
        measure_flow(network, images, labels, batch_norm="train")


def test_synchronised_batch_norm_waits_for_nobody():
    network, (images, labels) = net("plain", depth=8, width=4), some(num=32)
    expected = measure_flow(network, images, labels)
    assert measure_flow(nn.SyncBatchNorm.convert_sync_batchnorm(network), images, labels) == expected


def test_labels_may_be_mixed_and_a_shared_layer_counts_all_its_uses():
    images, labels = some(num=16)
    network = net(depth=3, width=8)
    mixed, plain = (measure_flow(network, images, of) for of in (F.one_hot(labels, 10).float(), labels))
    assert mixed.loss == pytest.approx(plain.loss, rel=1e-6)
    shared = nn.Linear(64, 64, bias=False)
    shared.weight.data = 0.5 * torch.eye(64)
    found = measure_flow(nn.Sequential(nn.Flatten(), shared, shared, nn.Linear(64, 10)), images, labels)
    assert [one.name for one in found.layers] == ["1", "3"]
    kept = []
    hook = shared.register_forward_hook(lambda m, i, out: kept.append(out))
    loss = F.cross_entropy(nn.Sequential(nn.Flatten(), shared, shared)(images), labels)
    hook.remove()
    deltas = torch.autograd.grad(loss, kept)
    alone = measure_flow(nn.Sequential(nn.Flatten(), shared, shared), images, labels)
    expected = math.log10(math.hypot(*(float(delta.norm()) for delta in deltas)))
    assert alone.layers[0].log10_delta == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("images", "labels", "options", "says"),
    [
        (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), {}, "0 images and 0 labels"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64), {}, "3 images and 2 labels"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), {"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(images, labels, options, says):
    with pytest.raises(ValueError, match=says):
        measure_flow(net(depth=2, width=4), images, labels, **options)


def test_a_network_of_which_no_weighted_layer_learns_is_refused():
    network = net("plain", depth=8, width=4)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.requires_grad_(False)
    assert weighted_layers(network) == []
    with pytest.raises(ValueError, match="no linear layer or convolution that learns"):
        measure_flow(network, *some(num=8))
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="no linear layer or convolution that learns"):
        measure_flow(network, *some(num=8))


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deltas", "relative", "verdict", "says"),
    [
        ((-3.01, -1.0, 0.0), (0, 0, 0), "vanishing", "||dL/dz|| changes by -3.0 decades from c to a"),
        ((3.01, 1.0, 0.0), (0, 0, 0), "exploding", "||dL/dz|| changes by +3.0 decades from c to a"),
        ((-2.99, -1.0, 0.0), (0, 0, 0), "healthy", "||dL/dz|| changes by -3.0 decades"),
        ((2.99, 1.0, 0.0), (0, 0, 0), "healthy", "(+1.50 a layer, R2 "),
        ((0.0, 0.0, 0.0), (0, -2.1, 1), "vanishing", "||dL/dW||/||W|| of b is 10^-3.1 of c's"),
        ((0.0, 0.0, 0.0), (4.5, 3.2, 1), "exploding", "||dL/dW||/||W|| of a is 10^3.5 of c's"),
        ((0.0, 0.0, 0.0), (-1.9, 3.9, 1), "healthy", "+0.0 decades"),
        ((4.0, 0.0, 0.0), (-4, 0, 0), "exploding", "||dL/dW||/||W|| of a is 10^-4.0 of c's"),  # the first counts
    ],
)
def test_a_verdict_is_a_thousandth_or_a_thousandfold_and_names_numbers_and_layer(deltas, relative, verdict, says):
    found = flow(*(layer(name, delta, r - 1, -1.0) for name, delta, r in zip("abc", deltas, relative, strict=True)))
    assert found.verdict == verdict
    assert found.sentence.startswith(f"{verdict}: ")
    assert says in found.sentence


def test_a_line_is_fitted_to_the_layers_that_have_a_gradient():
    found = flow(layer("a", -math.inf), layer("b", -4.0), layer("c", -2.0), layer("d", 0.0))
    assert (found.decades_per_layer, found.r2) == (-2.0, 1.0)
    bent = flow(layer("a", 0.0), layer("b", 0.0), layer("c", 3.0))
    assert bent.decades_per_layer == pytest.approx(-1.5)
    assert bent.r2 == pytest.approx(0.75)
    assert math.isnan(flow(layer("a", 0.0), layer("b", 3.0)).r2)
    assert flow(layer("a", 1.0), layer("b", 1.0), layer("c", 1.0)).r2 == 1.0


def test_a_single_layer_has_no_depth_and_no_slope():
    found = flow(layer("head", -1.0))
    assert (found.verdict, found.first_to_last) == ("healthy", 0.0)
    assert math.isnan(found.decades_per_layer)
    assert "there is no depth to pass" in found.sentence
    assert "gradients/decades_per_layer" not in found.metrics()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_exploded(bad):
    found = flow(layer("a", 0.0), layer("b", bad), layer("c", 0.0))
    assert (found.verdict, found.sentence[:48]) == ("exploding", "exploding: the gradient is not finite at b, the ")
    assert flow(layer("a", 0.0), loss=bad).verdict == "exploding"
    assert flow(layer("a", 0.0, gradient=bad), layer("b", 0.0)).verdict == "exploding"


def test_a_loss_of_zero_is_not_a_vanished_gradient():
    found = flow(layer("a", -math.inf), layer("b", -math.inf), loss=0.0)
    assert found.verdict == "healthy"
    assert "no gradient left to send back" in found.sentence
    assert found.first_to_last == 0.0


def test_branches_that_begin_at_zero_are_told_from_a_vanished_gradient():
    found = measure_flow(net("residual", depth=14, width=4, zero_gamma=True), *some(num=64))
    assert found.verdict == "healthy"
    assert len(found.cut_off) == 12  # two convolutions of each of six blocks
    assert "12 layers have no gradient at all, stages.0.blocks.0.branch.conv1 the first" in found.sentence


def test_weights_of_zero_have_no_relative_gradient():
    assert math.isnan(layer("a", 0.0, 0.0, -math.inf).log10_relative)
    assert flow(layer("a", 0.0, 0.0, -math.inf), layer("b", 0.0)).verdict == "healthy"


def test_the_story_of_verdicts_says_each_for_as_long_as_it_holds():
    assert (
        story(["vanishing", "vanishing", "healthy", "healthy", "vanishing"])
        == "vanishing, then healthy, then vanishing"
    )
    assert story(["healthy"]) == "healthy"


def test_plain_values_and_json_give_the_same_back_zeros_infinities_and_nan_too():
    found = flow(
        layer("a", -math.inf), layer("b", math.inf), LayerFlow("c", "Conv2d", 0.1, 1 / 3, 1.0, "Tanh", 0, 1, 0.5, None)
    )
    at = FlowAt(7, found, (-math.inf, -3.0, -2.0))
    assert FlowAt.of(at.plain()) == at
    text = json.dumps(to_json(at.table()), allow_nan=False)
    assert FlowAt.of(json.loads(text)) == at
    assert math.isnan(FlowAt.of(json.loads(json.dumps(to_json(FlowAt(0, found, (math.nan,)).plain())))).log10_update[0])
    assert json.loads(text)["flow"]["verdict"] == "exploding"
    assert FlowAt.of(FlowAt(0, found).plain()).log10_update is None


def test_the_relative_update_is_the_median_of_the_layers_that_have_one():
    found = flow(layer("a", 0.0), layer("b", 0.0))
    assert FlowAt(0, found, (-3.0, math.nan, -1.0, -2.0)).relative_update == pytest.approx(0.01)
    assert FlowAt(0, found, (math.nan,)).relative_update is None
    assert FlowAt(0, found).relative_update is None
    assert FlowAt(0, found, (-math.inf, -math.inf)).relative_update == 0


def test_metrics_are_finite_numbers_under_one_prefix():
    found = measure_flow(net(depth=3, width=8), *some(num=16))
    assert found.metrics() == {
        "gradients/first_to_last_log10": found.first_to_last,
        "gradients/decades_per_layer": found.decades_per_layer,
        "gradients/weight_gradient_ratio_log10": found.weight_gradient_ratio,
        "gradients/dead": found.dead,
    }
    assert "gradients/first_to_last_log10" not in flow(layer("a", -math.inf), layer("b", 0.0)).metrics()
