"""What the proofs share: a way to write down the figure that they measured."""

import time

import pytest

from tests.reliability import report
from tests.study.conftest import _cluster, postgresql, server  # noqa: F401


@pytest.fixture
def figure(request):
    """``figure(key, "100 of 100", holds=True)``: a row of docs/reliability.md, timed from the test's start."""
    started = time.monotonic()

    def keep(key, text, *, holds, note=""):
        command = f"pytest {request.node.nodeid.partition('[')[0]} -m proof"
        report.put(key, text, holds=holds, command=command, sec=time.monotonic() - started, note=note)
        assert holds, f"{key}: {text} {note}"

    return keep


@pytest.fixture
def image_folder(tmp_path):
    """150 PNGs of 8x8 pixels in three classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(150):
        folder = tmp_path / "images" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (8, 8, 3), dtype=np.uint8) + 60 * np.uint8(number % 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"
