"""Each operation against torchvision's functional of the same name, sample by sample, on the same parameters."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from litmus.data.augment import colour, geometry, mixing

BILINEAR = InterpolationMode.BILINEAR


def some_images(channels: int = 3, size: tuple[int, int] = (12, 17), batch: int = 24) -> torch.Tensor:
    """uint8, with the awkward ones first: black, white, one grey, pure red, cyan, two levels, a ramp."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=g)
    images[0], images[1], images[2] = 0, 255, 100
    images[3], images[3, :1] = 0, 255
    images[4], images[4, :1] = 255, 0
    images[5] = images[5] // 128 * 200
    images[6] = torch.arange(size[1], dtype=torch.uint8) * 15
    images[7] = images[7, :1]  # grey, but textured
    return images


def evenly(low: float, high: float, batch: int = 24) -> torch.Tensor:
    return torch.linspace(low, high, batch)[torch.arange(batch) * 7 % batch]


def one_by_one(operation, images, *parameters, **fixed):
    each = zip(images, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([operation(image, *values, **fixed) for image, *values in each])


def close(got, expected, tolerance):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).abs().max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_flips_move_pixels_exactly(channels):
    images, flags = some_images(channels), torch.arange(24) % 3 == 0
    upside_down = torch.arange(24) % 2 == 0
    expected = images.clone()
    expected[flags] = reference.horizontal_flip(images[flags])
    assert torch.equal(geometry.flip_crop(images, hflip=flags), expected)
    expected[upside_down] = reference.vertical_flip(expected[upside_down])
    assert torch.equal(geometry.flip_crop(images, hflip=flags, vflip=upside_down), expected)


@pytest.mark.parametrize("padding", [1, 4, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_after_flips_moves_pixels_exactly(channels, padding):
    images, flags = some_images(channels), torch.arange(24) % 3 == 0
    top, left = (torch.arange(24) * step % (2 * padding + 1) for step in (5, 7))
    top[-2:], left[-2:] = 2 * padding, 2 * padding  # the far corner of the last sample, at the end of the memory
    expected = images.clone()
    expected[flags] = reference.horizontal_flip(images[flags])
    expected = one_by_one(
        lambda image, *corner: reference.crop(reference.pad(image, [padding]), *corner, *images.shape[2:]),
        expected,
        top,
        left,
    )
    assert torch.equal(geometry.flip_crop(images, hflip=flags, top=top, left=left, padding=padding), expected)


def test_no_flip_at_all_leaves_a_copy():
    images = some_images()
    copy = geometry.flip_crop(images)
    assert torch.equal(copy, images)
    assert copy.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(
    "used",
    ["angle", "shear", "scale", "translate", "angle shear", "angle scale translate", "angle shear scale translate"],
)
@pytest.mark.parametrize("size", [(12, 17), (32, 32)])
def test_affine_is_torchvisions_to_a_hundred_thousandth(used, size):
    images = some_images(size=size).float() / 255
    given = {
        "angle": evenly(-180, 180),
        "shear": evenly(-40, 40),
        "scale": evenly(0.5, 2),
        "translate": torch.stack((evenly(-6, 6), evenly(5, -5)), 1),
    }
    given = {name: value for name, value in given.items() if name in used.split()}
    neutral = {"angle": 0.0, "shear": 0.0, "scale": 1.0, "translate": [0.0, 0.0]}
    expected = []
    for i, image in enumerate(images):
        one = neutral | {name: value[i].tolist() for name, value in given.items()}
        shear = [one.pop("shear"), 0.0]
        expected.append(reference.affine(image, **one, shear=shear, interpolation=BILINEAR))
    close(geometry.affine(images, **given), torch.stack(expected), 1e-5 * max(size) / 12)


def test_an_affine_of_nothing_is_the_image_itself():
    images = some_images().float() / 255
    same = geometry.affine(images, angle=torch.zeros(24), scale=torch.ones(24), translate=torch.zeros(24, 2))
    close(same, images, 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (colour.adjust_brightness, reference.adjust_brightness, 0, 2.5),
        (colour.adjust_contrast, reference.adjust_contrast, 0, 2.5),
        (colour.adjust_saturation, reference.adjust_saturation, 0, 2.5),
        (colour.adjust_hue, reference.adjust_hue, -0.5, 0.5),
        (colour.adjust_sharpness, reference.adjust_sharpness, 0, 2.5),
    ],
)
def test_colour_on_floats_is_torchvisions_to_a_hundred_thousandth(ours, theirs, low, high, channels):
    images, parameter = some_images(channels).float() / 255, evenly(low, high)
    before = images.clone()
    close(ours(images, parameter), one_by_one(theirs, images, parameter), 1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_sharpness"])
def test_colour_on_uint8_is_torchvisions_within_a_level_and_nearly_always_equal(name, channels):
    images, factor = some_images(channels), evenly(0, 2.5)
    got = getattr(colour, name)(images, factor)
    expected = one_by_one(getattr(reference, name), images, factor)
    close(got, expected, 1)  # they round down: a product a rounding error below a whole level loses it
    assert (got != expected).float().mean() < 2e-3


def test_hue_of_a_grey_image_is_exactly_as_it_was():
    images = some_images()[[0, 1, 2, 7]].float() / 255
    assert torch.equal(colour.adjust_hue(images, torch.tensor([0.1, -0.3, 0.5, 0.25])), images)


def test_colour_takes_one_channel_images_past_saturation_and_hue():
    images = some_images(1).float() / 255
    assert torch.equal(colour.adjust_saturation(images, evenly(0, 2)), images)
    assert torch.equal(colour.adjust_hue(images, evenly(-0.5, 0.5)), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_is_torchvisions_exactly(channels):
    images, bits = some_images(channels), torch.arange(24) % 9
    assert torch.equal(colour.posterize(images, bits), one_by_one(reference.posterize, images, bits))


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_is_torchvisions_exactly(channels):
    images = some_images(channels)
    threshold = evenly(0, 255)
    assert torch.equal(colour.solarize(images, threshold), one_by_one(reference.solarize, images, threshold))
    floats, threshold = images.float() / 255, evenly(0, 1)
    assert torch.equal(colour.solarize(floats, threshold), one_by_one(reference.solarize, floats, threshold))


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_is_torchvisions_exactly(channels):
    images = some_images(channels)
    assert torch.equal(colour.autocontrast(images), reference.autocontrast(images))
    floats = images.float() / 300 + 0.05
    close(colour.autocontrast(floats), reference.autocontrast(floats), 1e-6)


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (12, 17)), (3, (40, 33))])
def test_equalize_is_torchvisions_exactly(channels, size):
    images = some_images(channels, size)
    images[8:16] //= 3
    assert torch.equal(colour.equalize(images), reference.equalize(images))


def test_erase_is_torchvisions_with_value_zero():
    images = torch.randn(4, 3, 9, 11)
    box = torch.tensor([[0, 0, 3, 4], [5, 6, 4, 5], [2, 2, 0, 0], [8, 10, 1, 1]])
    expected = one_by_one(
        lambda image, i, j, h, w: reference.erase(image, i, j, h, w, v=torch.zeros(())), images, *box.unbind(1)
    )
    assert torch.equal(mixing.erase(images, *box.unbind(1)), expected)


def test_erase_sides_are_the_first_try_that_fits():
    areas = torch.tensor([[0.25, 0.9, 0.9], [0.5, 0.25, 0.9]])
    ratios = torch.tensor([[4.0, 4.0, 4.0], [1.0, 0.25, 4.0]])
    height, width = mixing.erase_sides(areas, ratios, (20, 10))
    # 0.25 of 200 pixels at 4:1 is 14.1 x 3.5; 0.9 at 4:1 is 26.8 high and does not fit; 0.25 at 1:4 is 3.5 x 14.1: nor
    assert height.tolist() == [14, 0, 0]
    assert width.tolist() == [4, 0, 0]
    height, width = mixing.erase_sides(areas, ratios, (20, 20))
    # 400 pixels: 20 x 5 is as high as the image, and the second try, 14.1 x 14.1, fits; 37.9 high, then 5 x 20; never
    assert height.tolist() == [14, 0, 0]
    assert width.tolist() == [14, 0, 0]


def test_mix_is_torchvisions_mixup():
    images, labels = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    weight, partner = torch.full((6,), 0.3), torch.arange(6).roll(1)  # torchvision mixes with the batch rolled by one
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    mixed = mixing.mix(images, partner, weight.view(-1, 1, 1, 1))
    close(mixed, images.roll(1, 0) * 0.7 + images * 0.3, 1e-6)
    close(mixing.mix_labels(labels, partner, weight, 3), one_hot.roll(1, 0) * 0.7 + one_hot * 0.3, 1e-6)


def test_cut_box_is_cutmixs_and_a_cut_moves_pixels_exactly():
    kept = torch.tensor([0.75, 0.75, 0.0, 1.0])
    x, y = torch.tensor([5.0, 0.0, 3.0, 3.0]), torch.tensor([4.0, 7.0, 3.0, 3.0])
    box = mixing.cut_box(kept, x, y, (8, 10))
    # a quarter of 8 x 10 is 4 x 5, half sides 2 and 2.5 -> 2; the second hangs over two edges
    assert torch.stack(box, 1).tolist() == [[2, 3, 4, 4], [5, 0, 3, 2], [0, 0, 7, 8], [3, 3, 0, 0]]
    images, partner = torch.randn(4, 3, 8, 10), torch.tensor([1, 2, 3, 0])
    mixed = mixing.mix(images, partner, 1 - mixing.boxes(*box, (8, 10)).float())
    expected = images.clone()
    for i, (top, left, height, width) in enumerate(torch.stack(box, 1).int().tolist()):
        window = (i, slice(None), slice(top, top + height), slice(left, left + width))
        expected[window] = images[(int(partner[i]), *window[1:])]
    assert torch.equal(mixed, expected)
