import math

import pytest

from litmus.claims.evidence import (
    Evidence,
    above,
    below,
    conclude,
    in_seeds,
    mean_of,
    monotone,
    ordering,
    p_of,
    reported,
    within,
)

NAN = math.nan


def piece(outcome, p=None):
    return Evidence("x", outcome, "", p)


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        (["supported", "supported"], "supported"),
        (["supported", None], "supported"),
        (["supported", "inconclusive"], "inconclusive"),
        (["supported", "contradicted"], "contradicted"),
        (["inconclusive", "contradicted"], "contradicted"),
    ],
)
def test_a_claim_is_supported_by_all_of_its_conditions_and_contradicted_by_one(outcomes, whole):
    assert conclude([piece(outcome) for outcome in outcomes]) == whole


def test_without_a_condition_there_is_no_outcome():
    with pytest.raises(ValueError, match="nothing was judged"):
        conclude([reported("err", "0.1")])


def test_the_p_of_a_claim_is_the_largest_of_its_tests():
    assert p_of([piece("supported", 0.01), piece("supported", 0.03), piece(None, 0.9), piece("supported")]) == 0.03
    assert p_of([piece("supported")]) is None
    assert p_of([piece("supported", 0.01), piece("inconclusive")]) is None  # what did not hold has none
    assert p_of([piece("inconclusive", 0.2), piece("supported")]) == 0.2


@pytest.mark.parametrize(
    ("lower", "higher", "outcome", "p"),
    [
        ([1, 1, 1, 1, 1], [2, 2, 3, 2, 2], "supported", 1 / 32),
        ([2, 2, 3, 2, 2], [1, 1, 1, 1, 1], "contradicted", 1),
        ([1, 1, 1, 1, 2], [2, 2, 3, 2, 1], "inconclusive", 6 / 32),
        ([1, 1, 1, 1, 1], [2, 2, 3, 2, 1], "inconclusive", 6 / 32),  # an equal pair favours neither
        ([1, 1, 1], [2, 2, 2], "inconclusive", 1 / 8),  # three seeds can never tell
        ([2, 2, 2], [1, 1, 1], "inconclusive", 1),
        ([1] * 5, [NAN] * 5, "supported", 1 / 32),  # a training that diverged is the worst there is
        ([NAN] * 5, [NAN] * 5, "inconclusive", 1),
        ([NAN] * 5, [1] * 5, "contradicted", 1),
    ],
)
def test_an_ordering_takes_every_seed(lower, higher, outcome, p):
    found = ordering("a below b", lower, higher)
    assert (found.outcome, found.p) == (outcome, pytest.approx(p))


def test_an_ordering_by_a_margin_takes_more_and_is_contradicted_only_without_it():
    assert ordering("x", [0] * 5, [1] * 5, margin=0.5).outcome == "supported"
    assert ordering("x", [0] * 5, [0.4] * 5, margin=0.5).outcome == "inconclusive"
    assert ordering("x", [0.1] * 5, [0] * 5, margin=0.5).outcome == "contradicted"


def test_an_ordering_says_difference_interval_and_seeds():
    found = ordering("val/loss at 10 below that at 0", [0.5, 0.6, 0.4, 0.5, 0.5], [0.7, 0.7, 0.7, 0.6, 0.8])
    assert found.line == (
        "supported     val/loss at 10 below that at 0: difference 0.2 (95% 0.0758 to 0.324), 5 of 5 seeds (p = 0.0312)"
    )
    assert "5 pairs with a training that diverged" in ordering("x", [1] * 5, [NAN] * 5).found


def test_paired_values_have_to_be_as_many():
    with pytest.raises(ValueError, match="same seeds"):
        ordering("x", [1, 2], [1])


@pytest.mark.parametrize(
    ("rule", "values", "outcome"),
    [
        (below, [0.1, 0.2], "supported"),
        (below, [0.1, 0.6], "inconclusive"),
        (below, [0.7, 0.6], "contradicted"),
        (below, [0.1, NAN], "inconclusive"),
        (above, [0.7, 0.6], "supported"),
        (above, [0.7, NAN], "supported"),
        (above, [0.1, 0.6], "inconclusive"),
        (above, [0.1, 0.5], "contradicted"),
    ],
)
def test_a_bound_holds_for_every_seed(rule, values, outcome):
    assert rule("x", values, 0.5).outcome == outcome


def test_a_bound_says_its_range_and_who_diverged():
    assert below("x", [0.1, NAN, 0.3], 0.5).found == "0.1 to 0.3, 1 diverged, 2 of 3 seeds"
    assert above("x", [NAN], 0.5).found == "all diverged, 1 of 1 seeds"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1.0, 1.01, 0.99], "supported"),
        ([1.0, 1.2, 0.8], "inconclusive"),
        ([2.0, 2.01, 1.99], "contradicted"),
        ([1.05], "supported"),  # exact
        ([0.9], "supported"),
        ([1.1], "supported"),
        ([1.2], "contradicted"),
        ([NAN], "contradicted"),
        ([1.0, NAN, 1.0], "inconclusive"),
        ([NAN, NAN], "contradicted"),
    ],
)
def test_a_mean_lies_within_when_its_interval_does(values, outcome):
    assert within("x", values, 0.9, 1.1).outcome == outcome


@pytest.mark.parametrize(
    ("rows", "rising", "outcome"),
    [
        ([[1, 2, 3], [1, 5, 6]], True, "supported"),
        ([[1, 2, 3], [1, 5, 6]], False, "contradicted"),
        ([[1, 2, 3], [1, 5, 5]], True, "inconclusive"),
        ([[1, 2, 3], [1, NAN, 5]], True, "inconclusive"),
        ([[1, 1, 1], [2, 2, 2]], True, "inconclusive"),  # level is no reverse
    ],
)
def test_monotone_is_strict_and_for_every_seed(rows, rising, outcome):
    assert monotone("x", rows, rising=rising).outcome == outcome


@pytest.mark.parametrize("rows", [[], [[1], [2]]])
def test_a_row_of_one_value_rises_nowhere(rows):
    with pytest.raises(ValueError, match="a row of two values or more"):
        monotone("x", rows, rising=True)


def test_seeds_can_be_counted():
    assert in_seeds("x", [True] * 5).outcome == "supported"
    assert in_seeds("x", [True] * 4 + [False]).outcome == "inconclusive"
    assert in_seeds("x", [True] * 4 + [False], needed=4).outcome == "supported"
    assert in_seeds("x", [False] * 5, needed=4).outcome == "contradicted"
    with pytest.raises(ValueError, match="x: there are no seeds"):
        in_seeds("x", [])


def test_a_mean_is_said_with_its_interval_and_who_diverged():
    assert mean_of([0.1, 0.2, 0.3]) == "0.2 (-0.0484 to 0.448)"
    assert mean_of([0.1]) == "0.1"
    assert mean_of([0.1, NAN]) == "0.1, 1 diverged"
    assert mean_of([NAN, NAN]) == "all 2 diverged"
