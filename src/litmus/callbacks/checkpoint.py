"""``best.ckpt`` and ``last.ckpt``, which are what their names say."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from litmus.errors import nearest


class BestCheckpoint(Checkpoint):
    """Keeps ``folder/best.ckpt``: the state after the validation with the best value so far.

    Among equal values the lower ``val/loss`` is the better, and among these the earliest: error rates of a small
    validation set are equal as often as not. A value that is not finite is never the best. ``best_model_path`` is empty
    until there is one, so that ``trainer.test(ckpt_path="best")`` works; ``best_value`` and ``best_epoch`` (from 0) say
    which one it is.

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
        self.best: Rank | None = None
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
        found = rank(trainer.callback_metrics, self.monitor, self.mode)
        if trainer.strategy.reduce_boolean_decision(is_better(found, self.best)):
            self.best, self.best_epoch = found, trainer.current_epoch
            self.best_value = float(trainer.callback_metrics[self.monitor])
            save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best is None else list(self.best)
        return {"best": best, "best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])
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


Rank = tuple[float, float]


def rank(metrics: Mapping[str, Any], monitor: str, mode: Literal["min", "max"]) -> Rank | None:
    """What orders validations, lower being better: the monitored value, then ``val/loss``; None if it is not finite."""
    value = float(metrics[monitor])
    if not math.isfinite(value):
        return None
    loss = float(metrics.get("val/loss", 0.0))
    return (value if mode == "min" else -value, loss if math.isfinite(loss) else math.inf)


def is_better(found: Rank | None, best: Rank | None) -> bool:
    """Strictly: equal ranks are not better, and what has no rank never is."""
    return found is not None and (best is None or found < best)


def save(trainer: L.Trainer, path: Path) -> None:
    """Write beside ``path``, then rename: a run that dies while writing leaves the previous checkpoint whole."""
    part = path.with_name(f"{path.name}.part")
    trainer.save_checkpoint(part, weights_only=False)  # of writing: the optimizer's state too, not the weights alone
    if trainer.is_global_zero:
        part.replace(path)
    trainer.strategy.barrier("checkpoint renamed")
