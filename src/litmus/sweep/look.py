"""A finished run, for what is measured of it: each part is loaded when it is asked for, once."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from litmus.config import RunConfig
from litmus.sweep.cells import Measure
from litmus.tracking import StoredRun, find_run

if TYPE_CHECKING:
    import torch

    from litmus.data.datamodule import ImageDataModule
    from litmus.evaluation import Evaluation
    from litmus.trained import Trained

MEASURES = "measures"
"""Folder of a run directory: they follow from its weights and can be made again, so they are no artifacts."""


@dataclass(frozen=True)
class Look:
    """The run in ``directory``, below ``home``."""

    directory: Path
    home: Path

    @cached_property
    def stored(self) -> StoredRun:
        return find_run(str(self.directory), home=self.home)

    @cached_property
    def trained(self) -> Trained:
        """Its network is in evaluation mode, on the CPU or where ``to_device`` put it."""
        from litmus.trained import load_trained

        return load_trained(self.stored)

    @property
    def config(self) -> RunConfig:
        return self.trained.config

    @cached_property
    def result(self) -> dict[str, Any]:
        return dict(json.loads(Path(self.stored.artifact("result.json")).read_text()))

    @cached_property
    def data(self) -> ImageDataModule:
        from litmus.experiment import make_data

        data = make_data(self.config)
        data.prepare()
        return data

    @cached_property
    def device(self) -> torch.device:
        from litmus.devices import best_device

        device = best_device(self.config.train.accelerator)
        self.trained.network.to(device)
        return device

    def evaluate(self, split: str, network: Any = None) -> Evaluation:
        """Answers of the run's network, or of another, to every image of a split."""
        from litmus.evaluation import evaluate
        from litmus.experiment import eval_batches

        batches = eval_batches(self.data, split, self.device, self.config.train.limit_batches)
        bf16 = self.config.train.precision == "bf16-mixed"
        return evaluate(network or self.trained.network, batches, device=self.device, bf16=bf16)


def answers(look: Look, *, split: str) -> dict[str, Any]:
    """Log-probabilities (N, K) float64, labels (N,) and positions (N,) of a split's images, ordered by position."""
    seen = look.evaluate(split)
    order = seen.idx.argsort()
    log_probs = seen.logits.double().log_softmax(1)[order]
    return {"log_probs": log_probs.numpy(), "labels": seen.labels[order].numpy(), "idx": seen.idx[order].numpy()}


def kept(directory: Path, measure: Measure) -> dict[str, Any] | None:
    """What was measured of a run, if it was and the file is whole."""
    path = directory / MEASURES / f"{measure.key}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files if name != "plain"}
            return {**json.loads(str(file["plain"])), **values}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # torn
        return None


def keep(directory: Path, measure: Measure, found: Mapping[str, Any]) -> None:
    """Write what was measured; a reader finds a whole file or none."""
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in found.items() if name not in arrays}
    path = directory / MEASURES / f"{measure.key}.npz"
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    with fresh.open("wb") as file:
        parts: dict[str, Any] = {"plain": np.array(json.dumps(plain)), **arrays}
        np.savez_compressed(file, **parts)
    os.replace(fresh, path)


def measure_all(directory: str, home: str, measures: tuple[Measure, ...]) -> None:
    """Measure of a finished run what was not measured yet."""
    from litmus.experiment import quiet_libraries

    look = Look(Path(directory), Path(home))
    with quiet_libraries():
        for measure in measures:
            if kept(look.directory, measure) is None:
                keep(look.directory, measure, measure.load()(look, **measure.args))
