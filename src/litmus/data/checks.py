"""What is wrong with data, in numbers. ``network_problems`` needs the network's wishes: the run calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from litmus.data.batch import DataInfo
from litmus.data.decode import FileImages
from litmus.data.images import ImageSet
from litmus.data.sampler import last_batch_size
from litmus.errors import Problem, Refused, nearest, refuse


def check_labels(sets: Mapping[str, ImageSet | None], num_classes: int) -> None:
    """Labels are 0..K-1, and every class has training images.

    Raises:
        Refused: the range found in each set, and where the first wrong one is.
    """
    problems = []
    for split, images in sets.items():
        if images is None:
            continue
        labels = images.labels
        if len(labels) == 0:
            problems.append(Problem("data.name", f"the {split} set has no images"))
        elif int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            bad = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
            says = (
                f"{split} labels run from {int(labels.min())} to {int(labels.max())}, must be 0 to {num_classes - 1}: "
                f"{len(bad)} of {len(labels)} are outside, the first at index {int(bad[0])}"
            )
            problems.append(Problem("data.name", says))
        elif split == "train" and (absent := sorted(set(range(num_classes)) - set(labels.unique().tolist()))):
            says = f"{len(absent)} of {num_classes} classes have no training image: {', '.join(map(str, absent[:20]))}"
            problems.append(Problem("data.name", says))
    if problems:
        raise Refused(problems, source="data")


def keep_classes(
    sets: Mapping[str, ImageSet], class_names: Sequence[str], wanted: Sequence[str | int]
) -> tuple[str, ...]:
    """Renumber the labels: the k-th wanted class becomes k, images of the others -1; returns the wanted names.

    Raises:
        Refused: a class that the set does not have, or one named twice.
    """
    problems, numbers = [], []
    for one in wanted:
        number = class_names.index(one) if one in class_names else one
        if isinstance(number, str) or not 0 <= number < len(class_names):
            says = f"is no class of the set; {nearest(str(one), class_names)}, or a number below {len(class_names)}"
            problems.append(Problem("data.classes", says, one))
        elif number in numbers:
            problems.append(Problem("data.classes", "stands twice", one))
        else:
            numbers.append(number)
    if problems:
        raise Refused(problems, source="data")
    renumbered = torch.full((len(class_names),), -1)
    renumbered[numbers] = torch.arange(len(numbers))
    for images in sets.values():
        images.labels = renumbered[images.labels]
    if empty := [split for split, images in sets.items() if not (images.labels >= 0).any()]:
        raise refuse("data.classes", f"leave the {' and '.join(empty)} set without images", list(wanted))
    return tuple(class_names[number] for number in numbers)


def check_sizes(num: int, *, num_train: int | None, batch_size: int, drop_last: bool) -> None:
    """There are ``num_train`` images, and at least one batch of them.

    Raises:
        Refused: with the figures.
    """
    if num_train is not None and num_train > num:
        raise refuse("data.num_train", f"the training split has {num} images", num_train)
    used = num if num_train is None else num_train
    if last_batch_size(used, batch_size, drop_last) == 0:
        says = f"drop_last leaves no batch at all of {used} training images: lower it, or set data.drop_last to false"
        raise refuse("data.batch_size", says, batch_size)


def check_moments(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """One mean and one positive deviation a channel.

    Raises:
        Refused: another number of values, or a deviation of 0.
    """
    problems = []
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != channels:
            problems.append(Problem(key, f"needs one value for each of {channels} channels", list(values)))
    if min(std) <= 0:
        problems.append(Problem("data.std", "must be > 0 (a computed 0 means that all pixels are equal)", list(std)))
    if problems:
        raise Refused(problems, source="data")


def check_unique(sets: Mapping[str, ImageSet], indices: Mapping[str, Tensor]) -> None:
    """No image of a folder is in two of train, val and test, whatever its file is called.

    Images count as the same when their decoded (resized, cropped) pixels are.

    Raises:
        Refused: how many images two splits share, and which.
    """
    problems = []
    for one, other in combinations(("train", "val", "test"), 2):
        a, b = sets[one], sets[other]
        if not isinstance(a, FileImages) or not isinstance(b, FileImages):
            continue
        pairs = _shared(a, indices[one].numpy(), b, indices[other].numpy())
        if pairs:
            shown = "; ".join(f"{left} = {right}" for left, right in pairs[:10])
            more = f"; and {len(pairs) - 10} more" if len(pairs) > 10 else ""
            count = f"{len(pairs)} image{'s' * (len(pairs) > 1)}"
            says = f"{one} and {other} share {count}, remove one of each pair: {shown}{more}"
            problems.append(Problem(b.files.key, says))
    if problems:
        raise Refused(problems, source="data")


def _shared(a: FileImages, a_idx: np.ndarray, b: FileImages, b_idx: np.ndarray) -> list[tuple[str, str]]:
    place = {a.digests[k].tobytes(): k for k in a_idx}
    pairs = ((place.get(b.digests[k].tobytes()), k) for k in b_idx)
    same = a.files.base == b.files.base  # then the names below it are enough

    def path(images: FileImages, position: int) -> str:
        name = images.files.names[position]
        return name if same else str(images.files.base / name)

    return [(path(a, i), path(b, k)) for i, k in pairs if i is not None]


def network_problems(
    info: DataInfo,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    smallest: int | None = None,
    batch_norm: bool = False,
    batch_size: int = 128,
    drop_last: bool = False,
    world_size: int = 1,
) -> list[Problem]:
    """What keeps a network from being trained on the data; empty when nothing does.

    Args:
        num_classes: outputs of the network.
        channels: the network's input takes.
        smallest: the least height and width its stem and strides can reduce.
        batch_norm: it normalises by batch statistics, which a batch of one image does not have.
        batch_size: images of a batch over all devices.
        world_size: devices that share each batch, and the images of each split that is evaluated.
    """
    found = []
    if num_classes is not None and num_classes != info.num_classes:
        says = f"{info.name} has labels 0 to {info.num_classes - 1}: {info.num_classes} classes"
        found.append(Problem("model.num_classes", says, num_classes))
    if channels is not None and channels != info.channels:
        says = f"{info.name} has {info.channels}, the network takes {channels}: set data.channels to {channels}"
        found.append(Problem("data.channels", says, info.channels))
    if smallest is not None and min(info.image_size) < smallest:
        height, width = info.image_size
        says = f"images are {height}x{width}, the network needs {smallest}x{smallest} or more: set data.image_size"
        found.append(Problem("data.image_size", says))
    if world_size > 1:
        return found + _share_problems(info, batch_norm, batch_size, drop_last, world_size)
    if batch_norm and last_batch_size(info.num_train, batch_size, drop_last) == 1:
        says = (
            f"{info.num_train} training images leave a last batch of 1, on which batch norm fails: "
            "change it or set data.drop_last"
        )
        found.append(Problem("data.batch_size", says, batch_size))
    return found


def _share_problems(
    info: DataInfo, batch_norm: bool, batch_size: int, drop_last: bool, world_size: int
) -> list[Problem]:
    """Where a device would have no image of a batch or split, or a single one for its batch norm."""
    found, last = [], last_batch_size(info.num_train, batch_size, drop_last)
    least = 2 if batch_norm else 1
    for what, images in (("a batch", batch_size), ("the last batch of an epoch", last)):
        if images and images // world_size < least:
            has = f"{images} image{'s' * (images != 1)} for {world_size} devices"
            needs = "batch norm needs 2 on each" if batch_norm else "each needs one"
            found.append(
                Problem("data.batch_size", f"{what} has {has}, {needs}: change it or set data.drop_last", batch_size)
            )
            break
    for key, num in (("val_fraction", info.num_val), ("train_eval_size", info.num_train_eval)):
        if num < world_size:
            found.append(Problem(f"data.{key}", f"leaves {num} images for {world_size} devices to evaluate"))
    return found
