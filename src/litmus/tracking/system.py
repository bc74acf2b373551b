"""What the machine did while a run trained: CPU, memory and GPUs, as metrics named as MLflow's UI expects them."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from litmus.tracking.run import Run


class SystemMetrics:
    """Sample the machine in the background into ``system/...`` metrics of a run.

    The step is the time since the run started, in whole seconds. CPU and memory
    are the machine's and this process's; GPU figures need the ``nvidia-ml-py``
    package and are left out without it. A context manager, or ``start``/``stop``.

    Args:
        run: the run that gets the metrics.
        every_sec: seconds between samples, above 0.
    """

    def __init__(self, run: Run, *, every_sec: float = 10.0):
        if not every_sec > 0:
            raise ValueError(f"every_sec = {every_sec}: seconds between samples, above 0")
        self.run, self.every_sec = run, every_sec
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="litmus-system-metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _loop(self) -> None:
        import psutil

        process = psutil.Process()
        psutil.cpu_percent()  # the first call has nothing to compare with and answers 0
        process.cpu_percent()
        gpus = _gpus()
        while not self._stop.wait(self.every_sec) and not self.run.finished:
            # A sample that cannot be had (a driver restarting) is a hole in a curve, not the end of it.
            with contextlib.suppress(psutil.Error, OSError):
                values = {**_sample(psutil, process), **gpus()}
                self.run.log_metrics(values, step=max(0, int(time.time() - self.run.started_at)))


def _sample(psutil: Any, process: Any) -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system/process_cpu_percentage": process.cpu_percent(),
        "system/process_memory_megabytes": round(process.memory_info().rss / 1e6, 1),
    }


def _gpus() -> Callable[[], dict[str, float]]:
    """A function that samples every NVIDIA GPU; one that answers nothing without the package, driver or GPU."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return dict
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return dict

    def sample() -> dict[str, float]:
        values: dict[str, float] = {}
        for index, handle in enumerate(handles):
            with contextlib.suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                values[f"system/gpu_{index}_memory_usage_percentage"] = round(memory.used / memory.total * 100, 1)
                values[f"system/gpu_{index}_memory_usage_megabytes"] = round(memory.used / 1e6, 1)
            with contextlib.suppress(pynvml.NVMLError):
                utilisation = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                values[f"system/gpu_{index}_utilization_percentage"] = float(utilisation)
            with contextlib.suppress(pynvml.NVMLError):
                values[f"system/gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return values

    return sample
