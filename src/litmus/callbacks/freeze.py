"""Holds layers still, and lets them learn again when their time comes."""

from __future__ import annotations

import gc
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from litmus.networks.layers import FreezePlan, set_frozen_
from litmus.optim import begin_momentum_


class Freeze(L.Callback):
    """Applies a ``FreezePlan`` counted in epochs: frozen is without gradient *and* in evaluation mode.

    All parameters are in the optimizer from the start, which passes over those without a gradient: no step, no decay,
    no momentum, until they thaw. Stateless, so resuming is exact.

    Under DDP the gradients to be exchanged are counted when the module is wrapped, so it is wrapped anew when the
    frozen set changes: ``find_unused_parameters`` would search the graph at every step for what is known here.

    Args:
        plan: of the network of an ``ImageClassifier``.
    """

    def __init__(self, plan: FreezePlan):
        self.plan = plan
        self._frozen: frozenset[str] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not before: Lightning warns of modules in evaluation mode. A run resumed in an epoch has no other start.
        self._frozen = None
        self._hold(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hold(trainer, pl_module)

    def now(self, trainer: L.Trainer) -> int:
        return trainer.current_epoch

    def _hold(self, trainer: L.Trainer, pl_module: Any) -> None:
        frozen = self.plan.frozen_at(self.now(trainer))
        if frozen == self._frozen:
            return
        self._frozen = frozen
        set_frozen_(pl_module.network, frozen)
        pl_module.features = None  # those known belong to what was frozen before
        for optimizer in trainer.optimizers:
            begin_momentum_(optimizer)
        if isinstance(trainer.strategy, DDPStrategy):
            wrap_anew(trainer.strategy)


class FreezeBySteps(Freeze):
    """The same with a plan counted in optimizer steps."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._hold(trainer, pl_module)

    def now(self, trainer: L.Trainer) -> int:
        return trainer.global_step


def wrap_anew(strategy: DDPStrategy) -> None:
    """Let DDP count anew which parameters have gradients."""
    strategy.model = strategy.lightning_module
    gc.collect()  # the old wrapper's hooks on the gradients go with it
    strategy.configure_ddp()
