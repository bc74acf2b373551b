import json
import math
from types import SimpleNamespace

import pytest
import torch

from litmus.claims.evidence import conclude
from litmus.claims.gradients import (
    CURVES,
    LOOKS,
    SHOWN,
    average,
    chosen,
    curve,
    grid,
    least,
    looks,
    shrinking,
    signed,
    start,
)
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.diagnosis.gradient_flow import FlowAt, measure_flow, to_json
from litmus.errors import Refused
from litmus.networks import build_network

NAN = math.nan


def made(name, *overrides, full=False):
    return make_claim(load_claim(name, overrides, full=full))


def drawn(draw, table, path):
    picture = draw(table, path)
    assert picture.stat().st_size > 5000
    assert picture.with_suffix(".svg").is_file()


# --- vanishing

SPREAD = [-0.01, -0.005, 0.0, 0.005, 0.01]
SIGMOID, XAVIER, HE, TRAP = SHOWN[0], SHOWN[3], SHOWN[4], SHOWN[2]


def arm(per_layer, activations=0.0, depth=10):
    rows = [[per_layer + at for at in SPREAD]]
    ratio = [[row * depth for row in rows[0]]]
    lines = {what: [[per_layer * k for k in range(depth)] for _ in SPREAD] for what in CURVES}
    acts = [[activations + at / 10 for at in SPREAD]]
    return {"per_layer": rows, "first_to_last": ratio, "weights": ratio, "activations": acts, "curves": lines}


def vanished(**changes):
    slopes = {name: arm(0.0) for name in SHOWN}
    slopes |= {SIGMOID: arm(-0.63), XAVIER: arm(-0.15, -0.15)} | changes
    return {"depths": [10], "arms": slopes, "rows": []}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "supported"),
        ({SIGMOID: arm(-0.5)}, "contradicted"),
        ({SIGMOID: arm(-0.665)}, "inconclusive"),  # the interval reaches over the bound
        ({XAVIER: arm(-0.15, -0.2)}, "contradicted"),
        ({XAVIER: arm(0.3, -0.15)}, "supported"),  # its gradients are reported only
        ({HE: arm(0.1)}, "contradicted"),
        ({HE: arm(0.015)}, "inconclusive"),
        ({HE: arm(NAN)}, "contradicted"),
    ],
)
def test_vanishing_is_judged_by_decades_a_layer(changes, outcome):
    assert conclude(made("vanishing").judge(vanished(**changes))) == outcome


def test_the_trap_is_told_beside_the_truth():
    trap = {**arm(-1.0), "weights": [[0.0] * 5]}
    found = made("vanishing").judge(vanished(**{TRAP: trap}))[3]
    assert found.outcome is None
    assert found.found.startswith("||dL/dz|| -10 (")
    assert found.found.endswith("||dL/dW|| 0")


@pytest.mark.parametrize("changes", [{}, {HE: arm(NAN, NAN)}])
def test_vanishing_is_drawn(changes, tmp_path):
    drawn(made("vanishing").draw, vanished(**changes), tmp_path / "v.png")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.depths=[5,10]", "settings.depths"),
        ("settings.depths=[10,6]", "settings.depths"),
        ("settings.depths=[2,6]", "settings.depths"),
        ("settings.activations=[relu]", "settings.activations"),
        ("settings.inits=[he_normal]", "settings.inits"),
        ("settings.num_images=9", "settings.num_images"),
    ],
)
def test_what_the_condition_needs_is_refused_where_it_is_missing(override, says):
    with pytest.raises(Refused, match=says):
        made("vanishing", override)


@pytest.fixture(scope="module")
def small_vanishing():
    claim = made("vanishing", "seeds=2", "settings.depths=[4,8]", "settings.num_images=32")
    before = torch.get_rng_state()
    table = claim.read({})
    assert torch.equal(torch.get_rng_state(), before)  # it draws from generators of its own
    return claim, table


def test_nothing_is_trained_and_the_same_seeds_draw_the_same_numbers(small_vanishing):
    claim, table = small_vanishing
    assert claim.cells() == []
    torch.manual_seed(123)
    again = made("vanishing", "seeds=2", "settings.depths=[4,8]", "settings.num_images=32").read({})
    assert again["rows"] == table["rows"]
    assert len(table["rows"]) == 3 * 3 * 2 * 2 * 2
    assert len({row["per_layer"] for row in table["rows"]}) > 60  # other seeds and depths, other numbers


def test_small_networks_show_what_theory_says(small_vanishing, tmp_path):
    """Loose bounds: seven hidden layers of two draws."""
    claim, table = small_vanishing
    deepest = {name: {k: arm[k][-1] for k in ("per_layer", "activations")} for name, arm in table["arms"].items()}
    assert deepest[start("sigmoid", "xavier_normal")]["per_layer"] == pytest.approx([-0.62] * 2, abs=0.06)
    assert deepest[start("relu", "xavier_normal")]["activations"] == pytest.approx([-math.log10(2) / 2] * 2, abs=0.05)
    assert deepest[start("relu", "he_normal")]["per_layer"] == pytest.approx([0] * 2, abs=0.08)
    assert deepest[start("relu", "normal")]["per_layer"] == pytest.approx(
        [math.log10(0.01 * 128**0.5 / 2**0.5)] * 2, abs=0.1
    )
    trap = table["arms"][start("tanh", "normal")]
    assert max(trap["first_to_last"][-1]) < -6
    assert max(map(abs, trap["weights"][-1])) < 1
    assert claim.judge(table)
    drawn(claim.draw, table, tmp_path / "v.png")


# --- what is read off flows


def flow_of(**options):
    torch.manual_seed(0)
    options = {"depth": 5, "width": 64, "in_channels": 1, "image_size": (8, 8), **options}
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 1, 8, 8, generator=generator), torch.arange(64) % 10
    return measure_flow(build_network("mlp", **options), images, labels)


def test_curves_are_over_the_head_and_the_spread_leaves_the_head_out():
    flow = flow_of()
    for what in ("delta", "gradient", "relative"):
        values = curve(flow, what)
        assert len(values) == 5
        assert values[-1] == 0
    assert curve(flow, "delta")[0] == pytest.approx(flow.first_to_last)
    assert curve(flow, "gradient")[0] == pytest.approx(flow.weight_gradient_ratio)
    assert len(curve(flow, "std")) == 4
    assert 10 ** curve(flow, "std")[1] == pytest.approx(flow.layers[1].std)


def test_shrinking_is_the_slope_of_the_activations_spread():
    layers = [SimpleNamespace(std=10.0 ** (-0.5 * k), activation="ReLU", log10_delta=0.0) for k in range(6)]
    head = SimpleNamespace(std=1.0, activation="", log10_delta=0.0)
    for layer in (*layers, head):
        layer.log10_gradient = layer.log10_relative = 0.0
    assert shrinking(SimpleNamespace(layers=[*layers, head])) == pytest.approx(-0.5)
    assert math.isnan(shrinking(SimpleNamespace(layers=[layers[0], head])))
    layers[2].std = 0.0  # no logarithm
    assert math.isnan(curve(SimpleNamespace(layers=[*layers, head]), "std")[2])


def test_looks_are_read_from_what_the_watch_wrote(tmp_path):
    flow = flow_of(activation="tanh")
    table = {"rows": [FlowAt(0, flow, (-3.0,) * 5).table(), FlowAt(50, flow, None).table()]}
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "gradients.json").write_text(json.dumps(to_json(table)))
    found = looks(SimpleNamespace(directory=tmp_path))
    assert [look["step"] for look in found] == [0, 50]
    assert found[0]["verdict"] == flow.verdict
    assert found[0]["delta"] == pytest.approx(curve(flow, "delta"))
    assert (found[0]["update"], found[1]["update"]) == (pytest.approx(1e-3), None)
    assert looks(SimpleNamespace(directory=tmp_path / "none")) == []
    assert looks(SimpleNamespace(directory=None)) == []


def test_a_grid_is_the_mean_over_seeds_at_each_step():
    one = [{"step": 0, "delta": [1.0, 0.0]}, {"step": 50, "delta": [2.0, 0.0]}]
    two = [{"step": 0, "delta": [3.0, NAN]}]  # diverged before the second look
    assert grid([one, two], "delta") == ([0, 50], [[2.0, 2.0], [0.0, 0.0]])
    assert grid([[], []], "delta") == ([], [[]])


def test_means_and_choices_leave_out_what_diverged():
    assert average([1.0, NAN, 3.0]) == 2.0
    assert math.isnan(average([NAN]))
    assert least([NAN, 0.3, 0.2]) == 0.2
    assert math.isnan(least([NAN]))
    assert chosen([0.5, 0.4, 0.3], [NAN, 0.1, 0.2]) == 0.4
    assert math.isnan(chosen([0.5], [NAN]))


def test_decades_are_signed_and_there_is_no_negative_zero():
    assert [signed(at) for at in (-30.75, -0.04, 0.26, NAN)] == ["-30.8", "+0.0", "+0.3", "not finite"]


# --- gradients_in_training


def seen(first, last, ratio=-5.0, layers=3):
    lines = {what: [ratio] * (layers - (what == "std")) for what in LOOKS}
    verdicts = {0: first, 50: last}
    return [{"step": k, "verdict": v, "first_to_last": ratio, "update": None, **lines} for k, v in verdicts.items()]


def watched(**changes):
    arms = list(load_claim("gradients_in_training").settings["arms"])
    looks = {arms[0]: [seen("vanishing", "vanishing")] * 5, arms[1]: [seen("vanishing", "healthy")] * 5}
    looks |= {arms[2]: [seen("healthy", "exploding")] * 5, arms[3]: [seen("healthy", "healthy", 0.5)] * 5}
    for at, value in changes.items():
        looks[arms[int(at[-1])]] = value
    return {"arms": arms, "looks": looks, "train_err": {name: [0.1, 0.2, 0.1, 0.1, NAN] for name in arms}, "rows": []}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "supported"),
        ({"arm0": [seen("vanishing", "healthy")] * 5}, "contradicted"),
        ({"arm0": [seen("vanishing", "vanishing")] * 4 + [seen("vanishing", "healthy")]}, "inconclusive"),
        ({"arm3": [seen("healthy", "vanishing")] * 5}, "contradicted"),
        ({"arm3": [seen("healthy", "exploding")] * 5}, "supported"),
        ({"arm0": [[]] * 5}, "contradicted"),  # nothing was seen
        ({"arm3": [[]] * 5}, "contradicted"),
        ({"arm1": [[]] * 5, "arm2": [seen("vanishing", "vanishing")] * 5}, "supported"),  # descriptive
    ],
)
def test_only_the_two_ends_are_judged(changes, outcome):
    assert conclude(made("gradients_in_training").judge(watched(**changes))) == outcome


@pytest.mark.parametrize("changes", [{}, {"arm0": [[]] * 5}, {"arm3": [seen("healthy", "healthy", NAN)] * 5}])
def test_maps_are_drawn_whatever_was_seen(changes, tmp_path):
    drawn(made("gradients_in_training").draw, watched(**changes), tmp_path / "g.png")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("settings.vanishes=nosuch", "settings.vanishes"),
        ("settings.arrives=nosuch", "settings.arrives"),
        ("base=[model.name=mlp]", "watch="),
    ],
)
def test_settings_of_the_watch_are_refused_by_their_key(override, says):
    with pytest.raises(Refused, match=says):
        made("gradients_in_training", override).cells()


def test_one_arm_is_no_comparison():
    with pytest.raises(Refused, match=r"settings\.arrives = 'sigmoid Xavier': is to be another arm"):
        made("gradients_in_training", "settings.arrives=sigmoid Xavier").cells()


# --- he_vs_xavier_30


def trained(**changes):
    claim = load_claim("he_vs_xavier_30")
    errors = {
        start("sigmoid", "xavier_normal"): 0.9, start("tanh", "xavier_normal"): 0.01,
        start("relu", "xavier_normal"): 0.7, start("relu", "he_normal"): 0.01,
    }  # fmt: skip
    rows = {name: [[0.95, err, NAN]] * 5 for name, err in errors.items()}
    for at, value in changes.items():
        rows[list(errors)[int(at[-1])]] = value
    return {"rates": claim.settings["rates"], "arms": list(errors), "train_err": rows, "val_err": rows, "rows": []}


LOW, HIGH, LOST = [[0.9, 0.01, NAN]] * 5, [[0.9, 0.89, 0.91]] * 5, [[NAN] * 3] * 5


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "supported"),
        ({"arm0": LOW}, "contradicted"),
        ({"arm0": [[0.7, 0.79, 0.9]] * 5}, "contradicted"),  # not at chance
        ({"arm0": LOST}, "supported"),
        ({"arm1": HIGH}, "contradicted"),
        ({"arm2": LOW}, "contradicted"),
        ({"arm2": LOST}, "supported"),
        ({"arm3": HIGH}, "contradicted"),
        ({"arm3": LOST}, "contradicted"),
        ({"arm3": [*LOW[:4], [0.9, 0.06, NAN]]}, "inconclusive"),
        ({"arm3": [[0.01, 0.9, 0.9], [0.9, 0.01, 0.9], [0.9, 0.9, 0.01], *LOW[:2]]}, "supported"),  # each its own rate
    ],
)
def test_he_and_xavier_are_judged_at_each_seeds_best_rate(changes, outcome):
    assert conclude(made("he_vs_xavier_30").judge(trained(**changes))) == outcome


@pytest.mark.parametrize("changes", [{}, {"arm3": LOST}, {"arm2": LOST}])
def test_he_and_xavier_are_drawn_whatever_diverged(changes, tmp_path):
    drawn(made("he_vs_xavier_30").draw, trained(**changes), tmp_path / "h.png")


@pytest.mark.parametrize("rates", ["[0.01,0.001]", "[0.0,0.01]", "[0.01]"])
def test_rates_are_refused_by_their_key(rates):
    with pytest.raises(Refused, match=r"settings\.rates"):
        made("he_vs_xavier_30", f"settings.rates={rates}").cells()


@pytest.mark.parametrize("full", [False, True])
def test_all_starts_are_trained_at_all_rates_on_the_same_seeds(full):
    claim = made("he_vs_xavier_30", full=full)
    cells = claim.cells()
    assert len(cells) == 4 * len(claim.settings.rates) * 5
    assert {cell.config.seed for cell in cells} == set(range(5))
    assert {cell.config.model.depth for cell in cells} == {30}
