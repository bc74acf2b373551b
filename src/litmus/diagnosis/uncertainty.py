"""How sure a network is of its classes, from one table of probabilities or from several of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Spread:
    """What T tables of probabilities of the same N images, K classes, agree and differ in."""

    mean: NDArray[np.float64]
    """(N, K): the average, which predicts."""
    predicted: NDArray[np.int64]
    """(N,) its most probable class."""
    std: NDArray[np.float64]
    """(N,) standard deviation over the tables (T - 1 in its denominator) of the predicted class's probability."""
    entropy: NDArray[np.float64]
    """(N,) of the average, in nats: all uncertainty there is."""
    mutual_information: NDArray[np.float64]
    """(N,) entropy of the average less the average entropy, in nats and >= 0: the part on which the tables differ
    (Houlsby et al. 2011, BALD), 0 when each table is unsure in the same way."""
    variation_ratio: NDArray[np.float64]
    """(N,) part of the tables, in [0, 1), that do not predict the class that most of them do (Freeman 1965)."""


def spread(tables: ArrayLike) -> Spread:
    """Mean and spread over T >= 2 tables.

    Args:
        tables: ``(T, N, K)`` probabilities, each row summing to 1.

    Raises:
        ValueError: fewer than two tables, another shape, or rows that are not probabilities.
    """
    passes = np.asarray(tables, dtype=np.float64)
    if passes.ndim != 3 or len(passes) < 2:
        raise ValueError(f"tables are (T, N, K) with T >= 2, got {passes.shape}")
    if not ((passes >= 0).all() and np.allclose(passes.sum(2), 1, atol=1e-6)):
        raise ValueError("tables hold probabilities: none below 0, rows that sum to 1")
    mean = passes.mean(0)
    predicted = mean.argmax(1)
    rows = np.arange(len(mean))
    votes = passes.argmax(2)
    most = np.array([np.bincount(column).max() for column in votes.T], dtype=np.int64)
    total = entropy(mean)
    return Spread(
        mean=mean,
        predicted=predicted,
        std=passes[:, rows, predicted].std(0, ddof=1),
        entropy=total,
        mutual_information=np.maximum(total - entropy(passes).mean(0), 0),  # below 0 by rounding alone
        variation_ratio=1 - most / len(passes),
    )


def entropy(probabilities: ArrayLike) -> NDArray[np.float64]:
    """-sum p log p over the last axis, in nats: from 0 to log K."""
    p = np.asarray(probabilities, dtype=np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return -(p * logs).sum(-1) + 0.0  # + 0.0: not -0
