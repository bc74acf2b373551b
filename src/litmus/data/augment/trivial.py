"""TrivialAugment, wide (Mueller & Hutter 2021): one operation a sample, at one of 31 strengths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from litmus.data.augment import colour
from litmus.data.augment.geometry import inverse_affine, warp

NUM_BINS = 31

_WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_PIXELWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, level: colour.adjust_brightness(images, 1 + level),
    "color": lambda images, level: colour.adjust_saturation(images, 1 + level),
    "contrast": lambda images, level: colour.adjust_contrast(images, 1 + level),
    "sharpness": lambda images, level: colour.adjust_sharpness(images, 1 + level),
    "posterize": lambda images, level: colour.posterize(images, level.long()),
    "solarize": lambda images, level: colour.solarize(images, 255 * level),
    "autocontrast": lambda images, level: colour.autocontrast(images),
    "equalize": lambda images, level: colour.equalize(images),
}
OPS = ("identity", *_WARPS, *_PIXELWISE)
"""The operations, in the order of their numbers."""

_STRONGEST = {
    "shear_x": 0.99,
    "shear_y": 0.99,
    "translate_x": 32.0,
    "translate_y": 32.0,
    "rotate": 135.0,
} | dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.99)


def levels() -> Tensor:
    """(ops, bins) float32 strengths: slope, pixels, degrees, factor - 1, bits or threshold in [0, 1]."""
    table = {op: torch.linspace(0, strongest, NUM_BINS) for op, strongest in _STRONGEST.items()}
    for op in ("translate_x", "translate_y"):
        table[op] = table[op].trunc()
    table["posterize"] = (8 - torch.arange(NUM_BINS) / ((NUM_BINS - 1) / 6)).round()
    table["solarize"] = torch.linspace(1, 0, NUM_BINS)
    return torch.stack([table.get(op, torch.zeros(NUM_BINS)) for op in OPS])


def signed() -> Tensor:
    """(ops,) bool, whether the strength's sign is drawn."""
    return torch.tensor([op in _STRONGEST for op in OPS])


def apply_ops(images: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """Apply to each image the operation numbered ``op`` at ``level``, equal to torchvision's on the same two.

    Warps are bilinear with zeros outside (torchvision's class defaults to the nearest pixel).

    Args:
        images: (B, 1 or 3, H, W) uint8.
        op: (B,) int64, positions in ``OPS``.
        level: (B,) float32 as ``levels`` has them, with their sign.
    """
    order = op.argsort(stable=True)
    counts = torch.bincount(op, minlength=len(OPS)).tolist()
    images, level, op = images.index_select(0, order), level.index_select(0, order), op.index_select(0, order)
    start, stop = counts[0], sum(counts[: 1 + len(_WARPS)])
    if stop > start:
        part = images[start:stop]
        part.copy_(warp(part, _warp_matrix(op[start:stop], level[start:stop], part.shape[2], part.shape[3])))
    start = stop
    for (_, operation), count in zip(_PIXELWISE.items(), counts[1 + len(_WARPS) :], strict=True):
        if count:
            part = images[start : start + count]
            part.copy_(operation(part, level[start : start + count]))
        start += count
    return images.index_select(0, order.argsort())


def _warp_matrix(op: Tensor, level: Tensor, height: int, width: int) -> Tensor:
    """(B, 2, 3), the inverse maps of the warps, about the centre; shears keep the first row or column in place."""
    by = {name: level * (op == OPS.index(name)) for name in _WARPS}
    matrix = inverse_affine(angle=-by["rotate"])  # torchvision's rotate turns counter-clockwise
    matrix[:, 0, 1] += by["shear_x"]
    matrix[:, 0, 2] = by["shear_x"] * (height / 2) - by["translate_x"]
    matrix[:, 1, 0] += by["shear_y"]
    matrix[:, 1, 2] = by["shear_y"] * (width / 2) - by["translate_y"]
    return matrix
