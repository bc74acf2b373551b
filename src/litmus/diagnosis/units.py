"""Units of a trained network that no longer take part. Needs torch, so import it by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FEWEST_IMAGES = 1_000
"""Probe images that a unit must be 0 on to be called dead."""

SATURATING: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0.05, 0.95), nn.Tanh: (-0.95, 0.95)}
"""Outside of these a unit's gradient is below 0.05 of sigmoid's largest 0.25, and below 0.1 of tanh's 1."""


@dataclass(frozen=True)
class LayerHealth:
    """One activation layer on the probe images."""

    name: str
    """Dotted name of the module; ``#2`` and so on at the second and later calls of one that is used again."""
    activation: str
    """``relu``, ``sigmoid`` or ``tanh``."""
    num_units: int
    """Channels of maps, else features."""
    dead: float
    """Share of units that are 0 on every image and at every place; 0 for sigmoid and tanh."""
    saturated: float
    """Share of outputs outside [0.05, 0.95] for sigmoid, [-0.95, 0.95] for tanh; 0 for ReLU."""


@torch.no_grad()
def unit_health(network: nn.Module, batches: Iterable[Tensor]) -> list[LayerHealth]:
    """Dead and saturated units of every ``nn.ReLU``, ``nn.Sigmoid`` and ``nn.Tanh`` module, in the order of calls.

    Units are channels of (B, C, H, W), features of (B, F) and of (B, N, F). An activation that is called as a function,
    not a module, is not seen. Statistics are summed over batches on the device. The network is left as it was: mode,
    hooks, buffers.

    Args:
        network: images to logits.
        batches: images as it reads them; ``FEWEST_IMAGES`` in all or more, or a rare unit looks dead.
    """
    sums: dict[str, _Sums] = {}
    calls: dict[str, int] = {}

    def watch(name: str, kind: type[nn.Module]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            key = name if calls[name] == 1 else f"{name}#{calls[name]}"
            sums.setdefault(key, _Sums(kind)).add(output)

        return hook

    was_training = [(module, module.training) for module in network.modules()]
    handles = [
        module.register_forward_hook(watch(name, kind))
        for name, module in network.named_modules()
        for kind in (nn.ReLU, *SATURATING)
        if type(module) is kind
    ]
    network.eval()
    try:
        for images in batches if handles else ():
            calls.clear()
            network(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in was_training:
            module.training = training
    return [one.health(name) for name, one in sums.items()]


class _Sums:
    """Of one layer, on its device: which units ever answered, and how many outputs were at the ends."""

    def __init__(self, kind: type[nn.Module]):
        self.kind = kind
        self.alive: Tensor | None = None
        self.ends: Tensor | int = 0
        self.outputs = 0

    def add(self, output: Tensor) -> None:
        if self.kind is nn.ReLU:
            units = output.movedim(1, -1) if output.ndim == 4 else output
            alive = (units > 0).flatten(0, -2).any(0)
            self.alive = alive if self.alive is None else self.alive | alive
        else:
            low, high = SATURATING[self.kind]
            self.ends = self.ends + ((output < low) | (output > high)).sum()
            self.alive = output.new_ones(output.shape[1 if output.ndim == 4 else -1], dtype=torch.bool)
        self.outputs += output.numel()

    def health(self, name: str) -> LayerHealth:
        assert self.alive is not None
        dead = float((~self.alive).float().mean()) if self.kind is nn.ReLU else 0.0
        return LayerHealth(name, self.kind.__name__.lower(), len(self.alive), dead, float(self.ends) / self.outputs)
