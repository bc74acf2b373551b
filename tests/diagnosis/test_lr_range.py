"""Range tests on curves whose answer is known."""

import numpy as np
import pytest

from litmus.diagnosis import suggest_lr

LRS = np.geomspace(1e-6, 10, 120)


def curve(fall_at=1e-2, rise_at=1.0, start=2.3, descent=1.6, lrs=LRS):
    """Falls fastest at ``fall_at``; has risen by e at ``rise_at``."""
    x = np.log10(lrs)
    fall = descent / (1 + np.exp(-(x - np.log10(fall_at)) / 0.2))
    return start - fall + np.exp((x - np.log10(rise_at)) / 0.1)


def decades(a, b):
    return abs(np.log10(a) - np.log10(b))


@pytest.mark.parametrize("fall_at", [1e-4, 1e-3, 1e-2, 3e-2])
@pytest.mark.parametrize("steps", [60, 120, 400])
def test_finds_the_descent_the_minimum_and_the_divergence(fall_at, steps):
    lrs = np.geomspace(1e-6, 10, steps)
    fine = np.geomspace(1e-6, 10, 20_000)
    losses = curve(fall_at, lrs=fine)
    lowest = fine[np.argmin(losses)]
    lost_half = fine[np.argmax((fine > lowest) & (losses > (2.3 + losses.min()) / 2))]
    found = suggest_lr(lrs, curve(fall_at, lrs=lrs))
    assert decades(found.steepest, fall_at) < 0.15
    assert decades(found.minimum, lowest) < 0.3  # the floor is flat
    assert decades(found.diverges_at, lost_half) < 0.25
    assert found.steepest <= found.lr * 1.0001
    assert found.lr <= found.minimum / 2
    assert found.note == ""


def test_noise_of_a_batch_moves_it_little():
    quiet = suggest_lr(LRS, curve())
    off = [
        decades(suggest_lr(LRS, curve() + np.random.default_rng(seed).normal(0, 0.15, 120)).lr, quiet.lr)
        for seed in range(50)
    ]
    assert np.median(off) < 0.1
    assert max(off) < 0.4


def test_single_spikes_move_it_little():
    losses = curve()
    losses[5::17] *= 4
    assert decades(suggest_lr(LRS, losses).lr, suggest_lr(LRS, curve()).lr) < 0.15


def test_nothing_is_suggested_from_noise_alone():
    noise = (2.3 + np.random.default_rng(seed).normal(0, 0.1, 120) for seed in range(200))
    assert sum(suggest_lr(LRS, losses).lr is not None for losses in noise) <= 6


@pytest.mark.parametrize("losses", [np.linspace(2, 9, 120), np.full(120, 2.3)])
def test_nothing_is_suggested_when_the_loss_never_falls(losses):
    found = suggest_lr(LRS, losses)
    assert (found.lr, found.steepest, found.minimum) == (None, None, None)
    assert "never fell" in found.note


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_a_divergence(bad):
    losses = curve(rise_at=1e6)
    losses[100:] = bad
    losses[110] = 2.0
    found = suggest_lr(LRS, losses)
    assert found.diverges_at == LRS[100]
    assert np.isnan(found.smooth[100:]).all()
    assert np.isfinite(found.smooth[:100]).all()
    assert decades(found.steepest, 1e-2) < 0.1


def test_how_high_the_divergence_goes_does_not_matter():
    tame, wild = curve(), curve()
    wild[tame > 5] = 1e30
    assert decades(suggest_lr(LRS, wild).lr, suggest_lr(LRS, tame).lr) < 0.05


def test_a_loss_that_is_never_finite_says_test_lower():
    found = suggest_lr(LRS, np.full(120, np.nan))
    assert found.lr is None
    assert "test lower" in found.note
    assert found.diverges_at == LRS[0]


def test_a_range_that_ends_too_early_says_test_higher():
    found = suggest_lr(LRS[:80], curve(fall_at=LRS[78])[:80])
    assert "test higher rates" in found.note
    assert found.diverges_at is None


def test_a_range_that_starts_too_late_says_test_lower():
    found = suggest_lr(LRS, curve(fall_at=5e-7))
    assert "test lower" in found.note


def test_the_scale_of_the_loss_does_not_matter():
    a, b = suggest_lr(LRS, curve()), suggest_lr(LRS, 1000 * curve())
    assert (a.lr, a.steepest, a.diverges_at) == (b.lr, b.steepest, b.diverges_at)


@pytest.mark.parametrize(
    ("lrs", "losses", "says"),
    [
        (LRS[:9], LRS[:9], "at least 10"),
        (LRS, LRS[:-1], r"\(119,\)"),
        (LRS[::-1], LRS, "rise"),
        (LRS - 1e-6, LRS, "positive"),
    ],
)
def test_what_is_no_range_test_is_refused(lrs, losses, says):
    with pytest.raises(ValueError, match=says):
        suggest_lr(lrs, losses)
