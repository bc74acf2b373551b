"""``litmus compare`` on trainings of a second: three arms, three seeds each."""

import base64
import json
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
from PIL import Image

from litmus.config import load_config
from litmus.experiment import run
from litmus.tracking import find_run, list_runs
from litmus.tracking.run import Run

FAST = [
    *("model.name=mlp", "model.depth=2", "train.epochs=1", "data.batch_size=256", "optim.lr=0.1"),
    *("data.num_train=256", "tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with 9 runs, w<width>-s<seed>, and one of three classes."""
    folder = tmp_path_factory.mktemp("trained")
    silent = lambda line: None  # noqa: E731
    for width in (4, 16, 64):
        for seed in range(3):
            more = [f"model.width={width}", f"seed={seed}", f"name=w{width}-s{seed}", f"tracking.home={folder}/mlruns"]
            run(load_config([], [*FAST, *more]), say=silent)
    run(load_config([], [*FAST, "data.classes=[0,1,2]", "name=few", f"tracking.home={folder}/mlruns"]), say=silent)
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    """The folder with the runs in mlruns; what a test compares is gone after it."""
    monkeypatch.chdir(trained)
    known = {one.uid for one in list_runs()}
    yield trained
    for one in list_runs():
        if one.uid not in known:
            shutil.rmtree(one.dir)
    shutil.rmtree(trained / "mlruns/compare", ignore_errors=True)


def compared():
    """The run that recorded the comparison, and its numbers."""
    found = find_run("latest")
    return found, json.loads(found.artifact("comparison.json").read_text())


def test_arms_are_compared_printed_drawn_and_recorded(here, litmus):
    code, said, err = litmus("compare", "--where", "model.width=4,16,64", "--where", "name!=few")
    assert (code, err) == (0, "")
    assert "9 runs in 3 arms; the reference is width=4" in said
    values = {
        width: [find_run(f"w{width}-s{seed}").metrics["best/val_err"] for seed in range(3)] for width in (4, 16, 64)
    }
    assert re.search(rf"^width=64 +3 +{sum(values[64]) / 3:.4f} \(", said, flags=re.MULTILINE)
    difference = 100 * sum(b - a for a, b in zip(values[4], values[64], strict=True)) / 3
    lower = sum(b < a for a, b in zip(values[4], values[64], strict=True))
    row = rf"^width=64 +{re.escape(f'{difference:+.2f}')} \(.*\) +{lower} of 3 +\S+ +\S+ +undecided +3 shared seeds"
    assert re.search(row, said, flags=re.MULTILINE)
    assert "p = 0.125 at best" in said
    assert re.search(r"^model\.width +4 +16 +64$", said, flags=re.MULTILINE)
    assert "chosen by validation" in said
    assert re.search(
        r"^next     2 more seeds for width=64: litmus fit mlruns/runs/w64-s0-\w+/artifacts/config.yaml seed=3$",
        said, flags=re.MULTILINE,
    )  # fmt: skip

    stored, numbers = compared()
    assert (stored.kind, stored.status, stored.experiment) == ("compare", "FINISHED", "litmus/digits")
    assert [one["val_err"] for one in numbers["arms"]] == pytest.approx([sum(values[w]) / 3 for w in (4, 16, 64)])
    assert numbers["arms"][0]["against_reference"] is None
    assert stored.history("compare/val_err") == [(i, one["val_err"]) for i, one in enumerate(numbers["arms"])]
    assert len(stored.tags["litmus.compared"].split()) == 9
    names = [f"pictures/{name}.{kind}" for name in ("curves", "errors", "parallel") for kind in ("png", "svg")]
    assert {*names, "compare.html", "comparison.json"} == set(stored.artifacts())
    for path in re.findall(r"^(?:picture|numbers|page) +(\S+)$", said, flags=re.MULTILINE):
        assert (here / path).is_file()


def test_the_page_holds_everything_and_is_recorded_as_it_is(here, litmus):
    _, said, _ = litmus("compare", "w4-s0", "w16-s0", "w64-s0", "--name", "three")
    page = here / "mlruns/compare/three/compare.html"
    assert f"page     {page.relative_to(here)}" in said
    assert page.read_bytes() == find_run("three").artifact("compare.html").read_bytes()  # no picture was masked
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 3
    for name, coded in zip(("curves", "errors", "parallel"), pictures, strict=True):
        assert base64.b64decode(coded) == (page.parent / f"{name}.png").read_bytes()
        assert max(map(len, coded.split())) == 16
    for word in ("width=16", "w64-s0", "Against the reference", find_run("w4-s0").id8):
        assert word in text


def test_the_same_question_again_replaces_its_files_and_two_arms_have_no_parallel_picture(here, litmus):
    litmus("compare", "w4-s0", "w16-s0")
    (folder,) = (here / "mlruns/compare").iterdir()
    (folder / "parallel.png").write_bytes(b"stale")
    litmus("compare", "w4-s0", "w16-s0")
    assert sorted(path.name for path in (here / "mlruns/compare").iterdir()) == [folder.name]
    assert not (folder / "parallel.png").exists()
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 1000


def test_single_runs_are_networks_and_their_answers_are_compared_on_request(here, litmus):
    _, said, _ = litmus("compare", "w4-s0", "w64-s0")
    assert "images, unpaired (Newcombe)" in said
    assert "compared as networks" in said
    _, said, _ = litmus("compare", "w4-s0", "w64-s0", "--images")
    only = re.search(r"the same 180 images, only one wrong: (\d+) and (\d+) \(McNemar\)", said)
    errors = [json.loads(find_run(f"w{w}-s0").artifact("result.json").read_text()) for w in (4, 64)]
    wrong = [one["val"]["num_errors"] for one in errors]
    assert int(only[1]) - int(only[2]) == wrong[1] - wrong[0]
    test = re.search(r"on the same 359 test images: only one wrong (\d+) and (\d+), McNemar p ", " ".join(said.split()))
    assert int(test[1]) - int(test[2]) == errors[1]["test"]["num_errors"] - errors[0]["test"]["num_errors"]
    assert "now errs on" not in said
    narrow = compared()[1]["arms"][1]["against_reference"]
    assert narrow["compared_by"] == "same images"


def test_images_need_single_runs_on_the_same_images(here, litmus):
    code, out, said = litmus("compare", "w4-s0", "w4-s1", "w64-s0", "--images")
    assert (code, out) == (2, "")
    assert "--images: compares arms of one run with each other" in said
    code, _, said = litmus("compare", "w4-s0", "few", "--images", "--allow-different")
    assert code == 2
    assert "was not validated on the images of run" in said


def test_weights_that_answer_otherwise_are_noticed(here, litmus):
    stored = find_run("w4-s0")
    kept = (stored.dir / "artifacts/result.json").read_text()
    changed = json.loads(kept)
    changed["val"]["num_errors"] += 1
    with Run.reopen(stored.dir) as record:
        record.log_text(json.dumps(changed), "result.json")
    try:
        _, said, _ = litmus("compare", "w4-s0", "w64-s0", "--images")
    finally:
        with Run.reopen(stored.dir) as record:
            record.log_text(kept, "result.json")
    assert re.search(r"note +run \w+ now errs on \d+ val images, its record says \d+", said)


def test_the_reference_is_an_arm_a_value_or_a_run(here, litmus):
    names = [f"w{width}-s{seed}" for width in (4, 64) for seed in range(2)]
    for wanted in ("width=64", "64", "w64-s1"):
        code, said, _ = litmus("compare", *names, "--reference", wanted)
        assert code == 0
        assert "the reference is width=64" in said
    code, _, said = litmus("compare", *names, "--reference", "width=65")
    assert code == 2
    assert "is neither an arm nor a compared run; did you mean 'width=64'?" in said
    code, _, said = litmus("compare", *names, "--reference", "w16-s0")
    assert code == 2
    assert "is a run, but in none of the arms" in said


def test_wrong_input_is_refused_all_at_once_and_writes_nothing(here, litmus):
    before = sorted(path for path in (here / "mlruns").rglob("*") if "spool" not in path.name)
    code, out, said = litmus("compare", "w4-s0", "w4-s00", "w4-s0", "--name", "../x", "--by", "model.widt")
    assert (code, out) == (2, "")
    assert said.splitlines()[0] == "comparison is refused, 4 problems:"
    assert "'../x': is a name, not a path" in said
    assert "'w4-s00': is unknown; did you mean 'w4-s0'?" in said
    assert "is the same run as 'w4-s0'" in said
    assert "no run has it; did you mean 'model.width'?" in said
    for argv, says in (
        (["w4-s0"], "takes two runs or more"),
        ([], "takes two runs or more"),
        (["w4-s0", "w16-s0", "--where", "optim.lr=0.1"], "not both"),
        (["w4-s0", "w16-s0", "--study", "x"], "not both"),
        (["--where", "optim.lr"], "reads KEY=VALUE"),
        (["w4-s0", "w4-s1"], "there is one arm"),
        (["--study", "nosuch"], "there is no study"),
    ):
        code, out, said = litmus("compare", *argv)
        assert (code, out) == (2, ""), argv
        assert says in said, argv
    assert sorted(path for path in (here / "mlruns").rglob("*") if "spool" not in path.name) == before


def test_other_classes_are_refused_unless_allowed(here, litmus):
    code, _, said = litmus("compare", "w4-s0", "few")
    assert code == 2
    assert "--allow-different" in said
    code, said, _ = litmus("compare", "w4-s0", "few", "--allow-different")
    assert code == 0
    assert "unfair   the images differ (data digest)" in said


def test_what_runs_are_called_is_escaped_and_secrets_are_masked(here, litmus, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "correct-horse-battery")
    stored = find_run("w4-s0")
    db = sqlite3.connect(stored.dir / "spool.sqlite")
    db.execute("UPDATE meta SET value = '<b>correct-horse-battery' WHERE key = 'name'")
    db.commit()
    try:
        litmus("compare", stored.uid, "w16-s0", "--name", "escaped")
    finally:
        db.execute("UPDATE meta SET value = 'w4-s0' WHERE key = 'name'")
        db.commit()
        db.close()
    text = (here / "mlruns/compare/escaped/compare.html").read_text()
    assert "&lt;b&gt;[masked]" in text
    assert "correct-horse" not in text


def test_a_run_that_only_the_store_holds_is_compared(here, litmus):
    litmus("sync", "w16-s1")
    stored = find_run("w16-s1")
    aside = here / "aside"
    shutil.move(stored.dir, aside)
    try:
        code, said, _ = litmus("compare", "w4-s1", "w16-s1")
        assert find_run("w16-s1").dir is None
        assert code == 0
        assert "2 runs in 2 arms" in said
        assert f"{stored.metrics['best/val_err']:.4f}" in said
    finally:
        shutil.move(aside, stored.dir)


def test_a_decided_comparison_ends_with_the_best_run(here, litmus):
    _, said, _ = litmus("compare", "w4-s0", "w64-s0")
    best = min((find_run(name) for name in ("w4-s0", "w64-s0")), key=lambda one: one.metrics["best/val_err"])
    verdict = compared()[1]["arms"][1]["against_reference"]["verdict"]
    assert verdict == "better"
    assert said.splitlines()[-1] == f"next     litmus diagnose {best.id8}    or    litmus ui"


def test_comparing_loads_neither_torch_nor_mlflow(here):
    code = """
import sys
from litmus.cli import app
app(["compare", "w4-s0", "w64-s0"], standalone_mode=False)
print([name for name in ("torch", "mlflow", "optuna") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
