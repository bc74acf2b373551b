"""A loss or a gradient that is no number stops the training before it reaches the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from litmus.checkpoints import saved
from litmus.errors import NonFinite
from litmus.optim import learning_rate

_SHOWN = 12


class FiniteGuard(L.Callback):
    """Raises ``NonFinite`` between the backward pass and the optimizer's step; weights, moments and average stay.

    Looks at the losses of all batches of the step and at the norms of the gradients, before they are clipped: one
    number read back a step. With ``16-mixed`` gradients overflow by design and the scaler leaves such a step out: only
    the losses count there. Under DDP the gradients are those of all processes, which therefore stop together.

    Args:
        folder: of the checkpoints, for the message.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._losses: list[Tensor] = []
        self._idx: list[Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        idx = getattr(batch, "idx", None)
        if idx is not None:
            self._idx.append(idx)

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        losses, idx, self._losses, self._idx = self._losses, self._idx, [], []
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parts = list(losses)
        if gradients and not scaled:
            parts += torch._foreach_norm(gradients)  # none is negative: what is not finite in one, no other cancels
        if not parts:
            return
        total = float(torch.stack([part.float() for part in parts]).sum())  # the one number read back
        if math.isfinite(total) or self._only_overflows(losses, [] if scaled else gradients):
            return
        raise self._non_finite(trainer, pl_module, optimizer, losses, idx)

    def _only_overflows(self, losses: list[Tensor], gradients: list[Tensor]) -> bool:
        """A norm squares its entries, and may be infinite when none of them is."""
        return all(bool(part.isfinite().all()) for part in (*losses, *gradients))

    def _non_finite(
        self, trainer: L.Trainer, pl_module: Any, optimizer: Optimizer, losses: list[Tensor], idx: list[Tensor]
    ) -> NonFinite:
        norms = {name: float(p.grad.float().norm()) for name, p in pl_module.named_parameters() if p.grad is not None}
        wrong = [
            name for name, p in pl_module.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        values = [float(loss) * trainer.accumulate_grad_batches for loss in losses]
        images = torch.cat(idx).tolist() if idx else []
        last = saved(self.folder, "last")[:1] if self.folder is not None else []
        facts = {
            "step": trainer.global_step + 1,
            "epoch": trainer.current_epoch + 1,
            "losses": [str(value) for value in values],
            "images": images,
            "lr": learning_rate(optimizer),
            "gradient_norms": {name: str(norm) for name, norm in norms.items()},
            "not_finite": wrong,
            "last_checkpoint": str(last[0].path) if last else None,
        }
        what = "the loss" if not all(map(math.isfinite, values)) else "the gradient"
        first = f"not finite in {len(wrong)} of {len(norms)} parameters, first {wrong[0]}" if wrong else "finite"
        shown = ", ".join(map(str, images[:_SHOWN])) + (f" and {len(images) - _SHOWN} more" if images[_SHOWN:] else "")
        says = [
            f"{what} of step {facts['step']} (epoch {facts['epoch']}) is not finite; the weights were not touched",
            f"  loss       {', '.join(f'{value:g}' for value in values)}",
            f"  gradient   {first}",
            f"  lr         {facts['lr']:g}",
            *([f"  images     {shown} of train"] if images else []),
            f"  last good  {f'{last[0].path.name}, step {last[0].step}' if last else 'none saved yet'}",
            "  try        a smaller optim.lr, train.grad_clip=1 or a schedule.warmup; litmus lr finds a rate",
        ]
        return NonFinite("\n".join(says), facts)
