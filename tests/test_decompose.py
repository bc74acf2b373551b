import json
import re

import numpy as np
import pytest

from litmus.config.vary import Arm, arms_of
from litmus.decompose import Design, axis_of, take_apart
from litmus.errors import Refused
from tests.sweep import small


def command(home, *words, **changes):
    return ["decompose", *small.words(home, **{"data.num_images": 240, **changes}), *words]


def run_directory(home):
    (found,) = (
        path for path in (home / "runs").iterdir() if re.fullmatch(r"decompose-mlp2-synthetic-\w{8}", path.name)
    )
    return found


def test_arms_are_taken_apart_drawn_and_recorded(tmp_path, litmus):
    home = tmp_path / "mlruns"
    words = command(home, "--over", "model.width=1,16", "--draws", 3, "--reshuffles", 2, **{"train.epochs": 3})
    code, out, err = litmus(*words)
    assert code == 0, out + err
    assert "models   3 disjoint draws x 2 reshuffles = 6 for each of 2 arms, asked about the test images" in out
    assert "width=16: squared error " in out
    directory = run_directory(home)
    table = json.loads((directory / "artifacts" / "decomposition.json").read_text())
    assert list(table["arms"]) == ["width=1", "width=16"]
    for arm in table["arms"].values():
        squared = arm["squared"]
        parts = [squared[name]["value"] for name in ("bias2_and_noise", "variance")]
        assert squared["total"]["value"] == pytest.approx(sum(parts))
        assert (squared["num_models"], squared["num_reshuffles"], squared["num_images"]) == (3, 2, 48)
    for name in ("decomposition.png", "decomposition.svg"):
        assert (directory / "artifacts" / "pictures" / name).stat().st_size > 5000
    code, out, _ = litmus(*words)
    assert code == 0
    assert "12 of 12 trainings were done before" in out


def test_an_arm_that_diverges_is_told_and_the_others_are_not_lost(tmp_path, litmus):
    home = tmp_path / "mlruns"
    wild = {"optim.name": "sgd", "train.epochs": 20}
    code, out, _ = litmus(*command(home, "--over", "optim.lr=0.01,1000", "--draws", 2, "--reshuffles", 1, **wild))
    assert code == 0, out
    assert "lr=1000: 2 of 2 models diverged; nothing is said of it" in out
    assert "lr=0.01: squared error " in out


def test_with_seeds_the_variance_of_initialisation_stands_apart(tmp_path, litmus):
    home = tmp_path / "mlruns"
    code, out, _ = litmus(*command(home, "--draws", 3, "--reshuffles", 1, "--seeds", 2))
    assert code == 0, out
    assert "3 disjoint draws x 1 reshuffles x 2 seeds = 6 for each of 1 arms" in out
    sources = json.loads((run_directory(home) / "artifacts" / "decomposition.json").read_text())["arms"][""]["sources"]
    parts = [sources[name]["value"] for name in ("sampling", "initialisation")]
    assert sum(parts) == pytest.approx(sources["total"]["value"])
    assert "next     litmus decompose" in out


class Model:
    """A trained one, and what it answered."""

    diverged = False

    def __init__(self, log_probs, labels):
        self.answers = {"log_probs": log_probs, "labels": labels, "idx": np.arange(len(labels))}

    def result(self):
        return {"train_eval": {"err": 0.1}}

    def measured(self, measure):
        return self.answers


def models_of(design):
    generator = np.random.default_rng(0)
    logs = generator.standard_normal((design.reshuffles, design.draws, design.seeds, 20, 3))
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    labels = generator.integers(0, 3, 20)
    return logs, labels, [Model(one, labels) for one in logs.reshape(-1, 20, 3)]


def test_with_seeds_each_model_stands_for_itself_and_one_cut_for_its_sources():
    from litmus.diagnosis.decomposition import decompose, variance_sources

    design = Design(draws=3, reshuffles=2, seeds=2)
    logs, labels, models = models_of(design)
    found = take_apart(models, design)
    assert found.parts.table() == decompose(logs[:, :, 0], labels).table()
    assert found.sources == variance_sources(np.exp(logs[0]))  # the training sets of two cuts share images


@pytest.mark.parametrize("what", ["labels", "idx"])
def test_models_that_were_asked_about_other_images_are_not_taken_apart(what):
    design = Design(draws=3, reshuffles=1)
    models = models_of(design)[-1]
    models[2].answers[what] = np.roll(models[2].answers[what], 1)
    with pytest.raises(RuntimeError, match="not asked about the same images"):
        take_apart(models, design)


def test_draws_are_disjoint_shared_by_the_arms_and_no_seed_comes_twice(tmp_path):
    design = Design(draws=3, reshuffles=2, seeds=2)
    wide, narrow = (design.cells(Arm(f"w{w}"), small.config(tmp_path, **{"model.width": w})) for w in (8, 2))
    assert len(wide) == design.num_models == 12
    seen = [(c.config.seed, c.config.data.part, c.config.data.draw_seed) for c in wide]
    assert seen == [(c.config.seed, c.config.data.part, c.config.data.draw_seed) for c in narrow]
    assert len({seed for seed, _, _ in seen}) == 12
    assert {(part, draw) for _, part, draw in seen} == {(part, draw) for part in range(3) for draw in (1, 2)}
    assert {c.config.data.parts for c in wide} == {3}


def test_the_axis_is_the_key_that_is_varied_as_numbers_where_it_has_them():
    arms = arms_of(["model.width=1,16"])
    whole = {arm.label: at for at, arm in enumerate(arms)}
    assert axis_of(["model.width=1,16"], arms, whole) == ("model.width", {1.0: 0, 16.0: 1})
    named = arms_of(["model.init=he_normal,orthogonal"])
    axis, sweep = axis_of(["model.init=he_normal,orthogonal"], named, {arm.label: arm.label for arm in named})
    assert (axis, list(sweep)) == ("model.init", ["he_normal", "orthogonal"])
    both = ["model.width=1,2", "seed=1,2"]
    assert axis_of(both, arms_of(both), dict.fromkeys(["a", "b"], 1))[0] == "arm"
    assert axis_of([], [Arm("")], {"": 1}) == ("arm", {"as it is": 1})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--draws", 1], "--draws = 1: must be at least 2: a variance is between models"),
        (["--reshuffles", 0, "--seeds", 0], "--seeds = 0: must be at least 1"),
        (["--split", "train"], "--split = 'train': is one of val, test"),
        (["--over", "model.width"], "reads a.b=value,value"),
        (["--over", "model.widht=1,2"], "model.widht = 1: is not a key; did you mean model.width?"),
        (["data.parts=4"], "data.parts = 4: is what the command varies"),
        (["--draws", 100], "data.parts = 100: leaves parts with fewer images than classes"),
        (["--workers", 10_000], "--workers"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_trained(tmp_path, litmus, words, says):
    code, out, err = litmus(*command(tmp_path / "mlruns", *words))
    assert code == 2, out
    assert says in err
    assert not (tmp_path / "mlruns").exists()


def test_answers_are_log_probabilities(tmp_path):
    from litmus.decompose import answers_to

    done = small.run(small.sweep(tmp_path, small.cells(tmp_path, answers_to("val"), seeds=1)))["seed 0"]
    found = done.measured(answers_to("val"))
    assert np.exp(found["log_probs"]).sum(axis=1) == pytest.approx(1)
    assert (found["log_probs"].argmax(1) != found["labels"]).mean() == pytest.approx(done.result()["val"]["err"])
    assert (np.diff(found["idx"]) > 0).all()


def test_design_refuses_all_at_once():
    with pytest.raises(Refused, match="3 problems"):
        Design(draws=0, reshuffles=0, seeds=1, split="x").check()
