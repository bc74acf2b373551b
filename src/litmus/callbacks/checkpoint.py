"""``best.ckpt`` and ``last.ckpt``, which are what their names say."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from litmus.errors import nearest


class BestCheckpoint(Checkpoint):
    """Keeps ``folder/best.ckpt``: the state after the validation with the best value so far, the earliest among equals.

    A value that is not finite is never the best. ``best_model_path`` is empty until there is one, so that
    ``trainer.test(ckpt_path="best")`` works; ``best_value`` and ``best_epoch`` (from 0) say which one it is.

    Args:
        folder: made when the first checkpoint is written.
        monitor: name of a logged metric.
        mode: which way is better, ``min`` or ``max``.
    """

    def __init__(self, folder: str | os.PathLike[str], monitor: str, mode: Literal["min", "max"]):
        if mode not in ("min", "max"):
            raise ValueError(f"mode = {mode!r}: 'min' or 'max'")
        self.path = Path(folder) / "best.ckpt"
        self.monitor, self.mode = monitor, mode
        self.best_value: float | None = None
        self.best_epoch: int | None = None

    @property
    def best_model_path(self) -> str:
        return "" if self.best_value is None or not self.path.exists() else str(self.path)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.monitor not in trainer.callback_metrics:
            hint = nearest(self.monitor, trainer.callback_metrics)
            raise ValueError(f"the best checkpoint is chosen by {self.monitor!r}, which nobody logs; {hint}")
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.strategy.reduce_boolean_decision(is_better(value, self.best_value, self.mode)):
            self.best_value, self.best_epoch = value, trainer.current_epoch
            save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]


class LastCheckpoint(Checkpoint):
    """Keeps ``folder/last.ckpt``: the state after the last epoch, validated or not, whole or cut by ``max_steps``.

    A callback of its own, because Lightning's ``ModelCheckpoint(monitor=..., save_last=True)`` refreshes "last" only
    when there is a new best. Written after ``best.ckpt``, so that it knows of it.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(folder) / "last.ckpt"

    @property
    def last_model_path(self) -> str:
        return str(self.path) if self.path.exists() else ""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save(trainer, self.path)


def is_better(value: float, best: float | None, mode: Literal["min", "max"]) -> bool:
    """Strictly: equal values and values that are not finite are not better."""
    if not math.isfinite(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)


def save(trainer: L.Trainer, path: Path) -> None:
    """Write beside ``path``, then rename: a run that dies while writing leaves the previous checkpoint whole."""
    part = path.with_name(f"{path.name}.part")
    trainer.save_checkpoint(part, weights_only=False)
    if trainer.is_global_zero:
        part.replace(path)
    trainer.strategy.barrier("checkpoint renamed")
