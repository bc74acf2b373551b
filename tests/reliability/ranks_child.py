"""One process of several, or the only one: trains through everything a run is made of, and keeps what it saw."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch

from litmus import ranks
from litmus.config import parse_config
from litmus.experiment import make_callbacks, make_classifier, make_data, make_trainer, quiet_libraries
from litmus.ranks import Place
from tests.reliability import children
from tests.reliability.training import merged

SMALL: dict[str, Any] = {
    "seed": 5,
    "data": {"name": "synthetic", "num_images": 160, "num_classes": 3, "image_size": 8, "batch_size": 16},
    "model": {"name": "residual", "depth": 8, "width": 4, "norm": "group", "norm_groups": 2},
    "optim": {"name": "momentum", "lr": 0.05, "l2_lambda": 0.5},
    "train": {"epochs": 2, "accelerator": "cpu", "log_every": 1},
    "tracking": {"offline": True, "system_metrics": False},
}
"""Group norm: batch norm would see another batch in each process."""


class Recorder(L.Callback):
    """The images of each step and each evaluation, and the metrics after each validation."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.evaluated: dict[int, list[Any]] = {0: [], 1: []}
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.steps.append(batch.idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):  # type: ignore[no-untyped-def]
        self.evaluated[dataloader_idx].append(batch.idx)

    def on_validation_end(self, trainer, pl_module):  # type: ignore[no-untyped-def]
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train_rank(folder: str, config: dict[str, Any], rank: int, world_size: int, meeting: str) -> None:
    """What ``launch`` does in a process, with a recorder and without a record."""
    checked = parse_config(merged(config, {"train": {"devices": world_size}}))
    place = Place(rank, world_size, local_rank=rank, node=0, nodes=1, by="litmus") if world_size > 1 else None
    here = Path(folder) / str(rank)
    with quiet_libraries():
        if place is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            ranks.join(place, backend="gloo", timeout_sec=60, file=meeting)
        data = make_data(checked)
        data.prepare()
        classifier = make_classifier(checked, data)
        ranks.seed_rank(checked.seed, rank)
        os.environ.pop("PL_GLOBAL_SEED", None)
        recorder = Recorder()
        callbacks = [*make_callbacks(checked, Path(folder) / "checkpoints", data, classifier.network), recorder]
        trainer = make_trainer(checked, None, callbacks, folder=here, place=place)
        trainer.fit(classifier, datamodule=data)
    here.mkdir(parents=True, exist_ok=True)
    found = {
        "steps": recorder.steps,
        "val": torch.cat(recorder.evaluated[0]),
        "train_eval": torch.cat(recorder.evaluated[1]),
        "expected": {split: data.indices(split) for split in ("val", "train_eval")},
        "metrics": recorder.metrics,
        "weights": classifier.network.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(found, here / "found.pt")


def train_in(world_size: int, folder: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of ``world_size`` processes saw."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as meeting:
        processes = [
            children.start(
                train_rank, str(folder), config, rank, world_size, f"{meeting}/ranks", log=folder / f"{rank}.log"
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.join(120)
    logs = "".join((folder / f"{rank}.log").read_text() for rank in range(world_size))
    assert [process.exitcode for process in processes] == [0] * world_size, logs
    return [torch.load(folder / str(rank) / "found.pt", weights_only=True) for rank in range(world_size)]
