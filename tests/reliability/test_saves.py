"""The moment of saving: killed in it, the disk full in it, the file damaged after it."""

import os
import random
import subprocess
import time

import pytest
import torch

from litmus.checkpoints import damage, newest_whole, prune, read, saved, target, write
from litmus.errors import DiskTrouble
from tests.reliability import children
from tests.reliability.training import EVERYTHING, differing, merged, train


def save_for_ever(folder, size, temporary):
    """Save state after state, and say after each that it is safe."""
    os.environ["TMPDIR"] = temporary
    generator = torch.Generator().manual_seed(0)
    tensors = {"weights": torch.randn(size, generator=generator)}
    known = saved(folder, "last")
    for step in range(known[0].step + 1 if known else 1, 10**6):
        write({"global_step": step, **tensors}, target(folder, "last", step))
        prune(folder)
        with open(folder / "safe.txt", "w") as file:
            file.write(str(step))


def kill_in_save(folder, rng, *, kills, temporary, size=500_000):
    """Kill a process that does nothing but save, ``kills`` times; returns what was not readable afterwards."""
    folder.mkdir(parents=True)
    wrong = []
    for _ in range(kills):
        child = children.start(save_for_ever, folder, size, temporary, log=folder.with_suffix(".log"))
        until = time.monotonic() + 60
        before = newest_whole(folder)
        while (found := saved(folder, "last")) == [] or (before and found[0].step == before.step):
            assert time.monotonic() < until, folder.with_suffix(".log").read_text()
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.join()
        try:
            safe = int((folder / "safe.txt").read_text() or 0)
        except FileNotFoundError:
            safe = 0
        wrong += [one.path.name for one in saved(folder) if damage(one.path)]
        found = newest_whole(folder)
        if found is None or found.step < safe or read(found.path)["global_step"] != found.step:
            wrong.append(f"step {safe} was safe, found {found}")
    return wrong


def test_a_save_that_is_killed_leaves_the_state_before_it(tmp_path):
    assert kill_in_save(tmp_path / "saves", random.Random(0), kills=5, temporary=str(tmp_path)) == []


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_two_hundred_kills_in_a_save(figure, tmp_path):
    rng = random.Random(1)
    other = "/dev/shm" if os.path.isdir("/dev/shm") and os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev else ""
    wrong = kill_in_save(tmp_path / "same", rng, kills=100, temporary=str(tmp_path))
    wrong += kill_in_save(tmp_path / "other", rng, kills=100, temporary=other or str(tmp_path))
    note = f"temporary folder in {'another file system for half of them' if other else 'the same file system only'}"
    figure(
        "save_kills", f"{200 - len(wrong)} of 200", holds=not wrong, note=note + "".join(f"; {w}" for w in wrong[:3])
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB; skipped where mounting one is not allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this user has not")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_and_save(folder, free):
    """Leave ``free`` bytes, try to save 1 MB more than that; returns what is wrong with what is left."""
    before = newest_whole(folder)
    filler = folder / "filler"
    space = os.statvfs(folder)
    filler.write_bytes(b"\0" * max(0, space.f_bavail * space.f_frsize - free))
    try:
        write({"global_step": 9, "weights": torch.zeros(300_000)}, target(folder, "last", 9))
    except DiskTrouble as error:
        says = str(error)
    else:
        return ["a save of 1.2 MB succeeded on a full disk"]
    finally:
        filler.unlink()
    after = newest_whole(folder)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    wrong = [] if after == before and after is not None else [f"{before} became {after}"]
    return wrong + ([f"left behind {left}"] if left else []) + ([] if "No space left" in says else [says])


def test_a_full_disk_leaves_the_state_before(small_disk):
    write({"global_step": 1, "weights": torch.ones(1000)}, target(small_disk, "last", 1))
    assert [found for free in (0, 8192, 700_000) for found in fill_and_save(small_disk, free)] == []


def test_a_run_on_a_full_disk_exits_74_and_goes_on_once_there_is_room(small_disk, litmus, tmp_path):
    import json

    config = merged(EVERYTHING, {"tracking": {"home": str(small_disk)}, "train": {"epochs": 2}})
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    filler = small_disk / "filler"

    from litmus import experiment

    begun = experiment.headline

    def fill(*args):
        space = os.statvfs(small_disk)
        filler.write_bytes(b"\0" * (space.f_bavail * space.f_frsize - 20_000))
        return begun(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "headline", fill)
        code, _, said = litmus("fit", path)
    assert code == 74
    assert "No space left on device" in said
    assert "litmus fit --resume" in said
    filler.unlink()
    code, said, _ = litmus("fit", path, "--resume", "auto")
    assert code == 0
    assert "test/err" in said


@pytest.mark.proof
def test_twenty_full_disks(figure, small_disk):
    write({"global_step": 1, "weights": torch.ones(1000)}, target(small_disk, "last", 1))
    rng = random.Random(0)
    wrong = [found for _ in range(20) for found in fill_and_save(small_disk, rng.randrange(0, 1_150_000))[:1]]
    figure("disk_full", f"{20 - len(wrong)} of 20 intact", holds=not wrong, note="; ".join(wrong[:3]))


def harmed(folder, config, rng, whole):
    """Damage the newest checkpoint of a stopped training, resume; returns (named, found wrong)."""
    assert train(folder, config, stop_after=11) is None
    found = saved(next(folder.glob("runs/*")) / "checkpoints", "last")
    data = bytearray(found[0].path.read_bytes())
    if rng.random() < 0.5:
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
    else:
        data = data[: rng.randrange(len(data))]
    found[0].path.write_bytes(data)
    said = []
    taken = newest_whole(found[0].path.parent, say=said.append)
    if taken is None or taken.path != found[1].path or found[0].path.name not in "".join(said):
        return [f"{found[0].path.name} was not passed over"]
    return differing(whole, train(folder, config))[:1]


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    config = merged(EVERYTHING, {"checkpoint": {"every_steps": 2}})
    whole = train(tmp_path / "whole", config)
    rng = random.Random(0)
    assert [found for turn in range(3) for found in harmed(tmp_path / str(turn), config, rng, whole)] == []


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_fifty_damaged_checkpoints(figure, tmp_path):
    config = merged(EVERYTHING, {"checkpoint": {"every_steps": 2}})
    whole = train(tmp_path / "whole", config)
    rng = random.Random(1)
    wrong = [found for turn in range(50) for found in harmed(tmp_path / str(turn), config, rng, whole)]
    figure("damage", f"{50 - len(wrong)} of 50 found and bypassed", holds=not wrong, note="; ".join(wrong[:3]))
