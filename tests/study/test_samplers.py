"""Samplers and pruners as a study asks for them."""

import itertools
import math
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from litmus.config.study import parse_study, trial_config
from litmus.study.samplers import Divergent, make_pruner, make_sampler
from litmus.study.space import Space

FLAT = {
    "optim.l2_lambda": {"low": 0.01, "high": 1000, "log": True},
    "model.keep_prob": {"low": 0.3, "high": 1.0, "step": 0.05},
    "data.batch_size": {"low": 16, "high": 256, "log": True},
}
CHOICE = {**FLAT, "model.activation": {"choices": ["relu", "gelu", "tanh"]}}
BRANCHED = {
    "model.keep_prob": {"low": 0.3, "high": 1.0, "step": 0.05},
    "optim.name": {"choices": ["momentum", "adam", "rmsprop"]},
    "optim.lr": [
        {"when": {"optim.name": "momentum"}, "low": 0.001, "high": 1, "log": True},
        {"when": {"optim.name": ["adam", "rmsprop"]}, "low": 1e-4, "high": 0.1, "log": True},
    ],
    "optim.l2_lambda": {"low": 0.01, "high": 1000, "log": True, "or": 0},
}
EVEN = {**BRANCHED, "optim.name": {"choices": ["momentum", "adam", "rmsprop"], "even": True}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def study_of(space, **rest):
    given = {"name": "s", "base": "configs/digits_mlp.yaml", "objective": "val/err", "n_trials": 30, "space": space}
    return parse_study({**given, **rest})


def loss(values):
    """Best at lambda = 1; and at a rate of 0.01, where there is one."""
    far = math.log10(values["optim.l2_lambda"] or 1e-4) ** 2
    return far + (math.log10(values["optim.lr"]) + 2) ** 2 if "optim.lr" in values else far


def searched(study, number, *, seed=0, pruner=None, objectives=1):
    """An Optuna study that has run ``number`` trials, and their values."""
    space = Space.from_study(study)
    directions = ["minimize"] * objectives
    run = optuna.create_study(directions=directions, sampler=make_sampler(study, space, seed=seed), pruner=pruner)
    drawn = []
    for _ in range(number):
        trial = run.ask()
        drawn.append(space.suggest(trial))
        value = loss(drawn[-1])
        run.tell(trial, value if objectives == 1 else [value, drawn[-1]["data.batch_size"]])
    return run, drawn


SAMPLERS = [
    ({"name": "tpe", "n_startup_trials": 4}, BRANCHED),
    ({"name": "tpe", "multivariate": False, "constant_liar": False}, BRANCHED),
    ({"name": "gp", "n_startup_trials": 8, "deterministic_objective": True}, CHOICE),
    ({"name": "cmaes", "with_margin": True, "popsize": 4}, FLAT),
    ({"name": "cmaes", "use_separable_cma": True, "consider_pruned_trials": True}, FLAT),
    ({"name": "qmc", "qmc_type": "halton"}, CHOICE),
    ({"name": "random"}, BRANCHED),
]


@pytest.mark.parametrize(("sampler", "space"), SAMPLERS, ids=[str(row[0]) for row in SAMPLERS])
def test_every_sampler_proposes_configs_that_train_and_warns_of_nothing(sampler, space, capfd):
    study = study_of(space, sampler=sampler, pruner={"name": "none"})
    _, drawn = searched(study, 10)
    assert [trial_config(study, values).name for values in drawn] == [None] * 10
    assert len({str(values) for values in drawn}) > 5
    assert capfd.readouterr().err == ""  # Optuna also warns through its log


@pytest.mark.parametrize(
    "sampler", [{"name": "nsga2"}, {"name": "tpe", "n_startup_trials": 4}], ids=lambda s: s["name"]
)
@pytest.mark.parametrize(
    "space", [CHOICE, {**BRANCHED, "data.batch_size": FLAT["data.batch_size"]}], ids=["flat", "branched"]
)
def test_two_objectives_are_searched(sampler, space):
    study = study_of(space, sampler=sampler, objective=["val/err", "time/train_sec"])
    run, drawn = searched(study, 16, objectives=2)
    assert len(run.best_trials) >= 1
    assert all(trial_config(study, values) for values in drawn)


def test_a_generation_is_a_fifth_of_the_trials_so_that_there_are_several():
    """Each child of a generation has its parents among the one before: Optuna writes the number on the trial."""
    study = study_of(CHOICE, sampler={"name": "nsga2"}, objective=["val/err", "time/train_sec"])
    run, _ = searched(study, 30, objectives=2)
    generations = [value for t in run.trials for key, value in t.system_attrs.items() if key.endswith(":generation")]
    assert Counter(generations) == dict.fromkeys(range(5), 6)


def test_the_model_of_a_branched_space_learns_the_rates_of_its_branches():
    """Without a joint model for every branch a rate under a condition is drawn alone, or at random."""
    late = {}
    for name in ("tpe", "random"):
        far = []
        for seed in range(3):
            _, drawn = searched(study_of(BRANCHED, sampler={"name": name}), 45, seed=seed)
            far += [abs(math.log10(values["optim.lr"]) + 2) for values in drawn[30:]]
        late[name] = np.mean(far)
    assert late["tpe"] < 0.7 * late["random"]


def test_workers_of_one_sequence_take_the_points_that_one_alone_would():
    study = study_of(CHOICE, sampler={"name": "qmc"})
    space = Space.from_study(study)

    def points(seeds):
        run, drawn = optuna.create_study(), []
        samplers = [make_sampler(study, space, seed=seed) for seed in seeds]
        run.enqueue_trial(space.first()[0])
        for sampler in itertools.islice(itertools.cycle(samplers), 9):
            run.sampler = sampler
            trial = run.ask()
            drawn.append(str(space.suggest(trial)))
            run.tell(trial, 0.0)
        return drawn

    assert points([1, 2, 3]) == points([7])
    assert len(set(points([7]))) == 9


# --- even choices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_even_choices_get_the_same_number_of_trials_though_one_is_far_better(sampler):
    _, drawn = searched(study_of(EVEN, sampler={"name": sampler}), 30)
    assert Counter(values["optim.name"] for values in drawn) == {"momentum": 10, "adam": 10, "rmsprop": 10}
    _, drawn = searched(study_of(BRANCHED, sampler={"name": sampler}), 30)
    assert len(set(Counter(values["optim.name"] for values in drawn).values())) > 1  # left alone, they do not


def test_even_choices_count_enqueued_and_pruned_trials_and_replace_failed_ones():
    study = study_of(EVEN, sampler={"name": "random"})
    space = Space.from_study(study)
    pruner = optuna.pruners.HyperbandPruner(max_resource=9)  # shows a sampler the trials of one bracket only
    run = optuna.create_study(sampler=make_sampler(study, space, seed=0), pruner=pruner)
    run.enqueue_trial(space.first()[0])
    run.enqueue_trial({"optim.name": "adam"})
    states = itertools.cycle([TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE])
    kept = Counter()
    while kept.total() < 30:
        trial, state = run.ask(), next(states)
        name = space.suggest(trial)["optim.name"]
        if state == TrialState.PRUNED:
            trial.report(1.0, 0)
        run.tell(trial, 0.0 if state == TrialState.COMPLETE else None, state=state)
        kept[name] += state != TrialState.FAIL
    assert set(kept.values()) == {10}


def test_workers_who_ask_together_keep_choices_even_before_they_see_each_others():
    study = study_of(EVEN, sampler={"name": "random"})
    space = Space.from_study(study)
    run, drawn = optuna.create_study(sampler=make_sampler(study, space, seed=0)), []
    for _ in range(5):
        asked = [run.ask() for _ in range(6)]  # all have a number, none has a choice
        drawn += [space.suggest(trial)["optim.name"] for trial in reversed(asked)]
    assert Counter(drawn) == {"momentum": 10, "adam": 10, "rmsprop": 10}


def test_a_trial_taken_up_again_keeps_its_place_among_even_choices():
    study = study_of(EVEN, sampler={"name": "random"})
    space = Space.from_study(study)
    run = optuna.create_study(sampler=make_sampler(study, space, seed=0))
    lost = run.ask()
    name = space.suggest(lost)["optim.name"]
    run.tell(lost, state=TrialState.FAIL)
    run.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            user_attrs={"litmus.origin": lost.number},
            system_attrs={"fixed_params": {"optim.name": name}},
        )
    )
    again = run.ask()
    others = [space.suggest(run.ask())["optim.name"] for _ in range(2)]
    assert space.suggest(again)["optim.name"] == name
    assert len({name, *others}) == 3


# --- pruners ----------------------------------------------------------------------------------------------------------


def cut_at(pruner, bad, good=8, length=9):
    """The validation at which a trial with ``bad`` is ended, or None, after ``good`` trials of 0.1 throughout."""
    run = optuna.create_study(pruner=pruner, study_name="cut")
    for _ in range(good):
        trial = run.ask()
        for step in range(length):
            trial.report(0.1, step)
            trial.should_prune()
        run.tell(trial, 0.1)
    trial = run.ask()
    for step in range(length):
        trial.report(bad[step] if isinstance(bad, list) else bad, step)
        if trial.should_prune():
            return step
    return None


@pytest.mark.parametrize(
    ("pruner", "step"),
    [
        (None, 3),  # the median, after a third of the validations
        ({"name": "median", "n_warmup_steps": 0}, 0),
        ({"name": "percentile", "percentile": 60.0, "interval_steps": 4}, 3),
        ({"name": "patient", "patience": 2}, 3),
        ({"name": "patient", "patience": 5, "wraps": {"name": "median", "n_warmup_steps": 1}}, 5),
        ({"name": "asha", "min_resource": 2, "reduction_factor": 3}, 2),
        ({"name": "none"}, None),
    ],
    ids=str,
)
def test_a_hopeless_trial_is_ended_when_the_pruner_says(pruner, step):
    study = study_of(FLAT, pruner=pruner)
    assert cut_at(make_pruner(study, workers=1, num_reports=9), 0.9) == step


@pytest.mark.parametrize(("workers", "needed"), [(1, 5), (2, 5), (4, 8)])
def test_the_median_waits_for_two_trials_a_worker_and_five_at_least(workers, needed):
    study = study_of(FLAT)
    ended = [cut_at(make_pruner(study, workers=workers, num_reports=9), 0.9, good=n) for n in (needed - 1, needed)]
    assert ended == [None, 3]


def test_patience_is_with_what_still_improves_and_not_with_what_stands_still():
    study = study_of(FLAT, pruner={"name": "patient", "patience": 2, "wraps": {"name": "median", "n_warmup_steps": 0}})
    pruner = make_pruner(study, workers=1, num_reports=9)
    assert cut_at(pruner, [0.9 - 0.01 * step for step in range(9)]) is None
    assert cut_at(pruner, 0.9) == 2
    assert cut_at(pruner, [0.9, 0.8, 0.7, 0.75, 0.72, 0.1, 0.1, 0.1, 0.1]) == 4


def test_hyperband_knows_the_length_of_a_training_before_any_has_ended():
    """Told nothing, Optuna's waits for a finished trial; brackets for 27 validations at a factor of 3 are 4."""
    pruner = make_pruner(study_of(FLAT, pruner={"name": "hyperband"}), workers=1, num_reports=27)
    run = optuna.create_study(pruner=pruner, study_name="hyperband")
    ended = []
    for number in range(40):
        trial = run.ask()
        for step in range(27):
            trial.report(0.1 + 0.01 * number, step)  # each worse than all before
            if trial.should_prune():
                ended.append(step)
                break
    assert set(ended) == {1, 3, 9}  # and the fourth bracket to the end


def test_a_pruner_has_no_say_where_trials_are_compared_by_two_numbers():
    study = study_of(FLAT, objective=["val/err", "val/loss"])
    assert isinstance(make_pruner(study, workers=1, num_reports=9), optuna.pruners.NopPruner)


def test_tpe_is_shown_what_diverged_and_leaves_that_region():
    """FAIL trials are nothing to TPE: it would go on where every training ends in NaN."""

    def propose(divergent: bool) -> float:
        study = optuna.create_study()
        rate = optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)
        for k in range(12):  # the better the higher, until it diverges
            value = 10 ** (-3 + 2.4 * k / 12)
            study.add_trial(optuna.create_trial(params={"lr": value}, distributions={"lr": rate}, value=1 - 0.05 * k))
        for k in range(12):
            attrs = {"litmus.fail_reason": "not finite: the loss of step 8"} if divergent else {}
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.FAIL, params={"lr": 0.5 + k / 30}, distributions={"lr": rate}, user_attrs=attrs
                )
            )
        drawn = []
        for seed in range(20):
            study.sampler = Divergent(optuna.samplers.TPESampler(seed=seed, n_startup_trials=5))
            drawn.append(study.ask({"lr": rate}).params["lr"])
        return sum(value > 0.4 for value in drawn) / len(drawn)

    ignored, shown = propose(divergent=False), propose(divergent=True)
    assert ignored >= 0.2
    assert shown <= ignored / 4


def test_what_diverged_stays_as_it_is_in_the_study():
    study = optuna.create_study()
    rate = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(
        optuna.create_trial(
            state=TrialState.FAIL,
            params={"lr": 0.5},
            distributions={"lr": rate},
            user_attrs={"litmus.fail_reason": "not finite: the objective is nan"},
        )
    )
    study.sampler = Divergent(optuna.samplers.TPESampler(seed=0, n_startup_trials=0))
    study.ask({"lr": rate})
    assert study.trials[0].state == TrialState.FAIL
