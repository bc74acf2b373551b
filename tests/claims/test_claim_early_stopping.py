import math

import pytest
from made import NAN, SEEDS, Finished, is_drawn, losses, made_claim, name, outcomes

from litmus.claims.early_stopping import PRECHELT, label, replay, replay_all, stopping_steps, told
from litmus.errors import Refused

FALLS_AND_RISES = [1.0, 0.5, 0.4, 0.42, 0.45, 0.5, 0.6, 0.7]


def test_a_criterion_is_replayed_as_it_would_have_run():
    train = [1.0 / at for at in range(1, 9)]
    assert replay("gl", {"alpha": 10}, train, FALLS_AND_RISES) == {"stop": 5, "best": 3, "lowest": 3}  # 0.45: 12.5%
    assert replay("gl", {"alpha": 100}, train, FALLS_AND_RISES) == {"stop": math.inf, "best": 3, "lowest": 3}
    two_minima = [1.0, 0.5, 0.6, 0.4]
    assert replay("gl", {"alpha": 10}, train[:4], two_minima) == {"stop": 3, "best": 2, "lowest": 4}


def test_all_criteria_of_the_paper_are_replayed():
    found = replay_all({"train/loss": [0.5] * 60, "val/loss": [0.5 + 0.01 * at for at in range(60)]})
    assert list(found) == [
        *(
            "GL1",
            "GL2",
            "GL3",
            "GL5",
            "GL10",
            "PQ0.5",
            "PQ0.75",
            "PQ1",
            "PQ2",
            "PQ3",
            "UP2",
            "UP3",
            "UP4",
            "UP6",
            "UP8",
        ),
    ]
    assert found["GL1"]["stop"] < found["GL5"]["stop"] < found["GL10"]["stop"]
    assert [found[f"UP{s}"]["stop"] for s in (2, 3, 4, 6, 8)] == [15, 20, 25, 35, 45]
    assert all(math.isnan(one["stop"]) for one in replay_all({}).values())
    assert len(PRECHELT) == 15


def ends(best, last):
    return {
        which: {what: [value + 0.001 * seed for seed in SEEDS] for what, value in (("loss", loss), ("err", err))}
        for which, (loss, err) in (("best", best), ("last", last))
    }


def table_of(clean=((0.6, 0.21), (0.9, 0.19)), noisy=((1.2, 0.27), (2.5, 0.38))):
    course = {"train/loss": [1.0 / at for at in range(1, 9)], "val/loss": FALLS_AND_RISES, "val/err": [0.3] * 8}
    names = ("0", "0.2", "0.4")
    return {
        "noises": [0, 0.2, 0.4],
        "steps": [8 * at for at in range(1, 9)],
        "ends": {"0": ends(*clean), "0.2": ends(*noisy), "0.4": ends(*noisy)},
        "curves": {one: [course] * 5 for one in names},
        "stops": {one: [replay_all(course)] * 5 for one in names},
    }


def test_it_holds_when_noise_makes_the_error_rise_and_clean_labels_only_the_loss():
    assert outcomes(made_claim("early_stopping").judge(table_of())) == ["supported"] * 3


def test_it_is_contradicted_when_the_last_weights_are_better_and_the_clean_error_falls():
    table = table_of(clean=((0.9, 0.19), (0.6, 0.21)), noisy=((1.2, 0.38), (1.0, 0.27)))
    assert outcomes(made_claim("early_stopping").judge(table)) == ["contradicted"] * 3


def test_it_is_open_where_a_seed_disagrees_or_diverged():
    table = table_of()
    table["ends"]["0.4"]["best"]["err"][0] = 0.5
    for which in ("best", "last"):
        for what in ("err", "loss"):
            table["ends"]["0"][which][what][4] = NAN
    assert outcomes(made_claim("early_stopping").judge(table)) == ["inconclusive"] * 3


def test_an_equal_error_on_clean_labels_is_no_gain():
    table = table_of(clean=((0.6, 0.2), (0.9, 0.2)))
    assert outcomes(made_claim("early_stopping").judge(table))[2] == "supported"


@pytest.mark.parametrize("lost", [False, True])
def test_it_is_drawn_with_and_without_trainings_that_diverged(tmp_path, lost):
    table = table_of()
    if lost:
        table["curves"]["0.4"][2] = {}
        table["stops"]["0.4"][2] = replay_all({})
        for which in ("best", "last"):
            table["ends"]["0.4"][which]["err"][2] = NAN
    assert is_drawn(made_claim("early_stopping"), table, tmp_path)


def test_what_never_stops_is_said_and_drawn_as_absent():
    table = table_of()
    assert stopping_steps(table, "0", "GL10") == [40.0] * 5
    assert all(math.isnan(step) for step in stopping_steps(table, "0", "UP8"))
    words = told(table["stops"]["0"])
    assert words.startswith("GL1 4 (5/5), ")
    assert "UP8 never (5/5)" in words
    assert told([replay_all({})]) == "all diverged"


def test_its_ends_are_compared_on_images_that_chose_neither():
    claim = made_claim("early_stopping")
    (measure,) = {measure.key: measure for cell in claim.cells() for measure in cell.measures}.values()
    assert (claim.base.monitor, measure.args["split"]) == ("val/loss", "test")


def test_it_reads_both_ends_the_curves_and_their_replay():
    claim = made_claim("early_stopping")
    history = {
        "train/loss": [(8 * at, 1.0 / at) for at in range(1, 9)],
        "val/loss": [(8 * (at + 1), loss) for at, loss in enumerate(FALLS_AND_RISES)],
        "val/err": [(8 * at, 0.3) for at in range(1, 9)],
    }
    both = {"best": {"loss": 0.6, "err": 0.21, "step": 24}, "last": {"loss": 0.9, "err": 0.19, "step": 64}}
    done = {
        name(label(noise), seed): Finished(losses(0.1, 0.5), {"both_ends": both}, history)
        for noise in (0, 0.2, 0.4)
        for seed in SEEDS
    }
    done[name(label(0.4), 0)] = Finished()
    table = claim.read(done)
    assert table["steps"] == [8 * at for at in range(1, 9)]
    assert table["ends"]["0"]["best"]["err"] == [0.21] * 5
    assert table["stops"]["0.2"][1]["GL10"] == {"stop": 5, "best": 3, "lowest": 3}
    assert table["curves"]["0.4"][0] == {}
    assert math.isnan(table["ends"]["0.4"]["last"]["loss"][0])
    assert outcomes(claim.judge(table)) == ["inconclusive", "supported", "supported"]


@pytest.mark.parametrize(
    "override",
    ["settings.noises=[0.2,0.4]", "settings.noises=[0]", "settings.noises=[0,0.4,0.2]", "settings.noises=[0,1.0]"],
)
def test_noises_that_make_no_claim_are_refused(override):
    with pytest.raises(Refused, match=r"settings\.noises"):
        made_claim("early_stopping", override).cells()


def test_a_base_that_does_not_keep_the_lowest_loss_is_refused():
    claim = made_claim("early_stopping")
    claim.base = claim.base.model_copy(
        update={"checkpoint": claim.base.checkpoint.model_copy(update={"monitor": "val/err"})}
    )
    with pytest.raises(Refused, match=r"checkpoint\.monitor"):
        claim.cells()
