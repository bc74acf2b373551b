"""The layers of a network by name: its groups from the input up, which of them a pattern means, and holding them still.

Layers are named by their *parameters*, full state dict names. What is normalised or dropped inside them follows: a
module belongs to the frozen part when all of its parameters do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from litmus.errors import nearest
from litmus.networks.registry import Network

BODY = "body"
"""The word for every layer but the head."""

Layers = int | Sequence[str]


def layer_groups(network: Network, *, blocks: bool = False) -> dict[str, tuple[str, ...]]:
    """Group -> its parameters, from the input up, the head last; every parameter is in one group.

    Groups are the stages of the network (for a vision transformer its blocks), with ``blocks`` the single blocks.
    """
    groups = {name: tuple(parameters) for name, parameters in network.layer_groups(blocks=blocks).items()}
    return {**groups, "head": tuple(f"head.{name}" for name, _ in network.head.named_parameters())}


def match_layers(network: Network, layers: Layers) -> frozenset[str]:
    """Names of the parameters that ``layers`` means.

    Args:
        layers: k, for the stem and the first k blocks; or patterns, each ``body`` (all but the head) or a name of a
            module or a parameter, ``*`` and ``?`` standing for any letters: ``stem``, ``stages.0``, ``layer[12]``.
            A timm backbone's own names may leave out ``backbone.``.

    Raises:
        ValueError: a pattern that matches nothing, with the nearest name, or more blocks than there are.
    """
    if isinstance(layers, int):
        groups = list(layer_groups(network, blocks=True).values())[:-1]
        if not 0 <= layers < len(groups):
            raise ValueError(f"{layers}: the network has {len(groups) - 1} blocks above its stem")
        return frozenset(name for group in groups[: layers + 1] for name in group)
    parameters = [name for name, _ in network.named_parameters()]
    places = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    found: set[str] = set()
    for pattern in layers:
        if pattern == BODY:
            matched = {name for name in parameters if not name.startswith("head.")}
        else:
            hits = [name for name in (*places, *parameters) if _matches(name, pattern)]
            matched = {name for name in parameters for hit in hits if name == hit or name.startswith(f"{hit}.")}
        if not matched:
            known = [BODY, *(name.removeprefix("backbone.") for name in places if name != "backbone")]
            raise ValueError(f"{pattern!r} matches no layer; {nearest(pattern, known)}")
        found |= matched
    return frozenset(found)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix("backbone."), pattern)


def set_frozen_(network: nn.Module, frozen: Collection[str]) -> None:
    """Hold the named parameters still, and let every other learn; the network is in training.

    Frozen means no gradient *and* evaluation mode: batch norm on its running statistics, which stay, dropout off. A
    layer left in training mode would keep adapting to each batch.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    network.train()
    for module in frozen_modules(network, frozen):
        module.eval()


def frozen_modules(network: nn.Module, frozen: Collection[str]) -> list[nn.Module]:
    """The largest modules that have parameters, all of them frozen; what they contain is frozen with them."""
    found: list[nn.Module] = []

    def visit(module: nn.Module, prefix: str) -> None:
        names = [prefix + name for name, _ in module.named_parameters()]
        if names and all(name in frozen for name in names):
            found.append(module)
        elif any(name in frozen for name in names):
            for name, child in module.named_children():
                visit(child, f"{prefix}{name}.")

    visit(network, "")
    return found


def is_still(network: Network) -> bool:
    """Whether ``features`` is a fixed function now: nothing of the body learns, drops or keeps statistics."""
    if any(p.requires_grad for name, p in network.named_parameters() if not name.startswith("head.")):
        return False
    outside = {*network.head.modules(), *network.dropout.modules()}
    moving = (m for m in network.modules() if m.training and m not in outside and m is not network)
    return not any(_moves(module) for module in moving)


def _moves(module: nn.Module) -> bool:
    """In training mode it draws at random or keeps statistics."""
    drops = getattr(module, "p", 0) or getattr(module, "drop_prob", 0) or getattr(module, "keep_prob", 1) != 1
    return bool(drops) or getattr(module, "running_mean", None) is not None


@dataclass(frozen=True)
class Thaw:
    """One release: the parameters ``names`` learn from ``at`` on, an epoch or a step counted from 0."""

    at: int
    names: frozenset[str]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class FreezePlan:
    """Which parameters are held, and until when.

    Args:
        held: at the start.
        thaws: releases, the earliest first; what is in none is held to the end.
    """

    held: frozenset[str]
    thaws: tuple[Thaw, ...] = ()

    def frozen_at(self, at: int) -> frozenset[str]:
        released = [thaw.names for thaw in self.thaws if thaw.at <= at]
        return self.held.difference(*released)

    def thaws_at(self, name: str) -> int | None:
        """When a parameter begins to learn: 0 if it always does, None if it never does."""
        if name not in self.held:
            return 0
        return next((thaw.at for thaw in self.thaws if name in thaw.names), None)


def plan_freezing(
    network: Network, layers: Layers, *, until: int | None = None, thaw_every: int | None = None
) -> FreezePlan:
    """Hold ``layers`` until ``until``, or release one group after another from the head down.

    Args:
        layers: see ``match_layers``.
        until: the first epoch (or step) in which they learn; None holds them to the end.
        thaw_every: gradual unfreezing (Howard & Ruder 2018): the group next to the head is released at ``until``,
            the one below it so much later, and so on.

    Raises:
        ValueError: a pattern without a match, or no parameter left to train.
    """
    held = match_layers(network, layers)
    if all(name in held for name, _ in network.named_parameters()):
        raise ValueError("leaves nothing to train: all of the network's parameters are matched")
    if until is None:
        return FreezePlan(held)
    groups = {
        group: frozenset(names) & held for group, names in layer_groups(network).items() if held.intersection(names)
    }
    if thaw_every is None:
        return FreezePlan(held, (Thaw(until, held, tuple(groups)),))
    downwards = reversed(list(groups.items()))
    thaws = (Thaw(until + turn * thaw_every, names, (group,)) for turn, (group, names) in enumerate(downwards))
    return FreezePlan(held, tuple(thaws))


def lr_factors(
    network: Network, *, layer_decay: float = 1.0, by_pattern: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Parameter -> factor of the learning rate, for those whose factor is not 1 (discriminative rates).

    Args:
        layer_decay: d gives the head 1, the group below it d, the next d^2, ... (Howard & Ruder 2018 use 1/2.6).
        by_pattern: pattern -> factor, see ``match_layers``; multiplied in, and where two match the later one counts.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    depth_of = {name: depth for depth, names in enumerate(reversed(layer_groups(network).values())) for name in names}
    chosen: dict[str, float] = {}
    for pattern, factor in (by_pattern or {}).items():
        chosen |= dict.fromkeys(match_layers(network, [pattern]), factor)
    factors = {name: layer_decay**depth * chosen.get(name, 1.0) for name, depth in depth_of.items()}
    return {name: factor for name, factor in factors.items() if factor != 1}
