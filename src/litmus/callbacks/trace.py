"""What a run computed, to the last bit: what ``litmus reproduce`` compares."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from litmus.callbacks.ema import EMA

Row = dict[str, Any]
Watch = Callable[[str, Row], None]
"""Called with ``start``, ``step`` or ``epoch`` and the row; what it raises ends the fit."""

_STEP_HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
_WRITE_SHARE = 50


class Trace(L.Callback):
    """Keeps digests of the first ``num_steps`` optimizer steps and of every epoch, in plain JSON.

    A step's row, by its number from 1: for each of its batches ``order`` (the indices), ``batch`` (images and labels as
    the network gets them) and ``loss`` (as it is differentiated: divided by the number of batches); then ``gradient``
    (before clipping, summed over batches and averaged over processes) and ``weights`` (norm statistics included). An
    epoch's row, one a validation and one where an epoch ends without: ``weights``, with a moving average also
    ``evaluated``, and ``metrics``. Numbers are ``float.hex``. ``start`` is the digest of the weights before step 1.

    The rows ride in checkpoints, so a resumed run ends with those of an uninterrupted one. Of several processes the
    first keeps rows: of its own batches. After the traced steps no hook of a step is left.

    Stands behind ``EMA``: where a validation ends, the weights are the raw ones again.

    Args:
        path: where the table is written as it grows, taking at most a fiftieth of the time; at the end in any case.
        num_steps: 0 for none.
        watch: sees each row as it is made.
    """

    def __init__(self, path: Path, num_steps: int, watch: Watch | None = None):
        self.path, self.num_steps, self.watch = path, num_steps, watch
        self.start: str | None = None
        self.steps: list[Row] = []
        self.epochs: list[Row] = []
        self._open = _new_row()
        self._evaluated: str | None = None
        self._written_at = self._write_sec = 0.0

    # --- steps --------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            self.start = None  # a checkpoint gives the rows to all processes, of which one keeps and writes them
        if self.start is None and trainer.is_global_zero:
            self.start = digest_tensors(pl_module.state_dict().items())
            self._see("start", {"step": 0, "weights": self.start})
        self._skip_steps(not trainer.is_global_zero or len(self.steps) >= self.num_steps)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        images, labels, idx = batch
        self._open["order"].append(digest_tensors([("idx", idx)]))
        self._open["batch"].append(digest_tensors([("images", images), ("labels", labels)]))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        learnt = ((name, p.grad) for name, p in pl_module.named_parameters() if p.grad is not None)
        self._open["gradient"] = digest_tensors(learnt)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._open["loss"].append(float(outputs["loss"]).hex())
        if "gradient" not in self._open:  # the step takes more batches
            return
        row = {"step": trainer.global_step, **self._open, "weights": digest_tensors(pl_module.state_dict().items())}
        self.steps.append(row)
        self._open = _new_row()
        self._see("step", row)
        if len(self.steps) >= self.num_steps:
            self._skip_steps(True)
            self.write()

    def _skip_steps(self, skip: bool) -> None:
        """Lightning passes over what is not callable, which is cheaper than calling what returns at once."""
        for hook in _STEP_HOOKS:
            if skip:
                setattr(self, hook, None)
            else:
                self.__dict__.pop(hook, None)

    # --- epochs -------------------------------------------------------------------------------------------------------

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _traced(trainer) and any(isinstance(callback, EMA) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._evaluated = digest_tensors(pl_module.state_dict().items())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _traced(trainer):
            logged: dict[str, float] = pl_module.history[-1]  # type: ignore[assignment, index]
            metrics = {name: float(value).hex() for name, value in logged.items() if name not in ("epoch", "step")}
            self._close_epoch(trainer, pl_module, metrics)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seen = bool(self.epochs) and self.epochs[-1]["step"] == trainer.global_step
        if _traced(trainer) and not seen:
            self._close_epoch(trainer, pl_module, {})

    def _close_epoch(self, trainer: L.Trainer, pl_module: L.LightningModule, metrics: dict[str, str]) -> None:
        row: Row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["weights"] = digest_tensors(pl_module.state_dict().items())
        if self._evaluated is not None:
            row["evaluated"], self._evaluated = self._evaluated, None
        row["metrics"] = metrics
        if self.epochs and self.epochs[-1]["step"] == row["step"]:  # validated again, after a resume
            self.epochs.pop()
        self.epochs.append(row)
        self._see("epoch", row)
        if time.monotonic() - self._written_at >= _WRITE_SHARE * self._write_sec:
            self.write()

    def _see(self, kind: str, row: Row) -> None:
        if self.watch is not None:
            self.watch(kind, row)

    # --- keeping ------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk may be the exception, and is the one to hear of
            self.write()

    def write(self) -> None:
        """The table so far, or nothing in a process that keeps none. A reader finds a whole file at any time."""
        if self.start is None:
            return
        began = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(to_json(self.state_dict()))
        os.replace(part, self.path)
        self._written_at = time.monotonic()
        self._write_sec = self._written_at - began

    def state_dict(self) -> dict[str, Any]:
        done = len(self._open["loss"])  # a batch that has only begun comes again after a resume
        begun = {name: self._open[name][:done] for name in ("order", "batch", "loss")}
        return {"start": self.start, "steps": list(self.steps), "epochs": list(self.epochs), "open": begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self._open = state_dict["start"], state_dict["open"]
        self.steps, self.epochs = list(state_dict["steps"]), list(state_dict["epochs"])


def digest_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """32 hexadecimal digits over names, types, shapes and bytes, in the given order.

    Neither the device nor the memory format counts; the sign of a zero and the bits of a NaN do.
    """
    summary = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        summary.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        summary.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return summary.hexdigest()


def to_json(state: dict[str, Any]) -> str:
    """A row a line, so that two tables can be laid side by side."""
    parts = [
        f' "{key}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in state[key]) + "\n ]"
        for key in ("steps", "epochs")
    ]
    return "{\n" + ",\n".join([f' "start": {json.dumps(state["start"])}', *parts]) + "\n}\n"


def _new_row() -> Row:
    return {"order": [], "batch": [], "loss": []}


def _traced(trainer: L.Trainer) -> bool:
    return trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
