"""The plane of bias and gap: where things stand in it."""

import math

import numpy as np
import pytest

from litmus.claims import plane
from litmus.claims.plane import Group, draw_plane

NAN = math.nan


def group(*points, half=0.01):
    bias, gap = zip(*points, strict=True)
    ends = [[[value - half, value + half] for value in values] for values in (bias, gap)]
    return Group(bias, gap, *ends)


@pytest.fixture
def figure(monkeypatch):
    """The last figure that was saved."""
    found = {}
    save = plane.style.save

    def keep(made, path, **how):
        found["figure"] = made
        return save(made, path, **how)

    monkeypatch.setattr(plane.style, "save", keep)
    return lambda: found["figure"]


def arrows(axes):
    return [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]


def places(axes):
    """(x, y) of every training that is drawn."""
    lines = [line for line in axes.lines if line.get_marker() not in (None, "None", "")]
    return [tuple(point) for line in lines for point in line.get_xydata()]


STEPS = {"a": group((0.36, 0.01), (0.49, 0.01)), "b": group((0.09, 0.16)), "c": group((0.0, 0.04))}


def test_points_stand_at_square_roots_and_the_border_at_that_of_the_tolerance(figure, tmp_path):
    draw_plane(STEPS, tmp_path / "a.png", tolerance=0.04, title="t")
    axes = figure().axes[0]
    assert places(axes) == [pytest.approx(at) for at in ((0.6, 0.1), (0.7, 0.1), (0.3, 0.4), (0.0, 0.2))]
    borders = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert borders == [pytest.approx(0.2), 0]  # upright, and level, which begins at the left


def test_a_gap_below_zero_stands_below_zero(figure, tmp_path):
    draw_plane({"a": group((0.0, -0.01))}, tmp_path / "a.png", tolerance=0.02, title="t")
    assert places(figure().axes[0]) == [pytest.approx((0, -0.1))]
    assert figure().axes[0].get_ylim()[0] < -0.1


def test_arrows_lead_from_mean_to_mean_and_only_where_groups_follow(figure, tmp_path):
    draw_plane(STEPS, tmp_path / "a.png", tolerance=0.02, title="t", joined=True)
    first, second = arrows(figure().axes[0])
    assert first.xyann == pytest.approx(np.sqrt([0.425, 0.01]))
    assert first.xy == pytest.approx((0.3, 0.4))
    assert second.xyann == pytest.approx((0.3, 0.4))
    draw_plane(STEPS, tmp_path / "b.png", tolerance=0.02, title="t")
    assert arrows(figure().axes[0]) == []


def test_a_group_that_is_lost_is_passed_over_and_counted(figure, tmp_path):
    lost = {**STEPS, "b": group((NAN, NAN), (NAN, NAN))}
    draw_plane(lost, tmp_path / "a.png", tolerance=0.02, title="t", joined=True)
    (only,) = arrows(figure().axes[0])
    assert only.xy == pytest.approx((0.0, 0.2))
    assert "2. b (2 diverged)" in [text.get_text() for text in figure().texts]


def test_nothing_but_lost_trainings_and_long_names_are_drawn(tmp_path):
    lost = {f"{'a very long name of a group ' * 4}{k} {'名'}": group((NAN, NAN)) for k in range(10)}
    assert draw_plane(lost, tmp_path / "a.png", tolerance=0.02, title="long " * 60).is_file()
    one = {"one": group((0.0, 0.0), half=0.0)}
    assert draw_plane(one, tmp_path / "b.png", tolerance=0.9, title="t").is_file()


def test_boxes_are_called_as_the_verdicts_are():
    from litmus.diagnosis import diagnose_errors

    for (bias, gap), name in plane.BOXES.items():
        train = 0.2 if bias else 0.0
        assert diagnose_errors(train, train + (0.2 if gap else 0.0), 50_000, 50_000).verdict == name
