"""A training counted in steps ends with a validation."""

from __future__ import annotations

from typing import Any

import lightning as L


class ValidateAtEnd(L.Callback):
    """Validates after the last of ``max_steps`` steps.

    Lightning ends there in the middle of an epoch without one, and the last weights would never be seen. Asking the
    trainer to stop, which it does at that step anyway, makes it validate first.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps > 0:
            trainer.should_stop = True
