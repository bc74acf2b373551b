"""From an image file to what a network reads: written once, for evaluation, prediction and every export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from litmus.data.augment import normalise
from litmus.data.batch import DataInfo
from litmus.data.decode import decode

METADATA_KEY = "litmus.preprocessing"
"""Where a file of weights keeps it, as JSON."""


@dataclass(frozen=True)
class Preprocessing:
    """What the weights of a run were trained to read, and what their logits mean.

    Args:
        class_names: K names, in the order of the logits.
        channels: 1 (grey) or 3 (RGB).
        image_size: (H, W) in pixels.
        mean, std: per channel, of pixels in [0, 1].
    """

    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, info: DataInfo) -> Preprocessing:
        return cls(info.class_names, info.channels, info.image_size, info.mean, info.std)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """(C, H, W) uint8: upright, the short side resized to fit (bilinear), the centre cropped.

        Raises:
            litmus.data.decode.BadImage: a file that is not an image; the text is the reason.
        """
        return decode(path, self.image_size, self.channels)

    def normalise(self, images_BCHW: Tensor, *, channels_last: bool = False) -> Tensor:
        """(B, C, H, W) uint8 -> float32: (pixel / 255 - mean) / std."""
        return normalise(images_BCHW, self.mean, self.std, channels_last=channels_last)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        found = json.loads(text)
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        return cls(**fields)


class Normalised(nn.Module):
    """A network with ``Preprocessing.normalise`` in front: uint8 pixels in, logits out. What is exported.

    Shape:
        ``(B, C, H, W) uint8 -> (B, K) float32``
    """

    centre: Tensor
    factor: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("centre", torch.tensor([255 * m for m in mean]).view(-1, 1, 1))
        self.register_buffer("factor", torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.network((images_BCHW.float() - self.centre) * self.factor)
