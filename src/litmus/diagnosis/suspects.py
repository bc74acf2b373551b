"""Labels that a network contradicts with confidence: where the set may be wrong (Northcutt et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from litmus.diagnosis.gaps import Interval, wilson
from litmus.diagnosis.readings import NO_SIGN, Reading

KNOWS = 0.75
"""Mean probability of the label below which a network knows too little to doubt one, or so many are wrong that the
training error tells."""

NOISE = 0.01
"""Share of labels that must be suspect, beyond chance, for the reading to speak."""

MEMORISED = 0.002
"""Training error at or below which a network is taken to have learnt its labels by heart."""


@dataclass(frozen=True)
class Suspect:
    """One image whose label the network contradicts."""

    position: int
    """In the arrays that were given."""
    label: int
    suggested: int
    """The most probable class among those whose threshold its probability reaches."""
    probability_of_label: float
    probability: float
    """Of ``suggested``."""


def label_suspects(probabilities: ArrayLike, labels: ArrayLike) -> list[Suspect]:
    """Images counted off the diagonal of the confident joint, those furthest from their label first.

    The threshold of a class is the mean probability that images *labelled* with it are given for it. An image is
    counted for the most probable of the classes whose threshold it reaches; where that is not its label, the label is
    suspect. A class with no image is not suggested.

    Confident learning asks for probabilities of images that were not trained on. A network that has memorised a wrong
    label gives it back and is not suspicious of anything: then look at validation images, which it was not trained on,
    or train on one part and look at the other.

    Args:
        probabilities: ``(N, K)``, rows summing to 1.
        labels: ``(N,)`` classes as they are in the set.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or labels outside [0, K).
    """
    chances, given = np.asarray(probabilities, dtype=np.float64), np.asarray(labels).reshape(-1)
    if chances.ndim != 2 or len(chances) != len(given):
        raise ValueError(f"probabilities of shape {chances.shape} for {len(given)} labels, wanted (N, K) and N")
    if not np.isfinite(chances).all():
        raise ValueError("probabilities hold values that are not finite")
    num_classes = chances.shape[1]
    if len(given) and not (given.min() >= 0 and given.max() < num_classes):
        raise ValueError(f"labels must lie in [0, {num_classes}), found {given.min()}..{given.max()}")
    counts = np.bincount(given, minlength=num_classes)
    of_label = chances[np.arange(len(given)), given]
    sums = np.bincount(given, weights=of_label, minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(chances >= thresholds, chances, -1.0)
    suggested = reached.argmax(axis=1)
    found = np.flatnonzero((reached.max(axis=1) >= 0) & (suggested != given))
    order = found[np.argsort(of_label[found] - chances[found, suggested[found]], kind="stable")]
    return [
        Suspect(int(at), int(given[at]), int(suggested[at]), float(of_label[at]), float(chances[at, suggested[at]]))
        for at in order
    ]


def read_label_noise(
    *,
    suspects: int,
    num_images: int,
    train_err: float,
    mean_probability: float,
    val_suspects: int | None = None,
    num_val: int | None = None,
) -> Reading:
    """``suspects``, ``memorised`` or no sign; the value is the share of suspect training images.

    It speaks where the interval of that share lies above ``NOISE`` and the network knows its images
    (``mean_probability`` at least ``KNOWS``). A suspect is a wrong label *or* a hard image: both are contradicted
    alike. The share is what Northcutt et al. call the off-diagonal of the confident joint, with Wilson's interval;
    that of validation images, which were not trained on, stands beside it.

    Args:
        suspects: found among ``num_images`` training images seen as validation sees them.
        train_err: error on those.
        mean_probability: that they give to their label.
        val_suspects: found among ``num_val`` validation images.
    """
    share = suspects / num_images
    beside = ""
    if val_suspects is not None and num_val:
        beside = (
            f"; of validation images, never trained on, {val_suspects:,} of {num_val:,}{_around(val_suspects, num_val)}"
        )
    if train_err <= MEMORISED:
        says = f"the training labels are known by heart (err {train_err:.4f}): a wrong one is not contradicted"
        return Reading("label_noise", "memorised", f"{says}{beside}", share)
    if mean_probability < KNOWS:
        says = f"the network knows too little to doubt a label: it gives it {mean_probability:.2f} on average"
        return Reading("label_noise", NO_SIGN, says, share)
    if not suspects:
        return Reading("label_noise", NO_SIGN, f"no training label is contradicted with confidence{beside}", 0.0)
    status = "suspects" if wilson(suspects, num_images).low > NOISE else NO_SIGN
    says = (
        f"{suspects:,} of {num_images:,} training labels are contradicted with confidence"
        f"{_around(suspects, num_images)}: wrong labels, or hard images"
    )
    return Reading("label_noise", status, f"{says}{beside}", share)


def _around(count: int, n: int) -> str:
    low, high = Interval(*wilson(count, n))
    return f" ({count / n:.1%}, 95% {low:.1%} to {high:.1%})"
