"""Inputs made to do harm: refused by name, and nothing of them runs or lands anywhere."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from litmus.data import archives
from litmus.data.archives import checked_extraction
from litmus.errors import Refused
from litmus.tracking import Run, find_run, list_runs
from litmus.tracking.destination import resolve
from litmus.tracking.spool import Spool
from litmus.tracking.store import Store
from tests.tracking.conftest import FakeServer

SMALL = ["model.name=residual", "model.depth=8", "model.width=4", "tracking.offline=true"]


class Code:
    """Unpickling one writes a file named ``ran``."""

    def __reduce__(self):
        return os.mkdir, (str(Path.cwd() / "ran"),)


def listed(folder):
    """Every file and folder with its size, links not followed."""
    return {path: path.lstat().st_size for path in folder.rglob("*")}


# --- archives: through the door that torchvision's data sets use ------------------------------------------------------


def tar(path, *names, kind=tarfile.REGTYPE, link="", mode=0o644, content=b"x"):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, mode
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, *names, mode=0o644, content=b"x"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename, entry.orig_filename = name, name
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def encrypted(path):
    content = bytearray(zipped(path, "a").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory at its end
    path.write_bytes(content)
    return path


def tar_and_zip(path):
    tar(path, "../out")
    harmless = zipped(path.with_name("harmless.zip"), "a")
    path.write_bytes(path.read_bytes() + harmless.read_bytes())
    harmless.unlink()
    return path


ARCHIVES = {
    "tar that climbs": lambda: tar(Path("a.tar"), "fine", "../out"),
    "tar with an absolute name": lambda: tar(Path("a.tar.gz"), "fine", f"{Path.cwd()}/out"),
    "tar with a link out": lambda: tar(Path("a.tar"), "out", kind=tarfile.SYMTYPE, link=str(Path.cwd())),
    "tar with a hard link": lambda: tar(Path("a.tar"), "out", kind=tarfile.LNKTYPE, link="../a.tar"),
    "tar with a device": lambda: tar(Path("a.tar"), "out", kind=tarfile.CHRTYPE),
    "tar with a pipe": lambda: tar(Path("a.tar"), "out", kind=tarfile.FIFOTYPE),
    "tar with a setuid file": lambda: tar(Path("a.tar"), "out", mode=0o4755),
    "tar with a name twice": lambda: tar(Path("a.tar"), "a/b", "a/b"),
    "tar that is a zip as well": lambda: tar_and_zip(Path("a.tar")),
    "tar bomb": lambda: tar(Path("a.tar.gz"), "a", content=bytes(4_000_000)),
    "zip that climbs": lambda: zipped(Path("a.zip"), "a/../../out"),
    "zip with a drive": lambda: zipped(Path("a.zip"), "C:\\out"),
    "zip with a link": lambda: zipped(Path("a.zip"), "out", mode=0o120777),
    "zip with names that differ in case": lambda: zipped(Path("a.zip"), "a/b", "A/B"),
    "zip under a password": lambda: encrypted(Path("a.zip")),
    "zip bomb": lambda: zipped(Path("a.zip"), "a", content=bytes(4_000_000)),
    "gz bomb": lambda: Path("a.gz").write_bytes(gzip.compress(bytes(4_000_000))) and Path("a.gz"),
}


# --- command lines ----------------------------------------------------------------------------------------------------


def written(name, content):
    Path(name).write_bytes(content) if isinstance(content, bytes) else Path(name).write_text(content)
    return name


def pipe(name):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    os.mkfifo(name)
    return name


def photos():
    from PIL import Image

    for name in ("cat", "dog"):
        for number in range(4):
            os.makedirs(f"photos/{name}", exist_ok=True)
            Image.new("L", (8, 8), 50 * number + len(name)).save(f"photos/{name}/{number}.png")
    pipe("photos/dog/pipe.png")
    return ["data.name=image_folder", "data.path=photos", "data.root=cache"]


def pickled(name):
    return [f"model.weights={written(name, pickle.dumps({'weight': Code()}))}"]


def torch_zip(name):
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "callbacks": Code()}, name)
    return [f"model.weights={name}"]


def tensors(name, change=lambda content: content):
    save_file({"stem.0.weight": torch.zeros(3, 3)}, name)
    return [f"model.weights={written(name, change(Path(name).read_bytes()))}"]


def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    return "\n".join(lines) + "\n"


PYTHON_TAG = "name: !!python/object/apply:os.mkdir [ran]\n"
COMMANDS = {
    # arguments of `litmus check`, a word of the refusal
    "config that runs code": (lambda: [written("a.yaml", PYTHON_TAG)], "a.yaml"),
    "config whose aliases unfold without end": (lambda: [written("a.yaml", bomb())], "a.yaml"),
    "config that contains itself": (lambda: [written("a.yaml", "a: &a [*a]\n")], "a.yaml"),
    "config that is a pipe": (lambda: [pipe("a.yaml")], "a.yaml"),
    "config that is a device": (lambda: ["/dev/zero"], "/dev/zero"),
    "run name that is a path": (lambda: ["name=../../out"], "name"),
    "data set name that is a path": (lambda: ["data.name=../../out"], "data.name"),
    "package path that climbs": (lambda: ["model.weights=package:timm/../../out.pt"], "model.weights"),
    "image that is a pipe": (photos, "photos/dog/pipe.png"),
    "weights that are a device": (lambda: ["model.weights=/dev/zero"], "/dev/zero"),
    "weights from the web": (lambda: ["model.weights=http://127.0.0.1:9/w.pt"], "model.weights"),
    "weights from a bucket": (lambda: ["model.weights=s3://bucket/w.ckpt"], "model.weights"),
    "pickle with code as .ckpt": (lambda: pickled("w.ckpt"), "w.ckpt"),
    "pickle with code as .pth": (lambda: pickled("w.pth"), "w.pth"),
    "pickle with code as .safetensors": (lambda: pickled("w.safetensors"), "w.safetensors"),
    "torch file with code beside the tensors": (lambda: torch_zip("w.pt"), "w.pt"),
    "safetensors of other shapes": (lambda: tensors("w.safetensors"), "w.safetensors"),
    "safetensors that is torn": (lambda: tensors("w.safetensors", lambda content: content[:-5]), "w.safetensors"),
    "safetensors with a header of 8 EB": (
        lambda: tensors("w.safetensors", lambda content: struct.pack("<Q", 2**63 - 1) + content[8:]),
        "w.safetensors",
    ),
    "safetensors whose tensor lies outside it": (
        lambda: tensors("w.safetensors", lambda content: content.replace(b"[0,36]", b"[0,99]")),
        "w.safetensors",
    ),
}


# --- run directories and stores of others -----------------------------------------------------------------------------


def run_directory(config="name: a\n", weights=None, artifact=None):
    """A run directory as a stranger may send it."""
    with Run.start(home="theirs", experiment="e", name="n", send="off") as run:
        pass
    for name, content in (("config.yaml", config.encode()), ("weights.safetensors", weights)):
        if content is not None:
            (run.dir / "artifacts").mkdir(exist_ok=True)
            (run.dir / "artifacts" / name).write_bytes(content)
    with Spool(run.dir) as spool:
        spool.append([(1, "artifact", artifact, json.dumps({"bytes": 1}), None)] if artifact else [])
    return run.dir


def linked():
    Path("not-theirs.txt").write_text("private")
    directory = run_directory(artifact="link.txt")
    (directory / "artifacts/link.txt").symlink_to(Path("not-theirs.txt").resolve())
    return directory


DIRECTORIES = {
    "run whose artifact climbs": (lambda: ["sync", run_directory(artifact="../../../not-theirs.txt")], "not-theirs"),
    "run whose artifact is absolute": (lambda: ["sync", run_directory(artifact="/etc/hostname")], "/etc/hostname"),
    "run whose artifact is a link": (lambda: ["sync", linked()], "link.txt"),
    "run whose config runs code": (lambda: ["test", run_directory(PYTHON_TAG)], "config.yaml"),
    "run whose weights are a pickle": (
        lambda: ["test", run_directory(weights=pickle.dumps(Code()))],
        "weights.safetensors",
    ),
}


class Hostile(FakeServer):
    """An MLflow server whose list of artifacts climbs."""

    def answer(self, path, body):
        if path.endswith("/mlflow-artifacts/artifacts"):
            return 200, {"files": [{"path": "config.yaml", "is_dir": False}, {"path": "../../out", "is_dir": False}]}
        return super().answer(path, body)


def from_a_hostile_server():
    server = Hostile(Path("server").resolve())
    try:
        with Run.start(home="theirs", uri=server.uri, experiment="e", name="n", send="thread") as run:
            pass
        server.runs[run.id]["info"]["artifact_uri"] = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/x"
        (stored,) = list_runs(home="mine", uri=server.uri)
        before = listed(Path())
        with pytest.raises(Refused, match="cannot be used: Invalid path") as refused:
            stored.artifact("config.yaml")
        return str(refused.value), before
    finally:
        server.down()


def from_a_store_with_a_link():
    Path("not-theirs.txt").write_text("private")
    store = Store(resolve(None, "theirs"))
    run_id = store.attach(uid="0" * 32, experiment="e", name="n", started_at=1, tags={})
    folder = store._local_artifacts(run_id)
    folder.mkdir(parents=True)
    (folder / "config.yaml").symlink_to(Path("not-theirs.txt").resolve())
    before = listed(Path())
    with pytest.raises(Refused, match="out of the run's artifacts") as refused:
        find_run(run_id, home="theirs").artifact("config.yaml")
    return str(refused.value), before


STORES = {
    "server whose artifact climbs": (from_a_hostile_server, "127.0.0.1"),
    "store whose artifact is a link": (from_a_store_with_a_link, "config.yaml"),
}


# ----------------------------------------------------------------------------------------------------------------------


def refuse_archive(make, monkeypatch):
    monkeypatch.setattr(archives, "_ALWAYS_FINE", 10**6)
    from torchvision.datasets.utils import extract_archive

    path, before = make(), listed(Path())
    with checked_extraction(), pytest.raises(Refused) as refused:
        extract_archive(str(path), "to")
    assert str(path) in str(refused.value)
    return before


def refuse_command(argv, word, litmus):
    before = listed(Path())
    code, out, said = litmus(*argv)
    assert code == 2, said
    assert word in said
    assert "Traceback" not in out + said
    return before


CASES = [*ARCHIVES, *COMMANDS, *DIRECTORIES, *STORES]


def attempt(name, folder, litmus, monkeypatch):
    """Carry out one case in an empty folder; AssertionError if it is not refused, or leaves anything."""
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    if name in ARCHIVES:
        before = refuse_archive(ARCHIVES[name], monkeypatch)
    elif name in COMMANDS:
        make, word = COMMANDS[name]
        before = refuse_command(["check", *SMALL, *make()], word, litmus)
    elif name in DIRECTORIES:
        make, word = DIRECTORIES[name]
        before = refuse_command([*make(), "--home", "mine"], word, litmus)
    else:
        make, word = STORES[name]
        said, before = make()
        assert word in said
    ours = {Path("cache"), Path("mine")}  # where a command keeps its own files
    new = {path for path in listed(Path()).keys() - before.keys() if not ours & {path, *path.parents}}
    assert {path for path in new if not path.name.endswith(("-wal", "-shm", ".lock"))} == set()  # sqlite's own
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


@pytest.mark.parametrize("name", CASES)
def test_a_malicious_input_is_refused_by_name_and_leaves_nothing(name, tmp_path, litmus, monkeypatch):
    attempt(name, tmp_path / "here", litmus, monkeypatch)
    assert "ran" not in {path.name for path in tmp_path.rglob("*")}


@pytest.mark.proof
def test_every_malicious_input_is_refused(figure, tmp_path, litmus, monkeypatch):
    failed = []
    for number, name in enumerate(CASES):
        try:
            attempt(name, tmp_path / str(number) / "here", litmus, monkeypatch)
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    figure("malicious", f"{len(CASES) - len(failed)} of {len(CASES)}", holds=not failed, note="; ".join(failed))


def test_the_code_that_these_inputs_carry_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Code()))
    assert (tmp_path / "ran").is_dir()
