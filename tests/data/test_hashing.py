import numpy as np
import pytest

from litmus.data.hashing import _mix, digest_of, hash64, permutation, uniform


def test_the_mixer_is_splitmix64():
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        stream = _mix(np.arange(1, 4, dtype=np.uint64) * golden)
    assert [hex(x) for x in stream] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_orders_are_the_recorded_ones_on_every_platform():
    assert permutation(8, "order", 0, 0).tolist() == [4, 1, 7, 5, 3, 0, 6, 2]
    assert permutation(8, "order", 0, 1).tolist() == [1, 5, 2, 7, 4, 6, 3, 0]
    assert [hex(x) for x in hash64("order", 0, 0, np.arange(2))] == ["0x9e1575cc74192542", "0x81fd3687b5ad76fa"]


def test_parts_of_an_address_are_not_interchangeable():
    addresses = [(0, 1), (1, 0), ("0", 1), (0, 1, 0), (0,), (-1, 1), (2**64 - 2, 1)]
    assert len({int(hash64(*address)[0]) for address in addresses}) == len(addresses)


def test_neighbouring_addresses_give_independent_uniform_numbers():
    draws = uniform("noise", 3, np.arange(20_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.025
    assert abs(np.corrcoef(draws, uniform("noise", 4, np.arange(20_000)))[0, 1]) < 0.025


def test_every_position_of_a_permutation_is_equally_likely_for_every_item():
    places = np.stack([np.argsort(permutation(5, "order", seed)) for seed in range(2_000)])
    counts = np.stack([np.bincount(places[:, item], minlength=5) for item in range(5)])
    assert ((counts - 400) ** 2 / 400).sum() < 39.3  # chi-square, 16 degrees of freedom, p = 0.001


@pytest.mark.parametrize("other", [np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.int8), np.ones((2, 3), np.uint8)])
def test_a_digest_sees_shape_type_and_value(other):
    assert digest_of([other]) != digest_of([np.zeros((2, 3), np.uint8)])


def test_a_digest_is_short_enough_for_the_tracking_store_and_ignores_memory_layout():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert digest_of([array]) == digest_of([np.asfortranarray(array)])
    assert len(digest_of([array, "text"])) == 32  # MLflow's limit is 36
    assert digest_of(["a", "b"]) != digest_of(["ab"])
