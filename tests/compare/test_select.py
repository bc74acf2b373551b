"""Which runs a command means, and what is said when it means none."""

import json

import pytest

from litmus.compare.select import chosen_runs, facts_of, named_runs, parse_conditions, read_trainings
from litmus.config import dump_config, flatten, load_config
from litmus.errors import Refused
from litmus.tracking import Run, find_run


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Finished runs with the config, the result and the fingerprint of a training, and no training."""
    monkeypatch.chdir(tmp_path)
    made = []

    def finished(*overrides, status="FINISHED", kind="train", val=0.1, result=True, tags=None, **artifacts):
        config = load_config([], ["model.name=mlp", f"name=run{len(made)}", *overrides])
        with Run.start(
            home="mlruns", experiment="litmus/digits", name=config.run_name, kind=kind, params=flatten(config),
            tags=tags, send="off",
        ) as run:  # fmt: skip
            run.log_text(dump_config(config), "config.yaml")
            for step in (10, 20):
                run.log_metrics({"val/err": val + 1 / step, "val/loss": 1 / step}, step=step)
            run.log_metrics({"best/val_err": val}, step=20)
            if result:
                seen = {"err": val, "num_errors": round(100 * val), "num_images": 100}
                run.log_text(json.dumps({"val": seen, "epochs": 2}), "result.json")
                run.log_text(json.dumps({"decides": {"data": "d", "splits": "s"}}), "fingerprint.json")
            for name, text in artifacts.items():
                run.log_text(text, f"{name}.json")
            run.finish(status)
        made.append(run)
        return run

    return finished


def chosen(*conditions, study=None):
    runs, problems, notes = chosen_runs(parse_conditions(conditions), study, home="mlruns", uri=None)
    return [run.name for run in runs], [str(problem) for problem in problems], notes


def refused(*conditions, study=None):
    names, (problem, *more), _ = chosen(*conditions, study=study)
    assert (names, more) == ([], [])
    return problem


def test_a_condition_holds_numbers_words_and_lists():
    facts = {"optim.lr": "0.1", "model.width": "[256, 128]", "norm": "none", "flip": "true", "x": "1"}

    def holds(text):
        (condition,) = parse_conditions([text])
        return condition.holds(facts)

    for true in (
        "optim.lr=0.1", "optim.lr=1e-1", "optim.lr==0.10", "optim.lr != 0.2", "optim.lr<0.2", "optim.lr<=0.1",
        "optim.lr>=0.1", "optim.lr>0.01", "model.width=[256,128]", "norm=batch,none", "norm='none'", "flip=true",
        "x=1.0", "norm!=batch,group",
    ):  # fmt: skip
        assert holds(true), true
    for false in (
        "optim.lr=0.2", "optim.lr<0.1", "optim.lr>0.1", "optim.lr<=0.05", "optim.lr>=0.2", "norm!=none,batch",
        "norm<1", "flip=1", "x=true", "optim.momentum=0.9", "optim.momentum!=0.9", "norm='batch,none'",
    ):  # fmt: skip
        assert not holds(false), false


def test_what_is_no_condition_is_refused_all_at_once():
    with pytest.raises(Refused) as caught:
        parse_conditions(["optim.lr", "optim.lr<small", "=3", "a=1"])
    assert [problem.value for problem in caught.value.problems] == ["optim.lr", "optim.lr<small", "=3"]
    assert "< wants a number after it" in str(caught.value)


def test_all_conditions_must_hold_and_the_oldest_run_comes_first(make):
    make("optim.lr=0.1", val=0.3)
    make("optim.lr=0.2", val=0.2)
    make("optim.lr=0.2", "seed=1", val=0.05)
    assert chosen("optim.lr=0.2,0.1") == (["run0", "run1", "run2"], [], [])
    assert chosen("optim.lr>0", "best/val_err<=0.2")[0] == ["run1", "run2"]
    assert chosen("name!=run1")[0] == ["run0", "run2"]
    assert facts_of(find_run("run0"))["verdict"] == ""


def test_only_finished_trainings_fit_and_the_others_are_counted(make):
    make("optim.lr=0.1")
    make("optim.lr=0.2")
    make("optim.lr=0.3", status="KILLED")
    make("optim.lr=0.3", result=False)
    make("optim.lr=0.4", kind="lr")
    names, problems, notes = chosen("optim.lr>0")
    assert (names, problems) == (["run0", "run1"], [])
    assert notes == ["2 of the 4 runs that fit came to no result and are left out"]
    assert refused("optim.lr>0.15") == "--where: 3 fit, 1 of them finished: a comparison takes two runs or more"


def test_a_study_s_trials_are_chosen_by_its_name(make):
    for number in range(3):
        make(f"optim.lr=0.{number + 1}", kind="trial", tags={"litmus.study": "digits"})
    make(kind="confirm", tags={"litmus.study": "digits"})
    make(kind="train")
    assert chosen(study="digits")[0] == ["run0", "run1", "run2"]
    assert chosen("optim.lr>0.15", study="digits")[0] == ["run1", "run2"]
    assert "--study: 1 fit" not in refused("kind=confirm", study="digits")
    assert refused("kind=confirm", study="digits").startswith("--where: 1 fit, 1 of them finished")
    assert refused(study="digit") == "--study = 'digit': no such study; did you mean 'digits'?"


def test_a_filter_that_fits_nothing_says_what_there_is(make):
    assert "there is no run of kind train" in refused("optim.lr=1")
    assert "there is no study" in refused(study="digits")
    make("optim.lr=0.1")
    make("optim.lr=0.2", "model.width=7")
    assert refused("optim.lrr=1") == "--where = 'optim.lrr=1': no run has optim.lrr; did you mean 'optim.lr'?"
    assert refused("optim.lr=1") == "--where = 'optim.lr=1': fits none of 2 runs; optim.lr is 0.1 (1), 0.2 (1)"
    assert "each fits some of 2 runs, together they fit none" in refused("optim.lr=0.1", "model.width=7")


def test_a_run_named_twice_or_alone_is_refused(make):
    one, two = make(), make()
    runs, problems = named_runs(["run0", one.uid[:8], "nosuch", "run1"], home="mlruns", uri=None)
    assert [run.uid for run in runs] == [one.uid, two.uid]
    assert f"run = '{one.uid[:8]}': is the same run as 'run0'" in str(problems[0])
    assert "'nosuch': is unknown" in str(problems[1])
    assert "takes two runs or more" in str(named_runs(["run0"], home="mlruns", uri=None)[1][0])


def test_a_training_is_read_with_what_decided_it_and_what_it_came_to(make):
    make("optim.lr=0.3", "seed=4", val=0.25)
    ((one,), problems) = read_trainings([find_run("run0")])
    assert problems == []
    assert (one.seed, one.values["optim.lr"], one.val_err, one.test_err) == (4, 0.3, 0.25, None)
    assert "seed" not in one.values
    assert "name" not in one.values
    assert (one.data, one.splits, one.unit, one.steps) == ("d", "s", "epochs", 20)
    assert one.curves["val/err"] == [(10, 0.35), (20, 0.3)]
    assert one.curves["train/loss"] == []


def test_what_did_not_finish_or_is_no_training_is_named(make):
    make(status="FAILED")
    make(result=False, kind="lr")
    make(fingerprint="{")
    make()
    found, problems = read_trainings([find_run(f"run{i}") for i in range(4)])
    assert [one.run.name for one in found] == ["run3"]
    said = [str(problem) for problem in problems]
    assert "(run0)': is FAILED: only what came to its end is compared" in said[0]
    assert "(run1)': has no result.json: it is of kind lr, not a training" in said[1]
    assert "(run2)': its record cannot be read: JSONDecodeError" in said[2]


def test_an_older_run_without_a_fingerprint_is_compared_by_its_tags(make):
    make(result=False, tags={"litmus.data_digest": "e", "litmus.split_digest": "t"},
         result_only="{}")  # fmt: skip
    run = find_run("run0")
    with Run.reopen(run.dir) as record:
        record.log_text('{"val": {"err": 0.5}}', "result.json")
    ((one,), problems) = read_trainings([find_run("run0")])
    assert problems == []
    assert (one.world, one.data, one.splits) == ({}, "e", "t")
