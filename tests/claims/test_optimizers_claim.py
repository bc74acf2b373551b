import math

import pytest

from litmus.claims.optimizers import SEARCH_SEED, beyond, title_of
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.errors import Refused
from tests.claims import made_stages as made

BEST = {"sgd": 0.3, "momentum": 0.03, "nesterov": 0.03, "adagrad": 0.03, "rmsprop": 0.001, "adam": 0.001}
FLOOR = {"sgd": 0.5, "momentum": 0.3, "nesterov": 0.31, "adagrad": 0.36, "rmsprop": 0.4, "adam": 0.29}


def bowl(best=BEST, floor=FLOOR):
    """A loss that is lowest at each optimizer's best rate, and grows by a fifth with each decade from it."""

    def result(cell):
        optim = cell.config.optim
        away = abs(math.log10(optim.lr) - math.log10(best[optim.name]))
        return made.errors(0.2, floor[optim.name] * (1 + 0.2 * away) + 1e-4 * (cell.config.seed % 7))

    return result


def table(result=None):
    one = made.claim("optimizers")
    return one, one.read(made.conduct(one, result or bowl())[0])


def test_six_rates_on_a_seed_apart_then_the_winners_on_the_seeds_of_the_defaults():
    one = made.claim("optimizers")
    done, stages = made.conduct(one, bowl())
    assert stages == [66, 30]  # 36 in the search, 30 defaults; then 30 winners
    assert {cell.cell.config.seed for name, cell in done.items() if "search" in name} == {SEARCH_SEED}
    assert {cell.cell.config.seed for name, cell in done.items() if "search" not in name} == set(range(5))
    assert done["sgd, best rate, seed 3"].cell.config.optim.lr == 0.3
    assert done["adam, default, seed 4"].cell.config.optim.lr == 0.001
    assert all(one.cell.config.optim.l2_lambda == 0 for one in done.values())


def test_test_images_are_answered_by_winners_and_defaults_alone():
    done, _ = made.conduct(made.claim("optimizers"), bowl())
    assert made.claim("optimizers").splits == ("train_eval", "val")
    for name, one in done.items():
        assert bool(one.cell.measures) == ("search" not in name)


def test_rates_are_chosen_by_the_validation_loss():
    def result(cell):  # the smallest rate is the best on training images
        return bowl()(cell) | {"train_eval": {"err": 0.2, "loss": cell.config.optim.lr}}

    assert table(result)[1]["chosen"] == BEST


@pytest.mark.parametrize(("best", "rates"), [(3.0, [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]), (0.001, 8)])
def test_a_best_rate_at_an_end_asks_for_more_until_it_lies_inside(best, rates):
    one = made.claim("optimizers")
    done, stages = made.conduct(one, bowl({**BEST, "sgd": best}))
    found = one.read(done)
    if isinstance(rates, list):
        assert found["rates"]["sgd"] == rates
        assert stages == [66, 1, 30]
    else:
        assert found["rates"]["sgd"][:2] == [0.0003, 0.001]
        assert len(found["rates"]["sgd"]) == 9
        assert stages == [66, 1, 1, 1, 30]
    assert found["chosen"]["sgd"] == best
    assert found["rates"]["adam"] == list(one.settings.rates["adam"])


def test_a_range_is_widened_upwards_step_by_step_too():
    one = made.claim("optimizers")
    done, stages = made.conduct(one, bowl({**BEST, "adam": 0.3}))
    assert stages == [66, 1, 1, 1, 30]
    assert one.read(done)["rates"]["adam"][-3:] == [0.1, 0.3, 1.0]


def test_widening_has_an_end_and_the_line_says_that_it_was_reached():
    one = made.claim("optimizers", "settings.widen=2")
    found = one.read(made.conduct(one, bowl({**BEST, "adam": 1e-9}))[0])
    assert found["rates"]["adam"][:3] == [1e-5, 3e-5, 1e-4]
    (line,) = [piece.what for piece in one.judge(found) if piece.what.startswith("adam")]
    assert line == "adam at lr = 1e-05 (the end of its range)"


def test_the_next_rate_keeps_the_steps_of_its_series():
    assert beyond([0.3, 0.1, 0.03]) == 1.0
    assert beyond([0.01, 0.03, 0.1]) == 0.003
    assert beyond([8, 4, 2]) == 16


def test_judged_by_momentum_against_sgd_and_by_adam_among_the_defaults():
    one, found = table()
    assert made.outcomes(one.judge(found)) == ["supported", "supported"]
    one, found = table(bowl(floor={**FLOOR, "adagrad": 0.2}))
    assert made.outcomes(one.judge(found)) == ["supported", "contradicted"]
    one, found = table(bowl(floor={**FLOOR, "sgd": 0.2}))
    assert made.outcomes(one.judge(found)) == ["contradicted", "supported"]


def test_one_seed_on_which_another_default_is_better_leaves_it_open():
    one, found = table(bowl(floor={**FLOOR, "adam": 0.1}))
    found["default"]["adagrad"]["train_loss"][2] = 0.05
    assert made.outcomes(one.judge(found)) == ["supported", "inconclusive"]


def test_rates_that_diverge_are_not_chosen_and_an_optimizer_that_always_does_loses():
    def result(cell):
        optim = cell.config.optim
        lost = optim.name == "sgd" or (optim.name == "momentum" and optim.lr >= 0.03)
        return None if lost else bowl(floor={**FLOOR, "adam": 0.1})(cell)

    one, found = table(result)
    assert found["chosen"]["momentum"] == 0.01
    assert all(map(math.isnan, found["tuned"]["sgd"]["train_loss"]))
    evidence = one.judge(found)
    assert made.outcomes(evidence) == ["supported", "supported"]
    assert "5 pairs with a training that diverged" in evidence[0].found


def test_rows_are_those_of_every_seed():
    _, found = table()
    assert len(found["rows"]) == 60
    assert {row["kind"] for row in found["rows"]} == {"tuned", "default"}
    assert found["rows"][0]["test_err"] == pytest.approx(0.21)


@pytest.mark.parametrize("lost", [False, True])
def test_it_is_drawn_with_a_title_from_the_table(tmp_path, lost):
    one, found = table()
    if lost:
        found["tuned"]["sgd"] = {what: [made.NAN] * 5 for what in found["tuned"]["sgd"]}
        found["search"]["sgd"]["train_loss"][-1] = made.NAN
    assert one.draw(found, tmp_path / "optimizers.png").stat().st_size > 20_000
    words = "0.29 (adam) to 0.50 (sgd)" if not lost else "0.29 (adam) to 0.40 (rmsprop), some diverged each at its best"
    assert words in title_of(found)
    assert ("diverged" in title_of(found)) == lost


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("settings.rates.sgd=[0.1,0.1,1,2,3,4]", "settings.rates.sgd"),
        ("settings.rates.sgd=[0.1,1]", "settings.rates.sgd"),
        ("settings.rates.sgd=[0.1,1,10]", "settings.rates"),
        ("settings.defaults.lion=0.1", "settings.defaults"),
        ("settings.widen=x", "settings.widen"),
    ],
)
def test_wrong_settings_are_refused_by_their_key(override, key):
    with pytest.raises(Refused) as caught:
        made.claim("optimizers", override).cells()
    assert key in [problem.where for problem in caught.value.problems]


def test_the_optimizers_of_the_claim_have_to_be_there():
    spec = load_claim("optimizers")
    few = {"rates": {"nesterov": [1, 2, 3], "sgd": [1, 2, 3]}, "defaults": {"nesterov": 1, "sgd": 1}}
    with pytest.raises(Refused, match="momentum, adam"):
        make_claim(spec.model_copy(update={"settings": few})).cells()
