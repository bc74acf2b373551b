"""What ``litmus fit`` shows: a table that grows by a line a validation, and under it a bar."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from litmus.callbacks.checkpoint import Rank, is_better, rank
from litmus.optim import learning_rate

REFRESH_SEC = 0.25
METRICS = ("train/loss", "train/err", "val/loss", "val/err")


class EpochTable(ProgressBar):
    """A line a validation on stdout; while something runs, a bar on stderr if that is a terminal, gone at the end.

    Losses and errors are as logged, ``lr`` is that of the first step of the line, ``time`` is from the line before
    (validation included), ``images/s`` is over the training part alone and over all devices. ``best`` marks what
    ``BestCheckpoint`` would keep, over a resumed run too. In a pipe: the same lines, no control character.

    A step costs a clock reading and an addition; the bar is drawn, and the loss read from the device, at most every
    0.25 s.

    Args:
        monitor: metric that makes a line the best.
        mode: which way is better, ``min`` or ``max``.
        table, bar: streams; default stdout and stderr as they are when they are written to.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        *,
        table: TextIO | None = None,
        bar: TextIO | None = None,
    ):
        super().__init__()
        self.monitor, self.mode = monitor, mode
        self.best: Rank | None = None
        self._table, self._bar = table, bar
        self._enabled = True
        self._drawn = False
        self._header_shown = False
        self._next_refresh = 0.0
        self._first_step = 0
        self._total_steps = 0.0
        self._started_at = self._line_started_at = 0.0
        self._train_sec = 0.0
        self._lr = 0.0
        self._images = 0

    # --- training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._header_shown = False
        self._first_step = trainer.global_step
        self._total_steps = float(trainer.estimated_stepping_batches)
        self._started_at = time.monotonic()
        self._start_line(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += num_images(batch)
        now = time.monotonic()
        if now >= self._next_refresh and self._enabled:
            self._next_refresh = now + REFRESH_SEC
            self._draw(self._training_text(trainer, outputs, batch_idx, now))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.enable_validation:
            self._train_sec = time.monotonic() - self._line_started_at
            self._write_line(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._erase()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._erase()

    # --- evaluation

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._train_sec = time.monotonic() - self._line_started_at

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._evaluating("validating", batch_idx, dataloader_idx, trainer.num_val_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._erase()
        elif not trainer.sanity_checking:
            self._write_line(trainer)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluating("testing", batch_idx, dataloader_idx, trainer.num_test_batches)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._erase()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluating("predicting", batch_idx, dataloader_idx, trainer.num_predict_batches)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._erase()

    # --- what Lightning asks of a progress bar

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._erase()
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self._erase()
        print(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        return {"best": None if self.best is None else list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])

    # --- the table

    def _start_line(self, trainer: L.Trainer) -> None:
        self._line_started_at = time.monotonic()
        self._lr = learning_rate(trainer.optimizers[0])
        self._images = 0

    def _write_line(self, trainer: L.Trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = rank(metrics, self.monitor, self.mode) if self.monitor in metrics else None
        is_best = is_better(found, self.best)
        if is_best:
            self.best = found
        if self._enabled:
            elapsed_sec = time.monotonic() - self._line_started_at
            images_per_sec = self._images * trainer.world_size / max(self._train_sec, 1e-9)
            unit, length = _length(trainer)
            done = trainer.global_step if unit == "step" else trainer.current_epoch + 1
            lines = table_line(unit, done, length, metrics, self._lr, elapsed_sec, images_per_sec, is_best)
            self._erase()
            out = self._table or sys.stdout
            out.write("".join(f"{line}\n" for line in (lines if not self._header_shown else lines[1:])))
            out.flush()
            self._header_shown = True
        self._start_line(trainer)

    # --- the bar

    def _training_text(self, trainer: L.Trainer, outputs: Any, batch_idx: int, now: float) -> tuple[str, float, str]:
        unit, length = _length(trainer)
        if unit == "step":
            name, done, total = "step", trainer.global_step, float(trainer.max_steps)
        else:
            name = f"epoch {trainer.current_epoch + 1}" + (f"/{length}" if length else "")
            done, total = batch_idx + 1, float(trainer.num_training_batches)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        # what Lightning hands out is divided for the sum of accumulated gradients
        shown = "" if loss is None else f"  loss {float(loss) * trainer.accumulate_grad_batches:.4f}"
        train_sec = max(now - self._line_started_at, 1e-9)
        shown += f"  {self._images * trainer.world_size / train_sec:,.0f} images/s"
        steps, steps_left = trainer.global_step - self._first_step, self._total_steps - trainer.global_step
        if steps and steps_left < float("inf"):
            shown += f"  {duration((now - self._started_at) / steps * steps_left)} left"
        return name, done / total, f"{done:,}/{total:,.0f}{shown}" if total < float("inf") else f"{done:,}{shown}"

    def _evaluating(
        self, what: str, batch_idx: int, dataloader_idx: int, num_batches: Sequence[int | float] | int | float
    ) -> None:
        now = time.monotonic()
        if now < self._next_refresh or not self._enabled:
            return
        self._next_refresh = now + REFRESH_SEC
        counts = list(num_batches) if isinstance(num_batches, Sequence) else [num_batches]
        done, total = sum(counts[:dataloader_idx]) + batch_idx + 1, sum(counts)
        self._draw((what, done / total, f"{done:,.0f}/{total:,.0f}" if total < float("inf") else f"{done:,.0f}"))

    def _draw(self, text: tuple[str, float, str]) -> None:
        out = self._bar or sys.stderr
        if out.isatty() and os.environ.get("TERM") != "dumb":
            columns = shutil.get_terminal_size().columns
            # back to the first column, so that a warning printed meanwhile writes over the bar and not behind it
            out.write(f"\r{bar_line(*text, columns=columns, encoding=out.encoding)}\x1b[K\r")
            out.flush()
            self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            out = self._bar or sys.stderr
            out.write("\r\x1b[K")
            out.flush()
            self._drawn = False


def table_line(
    unit: str,
    done: int,
    length: int | None,
    metrics: Mapping[str, float],
    lr: float,
    elapsed_sec: float,
    images_per_sec: float,
    is_best: bool,
) -> tuple[str, str]:
    """Header and line, aligned; ``-`` for a metric that is not there."""
    position = f"{done:,}/{length:,}" if length else f"{done:,}"
    cells = [(unit, position, len(f"{length:,}") * 2 + 1 if length else 7)]
    cells += [(name, _figure(metrics.get(name)), max(len(name), 7)) for name in METRICS]
    cells += [
        ("lr", f"{lr:.3g}", 8),
        ("time", duration(elapsed_sec), 6),
        ("images/s", f"{images_per_sec:,.0f}", 9),
    ]
    header = "  ".join(name.rjust(width) for name, _, width in cells)
    line = "  ".join(value.rjust(max(width, len(name))) for name, value, width in cells)
    return header, line + "  best" * is_best


def bar_line(name: str, part: float, figures: str, *, columns: int, encoding: str | None) -> str:
    """``name ━━━━─── figures``, no wider than the terminal less one column."""
    full, rest = ("━", "─") if "utf" in (encoding or "").lower() else ("#", ".")
    width = max(0, min(30, columns - len(name) - len(figures) - 3))
    filled = round(width * min(max(part, 0.0), 1.0))
    return f"{name} {full * filled}{rest * (width - filled)} {figures}"[: max(columns - 1, 0)]


def duration(sec: float) -> str:
    """``0.8s``, ``42s``, ``3m05s``, ``2h07m``."""
    if sec < 9.95:
        return f"{sec:.1f}s"
    whole = round(sec)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def num_images(batch: Any) -> int:
    """Rows of the first tensor of a batch."""
    if isinstance(batch, Tensor):
        return len(batch)
    if isinstance(batch, Mapping):
        return num_images(next(iter(batch.values()), 0))
    return num_images(batch[0]) if isinstance(batch, Sequence) and batch and not isinstance(batch, str) else 0


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _length(trainer: L.Trainer) -> tuple[str, int | None]:
    """Unit of the training length, and the length when it is bounded."""
    if trainer.max_steps != -1 and trainer.max_epochs in (None, -1):
        return "step", trainer.max_steps
    return "epoch", trainer.max_epochs if trainer.max_epochs != -1 else None
