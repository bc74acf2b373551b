"""What ``litmus predict`` writes and says."""

import csv
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litmus.cli import main
from litmus.diagnosis import wilson
from litmus.predict import predict_files, report


@pytest.fixture
def predict(home, tmp_path, monkeypatch, capsys):
    """``predict("plain", "a.png")`` -> exit code, stdout, stderr; in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(run, *argv):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", run, *map(str, argv), "--home", home])
        return stopped.value.code or 0, *capsys.readouterr()

    return call


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_table_json_and_picture_tell_one_story(predict, digits):
    code, said, err = predict("plain", digits / "1", digits / "7", "--top-k", 2, "--out", "results")
    assert (code, err) == (0, "")
    rows, found = rows_of("results/predictions.csv"), json.loads(Path("results/predictions.json").read_text())
    images = len(list((digits / "1").iterdir())) + len(list((digits / "7").iterdir()))
    assert len(rows) == len(found["predictions"]) == found["counts"]["predicted"] == images
    header = "path predicted probability class_1 prob_1 class_2 prob_2 entropy folder"
    assert list(rows[0]) == header.split()
    for row, one in zip(rows, found["predictions"], strict=True):
        assert (row["path"], row["predicted"], row["class_1"]) == (one["path"], one["predicted"], one["predicted"])
        assert float(row["prob_2"]) == pytest.approx(one["top"][1]["probability"], rel=1e-7)
        assert float(row["entropy"]) == pytest.approx(one["entropy"], rel=1e-7, abs=1e-12)
        assert row["folder"] == one["folder"] == Path(one["path"]).parent.name
    wrong = sum(row["predicted"] != row["folder"] for row in rows)
    low, high = wilson(wrong, images)
    assert (
        f"these folders are named like the classes: err {wrong / images:.4f} "
        f"(95% {low:.4f} to {high:.4f}; {wrong} of {images} images)" in said
    )
    weights = Path(found["weights"]["path"]).read_bytes()
    assert found["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["settings"]["views"] == ["as it is"]
    assert found["preprocessing"]["class_names"] == list("0123456789")
    assert found["skipped"] == []
    assert not Path("results/skipped.csv").exists()
    with Image.open("results/contact_sheet.png") as picture:
        assert picture.width > 1000
    assert "picture  results/contact_sheet.png" in said
    assert re.search(r"^next     litmus test \w{8} --home ", said, flags=re.MULTILINE)
    assert "--mc" not in said  # this network has no dropout


def test_every_result_goes_to_a_new_folder_beside_the_runs(predict, digits, home):
    first, second = (predict("drops", digits / "1", *more)[1] for more in ([], ["--mc", 3, "--tta", "auto"]))
    folders = [
        Path(re.search(r"^table +(.+)/predictions.csv", said, flags=re.MULTILINE)[1]) for said in (first, second)
    ]
    assert [folder.parent for folder in folders] == [Path(home) / "predictions"] * 2
    assert re.fullmatch(r"drops-\w{8}-\d+", folders[0].name)
    assert folders[0] != folders[1]
    assert "--mc 30" in first
    assert "averaged over 5 views: as it is, 1 up" in second
    assert "averaged over 3 dropout passes" in second
    assert "+-" in second
    (row, *_) = rows_of(folders[1] / "predictions.csv")
    measured = ("std", "mutual_information", "variation_ratio", "view_std", "view_disagreement")
    assert [name for name in row if name in measured] == list(measured)
    assert all(float(row[name]) >= 0 for name in measured)


def test_skipped_files_are_listed_and_do_not_change_the_exit_code(predict, digits):
    good = next((digits / "1").iterdir())
    Path("a").mkdir()
    Path("a/bad.png").write_text("junk")
    Path("a/notes.txt").touch()
    code, said, _ = predict("plain", good, "a", "--out", "results")
    assert code == 0
    assert "skipped: 1 that could not be read\n  a/bad.png: not an image" in said
    assert "passed over: 1 not images by their suffix" in said
    assert rows_of("results/skipped.csv") == [{"path": "a/bad.png", "reason": "not an image"}]
    found = json.loads(Path("results/predictions.json").read_text())
    assert found["skipped"] == [{"path": "a/bad.png", "reason": "not an image"}]
    assert found["passed_over"] == {"other": 1}

    code, _, said = predict("plain", good, "--out", "results")
    assert code == 2
    assert "--out = 'results': holds predictions.csv, predictions.json, contact_sheet.png, skipped.csv already" in said
    code, said, _ = predict("plain", good, "--out", "results", "--overwrite")
    assert code == 0
    assert sorted(os.listdir("results")) == ["contact_sheet.png", "predictions.csv", "predictions.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_file_names_of_any_kind_survive(predict, digits):
    content = next((digits / "1").iterdir()).read_bytes()
    names = [b'a,"b".png', b"new\nline.png", b"caf\xe9.png", "猫.png".encode(), b" $x_1$ .png"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(content)
    Path(os.fsdecode(b"bad\xff\n.png")).touch()
    code, said, _ = predict("plain", ".", "--out", "results")
    assert code == 0
    expected = {name.decode("utf-8", "backslashreplace") for name in names}
    assert {row["path"] for row in rows_of("results/predictions.csv")} == expected
    assert {one["path"] for one in json.loads(Path("results/predictions.json").read_text())["predictions"]} == expected
    assert rows_of("results/skipped.csv")[0]["path"] == "bad\\xff\n.png"
    assert r"  bad\xff\n.png: empty file" in said
    assert r"new\nline.png" in said


def test_a_file_is_whole_or_not_there(trained, digits, tmp_path, monkeypatch):
    found = predict_files(trained("plain"), [digits / "1"])
    report.write(found, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def torn(found, file):
        file.write("half a table")
        raise OSError("no space left")

    monkeypatch.setattr(report, "write_csv", torn)
    with pytest.raises(OSError, match="no space"):
        report.write(found, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_more_images_than_fit_the_sheet_are_chosen_and_the_title_says_how(trained, digits, monkeypatch):
    from litmus.diagnosis import plots

    drawn = {}
    monkeypatch.setattr(plots, "contact_sheet", lambda sections, *args, **how: drawn.update(how, sections=sections))
    report.draw_sheet(predict_files(trained("plain"), [digits]), Path("x.png"))
    assert drawn["title"] == "The 24 least certain of 359 images, and 24 others at random"
    assert [len(chosen) for chosen in drawn["sections"].values()] == [24, 24]
    report.draw_sheet(predict_files(trained("plain"), sorted((digits / "1").iterdir())[:30]), Path("x.png"))
    assert drawn["title"] == "All 30 images, the least certain first"
    assert [len(chosen) for chosen in drawn["sections"].values()] == [30]
    report.draw_sheet(predict_files(trained("plain"), sorted((digits / "1").iterdir())[:1]), Path("x.png"))
    assert drawn["title"] == "1 image"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nosuch"], "nosuch: is missing"),
        (["empty"], "empty: holds no image"),
        (["*.tif"], "*.tif: matches nothing"),
        (["text"], "text: holds no image; passed over: 1 not images by their suffix"),
        (["bad.png"], "bad.png: empty file"),
        (["good.png", "--out", "good.png"], "--out = 'good.png': good.png is not a folder"),
        (["good.png", "--out", "good.png/x"], "good.png is not a folder"),
        (["good.png", "--overwrite"], "--overwrite: does nothing without --out"),
        (["good.png", "--top-k", "11"], "--top-k = 11: must be 1 to 10"),
        (["good.png", "--mc", "10"], "--mc = 10: the run's network drops nothing"),
        (["good.png", "--tta", "auto"], "--tta = 'auto': the run was trained without"),
        (["nosuch", "--top-k", "11", "--seed", "1", "--overwrite"], "4 problems"),
    ],
)
def test_refused_input_exits_2_and_writes_nothing(predict, digits, home, argv, says):
    for folder in ("empty", "text"):
        Path(folder).mkdir()
    Path("text/a.txt").touch()
    Path("bad.png").touch()
    Path("good.png").write_bytes(next((digits / "1").iterdir()).read_bytes())
    before = {*Path().rglob("*"), *Path(home).glob("predictions/*")}
    code, out, err = predict("plain", *argv)
    assert (code, out) == (2, "")
    assert says in err
    assert {*Path().rglob("*"), *Path(home).glob("predictions/*")} == before


def test_no_paths_at_all_is_refused(predict):
    assert predict("plain")[0] == 2


def test_ctrl_c_exits_130_and_writes_nothing(predict, digits, monkeypatch):
    from litmus.data.preprocessing import Preprocessing

    def interrupted(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Preprocessing, "decode", interrupted)
    code, _, err = predict("plain", digits / "1", "--out", "results")
    assert code == 130
    assert "interrupted; nothing was written" in err
    assert not Path("results").exists()


def test_photographs_of_any_size_and_mode_are_predicted(predict):
    for number, (mode, size) in enumerate([("RGB", (30, 20)), ("RGBA", (9, 90)), ("P", (8, 8)), ("CMYK", (64, 64))]):
        pixels = np.random.Generator(np.random.PCG64(number)).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(f"{number}.{'tif' if mode == 'CMYK' else 'png'}")
    code, said, _ = predict("plain", "*", "--out", "results")
    assert code == 0
    assert len(rows_of("results/predictions.csv")) == 4
    assert "named like the classes" not in said
    assert "folder" not in rows_of("results/predictions.csv")[0]
