"""What guards, signals and saves cost a step, by the bench that prints it."""

import importlib.util
from pathlib import Path

import pytest


def bench(name):
    path = Path(__file__).resolve().parents[2] / "scripts" / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bench_switches_the_hooks_off_and_on_again(tmp_path):
    """Two epochs of each kind are timed, and a save."""
    tiny = ["model.depth=8", "model.width=4", "data.image_size=8", "data.num_images=300"]
    without, ratio, save = bench("step").safety_cost(tiny, rounds=2)
    assert without > 0
    assert ratio > 0
    assert save > 0


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_overhead_on_resnet20(figure):
    without, ratio, save = bench("step").safety_cost(["model.depth=20", "data.num_images=1350"], rounds=15)
    note = f"of a step of {without / 1e3:.0f} ms, median over 15 pairs of epochs in turn; a save takes {save:.0f} ms"
    figure("overhead", f"{100 * (ratio - 1):+.1f}%", holds=ratio < 1.02, note=note)
