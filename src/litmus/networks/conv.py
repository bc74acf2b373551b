"""Convolutional networks of depth 6n + 2 (He et al. 2015, sec. 4.2): plain, residual, highway.

All three are the same stack of blocks, and the blocks the same two convolutions. What differs is one line, the
``forward`` of the block: ``out(branch(x))``, ``out(branch(x) + shortcut(x))`` and a gated mix of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.networks.blocks import Parts, Scale, Shift, ZeroPadShortcut, chain, dropout_or_identity
from litmus.networks.checks import at_least, one_of, probability_to_keep
from litmus.networks.init import INITS, initialise_
from litmus.networks.registry import Network, UnreadableImageSize, network

NUM_STAGES = 3


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Args:
        channels_in: C of its input.
        channels: C of its output.
        stride: 2 in the first block of a later stage, which halves H and W; else 1.
        position: l / L, 1 for the last block.
        follows_stem: True for the network's first block.
    """

    channels_in: int
    channels: int
    stride: int
    position: float
    follows_stem: bool


class Block(nn.Module):
    """Two 3x3 convolutions; what becomes of their output is the subclass's ``forward``.

    ``branch`` ends where a shortcut is added; ``out`` is what comes after: the last activation, and the last norm where
    norms stand after activations.

    Shape:
        ``(B, channels_in, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))``
    """

    def __init__(self, place: Place, parts: Parts):
        super().__init__()
        last = parts.norm_and_act(place.channels, "2")
        self.branch = chain(
            conv1=parts.conv(place.channels_in, place.channels, stride=place.stride),
            **parts.norm_and_act(place.channels, "1"),
            dropout=parts.drop(),
            conv2=parts.conv(place.channels, place.channels),
            norm2=last.pop("norm2") if parts.norm_follows else None,
        )
        self.out = chain(**last)


class PlainBlock(Block):
    """The convolutions alone: everything has to pass through them."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.out(self.branch(x_BCHW))


class ResidualBlock(Block):
    """The convolutions, added to a shortcut. With option A the same parameters as ``PlainBlock``.

    Differs from the paper: dropout between the convolutions (Zagoruyko & Komodakis 2016) or of the whole branch
    (Huang et al. 2016), both absent at ``keep_prob=1``.

    Args:
        shortcut: what happens where the shape changes: ``A`` or ``B``, see ``make_shortcut``.
        zero_gamma: the branch's last norm begins at scale 0, so the block begins as its shortcut (Goyal et al. 2017).
        zero_branch: so does it here, without a norm, by the branch's last convolution.
    """

    gains: ClassVar = {"shortcut.conv": "linear"}

    def __init__(self, place: Place, parts: Parts, *, shortcut: str, zero_gamma: bool = False, zero_branch: bool):
        super().__init__(place, parts)
        self.shortcut = make_shortcut(place, parts, shortcut)
        if (drop_block := parts.drop_block(place.position)) is not None:
            self.branch.add_module("drop_block", drop_block)
        self.zero_gamma, self.zero_branch = zero_gamma, zero_branch

    def after_init_(self) -> None:
        if self.zero_gamma:
            nn.init.zeros_(self.get_parameter("branch.norm2.weight"))
        if self.zero_branch:
            nn.init.zeros_(self.get_parameter("branch.conv2.weight"))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.out(self.branch(x_BCHW) + self.shortcut(x_BCHW))


class FixupBlock(ResidualBlock):
    """A residual block that needs no norm, however many are stacked (Fixup, Zhang et al. 2019).

    At the start the first convolution of the branch is drawn as by He and divided by the root of the number of
    branches, the second is zero. A learnt scalar is added in front of both convolutions and of both activations, and
    another multiplies the branch at its end; no convolution has a bias of its own.

    Args:
        num_branches: of the network, L in the paper, whose L^(-1/(2m - 2)) for m = 2 convolutions is L^(-1/2).
    """

    def __init__(self, place: Place, parts: Parts, *, shortcut: str, num_branches: int):
        super().__init__(place, parts, shortcut=shortcut, zero_branch=True)
        named = dict(self.branch.named_children())
        drop_block = named.pop("drop_block", None)
        self.branch = chain(
            shift_conv1=Shift(),
            conv1=named.pop("conv1"),
            shift_act1=named.pop("shift_act1"),
            act1=named.pop("act1"),
            dropout=named.pop("dropout", None),
            shift_conv2=Shift(),
            conv2=named.pop("conv2"),
            scale=Scale(),
            drop_block=drop_block,
        )
        self.num_branches = num_branches

    @torch.no_grad()
    def after_init_(self) -> None:
        super().after_init_()
        self.get_parameter("branch.conv1.weight").div_(self.num_branches**0.5)


class PreactivationBlock(nn.Module):
    """Norm and activation before each convolution, nothing on the path of the sum (He et al. 2016, fig. 4e).

    Where the paths part behind a shared activation, as the paper has it, the shortcut carries the activated input:
    in the first block, which the stem has activated already, and into a projection. A shortcut without parameters
    carries the raw input.

    Args:
        shortcut: ``A`` or ``B``, see ``make_shortcut``; the projection is a bare convolution here.
        zero_branch: the branch's last convolution begins at zero.
    """

    gains: ClassVar = {"shortcut.conv": "linear"}

    def __init__(self, place: Place, parts: Parts, *, shortcut: str, zero_branch: bool):
        super().__init__()
        self.zero_branch = zero_branch
        self.enter = chain(**({} if place.follows_stem else parts.norm_and_act(place.channels_in, "1")))
        self.branch = chain(
            conv1=parts.conv(place.channels_in, place.channels, stride=place.stride),
            **parts.norm_and_act(place.channels, "2"),
            dropout=parts.drop(),
            conv2=parts.conv(place.channels, place.channels),
            drop_block=parts.drop_block(place.position),
        )
        self.shortcut = make_shortcut(place, parts, shortcut, normed=False)
        self.projects = isinstance(self.shortcut, nn.Sequential)

    def after_init_(self) -> None:
        if self.zero_branch:
            nn.init.zeros_(self.get_parameter("branch.conv2.weight"))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        activated = self.enter(x_BCHW)
        return self.branch(activated) + self.shortcut(activated if self.projects else x_BCHW)


class HighwayBlock(Block):
    """A gate T(x) in (0, 1) mixes the transformed and the carried: y = T H + (1 - T) x (Srivastava et al. 2015).

    H is the plain block. T is a 3x3 convolution and a sigmoid, one gate for each channel and place. Where the shape
    changes, the carried x goes through shortcut A. Stochastic depth drops the gate: y = x.

    Args:
        gate_bias: bias of T at the start; negative carries (-2: T is about 0.12).
    """

    gains: ClassVar = {"gate.conv": "sigmoid"}

    def __init__(self, place: Place, parts: Parts, *, gate_bias: float):
        super().__init__(place, parts)
        gate = nn.Conv2d(place.channels_in, place.channels, 3, stride=place.stride, padding=1)
        self.gate = chain(conv=gate, act=nn.Sigmoid(), drop_block=parts.drop_block(place.position))
        self.shortcut = make_shortcut(place, parts, "A")
        self.gate_bias = gate_bias

    def after_init_(self) -> None:
        nn.init.constant_(self.get_parameter("gate.conv.bias"), self.gate_bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        carried = self.shortcut(x_BCHW)
        return carried + self.gate(x_BCHW) * (self.out(self.branch(x_BCHW)) - carried)  # the same y, one product fewer


def make_shortcut(place: Place, parts: Parts, option: str, *, normed: bool = True) -> nn.Module:
    """The identity; where the shape changes, A: subsample and add zero channels, B: project by a 1x1 convolution."""
    if place.stride == 1 and place.channels_in == place.channels:
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(place.channels - place.channels_in, stride=place.stride)
    projection = parts.conv(place.channels_in, place.channels, kernel=1, stride=place.stride)
    return chain(
        shift=Shift() if parts.scalars else None,
        conv=projection,
        norm=parts.norm_and_act(place.channels).get("norm") if normed else None,
    )


class ConvNet(Network):
    """Stem, three stages of n blocks, global average pool, linear head: He et al. 2015, sec. 4.2, for any block.

    A stage halves H and W and doubles the channels of the one before. ``features`` is (B, 4 * width).

    Args:
        make_block: from a place and the parts to the block there.
        activate_end: norm and activation in front of the pool, for blocks that end in a sum.
        depth: weighted layers, 6n + 2: the stem, 2n in each of three stages, the head.
        width: channels of the stem and the first stage.
        activation, norm, norm_position, norm_momentum, norm_eps, norm_groups, keep_prob, dropout: see ``Parts``.
            Dropout stands between the two convolutions of a block: just before a batch norm it shifts the variance
            between training and evaluation (Li et al. 2018).
        init: see ``litmus.networks.init``; ``lsuv`` awaits a call of ``lsuv_``.
        init_std: standard deviation for ``init="normal"``.
        head_keep_prob: probability in (0, 1] that a feature survives dropout in front of the head.

    Raises:
        ValueError: an option out of range or unknown.
        UnreadableImageSize: H or W below 4, where the last stage would have less than a pixel.
    """

    inits: ClassVar[tuple[str, ...]] = INITS

    def __init__(
        self,
        make_block: Callable[[Place, Parts], nn.Module],
        activate_end: bool = False,
        *,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        depth: int = 20,
        width: int = 16,
        activation: str = "relu",
        norm: str = "batch",
        norm_position: str = "before",
        norm_momentum: float = 0.1,
        norm_eps: float = 1e-5,
        norm_groups: int = 8,
        init: str = "he_normal",
        init_std: float = 0.01,
        keep_prob: float = 1.0,
        dropout: str = "plain",
        head_keep_prob: float = 1.0,
    ):
        super().__init__()
        at_least("in_channels", in_channels, 1)
        at_least("num_classes", num_classes, 1)
        at_least("width", width, 1)
        at_least("depth", depth, 8)
        if depth % 6 != 2:
            below = depth - (depth - 2) % 6
            raise ValueError(f"depth = {depth} is not 6n + 2; the nearest are {max(8, below)} and {max(8, below) + 6}")
        probability_to_keep("head_keep_prob", head_keep_prob)
        one_of("init", init, self.inits)
        smallest = 2 ** (NUM_STAGES - 1)
        if min(image_size) < smallest:
            raise UnreadableImageSize("a network of three stages", image_size, smallest)

        parts = Parts(
            activation=activation,
            norm=norm,
            norm_position=norm_position,
            norm_momentum=norm_momentum,
            norm_eps=norm_eps,
            norm_groups=norm_groups,
            keep_prob=keep_prob,
            dropout=dropout,
            scalars=init == "fixup",
        )
        self.stem = chain(conv=parts.conv(in_channels, width), **parts.norm_and_act(width))
        self.stages = nn.Sequential()
        blocks_per_stage = (depth - 2) // (2 * NUM_STAGES)
        for stage in range(NUM_STAGES):
            blocks = nn.Sequential()
            for block in range(blocks_per_stage):
                enters = stage > 0 and block == 0
                place = Place(
                    channels_in=width * 2 ** (stage - enters),
                    channels=width * 2**stage,
                    stride=2 if enters else 1,
                    position=(stage * blocks_per_stage + block + 1) / (NUM_STAGES * blocks_per_stage),
                    follows_stem=stage == block == 0,
                )
                blocks.append(make_block(place, parts))
            self.stages.append(chain(blocks=blocks))
        channels = width * 2 ** (NUM_STAGES - 1)
        self.end = chain(**(parts.norm_and_act(channels) if activate_end else {}))
        if parts.scalars:
            self.end.add_module("shift_head", Shift())  # a number moves through the mean
        self.dropout = dropout_or_identity(head_keep_prob)
        self.head = nn.Linear(channels, num_classes)
        initialise_(self, init=init if init in INITS else "he_normal", activation=activation, std=init_std)

    def layer_groups(self, *, blocks: bool = False) -> dict[str, list[str]]:
        parts = {"stem": ["stem"]}
        for stage in range(NUM_STAGES):
            if blocks:
                inside = self.get_submodule(f"stages.{stage}.blocks").named_children()
                parts |= {name: [name] for name in (f"stages.{stage}.blocks.{block}" for block, _ in inside)}
            else:
                parts[f"stages.{stage}"] = [f"stages.{stage}"]
        last = list(parts)[-1]
        return self.grouped({**parts, last: [last, "end"]})

    def features(self, x_BCHW: Tensor) -> Tensor:
        maps_BCHW = self.end(self.stages(self.stem(x_BCHW)))
        # Not mean(): its gradient has no layout, and mixed layouts slow the steps behind it.
        return F.avg_pool2d(maps_BCHW, kernel_size=maps_BCHW.shape[2:]).flatten(1)


@network("plain")
class Plain(ConvNet):
    """No shortcuts: the control of every claim about them. Options are those of ``ConvNet``.

    Raises:
        ValueError: for ``dropout="stochastic_depth"`` too, which would cut the only path there is.
    """

    small: ClassVar = {"depth": 8, "width": 4}

    def __init__(self, **frame: Any):
        if frame.get("dropout") == "stochastic_depth":
            raise ValueError("dropout = 'stochastic_depth' would cut the only path through a plain network")
        super().__init__(PlainBlock, **frame)


@network("residual")
class Residual(ConvNet):
    """Shortcuts around every two convolutions. Options are those of ``ConvNet`` and

    Args:
        shortcut: ``A``, without parameters, or ``B``, projections where the shape changes.
        preactivation: norm and activation before each convolution (He et al. 2016, "v2").
        zero_gamma: every block begins as its shortcut; see ``ResidualBlock``.
        init: two more, which stand in for a norm. ``zero_branch``: as ``he_normal``, but the last convolution of each
            branch is zero, so every block begins as its shortcut. ``fixup`` (Zhang et al. 2019): that, the first
            convolution of each branch divided by the root of the number of branches, the head zero, and the scalars of
            ``FixupBlock`` with one more in front of the stem's activation and of the head. Left out of the paper: its
            scalars learn at a tenth of the rate (``optim.lr_factors: {"*.shift_*": 0.1, "*.scale": 0.1}``).

    Raises:
        ValueError: ``zero_gamma`` where branches do not end in a norm, ``zero_branch`` and ``fixup`` where there is
            one, ``fixup`` with ``preactivation``.
    """

    small: ClassVar = {"depth": 8, "width": 4}
    inits: ClassVar = (*INITS, "zero_branch", "fixup")

    def __init__(self, *, shortcut: str = "A", preactivation: bool = False, zero_gamma: bool = False, **frame: Any):
        init = frame.get("init", "he_normal")
        if init in ("zero_branch", "fixup") and frame.get("norm", "batch") != "none":
            raise ValueError(f"init = {init!r} stands in for a norm: it needs norm = 'none'")
        if init == "fixup" and preactivation:
            raise ValueError("init = 'fixup' is made for the original block: it needs preactivation = False")
        one_of("shortcut", shortcut, ("A", "B"))
        if preactivation and zero_gamma:
            raise ValueError("zero_gamma = True has no gamma to zero: a pre-activation branch ends in a convolution")
        if zero_gamma and (frame.get("norm") == "none" or frame.get("norm_position") == "after"):
            raise ValueError("zero_gamma = True has no gamma to zero: it needs a norm, before the activation")
        if preactivation:
            make = partial(PreactivationBlock, shortcut=shortcut, zero_branch=init == "zero_branch")
            super().__init__(make, True, **frame)
        elif init == "fixup":
            num_branches = (frame.get("depth", 20) - 2) // 2
            super().__init__(partial(FixupBlock, shortcut=shortcut, num_branches=num_branches), **frame)
        else:
            zero = {"zero_gamma": zero_gamma, "zero_branch": init == "zero_branch"}
            super().__init__(partial(ResidualBlock, shortcut=shortcut, **zero), **frame)
        if init == "fixup":
            nn.init.zeros_(self.head.weight)  # its bias is


@network("highway")
class Highway(ConvNet):
    """Gated shortcuts (Srivastava et al. 2015). Options are those of ``ConvNet`` and

    Args:
        gate_bias: bias of the gates at the start, -1 to -3 in the paper: the deeper, the more is carried.
    """

    small: ClassVar = {"depth": 8, "width": 4}

    def __init__(self, *, gate_bias: float = -2.0, **frame: Any):
        super().__init__(partial(HighwayBlock, gate_bias=gate_bias), **frame)
