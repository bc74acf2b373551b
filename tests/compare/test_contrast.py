"""What is said of arms: which test, which p, which verdict."""

import itertools
import math

import pytest
from scipy import stats

from litmus.compare.arms import group
from litmus.compare.contrast import Shared, as_numbers, contrasts, headline, lowest, p_text, sentences
from litmus.diagnosis import newcombe
from tests.compare.made import arm

BASE = {0: 0.100, 1: 0.120, 2: 0.110, 3: 0.130, 4: 0.120}
LOWER = {0: 0.090, 1: 0.105, 2: 0.100, 3: 0.115, 4: 0.110}


def made(*errs, reference=0, shared=None, key="optim.lr", values=None):
    runs = itertools.chain(
        *(
            arm(f"{key}={value}", errs=one)
            for value, one in zip(values or (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), errs, strict=False)
        )
    )
    arms, problems = group(list(runs))
    assert problems == []
    return arms, contrasts(arms, reference, shared)


def test_shared_seeds_are_paired_with_scipys_p_and_the_sign_test():
    _, (none, found) = made(BASE, LOWER)
    assert none is None
    expected = stats.ttest_rel(list(LOWER.values()), list(BASE.values()))
    low, high = expected.confidence_interval()
    assert (found.difference, found.low, found.high, found.p) == pytest.approx((-0.012, low, high, expected.pvalue))
    assert (found.how, found.lower, found.of, found.sign_p) == ("paired", 5, 5, 0.03125)
    assert found.verdict == "better"


def test_runs_are_paired_by_their_seeds_whatever_their_order():
    shuffled = {seed: LOWER[seed] for seed in (3, 1, 4, 0, 2)}
    assert made(BASE, shuffled)[1] == made(BASE, LOWER)[1]


def test_the_other_way_round_it_is_worse():
    _, (found, none) = made(BASE, LOWER, reference=1)
    assert none is None
    assert found.difference == pytest.approx(0.012)
    assert (found.verdict, found.lower, found.sign_p) == ("worse", 0, 0.03125)


def test_four_seeds_decide_nothing_however_clear():
    clear = [{seed: level + seed / 1e4 for seed in range(4)} for level in (0.5, 0.1)]
    clear[1][0] += 1e-3
    arms, (_, found) = made(*clear)
    assert found.p < 1e-6
    assert found.verdict == "undecided"
    assert any(
        "4 seeds: too few to order arms" in one and "p = 0.0625 at best" in one
        for one in sentences(arms, 0, [None, found])
    )


def test_three_seeds_can_never_reach_a_twentieth_and_that_is_said():
    few = [{seed: err[seed] for seed in range(3)} for err in (BASE, LOWER)]
    arms, found = made(*few)
    assert found[1].sign_p == 0.125
    assert any("3 of 3 has p = 0.125 at best; 5 of 5 has 0.0312" in one for one in sentences(arms, 0, found))


def test_several_arms_are_judged_by_holm():
    """One difference that is beyond chance alone (p = 0.03), and not beside three that show nothing."""
    shaky = {0: 0.091, 1: 0.111, 2: 0.106, 3: 0.117, 4: 0.120}
    alone = made(BASE, shaky)[1][1]
    assert 0.0125 < alone.p < 0.05
    assert alone.verdict == "better"
    nothing = [{seed: err + sign * (seed % 2 - 0.5) / 100 for seed, err in BASE.items()} for sign in (1, -1, 2)]
    arms, found = made(BASE, shaky, *nothing)
    assert found[1].p == alone.p
    assert found[1].p_holm == pytest.approx(4 * alone.p)
    assert found[1].verdict == "undecided"
    assert "by Holm" in sentences(arms, 0, found)[0]
    assert "by Holm" not in sentences(*[made(BASE, shaky)[0], 0, made(BASE, shaky)[1]])[0]


def test_other_seeds_are_compared_by_welch():
    other = {seed + 10: err for seed, err in LOWER.items()}
    _, (_, found) = made(BASE, other)
    expected = stats.ttest_ind(list(LOWER.values()), list(BASE.values()), equal_var=False)
    assert (found.how, found.sign_p) == ("unpaired", None)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert "Welch" in found.basis


def test_two_shared_seeds_of_many_do_not_throw_the_others_away():
    other = {seed + 3: err for seed, err in LOWER.items()}
    assert made(BASE, other)[1][1].how == "unpaired"
    inside = {seed: LOWER[seed] for seed in (1, 3)}
    found = made(BASE, inside)[1][1]
    assert (found.how, found.of) == ("paired", 2)  # all that the smaller arm has


def test_five_shared_seeds_of_more_are_paired():
    other = {seed + 2: err for seed, err in {**LOWER, 5: 0.1, 6: 0.1}.items()}
    found = made({**BASE, 5: 0.12, 6: 0.12}, other)[1][1]
    assert (found.how, found.of) == ("paired", 5)


def test_an_equal_seed_speaks_for_neither_side():
    one, other = ({**BASE, **{seed: BASE[seed] + by for seed in (1, 2, 3, 4)}} for by in (0.01, -0.01))
    assert [made(BASE, arm)[1][1].sign_p for arm in (one, other)] == [1 / 16, 1 / 16]


def test_one_run_against_several_is_no_evidence():
    arms, (_, found) = made(BASE, {0: 0.01})
    assert (found.how, found.verdict, found.p) == ("nothing", "undecided", 1.0)
    assert math.isinf(found.low)
    assert found.basis == "one run on a side: nothing to judge by"
    assert any("one is no evidence" in one for one in sentences(arms, 0, [None, found]))
    assert as_numbers(found)["interval_95"] is None


def test_single_runs_are_compared_over_their_images_and_called_networks():
    arms, (_, found) = made({0: 0.20}, {0: 0.05})
    assert (found.low, found.high) == pytest.approx(newcombe(10, 200, 40, 200))
    low, high = newcombe(10, 200, 40, 200, 1 - found.p)
    assert min(abs(low), abs(high)) < 1e-6  # the p whose interval just reaches 0
    assert found.verdict == "better"
    says = " ".join(sentences(arms, 0, [None, found]))
    assert "compared as networks" in says
    assert "conservative" in says
    assert "seeds: too few" not in says
    assert made({0: 0.1}, {7: 0.1})[1][1].p == 1
    assert made({0: 0.1}, {0: 0.12})[1][1].verdict == "undecided"


def test_answers_to_the_same_images_are_mcnemars():
    arms, (_, found) = made({0: 0.10}, {0: 0.06}, shared={1: Shared(10, 2, 10, 200)})
    assert found.p == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert found.difference == pytest.approx(-0.04)
    assert found.low < -0.04 < found.high < 0
    assert (found.how, found.verdict) == ("same images", "better")
    assert found.basis == "the same 200 images, only one wrong: 2 and 10 (McNemar)"
    assert "conservative" not in " ".join(sentences(arms, 0, [None, found]))


def test_two_rates_differ_by_one_at_most():
    wide = {0: 0.0, 1: 0.9}
    found = made({0: 0.9, 1: 0.0}, wide)[1][1]
    assert (found.low, found.high) == (-1, 1)
    found = made({0: 0.9, 1: 0.0}, {5: 0.0, 6: 0.9})[1][1]
    assert (found.how, found.low, found.high) == ("unpaired", -1, 1)


def test_the_best_arm_is_told_first_then_what_is_decided():
    worse = {seed: err + 0.05 + seed / 1e4 for seed, err in BASE.items()}
    arms, found = made(BASE, LOWER, worse)
    says = sentences(arms, 0, found)
    assert says[0].startswith(
        "lr=0.2 has the lowest val/err, 0.1040: 1.20 points below lr=0.1, beyond chance (5 shared seeds; 95% -1."
    )
    assert "lower on 5 of 5 seeds, one-sided sign test p = 0.031" in says[0]
    assert says[1].startswith("lr=0.3 is worse than lr=0.1: 5.02 points above it")
    assert "lowest by luck too" in says[2]
    assert headline(arms, 0, found) == "lr=0.2 is better than lr=0.1 by 1.20 points"
    even = [
        {seed: 0.1 + 0.001 * (seed % 3) for seed in range(5)},
        {seed: 0.1 + 0.001 * ((seed + 1) % 3) - 5e-4 for seed in range(5)},
    ]
    assert headline(*_at(made(*even), 0)) == "lr=0.2 is not shown to be better than lr=0.1"


def _at(pair, reference):
    return pair[0], reference, pair[1]


def test_the_best_arm_is_the_best_on_validation_images_whatever_test_says():
    runs = [*arm("optim.lr=0.1", errs=BASE, test=0.01), *arm("optim.lr=0.2", errs=LOWER, test=0.5)]
    arms, _ = group(runs)
    assert lowest(arms, 0) == 1
    assert sentences(arms, 0, contrasts(arms, 0))[0].startswith("lr=0.2 has the lowest val/err, 0.1040")


def test_a_reference_that_is_best_is_said_to_be():
    arms, found = made(LOWER, BASE)
    assert (
        sentences(arms, 0, found)[0]
        == "lr=0.1, the reference, has the lowest val/err, 0.1040; 1 of 1 arm is worse beyond chance"
    )
    assert headline(arms, 0, found) == "lr=0.1 has the lowest val/err; 1 of 1 others are worse beyond chance"
    assert "luck" not in " ".join(sentences(arms, 0, found))


def test_level_arms_are_said_to_be_level_and_the_reference_is_named():
    seeds = {0: 0.1, 1: 0.2, 2: 0.3}
    for reference in (0, 1):
        arms, found = made(seeds, {seed: err + 1e-16 for seed, err in seeds.items()}, reference=reference)
        name = arms.arms[reference].label
        told = f"{name} has the lowest val/err, level with 1 other; 0 of 1 others are worse beyond chance"
        assert headline(arms, reference, found) == told
        first = sentences(arms, reference, found)[0]
        assert first.startswith(f"{name}, the reference, has the lowest val/err, level with 1 other, 0.2000; 0 of 1")


def test_arms_that_are_level_are_said_to_be():
    arms, found = made({0: 0.1, 1: 0.1}, {0: 0.1, 1: 0.1})
    assert found[1].p == 1
    assert "0 of 1 arm is worse" in sentences(arms, 0, found)[0]


def test_a_trend_over_one_number_is_told_from_five_arms_on():
    levels = [{0: err} for err in (0.5, 0.4, 0.3, 0.2, 0.1)]
    says = sentences(*_at(made(*levels), 0))
    assert says[-1] == "val/err falls as lr rises (Spearman's rho -1.00 over 5 arms, p = 0.017)"
    assert "Spearman" not in " ".join(sentences(*_at(made(*levels[:4]), 0)))
    mixed = [levels[i] for i in (2, 0, 4, 1, 3)]
    assert "goes neither way with lr beyond chance" in sentences(*_at(made(*mixed), 0))[-1]
    words = ("relu", "tanh", "sigmoid", "gelu", "elu")
    assert "Spearman" not in " ".join(sentences(*_at(made(*levels, key="model.activation", values=words), 0)))
    same = [{0: 0.2}] * 5
    assert "Spearman" not in " ".join(sentences(*_at(made(*same), 0)))


def test_numbers_for_a_file():
    _, (none, found) = made(BASE, LOWER)
    assert as_numbers(none) is None
    table = as_numbers(found)
    assert table["verdict"] == "better"
    assert (table["seeds_lower"], table["seeds"], table["sign_test_p"]) == (5, 5, 0.03125)
    assert table["interval_95"] == [found.low, found.high]


def test_of_many_arms_the_first_six_are_told_and_the_rest_counted():
    worse = [{seed: err + step / 10 + seed / 1e4 for seed, err in BASE.items()} for step in range(1, 9)]
    values = [0.1 * step for step in range(1, 10)]
    arms, found = made(BASE, *worse, values=values)
    says = sentences(arms, 0, found)
    assert sum("is worse than lr=0.1" in one for one in says) == 6
    assert "2 more arms are better or worse than lr=0.1: see the table" in says


def test_a_p_too_small_to_mean_its_digits_is_a_bound():
    assert [p_text(p) for p in (0.03125, 1e-4, 9e-5)] == ["= 0.031", "= 0.0001", "< 0.0001"]
