"""Colour and tone of a batch, each sample with its own parameter, by torchvision's definitions.

Images are float in [0, 1], or uint8 with torchvision's rounding (down, after each operation) where a function says so.
Trailing ``_``: works in place, float only. No operation reads across samples, and none is a fused multiply-add
(``addcmul``, ``lerp``, ``add(alpha=)``), which may round otherwise in vectorised than in scalar code: a sample's bits
do not depend on where in a batch it sits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, at torchvision's four digits


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Pixels times ``factor`` (B,), clamped. Float or uint8."""
    return _as(images, brightness_(_to_float(images), factor, _bound(images)))


def brightness_(images: Tensor, factor: Tensor, bound: float = 1.0) -> Tensor:
    return images.mul_(_per_sample(factor)).clamp_(0, bound)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the image's grey version: 0 gives that flat grey, 1 the image. Float or uint8."""
    return _as(images, contrast_(_to_float(images), factor, _bound(images)))


def contrast_(images: Tensor, factor: Tensor, bound: float = 1.0) -> Tensor:
    mean = _grey_mean(images, bound)
    factor = _per_sample(factor)
    return images.mul_(factor).add_((1 - factor) * mean).clamp_(0, bound)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's grey version; nothing happens to one channel. Float or uint8."""
    return _as(images, saturation_(_to_float(images), factor, _bound(images)))


def saturation_(images: Tensor, factor: Tensor, bound: float = 1.0) -> Tensor:
    if images.shape[1] == 1:
        return images
    factor = _per_sample(factor)
    grey = _grey_levels(images, bound).mul_(1 - factor)
    return images.mul_(factor).add_(grey).clamp_(0, bound)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue by ``turns`` (B,) of the HSV circle; nothing happens to one channel. Float only."""
    return hue_(images.clone(), hue_offsets(turns))


def hue_offsets(turns: Tensor) -> Tensor:
    """(B, 3, 1, 1) in [-3, 3]: from the places of red, green and blue on the circle to the change, sixths of a turn."""
    offsets = _per_sample(turns * 6) - torch.arange(0, 6, 2, device=turns.device).view(3, 1, 1)
    return offsets - (offsets / 6).round_() * 6


def hue_(images: Tensor, offsets: Tensor) -> Tensor:
    """HSV without its cases; hues in sixths of a turn from red.

    With pixels scaled so that the largest channel is 1 and the smallest 0, the hue is 1 - R + G + B, towards green if
    G > B, else towards blue. A channel is max - chroma * clamp(2 - a, 0, 1), where ``a`` is the distance around the
    circle between the changed hue and the channel's opposite (cyan for red): ||x| - 3| for a difference x, in [-6, 6],
    between the changed hue and the channel's own place.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    largest, smallest = torch.maximum(red, green), torch.minimum(red, green)
    torch.maximum(largest, blue, out=largest)
    torch.minimum(smallest, blue, out=smallest)
    chroma = largest - smallest
    hue = (green - red).add_(torch.sub(blue, smallest, out=smallest))
    spare = smallest
    hue.div_(torch.clamp(chroma, min=1e-12, out=spare)).add_(1)  # grey: 0 / 1e-12 + 1; its chroma of 0 hides the hue
    hue.copysign_(torch.sub(green, blue, out=spare))
    from_opposite = torch.add(hue.unsqueeze(1), offsets, out=images).abs_().sub_(3).abs_()
    # max - chroma * (2 - a), as (max - 2 * chroma) + chroma * a: two passes over planes for one over the batch
    floor = largest.sub_(torch.add(chroma, chroma, out=spare))
    return from_opposite.clamp_(1, 2).mul_(chroma.unsqueeze(1)).add_(floor.unsqueeze(1))


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a 3x3 smoothing (centre 5/13, neighbours 1/13); the border stays as it is. Float or uint8."""
    height, width = images.shape[-2:]
    if height <= 2 or width <= 2:
        return images.clone()
    pixels = _to_float(images)
    inner = pixels[:, :, 1:-1, 1:-1]
    across = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    smooth = (across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]).add_(inner * 4).div_(13)
    if not images.is_floating_point():
        smooth.round_()
    inner += smooth.sub_(inner).mul_(1 - _per_sample(factor))
    return _as(images, pixels.clamp_(0, _bound(images)))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (B,), int64 in [0, 8], of each pixel. uint8."""
    mask = 256 - (1 << (8 - bits))
    return images & mask.to(images.dtype).view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels at or above ``threshold`` (B,). Float or uint8."""
    inverted = 1 - images if images.is_floating_point() else images.bitwise_not()
    return torch.where(images >= _per_sample(threshold), inverted, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to the full range; a channel of one level stays. Float or uint8."""
    pixels = _to_float(images)
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = low == high
    step = (high - low).mul_(1 / _bound(images)).masked_fill_(flat, 1)
    return _as(images, pixels.sub_(low.masked_fill_(flat, 0)).div_(step).clamp_(0, _bound(images)))


def equalize(images: Tensor) -> Tensor:
    """Spread each channel's levels evenly by rank, as PIL does; a channel with too few levels stays. uint8."""
    batch, channels, height, width = images.shape
    flat = images.reshape(batch * channels, height * width)
    ranked = flat.sort(1).values
    levels = torch.arange(256, device=images.device).expand(len(flat), -1)
    below = torch.searchsorted(ranked, levels.to(images.dtype).contiguous())  # pixels darker than each level
    brightest = (height * width) - (ranked < ranked[:, -1:]).sum(1, keepdim=True)
    step = (height * width - brightest).div(255, rounding_mode="floor")
    table = (below + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step > 0, table, levels).to(images.dtype)
    return table.gather(1, flat.long()).view_as(images)


def _grey_levels(images: Tensor, bound: float) -> Tensor:
    """(B, 1, H, W); on the scale of uint8 rounded down, as torchvision does for colour images."""
    if images.shape[1] == 1:
        return images
    grey, part = images[:, :1] * _GREY[0], images[:, 1:2] * _GREY[1]
    grey.add_(part).add_(torch.mul(images[:, 2:], _GREY[2], out=part))
    return grey if bound == 1 else grey.floor_()


def _grey_mean(images: Tensor, bound: float) -> Tensor:
    """(B, 1, 1, 1). Rows are summed first: a sum over one axis takes the same order for every batch size."""
    exact = images if bound == 1 else _grey_levels(images, bound)  # rounding down comes before the mean
    mean = exact.sum(-1, keepdim=True).sum(-2, keepdim=True).div_(images.shape[-1] * images.shape[-2])
    return _grey_levels(mean, 1)


def _per_sample(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def _bound(images: Tensor) -> float:
    return 1.0 if images.is_floating_point() else 255.0


def _to_float(images: Tensor) -> Tensor:
    """A float copy, on the scale of the original."""
    return images.clone() if images.is_floating_point() else images.float()


def _as(images: Tensor, result: Tensor) -> Tensor:
    """``result`` in the type of ``images``; uint8 rounds down."""
    return result if images.is_floating_point() else result.to(images.dtype)
