"""The verdict over seeds: its interval against the formula, and how often it covers."""

import math

import numpy as np
import pytest
from scipy import stats

from litmus.diagnosis import diagnose_errors, diagnose_seeds, wilson


def test_seeds_that_agree_leave_the_interval_of_the_images():
    one = diagnose_errors(0.01, 0.11, 1000, 1000)
    many = diagnose_seeds([(0.01, 0.11)] * 3, 1000, 1000)
    assert many.gap.interval == pytest.approx(one.gap.interval)
    assert many.bias.interval == pytest.approx(one.bias.interval)
    assert (many.verdict, many.num_seeds, many.moves) == ("high variance", 3, one.moves)
    assert many.sentence.startswith("high variance over 3 seeds: train 0.01")


def test_the_two_parts_of_the_interval_are_added_as_squares():
    errors = [(0.01, 0.05), (0.02, 0.08), (0.03, 0.05), (0.02, 0.06)]
    found = diagnose_seeds(errors, 500, 2000, train_population=500, level=0.9)
    train = [one for one, _ in errors]
    half = stats.t.ppf(0.95, 3) * np.std(train, ddof=1) / 2
    assert found.bias.interval == pytest.approx((0.02 - half, 0.02 + half))  # all training images were seen
    gaps = [val - train for train, val in errors]
    low, high = wilson(120, 2000, 0.9)
    half = stats.t.ppf(0.95, 3) * np.std(gaps, ddof=1) / 2
    assert found.gap.interval == pytest.approx(
        (0.04 - math.hypot(half, 0.06 - low), 0.04 + math.hypot(half, high - 0.06))
    )


def test_a_target_and_the_edges_bound_the_interval():
    found = diagnose_seeds([(0.0, 0.0), (0.02, 0.9), (0.0, 0.0)], 100, 100, target_err=0.005)
    assert found.bias.interval.low == 0.0
    assert found.gap.interval.high <= 1.0
    assert found.bias.value == pytest.approx(0.02 / 3 - 0.005)


@pytest.mark.parametrize(("seeds", "n"), [(3, 300), (5, 300), (5, 3000)])
def test_it_covers_the_mean_over_seeds_and_images(seeds, n):
    """Images differ in difficulty, which all seeds share; seeds differ in skill. The truth is over new ones of both."""
    rng = np.random.default_rng(seeds + n)
    covered, widths, narrow = [], [], []

    def rates(shift, size, skills):
        hard = rng.normal(shift, 5, size)
        return (rng.random((len(skills), size)) < 1 / (1 + np.exp(-(hard + skills[:, None])))).mean(axis=1)

    def truth(shift):
        skill, hard = rng.normal(0, 0.3, 400_000), rng.normal(shift, 5, 400_000)
        return float((1 / (1 + np.exp(-(hard + skill)))).mean())

    true_gap = truth(-6.0) - truth(-9.0)
    for _ in range(1000):
        skills = rng.normal(0, 0.3, seeds)
        errors = list(zip(rates(-9.0, n, skills), rates(-6.0, n, skills), strict=True))
        low, high = diagnose_seeds(errors, n, n).gap.interval
        covered.append(low <= true_gap <= high)
        widths.append(high - low)
        gaps = np.array([val - train for train, val in errors])
        half = stats.t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / math.sqrt(seeds)
        narrow.append(abs(gaps.mean() - true_gap) <= half)
    assert np.mean(covered) > 0.94  # conservative: 0.97 to 0.99
    assert np.mean(narrow) < 0.85  # the seeds alone forget that they share their images
    assert np.mean(widths) < 0.35


def test_more_seeds_or_more_images_would_decide_and_the_figures_are_just_enough():
    errors = [(0.0, 0.015), (0.0, 0.05), (0.0, 0.045), (0.0, 0.06)]
    found = diagnose_seeds(errors, 1000, 6000, train_population=1000)
    assert (found.verdict, found.gap.status) == ("undecided", "undecided")
    assert found.gap.more_seeds
    spread, mean = np.std([0.015, 0.05, 0.045, 0.06], ddof=1), 0.0425
    low = wilson(round(mean * 6000), 6000).low

    def lower_end(seeds):
        return mean - math.hypot(stats.t.ppf(0.975, seeds - 1) * spread / math.sqrt(seeds), mean - low)

    assert lower_end(4 + found.gap.more_seeds) > 0.02 >= lower_end(3 + found.gap.more_seeds)
    assert f"about {found.gap.more_seeds} more seed" in found.sentence
    assert found.gap.more_images is None  # with four seeds so far apart no number of images would


def test_seeds_alone_cannot_decide_what_the_images_leave_open():
    found = diagnose_seeds([(0.0, 0.05)] * 4, 100, 60, train_population=100)
    assert (found.gap.status, found.gap.more_seeds) == ("undecided", None)
    assert found.gap.more_images


def test_one_seed_is_refused_and_so_are_rates_that_are_none():
    with pytest.raises(ValueError, match="1 seed: two or more"):
        diagnose_seeds([(0.1, 0.2)], 100, 100)
    with pytest.raises(ValueError, match="val_err must be a rate"):
        diagnose_seeds([(0.1, 0.2), (0.1, 2.0)], 100, 100)
    with pytest.raises(ValueError, match="tolerance"):
        diagnose_seeds([(0.1, 0.2)] * 2, 100, 100, tolerance=0)
