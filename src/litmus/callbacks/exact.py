"""What a checkpoint must hold besides Lightning's part, so that a training goes on as if it had never stopped."""

from __future__ import annotations

import random
import time
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist

KEY = "litmus"


class ExactResume(L.Callback):
    """Puts the random states and the running sums of every process into each checkpoint, and takes them up again.

    Lightning saves none of them: a resumed run would draw other dropout masks, and lose the training loss of the
    images before the cut. The order of the images is not here: it is a function of (seed, epoch), and the data module
    keeps the position. Nor is augmentation: it is a function of (seed, epoch, image).

    Args:
        header: plain values that say what the checkpoint is of; kept in it under ``litmus``.
    """

    def __init__(self, header: dict[str, Any] | None = None):
        self.header = dict(header or {})
        self.trained_sec = 0.0
        """Seconds of training, earlier attempts included; complete once the fit has ended."""
        self._loaded: list[dict[str, Any]] | None = None
        self._began = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        mine = {"random": random_state(trainer.strategy.root_device), "sums": sums_state(pl_module)}
        checkpoint[KEY] = {
            **self.header,
            "trained_sec": self.trained_sec + time.monotonic() - self._began,
            "history": [dict(row) for row in getattr(pl_module, "history", [])],
            "processes": _of_every_process(mine, trainer),
        }
        between_steps(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if (held := checkpoint.get(KEY)) is None:
            return
        self.trained_sec = held["trained_sec"]
        self._loaded = held["processes"]
        if hasattr(pl_module, "history"):
            pl_module.history = [dict(row) for row in held["history"]]

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._began = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.trained_sec += time.monotonic() - self._began

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Last of all set-up: whatever set-up itself drew must not count."""
        if self._loaded is None:
            return
        states, self._loaded = self._loaded, None
        if len(states) == trainer.world_size:
            mine = states[trainer.global_rank]
            set_random_state(mine["random"], trainer.strategy.root_device)
            set_sums_state(pl_module, [mine["sums"]])
        elif trainer.global_rank == 0:  # another number of processes: not exact, but no image is lost from the sums
            set_sums_state(pl_module, [state["sums"] for state in states])


def between_steps(loop: dict[str, Any]) -> None:
    """Put Lightning's counters where the training stands: after a whole step, or before a new epoch.

    As they are saved, they are half-way. Before a step a batch has been counted as ready that is not trained yet; on
    resuming, that is taken back from the epoch's count and not from the total, by which ``val_every`` goes in a
    training counted in steps, and an epoch cut before its last batch ended without it. At the end of an epoch its
    completion has not been counted yet, which a training counted in steps never makes up for: it went on in the old
    epoch with the images of the new.

    Args:
        loop: the state of the fit loop in a checkpoint, changed in place.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        if count["ready"] > count["started"]:
            count["ready"] = count["started"]
            batches["is_last_batch"] = False
    if epochs["current"]["processed"] == epochs["current"]["started"]:
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every global generator that a training may draw from, as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss)],
        "numpy_cached": float(cached),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, state["numpy_cached"]))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def sums_state(pl_module: Any) -> dict[str, list[Any]]:
    """Loss, errors and images summed so far, by split."""
    return {split: [sums.loss, sums.errors, sums.images] for split, sums in getattr(pl_module, "sums", {}).items()}


def set_sums_state(pl_module: Any, states: list[dict[str, list[Any]]]) -> None:
    """Take up the sums of one process, or the total of several."""
    for split, sums in getattr(pl_module, "sums", {}).items():
        held = [state[split] for state in states if split in state]
        if held:
            device = pl_module.device
            columns = [
                [one.to(device) if torch.is_tensor(one) else one for one in column]
                for column in zip(*held, strict=True)
            ]
            sums.loss, sums.errors, sums.images = (sum(column[1:], start=column[0]) for column in columns)


def _of_every_process(mine: dict[str, Any], trainer: L.Trainer) -> list[dict[str, Any]]:
    """Every process calls it; the states in the order of the ranks."""
    if trainer.world_size == 1:
        return [mine]
    states: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(states, mine)
    return states
