"""Multilayer perceptrons: plain, and with a shortcut around every two layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn

from litmus.networks.blocks import Parts, chain, dropout_or_identity
from litmus.networks.checks import at_least, probability_to_keep
from litmus.networks.init import initialise_
from litmus.networks.registry import Network, network


class Layer(nn.Module):
    """A linear layer with its norm and activation, and a place in between for a shortcut.

    ``before`` ends where the shortcut is added: behind the norm, or in front of the activation where the norm comes
    after that.

    Shape:
        ``(B, width_in) -> (B, width)``
    """

    def __init__(self, width_in: int, width: int, parts: Parts, *, keep_prob: float):
        super().__init__()
        last = parts.norm_and_act(width)
        self.before = chain(
            dropout=nn.Dropout(p=1 - keep_prob) if keep_prob < 1 else None,
            linear=parts.linear(width_in, width),
            norm=last.pop("norm") if parts.norm_follows else None,
        )
        self.out = chain(**last)

    def forward(self, x_BF: Tensor, shortcut_BF: Tensor | None = None) -> Tensor:
        z_BF = self.before(x_BF)
        return self.out(z_BF if shortcut_BF is None else z_BF + shortcut_BF)


@network("mlp")
class MLP(Network):
    """Flattened image, ``depth - 1`` hidden layers, linear head. ``features`` is the last hidden layer, (B, width).

    784-256-10 is ``depth=2, width=256``; depth 1 is softmax regression on the pixels.

    Args:
        depth: weighted layers, the head included.
        width: units of every hidden layer, or a list with one number for each of the ``depth - 1``.
        activation, norm, norm_position, norm_momentum, norm_eps, norm_groups: see ``Parts``.
        init: see ``litmus.networks.init``; ``lsuv`` awaits a call of ``lsuv_``.
        init_std: standard deviation for ``init="normal"``.
        keep_prob: probability in (0, 1] that a hidden unit survives training, on its way into the next layer.
        input_keep_prob: the same for pixels.

    Raises:
        ValueError: an option out of range or unknown.
    """

    small: ClassVar = {"depth": 4, "width": 16}

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        depth: int = 3,
        width: int | Sequence[int] = 256,
        activation: str = "relu",
        norm: str = "none",
        norm_position: str = "before",
        norm_momentum: float = 0.1,
        norm_eps: float = 1e-5,
        norm_groups: int = 8,
        init: str = "he_normal",
        init_std: float = 0.01,
        keep_prob: float = 1.0,
        input_keep_prob: float = 1.0,
    ):
        super().__init__()
        at_least("in_channels", in_channels, 1)
        at_least("num_classes", num_classes, 1)
        at_least("depth", depth, 1)
        probability_to_keep("input_keep_prob", input_keep_prob)
        widths = [width] * (depth - 1) if isinstance(width, int) else list(width)
        if len(widths) != depth - 1:
            raise ValueError(
                f"width = {width!r} names {len(widths)} layers; depth = {depth} has {depth - 1} hidden ones"
            )
        for units in widths:
            at_least("width", units, 1)
        if depth == 1 and keep_prob < 1:
            raise ValueError(
                f"keep_prob = {keep_prob} has no hidden layer to drop from at depth 1; see input_keep_prob"
            )

        parts = Parts(
            activation=activation,
            norm=norm,
            norm_position=norm_position,
            norm_momentum=norm_momentum,
            norm_eps=norm_eps,
            norm_groups=norm_groups,
            keep_prob=keep_prob,
            spatial=False,
        )
        widths = [in_channels * prod(image_size), *widths]
        keep_probs = [input_keep_prob] + [keep_prob] * (depth - 1)  # of what each weighted layer reads
        self.layers = nn.Sequential(
            *(
                Layer(w_in, w, parts, keep_prob=keep)
                for w_in, w, keep in zip(widths, widths[1:], keep_probs, strict=False)
            )
        )
        self.dropout = dropout_or_identity(keep_probs[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        initialise_(self, init=init, activation=activation, std=init_std)

    def layer_groups(self, *, blocks: bool = False) -> dict[str, list[str]]:
        return self.grouped({f"layers.{idx}": [f"layers.{idx}"] for idx in range(len(self.layers))})

    def features(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW.flatten(1))


@network("residual_mlp")
class ResidualMLP(MLP):
    """``MLP`` of depth 2n + 2 with a shortcut around every two layers after the first: same parameters, n sums more.

    Options are those of ``MLP``, and

    Args:
        depth: 2n + 2: the input layer, n blocks of two, the head.
        width: one number, since a sum needs equal widths.
        zero_gamma: the last norm of every block begins at scale 0, so the block begins as its shortcut.

    Raises:
        ValueError: besides those of ``MLP``, ``zero_gamma`` where blocks do not end in a norm before the sum.
    """

    small: ClassVar = {"depth": 6, "width": 16}

    def __init__(self, *, depth: int = 8, width: int = 256, zero_gamma: bool = False, **mlp: Any):
        at_least("width", width, 1)
        at_least("depth", depth, 4)
        if depth % 2:
            raise ValueError(f"depth = {depth} is not 2n + 2; the nearest are {depth - 1} and {depth + 1}")
        if zero_gamma and (mlp.get("norm", "none") == "none" or mlp.get("norm_position") == "after"):
            raise ValueError("zero_gamma = True has no gamma to zero: it needs a norm, before the activation")
        self.zero_gamma = zero_gamma  # set first: the parent's constructor initialises, and ends with after_init_
        super().__init__(depth=depth, width=width, **mlp)

    def after_init_(self) -> None:
        if self.zero_gamma:
            for layer in self.layers[2::2]:
                nn.init.zeros_(layer.get_parameter("before.norm.weight"))

    def layer_groups(self, *, blocks: bool = False) -> dict[str, list[str]]:
        pairs = range(1, len(self.layers), 2)
        parts = {f"layers.{idx}-{idx + 1}": [f"layers.{idx}", f"layers.{idx + 1}"] for idx in pairs}
        return self.grouped({"layers.0": ["layers.0"], **parts})

    def features(self, x_BCHW: Tensor) -> Tensor:
        first, *rest = self.layers
        x_BF = first(x_BCHW.flatten(1))
        for lower, upper in zip(rest[::2], rest[1::2], strict=True):
            x_BF = upper(lower(x_BF), shortcut_BF=x_BF)
        return x_BF
