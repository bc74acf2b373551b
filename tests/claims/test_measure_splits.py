import numpy as np
import pytest
import torch

from litmus.claims.measure_splits import KINDS, changed
from litmus.data.augment.geometry import affine


def images(num=64, side=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 1, side, side), generator=generator, dtype=torch.uint8)


def test_a_shift_moves_each_image_by_exactly_its_pixels_along_one_axis():
    given = images()
    moved = changed(given, "shift", 3 / 12, np.arange(64))
    seen = set()
    for image, result in zip(given, moved, strict=True):
        for to in ((3, 0), (-3, 0), (0, 3), (0, -3)):
            if torch.equal(affine(image[None], translate=torch.tensor([to]).float())[0], result):
                assert torch.equal(result, torch.roll(image, (to[1], to[0]), (1, 2)) * _inside(to))
                seen.add(to)
    assert len(seen) == 4


def _inside(to):
    mask = torch.zeros(1, 12, 12, dtype=torch.uint8)
    x, y = to
    mask[:, max(y, 0) : 12 + min(y, 0), max(x, 0) : 12 + min(x, 0)] = 1
    return mask


def test_rotation_scale_and_shear_go_to_either_edge():
    given = images()
    for kind, amount, argument, edges in (
        ("rotate", 20.0, "angle", (20.0, -20.0)),
        ("shear", 10.0, "shear", (10.0, -10.0)),
        ("scale", 1.25, "scale", (1.25, 0.8)),
    ):
        result = changed(given, kind, amount, np.arange(64))
        ways = [affine(given, **{argument: torch.full((64,), edge)}) for edge in edges]
        which = torch.stack([(way.int() - result.int()).abs().flatten(1).amax(1) <= 1 for way in ways])
        assert which.any(0).all(), kind
        assert which.sum(1).min() > 15, kind


def test_brightness_multiplies_and_clamps():
    given = torch.full((64, 1, 4, 4), 200, dtype=torch.uint8)
    assert set(changed(given, "brightness", 0.5, np.arange(64)).flatten().tolist()) == {100, 255}


def test_an_image_goes_to_the_same_side_whatever_else_is_changed():
    given = images()
    whole = changed(given, "rotate", 20.0, np.arange(64))
    part = changed(given[10:13], "rotate", 20.0, np.arange(10, 13))
    assert torch.equal(whole[10:13], part)
    assert not torch.equal(whole, changed(given, "rotate", 20.0, np.arange(64), seed=1))


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="'blur', must be one of shift"):
        changed(images(), "blur", 1.0, np.arange(64))
    assert "brightness" in KINDS
