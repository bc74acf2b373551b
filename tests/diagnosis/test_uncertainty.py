"""Known numbers, and scipy's entropy."""

import math

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from litmus.diagnosis.uncertainty import entropy, spread


def drawn(*shape, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).dirichlet(np.ones(shape[-1]), shape[:-1])


def test_entropy_is_scipys_and_zero_when_sure():
    p = drawn(50, 7)
    np.testing.assert_allclose(entropy(p), scipy_entropy(p, axis=1))
    assert entropy([[0.0, 1.0, 0.0]]).tolist() == [0.0]
    assert entropy(np.full((1, 4), 0.25)) == pytest.approx(math.log(4))


def test_two_sure_passes_that_contradict_each_other_have_all_their_uncertainty_between_them():
    found = spread([[[1, 0]], [[0, 1]]])
    assert found.mean.tolist() == [[0.5, 0.5]]
    assert found.mutual_information == pytest.approx(math.log(2))
    assert found.std == pytest.approx(math.sqrt(0.5))  # of 1 and 0, with T - 1
    assert found.variation_ratio == pytest.approx(0.5)


def test_passes_that_are_unsure_in_the_same_way_share_no_information():
    found = spread([[[0.5, 0.5]]] * 3)
    assert found.entropy == pytest.approx(math.log(2))
    assert found.mutual_information.tolist() == found.std.tolist() == found.variation_ratio.tolist() == [0]


def test_the_average_predicts_though_most_passes_say_otherwise():
    found = spread([[[0.9, 0.1]], [[0.45, 0.55]], [[0.45, 0.55]], [[0.45, 0.55]]])
    assert found.predicted.tolist() == [0]
    assert found.variation_ratio == pytest.approx(0.25)  # three of four say 1


def test_mutual_information_is_the_mean_divergence_of_the_passes_from_their_average():
    tables = drawn(20, 30, 5)
    found = spread(tables)
    divergence = scipy_entropy(tables, np.broadcast_to(found.mean, tables.shape), axis=2).mean(0)
    np.testing.assert_allclose(found.mutual_information, divergence, atol=1e-12)
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= found.entropy).all()


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (np.ones((1, 3, 1)), "T >= 2"),
        (np.ones((2, 3)), "T >= 2"),
        (np.ones((2, 3, 2)), "sum to 1"),
        ([[[1.5, -0.5]]] * 2, "none below 0"),
        (np.full((2, 3, 2), np.nan), "probabilities"),
    ],
)
def test_what_is_not_probabilities_is_refused(tables, says):
    with pytest.raises(ValueError, match=says):
        spread(tables)
