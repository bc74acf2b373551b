import json
import os
import signal
import subprocess
import sys

import pytest

from litmus.errors import Refused
from litmus.jobs.posts import Post
from litmus.stopping import Stopped
from litmus.sweep.board import Board
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.experiment import Experiment, Incomplete, Options, posts_for
from litmus.tracking import find_run
from litmus.tracking.spool import Spool
from tests.sweep import small


def conduct(home, given, **how):
    """An experiment of these cells, to its end; its directory and what became of each."""
    base = given[0].config
    with Experiment(kind="curve", name="try", base=base, typed=["curve", "x.yaml"], say=[].append, **how) as made:
        made.plan(given)
        done = made.train()
        made.run.log_text("{}", "table.json")
    return made.run.dir, done


def test_the_parent_has_its_cells_below_it_and_is_the_same_run_the_second_time(tmp_path):
    given = small.cells(tmp_path)
    directory, done = conduct(tmp_path, given, params={"curve.seeds": 2})
    parent = find_run(str(directory), home=tmp_path)
    assert (parent.kind, parent.status, parent.params["curve.seeds"]) == ("curve", "FINISHED", "2")
    for one in done.values():
        cell = find_run(str(one.directory), home=tmp_path)
        assert cell.kind == "cell"
        assert cell.tags["litmus.parent_uid"] == parent.uid
        assert cell.tags["litmus.experiment"] == "try"
    assert list(done) == ["seed 0", "seed 1"]
    again, _ = conduct(tmp_path, given, params={"curve.seeds": 2})
    other, _ = conduct(tmp_path, given, params={"curve.seeds": 3})
    assert again == directory
    assert other != directory
    assert all("test" not in one.result() for one in done.values())


def test_the_same_command_on_other_cells_is_another_run(tmp_path):
    given, runs = small.cells(tmp_path), []
    for some in (given, given[:1]):  # as where other images were found
        with Experiment(kind="curve", name="try", base=given[0].config, typed=["curve"], say=[].append) as made:
            made.plan(some)
            runs.append(made.run.dir)
    assert runs[0] != runs[1]


def test_a_cell_that_fails_leaves_the_experiment_failed_and_says_how_to_go_on(tmp_path):
    broken = Measure("tests.sweep.small:raises")
    given = [*small.cells(tmp_path, broken, seeds=1), *small.cells(tmp_path, seeds=2)[1:]]
    with pytest.raises(Incomplete) as caught:
        conduct(tmp_path, given)
    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert "1 of 2 trainings came to no answer" in told
    assert "seed 0: error: ValueError: nothing to measure here" in told
    assert "next     litmus curve x.yaml    (the others are kept)" in told
    (parent,) = (tmp_path / "runs").glob("try-????????")
    with Spool(parent) as spool:
        assert spool.status == "FAILED"
        assert spool.texts("tag")["litmus.cells_failed"] == "1"
    assert [one.found for one in conduct(tmp_path, given[1:])[1].values()] == [True]


def test_cells_of_one_name_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="names of their own"):
        conduct(tmp_path, [Cell("a", small.config(tmp_path)), Cell("a", small.config(tmp_path, seed=1))])


def test_a_signal_before_the_trainings_ends_it_and_gives_the_handlers_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    base = small.config(tmp_path)
    with pytest.raises(Stopped), Experiment(kind="curve", name="try", base=base, typed=["curve"]):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(tmp_path):
    words = small.words(tmp_path, **{"data.num_images": 240, "train.epochs": 150})
    argv = [
        sys.executable,
        "-m",
        "litmus.cli",
        "decompose",
        *words,
        "--draws",
        "4",
        "--reshuffles",
        "1",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if "1/4" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its group
            break
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, out + err
    assert "stopped by SIGINT" in err
    assert "of 4 trainings are done and kept" in err
    assert "next     litmus decompose" in err
    (parent,) = (path for path in (tmp_path / "runs").iterdir() if "draw" not in path.name)
    with Spool(parent) as spool:
        assert spool.status == "KILLED"
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 4 trainings were done before" in done.stdout
    with Spool(parent) as spool:
        assert spool.status == "FINISHED"


@pytest.mark.parametrize(
    ("machine", "options", "cells", "posts"),
    [
        ({"cores": 4, "gpus": 0}, Options(), 10, [Post(k) for k in range(4)]),
        ({"cores": 4, "gpus": 0}, Options(), 2, [Post(0, (), 2), Post(1, (), 2)]),
        ({"cores": 4, "gpus": 0}, Options(workers=1), 10, [Post(0, (), 4)]),
        ({"cores": 4, "gpus": 2}, Options(), 10, [Post(0, ("0",), 2), Post(1, ("1",), 2)]),
        ({"cores": 4, "gpus": 2}, Options(devices=("1",)), 10, [Post(0, ("1",), 4)]),
    ],
)
def test_a_training_for_each_core_or_each_gpu(monkeypatch, tmp_path, machine, options, cells, posts):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(machine["cores"])), raising=False)
    monkeypatch.setattr("litmus.sweep.experiment.here", lambda: machine)
    base = small.config(tmp_path, **{"train.accelerator": "auto"})
    assert posts_for(base, options, num_cells=cells, source="x") == posts


def test_more_workers_than_devices_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("litmus.sweep.experiment.here", lambda: {"cores": 2, "gpus": 0})
    with pytest.raises(Refused, match=r"litmus curve is refused.*\n.*--workers = 3"):
        posts_for(small.config(tmp_path), Options(workers=3), num_cells=9, source="litmus curve")


def test_the_board_lists_what_is_done_and_counts_what_was_found(tmp_path, capsys):
    from rich.console import Console

    done = small.run(small.sweep(tmp_path, small.cells(tmp_path, seeds=1)))["seed 0"]
    with Board(3, console=Console(highlight=False, soft_wrap=True)) as board:
        board.show([], found=2)
        board.show([done])
    out = capsys.readouterr().out
    assert "2 of 3 trainings were done before" in out
    assert f"3/3    {json.dumps(round(done.result()['train_eval']['err'], 4))}"[:9] in out
    assert "seed 0" in out
