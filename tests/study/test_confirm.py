"""Who is trained again, and what is compared: by hand, on trials that nobody trained."""

import json
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from litmus.config.study import base_config, parse_study
from litmus.study import confirm
from litmus.study.ledger import lineages
from litmus.study.stage import CANDIDATE, SEED, VALUES, Confirmation, Stage, fresh_seeds

SPACE = {
    "optim.name": {"choices": ["momentum", "adam"]},
    "optim.l2_lambda": {"low": 0, "high": 10},
}


def stage_of(**keys):
    plain = {"name": "s", "base": ["data.name=digits"], "objective": "val/err", "space": SPACE, "n_trials": 9, **keys}
    config = parse_study(plain)
    return Stage(config, base_config(config), SimpleNamespace(), "a" * 32)


def tried(*rows):
    """Lineages of (optimizer, lambda, *values)."""
    trials = []
    for number, (name, l2_lambda, *values) in enumerate(rows):
        trial = optuna.create_trial(
            params={"optim.name": name, "optim.l2_lambda": l2_lambda},
            distributions={
                "optim.name": CategoricalDistribution(["momentum", "adam"]),
                "optim.l2_lambda": FloatDistribution(0, 10),
            },
            values=values or None,
            state=TrialState.COMPLETE if values else TrialState.FAIL,
            user_attrs={} if values else {"litmus.fail_reason": "error: x"},
        )
        trial.number = number
        trials.append(trial)
    return lineages(trials, max_retry=1)


def origins(chosen):
    return [one.origin for one in chosen]


def test_the_base_comes_first_then_the_best_and_no_config_twice():
    known = tried(("momentum", 0.0, 0.5), ("adam", 1.0, 0.2), ("adam", 1.0, 0.2), ("momentum", 2.0, 0.1), ("adam", 3.0))
    assert origins(confirm.candidates(stage_of(confirm={"top": 2}), known)) == [0, 3, 1]


def test_of_each_choice_the_best_are_taken_and_a_base_that_is_one_is_not_doubled():
    known = tried(("momentum", 0.0, 0.1), ("momentum", 1.0, 0.2), ("adam", 1.0, 0.5), ("adam", 2.0, 0.4))
    stage = stage_of(confirm={"top": 1, "of_each": "optim.name"})
    assert origins(confirm.candidates(stage, known)) == [0, 3]


def test_of_two_objectives_the_ends_of_the_front_are_among_the_chosen():
    stage = stage_of(objective=["val/err", "time/train_sec"], confirm={"top": 2})
    known = tried(
        ("momentum", 0.0, 0.5, 9.0), ("adam", 1.0, 0.1, 8.0), ("adam", 2.0, 0.2, 5.0), ("adam", 3.0, 0.2, 6.0),
        ("adam", 4.0, 0.4, 1.0),
    )  # fmt: skip
    assert origins(confirm.pareto(stage, known)) == [1, 2, 4]
    assert origins(confirm.candidates(stage, known)) == [0, 1, 4]


@pytest.mark.parametrize(
    ("absent", "scores"),
    [
        ((), {"base": (0.50, 0.51), "trial 1": (0.10, 0.11), "trial 2": (0.20, 0.21)}),
        (((1, 1),), {"base": (0.50,), "trial 1": (0.10,), "trial 2": (0.20,)}),  # paired: a seed that all have
        (((2, 0), (2, 1)), {"base": (0.50, 0.51), "trial 1": (0.10, 0.11)}),  # who never finished is no candidate
    ],
)
def test_only_seeds_that_all_candidates_finished_are_compared(absent, scores):
    stage = stage_of(confirm={"top": 2, "seeds": 2})
    chosen = confirm.candidates(stage, tried(("momentum", 0.0, 0.5), ("adam", 1.0, 0.1), ("adam", 2.0, 0.2)))
    confirmation = Confirmation(stage.config, stage.base, stage.place, stage.uid, total=6)
    wide, trials = IntDistribution(0, 2**32 - 1), []
    for k, seed in enumerate(fresh_seeds(stage.config, stage.base)):
        for one in chosen:
            failed = (one.origin, k) in absent
            trial = optuna.create_trial(
                params={CANDIDATE: one.origin, SEED: seed},
                distributions={CANDIDATE: wide, SEED: wide},
                value=None if failed else [0.5, 0.1, 0.2][one.origin] + k / 100,
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                user_attrs={VALUES: json.dumps({}), **({"litmus.fail_reason": "error: x"} if failed else {})},
            )
            trial.number = len(trials)
            trials.append(trial)
    ledger = SimpleNamespace(lineages=lambda: lineages(trials, max_retry=1))
    found = confirm.scores(confirmation, ledger, chosen)
    assert {one.name: pytest.approx(one.scores) for one in found} == scores
