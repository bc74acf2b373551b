"""``fit --resume``: which run goes on, and everything that is refused before it does."""

import shutil
from pathlib import Path

import pytest

from litmus import resume
from litmus.checkpoints import read, saved, target, write
from litmus.config import load_config
from litmus.resume import FOLDER, choose, differences
from litmus.tracking import Run, find_run

FAST = [
    *("model.name=mlp", "model.depth=2", "model.width=16", "data.batch_size=64", "train.epochs=3", "optim.lr=0.1"),
    *("tracking.system_metrics=false", "tracking.offline=true", "train.accelerator=cpu"),
]
CONFIG = "digits.yaml"


@pytest.fixture(scope="module")
def stopped_home(tmp_path_factory):
    """A home with one run that was stopped after its second epoch."""
    from litmus.callbacks import LastCheckpoint
    from litmus.experiment import run
    from litmus.stopping import Stopped

    home = tmp_path_factory.mktemp("stopped")
    saving = LastCheckpoint.on_train_epoch_end

    def stop(self, trainer, pl_module):
        saving(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise Stopped(15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
        with pytest.raises(Stopped):
            run(load_config([], [*FAST, f"tracking.home={home / 'mlruns'}"]), say=lambda line: None)
    return home


@pytest.fixture
def stopped(stopped_home, here):
    """The same to change, in the folder one stands in; the run."""
    shutil.copytree(stopped_home / "mlruns", here / "mlruns")
    return find_run("latest")


def test_latest_goes_on_with_its_own_config_in_the_same_run(stopped, litmus):
    code, said, _ = litmus("fit", "--resume", "latest")
    assert code == 0
    assert "resume after last-000000040-" in said
    assert " 3/3 " in said
    assert " 2/3 " not in said
    again = find_run(stopped.uid)
    assert (again.status, again.tags["litmus.attempt"]) == ("FINISHED", "2")
    assert len(list(Path("mlruns/runs").iterdir())) == 1


def test_auto_goes_on_with_the_same_config_then_says_it_is_finished_and_begins_another(stopped, litmus):
    assert litmus("fit", *FAST, "--resume", "auto")[0] == 0
    assert find_run(stopped.uid).status == "FINISHED"
    code, said, _ = litmus("fit", *FAST, "--resume", "auto")
    assert (code, said.strip()) == (0, f"run {stopped.id8} of this config is finished: litmus test {stopped.id8}")
    assert litmus("fit", *FAST, "train.epochs=1", "--resume", "auto")[0] == 0
    assert len(list(Path("mlruns/runs").iterdir())) == 2


def test_what_decides_no_number_may_change(stopped, litmus):
    code, said, _ = litmus("fit", *FAST, "train.log_every=7", "tracking.tags.owner=me", "--resume", stopped.id8)
    assert code == 0
    assert "resume after" in said


def test_other_values_are_refused_key_by_key_and_nothing_is_touched(stopped, litmus):
    before = sorted(Path("mlruns").rglob("*"))
    code, _, said = litmus("fit", *FAST, "optim.lr=0.2", "seed=5", "data.batch_size=32", "--resume", "latest")
    assert code == 2
    for line in (
        f"optim.lr = 0.2: was 0.1 in run {stopped.id8}",
        f"seed = 5: was 0 in run {stopped.id8}",
        f"data.batch_size = 32: was 64 in run {stopped.id8}",
        "--allow-changed: goes on all the same",
    ):
        assert line in said
    assert sorted(Path("mlruns").rglob("*")) == before
    assert find_run(stopped.uid).status == "KILLED"


def test_other_code_is_refused(stopped, litmus, monkeypatch):
    monkeypatch.setattr(resume, "code_digest", lambda: "f" * 32)
    code, _, said = litmus("fit", "--resume", "latest")
    assert code == 2
    assert f"code = 'ffffffffffff': was {stopped.tags['env.code'][:12]}" in said


def test_other_data_are_refused(stopped, litmus, monkeypatch):
    from litmus.data import datamodule

    digest = datamodule.digest_of
    monkeypatch.setattr(datamodule, "digest_of", lambda parts: digest([*parts, "changed"]))
    code, _, said = litmus("fit", "--resume", "latest")
    assert code == 2
    assert f"was {stopped.tags['litmus.data_digest']}: other data" in said


def test_a_changed_rate_is_taken_when_allowed(stopped, litmus):
    code, said, _ = litmus("fit", *FAST, "optim.lr=0.025", "--resume", "latest", "--allow-changed")
    assert code == 0
    assert find_run(stopped.uid).history("train/lr")[-1] == (60, 0.025)
    assert find_run(stopped.uid).tags["changed.optim.lr"] == "0.025"
    assert "0.025" in said


def test_a_finished_run_is_refused_and_trained_longer_when_allowed(stopped, litmus):
    assert litmus("fit", "--resume", "latest")[0] == 0
    code, _, said = litmus("fit", "--resume", "latest")
    assert code == 2
    assert f"run {stopped.id8} is finished" in said
    code, said, _ = litmus("fit", *FAST, "train.epochs=4", "--resume", "latest", "--allow-changed")
    assert code == 0
    assert " 4/4 " in said
    assert " 3/4 " not in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model.width=32", "network is"),
        ("model.depth=3", "network is"),
        ("optim.name=adam", "optimizer is 'momentum' there"),
        ("schedule.name=cosine", "schedule is 'constant' there"),
    ],
)
def test_weights_and_moments_of_another_kind_are_refused_even_so(change, says, stopped, litmus):
    code, _, said = litmus("fit", *FAST, change, "--resume", "latest", "--allow-changed")
    assert code == 2
    assert says in said
    assert find_run(stopped.uid).status == "KILLED"


def test_a_checkpoint_of_weights_alone_is_refused(stopped, litmus):
    folder = stopped.dir / FOLDER
    state = read(saved(folder, "last")[0].path)
    write({"state_dict": state["state_dict"], "litmus": state["litmus"]}, target(folder, "last", 90))
    code, _, said = litmus("fit", "--resume", "latest")
    assert code == 2
    assert "holds weights, not the state of a training" in said


def test_a_damaged_checkpoint_is_passed_over_and_named(stopped, litmus):
    newest, before = saved(stopped.dir / FOLDER, "last")
    newest.path.write_bytes(newest.path.read_bytes()[:-100])
    code, said, _ = litmus("fit", "--resume", "latest")
    assert code == 0
    assert f"{newest.path.name} is passed over: its bytes are not those that were written" in said
    assert f"resume after {before.path.name}" in said


def test_without_a_whole_checkpoint_it_is_refused(stopped, litmus):
    for one in saved(stopped.dir / FOLDER, "last"):
        one.path.write_bytes(b"")
    code, _, said = litmus("fit", "--resume", "latest")
    assert code == 2
    assert "none of its 2 checkpoints is whole" in said


def test_a_run_that_had_saved_nothing_begins_at_its_beginning(stopped, litmus):
    shutil.rmtree(stopped.dir / FOLDER)
    code, said, _ = litmus("fit", "--resume", "latest")
    assert code == 0
    assert "resume from the start: nothing was saved" in said
    assert " 1/3 " in said


def test_a_run_in_use_is_refused(stopped, litmus):
    with Run.start(home="mlruns", experiment="x", name="x", uid=stopped.uid, send="off"):
        code, _, said = litmus("fit", "--resume", str(stopped.dir))
    assert code == 2
    assert "is in use by process" in said


def test_unknown_and_ambiguous_runs_and_idle_options_are_refused(stopped, litmus):
    assert "is unknown; did you mean 'mlp2-digits'?" in litmus("fit", "--resume", "mlp2-digit")[2]
    with Run.start(home="mlruns", experiment="x", name="mlp2-digits", send="off"):
        pass
    assert "2 runs fit" in litmus("fit", "--resume", "mlp2-digits")[2]
    assert "--allow-changed: only acts with --resume" in litmus("fit", *FAST, "--allow-changed")[2]
    assert "needs the config of the run" in litmus("fit", "--resume", "auto")[2]


def test_other_kinds_of_run_do_not_go_on(stopped, litmus):
    with Run.start(home="mlruns", experiment="x", name="rates", kind="lr", send="off"):
        pass
    code, _, said = litmus("fit", "--resume", "rates")
    assert code == 2
    assert "is of kind 'lr': only trainings go on" in said


def test_only_what_decides_a_number_differs():
    then = load_config([], FAST)
    free = ["name=other", "tracking.home=x", "insight=true", "diagnosis.tolerance=0.1", "train.log_every=3"]
    assert differences(then, load_config([], [*FAST, *free])) == []
    changed = load_config([], [*FAST, "model.keep_prob=0.5", "train.epochs=5"])
    assert differences(then, changed) == [("model.keep_prob", 1.0, 0.5), ("train.epochs", 3, 5)]


def test_a_new_run_begins_where_there_is_none(here):
    config = load_config([], FAST)
    assert choose("auto", config) == (config, None, "")


def test_a_run_that_began_with_learnt_weights_is_known_again_by_its_config(stopped, litmus):
    """Its record holds what the weights read, and the id that a name stood for."""
    assert litmus("fit", "--resume", "latest")[0] == 0
    transfer = [*FAST, f"model.weights=run:{stopped.name}", "train.epochs=1", "name=transferred"]
    assert litmus("fit", *transfer)[0] == 0
    code, said, _ = litmus("fit", *transfer, "--resume", "auto")
    assert code == 0
    assert f"run {find_run('transferred').id8} of this config is finished" in said
