"""Lightning's door to a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from litmus.tracking.run import Run


class RunLogger(Logger):
    """Hands Lightning's metrics to a ``Run``, and nothing else.

    Hyperparameters are left to who resolved the config, and the end of the run to
    who started it: one run may hold a fit and a test.

    Args:
        run: the run; None on ranks other than 0, which record nothing.
        save_dir: the run directory, for ranks without a run.
    """

    def __init__(self, run: Run | None, *, save_dir: str | Path | None = None):
        super().__init__()
        if run is None and save_dir is None:
            raise ValueError("save_dir is needed where there is no run")
        self.run = run
        self._save_dir = str(run.dir if run is not None else save_dir)

    @property
    def name(self) -> str:
        return self.run.name if self.run is not None else Path(self._save_dir).name

    @property
    def version(self) -> str:
        return self.run.uid[:8] if self.run is not None else self._save_dir[-8:]

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.run is not None and metrics:
            self.run.log_metrics(metrics, step=0 if step is None else step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run has the whole config already, under its own names."""

    def save(self) -> None:
        if self.run is not None:
            self.run.flush()

    def finalize(self, status: str) -> None:
        """Write what is buffered; the run goes on."""
        self.save()
