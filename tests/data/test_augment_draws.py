"""Draws with an address: uniform, independent, and the same bits wherever in a batch a sample sits."""

import math

import pytest
import torch
from scipy import stats

from litmus.data.augment import draws

N = 100_000
INDICES = torch.arange(N)


def draw(seed: int, epoch: int, number: int, idx: torch.Tensor = INDICES) -> torch.Tensor:
    return draws.uniforms(draws.stream_key(seed, epoch), idx, torch.tensor([number]))[0]


def test_the_hash_is_splitmix64_in_plain_integers():
    key, mask = draws.stream_key(7, 3), 2**64 - 1
    idx, numbers = [0, 1, 59_999, 2**40], [0, 5, 57]
    got = draws.hash_bits(key, torch.tensor(idx), torch.tensor(numbers)) >> 33
    for row, number in enumerate(numbers):
        for column, i in enumerate(idx):
            z = (key + i * 0xD1342543DE82EF95 + number * 0x9E3779B97F4A7C15) & mask
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            z = (z ^ (z >> 31)) >> 33  # the last step does not touch these bits
            assert got[row, column].item() & (2**31 - 1) == z


@pytest.mark.parametrize(("seed", "epoch", "number"), [(0, 0, 0), (0, 1, 9), (1, 0, 15), (2**32 - 1, 299, 57)])
def test_draws_are_uniform(seed, epoch, number):
    u = draw(seed, epoch, number)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: draw(1, 0, 0), id="next seed"),
        pytest.param(lambda: draw(0, 1, 0), id="next epoch"),
        pytest.param(lambda: draw(0, 0, 1), id="next draw"),
        pytest.param(lambda: draw(0, 0, 0, INDICES + 1), id="next sample"),
        pytest.param(lambda: draw(0, 0, 0, INDICES + 2**20), id="far sample"),
        pytest.param(lambda: draw(1, 0, 1), id="next seed and draw"),
    ],
)
def test_neighbouring_addresses_are_independent(other):
    u, v = draw(0, 0, 0), other()
    assert abs(torch.corrcoef(torch.stack((u, v)))[0, 1]) < 4 / math.sqrt(N)
    cells = torch.bincount((u * 16).long() * 16 + (v * 16).long(), minlength=256)
    assert stats.chisquare(cells.numpy()).pvalue > 1e-3


def test_no_two_of_a_million_addresses_share_their_bits():
    numbers = torch.arange(10)
    keys = [draws.stream_key(seed, epoch) for seed in (0, 1) for epoch in range(5)]
    bits = torch.cat([draws.hash_bits(key, INDICES[:10_000], numbers).flatten() for key in keys])
    assert len(bits.unique()) == len(bits) == 1_000_000


@pytest.mark.parametrize("size", [1, 3, 17, 64])
def test_a_draw_and_its_sine_have_the_same_bits_in_every_batch_size(size):
    whole = draw(0, 0, 0, torch.arange(1024))
    parts = torch.cat([draw(0, 0, 0, idx) for idx in torch.arange(1024).split(size)])
    assert torch.equal(whole, parts)
    sines = torch.cat([torch.stack(draws.sin_cos(part * 360), 1) for part in whole.split(size)])
    assert torch.equal(sines, torch.stack(draws.sin_cos(whole * 360), 1))


def test_sine_and_cosine_are_right_to_a_millionth_and_exact_at_zero():
    degrees = torch.linspace(-540, 540, 100_001)
    sin, cos = draws.sin_cos(degrees)
    radians = degrees.double() * math.pi / 180
    assert (sin - radians.sin()).abs().max() < 1e-6
    assert (cos - radians.cos()).abs().max() < 1e-6
    sin, cos = draws.sin_cos(torch.zeros(3))
    assert torch.equal(sin, torch.zeros(3))
    assert torch.equal(cos, torch.ones(3))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.9, 1.0, 4.0, 100.0])
def test_beta_quantiles_are_the_beta_distribution(alpha):
    table = draws.beta_quantiles(alpha)
    expected = stats.beta(alpha, alpha).ppf([i / (len(table) - 1) for i in range(len(table))])
    assert (table - torch.from_numpy(expected)).abs()[1:-1].max() < 2e-4
    assert torch.allclose(table + table.flip(0), torch.ones(()))
    lower = draws.look_up(table, draw(0, 0, 0) / 2).double()  # the upper half piles up at 1, as float32 must
    assert stats.kstest(lower.numpy(), lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).statistic < 5e-3


def test_log_uniform_quantiles_are_uniform_on_a_log_scale():
    sample = draws.look_up(draws.log_uniform_quantiles(0.3, 3.3), draw(0, 0, 0)).double()
    assert stats.kstest(sample.numpy(), stats.loguniform(0.3, 3.3).cdf).pvalue > 1e-3
