"""Facts about the pixels of the gradients' pictures; warnings are errors."""

import math

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import style
from litmus.diagnosis.flow_plots import COLORS, MOST_LINES, MOST_MAPS, flow_by_depth, flow_in_training
from litmus.diagnosis.gradient_flow import Flow, FlowAt, LayerFlow


def flow(slope=0.0, depth=10, std=1.0, names=None, relative=0.0):
    names = names or [f"layers.{number}" for number in range(depth)]
    layers = [
        LayerFlow(name, "Linear", slope * (len(names) - 1 - number), relative, 0.0, "ReLU", 0.0, std, None, 0.0)
        for number, name in enumerate(names)
    ]
    return Flow(tuple(layers), 1000, 128, "batch", 32, 2.3)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def where(path, color, tolerance=3):
    return np.nonzero((np.abs(pixels(path) - np.round(255 * style.rgb(color))) <= tolerance).all(axis=2))


def panel(path, color):
    """Rows and columns of a line's pixels in the uppermost panel."""
    rows, columns = where(path, color)
    inside = (rows > 160 * 0.95) & (rows < 160 * 2.9) & (columns > 160 * 0.8) & (columns < 160 * 6.3)
    return rows[inside], columns[inside]


def test_a_vanishing_line_falls_towards_the_input_at_the_left(tmp_path):
    path = flow_by_depth([("a", flow(-1.0)), ("b", flow())], tmp_path / "deep" / "a.png", when="at initialisation")
    rows, columns = panel(path, COLORS[0])
    left, right = rows[columns < np.quantile(columns, 0.1)], rows[columns > np.quantile(columns, 0.9)]
    assert left.mean() > right.mean() + 160  # rows count downwards
    flat, _ = panel(path, COLORS[1])
    assert np.ptp(flat) < 12


def test_zeros_and_infinities_leave_a_hole(tmp_path):
    whole = flow()
    holes = Flow(
        tuple(
            LayerFlow(**{**vars(layer), "log10_delta": -math.inf if 3 <= number < 6 else 0.0})
            for number, layer in enumerate(whole.layers)
        ),
        *(1000, 128, "batch", 32, 2.3),
    )
    paths = [
        flow_by_depth([("a", one)], tmp_path / f"{name}.png", when="x") for name, one in (("w", whole), ("h", holes))
    ]
    whole_columns, holed_columns = (np.unique(panel(path, COLORS[0])[1]) for path in paths)
    assert len(holed_columns) == pytest.approx(len(whole_columns) * 5 / 9, rel=0.1)  # of 9 stretches, 4 are gone


@pytest.mark.parametrize("count", [1, 8, 17, MOST_LINES + 5])
def test_any_number_of_configs_with_any_names_is_drawn(tmp_path, count):
    labels = [f"model.init=something_very_long_{n} 日本 ${n} model.norm=batch" for n in range(count)]
    flows = [(label, flow((n - 4) / 2, depth=4 + n % 5)) for n, label in enumerate(labels)]
    path = flow_by_depth(flows, tmp_path / "a.png", when="at initialisation", svg=True)
    assert path.with_suffix(".svg").exists()
    drawn = sum(len(panel(path, color)[0]) > 20 for color in COLORS)
    assert drawn == min(count, len(COLORS))


def test_a_picture_of_nothing_but_zeros_is_still_one(tmp_path):
    dead = Flow(
        (LayerFlow("a", "Linear", -math.inf, -math.inf, -math.inf, "", 0.0, 0.0, None, None),), 1, 1, "batch", 32, 0.0
    )
    assert flow_by_depth([("", dead)], tmp_path / "a.png", when="at step 3").exists()
    assert flow_in_training([("", [FlowAt(0, dead)])], tmp_path / "b.png").exists()
    infinite = flow(math.inf, depth=2)
    assert flow_in_training([("", [FlowAt(0, infinite, (math.nan, math.inf))])], tmp_path / "c.png").exists()


def test_nothing_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="no flow"):
        flow_by_depth([], tmp_path / "a.png", when="")
    with pytest.raises(ValueError, match="no look"):
        flow_in_training([("a", [])], tmp_path / "a.png")


def cell(path, left, row, column, layers, times):
    """Colour in the middle of a cell of a single config's map, the first layer at the bottom."""
    x = 160 * (left + 3.9 * (column + 0.5) / times)
    y = 160 * (1.3 + 2.6 * (1 - (row + 0.5) / layers))
    return pixels(path)[int(y), int(x)]


RATIO, UPDATE = 0.75, 5.55


def test_a_cell_is_blue_where_gradients_vanish_red_where_they_explode_and_grey_without_a_number(tmp_path):
    rows = [
        FlowAt(0, flow(-2.0, depth=3), (-2.0, -2.0, math.nan)),
        FlowAt(10, flow(2.0, depth=3), (-math.inf, -6.0, 0.0)),
        FlowAt(20, flow(0.0, names=["layers.1", "layers.2"])),
    ]
    path = flow_in_training([("", rows)], tmp_path / "a.png")
    red, _, blue = cell(path, RATIO, 0, 0, 3, 3)
    assert blue > red + 40
    red, _, blue = cell(path, RATIO, 0, 1, 3, 3)
    assert red > blue + 40
    grey = np.round(255 * style.rgb(style.FAINT))
    for left, row, column in ((RATIO, 0, 2), (UPDATE, 2, 0), (UPDATE, 0, 2), (UPDATE, 1, 2)):
        assert np.abs(cell(path, left, row, column, 3, 3) - grey).max() <= 2
    assert np.abs(cell(path, RATIO, 1, 2, 3, 3) - grey).max() > 10
    zero, smallest = cell(path, UPDATE, 0, 1, 3, 3), cell(path, UPDATE, 1, 1, 3, 3)
    assert np.abs(zero - smallest).max() <= 2  # a weight that did not move has the lowest colour


def test_layers_that_only_learn_at_first_have_a_row_too(tmp_path):
    rows = [FlowAt(0, flow(0.0, names=["a", "d"])), FlowAt(5, flow(0.0, names=["b", "c", "d"]))]
    path = flow_in_training([("", rows)], tmp_path / "a.png")
    grey = np.round(255 * style.rgb(style.FAINT))
    is_grey = [
        [bool(np.abs(cell(path, RATIO, row, column, 4, 2) - grey).max() <= 2) for column in (0, 1)] for row in range(4)
    ]
    assert is_grey == [[False, True], [True, False], [True, False], [False, False]]


def test_many_configs_make_rows_up_to_a_limit(tmp_path):
    rows = [FlowAt(step, flow(-0.5), tuple([-3.0] * 10)) for step in range(0, 1000, 10)]
    one, many = (flow_in_training([("a", rows)] * count, tmp_path / f"{count}.png") for count in (2, MOST_MAPS + 4))
    height = {path: pixels(path).shape[0] / 160 for path in (one, many)}
    assert height[many] - height[one] == pytest.approx((MOST_MAPS - 2) * (1.5 + 0.62), abs=0.05)
