"""Bias and variance: exact identities, known moments, an independent package, and whether the intervals cover."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from litmus.diagnosis import (
    Estimate,
    Interval,
    decompose,
    decompose_cross_entropy,
    decompose_regression,
    decompose_squared,
    decompose_zero_one,
    peak,
    variance_peak,
    variance_sources,
)

EXACT = 1e-12


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def log_softmax(logits):
    return np.log(softmax(logits))


def answers(shape, seed=0):
    """Logits of that shape, (R, M, N, K) or (M, N, K), and labels."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=shape[-2:])  # models agree in part
    return shared + generator.normal(size=shape), generator.integers(0, shape[-1], shape[-2])


def shapes(count, seed=0):
    """(R, M, N, K), at random."""
    generator = np.random.default_rng(seed)
    return [tuple(int(n) for n in generator.integers((1, 2, 1, 2), (4, 9, 30, 7))) for _ in range(count)]


def per_image(found):
    return sum(found.images[name] for name in found.parts)


# Identities


@pytest.mark.parametrize("shape", shapes(25))
def test_the_parts_add_up_to_the_mean_loss_exactly(shape):
    logits, labels = answers(shape, seed=sum(shape))
    chances, logs = softmax(logits), log_softmax(logits)
    wrong = logits.argmax(-1) != labels
    truth = np.eye(shape[-1])[labels]
    found = decompose(logits, labels)
    losses = {
        "squared": np.square(chances - truth).sum(-1),
        "zero_one": wrong.astype(float),
        "cross_entropy": -logs[:, :, np.arange(len(labels)), labels],
    }
    for name, loss in losses.items():
        one = getattr(found, name)
        assert one.total.value == pytest.approx(loss.mean(), abs=EXACT)
        assert sum(part.value for part in one.parts.values()) == pytest.approx(loss.mean(), abs=EXACT)
        assert one.images["total"] == pytest.approx(loss.mean(axis=(0, 1)), abs=EXACT)
        assert per_image(one) == pytest.approx(loss.mean(axis=(0, 1)), abs=EXACT)
        for part_name, part in {**one.parts, "total": one.total}.items():
            assert np.mean(part.points) == pytest.approx(part.value, abs=EXACT)
            assert one.images[part_name].mean() == pytest.approx(part.value, abs=EXACT)
        assert (one.num_reshuffles, one.num_models, one.num_images) == shape[:3]


@pytest.mark.parametrize("shape", shapes(12, seed=1))
def test_with_the_noise_apart_they_add_up_too(shape):
    logits, _ = answers(shape, seed=sum(shape))
    generator = np.random.default_rng(shape)
    known = generator.dirichlet(np.ones(shape[-1]), shape[2])
    chances = softmax(logits)
    squared = decompose_squared(chances, class_probabilities=known)
    expected = sum(
        known[:, k] * np.square(chances - np.eye(shape[-1])[k]).sum(-1).mean(axis=(0, 1)) for k in range(shape[-1])
    )
    entropy = decompose_cross_entropy(logits, class_probabilities=known)
    repeated = generator.integers(0, shape[-1], (shape[2], 3))
    by_labels = decompose_squared(chances, repeated)
    mean = np.mean([decompose_squared(chances, column).total.value for column in repeated.T])
    for found, total in ((squared, expected.mean()), (by_labels, mean)):
        assert list(found.parts) == ["bias2", "variance", "noise"]
        assert found.total.value == pytest.approx(total, abs=EXACT)
        assert sum(part.value for part in found.parts.values()) == pytest.approx(total, abs=EXACT)
        assert per_image(found) == pytest.approx(found.images["total"], abs=EXACT)
        assert found.bias2.value + found.noise.value == pytest.approx(found.bias2_and_noise.value, abs=EXACT)
    assert list(entropy.parts) == ["bias", "variance", "noise"]
    assert entropy.total.value == pytest.approx(-(known * log_softmax(logits)).sum(-1).mean(), abs=EXACT)
    assert per_image(entropy) == pytest.approx(entropy.images["total"], abs=EXACT)
    assert entropy.bias.value + entropy.noise.value == pytest.approx(entropy.bias_and_noise.value, abs=EXACT)


@pytest.mark.parametrize("shape", [(2, 5, 20, 3), (3, 4, 7, 10)])
def test_the_order_of_models_images_and_reshuffles_changes_nothing(shape):
    logits, labels = answers(shape)
    generator = np.random.default_rng(1)
    models, images, reshuffles = (generator.permutation(n) for n in (shape[1], shape[2], shape[0]))
    first = decompose(logits, labels)
    for other in (
        decompose(logits[:, models], labels),
        decompose(logits[:, :, images], labels[images]),
        decompose(logits[reshuffles], labels),
        decompose(np.stack([one[generator.permutation(shape[1])] for one in logits]), labels),
    ):
        for name in ("squared", "zero_one", "cross_entropy"):
            one, same = getattr(first, name), getattr(other, name)
            for part in one.parts:
                assert same.parts[part].value == pytest.approx(one.parts[part].value, abs=EXACT)
                assert same.parts[part].std_error == pytest.approx(one.parts[part].std_error, abs=1e-9)


def test_squared_error_and_cross_entropy_do_not_care_which_class_is_which():
    logits, labels = answers((2, 4, 15, 5))
    order = np.random.default_rng(2).permutation(5)
    first, other = decompose(logits, labels), decompose(logits[..., order], np.argsort(order)[labels])
    for name in ("squared", "cross_entropy"):
        for part, value in getattr(first, name).parts.items():
            assert getattr(other, name).parts[part].value == pytest.approx(value.value, abs=EXACT)


def test_the_three_are_those_of_the_functions_alone():
    logits, labels = answers((2, 4, 15, 5))
    found = decompose(logits, labels, level=0.9)
    assert found.zero_one == decompose_zero_one(logits.argmax(-1), labels, num_classes=5, level=0.9)
    for one, alone in (
        (found.squared, decompose_squared(softmax(logits), labels, level=0.9)),
        (found.cross_entropy, decompose_cross_entropy(logits, labels, level=0.9)),
    ):
        for name, part in alone.parts.items():
            assert one.parts[name].interval == pytest.approx(part.interval, abs=1e-10)
    known = np.full((15, 5), 0.2)
    noisy = decompose(logits, labels, class_probabilities=known)
    assert noisy.squared.noise.value == pytest.approx(0.8)
    assert noisy.cross_entropy.noise.value == pytest.approx(math.log(5))
    assert noisy.zero_one.total == decompose(logits, labels).zero_one.total
    assert found.sentence == found.squared.sentence


# Squared error


def test_two_models_by_hand():
    found = decompose_squared([[[0.9, 0.1]], [[0.5, 0.5]]], [0])
    # mean (0.7, 0.3), ||mean - y||^2 = 0.18, variance 2 * 2 * 0.2^2 = 0.16
    assert found.variance.value == pytest.approx(0.16)
    assert found.bias2_and_noise.value == pytest.approx(0.18 - 0.08)
    assert found.total.value == pytest.approx((2 * 0.1**2 + 2 * 0.5**2) / 2)


def dirichlet(alpha, shape, seed):
    """Draws, their mean and the sum of their variances over classes."""
    alpha = np.asarray(alpha, dtype=float)
    mean = alpha / alpha.sum()
    return np.random.default_rng(seed).dirichlet(alpha, shape), mean, (mean * (1 - mean)).sum() / (alpha.sum() + 1)


@pytest.mark.parametrize("num_models", [2, 3, 10])
def test_neither_bias_nor_variance_is_off_for_few_models_and_the_naive_ones_are(num_models):
    draws, mean, variance = dirichlet([4, 0.3, 0.2], (num_models, 40_000), seed=num_models)
    found = decompose_squared(draws, np.zeros(40_000, int))
    bias2 = np.square(mean - [1, 0, 0]).sum()
    for name, true in (("bias2_and_noise", bias2), ("variance", variance)):
        values = found.images[name]
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - true) < 4 * error
    naive = np.square(draws.mean(axis=0) - [1, 0, 0]).sum(-1)
    assert naive.mean() - bias2 > 20 * naive.std() / math.sqrt(len(naive))
    assert naive.mean() - bias2 == pytest.approx(variance / num_models, rel=0.1)


def test_noise_bias_and_variance_are_told_apart_by_repeated_labels_and_by_known_chances():
    draws, mean, variance = dirichlet([3, 1, 1], (4, 40_000), seed=0)
    known = np.array([0.5, 0.3, 0.2])
    labels = np.random.default_rng(1).choice(3, (40_000, 2), p=known)
    bias2, noise = np.square(mean - known).sum(), 1 - np.square(known).sum()
    exact = decompose_squared(draws, class_probabilities=np.tile(known, (40_000, 1)))
    estimated = decompose_squared(draws, labels)
    assert exact.noise.value == pytest.approx(noise)
    assert exact.noise.interval == pytest.approx((noise, noise))
    for found in (exact, estimated):
        for name, true in (("bias2", bias2), ("variance", variance), ("noise", noise)):
            error = found.images[name].std() / 200
            assert abs(found.images[name].mean() - true) <= 4 * error + EXACT
        assert (found.images["bias2"] < 0).any()  # not clipped
    single = decompose_squared(draws, labels[:, 0])
    assert (single.bias2, single.noise) == (None, None)
    assert single.bias2_and_noise.value == pytest.approx(bias2 + noise, abs=0.01)
    assert estimated.bias2_and_noise.value == pytest.approx(bias2 + noise, abs=0.01)
    assert decompose_squared(draws, labels[:, :1]) == single


# Cross-entropy


def test_cross_entropy_is_split_around_the_geometric_mean():
    from scipy.stats import entropy

    logits, labels = answers((5, 12, 4))
    chances = softmax(logits)
    centre = chances.prod(axis=0) ** (1 / 5)
    centre /= centre.sum(-1, keepdims=True)
    found = decompose_cross_entropy(logits, labels)
    assert found.images["variance"] == pytest.approx(
        np.mean([entropy(centre, one, axis=-1) for one in chances], axis=0), abs=EXACT
    )
    assert found.images["bias_and_noise"] == pytest.approx(-np.log(centre[np.arange(12), labels]), abs=EXACT)
    known = np.random.default_rng(1).dirichlet(np.ones(4), 12)
    known[0] = [1, 0, 0, 0]
    apart = decompose_cross_entropy(logits, class_probabilities=known)
    assert apart.images["bias"] == pytest.approx(entropy(known, centre, axis=-1), abs=EXACT)
    assert apart.images["noise"] == pytest.approx(entropy(known, axis=-1), abs=EXACT)
    assert apart.bias.interval == pytest.approx(np.array(apart.bias_and_noise.interval) - apart.noise.value)
    assert apart.bias.points == pytest.approx(np.array(apart.bias_and_noise.points) - apart.noise.value)


def test_logits_that_overflow_or_lack_precision_do_no_harm():
    logits, labels = answers((4, 12, 3))
    plain = decompose_cross_entropy(logits, labels)
    moved = decompose_cross_entropy(logits + 1e5 * np.arange(12)[:, None], labels)
    assert moved.total.value == pytest.approx(plain.total.value, abs=1e-9)
    sure = decompose_cross_entropy(1e5 * np.float32(logits), labels)
    assert math.isfinite(sure.variance.value)
    assert sum(part.value for part in sure.parts.values()) == pytest.approx(sure.total.value, rel=EXACT)
    equal = decompose_cross_entropy(np.stack([logits[0]] * 3), labels)
    assert equal.variance.value == pytest.approx(0, abs=EXACT)


def test_a_repeated_label_counts_as_its_mean_loss():
    logits, _ = answers((4, 12, 3))
    labels = np.random.default_rng(0).integers(0, 3, (12, 2))
    found = decompose_cross_entropy(logits, labels)
    alone = [decompose_cross_entropy(logits, column).total.value for column in labels.T]
    assert found.total.value == pytest.approx(np.mean(alone), abs=EXACT)
    assert list(found.parts) == ["bias_and_noise", "variance"]


@pytest.mark.parametrize("num_models", [4, 5, 7])
def test_the_half_is_the_mean_over_runs_of_models(num_models):
    logits, labels = answers((2, num_models, 12, 3))
    found, half = decompose(logits, labels), num_models // 2
    runs = [(first + np.arange(half)) % num_models for first in range(num_models)]
    parts = [decompose(models[run], labels) for models in logits for run in runs]
    for loss, names in (
        ("cross_entropy", ("bias_and_noise", "variance")),
        ("zero_one", ("bias", "net_variance", "variance")),
    ):
        one = getattr(found, loss)
        assert set(one.at_half) == set(names)
        for name in names:
            expected = np.mean([getattr(getattr(part, loss), name).value for part in parts])
            assert one.at_half[name] == pytest.approx(expected, abs=EXACT)
    assert f"; with {half} models variance" in found.cross_entropy.sentence
    assert f"; with {half} models bias" in found.zero_one.sentence
    few = decompose(logits[:, :3], labels)
    assert few.cross_entropy.at_half is None
    assert few.zero_one.at_half is None
    assert "with 1 models" not in few.cross_entropy.sentence + few.zero_one.sentence


def test_few_models_make_the_variance_of_cross_entropy_too_low_and_the_half_shows_it():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 300, 3))
    labels = np.zeros(300, int)
    nearly_true = decompose_cross_entropy(logits, labels).variance.value
    few = decompose_cross_entropy(logits[:6], labels)
    assert few.at_half["variance"] < few.variance.value < nearly_true
    missing = nearly_true - few.variance.value
    assert few.variance.value - few.at_half["variance"] == pytest.approx(missing, rel=0.35)  # in proportion to 1/M


# 0-1 loss


def test_three_images_by_hand():
    said = np.array([[0, 1, 2], [0, 1, 2], [0, 0, 1], [1, 2, 0]])
    found = decompose_zero_one(said, [0, 0, 0], num_classes=3)
    # Votes 3:1:0, 1:2:1 and 1:1:2 for the classes 0, 1, 2: main predictions 0, 1, 2.
    assert found.bias.value == pytest.approx(2 / 3)
    assert found.variance_unbiased.value == pytest.approx((1 / 4) / 3)
    assert found.variance_biased.value == pytest.approx((1 / 4 + 1 / 4) / 3)
    assert found.variance.value == pytest.approx((1 / 4 + 1 / 2 + 1 / 2) / 3)
    assert found.net_variance.value == pytest.approx((1 / 4 - 1 / 2) / 3)
    assert found.total.value == pytest.approx(7 / 12)
    assert found.tied == 0


def test_a_tie_goes_to_the_lowest_class_and_is_counted():
    found = decompose_zero_one([[2, 0, 1], [1, 0, 1], [1, 2, 1], [2, 2, 0]], [1, 2, 1])
    assert found.images["bias"].tolist() == [0, 1, 0]
    assert found.tied == pytest.approx(2 / 3)
    assert decompose_zero_one([[3, 3], [3, 3]], [0, 0]).tied == 0


def test_the_naive_sum_of_bias_and_variance_is_not_the_error():
    logits, labels = answers((20, 400, 10))
    found = decompose_zero_one(logits.argmax(-1), labels)
    assert found.bias.value + found.variance.value > found.total.value + 0.05
    net = found.variance_unbiased.value - found.variance_biased.value
    assert found.net_variance.value == pytest.approx(net, abs=EXACT)
    # With many classes, not every model that differs from a wrong vote is right.
    biased = found.images["bias"] == 1
    assert found.variance_biased.value < (found.images["variance"] * biased).mean() - 0.05
    # The same numbers, counted image by image.
    slow = [np.bincount(column, minlength=10) for column in logits.argmax(-1).T]
    assert found.bias.value == pytest.approx(np.mean([votes.argmax() for votes in slow] != labels))


class Canned:
    """An estimator whose i-th fit predicts the i-th row."""

    def __init__(self, rows):
        self.rows = iter(rows)

    def fit(self, images, labels):
        return self

    def predict(self, images):
        return next(self.rows)


def test_against_mlxtend():
    reference = pytest.importorskip("mlxtend.evaluate").bias_variance_decomp
    logits, labels = answers((6, 50, 4), seed=3)
    said = logits.argmax(-1)
    nothing = np.zeros((50, 1))
    error, bias, variance = reference(
        Canned(said), nothing, labels, nothing, labels, loss="0-1_loss", num_rounds=6, random_seed=0
    )
    found = decompose_zero_one(said, labels)
    assert (found.total.value, found.bias.value, found.variance.value) == pytest.approx((error, bias, variance))
    assert bias + variance > error + 0.01  # theirs do not add up

    # Two classes: the squared error over both is twice that of one probability.
    chances, truth = softmax(answers((6, 50, 2))[0])[..., 1], (labels > 1).astype(float)
    error, bias2, variance = reference(
        Canned(chances), nothing, truth, nothing, truth, loss="mse", num_rounds=6, random_seed=0
    )
    found = decompose_squared(np.stack([1 - chances, chances], -1), truth.astype(int))
    assert found.total.value == pytest.approx(2 * error)
    assert found.variance.value == pytest.approx(2 * variance * 6 / 5)
    assert found.bias2_and_noise.value == pytest.approx(2 * (bias2 - variance / 5))  # theirs holds variance / M
    number = decompose_regression(chances, truth, np.stack([truth, truth]))
    assert number.total.value == pytest.approx(error)
    assert number.variance.value == pytest.approx(variance * 6 / 5)
    assert number.bias2.value == pytest.approx(bias2 - variance / 5)


# Intervals


def without(models, i):
    return np.delete(models, i, axis=0)


def student(level, freedom):
    from scipy.stats import t

    return t.ppf((1 + level) / 2, freedom)


@pytest.mark.parametrize("loss", ["squared", "zero_one", "cross_entropy"])
@pytest.mark.parametrize(("num_reshuffles", "num_models"), [(1, 3), (1, 7), (2, 4), (5, 4)])
def test_the_interval_is_the_written_jackknife(loss, num_reshuffles, num_models):
    logits, labels = answers((num_reshuffles, num_models, 25, 4), seed=num_models)
    found = getattr(decompose(logits, labels, level=0.9), loss)
    for name, part in {**found.parts, "total": found.total}.items():

        def value(models, name=name):
            one = getattr(decompose(models, labels), loss)
            return {**one.parts, "total": one.total}[name].value

        points = [value(models) for models in logits]
        assert part.points == pytest.approx(points, abs=EXACT)
        spreads = []
        for models in logits:
            left = [value(without(models, i)) for i in range(num_models)]
            spreads.append((num_models - 1) / num_models * np.square(left - np.mean(left)).sum())
        between = np.var(points, ddof=1) if num_reshuffles > 1 else 0
        variance = np.mean(spreads) - (1 - 1 / num_reshuffles) * between
        error = math.sqrt(max(variance, between / num_reshuffles))
        assert part.std_error == pytest.approx(error, rel=1e-7, abs=1e-12)
        half = student(0.9, num_models - 1) * error
        assert part.interval == pytest.approx((part.value - half, part.value + half), abs=1e-9)


@pytest.mark.parametrize("repeated", [False, True])
def test_the_interval_of_a_bias_without_its_noise_is_the_same_jackknife(repeated):
    chances, generator = softmax(answers((2, 4, 25, 3))[0]), np.random.default_rng(0)
    truth = {"labels": generator.integers(0, 3, (25, 4))} if repeated else {
        "class_probabilities": generator.dirichlet(np.ones(3), 25)}  # fmt: skip
    found = decompose_squared(chances, **truth)
    left = [[decompose_squared(without(models, i), **truth).bias2.value for i in range(4)] for models in chances]
    between = np.var(found.bias2.points, ddof=1)
    variance = max(3 * np.var(left, axis=1).mean() - between / 2, between / 2)
    assert found.bias2.std_error == pytest.approx(math.sqrt(variance))
    assert found.bias2_and_noise.std_error == pytest.approx(math.sqrt(variance))


def test_the_interval_is_never_narrower_than_the_reshuffles_say():
    """Models that are alike within each reshuffle, and differ from one to the next."""
    labels = np.zeros(10, int)
    logits = np.stack([np.full((3, 10, 2), [level, 0]) for level in (0.0, 1.0, 2.0)])
    found = decompose_squared(softmax(logits), labels)
    assert found.variance.value == pytest.approx(0, abs=EXACT)
    assert found.total.std_error == pytest.approx(np.std(found.total.points, ddof=1) / math.sqrt(3))


@pytest.mark.parametrize("num_reshuffles", [1, 4])
def test_two_models_tell_no_interval(num_reshuffles):
    logits, labels = answers((num_reshuffles, 2, 25, 3))
    found = decompose(logits, labels)
    for one in (found.squared, found.zero_one, found.cross_entropy):
        assert {(part.interval, part.std_error) for part in (*one.parts.values(), one.total)} == {(None, None)}
        assert "interval" not in one.sentence
        assert one.table()["total"]["low"] is None


class Pool:
    """Models that are trained on parts of a pool: each sees its part's mean and a start of its own."""

    def __init__(self, *, num_models, part=25, num_images=20, num_classes=3):
        generator = np.random.default_rng(0)
        self.num_models, self.part = num_models, part
        self.base = generator.normal(size=(num_images, num_classes))
        self.slopes = generator.normal(size=(2, num_images, num_classes)) / math.sqrt(2)
        self.labels = generator.integers(0, num_classes, num_images)

    def chances(self, means, generator):
        return softmax(self.base + np.tensordot(means, self.slopes, 1) + 0.3 * generator.normal(
            size=means.shape[:-1] + self.base.shape))  # fmt: skip

    def reshuffled(self, times, generator):
        """Probabilities ``(R, M, N, K)`` of models on parts of one pool, split anew each time."""
        pool = generator.exponential(size=(self.num_models * self.part, 2)) - 1
        parts = np.stack([generator.permutation(pool) for _ in range(times)]).reshape(times, self.num_models, -1, 2)
        return self.chances(parts.mean(axis=2) * math.sqrt(self.part), generator)

    def truth(self):
        generator = np.random.default_rng(1)
        means = (generator.gamma(self.part, size=(20_000, 2)) - self.part) / math.sqrt(self.part)
        chances = self.chances(means, generator)
        bias2 = np.square(chances.mean(axis=0) - np.eye(3)[self.labels]).sum(-1).mean()
        variance = chances.var(axis=0).sum(-1).mean()
        return {"bias2_and_noise": bias2, "variance": variance, "total": bias2 + variance}


@pytest.mark.parametrize(("num_models", "times", "lowest"), [(6, 5, 0.93), (6, 8, 0.92), (4, 2, 0.93), (6, 1, 0.86)])
def test_intervals_cover_the_expectation_over_training_sets(num_models, times, lowest):
    pool, generator = Pool(num_models=num_models), np.random.default_rng(times)
    truth, rounds = pool.truth(), 250
    covered, alone, wide = (dict.fromkeys(truth, 0) for _ in range(3))
    for _ in range(rounds):
        found = decompose_squared(pool.reshuffled(times, generator), pool.labels)
        for name, true in truth.items():
            part = getattr(found, name)
            covered[name] += part.interval.low <= true <= part.interval.high
            wide[name] += (part.interval.high - part.interval.low) / 2 / rounds
            if times > 1:
                half = student(0.95, times - 1) * np.std(part.points, ddof=1) / math.sqrt(times)
                alone[name] += abs(part.value - true) <= half
    assert min(covered.values()) / rounds > lowest
    assert max(wide.values()) < 0.6  # and are not just endless
    if times >= 5:  # what reshuffles of the same pool say among themselves is not enough
        assert alone["bias2_and_noise"] / rounds < 0.6


# Sampling and initialisation


def nested(num_subsets, num_seeds, num_images=6, *, start=1.0, seed=0, num_classes=None):
    generator = np.random.default_rng(seed)
    tail = (num_images,) if num_classes is None else (num_images, num_classes)
    of_subset = generator.normal(size=(num_subsets, 1, *tail))
    return 3 + of_subset + start * generator.normal(size=(num_subsets, num_seeds, *tail))


@pytest.mark.parametrize("seed", range(8))
def test_the_components_add_up_to_the_variance_between_models_of_different_training_sets(seed):
    num_subsets, num_seeds, num_images = np.random.default_rng(seed).integers(2, 7, 3)
    values = nested(num_subsets, num_seeds, num_images, seed=seed, num_classes=3)
    found = variance_sources(values)
    pairs = [
        np.square(values[s, :, None] - values[t, None]).sum(-1).mean() / 2
        for s in range(num_subsets)
        for t in range(num_subsets)
        if s != t
    ]
    assert found.total.value == pytest.approx(np.mean(pairs), abs=EXACT)
    assert found.sampling.value + found.initialisation.value == pytest.approx(found.total.value, abs=EXACT)
    assert found.initialisation.value == pytest.approx(values.var(axis=1, ddof=1).sum(-1).mean(), abs=EXACT)


def test_neither_component_is_off_and_both_intervals_cover():
    truth = {"sampling": 1.0, "initialisation": 0.49, "total": 1.49}
    values, covered = {name: [] for name in truth}, dict.fromkeys(truth, 0)
    for seed in range(500):
        found = variance_sources(nested(4, 4, 10, start=0.7, seed=seed))
        for name, true in truth.items():
            part = getattr(found, name)
            values[name].append(part.value)
            covered[name] += part.interval.low <= true <= part.interval.high
    for name, true in truth.items():
        assert abs(np.mean(values[name]) - true) < 4 * np.std(values[name]) / math.sqrt(500)
        assert 0.91 < covered[name] / 500 < 0.99
    # The naive variance of the means over seeds holds a part of the starts'.
    naive = np.mean([nested(4, 4, 10, start=0.7, seed=seed).mean(1).var(0, ddof=1).mean() for seed in range(500)])
    assert naive == pytest.approx(1 + 0.49 / 4, abs=0.04)


def test_a_component_may_be_negative_and_its_interval_is_the_jackknife_over_training_sets():
    values = np.array([[[0.0], [2.0]], [[2.0], [0.0]], [[0.0], [2.1]]])
    found = variance_sources(values, level=0.8)
    assert found.sampling.value < 0
    left = np.array([[variance_sources(without(values, s)).sampling.value] for s in range(3)])
    error = math.sqrt(2 / 3 * np.square(left - left.mean()).sum())
    assert found.sampling.std_error == pytest.approx(error)
    assert found.sampling.interval.high == pytest.approx(found.sampling.value + student(0.8, 2) * error)
    assert variance_sources(values[:2]).sampling.interval is None
    assert variance_sources(values[:2]).total.value != 0


def test_numbers_far_from_zero_lose_no_digits():
    values = nested(4, 3)
    near, far = variance_sources(values), variance_sources(values + 1e6)
    assert far.sampling.value == pytest.approx(near.sampling.value, abs=1e-8)


def test_sources_in_a_sentence_and_a_table():
    found = variance_sources(nested(3, 2, 5))
    assert found.sentence.startswith(f"variance {found.total} = sampling {found.sampling} + initialisation ")
    assert found.sentence.endswith("3 training sets x 2 seeds, 5 images, 95% intervals")
    assert variance_sources(nested(2, 2, 5)).sentence.endswith("2 training sets x 2 seeds, 5 images")
    table = json.loads(json.dumps(found.table()))
    assert table["sampling"]["value"] == found.sampling.value
    assert (table["num_subsets"], table["num_seeds"], table["num_images"], table["level"]) == (3, 2, 5, 0.95)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((1, 3, 4)), r"S >= 2"),
        (np.zeros((3, 1, 4)), r"R >= 2"),
        (np.zeros((3, 3)), r"\(3, 3\)"),
        (np.zeros((3, 3, 0)), r"\(3, 3, 0\)"),
        (np.full((2, 2, 2), np.nan), "finite"),
    ],
)
def test_what_has_no_sources_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        variance_sources(values)


# Regression


class Polynomial:
    """Least squares on a fixed design: bias^2 and variance are known exactly."""

    def __init__(self, degree, sigma=0.3, num_places=20):
        self.sigma, x = sigma, np.linspace(0, 1, num_places)
        self.true = np.sin(2 * np.pi * x)
        design = np.vander(2 * x - 1, degree + 1)
        self.hat = design @ np.linalg.pinv(design)
        self.bias2 = np.square(self.hat @ self.true - self.true).mean()
        self.variance = sigma**2 * np.square(self.hat).sum() / num_places

    def draw(self, generator, num_models=100, repeats=5):
        noisy = self.true + self.sigma * generator.normal(size=(num_models + repeats, len(self.true)))
        return noisy[:num_models] @ self.hat.T, noisy[num_models:]


@pytest.mark.parametrize("degree", [1, 3, 8])
@pytest.mark.parametrize("known", [False, True])
def test_bias_variance_and_noise_of_a_polynomial_are_recovered_and_add_up(degree, known):
    case, generator = Polynomial(degree, num_places=40), np.random.default_rng(degree)
    truth = {"bias2": case.bias2, "variance": case.variance, "noise": 0.09, "total": None, "difference": 0.0}
    truth["total"] = case.bias2 + case.variance + 0.09
    covered, adds_up = dict.fromkeys(truth, 0), 0
    for _ in range(200):
        predictions, targets = case.draw(generator, num_models=30)
        options = {"noise_variance": 0.09} if known else {}
        found = decompose_regression(predictions, case.true, targets, **options)
        for name, true in truth.items():
            low, high = getattr(found, name).interval
            covered[name] += low - EXACT <= true <= high + EXACT
        adds_up += found.adds_up
        total = sum(part.value for part in found.parts.values()) + found.difference.value
        assert total == pytest.approx(found.total.value, abs=EXACT)
    assert adds_up >= 198
    assert covered.pop("noise") / 200 > (0.99 if known else 0.87)
    for name, count in covered.items():
        assert 0.88 < count / 200 <= 1, name


def test_the_error_is_measured_on_every_target_and_a_wrong_function_does_not_add_up():
    case = Polynomial(3)
    predictions, targets = case.draw(np.random.default_rng(0), repeats=50)
    found = decompose_regression(predictions, case.true, targets)
    assert found.total.value == pytest.approx(np.square(predictions[:, None] - targets).mean(), abs=EXACT)
    assert found.adds_up
    assert not decompose_regression(predictions, case.true + 0.5, targets).adds_up
    assert not decompose_regression(predictions, case.true, targets, noise_variance=0.2).adds_up
    assert found.images["total"].shape == (20,)
    single = decompose_regression(predictions, case.true, targets[0], noise_variance=0.09)
    assert single.total.value == pytest.approx(np.square(predictions - targets[0]).mean(), abs=EXACT)
    assert single.noise.interval == (0.09, 0.09)
    # A model without a place of its own: nothing moves, nothing is noise.
    same = decompose_regression(np.zeros((3, 4)), np.ones(4), np.ones((2, 4)))
    assert (same.bias2.value, same.variance.value, same.noise.value, same.total.value) == (1, 0, 0, 1)
    assert same.adds_up


def test_the_errors_of_a_regression_are_the_written_ones():
    case = Polynomial(2)
    predictions, targets = case.draw(np.random.default_rng(0), num_models=12)
    found = decompose_regression(predictions, case.true, targets, level=0.9)
    spread = targets.var(axis=0, ddof=1)
    error = spread.std(ddof=1) / math.sqrt(20)
    assert found.noise.interval.high == pytest.approx(spread.mean() + student(0.9, 19) * error)
    noise = targets - case.true
    squares = np.square(noise.mean(axis=0)) - spread / 5
    off = predictions.mean(axis=0) - case.true
    crossed = 4 * np.square(off).sum() * spread.mean() / 5
    difference = (squares - 2 * off * noise.mean(axis=0)).mean()
    assert found.difference.value == pytest.approx(difference)
    assert found.difference.std_error == pytest.approx(math.sqrt(crossed + np.square(squares).sum()) / 20)
    high = difference + student(0.9, 19) * found.difference.std_error
    assert found.difference.interval.high == pytest.approx(high)
    left = np.array([np.square(without(predictions, i) - case.true).mean() for i in range(12)])
    of_targets = math.sqrt(crossed + np.square(squares + spread - spread.mean()).sum()) / 20
    assert found.total.std_error == pytest.approx(math.hypot(math.sqrt(11 * left.var()), of_targets))
    assert found.total.interval.high == pytest.approx(found.total.value + student(0.9, 11) * found.total.std_error)
    assert found.sentence.startswith("mean squared error ")
    assert "= bias² " in found.sentence
    assert found.sentence.endswith("12 models at 20 places, 90% intervals")
    table = json.loads(json.dumps(found.table()))
    assert table["adds_up"] is found.adds_up
    assert table["difference"]["value"] == found.difference.value


@pytest.mark.parametrize(
    ("predictions", "function", "targets", "options", "says"),
    [
        (np.zeros((2, 4)), np.zeros(4), np.zeros((2, 4)), {}, "M >= 3"),
        (np.zeros((3, 1)), np.zeros(1), np.zeros((2, 1)), {}, "X >= 2"),
        (np.zeros(4), np.zeros(4), np.zeros((2, 4)), {}, r"\(4,\)"),
        (np.zeros((3, 4)), np.zeros(3), np.zeros((2, 4)), {}, r"\(3,\)"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros((4, 2)), {}, r"\(4, 2\)"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros((0, 4)), {"noise_variance": 1}, r"\(0, 4\)"),
        (np.zeros((3, 4)), np.full(4, np.inf), np.zeros((2, 4)), {}, "finite"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros(4), {}, "noise_variance"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros(4), {"noise_variance": -1}, "-1"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros(4), {"noise_variance": math.nan}, "nan"),
        (np.zeros((3, 4)), np.zeros(4), np.zeros((2, 4)), {"level": 95}, "level"),
    ],
)
def test_what_is_no_regression_is_refused(predictions, function, targets, options, says):
    with pytest.raises(ValueError, match=says):
        decompose_regression(predictions, function, targets, **options)


# A sweep


def told(value, error=0.1):
    return Estimate(value, error, None)


def test_a_peak_needs_two_standard_errors_on_both_sides():
    found = peak([told(0.0), told(1.0), told(0.5)])
    assert (found.position, found.interior, found.decided) == (1, True, True)
    assert found.above_ends == pytest.approx(0.5 / math.hypot(0.1, 0.1))
    assert not peak([told(0.0), told(1.0), told(0.8)]).decided
    assert not peak([told(0.8), told(1.0), told(0.0)]).decided
    for edge in (peak([told(1.0), told(0.0)]), peak([told(0.0), told(1.0)]), peak([told(0.0)])):
        assert (edge.interior, edge.above_ends, edge.decided) == (False, None, False)
    assert not peak([told(0.0), told(1.0), told(0.0, None)]).decided
    assert not peak([told(0.0, None), told(1.0), told(0.0)]).decided
    assert peak([told(0.0, 0.0), told(1.0, 0.0), told(0.0, 0.0)]).above_ends == math.inf
    with pytest.raises(ValueError, match="empty"):
        peak([])


def test_the_peak_of_a_sweep_is_that_of_its_variance():
    logits, labels = answers((4, 20, 3))
    shared = logits.mean(0)
    sweep = [decompose(shared + factor * (logits - shared), labels) for factor in (0.1, 3.0, 0.1)]
    assert variance_peak([one.squared for one in sweep]).decided
    calm, wild, _ = (one.zero_one for one in sweep)
    low, high = (replace(calm, net_variance=told(value)) for value in (-0.5, 0.5))
    assert variance_peak([low, high, replace(wild, net_variance=told(-0.4))]).position == 1


# Tables, sentences, refusals


def test_a_table_is_plain_json_and_holds_every_part():
    logits, labels = answers((2, 4, 10, 3))
    table = json.loads(json.dumps(decompose(logits, labels).table()))
    assert set(table) == {"squared", "zero_one", "cross_entropy"}
    counts = {"loss", "num_reshuffles", "num_models", "num_images", "level", "total"}
    assert set(table["squared"]) == counts | {"bias2_and_noise", "variance"}
    assert set(table["cross_entropy"]) == counts | {"bias_and_noise", "variance", "at_half"}
    signed = {"variance_unbiased", "variance_biased", "variance", "tied", "at_half"}
    assert set(table["zero_one"]) == counts | {"bias", "net_variance"} | signed
    assert set(table["squared"]["variance"]) == {"value", "std_error", "low", "high", "points"}
    assert len(table["squared"]["variance"]["points"]) == 2
    found = decompose(logits, labels).squared
    assert table["squared"]["variance"]["low"] == found.variance.interval.low
    assert table["cross_entropy"]["at_half"]["variance"] > 0
    known = decompose_squared(softmax(logits), class_probabilities=np.full((10, 3), 1 / 3)).table()
    assert {"bias2", "variance", "noise"} < set(known)
    assert "bias2_and_noise" not in known


def test_the_sentence_is_the_sum():
    logits, labels = answers((2, 4, 10, 3))
    found = decompose(logits, labels, level=0.9)
    squared, zero_one = found.squared, found.zero_one
    assert squared.sentence == (
        f"squared error {squared.total} = bias² + noise {squared.bias2_and_noise} + variance {squared.variance}; "
        f"4 models in each of 2 reshuffles, 10 images, 90% intervals"
    )
    assert zero_one.sentence.startswith(
        f"error {zero_one.total} = bias {zero_one.bias} + variance {zero_one.variance_unbiased} on images that the "
        f"vote gets right - {zero_one.variance_biased} on those it gets wrong; 4 models"
    )
    assert decompose(logits[0], labels).squared.basis == "4 models, 10 images"
    assert str(Estimate(0.25, None, None)) == "0.25"
    assert str(Estimate(0.25, 0.1, Interval(0.1, 0.4))) == "0.25 (0.1 to 0.4)"


EVEN = np.full((3, 4, 2), 0.5)


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (EVEN[:1], [0] * 4, "at least 2 models"),
        (EVEN[0], [0] * 4, r"\(4, 2\)"),
        (np.zeros((2, 3, 0, 2)), [], r"\(2, 3, 0, 2\)"),
        (2 * EVEN, [0] * 4, "sum to 1"),
        (EVEN * [3, -1], [0] * 4, "at least 0"),
        (np.full((3, 4, 2), np.nan), [0] * 4, "finite"),
        (EVEN, [0] * 5, "N = 4"),
        (EVEN, [0, 1, 2, 0], r"\[0, 2\), found 0..2"),
        (EVEN, [0, 1, -1, 0], r"found -1..1"),
        (EVEN, [0.0] * 4, "integers"),
        (EVEN, np.zeros((4, 0), int), r"\(4, 0\)"),
        (EVEN, np.zeros((4, 1, 1), int), r"\(4, 1, 1\)"),
        (EVEN, [[0, 1], [1, 0], [0, 1], [0, 1]], "one-hot"),
        (EVEN, None, "only one"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(probabilities, labels, says):
    with pytest.raises(ValueError, match=says):
        decompose_squared(probabilities, labels)


def test_known_chances_that_do_not_fit_are_refused():
    for known, says in ((np.full((4, 3), 1 / 3), r"\(4, 3\)"), (np.ones((4, 2)), "sum to 1")):
        with pytest.raises(ValueError, match=says):
            decompose_squared(EVEN, class_probabilities=known)
    with pytest.raises(ValueError, match="only one"):
        decompose_squared(EVEN, [0] * 4, class_probabilities=EVEN[0])
    assert decompose_squared(EVEN, [[0, 1], [1, 1], [0, 1], [0, 1]]).noise.value > 0  # two labels each, not one-hot


def test_probabilities_in_place_of_logits_are_refused():
    with pytest.raises(ValueError, match="give their logs"):
        decompose_cross_entropy(EVEN, [0] * 4)
    assert decompose_cross_entropy(np.log(EVEN), [0] * 4).total.value == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="finite"):
        decompose_cross_entropy(np.full((3, 4, 2), -np.inf), [0] * 4)


@pytest.mark.parametrize(
    ("said", "labels", "num_classes", "says"),
    [
        ([[0, 1]], [0, 1], None, "at least 2 models"),
        ([[0.0, 1.0], [0.0, 1.0]], [0, 1], None, "predictions must be integers"),
        ([[0, 1], [0, 3]], [0, 1], 3, r"predictions must lie in \[0, 3\)"),
        ([[0, 1], [0, 2]], [0, 3], 3, r"labels must lie in \[0, 3\)"),
        ([[0, -1], [0, 2]], [0, 1], None, "found -1..2"),
        ([[0, 1], [0, 1]], [[0, 1], [0, 1]], None, r"\(N,\)"),
        ([[0, 1], [0, 1]], [0, 1, 2], None, "N = 2"),
    ],
)
def test_votes_that_cannot_be_counted_are_refused(said, labels, num_classes, says):
    with pytest.raises(ValueError, match=says):
        decompose_zero_one(said, labels, num_classes=num_classes)


@pytest.mark.parametrize("level", [0, 1, 95, math.nan])
def test_a_level_outside_0_and_1_is_refused(level):
    logits, labels = answers((3, 5, 2))
    for call in (
        lambda: decompose_squared(softmax(logits), labels, level=level),
        lambda: decompose_cross_entropy(logits, labels, level=level),
        lambda: decompose_zero_one(logits.argmax(-1), labels, level=level),
        lambda: variance_sources(nested(3, 2), level=level),
    ):
        with pytest.raises(ValueError, match="level"):
            call()


def test_taking_apart_imports_neither_torch_nor_matplotlib():
    code = """
import sys
import numpy as np
from litmus.diagnosis import decompose
decompose(np.zeros((3, 4, 2)), [0, 1, 0, 1])
print([name for name in ("matplotlib", "torch", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
