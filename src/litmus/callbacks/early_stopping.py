"""The callback that ends a training when a criterion says so; the criteria are ``litmus.criteria``'s."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from litmus.criteria import Criterion
from litmus.errors import nearest


class EarlyStopping(L.Callback):
    """Ends the training when ``criterion`` says so; looks at every validation but the sanity check.

    ``reason`` then holds its sentence and ``stopped_epoch`` the epoch, counted from 0. Both and the criterion's state
    are in the checkpoint, so that a run which had stopped does not go on when it is resumed. Of several devices, one
    that stops stops all.
    """

    def __init__(self, criterion: Criterion, monitor: str = "val/loss"):
        self.criterion, self.monitor = criterion, monitor
        self.reason: str | None = None
        self.stopped_epoch: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ValueError(
                f"early stopping watches {self.monitor!r}, which nobody logs; {nearest(self.monitor, metrics)}"
            )
        train_loss = float(metrics["train/loss"]) if "train/loss" in metrics else None
        reason = self.criterion.update(train_loss, float(metrics[self.monitor]))
        if trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            trainer.should_stop = True
            self.reason = self.reason or reason or "another process stopped"
            self.stopped_epoch = trainer.current_epoch if self.stopped_epoch is None else self.stopped_epoch

    def state_dict(self) -> dict[str, Any]:
        return {
            "criterion": self.criterion.state_dict(),
            "reason": self.reason,
            "stopped_epoch": self.stopped_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.criterion.load_state_dict(state_dict["criterion"])
        self.reason, self.stopped_epoch = state_dict["reason"], state_dict["stopped_epoch"]
