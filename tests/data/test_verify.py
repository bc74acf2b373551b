"""``litmus check --decode``: what is damaged is found whatever the caches believe, all of it at once."""

import hashlib
import os
import re

import pytest
import torchvision.datasets

from litmus.data.sources import Request
from litmus.data.sources.torchvision_sets import TABLE, compare_published
from litmus.tracking import Run


@pytest.fixture
def folders(make_folder):
    """Two folders of images, and the overrides that name them."""
    train, val = make_folder("photos", {"cat": 12, "dog": 12}), make_folder("val", {"cat": 3, "dog": 3})
    return train, val, [
        *("data.name=image_folder", f"data.path={train}", f"data.val_path={val}"),
        *(f"data.root={train.parent / 'data'}", "data.batch_size=4", "model.name=mlp"),
        f"tracking.home={train.parent}/runs",
    ]  # fmt: skip


def damage(path, start=b""):
    """Change the byte in the middle, or the first ones; size and time stay, as with a failing disk."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    content[: len(start)] = start
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_images_that_are_whole_are_counted_and_timed_whether_they_were_cached_or_not(folders, litmus):
    *_, overrides = folders
    for _ in range(2):
        code, said, _ = litmus("check", *overrides, "--decode")
        assert code == 0
        assert re.search(r"files  30 image files decoded in \d+\.\d s, [\d,]+ a second", said)
        assert re.search(r"digest \w{32}", said)


def test_every_file_that_does_not_decode_is_named_at_once_with_index_and_reason(folders, litmus, tmp_path):
    train, val, overrides = folders
    assert litmus("check", *overrides)[0] == 0  # cached: a plain check believes it from now on
    damage(train / "cat/003.png")
    damage(train / "dog/011.png", start=b"no image")
    damage(val / "dog/002.png")
    assert litmus("check", *overrides)[0] == 0
    code, _, said = litmus("check", *overrides, "--decode")
    assert code == 2
    assert "3 problems" in said.splitlines()[0]
    assert f"{train / 'cat/003.png'}: image 3 of 24: " in said
    assert f"{train / 'dog/011.png'}: image 23 of 24: not an image" in said
    assert f"{val / 'dog/002.png'}: image 5 of 6: " in said


def test_unreadable_images_of_two_folders_are_named_at_once_without_a_cache_too(folders, litmus):
    train, val, overrides = folders
    (train / "cat/000.png").write_bytes(b"")
    (val / "cat/000.png").unlink()
    os.mkfifo(val / "cat/000.png")
    code, _, said = litmus("check", *overrides, "--decode")
    assert code == 2
    assert f"{train / 'cat/000.png'}: image 0 of 24: empty file" in said
    assert f"{val / 'cat/000.png'}: image 0 of 6: a folder, a pipe or a device" in said


def test_a_file_that_now_decodes_to_other_pixels_and_a_damaged_cache_are_told_apart(make_folder, litmus):
    folder = make_folder("photos", {"cat": 12, "dog": 12}, suffix="bmp")  # any byte of one is a pixel
    overrides = ["data.name=image_folder", f"data.path={folder}", f"data.root={folder.parent / 'data'}"]
    overrides += ["data.batch_size=4", "model.name=mlp", f"tracking.home={folder.parent}/runs"]
    litmus("check", *overrides)
    damage(folder / "cat/001.bmp")
    cache = next((folder.parent / "data/cache").glob("photos-*/images.npy"))
    content = cache.read_bytes()
    cache.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, said = litmus("check", *overrides, "--decode")
    assert code == 2
    assert "cat/001.bmp: image 1 of 24: decodes to other pixels than when it was cached" in said
    assert f"dog/011.bmp: image 23 of 24: the cache of its pixels is damaged: remove {cache.parent}" in said


def test_data_in_memory_say_that_there_is_no_file(litmus, here):
    code, said, _ = litmus("check", "model.name=mlp", "--decode")
    assert code == 0
    assert "files  no image files: 1,797 images in memory, from scikit-learn's load_digits" in said


def test_a_runs_config_is_compared_with_the_data_that_the_run_had(folders, litmus, tmp_path):
    train, _, overrides = folders
    _, said, _ = litmus("check", *overrides)
    digest = re.search(r"digest (\w{32})", said)[1]
    text = tmp_path / "plain.yaml"
    text.write_text("name: plain\n")
    with Run.start(home=tmp_path / "runs", experiment="e", name="n", send="off") as run:
        config = run.log_artifact(text).with_name("config.yaml")
        config.write_text("name: plain\n")
        run.log_dataset("image_folder", str(train), digest)
    code, said, _ = litmus("check", config, *overrides, "--decode")
    assert code == 0
    assert f"data   the same as run {run.uid[:8]} had" in said
    (train / "cat/000.png").write_bytes((train / "dog/000.png").read_bytes())
    (train / "dog/000.png").unlink()
    code, _, said = litmus("check", config, *overrides, "--decode")
    assert code == 2
    assert f"run {run.uid[:8]} recorded {digest}" in said


def test_published_digests_are_compared_where_there_are_any(tmp_path, monkeypatch):
    raw = tmp_path / TABLE["fashion_mnist"].there
    raw.mkdir(parents=True)
    content = {"a.gz": b"whole", "b.gz": b"damaged"}
    for name, bytes_ in content.items():
        (raw / name).write_bytes(bytes_)
    md5 = {name: hashlib.md5(b"whole").hexdigest() for name in (*content, "c.gz")}
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", list(md5.items()))
    lines, (problem,) = compare_published(Request("fashion_mnist", tmp_path))
    assert lines == ["1 of 2 files have their published digests"]
    assert problem.where == str(raw / "b.gz")
    assert hashlib.md5(b"damaged").hexdigest() in problem.says


@pytest.mark.parametrize("name", TABLE)
def test_what_torchvision_publishes_is_read_for_every_row(name, tmp_path):
    assert compare_published(Request(name, tmp_path)) == (["no file here has a published digest to compare with"], [])
