"""Who trains where: a post has its devices and its threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from litmus.errors import Problem, Refused
from litmus.ranks import num_threads


@dataclass(frozen=True)
class Post:
    """Where a worker stands: its number, its devices and threads, and until when it may begin a trial."""

    index: int
    devices: tuple[str, ...] = ()
    threads: int = 1
    until: float | None = None
    """Seconds since the epoch."""


def make_posts(
    *,
    workers: int | None,
    devices: Sequence[str],
    share: bool,
    per_trial: int,
    accelerator: str,
    cores: int,
    gpus: int,
    source: str = "command",
) -> list[Post]:
    """Where each worker stands: the devices that its trials use, and how many threads.

    Args:
        workers: as asked for; by default one for every ``per_trial`` devices, and one on a machine without GPUs.
        devices: GPUs by number or UUID; empty for all there are.
        share: whether several workers may use one device.
        per_trial: devices of one trial, ``train.devices``.
        accelerator: ``train.accelerator``.
        cores: processors that this process may use.

        source: what was typed, for a refusal.

    Raises:
        Refused: more workers than devices, without ``share``; more devices a trial than there are.
    """
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and gpus > 0)
    problems = []
    if devices and not on_gpu:
        says = f"are GPUs, and there are {gpus}" if not gpus else f"are GPUs, and train.accelerator is {accelerator!r}"
        problems.append(Problem("--devices", says, ",".join(devices)))
    if len(set(devices)) < len(devices):
        problems.append(
            Problem("--devices", "names one twice: --workers and --share let several use it", list(devices))
        )
    if on_gpu and gpus:
        wrong = [name for name in devices if name.isdigit() and int(name) >= gpus]
        if wrong:
            problems.append(
                Problem("--devices", f"has {', '.join(wrong)}, and there are 0 to {gpus - 1}", list(devices))
            )
    names = list(devices) or [str(k) for k in range(gpus)] if on_gpu else []
    what, there = ("GPUs", len(names)) if on_gpu else ("processor cores", cores)
    if not problems and on_gpu and there < per_trial:
        problems.append(Problem("train.devices", f"a trial wants {per_trial} GPUs, there are {there}", per_trial))
    count = workers if workers is not None else (max(1, there // per_trial) if on_gpu else 1)
    if not problems and count * per_trial > there and not share:
        each = f" of {per_trial} {what} each" if per_trial > 1 else ""
        says = f"workers{each}, and this machine has {there} {what}; --share lets several use one"
        problems.append(Problem("--workers", says, count))
    if problems:
        raise Refused(problems, source=source)
    threads = num_threads(os.environ, count)
    groups = [tuple(names[k : k + per_trial]) for k in range(0, len(names) - per_trial + 1, per_trial)] or [()]
    return [Post(k, groups[k % len(groups)], threads) for k in range(count)]


def here() -> dict[str, int]:
    """Processor cores and GPUs that this process may use, for ``make_posts``."""
    from litmus.tracking import usable_cores

    return {"cores": usable_cores(), "gpus": num_gpus()}


def num_gpus() -> int:
    """GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if Path("/proc/driver/nvidia/gpus").is_dir() else 0
