"""Whether a network is as sure as it is right: its confidence held against its accuracy, and two proper scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis.gaps import Interval, wilson

BINS = 15
"""Guo et al. 2017."""

_DRAWS = 100


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (``low``, ``high``]."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of the predicted class; NaN in an empty bin, like the two below."""
    accuracy: float
    interval: Interval
    """Wilson's 95% interval of the accuracy."""


@dataclass(frozen=True)
class Calibration:
    """Confidence, accuracy and scores of N images."""

    num_images: int
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    interval: Interval
    """Wilson's 95% interval of the accuracy."""
    bins: tuple[Bin, ...]
    ece: float
    """Expected calibration error: mean over the images of their bin's ``|accuracy - confidence|``."""
    ece_by_chance: float
    """What ``ece`` would be on average if every confidence were true."""
    mce: float
    """Largest ``|accuracy - confidence|`` of a bin; a bin of few images makes it large by chance."""
    brier: float
    """Mean over images of the sum over classes of ``(probability - truth)^2``, in [0, 2] (Brier 1950)."""
    nll: float
    """Mean ``-log`` of the label's probability, in nats. A probability that underflowed to 0 counts as 5e-324."""

    @property
    def tendency(self) -> Literal["over-confident", "under-confident", "undecided"]:
        """Decided when the mean confidence lies outside the interval of the accuracy."""
        if self.confidence > self.interval.high:
            return "over-confident"
        return "under-confident" if self.confidence < self.interval.low else "undecided"

    @property
    def sentence(self) -> str:
        """The tendency, and the numbers that it rests on."""
        if self.tendency == "undecided":
            return f"neither over- nor under-confident, as far as {self.num_images:,} images tell: {self._evidence}"
        return f"{self.tendency} by {abs(self.confidence - self.accuracy):.3f}: {self._evidence}"

    @property
    def _evidence(self) -> str:
        low, high = self.interval
        return f"mean confidence {self.confidence:.3f}, accuracy {self.accuracy:.3f} (95% {low:.3f} to {high:.3f})"


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> Calibration:
    """Reliability of the top class's probability in equal-width bins, open below and closed above (Guo et al. 2017).

    ``ece`` is biased upwards, the more so the fewer images a bin has: a gap is never negative, so that chance alone
    makes one in every bin, of a perfectly calibrated network too. ``ece_by_chance`` is that part, from 100 draws of
    answers that are right as often as the network believes (Vaicenavicius et al. 2019, "consistency resampling").
    It also depends on the number of bins: compare networks on the same images and bins only.

    Args:
        probabilities: ``(N, K)``, rows summing to 1.
        labels: ``(N,)`` true classes.
        bins: how many.

    Raises:
        ValueError: no images, rows that are not probabilities, or labels outside [0, K).
    """
    chances, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels).reshape(-1)
    _check(chances, true, bins)
    n, num_classes = chances.shape
    right = chances.argmax(axis=1) == true
    sure = chances.max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    where = np.searchsorted(edges[1:-1], sure)
    counts = np.bincount(where, minlength=bins)
    sums = np.bincount(where, weights=sure, minlength=bins)
    hits = np.bincount(where, weights=right, minlength=bins)

    generator = np.random.default_rng(0)
    drawn = (np.bincount(where, weights=generator.random(n) < sure, minlength=bins) for _ in range(_DRAWS))
    of_label = chances[np.arange(n), true]
    return Calibration(
        num_images=n,
        confidence=float(sure.mean()),
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), n),
        bins=tuple(
            _bin(float(low), float(high), int(count), float(total), int(hit))
            for low, high, count, total, hit in zip(edges, edges[1:], counts, sums, hits, strict=False)
        ),
        ece=float(np.abs(hits - sums).sum() / n),
        ece_by_chance=float(np.mean([np.abs(hit - sums).sum() / n for hit in drawn])),
        mce=float((np.abs(hits - sums)[counts > 0] / counts[counts > 0]).max()),
        brier=float(np.square(chances - np.eye(num_classes)[true]).sum(axis=1).mean()),
        nll=float(-np.log(np.maximum(of_label, np.finfo(np.float64).smallest_subnormal)).mean()),
    )


def _bin(low: float, high: float, count: int, total: float, hits: int) -> Bin:
    if not count:
        nan = float("nan")
        return Bin(low, high, 0, nan, nan, Interval(nan, nan))
    return Bin(low, high, count, total / count, hits / count, wilson(hits, count))


def _check(chances: NDArray[np.float64], true: NDArray, bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins = {bins}, must be at least 1")
    if chances.ndim != 2 or not len(chances) or len(chances) != len(true):
        raise ValueError(f"probabilities of shape {chances.shape} and {len(true)} labels, wanted (N, K) and N >= 1")
    if not ((chances >= 0).all() and np.allclose(chances.sum(axis=1), 1, atol=1e-4)):  # also refuses NaN
        raise ValueError("the rows are not probabilities: each must be at least 0 and all of a row sum to 1")
    if not (np.issubdtype(true.dtype, np.integer) and true.min() >= 0 and true.max() < chances.shape[1]):
        raise ValueError(f"labels must be integers in [0, {chances.shape[1]}), found {true.min()}..{true.max()}")
