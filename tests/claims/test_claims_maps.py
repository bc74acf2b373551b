import math

import pytest

from litmus.claims.figures import Panel, draw
from litmus.claims.maps import Map, draw_maps, power

NAN = math.nan


@pytest.mark.parametrize(
    "maps",
    [
        [Map([0, 50, 100], [[-6, -3, 0], [0, 0, 0]])],
        [Map([0], [[NAN]]), Map([], [[]]), Map([], [])],
        [Map([0, 1], [[math.inf, -math.inf], [1, NAN]])] * 2,
        [Map(list(range(60)), [[k / 10 for k in range(60)]] * 110)] * 6,
    ],
)
def test_maps_are_drawn_whatever_they_hold(maps, tmp_path):
    quantities = [("one\ntwo", "RdBu_r", -6, 6, maps), ("std", "viridis", -6, 1, maps)]
    names = [f"a rather long name with a $ and {k}" for k in range(len(maps))]
    path = draw_maps(quantities, names, tmp_path / "m.png", title="t", subtitle="s", x="step", y="layer")
    assert path.stat().st_size > 5000
    assert path.with_suffix(".svg").is_file()


def test_a_scales_ticks_are_powers():
    assert [power(at) for at in (-6, -2.5, 0, 1)] == ["1e-6", "1e-2.5", "1", "1e1"]


def boxes(monkeypatch):
    """Axes of what is drawn, kept."""
    from litmus.diagnosis import style

    kept, make = [], style.add_axes
    monkeypatch.setattr(style, "add_axes", lambda *a, **k: kept.append(make(*a, **k)) or kept[-1])
    return kept


def test_panels_that_are_to_be_compared_have_one_range(monkeypatch, tmp_path):
    kept = boxes(monkeypatch)
    panels = [
        Panel({"a": [[0.1, 0.2]]}, "err", "n", [1, 2], y_range=(0, 1)),
        Panel({"a": [0.3]}, "err", y_range=(0, 1)),
    ]
    draw(panels, tmp_path / "p.png", title="t")
    assert [tuple(axes.get_ylim()) for axes in kept] == [(0, 1), (0, 1)]


def test_one_legend_names_the_series_once(monkeypatch, tmp_path):
    kept = boxes(monkeypatch)
    panels = [Panel({"first": [[1, 2]], "second": [[2, 3]]}, "err", "n", [1, 2])] * 3
    draw(panels, tmp_path / "p.png", title="t", one_legend=True)
    words = [text.get_text() for axes in kept for text in axes.texts]
    assert words == ["first", "second"]
    kept.clear()
    draw(panels, tmp_path / "p.png", title="t")
    assert [text.get_text() for axes in kept for text in axes.texts].count("first") == 3


def test_an_arm_of_which_nothing_is_left_says_so_in_its_place(monkeypatch, tmp_path):
    kept = boxes(monkeypatch)
    draw([Panel({"a": [0.1, 0.2], "b": [math.nan] * 2}, "err")], tmp_path / "p.png", title="t")
    (word,) = [text for text in kept[0].texts if text.get_text() == "diverged"]
    assert word.get_position()[0] == 1


def test_a_long_curve_has_few_markers(monkeypatch, tmp_path):
    kept = boxes(monkeypatch)
    draw([Panel({"a": [list(range(60))]}, "err", "n", list(range(60)))], tmp_path / "p.png", title="t")
    assert max(line.get_markevery() or 1 for line in kept[0].lines) == 5
