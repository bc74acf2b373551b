"""Generated images that can be learnt: for tests and benchmarks."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from litmus.data.hashing import permutation, uniform
from litmus.data.images import ArrayImages
from litmus.data.sources import Request, Source, source

_CHUNK = 2**19  # pixels drawn at once
_NOISE = 0.25  # half width, of a range of 1


@source("synthetic")
def synthetic(request: Request) -> Source:
    """A grating under a blob: the class is its direction, k/K of a half turn.

    Phase, wavelength, position, contrast and (with colour) tint differ from image to image and say nothing about
    the class, so that no single pixel does. Classes are as even as can be. All is a function of ``split_seed``:
    runs that differ in ``seed`` alone see the same images. 32x32 RGB unless asked otherwise.
    """
    num, classes = request.num_images, request.num_classes
    size, channels = request.image_size or (32, 32), request.channels or 3
    labels = permutation(num, "synthetic", request.split_seed) % classes
    images = np.empty((num, channels, *size), np.uint8)
    step = max(1, _CHUNK // (channels * size[0] * size[1]))
    for start in range(0, num, step):
        rows = np.arange(start, min(start + step, num))
        images[rows] = _gratings(rows, labels[rows], classes, channels, size, request.split_seed)
    return Source(
        class_names=tuple(f"{180 * k / classes:g} degrees" for k in range(classes)),
        train=ArrayImages(torch.from_numpy(images), torch.from_numpy(labels)),
        where="generated",
    )


def _gratings(
    rows: NDArray[np.int64], labels: NDArray[np.int64], classes: int, channels: int, size: tuple[int, int], seed: int
) -> NDArray[np.uint8]:
    def draw(what: str, low: float, high: float) -> NDArray[np.float32]:
        return (low + (high - low) * uniform("synthetic", seed, what, rows)).astype(np.float32)[:, None, None]

    height, width = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = (math.pi / classes * labels).astype(np.float32)[:, None, None]
    along = np.cos(angle) * x + np.sin(angle) * y
    wave = np.cos(2 * math.pi * (along * draw("waves", 1.3, 1.9) + draw("phase", 0, 1)))
    blob = np.exp(-((x - draw("x", -0.3, 0.3)) ** 2 + (y - draw("y", -0.3, 0.3)) ** 2) / 0.5)
    grey = 0.5 + 0.5 * draw("contrast", 0.4, 1) * wave * blob
    images = np.empty((len(rows), channels, height, width), np.uint8)
    pixel = rows[:, None, None] * (height * width) + np.arange(height * width).reshape(size)
    for channel in range(channels):
        noise = uniform("synthetic", seed, "noise", channel, pixel).astype(np.float32)
        tint = draw(f"tint{channel}", 0.6, 1) if channels > 1 else 1
        images[:, channel] = np.rint(np.clip(tint * grey + _NOISE * (2 * noise - 1), 0, 1) * 255)
    return images
