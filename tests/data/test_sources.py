import dataclasses
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from litmus.data.images import ArrayImages
from litmus.data.sources import Request, load_source, source_names
from litmus.data.sources.torchvision_sets import TABLE
from litmus.errors import Refused

DEBIAN = Path(TABLE["fashion_mnist"].system[0])


def load(name, **changes):
    return load_source(Request(name, Path("nowhere"), download=False, **changes))


def test_digits_are_scikit_learns_with_16_as_white():
    found, reference = load("digits"), load_digits()
    assert found.train.shape == (1, 8, 8)
    assert found.test is None
    images = found.train[torch.arange(1797)][:, 0].numpy()
    assert np.abs(images / 255 * 16 - reference.images).max() < 16 / 255
    assert (images.min(), images.max()) == (0, 255)
    assert np.array_equal(found.train.labels.numpy(), reference.target)


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        pytest.param("fashion_mnist", marks=pytest.mark.skipif(not DEBIAN.exists(), reason="no dataset-fashion-mnist")),
    ],
)
def test_moments_in_the_table_are_those_of_the_images(name):
    found = load(name)
    mean, std = found.train.moments(torch.arange(len(found.train)))
    assert found.mean == pytest.approx(mean, abs=5e-5)
    assert found.std == pytest.approx(std, abs=5e-5)


@pytest.mark.skipif(not DEBIAN.exists(), reason="no dataset-fashion-mnist")
def test_fashion_mnist_is_found_where_debian_puts_it():
    found = load("fashion_mnist")
    assert (len(found.train), len(found.test)) == (60_000, 10_000)
    assert found.where == str(DEBIAN)
    assert np.bincount(found.train.labels).tolist() == [6_000] * 10
    assert found.class_names[9] == "Ankle boot"


def test_the_root_comes_before_the_systems_folders(tmp_path, monkeypatch):
    def plant(folder, value):
        folder.mkdir(parents=True)
        for prefix in ("train", "t10k"):
            pixels = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes([value]) * (2 * 28 * 28)
            (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
            (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\2\0\1"))

    plant(tmp_path / "system", 1)
    few = dataclasses.replace(
        TABLE["fashion_mnist"], images={"train": 2, "test": 2}, system=(str(tmp_path / "system"),)
    )
    monkeypatch.setitem(TABLE, "fashion_mnist", few)
    request = Request("fashion_mnist", tmp_path / "root", download=False)
    assert load_source(request).train[torch.tensor([0])].unique().tolist() == [1]
    plant(tmp_path / "root" / "fashion_mnist", 2)
    assert load_source(request).train[torch.tensor([0])].unique().tolist() == [2]
    plant(tmp_path / "root" / "FashionMNIST" / "raw", 3)
    assert load_source(request).train[torch.tensor([0])].unique().tolist() == [3]


def test_synthetic_images_are_a_function_of_the_split_seed():
    first, again = load("synthetic", num_images=50), load("synthetic", num_images=50)
    assert first.train.digest == again.train.digest == "70f00a0a90d9c6da7d448b8ed9770140"
    assert load("synthetic", num_images=50, split_seed=1).train.digest != first.train.digest


def test_synthetic_images_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    from litmus.data.sources import synthetic

    whole = load("synthetic", num_images=50, image_size=(8, 8)).train
    monkeypatch.setattr(synthetic, "_CHUNK", 8 * 8 * 3 * 7)
    assert load("synthetic", num_images=50, image_size=(8, 8)).train.digest == whole.digest


@pytest.mark.parametrize("channels", [1, 3])
def test_synthetic_images_can_be_learnt_but_not_from_single_pixels(channels):
    """Orientation energy tells the class; a linear model of the pixels, which sees no phase, hardly does."""
    found = load("synthetic", num_images=1200, num_classes=4, image_size=(16, 16), channels=channels)
    images = found.train[torch.arange(1200)].double().mean(1) / 255
    labels = found.train.labels
    assert torch.bincount(labels).tolist() == [300] * 4

    power = (
        torch.fft.fft2(images - images.mean((1, 2), keepdim=True))
        .abs()
        .square()[:, :5, [-4, -3, -2, -1, 0, 1, 2, 3, 4]]
    )
    err = {
        name: _nearest_centroid_err(x.flatten(1), labels)
        for name, x in {"power": power.log1p(), "pixels": images}.items()
    }
    assert err["power"] < 0.1
    assert err["pixels"] > 0.5


def _nearest_centroid_err(x, labels):
    train, test = slice(0, 900), slice(900, None)
    centroids = torch.stack([x[train][labels[train] == k].mean(0) for k in range(int(labels.max()) + 1)])
    return float((torch.cdist(x[test], centroids).argmin(1) != labels[test]).double().mean())


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_size_and_channels_are_as_asked(name):
    asked = load(name, image_size=(12, 10), channels=3)
    assert asked.train.shape == (3, 12, 10)
    assert load(name, channels=1).train.shape[0] == 1


def test_digits_that_are_resized_get_moments_of_their_own():
    assert load("digits", image_size=(16, 16)).mean is None
    assert load("digits", channels=3).mean == (0.3053,) * 3


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="did you mean 'fashion_mnist'"):
        load("fashion-mnist")


def test_a_source_is_one_function_in_one_file(monkeypatch):
    from litmus.data import sources

    monkeypatch.setattr(sources, "_SOURCES", dict(sources._SOURCES))

    @sources.source("stripes")
    def stripes(request):
        return sources.Source(
            ("a", "b"), ArrayImages(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        )

    assert "stripes" in source_names()
    assert len(load("stripes").train) == 4
    with pytest.raises(ValueError, match="'stripes' is registered twice"):
        sources.source("stripes")(lambda request: stripes(request))


def test_the_digits_are_scikit_learns_to_the_last_cell_without_importing_it():
    from litmus.data.sources import digits

    code = (
        "import sys; from litmus.data.sources.digits import read_digits; read_digits(); print('sklearn' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
    cells, labels = digits.read_digits()
    reference = load_digits()
    assert np.array_equal(cells, reference.images)
    assert np.array_equal(labels, reference.target)
    assert (cells.dtype, labels.dtype) == (reference.images.dtype, reference.target.dtype)
    assert [str(name) for name in reference.target_names] == [str(name) for name in range(10)]
