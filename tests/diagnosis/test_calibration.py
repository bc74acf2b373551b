"""Confidence against accuracy: known answers, and scikit-learn's curve."""

import math

import numpy as np
import pytest

from litmus.diagnosis import reliability, wilson


def binary(confidence, right):
    """Probabilities of two classes that say class 0 at ``confidence``, and labels that make ``right`` of it."""
    sure = np.asarray(confidence, dtype=float)
    return np.stack([sure, 1 - sure], axis=1), np.where(right, 0, 1)


def test_constant_overconfidence_is_the_ece_exactly():
    chances, labels = binary(np.full(1000, 0.9), np.arange(1000) < 700)
    found = reliability(chances, labels)
    assert (found.ece, found.mce) == pytest.approx((0.2, 0.2))
    assert (found.confidence, found.accuracy) == pytest.approx((0.9, 0.7))
    assert found.tendency == "over-confident"
    assert "over-confident by 0.200" in found.sentence
    assert reliability(*binary(np.full(1000, 0.6), np.arange(1000) < 800)).tendency == "under-confident"


def test_scores_of_a_known_answer():
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    found = reliability(chances, [0, 1])
    first, second = 0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.9**2 + 0.8**2
    assert found.brier == pytest.approx((first + second) / 2)
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2)
    assert reliability([[1.0, 0.0]], [1]).brier == 2  # the worst there is
    assert math.isfinite(reliability([[1.0, 0.0]], [1]).nll)


def test_of_a_calibrated_network_the_ece_is_what_chance_makes():
    generator = np.random.default_rng(0)
    for n in (100, 1000, 10_000):
        sure = generator.uniform(0.5, 1, n)
        found = reliability(*binary(sure, generator.random(n) < sure))
        assert found.ece == pytest.approx(found.ece_by_chance, rel=0.5)
        assert found.tendency == "undecided"
    assert found.ece < 0.015  # and goes to zero with more images


def test_the_bins_are_scikit_learns():
    from sklearn.calibration import calibration_curve

    generator = np.random.default_rng(1)
    sure = np.append(generator.uniform(0.5, 1, 500), [0.6, 2 / 3, 1.0])  # on edges too
    right = generator.random(503) < sure**2
    found = reliability(*binary(sure, right))
    accuracy, confidence = calibration_curve(right, sure, n_bins=15)
    filled = [one for one in found.bins if one.count]
    assert [one.accuracy for one in filled] == pytest.approx(list(accuracy))
    assert [one.confidence for one in filled] == pytest.approx(list(confidence))
    assert sum(one.count for one in found.bins) == 503
    assert found.mce == pytest.approx(np.abs(accuracy - confidence).max())


def test_each_bin_has_wilsons_interval_and_an_empty_one_none():
    found = reliability(*binary(np.full(10, 0.95), np.arange(10) < 7))
    *empty, last = found.bins
    assert last.interval == wilson(7, 10)
    assert (last.low, last.high) == pytest.approx((14 / 15, 1))
    assert all(one.count == 0 and math.isnan(one.accuracy) for one in empty)


@pytest.mark.parametrize(
    ("chances", "labels", "says"),
    [
        ([[0.5, 0.6]], [0], "probabilities"),
        ([[1.5, -0.5]], [0], "probabilities"),
        ([[np.nan, 1.0]], [0], "probabilities"),
        ([[0.5, 0.5]], [2], r"\[0, 2\)"),
        ([[0.5, 0.5]], [0.5], "integers"),
        ([[0.5, 0.5]], [0, 1], "2 labels"),
        (np.empty((0, 2)), [], "N >= 1"),
    ],
)
def test_what_are_no_probabilities_is_refused(chances, labels, says):
    with pytest.raises(ValueError, match=says):
        reliability(chances, labels)
