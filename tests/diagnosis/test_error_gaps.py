"""Intervals against published tables and independent computations; the verdict on the course's examples."""

import math
import subprocess
import sys

import numpy as np
import pytest

from litmus.diagnosis import diagnose_errors, error_gaps, newcombe, wilson


@pytest.mark.parametrize(
    ("errors", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_examples(errors, n, low, high):
    """Newcombe 1998a, table I, method 3."""
    assert wilson(errors, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_gives_the_published_examples(a, b, low, high):
    """Newcombe 1998b, table II, method 10."""
    assert newcombe(*a, *b) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("errors", "n"), [(0, 1), (1, 1), (0, 360), (360, 360), (3, 7), (11, 360), (1, 10_000)])
def test_wilson_equals_scipys(errors, n, level):
    from scipy.stats import binomtest

    theirs = binomtest(errors, n).proportion_ci(level, method="wilson")
    assert wilson(errors, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_ends_solve_the_score_equation():
    n, rate = 57, 9 / 57
    for p in wilson(9, n, 0.9):
        assert abs(rate - p) == pytest.approx(1.6448536269514722 * math.sqrt(p * (1 - p) / n), rel=1e-9)


def test_no_errors_and_all_errors_reach_exactly_to_the_edge():
    assert wilson(0, 13).low == 0.0
    assert wilson(13, 13).high == 1.0
    assert newcombe(13, 13, 0, 13).high == 1.0


def test_newcombe_changes_sign_with_its_arguments():
    low, high = newcombe(5, 56, 3, 29)
    assert newcombe(3, 29, 5, 56) == pytest.approx((-high, -low))


def test_a_rate_over_the_whole_population_is_exact():
    assert wilson(3, 50, population=50) == (0.06, 0.06)
    low, high = wilson(30, 360)
    assert newcombe(30, 360, 2, 1000, population_b=1000) == pytest.approx((low - 0.002, high - 0.002))


def test_intervals_shrink_as_more_of_the_population_is_seen():
    widths = [high - low for low, high in (wilson(10, 100, population=size) for size in (None, 10_000, 200, 110, 101))]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] == pytest.approx(widths[0], rel=0.01)
    assert widths[2] == pytest.approx(widths[0] / math.sqrt(2), rel=0.03)


def test_finite_population_interval_covers_the_rate_it_names():
    """Exact hypergeometric coverage, over 40 to 200 errors among 1,437 images of which 500 are seen."""
    from scipy.stats import hypergeom

    n, population = 500, 1437
    intervals = [wilson(errors, n, population=population) for errors in range(n + 1)]
    coverage = []
    for wrong in range(40, 201, 8):
        chance = hypergeom(population, wrong, n).pmf(range(n + 1))
        covered = [low <= wrong / population <= high for low, high in intervals]
        coverage.append(float(np.dot(chance, covered)))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.92


def test_newcombe_covers_at_its_level():
    rng = np.random.default_rng(0)
    train, val = rng.binomial(1000, 0.03, 2000), rng.binomial(360, 0.08, 2000)
    covered = [
        low <= 0.05 <= high for low, high in (newcombe(v, 360, t, 1000) for v, t in zip(val, train, strict=True))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("errors", "n", "population"), [(1, 0, None), (-1, 5, None), (6, 5, None), (1, 5, 4)])
def test_counts_that_cannot_be_are_refused(errors, n, population):
    with pytest.raises(ValueError, match=str(errors if population is None else population)):
        wilson(errors, n, population=population)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        wilson(1, 5, level)


def test_gaps_are_the_written_differences():
    assert error_gaps(target_err=0.05, train_err=0.08, val_err=0.1) == pytest.approx((0.03, 0.02))
    assert error_gaps(target_err=0.1, train_err=0.08, val_err=0.06) == pytest.approx((0.0, -0.02))


@pytest.mark.parametrize("rates", [(1.5, 0.1), (0.1, -0.1), (float("nan"), 0.1), (0.1, 8.3)])
def test_rates_that_are_no_rates_are_refused(rates):
    with pytest.raises(ValueError, match=r"_err must be a rate in \[0, 1\]"):
        diagnose_errors(*rates, 100, 100)


COURSE = [
    ((0.15, 0.16), "high bias"),
    ((0.01, 0.11), "high variance"),
    ((0.15, 0.30), "high bias, high variance"),
    ((0.005, 0.01), "low bias, low variance"),
]


@pytest.mark.parametrize("train_population", [None, 10_000, 50_000])
@pytest.mark.parametrize(("errs", "verdict"), COURSE)
def test_the_courses_examples_come_out_right(errs, verdict, train_population):
    found = diagnose_errors(*errs, 10_000, 10_000, train_population=train_population)
    assert found.verdict == verdict
    assert found.sentence.startswith(f"{verdict}: train {errs[0]:g}")


def test_few_images_leave_it_undecided():
    found = diagnose_errors(0.0, 0.05, 60, 60)
    assert (found.verdict, found.bias.status, found.gap.status) == ("undecided", "undecided", "undecided")


def test_one_low_gap_beside_an_undecided_one_is_undecided():
    found = diagnose_errors(0.0, 0.02, 1000, 100, train_population=1000)
    assert (found.verdict, found.bias.status, found.gap.status) == ("undecided", "low", "undecided")


def test_what_is_high_is_named_though_the_other_gap_is_undecided():
    found = diagnose_errors(0.15, 0.16, 10_000, 10_000)
    assert (found.verdict, found.gap.status) == ("high bias", "undecided")  # Newcombe reaches 0.02003
    assert "variance undecided at tolerance 0.02" in found.sentence


@pytest.mark.parametrize(("train_err", "val_err"), [(0.01, 0.05), (0.015, 0.02), (0.03, 0.03), (0.0, 0.019)])
def test_so_many_more_images_are_just_enough(train_err, val_err):
    n = 100
    found = diagnose_errors(train_err, val_err, n, n)
    more = {name: gap.more_images for name, gap in (("bias", found.bias), ("gap", found.gap)) if gap.more_images}
    assert more
    for name, count in more.items():
        for enough in (True, False):
            size = n + count - (not enough)
            status = getattr(diagnose_errors(train_err, val_err, size, size), name).status
            assert (status != "undecided") is enough


def test_seeing_every_training_image_decides_the_bias():
    found = diagnose_errors(0.022, 0.022, 500, 500, train_population=1437)
    assert found.bias.status == "undecided"
    assert found.bias.more_images <= 1437 - 500
    assert diagnose_errors(0.022, 0.022, 1437, 500, train_population=1437).bias.status == "high"


def test_a_gap_on_the_tolerance_is_decided_by_no_number_of_images():
    found = diagnose_errors(0.0, 0.02, 1000, 1000)
    assert found.gap.more_images is None
    assert "however many images" in found.sentence


def test_an_exact_gap_on_the_tolerance_is_small():
    assert 0.14 - 0.12 > 0.02  # by rounding alone
    assert diagnose_errors(0.14, 0.14, 100, 100, target_err=0.12, train_population=100).bias.status == "low"


def test_a_target_above_the_training_error_leaves_no_bias_and_says_so():
    found = diagnose_errors(0.08, 0.10, 10_000, 10_000, target_err=0.165)
    assert (found.bias.value, found.bias.status) == (0.0, "low")
    assert found.bias.interval == (0.0, 0.0)
    assert "target 0.165 is above the training error 0.08" in found.notes[0]


def test_validation_far_easier_than_training_is_noted():
    assert diagnose_errors(0.1, 0.09, 1000, 1000).notes == ()
    assert "below training error" in diagnose_errors(0.2, 0.1, 1000, 1000).notes[0]


def test_the_sentence_is_one_line_with_numbers_and_moves():
    found = diagnose_errors(0.004, 0.083, 1437, 360, train_population=1437, config={"model.name": "mlp"})
    assert found.sentence == (
        "high variance: train 0.004, val 0.083 (gap 0.079, 95% 0.055..0.112); next: more data: see `litmus curve`, "
        "augment.shift=0.1 augment.rotate=8, model.keep_prob=0.8 optim.l2_lambda=7, early_stopping.name=gl, "
        "model.norm=batch"
    )


def test_the_dominant_gap_is_the_largest_and_none_where_all_are_low():
    names = [diagnose_errors(*errs, 10_000, 10_000).dominant_gap for errs, _ in COURSE]
    assert names == ["bias", "variance", "bias", "none"]  # 0.15 and 0.15: the first is treated first
    both = diagnose_errors(0.10, 0.30, 10_000, 10_000)
    assert both.dominant_gap == "variance"
    assert "the larger gap is variance" in both.sentence
    assert "larger gap" not in diagnose_errors(0.15, 0.30, 10_000, 10_000).sentence
    assert "larger gap" not in diagnose_errors(0.01, 0.11, 10_000, 10_000).sentence


def test_a_train_dev_split_parts_variance_from_mismatch():
    """Ng 2018, ch. 40: train 0.01, train-dev 0.015, dev 0.10 is mismatch; with train-dev 0.09 it is variance."""
    elsewhere = diagnose_errors(0.01, 0.10, 10_000, 10_000, train_dev_err=0.015, num_train_dev=10_000)
    assert elsewhere.verdict == "high mismatch"
    assert elsewhere.mismatch.value == pytest.approx(0.085)
    assert elsewhere.mismatch.interval == pytest.approx(newcombe(1000, 10_000, 150, 10_000))
    assert elsewhere.gap.interval == pytest.approx(newcombe(150, 10_000, 100, 10_000))
    assert elsewhere.dominant_gap == "mismatch"
    assert elsewhere.moves == ("training images like those of data.val_path",)
    assert elsewhere.ready == (False,)
    assert "train-dev 0.015 (gap 0.005, 95% " in elsewhere.sentence
    alike = diagnose_errors(0.01, 0.10, 10_000, 10_000, train_dev_err=0.09, num_train_dev=10_000)
    assert (alike.verdict, alike.mismatch.status) == ("high variance", "low")
    calm = diagnose_errors(0.001, 0.002, 10_000, 10_000, train_dev_err=0.002, num_train_dev=10_000)
    assert calm.verdict == "low bias, low variance, low mismatch"
    few = diagnose_errors(0.01, 0.10, 10_000, 30, train_dev_err=0.02, num_train_dev=30)
    assert "more images in val and train_dev each would decide" in few.sentence
    assert "more images in train_dev and train_eval each would decide" in few.sentence


def test_half_a_train_dev_split_is_refused():
    for half in ({"train_dev_err": 0.1}, {"num_train_dev": 10}):
        with pytest.raises(ValueError, match="go together"):
            diagnose_errors(0.1, 0.2, 100, 100, **half)
    with pytest.raises(ValueError, match="train_dev_err must be a rate"):
        diagnose_errors(0.1, 0.2, 100, 100, train_dev_err=1.1, num_train_dev=10)


def test_an_undecided_bias_asks_for_the_images_that_would_decide_it():
    found = diagnose_errors(0.022, 0.022, 500, 5000, train_population=1437)
    assert found.moves == (f"data.train_eval_size={500 + found.bias.more_images}",)
    assert diagnose_errors(0.022, 0.022, 500, 5000).moves == ()  # how many there are is not known


def test_the_bias_of_all_training_images_is_called_exact():
    assert "avoidable bias 0.15, exact)" in diagnose_errors(0.15, 0.16, 500, 360, train_population=500).sentence


def test_an_unknown_fact_is_refused():
    with pytest.raises(TypeError, match="keep_probb"):
        diagnose_errors(0.1, 0.2, 100, 100, keep_probb=0.5)


def test_numbers_import_neither_torch_nor_a_drawing_library():
    heavy = ["torch", "lightning", "mlflow", "matplotlib", "scipy", "sklearn", "pydantic"]
    code = f"import sys, litmus.diagnosis, litmus.diagnosis.plots; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
