"""Facts about the pixels and the objects of the pictures that hold arms side by side."""

import math

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import compare_plots as plots
from litmus.diagnosis import style


def pixels(path, color):
    with Image.open(path) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    return np.nonzero((np.abs(found - np.round(255 * style.rgb(color))) <= 3).all(axis=2))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    kept = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path, **how: (kept.append(figure), save(figure, path, **how))[1])
    return kept


def history(level=0.1, epochs=4, **changed):
    made = {name: [(x, level / x) for x in range(1, epochs + 1)] for name in ("val/err", "val/loss", "train/loss")}
    return {**made, **changed}


def texts(figure):
    own = [text.get_text() for text in figure.texts]
    return own + [text.get_text() for axes in figure.axes for text in axes.texts]


def fits(figure):
    """No text leaves the figure."""
    canvas = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(canvas) for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes += [text.get_window_extent(canvas) for text in figure.texts if text.get_text()]
    width, height = figure.canvas.get_width_height()
    return all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_the_thick_line_is_the_mean_and_the_band_its_t_interval(tmp_path, drawn):
    runs = [history(**{"val/err": [(1, 0.5), (2, level)]}) for level in (0.1, 0.2, 0.6)]
    path = plots.curves({"one": runs, "two": [history()]}, tmp_path / "c.png", title="t", svg=True)
    axes = drawn[0].axes[0]
    thick = [line for line in axes.lines if line.get_linewidth() == 2.0]
    assert len(thick) == 1
    assert thick[0].get_xydata().tolist() == pytest.approx(np.array([[1, 0.5], [2, 0.3]]))
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), rel=1e-5)
    assert "band: 95% t interval of the mean" in texts(drawn[0])[1]
    assert path.with_suffix(".svg").stat().st_size > 1000
    for color in plots.COLORS[:2]:
        assert len(pixels(path, color)[0]) > 50


def test_the_mean_goes_as_far_as_all_seeds_and_two_have_no_band(tmp_path, drawn):
    plots.curves({"a": [history(epochs=3), history(epochs=5)]}, tmp_path / "c.png", title="t")
    axes = drawn[0].axes[0]
    (thick,) = [line for line in axes.lines if line.get_linewidth() == 2.0]
    assert thick.get_xdata().tolist() == [1, 2, 3]
    assert len(axes.collections) == 0
    assert "band" not in texts(drawn[0])[1]


def test_one_run_an_arm_is_drawn_as_it_is(tmp_path, drawn):
    plots.curves({"a": [history()], "b": [history(0.3)]}, tmp_path / "c.png", title="t", unit="steps")
    assert texts(drawn[0])[1] == "one run an arm"
    assert [axes.get_xlabel() for axes in drawn[0].axes[:3]] == ["optimizer step"] * 3
    assert drawn[0].axes[0].get_ylabel().startswith("error rate")
    assert drawn[0].axes[1].get_ylabel().startswith("cross-entropy (nats)")


def test_holes_stay_holes_and_a_panel_without_values_is_left_out(tmp_path, drawn):
    hole = {"val/err": [(1, 0.4), (2, math.nan), (3, 0.3)]}
    plots.curves({"hole": [hole], "point": [{"val/err": [(1, 0.5)]}]}, tmp_path / "c.png", title="t")
    assert [axes.get_ylabel() for axes in drawn[0].axes[:-1]] == ["error rate"]
    assert np.isnan(drawn[0].axes[0].lines[0].get_ydata()[1])
    assert drawn[0].axes[0].lines[1].get_marker() == "o"
    with pytest.raises(ValueError, match="no finite value"):
        plots.curves({"a": [{"val/err": [(1, math.nan)]}]}, tmp_path / "none.png", title="t")
    assert not (tmp_path / "none.png").exists()


def test_a_band_does_not_press_curves_on_a_log_scale_together(tmp_path, drawn):
    runs = [history(**{"val/loss": [(1, 2.0), (2, level)]}) for level in (0.05, 0.06, 0.2)]
    plots.curves({"a": runs}, tmp_path / "c.png", title="t")
    axes = drawn[0].axes[1]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == pytest.approx((0.05 / 1.25, 2.0 * 1.25))


def test_thirty_arms_with_long_names_fit(tmp_path, drawn):
    arms = {f"an arm with a very long name indeed, lr={i} $x$ \u65e5": [history(0.1 + i / 100)] for i in range(30)}
    path = plots.curves(arms, tmp_path / "c.png", title="thirty arms " * 20)
    assert fits(drawn[0])
    assert "23 more arms" in texts(drawn[0])
    assert len(pixels(path, plots.GREY)[0]) > 200
    assert [line.get_color() for line in drawn[0].axes[0].lines].count(plots.GREY) == 23


def errors_of(count, **changed):
    return [
        plots.ArmErrors(
            f"an arm with a very long name indeed and more, lr={i}", [0.1 + i / 100, 0.12 + i / 100], **changed
        )
        for i in range(count)
    ]


def test_every_seed_is_a_dot_the_mean_a_tick_and_the_interval_a_line(tmp_path, drawn):
    arm = plots.ArmErrors("a", [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], (0.15, 0.25), (0.25, 0.35), "better")
    path = plots.errors([arm, plots.ArmErrors("b", [0.2])], tmp_path / "e.png", title="t", reference="b", svg=True)
    val, test = drawn[0].axes
    assert val.collections[0].get_offsets()[:, 0].tolist() == [0.1, 0.2, 0.3]
    line, tick = val.lines
    assert line.get_xdata().tolist() == [0.15, 0.25]
    assert tick.get_xdata() == pytest.approx([0.2, 0.2])
    assert test.collections[0].get_offsets()[:, 0].tolist() == [0.2, 0.3, 0.4]
    assert len(test.collections) == 1  # the reference was not tested
    assert (val.get_xlabel(), test.get_xlabel()) == ("val error rate", "test error rate")
    assert "better" in texts(drawn[0])
    assert len(pixels(path, style.BLUE)[0]) > 50
    assert path.with_suffix(".svg").exists()


def test_runs_without_a_test_have_one_panel(tmp_path, drawn):
    plots.errors(errors_of(2), tmp_path / "e.png", title="t")
    assert len(drawn[0].axes) == 1
    assert "test" not in texts(drawn[0])[1]


def test_of_forty_arms_the_best_are_drawn_and_the_reference(tmp_path, drawn):
    arms = errors_of(40, note="undecided")
    plots.errors(arms, tmp_path / "e.png", title="t", reference=arms[39].name)
    assert fits(drawn[0])
    assert "the best 30 of 40 arms" in texts(drawn[0])[1]
    assert len(drawn[0].axes[0].collections) == 30
    assert drawn[0].axes[0].collections[-1].get_offsets()[0, 0] == pytest.approx(0.49)


def test_an_interval_wider_than_all_else_is_cut_off_but_one_alone_is_shown_whole(tmp_path, drawn):
    wide = plots.ArmErrors("w", [0.1, 0.11], val_interval=(0.0, 1.0))
    narrow = [plots.ArmErrors(str(i), [0.1, 0.12], val_interval=(0.1, 0.12)) for i in range(3)]
    plots.errors([wide, *narrow], tmp_path / "e.png", title="t")
    assert drawn[0].axes[0].get_xlim()[1] < 0.2
    plots.errors([plots.ArmErrors("alone", [0.0], val_interval=(0.0, 0.02))], tmp_path / "one.png", title="t")
    assert drawn[1].axes[0].get_xlim()[1] >= 0.02
    with pytest.raises(ValueError, match="no arm"):
        plots.errors([], tmp_path / "none.png", title="t")


def rows_of(count):
    return [
        {
            "model.name": "plain" if i % 2 else "residual",
            "optim.lr": 10.0**-i,
            "model.width": 8 * i,
            "flag": bool(i % 2),
        }
        for i in range(count)
    ]


def test_numbers_are_placed_on_their_scale_and_words_in_their_places(tmp_path, drawn):
    plots.parallel(rows_of(3), [0.3, 0.2, 0.1], tmp_path / "p.png", metric="val/err", svg=True)
    lines = [line.get_ydata() for line in drawn[0].axes[0].lines if len(line.get_ydata()) == 5]
    heights = np.array(lines)[::-1]  # the best is drawn last
    assert heights[:, 1] == pytest.approx([0, 0.5, 1])  # 0.01, 0.1, 1: logarithmic
    assert heights[:, 2] == pytest.approx([1, 0.5, 0])  # 16, 8, 0
    assert heights[:, 4] == pytest.approx([0, 0.5, 1])
    assert heights[:, 0] == pytest.approx([0, 1, 0], abs=0.03)
    shown = texts(drawn[0])
    assert {"true", "false", "plain", "residual", "0.01", "1"} <= set(shown)
    assert shown[0] == "3 arms over 4 keys: val/err 0.1 to 0.3"
    assert (tmp_path / "p.svg").exists()


def test_the_best_line_is_thick_and_dark_and_on_top(tmp_path, drawn):
    plots.parallel(rows_of(4), [0.1, 0.3, 0.2, 0.4], tmp_path / "p.png", metric="val/err")
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_ydata()) == 5]
    best = max(lines, key=lambda line: (line.get_zorder(), line.get_linewidth()))
    assert best.get_linewidth() == 2.4
    assert best.get_ydata()[-1] == 0
    assert sum(line.get_linewidth() == 2.4 for line in lines) == 1
    shades = [style.rgb(line.get_color()).sum() for line in lines]
    assert shades == sorted(shades, reverse=True)
    plots.parallel(rows_of(4), [0.1, 0.3, 0.1, 0.3], tmp_path / "ties.png", metric="val/err")
    lines = [line for line in drawn[1].axes[0].lines if len(line.get_ydata()) == 5]
    assert [line.get_linewidth() for line in lines] == [1.1, 1.1, 2.4, 2.4]
    assert len({line.get_color() for line in lines}) == 2


def test_a_key_that_an_arm_lacks_and_keys_beyond_seven_are_said(tmp_path, drawn):
    rows = [
        {**{f"a.long.name.of.a.key.{i}": i * number for i in range(9)}, **({"only": 1} if number else {})}
        for number in range(3)
    ]
    plots.parallel([{"only": 2}, *rows[:2]], [0.1, 0.2, 0.3], tmp_path / "p.png", metric="val/err")
    shown = texts(drawn[0])
    assert "no such key" in shown
    assert shown[1].endswith("3 more keys left out")
    assert fits(drawn[0])
    many = [{"word": f"choice {i}", "number": i * 1000} for i in range(30)]
    plots.parallel(many, np.linspace(0.1, 0.2, 30), tmp_path / "many.png", metric="val/err")
    assert "29,000" in texts(drawn[1])
    assert sum(text.startswith("choice") for text in texts(drawn[1])) <= 12
    plots.parallel([{"same": 1}, {"same": 1}], [0.1, 0.1], tmp_path / "same.png", metric="val/err")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    for rows, values in (([], []), ([{}], [0.1]), ([{"a": 1}], [math.nan]), ([{"a": 1}], [0.1, 0.2])):
        with pytest.raises(ValueError, match="finite values"):
            plots.parallel(rows, values, tmp_path / "p.png", metric="val/err")
