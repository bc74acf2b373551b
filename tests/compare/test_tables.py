"""The tables that are printed and put on the page, from trainings that were never trained."""

import pytest
from scipy import stats

from litmus.compare import command
from litmus.compare.arms import group
from litmus.compare.contrast import contrasts
from litmus.diagnosis import wilson
from tests.compare.made import arm, training


def compared(runs, reference=0):
    arms, problems = group(runs)
    assert problems == []
    return command.Comparison("made", arms, reference, contrasts(arms, reference), ["says"], [], {})


def test_curves_are_counted_in_epochs_where_the_training_was():
    one = training(steps=20, val=0.1)
    assert command._history(one, "epochs")["val/err"] == [(1.0, 0.2), (2.0, 0.1)]
    assert command._history(one, "steps")["val/err"] == [(10, 0.2), (20, 0.1)]
    silent = training(steps=0)
    assert command._history(silent, "epochs")["val/err"][-1][0] == 0


def test_the_mean_has_students_interval_a_single_run_wilsons_and_rates_stay_rates():
    several, alone, wide = (
        group([*arm("optim.lr=0.1", errs=errs), training("optim.lr=0.9")])[0].arms[0]
        for errs in ({0: 0.10, 1: 0.12, 2: 0.14}, {0: 0.1}, {0: 0.01, 1: 0.9})
    )
    expected = stats.t.interval(0.95, 2, loc=0.12, scale=stats.sem([0.10, 0.12, 0.14]))
    assert command._around(several, "val") == pytest.approx(expected)
    assert command._around(alone, "val") == wilson(20, 200)
    assert command._around(wide, "val") == (0.0, 1.0)
    assert command._around(alone, "test") is None
    assert command._rate(alone, "test") == "-"
    low, high = wilson(20, 200)
    assert command._rate(alone, "val") == f"0.1000 ({low:.4f} to {high:.4f})"


def test_runs_of_an_arm_that_were_not_tested_are_counted():
    runs = [training("optim.lr=0.1", test=0.2), training("optim.lr=0.1", seed=1), training("optim.lr=0.2")]
    table = command.arms_table(compared(runs), [0, 1])
    assert table[1][3].startswith("0.2000 (")
    assert table[1][3].endswith(", 1 of 2 tested)")
    assert table[2][3] == "-"
    assert "reported" in command.test_sentences(compared(runs))[0]
    assert "none of these runs was tested" in command.test_sentences(compared(runs[1:]))[0]


def test_verdicts_of_bias_and_variance_are_counted():
    tags = [{"litmus.verdict": verdict} for verdict in ("high bias", "high bias", "undecided")]
    runs = [training("optim.lr=0.1", seed=seed, tags=tag) for seed, tag in enumerate(tags)]
    table = command.arms_table(compared([*runs, training("optim.lr=0.2")]), [0, 1])
    assert [row[4] for row in table[1:]] == ["high bias 2; undecided 1", "high bias"]


def test_keys_stand_down_beside_few_arms_and_across_beside_many():
    runs = [training(f"optim.lr={0.1 * (1 + i):.1f}", f"model.width={8 + i}") for i in range(5)]
    arms = group(runs)[0]
    few, many = command.difference_table(arms, [0, 1]), command.difference_table(arms, range(5))
    assert few == [
        ["differs", "width=8", "width=9"], ["model.width", "8", "9"], ["optim.lr", "0.1", "0.2"],
    ]  # fmt: skip
    assert many[:2] == [["differs", "model.width", "optim.lr"], ["width=8", "8", "0.1"]]
    assert command.difference_table(arms, [0, 1], most=1)[-1] == ["(1 more keys)"]


def test_of_many_arms_the_best_are_printed_and_the_reference():
    runs = [training(f"optim.lr={i}", val=0.9 - i / 100) for i in range(1, 41)]
    comparison = compared(runs)
    kept = command._most_telling(comparison)
    assert kept == [0, *range(11, 40)]
    lines = command.report(comparison, ["left out"])
    assert "the best 30 of 40 arms; the page has all" in lines
    assert "note     left out" in lines
    assert len(command.arms_table(comparison, range(40))) == 41


def test_what_comes_next_strengthens_the_reference_or_the_best(tmp_path):
    few = [*arm("optim.lr=0.1", errs={0: 0.1, 2: 0.2}), *arm("optim.lr=0.2", errs={0: 0.1, 1: 0.1, 2: 0.1})]
    best = compared(few).best.trainings[0].run
    assert command._next(compared(few), "runs here").startswith(f"litmus diagnose {best.id8} --home 'runs here'")
    # A run that only MLflow holds has no config file to train again; see test_compare_command for one that has.


def test_the_name_follows_the_question():
    runs = [training("optim.lr=0.1"), training("optim.lr=0.2")]
    arms = group(runs)[0]
    names = [command._name_of(arms, *how) for how in ((None, None, False), (None, None, False), (None, "x", False))]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("optim-lr-")
