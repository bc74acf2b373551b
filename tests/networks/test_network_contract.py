"""What holds for every network in the registry, and for the variants of ours."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from litmus.networks import NETWORKS, Network, build_network, num_params, options_of
from litmus.networks.init import INITS

VARIANTS = {name: (name, dict(NETWORKS[name].small)) for name in NETWORKS} | {
    "plain after": (
        "plain",
        {"depth": 8, "width": 4, "norm_position": "after", "dropout": "spatial", "keep_prob": 0.8},
    ),
    "plain bare": ("plain", {"depth": 8, "width": 4, "norm": "none", "activation": "leaky_relu"}),
    "residual B": ("residual", {"depth": 8, "width": 4, "shortcut": "B"}),
    "residual bare B": ("residual", {"depth": 8, "width": 4, "shortcut": "B", "norm": "none", "activation": "elu"}),
    "residual zero branch": ("residual", {"depth": 8, "width": 4, "norm": "none", "init": "zero_branch"}),
    "residual after": ("residual", {"depth": 8, "width": 4, "norm_position": "after", "shortcut": "B"}),
    "residual v2": ("residual", {"depth": 14, "width": 4, "preactivation": True}),
    "residual v2 B": ("residual", {"depth": 14, "width": 4, "preactivation": True, "shortcut": "B"}),
    "residual v2 after": ("residual", {"depth": 8, "width": 4, "preactivation": True, "norm_position": "after"}),
    "residual group": ("residual", {"depth": 8, "width": 4, "norm": "group", "norm_groups": 2, "activation": "silu"}),
    "residual depth": ("residual", {"depth": 8, "width": 4, "dropout": "stochastic_depth", "keep_prob": 0.9}),
    "highway depth": ("highway", {"depth": 8, "width": 4, "dropout": "stochastic_depth", "keep_prob": 0.9}),
    "highway group": ("highway", {"depth": 8, "width": 4, "norm": "group", "norm_groups": 4, "activation": "gelu"}),
    "mlp batch": ("mlp", {"depth": 3, "width": [12, 8], "norm": "batch", "keep_prob": 0.8, "input_keep_prob": 0.9}),
    "softmax regression": ("mlp", {"depth": 1}),
    "residual_mlp group": ("residual_mlp", {"depth": 4, "width": 8, "norm": "group", "norm_groups": 2}),
    "residual_mlp after": ("residual_mlp", {"depth": 4, "width": 8, "norm": "batch", "norm_position": "after"}),
    "timm vit": ("timm", {"backbone": "test_vit", "keep_prob": 0.9, "drop_path_keep_prob": 0.9}),
}
every_network = pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS.keys())
every_shape = pytest.mark.parametrize(("in_channels", "side"), [(1, 8), (3, 32)], ids=["digits", "colour"])


def build(name, options, in_channels=3, side=32, **more):
    torch.manual_seed(0)
    if name == "timm" and options["backbone"] == "test_vit":
        side = max(side, 16)  # a patch
    size = (side, side)
    network = build_network(name, in_channels=in_channels, num_classes=5, image_size=size, **options, **more)
    return network, torch.randn(6, in_channels, *size)


@every_network
@every_shape
def test_every_parameter_learns(name, options, in_channels, side):
    network, images = build(name, options, in_channels, side)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # the second: a branch that begins at zero, as timm's do, passes no gradient on in the first
        optimizer.zero_grad()
        network(images).logsumexp(1).sum().backward()
        optimizer.step()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_network
@every_shape
def test_logits_are_the_head_of_the_features(name, options, in_channels, side):
    network, images = build(name, options, in_channels, side)
    network.eval()
    logits, features = network(images), network.features(images)
    assert isinstance(network, Network)
    assert isinstance(network.head, nn.Linear)
    assert logits.shape == (6, 5)
    assert features.shape == (6, network.head.in_features)
    assert torch.equal(network.head(network.dropout(features)), logits)
    assert list(network.state_dict())[-2:] == ["head.weight", "head.bias"]


@every_network
def test_evaluation_repeats_itself_and_draws_nothing(name, options):
    network, images = build(name, options)
    network.eval()
    before = torch.get_rng_state()
    first = network(images)
    assert torch.equal(network(images), first)
    assert torch.equal(torch.get_rng_state(), before)


@every_network
def test_an_image_is_classified_alike_alone_and_in_a_batch(name, options):
    network, images = build(name, options)
    network.double().eval()
    images = images.double()
    torch.testing.assert_close(network(images[:1]), network(images)[:1])


@every_network
def test_a_state_dict_makes_another_network_the_same(name, options):
    network, images = build(name, options)
    network(images)  # moves running statistics
    other, _ = build(name, options)
    for parameter in other.parameters():
        parameter.data.fill_(0.5)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(images), network.eval()(images))


@every_network
def test_a_deep_copy_is_apart(name, options):
    network, images = build(name, options)
    logits = network.eval()(images)
    twin = copy.deepcopy(network)
    twin.head.bias.data += 1
    assert torch.equal(network(images), logits)
    torch.testing.assert_close(twin(images), logits + 1)


@every_network
def test_memory_format_does_not_change_the_logits(name, options):
    network, images = build(name, options)
    network.double().eval()
    images = images.double()
    logits = network(images)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images.to(memory_format=torch.channels_last)), logits)


@every_network
def test_bf16_autocast_stays_near_fp32(name, options):
    network, images = build(name, options)
    network.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = network(images)
    assert (logits - network(images)).abs().max() < 0.1 * network(images).abs().max()


@every_network
def test_the_same_seed_draws_the_same_weights(name, options):
    first, second = build(name, options)[0], build(name, options)[0]
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@every_network
def test_one_step_lowers_the_loss(name, options):
    network, images = build(name, options)
    images, labels = images.double(), torch.tensor([0, 1, 2, 3, 4, 0])
    network.double().eval()  # the same function before and after: no dropout, fixed statistics
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 1e-4 * parameter.grad
    assert nn.functional.cross_entropy(network(images), labels) < loss


@pytest.mark.parametrize("name", NETWORKS)
def test_keeping_everything_draws_no_random_number(name):
    network, images = build(name, dict(NETWORKS[name].small))
    before = torch.get_rng_state()
    network.train()(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "init" in options_of(name)])
@pytest.mark.parametrize("init", INITS)
def test_every_init_gives_every_network_new_finite_weights(name, init):
    network, images = build(name, dict(NETWORKS[name].small), init=init)
    assert network(images).isfinite().all()
    weights = [p for key, p in network.named_parameters() if key.endswith("weight") and p.ndim > 1]
    assert all(w.std() > 0 for w in weights)


def test_build_names_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"'residuall' is unknown; did you mean 'residual'\?"):
        build_network("residuall")
    with pytest.raises(ValueError, match=r"'plain' has no option 'widht'; did you mean 'width'\?"):
        build_network("plain", widht=3)
    with pytest.raises(ValueError, match="'plain' has no option 'shortcut'"):
        build_network("plain", shortcut="A")


def test_options_include_those_handed_on_to_the_parent():
    assert set(options_of("residual")) - set(options_of("plain")) == {"shortcut", "preactivation", "zero_gamma"}
    assert set(options_of("highway")) - set(options_of("plain")) == {"gate_bias"}
    assert options_of("residual_mlp")["depth"] == 8
    assert options_of("timm") == {"backbone": "resnet18", "keep_prob": 1.0, "drop_path_keep_prob": 1.0}


def test_a_name_is_given_once():
    from litmus.networks import network

    class Other(Network):
        pass

    with pytest.raises(ValueError, match=r"'plain' is registered already, by litmus\.networks\.conv"):
        network("plain")(Other)
    assert NETWORKS["plain"].__name__ == "Plain"


@pytest.mark.parametrize("name", ["plain", "mlp", "timm"])
@pytest.mark.parametrize("argument", ["in_channels", "num_classes"])
def test_no_channels_or_classes_are_refused(name, argument):
    with pytest.raises(ValueError, match=f"{argument} = 0 must be a whole number of at least 1"):
        build_network(name, **{argument: 0})


def test_num_params_counts_frozen_ones_too():
    network = nn.Linear(3, 2)
    network.weight.requires_grad_(False)
    assert num_params(network) == 8


def test_importing_the_networks_needs_torch_alone():
    code = (
        "import sys, litmus.networks\n"
        "print([m for m in ('timm', 'torchvision', 'lightning', 'pydantic', 'mlflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
