"""Trainings that start from others' weights, or were chosen by what came of others."""

import json

import pytest
import torch

from litmus.claims.base import Claim, from_run, lowest, of_result
from litmus.claims.evidence import below
from litmus.claims.figures import Panel, draw
from litmus.config import Section, load_config
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed
from litmus.sweep.engine import plan
from litmus.sweep.experiment import Experiment
from litmus.tracking import find_run
from tests.claims import made_stages as made


class Chain(Claim):
    """A source, a network from its weights, and one from those of that."""

    class Settings(Section):
        epochs: int

    def cells(self):
        return self.over_seeds("source", {"train.epochs": self.settings.epochs})

    def then(self, done):
        before = next((name for name in ("second", "source") if f"{name}, seed 0" in done), None)
        if "third, seed 0" in done:
            return []
        name = {"source": "second", "second": "third"}[before]
        return [
            Cell(
                f"{name}, seed {seed}",
                changed(
                    self.base,
                    {
                        "seed": seed,
                        "model.weights": from_run(done[f"{before}, seed {seed}"]),
                        "freeze": {"layers": "body"},
                    },
                ),
            )
            for seed in self.seeds
        ]

    def read(self, done):
        return {name: self.per_seed(done, name, of_result("val")) for name in ("source", "second", "third")}

    def judge(self, table):
        return [below("the third", table["third"], 2.0)]

    def draw(self, table, path):
        return draw([Panel(table, "error")], path, title="t")


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.setattr("litmus.claims.command.make_claim", Chain)
    path = tmp_path / "chain.yaml"
    plain = {
        "name": "chain", "says": "s", "condition": "c", "seeds": 2, "base": made.words(tmp_path / "mlruns"),
        "settings": {"epochs": 2},
    }  # fmt: skip
    path.write_text(json.dumps(plain))
    return path


def cell_runs(home):
    """Name of its cell -> run, of every cell in ``home``."""
    found = [find_run(str(path), home=home) for path in (home / "runs").iterdir()]
    return {run.tags["litmus.cell"]: run for run in found if run.kind == "cell"}


def body_of(run):
    from safetensors.torch import load_file

    return {name: value for name, value in load_file(run.artifact("weights.safetensors")).items() if "head" not in name}


def test_a_later_stage_starts_from_the_weights_of_the_one_before_and_is_recorded_with_it(chain, litmus, tmp_path):
    code, out, _ = litmus("claim", chain)
    assert code == 0, out
    assert "runs     2 trainings" in out
    assert out.count("then     2 trainings more") == 2
    home = tmp_path / "mlruns"
    runs = cell_runs(home)
    assert len(runs) == 6
    for seed in (0, 1):
        source, second, third = (body_of(runs[f"{name}, seed {seed}"]) for name in ("source", "second", "third"))
        assert source
        assert all(torch.equal(source[name], second[name]) for name in source)  # frozen: as the source left it
        assert all(torch.equal(source[name], third[name]) for name in source)
        assert runs[f"second, seed {seed}"].params["model.weights"] == f"run:{runs[f'source, seed {seed}'].uid}"
    assert not all(
        torch.equal(value, body_of(runs["source, seed 1"])[name])
        for name, value in body_of(runs["source, seed 0"]).items()
    )
    (parent,) = (home / "runs").glob("claim-chain-????????")
    record = json.loads((parent / "artifacts" / "claim.json").read_text())
    assert record["trainings"] == 6
    kept = find_run(str(parent), home=home)
    assert kept.tags["litmus.cells"] == "6"
    assert {run.tags["litmus.parent_uid"] for run in runs.values()} == {kept.uid}

    code, out, _ = litmus("claim", chain)
    assert code == 0
    assert out.count("2 of 2 trainings were done before") == 3
    assert set(cell_runs(home)) == set(runs)

    code, out, _ = litmus(
        "claim", chain, "settings.epochs=1"
    )  # another source: all that start from it are trained anew
    assert code == 0
    assert "were done before" not in out
    assert len(list((home / "runs").glob("claim-chain-*"))) == 14


def test_the_name_of_a_training_depends_on_what_is_in_the_file_that_it_starts_from(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from litmus.experiment import run

    home = tmp_path / "mlruns"
    source = run(load_config([], made.words(home)))
    kept = find_run(source.run.uid, home=home).artifact("weights.safetensors")
    file = tmp_path / "start.safetensors"
    file.write_bytes(kept.read_bytes())
    config = load_config([], [*made.words(home), f"model.weights={file}"])
    (first,), (same,) = plan([Cell("a", config)]), plan([Cell("b", config)])
    with safe_open(file, framework="pt") as opened:
        says = opened.metadata()  # what the images were like stays: it is the weights alone that differ
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata=says)
    (other,) = plan([Cell("a", config)])
    (without,) = plan([Cell("a", load_config([], made.words(home)))])
    assert first.uid == same.uid
    assert len({first.uid, other.uid, without.uid}) == 3


def test_a_stage_may_not_repeat_a_name(tmp_path):
    base = load_config([], made.words(tmp_path / "mlruns"))
    with Experiment(kind="claim", name="twice", base=base, typed=["claim"], say=[].append) as experiment:
        experiment.plan([Cell("a", base)])
        with pytest.raises(ValueError, match="names of their own"):
            experiment.extend([Cell("a", base)])


def test_a_stage_has_as_many_at_a_time_as_it_needs_and_not_as_the_first_did(tmp_path):
    base = load_config([], made.words(tmp_path / "mlruns"))
    many = [Cell(f"cell {seed}", changed(base, {"seed": seed})) for seed in range(2)]
    from litmus.sweep.experiment import Options

    with Experiment(
        kind="claim", name="more", base=base, typed=["claim"], say=[].append, options=Options(workers=2)
    ) as experiment:
        experiment.plan(many[:1])
        assert len(experiment.posts) == 1
        experiment.extend([Cell(f"more {cell.name}", cell.config) for cell in many])
        assert len(experiment.posts) == 2


def test_the_lowest_is_the_first_of_equal_ones_and_never_one_that_diverged():
    assert lowest({"a": 0.2, "b": 0.1, "c": 0.1}) == "b"
    assert lowest({"a": made.NAN, "b": 0.5, "c": float("inf")}) == "b"
    assert lowest({"a": made.NAN}) is None
