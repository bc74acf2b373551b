"""Files that are whole or not there."""

import errno
import os
import random
import resource

import pytest
import torch

from litmus import checkpoints
from litmus.checkpoints import (
    Damaged,
    Saved,
    check_plain,
    newest_whole,
    prune,
    read,
    saved,
    set_aside_after,
    superfluous,
    target,
    write,
)
from litmus.errors import DiskTrouble, Refused


def state(step, size=100):
    return {"global_step": step, "weights": torch.arange(float(size)) + step, "names": ["a", None, 1.5, True]}


def save(folder, step, kind="last", size=100):
    return write(state(step, size), target(folder, kind, step))


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << position % 8
    path.write_bytes(data)


def cut(path, length):
    path.write_bytes(path.read_bytes()[: length % path.stat().st_size])


def one(kind, step):
    return Saved(target(checkpoints.Path(), kind, step), kind, step, "0" * 32)


def test_what_was_written_is_read_and_named_by_its_digest(tmp_path):
    path = save(tmp_path, 7)
    assert path.name.startswith("last-000000007-")
    held = read(path)
    assert held.pop("weights").equal(state(7)["weights"])
    assert held == {"global_step": 7, "names": ["a", None, 1.5, True]}
    assert [(found.kind, found.step) for found in saved(tmp_path)] == [("last", 7)]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_newest_is_that_of_the_highest_step_whatever_the_files_times(tmp_path):
    paths = {step: save(tmp_path, step) for step in (30, 200, 9)}
    os.utime(paths[200], (0, 0))
    assert newest_whole(tmp_path).step == 200


@pytest.mark.parametrize("harm", [flip, cut], ids=["flipped", "cut"])
def test_a_damaged_file_is_named_and_the_one_before_is_taken(harm, tmp_path):
    rng = random.Random(0)
    for _ in range(10):
        save(tmp_path, 1)
        harm(save(tmp_path, 2), rng.randrange(2000))
        said = []
        assert newest_whole(tmp_path, say=said.append).step == 1
        assert (
            [line for line in said if "last-000000002" in line and "not those that were written" in line] == said != []
        )


def test_a_damaged_file_is_not_read_either(tmp_path):
    path = save(tmp_path, 1)
    flip(path, 700)
    with pytest.raises(Damaged, match=r"last-000000001.*not those that were written"):
        read(path)


def test_a_file_that_holds_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    torch.save({"state_dict": Harm()}, tmp_path / "some.ckpt")
    with pytest.raises(Damaged, match="cannot be read"):
        read(tmp_path / "some.ckpt")
    assert not (tmp_path / "harmed").exists()


def test_an_address_is_refused():
    with pytest.raises(Refused, match="only local files"):
        checkpoints.local_checkpoint("https://example.org/last.ckpt")


@pytest.mark.parametrize("value", [object(), {"a": [1, {2}]}, torch.nn.Linear(1, 1), checkpoints.Path()])
def test_only_tensors_and_plain_values_are_written(value, tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['x'\].*only tensors and plain values"):
        write({"x": value}, target(tmp_path, "last", 1))
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []
    check_plain({"x": [1, 2.0, "a", None, (True,), {"b": torch.ones(1)}]})


def test_an_error_of_the_disk_leaves_what_was_there(tmp_path, monkeypatch):
    before = save(tmp_path, 1)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskTrouble, match=r"No space left on device; the checkpoints in it are whole"):
        save(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == [before.name]
    assert newest_whole(tmp_path).step == 1


def test_a_limit_reached_inside_the_write_leaves_what_was_there(tmp_path):
    """The same from the kernel: a file may not grow beyond the limit, wherever in the file that is."""
    save(tmp_path, 1, size=100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1000, 20_000, 79_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(DiskTrouble):
                save(tmp_path, 2, size=20_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(list(tmp_path.iterdir())) == 1
        assert newest_whole(tmp_path).step == 1


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    seen = []
    saving = torch.save
    monkeypatch.setattr(
        torch, "save", lambda *args: (saving(*args), seen.append([one.name for one in tmp_path.glob("last*")]))
    )
    save(tmp_path, 1)
    assert seen == [[]]


def test_the_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """The order that a loss of power needs: data, then the name, then the folder."""
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append("file" if os.fstat(handle).st_mode & 0o100000 else "folder")
    )
    replace = checkpoints.Path.replace
    monkeypatch.setattr(checkpoints.Path, "replace", lambda path, to: (done.append("name"), replace(path, to))[1])
    save(tmp_path, 1)
    assert done == ["file", "name", "folder"]


def test_the_best_that_a_kept_last_knows_of_is_kept():
    found = [one("last", step) for step in (100, 200, 300)] + [one("best", step) for step in (50, 90, 150, 190, 290)]
    assert {(gone.kind, gone.step) for gone in superfluous(found)} == {
        ("last", 100),
        ("best", 50),
        ("best", 90),
        ("best", 150),
    }
    assert superfluous([one("best", 5), one("best", 6)]) == [one("best", 5)]


def test_pruning_keeps_two(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
        prune(tmp_path)
    assert [found.step for found in saved(tmp_path)] == [5, 4]


def test_what_lies_beyond_the_step_is_out_of_the_way(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
        save(tmp_path, step, kind="best")
    flip(saved(tmp_path, "last")[0].path, 100)
    (tmp_path / ".last-000000004-99.ckpt.part").write_bytes(b"half")
    set_aside_after(tmp_path, 2)
    assert {(found.kind, found.step) for found in saved(tmp_path)} == {(k, s) for k in ("last", "best") for s in (1, 2)}
    assert [entry.name.endswith(".damaged") for entry in tmp_path.iterdir() if "000000003" in entry.name] == [True]
    assert not list(tmp_path.glob(".*"))
