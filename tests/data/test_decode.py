import multiprocessing
import os
import queue
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from litmus.data import decode as module
from litmus.data.decode import BadImage, ImageFiles, decode, open_files
from litmus.errors import Refused

DRAWN = np.random.Generator(np.random.PCG64(0))


def save(path, shape=(9, 13, 3), mode="RGB", **options):
    Image.fromarray(DRAWN.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(path, **options)
    return path


def files_in(folder, **changes):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    labels = np.arange(len(names)) % 2
    return ImageFiles(folder, names, labels, **{"image_size": None, "channels": None, **changes})


@pytest.mark.parametrize("shape", [(40, 60, 3), (60, 40, 3), (33, 33, 3), (12, 50, 3)])
@pytest.mark.parametrize("size", [16, 32])
def test_resize_and_crop_are_torchvisions(tmp_path, shape, size):
    path = save(tmp_path / "x.png", shape)
    with Image.open(path) as image:
        expected = F.center_crop(F.resize(image, [size]), [size, size])
    assert np.array_equal(decode(path, (size, size)).transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("L", "png", 1), ("1", "png", 1), ("LA", "png", 1), ("RGB", "bmp", 3), ("RGBA", "png", 3), ("P", "gif", 3),
     ("CMYK", "jpg", 3)],
)  # fmt: skip
def test_every_usual_mode_is_read_as_grey_or_rgb(tmp_path, mode, suffix, channels):
    path = save(tmp_path / f"x.{suffix}", mode=mode)
    assert decode(path).shape == (channels, 9, 13)
    assert decode(path, channels=1).shape == (1, 9, 13)
    assert decode(path, channels=3).shape == (3, 9, 13)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    save(tmp_path / "x.png", mode="P", transparency=bytes(range(256)))
    assert decode(tmp_path / "x.png").shape == (3, 9, 13)


def test_a_photograph_taken_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    save(tmp_path / "x.png", exif=exif)
    assert decode(tmp_path / "x.png").shape == (3, 13, 9)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty file"), (b"hello", "not an image"), (None, "missing"), ("truncated", "truncated"), ("deep", "I;16")],
)
def test_a_bad_file_is_told_by_its_reason(tmp_path, content, says):
    path = tmp_path / "x.png"
    if content == "truncated":
        whole = save(path, (64, 64, 3)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "deep":
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=says):
        decode(path)


def test_the_cache_holds_what_decoding_gives(make_folder, tmp_path):
    folder = make_folder("photos", {"cat": 40, "dog": 30}, mode="RGB")
    files = files_in(folder, image_size=(6, 5))
    images = open_files(files, tmp_path / "cache", stream_above_gb=1)
    idx = torch.tensor([69, 0, 35])
    assert not images.streamed
    assert images.shape == (3, 6, 5)
    assert np.array_equal(images[idx].numpy(), np.stack([files.decode(k) for k in idx.tolist()]))
    mean, std = images.moments(idx)
    assert mean == pytest.approx(images[idx].double().div(255).mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(images[idx].double().div(255).std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_streamed_images_equal_cached_ones_and_leave_no_pixels_on_disk(make_folder, tmp_path):
    files = files_in(make_folder("photos", {"cat": 5, "dog": 4}))
    cached = open_files(files, tmp_path / "a", stream_above_gb=1)
    streamed = open_files(files, tmp_path / "b", stream_above_gb=0)
    idx = torch.tensor([8, 3])
    assert streamed.streamed
    assert not list((tmp_path / "b").rglob("images.npy"))
    assert torch.equal(streamed[idx], cached[idx])
    assert streamed.digest == cached.digest
    assert streamed.moments(idx) == cached.moments(idx)


def test_the_second_opening_decodes_nothing(make_folder, tmp_path, monkeypatch):
    files = files_in(make_folder("photos", {"cat": 5, "dog": 4}))
    first = open_files(files, tmp_path / "cache", stream_above_gb=1)
    monkeypatch.setattr(module, "_build", lambda *a, **k: pytest.fail("decoded again"))
    assert open_files(files, tmp_path / "cache", stream_above_gb=1).digest == first.digest


def test_a_changed_or_added_file_makes_another_cache(make_folder, tmp_path):
    folder = make_folder("photos", {"cat": 3, "dog": 3})
    before = open_files(files_in(folder), tmp_path / "cache", stream_above_gb=1)
    save(folder / "cat" / "000.png", (8, 8), "L")
    os.utime(folder / "cat" / "000.png", ns=(1, 1))
    after = open_files(files_in(folder), tmp_path / "cache", stream_above_gb=1)
    assert before.folder != after.folder
    assert before.digest != after.digest
    assert torch.equal(before[torch.arange(1, 6)], after[torch.arange(1, 6)])


def test_a_torn_cache_is_made_anew(make_folder, tmp_path):
    files = files_in(make_folder("photos", {"cat": 3, "dog": 3}))
    whole = open_files(files, tmp_path / "cache", stream_above_gb=1)
    pixels = whole[torch.arange(6)].clone()
    with open(whole.folder / "images.npy", "r+b") as torn:
        torn.truncate(200)
    assert torch.equal(open_files(files, tmp_path / "cache", stream_above_gb=1)[torch.arange(6)], pixels)


def test_what_a_killed_decoding_left_is_cleared(make_folder, tmp_path):
    files = files_in(make_folder("photos", {"cat": 3, "dog": 3}))
    whole = open_files(files, tmp_path / "cache", stream_above_gb=1)
    left = whole.folder.with_name(whole.folder.name + ".tmp")
    shutil.move(whole.folder, left)
    open_files(files, tmp_path / "cache", stream_above_gb=1)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [whole.folder.name]


def test_writing_to_a_batch_or_to_the_pixels_never_reaches_the_file(make_folder, tmp_path):
    files = files_in(make_folder("photos", {"cat": 3, "dog": 3}))
    images = open_files(files, tmp_path / "cache", stream_above_gb=1)
    before = (images.folder / "images.npy").read_bytes()
    images._pixels.zero_()
    images[torch.arange(6)].zero_()
    assert (images.folder / "images.npy").read_bytes() == before


def _open(folder, cache, may_start, answers):
    may_start.wait(60)
    answers.put(open_files(files_in(folder), cache, stream_above_gb=1).digest)


@pytest.fixture
def openers(tmp_path):
    """``openers(folder, n)``: n processes that open the folder once ``may_start`` is set, and their answers."""
    context = multiprocessing.get_context("fork")
    may_start, answers, started = context.Event(), context.Queue(), []

    def start(folder, n):
        for _ in range(n):
            arguments = (folder, tmp_path / "cache", may_start, answers)
            started.append(context.Process(target=_open, args=arguments, daemon=True))
            started[-1].start()
        return may_start, answers

    yield start
    for process in started:
        process.join(10)


def test_two_processes_that_want_one_cache_make_one(make_folder, tmp_path, openers):
    may_start, answers = openers(make_folder("photos", {"cat": 40, "dog": 40}), 2)
    may_start.set()
    assert answers.get(timeout=60) == answers.get(timeout=60)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_process_waits_for_the_one_that_decodes(make_folder, tmp_path, openers):
    may_start, answers = openers(make_folder("photos", {"cat": 3, "dog": 3}), 1)
    (tmp_path / "cache").mkdir()
    with module._locked(tmp_path / "cache"):
        may_start.set()
        with pytest.raises(queue.Empty):
            answers.get(timeout=0.5)
    assert len(answers.get(timeout=60)) == 32


def test_a_disk_without_room_is_refused_before_decoding(make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(Refused, match=r"need 0\.00 GB, 0\.00 GB are free"):
        open_files(files_in(make_folder("photos", {"cat": 3, "dog": 3})), tmp_path / "cache", stream_above_gb=1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_changes_while_training_is_told_by_its_path(make_folder, tmp_path):
    folder = make_folder("photos", {"cat": 3, "dog": 3})
    images = open_files(files_in(folder), tmp_path / "cache", stream_above_gb=0)
    (folder / "dog" / "001.png").write_bytes(b"")
    with pytest.raises(Refused, match=r"dog/001\.png: image 4 of 6: empty file"):
        images[torch.arange(6)]
