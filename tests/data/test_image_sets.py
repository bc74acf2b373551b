import numpy as np
import pytest
import torch
from PIL import Image

from litmus.data.images import ArrayImages, as_shape, cover
from litmus.errors import Refused

GREY = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).integers(0, 256, (20, 1, 12, 10), dtype=np.uint8))
RGB = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).integers(0, 256, (20, 3, 12, 10), dtype=np.uint8))
LABELS = torch.arange(20) % 4


def reshaped(images, **wanted):
    return as_shape(images, **{"image_size": None, "channels": None, "above_gb": 8.0, **wanted})


def test_moments_are_numpys():
    idx = torch.tensor([3, 1, 7, 19])
    mean, std = ArrayImages(RGB, LABELS).moments(idx)
    pixels = RGB[idx].numpy().astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-12)


def test_images_that_fit_are_not_copied():
    assert reshaped(RGB, image_size=(12, 10), channels=3).data_ptr() == RGB.data_ptr()


def test_grey_shown_as_rgb_takes_no_memory_and_comes_out_dense():
    shown = reshaped(GREY, channels=3)
    assert shown.data_ptr() == GREY.data_ptr()
    batch = ArrayImages(shown, LABELS)[torch.tensor([4, 2])]
    assert batch.is_contiguous()
    assert torch.equal(batch, GREY[[4, 2]].repeat(1, 3, 1, 1))
    smaller = reshaped(GREY, channels=3, image_size=(6, 5))
    assert smaller.shape == (20, 3, 6, 5)
    assert smaller.stride(1) == 0


def test_rgb_to_grey_is_pils():
    found = reshaped(RGB, channels=1)[:, 0].numpy()
    expected = np.stack([np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in RGB])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [(8, 8), (24, 24), (6, 9)])
def test_resizing_in_memory_agrees_with_resizing_files(size, tmp_path):
    from litmus.data.decode import decode

    found = reshaped(RGB, image_size=size)
    for image, resized in zip(RGB, found, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
        expected = decode(tmp_path / "x.png", size)
        assert np.abs(resized.numpy().astype(int) - expected).max() <= 1  # rounding of two implementations


@pytest.mark.parametrize(
    ("height", "width", "size", "covered"),
    [(300, 400, (224, 224), (224, 298)), (400, 300, (224, 224), (298, 224)), (10, 40, (20, 20), (20, 80)),
     (100, 100, (50, 60), (60, 60)), (7, 7, (7, 7), (7, 7))],
)  # fmt: skip
def test_the_short_side_fits_and_the_aspect_is_kept(height, width, size, covered):
    assert cover(height, width, size) == covered


def test_a_resize_beyond_the_memory_limit_is_refused_with_figures():
    with pytest.raises(Refused, match=r"20 images of this size take 0\.6 GB of memory; data.stream_above_gb is 0.5"):
        reshaped(RGB, image_size=(3200, 3200), above_gb=0.5)


def test_a_digest_sees_pixels_labels_and_channels():
    base = ArrayImages(GREY, LABELS).digest
    touched = GREY.clone()
    touched[7, 0, 3, 3] ^= 1
    swapped = LABELS.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [ArrayImages(touched, LABELS), ArrayImages(GREY, swapped), ArrayImages(reshaped(GREY, channels=3), LABELS)]
    assert len({base, *(other.digest for other in others)}) == 4
    assert ArrayImages(GREY.clone(), LABELS.int()).digest == base


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (GREY.float(), LABELS, "images are torch.float32"),
        (GREY[:, 0], LABELS, r"shape \(20, 12, 10\)"),
        (GREY, LABELS[:-1], "20 images but 19 labels"),
        (GREY, LABELS.float(), "labels are torch.float32"),
        (GREY, torch.zeros(20, 4, dtype=torch.int64), r"shape \(20, 4\)"),
    ],
)
def test_arrays_of_another_kind_are_refused(images, labels, says):
    with pytest.raises(ValueError, match=says):
        ArrayImages(images, labels)
