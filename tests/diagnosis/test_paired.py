"""Two arms held against each other: known numbers, scipy as the reference, and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from litmus.diagnosis import newcombe, wilson
from litmus.diagnosis.paired import (
    compare,
    holm,
    interval,
    mcnemar,
    newcombe_paired,
    sign_test,
    spearman,
    welch,
)


def test_interval_is_scipys():
    values = [0.050, 0.052, 0.049, 0.051, 0.050]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((np.mean(values), *expected), rel=1e-12)


def test_interval_of_one_value_has_no_bounds():
    assert interval([0.3]) == (0.3, -math.inf, math.inf)


def test_equal_values_leave_a_point_in_spite_of_rounding():
    mean, low, high = interval([0.1 + 0.2, 0.3, 0.3])
    assert low == mean == high


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf, 0.1]])
def test_interval_of_what_is_not_finite_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        interval(values)


def test_paired_interval_covers_the_true_difference_in_95_of_100_studies():
    """Seeds move both arms by the same 2 points; only pairing keeps that out of the interval."""
    random, truth, hits, widths = np.random.default_rng(0), 0.006, 0, []
    for _ in range(2000):
        seed = random.normal(0, 0.02, 5)
        base = 0.10 + seed + random.normal(0, 0.004, 5)
        found = compare(base, base - truth + random.normal(0, 0.004, 5), direction="minimize")
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)
    assert np.mean(widths) < 0.012  # unpaired it would be about 0.06


def test_sign_test_is_scipys_one_sided_and_needs_five_seeds():
    for of in range(1, 11):
        for better in range(of + 1):
            assert sign_test(better, of) == pytest.approx(stats.binomtest(better, of, alternative="greater").pvalue)
    assert sign_test(5, 5) == 0.03125  # the figure that is told; two-sided it is 0.0625
    assert 2 * sign_test(5, 5) == stats.binomtest(5, 5).pvalue == 0.0625
    assert sign_test(4, 4) > 0.05


def test_equal_seeds_are_left_out_of_the_sign_test_but_counted():
    found = compare([3, 3, 3, 3], [2, 2, 3, 4], direction="minimize")
    assert (found.better, found.of, found.p) == (2, 4, 0.5)


def test_positive_is_better_in_both_directions():
    low, high = (0.9, 0.8), (0.7, 0.5)
    assert compare(low, high, direction="minimize").difference == pytest.approx(0.25)
    assert compare(low, high, direction="maximize").difference == pytest.approx(-0.25)


def test_scores_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        compare([1, 2], [1], direction="minimize")


def test_the_p_of_the_mean_difference_is_scipys_paired_t_test():
    base, other = [0.10, 0.12, 0.11, 0.13, 0.12], [0.09, 0.10, 0.11, 0.10, 0.09]
    found = compare(base, other, direction="minimize")
    assert found.p_mean == pytest.approx(stats.ttest_rel(base, other).pvalue, rel=1e-12)
    assert compare([0.1], [0.2], direction="minimize").p_mean == 1  # one seed is no evidence
    assert compare([0.2, 0.3], [0.1, 0.2], direction="minimize").p_mean == 0  # the same on every seed
    assert compare([0.2, 0.3], [0.2, 0.3], direction="minimize").p_mean == 1


def test_welch_is_scipys():
    random = np.random.default_rng(1)
    a, b = random.normal(0.1, 0.02, 5), random.normal(0.13, 0.005, 8)
    found, expected = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found == pytest.approx((a.mean() - b.mean(), low, high, expected.pvalue), rel=1e-10)
    assert welch(a, b, level=0.8).high == pytest.approx(expected.confidence_interval(0.8).high)


def test_welch_of_single_or_constant_values():
    assert welch([0.3], [0.1, 0.2]) == (pytest.approx(0.15), -math.inf, math.inf, 1.0)
    assert welch([0.3, 0.3], [0.1, 0.1]) == pytest.approx((0.2, 0.2, 0.2, 0.0))
    assert welch([0.3, 0.3], [0.3, 0.3]).p == 1
    tiny = welch([1e-200, 2e-200], [3e-200, 5e-200])  # variances that underflow
    assert tiny.low <= tiny.difference <= tiny.high
    with pytest.raises(ValueError, match="finite"):
        welch([0.1, math.nan], [0.2])


def test_holm_is_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, math.nan])


def test_holm_keeps_the_error_of_a_whole_family_and_bonferroni_is_weaker():
    random, wrong = np.random.default_rng(0), 0
    for _ in range(4000):
        p = random.uniform(size=6)
        wrong += min(holm(p)) <= 0.05
        assert all(ours <= min(1, 6 * theirs) + 1e-12 for ours, theirs in zip(holm(p), p, strict=True))
    assert wrong / 4000 == pytest.approx(1 - (1 - 0.05 / 6) ** 6, abs=0.01)


def test_mcnemar_is_the_exact_binomial_of_what_only_one_has_wrong():
    for a, b in itertools.product(range(8), range(8)):
        expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least 0"):
        mcnemar(-1, 3)


def test_newcombes_paired_interval_is_the_published_one():
    """Airway hyper-responsiveness (Bentur et al. 2009: 1, 1, 7 of 21) and Altman's table 6.2 (14, 5, 0 of 41)."""
    assert newcombe_paired(1, 1, 7, 21) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert newcombe_paired(14, 5, 0, 41) == pytest.approx((0.011, 0.226), abs=5e-4)


def test_without_correlation_the_paired_interval_is_that_of_independent_samples():
    assert newcombe_paired(0, 4, 0, 50) == pytest.approx(newcombe(4, 50, 0, 50))
    low, high = newcombe_paired(0, 3, 9, 100)  # errors that avoid each other: wider, never narrower
    alone = newcombe(3, 100, 9, 100)
    assert low < alone.low
    assert high > alone.high
    for bad in ((0, 0, 0, 0), (5, 4, 3, 10), (-1, 2, 2, 10)):
        with pytest.raises(ValueError, match="cannot be"):
            newcombe_paired(*bad)


def test_the_paired_interval_covers_and_is_narrower_than_the_unpaired():
    """Two networks that share most of their errors: 360 images, 10% and 12% wrong."""
    random, hits, shorter = np.random.default_rng(0), 0, []
    for _ in range(2000):
        both, a, b, _ = random.multinomial(360, [0.08, 0.02, 0.04, 0.86])
        low, high = newcombe_paired(both, a, b, 360)
        hits += low <= -0.02 <= high
        alone = newcombe(both + a, 360, both + b, 360)
        shorter.append((high - low) / (alone.high - alone.low))
    assert 0.94 <= hits / 2000 <= 0.99
    assert np.mean(shorter) < 0.75
    assert wilson(36, 360).low < 0.1  # the interval it is built from


def test_spearman_is_exact_up_to_eight_points():
    random = np.random.default_rng(3)
    for n in (3, 5, 6):
        x, y = random.normal(size=n), random.integers(0, 4, n).astype(float)  # ties too
        if len(set(y)) == 1:
            continue
        found = spearman(x, y)
        assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
        orders = [abs(stats.spearmanr(x, order).statistic) for order in itertools.permutations(y)]
        assert found.p == pytest.approx(np.mean([one >= abs(found.rho) - 1e-9 for one in orders]))
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4]) == (1.0, pytest.approx(2 / 24))  # four arms cannot reach 0.05
    assert spearman([1, 2, 3, 4, 5], [9, 7, 5, 2, 1]) == (-1.0, pytest.approx(2 / 120))


def test_spearman_beyond_eight_points_is_scipys():
    random = np.random.default_rng(4)
    x = random.normal(size=12)
    y = x + random.normal(size=12)
    expected = stats.spearmanr(x, y)
    assert spearman(x, y) == pytest.approx((expected.statistic, expected.pvalue))
    assert spearman(range(9), range(9)) == (1.0, 0.0)


def test_spearman_of_what_has_no_order():
    rho, p = spearman([1, 2, 3], [5, 5, 5])
    assert math.isnan(rho)
    assert p == 1
    for x, y in (([1], [2]), ([1, 2], [1]), ([1, math.inf], [1, 2])):
        with pytest.raises(ValueError):
            spearman(x, y)
