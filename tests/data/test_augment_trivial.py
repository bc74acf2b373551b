"""TrivialAugment against torchvision's: the same operations and strengths, the same pixels."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import TrivialAugmentWide

from litmus.data.augment import Augment, draws, trivial
from litmus.data.augment.draws import Draw

THEIRS = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
NAMES = {name.lower(): name for name in THEIRS._AUGMENTATION_SPACE}  # ShearX for our shear_x


def theirs(op: str) -> str:
    return NAMES[op.replace("_", "")]


def some_images(channels: int, batch: int, size: tuple[int, int] = (20, 26)) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=g)
    images[::3] //= 2
    return images


def test_operations_and_strengths_are_torchvisions():
    space = THEIRS._AUGMENTATION_SPACE
    assert sorted(theirs(op) for op in trivial.OPS) == sorted(space)
    assert THEIRS.num_magnitude_bins == trivial.NUM_BINS
    for op, strengths, sign in zip(trivial.OPS, trivial.levels(), trivial.signed(), strict=True):
        magnitudes, signed = space[theirs(op)]
        expected = magnitudes(trivial.NUM_BINS, 32, 32)
        expected = torch.zeros(trivial.NUM_BINS) if expected is None else expected.float()
        if op.startswith("translate"):
            expected = expected.trunc()  # they shift by int(magnitude)
        assert torch.equal(strengths, expected), op
        assert bool(sign) == signed, op


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("op", trivial.OPS)
def test_each_operation_at_each_strength_is_torchvisions_within_a_level(op, channels):
    number = trivial.OPS.index(op)
    levels = trivial.levels()[number]
    if trivial.signed()[number]:
        levels = torch.cat((levels, -levels))
    images = some_images(channels, len(levels))
    got = trivial.apply_ops(images, torch.full((len(levels),), number), levels)
    expected = torch.stack(
        [
            THEIRS._apply_image_or_video_transform(
                image, theirs(op), level, interpolation=InterpolationMode.BILINEAR, fill={}
            )
            for image, level in zip(images, levels.tolist(), strict=True)
        ]
    )
    assert (got.int() - expected.int()).abs().max() <= 1  # a rounding error decides a tie between two levels
    assert (got != expected).float().mean() < 2e-3


def test_a_mixed_batch_gets_each_samples_own_operation():
    op = torch.arange(60) * 5 % len(trivial.OPS)
    level = trivial.levels()[op, torch.arange(60) * 11 % trivial.NUM_BINS]
    images = some_images(3, 60)
    before = images.clone()
    alone = [trivial.apply_ops(images[i : i + 1], op[i : i + 1], level[i : i + 1]) for i in range(60)]
    assert torch.equal(trivial.apply_ops(images, op, level), torch.cat(alone))
    assert torch.equal(images, before)


def test_the_policy_draws_operation_strength_and_sign_by_address():
    idx, images = torch.arange(500, 564), some_images(3, 64)
    augment = Augment(policy="trivial", seed=3)
    got, _ = augment(
        images, idx % 10, idx, epoch=2, num_classes=10, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)
    )
    numbers = torch.tensor([Draw.POLICY_OP, Draw.POLICY_BIN, Draw.POLICY_SIGN])
    op, strength, sign = draws.uniforms(draws.stream_key(3, 2), idx, numbers)
    op = (op * 14).long()
    level = trivial.levels()[op, (strength * 31).long()]
    level = torch.where(trivial.signed()[op] & (sign < 0.5), -level, level)
    assert len(op.unique()) == 14
    assert torch.equal(got.round().to(torch.uint8), trivial.apply_ops(images, op, level))
