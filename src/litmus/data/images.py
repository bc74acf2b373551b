"""A labelled set of uint8 images, in memory or behind a file, that gives a batch for a tensor of positions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from litmus.data.hashing import digest_of
from litmus.errors import refuse

Moments = tuple[tuple[float, ...], tuple[float, ...]]

_CHUNK_BYTES = 2**22
_GREY = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 of 2**16: ITU-R 601-2, as PIL's convert("L")


class ImageSet(Protocol):
    """N images of one shape with their labels.

    ``labels`` is (N,) int64, ``shape`` is (C, H, W). ``moments`` are the mean and deviation per channel of the
    chosen images, pixels in [0, 1].
    """

    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, idx: Tensor) -> Tensor: ...

    def moments(self, idx: Tensor) -> Moments: ...


class ArrayImages:
    """Images held in memory: (N, C, H, W) uint8."""

    def __init__(self, images: Tensor, labels: Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}, must be (N, C, H, W) uint8")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        if labels.is_floating_point() or labels.ndim != 1:
            raise ValueError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}, must be (N,) integers")
        self.images, self.labels = images, labels.long()

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        pixels = self.images[:, :1] if self.images.stride(1) == 0 else self.images  # a grey image shown as RGB
        return digest_of([str(self.shape), pixels.numpy(), self.labels.numpy()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: Tensor) -> Tensor:
        return self.images.index_select(0, idx)

    def moments(self, idx: Tensor) -> Moments:
        counts = torch.zeros(self.shape[0], 256, dtype=torch.int64)
        for chunk in idx.split(max(1, _CHUNK_BYTES // int(np.prod(self.shape)))):
            for channel, pixels in enumerate(self[chunk].unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
        value = torch.arange(256)
        sums = torch.stack([(counts * value).sum(1), (counts * value.square()).sum(1)])
        return moments_of(sums.numpy(), len(idx) * self.shape[1] * self.shape[2])


def moments_of(sums: np.ndarray, num_pixels: int) -> Moments:
    """Mean and deviation per channel in [0, 1] units from (2, C) exact sums of pixels and of their squares."""
    mean, mean_square = sums / num_pixels
    std = np.sqrt(np.maximum(mean_square - mean**2, 0))
    return tuple(float(m) / 255 for m in mean), tuple(float(s) / 255 for s in std)


def as_shape(images: Tensor, *, image_size: tuple[int, int] | None, channels: int | None, above_gb: float) -> Tensor:
    """Images in memory, brought to the wanted size and channels; unchanged, and not copied, where they fit.

    Resizes as ``decode`` does: the short side to fit, then a centre crop. Grey to RGB costs no memory.

    Raises:
        Refused: the resized images would take more than ``above_gb`` GB (of 1e9 bytes).
    """
    if channels is not None and channels != images.shape[1]:
        if channels == 3:
            images = images.expand(-1, 3, -1, -1)
        else:
            images = torch.cat([_grey(chunk) for chunk in _chunks(images)])
    if image_size is None or image_size == tuple(images.shape[2:]):
        return images
    grey_as_rgb = images.stride(1) == 0
    if grey_as_rgb:
        images = images[:, :1]
    size = (len(images), images.shape[1], *image_size)
    if (gigabytes := int(np.prod(size)) / 1e9) > above_gb:
        says = f"{size[0]} images of this size take {gigabytes:.1f} GB of memory; data.stream_above_gb is {above_gb}"
        raise refuse("data.image_size", says, list(image_size))
    resized = torch.empty(size, dtype=torch.uint8)
    start = 0
    for chunk in _chunks(images):
        resized[start : start + len(chunk)] = _resized(chunk, image_size)
        start += len(chunk)
    return resized.expand(-1, 3, -1, -1) if grey_as_rgb else resized


def cover(height: int, width: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """The size, of the same aspect, that just covers ``image_size``."""
    want_height, want_width = image_size
    if width * want_height >= height * want_width:
        return want_height, max(want_width, int(want_height * width / height))
    return max(want_height, int(want_width * height / width)), want_width


def _chunks(images: Tensor) -> Iterator[Tensor]:
    yield from images.split(max(1, _CHUNK_BYTES // int(np.prod(images.shape[1:]))))


def _grey(images: Tensor) -> Tensor:
    weighted = images.int() * torch.tensor(_GREY, dtype=torch.int32).view(1, 3, 1, 1)
    return ((weighted.sum(1, keepdim=True) + 2**15) >> 16).to(torch.uint8)


def _resized(images: Tensor, image_size: tuple[int, int]) -> Tensor:
    height, width = cover(images.shape[2], images.shape[3], image_size)
    images = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    top, left = round((height - image_size[0]) / 2), round((width - image_size[1]) / 2)
    return images[:, :, top : top + image_size[0], left : left + image_size[1]]
