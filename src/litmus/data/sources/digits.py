"""The 1,797 digits that ship with scikit-learn: 8x8 pixels, grey."""

from __future__ import annotations

import numpy as np
import torch

from litmus.data.images import ArrayImages, as_shape
from litmus.data.sources import Request, Source, source

# Over all 1,797 images, so that it does not move with the split.
MEAN, STD = (0.3053,), (0.3759,)


@source("digits")
def digits(request: Request) -> Source:
    """scikit-learn counts 0..16 dots in each cell; 16 becomes 255. There is no official test set."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = as_shape(
        images, image_size=request.image_size, channels=request.channels, above_gb=request.stream_above_gb
    )
    as_published = request.image_size in (None, (8, 8))
    return Source(
        class_names=tuple(str(name) for name in found.target_names),
        train=ArrayImages(images, torch.from_numpy(found.target)),
        mean=MEAN * images.shape[1] if as_published else None,
        std=STD * images.shape[1] if as_published else None,
        where="scikit-learn's load_digits",
    )
