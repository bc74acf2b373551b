"""What the scale of the weights in front of a batch norm does, measured of a trained network in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from litmus.sweep.look import Look


def scale(look: Look, *, factor: float = 10.0, images: int = 256) -> dict[str, Any]:
    """``scale_of`` on training images, with the weights that the training ended with and its learning rate."""
    import torch

    from litmus.experiment import eval_batches

    batch = next(iter(eval_batches(look.data, "train_eval", torch.device("cpu"))))
    return scale_of(look.trained.network, batch.images[:images], batch.labels[:images], look.config.lr, factor=factor)


def scale_of(network: nn.Module, images: Tensor, labels: Tensor, lr: float, *, factor: float = 10.0) -> dict[str, Any]:
    """How little the scale of the body's weights matters, batch norm normalising by the batch.

    Args:
        network: left as it is.
        images: (B, C, H, W), normalised.
        labels: (B,) int64.
        lr: of one step of gradient descent on the body's weights, from where they are.
        factor: c, by which these weights are multiplied.

    Returns:
        ``cosines``: of W and dL/dW, layer by layer, in absolute value. ``output``: the largest change of a logit when
        all W become c W, in standard deviations of the logits. ``matched``: how far the logits after a step from c W
        at rate c^2 lr are from those after a step from W at lr; ``unmatched``: the same with lr itself; both as a part
        (root mean square) of what the step from W moves. ``norm``: of all these W together, and ``rate``:
        lr / norm^2, the effective rate (van Laarhoven 2017).
    """
    import torch

    network = copy.deepcopy(network).cpu().double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # and no dropout, which would draw
            module.train()
    images = images.double()
    body = body_weights(network)
    start = [weight.detach().clone() for weight in body]

    def at(values: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            for weight, value in zip(body, values, strict=True):
                weight.copy_(value)
        return network(images)

    def gradients(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        loss = torch.nn.functional.cross_entropy(at(values), labels)
        return torch.autograd.grad(loss, body)

    def stepped(values: Sequence[Tensor], rate: float) -> Tensor:
        found = gradients(values)
        return at([value - rate * gradient for value, gradient in zip(values, found, strict=True)]).detach()

    scaled = [factor * weight for weight in start]
    grads = gradients(start)
    before, larger = at(start).detach(), at(scaled).detach()
    after = stepped(start, lr)
    moved = rms(after - before)
    squares = sum(float(weight.square().sum()) for weight in start)
    return {
        "cosines": [_cosine(weight, gradient) for weight, gradient in zip(start, grads, strict=True)],
        "output": float((larger - before).abs().max() / before.std()),
        "matched": rms(stepped(scaled, factor**2 * lr) - after) / moved if moved else float("nan"),
        "unmatched": rms(stepped(scaled, lr) - after) / moved if moved else float("nan"),
        "norm": squares**0.5,
        "rate": lr / squares if squares else float("inf"),
    }


def body_weights(network: Any) -> list[torch.nn.Parameter]:
    """Weights of every layer but the head: in our networks each of them is followed by the norm, if there is one."""
    from litmus.optim import PENALISED, parameter_groups

    head = {id(parameter) for parameter in network.head.parameters()}
    groups = [group for group in parameter_groups(network) if group["name"] == PENALISED]
    return [weight for group in groups for weight in group["params"] if id(weight) not in head]


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _cosine(one: Tensor, other: Tensor) -> float:
    """In absolute value; 0 where one of them is 0."""
    norms = float(one.norm() * other.norm())
    return abs(float((one * other).sum())) / norms if norms else 0.0
