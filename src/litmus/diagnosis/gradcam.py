"""Where in an image a network finds its class: Grad-CAM (Selvaraju et al. 2017). Needs torch, so import it by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoSpatialMaps(ValueError):
    """The class score does not come from maps over the image, so that there is no place to point at."""


@dataclass(frozen=True)
class HeatMaps:
    """Grad-CAM of B images.

    Args:
        maps_BHW: float32 in [0, 1] on the CPU, 1 at each image's strongest place; all 0 where nothing speaks for the
            class. Enlarged (bilinear) from ``grid``.
        grid: (h, w) of the maps they were read from: the true resolution.
        layer: dotted name of the module that gave those.
    """

    maps_BHW: Tensor
    grid: tuple[int, int]
    layer: str


def grad_cam(network: nn.Module, images_BCHW: Tensor, classes_B: Tensor) -> HeatMaps:
    """Grad-CAM of each image for its class, in evaluation mode.

    Read from the last module whose output is maps over the image and on which the class score still depends there:
    (B, C, h, w), (B, h, w, C), or tokens (B, N, C) of patches in rows, with any class tokens in front. The second
    condition skips the end of a vision transformer that classifies by its class token alone.

    A channel weighs the mean over space of the score's gradient; the map is the positive part of the weighted sum.

    The network's mode is left as it was. Parameters may be frozen; neither they nor their gradients are touched.

    Args:
        network: images to logits (B, K).
        images_BCHW: float, as the network reads them.
        classes_B: int64, the class asked about for each image.

    Raises:
        NoSpatialMaps: with the reason.
    """
    batch, image_size = len(images_BCHW), (images_BCHW.shape[2], images_BCHW.shape[3])
    found: list[tuple[str, Tensor]] = []
    token_counts: set[int] = set()

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor) or _maps(output, batch, image_size) is None:
                return
            if output.ndim == 3:
                token_counts.add(output.shape[1])
                if not any(isinstance(value, Tensor) and value.shape == output.shape for value in inputs):
                    return  # tokens widened inside a block; what keeps its shape is the stream
            elif output.shape[2] in token_counts:
                return  # (B, heads, N, N) or (B, heads, N, width): attention, whose rows are no rows of the image
            found.append((name, output))

        return hook

    modes = {module: module.training for module in network.modules()}
    hooks = [
        module.register_forward_hook(keep(name)) for name, module in network.named_modules() if module is not network
    ]
    try:
        network.eval()
        with torch.inference_mode(False), torch.enable_grad():
            # The input makes every activation part of a graph, whatever is frozen. Copies: the caller may be in
            # inference mode, whose tensors no graph takes.
            images = images_BCHW.detach().clone().requires_grad_()
            logits = network.forward(images)  # not compiled: hooks must run
            scores = logits.gather(1, classes_B.to(logits.device, copy=True)[:, None]).sum()
            for name, activation in reversed(found):
                if not activation.requires_grad:
                    continue
                (gradient,) = torch.autograd.grad(scores, activation, retain_graph=True, allow_unused=True)
                if gradient is None:
                    continue
                maps, slopes = (_maps(x.detach(), batch, image_size) for x in (activation, gradient))
                assert maps is not None
                assert slopes is not None
                if slopes.any():
                    return HeatMaps(_heat(maps, slopes, image_size), (maps.shape[2], maps.shape[3]), name)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    raise NoSpatialMaps(
        "no layer gives maps over the image of more than one place"
        if not found
        else "the class scores do not depend on any map over the image"
    )


def _heat(maps_BChw: Tensor, gradient_BChw: Tensor, image_size: tuple[int, int]) -> Tensor:
    weights = gradient_BChw.float().mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps_BChw.float()).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, size=image_size, mode="bilinear", align_corners=False)[:, 0]
    top = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(top > 0, heat / top.clamp_min(torch.finfo(heat.dtype).tiny), 0.0).cpu()


def _maps(output: Tensor, batch: int, image_size: tuple[int, int]) -> Tensor | None:
    """``output`` as (B, C, h, w) if it is maps of more than one place over an image of ``image_size``, else None."""
    if output.ndim not in (3, 4) or len(output) != batch or not output.is_floating_point():
        return None
    if output.ndim == 3:
        grid = _token_grid(output.shape[1], image_size)
        if grid is None:
            return None
        patches = output[:, output.shape[1] - grid[0] * grid[1] :]
        return patches.transpose(1, 2).unflatten(2, grid)
    if _covers((output.shape[2], output.shape[3]), image_size):
        return output
    return output.permute(0, 3, 1, 2) if _covers((output.shape[1], output.shape[2]), image_size) else None


def _covers(grid: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether an (h, w) has more than one place and the shape of the image, but for rounding."""
    (h, w), (height, width) = grid, image_size
    return h * w > 1 and h <= height and w <= width and abs(h * width - w * height) < max(height, width)


_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens


def _token_grid(num_tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of square patches that tile the image, of which there are ``num_tokens`` but for a few in front."""
    height, width = image_size
    for side in range(1, min(height, width) + 1):
        if height % side == width % side == 0:
            h, w = height // side, width // side
            if 0 <= num_tokens - h * w <= _MOST_PREFIX_TOKENS:
                return (h, w) if h * w > 1 else None
    return None
