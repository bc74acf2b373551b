"""The machine's figures, under the names MLflow's UI looks for."""

import sys
import types

import pytest

from litmus.tracking.spool import Spool
from litmus.tracking.system import SystemMetrics


def last(run):
    run.flush()
    with Spool(run.dir) as spool:
        return spool.last_metrics()


def test_cpu_and_memory_are_sampled_while_it_runs_and_not_after(start, eventually):
    run = start()
    with SystemMetrics(run, every_sec=0.02):
        eventually(lambda: "system/cpu_utilization_percentage" in last(run))
    values = last(run)
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert 1 < values["system/process_memory_megabytes"] < values["system/system_memory_usage_megabytes"] + 1e6
    with Spool(run.dir) as spool:
        count = len(spool.history("system/process_memory_megabytes"))
        run.flush()
        assert len(spool.history("system/process_memory_megabytes")) == count


class NVMLError(Exception):
    pass


def fake_nvml(*, power=True):
    def power_usage(handle):
        if not power:
            raise NVMLError("not supported")
        return 250_000

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda handle: types.SimpleNamespace(gpu=90 + handle),
        nvmlDeviceGetPowerUsage=power_usage,
    )


@pytest.mark.parametrize("power", [True, False])
def test_every_gpu_is_sampled_and_a_figure_it_lacks_is_left_out(start, eventually, monkeypatch, power):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(power=power))
    run = start()
    with SystemMetrics(run, every_sec=0.02):
        eventually(lambda: "system/gpu_1_utilization_percentage" in last(run))
    values = last(run)
    assert values["system/gpu_0_utilization_percentage"] == 90
    assert values["system/gpu_1_memory_usage_percentage"] == 25
    assert values.get("system/gpu_0_power_usage_watts") == (250 if power else None)


def test_a_machine_without_a_driver_is_sampled_without_gpus(start, eventually, monkeypatch):
    nvml = fake_nvml()

    def no_driver():
        raise NVMLError("driver not loaded")

    nvml.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    run = start()
    with SystemMetrics(run, every_sec=0.02):
        eventually(lambda: "system/cpu_utilization_percentage" in last(run))
    assert not any("gpu" in key for key in last(run))


def test_sampling_ends_with_the_run(start, eventually, caplog):
    run = start()
    metrics = SystemMetrics(run, every_sec=0.02)
    metrics.start()
    run.finish()
    eventually(lambda: not metrics._thread.is_alive())
    assert caplog.records == []


@pytest.mark.parametrize("every_sec", [0, -1, float("nan")])
def test_the_interval_is_above_zero(start, every_sec):
    with pytest.raises(ValueError, match="every_sec"):
        SystemMetrics(start(), every_sec=every_sec)
