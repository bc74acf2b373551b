"""Several devices: what this machine has, and Lightning's strategy for processes that somebody else started."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from litmus.config import RunConfig
from litmus.errors import Problem
from litmus.ranks import Place

FSDP_UNIT_PARAMETERS = 1_000_000
"""Smaller modules stay in one piece with what holds them: gathering a small one costs more than it saves."""


def on_gpu(config: RunConfig) -> bool:
    return config.train.accelerator != "cpu" and torch.cuda.is_available()


def backend(config: RunConfig) -> str:
    """torch.distributed's words for who carries the messages."""
    return "nccl" if on_gpu(config) else "gloo"


def device_problems(config: RunConfig) -> list[Problem]:
    """What a config asks of several devices and this machine does not have; each of several machines has as many."""
    train = config.train
    found: list[Problem] = []
    if train.world_size == 1:
        return found
    if on_gpu(config):
        if train.devices > (there := torch.cuda.device_count()):
            says = f"this process sees {there} GPU{'s' * (there != 1)}"
            found.append(Problem("train.devices", says, train.devices))
        return found
    if train.sync_bn:
        says = "needs GPUs, which torch does not see here: torch has no synchronised batch norm for processors"
        found.append(Problem("train.sync_bn", says, True))
    if train.strategy == "fsdp":
        found.append(Problem("train.strategy", "needs GPUs, which torch does not see here; use ddp", "fsdp"))
    return found


class Started(ClusterEnvironment):
    """Tells Lightning of processes that are there already: it starts none, and looks for no scheduler by itself."""

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise RuntimeError("the processes have met already")

    @property
    def main_port(self) -> int:
        raise RuntimeError("the processes have met already")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.place.world_size

    def set_world_size(self, size: int) -> None:
        """Is what it is."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """Is what it is."""

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node


def trainer_options(config: RunConfig, place: Place | None) -> dict[str, Any]:
    """Keyword arguments of ``Trainer`` for one device, or for this place among several."""
    train = config.train
    if place is None:
        return {"devices": 1}
    common: dict[str, Any] = {
        "cluster_environment": Started(place),
        "process_group_backend": backend(config),
        "timeout": timedelta(seconds=train.timeout_sec),
    }
    strategy: DDPStrategy | FSDPStrategy
    if train.strategy == "fsdp":
        policy: Any = functools.partial(size_based_auto_wrap_policy, min_num_params=FSDP_UNIT_PARAMETERS)
        strategy = FSDPStrategy(**common, state_dict_type="full", auto_wrap_policy=policy)
    else:
        strategy = DDPStrategy(**common, find_unused_parameters=False)
    return {
        "devices": train.devices,
        "num_nodes": train.nodes,
        "strategy": strategy,
        "sync_batchnorm": train.sync_bn,
    }
