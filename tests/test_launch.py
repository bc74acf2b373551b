"""What is decided before processes start, and written down after they ended; none is started here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from litmus import launch
from litmus.config import load_config, notes
from litmus.errors import Refused
from litmus.experiment import check, headline, make_classifier, make_data, make_trainer, open_run
from litmus.launch import commands, obituary, settle
from litmus.rank import is_gone, leave_with
from litmus.ranks import Place
from litmus.stopping import Signals
from litmus.strategy import Started, device_problems, trainer_options
from litmus.supervisor import Outcome
from litmus.tracking import find_run

TWO = ("train.devices=2", "train.accelerator=cpu", "tracking.system_metrics=false", "tracking.offline=true")
MLP = ("model.name=mlp", "model.depth=2", "model.width=8", "model.norm=none")


def config(*overrides):
    return load_config([], [*TWO, *MLP, *overrides])


def problems(found):
    return [f"{problem.where}: {problem.says}" for problem in found]


def test_the_batch_is_that_of_all_devices_unless_it_is_asked_of_each():
    assert config().batch_size == 128
    each = config("data.batch_per=device", "train.devices=4")
    assert each.batch_size == make_data(each).batch_size == 512
    assert config("data.batch_per=device", "train.nodes=3").batch_size == 768


@pytest.mark.parametrize(("how", "rate"), [("none", 0.2), ("linear", 0.8), ("sqrt", 0.4)])
def test_the_rate_follows_the_batch_as_asked_and_is_shown(how, rate, tmp_path):
    asked = config("data.batch_per=device", "train.devices=4", f"train.lr_scaling={how}", "optim.lr=0.2")
    data = make_data(asked)
    classifier = make_classifier(asked, data)
    assert classifier.optim["lr"] == asked.lr == pytest.approx(rate)
    place = Place(0, 4, local_rank=0, node=0, nodes=1, by="litmus")
    trainer = make_trainer(asked, None, [], folder=tmp_path, place=place)
    tracked = SimpleNamespace(dir=tmp_path, name="run")
    shown = headline(asked, data.info, classifier, trainer, tracked)
    assert f"lr {rate:g}" in shown
    assert (f"0.2 with {how} scaling for 4 devices" in shown) == (how != "none")
    assert "on 4 x cpu (ddp)" in shown
    assert "in batches of 512" in shown


def test_what_this_machine_does_not_have_is_refused_with_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto = "train.accelerator=auto"
    assert problems(device_problems(config(auto, "train.strategy=fsdp")))[0].startswith("train.strategy: needs GPUs")
    norm = ("model.norm=batch", "train.sync_bn=true")
    assert problems(device_problems(config(auto, *norm)))[0].startswith("train.sync_bn: needs GPUs")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert problems(device_problems(config(auto))) == ["train.devices: this process sees 1 GPU"]
    assert device_problems(config()) == []  # processes share processors


def test_a_last_batch_without_a_part_for_each_device_is_refused_before_anything_runs():
    data = make_data(config())  # 1258 images
    assert "each needs one" in problems(check(config("data.batch_size=1257"), data.info))[0]
    assert check(config("data.batch_size=1257", "data.drop_last=true"), data.info) == []


def test_batch_norm_that_sees_a_part_of_the_batch_is_noted():
    assert any("batch norm sees the 64 images of its device" in note for note in notes(config("model.norm=batch")))
    assert not any("its device" in note for note in notes(config()))


def test_several_machines_are_not_started_from_one():
    many = config("train.nodes=2")
    with pytest.raises(Refused, match="by torchrun or srun"):
        launch.fit(lambda: (many, None, ""), signals=Signals())


def test_lightning_starts_no_process_and_waits_as_long_as_asked():
    place = Place(3, 4, local_rank=1, node=1, nodes=2, by="srun")
    options = trainer_options(config("train.nodes=2", "train.timeout_sec=77"), place)
    environment = options["strategy"].cluster_environment
    assert isinstance(environment, Started)
    assert environment.creates_processes_externally
    ranks = (environment.global_rank(), environment.local_rank(), environment.node_rank(), environment.world_size())
    assert ranks == (3, 1, 1, 4)
    assert (options["devices"], options["num_nodes"]) == (2, 2)
    assert options["strategy"]._timeout.total_seconds() == 77


def test_each_rank_gets_its_threads_and_its_log_and_no_secret_on_its_command_line(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("litmus.ranks.os.sched_getaffinity", lambda pid: range(8), raising=False)
    asked = config("tracking.uri=http://me:sesame@host:5000")
    first, second = commands(tmp_path, asked, {"begin_at": None}, tmp_path / "meet")
    assert (first.log, second.log) == (None, tmp_path / "rank-1.log")
    assert [command.argv[-2] for command in (first, second)] == ["0", "1"]
    assert first.env["OMP_NUM_THREADS"] == "4"
    assert first.env["MLFLOW_TRACKING_URI"] == "http://me:sesame@host:5000"
    assert "sesame" not in " ".join([*first.argv, *second.argv])


def test_a_lost_rank_is_in_the_record_and_in_the_last_lines(tmp_path):
    opened = open_run(config(f"tracking.home={tmp_path}"), send="off")
    opened.tracked.hand_over()
    folder, outcome = opened.tracked.dir, Outcome(1, 1, "rank 1 was killed by SIGKILL")
    (folder / "rank-1.log").write_text("step 1\n\nout of memory\n")
    run_id = settle(folder, opened.config, outcome)
    run = find_run(str(folder), home=tmp_path)
    assert (run.status, run.tags["litmus.fail_reason"]) == ("FAILED", "rank 1 was killed by SIGKILL")
    text = obituary(folder, outcome, ["next     litmus fit --resume " + run_id])
    assert "rank 1 was killed by SIGKILL; all processes of the run have ended" in text
    assert "rank-1.log:\n  step 1\n  out of memory\nnext     litmus fit --resume" in text


def test_the_beginning_goes_to_the_ranks_in_plain_values(tmp_path):
    opened = open_run(config(f"tracking.home={tmp_path}"), send="off")
    beginning = json.loads(json.dumps(launch.beginning_of(opened)))
    assert beginning == {"resumed": False, "begin_at": None, "changed": False}
    opened.tracked.hand_over()
    assert load_config([Path(opened.tracked.dir) / launch.CONFIG]) == opened.config


def test_losing_another_process_is_told_from_a_failure_of_its_own():
    assert is_gone(RuntimeError("[tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1739"))
    assert is_gone(torch.distributed.DistNetworkError("unreachable"))
    assert not is_gone(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]"), 75, "is gone"),
        (torch.distributed.DistNetworkError("no answer"), 75, "is gone"),
        (RuntimeError("a step that fails"), 1, "rank 3 failed\nTraceback"),
    ],
)
def test_a_rank_says_whether_it_failed_or_lost_another(error, code, words, monkeypatch, tmp_path, capsys):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(launch, "run_rank", fails)
    assert leave_with([str(tmp_path), "meeting", "4", "3", "{}"]) == code
    assert words in capsys.readouterr().err
