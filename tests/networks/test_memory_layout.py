import pytest
import torch

from litmus.networks import build_network
from litmus.networks.blocks import ZeroPadShortcut


@pytest.mark.parametrize("side", [8, 7])
def test_the_shortcut_of_option_a_is_a_strided_slice_to_the_bit(side):
    x = torch.randn(2, 4, side, side, requires_grad=True)
    y = ZeroPadShortcut(3, stride=2)(x)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2])
    assert not y[:, 4:].any()
    y.sum().backward()
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", ["plain", "residual", "highway"])
def test_gradients_keep_the_layout_of_channels_last(name):
    """Mixed layouts make the element-wise steps thirty times slower."""
    network = build_network(name, depth=8, width=8).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    wrong = []

    def watch(where):
        def hook(module, grad_inputs, grad_outputs):
            grad = grad_outputs[0]
            if grad.ndim == 4 and not grad.is_contiguous(memory_format=torch.channels_last):
                wrong.append(where)

        return hook

    for where, module in network.named_modules():
        if where and "." in where:
            module.register_full_backward_hook(watch(where))
    network(images).logsumexp(1).sum().backward()
    assert wrong == []
