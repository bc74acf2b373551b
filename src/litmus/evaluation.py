"""What a trained network says of every image of a split: each counted once, in evaluation mode, on clean images."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.classifier import count_errors


@dataclass(frozen=True)
class Evaluation:
    """Logits of N images and what follows from them.

    Shape:
        logits (N, K) float32 on the CPU; labels and idx (N,) int64, idx being positions in the data set.
    """

    logits: Tensor
    labels: Tensor
    idx: Tensor

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def num_errors(self) -> int:
        return int(count_errors(self.logits, self.labels))

    @property
    def err(self) -> float:
        return self.num_errors / self.num_images

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in float64."""
        return float(F.cross_entropy(self.logits.double(), self.labels))

    @property
    def predicted(self) -> Tensor:
        return self.logits.argmax(1)

    @property
    def probabilities(self) -> Tensor:
        return self.logits.double().softmax(1)


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Iterable[Any], *, device: torch.device, bf16: bool = False) -> Evaluation:
    """Run ``network`` over normalised batches of ``(images, labels, idx)`` and leave its mode as it was."""
    was_training = network.training
    network.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    autocast = torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
    dtype = next(network.parameters()).dtype
    try:
        with autocast:
            for images, labels, idx in batches:
                logits = network(images.to(device=device, dtype=dtype))
                parts.append((logits.float().cpu(), labels.cpu(), idx.cpu()))
    finally:
        network.train(was_training)
    return Evaluation(*(torch.cat(column) for column in zip(*parts, strict=True)))
