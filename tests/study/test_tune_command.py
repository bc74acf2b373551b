"""The command line of a study, from its first line to its last, and what MLflow then holds."""

import json
import os
import re
import warnings

import pytest
from optuna.trial import TrialState
from PIL import Image

from litmus.errors import Refused
from litmus.jobs.posts import make_posts
from litmus.study.keeper import Keeper
from tests.study import small

REAL_DRAW = Keeper.draw


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """They take longer than these studies; one study here draws them."""
    monkeypatch.setattr(Keeper, "draw", lambda self, **how: [])


def mlflow_runs(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's tables, as SQLAlchemy sees them
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
        found = [one.experiment_id for one in client.search_experiments()]
        return client, list(client.search_runs(found, max_results=1000))


# --- one whole study, with pictures, confirmation, MLflow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study of 4 trials, one of which is pruned, confirmed on two seeds; what its command said."""
    folder = tmp_path_factory.mktemp("whole")
    path = small.write(
        folder,
        "whole",
        base={"tracking.offline": False, "train.epochs": 4},
        n_trials=4,
        first=[{"optim.lr": 0.3}, {"optim.lr": 30.0}, {"optim.lr": 0.4}],
        space={"optim.lr": {"low": 0.001, "high": 100.0, "log": True}},
        objective="val/loss",
        pruner={"name": "median", "n_startup_trials": 2, "n_warmup_steps": 1},
        confirm={"top": 1, "seeds": 2},
    )
    code, said = small.search(path)
    assert code == 0
    return path, said


def test_its_first_and_last_lines_say_what_is_searched_and_what_to_do_next(whole):
    _, said = whole
    assert said.startswith("study    whole: 4 trials of mlp2-synthetic; minimize val/loss\n")
    assert re.search(r"^confirm  (?:the )?base, trial \d: each on 2 fresh seeds, the test set untouched$", said, re.M)
    assert re.search(r"^done     4 trials, 1 pruned, 0 failed, \d+ epochs$", said, re.M)
    assert re.search(r"^best     trial \d: val/loss \d\.\d{4} in the search  optim\.lr=", said, re.M)
    assert said.count("<- the winner") == 1
    assert said.splitlines()[-1].startswith("next     litmus diagnose best:whole")


def test_mlflow_has_one_parent_and_one_child_a_trial_under_one_name_of_the_objective(whole):
    path, _ = whole
    client, runs = mlflow_runs(path.parent)
    by_kind = {kind: [r for r in runs if r.data.tags["litmus.kind"] == kind] for kind in ("study", "trial", "confirm")}
    assert {kind: len(found) for kind, found in by_kind.items()} == {"study": 1, "trial": 4, "confirm": 4}
    assert len(runs) == 9
    (parent,) = by_kind["study"]
    assert parent.info.status == "FINISHED"
    wanted = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}
    trials = small.trials(path)
    for run in by_kind["trial"] + by_kind["confirm"]:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for run in by_kind["trial"]:
        trial = trials[int(run.data.tags["litmus.trial"])]
        assert run.info.status == wanted[trial.state]
        assert run.data.tags["litmus.state"] == trial.state.name
        assert float(run.data.params["optim.lr"]) == pytest.approx(trial.params["optim.lr"])
        value = trial.value if trial.state == TrialState.COMPLETE else trial.intermediate_values[trial.last_step]
        assert run.data.metrics["objective/val_loss"] == pytest.approx(value)
    (pruned,) = (run for run in by_kind["trial"] if run.info.status == "KILLED")
    curve = client.get_metric_history(pruned.info.run_id, "val/loss")
    assert [point.value for point in curve] == pytest.approx(
        list(trials[int(pruned.data.tags["litmus.trial"])].intermediate_values.values())
    )


def test_the_confirmation_pairs_seeds_and_alone_touches_the_test_set(whole):
    path, _ = whole
    pairs = sorted((t.params["candidate"], t.params["seed"]) for t in small.trials(path, "whole.confirm"))
    seeds = sorted({seed for _, seed in pairs})
    assert len(seeds) == 2
    assert pairs == sorted((candidate, seed) for candidate in {c for c, _ in pairs} for seed in seeds)
    tested = {}
    for directory in small.runs(path):
        result = directory / "artifacts/result.json"
        if result.exists():
            tested[directory.name.split("-")[1][0]] = "test" in json.loads(result.read_text())
            assert ("test" in json.loads(result.read_text())) == directory.name.startswith("whole-c")
    assert tested == {"t": False, "c": True}


def test_the_winner_and_each_trial_are_runs_like_any_other(whole, litmus, here):
    path, _ = whole
    home = ("--home", path.parent / "mlruns")
    code, said, _ = litmus("test", "best:whole", *home)
    assert code == 0
    assert "the run reported the same" in said
    Image.new("RGB", (8, 8)).save(here / "one.png")
    code, said, complaints = litmus("predict", "best:whole", "one.png", "--out", "answers", *home)
    assert code == 0, complaints
    assert (here / "answers/predictions.csv").read_text().splitlines()[1].startswith("one.png,")
    name = next(d.name for d in small.runs(path) if d.name.startswith("whole-t0000"))
    code, said, _ = litmus("reproduce", name.rpartition("-")[0], *home)
    assert code == 0, said
    assert "IDENTICAL" in said
    code, said, _ = litmus("diagnose", "whole-t0001", *home)
    assert code == 0, said


def test_the_same_command_again_trains_nothing(whole):
    path, _ = whole
    before = [small.starts(path, origin) for origin in range(4)]
    code, said = small.search(path)
    assert code == 0
    assert "4 of them finished before" in said
    assert [small.starts(path, origin) for origin in range(4)] == before


# --- what a study does with its trials


def test_equal_configs_are_trained_once(tmp_path):
    path = small.write(tmp_path, space={"optim.lr": {"choices": [0.05, 0.1]}}, n_trials=5)
    assert small.search(path)[0] == 0
    finished = [t for t in small.trials(path) if t.state == TrialState.COMPLETE]
    assert len(finished) == 5
    assert sum(small.starts(path, t.number) for t in small.trials(path)) == 2
    copies = [t for t in finished if "litmus.duplicate_of" in t.user_attrs]
    assert len(copies) == 3
    for copy in copies:
        twin = small.trials(path)[copy.user_attrs["litmus.duplicate_of"]]
        assert (copy.params, copy.value) == (twin.params, twin.value)
    told = small.refusal(path, "n_trials=4")
    assert "n_trials = 4: is less than the 5 trials that are finished; give that many or more" in told


def test_several_seeds_a_trial_give_their_mean_and_one_run(tmp_path):
    path = small.write(tmp_path, n_trials=1, seeds=2, objective="val/loss")
    assert small.search(path)[0] == 0
    (trial,) = small.trials(path)
    directory = small.run_of(path, 0)
    (other,) = directory.glob("seeds/runs/*/artifacts/result.json")
    values = [json.loads(p.read_text())["val"]["loss"] for p in (directory / "artifacts/result.json", other)]
    assert values[0] != values[1]
    assert trial.value == pytest.approx(sum(values) / 2)
    assert len(small.runs(path)) == 2  # the study and its trial


def test_two_objectives_end_in_a_front_without_pruning(tmp_path):
    space = {"model.width": {"low": 2, "high": 32}}
    path = small.write(
        tmp_path, objective=["val/err", "model/num_params"], sampler={"name": "nsga2"}, space=space, n_trials=4,
        pruner={"name": "none"}, confirm={"top": 1, "seeds": 1},
    )  # fmt: skip
    code, said = small.search(path)
    assert code == 0
    assert "minimize val/err and minimize model/num_params" in said
    assert all(len(trial.values) == 2 for trial in small.trials(path))
    widths = {t.params["model.width"]: t.values[1] for t in small.trials(path)}
    assert widths == {width: 16 * width + width + 3 * width + 3 for width in widths}  # 1x4x4 pixels, 3 classes


def test_a_grid_runs_every_point_once(tmp_path):
    space = {"optim.lr": {"choices": [0.05, 0.1]}, "model.width": {"choices": [4, 8]}}
    path = small.write(tmp_path, sampler={"name": "grid"}, space=space, n_trials=None)
    assert small.search(path)[0] == 0
    points = [tuple(sorted(trial.params.items())) for trial in small.trials(path)]
    assert len(points) == len(set(points)) == 4


def test_trials_that_diverge_fail_with_the_reason_and_too_many_in_a_row_stop_the_study(tmp_path):
    base = {"optim.name": "momentum", "optim.lr": 1000, "data.batch_size": 16, "train.epochs": 30}
    path = small.write(tmp_path, base=base, space={"optim.lr": {"low": 500, "high": 1000}}, max_failures=2)
    code, said = small.search(path)
    assert code == 1
    assert "2 trials in a row failed (max_failures), the last: not finite: the " in said
    assert small.states(path) == ["FAIL", "FAIL"]
    assert all(t.user_attrs["litmus.fail_reason"].startswith("not finite: ") for t in small.trials(path))
    assert small.facts_of(small.run_of(path, 0))["status"] == "FAILED"


def test_no_trial_begins_after_the_time_limit(tmp_path):
    path = small.write(tmp_path, n_trials=100_000, time_limit_sec=5)
    code, said = small.search(path)
    assert code == 0
    assert "time_limit_sec = 5 has passed" in said
    assert 0 < len(small.trials(path)) < 200
    assert set(small.states(path)) == {"COMPLETE"}  # the last one was trained to its end


# --- what is refused leaves nothing behind


@pytest.mark.parametrize(
    ("overrides", "options", "says"),
    [
        (["space.optim.lrr={low: 1, high: 2}"], {}, "optim.lr"),
        (["space.model.keep_prob={low: 0.5, high: 1.2}"], {}, "keep_prob"),
        (["space.optim.lr.low=2.0"], {}, "low 2.0 > high 1.0"),
        (["objective=val/eror"], {}, "val/err"),
        (["sampler.name=tpee"], {}, "tpe"),
        (["space.augment.hue={low: 0.0, high: 0.5}"], {}, "grey"),
        ([], {"workers": 1000}, "--share lets several use one"),
        ([], {"devices": ("0",)}, "--devices"),
        ([], {"warm_start": "olds"}, "--warm-start"),
        ([], {"storage": "mysql://localhost/x"}, "--storage"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_before_anything_is_made(tmp_path, monkeypatch, overrides, options, says):
    monkeypatch.setattr("litmus.jobs.posts.num_gpus", lambda: 0)
    path = small.write(tmp_path)
    assert says in small.refusal(path, *overrides, **options)
    assert not (tmp_path / "mlruns/runs").exists()
    assert not (tmp_path / "mlruns/studies").exists()
    if (tmp_path / "mlruns/studies.db").exists():
        assert small.names(path) == []


@pytest.mark.parametrize(
    ("asked", "stand"),
    [
        ({}, [((), 8)]),
        ({"workers": 3}, [((), 2)] * 3),
        ({"workers": 16, "share": True}, [((), 1)] * 16),
        ({"gpus": 2}, [(("0",), 4), (("1",), 4)]),
        ({"gpus": 4, "per_trial": 2}, [(("0", "1"), 4), (("2", "3"), 4)]),
        ({"gpus": 4, "devices": ("1", "3")}, [(("1",), 4), (("3",), 4)]),
        ({"gpus": 1, "workers": 2, "share": True}, [(("0",), 4), (("0",), 4)]),
        ({"gpus": 2, "accelerator": "cpu"}, [((), 8)]),
        ({"per_trial": 2, "workers": 4}, [((), 2)] * 4),
    ],
)
def test_where_workers_stand(asked, stand, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # else it is for each worker
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    how = {"workers": None, "devices": (), "share": False, "per_trial": 1, "accelerator": "auto", "cores": 8, "gpus": 0}
    posts = make_posts(**{**how, **asked})
    assert [(post.devices, post.threads) for post in posts] == stand
    assert [post.index for post in posts] == list(range(len(stand)))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workers": 9}, "this machine has 8 processor cores; --share"),
        ({"workers": 5, "per_trial": 2}, "workers of 2 processor cores each"),
        ({"devices": ("0",)}, "are GPUs, and there are 0"),
        ({"gpus": 2, "devices": ("0", "2")}, "has 2, and there are 0 to 1"),
        ({"gpus": 2, "devices": ("0", "0")}, "names one twice"),
        ({"gpus": 1, "per_trial": 2}, "a trial wants 2 GPUs, there are 1"),
        ({"gpus": 1, "workers": 2}, "this machine has 1 GPUs; --share"),
        ({"gpus": 2, "devices": ("0",), "accelerator": "cpu"}, "train.accelerator is 'cpu'"),
    ],
)
def test_where_no_worker_can_stand(asked, says, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # else it is for each worker
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    how = {"workers": None, "devices": (), "share": False, "per_trial": 1, "accelerator": "auto", "cores": 8, "gpus": 0}
    with pytest.raises(Refused, match=re.escape(says)):
        make_posts(**{**how, **asked})


# --- several processes a trial


def test_a_trial_of_two_processes_is_pruned_in_both_and_killed_in_the_record(tmp_path):
    path = small.write(
        tmp_path,
        base={"train.devices": 2, "train.epochs": 6, "data.batch_size": 16},
        n_trials=2,
        space={"optim.lr": {"low": 0.001, "high": 100.0, "log": True}},
        first=[{"optim.lr": 2.0}],
        objective="val/loss",
        pruner={"name": "median", "n_startup_trials": 1, "n_warmup_steps": 0},
    )
    code, _ = small.search(path, workers=1, share=True)
    assert code == 0
    assert small.states(path) == ["COMPLETE", "PRUNED"]
    pruned = small.trials(path)[1]
    facts = small.facts_of(small.run_of(path, 1))
    assert (facts["status"], facts["litmus.state"]) == ("KILLED", "PRUNED")
    assert len(pruned.intermediate_values) < 6
    assert pruned.user_attrs["litmus.epochs"] == len(pruned.intermediate_values)  # no rank trained on
    assert os.listdir(small.run_of(path, 1)).count("checkpoints") == 0


def test_what_another_process_failed_of_is_named_as_if_it_had_been_this_one():
    from litmus.jobs.job import _as_raised, reason_for

    said = "the loss of step 20 (epoch 4) is not finite"
    assert reason_for(_as_raised(f"NonFinite: {said}")) == f"not finite: {said}"
    assert reason_for(_as_raised("OutOfMemoryError: 80 GiB")) == "out of memory: 80 GiB"
    assert reason_for(_as_raised("DiskTrouble: full")) == "disk: full"
    assert reason_for(_as_raised("ValueError: of its own")) == "error: RuntimeError: ValueError: of its own"
