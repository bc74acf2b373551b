import math

import pytest

from litmus.claims.batch_norm import largest_stable, least, reached
from litmus.claims.evidence import conclude
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.errors import Refused

NAN = math.nan
RATES = [0.01, 0.1, 0.3]


def made(*overrides, full=False):
    return make_claim(load_claim("batch_norm_speed", overrides, full=full))


def table(*, batch=(80.0, 40.0, 60.0), none=(120.0, 90.0, NAN), stable_batch=3, stable_none=2, seeds=5):
    """``stable_*``: how many rates, the lowest first, are stable; a number, or one for each seed."""

    def up_to(many):
        return [[k < count for k in range(len(RATES))] for count in ([many] * seeds if isinstance(many, int) else many)]

    return {
        "rates": RATES, "batch_sizes": [2, 8], "ratio": 3.0, "target": 0.1,
        "steps": {"batch": [list(batch)] * seeds, "none": [list(none)] * seeds},
        "stable": {"batch": up_to(stable_batch), "none": up_to(stable_none)},
        "by_batch": {"batch": [[0.5, 0.1]] * seeds, "none": [[0.4, NAN]] * seeds},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({}, "supported"),  # 0.3 / 0.1 is a rounding error below 3 in binary
        ({"none": (NAN, NAN, NAN), "stable_none": 0}, "supported"),
        ({"none": (30.0, 30.0, NAN)}, "contradicted"),
        ({"none": (40.0, 40.0, NAN)}, "inconclusive"),  # as many steps
        ({"stable_none": 3}, "contradicted"),
        ({"stable_none": [2, 2, 2, 2, 3]}, "inconclusive"),
        ({"batch": (NAN, NAN, NAN), "stable_batch": 0}, "contradicted"),
        ({"stable_batch": 0, "stable_none": 0}, "contradicted"),  # nothing was stable: nothing is three times as large
    ],
)
def test_batch_norm_is_judged_by_its_best_rate_and_its_largest(given, outcome):
    assert conclude(made().judge(table(**given))) == outcome


def test_what_is_reported_says_how_many_times_and_at_which_rates():
    lines = [one.line for one in made().judge(table())]
    assert "reported      how many times fewer: 2.25" in lines
    assert "reported      largest stable rate: batch norm 0.3 0.3 0.3 0.3 0.3, no norm 0.1 0.1 0.1 0.1 0.1" in lines
    assert lines[-1] == "reported      training loss at the end, batch of 8: batch norm 0.1, no norm all 5 diverged"


def test_a_target_is_reached_at_the_first_value_that_is_as_low():
    history = [(20, 0.05), (10, 0.2), (5, 1.0), (15, 0.1), (25, 0.3)]
    assert reached(history, 0.1) == 15
    assert math.isnan(reached(history, 0.01))
    assert math.isnan(reached([], 0.1))


def test_the_largest_stable_rate_may_lie_above_an_unstable_one():
    given = {"rates": RATES, "stable": {"batch": [[True, False, True], [False, False, False]]}}
    assert largest_stable(given, "batch") == [0.3, 0.0]
    assert least([NAN, 3.0, 2.0]) == 2.0
    assert math.isnan(least([NAN]))


@pytest.mark.parametrize("given", [{}, {"none": (NAN, NAN, NAN), "stable_none": 0}, {"batch": (NAN,) * 3}])
def test_it_is_drawn_whatever_diverged(given, tmp_path):
    path = made().draw(table(**given), tmp_path / "b.png")
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.rates=[0.1,0.01]", "settings.rates"),
        ("settings.rates=[0.0,0.01]", "settings.rates"),
        ("settings.rates=[0.1]", "settings.rates"),
        ("settings.batch_sizes=[1,2]", "needs two images"),
        ("settings.batch_sizes=[8,2]", "settings.batch_sizes"),
        ("base=[model.name=plain,train.epochs=3]", "must count in steps"),
        ("settings.target=0", "settings.target"),
        ("settings.stable_below=2", "settings.stable_below"),
        ("settings.ratio=0", "settings.ratio"),
    ],
)
def test_settings_are_refused_by_their_key(override, says):
    with pytest.raises(Refused, match=says):
        made(override).cells()


@pytest.mark.parametrize("full", [False, True])
def test_arms_are_paired_and_differ_in_norm_rate_and_batch_alone(full):
    cells = made(full=full).cells()
    assert len(cells) == 5 * 2 * (7 + 4)
    assert {cell.config.seed for cell in cells} == set(range(5))
    assert {cell.config.model.norm for cell in cells} == {"batch", "none"}
    assert len({cell.config.train for cell in cells}) == 1
    assert sorted({cell.config.data.batch_size for cell in cells if "batch of" in cell.name}) == [2, 8, 32, 128]
