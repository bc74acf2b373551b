"""What a person names is what is predicted, once and in a natural order."""

import os
import sys
from pathlib import Path

import pytest

from litmus.predict.paths import list_images, one_line, readable


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def touch(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return touch


def listed(*named):
    listing, problems = list_images(named)
    assert problems == []
    return [str(path) for path in listing.files]


def refused(*named):
    listing, problems = list_images(named)
    assert listing.files == []
    return "\n".join(map(str, problems))


def test_a_folder_is_searched_at_any_depth_in_natural_order(here):
    here("a/img10.png", "a/img2.JPG", "a/img1.png", "a/deep/er/x.tiff", "a/b10/1.png", "a/b9/1.png")
    assert listed("a") == [
        f"a/{x}" for x in ("b9/1.png", "b10/1.png", "deep/er/x.tiff", "img1.png", "img2.JPG", "img10.png")
    ]


def test_what_is_no_image_in_a_folder_is_counted_and_what_is_named_is_tried(here):
    here("a/1.png", "a/notes.txt", "a/.DS_Store", "a/.git/x.png", "a/__MACOSX/y.png", "a/b/README")
    listing, problems = list_images(["a", "a/b", "a/notes.txt"])
    assert problems == []
    assert list(map(str, listing.files)) == ["a/1.png", "a/notes.txt"]
    assert listing.passed_over == {"hidden": 3, "other": 2}  # a/b/README once, though found twice


def test_files_keep_the_order_they_are_named_in_and_come_once(here):
    here("a/1.png", "a/2.png", "b.png")
    os.symlink("a", "link")
    named = ["b.png", "a/2.png", "a", "./a/1.png", str(Path("a/1.png").absolute()), "link/2.png"]
    assert listed(*named) == ["b.png", "a/2.png", "a/1.png"]


def test_a_link_to_an_image_is_an_image_of_its_own_and_a_loop_of_folders_ends(here):
    here("a/1.png")
    os.symlink("1.png", "a/latest.png")
    os.symlink("..", "a/up")
    assert listed("a") == ["a/1.png", "a/latest.png"]


def test_patterns_are_expanded(here):
    here("s/a2.jpg", "s/a10.jpg", "s/b.png", "s/t/c.jpg", "s/raw.dat", "s/.h.jpg")
    assert listed("s/*.jpg") == ["s/a2.jpg", "s/a10.jpg"]
    assert listed("s/**/*.jpg") == ["s/a2.jpg", "s/a10.jpg", "s/t/c.jpg"]
    assert listed("s/[ab]*.???") == ["s/a2.jpg", "s/a10.jpg", "s/b.png"]
    assert listed("s/*") == ["s/a2.jpg", "s/a10.jpg", "s/b.png", "s/t/c.jpg"]
    assert sorted(listed("s/**")) == sorted(listed("s"))
    assert list_images(["s/**"])[0].passed_over == {"other": 1}
    assert listed("*/t") == ["s/t/c.jpg"]
    assert listed("s/*.dat") == ["s/raw.dat"]  # a suffix that is spelt out is meant


def test_a_name_that_exists_is_no_pattern(here):
    here("a[1].png", "a1.png")
    assert listed("a[1].png") == ["a[1].png"]


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("photo", "photo: is missing; did you mean 'photos'?"),
        ("photos/cat.pgn", "photos/cat.pgn: is missing; did you mean 'cat.png'?"),
        ("photo/x/cat.png", "photo/x/cat.png: is missing: there is no photo; did you mean 'photos'?"),
        ("photos/cat.png/x", "photos/cat.png/x: is missing: photos/cat.png is a file"),
        ("empty/x.png", "empty/x.png: is missing; empty is empty"),
        ("gone.png", "gone.png: is missing: it is a link to nowhere.png, which is not there"),
        ("https://example.org/x.png", "files of this machine only"),
        ("photos/*.gif", "photos/*.gif: matches nothing"),
        ("photo/*.gif", "photo/*.gif: matches nothing: is missing; did you mean 'photos'?"),
        ("text", "text: holds no image; passed over: 1 hidden, 1 not images by their suffix"),
        ("empty", "empty: holds no image"),
    ],
)
def test_a_name_that_means_no_image_is_refused_with_what_is_near(here, named, says):
    here("photos/cat.png", "text/a.txt", "text/.b.png")
    Path("empty").mkdir()
    os.symlink("nowhere.png", "gone.png")
    assert says in refused(named)


def test_every_wrong_name_is_said_at_once(here):
    here("a.png")
    _, problems = list_images(["a.png", "b.png", "*.tif", "c"])
    assert [problem.where for problem in problems] == ["b.png", "*.tif", "c"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(here):
    here("a/1.png")
    Path("a").chmod(0)
    try:
        assert "a: cannot be read: a: Permission denied" in refused("a")
    finally:
        Path("a").chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_a_name_that_is_no_utf8_can_be_printed(here):
    name = os.fsdecode(b"caf\xe9\n.png")
    Path(name).touch()
    (file,) = listed(".")
    assert readable(file).encode("utf-8").endswith(b"caf\\xe9\n.png")
    assert one_line(file).endswith(r"caf\xe9\n.png")
