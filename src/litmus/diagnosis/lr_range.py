"""Read a learning rate off a range test: the loss while the rate grows step by step (Smith 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Suggestion:
    """What a range test says."""

    lr: float | None
    """Midway (on a log axis) from ``steepest`` to ``minimum``, at most half of ``minimum``; None if nothing fell."""
    steepest: float | None
    """Where the smoothed loss has its steepest descent per decade of rate."""
    minimum: float | None
    """Where the smoothed loss is lowest."""
    diverges_at: float | None
    """First rate above ``minimum`` at which half the descent is lost again, or the loss is not finite; None if none."""
    smooth: NDArray[np.float64]
    """Smoothed loss at each rate; NaN where the loss is not finite and after it."""
    note: str = ""
    """What to test instead, where the range does not settle the matter."""


def suggest_lr(lrs: ArrayLike, losses: ArrayLike) -> Suggestion:
    """Suggest a learning rate from the loss of each step of a range test.

    The loss is smoothed by a running median, against spikes, and a local line over the logarithm of the rate: a line
    does not lag as a running average does, which would move the answer to higher rates. Its slope is the descent.

    The usual readings err on one side: the steepest point too low, the more so the longer the test, because the loss
    also falls by the steps already taken; the minimum too high, because it is the edge. Hence the way between the two.

    Args:
        lrs: ``(S,)`` rates, positive and rising.
        losses: ``(S,)`` training loss of the step taken with each rate; may end in NaN or infinity.

    Raises:
        ValueError: on fewer than 10 steps, rates that do not rise, or lengths that differ.
    """
    rates, raw = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    if rates.ndim != 1 or rates.shape != raw.shape or len(rates) < 10:
        raise ValueError(f"a range test needs at least 10 rates with a loss each, got {rates.shape} and {raw.shape}")
    if not (rates[0] > 0 and (np.diff(rates) > 0).all()):
        raise ValueError(f"rates must be positive and rise, got {rates[0]:.3g} to {rates[-1]:.3g}")

    finite = len(raw) if np.isfinite(raw).all() else int(np.argmin(np.isfinite(raw)))
    smooth = np.full(len(raw), np.nan)
    broken = float(rates[finite]) if finite < len(raw) else None
    if finite < 10:
        return Suggestion(
            None, None, None, broken, smooth, f"the loss is not finite from {broken:.2g} on: test lower rates"
        )
    head = max(5, finite // 20)
    start = float(np.median(raw[:head]))
    level, slope, spread = _local_line(np.log10(rates[:finite]), _capped(_running_median(raw[:finite]), start))
    smooth[:finite] = level

    bottom = int(np.argmin(level))
    descent = float(level[:head].mean() - level[bottom])
    # Successive differences carry the noise and hardly any of the trend.
    noise = spread * float(np.median(np.abs(np.diff(raw[:finite])))) / (0.6745 * np.sqrt(2))
    if bottom == 0 or descent <= max(4 * noise, 1e-6 * abs(start)):
        return Suggestion(None, None, None, broken, smooth, "the loss never fell: test lower rates, or take more steps")
    after = np.flatnonzero(level[bottom:] > level[bottom] + descent / 2)
    diverges_at = float(rates[bottom + after[0]]) if len(after) else broken
    steepest = int(np.argmin(slope[: bottom + 1]))

    note = ""
    if diverges_at is None and bottom >= finite - head:
        note = "the loss still falls at the highest rate: test higher rates"
    elif steepest < (head + 1) // 2:
        note = "the loss falls fastest at the lowest rates: test lower ones"
    lr = float(min(np.sqrt(rates[steepest] * rates[bottom]), rates[bottom] / 2))
    return Suggestion(lr, float(rates[steepest]), float(rates[bottom]), diverges_at, smooth, note)


def _running_median(values: NDArray[np.float64], width: int = 5) -> NDArray[np.float64]:
    padded = np.pad(values, width // 2, mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def _capped(values: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """Losses at most a quarter of the descent above the start: divergence must not leak into its neighbours."""
    return np.minimum(values, start + max(start - float(values.min()), 0.0) / 4)


def _local_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray, NDArray, float]:
    """Level and slope of a line fitted around each x with Gaussian weights; the level's error per error of one y."""
    width = max((x[-1] - x[0]) / 30, 2.5 * float(np.median(np.diff(x))))
    offset = x[None, :] - x[:, None]
    weight = np.exp(-0.5 * (offset / width) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    first, second = (weight * offset).sum(axis=1), (weight * offset**2).sum(axis=1)
    mean, cross = weight @ y, (weight * offset) @ y
    slope = (cross - first * mean) / (second - first**2)
    level = mean - slope * first
    return level, slope, float(np.sqrt((weight**2).sum(axis=1).max()))
