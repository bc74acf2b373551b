import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from litmus.errors import Refused
from litmus.jobs.job import Busy, evict, outcome_of
from litmus.jobs.posts import Post
from litmus.sweep.cells import Cell, Measure, cell_uid
from litmus.sweep.engine import NOT_FINITE, data_of, plan, slug
from litmus.tracking import Run
from litmus.tracking.delivery import OWNER_LOCK
from litmus.tracking.spool import Lock, Spool
from tests.sweep import small

NUM_WEIGHTS = Measure("tests.sweep.small:num_weights")


def trained_at(done):
    return (done.directory / "artifacts" / "result.json").stat().st_mtime_ns


def test_each_cell_is_trained_once_and_measured_and_the_second_time_found(tmp_path):
    given = small.cells(tmp_path, NUM_WEIGHTS)
    first = small.run(small.sweep(tmp_path, given, workers=2))
    assert {name: (one.complete, one.found) for name, one in first.items()} == {
        "seed 0": (True, False), "seed 1": (True, False)
    }  # fmt: skip
    measured = [one.measured(NUM_WEIGHTS) for one in first.values()]
    assert [one["num"] for one in measured] == [(16 + 1) * 8 + (8 + 1) * 3] * 2
    assert measured[0]["home"] == str(tmp_path)
    assert not np.array_equal(measured[0]["first"], measured[1]["first"])
    assert 0 <= first["seed 0"].result()["val"]["err"] <= 1
    assert "test" not in first["seed 0"].result()
    assert len(first["seed 0"].history("val/err")) == 2

    again = small.run(small.sweep(tmp_path, given))
    assert all(one.found and one.complete for one in again.values())
    assert [trained_at(one) for one in again.values()] == [trained_at(first[name]) for name in again]


def test_another_measure_of_a_training_that_is_there_trains_nothing(tmp_path):
    before = small.run(small.sweep(tmp_path, small.cells(tmp_path, seeds=1)))["seed 0"]
    when = trained_at(before)
    twice = Measure("tests.sweep.small:num_weights", {"scale": 2})
    after = small.run(small.sweep(tmp_path, small.cells(tmp_path, NUM_WEIGHTS, twice, seeds=1)))["seed 0"]
    assert after.measured(twice)["num"] == 2 * after.measured(NUM_WEIGHTS)["num"]
    assert trained_at(after) == when


def test_two_cells_of_one_training_share_it(tmp_path):
    one, twice = small.config(tmp_path), Measure("tests.sweep.small:num_weights", {"scale": 2})
    given = [Cell("a", one, (NUM_WEIGHTS,)), Cell("b", one.model_copy(update={"name": "other"}), (twice,))]
    done = small.run(small.sweep(tmp_path, given))
    assert done["a"].directory == done["b"].directory
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert done["b"].measured(twice)["num"] == 2 * done["a"].measured(NUM_WEIGHTS)["num"] > 0
    again = small.run(small.sweep(tmp_path, given))
    assert {name: one.found for name, one in again.items()} == {"a": True, "b": True}


def test_a_training_that_diverged_is_an_answer_and_is_not_asked_for_again(tmp_path):
    wild = small.cells(tmp_path, seeds=1, **{"optim.name": "sgd", "optim.lr": 1000.0, "train.epochs": 20})
    first = small.run(small.sweep(tmp_path, wild))["seed 0"]
    assert (first.diverged, first.found, first.complete) == (True, False, False)
    assert first.outcome.reason.startswith(f"{NOT_FINITE}: ")
    assert "lr 1000" in first.outcome.reason
    again = small.run(small.sweep(tmp_path, wild))["seed 0"]
    assert (again.diverged, again.found) == (True, True)
    assert first.outcome.reason.startswith(again.outcome.reason[:60])


def test_a_process_that_is_killed_is_begun_again_and_goes_on(tmp_path):
    measure = Measure("tests.sweep.small:dies_once", {"flag": str(tmp_path / "died")})
    done = small.run(small.sweep(tmp_path, small.cells(tmp_path, measure, seeds=1)))["seed 0"]
    assert (tmp_path / "died").exists()
    assert done.complete
    assert done.measured(measure)["pid"] != os.getpid()


def test_one_that_is_killed_again_and_again_fails_and_the_others_are_done(tmp_path):
    log = tmp_path / "deaths"
    dying = Measure("tests.sweep.small:dies", {"log": str(log)})
    given = [*small.cells(tmp_path, dying, seeds=1), *small.cells(tmp_path, seeds=2)[1:]]
    done = small.run(small.sweep(tmp_path, given))
    assert log.read_text() == "xxx"
    assert "ended by SIGKILL" in done["seed 0"].outcome.reason
    assert done["seed 1"].complete


def test_a_measure_that_raises_fails_its_cell_and_names_the_error(tmp_path):
    done = small.run(small.sweep(tmp_path, small.cells(tmp_path, Measure("tests.sweep.small:raises"), seeds=1)))
    assert done["seed 0"].outcome.reason == "error: ValueError: nothing to measure here"
    assert not done["seed 0"].diverged
    assert list((done["seed 0"].directory / "checkpoints").glob("last-*"))  # what measures it next may want them
    with pytest.raises(RuntimeError, match=r"seed 0: tests.sweep.small:raises was not measured"):
        done["seed 0"].measured(Measure("tests.sweep.small:raises"))


def test_what_is_measured_comes_back_as_it_was_and_a_torn_file_is_measured_again(tmp_path):
    measure = Measure("tests.sweep.small:odd")
    given = small.cells(tmp_path, measure, seeds=1)
    done = small.run(small.sweep(tmp_path, given))["seed 0"]
    found = done.measured(measure)
    assert np.isnan(found["nan"])
    assert found["array"].tolist() == [0, 1, 2]
    assert (found["words"], found["none"]) == (["a", "b"], None)
    file = done.directory / "measures" / f"{measure.key}.npz"
    file.write_bytes(file.read_bytes()[:40])
    assert small.run(small.sweep(tmp_path, given))["seed 0"].measured(measure)["words"] == ["a", "b"]


def test_one_that_another_command_trains_is_left_to_it_and_waited_for(tmp_path):
    given = small.cells(tmp_path, seeds=1)
    done = small.run(small.sweep(tmp_path, given))["seed 0"]
    directory = done.directory
    (directory / "artifacts" / "result.json").rename(tmp_path / "result.json")  # as if it were not finished yet
    lock = Lock(directory / OWNER_LOCK)
    assert lock.acquire()
    made, heard, until = small.sweep(tmp_path, given), [], time.monotonic() + 60
    assert not any(made.job(one, Post(0)).evicts for (one,) in made.by_uid.values())
    for fresh in made.run(0.1):
        heard += fresh
        if lock is not None and made._begun and not made.running:  # it was tried, and was refused the directory
            shutil.move(tmp_path / "result.json", directory / "artifacts" / "result.json")
            lock.release()
            lock = None
        assert time.monotonic() < until
    assert [one.complete for one in heard] == [True]


def test_who_trains_a_cell_already_is_not_ended(tmp_path):
    run = Run.start(home=tmp_path, experiment="x", name="t", send="off")
    other = subprocess.Popen(["sleep", "60"])
    try:
        with Spool(run.dir) as spool:
            spool.set_meta(owner_pid=str(other.pid))
        with pytest.raises(Busy, match=f"still in use by process {other.pid}"):
            evict(Path(run.dir), patience_sec=0.0, end=False)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)  # a signal takes its time
    finally:
        other.kill()
        other.wait()


def test_a_sweep_that_is_stopped_saves_and_goes_on_where_it_was(tmp_path):
    long = small.cells(tmp_path, seeds=1, **{"train.epochs": 400})
    made = small.sweep(tmp_path, long)
    for _ in made.run(0.1):
        directory = made._slots[0].directory
        if directory and list((directory / "checkpoints").glob("last-*")):
            made.leave()
    assert not made.running
    done = small.run(small.sweep(tmp_path, long))["seed 0"]
    assert done.complete
    assert "resume after last-" in (tmp_path / "logs" / "small-seed-0.log").read_text()
    assert not (directory / "checkpoints").exists()  # its weights are an artifact


def test_a_training_that_somebody_stops_alone_is_begun_again_and_goes_on(tmp_path):
    long = small.cells(tmp_path, seeds=1, **{"train.epochs": 400})
    made, stopped, heard = small.sweep(tmp_path, long), False, []
    for fresh in made.run(0.1):
        heard += fresh
        slot = made._slots[0]
        if not stopped and slot.directory and list((slot.directory / "checkpoints").glob("last-*")):
            os.kill(slot.process.pid, signal.SIGTERM)
            stopped = True
    assert stopped
    assert [one.complete for one in heard] == [True]
    assert "resume after last-" in (tmp_path / "logs" / "small-seed-0.log").read_text()


def test_a_result_is_one_when_its_run_has_ended(tmp_path):
    run = Run.start(home=tmp_path, experiment="x", name="t", send="off")
    run.log_text(json.dumps({"val": {"err": 0.25}, "epochs": 2, "trained_sec": 1.0}), "result.json")
    assert outcome_of(Path(run.dir), ("val/err",)) is None
    run.finish()
    assert outcome_of(Path(run.dir), ("val/err",)).values == (0.25,)


def test_everything_wrong_with_any_cell_is_refused_at_once_with_its_names(tmp_path):
    given = [
        *small.cells(tmp_path, seeds=2, **{"data.num_train": 1000}),
        Cell("grey", small.config(tmp_path, **{"augment.hue": 0.1})),
        Cell("fine", small.config(tmp_path)),
    ]
    with pytest.raises(Refused) as caught:
        plan(given, source="litmus curve")
    text = str(caught.value)
    assert "litmus curve is refused, 2 problems" in text
    assert "data.num_train = 1000" in text
    assert "(in seed 0; seed 1)" in text
    assert "augment.hue = 0.1: does nothing on grey images: set it to 0 (in grey)" in text
    assert not (tmp_path / "runs").exists()


def test_what_is_measured_of_checkpoints_is_trained_again_where_they_are_gone(tmp_path):
    measure = Measure("tests.sweep.small:steps_of_checkpoints", of_checkpoints=True)
    without = small.run(small.sweep(tmp_path, small.cells(tmp_path, seeds=1)))["seed 0"]
    done = small.run(small.sweep(tmp_path, small.cells(tmp_path, measure, seeds=1)))["seed 0"]
    assert without.complete
    assert not done.found
    assert done.measured(measure)["steps"]
    assert small.run(small.sweep(tmp_path, small.cells(tmp_path, measure, seeds=1)))["seed 0"].found


def test_the_code_that_reads_checkpoints_is_a_part_of_the_name(tmp_path, monkeypatch):
    one, plain = small.config(tmp_path), Measure("tests.sweep.small:odd")
    of_them = Measure("tests.sweep.small:odd", of_checkpoints=True)
    assert cell_uid(one, "data", [plain]) == cell_uid(one, "data")
    before = cell_uid(one, "data", [of_them])
    assert before != cell_uid(one, "data")
    assert before == cell_uid(one, "data", [plain, of_them, of_them])
    monkeypatch.setattr("litmus.sweep.cells.source_of", lambda module: "reads otherwise")
    assert cell_uid(one, "data", [of_them]) != before


def test_a_cell_is_named_by_what_decides_its_numbers(tmp_path):
    one = small.config(tmp_path)
    uid = cell_uid(one, "data")
    assert uid == cell_uid(one.model_copy(update={"name": "x", "insight": True}), "data")
    assert uid == cell_uid(small.config(tmp_path / "elsewhere"), "data")
    others = [small.config(tmp_path, seed=1), small.config(tmp_path, **{"optim.lr": 0.06})]
    assert len({uid, cell_uid(one, "others"), *(cell_uid(other, "data") for other in others)}) == 4


def test_a_training_that_was_not_watched_is_not_taken_for_one_that_is(tmp_path, monkeypatch):
    plain, watched = small.config(tmp_path), small.config(tmp_path, watch=["gradients"])
    before = [cell_uid(one, "data") for one in (plain, watched)]
    assert before[0] != before[1]
    monkeypatch.setattr("litmus.sweep.cells.source_of", lambda module: "looks otherwise")
    after = [cell_uid(one, "data") for one in (plain, watched)]
    assert after[0] == before[0]
    assert after[1] not in before


def test_the_code_that_trains_and_torchs_version_are_a_part_of_the_name(tmp_path, monkeypatch):
    one = small.config(tmp_path)
    before = cell_uid(one, "data")
    with monkeypatch.context() as patched:
        patched.setattr("litmus.sweep.cells.training_code", lambda: "changed")
        assert cell_uid(one, "data") != before
    monkeypatch.setattr("litmus.sweep.cells.version", lambda package: "0.0")
    assert cell_uid(one, "data") != before


def test_a_line_or_a_name_that_changes_in_any_source_is_other_training_code(tmp_path, monkeypatch):
    from litmus.sweep import cells

    monkeypatch.setattr(cells, "__file__", str(tmp_path / "litmus" / "sweep" / "cells.py"))
    monkeypatch.setattr(cells, "TRAINING_CODE", ("networks", "optim.py"))
    networks, optim = tmp_path / "litmus" / "networks", tmp_path / "litmus" / "optim.py"
    networks.mkdir(parents=True)
    found = []
    for path, text in [(optim, "a"), (networks / "mlp.py", "b"), (networks / "mlp.py", "c"), (optim, "d")]:
        path.write_text(text)
        found.append(cells.training_code.__wrapped__())
    (networks / "mlp.py").rename(networks / "cnn.py")
    found.append(cells.training_code.__wrapped__())
    assert len(set(found)) == 5


def test_all_sources_of_training_code_exist():
    from litmus.sweep.cells import TRAINING_CODE

    root = Path("src/litmus")
    assert all((root / part).exists() for part in TRAINING_CODE)


def test_whatever_a_training_imports_is_training_code_or_decides_nothing():
    from litmus.sweep.cells import TRAINING_CODE
    from tests.test_imports import ALLOWED

    reached, ahead = set(), ["experiment"]
    while ahead:
        part = ahead.pop()
        if part not in reached:
            reached.add(part)
            ahead += ALLOWED[part]
    decides_nothing = {  # it tells, keeps or finds; a config's values are in the name themselves
        *("advice", "checkpoints", "config", "devices", "diagnosis", "fingerprint", "insight", "paths", "resume"),
        *("stopping", "tracking"),
    }
    assert reached - {part.removesuffix(".py") for part in TRAINING_CODE} == decides_nothing


def test_a_measure_is_named_by_function_arguments_and_source(monkeypatch):
    assert Measure("tests.sweep.small:odd").key == Measure("tests.sweep.small:odd").key
    keys = {
        *(Measure("tests.sweep.small:odd").key, Measure("tests.sweep.small:num_weights").key),
        *(Measure("tests.sweep.small:num_weights", {"scale": scale}).key for scale in (1, 2)),
    }
    assert len(keys) == 4
    monkeypatch.setattr("litmus.sweep.cells.source_of", lambda module: "changed")
    assert Measure("tests.sweep.small:odd").key not in keys


def test_the_data_of_a_config_are_known_before_anything_is_planned(tmp_path):
    info = data_of(small.config(tmp_path))
    assert (info.num_classes, info.num_train + info.num_val + info.num_test) == (3, 120)
    with pytest.raises(Refused, match="litmus curve is refused, 1 problem"):
        data_of(small.config(tmp_path, **{"data.num_train": 1000}), source="litmus curve")


def test_a_slug_is_a_runs_name():
    assert slug("model=plain, width=4, seed 3") == "model-plain-width-4-seed-3"
    assert slug("lambda=0.1 (best)") == "lambda-0.1-best"
