"""Random erasing, mixup and cutmix of a normalised batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def boxes(top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) bool, true inside each sample's box; sides of 0 give an empty one. Parameters (B,), in pixels."""
    rows, columns = (torch.arange(side, device=top.device) for side in size)
    top, left, height, width = (p.unsqueeze(1) for p in (top, left, height, width))
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    return (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)


def erase(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Zero a box in each image (Zhong et al. 2020); after normalisation, zero is the mean colour."""
    return erase_(images.clone(), top, left, height, width)


def erase_(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    return images.masked_fill_(boxes(top, left, height, width, (images.shape[2], images.shape[3])), 0)


def erase_sides(areas: Tensor, ratios: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Height and width of the first box that fits, of the tries of each sample; 0 and 0 if none does.

    Args:
        areas: (T, B) fractions of the image.
        ratios: (T, B) height / width.

    Returns:
        Two (B,), whole numbers of pixels, smaller than the image's sides.
    """
    pixels = areas * (size[0] * size[1])
    height, width = (pixels * ratios).sqrt_().round_(), (pixels / ratios).sqrt_().round_()
    fits = (height < size[0]) & (width < size[1])
    first = (fits * torch.arange(len(fits), 0, -1, device=fits.device).unsqueeze(1)).argmax(0, keepdim=True)
    some = fits.gather(0, first)
    return (height.gather(0, first) * some).squeeze(0), (width.gather(0, first) * some).squeeze(0)


def cut_box(kept: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of a box of area 1 - ``kept`` around (x, y), clipped to the image (Yun et al. 2019).

    Args:
        kept: (B,) in [0, 1].
        x, y: (B,) whole pixels.
    """
    half = (1 - kept).sqrt_().mul_(0.5)
    half_height, half_width = (half * size[0]).floor_(), (half * size[1]).floor_()
    top, left = (y - half_height).clamp_(min=0), (x - half_width).clamp_(min=0)
    height = (y + half_height).clamp_(max=size[0]) - top
    width = (x + half_width).clamp_(max=size[1]) - left
    return top, left, height, width


def mix(images: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """``weight`` times each image plus 1 - ``weight`` times its partner.

    Args:
        partner: (B,) int64 positions in the batch.
        weight: in [0, 1], broadcast against the images: (B, 1, 1, 1) for mixup, a map (B, 1, H, W) of ones and zeros
            for cutmix.
    """
    return (images * weight).add_(images.index_select(0, partner).mul_(1 - weight))


def mix_labels(labels: Tensor, partner: Tensor, weight: Tensor, num_classes: int) -> Tensor:
    """(B, K) float class weights: ``weight`` (B,) for the image's own class, the rest for its partner's."""
    one_hot = F.one_hot(labels, num_classes).float()
    weight = weight.unsqueeze(1)
    return (one_hot * weight).add_(one_hot.index_select(0, partner).mul_(1 - weight))
