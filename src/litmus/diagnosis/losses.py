"""Which images cost the most: mislabelled ones, and hard ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class TopLoss:
    """One image and what the network says of it."""

    position: int
    """In the arrays that were given."""
    label: int
    predicted: int
    loss: float
    """Cross-entropy in nats."""
    probability: float
    """Given to the label."""
    confidence: float
    """Probability given to ``predicted``."""


def top_losses(logits: ArrayLike, labels: ArrayLike, top: int = 32) -> list[TopLoss]:
    """The ``top`` images with the largest cross-entropy, the worst first; in float64, so that none saturates.

    A wrong label looks the same as a hard image: both are what the network finds least likely. These are the ones to
    look at, not ones to throw away.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)`` true classes.
        top: at most so many.

    Raises:
        ValueError: logits that are not finite, or labels that do not fit them.
    """
    scores, true = np.asarray(logits, dtype=np.float64), np.asarray(labels).reshape(-1)
    if scores.ndim != 2 or len(scores) != len(true):
        raise ValueError(f"logits of shape {scores.shape} for {len(true)} labels, wanted (N, K) and N")
    if not np.isfinite(scores).all():
        raise ValueError("logits hold values that are not finite")
    if len(true) and not (true.min() >= 0 and true.max() < scores.shape[1]):
        raise ValueError(f"labels must lie in [0, {scores.shape[1]}), found {true.min()}..{true.max()}")
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_chances = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_chances[np.arange(len(true)), true]
    said = scores.argmax(axis=1)
    return [
        TopLoss(
            position=int(at),
            label=int(true[at]),
            predicted=int(said[at]),
            loss=float(loss[at]),
            probability=float(np.exp(-loss[at])),
            confidence=float(np.exp(log_chances[at, said[at]])),
        )
        for at in np.argsort(-loss, kind="stable")[:top]
    ]
