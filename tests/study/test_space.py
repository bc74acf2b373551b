"""The space of a study: what is drawn is what the config takes, and what could not be is refused before trial 0."""

import itertools
import json
import random

import optuna
import pytest

from litmus.config import load_config
from litmus.config.study import base_config, load_study, parse_study, trial_config
from litmus.errors import Refused
from litmus.study.space import Space, check_study, corners, notes

BASE = "configs/digits_mlp.yaml"


def study_of(space, **rest):
    return parse_study({"name": "s", "base": BASE, "objective": "val/err", "n_trials": 40, "space": space, **rest})


SPACE = {
    "optim.l2_lambda": {"low": 0.01, "high": 1000, "log": True, "or": 0, "role": "scientific"},
    "model.keep_prob": {"low": 0.3, "high": 1.0, "step": 0.05},
    "optim.name": {"choices": ["momentum", "adam", "rmsprop"]},
    "optim.lr": [
        {"when": {"optim.name": "momentum"}, "low": 0.001, "high": 1, "log": True},
        {"when": {"optim.name": ["adam", "rmsprop"]}, "low": 1e-4, "high": 0.1, "log": True},
    ],
    "train.label_smoothing": {"fixed": 0.1},
}
PARTS = [  # entries that may stand in any study over the base
    ("optim.l2_lambda", {"low": 0.1, "high": 100, "log": True, "or": 0}),
    ("optim.l1_lambda", {"low": 0.0, "high": 5.0}),
    ("model.keep_prob", {"low": 0.3, "high": 1.0, "step": 0.05}),
    ("model.input_keep_prob", {"low": 0.8, "high": 1.0, "step": 0.1}),
    ("model.activation", {"choices": ["relu", "gelu", "tanh"]}),
    ("model.norm", {"choices": ["none", "batch"]}),
    ("model.norm_eps", {"low": 1e-6, "high": 1e-3, "log": True}),
    ("model.width", {"choices": [[256, 128], [64, 32], 100]}),
    ("train.epochs", {"low": 20, "high": 60, "step": 20}),
    ("train.grad_clip", {"low": 0.1, "high": 10, "log": True, "or": None}),
    ("train.label_smoothing", {"fixed": 0.1}),
    ("data.batch_size", {"low": 16, "high": 256, "log": True}),
    ("augment.shift", {"low": 0.0, "high": 0.2, "step": 0.02}),
    ("augment.mixup", {"low": 0.1, "high": 1, "or": 0}),
]
OPTIM = {
    "optim.name": {"choices": ["momentum", "adam", "sgd"]},
    "optim.lr": [
        {"when": {"optim.name": ["momentum", "sgd"]}, "low": 1e-4, "high": 1, "log": True},
        {"when": {"optim.name": "adam"}, "low": 1e-5, "high": 0.1, "log": True},
    ],
    "optim.betas": {"when": {"optim.name": "adam"}, "choices": [[0.9, 0.999], [0.8, 0.99]]},
    "optim.momentum": {"when": {"optim.name": "momentum"}, "low": 0.5, "high": 0.95},
    "schedule.name": {"when": {"optim.name": ["sgd", "adam"]}, "choices": ["constant", "one_cycle"]},
    "schedule.peak_at": {"when": {"schedule.name": "one_cycle"}, "low": 0.1, "high": 0.5},
}


def random_study(seed):
    draw = random.Random(seed)
    space = dict(draw.sample(PARTS, draw.randint(2, 8)))
    if draw.random() < 0.6:
        space |= OPTIM
    if "model.activation" in space and "augment.shift" in space:
        space["augment.shift"] = {**space["augment.shift"], "when": {"model.activation": ["relu", "gelu"]}}
    keys = list(space)
    draw.shuffle(keys)  # an entry may stand before what its condition looks at
    return study_of({key: space[key] for key in keys}, pruner={"name": "none"}, base=[BASE, "train.grad_clip=1"])


def draw_trials(space, number, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(number):
        trial = study.ask()
        yield space.suggest(trial), study.trials[trial.number].params


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_space_draws_is_a_config_from_which_the_draw_is_known_again(seed):
    study = random_study(seed)
    space = Space.from_study(study)
    for values, params in draw_trials(space, 12, seed):
        assert space.values_of(params) == values
        config = trial_config(study, values)  # raises where the config does not take them
        again = space.params_of(config)
        assert again == pytest.approx(params, nan_ok=False)
        assert space.values_of(again) == values


@pytest.mark.parametrize("seed", range(40))
def test_the_base_lies_in_every_such_space_and_gives_itself_back(seed):
    study = random_study(seed)
    space = Space.from_study(study)
    assert check_study(study) == []
    (params,) = space.first()
    assert trial_config(study, space.values_of(params)) == base_config(study)


def test_conditions_and_switches_come_before_what_depends_on_them():
    for order in itertools.permutations(SPACE):
        space = Space.from_study(study_of({key: SPACE[key] for key in order}))
        names = [parameter.name for parameter in space.parameters]
        assert names.index("optim.l2_lambda=0") == names.index("optim.l2_lambda") - 1
        assert names.index("optim.name") < names.index("optim.lr[optim.name=momentum]")
        assert names.index("optim.name") < names.index("optim.lr[optim.name=adam|rmsprop]")


def test_a_range_is_drawn_only_while_its_switch_is_off_and_its_condition_holds():
    space = Space.from_study(study_of(SPACE))
    seen = set()
    for values, params in draw_trials(space, 60):
        assert ("optim.l2_lambda" in params) == (not params["optim.l2_lambda=0"]) == (values["optim.l2_lambda"] != 0)
        own = "momentum" if values["optim.name"] == "momentum" else "adam|rmsprop"
        assert [name for name in params if name.startswith("optim.lr")] == [f"optim.lr[optim.name={own}]"]
        assert values["train.label_smoothing"] == 0.1
        seen.add((values["optim.name"], params["optim.l2_lambda=0"]))
    assert len(seen) == 6


def test_multiples_of_a_step_come_without_the_digits_of_a_sum():
    space = Space.from_study(study_of({"model.keep_prob": {"low": 0.3, "high": 1.0, "step": 0.05}}))
    drawn = {values["model.keep_prob"] for values, _ in draw_trials(space, 200)}
    assert drawn == {float(f"{0.3 + 0.05 * k:.2f}") for k in range(15)}  # 0.3 + 6 * 0.05 is 0.6000000000000001
    assert 0.3 + 6 * 0.05 not in drawn


def test_lists_are_choices_and_whole_fields_are_drawn_whole():
    space = Space.from_study(
        study_of({"model.width": {"choices": [[256, 128], [64, 32]]}, "data.batch_size": {"low": 32, "high": 128}})
    )
    for values, params in draw_trials(space, 20):
        assert values["model.width"] == json.loads(params["model.width"])
        assert isinstance(values["data.batch_size"], int)


def test_a_trial_that_has_not_drawn_all_yet_tells_what_it_has():
    space = Space.from_study(study_of(SPACE))
    assert space.values_of({"optim.l2_lambda=0": True, "optim.name": "adam"}) == {
        **{"optim.l2_lambda": 0, "optim.name": "adam", "train.label_smoothing": 0.1}
    }


def test_what_lies_outside_is_told_with_the_nearest_value_and_how_to_let_it_in():
    study = study_of(SPACE)
    config = load_config(
        [BASE], ["optim.l2_lambda=5000", "model.keep_prob=0.72", "optim.name=sgd", "train.label_smoothing=0.1"]
    )
    with pytest.raises(Refused) as caught:
        Space.from_study(study).params_of(config)
    told = {problem.where: str(problem) for problem in caught.value.problems}
    assert told["optim.l2_lambda"].endswith("0.01 to 1000, log, or 0; the nearest is 1000; widen the range")
    assert "the nearest is 0.7; widen the range, or add `or: 0.72`" in told["model.keep_prob"]
    assert "momentum, adam, rmsprop; add it to the choices" in told["optim.name"]


def test_first_trials_are_the_base_and_then_the_given_ones_filled_up_from_it():
    study = study_of(SPACE, first=[{"optim.l2_lambda": 0}, {"optim.name": "momentum", "optim.lr": 0.5}, {}])
    space = Space.from_study(study)
    base, plain, momentum = space.first()  # the last is the base again
    assert base["optim.lr[optim.name=adam|rmsprop]"] == 0.001
    assert {**base, **plain} == {**base, "optim.l2_lambda=0": True}
    assert momentum["optim.lr[optim.name=momentum]"] == 0.5


def test_a_fixed_value_follows_its_condition_into_a_first_trial():
    space = {**OPTIM, "optim.momentum": {"when": {"optim.name": "momentum"}, "fixed": 0.7}}
    study = study_of(space, first=[{"optim.name": "momentum", "optim.lr": 0.01}])
    made = Space.from_study(study)
    assert trial_config(study, made.values_of(made.first()[1])).optim.momentum == 0.7


# --- digest, grid, corners --------------------------------------------------------------------------------------------


def test_the_digest_knows_what_matters_and_nothing_else():
    def sha(space, **rest):
        return Space.from_study(study_of(space, **rest)).sha

    whole = sha(SPACE)
    assert sha(dict(reversed(SPACE.items()))) == whole
    assert sha(SPACE, n_trials=3, sampler={"name": "random"}) == whole
    keep = {"low": 0.3, "high": 1.0, "step": 0.05}
    others = [
        {**SPACE, "model.keep_prob": {**keep, "low": 0.5}},
        {**SPACE, "model.keep_prob": {**keep, "step": 0.1}},
        {**SPACE, "optim.name": {"choices": ["adam", "momentum", "rmsprop"]}},  # Optuna refuses another order
        {**SPACE, "train.label_smoothing": {"fixed": 0.2}},
        {**SPACE, "optim.l2_lambda": {"low": 0.01, "high": 1000, "log": True}},
        {**SPACE, "optim.l2_lambda": {**SPACE["optim.l2_lambda"], "or": 0.0012345678}},
        {**SPACE, "optim.l2_lambda": {**SPACE["optim.l2_lambda"], "or": 0.0012345679}},
        {**SPACE, "optim.lr": SPACE["optim.lr"][0]},
        {key: entry for key, entry in SPACE.items() if key != "model.keep_prob"},
    ]
    assert len({whole, *(sha(space) for space in others)}) == 1 + len(others)
    assert sha({**SPACE, "model.keep_prob": {**keep, "role": "nuisance"}}) == whole


def test_a_grid_holds_every_point_once_with_its_conditions():
    space = Space.from_study(
        study_of(
            {
                "optim.name": {"choices": ["momentum", "adam"]},
                "optim.momentum": {"when": {"optim.name": "momentum"}, "low": 0.5, "high": 0.9, "step": 0.2},
                "data.batch_size": {"low": 32, "high": 64, "step": 32},
                "optim.l2_lambda": {"low": 0.1, "high": 0.2, "step": 0.1, "or": 0},
            },
            sampler={"name": "grid"},
            n_trials=None,
        )
    )
    grid = space.grid()
    values = [json.dumps(space.values_of(params), sort_keys=True) for params in grid]
    assert len(set(values)) == len(grid) == space.num_trials == (3 + 1) * 2 * 3
    assert sorted(map(len, grid)) == [3] * 2 + [4] * (4 + 6) + [5] * 12


def test_a_grid_wants_steps_and_an_end():
    with pytest.raises(Refused, match="a grid needs a step"):
        Space.from_study(study_of(SPACE)).grid()
    large = {key: {"low": 1, "high": 100} for key in ("data.batch_size", "model.norm_groups", "augment.pad_crop")}
    with pytest.raises(Refused, match="more than 100,000 points"):
        Space.from_study(study_of(large)).grid()


def test_corners_are_all_combinations_of_extremes_while_they_are_few():
    study = study_of({key: SPACE[key] for key in ("optim.name", "optim.lr", "model.keep_prob")})
    found = [tuple(values[key] for key in ("optim.name", "optim.lr", "model.keep_prob")) for values in corners(study)]
    ends = {"momentum": (0.001, 1), "adam": (1e-4, 0.1), "rmsprop": (1e-4, 0.1)}
    assert {(name, lr, keep) for name in ends for lr in ends[name] for keep in (0.3, 1.0)} <= set(found)
    assert len(found) == len(set(found))


def test_corners_of_a_large_space_are_bounded_and_the_same_every_time():
    parts = {key: entry for key, entry in PARTS if key != "train.label_smoothing"}
    study = study_of({**parts, **OPTIM}, base=[BASE, "train.grad_clip=1"])
    found = corners(study)
    assert found == corners(study)
    assert len(found) <= 256 + 200
    for key, entry in parts.items():
        ends = entry.get("choices") or [entry["low"], entry["high"], *([entry["or"]] if "or" in entry else [])]
        assert all(any(values.get(key) == end for values in found) for end in ends), key


# --- what is refused --------------------------------------------------------------------------------------------------

LOG = {"low": 0.001, "high": 1, "log": True}
ROWS = {
    "mistyped": (
        {"model.kep_prob": {"low": 0.3, "high": 1.0}},
        "space.model.kep_prob",
        "did you mean 'model.keep_prob'?",
    ),
    "no section": ({"foo.bar": LOG}, "space.foo.bar", "is not a key of the config"),
    "section": ({"optim": {"choices": ["adam", "sgd"]}}, "space.optim", "is a section: search a key of it, optim.KEY"),
    "of another member": ({"optim.momentum": {"low": 0.1, "high": 0.9}}, "space.optim.momentum", "here it is adam"),
    "of one member": (
        {"optim.name": {"choices": ["adam", "sgd"]}, "optim.betas": {"choices": [[0.9, 0.99], [0.9, 0.999]]}},
        "space.optim.betas",
        "exists only with optim.name: adam; add `when: {optim.name: [adam]}`",
    ),
    "outside the config": (
        {"model.keep_prob": {"low": 0.3, "high": 1.2}},
        "space.model.keep_prob",
        "the config refuses model.keep_prob = 1.2: must be > 0 and <= 1",
    ),
    "one of many": (
        {"model.depth": {"low": 3, "high": 120}},
        "space.model.depth",
        "the config refuses model.depth = 4: model: depth 4 means 3 hidden widths, found 2",
    ),
    "wrong kind": ({"optim.lr": {"choices": [0.001, "0.1"]}}, "space.optim.lr", "wants a number, found text"),
    "wrong choice": ({"optim.name": {"choices": ["adam", "adma"]}}, "space.optim.name", "did you mean 'adam'?"),
    "parts of whole": ({"data.batch_size": {"low": 16.5, "high": 64}}, "space.data.batch_size", "takes whole numbers"),
    "base outside": ({"optim.lr": {**LOG, "low": 0.01}}, "base: optim.lr", "the nearest is 0.01; widen the range"),
    "fixed alone": ({"optim.lr": {"fixed": 0.1}}, "space", "nothing is left to search"),
    "never drawn": (
        {"optim.name": {"choices": ["adam", "sgd"]}, "optim.lr": {"when": {"optim.name": "sdg"}, **LOG}},
        "space.optim.lr",
        "when optim.name is sdg: never drawn, it is adam, sgd",
    ),
    "never in the base": (
        {"optim.lr": {"when": {"optim.name": "sgd"}, **LOG}},
        "space.optim.lr",
        "when optim.name is sgd: never, it is adam in the base",
    ),
    "condition unknown": (
        {"optim.lr": {"when": {"optim.nam": "sgd"}, **LOG}},
        "space.optim.lr",
        "when optim.nam: is neither searched nor in the base",
    ),
    "a point of a range": (
        {"optim.l1_lambda": {"low": 0, "high": 1}, "optim.lr": {"when": {"optim.l1_lambda": 0.5}, **LOG}},
        "space.optim.lr",
        "when optim.l1_lambda is 0.5: never drawn",
    ),
    "circle": (
        {
            "model.activation": {"choices": ["relu", "elu"], "when": {"model.norm": "none"}},
            "model.norm": {"choices": ["none", "batch"], "when": {"model.activation": "relu"}},
        },
        "space.model.activation",
        "model.activation -> model.norm -> model.activation",
    ),
    "own condition": (
        {"model.norm": {"choices": ["none", "batch"], "when": {"model.norm": "none"}}},
        "space.model.norm",
        "is its own condition",
    ),
    "overlap": (
        {
            "optim.name": {"choices": ["adam", "sgd", "rmsprop"]},
            "optim.lr": [
                {"when": {"optim.name": ["adam", "sgd"]}, **LOG},
                {"when": {"optim.name": ["sgd", "rmsprop"]}, **LOG},
            ],
        },
        "space.optim.lr",
        "two entries that can count at once: when optim.name=adam|sgd, and when optim.name=sgd|rmsprop",
    ),
    "never together": (
        {
            "optim.name": {"choices": ["adam", "sgd"]},
            "model.norm": {"when": {"optim.name": "adam"}, "choices": ["none", "batch"]},
            "optim.l1_lambda": {"when": {"optim.name": "sgd", "model.norm": "none"}, "low": 0, "high": 1},
        },
        "space.optim.l1_lambda",
        "its conditions never hold together",
    ),
    "long name": ({"model.width": {"low": 8, "high": 64, "or": [100] * 200}}, "space.model.width", "more than 512"),
    "two even": (
        {
            "optim.name": {"choices": ["adam", "sgd"], "even": True},
            "model.norm": {"choices": ["none", "batch"], "even": True},
        },
        "space.model.norm",
        "one key is drawn evenly, here already optim.name",
    ),
}


@pytest.mark.parametrize(("space", "where", "words"), ROWS.values(), ids=ROWS)
def test_a_space_that_cannot_be_searched_is_refused(space, where, words):
    told = [str(problem) for problem in check_study(study_of(space)) if problem.where == where]
    assert words in "\n".join(told)


@pytest.mark.parametrize(
    "key",
    [
        *("seed", "name", "data.name", "data.split_seed", "data.val_fraction", "data.root", "data.eval_batch_size"),
        *("tracking.home", "checkpoint.evaluate", "checkpoint.monitor", "train.devices", "train.val_every", "insight"),
        *("train.limit_batches", "diagnosis.tolerance"),
    ],
)
def test_what_decides_nothing_or_breaks_the_comparison_is_not_searched(key):
    (problem,) = check_study(study_of({key: {"choices": [1, 2]}}))
    assert (problem.where, "is not searched" in problem.says) == (f"space.{key}", True)


SEARCH = {
    "cmaes choices": (SPACE, {"sampler": {"name": "cmaes"}}, "sampler.name", "optim.name would be drawn at random"),
    "gp conditions": (SPACE, {"sampler": {"name": "gp"}}, "sampler.name", "knows neither `when` nor `or`"),
    "qmc switch": ({"optim.l2_lambda": {**LOG, "or": 0}}, {"sampler": {"name": "qmc"}}, "sampler.name", "at random"),
    "cmaes of one": ({"optim.lr": LOG}, {"sampler": {"name": "cmaes"}}, "sampler.name", "two ranges or more"),
    "grid size": (
        {"model.norm": {"choices": ["none", "batch"]}},
        {"sampler": {"name": "grid"}, "n_trials": 3},
        "n_trials",
        "must be the grid's 2 points",
    ),
    "grid floats": ({"optim.lr": LOG}, {"sampler": {"name": "grid"}, "n_trials": None}, "space.optim.lr", "a step"),
    "even share": (
        {"optim.name": {"choices": ["adam", "sgd", "rmsprop"], "even": True}},
        {},
        "n_trials",
        "a multiple of the 3 choices of optim.name, drawn evenly: 39 or 42",
    ),
    "too few": ({"optim.lr": LOG}, {"n_trials": 2, "first": [{}, {"optim.lr": 0.1}]}, "n_trials", "the base and the 2"),
    "first outside": (SPACE, {"first": [{"optim.l2_lambda": -1}]}, "first.0: optim.l2_lambda", ">= 0"),
    "first unknown": (
        SPACE,
        {"first": [{"optim.l2_lamda": 1}]},
        "first.0: optim.l2_lamda",
        "did you mean 'optim.l2_lambda'?",
    ),
    "first fixed": (SPACE, {"first": [{"train.label_smoothing": 0}]}, "first.0: train.label_smoothing", "not searched"),
    "length": ({"train.epochs": {"low": 20, "high": 60}}, {}, "space.train.epochs", "at the same validation"),
    "one validation": (
        {"optim.lr": LOG},
        {"base": [BASE, "train.epochs=1"], "pruner": {"name": "asha"}},
        "pruner",
        "validated once",
    ),
    "of each": ({"optim.lr": LOG}, {"confirm": {"of_each": "optim.lr"}}, "confirm.of_each", "searched by choices"),
}


@pytest.mark.parametrize(("space", "rest", "where", "words"), SEARCH.values(), ids=SEARCH)
def test_a_search_that_does_not_fit_its_space_is_refused(space, rest, where, words):
    told = [str(problem) for problem in check_study(study_of(space, **rest)) if problem.where == where]
    assert words in "\n".join(told)


def test_a_refused_corner_is_told_once_and_by_what_it_takes():
    space = {
        "model.depth": {"choices": [1, 3]},
        "model.keep_prob": {"low": 0.5, "high": 1.0, "step": 0.5},
        "model.width": {"choices": [64, 32]},
        "optim.lr": LOG,
    }
    study = study_of(space, base=[BASE, "model.width=64", "model.keep_prob=1.0"])
    (problem,) = check_study(study)
    assert problem.where == "space.model.keep_prob"
    assert "the config refuses model.depth = 1, model.keep_prob = 0.5: model.keep_prob" in problem.says
    assert "has no hidden layer to act on at model.depth = 1" in problem.says


def test_all_of_a_studys_problems_come_together():
    study = study_of({"model.keep_prob": {"low": 0.9, "high": 1.2}, "optim.lr": {**LOG, "low": 0.01}}, first=[{"a": 1}])
    where = {problem.where for problem in check_study(study)}
    assert where == {"space.model.keep_prob", "base: model.keep_prob", "base: optim.lr", "first.0: a"}


def test_a_wrong_key_does_not_hide_a_wrong_corner():
    study = study_of({"model.keep_prob": {"low": 0.5, "high": 1.2}, "optim.momentum": LOG, "optim.lrr": LOG})
    assert [problem.where for problem in check_study(study)] == [
        *("space.optim.momentum", "space.optim.lrr", "space.model.keep_prob"),
    ]


@pytest.mark.parametrize(
    "name", ["digits_mlp", "digits_error_and_time", "optimizers_fashion_mnist", "resnet20_regularisation"]
)
def test_a_shipped_study_can_start(name):
    study = load_study(f"configs/studies/{name}.yaml")
    assert (check_study(study), notes(study)) == ([], [])
    assert Space.from_study(study).values_of(Space.from_study(study).first()[0])


def test_the_comparison_of_optimizers_tunes_or_states_every_option_of_each():
    study = load_study("configs/studies/optimizers_fashion_mnist.yaml")
    made = Space.from_study(study)
    for name in study.space["optim.name"][0].choices:
        section = type(trial_config(study, {"optim.name": name}).optim)
        own = set(section.model_fields) - {"name", "l1_lambda", "decay", "layer_decay", "lr_factors"}
        drawn = next(values for values, _ in draw_trials(made, 200) if values["optim.name"] == name)
        assert {f"optim.{key}" for key in own} <= set(drawn), name


def test_the_head_of_a_study_says_what_is_searched_when_and_as_what():
    lines = Space.from_study(study_of(SPACE)).describe()
    assert [" ".join(line.split()) for line in lines] == [
        "optim.l2_lambda 0.01 to 1000, log, or 0 scientific",
        "model.keep_prob 0.3 to 1, step 0.05 scientific",
        "optim.name momentum, adam, rmsprop scientific",
        "optim.lr 0.001 to 1, log when optim.name=momentum nuisance",
        "optim.lr 0.0001 to 0.1, log when optim.name=adam|rmsprop nuisance",
        "train.label_smoothing 0.1, fixed fixed",
    ]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ({"sampler": {"name": "gp"}, "pruner": {"name": "median"}}, "learns from finished trials only"),
        ({"pruner": {"name": "hyperband"}}, "worth it from about 100"),
        ({"sampler": {"name": "tpe", "n_startup_trials": 40}}, "drawn at random: tpe begins after 40"),
        ({"objective": "train_eval/loss"}, "rewards memory"),
    ],
)
def test_what_is_worth_knowing_is_noted(rest, words):
    (note,) = notes(study_of({"optim.lr": LOG}, **rest))
    assert words in note
