"""The gradient's way through the layers, looked at while a network trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from litmus.diagnosis.gradient_flow import Flow, FlowAt, log10_norm, measure_flow

Probe = Callable[[torch.device], tuple[Tensor, Tensor]]
"""Images as the network reads them and their labels, on a device; the same ones at each call."""


class GradientWatch(L.Callback):
    """Measures the ``Flow`` of the same images before the first step and at each validation.

    Batch norm normalises them by the batch, as training does. Frozen layers are absent, and so is dropout. The weights
    are the raw ones, with a moving average too. A layer's relative update is that of the optimizer's next true step,
    whatever it accumulates, clips or decays; after the last validation there is none.

    The training does not change by a bit: a copy of the network is measured, and nothing is drawn. Each time costs a
    pass of the images forward and back, two where gradients have vanished. Where the device's memory does not hold a
    batch, half a batch is tried, then and later. Rows ride in checkpoints. Of several processes the first one measures.

    Stands behind ``EMA``, which changes weights around a validation, and behind ``Freeze``.

    Args:
        probe: hands out the images; asked once a measurement.
        batch_size: images that batch norm sees at once.

    Attributes:
        rows: so far, a step each.
    """

    def __init__(self, probe: Probe, batch_size: int):
        self.probe, self.batch_size = probe, batch_size
        self.rows: list[FlowAt] = []
        self._before: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            self.rows = []  # a checkpoint gives the rows to all processes
            return
        network, optimizer = pl_module.network, trainer.optimizers[0]

        def keep_weights(*args: Any) -> None:
            if self.rows[-1].log10_update is None:
                names = (layer.name for layer in self.rows[-1].flow.layers)
                self._before = {name: _weight(network, name).detach().clone() for name in names}

        def compare_weights(*args: Any) -> None:
            if self._before:
                self._keep_update(pl_module)

        # The optimizer's hooks, not the trainer's: one call a true step, behind what else changes weights in it.
        self._hooks = [
            optimizer.register_step_pre_hook(keep_weights),
            optimizer.register_step_post_hook(compare_weights),
        ]
        if not self.rows:
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._forget()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [row.plain() for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [FlowAt.of(row) for row in state_dict["rows"]]

    def _look(self, trainer: L.Trainer, pl_module: Any) -> None:
        step = trainer.global_step
        if self.rows and self.rows[-1].step == step:  # validated again, after a resume
            self.rows.pop()
        row = FlowAt(step, self._measure(pl_module.network))
        self.rows.append(row)
        _log(pl_module, step, row.flow.metrics())

    def _measure(self, network: nn.Module) -> Flow:
        images, labels = self.probe(next(network.parameters()).device)
        while True:
            try:
                return measure_flow(network, images, labels, batch_size=self.batch_size)
            except torch.OutOfMemoryError:
                if self.batch_size < 4:
                    raise
                self.batch_size //= 2

    def _keep_update(self, pl_module: Any) -> None:
        row, before, self._before = self.rows[-1], self._before, {}
        now = {name: _weight(pl_module.network, name).detach() for name in before}
        moved = tuple(relative_update(now[name], weight) for name, weight in before.items())
        self.rows[-1] = row = FlowAt(row.step, row.flow, moved)
        if (update := row.relative_update) is not None:
            _log(pl_module, row.step, {"gradients/relative_update": update})

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._before = [], {}


def relative_update(now: Tensor, before: Tensor) -> float:
    """log10 of ``||now - before|| / ||before||``; NaN for weights that were all 0."""
    norm = log10_norm(before)
    return math.nan if norm == -math.inf else log10_norm(now - before) - norm


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_parameter(f"{name}.weight")


def _log(pl_module: Any, step: int, numbers: dict[str, float]) -> None:
    for logger in pl_module.loggers:
        logger.log_metrics(numbers, step=step)
