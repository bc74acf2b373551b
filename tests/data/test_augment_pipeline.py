"""The whole path: right parameters in the right order, one sample's picture whatever the batch, refusals by name."""

import pickle
import random

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from litmus.data.augment import Augment, draws, normalise
from litmus.data.augment.draws import Draw

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
GEOMETRY = {"shift": 0.2, "rotate": 30.0, "scale": (0.7, 1.4), "shear": 15.0}
COLOUR = {"brightness": 0.4, "contrast": 0.5, "saturation": 1.5, "hue": 0.2}
EVERYTHING_OF_ONE_SAMPLE = {
    **GEOMETRY, **COLOUR, "hflip": 0.5, "vflip": 0.3, "pad_crop": 4, "policy": "trivial", "erase": 0.6, "seed": 5
}  # fmt: skip


def some_images(batch: int = 24, channels: int = 3, size: tuple[int, int] = (20, 26)) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=g)


def augmented(augment, images, idx, *, epoch=0, labels=None, **options):
    channels = images.shape[1]
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    return augment(
        images, labels, idx, epoch=epoch, num_classes=10, mean=MEAN[:channels], std=STD[:channels], **options
    )


def drawn(seed: int, epoch: int, idx: torch.Tensor, draw: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * draws.uniforms(draws.stream_key(seed, epoch), idx, torch.tensor([draw]))[0]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_off_is_what_evaluation_sees_and_that_is_torchvisions_normalisation():
    images = some_images()
    labels = torch.arange(24) % 10
    got, same = augmented(Augment(), images, torch.arange(24), labels=labels)
    assert torch.equal(got, normalise(images, MEAN, STD))
    assert torch.equal(same, labels)
    expected = reference.normalize(reference.to_dtype(images, torch.float32, scale=True), MEAN, STD)
    assert (got - expected).abs().max() < 1e-5


def test_every_parameter_reaches_its_operation_in_the_stated_order():
    images, idx, seed, epoch = some_images(), torch.arange(900, 924), 11, 7
    augment = Augment(**GEOMETRY, **COLOUR, hflip=0.5, vflip=0.3, pad_crop=4, seed=seed)

    def parameter(draw, low=0.0, high=1.0):
        return drawn(seed, epoch, idx, draw, low, high).tolist()

    hflip, vflip = parameter(Draw.HFLIP), parameter(Draw.VFLIP)
    top, left = parameter(Draw.CROP_TOP, 0, 9), parameter(Draw.CROP_LEFT, 0, 9)
    across, down = parameter(Draw.SHIFT_X, -0.2, 0.2), parameter(Draw.SHIFT_Y, -0.2, 0.2)
    angle, scale, shear = (
        parameter(Draw.ROTATE, -30, 30),
        parameter(Draw.SCALE, 0.7, 1.4),
        parameter(Draw.SHEAR, -15, 15),
    )
    brightness, contrast = parameter(Draw.BRIGHTNESS, 0.6, 1.4), parameter(Draw.CONTRAST, 0.5, 1.5)
    saturation, hue = parameter(Draw.SATURATION, 0.0, 2.5), parameter(Draw.HUE, -0.2, 0.2)

    expected = []
    for i, x in enumerate(images):
        x = reference.horizontal_flip(x) if hflip[i] < 0.5 else x
        x = reference.vertical_flip(x) if vflip[i] < 0.3 else x
        x = reference.crop(reference.pad(x, [4]), int(top[i]), int(left[i]), 20, 26)
        x = reference.to_dtype(x, torch.float32, scale=True)
        x = reference.affine(
            x, angle[i], [across[i] * 26, down[i] * 20], scale[i], [shear[i], 0.0], InterpolationMode.BILINEAR
        )
        x = reference.adjust_contrast(reference.adjust_brightness(x, brightness[i]), contrast[i])
        x = reference.adjust_hue(reference.adjust_saturation(x, saturation[i]), hue[i])
        expected.append(reference.normalize(x, MEAN, STD))
    got, _ = augmented(augment, images, idx, epoch=epoch)
    assert (got - torch.stack(expected)).abs().max() < 2e-4  # 1 / std is 4, and saturation up to 2.5 magnifies as well


@pytest.mark.parametrize("options", [EVERYTHING_OF_ONE_SAMPLE, GEOMETRY, COLOUR, {"pad_crop": 4, "hflip": 0.5}])
@pytest.mark.parametrize(("channels", "size"), [(3, (20, 26)), (1, (8, 8)), (3, (33, 35)), (1, (61, 37))])
def test_a_sample_gets_the_same_bits_in_every_batch_order_and_number_of_threads(options, channels, size, threads):
    if channels == 1:
        options = {name: value for name, value in options.items() if name not in ("saturation", "hue")}
    augment, images, idx = Augment(**options), some_images(24, channels, size), torch.arange(100, 124)
    threads(2)  # 24 images of 33 x 35 are split between two threads, in the middle of a row
    whole, _ = augmented(augment, images, idx, epoch=1)
    threads(1)
    for batch_size in (1, 5, 24):
        batches = zip(images.split(batch_size), idx.split(batch_size), strict=True)
        parts = [augmented(augment, *batch, epoch=1)[0] for batch in batches]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.arange(24) * 7 % 24
    assert torch.equal(augmented(augment, images[order], idx[order], epoch=1)[0], whole[order])


@pytest.mark.parametrize("options", [{**GEOMETRY, **COLOUR}, {"pad_crop": 4, "hflip": 0.5, "vflip": 0.5}])
def test_a_batch_taken_in_pieces_is_the_batch_taken_whole(options, monkeypatch):
    augment, images, idx = Augment(**options), some_images(), torch.arange(24)
    whole, _ = augmented(augment, images, idx, channels_last=True)
    monkeypatch.setattr("litmus.data.augment.pipeline._BYTES_AT_ONCE", 7 * images[0].numel())
    assert len(augment._parts(images)) > 3
    assert torch.equal(augmented(augment, images, idx, channels_last=True)[0], whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device")
def test_a_sample_gets_the_same_picture_on_another_device():
    options = {name: value for name, value in EVERYTHING_OF_ONE_SAMPLE.items() if name != "policy"}
    augment, images, idx = Augment(**options), some_images(), torch.arange(24)
    here, _ = augmented(augment, images, idx)
    there, _ = augmented(augment, images.cuda(), idx.cuda(), labels=torch.zeros(24, dtype=torch.int64).cuda())
    # The parameters are equal bit for bit; a bilinear sum may be rounded differently.
    assert (there.cpu() - here).abs().max() < 1e-4


@pytest.mark.parametrize("address", [{"epoch": 1}, {"seed": 1}, {"idx": 1}])
def test_another_address_gives_another_picture(address):
    images = some_images(1).expand(24, -1, -1, -1)
    idx = torch.arange(24) + 1000 * address.get("idx", 0)
    one, _ = augmented(Augment(**GEOMETRY, seed=0), images, torch.arange(24))
    two, _ = augmented(Augment(**GEOMETRY, seed=address.get("seed", 0)), images, idx, epoch=address.get("epoch", 0))
    assert ((one - two).abs().amax((1, 2, 3)) > 1e-3).all()


def test_switching_one_operation_on_leaves_the_draws_of_the_others():
    images, idx = some_images(), torch.arange(24)
    white = torch.full_like(images, 255)  # brightness below 1 shows on white, wherever the flip goes
    alone, _ = augmented(Augment(brightness=0.5), white, idx)
    together, _ = augmented(Augment(brightness=0.5, hflip=0.5, mixup=0.0, rotate=0.0), white, idx)
    assert torch.equal(alone, together)
    assert len(alone[:, 0, 0, 0].unique()) > 5


@pytest.mark.parametrize("options", [EVERYTHING_OF_ONE_SAMPLE, {"mixup": 0.4, "cutmix": 1.0}])
def test_no_global_generator_is_touched_and_no_input_changed(options):
    images, labels, idx = some_images(), torch.arange(24) % 10, torch.arange(24)
    before = images.clone(), labels.clone(), idx.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - its state, unread
    augmented(Augment(**options), images, idx, labels=labels)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    assert all(torch.equal(now, then) for now, then in zip((images, labels, idx), before, strict=True))


def test_one_channel_passes_colour_unchanged_but_for_brightness_and_contrast():
    images, idx = some_images(24, 1), torch.arange(24)
    coloured, _ = augmented(Augment(saturation=0.9, hue=0.5), images, idx)
    assert (coloured - normalise(images, MEAN[:1], STD[:1])).abs().max() < 1e-5
    brightened, _ = augmented(Augment(brightness=0.5), images, idx)
    assert (brightened - coloured).abs().amax((1, 2, 3)).min() > 1e-3


def test_a_flip_probability_is_kept():
    images, idx = some_images(1, 1, (1, 2)).expand(20_000, -1, -1, -1), torch.arange(20_000)
    got, _ = augmented(Augment(hflip=0.3), images, idx)
    flipped = (got != normalise(images, MEAN[:1], STD[:1])).flatten(1).any(1).float().mean()
    assert abs(flipped - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5


def test_erasing_zeroes_one_box_of_the_right_area_after_normalising():
    images, idx = some_images(4000, 1, (16, 24)) // 2, torch.arange(4000)
    mean, std = (0.9,), (0.1,)  # no pixel is normalised to 0
    plain = normalise(images, mean, std)
    got, _ = Augment(erase=0.5, erase_area=(0.1, 0.3), erase_ratio=(0.5, 2.0))(
        images, torch.zeros(4000, dtype=torch.int64), idx, epoch=0, num_classes=2, mean=mean, std=std
    )
    hole = (got == 0)[:, 0]
    assert torch.equal(got[~hole.unsqueeze(1)], plain[~hole.unsqueeze(1)])
    erased = hole.flatten(1).any(1)
    assert abs(erased.float().mean() - 0.5) < 4 * 0.5 / 4000**0.5
    rows, columns = hole[erased].any(2).sum(1), hole[erased].any(1).sum(1)
    assert torch.equal(rows * columns, hole[erased].sum((1, 2)))  # a box, nothing but a box
    area = hole[erased].float().mean((1, 2))
    assert area.min() > 0.08  # 0.1 to 0.3, up to the rounding of its sides
    assert area.max() < 0.33
    assert abs(area.mean() - 0.2) < 0.01
    ratio = rows / columns
    assert ratio.min() > 0.4
    assert ratio.max() < 2.5
    assert abs(ratio.log().mean()) < 0.05
    everywhere = hole[erased].float().mean(0)
    assert (everywhere > 0.005).all()  # down to the corners


def weights_of(images, mixed, partner):
    """The share of the own image, by least squares."""
    own, other = images.flatten(1), images[partner].flatten(1)
    return ((mixed.flatten(1) - other) * (own - other)).sum(1) / (own - other).square().sum(1)


def test_mixup_blends_images_and_labels_by_one_weight_a_sample():
    images, idx = some_images(64), torch.arange(64)
    labels = torch.arange(64) % 10
    mixed, soft = augmented(Augment(mixup=1.0), images, idx, labels=labels)
    assert soft.shape == (64, 10)
    assert soft.dtype == torch.float32
    assert torch.allclose(soft.sum(1), torch.ones(64))
    keys = draws.hash_bits(draws.stream_key(0, 0), idx, torch.tensor([Draw.PARTNER]))[0]
    chain = keys.argsort().tolist()
    partner = torch.tensor([chain[(chain.index(i) + 1) % 64] for i in range(64)])
    assert (partner != idx).all()
    weight = weights_of(normalise(images, MEAN, STD), mixed, partner)
    lam = drawn(0, 0, idx, Draw.MIX_LAMBDA)  # alpha = 1 is the uniform distribution
    assert (weight - lam).abs().max() < 1e-3
    expected = torch.nn.functional.one_hot(labels, 10) * lam.unsqueeze(1)
    expected = expected + torch.nn.functional.one_hot(labels[partner], 10) * (1 - lam).unsqueeze(1)
    assert (soft - expected).abs().max() < 1e-3


def test_cutmix_pastes_a_box_and_weighs_labels_by_its_area():
    images, idx = some_images(64), torch.arange(64)
    labels = torch.arange(64) % 10
    mixed, soft = augmented(Augment(cutmix=1.0), images, idx, labels=labels)
    plain = normalise(images, MEAN, STD)
    own = (mixed == plain).all(1).flatten(1).float().mean(1)
    kept = soft.gather(1, labels.unsqueeze(1)).squeeze(1)
    apart = kept + (soft > 0).sum(1).eq(1) * (own - 1)  # where the partner has the same label, kept is 1
    assert (apart - own).abs().max() < 1e-6
    assert own.min() < 0.4
    assert own.max() == 1
    pasted = mixed[(mixed != plain).any(1, keepdim=True).expand_as(mixed)]
    assert torch.isin(pasted, plain).all()


def test_with_both_on_half_the_samples_get_either_and_mix_prob_leaves_the_rest():
    idx = torch.arange(2000)
    images = (idx // 8).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)  # one level each
    plain = normalise(images, MEAN[:1], STD[:1])
    mixed, soft = augmented(Augment(mixup=1.0, cutmix=1.0, mix_prob=0.8), images, idx)
    own = (mixed == plain).flatten(1)
    untouched, cut = own.all(1).float().mean(), (own.any(1) & ~own.all(1)).float().mean()
    assert abs(untouched - 0.225) < 0.04  # 0.2, and a sixteenth of the cuts, whose box has no pixel
    assert abs(cut - 0.375) < 0.05
    assert torch.equal(soft[:, 0], torch.ones(2000))  # all of one class


def test_partners_depend_on_the_set_of_indices_not_on_their_order():
    images, idx, order = some_images(), torch.arange(24), torch.arange(24) * 5 % 24
    augment = Augment(mixup=0.4, cutmix=1.0)
    one, _ = augmented(augment, images, idx)
    two, _ = augmented(augment, images[order], idx[order])
    assert torch.equal(one[order], two)


def test_a_batch_of_one_is_mixed_with_itself():
    images, idx = some_images(1), torch.arange(1)
    mixed, soft = augmented(Augment(mixup=1.0), images, idx, labels=torch.tensor([3]))
    assert torch.allclose(mixed, normalise(images, MEAN, STD), atol=1e-6)
    assert torch.allclose(soft, torch.nn.functional.one_hot(torch.tensor([3]), 10).float())


@pytest.mark.parametrize("options", [{}, {"hflip": 0.5}, EVERYTHING_OF_ONE_SAMPLE, {"cutmix": 1.0}])
def test_channels_last_changes_the_layout_and_no_value(options):
    images, idx = some_images(), torch.arange(24)
    usual, _ = augmented(Augment(**options), images, idx)
    other, _ = augmented(Augment(**options), images, idx, channels_last=True)
    assert torch.equal(usual, other)
    assert other.is_contiguous(memory_format=torch.channels_last)
    assert usual.is_contiguous()
    assert normalise(images, MEAN, STD, channels_last=True).is_contiguous(memory_format=torch.channels_last)


def test_a_copy_through_pickle_draws_the_same():
    augment, images, idx = Augment(**EVERYTHING_OF_ONE_SAMPLE), some_images(), torch.arange(24)
    copy = pickle.loads(pickle.dumps(augment))
    assert torch.equal(augmented(augment, images, idx)[0], augmented(copy, images, idx)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shift", 1.1), ("shift", -0.1), ("rotate", 400), ("rotate", -1), ("shear", 90), ("scale", (1.2, 0.8)),
        ("scale", (0.0, 1.0)), ("scale", (0.9, float("inf"))), ("scale", (0.5, 0.7, 0.9)), ("hflip", 1.5),
        ("vflip", -0.5), ("erase", 2), ("mix_prob", float("nan")), ("pad_crop", -1), ("pad_crop", 1.5),
        ("brightness", -1), ("contrast", float("nan")), ("saturation", float("inf")), ("hue", 0.6), ("mixup", -0.2),
        ("cutmix", float("nan")), ("erase_area", (0.3, 0.1)), ("erase_area", (0.1, 1.2)), ("erase_ratio", (0.0, 1.0)),
        ("policy", "randaugment"), ("seed", -1), ("seed", 0.5),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^{key} is "):
        Augment(**{key: value})


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="must be uint8"):
        augmented(Augment(), some_images().float(), torch.arange(24))
    with pytest.raises(ValueError, match="must be uint8"):
        normalise(some_images()[0], MEAN, STD)
    with pytest.raises(ValueError, match="mean has 1 values"):
        normalise(some_images(), MEAN[:1], STD)
    four = some_images(2, 4)
    with pytest.raises(ValueError, match="4 channels"):
        Augment(contrast=0.1)(
            four, torch.zeros(2).long(), torch.arange(2), epoch=0, num_classes=2, mean=(0.5,) * 4, std=(1.0,) * 4
        )
