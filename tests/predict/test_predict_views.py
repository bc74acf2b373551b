"""Views move pixels; which there are follows from the run's augmentation."""

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from litmus.config import load_config
from litmus.predict.views import IDENTITY, View, choose_views, make_views

IMAGES = torch.randint(1, 256, (2, 3, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (-1, 0), (0, 3), (0, -2), (1, -1)])
def test_a_view_is_torchvisions_flip_and_shift(hflip, vflip, down, right):
    expected = TF.horizontal_flip(IMAGES) if hflip else IMAGES
    expected = TF.vertical_flip(expected) if vflip else expected
    expected = TF.affine(expected, angle=0, translate=[right, down], scale=1, shear=[0.0])
    assert torch.equal(View(hflip, vflip, down, right)(IMAGES), expected)


def test_flips_and_shifts_are_combined_and_the_image_itself_comes_first():
    ten = make_views(("hflip", "shift"), 4)
    assert len(set(ten)) == 10
    assert ten[0] == View()
    assert [len(make_views(kinds, 1)) for kinds in (["hflip"], ["shift"], ["hflip", "vflip"])] == [2, 5, 4]
    assert len(set(make_views(("shift", "vflip", "hflip"), 2))) == 20
    assert [str(view) for view in make_views(("hflip", "shift"), 4)[:6]] == [
        *("as it is", "4 up", "4 down", "4 left", "4 right", "hflip"),
    ]


@pytest.mark.parametrize(
    ("augment", "size", "count", "moves"),
    [
        (["augment.hflip=0.5"], 32, 2, 0),
        (["augment.vflip=0.1"], 32, 2, 0),
        (["augment.pad_crop=4"], 32, 5, 2),
        (["augment.pad_crop=1"], 32, 5, 1),
        (["augment.shift=0.25"], 32, 5, 4),
        (["augment.hflip=0.5", "augment.pad_crop=4"], 32, 10, 2),
    ],
)
def test_auto_is_what_the_run_was_trained_with_and_never_a_larger_shift(augment, size, count, moves):
    views, problems = choose_views("auto", load_config([], augment), (size, size))
    assert problems == []
    assert len(views) == count
    assert max(abs(view.down) for view in views) == moves


@pytest.mark.parametrize("augment", [[], ["augment.rotate=10", "augment.brightness=0.2"], ["augment.shift=0.1"]])
def test_auto_is_refused_when_training_says_nothing_of_views(augment):
    views, problems = choose_views("auto", load_config([], augment), (8, 8))  # 0.1 of 8 is less than a pixel
    assert views == IDENTITY
    assert "name them, of hflip, vflip, shift" in str(problems[0])


def test_named_views_are_taken_whatever_the_training():
    views, problems = choose_views("hflip, shift", load_config([], []), (64, 96))
    assert (len(views), problems) == (10, [])
    assert max(view.right for view in views) == 2  # 1 in 32 of the smaller side
    _, problems = choose_views("hflp,auto", load_config([], []), (8, 8))
    assert [problem.value for problem in problems] == ["hflp", "auto"]
    assert "did you mean 'hflip'?" in str(problems[0])
