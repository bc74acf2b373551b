import math

import numpy as np
import pytest

from litmus.claims.toys import TILT, distances, exponent, methods, slope, slope_of_well, stationary, step_sizes, well
from litmus.errors import Refused
from tests.claims import made_stages as made


@pytest.fixture(scope="module")
def toys():
    one = made.claim("toy_landscapes")
    return one, one.read({})


def test_analytic_rates_at_kappa_100():
    rates = {name: math.exp(-rate) for name, (_, rate) in methods(100.0).items()}
    assert rates["gradient descent"] == pytest.approx(99 / 101)
    assert rates["momentum"] == pytest.approx(9 / 11)
    assert rates["Nesterov"] == pytest.approx(0.9)


@pytest.mark.parametrize("kappa", [10.0, 100.0])
def test_the_analytic_rate_is_the_spectral_radius_of_the_method_over_the_eigenvalues(kappa):
    lambdas = np.linspace(1, kappa, 500)
    for options, rate in methods(kappa).values():
        lr, mu = options["lr"], options.get("momentum", 0.0)
        look = lambdas * 0 + 1 - lr * lambdas
        radius = 0.0
        for one in look:  # x' of (x, the x before)
            if options["name"] == "nesterov":
                step = [[(1 + mu) * one, -mu * one], [1, 0]]
            else:
                step = [[mu + one, -mu], [1, 0]]
            radius = max(radius, float(np.abs(np.linalg.eigvals(step)).max()))
        assert radius == pytest.approx(math.exp(-rate), abs=2e-3)  # a double root costs half the digits


def test_measured_rates_are_the_analytic_ones_and_a_wrong_rate_is_told(toys):
    one, table = toys
    assert made.outcomes(one.judge(table)) == ["supported"] * 5
    options, rate = methods(100.0)["momentum"]
    slower = slope(distances({**options, "momentum": 0.9}, 100.0, 1000, 0))
    assert slower < 0.6 * rate


def test_a_slope_is_of_the_second_half_in_nats_a_step():
    log10 = [5.0] * 5 + [-0.1 * step for step in range(5)]
    assert slope([0.0, 0.0, 0.0, -1.0, -2.0]) == pytest.approx(math.log(10))
    assert slope(log10) == pytest.approx(0.1 * math.log(10))


def test_adagrads_step_is_one_over_the_root_of_t_and_rmsprops_ends_at_the_rate():
    adagrad = step_sizes({"name": "adagrad", "lr": 2.0}, 100)
    assert adagrad == pytest.approx([2 / math.sqrt(t) for t in range(1, 101)], rel=1e-6)
    assert exponent(adagrad) == pytest.approx(-0.5, abs=1e-6)
    rmsprop = step_sizes({"name": "rmsprop", "lr": 2.0, "rho": 0.9}, 100)
    assert rmsprop == pytest.approx([2 / math.sqrt(1 - 0.9**t) for t in range(1, 101)], rel=1e-6)


def test_the_double_well_is_level_where_it_says_and_the_left_one_is_deeper():
    places = stationary()
    assert list(places) == ["deeper well", "barrier", "shallow well"]
    assert [slope_of_well(x) for x in places.values()] == pytest.approx([0, 0, 0], abs=1e-9)
    low, middle, high = ((x**2 - 1) ** 2 + TILT * x for x in places.values())
    assert low < high < middle
    x, h = 0.7, 1e-6
    numeric = (((x + h) ** 2 - 1) ** 2 - ((x - h) ** 2 - 1) ** 2 + 2 * TILT * h) / (2 * h)
    assert slope_of_well(x) == pytest.approx(numeric, rel=1e-6)


def test_momentum_leaves_wells_both_ways_and_gradient_descent_none():
    found = well(0.01, 0.9)
    assert found["deep_share"]["sgd"] == found["lost_share"]["sgd"] == 0
    assert 0 < found["deep_share"]["momentum"] < 0.5
    assert 0 < found["lost_share"]["momentum"] < 0.5
    assert found["paths"]["sgd"][0] == found["paths"]["momentum"][0]
    assert found["paths"]["sgd"][-1] > 0.9
    assert found["paths"]["momentum"][-1] < -0.8


def test_where_the_two_never_part_the_farthest_start_is_shown():
    found = well(0.0005, 0.1)
    assert found["deep_share"] == {"sgd": 0.0, "momentum": 0.0}
    assert found["paths"]["momentum"][0] == 2.0


def test_wrong_rates_contradict(toys):
    one, table = toys
    quadratic = {name: {**row, "found": [2 * v for v in row["found"]]} for name, row in table["quadratic"].items()}
    adaptive = {"adagrad": table["adaptive"]["rmsprop"], "rmsprop": table["adaptive"]["adagrad"]}
    wrong = {**table, "quadratic": quadratic, "adaptive": adaptive}
    assert made.outcomes(one.judge(wrong)) == ["contradicted"] * 5
    lost = {name: {**row, "found": [made.NAN] * 5} for name, row in table["quadratic"].items()}
    assert made.outcomes(one.judge({**table, "quadratic": lost}))[:3] == ["contradicted"] * 3


def test_nothing_global_decides_the_numbers(toys):
    import torch

    one, table = toys
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    again = one.read({})
    assert again["rows"] == table["rows"]
    assert one.cells() == []


def test_it_is_drawn_with_a_title_from_the_table(toys, tmp_path):
    one, table = toys
    assert one.draw(table, tmp_path / "toys.png").stat().st_size > 20_000


@pytest.mark.parametrize("key", ["kappa=1", "steps=100", "tolerance=1", "well_lr=0", "well_momentum=1"])
def test_wrong_settings_are_refused_by_their_key(key):
    value = f"{key}.0" if not key.startswith("steps") else key
    with pytest.raises(Refused) as caught:
        made.claim("toy_landscapes", f"settings.{value}").cells()
    assert [problem.where for problem in caught.value.problems] == [f"settings.{key.partition('=')[0]}"]
