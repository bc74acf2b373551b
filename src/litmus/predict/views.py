"""Test-time augmentation: a small, fixed set of views of each image, whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from litmus.config import RunConfig
from litmus.errors import Problem, nearest

KINDS = ("hflip", "vflip", "shift")


@dataclass(frozen=True)
class View:
    """Mirrored or not, then moved by whole pixels; what moves in is black, as in training."""

    hflip: bool = False
    vflip: bool = False
    down: int = 0
    right: int = 0

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        axes = [axis for axis, flips in ((-1, self.hflip), (-2, self.vflip)) if flips]
        images = images_BCHW.flip(axes) if axes else images_BCHW
        if not self.down and not self.right:
            return images
        height, width = images.shape[2:]
        edge = max(abs(self.down), abs(self.right))
        padded = F.pad(images, (edge, edge, edge, edge))
        top, left = edge - self.down, edge - self.right
        return padded[:, :, top : top + height, left : left + width]

    def __str__(self) -> str:
        moves = ((self.down, "down", "up"), (self.right, "right", "left"))
        words = [name for name in ("hflip", "vflip") if getattr(self, name)]
        words += [f"{abs(by)} {plus if by > 0 else minus}" for by, plus, minus in moves if by]
        return " ".join(words) or "as it is"


IDENTITY = (View(),)


def make_views(kinds: Sequence[str], shift: int) -> tuple[View, ...]:
    """Every flip with every shift, the untouched image first. ``shift``: pixels, up, down, left and right.

    ``("hflip", "shift")`` gives ten views, as the ten crops of Krizhevsky et al. 2012.
    """
    flips = [(False, False)]
    for kind in ("hflip", "vflip"):
        if kind in kinds:
            flips += [(kind == "hflip" or h, kind == "vflip" or v) for h, v in flips]
    moves = [(0, 0)]
    if "shift" in kinds:
        moves += [(-shift, 0), (shift, 0), (0, -shift), (0, shift)]
    return tuple(View(h, v, *move) for h, v in flips for move in moves)


def choose_views(words: str, config: RunConfig, image_size: tuple[int, int]) -> tuple[tuple[View, ...], list[Problem]]:
    """The views that ``--tta`` means, and what is wrong with it.

    Args:
        words: ``auto`` for those kinds that the run was trained with, or kinds of ``KINDS`` with commas between.
        config: what the run was trained with. Only it says which views keep the label: a mirrored 2 is no 2.
        image_size: (H, W).
    """
    augment, side = config.augment, min(image_size)
    shift = max(augment.pad_crop, int(augment.shift * side))
    kinds = [word.strip() for word in words.split(",")]
    if kinds == ["auto"]:
        kinds = [kind for kind, used in zip(KINDS, (augment.hflip, augment.vflip, shift), strict=True) if used]
        if not kinds:
            says = (
                "the run was trained without augment.hflip, vflip, pad_crop or a shift of a pixel: "
                "which views keep the class is not known; name them, of " + ", ".join(KINDS)
            )
            return IDENTITY, [Problem("--tta", says, words)]
    problems = [
        Problem("--tta", f"is 'auto', or with commas between: {', '.join(KINDS)}; {nearest(kind, KINDS)}", kind)
        for kind in kinds
        if kind not in KINDS
    ]
    # Half of the largest shift in training is the mean one; without any, 1 pixel in 32 (CIFAR's usual crop is 4 in 32).
    return make_views(kinds, max(1, shift // 2 if shift else side // 32)), problems
