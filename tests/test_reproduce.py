"""`litmus reproduce` on runs of a second: what it calls identical, what it names, what it refuses."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from litmus import experiment
from litmus.classifier import ImageClassifier
from litmus.cli import main
from litmus.data.datamodule import ImageDataModule
from litmus.data.sampler import IndexBatches
from litmus.tracking import Run, find_run, list_runs

SMALL = [
    *("model.name=mlp", "model.depth=2", "model.width=8", "optim.lr=0.1", "data.num_train=200", "data.batch_size=32"),
    *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu", "name=original"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with one finished run of two epochs, 14 steps, of which 10 are traced."""
    home = tmp_path_factory.mktemp("mlruns")
    argv = ["fit", *SMALL, "train.epochs=2", "train.trace_steps=10", "augment.shift=0.1", f"tracking.home={home}"]
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert not stopped.value.code
    return home


@pytest.fixture
def copied(home, tmp_path):
    """The same home, to be spoilt."""
    shutil.copytree(home, tmp_path / "copied")
    return tmp_path / "copied"


def artifact(home, name):
    (directory,) = home.glob("runs/original-*")
    return directory / "artifacts" / name


def edit(home, name, change):
    """As if the run itself had recorded it so: a file changed by hand is refused before anything is compared."""
    path = artifact(home, name)
    held = json.loads(path.read_text())
    change(held)
    with Run.reopen(path.parents[1]) as record:
        record.log_text(json.dumps(held), name)


def reproduction(home):
    """The newest reproduction in ``home``."""
    return next(run for run in list_runs(home=home) if run.kind == "reproduce")


# --- identical --------------------------------------------------------------------------------------------------------


def test_a_run_reproduced_is_identical_in_steps_epochs_weights_and_result(home, litmus):
    code, said, _ = litmus("reproduce", "original", "--home", home)
    assert code == 0
    assert "IDENTICAL\n  10 steps: order, batches, losses, gradients, weights\n  2 epochs: weights and metrics" in said
    assert "every number of result.json (val, train_eval, test)" in said
    original, again = find_run("original", home=home), reproduction(home)
    assert again.tags["litmus.reproduces"] == original.uid
    assert again.tags["litmus.reproduction"] == "IDENTICAL: 10 steps, 2 epochs, end"
    assert again.status == "FINISHED"
    assert again.artifact("trace.json").read_text() == original.artifact("trace.json").read_text()


def test_the_comparison_stands_before_anything_is_run(home, litmus):
    _, said, _ = litmus("reproduce", "original", "--home", home, "--steps", "1")
    rows = re.findall(r"^(\S.*?) {2,}\S.* {2,}yes$", said, flags=re.MULTILINE)
    assert {"config", "code", "torch", "device", "threads", "deterministic", "data"} <= set(rows)
    assert said.index("\ncode ") < said.index("\nmodel  mlp")


def test_a_quick_look_says_that_it_is_one_and_validates_nothing(home, litmus):
    code, said, _ = litmus("reproduce", "original", "--home", home, "--steps", "3")
    assert code == 0
    assert "the first 3 steps are IDENTICAL; the whole run: litmus reproduce " in said
    again = reproduction(home)
    assert again.tags["litmus.reproduction"] == "IDENTICAL: 3 steps"
    assert again.history("val/loss") == []
    assert "result.json" not in again.artifacts()


def test_a_quick_look_beyond_the_traced_steps_says_what_could_be_compared(home, litmus):
    code, said, _ = litmus("reproduce", "original", "--home", home, "--steps", "12")
    assert code == 0
    assert "10 steps: order" in said
    assert "1 epoch: weights and metrics" in said
    assert "steps after 10 were recorded at the ends of epochs only (train.trace_steps)" in said


def test_a_run_that_was_killed_is_compared_as_far_as_it_got(copied, litmus):
    """Its last row decides; what it would have done after that nobody knows."""

    def cut(trace):
        trace["steps"], trace["epochs"] = trace["steps"][:4], []

    edit(copied, "trace.json", cut)
    (directory,) = copied.glob("runs/original-*")
    _end(directory, "KILLED")
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 0
    assert "IDENTICAL as far as the run got; it is KILLED\n  4 steps: " in said


def _end(directory, status):
    """Rewrite how a run ended."""
    with Run.reopen(directory) as run:
        run._ended = False
        run._put("status", "status", status)
        run.flush()
        run._ended = True


def test_the_trace_that_a_killed_process_left_in_its_folder_is_found(copied, litmus):
    _end(next(copied.glob("runs/original-*")), "KILLED")
    artifact(copied, "trace.json").unlink()
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 0
    assert "IDENTICAL as far as the run got; it is KILLED\n  10 steps: " in said


def test_a_run_killed_before_its_first_step_has_nothing_to_compare(copied, litmus):
    _end(next(copied.glob("runs/original-*")), "KILLED")
    edit(copied, "trace.json", lambda trace: trace.update(steps=[], epochs=[]))
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 3
    assert "REFUSED: trace.json holds no step and no epoch" in said


def test_a_secret_in_the_config_is_masked_and_decides_nothing(copied, litmus):
    secret = "hunter2hunter2"
    argv = [*SMALL, "name=secretive", "train.epochs=1", f"tracking.tags.api_key={secret}", f"tracking.home={copied}"]
    assert litmus("fit", *argv)[0] == 0
    code, said, _ = litmus("reproduce", "secretive", "--home", copied, "--steps", "2")
    assert (code, secret in said) == (0, False)
    assert "the first 2 steps are IDENTICAL" in said


def test_threads_are_set_to_the_recorded_number_for_the_time_of_it(copied, litmus, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("litmus.reproduce.usable_cores", lambda: before + 1)
    edit(copied, "fingerprint.json", lambda held: held["decides"].update(threads=str(before + 1)))
    _, said, _ = litmus("reproduce", "original", "--home", copied, "--steps", "1")
    assert re.search(rf"threads +{before + 1} +{before + 1} +yes \(set for this; it was {before}\)", said)
    assert torch.get_num_threads() == before


# --- the first difference ---------------------------------------------------------------------------------------------


def spoil_order(monkeypatch):
    order = IndexBatches.order
    monkeypatch.setattr(IndexBatches, "order", lambda self: order(self).flip(0))


def spoil_batch(monkeypatch):
    to_batch = ImageDataModule.to_batch

    def spoilt(self, batch, *, epoch=None):
        batch = to_batch(self, batch, epoch=epoch)
        if epoch is not None:
            batch.images[0, 0, 0, 0] += 1e-6
        return batch

    monkeypatch.setattr(ImageDataModule, "to_batch", spoilt)


def spoil_loss(monkeypatch):
    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda self, *args: step(self, *args) * (1 + 1e-6))


def spoil_gradient(monkeypatch):
    def spoilt(self):
        next(self.parameters()).grad[0, 0] += 1e-6

    monkeypatch.setattr(ImageClassifier, "on_after_backward", spoilt)


def spoil_weights(monkeypatch):
    def spoilt(self, optimizer):  # behind the callbacks, which have seen the gradient
        next(self.parameters()).grad[0, 0] += 1e-3

    monkeypatch.setattr(ImageClassifier, "on_before_optimizer_step", spoilt)


def spoil_start(monkeypatch):
    make = experiment.make_network

    def spoilt(*args):
        network = make(*args)
        next(network.parameters()).data[0, 0] += 1e-6
        return network

    monkeypatch.setattr(experiment, "make_network", spoilt)


def spoil_metric(monkeypatch):
    evaluate = ImageClassifier._evaluate

    def spoilt(self, batch, split):
        evaluate(self, batch, split)
        self.sums[split].loss = self.sums[split].loss * (1 + 1e-6)

    monkeypatch.setattr(ImageClassifier, "_evaluate", spoilt)


def spoil_result(monkeypatch):
    evaluate = experiment.evaluate

    def spoilt(*args, **options):
        seen = evaluate(*args, **options)
        return replace(seen, logits=seen.logits * (1 + 1e-6))

    monkeypatch.setattr(experiment, "evaluate", spoilt)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_start, "weights of the start, before step 1"),
        (spoil_order, "order of step 1"),
        (spoil_batch, "batch of step 1"),
        (spoil_loss, "loss of step 1"),
        (spoil_gradient, "gradient of step 1"),
        (spoil_weights, "weights of step 1"),
        (spoil_metric, "val/loss of epoch 1, step 7"),
        (spoil_result, "val/loss of result.json"),
    ],
)
def test_the_first_difference_is_named(home, litmus, monkeypatch, spoil, named):
    spoil(monkeypatch)
    code, said, _ = litmus("reproduce", "original", "--home", home)
    assert code == 1
    assert f"DIFFERENT: the first difference is the {named}\n" in said
    assert "IDENTICAL" not in said
    if "loss" in named:
        assert re.search(r"now .* apart$", said, flags=re.MULTILINE)
    assert reproduction(home).tags["litmus.reproduction"] == f"DIFFERENT: {named}"


def test_weights_at_the_end_count_though_every_metric_is_the_same(copied, litmus):
    """One bit of one weight: the numbers of the result are equal to the last digit."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = artifact(copied, "weights.safetensors")
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    name = next(iter(tensors))
    tensors[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, copied / path.name, metadata=metadata)
    with Run.reopen(path.parents[1]) as record:
        record.log_artifact(copied / path.name)
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 1
    assert "DIFFERENT: the first difference is the weights of the end (best)" in said


def test_a_metric_that_is_close_is_never_called_reproduced(copied, litmus):
    edit(copied, "result.json", lambda held: held["test"].update(loss=held["test"]["loss"] * (1 + 1e-12)))
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 1
    assert "DIFFERENT: the first difference is the test/loss of result.json" in said
    assert "IDENTICAL" not in said

    code, said, _ = litmus("reproduce", "original", "--home", copied, "--tolerance", "1e-6")
    assert code == 0
    assert "WITHIN TOLERANCE 1e-06" in said
    assert "metrics were compared, and nothing else" in said
    assert not re.search("identical|reproduced", said, flags=re.IGNORECASE)
    assert reproduction(copied).tags["litmus.reproduction"] == "WITHIN TOLERANCE 1e-06"

    edit(copied, "result.json", lambda held: held["test"].update(err=held["test"]["err"] + 0.5))
    code, said, _ = litmus("reproduce", "original", "--home", copied, "--tolerance", "0.1")
    assert code == 1
    assert "OUTSIDE 0.1: test/err" in said


# --- refused ----------------------------------------------------------------------------------------------------------


def runs_in(home):
    return sorted(path.name for path in (home / "runs").iterdir())


@pytest.mark.parametrize(
    ("changes", "said_first", "hint"),
    [
        ({"torch": "2.0.0"}, "REFUSED: torch", "uv pip install torch==2.0.0"),
        ({"code": "0" * 32, "seed": "7"}, "REFUSED: seed, code", "git checkout"),
        ({"threads": "4096"}, "REFUSED: threads", "OMP_NUM_THREADS=4096"),
        ({"env.MKL_CBWR": "AVX2"}, "REFUSED: env.MKL_CBWR", "export MKL_CBWR=AVX2"),
        ({"data": "0" * 32}, "REFUSED: data", "other images"),
    ],
)
def test_a_differing_field_is_named_with_the_way_back_and_nothing_is_run(copied, litmus, changes, said_first, hint):
    edit(copied, "fingerprint.json", lambda held: held["decides"].update(changes))
    before = runs_in(copied)
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 3
    assert f"\n{said_first}\n" in said
    assert hint in said
    assert re.search(rf"^{next(iter(changes))} .*  NO$", said, flags=re.MULTILINE)
    assert runs_in(copied) == before


def test_differing_fields_do_not_keep_the_metrics_from_being_compared_and_are_named(copied, litmus):
    edit(copied, "fingerprint.json", lambda held: held["decides"].update(torch="2.0.0"))
    code, said, _ = litmus("reproduce", "original", "--home", copied, "--tolerance", "0")
    assert code == 0
    assert "these fields differ: torch" in said


@pytest.mark.parametrize("name", ["fingerprint.json", "trace.json", "result.json", "weights.safetensors"])
def test_a_record_from_before_fingerprints_is_refused_by_what_it_lacks(copied, litmus, name):
    artifact(copied, name).unlink()
    (directory,) = copied.glob("runs/original-*")
    (directory / "checkpoints" / name).unlink(missing_ok=True)
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 3
    assert f"REFUSED: the record lacks {name}" in said


def test_a_run_that_went_on_in_another_world_is_refused(copied, litmus):
    (directory,) = copied.glob("runs/original-*")
    with Run.reopen(directory) as run:
        run.set_tags({"litmus.changed_world": "torch"})
    code, said, _ = litmus("reproduce", "original", "--home", copied)
    assert code == 3
    assert "REFUSED: the run was resumed where other things held (torch)" in said


def test_a_record_changed_by_hand_is_refused_by_name(copied, litmus):
    path = artifact(copied, "trace.json")
    path.write_text(path.read_text().replace("0x1", "0x2", 1))
    code, out, said = litmus("reproduce", "original", "--home", copied)
    assert code == 2, out + said
    assert "trace.json" in said
    assert "is not what run" in said


def test_weights_that_a_run_began_with_must_still_be_those(copied, litmus, tmp_path):
    weights = tmp_path / "start.safetensors"
    shutil.copy(artifact(copied, "weights.safetensors"), weights)
    transfer = ["train.epochs=1", f"model.weights={weights}", f"tracking.home={copied}"]
    assert litmus("fit", *SMALL, *transfer, "name=transfer", "seed=3")[0] == 0
    code, said, _ = litmus("reproduce", "transfer", "--home", copied)
    assert code == 0, said

    held = bytearray(weights.read_bytes())
    held[-1] ^= 1
    weights.write_bytes(held)
    code, said, _ = litmus("reproduce", "transfer", "--home", copied)
    assert (code, "\nREFUSED: weights\n" in said) == (3, True)

    weights.unlink()
    code, said, _ = litmus("reproduce", "transfer", "--home", copied)
    assert (code, "\nREFUSED: weights\n" in said) == (3, True)
    assert "does not exist" in said


def test_what_is_no_training_is_no_run_to_reproduce(home, litmus):
    code, _, said = litmus("reproduce", "nosuchrun", "--home", home)
    assert code == 2
    litmus("reproduce", "original", "--home", home, "--steps", "1")
    code, _, said = litmus("reproduce", reproduction(home).id8, "--home", home)
    assert code == 2
    assert "is itself a reproduction; name the run it reproduced" in said
    with Run.start(home=home, experiment="t", name="a-range-test", kind="lr", send="off") as run:
        pass
    code, _, said = litmus("reproduce", run.uid, "--home", home)
    assert code == 2
    assert "of kind 'lr'" in said


def test_a_tolerance_for_some_steps_is_refused(home, litmus):
    code, _, said = litmus("reproduce", "original", "--home", home, "--steps", "3", "--tolerance", "0.1")
    assert code == 2
    assert "leave --steps out" in said


# --- resumed ----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_and_resumed_has_the_trace_of_a_whole_one_and_is_reproduced(tmp_path, litmus, monkeypatch):
    """Cut among the traced steps, in the second batch of a step of two."""
    argv = [*SMALL, "train.epochs=2", "train.accumulate=2", "train.ema_decay=0.9", f"tracking.home={tmp_path}"]
    assert litmus("fit", *argv, "name=whole")[0] == 0

    batches = iter(range(6))
    step = ImageClassifier.training_step

    def cut(self, *args):
        if next(batches, None) == 5:
            raise RuntimeError("as if the machine had gone")
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ImageClassifier, "training_step", cut)
        assert litmus("fit", *argv, "name=resumed", "checkpoint.every_steps=1")[0] == 1
    assert litmus("fit", "--resume", "resumed", "--home", tmp_path)[0] == 0
    traces = [find_run(name, home=tmp_path).artifact("trace.json").read_text() for name in ("whole", "resumed")]
    assert traces[0] == traces[1]
    code, said, _ = litmus("reproduce", "resumed", "--home", tmp_path)
    assert code == 0
    assert "FINISHED, in 2 attempts" in said
    assert "\nIDENTICAL\n" in said


def test_a_stopped_reproduction_ends_as_a_stopped_run_does(home, litmus, monkeypatch):
    step = ImageClassifier.training_step

    def stop(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(ImageClassifier, "training_step", stop)
    code, said, _ = litmus("reproduce", "original", "--home", home)
    assert code == 143
    assert "IDENTICAL" not in said
    assert reproduction(home).status == "KILLED"


def test_numbers_that_are_no_longer_finite_are_a_difference(home, litmus, monkeypatch):
    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda self, *args: step(self, *args) * float("nan"))
    code, said, _ = litmus("reproduce", "original", "--home", home)
    assert code == 1
    assert "DIFFERENT: the first difference is the numbers of the training" in said
