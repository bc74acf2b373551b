"""The best and the last state of a training, kept so that neither a killed process nor a full disk loses them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from litmus.callbacks.agreement import Agreement
from litmus.checkpoints import local_checkpoint, prune, read, saved, target, write
from litmus.errors import nearest
from litmus.stopping import Signals, Stopped


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's door to the disk, by ``litmus.checkpoints``: written whole or not at all, read only as data.

    Lightning's own writes to the temporary folder and moves: onto another disk that is a copy over the good file, torn
    by a kill or a full disk. It never synchronises, and fetches and unpickles what an address sends.
    """

    written: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.written = write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read(local_checkpoint(path), map_location=map_location)


class _KeepsCheckpoints(Checkpoint):
    """What both callbacks share: a folder, and a trainer that writes by our rules."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO):
            trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Files of another training in this folder, at higher steps, would count as newer than ours."""
        if trainer.is_global_zero:
            for one in saved(self.folder):
                if one.step > trainer.global_step:
                    one.path.replace(one.path.with_name(f"{one.path.name}.older"))

    def _save(self, trainer: L.Trainer, kind: str) -> Path:
        """Every process calls it, the first one writes; all are told where."""
        for logger in trainer.loggers:
            logger.save()  # a resumed training does not log again what lies before the checkpoint
        trainer.save_checkpoint(target(self.folder, kind, trainer.global_step), weights_only=False)  # not weights alone
        path = None
        if trainer.is_global_zero:
            path = cast(WholeCheckpointIO, trainer.strategy.checkpoint_io).written
            for other in saved(self.folder, kind):
                if other.step == trainer.global_step and other.path != path:
                    other.path.unlink(missing_ok=True)  # the same step, trained again
            prune(self.folder)
        return trainer.strategy.broadcast(path)  # type: ignore[return-value]


class BestCheckpoint(_KeepsCheckpoints):
    """Keeps ``folder/best-<step>-<digest>.ckpt``: the state after the validation with the best value so far.

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
        super().__init__(folder)
        if mode not in ("min", "max"):
            raise ValueError(f"mode = {mode!r}: 'min' or 'max'")
        self.monitor, self.mode = monitor, mode
        self.best: Rank | None = None
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.best_name = ""

    @property
    def best_model_path(self) -> str:
        path = self.folder / self.best_name
        return str(path) if self.best_name and path.exists() else ""

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
            self.best_name = self._save(trainer, "best").name

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best is None else list(self.best)
        names = ("best_value", "best_epoch", "best_name")
        return {"best": best, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
        self.best_name = state_dict["best_name"]


class LastCheckpoint(_KeepsCheckpoints):
    """Keeps ``folder/last-<step>-<digest>.ckpt`` and the one before: states that a training goes on from, exactly.

    Saved at the end of every epoch, validated or not, whole or cut by ``max_steps``, and within an epoch as often as
    asked for. A callback of its own, because Lightning's ``ModelCheckpoint(monitor=..., save_last=True)`` refreshes
    "last" only when there is a new best. Written after the best, so that it knows of it.

    Between two steps it also answers ``signals``: once one came, the state is saved and ``Stopped`` raised, by all
    processes after the same step. A step is an optimizer's: gradients that wait for more batches are not in a
    checkpoint, so it is never saved among them.

    Args:
        folder: made when the first checkpoint is written.
        every_steps: optimizer steps between two saves within an epoch; None for none.
        every_sec: seconds after which the next step's end is saved; None for never.
        signals: taken for the time of the training.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_sec: float | None = None,
        signals: Signals | None = None,
    ):
        super().__init__(folder)
        self.every_steps, self.every_sec, self.signals = every_steps, every_sec, signals
        self.saved_step = -1
        self._saved_at = time.monotonic()
        self._agreement = Agreement()

    @property
    def last_model_path(self) -> str:
        found = saved(self.folder, "last")
        return str(found[0].path) if found else ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.saved_step = trainer.global_step  # what we come from, or nothing that is worth a file
        self._saved_at = time.monotonic()
        self._agreement.begin(trainer)
        if self.signals is not None:
            self.signals.deferred = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not at the end of the batch before: only now are its validation done and Lightning's counters true.
        if batch_idx % trainer.accumulate_grad_batches:
            return
        signum, due = self._agreement.of(self._pending(), self._is_due(trainer))
        if (signum or due) and trainer.global_step != self.saved_step:
            self._save_last(trainer)
        if signum:
            raise Stopped(signum)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._leave()

    def _pending(self) -> int:
        return 0 if self.signals is None else self.signals.pending or 0

    def _is_due(self, trainer: L.Trainer) -> bool:
        steps = trainer.global_step - self.saved_step
        if self.every_steps is not None and steps >= self.every_steps:
            return True
        return self.every_sec is not None and time.monotonic() - self._saved_at >= self.every_sec

    def _save_last(self, trainer: L.Trainer) -> None:
        self._save(trainer, "last")
        self.saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _leave(self) -> None:
        self._agreement.end()
        if self.signals is not None:
            self.signals.deferred = False


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
