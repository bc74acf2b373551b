"""Small folders of images, each image different from every other."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """``make_folder("photos", {"cat": 3, "dog": 2}, size=(8, 8), mode="L")``; size is (H, W)."""
    drawn = np.random.Generator(np.random.PCG64(0))

    def make(
        name: str, counts: Mapping[str, int], *, size: tuple[int, int] = (8, 8), mode: str = "L", suffix: str = "png"
    ) -> Path:
        for class_name, count in counts.items():
            folder = tmp_path / name / class_name
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(count):
                shape = size if mode == "L" else (*size, 3)
                Image.fromarray(drawn.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{k:03d}.{suffix}")
        return tmp_path / name

    return make
