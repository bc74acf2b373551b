"""The 1,797 digits that ship with scikit-learn: 8x8 pixels, grey."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from litmus.data.images import ArrayImages, as_shape
from litmus.data.sources import Request, Source, source

# Over all 1,797 images, so that it does not move with the split.
MEAN, STD = (0.3053,), (0.3759,)


@source("digits")
def digits(request: Request) -> Source:
    """scikit-learn counts 0..16 dots in each cell; 16 becomes 255. There is no official test set."""
    cells, labels = read_digits()
    images = torch.from_numpy(np.rint(cells * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = as_shape(
        images, image_size=request.image_size, channels=request.channels, above_gb=request.stream_above_gb
    )
    as_published = request.image_size in (None, (8, 8))
    return Source(
        class_names=tuple(str(name) for name in range(10)),
        train=ArrayImages(images, torch.from_numpy(labels)),
        mean=MEAN * images.shape[1] if as_published else None,
        std=STD * images.shape[1] if as_published else None,
        where="scikit-learn's load_digits",
    )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """What ``sklearn.datasets.load_digits`` reads, cells (N, 8, 8) of 0..16 and labels (N,), from the same file.

    Without importing scikit-learn, and pandas with it: that takes longer than to train on them, and each trial of a
    study, a process of its own, would pay for it.
    """
    found = find_spec("sklearn")
    file = Path(found.origin).parent / "datasets/data/digits.csv.gz" if found and found.origin else None
    if file is None or not file.is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images, digits.target
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.float64), table[:, -1]
