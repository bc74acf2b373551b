"""A study's file: what it says, what is refused of it, and the configs it makes."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from litmus.config import load_config, to_dict
from litmus.config.study import (
    ABSENT,
    OBJECTIVES,
    StudyConfig,
    base_config,
    load_study,
    lookup,
    parse_study,
    study_schema,
    study_to_dict,
    trial_config,
)
from litmus.errors import Refused

BASE = "configs/digits_mlp.yaml"
STUDIES = sorted(Path("configs/studies").glob("*.yaml"))
STUDY = """
base: configs/digits_mlp.yaml
objective: val/err
space:
  optim.l2_lambda: {low: 0.01, high: 1000, log: true, or: 0}
  model.keep_prob: {low: 0.3, high: 1.0, step: 0.05}
  optim.name: {choices: [momentum, adam, rmsprop]}
  optim.lr:
    - {when: {optim.name: momentum}, low: 0.001, high: 1, log: true}
    - {when: {optim.name: [adam, rmsprop]}, low: 1e-4, high: 0.1, log: true}
  train.label_smoothing: {fixed: 0.1}
n_trials: 40
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_a_study_is_called_after_its_file_and_says_where_its_objective_goes(path):
    study = load_study(path, ["objective=[val/err,time/train_sec]"])
    assert (study.name, study.base, study.directions) == ("small", (BASE,), ("minimize", "minimize"))
    assert study.space["optim.lr"][1].low == 1e-4  # plain YAML reads 1e-4 as text


def test_overrides_reach_into_the_space_whose_keys_hold_dots(path):
    overrides = [
        "space.optim.lr.0.low=0.01",
        "space.model.depth={low: 2, high: 4}",
        "space.model.norm.choices=[none,batch]",
    ]
    study = load_study(path, [*overrides, "n_trials=7", "confirm.top=0"])
    assert (study.space["optim.lr"][0].low, study.space["optim.lr"][0].high) == (0.01, 1)
    assert (study.space["model.depth"][0].high, study.space["model.norm"][0].choices) == (4, ("none", "batch"))
    assert (study.n_trials, study.confirm.top) == (7, 0)


def test_an_override_takes_with_it_what_has_lost_its_meaning(path):
    study = load_study(path, ["sampler.n_ei_candidates=3", "sampler.name=qmc", "space.optim.l2_lambda.fixed=0"])
    assert study.sampler.name == "qmc"
    entry = study.space["optim.l2_lambda"][0]
    assert (entry.kind, entry.fixed, entry.has_also) == ("fixed", 0, False)


def test_the_base_is_found_from_here_or_beside_the_study(tmp_path):
    shutil.copy(BASE, tmp_path / "mine.yaml")
    (tmp_path / "s.yaml").write_text(STUDY.replace(BASE, "[mine.yaml, optim.lr=0.01]"))
    assert base_config(load_study(tmp_path / "s.yaml")).optim.lr == 0.01


def test_what_is_written_of_a_study_is_the_study(path):
    for source in (path, *STUDIES):
        study = load_study(source)
        assert parse_study(json.loads(json.dumps(study_to_dict(study)))) == study


REFUSED = [
    # overrides, key, words of the message
    ("space.optim.l2_lambda.low=2000", "space.optim.l2_lambda", "low 2000 > high 1000"),
    ("space.optim.l2_lambda.low=0", "space.optim.l2_lambda", "log wants low > 0, found 0; `or: 0` adds the zero"),
    ("space.optim.l2_lambda.step=1", "space.optim.l2_lambda", "log and step exclude each other"),
    ("space.optim.l2_lambda.or=1", "space.optim.l2_lambda", "or: 1 lies inside the range"),
    ("space.optim.l2_lambda.low=.nan", "space.optim.l2_lambda.low", "must be finite"),
    ("space.optim.l2_lambda.high=.inf", "space.optim.l2_lambda.high", "must be finite"),
    ("space.optim.l2_lambda.low='0.1'", "space.optim.l2_lambda.low", "wants a number"),
    ("space.optim.l2_lambda.low=true", "space.optim.l2_lambda.low", "wants a number, found true/false"),
    ("space.optim.l2_lambda.lwo=1", "space.optim.l2_lambda.lwo", "did you mean space.optim.l2_lambda.low?"),
    ("space.model.keep_prob.step=0", "space.model.keep_prob", "step must be > 0, found 0"),
    ("space.model.keep_prob.step=-0.1", "space.model.keep_prob", "step must be > 0, found -0.1"),
    (
        "space.model.keep_prob.step=0.3",
        "space.model.keep_prob",
        "high 1.0 is not low + k x step; the last that is: 0.9",
    ),
    ("space.model.keep_prob.step=2", "space.model.keep_prob", "step 2 is wider than the range"),
    ("space.model.keep_prob.high=0.3", "space.model.keep_prob", "no search; {fixed: 0.3}"),
    ("space.model.keep_prob.int=true", "space.model.keep_prob", "int wants whole numbers, low is 0.3"),
    ("space.model.keep_prob={low: 0.3}", "space.model.keep_prob", "wants low and high, or choices, or fixed"),
    ("space.model.keep_prob=0.5", "space.model.keep_prob", "wants a range {low: ..., high: ...}"),
    ("space.model.keep_prob={low: 1, high: 2, fixed: 1}", "space.model.keep_prob", "range and fixed at once: keep one"),
    ("space.optim.name.choices=[]", "space.optim.name", "choices is empty"),
    ("space.optim.name.choices=[adam,adam]", "space.optim.name", "'adam' twice"),
    ("space.optim.name.choices=[adam]", "space.optim.name", "one choice is no search: {fixed: adam}"),
    ("space.optim.name.choices=[.nan,1]", "space.optim.name.choices.0", "finite"),
    ("space.optim.name={choices: [adam, sgd], log: true}", "space.optim.name", "log is for a range"),
    ("space.optim.name.role=fixed", "space.optim.name", "role fixed needs fixed: VALUE"),
    ("space.optim.name.role=scientfic", "space.optim.name.role", "did you mean 'scientific'?"),
    ("space.optim={lr: {low: 1, high: 2}}", "space.optim", "written whole: optim.lr: {...}"),
    ("space=null", "space", "wants a section, found nothing"),
    ("objective=test/err", "objective", "the test set decides nothing"),
    (
        "objective=train/err",
        "objective",
        "train_eval/err and train_eval/loss see the training images as validation does",
    ),
    ("objective=val/er", "objective", "did you mean 'val/err'?"),
    ("objective=[val/err,val/err]", "objective", "has the same twice"),
    ("objective=[val/err,val/loss,time/train_sec]", "objective", "at most 2"),
    ("sampler.name=tep", "sampler.name", "did you mean 'tpe'?"),
    ("sampler=tpe", "sampler", "{name: tpe}"),
    ("sampler.n_startup_trial=3", "sampler.n_startup_trial", "n_startup_trials?; tpe takes n_startup_trials=10, n_ei"),
    ("sampler.name=random sampler.seed=3", "sampler.seed", "random takes no arguments"),
    ("sampler.group=true sampler.multivariate=false", "sampler.group", "goes without multivariate: false"),
    ("sampler={name: cmaes, with_margin: true, lr_adapt: true}", "sampler.lr_adapt", "goes without with_margin"),
    ("sampler.name=nsga2", "sampler.name", "is for two objectives"),
    ("sampler.name=gp objective=[val/err,val/loss]", "sampler.name", "two are for tpe and nsga2"),
    (
        "objective=[val/err,val/loss] sampler={name: nsga2, population_size: 30}",
        "sampler.population_size",
        "at most half of n_trials = 40",
    ),
    ("pruner.name=hyprband", "pruner.name", "did you mean 'hyperband'?"),
    ("pruner={name: median, warmup: 3}", "pruner.warmup", "median takes n_startup_trials=None, n_warmup_steps=None"),
    ("pruner={name: patient, patience: 2, wraps: {name: patient}}", "pruner.wraps.name", "is not known"),
    ("pruner.name=patient", "pruner.patience", "is needed"),
    ("pruner.name=median objective=[val/err,val/loss]", "pruner", "two objectives cannot prune"),
    ("pruner.name=median objective=time/train_sec", "pruner", "known only at the end"),
    ("n_trials=0", "n_trials", ">= 1"),
    ("n_trials=null", "n_trials", "is needed"),
    ("n_trail=3", "n_trail", "did you mean n_trials?"),
    ("grace_sec=20", "grace_sec", "at least 3 x heartbeat_sec = 45"),
    ("name=a/b", "name", "may hold letters, digits"),
    ("base=null", "base", "is needed"),
    ("base=nowhere.yaml", "base: nowhere.yaml", "does not exist"),
    ("space.optim.lr.7.low=1", "space.optim.lr.7.low", "there is no '7'"),
    ("n_trials", "n_trials", "is not an override"),
    ("first=[3]", "first.0", "wants a section, found a whole number"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_wrong_study_is_refused(path, overrides, key, words):
    with pytest.raises(Refused) as caught:
        load_study(path, _split(overrides))
    problem = next((p for p in caught.value.problems if p.where == key), None)
    assert problem is not None, str(caught.value)
    assert words in str(problem)


def _split(overrides):
    """At the spaces that begin another override."""
    parts = []
    for word in overrides.split(" "):
        if "=" in word or not parts:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return parts


def test_every_bad_parameter_is_named_at_once(path):
    wrong = ["space.optim.l2_lambda.low=0", "space.model.keep_prob.step=0", "space.optim.name.choices=[]"]
    with pytest.raises(Refused) as caught:
        load_study(path, [*wrong, "space.optim.lr.1.high=.inf", "sampler.name=tep", "objective=val/er"])
    assert {problem.where for problem in caught.value.problems} == {
        *("space.optim.l2_lambda", "space.model.keep_prob", "space.optim.name", "space.optim.lr.1.high"),
        *("sampler.name", "objective"),
    }


def test_a_key_that_stands_twice_is_named_with_both_lines(path):
    path.write_text(STUDY + "  \nn_trials: 3\n")
    with pytest.raises(Refused, match=r"n_trials: stands twice, on lines 12 and 14"):
        load_study(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("- a", "must be a mapping"), ("a: [", "is not YAML"), ("a: &a [*a]", "a bomb")],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, words):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=words):
        load_study(path)


def test_a_mistyped_path_is_answered_with_the_nearest_study():
    with pytest.raises(Refused, match=r"did you mean 'configs/studies/digits_mlp\.yaml'"):
        load_study("configs/studies/digit_mlp.yaml")


# --- configs ----------------------------------------------------------------------------------------------------------

VALUES = {
    "optim.l2_lambda": [0, 3.5],
    "optim.lr": [0.01, 1e-5],
    "optim.name": ["momentum", "adam", "rmsprop", "lion"],
    "model.name": ["mlp", "residual_mlp"],
    "model.width": [[20, 10], 30],
    "model.norm": ["none", "batch"],
    "schedule.name": ["cosine", "constant"],
    "early_stopping.alpha": [3.0],
    "early_stopping.name": ["gl", "patience"],
    "train.grad_clip": [None, 1.0],
}


def _made(make, *arguments):
    """The config, or what is said of it."""
    try:
        return make(*arguments)
    except Refused as refused:
        return [str(problem) for problem in refused.problems]


def test_a_trials_config_is_the_one_that_fit_would_make_of_the_same_words(path):
    """The reference is ``load_config``: files and overrides merged by OmegaConf."""
    study, draw, accepted = load_study(path), random.Random(0), 0
    for _ in range(150):
        values = {key: draw.choice(VALUES[key]) for key in draw.sample(sorted(VALUES), 3)}
        words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        mine, theirs = _made(trial_config, study, values), _made(load_config, [BASE], words)
        assert mine == theirs
        accepted += not isinstance(mine, list)
    assert 30 < accepted < 150


def test_another_name_leaves_the_old_members_keys_behind_and_the_rest_as_it_is(path):
    study = load_study(path, ["base=[configs/digits_mlp.yaml, 'optim.betas=[0.8,0.9]', optim.lr=0.02]"])
    config = trial_config(study, {"optim.name": "momentum"}, seed=7)
    assert to_dict(config.optim)["name"] == "momentum"
    assert (config.optim.lr, config.seed) == (0.02, 7)
    assert lookup(base_config(study), "optim.betas") == [0.8, 0.9]
    assert lookup(config, "optim.betas") is ABSENT


def test_what_a_study_fixes_stands_over_the_base_under_its_condition(path):
    fixed = "space.optim.betas=[{when: {optim.name: adam}, fixed: [0.8, 0.9]}]"
    study = load_study(path, [fixed, "space.optim.momentum={when: {optim.name: momentum}, fixed: 0.5}"])
    base = base_config(study)
    assert (base.train.label_smoothing, base.optim.betas) == (0.1, (0.8, 0.9))
    assert load_config([BASE]).train.label_smoothing == 0.0


def test_objectives_are_what_validates_and_what_it_costs():
    assert (
        dict.fromkeys(
            ("val/loss", "val/err", "train_eval/loss", "train_eval/err", "time/train_sec", "model/num_params"), "min"
        )
        == OBJECTIVES
    )


@pytest.mark.parametrize(
    ("overrides", "pruner"),
    [
        ([], "median"),
        (["sampler.name=random"], "median"),
        (["objective=[val/err,time/train_sec]"], "none"),
        (["objective=time/train_sec"], "none"),
        (["sampler.name=cmaes"], "none"),
        (["pruner.name=asha", "sampler.name=gp"], "asha"),
    ],
)
def test_the_pruner_that_is_not_given_fits_the_rest(path, overrides, pruner):
    assert load_study(path, overrides).chosen_pruner.name == pruner


# --- schema -----------------------------------------------------------------------------------------------------------


def test_the_shipped_study_schema_is_the_current_one():
    assert json.loads(Path("configs/study-schema.json").read_text()) == study_schema(), (
        "make it anew: litmus schema --study -o configs/study-schema.json"
    )


def test_the_schema_knows_the_words_of_the_file_and_describes_them():
    schema = study_schema()
    entry = schema["$defs"]["ParameterConfig"]["properties"]
    assert {"low", "high", "log", "step", "int", "or", "choices", "even", "fixed", "when", "role"} == set(entry)
    assert "lambdas" in entry["log"]["description"]
    one, many = schema["properties"]["space"]["additionalProperties"]["anyOf"]
    assert many["items"] == one == {"$ref": "#/$defs/ParameterConfig"}
    assert schema["properties"]["objective"]["anyOf"][0]["enum"] == list(OBJECTIVES)
    assert set(schema["properties"]) == set(StudyConfig.model_fields)
    assert "name" not in schema["required"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_says_how_it_is_run_and_only_keys_of_the_schema(path):
    lines = path.read_text().splitlines()
    assert lines[1].startswith(f"# litmus tune {path}")
    plain = yaml.safe_load(path.read_text())
    assert set(plain) <= set(study_schema()["properties"])
