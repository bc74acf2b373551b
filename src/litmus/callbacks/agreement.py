"""What several processes decide together between two steps, without waiting for each other."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.distributed as dist


class Agreement:
    """Whether to stop and whether to save, the same answer in every process after the same step.

    Each step's answers are exchanged while the next step runs (on a gloo group of its own, so a GPU is not waited
    for): what one process knows at a step, all do at the next. A single process agrees with itself at once.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._asked: tuple[torch.Tensor, Any] | None = None

    def begin(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")

    def of(self, signum: int, due: bool) -> tuple[int, bool]:
        """The highest signal number that any process has, 0 for none, and whether a save is due in any."""
        if self._group is None:
            return signum, due
        agreed = (0, False)
        if self._asked is not None:
            values, work = self._asked
            work.wait()
            agreed = int(values[0]), bool(values[1])
        values = torch.tensor([signum, int(due)])
        self._asked = values, dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def end(self) -> None:
        self._asked = self._group = None
