"""Counts against an independent count; the choice of what to show."""

import numpy as np
import pytest

from litmus.diagnosis import (
    Confusion,
    confused_images,
    confusion_matrix,
    most_confused,
    per_class_err,
    pick_predictions,
)


def test_counts_equal_a_histogram_of_pairs():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    theirs, _, _ = np.histogram2d(labels, predictions, bins=np.arange(8) - 0.5)
    assert confusion_matrix(labels, predictions, 7).tolist() == theirs.tolist()


def test_rows_are_true_classes():
    assert confusion_matrix([0, 0, 1], [0, 1, 1], 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_a_hundred_classes_in_small_integers_do_not_overflow():
    labels = np.full(10, 99, dtype=np.uint8)
    assert confusion_matrix(labels, labels, 100)[99, 99] == 10


def test_no_images_count_nothing():
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "predictions", "says"),
    [([0, 3], [0, 0], r"labels must lie in \[0, 3\)"), ([0, -1], [0, 0], "labels"), ([0], [0, 1], "1 labels for 2")],
)
def test_classes_out_of_range_and_lengths_that_differ_are_refused(labels, predictions, says):
    with pytest.raises(ValueError, match=says):
        confusion_matrix(labels, predictions, 3)


def test_probabilities_are_no_classes():
    with pytest.raises(ValueError, match="predictions must be integers"):
        confusion_matrix([0], [0.7], 2)


def test_class_errors_and_a_class_without_images():
    err = per_class_err([[3, 1, 0], [0, 5, 0], [0, 0, 0]])
    assert err[:2].tolist() == [0.25, 0.0]
    assert np.isnan(err[2])


def test_most_confused_is_by_rate_then_count():
    matrix = [[90, 10, 0], [1, 9, 0], [0, 0, 50]]
    assert most_confused(matrix) == [Confusion(0, 1, 10, 0.1), Confusion(1, 0, 1, 0.1)]
    assert most_confused(matrix, top=1)[0].label == 0
    assert most_confused(np.eye(3, dtype=int)) == []


def test_a_table_that_is_no_confusion_matrix_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        most_confused(np.ones((2, 3), int))


def test_the_most_confident_mistake_comes_first_and_successes_are_typical():
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    predicted = np.array([1, 0, 0, 1, 1, 1, 0])
    confidence = np.array([0.6, 0.9, 0.7, 0.5, 0.8, 0.99, 0.95])
    mistakes, successes = pick_predictions(labels, predicted, confidence, mistakes=2, successes=2)
    assert mistakes.tolist() == [6, 0]
    assert successes.tolist() == [2, 4]  # class 1: 0.8 is the median of 0.5, 0.8, 0.99


def test_successes_give_every_class_its_turn():
    labels = np.repeat(np.arange(10), 20)
    _, successes = pick_predictions(labels, labels, np.linspace(0.5, 1, 200), successes=16)
    assert len(set(successes)) == 16
    assert set(labels[successes]) == set(range(10))


def test_nothing_wrong_gives_no_mistakes():
    mistakes, successes = pick_predictions([0, 1], [0, 1], [0.9, 0.8])
    assert mistakes.tolist() == []
    assert sorted(successes) == [0, 1]


def test_the_images_of_a_confusion_come_by_confidence():
    labels, said = [0, 0, 0, 1, 0], [1, 1, 0, 1, 1]
    pair = Confusion(0, 1, 3, 0.75)
    assert confused_images(labels, said, [0.6, 0.9, 0.99, 0.99, 0.6], pair).tolist() == [1, 0, 4]
    assert confused_images(labels, said, [0.5] * 5, Confusion(1, 0, 0, 0.0)).tolist() == []
