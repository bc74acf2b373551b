"""Dead and saturated units of networks whose units are known."""

import pytest
import torch
from torch import nn

from litmus.diagnosis.units import unit_health
from litmus.networks import build_network


def test_a_unit_is_dead_that_is_zero_on_every_image():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(6, 4))
        network[1].bias.copy_(torch.tensor([0.0, 0, 0, 0, -1, -1]))  # the last two never answer
    images = torch.zeros(300, 1, 2, 2)
    images[7, 0, 0, 0] = 1.0  # one unit answers to a single image
    images[::3, 0, 1, 1] = 2.0
    (layer,) = unit_health(network, images.split(50))
    assert (layer.name, layer.activation, layer.num_units, layer.saturated) == ("2", "relu", 6, 0.0)
    assert layer.dead == pytest.approx(4 / 6)


def test_channels_are_the_units_of_maps_and_one_place_keeps_them_alive():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 1, -1, -1]).reshape(4, 1, 1, 1))
        network[0].bias.copy_(torch.tensor([0.0, -5, 0, 0]))
    images = torch.zeros(10, 1, 3, 3)
    images[9, 0, 2, 2] = 1.0
    (layer,) = unit_health(network, [images])
    assert (layer.num_units, layer.dead) == (4, 0.75)


@pytest.mark.parametrize(("act", "inside"), [(nn.Sigmoid(), 2.9), (nn.Tanh(), 1.8)])
def test_saturated_is_outside_the_named_range(act, inside):
    network = nn.Sequential(nn.Flatten(), act)
    images = torch.tensor([inside, -inside, inside + 0.1, -inside - 0.1]).reshape(1, 1, 2, 2)
    (layer,) = unit_health(network, [images, images])
    assert (layer.saturated, layer.dead, layer.num_units) == (0.5, 0.0, 4)


def test_a_module_used_twice_is_two_layers_in_each_batch():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.act(x) - 10)

    layers = unit_health(Twice(), [torch.ones(3, 5), torch.ones(3, 5)])
    assert [(one.name, one.dead) for one in layers] == [("act", 0.0), ("act#2", 1.0)]


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_as_it_was(failing):
    network = build_network("residual", in_channels=1, num_classes=3, image_size=(8, 8), depth=8, width=4).train()
    network.stages[0].eval()  # a frozen part
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}

    def batches():
        yield torch.randn(5, 1, 8, 8)
        if failing:
            raise RuntimeError("no more")

    if failing:
        with pytest.raises(RuntimeError, match="no more"):
            unit_health(network, batches())
    else:
        assert len(unit_health(network, batches())) == 7  # the stem, and two in each of three blocks
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(value.grad is None for value in network.parameters())


def test_a_network_without_such_layers_is_not_even_run():
    def batches():
        raise AssertionError("asked for images")
        yield

    assert unit_health(nn.Linear(2, 2), batches()) == []
