"""What a study concludes: known numbers, scipy as the reference, and coverage by simulation."""

import math
import subprocess
import sys

import pytest
from scipy import stats

from litmus.study.verdict import (
    Candidate,
    OnTest,
    Range,
    at_border,
    choose,
    front_sentence,
    shrinkage,
    verdict,
)


def candidate(number, *scores, searched=None, **values):
    name = "base" if number == 0 else f"trial {number}"
    return Candidate(name, number, {key.replace("__", "."): value for key, value in values.items()}, searched, scores)


BASE = candidate(0, 0.050, 0.052, 0.049, 0.051, 0.050, searched=0.0480)
BETTER = candidate(17, 0.041, 0.044, 0.042, 0.043, 0.041, searched=0.0370, optim__l2_lambda=4.5)


def test_candidates_with_other_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="trial 3"):
        choose([candidate(0, 1.0), candidate(3, 1.0, 2.0)], "minimize")


def test_the_best_mean_is_chosen_and_ties_go_to_the_base_then_to_the_lower_number():
    low, mid, high = candidate(9, 1.0, 3.0), candidate(4, 1.5, 2.5), candidate(0, 4.0, 5.0)
    assert choose([low, mid, high], "maximize") is high
    assert choose([high, low, mid], "minimize") is mid  # both 2.0: trial 4 comes before trial 9
    base = candidate(0, 2.0, 2.0)
    assert choose([low, mid, base], "minimize") is base
    assert choose(
        [candidate(2, 0.1, 0.2, 0.3), candidate(0, 0.2, 0.2, 0.2)], "minimize"
    ).is_base  # 0.2 but for rounding


def test_shrinkage_is_what_the_search_promised_too_much():
    assert shrinkage(candidate(3, 0.05, 0.07, searched=0.04)) == pytest.approx(0.02)
    assert shrinkage(candidate(3, 0.85, 0.87, searched=0.9), direction="maximize") == pytest.approx(0.04)
    assert math.isnan(shrinkage(candidate(3, 0.05)))


def test_a_border_is_five_percent_of_the_range_on_its_own_scale():
    log = Range("optim.lr", 1e-4, 1.0, log=True)  # four decades: 5% are 0.2 of one
    assert at_border({"optim.lr": 0.7}, [log]) == [(log, "upper")]
    assert at_border({"optim.lr": 0.5}, [log]) == []
    assert at_border({"optim.lr": 1.5e-4}, [log]) == [(log, "lower")]
    assert at_border({"optim.lr": 0.0}, [log]) == []
    flat = Range("model.keep_prob", 0.5, 1.0, up=False)
    assert at_border({"model.keep_prob": 0.52}, [flat]) == [(flat, "lower")]
    assert at_border({"model.keep_prob": 0.99}, [flat]) == []  # the config allows no more: nothing to widen
    assert (
        at_border({"data.flip": True, "optim.name": "adam"}, [Range("data.flip", 0, 1), Range("optim.name", 0, 1)])
        == []
    )


def told(*candidates, **facts):
    return verdict("val/err", "minimize", candidates, finished=60, **facts)


def test_a_winner_is_told_in_points_with_interval_seeds_and_sign_test():
    assert told(BASE, BETTER)[0] == (
        "trial 17 beats the base by 0.82 points (95% interval 0.72 to 0.92; better on 5 of 5 fresh seeds, "
        "sign test p = 0.031)"
    )
    assert told(BASE, BETTER)[1] == (
        "trial 17 shrank by 0.52 points: 0.0370 in the search, 0.0422 on fresh seeds (the best of many is too good)"
    )


def test_the_digits_follow_the_width_of_the_interval():
    wide = candidate(17, 0.035, 0.048, 0.043, 0.040, 0.046)
    assert told(BASE, wide)[0].startswith("trial 17 beats the base by 0.8 points (95% interval 0.2 to 1.4;")


def test_losses_are_told_in_plain_numbers():
    scores = [0.41, 0.44, 0.42, 0.45, 0.43], [0.40, 0.42, 0.41, 0.43, 0.41]
    says = verdict("val/loss", "minimize", [candidate(0, *scores[0]), candidate(5, *scores[1])], finished=60)
    assert says[0].startswith("trial 5 beats the base by 0.016 (95% interval 0.009 to 0.023;")


def test_an_interval_that_holds_0_shows_nothing():
    says = told(BASE, candidate(17, 0.045, 0.053, 0.047, 0.054, 0.048))
    assert says[0].startswith(
        "trial 17 is not shown to be better than the base: 0.10 points (95% interval -0.28 to 0.48;"
    )
    assert says[0].endswith("which holds 0")


def test_the_best_of_several_needs_a_wider_interval():
    shaky = candidate(17, 0.046, 0.049, 0.048, 0.046, 0.049)
    others = [candidate(number, *[0.06] * 5) for number in range(20, 26)]
    assert told(BASE, shaky)[0].startswith("trial 17 beats the base")
    says = told(BASE, shaky, *others)
    assert says[0].startswith("trial 17 is not shown to be better than the base")
    assert "best of 7 candidates" in says[0]
    assert "Bonferroni" in says[0]


def test_few_seeds_give_no_order():
    three = [Candidate(c.name, c.number, c.values, c.searched, c.scores[:3]) for c in (BASE, BETTER)]
    assert told(*three)[0].startswith("trial 17 is ahead of the base: 0.80 points (95% interval")
    assert "3 seeds are too few for an order, 5 are the least" in told(*three)[0]
    one = [Candidate(c.name, c.number, c.values, c.searched, c.scores[:1]) for c in (BASE, BETTER)]
    assert (
        told(*one)[0] == "trial 17 is ahead of the base by 0.90 points on 1 fresh seed: one seed is no evidence, take 5"
    )


def test_a_base_that_wins_is_said_to():
    says = told(BETTER.__class__("base", 0, {}, None, BETTER.scores), candidate(4, *BASE.scores))
    assert says == [
        "the base itself is best on fresh seeds, of 2 candidates: trial 4 comes next, 0.82 points worse "
        "(95% interval 0.72 to 0.92; better on 0 of 5 seeds)"
    ]
    assert "a tie goes to the base" in told(BASE, candidate(4, *BASE.scores))[0]


def test_the_same_difference_on_every_seed_has_no_interval():
    assert "by the same on every seed" in told(candidate(0, 3, 4, 5, 6, 7), candidate(1, 2, 3, 4, 5, 6))[0]


def test_importances_are_told_from_twenty_trials_on():
    shares = {"model.keep_prob": 0.22, "optim.l2_lambda": 0.61, "optim.lr": 0.17}
    says = verdict("val/err", "minimize", importances=shares, finished=60)
    assert says[0] == "optim.l2_lambda matters most (0.61 of the explained variance), then model.keep_prob (0.22)"
    assert verdict("val/err", "minimize", importances=shares, finished=19)[0] == (
        "19 finished trials: too few to say which parameter matters (20 are the least)"
    )
    close = verdict("val/err", "minimize", importances={"a": 0.41, "b": 0.40, "c": 0.19}, finished=60)
    assert close[0].startswith("a and b matter about as much")


def test_nothing_trained_anew_is_said_and_the_search_s_borders_are_told():
    says = verdict(
        "val/err", "minimize", finished=30, ranges=[Range("optim.lr", 1e-3, 0.1, True)], searched={"optim.lr": 0.098}
    )
    assert "nothing was trained anew" in says[0]
    assert says[1] == "optim.lr = 0.098 lies at the upper border of its range (0.001 to 0.1, log): widen it"


def test_test_errors_have_wilson_s_interval_for_the_images_not_for_images_times_networks():
    says = told(BASE, BETTER, tested=[OnTest("trial 17", (71, 69, 70, 72, 68), 1000), OnTest("the base", (81,), 1000)])
    low, high = stats.binomtest(70, 1000).proportion_ci(method="wilson")
    assert (
        says[-2] == f"test error of trial 17: 0.0700 (95% {low:.4f} to {high:.4f} for 1,000 images, mean of 5 networks)"
    )
    assert says[-1].endswith("; the test set was touched once, after the choice")


def test_two_objectives_have_a_front_and_no_winner():
    front = [("trial 16", (0.049, 65.7)), ("trial 6", (0.07, 48.0)), ("trial 34", (0.078, 41.2))]
    assert front_sentence(("val/err", "trained_sec"), front, 56) == (
        "3 of 56 finished trials are on the Pareto front, from trial 16 (val/err 0.0490, trained_sec 65.7) to trial 34 "
        "(val/err 0.0780, trained_sec 41.2): which is best is a choice between them"
    )
    assert "alike" in front_sentence(("val/err", "trained_sec"), front[:1], 56)
    assert "no trial has finished" in front_sentence(("val/err", "trained_sec"), [], 0)


def test_the_verdict_knows_nothing_of_optuna():
    code = "import sys, litmus.study.verdict; print([m for m in ('optuna', 'torch', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
