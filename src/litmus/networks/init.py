"""How weights begin: a scale for each layer, and LSUV, which needs images.

==================  ====================================  ======================================
init                variance of a weight                  from
==================  ====================================  ======================================
``normal``          std^2, whatever the layer             to show what a wrong scale does
``xavier_*``        2 / (fan_in + fan_out)                Glorot & Bengio 2010
``he_*``            gain^2 / fan_in                       He et al. 2015, rectifiers
``lecun_normal``    1 / fan_in                            LeCun et al. 1998
``orthogonal``      rows (or columns) of norm gain        Saxe et al. 2014
``lsuv``            rows (or columns) of norm 1, then     Mishkin & Matas 2016
                    ``lsuv_`` on a batch of images
``torch_default``   1 / (3 fan_in), left as torch drew    neither Xavier nor He; biases drawn too
==================  ====================================  ======================================

The fan of a convolution is channels * kernel area. The gain makes up for what the activation takes from the signal, so
that pre-activations keep their variance from layer to layer. Xavier has none, as in the paper, which assumed units that
are linear near zero: with the ReLU's sqrt 2 it would, between layers of equal width, be He's under another name.
"""

from __future__ import annotations

from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from litmus.networks.checks import at_least, one_of

INITS = (
    "normal",
    "xavier_uniform",
    "xavier_normal",
    "he_uniform",
    "he_normal",
    "lecun_normal",
    "orthogonal",
    "lsuv",
    "torch_default",
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# E[f(z)^2] over a standard normal z, by numerical integration; half of it would be the ReLU's 0.5.
_SECOND_MOMENT = {"elu": 0.644945, "gelu": 0.425221, "silu": 0.355776}


def gain(activation: str, *, negative_slope: float = 0.01) -> float:
    """Factor on the standard deviation of the weights that read this activation's output.

    The inverse root of E[f(z)^2] for the units that keep a standard normal's variance this way: sqrt 2 for relu,
    sqrt(2 / (1 + slope^2)) for leaky_relu, 1.2452 for elu, 1.5335 for gelu, 1.6765 for silu. By convention 1 for
    linear and sigmoid, and torch's 5/3 for tanh, with which deep nets grow a little.

    Raises:
        ValueError: unknown activation.
    """
    one_of("activation", activation, ("linear", "sigmoid", "tanh", "relu", "leaky_relu", *_SECOND_MOMENT))
    if activation in _SECOND_MOMENT:
        return 1 / sqrt(_SECOND_MOMENT[activation])
    by_hand = {"tanh": 5 / 3, "relu": sqrt(2), "leaky_relu": sqrt(2 / (1 + negative_slope**2))}
    return by_hand.get(activation, 1.0)


@torch.no_grad()
def initialise_(network: nn.Module, *, init: str, activation: str, std: float = 0.01) -> None:
    """Draw every linear and convolution weight anew, in place, from torch's global generator.

    Biases become 0, scales of norms 1 and their shifts 0; ``torch_default`` leaves all as torch drew it. A module may
    claim another gain for layers inside it, ``gains = {"head": "linear"}``: so every head begins with the linear gain
    and smaller logits. It may also have the last word, in a method ``after_init_``.

    Args:
        init: one of ``INITS``; ``lsuv`` is orthogonal until ``lsuv_`` is called.
        activation: what the hidden layers' gain is for.
        std: standard deviation, for ``normal`` only.

    Raises:
        ValueError: unknown init or activation, or ``std`` not above 0.
    """
    one_of("init", init, INITS)
    if not std > 0:
        raise ValueError(f"init_std = {std!r} must be above 0")
    gain(activation)  # an unknown name is refused even where no layer would ask
    if init != "torch_default":
        claimed = {
            f"{path}.{name}".lstrip("."): of
            for path, module in network.named_modules()
            for name, of in getattr(module, "gains", {}).items()
        }
        for path, layer in network.named_modules():
            if isinstance(layer, _WEIGHTED):
                _draw_(layer.weight, init, gain(claimed.get(path, activation)), std)
            elif isinstance(layer, _NORMS) and layer.weight is not None:
                nn.init.ones_(layer.weight)
            if isinstance(layer, (*_WEIGHTED, *_NORMS)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for module in network.modules():
        if callable(last_word := getattr(module, "after_init_", None)):
            last_word()


def _draw_(weight: Tensor, init: str, g: float, std: float) -> None:
    fan_out, fan_in = (weight[:, 0].numel(), weight[0].numel())  # weight is (out, in, *kernel)
    if init == "orthogonal":
        nn.init.orthogonal_(weight, g)
    elif init == "lsuv":
        nn.init.orthogonal_(weight)
    elif init.endswith("_uniform"):
        bound = sqrt(3) * _std(init, fan_in, fan_out, g, std)  # a uniform on (-b, b) has variance b^2 / 3
        nn.init.uniform_(weight, -bound, bound)
    else:
        nn.init.normal_(weight, std=_std(init, fan_in, fan_out, g, std))


def _std(init: str, fan_in: int, fan_out: int, g: float, std: float) -> float:
    match init.removesuffix("_uniform").removesuffix("_normal"):
        case "xavier":
            return sqrt(2 / (fan_in + fan_out))
        case "he":
            return g / sqrt(fan_in)
        case "lecun":
            return 1 / sqrt(fan_in)
    return std


@torch.no_grad()
def lsuv_(
    network: nn.Module, images_BCHW: Tensor, *, tolerance: float = 0.01, max_iterations: int = 10
) -> dict[str, float]:
    """Scale the weights, layer by layer, until each layer's outputs have variance 1 on these images (LSUV).

    Mishkin & Matas 2016, whose first half is ``initialise_(init="lsuv")``. Works in one pass: a layer is scaled as the
    pass reaches it, so that it is measured on what the layers below, already scaled, send. The head is scaled too, as
    in the paper. Differs from it: measured in evaluation mode, without dropout's noise and without moving running
    statistics. With batch norm it changes next to nothing.

    Args:
        images_BCHW: a real batch, as training sees it; a few hundred images.
        tolerance: largest distance of the variance from 1.
        max_iterations: scalings of one layer at most; without a bias one is enough.

    Returns:
        Variance of each layer's outputs in the end, by the layer's name.

    Raises:
        ValueError: a layer's outputs are all the same or not finite, so no scale helps.
    """
    at_least("max_iterations", max_iterations, 1)
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance!r} must be above 0")
    variances: dict[str, float] = {}

    def scale(name: str):
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for _ in range(max_iterations):
                variances[name] = variance = output.double().var(correction=0).item()
                if abs(variance - 1) <= tolerance:
                    break
                if not isfinite(variance) or variance == 0:
                    raise ValueError(f"LSUV cannot scale layer {name!r}: its outputs have variance {variance}")
                layer.weight.div_(sqrt(variance))
                output = layer.forward(*inputs)
            variances[name] = output.double().var(correction=0).item()
            return output

        return hook

    hooks = [m.register_forward_hook(scale(name)) for name, m in network.named_modules() if isinstance(m, _WEIGHTED)]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        network(images_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return variances
