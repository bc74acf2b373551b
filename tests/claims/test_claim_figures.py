import numpy as np
import pytest

from litmus.claims.figures import Curves, Panel, draw

SEEDS = [[1.0, 2.0, 4.0], [1.5, 2.5, 4.5], [0.5, 1.5, 3.5]]


def size_of(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def test_rows_of_panels_make_the_figure_taller_and_not_wider(tmp_path):
    panel = Panel({"one": SEEDS}, "error rate", "n", [1, 2, 4])
    row = draw([panel] * 2, tmp_path / "row.png", title="two")
    grid = draw([panel] * 4, tmp_path / "grid.png", title="four", columns=2)
    assert size_of(grid)[0] == size_of(row)[0]
    assert 1.7 < size_of(grid)[1] / size_of(row)[1] < 2.1


@pytest.mark.parametrize(
    "curves",
    [
        Curves(
            {"one": ([1, 2, 3], SEEDS), "two": ([1, 10], [3.0, 1.0])}, "loss (nats)", "step", log_x=True, log_y=True
        ),
        Curves({"one": ([1, 2, 3], [np.nan, 1.0, 2.0])}, "loss (nats)", marks={"stop": 2}, lines={"bound": 1.5}),
        Curves({"one": ([1, 2, 3], [[np.nan] * 3] * 2)}, "loss (nats)", log_y=True),
        Curves({"one": ([1], [2.0])}, "loss (nats)"),
        Curves({f"a long name, number {k}": ([0, 1], [k, 2 * k]) for k in range(30)}, "loss (nats)"),
    ],
    ids=["logs", "gap", "nothing", "point", "thirty"],
)
def test_courses_are_drawn_whatever_they_hold(tmp_path, curves):
    assert draw([curves], tmp_path / "curves.png", title="a title").stat().st_size > 5_000


def test_a_series_looks_alike_in_panels_of_one_order():
    from litmus.claims.figures import _styled

    names = ["none", "shift", "all"]
    whole, part = (Panel({name: [0.1] for name in kept}, "err", order=names) for kept in (names, ["none", "all"]))
    assert {row[0]: row[1:3] for row in _styled(part)}["all"] == {row[0]: row[1:3] for row in _styled(whole)}["all"]
    assert _styled(Panel({"all": [0.1]}, "err"))[0][1] != _styled(part)[1][1]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.5, 1500, ["1", "10", "100", "1,000"]),
        (0.006, 0.3, ["0.01", "0.03", "0.1", "0.3"]),
        (1e-7, 1e7, ["1e-6", "1e-4", "0.01", "1", "100", "10,000", "1e6"]),
        (2.1, 2.3, ["2.1", "2.3"]),
    ],
)
def test_logarithmic_axes_have_a_few_round_numbers(low, high, wanted):
    from litmus.claims.figures import _tick_log
    from litmus.diagnosis import style

    axes = style.add_axes(style.new_figure(6, 4), 1, 1, 3, 2)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    _tick_log(axes.yaxis, low, high)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert 2 <= len(labels) <= 7
    assert labels == wanted


def test_courses_show_every_seed_and_their_band():
    from litmus.claims.figures import _courses
    from litmus.diagnosis import style

    axes = style.add_axes(style.new_figure(6, 4), 1, 1, 3, 2)
    _courses(axes, Curves({"one": ([1, 2, 3], SEEDS)}, "loss"))
    assert [line.get_ydata().tolist() for line in axes.lines[:3]] == SEEDS
    assert axes.lines[3].get_ydata().tolist() == pytest.approx([1.0, 2.0, 4.0])
    assert len(axes.collections) == 1
