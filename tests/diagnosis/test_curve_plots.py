"""Facts about the pixels of each picture; warnings are errors."""

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import read_curve, style
from litmus.diagnosis.curve_plots import data_curve

SIZES = [250, 500, 1000, 2000, 4000, 8000]
N = np.array(SIZES, dtype=float)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def where(path, color, tolerance=3):
    wanted = np.round(255 * style.rgb(color)) if isinstance(color, str) else color
    return np.nonzero((np.abs(pixels(path) - wanted) <= tolerance).all(axis=2))


def draw(path, train, val, *, sizes=SIZES, num_val=5000, equal="steps", early_stopping=True, length=None, **how):
    found = read_curve(sizes, train, val, num_val=num_val, **how)
    return data_curve(found, path, equal=equal, early_stopping=early_stopping, length=length)


def noisy(curve, num_seeds=3, sd=0.03):
    draws = np.random.default_rng(0).standard_normal((len(curve), num_seeds))
    return np.asarray(curve)[:, None] * (1 + sd * draws)


LEFT, RIGHT, FOOT, HEAD = 160 * 0.8, 160 * (0.8 + 7.35), 160 * (1.2 + 3.4), 160 * 1.2  # of the axes


def inside(path, color, tolerance=3):
    rows, columns = where(path, color, tolerance)
    axes = (columns > LEFT + 2) & (columns < RIGHT) & (rows > HEAD) & (rows < FOOT)
    return rows[axes], columns[axes]


def column_of(n, first=250, end=32_000):
    pad = (end / first) ** 0.03
    return LEFT + (RIGHT - LEFT) * np.log(n * pad / first) / np.log(end * pad**2 / first)


def test_errors_stand_at_their_sizes_and_heights(tmp_path):
    path = draw(tmp_path / "a" / "curve.png", np.full((6, 1), 0.1), np.full((6, 1), 0.2), num_val=10**9)
    top = 1.06 * 0.2
    for color, rate in ((style.TRAIN, 0.1), (style.VAL, 0.2)):
        rows, columns = inside(path, color)
        assert np.median(rows) == pytest.approx(FOOT - (FOOT - HEAD) * rate / top, abs=3)
        assert columns.min() == pytest.approx(column_of(250), abs=7)
    assert inside(path, style.TRAIN)[1].max() == pytest.approx(column_of(8000), abs=7)
    assert inside(path, style.VAL)[1].max() == pytest.approx(column_of(32_000), abs=10)


def test_what_is_foretold_is_dashed_and_what_was_measured_is_not(tmp_path):
    path = draw(tmp_path / "curve.png", np.zeros((6, 1)), np.full((6, 1), 0.2), num_val=10**9)
    rows, columns = inside(path, style.VAL, 40)
    line = columns[np.abs(rows - np.median(rows)) <= 2]
    drawn = np.zeros(1600, dtype=bool)
    drawn[line] = True
    measured, foretold = (
        slice(int(column_of(a)) + 12, int(column_of(b)) - 12) for a, b in ((250, 8000), (8000, 16000))
    )
    assert drawn[measured].mean() > 0.85  # the white rims of the means
    assert 0.4 < drawn[foretold].mean() < 0.8


def test_the_band_widens_where_the_law_is_foretold(tmp_path):
    val = noisy(2 * N**-0.4, sd=0.1)
    path = draw(tmp_path / "curve.png", np.zeros((6, 3)), val, num_val=10**6)
    picture = pixels(path)
    tinted = (picture[..., 0] - picture[..., 2] > 12) & (picture[..., 0] > 230)
    heights = [tinted[int(HEAD) : int(FOOT), int(column_of(n))].sum() for n in (8500, 14_000, 31_000)]
    assert 0 < heights[0] < heights[1] < heights[2]


def test_every_training_is_a_dot_beside_its_mean(tmp_path):
    """Three seeds far apart; the dots are left of the means, which hide none of them."""
    val = np.full((6, 1), 0.2) + np.array([[-0.1, 0, 0.1]])
    path = draw(tmp_path / "curve.png", np.zeros((6, 3)), val, num_val=10**6)
    dot = 0.6 * 255 * style.rgb(style.VAL) + 0.4 * 255  # on white
    column = round(column_of(1000) - 160 * 0.09)
    picture = pixels(path)[:, column - 2 : column + 3].astype(float)
    tint = 255 * (1 - 0.14) + 0.14 * 255 * style.rgb(style.VAL)
    on_band = 0.6 * 255 * style.rgb(style.VAL) + 0.4 * tint
    near = np.minimum(np.abs(picture - dot).max(axis=2), np.abs(picture - on_band).max(axis=2)) < 30
    rows = np.flatnonzero(near.any(axis=1))
    rows = rows[(rows > HEAD) & (rows < FOOT)]
    assert len(np.split(rows, np.flatnonzero(np.diff(rows) > 5) + 1)) == 3


def test_a_single_training_has_no_second_dot(tmp_path):
    path = draw(tmp_path / "one.png", np.zeros((6, 1)), np.full((6, 1), 0.2), num_val=10**9)
    around = pixels(path)[:, round(column_of(1000) - 160 * 0.09)]
    assert ((around[:, 0] - around[:, 2]) > 60).sum() <= 5  # the line alone


def test_the_target_is_a_line_of_its_own(tmp_path):
    curve = noisy(2 * N**-0.4)
    without = draw(tmp_path / "without.png", np.zeros((6, 3)), curve)
    line = draw(tmp_path / "with.png", np.zeros((6, 3)), curve, target_err=0.05)
    assert len(where(without, style.GREEN)[0]) == 0
    columns = inside(line, style.GREEN)[1]
    assert np.ptp(columns) > 0.95 * (RIGHT - LEFT)


def test_errors_far_apart_without_a_zero_are_drawn_on_logarithms(tmp_path):
    """On them a law without floor is a straight line."""
    val = 3 * N[:, None] ** -0.5
    path = draw(tmp_path / "curve.png", val / 20, val, num_val=10**9)
    rows, columns = inside(path, style.VAL, 40)
    at = [np.median(rows[np.abs(columns - column_of(n)) <= 1]) for n in (354, 1414, 5657)]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=3)
    zero = draw(tmp_path / "zero.png", 0 * val, val, num_val=10**9)
    rows, _ = inside(zero, style.TRAIN)
    assert rows.max() > FOOT - 8  # a zero needs an axis that has one


@pytest.mark.parametrize(
    ("sizes", "train", "val"),
    [
        ([500], [[0.0, 0.01]], [[0.2, 0.3]]),
        ([500], [[0.0]], [[0.0]]),
        ([1, 2], [[0.0], [0.0]], [[1.0], [1.0]]),
        ([3, 5, 9], np.zeros((3, 2)), np.zeros((3, 2))),
        (SIZES, np.ones((6, 2)), np.ones((6, 2))),
        (SIZES, np.full((6, 3), 1e-5), np.full((6, 3), 0.9)),
        (SIZES, noisy(0.1 * np.ones(6), 30), noisy(0.11 * np.ones(6), 30)),
        ([1_000_000, 10_000_000, 12_000_000, 1_200_000_000], np.zeros((4, 2)), noisy([0.4, 0.2, 0.2, 0.1], 2)),
        (list(range(100, 4100, 100)), np.zeros((40, 3)), noisy(np.linspace(0.4, 0.1, 40))),
    ],
    ids=["one size", "no error", "all wrong", "three tiny", "ones", "decades", "thirty seeds", "millions", "forty"],
)
def test_ugly_curves_are_drawn_without_a_warning(tmp_path, sizes, train, val):
    path = draw(tmp_path / "curve.png", train, val, sizes=sizes, target_err=0.0, equal="epochs", early_stopping=False)
    assert pixels(path).shape == (848, 1600, 3)
    assert len(where(path, style.VAL)[0]) > 100
    assert len(where(path, style.TRAIN)[0]) > 20


def test_the_conditions_are_stated(tmp_path):
    """Whatever differs in them shows beneath the title, and nothing else does."""
    errs = noisy(2 * N**-0.4)
    base = {"equal": "steps", "early_stopping": True, "length": 2000}
    first = pixels(draw(tmp_path / "first.png", 0 * errs, errs, **base))
    for change in ({"equal": "epochs"}, {"early_stopping": False}, {"length": 3000}, {"length": None}):
        other = pixels(draw(tmp_path / "other.png", 0 * errs, errs, **base | change))
        rows = np.flatnonzero((first != other).any(axis=(1, 2)))
        assert len(rows)
        assert 160 * 0.6 < rows.min() <= rows.max() < 160 * 1.0


def test_the_text_says_what_the_reading_says():
    from litmus.diagnosis.curve_plots import _message

    errs = noisy(2 * N**-0.4)
    found = read_curve(SIZES, 0 * errs, errs, num_val=5000)
    title, beneath = _message(found, "steps", True, 2000)
    assert title == found.headline
    assert beneath.split("\n") == [
        found.forecast,
        found.shape,
        "as many steps at every size (2,000), early stopping may end them before; 3 seeds (dots); bands: 95%; inner, "
        "foretold: on the same validation images",
    ]
    short = read_curve([250], [[0.0]], [[0.1]], num_val=5000)
    assert _message(short, "epochs", False, None)[1].split("\n")[-1] == (
        "as many epochs at every size, no early stopping; 1 seed; bands: 95%"
    )
    for line in beneath.split("\n"):
        assert style.width_of(line, 8.5) < 9.6


def test_the_largest_sizes_keep_their_names():
    from litmus.diagnosis.curve_plots import _name_sizes

    axes = style.add_axes(style.new_figure(10, 5), 0.8, 1, 7.35, 3)
    axes.set_xscale("log", base=2)
    axes.set_xlim(90, 17_000)
    sizes = np.arange(100, 4100, 100)
    _name_sizes(axes, sizes, 16_000)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) == 42
    assert names[-3:] == ["4,000", "8,000", "16,000"]
    assert 5 < sum(map(bool, names)) < 20


def test_svg_is_written_when_asked_and_pictures_are_repeatable(tmp_path):
    errs = noisy(2 * N**-0.4)
    found = read_curve(SIZES, 0 * errs, errs, num_val=5000)
    one = data_curve(found, tmp_path / "a.png", equal="steps", early_stopping=True)
    two = data_curve(found, tmp_path / "b.png", equal="steps", early_stopping=True, svg=True)
    assert one.read_bytes() == two.read_bytes()
    assert not one.with_suffix(".svg").exists()
    assert two.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
