"""Facts about the pixels of each picture; warnings (missing glyphs, layouts) are errors."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import diagnose_errors, diagnose_seeds, plots, style, suggest_lr


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def where(path, color, tolerance=3):
    """Rows and columns of the pixels of a colour."""
    wanted = color if not isinstance(color, str) else np.round(255 * style.rgb(color))
    return np.nonzero((np.abs(pixels(path) - wanted) <= tolerance).all(axis=2))


def history(epochs=20, **series):
    """Curves that differ: train below val, running above both."""
    x = np.arange(1, epochs + 1)
    fall = np.exp(-x / 5)
    made = {
        "train/err": 0.9 * fall + 0.3,
        "train_eval/err": 0.7 * fall,
        "val/err": 0.7 * fall + 0.1,
        "train/loss": 2.3 * fall + 0.5,
        "train_eval/loss": 2.3 * fall + 0.01,
        "val/loss": 2.3 * fall + 0.2,
    }
    return {key: list(zip(x, values, strict=True)) for key, values in (made | series).items()}


@pytest.mark.parametrize("epochs", [1, 2, 20, 400])
def test_learning_curves_draw_every_split(tmp_path, epochs):
    path = plots.learning_curves(history(epochs), tmp_path / "a" / "curves.png", best_epoch=epochs)
    assert path == tmp_path / "a" / "curves.png"
    assert pixels(path).shape == (688, 1600, 3)
    for color in (style.TRAIN, style.RUNNING, style.VAL):
        assert len(where(path, color)[0]) > 50


def test_a_missing_split_is_not_drawn(tmp_path):
    curves = {key: points for key, points in history().items() if not key.startswith("train_eval")}
    path = plots.learning_curves(curves, tmp_path / "curves.png")
    assert len(where(path, style.TRAIN)[0]) == 0
    assert len(where(path, style.VAL)[0]) > 50


def test_the_higher_error_is_drawn_higher(tmp_path):
    flat = {f"{split}/err": [(0, level), (10, level)] for split, level in (("train_eval", 0.2), ("val", 0.4))}
    path = plots.learning_curves(flat, tmp_path / "curves.png")
    row = {color: np.median(where(path, color)[0]) for color in (style.TRAIN, style.VAL)}
    foot, head = 160 * (0.85 + 2.8), 160 * 0.85  # the axes reach from 0 to 1.06 times the highest value
    for color, level in ((style.TRAIN, 0.2), (style.VAL, 0.4)):
        assert row[color] == pytest.approx(foot - (foot - head) * level / (1.06 * 0.4), abs=3)


def test_the_target_is_a_line_of_its_own(tmp_path):
    without = plots.learning_curves(history(), tmp_path / "without.png")
    line = plots.learning_curves(history(), tmp_path / "with.png", target_err=0.05)
    assert len(where(without, style.GREEN)[0]) == 0
    assert len(where(line, style.GREEN)[0]) > 300


def test_the_best_epoch_is_marked_on_both_panels(tmp_path):
    plain = plots.learning_curves(history(), tmp_path / "plain.png")
    marked = plots.learning_curves(history(), tmp_path / "marked.png", best_epoch=1)
    changed = np.nonzero((pixels(plain) != pixels(marked)).any(axis=2))[1]
    left_axes_begin, right_axes_begin = 160 * 0.75, 160 * (0.75 + 4.95)
    for begin in (left_axes_begin, right_axes_begin):
        assert ((changed > begin) & (changed < begin + 40)).any()  # epoch 1 of 20 is at the left edge


@pytest.mark.parametrize(
    "series",
    [
        {"val/loss": [2.3, np.nan, np.inf, 0.5]},
        {"val/err": [0.9, 0.0, 0.0, 0.0], "train_eval/err": [0.0] * 4},
        {"val/loss": [1e9, 1e3, 10, 1e-9]},
        {"val/loss": [0.0, 0.0, 0.0, 0.0], "train/loss": [0.0] * 4, "train_eval/loss": [0.0] * 4},
    ],
    ids=["not finite", "zero errors", "eighteen decades", "zero losses"],
)
def test_odd_values_are_drawn_without_a_warning(tmp_path, series):
    path = plots.learning_curves(history(4, **series), tmp_path / "curves.png", best_epoch=2, augmented=True)
    assert len(where(path, style.VAL)[0]) > 20


def test_fractional_epochs_and_steps_are_drawn(tmp_path):
    points = [(step / 7, 1 / (1 + step)) for step in range(30)]
    for unit in ("epochs", "steps"):
        path = plots.learning_curves({"train/loss": points}, tmp_path / f"{unit}.png", unit=unit)
        assert len(where(path, style.RUNNING)[0]) > 100


@pytest.mark.parametrize("empty", [{}, {"val/err": []}, {"val/err": [(0, float("nan"))]}, {"lr": [(0, 0.1)]}])
def test_nothing_to_draw_is_refused(tmp_path, empty):
    with pytest.raises(ValueError, match="no finite value"):
        plots.learning_curves(empty, tmp_path / "curves.png")


def test_labels_move_apart_as_little_as_needed():
    assert style.spread([10.0, 50.0], 5, 0, 100) == [10, 50]
    assert style.spread([50.0, 50.0], 10, 0, 100) == [45, 55]
    assert style.spread([52.0, 50.0, 51.0], 10, 0, 100) == [61, 41, 51]
    assert style.spread([0.0, 1.0], 10, 0, 100) == [0, 10]
    assert style.spread([100.0, 100.0, 98.0], 10, 0, 100) == [90, 100, 80]


def cell(strength, ink):
    """The colour of a cell of the confusion matrix."""
    empty = style.rgb("#f4f4f4")
    return np.round(255 * (empty + strength * (style.rgb(ink) - empty)))


def test_true_classes_are_rows_in_the_confusion_matrix(tmp_path):
    path = plots.confusion([[5, 5], [0, 10]], ["a", "b"], tmp_path / "confusion.png")
    wrong, half, right = cell(0.9, style.WRONG), cell(0.425, style.RIGHT), cell(0.85, style.RIGHT)
    (row_w, col_w), (row_h, col_h), (row_r, col_r) = (
        [np.median(axis) for axis in where(path, color)] for color in (wrong, half, right)
    )
    assert (row_w, col_w) == pytest.approx((row_h, col_r), abs=4)  # beside a's right answers, above b's
    assert row_w < row_r
    assert col_w > col_h


def test_nothing_wrong_draws_no_orange(tmp_path):
    path = plots.confusion(np.diag([7, 8, 0]), ["a", "b", "c"], tmp_path / "confusion.png")
    assert len(where(path, style.WRONG, 40)[0]) == 0
    assert len(where(path, cell(0.85, style.RIGHT))[0]) > 1000


@pytest.mark.parametrize("num_classes", [2, 10, 31, 100, 301])
def test_a_single_mistake_shows_among_many_classes(tmp_path, num_classes):
    matrix = 50 * np.eye(num_classes, dtype=int)
    matrix[0, num_classes - 1] = 1
    names = [f"a long class name, number {idx}" for idx in range(num_classes)]
    path = plots.confusion(matrix, names, tmp_path / "confusion.png")
    assert max(pixels(path).shape) < 2500
    assert len(where(path, cell(0.9, style.WRONG), 8)[0]) > 15


@pytest.mark.parametrize("name", ["$x_1$", "雪", "a 雪", "\n", "", "naïve", "x" * 200, "b\tc", "a_b^c\\d", 7, "🐈 cat"])
def test_class_names_of_any_kind_are_drawn_without_a_warning(tmp_path, name):
    images = np.zeros((2, 1, 4, 4), np.uint8)
    plots.confusion([[1, 1], [0, 1]], [name, "b"], tmp_path / "confusion.png", svg=True)
    plots.predictions(images, [0, 1], [1, 1], [[0.2, 0.8]] * 2, [name, "b"], tmp_path / "predictions.png")
    plots.augmented(images, [images], [0, 1], [name, "b"], tmp_path / "augmented.png")


def test_names_are_cut_in_the_middle_and_fit_their_width():
    assert style.shortened("class_a_very_long_01", 12) == "class_a_…_01"
    assert style.printable("雪", 3) == "class 3"
    for width in (0.5, 1.0, 3.0):
        cut = style.fitted("WWWWmmmm with much text behind it", width, 9, bold=True)
        assert width - 0.3 < style.width_of(cut, 9, bold=True) <= width


def test_only_mistakes_are_framed(tmp_path):
    images = np.full((20, 3, 8, 8), 90, np.uint8)
    labels = np.arange(20) % 2
    right = np.eye(2)[labels] * 0.8 + 0.1
    all_right = plots.predictions(images, labels, labels, right, ["a", "b"], tmp_path / "right.png")
    predicted, probabilities = labels.copy(), right.copy()
    predicted[7], probabilities[7] = 0, (0.9, 0.1)
    one_wrong = plots.predictions(images, labels, predicted, probabilities, ["a", "b"], tmp_path / "wrong.png")
    assert len(where(all_right, style.WRONG)[0]) == 0
    rows, columns = where(one_wrong, style.WRONG)
    assert len(rows) > 4 * 150 * 3  # four sides of a tile, three pixels thick
    side = 160 * 1.04
    frame = rows[columns < 200]
    assert frame.max() - frame.min() > side
    assert pixels(one_wrong).shape[0] > pixels(all_right).shape[0]  # a section of its own


def test_mistakes_come_by_confidence_before_successes(tmp_path):
    """Grey levels tell which image was put where."""
    levels = np.array([40, 80, 120, 200])
    images = np.broadcast_to(levels[:, None, None, None], (4, 1, 8, 8)).astype(np.uint8)
    probabilities = [[0.3, 0.7], [0.05, 0.95], [0.2, 0.8], [0.9, 0.1]]
    path = plots.predictions(images, [0, 0, 0, 0], [1, 1, 1, 0], probabilities, ["a", "b"], tmp_path / "p.png")
    places = {level: [float(np.median(axis)) for axis in where(path, (level,) * 3, 0)] for level in levels}
    assert sorted(levels[:3], key=lambda level: places[level][1]) == [80, 120, 40]
    assert places[200][0] > max(places[level][0] for level in levels[:3]) + 100
    assert len(where(path, (80,) * 3, 0)[0]) == pytest.approx(160**2, rel=0.05)  # the tile is filled


def test_large_and_oblong_images_keep_their_shape(tmp_path):
    images = np.zeros((1, 3, 300, 150), np.uint8)
    images[0, 1] = 150
    path = plots.predictions(images, [0], [0], [[1.0]], ["a"], tmp_path / "p.png")
    rows, columns = where(path, (0, 150, 0), 0)
    assert np.ptp(rows) + 1 == pytest.approx(160, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(80, abs=2)


def test_colours_stay_in_their_channels(tmp_path):
    images = np.zeros((1, 3, 8, 8), np.uint8)
    images[0, 0], images[0, 2] = 200, 30
    path = plots.predictions(images, [0], [0], [[1.0]], ["a"], tmp_path / "p.png")
    assert len(where(path, (200, 0, 30), 0)[0]) > 20_000


def sheet(tmp_path, images, sections, *, name="cat", note="file.png", number="", **how):
    images = dict(enumerate(images))
    said = dict.fromkeys(images, (0, 0.5))
    beneath = dict.fromkeys(images, (note, number))
    return plots.contact_sheet(sections, images, said, beneath, [name], tmp_path / "sheet.png", title="All", **how)


def test_a_contact_sheet_keeps_its_order_and_frames_what_is_wrong(tmp_path):
    images = [np.full((1, 8, 8), level, np.uint8) for level in (40, 80, 120, 200)]
    path = sheet(tmp_path, images, {"first": [2, 0], "second": [3, 1]}, wrong=[3])
    places = {level: [float(np.median(axis)) for axis in where(path, (level,) * 3, 0)] for level in (40, 80, 120, 200)}
    assert places[120][0] == pytest.approx(places[40][0], abs=1)
    assert places[120][0] < places[200][0] - 160
    assert places[120][1] == pytest.approx(places[200][1], abs=1)
    assert places[120][1] < places[40][1] - 160
    assert places[40][1] == pytest.approx(places[80][1], abs=1)
    rows, columns = where(path, style.WRONG)
    framed = columns < 200
    assert abs(rows[framed].mean() - places[200][0]) < 30
    assert len(where(sheet(tmp_path, images, {"": [0, 1, 2, 3]}), style.WRONG)[0]) == 0


@pytest.mark.parametrize("name", ["$x_1$", "雪", "", "a very long name of a class indeed", "\n"])
@pytest.mark.parametrize("number", ["", "±0.12"])
def test_a_contact_sheet_takes_any_name_and_size(tmp_path, name, number):
    images = [np.zeros((3, 300, 150), np.uint8), np.zeros((1, 8, 8), np.uint8)]
    path = sheet(tmp_path, images, {"": [0, 1]}, name=name, note=name * 3, number=number, subtitle="one\ntwo")
    assert pixels(path).shape[1] == pixels(sheet(tmp_path, images[1:], {"": [0]})).shape[1]


def test_augmented_shows_the_original_first_then_the_epochs(tmp_path):
    columns = [np.full((2, 1, 6, 6), level, np.uint8) for level in (30, 90, 150)]
    columns[0][1] = 220  # the second image
    path = plots.augmented(columns[0], columns[1:], [0, 1], ["a", "b"], tmp_path / "augmented.png")
    places = {level: [float(np.median(axis)) for axis in where(path, (level,) * 3, 0)] for level in (30, 90, 150, 220)}
    assert places[30][1] < places[90][1] < places[150][1]
    assert places[220][1] == pytest.approx(places[30][1], abs=1)
    assert places[220][0] > places[30][0] + 160


def test_the_suggested_rate_stands_where_it_belongs(tmp_path):
    lrs = np.geomspace(1e-5, 10, 100)
    x = np.log10(lrs)
    losses = 2.3 - 1.5 / (1 + np.exp(-(x + 2) / 0.2)) + np.exp((x - 0) / 0.1)
    found = suggest_lr(lrs, losses)
    path = plots.lr_range(lrs, losses, tmp_path / "lr.png", found, configured=1e-4)
    _, columns = where(path, style.RED)
    share = (np.log10(found.lr) + 5) / 6
    assert np.median(columns) == pytest.approx(160 * (0.8 + 6.9 * share), abs=3)
    assert len(where(path, style.BLUE)[0]) > 300


@pytest.mark.parametrize("losses", [np.full(50, 2.3), np.full(50, np.nan), np.linspace(1, 1e9, 50)])
def test_a_range_test_without_an_answer_is_drawn_too(tmp_path, losses):
    lrs = np.geomspace(1e-5, 1, 50)
    path = plots.lr_range(lrs, losses, tmp_path / "lr.png", suggest_lr(lrs, losses))
    assert len(where(path, style.RED)[0]) == 0
    assert len(where(path, style.INK, 30)[0]) > 500  # the title says so


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((2, 1, 4, 4)), "float64"),
        (np.zeros((1, 1, 4, 4), np.uint8), "do not fit together"),
    ],
)
def test_images_of_another_shape_are_refused(tmp_path, images, says):
    with pytest.raises(ValueError, match=says):
        plots.predictions(images, [0, 1], [0, 1], np.eye(2), ["a", "b"], tmp_path / "p.png")


def test_a_path_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"curves\.jpg"):
        plots.learning_curves(history(), tmp_path / "curves.jpg")


def test_svg_is_written_when_asked_and_pictures_are_repeatable(tmp_path):
    first = plots.learning_curves(history(), tmp_path / "a.png")
    assert not first.with_suffix(".svg").exists()
    second = plots.learning_curves(history(), tmp_path / "b.png", svg=True)
    assert second.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
    assert first.read_bytes() == second.read_bytes()


def test_drawing_leaves_matplotlibs_global_state_alone(tmp_path):
    code = f"""
import sys, matplotlib
before = dict(matplotlib.rcParams)
from litmus.diagnosis import plots
plots.confusion([[1, 1], [0, 1]], ["a", "b"], r"{tmp_path / "c.png"}")
assert dict(matplotlib.rcParams) == before
print([name for name in ("matplotlib.pyplot", "torch", "tkinter") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def blended(color, alpha=0.55):
    """A bar's colour over white, and over the grey of the tolerance."""
    return [
        np.round(255 * (alpha * style.rgb(color) + (1 - alpha) * style.rgb(under)))
        for under in ("#ffffff", style.FAINT)
    ]


def columns_of(path, color):
    found = [where(path, one) for one in blended(color)]
    return np.concatenate([columns for _, columns in found])


def test_the_ladder_draws_each_gap_at_its_length_in_the_colour_of_its_status(tmp_path):
    found = diagnose_errors(0.1, 0.3, 2000, 2000, target_err=0.05)
    path = plots.diagnosis(found, tmp_path / "a.png", test=(610, 2000))
    columns = columns_of(path, style.RED)
    columns = columns[columns < 160 * 5.3]  # the rest is writing
    top = 1.08 * max(found.val_interval.high, 0.3, 0.327)  # the test error's interval ends there
    left, width = 160 * 0.95, 160 * 4.35
    spread = columns.max() - columns.min()
    assert columns.min() == pytest.approx(left + width * 0.05 / top, abs=4)
    assert spread == pytest.approx(width * 0.25 / top, rel=0.04)  # from the target to the validation error
    calm = plots.diagnosis(diagnose_errors(0.001, 0.002, 5000, 5000), tmp_path / "b.png")
    assert len(columns_of(calm, style.RED)) < 20
    assert len(columns_of(calm, style.BLUE)) > 100
    torn = plots.diagnosis(diagnose_errors(0.0, 0.03, 300, 300), tmp_path / "c.png")
    assert len(columns_of(torn, style.ORANGE)) > 100


def test_the_ladder_has_a_rung_for_each_error_and_a_line_for_each_move(tmp_path):
    def height(found, **options):
        return pixels(plots.diagnosis(found, tmp_path / "x.png", **options)).shape[0]

    calm = diagnose_errors(0.001, 0.002, 5000, 5000)
    dev = diagnose_errors(0.001, 0.002, 5000, 5000, train_dev_err=0.0015, num_train_dev=5000)
    rung = 0.42 * 160
    assert height(calm, test=(1, 100)) - height(calm) == pytest.approx(rung, abs=2)
    assert height(dev) - height(calm) == pytest.approx(rung, abs=2)
    biased = diagnose_errors(0.4, 0.4, 5000, 5000)
    assert height(biased, moves=1) - height(biased, moves=0) == pytest.approx(0.51 * 160, abs=2)
    assert height(biased, moves=3) - height(biased, moves=1) == pytest.approx(2 * 0.21 * 160, abs=2)


@pytest.mark.parametrize(
    "found",
    [
        diagnose_errors(0.0, 0.0, 1, 1),
        diagnose_errors(1.0, 1.0, 10, 10),
        diagnose_errors(0.9, 0.1, 1000, 1000),
        diagnose_errors(0.2, 0.3, 100, 100, target_err=0.9),
        diagnose_seeds([(0.1, 0.2), (0.2, 0.4)], 100, 100),
        diagnose_errors(0.3, 0.9, 500, 500, config={"model.name": "mlp", "model.depth": 9, "model.width": 8 * [4096]}),
    ],
)
def test_the_ladder_stands_in_ugly_cases(found, tmp_path):
    path = plots.diagnosis(found, tmp_path / "ugly.png", test=(1, 1))
    assert pixels(path).shape[1] == round(8.6 * 160)
    assert len(where(path, style.INK)[0]) > 500
