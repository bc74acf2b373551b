"""A short training with everything that carries state, cut where one likes, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from litmus.callbacks import ExactResume
from litmus.checkpoints import newest_whole, read
from litmus.config import parse_config
from litmus.experiment import checked_data, make_callbacks, make_classifier, make_trainer, quiet_libraries
from litmus.resume import FOLDER
from litmus.stopping import Signals, Stopped
from litmus.tracking import Run

EVERYTHING: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "synthetic", "num_images": 150, "num_classes": 3, "image_size": 8, "batch_size": 16},
    "model": {"name": "residual", "depth": 8, "width": 4, "keep_prob": 0.8},
    "optim": {"name": "momentum", "lr": 0.05, "l2_lambda": 0.5},
    "schedule": {"name": "cosine"},
    "augment": {"pad_crop": 1, "hflip": 0.5, "mixup": 0.2},
    "train": {"epochs": 3, "accumulate": 2, "ema_decay": 0.9, "grad_clip": 1.0, "log_every": 1},
    "early_stopping": {"name": "patience", "patience": 10},
    "tracking": {"offline": True, "system_metrics": False},
}
"""Dropout, augmentation with mixing, accumulation (a last step of one batch), average, schedule, clipping."""


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            named = isinstance(value, dict) and "name" in value and value["name"] != whole.get(key, {}).get("name")
            inner = {} if named or not isinstance(value, dict) else whole.get(key, {})
            whole[key] = inner | value if isinstance(value, dict) else value
    return whole


class StopAfter(Signals):
    """A signal that comes during batch number ``batch``, counted from 1."""

    def __init__(self, batch: int | None):
        super().__init__()
        self.batch, self.count = batch, 0

    def on_batch(self) -> None:
        self.count += 1
        if self.count == self.batch:
            self.pending = 15


def train(folder: Path, config: dict[str, Any], *, stop_after: int | None = None) -> dict[str, Any] | None:
    """Train in ``folder`` from its newest checkpoint, if it has one.

    Returns:
        weights, average, optimizer, random state, metrics; None if it was stopped by a signal in batch ``stop_after``.
    """
    checked = parse_config(merged(config, {"tracking": {"home": str(folder)}}))
    signals = StopAfter(stop_after)
    with quiet_libraries():
        data = checked_data(checked)
        uid = "0" * 32
        with Run.start(home=folder, experiment="test", name="test", uid=uid, send="off") as tracked:
            checkpoints = tracked.dir / FOLDER
            found = newest_whole(checkpoints)
            classifier = make_classifier(checked, data)
            callbacks = make_callbacks(checked, checkpoints, data, classifier.network, signals)
            trainer = make_trainer(checked, tracked, callbacks)
            callbacks[0].on_train_batch_end = lambda *args: signals.on_batch()  # the guard has none of its own
            try:
                trainer.fit(classifier, datamodule=data, ckpt_path=found.path if found else None)
            except Stopped:
                return None
            exact = next(one for one in callbacks if isinstance(one, ExactResume))
            assert exact.trained_sec > 0
            return final_state(checkpoints) | {"history": classifier.history}


def final_state(checkpoints: Path) -> dict[str, Any]:
    """Both checkpoints of a run that has ended, without what time and place are in them."""
    whole = {}
    for kind in ("last", "best"):
        found = newest_whole(checkpoints, kind)
        assert found is not None, f"no whole {kind} checkpoint in {checkpoints}"
        state = read(found.path)
        state["litmus"].pop("trained_sec")
        for name, held in state["callbacks"].items():
            if name.startswith("BestCheckpoint"):
                held.pop("best_name")  # its digest is of bytes that hold a time
        state["loops"] = {"steps": state["global_step"], "epoch": state["epoch"]}
        whole[kind] = state
    return whole


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ, bit for bit."""
    if type(one) is not type(other):
        return [f"{where}: {type(one).__name__} and {type(other).__name__}"]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: keys {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, (a, b) in pairs for found in differing(a, b, f"{where}[{place}]")]
    if torch.is_tensor(one):
        return [] if torch.equal(one, other) else [f"{where}: tensors differ by {(one - other).abs().max()}"]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]
