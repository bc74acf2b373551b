"""The regression whose function is known: exact answers, made tables, wrong settings."""

import json
import math

import numpy as np
import pytest

from litmus.claims.evidence import conclude
from litmus.claims.registry import make_claim
from litmus.claims.regression import exact_parts, experiment, function, hat_matrix, in_errors, lowest, places_of
from litmus.config.claim import load_claim
from litmus.errors import Refused

HOW = {"places": 12, "sigma": 0.5, "sets": 200, "repeats": 200}


@pytest.fixture(scope="module")
def claim():
    return make_claim(load_claim("decomposition_regression"))


@pytest.fixture(scope="module")
def measured(claim):
    return claim.read({})


# Least squares


def test_the_fit_is_least_squares():
    x = places_of(9)
    y = np.random.default_rng(0).standard_normal(9)
    assert hat_matrix(x, 3) @ y == pytest.approx(np.polyval(np.polyfit(x, y, 3), x))


def test_a_polynomial_through_all_places_has_no_bias_and_all_the_noise():
    bias2, variance = exact_parts(places_of(6), 5, 0.3)
    assert bias2 == pytest.approx(0, abs=1e-20)
    assert variance == pytest.approx(0.09)


def test_a_constant_is_off_by_the_function_itself():
    x = places_of(21)
    bias2, variance = exact_parts(x, 0, 0.3)
    assert bias2 == pytest.approx(function(x).var())
    assert variance == pytest.approx(0.09 / 21)


def test_more_coefficients_than_places_are_refused():
    with pytest.raises(ValueError, match="degree 6"):
        hat_matrix(places_of(6), 6)


def test_measured_parts_are_the_exact_ones_within_their_errors():
    for degree, one in zip((1, 3, 7), experiment((1, 3, 7), seed=3, **HOW), strict=True):
        bias2, variance = exact_parts(places_of(12), degree, 0.5)
        assert abs(one["bias2"] - bias2) < 4 * one["bias2_error"]
        assert abs(one["variance"] - variance) < 4 * one["variance_error"]
        assert one["total"] == pytest.approx(bias2 + variance + 0.25, rel=0.1)


def test_the_same_seed_draws_the_same_and_another_does_not():
    one, same, other = (experiment((2,), seed=seed, **HOW)[0]["total"] for seed in (1, 1, 2))
    assert one == same != other


def test_a_difference_is_counted_in_errors():
    assert in_errors(0.6, 0.2) == pytest.approx(3)
    assert in_errors(0.0, 0.0) == 0
    assert in_errors(-0.1, None) == -math.inf


# The claim


def test_it_trains_nothing_and_supports(claim, measured):
    assert claim.cells() == []
    assert conclude(claim.judge(measured)) == "supported"
    assert len(measured["rows"]) == len(measured["degrees"]) * len(claim.seeds)
    assert len({row["total"] for row in measured["rows"]}) == len(measured["rows"])  # each repetition draws its own


def made(measured, **changed):
    return {**json.loads(json.dumps(measured)), **changed}


def test_one_sum_that_is_off_is_inconclusive_and_all_contradict(claim, measured):
    one = made(measured)
    one["off"][2][4] = -3.1
    assert [piece.outcome for piece in claim.judge(one)[:2]] == ["inconclusive", "supported"]
    every = made(measured, off=[[0.0, 4.0]] * 5)
    assert conclude(claim.judge(every)) == "contradicted"


def test_noise_that_is_not_recovered_is_told(claim, measured):
    wrong = made(measured, noise_off=[[5.0] * 13] * 5)
    evidence = claim.judge(wrong)
    assert [piece.outcome for piece in evidence[:2]] == ["supported", "contradicted"]


def test_a_number_that_is_missing_does_not_support(claim, measured):
    lost = made(measured)
    lost["off"][0][0] = math.nan
    assert conclude(claim.judge(lost)) == "inconclusive"


def test_the_degree_of_the_lowest_error_is_named(claim, measured):
    table = made(measured)
    table["total"] = [[1.0] * 13 for _ in range(5)]
    for row in table["total"]:
        row[6] = 0.5
    assert lowest(table) == 6
    assert "degree 6" in claim.judge(table)[-1].found


def test_it_is_drawn(claim, measured, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("litmus.claims.figures.style.write_title", lambda figure, title, sub: titles.append(title))
    table = made(measured)
    table["off"][2][4] = -3.1
    assert claim.draw(table, tmp_path / "a.png").stat().st_size > 10_000
    assert "64 of 65" in titles[0]
    table["total"][0][0] = table["off"][1][1] = math.nan
    assert claim.draw(table, tmp_path / "b.png").is_file()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"degrees": [3, 2]}, "settings.degrees"),
        ({"degrees": [2]}, "settings.degrees"),
        ({"degrees": [-1, 2]}, "settings.degrees"),
        ({"degrees": [1, 20]}, "below settings.places = 20"),
        ({"sigma": 0}, "settings.sigma"),
        ({"sets": 2}, "settings.sets"),
        ({"repeats": 1}, "settings.repeats"),
        ({"degree": [1]}, "settings.degree"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    overrides = [f"settings.{key}={json.dumps(value)}" for key, value in given.items()]
    with pytest.raises(Refused, match=says):
        make_claim(load_claim("decomposition_regression", overrides))


def test_it_has_no_long_form():
    with pytest.raises(Refused, match="no long form"):
        load_claim("decomposition_regression", full=True)
