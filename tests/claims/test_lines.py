import math

import numpy as np
import pytest

from litmus.claims import lines
from litmus.claims.figures import Panel, draw
from litmus.claims.lines import Line, Lines, Mark

NAN = math.nan


def drawn(panel, monkeypatch):
    """The axes that a panel was drawn into."""
    from litmus.diagnosis import style

    figure = style.new_figure(6, 4)
    axes = style.add_axes(figure, 1, 1, 4, 2)
    lines.draw_lines(axes, panel, dict.fromkeys(panel.series, ("#0072B2", "o")))
    return axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_each_curve_stands_over_its_own_places(monkeypatch):
    axes = drawn(
        Lines({"a": Line([1, 10], [1, 2]), "b": Line([5, 50, 500], [3, 2, 1])}, "y", "x", log_x=True), monkeypatch
    )
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 10], [5, 50, 500]]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 500


def test_several_seeds_are_a_mean_and_a_band_and_one_has_none(monkeypatch):
    axes = drawn(Lines({"a": Line([0, 1], [[0, 2], [2, 4]]), "b": Line([0, 1], [1, 1])}, "y", "x"), monkeypatch)
    assert list(axes.lines[0].get_ydata()) == [1, 3]
    assert len(axes.collections) == 1


def test_what_lies_beyond_is_drawn_at_the_edge(monkeypatch):
    axes = drawn(Lines({"a": Line([0, 1, 2], [1, 50, 2])}, "y", "x", top=3.0), monkeypatch)
    assert axes.get_ylim()[1] == 3.0
    assert list(axes.lines[0].get_ydata()) == [1, 3, 2]


def test_a_value_that_is_none_is_crossed_at_the_top_and_said(monkeypatch):
    axes = drawn(Lines({"a": Line([0, 1, 2], [1, NAN, 2])}, "y", "x", legend=("first",)), monkeypatch)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[1]]
    assert texts(axes)[:2] == ["first", "crosses: diverged"]
    plain = drawn(Lines({"a": Line([0, 1], [1, 2])}, "y", "x"), monkeypatch)
    assert "crosses: diverged" not in texts(plain)


def test_marks_are_filled_or_hollow_with_a_dot_a_seed(monkeypatch):
    marks = [Mark("a", 1.0, [1, 2, 3]), Mark("a", 2.0, [2, 2, 2], hollow=True), Mark("a", 3.0, [NAN, NAN])]
    axes = drawn(Lines({"a": Line([0, 4], [0, 4])}, "y", "x", marks), monkeypatch)
    dots, mean, _, hollow = axes.lines[1:5]
    assert list(dots.get_ydata()) == [1, 2, 3]
    assert list(mean.get_ydata()) == [2]
    assert (mean.get_markerfacecolor(), hollow.get_markerfacecolor()) == ("#0072B2", "white")
    assert len(axes.lines) == 5  # nothing of what diverged on every seed


def test_what_a_formula_says_is_grey_and_has_no_name_at_its_end(monkeypatch):
    panel = Lines({"found": Line([0, 1], [0, 1]), "analytic": Line([0, 1], [0, 1], faint=True)}, "y", "x")
    axes = drawn(panel, monkeypatch)
    assert "found" in texts(axes)
    assert "analytic" not in texts(axes)


def test_a_short_logarithmic_axis_has_numbers(monkeypatch):
    axes = drawn(Lines({"a": Line([0, 1], [0.2, 2.4])}, "y", "x", log_y=True), monkeypatch)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.2", "0.5", "1", "2"]


@pytest.mark.parametrize(
    "panel",
    [
        Lines({"one": Line([3], [NAN])}, "y", "x", log_x=True, log_y=True),
        Lines({"one": Line([3], [1.0])}, "y", "x"),
        Lines({}, "y", "x"),
        Lines(
            {"a name that is much too long for the room beside": Line([0, 0], [0, 0])}, "y", "x", log_x=True, log_y=True
        ),
        Lines({f"series {k}": Line(list(range(9)), np.eye(9)[k % 9]) for k in range(30)}, "y", "x"),
        Lines({"a": Line([1, 2], [-1, 5])}, "y", "x", lines={"level $x$": 4.0}),
    ],
)
def test_ugly_cases_are_drawn_without_a_warning(panel, tmp_path):
    path = draw([panel, Panel({"b": [1.0, 2.0]}, "y")], tmp_path / "a.png", title="t")
    assert path.stat().st_size > 3000
