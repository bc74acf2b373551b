"""Monte Carlo dropout beside dropout in training, and beside every mask there is."""

import itertools

import pytest
import torch
from torch import nn

from litmus.networks import build_network
from litmus.networks.blocks import StochasticDepth
from litmus.predict.dropout import dropout_modules, thinned


def passes(network, x, count, seed=0):
    outputs = []
    with torch.inference_mode():
        for number in range(count):
            with thinned(network, seed=seed, number=number):
                outputs.append(network(x))
    return torch.stack(outputs)


def test_every_pass_is_one_of_the_thinned_networks_and_each_comes_as_often_as_its_mask():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.4), nn.Linear(3, 2)).eval()
    x = torch.tensor([[1.0, -2.0, 0.5]])
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    chance = (0.6 ** masks.sum(1)) * 0.4 ** (3 - masks.sum(1))
    exact = network[1](x * masks / 0.6).detach()
    seen = passes(network, x, 4000)[:, 0]
    distance = torch.cdist(seen, exact, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.min(1).values.max() < 1e-6
    often = torch.bincount(distance.argmin(1), minlength=8) / len(seen)
    error = (chance * (1 - chance) / len(seen)).sqrt()
    assert ((often - chance).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("module", "shape", "constant"),
    [
        (nn.Dropout(0.5), (2, 6, 5, 5), ()),
        (nn.Dropout2d(0.5), (2, 6, 5, 5), (2, 3)),
        (nn.Dropout1d(0.5), (2, 6, 5), (2,)),
        (StochasticDepth(keep_prob=0.5), (2, 6, 5, 5), (1, 2, 3)),
    ],
    ids=["units", "channels", "channels of signals", "branches"],
)
def test_what_is_dropped_together_in_training_is_dropped_together(module, shape, constant):
    seen = passes(module.eval(), torch.ones(shape), 200)
    assert set(seen.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (seen == 0).double().mean() < 0.6
    moved = seen[:, 0]
    assert torch.equal(seen[:, 0], seen[:, 1])  # one mask for all images
    for axis in constant:
        assert torch.equal(moved.amax(axis), moved.amin(axis))
    if not constant:
        assert not torch.equal(moved.amax(3), moved.amin(3))


NETWORKS = [
    ("residual", {"depth": 8, "width": 4, "keep_prob": 0.6, "head_keep_prob": 0.5}),
    ("residual", {"depth": 8, "width": 4, "keep_prob": 0.4, "dropout": "stochastic_depth"}),
    ("plain", {"depth": 8, "width": 4, "keep_prob": 0.6, "dropout": "spatial"}),
    ("mlp", {"depth": 3, "width": 16, "keep_prob": 0.5, "input_keep_prob": 0.8, "norm": "batch"}),
    ("timm", {"backbone": "test_vit", "keep_prob": 0.5, "drop_path_keep_prob": 0.2}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_the_passes_are_distributed_as_the_outputs_of_dropout_in_training(name, options):
    torch.manual_seed(1)
    network = build_network(name, **options).eval()
    x = torch.randn(1, 3, 32, 32)
    count = 400
    ours = passes(network, x, count)[:, 0].double()
    with torch.inference_mode():
        for module, _ in dropout_modules(network):
            module.train()
        theirs = torch.cat([network(x) for _ in range(count)]).double()
    error = ((ours.var(0) + theirs.var(0)) / count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert torch.allclose(ours.std(0), theirs.std(0), rtol=0.25)
    assert (ours.std(0) > 0).all()


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_nothing_of_the_network_or_of_torchs_generator_is_changed(name, options):
    network = build_network(name, **options).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}  # batch norm's statistics too
    x = torch.randn(3, 3, 32, 32)
    state = torch.get_rng_state()
    plain = network(x)
    thin = passes(network, x, 8)
    assert not all(torch.equal(one, thin[0]) for one in thin)
    assert torch.equal(network(x), plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_image_gets_the_same_in_any_batch_and_another_seed_gives_other_masks():
    network = build_network("residual", depth=8, width=4, keep_prob=0.6).eval()
    x = torch.randn(6, 3, 16, 16)
    together = passes(network, x, 5)
    alone = torch.cat([passes(network, row[None], 5) for row in x], 1)
    torch.testing.assert_close(together, alone)
    assert torch.equal(together, passes(network, x, 5))
    assert not torch.allclose(together, passes(network, x, 5, seed=1))


def test_hooks_are_gone_after_an_error():
    network = nn.Sequential(nn.Dropout(0.5)).eval()
    with pytest.raises(RuntimeError, match="stop"), thinned(network, seed=0, number=0):
        raise RuntimeError("stop")
    assert torch.equal(network(torch.ones(8)), torch.ones(8))


def test_a_network_in_training_mode_is_refused_since_it_would_drop_twice():
    with pytest.raises(ValueError, match="training mode"), thinned(nn.Dropout(0.5), seed=0, number=0):
        pass


def test_dropout_of_no_probability_is_none_and_alpha_dropout_is_refused():
    network = nn.Sequential(nn.Dropout(0.0), nn.Dropout2d(0.25), StochasticDepth(keep_prob=1.0))
    assert [keep for _, keep in dropout_modules(network)] == [0.75]
    assert dropout_modules(build_network("timm", backbone="test_vit")) == []
    with pytest.raises(ValueError, match="1 is AlphaDropout"):
        dropout_modules(nn.Sequential(nn.ReLU(), nn.AlphaDropout(0.5)))


def test_masks_are_the_recorded_ones():
    """They are part of what --seed promises."""
    seen = passes(nn.Dropout(0.5).eval(), torch.ones(1, 12), 2).bool().int()
    assert seen[:, 0].tolist() == [[0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1]]
