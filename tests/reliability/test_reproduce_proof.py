"""Runs made by one process and reproduced by another, in worlds that are the same and in worlds that are not."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litmus.tracking import Run

ROOT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

SMALL = ["data.num_train=200", "data.batch_size=32", "train.epochs=2", "train.accelerator=cpu"]
LOCAL = ["tracking.offline=true", "tracking.system_metrics=false"]
MLP = ["model.name=mlp", "model.depth=3", "model.width=16", "optim.lr=0.05"]
CONV = ["model.depth=8", "model.width=4", "optim.lr=0.05"]

CONFIGS = {
    "mlp": MLP,
    "freeze, weights of a run": [*MLP, "seed=5", "freeze.layers=body", "freeze.until=1", "model.weights=run:mlp"],
    "plain": [*CONV, "model.name=plain", "schedule.name=cosine", "data.name=synthetic", "data.image_size=8"],
    "residual": [*CONV, "model.name=residual", "schedule.name=one_cycle"],
    "dropout": [*CONV, "model.name=residual", "model.keep_prob=0.8", "model.head_keep_prob=0.7"],
    "augmented": [*MLP, "augment.shift=0.1", "augment.rotate=15", "augment.erase=0.5", "augment.mixup=0.4"],
    "moving average": [*CONV, "train.ema_decay=0.9", "optim.name=adamw", "optim.lr=0.003"],
    "accumulated, clipped": [*MLP, "train.accumulate=2", "train.grad_clip=0.5", "optim.l2_lambda=1.0"],
    "early stopping": [
        *(*MLP, "train.epochs=12", "early_stopping.name=patience", "early_stopping.patience=1", "optim.lr=0.5"),
        "schedule.name=plateau",
    ],
    "steps, bf16": ["train.epochs=null", "train.steps=17", "train.val_every=5", "train.precision=bf16-mixed", *CONV],
}


def litmus(*argv, cwd, threads=1, source=ROOT / "src", path=(), env=None):
    """One command in a process of its own: exit code and what it said."""
    places = os.pathsep.join(map(str, [*path, source]))
    env = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": str(threads), **(env or {})}
    words = [sys.executable, "-m", "litmus.cli", *map(str, argv)]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def here_and_now(litmus, monkeypatch):
    """The same in this process, which saves the ten seconds that one takes to start."""

    def call(*argv, cwd, threads=1, env=None):
        monkeypatch.chdir(cwd)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        code, out, err = litmus(*argv)
        return code, out + err

    return call


def fit(call, cwd, name, overrides, **options):
    code, said = call("fit", f"name={name}", *SMALL, *LOCAL, *overrides, cwd=cwd, **options)
    assert code == 0, said


def reproduced(names, cwd, call=litmus, more=()):
    """Those of ``names`` that were identical to the end, made and reproduced with other defaults of threads."""
    found, said = [], {}
    for number, name in enumerate(names):
        word = re.sub(r"\W+", "-", name)
        threads = (1, CORES) if number % 2 else (CORES, 1)
        fit(call, cwd, word, [*CONFIGS[name], *more], threads=threads[0])
        code, said[name] = call("reproduce", word, cwd=cwd, threads=threads[1])
        if code == 0 and "\nIDENTICAL\n" in said[name] and "every number of result.json" in said[name]:
            found.append(name)
    return found, said


def test_two_runs_are_reproduced(tmp_path, here_and_now):
    names = list(CONFIGS)[:2]
    found, said = reproduced(names, tmp_path, here_and_now)
    assert found == names, said


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_every_run_is_reproduced_by_another_process(tmp_path, figure):
    found, said = reproduced(CONFIGS, tmp_path)
    lost = {name: text[-800:] for name, text in said.items() if name not in found}
    figure(
        "reproduce",
        f"{len(found)} of {len(CONFIGS)} identical",
        holds=not lost,
        note=f"{lost}" if lost else f"{', '.join(CONFIGS)}; steps, epochs, final weights and result, to the last bit",
    )


# --- refused ----------------------------------------------------------------------------------------------------------


class World:
    """A finished run on images from a folder, begun with weights from a file; and ways to change what it needs."""

    def __init__(self, cwd, call):
        self.cwd = cwd
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            folder = cwd / "photos" / label
            folder.mkdir(parents=True)
            for k in range(30):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{k}.png")
        data = ["data.name=image_folder", "data.path=photos", "data.num_train=30"]
        fit(call, cwd, "first", [*MLP, *data, "train.epochs=1"])
        shutil.copy(self.record("first") / "weights.safetensors", cwd / "start.safetensors")
        fit(call, cwd, "run", [*MLP, *data, "train.epochs=1", "model.weights=start.safetensors"])

    def record(self, name="run"):
        (directory,) = self.cwd.glob(f"mlruns/runs/{name}-*")
        return directory / "artifacts"

    def write(self, **fields):
        """Change the recorded fingerprint."""
        held = json.loads((self.record() / "fingerprint.json").read_text())
        held["decides"] |= fields
        return self.note("fingerprint.json", json.dumps(held))

    def note(self, name, text):
        """As if the run itself had recorded it so: a file changed by hand is refused before anything is compared."""
        with Run.reopen(self.record().parent) as run:
            run.log_text(text, name)
        return {}

    def package(self):
        """Another timm is the first on the path, for whoever asks which is installed."""
        folder = self.cwd / "site/timm-0.0.1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.0.1\n")
        return {"path": [self.cwd / "site"]}

    def switch(self):
        """A start-up file of the user's that trades precision for speed."""
        (self.cwd / "usual").mkdir()
        text = "import torch\ntorch.set_float32_matmul_precision('medium')\n"
        (self.cwd / "usual/sitecustomize.py").write_text(text)
        return {"path": [self.cwd / "usual"]}

    def code(self):
        shutil.copytree(ROOT / "src", self.cwd / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        with open(self.cwd / "src/litmus/optim.py", "a") as file:
            file.write("# edited\n")
        return {"source": self.cwd / "src"}

    def pixel(self):
        path = self.cwd / "photos/cat/7.png"
        pixels = np.array(Image.open(path))
        pixels[3, 4, 1] ^= 1
        Image.fromarray(pixels).save(path)
        return {}

    def splits(self):
        text = (self.record() / "config.yaml").read_text()
        assert "split_seed: 0" in text
        return self.note("config.yaml", text.replace("split_seed: 0", "split_seed: 1"))

    def weights(self):
        path = self.cwd / "start.safetensors"
        held = bytearray(path.read_bytes())
        held[-1] ^= 1
        path.write_bytes(held)
        return {}

    def lacking(self):
        (self.record() / "fingerprint.json").unlink()
        return {}


CHANGES = {  # what changes -> (how, the fields that must be named, and no other)
    "a pixel of an image": (World.pixel, "data"),
    "an environment variable of oneDNN": (lambda world: {"env": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}},
                                          "env.ONEDNN_DEFAULT_FPMATH_MODE"),
    "a package": (World.package, "timm"),
    "Python": (lambda world: world.write(python="3.10.0"), "python"),
    "more threads than cores": (lambda world: world.write(threads="4096"), "threads"),
    "a switch of torch": (World.switch, "matmul precision"),
    "a comment in the code": (World.code, "code"),
    "the seed of the splits": (World.splits, "config, splits"),
    "the device": (lambda world: world.write(device="NVIDIA H100 80GB HBM3"), "device"),
    "the weights it began with": (World.weights, "weights"),
    "the processor's instructions": (lambda world: {"env": {"ATEN_CPU_CAPABILITY": "default"}}, "instructions"),
    "a record from before": (World.lacking, "the record lacks fingerprint.json"),
}  # fmt: skip


def refused(names, cwd, call=litmus):
    """Those of ``names`` that were refused by the right fields, with nothing run."""
    made = World(cwd / "made", call)
    found, said = [], {}
    for number, name in enumerate(names):
        folder = cwd / str(number)
        shutil.copytree(made.cwd, folder)
        world = World.__new__(World)
        world.cwd = folder
        change, fields = CHANGES[name]
        before = sorted((folder / "mlruns/runs").iterdir())
        code, said[name] = call("reproduce", "run", cwd=folder, **change(world))
        untouched = sorted((folder / "mlruns/runs").iterdir()) == before
        if code == 3 and f"\nREFUSED: {fields}\n" in said[name] and untouched:
            found.append(name)
    return found, said


def test_two_changed_worlds_are_refused_by_the_field_that_changed(tmp_path, here_and_now):
    names = list(CHANGES)[:2]
    found, said = refused(names, tmp_path, here_and_now)
    assert found == names, said


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_every_changed_world_is_refused_by_the_field_that_changed(tmp_path, figure):
    found, said = refused(CHANGES, tmp_path)
    lost = {name: text[-800:] for name, text in said.items() if name not in found}
    figure(
        "refused",
        f"{len(found)} of {len(CHANGES)}",
        holds=not lost,
        note=f"{lost}" if lost else f"changed: {', '.join(CHANGES)}",
    )


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_run_whose_code_has_changed_since_is_identical_in_its_own(tmp_path):
    """Made with an uncommitted change, in a repository that went on."""

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / ".gitignore").write_text("mlruns/\n__pycache__/\n")
    optim = tmp_path / "src/litmus/optim.py"
    git("init", "-q", ".")
    git("add", ".")
    git("commit", "-q", "-m", "then")
    optim.write_text(optim.read_text() + "# then, not committed\n")
    source = tmp_path / "src"
    fit(litmus, tmp_path, "run", MLP, source=source)

    git("commit", "-q", "-a", "-m", "now")
    optim.write_text(optim.read_text() + "# now\n")
    code, said = litmus("reproduce", "run", cwd=tmp_path, source=source)
    assert code == 3
    assert "\nREFUSED: code\n" in said
    assert "--checkout" in said
    code, said = litmus("reproduce", "run", "--checkout", cwd=tmp_path, source=source)
    assert code == 0, said
    assert "\nIDENTICAL\n" in said
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert len(worktrees.stdout.splitlines()) == 1
    assert optim.read_text().endswith("# now\n")
