import math

import pytest
from made import NAN, SEEDS, Finished, is_drawn, losses, made_claim, name, outcomes

from litmus.claims.augmentation import ALL, NONE, TRIVIAL, of_kind
from litmus.data.augment import Augment
from litmus.errors import Refused

KINDS = ("shift", "rotate", "scale", "brightness")
ARMS = (NONE, *KINDS, ALL, TRIVIAL)


def table_of(without=0.5, matched=0.3):
    def err(arm, test):
        if test == "clean":
            return 0.2
        return matched if arm in (test, ALL) else without

    errs = {
        arm: {test: [err(arm, test) + 0.001 * seed for seed in SEEDS] for test in ("clean", *KINDS)} for arm in ARMS
    }
    return {"kinds": list(KINDS), "errs": errs}


def test_it_holds_when_every_matched_arm_errs_less_on_its_own_images():
    assert outcomes(made_claim("augmentation").judge(table_of())) == ["supported"] * 4


def test_it_is_contradicted_when_augmentation_makes_it_worse():
    assert outcomes(made_claim("augmentation").judge(table_of(without=0.3, matched=0.5))) == ["contradicted"] * 4


def test_it_is_open_for_the_kind_where_a_seed_disagrees_or_diverged():
    table = table_of()
    table["errs"]["shift"]["shift"][2] = 0.6
    table["errs"]["scale"]["scale"][1] = NAN
    found = outcomes(made_claim("augmentation").judge(table))
    assert found == ["inconclusive", "supported", "inconclusive", "supported"]


def test_its_title_says_what_became_of_the_first_kind(tmp_path, monkeypatch):
    said = {}
    monkeypatch.setattr("litmus.claims.augmentation.draw", lambda panels, path, **how: said.update(how) or path)
    made_claim("augmentation").draw(table_of(), tmp_path / "a.png")
    assert said["title"] == "Training with shift: error on such images 0.502 to 0.302, on clean ones 0.202 to 0.202"


@pytest.mark.parametrize("lost", [False, True])
def test_it_is_drawn_with_and_without_trainings_that_diverged(tmp_path, lost):
    table = table_of()
    if lost:
        table["errs"][ALL] = {test: [NAN] * 5 for test in ("clean", *KINDS)}
        table["errs"]["shift"]["shift"][0] = NAN
    assert is_drawn(made_claim("augmentation"), table, tmp_path)


def test_each_arm_draws_from_the_range_to_whose_edge_the_test_images_go():
    cells = {cell.name: cell.config.augment for cell in made_claim("augmentation").cells()}
    assert cells["none, seed 0"].model_dump() == type(cells["none, seed 0"])().model_dump()
    assert cells["shift, seed 0"].shift == pytest.approx(3 / 28)
    assert cells["scale, seed 0"].scale == (1 / 1.3, 1.3)
    together = cells["all, seed 0"]
    assert (together.rotate, together.brightness, together.scale) == (20, 0.5, (1 / 1.3, 1.3))
    assert cells["trivial, seed 0"].policy == "trivial"
    for kind in ("shift", "rotate", "scale", "shear", "brightness"):
        Augment(**{kind: of_kind(kind, 1.2 if kind == "scale" else 0.5)})  # known by these names


def test_it_reads_the_errors_of_every_arm_on_every_kind_of_image():
    claim = made_claim("augmentation")
    found = {"transformed": {"err": {"clean": 0.2, **dict.fromkeys(KINDS, 0.4)}}}
    done = {name(arm, seed): Finished(losses(0.1, 0.5), found) for arm in ARMS for seed in SEEDS}
    done[name("shift", 3)] = Finished()
    table = claim.read(done)
    assert table["errs"]["rotate"]["scale"] == [0.4] * 5
    assert math.isnan(table["errs"]["shift"]["clean"][3])
    assert len(table["rows"]) == 35


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.transforms.blur=1", r"settings\.transforms\.blur.*is none of shift"),
        ("settings.transforms.rotate=0", r"settings\.transforms\.rotate.*> 0"),
        ("settings.transforms.scale=0.9", r"settings\.transforms\.scale.*above 1"),
        ("settings.images=0", r"settings\.images.*>= 1"),
    ],
)
def test_wrong_transforms_are_refused(override, says):
    with pytest.raises(Refused, match=says):
        made_claim("augmentation", override).cells()
