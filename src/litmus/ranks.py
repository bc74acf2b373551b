"""Where a process stands among those that train together, and what they tell each other. One process is the usual case.

Nothing here imports torch before it is needed: the command line asks ``launched`` first of all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from litmus.errors import Problem, Refused

if TYPE_CHECKING:
    from torch import Tensor

Launcher = Literal["litmus", "torchrun", "srun"]
FIRST_SPECIAL_STEP = 4_294_967_290  # SLURM's numbers for batch scripts, interactive shells and the like


@dataclass(frozen=True)
class Place:
    """One of ``world_size`` processes, a device each.

    Attributes:
        local_rank: place among the processes of this machine, which is the ``node``-th.
        nodes: how many machines, where the launcher says so.
        by: who started the processes.
    """

    rank: int
    world_size: int
    local_rank: int
    node: int
    nodes: int | None
    by: Launcher


def launched(environ: Mapping[str, str]) -> Place | None:
    """What a launcher says in the environment; None for a process that was started alone.

    torchrun, and whoever else sets ``RANK`` and ``WORLD_SIZE``; or srun with several tasks. A batch script and an
    interactive shell have SLURM's variables too, and are no launch: only a step that srun started is.

    Raises:
        Refused: variables that contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        words = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "node": "GROUP_RANK"}
        nodes, by = environ.get("GROUP_WORLD_SIZE"), "torchrun"
    elif _is_step(environ):
        words = {"rank": "SLURM_PROCID", "world_size": "SLURM_NTASKS"}
        words |= {"local_rank": "SLURM_LOCALID", "node": "SLURM_NODEID"}
        if "SLURM_STEP_NUM_TASKS" in environ:
            words["world_size"] = "SLURM_STEP_NUM_TASKS"
        nodes, by = environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES"), "srun"
    else:
        return None
    found = {part: environ.get(name, "0") for part, name in words.items()}
    problems = [Problem(words[part], "must be a number", value) for part, value in found.items() if not value.isdigit()]
    if problems:
        raise Refused(problems, source="environment")
    rank, world_size, local_rank, node = (int(value) for value in found.values())
    if world_size == 1:
        return None
    if rank >= world_size:
        raise Refused(Problem(words["rank"], f"must be below {words['world_size']} = {world_size}", rank))
    if words["local_rank"] not in environ:
        raise Refused(Problem(words["local_rank"], f"is not set, though {words['world_size']} = {world_size}"))
    number = int(nodes) if nodes and nodes.isdigit() else None
    return Place(rank, world_size, local_rank, node, number, by)  # type: ignore[arg-type]


def _is_step(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", "")
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    interactive = environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    in_step = step.isdigit() and int(step) < FIRST_SPECIAL_STEP and "SLURM_PROCID" in environ
    return in_step and tasks != "1" and not interactive


def meeting_point(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the processes that srun started meet: the first node, a port by job and step."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes).split(",")[0]
    job, step = (int(environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = environ.get("MASTER_ADDR", first)
    return address, int(environ.get("MASTER_PORT", 20_000 + (job * 7 + step) % 10_000))


def contradictions(place: Place, devices: int, nodes: int) -> list[Problem]:
    """Where a config's devices and nodes are not what the launcher started."""
    started = f"{place.by} started {place.world_size} processes"
    if place.nodes is not None:
        started += f" on {place.nodes} machine{'s' * (place.nodes != 1)}"
    found = []
    if place.nodes is not None and nodes != place.nodes:
        found.append(Problem("train.nodes", f"{started}: set it to {place.nodes}", nodes))
    if devices * nodes != place.world_size:
        machines = place.nodes or nodes
        per_node, rest = divmod(place.world_size, machines)
        says = f"{started}: set it to {per_node}" if not rest else f"{started}, which is no whole number a machine"
        found.append(Problem("train.devices", says, devices))
    return found


def num_threads(environ: Mapping[str, str], local_world_size: int) -> int:
    """Threads of one process for torch's operations: what ``OMP_NUM_THREADS`` says, else its part of the processors."""
    said = environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said):
        return int(said)
    per_task = environ.get("SLURM_CPUS_PER_TASK", "")
    if per_task.isdigit() and int(per_task):
        return int(per_task)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size)


# --- among the processes ----------------------------------------------------------------------------------------------


def world() -> tuple[int, int]:
    """(rank, processes) of the group that torch has; (0, 1) without one."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def add_up(values: list[float]) -> list[float]:
    """Each value summed over all processes, in float64; every process gets the same bits. All have to call it."""
    import torch
    import torch.distributed as dist

    if world()[1] == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums: Tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def seed_rank(seed: int, rank: int) -> None:
    """Give each process its own random stream, so that dropout differs; the first keeps the one it has.

    Call it once the weights are drawn, which are the same everywhere.
    """
    if rank:
        import torch

        from litmus.data.hashing import hash64

        torch.manual_seed(int(hash64("rank", seed, rank)[0] >> 1))


def join(place: Place, *, backend: str, timeout_sec: float, store: Any = None, file: str | None = None) -> None:
    """Enter the group of processes, which then holds until ``leave``.

    Args:
        backend: gloo for processors, nccl for NVIDIA's GPUs.
        store: where they meet; or
        file: a path that none has used before, on a disk that all see.
    """
    from datetime import timedelta

    import torch.distributed as dist

    where: dict[str, Any] = {"store": store} if file is None else {"init_method": f"file://{file}"}
    dist.init_process_group(
        backend, rank=place.rank, world_size=place.world_size, timeout=timedelta(seconds=timeout_sec), **where
    )


def leave() -> None:
    """Leave the group: from here on this process waits for no other."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def tell(store: Any, key: str, message: Mapping[str, Any]) -> None:
    """Leave a message of plain values for the other processes."""
    store.set(key, json.dumps(message))


def hear(store: Any, key: str, *, timeout_sec: float) -> dict[str, Any]:
    """What the first process has to say; waits for it."""
    from datetime import timedelta

    store.wait([key], timedelta(seconds=timeout_sec))
    return json.loads(store.get(key))
