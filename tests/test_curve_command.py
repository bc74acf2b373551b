import csv
import json
import re

import pytest

from litmus.curve import Design, length_in_words
from litmus.errors import Refused
from tests.sweep import small
from tests.sweep.test_designs import info


def command(home, *words, **changes):
    return ["curve", *small.words(home, **{"data.num_images": 240, **changes}), *words]


def test_a_curve_is_trained_read_drawn_and_recorded_and_found_the_second_time(tmp_path, litmus):
    home = tmp_path / "mlruns"
    words = command(home, "--sizes", "20,40,80,160", "--seeds", 2, **{"train.epochs": 3})
    code, out, err = litmus(*words)
    assert code == 0, out + err
    assert "curve    mlp2-synthetic on 20, 40, 80, 160 images, 2 seeds each: 8 trainings" in out
    assert "length   equal steps: at most 6 each, early stopping (gl), best weights" in out
    assert re.search(r"with 2x data: 0\.\d+ \(95% ", out)
    (directory,) = (
        path for path in (home / "runs").iterdir() if re.fullmatch(r"curve-mlp2-synthetic-\w{8}", path.name)
    )
    table = json.loads((directory / "artifacts" / "curve.json").read_text())
    assert table["design"] == {"sizes": [20, 40, 80, 160], "seeds": 2, "equal": "steps"}
    assert [len(row) for row in table["val_err"]] == [2] * 4
    rows = list(csv.DictReader((directory / "artifacts" / "curve.csv").read_text().splitlines()))
    assert [(row["images"], row["seed"]) for row in rows[:3]] == [("20", "0"), ("20", "1"), ("40", "0")]
    assert float(rows[2]["val_err"]) == table["val_err"][1][0]
    for name in ("curve.png", "curve.svg"):
        assert (directory / "artifacts" / "pictures" / name).stat().st_size > 5000
    code, out, _ = litmus(*words)
    assert code == 0
    assert "8 of 8 trainings were done before" in out


def test_a_training_that_diverges_ends_the_curve_and_says_what_may_help(tmp_path, litmus):
    wild = {"optim.name": "sgd", "optim.lr": 1000.0, "train.epochs": 40}
    wild["early_stopping"] = {"name": "patience", "patience": 500}
    code, _, err = litmus(*command(tmp_path / "mlruns", "--sizes", "40,160", "--seeds", 1, **wild))
    assert code == 1
    assert "2 of 2 trainings diverged: n=40, seed 0; n=160, seed 0" in err
    assert "litmus lr finds a rate" in err


def test_every_seed_draws_its_own_images_the_smaller_sets_inside_the_larger_for_equal_steps(tmp_path):
    cells = Design((20, 80), seeds=2).cells(small.config(tmp_path, **{"data.batch_size": 16}), (20, 80), 160)
    seen = {cell.name: cell.config for cell in cells}
    assert list(seen) == ["n=20, seed 0", "n=20, seed 1", "n=80, seed 0", "n=80, seed 1"]
    for size in (20, 80):
        for seed in (0, 1):
            config = seen[f"n={size}, seed {seed}"]
            assert (config.data.num_train, config.data.draw_seed, config.seed) == (size, seed + 1, seed)
            assert (config.train.steps, config.train.epochs, config.train.val_every) == (20, None, 10)
            assert config.early_stopping.name == "gl"


def test_equal_epochs_leave_the_length_alone_and_the_configs_criterion_stays(tmp_path):
    base = small.config(tmp_path, early_stopping={"name": "patience", "patience": 3})
    (cell,) = Design((40, 80), seeds=1, equal="epochs").cells(base, (40,), 160)
    assert (cell.config.train.epochs, cell.config.early_stopping.name) == (2, "patience")
    design = Design((40, 80), equal="epochs")
    assert length_in_words(base, design, 160) == "equal epochs: 2 each, early stopping (patience), best weights"


def test_a_rate_that_decays_is_not_cut_off(tmp_path):
    base = small.config(tmp_path, **{"schedule.name": "cosine"})
    (cell,) = Design((40, 80), seeds=1).cells(base, (40,), 160)
    assert cell.config.early_stopping is None
    assert "no early stopping, for the rate decays" in length_in_words(base, Design((40, 80)), 160)


def test_sizes_are_halved_where_none_are_given(tmp_path):
    assert Design().sizes_for(small.config(tmp_path), info(1600)) == [50, 100, 200, 400, 800, 1600]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sizes", "20,x"], "--sizes = '20,x': reads whole numbers with commas"),
        (["--sizes", "40,20"], "--sizes = [40, 20]: must be >= 1 and rise, each once"),
        (["--sizes", "40"], "--sizes = [40]: a curve has at least 2"),
        (["--sizes", "40,100000"], "--sizes = 100000: has more than the 168 training images that there are"),
        (["--sizes", "2,40"], "--sizes = 2: must hold an image of each of the 3 classes"),
        (["--seeds", 0], "--seeds = 0: must be at least 1"),
        (["--equal", "images"], "--equal = 'images': is one of steps, epochs"),
        (["data.parts=4"], "data.parts = 4: decides which images are drawn"),
        (
            ["train.epochs=null", "train.steps=20", "--equal", "epochs"],
            "--equal = 'epochs': needs a config that counts",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_trained(tmp_path, litmus, words, says):
    code, out, err = litmus(*command(tmp_path / "mlruns", *words))
    assert code == 2, out
    assert says in err
    assert not (tmp_path / "mlruns").exists()


def test_data_too_few_for_a_curve_are_refused(tmp_path):
    with pytest.raises(Refused, match="too few for a curve"):
        Design().sizes_for(small.config(tmp_path), info(15))
