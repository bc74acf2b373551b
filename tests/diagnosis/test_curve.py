"""Readings of curves made to sit in each of the four regimes."""

import math

import numpy as np
import pytest

from litmus.diagnosis import NoFit, diagnose_errors, read_curve

SIZES = [250, 500, 1000, 2000, 4000, 8000]
N = np.array(SIZES, dtype=float)
REGIMES = {  # train and val error as functions of n
    "high bias": (0.16 - 0.3 * N**-0.5, 0.16 + 0.4 * N**-0.5),
    "high variance": (0 * N, 1.5 * N**-0.3),
    "high bias, high variance": (0.15 - 0.3 * N**-0.5, 0.14 + 1.2 * N**-0.3),
    "low bias, low variance": (0 * N + 0.002, 0.004 + 2 * N**-0.7),
}


def trainings(curves, *, num_seeds=5, sd=0.02, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (curve[:, None] + sd * np.minimum(curve, 0.15)[:, None] * generator.standard_normal((len(curve), num_seeds)))
        for curve in curves
    ]


def read(regime, *, num_val=10_000, sizes=SIZES, how=None, **more):
    train, val = trainings([curve[: len(sizes)] for curve in REGIMES[regime]], **(how or {}))
    return read_curve(sizes, train, val, num_val=num_val, **more)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("regime", REGIMES)
def test_each_regime_is_read_as_what_it_is(regime, seed):
    assert read(regime, how={"seed": seed}).verdict == regime


@pytest.mark.parametrize(
    ("regime", "gain", "trend"),
    [
        ("high bias", "low", ("flat", "narrows", "undecided")),
        ("high variance", "high", ("narrows",)),
        ("high bias, high variance", "high", ("narrows",)),
        ("low bias, low variance", "low", ("flat",)),
    ],
)
def test_more_data_helps_against_variance_alone(regime, gain, trend):
    found = read(regime)
    assert found.gain.status == gain
    assert found.trend.status in trend
    assert found.headline == f"{regime.capitalize()}; more data helps{' little' * (gain == 'low')}"


def test_a_gap_that_stays_is_high_variance_which_more_data_does_not_cure():
    train, val = trainings([0 * N, 0 * N + 0.1], sd=0.01)
    found = read_curve(SIZES, train, val, num_val=10_000, augments=True)
    assert found.verdict == "high variance"
    assert (found.trend.status, found.gain.status) == ("flat", "low")
    assert found.moves[0] == "stronger augment.*"
    assert read("high variance", augments=True, data_limited=True).moves[0] == "data.num_train up or stronger augment.*"


def test_few_images_and_seeds_leave_it_undecided_with_what_would_decide():
    train, val = np.zeros((4, 3)), 0.02 + np.array([[-0.008, 0, 0.008]] * 4)
    found = read_curve(SIZES[:4], train, val, num_val=100_000, tolerance=0.01)
    assert found.verdict == "undecided"
    assert diagnose_errors(0, 0.02, 2000, 100_000, tolerance=0.01, train_population=2000).gap.status == "high"
    note = next(note for note in found.notes if "more seed" in note)
    more = int(note.split("about ")[1].split()[0])
    for extra, decided in ((more, True), (more - 1, False)):
        num_seeds = 3 + extra
        spread = np.linspace(-1, 1, num_seeds)
        val = 0.02 + 0.008 * spread / spread.std(ddof=1) * np.ones((4, 1))
        again = read_curve(SIZES[:4], np.zeros((4, num_seeds)), val, num_val=100_000, tolerance=0.01)
        assert (again.diagnosis.gap.status == "high") is decided


def test_seeds_too_far_apart_for_any_number_say_so():
    val = np.array([[0.0, 0.04]] * 3)
    found = read_curve(SIZES[:3], np.zeros((3, 2)), val, num_val=10**8, tolerance=0.0199)
    assert any("no practical number of seeds" in note for note in found.notes)
    few = read_curve(SIZES[:3], np.zeros((3, 2)), val, num_val=100, tolerance=0.0199)
    assert "variance undecided between the seeds too" in few.notes


@pytest.mark.parametrize("num_val", [60, 360, 10_000])
@pytest.mark.parametrize("num_seeds", [1, 2, 3, 10])
@pytest.mark.parametrize("regime", REGIMES)
def test_the_verdict_never_contradicts_that_of_the_mean_run(regime, num_seeds, num_val):
    train, val = trainings(REGIMES[regime], num_seeds=num_seeds)
    found = read_curve(SIZES, train, val, num_val=num_val, target_err=0.01).diagnosis
    alone = diagnose_errors(train[-1].mean(), val[-1].mean(), 8000, num_val, 0.01, train_population=8000)
    for ours, theirs in ((found.bias, alone.bias), (found.gap, alone.gap)):
        assert ours.value == theirs.value
        assert ours.interval.low <= theirs.interval.low
        assert theirs.interval.high <= ours.interval.high
        assert ours.status in (theirs.status, "undecided")
        if num_seeds == 1:
            assert ours == theirs


def test_intervals_are_students_when_images_are_no_limit():
    """R's t.test(c(0.10, 0.12, 0.11)): 0.0852 to 0.1348."""
    val = np.array([[0.10, 0.12, 0.11]])
    point = read_curve([500], np.zeros((1, 3)), val, num_val=10**9).points[0]
    assert point.val_interval == pytest.approx((0.08516, 0.13484), abs=2e-5)
    assert point.gap_interval == pytest.approx((0.08516, 0.13484), abs=2e-5)
    assert point.train_interval == (0, 0)
    assert (point.train_err, point.val_err, point.gap) == pytest.approx((0, 0.11, 0.11))


def test_intervals_hold_the_sampling_of_images_beside_the_seeds():
    from litmus.diagnosis import newcombe, wilson

    same = read_curve([500], np.full((1, 3), 0.02), np.full((1, 3), 0.11), num_val=300, num_train=[100]).points[0]
    assert same.val_interval == pytest.approx(wilson(33, 300))
    assert same.train_interval == pytest.approx(wilson(2, 100, population=500))
    assert same.gap_interval == pytest.approx(newcombe(33, 300, 2, 100, population_b=500))
    seeds = np.array([[0.10, 0.12, 0.11]])
    both = read_curve([500], np.full((1, 3), 0.02), seeds, num_val=300, num_train=[100]).points[0]
    half = math.hypot(wilson(33, 300).high - 0.11, 0.02484)
    assert both.val_interval.high == pytest.approx(0.11 + half, abs=1e-5)


def test_rates_stay_in_0_and_1():
    point = read_curve([500], np.array([[0.0, 0.01, 0.1]]), np.array([[0.9, 0.99, 1.0]]), num_val=10).points[0]
    assert point.train_interval.low == 0
    assert point.val_interval.high == 1


def test_the_trend_is_the_slope_over_the_upper_half_with_students_interval():
    gaps = np.array([0.9, 0.8, 0.7, 0.30, 0.26, 0.22])[:, None] + np.array([[0, 0.01, 0.02]])
    found = read_curve(SIZES, np.zeros((6, 3)), gaps, num_val=1000).trend
    assert (found.per_doubling, found.since, found.status) == (pytest.approx(-0.04), 2000, "narrows")
    assert found.interval == pytest.approx((-0.04, -0.04))
    slopes = np.array([-0.03, -0.04, -0.05])
    gaps = 0.3 + slopes * np.arange(3)[:, None]
    found = read_curve([100, 200, 400], np.zeros((3, 3)), gaps, num_val=1000).trend
    assert found.interval == pytest.approx((-0.04 - 0.02484, -0.04 + 0.02484), abs=1e-5)


@pytest.mark.parametrize(
    ("slope", "spread", "status"),
    [
        (-0.02, 0.001, "narrows"), (0.02, 0.001, "widens"), (0.001, 0.0005, "flat"), (-0.02, 0.02, "undecided"),
        (-0.004, 0.0002, "flat"), (-0.006, 0.0002, "narrows"),
    ],
)  # fmt: skip
def test_a_change_within_a_quarter_of_the_tolerance_is_flat(slope, spread, status):
    gaps = 0.3 + (slope + spread * np.array([-1, 0, 1])) * np.arange(3)[:, None]
    assert read_curve([100, 200, 400], np.zeros((3, 3)), gaps, num_val=1000).trend.status == status


def test_one_seed_is_read_and_its_limits_named():
    found = read("high variance", how={"num_seeds": 1})
    assert found.verdict == "high variance"
    assert found.trend.status == "undecided"
    assert found.trend.interval == (-math.inf, math.inf)
    assert sum("one seed" in note for note in found.notes) == 1
    assert "inf" not in found.sentence


@pytest.mark.parametrize("num_sizes", [1, 2])
def test_a_curve_too_short_for_a_law_is_read_all_the_same(num_sizes):
    found = read("high variance", sizes=SIZES[:num_sizes])
    assert found.verdict == "high variance"
    assert isinstance(found.law, NoFit)
    assert isinstance(found.held_out, NoFit)
    assert found.gain is None
    assert (found.trend is None) is (num_sizes == 1)
    assert found.headline == "High variance"
    assert f"no forecast: a law of three numbers needs at least 3 sizes, got {num_sizes}" in found.sentence


def test_the_sentence_names_verdict_numbers_forecast_and_moves():
    exact = [np.repeat(curve[:, None], 3, axis=1) for curve in (0 * N, 3 * N**-0.4)]
    found = read_curve(SIZES, *exact, num_val=10_000, augments=False)
    now, then = 3 * 8000**-0.4, 3 * 16_000**-0.4
    low, high = found.gain.interval
    assert found.sentence == (
        f"High variance; more data helps; train 0.000, val {now:.3f} at 8,000 images; the gap still narrows "
        f"({found.trend.per_doubling:+.4f} a doubling, 95% {found.trend.per_doubling:+.4f} to "
        f"{found.trend.per_doubling:+.4f}); with 2x data: {then:.3f} (95% {low:.3f} to {high:.3f}), now {now:.3f}; "
        f"next: more data or augment.*, optim.l2_lambda up, model.keep_prob down"
    )
    assert found.gain.interval == found.law.predict_interval(16_000, same_images=True)
    assert found.gain.fall == pytest.approx(now - then, rel=1e-3)


def test_train_and_val_that_meet_high_are_said_to():
    assert "they meet high" in read("high bias").sentence
    assert all("meet" not in read(regime).sentence for regime in REGIMES if regime != "high bias")


def test_the_notes_of_the_diagnosis_and_of_the_law_are_kept():
    found = read("high variance", target_err=0.05)
    assert any("target 0.05 is above the training error" in note for note in found.notes)
    level = read_curve(SIZES, np.zeros((6, 3)), np.full((6, 3), 0.1), num_val=1000)
    assert any("does not fall" in note for note in level.notes)


def test_the_level_and_the_seed_reach_the_law():
    one, two, wide = (read("high variance", **how) for how in ({}, {"seed": 1}, {"level": 0.99}))
    assert one.gain.interval != two.gain.interval
    assert np.ptp(wide.gain.interval) > np.ptp(one.gain.interval)
    assert "(99% " in wide.sentence
    assert one.held_out.interval != two.held_out.interval


@pytest.mark.parametrize(
    ("train", "val", "more", "says"),
    [
        ([[0.1]], [[0.1, 0.2]], {}, r"train_errs are \(1, 1\) and val_errs \(1, 2\)"),
        ([[math.nan]], [[0.1]], {}, "train_errs must be rates"),
        ([[0.1]], [[math.nan]], {}, "val_errs must be rates"),
        ([[0.1]], [[0.1]], {"num_train": [3, 3]}, "num_train has 2 numbers for 1 sizes"),
        ([[0.1]], [[0.1]], {"num_train": [101]}, "cannot come from a population of 100"),
        ([[0.1]], [[0.1]], {"tolerance": 2}, "tolerance"),
        ([[0.1]], [[0.1]], {"num_val": 0}, "num_images = 0"),
    ],
)
def test_what_cannot_be_read_is_refused(train, val, more, says):
    with pytest.raises(ValueError, match=says):
        read_curve([100], train, val, **{"num_val": 10, **more})


def test_an_unknown_fact_is_refused():
    with pytest.raises(TypeError, match="keep_probb"):
        read("high bias", keep_probb=0.5)
