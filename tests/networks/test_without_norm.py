"""What stands in for a norm in residual networks: Fixup, and branches whose last convolution begins at zero."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from litmus.networks import build_network, num_params
from litmus.networks.blocks import Scale, Shift

BARE = {"norm": "none", "width": 4, "in_channels": 1, "image_size": (8, 8)}


def built(depth=8, seed=0, **options):
    torch.manual_seed(seed)
    return build_network("residual", depth=depth, **{**BARE, **options})


def with_one_stem(*depths, **options):
    """Of one set of weights in front of the first block."""
    networks = [built(depth, **options) for depth in depths]
    for network in networks[1:]:
        network.stem.load_state_dict(networks[0].stem.state_dict())
    return networks


def blocks(network):
    return [block for stage in network.stages for block in stage.blocks]


def images(num=32, side=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 1, side, side, generator=generator), torch.randint(10, (num,), generator=generator)


@pytest.mark.parametrize("options", [{"init": "fixup"}, {"init": "zero_branch"}], ids=lambda options: options["init"])
def test_the_function_at_the_start_does_not_depend_on_the_depth(options):
    x, _ = images()
    features = [network.eval().features(x) for network in with_one_stem(8, 56, 110, **options)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    assert features[0].std() > 0.05
    he = [built(depth, init="he_normal").eval().features(x).std() for depth in (8, 56)]
    assert he[1] > 100 * he[0]  # what they are for


@pytest.mark.parametrize("preactivation", [False, True])
def test_every_branch_begins_at_zero(preactivation):
    network = built(14, init="zero_branch", preactivation=preactivation)
    for block in blocks(network):
        assert not block.branch.conv2.weight.any()
        assert block.branch.conv1.weight.std() > 0.1
    assert network.head.weight.any()


def moved(network, *, lr, steps):
    """RMS by which the logits change over ``steps`` of gradient descent, over the rate."""
    x, labels = images()
    network.double()
    x = x.double()
    before = network(x).detach()
    for _ in range(steps):
        network.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= lr * parameter.grad
    return float((network(x).detach() - before).square().mean().sqrt()) / lr


@pytest.mark.parametrize("steps", [1, 5])
def test_fixups_updates_are_of_the_order_of_the_rate_whatever_the_depth(steps):
    """The paper's definition: each step changes the function by Theta(lr), independent of depth."""
    lr = 0.01
    changes = [moved(network, lr=lr, steps=steps) for network in with_one_stem(8, 56, 110, init="fixup")]
    assert max(changes) < 1.3 * min(changes)
    assert 0.05 * steps < min(changes)
    assert max(changes) < 5 * steps


def test_hes_updates_grow_with_the_depth_without_bound():
    shallow, deep = (moved(built(depth, init="he_normal"), lr=1e-12, steps=1) for depth in (8, 56))
    assert deep > 1e6 * shallow


def test_fixup_draws_the_first_convolution_smaller_by_the_root_of_the_number_of_branches():
    for depth, num_branches in ((8, 3), (56, 27)):
        network = built(depth, init="fixup", width=32)
        for block in blocks(network):
            weight = block.branch.conv1.weight
            assert weight.std().item() == pytest.approx((2 / weight[0].numel() / num_branches) ** 0.5, rel=0.03)
        assert network.stem.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.15)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_fixup_has_scalars_in_place_of_biases(shortcut):
    network = built(14, init="fixup", shortcut=shortcut)
    assert [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None] == []
    shifts = [m for m in network.modules() if isinstance(m, Shift)]
    scales = [m for m in network.modules() if isinstance(m, Scale)]
    projections = 2 if shortcut == "B" else 0
    assert len(shifts) == 6 * 4 + 2 + projections
    assert len(scales) == 6
    assert all(m.bias.shape == (1,) and m.bias == 0 for m in shifts)
    assert all(m.factor.shape == (1,) and m.factor == 1 for m in scales)
    assert not network.head.weight.any()
    assert not network.head.bias.any()


def test_parameters_of_fixup_are_those_of_the_network_with_norm_less_its_norms_plus_the_scalars():
    """0.27M and 0.85M of the paper's networks, whose norms have two numbers a channel."""
    for depth, width, channels in ((20, 16, 16 + 6 * (16 + 32 + 64)), (56, 16, 16 + 18 * (16 + 32 + 64))):
        branches = (depth - 2) // 2
        options = {"depth": depth, "width": width}
        normed, fixup = (
            build_network("residual", **options),
            build_network("residual", **options, norm="none", init="fixup"),
        )
        assert num_params(normed) - num_params(fixup) == 2 * channels - (5 * branches + 2)


def test_a_fixup_block_is_what_the_paper_draws():
    block = blocks(built(8, init="fixup"))[0]
    for parameter in block.parameters():
        nn.init.uniform_(parameter, 0.1, 0.5)
    b, x = block.branch, torch.randn(2, 4, 6, 6)
    y = F.conv2d(x + b.shift_conv1.bias, b.conv1.weight, padding=1)
    y = F.conv2d(F.relu(y + b.shift_act1.bias) + b.shift_conv2.bias, b.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), F.relu(y * b.scale.factor + x + block.out.shift_act2.bias))


@pytest.mark.parametrize(
    "options",
    [{}, {"shortcut": "B"}, {"keep_prob": 0.9}, {"keep_prob": 0.9, "dropout": "stochastic_depth"}],
    ids=["A", "B", "dropout", "stochastic depth"],
)
@pytest.mark.parametrize("init", ["fixup", "zero_branch"])
def test_every_parameter_learns_once_the_head_and_the_branches_have_moved(init, options):
    network = built(14, init=init, **options)
    x, labels = images()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):  # head; last convolutions; what is in front of them
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert network.eval()(x).isfinite().all()


@pytest.mark.parametrize("dropout", ["plain", "stochastic_depth"])
def test_dropout_stands_where_it_stands_in_other_residual_blocks(dropout):
    options = {"keep_prob": 0.5, "dropout": dropout}
    names = [[key for key, _ in blocks(built(8, init=init, **options))[0].branch.named_children()] for init in
             ("he_normal", "fixup")]  # fmt: skip
    kept = [name for name in names[1] if "shift" not in name and name != "scale"]
    assert kept == names[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"init": "fixup", "norm": "batch"}, "init = 'fixup' stands in for a norm: it needs norm = 'none'"),
        ({"init": "zero_branch", "norm": "group"}, "init = 'zero_branch' stands in for a norm"),
        ({"init": "fixup", "preactivation": True}, "is made for the original block"),
        ({"init": "fixupp"}, r"init = 'fixupp' is unknown; did you mean 'fixup'\?"),
    ],
)
def test_where_it_does_not_apply_it_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        built(**options)


@pytest.mark.parametrize("name", ["plain", "highway"])
def test_without_plain_shortcuts_there_is_no_fixup(name):
    with pytest.raises(ValueError, match="init = 'fixup' is unknown"):
        build_network(name, depth=8, norm="none", init="fixup")


def test_scalars_are_no_weights_to_be_decayed():
    from litmus.optim import parameter_groups

    network = built(8, init="fixup")
    free = next(group for group in parameter_groups(network) if group["name"] == "free")
    assert len(free["params"]) == 3 * 5 + 2 + 1  # with the head's bias
