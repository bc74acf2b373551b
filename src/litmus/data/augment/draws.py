"""Random numbers with an address, a batch at a time and on its device.

A draw is a function of (seed, epoch, sample index, draw number) and of nothing else, so neither batch size nor order,
worker count, rank or device changes it. Everything here is integer arithmetic or single correctly rounded float
operations, whose bits are settled by IEEE 754. Those of ``torch.sin`` or ``torch.exp`` are not: they may differ between
devices, versions, and the vectorised and scalar code that share one tensor.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from litmus.data.hashing import hash64

ERASE_TRIES = 10
"""Boxes that random erasing tries before it leaves an image whole, as in torchvision."""


class Draw(IntEnum):
    """The draw numbers. They are addresses: a new one goes at the end, an old one never moves."""

    HFLIP = 0
    VFLIP = 1
    CROP_TOP = 2
    CROP_LEFT = 3
    POLICY_OP = 4
    POLICY_BIN = 5
    POLICY_SIGN = 6
    SHIFT_X = 7
    SHIFT_Y = 8
    ROTATE = 9
    SCALE = 10
    SHEAR = 11
    BRIGHTNESS = 12
    CONTRAST = 13
    SATURATION = 14
    HUE = 15
    ERASE = 16
    ERASE_TOP = 17
    ERASE_LEFT = 18
    MIX = 19
    MIX_KIND = 20
    MIX_LAMBDA = 21
    CUT_X = 22
    CUT_Y = 23
    PARTNER = 24
    ERASE_AREA = 32  # and the next ERASE_TRIES - 1
    ERASE_RATIO = 48  # and the next ERASE_TRIES - 1


_SAMPLE_STEP = 0xD1342543DE82EF95 - 2**64  # odd 64-bit constants, as the signed integers torch has
_DRAW_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def stream_key(seed: int, epoch: int) -> int:
    """The signed 64-bit number where the draws of one epoch start counting."""
    key = int(hash64("augment", seed, epoch)[0])
    return key - 2**64 if key >= 2**63 else key


def hash_bits(key: int, idx: Tensor, draws: Tensor) -> Tensor:
    """64 bits for each draw of each sample: the finaliser of SplitMix64 (Steele, Lea & Flood 2014) over a counter.

    The lowest 33 bits lack the finaliser's last step; take bits from the top.

    Args:
        idx: (B,) int64.
        draws: (D,) int64, the draw numbers.

    Returns:
        (D, B) int64.
    """
    bits = idx * _SAMPLE_STEP
    bits = bits.add_(key) + (draws * _DRAW_STEP).unsqueeze(1)
    bits ^= (bits >> 30).bitwise_and_(2**34 - 1)  # >> keeps the sign in torch; the mask makes it a shift of plain bits
    bits *= _MIX_1
    bits ^= (bits >> 27).bitwise_and_(2**37 - 1)
    bits *= _MIX_2
    return bits


def uniforms(key: int, idx: Tensor, draws: Tensor) -> Tensor:
    """(D, B) float32 in [0, 1), on a grid of 2**-24; arguments as in ``hash_bits``."""
    return (hash_bits(key, idx, draws) >> 40).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)


def sin_cos(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of float32 angles within 1e-6, exactly 0 and 1 at 0 degrees.

    From the Taylor series of sin(pi x), |x| <= 1/2, and the half-angle rules, by correctly rounded steps only.
    """
    turns = degrees / 360
    turns = turns - turns.round()
    halves = torch.stack((turns, turns * 0.5))
    squares = halves * halves
    series = torch.full_like(squares, _SINE_SERIES[-1])
    for coefficient in _SINE_SERIES[-2::-1]:
        series.mul_(squares).add_(coefficient)
    half, quarter = series.mul_(halves).unbind(0)  # sin(angle / 2), sin(angle / 4)
    cos_half = 1 - quarter * quarter * 2
    return half * cos_half * 2, 1 - half * half * 2


_SINE_SERIES = [(-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(7)]


def look_up(quantiles: Tensor, u: Tensor) -> Tensor:
    """The quantile function at ``u`` in [0, 1), linear between the points of its table."""
    position = u * (len(quantiles) - 1)
    left = position.long()
    below = quantiles[left]
    return below + (position - left) * (quantiles[left + 1] - below)


def log_uniform_quantiles(low: float, high: float, cells: int = 4096) -> Tensor:
    """(cells + 1,) quantiles of exp(U), U uniform on [log low, log high]."""
    return torch.from_numpy(np.exp(np.linspace(math.log(low), math.log(high), cells + 1))).float()


def beta_quantiles(alpha: float, cells: int = 4096) -> Tensor:
    """(cells + 1,) quantiles of Beta(alpha, alpha), by integrating its density from 0 to 1/2 and mirroring it."""
    grid = np.linspace(0, 1, 2**16 + 1)
    if alpha < 1:  # x = t**(1/alpha) takes the pole at 0 out: x**(alpha - 1) dx = dt / alpha
        x = 0.5 * grid ** (1 / alpha)
        density = (1 - x) ** (alpha - 1)
    else:
        x = 0.5 * grid
        with np.errstate(divide="ignore"):
            density = np.exp((alpha - 1) * np.log(4 * x * (1 - x))) if alpha > 1 else np.ones_like(x)
    mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    lower = np.interp(np.linspace(0, 0.5, cells // 2 + 1), 0.5 * mass / mass[-1], x)
    return torch.from_numpy(np.concatenate((lower, 1 - lower[-2::-1]))).float()
