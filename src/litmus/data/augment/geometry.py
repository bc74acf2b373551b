"""Flips, crops and warps of a batch, each sample with its own parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from litmus.data.augment.draws import sin_cos


def flip_crop(
    images: Tensor,
    *,
    hflip: Tensor | None = None,
    vflip: Tensor | None = None,
    top: Tensor | None = None,
    left: Tensor | None = None,
    padding: int = 0,
) -> Tensor:
    """Mirror, then cut a window of the original size out of the zero-padded image. Pixels are moved, never changed.

    Args:
        images: (B, C, H, W), any type.
        hflip: (B,) bool, which samples to mirror left to right.
        vflip: (B,) bool, which samples to turn upside down.
        top: (B,) int64 in [0, 2 * padding], first row of the window.
        left: (B,) int64 in [0, 2 * padding], its first column; given together with ``top``.
    """
    batch, channels, height, width = images.shape
    views = images.unsqueeze(0)
    slot = torch.arange(batch, device=images.device)  # where a sample's version lies in the flattened views
    for flags, axis in ((hflip, -1), (vflip, -2)):
        if flags is not None:
            slot = slot + flags * (len(views) * batch)
            views = torch.cat((views, views.flip(axis)))
    if top is None or left is None:
        return views.flatten(0, 1).index_select(0, slot) if len(views) > 1 else images.clone()

    # One copy per sample: a window is a run of bytes that starts at its first pixel and, being as long as a padded
    # image less the rows and columns skipped at both ends, is viewed with the padded image's strides. The extra padded
    # row keeps the run of the last sample inside the memory.
    padded = F.pad(views.flatten(0, 1), (padding, padding, padding, padding + 1))
    rows, columns = height + 2 * padding + 1, width + 2 * padding
    image_size, run = channels * rows * columns, ((channels - 1) * rows + height) * columns
    runs = padded.as_strided((padded.numel() - run + 1, run), (1, 1))
    picked = runs.index_select(0, slot * image_size + top * columns + left)
    return picked.as_strided((batch, channels, height, width), (run, rows * columns, columns, 1))


def inverse_affine(
    *,
    angle: Tensor | None = None,
    shear: Tensor | None = None,
    scale: Tensor | None = None,
    translate: Tensor | None = None,
) -> Tensor:
    """The map from output to input coordinates, in pixels from the centre, of torchvision's ``affine``.

    Args:
        angle: (B,) degrees, clockwise.
        shear: (B,) degrees, parallel to the x axis.
        scale: (B,) positive.
        translate: (B, 2) pixels to the right and down.

    Returns:
        (B, 2, 3), the left two columns the inverse of rotation * scale * shear.
    """
    given = next(p for p in (angle, shear, scale, translate) if p is not None)
    zero, one = given.new_zeros(len(given)), given.new_ones(len(given))
    if angle is not None and shear is not None:
        (sin, sin_shear), (cos, cos_shear) = sin_cos(torch.stack((angle, shear)))
        tan = sin_shear / cos_shear
        entries = [cos - sin * tan, cos * tan + sin, -sin, cos]
    elif angle is not None:
        sin, cos = sin_cos(angle)
        entries = [cos, sin, -sin, cos]
    elif shear is not None:
        sin_shear, cos_shear = sin_cos(shear)
        entries = [one, sin_shear / cos_shear, zero, one]
    else:
        entries = [one, zero, zero, one]
    linear = torch.stack(entries, 1).view(-1, 2, 2)
    if scale is not None:
        linear = linear / scale.view(-1, 1, 1)
    if translate is None:
        return F.pad(linear, (0, 1))
    moved = linear * translate.unsqueeze(1)
    return torch.cat((linear, -(moved[..., :1] + moved[..., 1:])), 2)


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear resampling with zeros outside, as torchvision's ``affine`` with ``interpolation=BILINEAR``.

    Args:
        images: (B, C, H, W), float, or uint8 (rounded to the nearest level).
        matrix: (B, 2, 3) as ``inverse_affine`` returns it.
    """
    pixels = images if images.is_floating_point() else images.float()
    warped = resample(pixels, *grid_axes(matrix, images.shape[2], images.shape[3]))
    return warped if images.is_floating_point() else warped.round_().to(images.dtype)


def grid_axes(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What the column and what the row of an output pixel add to the place it is read from.

    Args:
        matrix: (B, 2, 3) as ``inverse_affine`` returns it.

    Returns:
        (B, 2, 1, W) and (B, 2, H, 1), (x, y) in units of half the image's sides.
    """
    matrix = matrix * torch.stack((matrix.new_full((), 2 / width), matrix.new_full((), 2 / height))).unsqueeze(1)
    x = torch.arange(width, device=matrix.device) - (width - 1) / 2
    y = torch.arange(height, device=matrix.device) - (height - 1) / 2
    across, down, fixed = matrix.unsqueeze(-1).unbind(2)
    return (across * x).unsqueeze(2), (down * y + fixed).unsqueeze(3)


def resample(images: Tensor, from_column: Tensor, from_row: Tensor) -> Tensor:
    """Float images read bilinearly at the sum of the two axes of ``grid_axes``, zero outside."""
    grid = (from_column + from_row).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def affine(
    images: Tensor,
    *,
    angle: Tensor | None = None,
    shear: Tensor | None = None,
    scale: Tensor | None = None,
    translate: Tensor | None = None,
) -> Tensor:
    """Shear, scale, rotate about the centre and shift, in one bilinear resampling with zeros outside.

    Equal to torchvision's ``affine`` with the same parameters, which ``inverse_affine`` describes.
    """
    return warp(images, inverse_affine(angle=angle, shear=shear, scale=scale, translate=translate))
