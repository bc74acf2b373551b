"""Laws whose numbers are known; coverage by simulation, image by image."""

import math
import time

import numpy as np
import pytest

from litmus.diagnosis import HeldOut, NoFit, PowerLaw, check_held_out, fit_power_law

SIZES = [250, 500, 1000, 2000, 4000, 8000]
LAWS = [(3.0, 0.3, 0.0), (2.0, 0.5, 0.05), (0.9, 0.2, 0.02), (20.0, 0.9, 0.1), (30.0, 1.0, 0.02), (0.5, 0.6, 0.001)]


def law(sizes, a, b, c):
    return a * np.asarray(sizes, dtype=float) ** -b + c


def trainings(sizes, truth, *, num_seeds, sd=0.03, num_images=1000, seed=0, together=0.0):
    """Error rates (S, R): each seed off by ``sd`` of the error, ``together`` of that variance at all sizes alike.

    The images are the same for all trainings; some are hard for all of them (probit, four fifths of the variance).
    """
    from scipy.special import ndtr, ndtri

    generator = np.random.default_rng(seed)
    own = generator.standard_normal((len(sizes), num_seeds))
    shared = generator.standard_normal((1, num_seeds))
    rates = np.asarray(truth)[:, None] * (1 + sd * (math.sqrt(together) * shared + math.sqrt(1 - together) * own))
    hardness = math.sqrt(0.8) * generator.standard_normal(num_images)
    chances = ndtr((ndtri(rates.clip(1e-9, 1 - 1e-9))[:, :, None] - hardness) / math.sqrt(0.2))
    return (generator.random(chances.shape) < chances).mean(axis=2)


@pytest.mark.parametrize("truth", LAWS)
@pytest.mark.parametrize("num_sizes", [3, 6])
def test_a_law_without_noise_is_found(truth, num_sizes):
    sizes = SIZES[:num_sizes]
    found = fit_power_law(sizes, law(sizes, *truth)[:, None], 1000)
    assert (found.a, found.b, found.c) == pytest.approx(truth, rel=1e-3, abs=1e-4)
    assert found.predict(2 * sizes[-1]) == pytest.approx(law(2 * sizes[-1], *truth), rel=1e-4)


def test_unequally_spaced_sizes_are_no_matter():
    sizes = [100, 170, 900, 1000, 7777]
    found = fit_power_law(sizes, law(sizes, 2, 0.5, 0.05)[:, None], 1000)
    assert (found.a, found.b, found.c) == pytest.approx((2, 0.5, 0.05), rel=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_the_best_that_a_general_solver_finds(seed):
    """Weighted least squares of scipy, from many starts, on errors that often want a negative number."""
    from scipy.optimize import least_squares

    from litmus.diagnosis.power_law import _law, _least_squares

    generator = np.random.default_rng(seed)
    sizes = np.array(SIZES)
    errs, weights = generator.uniform(0.05, 0.2, 6) + seed % 3 * law(sizes, 2, 0.6, 0), generator.uniform(0.5, 5, 6)

    def residuals(x):
        return np.sqrt(weights) * (law(sizes / 250, *x) - errs)

    starts = [(a, b, c) for a in (0.01, 0.5) for b in (0.05, 0.3, 0.9) for c in (0.001, 0.1)]
    bounds = ([0, 0.01, 0], [np.inf, 1, np.inf])
    theirs = min(2 * least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12).cost for start in starts)
    ours = float(weights @ np.square(_law(sizes, _least_squares(sizes, errs[None], weights)[0]) - errs))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("num_seeds", "lowest"), [(3, 0.90), (5, 0.90)])
@pytest.mark.parametrize("together", [0.0, 0.5])
def test_the_band_at_twice_the_data_covers(num_seeds, lowest, together):
    truth, covered, once = (1.7, 0.4, 0.03), 0, 100
    for seed in range(once):
        errs = trainings(SIZES, law(SIZES, *truth), num_seeds=num_seeds, seed=seed, together=together)
        low, high = fit_power_law(SIZES, errs, 1000, draws=200).predict_interval(16_000)
        covered += low <= law(16_000, *truth) <= high
    assert covered / once >= lowest


def test_the_band_on_the_same_images_covers_what_further_seeds_would_measure_on_them():
    """Errors of endlessly many images, so that only the seeds' noise is left; the band must not be needlessly wide."""
    truth, covered, widths = (1.7, 0.4, 0.03), 0, []
    for seed in range(150):
        noise = np.random.default_rng(seed).standard_normal((6, 3))
        found = fit_power_law(SIZES, law(SIZES, *truth)[:, None] * (1 + 0.03 * noise), 1_000_000, draws=200)
        low, high = found.predict_interval(16_000, same_images=True)
        covered += low <= law(16_000, *truth) <= high
        widths.append(high - low)
    assert 0.90 <= covered / 150 <= 0.995
    assert np.mean(widths) < 0.35 * law(16_000, *truth)


def test_a_single_seeds_band_covers_by_the_points_distance_to_the_law():
    truth, covered = (1.7, 0.4, 0.03), 0
    for seed in range(100):
        errs = trainings(SIZES, law(SIZES, *truth), num_seeds=1, seed=seed, num_images=4000)
        low, high = fit_power_law(SIZES, errs, 4000, draws=200).predict_interval(16_000)
        covered += low <= law(16_000, *truth) <= high
    assert covered >= 85
    assert any("one seed" in note for note in fit_power_law(SIZES, errs, 4000).notes)


def test_a_draw_of_images_that_all_seeds_share_widens_the_band():
    """Seeds agree to a hair, but the points are off the law: three seeds must not be taken at their word."""
    off = np.array([1.04, 0.96, 1.03, 0.98, 0.95, 1.04])
    seeds = 1 + 1e-3 * np.random.default_rng(0).standard_normal((6, 3))
    smooth, bumpy = (law(SIZES, 2, 0.4, 0.02)[:, None] * bump * seeds for bump in (1, off[:, None]))
    narrow, wide = (fit_power_law(SIZES, errs, 1_000_000).predict_interval(16_000) for errs in (smooth, bumpy))
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)
    found = fit_power_law(SIZES, bumpy, 1_000_000)
    assert found.misfit > 4
    assert not found.holds
    assert fit_power_law(SIZES, smooth, 1_000_000).holds
    assert any("off the law" in note for note in found.notes)
    assert not any("off the law" in note for note in fit_power_law(SIZES, smooth, 1_000_000).notes)


def test_what_a_seed_shifts_at_all_sizes_does_not_average_out():
    """Of the same scatter, what is common to all sizes leaves a level less certain than what each size draws anew."""
    level, generator = np.full((6, 1), 0.2), np.random.default_rng(1)
    scatter = generator.standard_normal(5)
    scatter = 0.01 * (scatter - scatter.mean()) / scatter.std(ddof=1)
    alike = level + scatter
    anew = level + np.array([generator.permutation(scatter) for _ in range(6)])
    widths = [
        np.ptp(fit_power_law(SIZES, errs, 10**7, draws=2000).predict_interval(2000, same_images=True))
        for errs in (alike, anew)
    ]
    assert widths[0] > 1.5 * widths[1]
    exact = 2 * 2.776 * 0.01 / math.sqrt(5)  # Student's t of 4 degrees of freedom: the level of 5 seeds
    assert widths[0] == pytest.approx(exact, rel=0.25)


def test_fewer_seeds_leave_a_wider_band():
    generator = np.random.default_rng(0)
    errs = law(SIZES, 2, 0.4, 0.02)[:, None] * (1 + 0.03 * generator.standard_normal((6, 30)))
    widths = [np.ptp(fit_power_law(SIZES, errs[:, :count], 10**6).predict_interval(16_000)) for count in (3, 10, 30)]
    assert widths == sorted(widths, reverse=True)


def test_fewer_validation_images_leave_a_wider_band_but_not_on_the_same_images():
    errs = trainings(SIZES, law(SIZES, 2, 0.4, 0.02), num_seeds=5, num_images=4000)
    few, many = (fit_power_law(SIZES, errs, count) for count in (400, 40_000))
    assert np.ptp(few.predict_interval(16_000)) > 2 * np.ptp(many.predict_interval(16_000))
    ratio = np.ptp(few.predict_interval(16_000, same_images=True))
    ratio /= np.ptp(many.predict_interval(16_000, same_images=True))
    assert ratio == pytest.approx(1, abs=0.2)


def test_a_size_on_which_the_seeds_disagree_counts_for_less():
    errs = np.repeat(law(SIZES, 2, 0.4, 0.02)[:, None], 9, axis=1) * (1 + 0.002 * np.linspace(-1, 1, 9))
    off = errs.copy()
    off[2] *= 1.15
    loud = off.copy()
    loud[2] = off[2].mean() * (1 + 0.4 * np.linspace(-1, 1, 9))  # the same mean
    truth = law(16_000, 2, 0.4, 0.02)
    quiet, noisy = (abs(fit_power_law(SIZES, table, 10**6).predict(16_000) - truth) for table in (off, loud))
    assert noisy < quiet / 2


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_errors_that_never_change_give_a_level_law(rate):
    found = fit_power_law(SIZES, np.full((6, 3), rate), 1000)
    assert (found.a, found.b, found.c) == pytest.approx((0, 0, rate))
    assert found.predict(32_000) == pytest.approx(rate)
    low, high = found.predict_interval(32_000)
    assert 0 <= low <= rate <= high <= 1
    assert 0.001 < high - low < 0.05  # chance among 1,000 images is left, though nothing varies
    assert any("does not fall" in note for note in found.notes)


def test_no_error_among_few_images_is_no_certainty():
    few, many = (fit_power_law(SIZES, np.zeros((6, 3)), count).predict_interval(16_000).high for count in (100, 10_000))
    assert few == pytest.approx(0.0277, abs=0.003)  # 1.96 times the root of (2/104)(102/104)/100
    assert many < few / 50


def test_an_error_that_rises_gives_a_level_law_at_its_mean():
    errs = law(SIZES, 2, 0.4, 0.02)[::-1, None] * np.ones(3)
    found = fit_power_law(SIZES, errs, 1000)
    assert found.a == 0
    assert errs.min() < found.c < errs.max()
    assert found.gain()[0] == 0
    assert "the error does not fall from 250 to 8,000 images" in found.notes[0]
    assert found.b_interval == (0, 1)  # any exponent would do


def test_an_exponent_at_its_bound_is_named():
    errs = law(SIZES, 2000, 1.4, 0.02)[:, None] * np.ones(3)
    found = fit_power_law(SIZES, errs.clip(0, 1), 10_000)
    assert found.b == 1
    assert any("at its bound of 1" in note for note in found.notes)
    assert not any("bound" in note for note in fit_power_law(SIZES, law(SIZES, 2, 0.5, 0.05)[:, None], 10_000).notes)
    rest = np.array([0.11, 0.1, 0.1, 0.1, 0.1, 0.1])[:, None] * np.ones(3)
    noise = fit_power_law(SIZES, rest, 1000)
    assert noise.b == 1
    assert not any("bound" in note for note in noise.notes)  # a level curve, as far as these images tell


def test_a_floor_that_cannot_be_told_is_named_with_its_interval():
    straight = trainings(SIZES[:4], law(SIZES[:4], 2, 0.25, 0.05), num_seeds=3, sd=0.05)
    vague = fit_power_law(SIZES[:4], straight, 1000)
    low, high = vague.c_interval
    assert f"the floor c cannot be told from these sizes: 95% {low:.3f} to {high:.3f}" in vague.notes[0]
    bent = fit_power_law(SIZES, law(SIZES, 20, 0.9, 0.1)[:, None] * np.ones(3), 10_000)
    assert not any("floor" in note for note in bent.notes)
    assert bent.c_interval.low < 0.1 < bent.c_interval.high


@pytest.mark.parametrize("sizes", [[100], [100, 200]])
def test_too_few_sizes_are_a_reason_not_an_exception(sizes):
    found = fit_power_law(sizes, np.full((len(sizes), 3), 0.1), 100)
    assert found == NoFit(f"a law of three numbers needs at least 3 sizes, got {len(sizes)}")


def test_three_sizes_are_fitted_with_a_warning():
    found = fit_power_law(SIZES[:3], law(SIZES[:3], 2, 0.5, 0.05)[:, None] * np.ones(3), 1000)
    assert found.misfit is None
    assert any("three sizes" in note for note in found.notes)


def test_nothing_is_foretold_further_than_four_times():
    found = fit_power_law(SIZES, law(SIZES, 2, 0.5, 0.05)[:, None], 1000)
    assert found.limit == 32_000
    for asked in (found.predict, found.predict_interval):
        asked(32_000)
        asked(62.5)
        for n in (32_001, 62, 0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"n must lie in \[62.5, 32000\]"):
                asked(n)
    with pytest.raises(ValueError, match="further than a factor of 4"):
        found.gain(5)


def test_small_sizes_are_not_foretold_above_an_error_of_one():
    found = fit_power_law(SIZES, law(SIZES, 15, 0.5, 0.0)[:, None], 1000)
    assert law(70, 15, 0.5, 0) > 1
    assert found.predict(70) == 1
    assert found.predict_interval(70) == (1, 1)


def test_the_gain_is_the_fall_of_the_law():
    found = fit_power_law(SIZES, law(SIZES, 2, 0.5, 0.05)[:, None] * np.ones(3), 100_000)
    for factor in (2, 4):
        fall, (low, high) = found.gain(factor)
        assert fall == pytest.approx(found.predict(8000) - found.predict(8000 * factor))
        assert 0 <= low < fall < high


@pytest.mark.parametrize("n", [300, 8000, 20_000, 31_999])
def test_as_many_images_are_needed_as_the_law_says(n):
    found = fit_power_law(SIZES, trainings(SIZES, law(SIZES, 3, 0.3, 0), num_seeds=5, num_images=20_000), 20_000)
    needed = found.needed(found.predict(n))
    assert needed.images == n
    assert needed.low < n
    assert needed.high is None or needed.high > n
    for end in (needed.low, needed.high):  # there an end of the band reaches the target
        if end is not None and end > 250:
            band = found.predict_interval(end)
            assert min(abs(found.predict(n) - edge) for edge in band) < 0.03 * found.predict(n)


def test_what_no_trusted_size_reaches_is_not_promised():
    found = fit_power_law(SIZES, law(SIZES, 20, 0.9, 0.1)[:, None] * np.ones(3), 10_000)
    for err in (0.05, 0.0):
        assert (found.needed(err).images, found.needed(err).low, found.needed(err).high) == (None, None, None)
    assert found.needed(0.05).sentence == "err 0.05 needs more than 32,000 images"
    assert found.needed(0.9).images == found.needed(1.0).high == 250
    level = fit_power_law(SIZES, np.full((6, 3), 0.1), 1000)
    assert level.needed(0.1).images == 250
    assert level.needed(0.0999).images is None
    half = level.needed(0.1)
    assert half.sentence == "err 0.1 needs about 250 images (95% 250 to more than 32,000)"
    with pytest.raises(ValueError, match=r"is 8\.3"):
        level.needed(8.3)


def test_the_same_seed_gives_the_same_intervals_and_no_global_draw():
    errs = trainings(SIZES, law(SIZES, 2, 0.4, 0.02), num_seeds=3)
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (fit_power_law(SIZES, errs, 1000, seed=seed) for seed in (0, 0, 1))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert one == two
    assert one.predict_interval(16_000) == two.predict_interval(16_000) != other.predict_interval(16_000)
    assert (one.a, one.b, one.c) == (other.a, other.b, other.c)


def test_a_higher_level_is_a_wider_interval():
    errs = trainings(SIZES, law(SIZES, 2, 0.4, 0.02), num_seeds=3)
    low, high = (fit_power_law(SIZES, errs, 1000, level=level) for level in (0.5, 0.99))
    assert np.ptp(high.predict_interval(16_000)) > 2 * np.ptp(low.predict_interval(16_000))
    assert np.ptp(high.c_interval) > np.ptp(low.c_interval)


def test_a_thousand_fits_take_less_than_two_seconds():
    errs = trainings(SIZES, law(SIZES, 2, 0.4, 0.02), num_seeds=5)
    began = time.process_time()
    fit_power_law(SIZES, errs, 1000)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("sizes", "errs", "num_images", "says"),
    [
        ([1, 2, 3], [[0.1], [float("nan")], [0.1]], 10, r"nan at 2 images, seed 0"),
        ([1, 2, 3], [[0.1, 0.1], [0.1, 0.1], [0.1, 8.0]], 10, r"got 8 at 3 images, seed 1"),
        ([1, 2, 3], [[0.1], [-0.1], [0.1]], 10, r"\[0, 1\], got -0.1"),
        ([1, 3, 3], [[0.1]] * 3, 10, r"rise, got \[1, 3, 3\]"),
        ([3, 2, 1], [[0.1]] * 3, 10, "rise"),
        ([0, 1, 2], [[0.1]] * 3, 10, "at least 1"),
        ([1.5, 2, 3], [[0.1]] * 3, 10, "whole numbers"),
        ([], [], 10, "at least one"),
        ([1, 2, 3], [0.1] * 3, 10, r"\(3, R\)"),
        ([1, 2, 3], [[0.1]] * 2, 10, r"\(3, R\).*\(2, 1\)"),
        ([1, 2, 3], [[]] * 3, 10, r"\(3, 0\)"),
        ([1, 2, 3], [[0.1]] * 3, 0, "num_images = 0"),
    ],
)
@pytest.mark.parametrize("function", [fit_power_law, check_held_out])
def test_curves_that_cannot_be_are_refused(function, sizes, errs, num_images, says):
    with pytest.raises(ValueError, match=says):
        function(sizes, errs, num_images)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        fit_power_law(SIZES, np.full((6, 1), 0.1), 10, level=level)


def test_on_a_law_the_largest_size_is_foretold_and_nearer_than_the_last_value():
    passed = inside = 0
    for seed in range(100):
        errs = trainings(SIZES, law(SIZES, 3, 0.35, 0.0), num_seeds=3, seed=seed, num_images=2000)
        found = check_held_out(SIZES, errs, 2000, draws=200)
        inside += found.inside
        passed += found.passed
    assert inside >= 90
    assert passed >= 88
    assert found.size == 8000
    assert (found.err, found.stay) == pytest.approx((errs[-1].mean(), errs[-2].mean()))


def test_the_held_out_size_plays_no_part_in_its_forecast():
    errs = trainings(SIZES, law(SIZES, 3, 0.35, 0.0), num_seeds=3)
    other = errs.copy()
    other[-1] = 0.9
    one, two = check_held_out(SIZES, errs, 1000), check_held_out(SIZES, other, 1000)
    assert (one.predicted, one.interval, one.stay) == (two.predicted, two.interval, two.stay)
    assert one.predicted == fit_power_law(SIZES[:-1], errs[:-1], 1000).predict(8000)
    assert (one.passed, two.inside, two.passed) == (True, False, False)
    assert two.per_seed == (False,) * 3
    assert "measured 0.900, outside, and " in two.sentence


def test_on_a_flat_curve_the_check_passes_by_chance_alone():
    """The law is then the mean of all sizes, which is a little nearer than the last one alone (56 of 100)."""
    passed = 0
    for seed in range(100):
        errs = trainings(SIZES, np.full(6, 0.15), num_seeds=3, seed=seed, num_images=2000)
        passed += check_held_out(SIZES, errs, 2000, draws=200).passed
    assert 40 <= passed <= 70


def test_a_curve_that_stops_falling_is_not_foretold():
    truth = law(SIZES, 3, 0.35, 0.0)
    truth[-1] = truth[-2]
    errs = truth[:, None] * (1 + 0.01 * np.random.default_rng(0).standard_normal((6, 5)))
    found = check_held_out(SIZES, errs, 10_000)
    assert not found.nearer
    assert not found.passed
    assert f"not nearer than the last value {found.stay:.3f}" in found.sentence


def test_each_seed_is_held_against_its_own_last_value():
    errs = law(SIZES, 3, 0.35, 0.0)[:, None] * np.array([[1.0, 1.01, 0.99, 1.0]])
    errs[-1, 3] = errs[-2, 3]
    assert check_held_out(SIZES, errs, 10_000).per_seed == (True, True, True, False)


def test_the_forecast_of_a_measurement_holds_the_laws_doubt_and_the_seeds_noise():
    sizes = [100 * 2**k for k in range(10)]
    level, alone = 0.2, []
    for seed in range(20):
        errs = level * (1 + 0.03 * np.random.default_rng(seed).standard_normal((10, 5)))
        found = check_held_out(sizes, errs, 10**6, draws=500)
        of_law = fit_power_law(sizes[:-1], errs[:-1], 10**6, draws=500)
        doubt = np.ptp(of_law.predict_interval(sizes[-1], same_images=True))
        noise = 2 * 1.96 * 0.03 * level / math.sqrt(5) * math.sqrt(max(of_law.misfit, 1))
        assert np.ptp(found.interval) == pytest.approx(math.hypot(doubt, noise), rel=0.25)
        alone += [off or abs(rate - found.predicted) < 0.02 for off, rate in zip(found.per_seed, errs[-1], strict=True)]
    assert np.mean(alone) > 0.95  # a single seed has the noise of one, not of the mean of five


def test_a_single_training_scatters_by_more_than_the_mean_of_many():
    """Each of thirty seeds falls by two fifths; they differ by far more than the doubt of their mean."""
    sizes = [100 * 2**k for k in range(10)]
    scatter, order = 1 + 0.08 * np.linspace(-1.7, 1.7, 30), np.random.default_rng(0)
    errs = np.stack([rate * order.permutation(scatter) for rate in law(sizes, 30, 0.8, 0)])
    found = check_held_out(sizes, errs, 10**6)
    outside = (errs[-1] < found.interval.low) | (errs[-1] > found.interval.high)
    assert outside.sum() >= 10
    assert found.per_seed == (True,) * 30


def test_a_forecast_on_the_same_images_does_not_widen_when_they_are_few():
    errs = trainings(SIZES, law(SIZES, 2, 0.4, 0.02), num_seeds=5, num_images=4000)
    few, many = (np.ptp(check_held_out(SIZES, errs, count).interval) for count in (400, 40_000))
    assert few == pytest.approx(many, rel=0.2)


def test_points_off_the_law_make_the_next_one_uncertain_too():
    """The seeds agree to a hair on each of the bumps, which the next point will have as well."""
    off = np.array([1.04, 0.96, 1.03, 0.98, 0.95, 1.04])[:, None]
    errs = law(SIZES, 2, 0.4, 0.02)[:, None] * off * (1 + 1e-3 * np.random.default_rng(0).standard_normal((6, 3)))
    found = check_held_out(SIZES, errs, 10**6)
    of_law = fit_power_law(SIZES[:-1], errs[:-1], 10**6)
    doubt = np.ptp(of_law.predict_interval(8000, same_images=True))
    assert np.ptp(found.interval) > doubt + 0.1 * math.sqrt(of_law.misfit) * 1e-3 * found.predicted
    assert np.ptp(found.interval) > 1.05 * doubt


def test_a_seed_that_stays_is_not_foretold_though_it_is_inside():
    errs = 0.2 * (1 + 0.03 * np.random.default_rng(0).standard_normal((6, 5)))
    errs[-1] = errs[-2] = [0.2001, 0.2, 0.21, 0.19, 0.2]
    found = check_held_out(SIZES, errs, 10**6)
    assert found.inside
    assert not found.passed
    assert found.per_seed == (False,) * 5


def test_held_out_needs_four_sizes_within_reach():
    three = check_held_out(SIZES[:3], np.full((3, 3), 0.1), 100)
    assert isinstance(three, NoFit)
    assert "without the largest of 3 sizes" in three.reason
    far = check_held_out([10, 20, 40, 161], np.full((4, 3), 0.1), 100)
    assert isinstance(far, NoFit)
    assert "161 images are more than 4 times 40" in far.reason
    assert isinstance(check_held_out([10, 20, 40, 160], np.full((4, 3), 0.1), 100), HeldOut)


def test_a_law_is_a_value_that_can_be_shown():
    found = fit_power_law(SIZES, law(SIZES, 2, 0.5, 0.05)[:, None], 1000)
    assert isinstance(found, PowerLaw)
    assert "draws" not in repr(found)
