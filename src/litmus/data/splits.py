"""Which image is in which split: indices from (labels, seed) and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litmus.data.hashing import hash64, permutation, uniform
from litmus.errors import refuse

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Positions of the images of each split in the set they are taken from.

    ``train`` is ordered so that each prefix of it is stratified: ``train[:n]`` for growing n are the
    nested training sets of a learning curve. The others ascend. ``val`` and ``test`` are empty when they
    are sets of their own.
    """

    train: Indices
    val: Indices
    test: Indices


def make_splits(
    labels: NDArray[Any], *, split_seed: int, val_fraction: float | None, test_fraction: float | None
) -> Splits:
    """Cut a test and a validation split out of one labelled set; the rest trains.

    Stratified, and one image of each class always stays in training, however few there are. Fractions
    are of the whole set; ``None`` where the split is a set of its own. The test split does not depend
    on ``val_fraction``.

    Raises:
        Refused: a split would be empty, or the two leave nothing to train on.
    """
    num, num_classes = len(labels), len(np.unique(labels))
    wanted = {"val": val_fraction, "test": test_fraction}
    sizes = {split: 0 if fraction is None else round(num * fraction) for split, fraction in wanted.items()}
    for split, fraction in wanted.items():
        if fraction is not None and sizes[split] == 0:
            raise refuse(f"data.{split}_fraction", f"leaves the {split} split empty: {num} images in all", fraction)
    if sum(sizes.values()) + num_classes > num:
        asked = ", ".join(f"{split}_fraction {fraction}" for split, fraction in wanted.items() if fraction is not None)
        says = (
            f"{asked} take {sum(sizes.values())} of {num} images; each of {num_classes} classes needs one to train on"
        )
        raise refuse("data.val_fraction", says, val_fraction)

    shuffled = permutation(num, "stay", split_seed)
    _, first_of_class = np.unique(labels[shuffled], return_index=True)
    cuttable = np.setdiff1d(shuffled, shuffled[first_of_class])
    taken: dict[str, Indices] = {}
    for split in ("test", "val"):
        order = stratified_order(labels[cuttable], split, split_seed)
        taken[split] = np.sort(cuttable[order[: sizes[split]]])
        cuttable = np.setdiff1d(cuttable, taken[split])
    left = np.setdiff1d(shuffled, np.concatenate(list(taken.values())))
    return Splits(train=left[stratified_order(labels[left], "train", split_seed)], val=taken["val"], test=taken["test"])


def part_of(labels: NDArray[Any], part: int, parts: int, seed: int) -> Indices:
    """Positions of one of ``parts`` disjoint, stratified sets of equal size, in an order whose prefixes are stratified.

    The images are dealt out class by class, so that parts differ by one image of a class at most. At most
    ``parts - 1`` images are in none.
    """
    by_class = np.lexsort((hash64("part", seed, np.arange(len(labels))), labels))
    own = by_class[part::parts][: len(labels) // parts]
    return own[stratified_order(labels[own], "part", seed, part)]


def noisy_labels(labels: Indices, positions: Indices, share: float, num_classes: int, seed: int) -> Indices:
    """Labels of which about ``share`` are replaced by another class, each of the others as likely.

    Decided by (``seed``, position) alone: the labels that a smaller share replaces are among those of a larger one, by
    the same classes, and other images change nothing.

    Args:
        labels: (n,) in [0, num_classes).
        positions: (n,) of their images, which address the draws.
        share: in [0, 1), the probability of each label to be replaced.
    """
    other = (hash64("noisy label", seed, positions) % np.uint64(num_classes - 1)).astype(np.int64)
    replaced = uniform("label noise", seed, positions) < share
    return np.where(replaced, (labels + 1 + other) % num_classes, labels)


def stratified_order(labels: NDArray[Any], *address: int | str) -> Indices:
    """An order in which every prefix holds each class in proportion, to within about one image.

    The r-th image of class c (in random order) comes at (r + u_c) / n_c; the offsets u_c of the classes
    spread evenly over (0, 1), so that small classes do not all round the same way. Prefixes are nested by
    construction, which largest-remainder quotas are not.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.lexsort((hash64(*address, np.arange(len(labels))), codes))
    rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[codes[by_class]]
    offset = np.empty(len(classes))
    offset[permutation(len(classes), *address, "classes")] = (np.arange(len(classes)) + 0.5) / max(len(classes), 1)
    place = (rank + offset[codes[by_class]]) / counts[codes[by_class]]
    return by_class[np.argsort(place, kind="stable")]
