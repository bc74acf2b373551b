import math

import numpy as np
import pytest
from made import NAN, SEEDS, Finished, around, is_drawn, losses, made_claim, name, outcomes

from litmus.claims.regularisation import best_elsewhere, best_of, label
from litmus.errors import Refused

LAMBDAS = [0, 1, 10, 100, 1000]


def l2_table(norms=(30, 29, 25, 10, 1), val=(0.9, 0.8, 0.6, 0.7, 1.5)):
    claim = made_claim("l2_shrinks")
    outline = {"at": [-0.1, 0.0, 0.1], "density": [1.0, 3.0, NAN]}
    table = {
        "lambdas": LAMBDAS,
        "norm": around(norms),
        "val_loss": around(val),
        "val_err": around([0.18] * 5),
        "train_loss": around([0.01, 0.02, 0.1, 0.3, 1.4]),
        "densities": {f"{one:g}": outline for one in LAMBDAS},
    }
    return claim, table


def test_l2_holds_when_every_step_shrinks_and_some_lambda_lowers_the_loss():
    claim, table = l2_table()
    assert outcomes(claim.judge(table)) == ["supported", "supported"]


def test_l2_is_contradicted_by_growing_weights_and_by_a_loss_that_only_rises():
    claim, table = l2_table(norms=(1, 2, 3, 4, 5), val=(0.5, 0.6, 0.7, 0.8, 0.9))
    assert outcomes(claim.judge(table)) == ["contradicted", "contradicted"]


def test_l2_is_inconclusive_when_a_seed_disagrees():
    claim, table = l2_table()
    table["norm"][2][3] = 40.0
    table["val_loss"][2][3] = 0.95
    assert outcomes(claim.judge(table)) == ["inconclusive", "inconclusive"]


def test_l2_does_not_hold_where_a_training_diverged():
    claim, table = l2_table()
    table["norm"][4][0] = table["val_loss"][4][0] = NAN
    assert outcomes(claim.judge(table)) == ["inconclusive", "supported"]
    assert best_of([[0.9], [NAN], [NAN]]) == 1
    assert best_of([[0.1], [NAN], [0.7], [0.6]]) == 3


def test_the_best_lambda_is_never_that_without_decay():
    assert best_of([[0.1, 0.1], [0.5, 0.5], [0.4, 0.4]]) == 2


def test_a_seed_has_no_say_in_the_lambda_that_it_judges():
    losses = [[0.5] * 5, [0.4] * 5, [0.1, 0.45, 0.45, 0.45, 0.45]]  # the last is best on average, by one seed's luck
    assert best_of(losses) == 2
    assert best_elsewhere(losses) == [1, 2, 2, 2, 2]
    claim, table = l2_table()
    table["lambdas"], table["val_loss"] = [0, 1, 10], losses
    (said,) = [one for one in claim.judge(table) if one.what.startswith("val/loss at")]
    assert said.what == "val/loss at the lambda that is best on the other seeds, 1, 10, below that at 0"
    assert said.found.startswith("difference 0.06 ")


def test_the_figure_of_l2_says_the_tables_numbers(tmp_path, monkeypatch):
    claim, table = l2_table()
    said = {}
    monkeypatch.setattr("litmus.claims.regularisation.draw", lambda panels, path, **how: said.update(how) or path)
    claim.draw(table, tmp_path / "a.png")
    assert said["title"] == "lambda 0 to 1000: norm 30 to 1; val loss 0.9 at 0, 0.6 at 10"


@pytest.mark.parametrize("lost", [False, True])
def test_l2_is_drawn_with_and_without_a_training_that_diverged(tmp_path, lost):
    claim, table = l2_table()
    if lost:
        table["norm"][4] = table["val_loss"][4] = table["val_err"][4] = table["train_loss"][4] = [NAN] * 5
        table["densities"]["1000"] = {}
    assert is_drawn(claim, table, tmp_path)


@pytest.mark.parametrize(
    ("claim", "override", "says"),
    [
        ("l2_shrinks", "settings.lambdas=[1,10,100]", "settings.lambdas.*must begin with 0"),
        ("l2_shrinks", "settings.lambdas=[0,10,1]", "settings.lambdas.*rise"),
        ("l2_shrinks", "settings.lambdas=[0,10]", "settings.lambdas.*at least three"),
        ("l2_shrinks", "settings.lambda=[0,10,20]", r"settings\.lambda"),
        ("l1_sparsifies", "settings.l2_lambda=0", "settings.l2_lambda.*above 0"),
        ("l1_sparsifies", "settings.lambdas=[0,1]", "settings.lambdas.*at least three"),
    ],
)
def test_settings_that_make_no_sweep_are_refused(claim, override, says):
    with pytest.raises(Refused, match=says):
        made_claim(claim, override).cells()


def finished(norm, zeros):
    counts, edges = np.array([1, 0, 3]), np.array([-1.0, -0.5, 0.5, 1.0])
    measured = {"weights": {"norm": norm, "zeros": zeros, "counts": counts, "edges": edges}}
    return Finished(losses(0.1, 0.5), measured)


def test_l2_reads_each_arm_seed_by_seed_and_one_that_diverged_as_nan():
    claim = made_claim("l2_shrinks", "settings.lambdas=[0,1,2]")
    done = {name(label(one), seed): finished(10.0 - one + seed / 10, 0.0) for one in (0, 1, 2) for seed in SEEDS}
    done[name(label(2), 0)] = Finished()
    table = claim.read(done)
    assert table["norm"][1] == pytest.approx([9.0, 9.1, 9.2, 9.3, 9.4])
    assert math.isnan(table["norm"][2][0])
    assert table["densities"]["2"] == {}
    assert len(table["rows"]) == 15
    density = table["densities"]["0"]
    assert density["at"] == [-0.75, 0.0, 0.75]
    assert density["density"][::2] == [0.5, 1.5]  # of 4 weights 1 and 3 in bins of 0.5
    assert math.isnan(density["density"][1])


def l1_table(zeros=(0.0, 0.1, 0.3, 0.7, 0.95), l2=(0.0,) * 5):
    claim = made_claim("l1_sparsifies")
    table = {
        "lambdas": [0, 0.3, 1, 3, 10],
        "zeros": around(zeros),
        "norm": around([30, 28, 20, 10, 3]),
        "val_loss": around([0.9, 0.8, 0.6, 0.7, 0.9]),
        "val_err": around([0.18] * 5),
        "train_loss": around([0.0, 0.1, 0.2, 0.3, 0.8]),
        "l2": {"lambda": 10.0, "zeros": list(l2), "norm": [20.0] * 5},
    }
    return claim, table


def test_l1_holds_when_zeros_rise_and_not_when_they_fall_or_stand():
    claim, table = l1_table()
    assert outcomes(claim.judge(table)) == ["supported"]
    assert outcomes(claim.judge(l1_table(zeros=(0.9, 0.5, 0.3, 0.2, 0.1))[1])) == ["contradicted"]
    table["zeros"][2][4] = table["zeros"][1][4]
    assert outcomes(claim.judge(table)) == ["inconclusive"]
    table["zeros"][4] = [NAN] * 5
    assert outcomes(claim.judge(table)) == ["inconclusive"]


@pytest.mark.parametrize("lost", [False, True])
def test_l1_is_drawn_with_and_without_trainings_that_diverged(tmp_path, lost):
    claim, table = l1_table(l2=[NAN] * 5 if lost else [0.0] * 5)
    if lost:
        table["zeros"][4] = table["val_loss"][4] = table["norm"][4] = [NAN] * 5
    assert is_drawn(claim, table, tmp_path)


def test_l1_acts_alone():
    assert {cell.config.optim.l2_lambda for cell in made_claim("l1_sparsifies").cells() if "L2" not in cell.name} == {0}


def test_l1_shares_its_first_arm_and_its_l2_arm_with_l2():
    def configs(claim):
        return {cell.config.model_dump_json() for cell in made_claim(claim).cells()}

    assert len(configs("l1_sparsifies") & configs("l2_shrinks")) == 10


def test_l1_reads_the_zeros_of_its_l2_arm():
    claim = made_claim("l1_sparsifies")
    done = {name(label(one), seed): finished(1.0, one / 10) for one in (0, 0.3, 1, 3, 10) for seed in SEEDS}
    done |= {name("L2", seed): finished(2.0, 0.25) for seed in SEEDS}
    table = claim.read(done)
    assert table["l2"] == {"lambda": 10.0, "zeros": [0.25] * 5, "norm": [2.0] * 5}
    assert [row[0] for row in table["zeros"]] == [0, 0.03, 0.1, 0.3, 1]
