"""A study watches each validation, and may end the training: by a flag, so that the run ends as any other does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from litmus.errors import nearest

Ask = Callable[[Sequence[tuple[int, float]]], bool]
"""Takes (index of the validation, value) of what is new and answers whether to stop."""


class Pruning(L.Callback):
    """Reports ``metric`` after each validation and sets ``trainer.should_stop`` where the answer says so.

    An exception for this, raised in the loop, would mark the run FAILED and, of several processes, reach one alone.
    Reports ride in the checkpoint: a resumed training, whose study may know it under a new number, reports again what
    it had reported, so that its curve is whole.

    Args:
        metric: ``split/name``.
        ask: of the process that reports, rank 0; the others pass None and hear its answer.

    Attributes:
        reports: values so far, one a validation.
        pruned_at: number of the validation, counted from 0, after which it was ended.
    """

    def __init__(self, metric: str, ask: Ask | None):
        self.metric, self.ask = metric, ask
        self.reports: list[float] = []
        self.pruned_at: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.reports and self.ask is not None:
            self.ask(list(enumerate(self.reports)))
        trainer.should_stop = trainer.should_stop or self.pruned_at is not None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        metrics = trainer.callback_metrics
        if self.metric not in metrics:
            raise ValueError(f"the study watches {self.metric!r}, which nobody logs; {nearest(self.metric, metrics)}")
        self.reports.append(float(metrics[self.metric]))
        at = len(self.reports) - 1
        last = (
            trainer.current_epoch + 1 >= (trainer.max_epochs or 0) >= 1 or 0 < trainer.max_steps <= trainer.global_step
        )
        stop = self.ask([(at, self.reports[-1])]) if self.ask is not None else False
        # After the last validation there is nothing left to save: the training is complete.
        if trainer.strategy.reduce_boolean_decision(stop and not last, all=False):
            trainer.should_stop = True
            self.pruned_at = at

    def state_dict(self) -> dict[str, Any]:
        return {"reports": list(self.reports), "pruned_at": self.pruned_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reports, self.pruned_at = list(state_dict["reports"]), state_dict["pruned_at"]


def _is_over(trainer: L.Trainer) -> bool:
    if trainer.max_steps > 0:
        return trainer.global_step >= trainer.max_steps
    return trainer.current_epoch + 1 >= (trainer.max_epochs or 0) > 0
