import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from litmus.claims.evidence import lower_on_average, not_above

NAN = math.nan


def test_an_interval_that_excludes_zero_decides_either_way():
    low, high = [0.1, 0.12, 0.11, 0.1, 0.13], [0.2, 0.2, 0.22, 0.19, 0.2]
    found = lower_on_average("w", low, high)
    assert found.outcome == "supported"
    assert found.p == pytest.approx(ttest_rel(high, low, alternative="greater").pvalue)
    reverse = lower_on_average("w", high, low)
    assert reverse.outcome == "contradicted"
    assert reverse.p == pytest.approx(1 - found.p)
    assert "5 of 5 seeds" in found.found


def test_an_interval_that_holds_zero_leaves_it_open_though_four_of_five_agree():
    assert lower_on_average("w", [0.1, 0.1, 0.1, 0.1, 0.4], [0.15, 0.16, 0.14, 0.2, 0.2]).outcome == "inconclusive"
    assert lower_on_average("w", [0.1, 0.2], [0.1, 0.2]).outcome == "inconclusive"


def test_its_rate_of_false_support_is_a_fortieth():
    generator = np.random.default_rng(0)
    found = [lower_on_average("w", [0.0] * 5, generator.standard_normal(5)).outcome for _ in range(2000)]
    assert found.count("supported") / 2000 == pytest.approx(0.025, abs=0.011)
    assert found.count("contradicted") / 2000 == pytest.approx(0.025, abs=0.011)


def test_a_mean_with_a_training_that_diverged_is_no_mean():
    found = lower_on_average("w", [0.1, NAN, 0.1], [0.2, 0.2, 0.2])
    assert found.outcome == "inconclusive"
    assert found.found == "1 of 3 pairs with a training that diverged"
    assert found.p is None


def test_no_higher_holds_for_equal_ones_too():
    assert not_above("w", [1, 2, 3], [1, 2, 4]).outcome == "supported"
    assert not_above("w", [1, 2, 5], [1, 2, 4]).outcome == "inconclusive"
    assert not_above("w", [2, 3, 5], [1, 2, 4]).outcome == "contradicted"
    assert not_above("w", [1, NAN], [2, NAN]).outcome == "inconclusive"
    assert not_above("w", [NAN, NAN], [NAN, 1]).outcome == "contradicted"
    assert not_above("w", [1, 1], [NAN, 1]).outcome == "supported"


@pytest.mark.parametrize(("rule", "one", "two"), [
    (lower_on_average, [1], [2]), (lower_on_average, [1, 2], [1]), (not_above, [], []), (not_above, [1], [1, 2]),
])  # fmt: skip
def test_pairs_come_in_pairs(rule, one, two):
    with pytest.raises(ValueError, match="paired values"):
        rule("w", one, two)
