"""A trained network on images that are not as its evaluation sees them, and at the other end of its training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from litmus.sweep.look import Look

Kind = Literal["shift", "rotate", "scale", "shear", "brightness"]
KINDS: tuple[str, ...] = get_args(Kind)


def transformed(look: Look, *, split: str, transforms: dict[str, float], images: int, seed: int = 0) -> dict[str, Any]:
    """Error rates on the first ``images`` of a split as they are, ``clean``, and by each transform of ``changed``."""
    import torch

    data = look.data
    idx = data.indices(split)[:images]
    raw, labels = data.images(split)[idx], data.labels(split)[idx]
    network = look.trained.network
    rates = {}
    for kind, amount in {"clean": 0.0, **transforms}.items():
        pixels = raw if kind == "clean" else changed(raw, kind, amount, idx.numpy(), seed=seed)
        wrong = 0
        with torch.inference_mode():
            for at in torch.arange(len(idx)).split(data.eval_batch_size):
                logits = network(look.trained.preprocessing.normalise(pixels[at]))
                wrong += int((logits.argmax(1) != labels[at]).sum())
        rates[kind] = wrong / len(idx)
    return {"err": rates}


def changed(images: Tensor, kind: str, amount: float, idx: Any, *, seed: int = 0) -> Tensor:
    """Each image at the edge of what augmentation by ``amount`` draws from, to the one side or to the other.

    Args:
        images: (B, C, H, W) uint8.
        kind: of ``KINDS``.
        amount: ``shift``: part of the side, to the left, right, up or down; ``rotate`` and ``shear``: degrees;
            ``scale``: the factor, or one over it; ``brightness``: factor 1 + amount, or 1 - amount.
        idx: (B,) positions, which with ``seed`` decide the side that each image goes to.

    Raises:
        ValueError: another kind.
    """
    import torch

    from litmus.data.augment.geometry import affine
    from litmus.data.hashing import hash64

    if kind not in KINDS:
        raise ValueError(f"transform is {kind!r}, must be one of {', '.join(KINDS)}")
    bits = hash64("transformed", kind, seed, np.asarray(idx))
    side = torch.from_numpy((bits & np.uint64(1)).astype(np.float32) * 2 - 1)
    if kind == "brightness":
        factors = (1 + side * amount).clamp(min=0).view(-1, 1, 1, 1)
        return (images.float() * factors).round().clamp(0, 255).to(torch.uint8)
    if kind == "scale":
        return affine(images, scale=amount**side)
    if kind == "shift":
        height, width = images.shape[2:]
        along = torch.from_numpy(((bits >> np.uint64(1)) & np.uint64(1)).astype(np.float32))
        pixels = torch.stack((side * along * amount * width, side * (1 - along) * amount * height), 1)
        return affine(images, translate=pixels)
    return affine(images, **{"angle" if kind == "rotate" else "shear": side * amount})


def both_ends(look: Look, *, split: str = "test") -> dict[str, Any]:
    """Loss and error on a split with the weights of the best and of the last checkpoint: ``best``, ``last``."""
    from litmus.checkpoints import newest_whole, read

    network = copy.deepcopy(look.trained.network)
    found: dict[str, Any] = {}
    for which in ("best", "last"):
        saved = newest_whole(look.directory / "checkpoints", which)
        if saved is None:
            raise RuntimeError(f"{look.directory}: no whole {which} checkpoint")
        state = read(saved.path)
        prefix = "network."
        network.load_state_dict(
            {name.removeprefix(prefix): value for name, value in state["state_dict"].items() if name.startswith(prefix)}
        )
        seen = look.evaluate(split, network.eval())
        found[which] = {"loss": seen.loss, "err": seen.err, "step": int(state["global_step"])}
    return found
