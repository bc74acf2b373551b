"""Shows the plateau schedule its validations."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from litmus.errors import nearest
from litmus.optim import Plateau


class ObservePlateau(L.Callback):
    """After each validation, before a checkpoint is written, hands the monitored value to a ``Plateau`` schedule.

    Stateless: the schedule's own state is in the checkpoint, so resuming is exact. Does nothing for other schedules.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, Plateau):
                metrics = trainer.callback_metrics
                if config.monitor not in metrics:
                    hint = nearest(str(config.monitor), metrics)
                    raise ValueError(f"the plateau schedule watches {config.monitor!r}, which nobody logs; {hint}")
                config.scheduler.observe(float(metrics[config.monitor]))
