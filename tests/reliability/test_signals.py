"""SIGTERM and Ctrl-C at every phase of a run: the right exit code, a checkpoint that loads, at most one step lost."""

import os
import signal

import pytest

from litmus.checkpoints import newest_whole, read
from litmus.config import dump_config, parse_config
from litmus.resume import FOLDER
from litmus.stopping import Signals, Stopped
from litmus.tracking import find_run
from tests.reliability import children
from tests.reliability.training import EVERYTHING, differing, final_state, merged

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PHASES = ("set-up", "step", "validation", "save", "tear-down")


def fit_and_signal_itself(config, phase, signum, turn):
    """``litmus fit`` that gets ``signum`` in the ``turn``-th passage through ``phase``."""
    from litmus import checkpoints, experiment
    from litmus.classifier import ImageClassifier

    count = {"left": turn}

    def then_signal(function):
        def wrapped(*args, **options):
            count["left"] -= 1
            if count["left"] == 0:
                os.kill(os.getpid(), signum)
            return function(*args, **options)

        return wrapped

    if phase == "set-up":
        name = ("make_classifier", "make_callbacks", "make_trainer", "headline")[turn - 1]
        count["left"] = 1
        setattr(experiment, name, then_signal(getattr(experiment, name)))
    elif phase == "step":
        ImageClassifier.training_step = then_signal(ImageClassifier.training_step)
    elif phase == "validation":
        ImageClassifier.validation_step = then_signal(ImageClassifier.validation_step)
    elif phase == "save":
        checkpoints.check_plain = then_signal(checkpoints.check_plain)
    else:
        name = ("load_weights", "diagnose", "draw", "record")[turn - 1]
        count["left"] = 1
        setattr(experiment, name, then_signal(getattr(experiment, name)))
    from litmus.cli import main

    main(["fit", config])


def outcome(folder, phase, signum, turn, whole):
    """What was wrong with one stop and its resumption; empty if nothing."""
    folder.mkdir(parents=True)
    config = merged(EVERYTHING, {"tracking": {"home": str(folder / "mlruns")}})
    path = folder / "config.yaml"
    path.write_text(dump_config(parse_config(config)))
    child = children.start(fit_and_signal_itself, str(path), phase, signum, turn, log=folder / "log.txt")
    child.join()
    said = (folder / "log.txt").read_text()
    run = find_run("latest", home=folder / "mlruns")
    wrong = []
    if child.exitcode != 128 + signum:
        wrong.append(f"exit code {child.exitcode}")
    if run.status != "KILLED":
        wrong.append(f"status {run.status}")
    if "Traceback" in said or "litmus fit --resume" not in said:
        wrong.append(f"says {said[-300:]}")
    found = newest_whole(run.dir / FOLDER)
    if found is not None:
        read(found.path)
    steps = max((step for step, _ in run.history("train_step/loss")), default=-1) + 1
    lost = steps - (found.step if found else 0)
    if lost > 1:
        wrong.append(f"{lost} of {steps} steps lost")
    again = children.start(children.command_line, "fit", str(path), "--resume", "auto", log=folder / "log.txt")
    again.join()
    if again.exitcode != 0 or find_run(run.uid, home=folder / "mlruns").status != "FINISHED":
        wrong.append(f"resuming ended with {again.exitcode}: {(folder / 'log.txt').read_text()[-500:]}")
    else:
        wrong += differing(whole, final_state(run.dir / FOLDER))[:1]
    return wrong


def whole_run(folder):
    folder.mkdir(parents=True)
    path = folder / "config.yaml"
    path.write_text(dump_config(parse_config(merged(EVERYTHING, {"tracking": {"home": str(folder / "mlruns")}}))))
    child = children.start(children.command_line, "fit", str(path), log=folder / "log.txt")
    child.join()
    assert child.exitcode == 0, (folder / "log.txt").read_text()
    return final_state(find_run("latest", home=folder / "mlruns").dir / FOLDER)


@pytest.mark.parametrize(
    ("phase", "signum", "turn"),
    [("set-up", 15, 2), ("step", 15, 5), ("step", 2, 9), ("validation", 2, 2), ("save", 15, 3), ("tear-down", 2, 3)],
)
def test_a_signal_ends_the_run_with_its_code_and_nothing_lost(phase, signum, turn, tmp_path, request):
    cache = request.config.stash.setdefault(WHOLE, {})
    if "state" not in cache:
        cache["state"] = whole_run(tmp_path / "whole")
    assert outcome(tmp_path / "stopped", phase, signum, turn, cache["state"]) == []


WHOLE = pytest.StashKey()


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_forty_signals(figure, tmp_path):
    whole = whole_run(tmp_path / "whole")
    wrong, count = [], 0
    for phase in PHASES:
        for signum in SIGNALS:
            for turn in (1, 2, 3, 4):
                count += 1
                found = outcome(tmp_path / f"{phase}-{signum}-{turn}", phase, signum, turn, whole)
                wrong += [f"{phase}, {signum.name}, {turn}: {found[0]}"] if found else []
    assert count == 40
    figure("signals", f"{40 - len(wrong)} of 40", holds=not wrong, note="; ".join(wrong[:5]))


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    child = children.start(hang_until_killed, log=tmp_path / "log.txt")
    child.join(60)
    assert child.exitcode == 130
    assert "first" in (tmp_path / "log.txt").read_text()


def hang_until_killed():
    """Takes the first Ctrl-C as a wish, and would hang for ever in the step that it waits for."""
    import threading
    import time

    with Signals() as signals:
        signals.deferred = True
        os.kill(os.getpid(), signal.SIGINT)
        print("first", signals.pending, flush=True)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        time.sleep(50)


def test_a_second_sigterm_changes_nothing():
    with Signals() as signals:
        signals.deferred = True
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.pending == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            signals.obey()
    assert stopped.value.exit_code == 143


def test_workers_leave_signals_to_the_run(image_folder):
    """A terminal's Ctrl-C and a scheduler's SIGTERM reach every process of the job."""
    from litmus.data.datamodule import ImageDataModule

    data = ImageDataModule("image_folder", path=image_folder, image_size=8, batch_size=16, workers=1)
    batches = iter(data.loader("train"))
    next(batches)
    worker = batches._workers[0]
    for signum in SIGNALS:
        os.kill(worker.pid, signum)
    assert sum(len(batch.labels) for batch in batches) == 105 - 16
    assert worker.is_alive()
    del batches


def test_signals_mean_again_what_they_meant_before():
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_a_signal_outside_a_step_is_obeyed_where_it_comes():
    with Signals(), pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
