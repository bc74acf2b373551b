"""Real Optuna studies in memory whose objective is a formula, so that what matters most is known."""

from datetime import datetime, timedelta

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from litmus.study.figures import StudyView

STARTED_AT = datetime(2026, 3, 1, 12)
NUM_EPOCHS = 20
LOST, CONTINUED, DUPLICATE = 20, 22, 30
"""Numbers of a lost trial, of the one that continues it, and of a duplicate."""

LAMBDA = FloatDistribution(0.01, 1000, log=True)
RATES = {"momentum": FloatDistribution(1e-3, 1.0, log=True), "adam": FloatDistribution(1e-5, 1e-2, log=True)}


def formula(lr, adam, l2_lambda, keep_prob, width):
    """Error: mostly of the rate, then of lambda; hardly of the rest."""
    away = np.log10(lr) - (-3 if adam else -1)
    decay = np.log10(l2_lambda + 0.1) - 0.7
    return 0.05 + 0.06 * away**2 + 0.012 * decay**2 + 0.02 * (keep_prob - 0.85) ** 2 + 0.0001 * (64 - width) / 8


def make_study(num_trials=60, *, seed=0, workers=3, with_time=False):
    """A study as ``litmus tune`` leaves one: base first, some pruned, failed, one lost and continued, a duplicate."""
    random = np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize"] * (2 if with_time else 1), study_name="digits <lr & lambda>")
    free = [STARTED_AT] * workers
    for number in range(num_trials):
        params, distributions, value = _draw(random, first=number == 0)
        attrs = {
            "litmus.run_uid": f"u{number:04d}",
            "litmus.worker": f"host-{number % workers // 2}/{number % workers}",
        }
        if number == CONTINUED:
            params, distributions = study.trials[LOST].params, study.trials[LOST].distributions
            attrs |= {"litmus.origin": LOST, "litmus.attempt": 2}
        epochs = np.arange(NUM_EPOCHS)
        curve = value + (0.9 - value) * np.exp(-epochs / 4) + random.normal(0, 0.004, NUM_EPOCHS)
        curve = np.clip([*curve[:-1], value], 0.01, 0.9)
        state, stop, reason = TrialState.COMPLETE, NUM_EPOCHS, ""
        if number == LOST:
            state, stop, reason = TrialState.FAIL, 7, "lost: no heartbeat for 60 s"
        elif number == DUPLICATE:
            state, stop, reason = TrialState.FAIL, 0, "duplicate of 3"
        elif not with_time and number > 8 and value > 0.12 and random.uniform() < 0.8:
            state, stop = TrialState.PRUNED, int(random.choice([4, 8, 12]))
        elif number > 3 and random.uniform() < 0.07:
            state, stop, reason = TrialState.FAIL, int(random.integers(0, 9)), "not finite: loss is nan"
        seconds = float(stop * (2 + params["model.width"] / 40) * random.uniform(0.9, 1.1) + 0.5)
        attrs |= {"litmus.epochs": stop, "litmus.seconds": seconds} | ({"litmus.fail_reason": reason} if reason else {})
        values = [value, seconds] if with_time else [value if state == TrialState.COMPLETE else float(curve[stop - 1])]
        trial = create_trial(
            state=state,
            values=None if state == TrialState.FAIL else values,
            params=params,
            distributions=distributions,
            user_attrs=attrs,
            intermediate_values={} if with_time else {int(e): float(curve[e]) for e in epochs[:stop]},
        )
        trial.datetime_start = free[number % workers] + timedelta(seconds=1)
        trial.datetime_complete = free[number % workers] = trial.datetime_start + timedelta(seconds=seconds)
        study.add_trial(trial)
    return study


def _draw(random, *, first):
    adam = bool(random.integers(2)) and not first
    name = "adam" if adam else "momentum"
    lr = 0.05 if first else float(10 ** random.uniform(*np.log10([RATES[name].low, RATES[name].high])))
    drawn = {
        "optim.name": (name, CategoricalDistribution(["momentum", "adam"])),
        f"optim.lr[optim.name={name}]": (lr, RATES[name]),
        "optim.l2_lambda=0": (bool(random.uniform() < 0.15), CategoricalDistribution([False, True])),
        "optim.l2_lambda": (float(10 ** random.uniform(-2, 3)), LAMBDA),
        "model.keep_prob": (float(random.uniform(0.5, 1)), FloatDistribution(0.5, 1.0)),
        "model.width": (int(random.integers(8, 65)), IntDistribution(8, 64)),
    }
    if drawn["optim.l2_lambda=0"][0]:
        del drawn["optim.l2_lambda"]
    params = {key: value for key, (value, _) in drawn.items()}
    value = formula(lr, adam, params.get("optim.l2_lambda", 0.0), params["model.keep_prob"], params["model.width"])
    value = float(np.clip(value + random.normal(0, 0.003), 0.02, 0.9))
    return params, {key: distribution for key, (_, distribution) in drawn.items()}, value


def view_of(study, **more):
    directions = [direction.name.lower() for direction in study.directions]
    objectives = ["val/err", "trained_sec"][: len(directions)]
    return StudyView(study.study_name, study.trials, directions, objectives, **{"num_epochs": NUM_EPOCHS} | more)
