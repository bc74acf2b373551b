"""What a network is, and the table of networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from litmus.errors import nearest


class Network(nn.Module):
    """An image classifier in three parts: ``features``, ``dropout`` and ``head``.

    A subclass sets ``self.dropout`` and ``self.head`` and writes ``features``; its constructor takes keywords only,
    among them ``in_channels``, ``num_classes`` and ``image_size`` (H, W).

    Shape:
        forward ``(B, in_channels, H, W) -> (B, num_classes)`` logits; features ``-> (B, head.in_features)``
    """

    dropout: nn.Module
    head: nn.Linear

    gains: ClassVar[Mapping[str, str]] = {"head": "linear"}
    """Layers that ``initialise_`` gives another gain than the hidden activation's."""

    small: ClassVar[Mapping[str, Any]] = {}
    """Options that make a small instance: what the contract test builds."""

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the head reads: (B, F), pooled over space, before the head's dropout."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x_BCHW)))

    def layer_groups(self, *, blocks: bool = False) -> dict[str, list[str]]:
        """Group -> names of its parameters, from the input up, without the head: what is frozen, thawed and given a
        rate together. Stages, or with ``blocks`` single blocks; a network without either is grouped by its children.
        """
        children = [name for name, _ in self.named_children() if name != "head"]
        groups = {
            child: [f"{child}.{name}" for name, _ in self.get_submodule(child).named_parameters()] for child in children
        }
        return {child: names for child, names in groups.items() if names}

    def grouped(self, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """``layer_groups`` from modules: group -> names of its modules."""
        parameters = [name for name, _ in self.named_parameters()]
        return {
            group: [name for name in parameters if name.startswith(tuple(f"{module}." for module in modules))]
            for group, modules in groups.items()
        }


class UnreadableImageSize(ValueError):
    """Images of this size cannot be read, as a rule because they are too small for the network's strides.

    Args:
        name: the network or backbone.
        image_size: (H, W) asked for.
        smallest: side of the smallest square that can be read.
        why: what failed.
    """

    def __init__(self, name: str, image_size: tuple[int, int], smallest: int, why: str = ""):
        self.image_size, self.smallest = image_size, smallest
        height, width = image_size
        because = f" ({why})" if why else ""
        super().__init__(
            f"{name} cannot read images of {height}x{width}{because}; the smallest square that it can is "
            f"{smallest}x{smallest}"
        )


NETWORKS: dict[str, type[Network]] = {}

AnyNetwork = TypeVar("AnyNetwork", bound=type[Network])


def network(name: str) -> Callable[[AnyNetwork], AnyNetwork]:
    """Class decorator that registers a ``Network`` under ``name``; a name is given once."""

    def register(cls: AnyNetwork) -> AnyNetwork:
        if NETWORKS.setdefault(name, cls) is not cls:
            raise ValueError(f"network {name!r} is registered already, by {NETWORKS[name].__module__}")
        return cls

    return register


def build_network(
    name: str, *, in_channels: int = 3, num_classes: int = 10, image_size: tuple[int, int] = (32, 32), **options: Any
) -> Network:
    """The network called ``name``, freshly initialised from torch's global generator.

    Args:
        name: a key of ``NETWORKS``.
        in_channels: C of the images.
        num_classes: K, the number of logits.
        image_size: (H, W) of the images.
        **options: the network's own keywords; ``options_of(name)`` lists them with their defaults.

    Raises:
        ValueError: unknown name or option, or an option out of range; ``UnreadableImageSize``, which is one,
            if the images are too small.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; {nearest(name, NETWORKS)}")
    known = options_of(name)
    for option in options:
        if option not in known:
            raise ValueError(f"network {name!r} has no option {option!r}; {nearest(option, known)}")
    return NETWORKS[name](in_channels=in_channels, num_classes=num_classes, image_size=image_size, **options)


def options_of(name: str) -> dict[str, Any]:
    """Own options of a network with their defaults, those that its constructor hands on to its parent included."""
    options: dict[str, Any] = {}
    for cls in NETWORKS[name].__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        options = keywords | options
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return {key: default for key, default in options.items() if key not in ("in_channels", "num_classes", "image_size")}


def num_params(module: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
