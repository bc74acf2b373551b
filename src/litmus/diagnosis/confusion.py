"""Which class is taken for which, and which images show it best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Confusion:
    """One class taken for another."""

    label: int
    predicted: int
    count: int
    rate: float
    """Part of the images of class ``label``."""


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts, ``(K, K)``: rows are true classes, columns predicted ones.

    Raises:
        ValueError: if the two differ in length, or hold anything but integers in [0, K).
    """
    true, predicted = _classes("labels", labels, num_classes), _classes("predictions", predictions, num_classes)
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} labels for {len(predicted)} predictions")
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def per_class_err(matrix: ArrayLike) -> NDArray[np.float64]:
    """Error rate of each true class, ``(K,)``; NaN for a class without images."""
    counts = _square(matrix)
    total = counts.sum(axis=1)
    wrong = (total - counts.diagonal()).astype(float)
    return np.divide(wrong, total, out=np.full(len(counts), np.nan), where=total > 0)


def most_confused(matrix: ArrayLike, top: int = 10) -> list[Confusion]:
    """The ``top`` off-diagonal cells with the highest rate within their row, then the highest count."""
    counts = _square(matrix)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows, columns = np.nonzero(counts * ~np.eye(len(counts), dtype=bool))
    order = np.lexsort((columns, rows, -counts[rows, columns], -rates[rows, columns]))[:top]
    return [
        Confusion(int(row), int(column), int(counts[row, column]), float(rates[row, column]))
        for row, column in zip(rows[order], columns[order], strict=True)
    ]


def confused_images(
    labels: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, pair: Confusion
) -> NDArray[np.int64]:
    """Positions of the images that make up one confusion, the most confident first.

    Args:
        labels: ``(N,)`` true classes.
        predicted: ``(N,)`` predicted classes.
        confidence: ``(N,)`` probability of the predicted class.
        pair: which class taken for which.
    """
    true, said, sure = (np.asarray(values).reshape(-1) for values in (labels, predicted, confidence))
    found = np.flatnonzero((true == pair.label) & (said == pair.predicted))
    return found[np.argsort(-sure[found], kind="stable")].astype(np.int64)


def pick_predictions(
    labels: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, *, mistakes: int = 16, successes: int = 16
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the most confident mistakes, the worst first, and of typical successes.

    A success is typical when its confidence is the median of its class's. Classes take turns, the most frequent first.

    Args:
        labels: ``(N,)`` true classes.
        predicted: ``(N,)`` predicted classes.
        confidence: ``(N,)`` probability of the predicted class.
        mistakes: at most so many.
        successes: at most so many.
    """
    true, said, sure = (np.asarray(values).reshape(-1) for values in (labels, predicted, confidence))
    if not len(true) == len(said) == len(sure):
        raise ValueError(f"{len(true)} labels, {len(said)} predictions and {len(sure)} confidences")
    wrong = np.flatnonzero(true != said)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:mistakes]

    turns = []
    for label in np.unique(true):
        right = np.flatnonzero((true == label) & (said == label))
        right = right[np.argsort(sure[right], kind="stable")]
        from_the_middle = np.argsort(np.abs(np.arange(len(right)) - (len(right) - 1) // 2), kind="stable")
        turns += [(turn, -len(right), label, index) for turn, index in enumerate(right[from_the_middle[:successes]])]
    chosen = sorted(turns)[:successes]
    chosen.sort(key=lambda turn: (turn[2], turn[0]))
    return worst.astype(np.int64), np.array([index for *_, index in chosen], dtype=np.int64)


def _classes(name: str, values: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    array = np.asarray(values).reshape(-1)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, are {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() < num_classes):
        raise ValueError(f"{name} must lie in [0, {num_classes}), found {array.min()}..{array.max()}")
    return array.astype(np.int64)


def _square(matrix: ArrayLike) -> NDArray[np.int64]:
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"a confusion matrix is square and holds counts, got shape {counts.shape}")
    return counts.astype(np.int64)
