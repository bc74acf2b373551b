"""The parts that networks are put together from: how a layer is made, normalised, activated and dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litmus.networks.checks import at_least, one_of, probability_to_keep

# None works in place, though it would save 4% of a training step (residual-20, CPU): an activation in place overwrites
# what a hook on the layer before it has kept, and torch refuses backward hooks there. Diagnosis lives on both.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01, torch's default
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
NORMS = ("none", "batch", "group")
NORM_POSITIONS = ("before", "after")
DROPOUTS = ("plain", "spatial", "stochastic_depth")


def chain(**layers: nn.Module | None) -> nn.Sequential:
    """Layers one after another, each found under its name in the state dict. Those that are None are left out."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How one network makes its layers, so that a block says only what is connected to what.

    Args:
        activation: a key of ``ACTIVATIONS``.
        norm: none, batch (Ioffe & Szegedy 2015) or group (Wu & He 2018).
        norm_position: ``before`` or ``after`` the activation.
        norm_momentum: weight of the *new* batch in the running statistics, as torch has it. Batch norm only.
        norm_eps: added to the variance.
        norm_groups: number of groups, a divisor of every width. Group norm only.
        keep_prob: probability in (0, 1] that a hidden activation (plain), a channel (spatial) or the last block
            (stochastic_depth) survives training.
        dropout: plain, spatial or stochastic_depth.
        spatial: True for feature maps (B, C, H, W), False for vectors (B, F).
        scalars: one learnt number in front of each activation and no bias in any convolution (Zhang et al. 2019).
            Without a norm only.
    """

    activation: str
    norm: str
    norm_position: str
    norm_momentum: float
    norm_eps: float
    norm_groups: int
    keep_prob: float
    dropout: str = "plain"
    spatial: bool = True
    scalars: bool = False

    def __post_init__(self) -> None:
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("norm", self.norm, NORMS)
        one_of("norm_position", self.norm_position, NORM_POSITIONS)
        one_of("dropout", self.dropout, DROPOUTS)
        probability_to_keep("keep_prob", self.keep_prob)
        at_least("norm_groups", self.norm_groups, 1)
        if not 0 <= self.norm_momentum <= 1:
            raise ValueError(f"norm_momentum = {self.norm_momentum!r} must lie in [0, 1]; it is the new batch's weight")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps = {self.norm_eps!r} must be above 0")

    @property
    def norm_follows(self) -> bool:
        """True if each weighted layer is normalised before anything else happens to its output."""
        return self.norm != "none" and self.norm_position == "before"

    def conv(self, channels_in: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        """Convolution that keeps H and W at stride 1 and halves them, rounded up, at stride 2."""
        # A norm subtracts the mean and adds its own shift: a bias in front of it would be learned twice.
        bias = not (self.norm_follows or self.scalars)
        return nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=bias)

    def linear(self, width_in: int, width: int) -> nn.Linear:
        return nn.Linear(width_in, width, bias=not self.norm_follows)

    def norm_and_act(self, channels: int, number: str = "") -> dict[str, nn.Module]:
        """``norm<number>`` and ``act<number>`` in their order; the activation alone where there is no norm."""
        act = {f"act{number}": ACTIVATIONS[self.activation]()}
        if self.norm == "none":
            return {f"shift_act{number}": Shift(), **act} if self.scalars else act
        norm = {f"norm{number}": self._norm(channels)}
        return norm | act if self.norm_position == "before" else act | norm

    def _norm(self, channels: int) -> nn.Module:
        if self.norm == "group":
            if channels % self.norm_groups:
                raise ValueError(f"norm_groups = {self.norm_groups} does not divide a layer of {channels} channels")
            return nn.GroupNorm(self.norm_groups, channels, eps=self.norm_eps)
        batch_norm = nn.BatchNorm2d if self.spatial else nn.BatchNorm1d
        return batch_norm(channels, eps=self.norm_eps, momentum=self.norm_momentum)

    def drop(self) -> nn.Module | None:
        """Dropout of activations or channels; None at ``keep_prob=1`` or where whole blocks are dropped."""
        if self.keep_prob == 1 or self.dropout == "stochastic_depth":
            return None
        return nn.Dropout2d(p=1 - self.keep_prob) if self.dropout == "spatial" else nn.Dropout(p=1 - self.keep_prob)

    def drop_block(self, position: float) -> StochasticDepth | None:
        """Dropout of the whole block at ``position`` = l / L in (0, 1]: survival 1 - l / L * (1 - keep_prob)."""
        if self.keep_prob == 1 or self.dropout != "stochastic_depth":
            return None
        return StochasticDepth(keep_prob=1 - position * (1 - self.keep_prob))


def dropout_or_identity(keep_prob: float) -> nn.Module:
    """``keep_prob=1`` is the identity and draws no random number."""
    return nn.Identity() if keep_prob == 1 else nn.Dropout(p=1 - keep_prob)  # torch counts the dropped, we the kept


class StochasticDepth(nn.Module):
    """Drop a block's branch for a sample, the shortcut stays (Huang et al. 2016).

    Differs from the paper as today's implementations do: every sample draws for itself, not the batch as one, and a
    branch that survives is divided by ``keep_prob`` in training, so that evaluation is the identity.

    Args:
        keep_prob: probability in (0, 1] that the branch survives.
    """

    def __init__(self, *, keep_prob: float):
        super().__init__()
        probability_to_keep("keep_prob", keep_prob)
        self.keep_prob = keep_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep_prob == 1:
            return x
        survives = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(self.keep_prob)
        return x * (survives / self.keep_prob)

    def extra_repr(self) -> str:
        return f"keep_prob={self.keep_prob:.4g}"


class Shift(nn.Module):
    """Adds one learnt number to everything; 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """Multiplies everything by one learnt number; 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class ZeroPadShortcut(nn.Module):
    """Every second row and column, new channels zero: no parameters (He et al. 2015, sec. 4.2, option A).

    Shape:
        ``(B, C, H, W) -> (B, C + new_channels, ceil(H / stride), ceil(W / stride))``
    """

    def __init__(self, new_channels: int, *, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # Pooling single pixels is subsampling, to the bit. The gradient of a strided slice is laid out channels first
        # whatever the network's layout, and mixed layouts slow the element-wise steps behind it thirtyfold.
        kept_BCHW = F.avg_pool2d(x_BCHW, kernel_size=1, stride=self.stride) if self.stride > 1 else x_BCHW
        return F.pad(kept_BCHW, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"
