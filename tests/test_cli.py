"""What a person types and what they see."""

import json
import re
import signal
import subprocess
import sys

from litmus.tracking import find_run

FAST = [
    *("model.name=mlp", "model.depth=2", "model.width=16", "train.epochs=2", "optim.lr=0.05"),
    *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
]


def test_fit_runs_test_and_sync_tell_one_story(here, litmus):
    code, said, _ = litmus("fit", *FAST, "augment.shift=0.1")
    assert code == 0
    err = re.search(r"test/err (\S+)", said)[1]
    run = re.search(r"litmus diagnose (\w+)", said)[1]
    assert re.search(r"^epoch +train/loss +train/err +val/loss", said, flags=re.MULTILINE)

    code, said, _ = litmus("runs")
    assert code == 0
    assert run in said
    assert err in said
    assert "FINISHED" in said

    code, said, _ = litmus("test", run)
    assert code == 0
    assert f"test/err {err}" in said
    assert "the run reported the same" in said

    code, _, said = litmus("test", "nosuchrun")
    assert code == 2
    assert "'nosuchrun'" in said


def test_nothing_is_written_when_input_is_refused(here, litmus):
    code, out, said = litmus("fit", "model.depth=21", "optim.lrr=1")
    assert (code, out) == (2, "")
    assert said.splitlines()[0] == "config is refused, 2 problems:"
    assert list(here.iterdir()) == []


def test_a_diverging_run_exits_65_and_says_what_may_help(here, litmus):
    code, _, said = litmus("fit", *FAST, "optim.name=sgd", "optim.lr=1000", "model.depth=6")
    assert code == 65
    assert re.search(r"the (loss|gradient) of step \d+ \(epoch 1\) is not finite; the weights were not touched", said)
    assert "litmus lr" in said
    assert "Traceback" not in said


def test_ctrl_c_ends_the_run_as_killed_and_exits_130(here):
    argv = [sys.executable, "-m", "litmus.cli", "fit", *FAST, "train.epochs=100000", "name=stopped"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout)
        assert any("2/100,000" in line for line in lines)  # training is under way
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped = find_run("stopped", home="mlruns")
    assert stopped.status == "KILLED"
    assert re.search(
        rf"stopped by SIGINT\nsaved +step \d+, in .*\.ckpt\nnext +litmus fit --resume {stopped.id8}\n", err
    )
    assert "Traceback" not in err


def test_check_trains_nothing_and_draws_what_training_would_see(here, litmus):
    code, said, _ = litmus("check", *FAST, "augment.rotate=20", "--show")
    assert code == 0
    assert "1,258 train / 180 val / 359 test" in said
    picture = here / re.search(r"picture +(\S+)", said)[1]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not (here / "mlruns/runs").exists()


def test_lr_suggests_a_rate_and_leaves_a_picture_and_a_run(here, litmus):
    code, said, _ = litmus("lr", *FAST, "--steps", "60")
    assert code == 0
    rate = float(re.search(r"suggested optim.lr = (\S+);", said)[1])
    assert 1e-4 < rate < 10
    assert said.splitlines()[-1].endswith(f"optim.lr={rate:.2g}")
    assert (here / re.search(r"picture +(\S+)", said)[1]).exists()
    _, said, _ = litmus("runs")
    assert re.search(r"\blr\b", said)


def test_lr_refuses_a_range_upside_down(here, litmus):
    code, _, said = litmus("lr", *FAST, "--low", "1", "--high", "0.1")
    assert code == 2
    assert "--low = 1.0: must be > 0 and < --high, 0.1" in said


def test_runs_without_a_store_says_how_to_make_one(here, litmus):
    code, said, _ = litmus("runs")
    assert code == 0
    assert "litmus fit" in said


def test_sync_says_when_nothing_is_left(here, litmus):
    code, said, _ = litmus("sync")
    assert (code, said.split(";")[0]) == (0, "nothing to send")
    code, _, said = litmus("sync", "abcd", "--all")
    assert code == 2
    assert "--all = 'abcd': sends every run" in said


def test_files_that_are_no_longer_what_the_run_recorded_are_refused_by_name_and_digest(here, litmus):
    litmus("fit", *FAST, "name=first")
    artifacts = next((here / "mlruns/runs").glob("first-*/artifacts"))
    for name in ("weights.safetensors", "config.yaml", "result.json"):
        path, whole = artifacts / name, (artifacts / name).read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        code, _, said = litmus("test", "first")
        assert code == 2, name
        assert re.search(rf"{path}: is not what run \w+ recorded: digest \w{{32}}, recorded \w{{32}}", said), name
        path.write_bytes(whole)
    assert litmus("test", "first")[0] == 0


def test_what_is_printed_of_a_refusal_or_a_traceback_holds_no_secret(here, litmus, monkeypatch):
    from litmus import commands

    code, _, said = litmus("fit", "hub.token=correct-horse", "optim.lr=-1")
    assert code == 2
    assert "hub = {'token': '[masked]'}" in said
    assert "correct-horse" not in said

    def failing(*args, **kwargs):
        raise RuntimeError("https://me:correct-horse@example.org does not answer")

    monkeypatch.setattr(commands, "list_runs", failing)
    code, _, said = litmus("runs")
    assert code == 1
    assert "RuntimeError: https://me:[masked]@example.org does not answer" in said


def test_schema_prints_or_writes_the_same_json(here, litmus):
    _, said, _ = litmus("schema")
    litmus("schema", "--out", "schema.json")
    assert json.loads(said) == json.loads((here / "schema.json").read_text())
