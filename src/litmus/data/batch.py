"""What a loader hands out, and what is known of the data before any compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch, before or after augmentation and normalisation.

    Args:
        images: (B, C, H, W), uint8 as loaded, float once augmented or normalised.
        labels: (B,) int64, or (B, K) float class weights after mixup or cutmix.
        idx: (B,) int64, position in the original training set (validation and
            test images: in the set they were taken from). It addresses the
            randomness of augmentation and names an image in an error message.
    """

    images: Tensor
    labels: Tensor
    idx: Tensor


@dataclass(frozen=True)
class DataInfo:
    """The data as a run must remember it.

    Args:
        name: the source, ``cifar10``.
        image_size: (H, W) in pixels, after any resizing.
        num_train: training images in use, after ``num_train`` cut them.
        num_train_eval: training images that are also evaluated, seen as validation sees them.
        mean: per channel, pixels in [0, 1].
        std: per channel, pixels in [0, 1].
        digest: 32 hexadecimal digits over every pixel and label of every set, noisy labels included.
        split_digest: 32 hexadecimal digits over the indices of every split.
        source: where the images came from: a folder or a package.
    """

    name: str
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    num_train: int
    num_val: int
    num_test: int
    num_train_eval: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    split_digest: str
    source: str
