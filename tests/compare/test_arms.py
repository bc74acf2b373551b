"""Which runs make an arm, what tells arms apart, and what makes them unfair."""

import pytest

from litmus.compare.arms import fairness, group
from litmus.compare.select import data_problems
from tests.compare.made import arm, training


def labels(trainings, by=None):
    arms, problems = group(trainings, by)
    assert problems == []
    return [one.label for one in arms.arms]


def problem(trainings, by=None):
    (found,) = group(trainings, by)[1]
    return str(found)


def test_seeds_of_one_config_are_one_arm_and_arms_stand_in_the_order_they_were_met():
    runs = [*arm("model.width=64", errs={0: 0.1, 1: 0.2}), *arm("model.width=8", errs={1: 0.3})]
    arms, _ = group(runs)
    assert [(one.label, [run.seed for run in one.trainings]) for one in arms.arms] == [
        ("width=64", [0, 1]),
        ("width=8", [1]),
    ]
    assert arms.factors == ["model.width"]
    assert arms.arms[0].mean == pytest.approx(0.15)


def test_what_decides_nothing_makes_no_arm():
    runs = [training("name=a", "train.log_every=7"), training("name=b", "optim.lr=0.3")]
    assert group(runs)[0].factors == ["optim.lr"]


def test_labels_hold_the_fewest_keys_that_tell_arms_apart_names_first():
    runs = [
        training("optim.lr=0.1"),
        training("model.name=residual_mlp", "model.depth=8", "optim.lr=0.2"),
        training("model.name=residual_mlp", "model.depth=8", "optim.lr=0.4"),
    ]
    assert labels(runs) == ["model=mlp, lr=0.1", "model=residual_mlp, lr=0.2", "model=residual_mlp, lr=0.4"]
    assert labels(runs[:2]) == ["model=mlp", "model=residual_mlp"]
    residual = ("model.name=residual_mlp", "model.depth=8")
    earlier = [training("data.batch_size=64"), training("data.batch_size=32", *residual)]
    assert labels(earlier) == ["model=mlp", "model=residual_mlp"]
    same = [training("early_stopping.name=gl"), training("early_stopping.name=up")]
    assert labels(same) == ["early_stopping=gl", "early_stopping=up"]


def test_two_keys_of_one_short_name_are_written_out():
    runs = [
        training(f"early_stopping.name={stop}", f"schedule.name={rate}")
        for stop in ("gl", "up")
        for rate in ("cosine", "constant")
    ]
    assert labels(runs)[0] == "schedule=cosine, early_stopping=gl"
    runs = [training(f"augment.scale=[{low},1.1]", f"data.std=[{low}]") for low in (0.8, 0.9)]
    assert labels(runs)[0].count("=") == 1


def test_the_newest_of_equal_runs_counts_and_that_is_said():
    runs = [training("optim.lr=0.1", val=0.5), training("optim.lr=0.1", val=0.2), training("optim.lr=0.2", val=0.3)]
    for order in (runs, runs[::-1]):
        arms, _ = group(order)
        assert sorted(one.mean for one in arms.arms) == [0.2, 0.3]
        assert arms.notes == ["the same config and seed stands there again once: only the newest of equal runs counts"]


def test_by_names_the_factor_and_pairs_over_all_else():
    runs = [
        training(f"model.width={width}", f"optim.lr={lr}", seed=seed, val=lr)
        for width in (8, 64)
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    arms, _ = group(runs, "model.width")
    assert [(one.label, len(one.runs)) for one in arms.arms] == [("width=8", 4), ("width=64", 4)]
    assert arms.beside == ["optim.lr"]
    assert set(arms.arms[0].runs) == set(arms.arms[1].runs) == {(seed, lr) for seed in "01" for lr in ("0.1", "0.2")}
    assert arms.arms[0].values == {"model.width": "8", "optim.lr": "(several)"}
    assert len(group(runs)[0].arms) == 4


def test_by_code_compares_runs_of_one_config():
    runs = [training(seed=seed, world={"code": code}) for code in ("before", "after") for seed in (0, 1)]
    assert labels(runs, "code") == ["code=before", "code=after"]
    assert "there is one arm; --by code compares by what else differs: code" in problem(runs)
    assert fairness(group(runs, "code")[0], by="code") == []


def test_what_cannot_be_a_factor_is_refused():
    runs = [training("optim.lr=0.1"), training("optim.lr=0.2")]
    assert problem(runs, "optim.lrr") == "--by = 'optim.lrr': no run has it; did you mean 'optim.lr'?"
    assert "paired by their seeds" in problem(runs, "seed")
    assert "is 128 in every run" in problem(runs, "data.batch_size")
    assert "no run has it" in problem(runs, "config")
    assert "nothing differs between these 2 runs but the seed (2 of them): there is one arm" in problem(
        arm(errs={0: 0.1, 1: 0.1})
    )


def test_other_data_sets_and_classes_are_refused_but_the_same_images_under_another_path_are_not():
    digits, fashion = training(), training("data.name=synthetic", world={"data": "other"})
    (first, second, hint) = map(str, data_problems([digits, fashion]))
    assert "1 on digits" in first
    assert "1 on synthetic" in second
    assert "--allow-different" in hint
    few = training("data.classes=[0,1,2]", world={"data": "third"})
    assert len(data_problems([digits, few, few])) == 3
    assert data_problems([digits, training(world={"data": "resized"}), training()]) == []
    folders = [training("data.name=image_folder", f"data.path=/{where}") for where in "ab"]
    assert data_problems(folders) == []  # one digest
    assert (
        len(data_problems([training("data.name=image_folder", f"data.path=/{x}", world={"data": x}) for x in "ab"]))
        == 3
    )


def warned(*runs, reference=0):
    return fairness(group(list(runs))[0], reference)


def test_a_fair_comparison_is_not_warned_of():
    assert warned(training("optim.lr=0.1"), training("optim.lr=0.2")) == []
    momentum = training("optim.name=momentum", "optim.lr=0.1")
    assert warned(training("optim.name=adam", "optim.lr=0.1"), momentum) == []  # each has options that the other lacks


def test_other_images_and_splits_are_warned_of_but_a_larger_training_set_is_not():
    plain = training("optim.lr=0.1")
    assert "data digest" in warned(plain, training("optim.lr=0.2", world={"data": "e"}))[0]
    assert "split digest" in warned(plain, training("optim.lr=0.1", "data.split_seed=3", world={"splits": "t"}))[0]
    assert "split digest" in warned(plain, training("optim.lr=0.2", world={"splits": "t"}))[0]
    assert warned(plain, training("optim.lr=0.1", "data.num_train=100", world={"splits": "t"})) == []


def test_another_number_of_steps_is_warned_of():
    (said,) = warned(training("optim.lr=0.1"), training("optim.lr=0.2", steps=4000))
    assert "different numbers of optimizer steps, 20 to 4,000" in said


def test_arms_that_differ_in_several_keys_are_warned_of():
    one, two = training("optim.lr=0.1", "model.width=8"), training("optim.lr=0.2", "model.width=16")
    (said,) = warned(one, two)
    assert "1 of 1 arms differ from" in said
    assert "(model.width, optim.lr)" in said
    three = training("optim.lr=0.2", "model.width=8")
    assert "1 of 2 arms differ from width=8, lr=0.1" in warned(one, two, three)[0]
    assert warned(one, two, three, reference=2) == []  # one key away from either


def test_surroundings_that_differ_are_warned_of_with_their_values():
    one, two = training("optim.lr=0.1", world={"torch": "2.10"}), training("optim.lr=0.2", world={"torch": "2.14"})
    assert warned(one, two) == ["torch differs between runs, not alike in all arms: 2.10 (1 runs), 2.14 (1 runs)"]
    both = [training(f"optim.lr={lr}", seed=seed, world={"threads": str(seed)}) for lr in (0.1, 0.2) for seed in (1, 2)]
    assert "threads differs between runs, in every arm" in warned(*both)[0]


def test_drawn_numbers_are_rounded_in_labels_while_that_tells_arms_apart():
    drawn = [training(f"optim.lr={lr}") for lr in (0.5319147191944843, 0.0146412296041)]
    arms, _ = group(drawn)
    assert [one.label for one in arms.arms] == ["lr=0.5319", "lr=0.01464"]
    assert arms.arms[0].values["optim.lr"] == "0.5319147191944843"
    assert labels([training(f"optim.lr={lr}") for lr in (0.12345678, 0.12345679)]) == ["lr=0.12345678", "lr=0.12345679"]
