"""One way from an image file to what a network reads."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from litmus.data.datamodule import ImageDataModule
from litmus.data.preprocessing import Normalised, Preprocessing

RGB = Preprocessing(("cat", "dog"), 3, (8, 6), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def test_json_gives_it_back():
    assert Preprocessing.from_json(RGB.to_json()) == RGB


def test_pixels_are_seen_as_evaluation_sees_them():
    data = ImageDataModule("digits")
    batch = next(iter(data.loader("test")))
    seen = Preprocessing.of(data.info).normalise(batch.images)
    assert torch.equal(seen, data.to_batch(batch).images)


def test_what_is_exported_reads_raw_pixels():
    images = torch.randint(0, 256, (5, 3, 8, 6), dtype=torch.uint8)
    torch.testing.assert_close(Normalised(nn.Identity(), RGB.mean, RGB.std)(images), RGB.normalise(images))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_a_file_of_any_mode_and_size_is_brought_to_the_networks(mode, tmp_path):
    Image.fromarray(np.arange(30 * 20, dtype=np.uint8).reshape(30, 20)).convert(mode).save(tmp_path / "one.png")
    assert RGB.decode(tmp_path / "one.png").shape == (3, 8, 6)
