"""Monte Carlo dropout: several thinned networks out of one that was trained with dropout (Gal & Ghahramani 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from litmus.data.hashing import uniform
from litmus.networks.blocks import StochasticDepth

_WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def dropout_modules(network: nn.Module) -> list[tuple[nn.Module, float]]:
    """Every module that drops something in training, with its keep_prob below 1, in the network's order.

    Counted are torch's dropout, our stochastic depth and timm's ``DropPath``. Not found is dropout that a forward
    writes as a function (that of timm's attention): our timm networks are built with it switched off.

    Raises:
        ValueError: a kind whose mask is not a product with 0 or 1 / keep_prob (alpha dropout).
    """
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
            raise ValueError(f"{name} is {type(module).__name__}, which Monte Carlo dropout cannot draw")
        keep_prob = _keep_prob(module)
        if keep_prob < 1:
            found.append((module, keep_prob))
    return found


@contextmanager
def thinned(network: nn.Module, *, seed: int, number: int) -> Iterator[None]:
    """Within: the network in evaluation mode, but for its dropout, which drops as in training.

    One mask for all images: the ``number``-th thinned network, drawn by (seed, number). For one image that is
    distributed as in training; and what it says of an image depends neither on the batch nor on the other images.
    (Masks of its own for each image would.) Batch norm keeps to its running statistics: the modules' modes are not
    touched. No generator but our own is drawn from.
    """
    hooks = [
        module.register_forward_hook(_Dropper(_kind(module), keep_prob, seed, number, place))
        for place, (module, keep_prob) in enumerate(dropout_modules(network))
    ]
    modes = [module.training for module, _ in dropout_modules(network)]
    if any(modes):
        raise ValueError("the network is in training mode: its dropout would drop twice")
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Dropper:
    """Multiplies what a dropout module passes on, unchanged in evaluation mode, by its mask."""

    def __init__(self, kind: str, keep_prob: float, *address: int):
        self.kind, self.keep_prob, self.address = kind, keep_prob, address

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        alone = output.shape[1:]
        shapes = {"units": (1, *alone), "channels": (1, alone[0], *[1] * (len(alone) - 1)), "branch": [1] * output.ndim}
        shape = tuple(shapes[self.kind])
        drawn = uniform("mc dropout", *self.address, np.arange(math.prod(shape))).reshape(shape)
        return output * torch.from_numpy((drawn < self.keep_prob) / self.keep_prob).to(output.dtype).to(output.device)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Dropout):
        return "units"
    return "channels" if isinstance(module, _WHOLE_CHANNELS) else "branch"


def _keep_prob(module: nn.Module) -> float:
    if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return 1 - module.p
    if isinstance(module, StochasticDepth):
        return module.keep_prob
    if type(module).__name__ == "DropPath":  # timm's; by its name, since importing timm takes seconds
        return 1 - float(getattr(module, "drop_prob", 0.0) or 0.0)
    return 1.0
