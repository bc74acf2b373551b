"""The claims on the verdict, on made tables; their files; and their networks' overrides."""

import itertools
import json
import math

import pytest

from litmus.claims.evidence import conclude
from litmus.claims.registry import make_claim
from litmus.claims.verdicts import DIVERGED, commonest, groups_of, verdict_of
from litmus.config.claim import load_claim
from litmus.errors import Refused
from litmus.jobs.job import Outcome
from litmus.sweep.cells import Cell
from litmus.sweep.engine import Done

NAN = math.nan
SEEDS = 5


def arm(verdict, bias, gap, *, seeds=SEEDS):
    """Trainings that differ little from seed to seed."""
    found = {"verdict": [verdict] * seeds, "bias": [bias + 0.001 * k for k in range(seeds)]}
    found["gap"] = [gap + 0.001 * k for k in range(seeds)]
    found["val_err"] = [b + g for b, g in zip(found["bias"], found["gap"], strict=True)]
    found["train_err"] = found["bias"]
    found["bias_ends"] = [[b - 0.01, b + 0.01] for b in found["bias"]]
    found["gap_ends"] = [[g - 0.01, g + 0.01] for g in found["gap"]]
    return found


def diverged(made, seed=0):
    made["verdict"][seed] = DIVERGED
    for key in ("bias", "gap", "train_err", "val_err"):
        made[key][seed] = NAN
    for key in ("bias_ends", "gap_ends"):
        made[key][seed] = [NAN, NAN]
    return made


def regimes(**changed):
    arms = {
        "narrow": arm("high bias", 0.4, 0.0),
        "conv": arm("high variance", 0.0, 0.2),
        "dropout": arm("high bias, high variance", 0.1, 0.1),
        "digits": arm("low bias, low variance", 0.0, 0.004),
    } | changed
    expects = {"narrow": "high bias", "conv": "high variance", "dropout": "high bias, high variance"}
    expects["digits"] = "low bias, low variance"
    return {"tolerance": 0.02, "seeds": list(range(SEEDS)), "arms": arms, "expects": expects}


def steps(*arms, treats=("bias", "variance")):
    names = ["start", *(f"step {k}" for k in range(1, len(arms)))]
    return {
        "tolerance": 0.02,
        "seeds": list(range(SEEDS)),
        "arms": dict(zip(names, arms, strict=True)),
        "treats": dict(zip(names, (None, *treats), strict=True)),
    }


@pytest.fixture(scope="module")
def four():
    return make_claim(load_claim("four_regimes"))


@pytest.fixture(scope="module")
def recipe():
    return make_claim(load_claim("bias_first_recipe"))


# Four regimes


def test_four_right_verdicts_support(four):
    assert conclude(four.judge(regimes())) == "supported"


def test_one_seed_called_otherwise_decides_nothing_and_is_named(four):
    table = regimes()
    table["arms"]["digits"]["verdict"][3] = "undecided"
    evidence = four.judge(table)
    assert conclude(evidence) == "inconclusive"
    assert "4 of 5" in evidence[6].found
    assert "else called undecided" in evidence[7].found


def test_a_regime_that_is_never_recognised_contradicts(four):
    assert conclude(four.judge(regimes(narrow=arm("high variance", 0.4, 0.0)))) == "contradicted"


def test_high_bias_beside_high_variance_is_not_high_bias(four):
    table = regimes(narrow=arm("high bias, high variance", 0.4, 0.2))
    assert conclude(four.judge(table)) == "contradicted"


def test_a_training_that_diverged_is_no_right_verdict(four):
    assert conclude(four.judge(regimes(conv=diverged(arm("high variance", 0.0, 0.2))))) == "inconclusive"


# The recipe


def test_falling_components_support(recipe):
    table = steps(arm("high bias", 0.5, 0.0), arm("high variance", 0.1, 0.2), arm("high variance", 0.2, 0.1))
    assert conclude(recipe.judge(table)) == "supported"


def test_only_the_treated_component_is_judged(recipe):
    """Against variance, bias may rise; against bias, the gap."""
    table = steps(arm("high bias", 0.5, 0.0), arm("high variance", 0.1, 0.3), arm("high bias", 0.4, 0.1))
    assert conclude(recipe.judge(table)) == "supported"
    swapped = steps(*table["arms"].values(), treats=("variance", "variance"))
    assert conclude(recipe.judge(swapped)) == "contradicted"


def test_a_start_without_bias_contradicts(recipe):
    table = steps(arm("high variance", 0.0, 0.3), arm("high variance", -0.1, 0.2), treats=("bias",))
    assert conclude(recipe.judge(table)) == "contradicted"


def test_a_step_that_helps_four_seeds_of_five_is_inconclusive(recipe):
    table = steps(arm("high bias", 0.5, 0.0), arm("high variance", 0.1, 0.2), treats=("bias",))
    table["arms"]["step 1"]["bias"][2] = 0.6
    assert conclude(recipe.judge(table)) == "inconclusive"


def test_a_step_that_diverged_is_as_high_as_can_be(recipe):
    table = steps(arm("high bias", 0.5, 0.0), diverged(arm("high bias", 0.1, 0.0)), treats=("bias",))
    assert conclude(recipe.judge(table)) == "inconclusive"
    start = steps(diverged(arm("high bias", 0.5, 0.0)), arm("high bias", 0.1, 0.0), treats=("bias",))
    assert [one.outcome for one in recipe.judge(start)[:2]] == ["inconclusive", "supported"]


def test_most_seeds_name_the_verdict_and_the_first_of_equals():
    assert commonest(["a", "b", "b"]) == "b"
    assert commonest(["a", "b"]) == "a"


# What is read of a training


def done(tmp_path, train_err, val_err, *, num=(100, 10_000), state="COMPLETE", reason=""):
    (tmp_path / "artifacts").mkdir(exist_ok=True)
    result = {
        "train_eval": {"err": train_err, "num_images": num[0]},
        "val": {"err": val_err, "num_images": num[1]},
        "num_train": num[0],
    }
    (tmp_path / "artifacts" / "result.json").write_text(json.dumps(result))
    return Done(Cell("one", None), Outcome(state, reason=reason), tmp_path)


def test_numbers_of_a_verdict_are_those_of_the_result(tmp_path, four):
    found = verdict_of(done(tmp_path, 0.15, 0.30), four.base)
    assert found["verdict"] == "high bias, high variance"
    assert found["bias"] == pytest.approx(0.15)
    assert found["gap"] == pytest.approx(0.15)
    assert found["bias_ends"] == [0.15, 0.15]  # all training images were seen: exact
    assert found["gap_ends"] == pytest.approx([0.1411, 0.1591], abs=1e-4)  # Wilson's, of 3,000 in 10,000
    assert (found["train_err"], found["val_err"]) == (0.15, 0.30)


def test_a_training_that_diverged_has_no_numbers(tmp_path, four):
    found = verdict_of(done(tmp_path, 0.1, 0.1, state="FAIL", reason="not finite: loss"), four.base)
    assert found["verdict"] == DIVERGED
    assert math.isnan(found["bias"])
    assert math.isnan(found["gap"])
    assert math.isnan(found["gap_ends"][1])


def test_a_table_has_a_row_for_each_training(tmp_path, four):
    of_all = {cell.name: done(tmp_path, 0.4, 0.41) for cell in four.cells()}
    table = four.read(of_all)
    assert len(table["rows"]) == len(of_all) == 4 * SEEDS
    assert {row["verdict"] for row in table["rows"]} == {"high bias"}
    assert [one.outcome for one in four.judge(table) if one.outcome] == ["supported", *["contradicted"] * 3]
    assert groups_of(table).keys() == table["arms"].keys()


# Files and settings


@pytest.mark.parametrize("name", ["four_regimes", "bias_first_recipe"])
@pytest.mark.parametrize("full", [False, True])
def test_files_load_and_cells_are_paired(name, full):
    claim = make_claim(load_claim(name, full=full))
    cells = claim.cells()
    assert len({cell.name for cell in cells}) == len(cells) == len(claim.arms()) * SEEDS
    for at in range(0, len(cells), SEEDS):
        seeds = [cell.config.seed for cell in cells[at : at + SEEDS]]
        assert seeds == list(range(SEEDS))
        drawn = [cell.config.data.draw_seed for cell in cells[at : at + SEEDS]]
        assert drawn in ([1, 2, 3, 4, 5], [0] * SEEDS)
        assert (drawn[0] == 0) == (cells[at].config.data.num_train is None)


def test_the_regimes_are_what_they_are_called(four):
    configs = four.configs()
    assert configs["two hidden units"].model.width == 2
    assert configs["conv net, 500 images"].data.num_train == 500
    assert configs["dropout, 300 images"].model.keep_prob == 0.2
    assert configs["residual net on digits"].data.name == "digits"


def test_steps_add_up(recipe):
    arms = list(recipe.arms().values())
    assert all(later[: len(before)] == before for before, later in itertools.pairwise(arms))
    assert all(len(later) > len(before) for before, later in itertools.pairwise(arms))


def settings(**given):
    return [f"settings.{key}={json.dumps(value)}" for key, value in given.items()]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("four_regimes", {"regimes": [{"name": "a", "expects": "high bais"}]}, "settings.regimes.0.expects"),
        ("four_regimes", {"regimes": [{"name": "a", "expects": "high bias"}] * 2}, "names of their own"),
        ("four_regimes", {"regimes": []}, "settings.regimes"),
        ("four_regimes", {"regimes": [{"name": "", "expects": "high bias"}]}, "settings.regimes.0.name"),
        ("bias_first_recipe", {"steps": [{"name": "a"}]}, "begins with a step"),
        ("bias_first_recipe", {"steps": [{"name": "a", "treats": "bias"}, {"name": "b", "treats": "bias"}]}, "begins"),
        ("bias_first_recipe", {"steps": [{"name": "a"}, {"name": "b"}]}, "begins"),
        (
            "bias_first_recipe",
            {"steps": [{"name": "a"}, {"name": "b", "treats": "variance"}, {"name": "c", "treats": "bias"}]},
            "bias first",
        ),
    ],
)
def test_wrong_settings_are_refused(name, given, says):
    with pytest.raises(Refused, match=says):
        make_claim(load_claim(name, settings(**given))).cells()


def test_an_override_that_does_not_fit_is_refused_with_its_arm():
    given = settings(regimes=[{"name": "odd", "expects": "high bias", "set": ["model.depht=3"]}])
    with pytest.raises(Refused, match=r"four_regimes: odd.*\n.*model\.depht"):
        make_claim(load_claim("four_regimes", given)).cells()


# Figures


def test_regimes_are_drawn(four, tmp_path):
    assert four.draw(regimes(), tmp_path / "four.png").stat().st_size > 10_000
    assert (tmp_path / "four.svg").is_file()


def test_the_title_counts_what_was_right(four, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("litmus.claims.plane.style.write_title", lambda figure, title, sub: titles.append(title))
    table = regimes()
    table["arms"]["digits"]["verdict"][:2] = ["undecided", DIVERGED]
    four.draw(table, tmp_path / "four.png")
    assert "18 of 20" in titles[0]


def test_the_recipe_is_drawn_with_its_path(recipe, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("litmus.claims.plane.style.write_title", lambda figure, *words: titles.append(words))
    arms = arm("high bias", 0.5, 0.0), arm("high variance", 0.1, 0.2), arm("high variance", 0.2, 0.05)
    assert recipe.draw(steps(*arms), tmp_path / "recipe.png").is_file()
    assert titles[0][0].endswith("0.504 to 0.254 in 2 steps")
    recipe.draw(steps(arms[0], arms[2], arms[1]), tmp_path / "worse.png")
    assert titles[1][0].endswith("0.504 to 0.304 in 2 steps (0.254 at point 2)")
    assert "high bias → high variance\n" in titles[0][1]


def test_figures_are_drawn_of_what_diverged(four, recipe, tmp_path):
    lost = arm("high bias", 0.4, 0.0)
    for seed in range(SEEDS):
        diverged(lost, seed)
    assert four.draw(regimes(narrow=lost, conv=diverged(arm("high variance", 0, 0.2))), tmp_path / "a.png").is_file()
    assert recipe.draw(steps(lost, lost, treats=("bias",)), tmp_path / "b.png").is_file()
