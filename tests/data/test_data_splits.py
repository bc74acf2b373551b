import numpy as np
import pytest

from litmus.data.splits import make_splits, noisy_labels, part_of, stratified_order
from litmus.errors import Refused

BALANCED = np.repeat(np.arange(10), 100)
SKEWED = np.repeat(np.arange(6), [600, 200, 100, 60, 39, 1])
MANY_TINY = np.concatenate([np.zeros(900, int), np.arange(1, 101)])  # 100 classes of one image each


def cut(labels, **changes):
    return make_splits(labels, **{"split_seed": 0, "val_fraction": 0.1, "test_fraction": 0.2, **changes})


@pytest.mark.parametrize("labels", [BALANCED, SKEWED, MANY_TINY], ids=["balanced", "skewed", "tiny"])
def test_every_image_is_in_exactly_one_split(labels):
    splits = cut(labels)
    together = np.concatenate([splits.train, splits.val, splits.test])
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    assert (len(splits.val), len(splits.test)) == (100, 200)


@pytest.mark.parametrize("labels", [BALANCED, SKEWED, MANY_TINY], ids=["balanced", "skewed", "tiny"])
def test_no_class_is_left_without_a_training_image(labels):
    assert set(labels[cut(labels).train]) == set(labels)


def test_splits_hold_each_class_in_proportion():
    splits = cut(SKEWED)
    for indices in (splits.val, splits.test):
        found = np.bincount(SKEWED[indices], minlength=6)
        assert np.abs(found - np.bincount(SKEWED) * len(indices) / 1000).max() < 1.5


@pytest.mark.parametrize("labels", [BALANCED, SKEWED, MANY_TINY], ids=["balanced", "skewed", "tiny"])
def test_every_prefix_of_a_stratified_order_is_stratified(labels):
    order = stratified_order(labels, "train", 0)
    share = np.bincount(labels) / len(labels)
    for n in range(1, len(labels) + 1, 7):
        assert np.abs(np.bincount(labels[order[:n]], minlength=len(share)) - n * share).max() < 1.6


def test_prefixes_of_a_balanced_set_are_exactly_balanced():
    order = stratified_order(BALANCED, "train", 5)
    assert all((np.bincount(BALANCED[order[: 10 * n]]) == n).all() for n in range(1, 101))


def test_splits_are_the_recorded_ones():
    labels = np.arange(30) % 3
    splits = cut(labels)
    assert splits.test.tolist() == [1, 2, 4, 15, 18, 29]
    assert splits.val.tolist() == [22, 26, 27]
    assert splits.train[:6].tolist() == [11, 19, 24, 17, 7, 0]


def test_another_seed_gives_other_splits():
    assert len(np.intersect1d(cut(BALANCED, split_seed=1).test, cut(BALANCED).test)) < 80  # 40 by chance


def test_the_test_split_does_not_move_with_the_validation_fraction():
    assert np.array_equal(cut(SKEWED, val_fraction=0.3).test, cut(SKEWED).test)


def test_a_split_with_a_set_of_its_own_takes_nothing_from_training():
    splits = cut(BALANCED, val_fraction=None, test_fraction=None)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1000, 0, 0)


@pytest.mark.parametrize(
    ("labels", "changes", "says"),
    [
        (BALANCED, {"val_fraction": 0.5, "test_fraction": 0.6}, r"take 1100 of 1000 images"),
        (BALANCED, {"val_fraction": 0.5, "test_fraction": 0.5}, r"take 1000 of 1000 images"),
        (BALANCED, {"val_fraction": 0.0}, r"val_fraction = 0.0: leaves the val split empty: 1000 images"),
        (np.arange(4) % 2, {}, r"val_fraction = 0.1: leaves the val split empty: 4 images"),
        (np.arange(10), {"test_fraction": None}, r"each of 10 classes needs one"),
    ],
)
def test_splits_that_leave_nothing_are_refused_with_the_figures(labels, changes, says):
    with pytest.raises(Refused, match=says):
        cut(labels, **changes)


def test_parts_are_disjoint_stratified_of_equal_size_and_others_with_another_seed():
    labels = np.repeat(np.arange(5), [40, 41, 20, 83, 21])
    parts = [part_of(labels, k, 4, seed=3) for k in range(4)]
    assert {len(part) for part in parts} == {len(labels) // 4}
    assert len(np.unique(np.concatenate(parts))) == 4 * (len(labels) // 4)
    for part in parts:
        for length in (10, 30, len(part)):  # each prefix holds the classes in proportion
            counts = np.bincount(labels[part[:length]], minlength=5)
            assert np.abs(counts - length * np.bincount(labels) / len(labels)).max() < 2
    assert set(parts[0]) != set(part_of(labels, 0, 4, seed=4))


def test_noisy_labels_are_the_share_asked_for_spread_evenly_over_the_other_classes():
    labels, at = np.repeat(np.arange(5), 20_000), np.arange(100_000)
    noisy = noisy_labels(labels, at, 0.3, 5, 0)
    counts = np.array([[((labels == one) & (noisy == two)).sum() for two in range(5)] for one in range(5)])
    assert np.abs(counts.diagonal() - 14_000).max() < 4 * np.sqrt(20_000 * 0.3 * 0.7)
    assert np.abs(counts[~np.eye(5, dtype=bool)] - 1_500).max() < 4 * np.sqrt(1_500)


def test_more_noise_keeps_the_wrong_labels_of_less():
    labels, at = BALANCED, np.arange(len(BALANCED))
    little, much = (noisy_labels(labels, at, share, 10, 0) for share in (0.2, 0.6))
    wrong = little != labels
    assert 0.1 < wrong.mean() < 0.3
    assert np.array_equal(much[wrong], little[wrong])
    assert np.array_equal(noisy_labels(labels, at, 0.0, 10, 0), labels)


def test_a_noisy_label_depends_on_its_image_and_the_seed_alone():
    labels, at = BALANCED, np.arange(len(BALANCED))
    whole = noisy_labels(labels, at, 0.4, 10, 3)
    part = np.array([900, 5, 400])
    assert np.array_equal(noisy_labels(labels[part], part, 0.4, 10, 3), whole[part])
    assert not np.array_equal(noisy_labels(labels, at, 0.4, 10, 4), whole)


def test_with_two_classes_a_wrong_label_is_the_other_one():
    labels = np.tile([0, 1], 50)
    noisy = noisy_labels(labels, np.arange(100), 0.5, 2, 0)
    assert set(noisy[noisy != labels] + labels[noisy != labels]) == {1}
