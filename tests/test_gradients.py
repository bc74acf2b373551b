"""``litmus gradients``: what a person types, sees and finds afterwards."""

import csv
import json
import re
import shlex
import subprocess
import sys

import pytest

from litmus.config import load_config
from litmus.diagnosis.gradient_flow import Flow, FlowAt
from litmus.tracking import find_run, list_runs

DEEP = [
    *("model.name=mlp", "model.depth=14", "model.width=24", "train.accelerator=cpu"),
    *("tracking.offline=true", "tracking.system_metrics=false"),
]


def flows_of(run):
    arms = json.loads(run.artifact("gradients.json").read_text())["arms"]
    return {arm["label"]: Flow.of(arm["flow"]) for arm in arms}


def next_of(said):
    return said.splitlines()[-1].removeprefix("next     ").split("    or    ")


def test_arms_are_compared_in_a_table_pictures_and_a_run(here, litmus):
    options = ["--over", "model.activation=sigmoid,tanh", "--arm", "", "--arm", "model.name=residual_mlp"]
    code, said, _ = litmus("gradients", *DEEP, "model.init=xavier_normal", *options, "--out", "kept")
    assert code == 0
    run = find_run("latest")
    assert (run.kind, run.status) == ("gradients", "FINISHED")
    assert run.tags["litmus.gradients"] == "2 vanishing, 2 healthy"
    assert run.params["model.activation"] == "relu"  # the config that the arms have in common

    flows = flows_of(run)
    labels = ["activation=sigmoid, as it is", "activation=sigmoid, model=residual_mlp"]
    labels += ["activation=tanh, as it is", "activation=tanh, model=residual_mlp"]
    assert list(flows) == labels
    assert [flow.verdict for flow in flows.values()] == ["vanishing", "vanishing", "healthy", "healthy"]
    assert [value for _, value in run.history("gradients/first_to_last_log10")] == pytest.approx(
        [flow.first_to_last for flow in flows.values()]
    )

    table = said.splitlines()
    assert table[0].split() == ["arm", "verdict", "first/head", "a", "layer", "R2", "(weights)", "dead", "saturated"]
    flow = flows[labels[0]]
    row = re.fullmatch(rf"{labels[0]} +vanishing +(\S+) +(\S+) +(\S+) +(\S+) +- +(\S+)", table[1])
    assert [float(cell) for cell in row.groups()] == pytest.approx(
        [flow.first_to_last, flow.decades_per_layer, flow.r2, flow.weight_gradient_ratio, flow.saturated], abs=0.051
    )
    assert f"{labels[0]}: {flow.sentence}" in table
    assert "on 1,000 training images in parts of 125" in said

    with run.artifact("gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 14
    assert float(rows[0]["log10_delta"]) == flow.layers[0].log10_delta
    assert (rows[13]["arm"], rows[13]["layer"], rows[13]["name"]) == (labels[0], "14", "head")
    for name in ("gradients.png", "gradients.svg", "gradients.json", "gradients.csv"):
        assert (here / "kept" / name).stat().st_size > 2_000
        assert f"  kept/{name}" in said
    assert {"pictures/gradients.png", "pictures/gradients.svg"} <= set(run.artifacts())


def test_the_next_command_trains_the_config_whose_gradient_arrives_best(here, litmus):
    _, said, _ = litmus("gradients", *DEEP, "--over", "model.init=normal,he_normal,xavier_normal")
    fit, again = map(shlex.split, next_of(said))
    assert fit == ["litmus", "fit", *DEEP, "model.init=he_normal"]
    load_config([], fit[2:])
    assert again == ["litmus", "gradients", *DEEP, "--over", "model.init=normal,he_normal,xavier_normal", "--train"]


def test_of_trained_arms_the_one_of_the_least_validation_error_is_next():
    from litmus.gradients import Compared, next_command

    arms = [
        Compared(name, (f"optim.lr={lr}",), config=None, val_err=err)
        for name, lr, err in (("a", 1, 0.2), ("b", 2, 0.1), ("c", 3, None))
    ]
    assert next_command(["x.yaml"], [], arms, over=[], arms=[], trained=True) == "litmus fit x.yaml optim.lr=2"


def test_where_none_is_healthy_what_usually_helps_is_to_be_compared_next(here, litmus):
    _, said, _ = litmus("gradients", *DEEP, "model.init=normal")
    assert said.splitlines()[1].startswith("mlp14-digits  vanishing")
    [command] = map(shlex.split, next_of(said))
    assert command[:2] == ["litmus", "gradients"]
    code, said, _ = litmus(*command[1:])
    assert code == 0
    assert "  healthy  " in said
    _, said, _ = litmus("gradients", *DEEP[2:], "model.name=mlp", "model.depth=1")
    assert shlex.split(next_of(said)[0])[:2] == ["litmus", "fit"]  # one layer: nothing to vanish over


def test_the_same_data_are_loaded_once_for_all_arms(here, litmus, monkeypatch):
    from litmus.data import datamodule

    loads, load = [], datamodule.load_source
    monkeypatch.setattr(datamodule, "load_source", lambda request: loads.append(request.name) or load(request))
    litmus("gradients", *DEEP, "--over", "model.width=8,16,24", "--over", "seed=1,2")
    assert loads == ["digits"]
    loads.clear()
    litmus("gradients", *DEEP, "--arm", "data.num_train=500", "--arm", "model.width=8")
    assert loads == ["digits", "digits"]


def test_what_is_measured_is_what_a_watched_training_begins_with(here, litmus):
    words = [*DEEP, "train.epochs=1", "model.norm=batch", "freeze.layers=[layers.0]"]
    litmus("gradients", *words)
    [flow] = flows_of(find_run("latest")).values()
    litmus("fit", *words, "watch=gradients")
    rows = json.loads(find_run("latest").artifact("gradients.json").read_text())["rows"]
    assert FlowAt.of(rows[0]).flow == flow
    assert flow.layers[0].name == "layers.1.before.linear"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import contextlib
    import io
    import os

    from litmus.gradients import compare_gradients

    folder, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(folder)
    said = io.StringIO()
    arms = ["model.activation=sigmoid", "model.norm=batch optim.lr=0.05", "optim.lr=1000 optim.name=sgd"]
    try:
        with contextlib.redirect_stdout(said):
            found = compare_gradients([], [*DEEP, "train.epochs=3"], arms=arms, train=True, out=folder / "kept")
        yield found, said.getvalue(), folder
    finally:
        os.chdir(before)


def test_with_train_each_arm_is_a_run_under_one(trained):
    found, said, folder = trained
    home = str(folder / "mlruns")
    runs = {run.name: run for run in list_runs(home=home, limit=10)}
    parent = runs["mlp14-digits"]
    assert (parent.kind, parent.status) == ("gradients", "FINISHED")
    children = [runs[f"mlp14-digits-arm{number}"] for number in (1, 2, 3)]
    assert [child.kind for child in children] == ["arm"] * 3
    assert [child.status for child in children] == ["FINISHED", "FINISHED", "FAILED"]
    assert {child.tags["litmus.parent_uid"] for child in children} == {parent.uid}
    assert [child.tags["litmus.arm"] for child in children] == [one.label for one in found]
    assert "test/err" not in children[1].metrics  # what compares does not look at the test set
    assert children[1].metrics["best/val_err"] == pytest.approx(found[1].val_err)
    assert parent.tags["litmus.gradients"] == "1 vanishing, 1 healthy, 1 healthy, then diverged"
    assert {"pictures/gradients_training.png", "gradients_training.json"} <= set(parent.artifacts())
    for number in (1, 2, 3):
        assert f"arm    {number} of 3: {found[number - 1].label}" in said


def test_with_train_the_table_has_the_beginning_and_the_end(trained):
    found, said, folder = trained
    good = found[1]
    assert [row.step for row in good.rows] == [0, 10, 20, 30]
    assert good.rows[0].flow == good.flow
    assert found[2].ended.startswith("the ")
    assert found[2].val_err is None
    [line] = re.findall(rf"^{re.escape(good.label)} +healthy +(\S+) +(\S+) +(\S+) +(\S+)$", said, flags=re.MULTILINE)
    first, last, update, err = map(float, line)
    assert (first, last) == pytest.approx((good.flow.first_to_last, good.rows[-1].flow.first_to_last), abs=0.051)
    assert update == pytest.approx(good.rows[-2].relative_update, rel=0.1)
    assert err == pytest.approx(good.val_err, abs=1e-4)
    assert "healthy, then diverged" in said
    table = json.loads((folder / "kept/gradients_training.json").read_text())["arms"]
    assert [len(arm["rows"]) for arm in table] == [len(one.rows) for one in found]
    assert (folder / "kept/gradients_training.svg").exists()
    fit = shlex.split(next_of(said)[0])
    assert fit == ["litmus", "fit", *DEEP, "train.epochs=3", "model.norm=batch", "optim.lr=0.05"]


def test_an_arm_can_be_reproduced(trained, litmus):
    code, said, _ = litmus("reproduce", "mlp14-digits-arm2", "--steps", "3")
    assert (code, "IDENTICAL" in said) == (0, True)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--over", "model.initt=he_normal"], ["model.initt = 'he_normal': is not a key; did you mean model.init?"]),
        (
            ["--over", "model.init=hee", "--arm", "model.depth=0"],
            ["model.init = 'hee'", "model.depth = 0: must be >= 1"],
        ),
        (["--over", "model.init"], ["--over = 'model.init': reads a.b=value,value,..."]),
        (["--arm", "depth"], ["'depth' is no override"]),
        (["model.name=plain", "--arm", "model.depth=9"], ["model.depth = 9: must be 6n + 2"]),
        (["--arm", "freeze.layers=[stem]"], ["freeze.layers", "'stem' matches no layer"]),
        (
            ["--train", "--arm", "train.devices=2", "--arm", ""],
            ["train.devices = 2: --train trains in this process, on one device"],
        ),
    ],
)
def test_every_wrong_arm_is_refused_before_anything_is_written(here, litmus, words, says):
    words = [word for word in DEEP if not (word.startswith("model.") and "model.name=plain" in words)] + words
    code, out, said = litmus("gradients", *words)
    assert (code, out) == (2, "")
    for part in says:
        assert part in said
    assert list(here.iterdir()) == []


def test_a_network_without_a_weighted_layer_that_learns_is_refused(here, litmus):
    patterns = "freeze.layers=[head,stem.conv,'*.conv*']"
    code, _, said = litmus("gradients", *DEEP[3:], "model.name=plain", "model.depth=8", "model.width=4", patterns)
    assert code == 2
    assert "freeze.layers = ('head', 'stem.conv', '*.conv*'): leaves no linear layer or convolution that learns" in said
    assert list(here.iterdir()) == []


def test_a_file_is_no_folder_for_copies(here, litmus):
    (here / "taken").write_text("")
    code, _, said = litmus("gradients", *DEEP, "--out", "taken")
    assert code == 2
    assert "--out = 'taken': is a file, not a folder" in said
    assert [path.name for path in here.iterdir()] == ["taken"]


def test_a_wrong_arm_is_refused_without_importing_torch(here):
    code = "import sys; from litmus.cli import main\ntry: main()\nexcept SystemExit: print('torch' in sys.modules)"
    argv = [sys.executable, "-c", code, "gradients", "--over", "model.init"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_ctrl_c_between_arms_ends_the_comparison_as_killed(here, litmus, monkeypatch):
    from litmus import gradients

    conduct = gradients.conduct

    def stopped_at_the_end(opened, folder, signals, **how):
        result = conduct(opened, folder, signals, **how)
        signals.pending = 2
        return result

    monkeypatch.setattr(gradients, "conduct", stopped_at_the_end)
    code, _, said = litmus("gradients", *DEEP, "train.epochs=1", "--over", "seed=1,2", "--train")
    assert code == 130
    assert "stopped by SIGINT" in said
    runs = {run.name: run.status for run in list_runs(home="mlruns", limit=10)}
    assert runs == {"mlp14-digits": "KILLED", "mlp14-digits-arm1": "FINISHED"}
