"""Suspect labels against labels that are known to be wrong."""

import numpy as np
import pytest

from litmus.diagnosis.suspects import KNOWS, MEMORISED, label_suspects, read_label_noise


def test_the_threshold_of_a_class_is_its_mean_self_confidence():
    """Class 0: threshold 0.75 (0.9, 0.6); class 1: 0.5 (0.7, 0.3)."""
    chances = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.7, 0.3]])
    assert label_suspects(chances, [0, 0, 1, 1]) == []  # 0.7 for class 0 is below 0.75
    chances[3] = [0.8, 0.2]
    (found,) = label_suspects(chances, [0, 0, 1, 1])
    assert (found.position, found.label, found.suggested) == (3, 1, 0)
    assert (found.probability_of_label, found.probability) == (0.2, 0.8)


def test_an_image_that_reaches_its_own_threshold_higher_is_not_suspect():
    """Both thresholds are reached; the label's class is the more probable one."""
    chances = np.array([[0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.45, 0.55]])  # class 0: 0.4; class 1: 0.425
    assert [one.position for one in label_suspects(chances, [0, 0, 1, 1])] == [1, 2]


def test_the_only_image_of_a_class_reaches_its_own_threshold():
    chances = np.array([[0.5, 0.3, 0.2], [0.6, 0.25, 0.15], [0.7, 0.25, 0.05]])
    found = label_suspects(chances, [0, 1, 1])  # thresholds 0.5 and 0.25: image 0 reaches both, its own higher
    assert [one.position for one in found] == [2, 1]


def made(noise, seed=0, n=3000, classes=5):
    """Answers of a sound network, never trained on these, and labels of which a part is wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    scores = rng.normal(0, 1, (n, classes)) + 5 * np.eye(classes)[truth]
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wrong = rng.random(n) < noise
    return chances, np.where(wrong, (truth + rng.integers(1, classes, n)) % classes, truth), wrong


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_planted_wrong_labels_are_found_and_come_first(noise):
    chances, labels, wrong = made(noise)
    found = [one.position for one in label_suspects(chances, labels)]
    hit = wrong[found]
    assert hit.mean() > 0.9
    assert hit.sum() / wrong.sum() > 0.7
    assert hit[: len(hit) // 2].all()
    assert len(found) / len(labels) == pytest.approx(noise, abs=0.02)


def test_clean_labels_leave_next_to_none():
    chances, labels, _ = made(0.0)
    assert len(label_suspects(chances, labels)) / len(labels) < 0.01


def test_a_network_that_gives_every_label_back_suspects_nothing():
    _, labels, _ = made(0.2)
    assert label_suspects(np.eye(5)[labels], labels) == []


def test_a_class_without_images_is_not_suggested():
    chances = np.array([[0.1, 0.0, 0.9], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert label_suspects(chances, [0, 0, 1]) == []
    assert label_suspects(np.zeros((0, 3)), np.zeros(0, int)) == []


@pytest.mark.parametrize(
    ("chances", "labels", "words"),
    [
        (np.ones((2, 2)) / 2, [0], "1 labels"),
        (np.ones((2, 2)) / 2, [0, 2], "found 0..2"),
        (np.ones((1, 2)) / 2, [-1], "found -1"),
        ([[np.nan, 1.0]], [0], "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(chances, labels, words):
    with pytest.raises(ValueError, match=words):
        label_suspects(chances, labels)


def reading(**changes):
    given = {"suspects": 50, "num_images": 1000, "train_err": 0.06, "mean_probability": 0.9}
    return read_label_noise(**{**given, **changes})


def test_the_reading_speaks_for_a_share_beyond_chance_alone():
    found = reading()
    assert (found.status, found.value) == ("suspects", 0.05)
    assert "50 of 1,000 training labels" in found.sentence
    assert "(5.0%, 95% 3.8% to 6.5%)" in found.sentence
    assert reading(suspects=15).status == "no sign"  # 1.5%, from 0.9% on
    assert "15 of 1,000" in reading(suspects=15).sentence
    assert "no training label" in reading(suspects=0).sentence


def test_who_knows_too_little_or_too_well_is_no_judge():
    assert reading(mean_probability=0.7).status == "no sign"
    assert reading(mean_probability=KNOWS).status == "suspects"
    assert reading(train_err=MEMORISED).status == "memorised"
    assert "knows too little" in reading(mean_probability=0.7).sentence
    by_heart = reading(suspects=0, train_err=0.001, val_suspects=12, num_val=300)
    assert by_heart.status == "memorised"
    assert "validation images, never trained on, 12 of 300 (4.0%" in by_heart.sentence
