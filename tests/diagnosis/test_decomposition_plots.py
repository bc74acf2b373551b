"""Facts about the pixels of a sweep's picture, and what its title says; warnings are errors."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import (
    Decompositions,
    Estimate,
    Interval,
    SquaredError,
    decompose,
    decompose_regression,
    decomposition_plots,
    style,
)
from litmus.diagnosis.decomposition_plots import decomposition_sweep, decomposition_sweeps


def estimate(value, error=0.01, points=()):
    interval = None if error is None else Interval(value - 2 * error, value + 2 * error)
    return Estimate(value, error, interval, tuple(points))


def squared(bias, variance, error=0.01, *, noise=None, points=False, **counts):
    spread = (lambda value: (value - 0.02, value + 0.02)) if points else (lambda value: ())
    parts = {"bias2_and_noise": bias, "variance": variance, "total": bias + variance}
    made = {name: estimate(value, error, spread(value)) for name, value in parts.items()}
    if noise is not None:
        made |= {"bias2": estimate(bias - noise, error), "noise": estimate(noise, 0.0)}
    basis = {"num_reshuffles": 1 + points, "num_models": 6, "num_images": 300, "level": 0.95}
    return SquaredError(**{**basis, **counts}, **made)


HUMP = {1: squared(0.8, 0.1), 4: squared(0.4, 0.3), 16: squared(0.3, 0.15), 64: squared(0.2, 0.1)}
LEFT, TOP, WIDTH, HEIGHT = 160 * 0.75, 160 * 1.0, 160 * 5.9, 160 * 2.6  # of the only panel


def everything(seed=0, num_reshuffles=2, num_models=4):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_reshuffles, num_models, 30, 3)) + 2 * generator.normal(size=(30, 3))
    return decompose(logits, generator.integers(0, 3, 30))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def where(path, color, tolerance=3):
    """Rows and columns within the panel's frame."""
    rows, columns = np.nonzero((np.abs(pixels(path) - np.round(255 * style.rgb(color))) <= tolerance).all(axis=2))
    inside = (rows > TOP) & (rows < TOP + HEIGHT - 2) & (columns > LEFT + 3) & (columns < LEFT + WIDTH)
    return rows[inside], columns[inside]


@pytest.fixture
def said(monkeypatch):
    """What is written into a picture: the title, what stands beneath it, and every text."""
    found = {"texts": [], "ticks": []}

    def title(figure, title, beneath=""):
        found.update(title=title, beneath=beneath)

    def write(where, x, y, text, **how):
        found["texts"].append(text)
        return real(where, x, y, text, **how)

    real = style.write
    monkeypatch.setattr(style, "write_title", title)
    monkeypatch.setattr(style, "write", write)
    return found


@pytest.fixture
def axes(monkeypatch):
    """The panels of the pictures drawn."""
    made = []

    def add(*args, real=style.add_axes, **how):
        made.append(real(*args, **how))
        return made[-1]

    monkeypatch.setattr(style, "add_axes", add)
    return made


def ticks(panel):
    return [label.get_text() for label in panel.get_xticklabels()]


def test_curves_stand_at_their_values(tmp_path):
    flat = {1: squared(0.5, 0.2, 0.001), 2: squared(0.5, 0.2, 0.001)}
    path = decomposition_sweep(flat, tmp_path / "a" / "sweep.png")
    assert path == tmp_path / "a" / "sweep.png"
    top = 1.05 * 0.702  # the highest end of an interval, and a little
    for color, value in ((style.BLUE, 0.5), (style.RED, 0.2), (style.INK, 0.7)):
        rows, columns = where(path, color)
        middle = (columns > LEFT + 0.3 * WIDTH) & (columns < LEFT + 0.7 * WIDTH)
        foot = TOP + 160 * 0.17 + HEIGHT  # the message takes two lines
        assert np.median(rows[middle]) == pytest.approx(foot - HEIGHT * value / top, abs=2)


def test_the_noise_is_a_line_of_its_own(tmp_path, said):
    without = decomposition_sweep(HUMP, tmp_path / "without.png")
    assert len(where(without, style.GREEN)[0]) == 0
    assert "noise" not in said["texts"]
    known = {x: replace(squared(0.3 + 1 / x, 0.1, noise=0.2), noise=estimate(0.2, 0.0)) for x in (1, 2, 4)}
    path = decomposition_sweep(known, tmp_path / "with.png")
    rows, columns = where(path, style.GREEN)
    assert rows.max() - rows.min() < 8  # level
    assert columns.max() - columns.min() > 0.95 * WIDTH
    assert {"bias²", "variance", "noise", "total"} <= set(said["texts"])
    varied = {x: replace(one, noise=estimate(0.1 * x, 0.0)) for x, one in known.items()}
    rows, _ = where(decomposition_sweep(varied, tmp_path / "varied.png"), style.GREEN)
    assert rows.max() - rows.min() > 50


def test_the_highest_variance_is_marked(tmp_path, said, axes):
    path = decomposition_sweep(HUMP, tmp_path / "sweep.png")
    assert "highest variance: 4" in said["texts"]
    rows, columns = where(path, style.RED)
    upper = rows < TOP + 0.2 * HEIGHT
    share = 0.03 / 1.06 + (1 / 3) / 1.06  # 4 is a third of the way from 1 to 64 on logarithms
    assert np.median(columns[upper]) == pytest.approx(LEFT + share * WIDTH, abs=2)
    single = decomposition_sweep({4: HUMP[4]}, tmp_path / "one.png")
    assert not any(text.startswith("highest") for text in said["texts"][len(HUMP) + 1 :])
    assert single.exists()


@pytest.mark.parametrize(("highest", "side"), [(0, "left"), (1, "center"), (2, "right")])
def test_the_mark_of_the_highest_variance_stays_above_its_panel(tmp_path, axes, highest, side):
    sweep = {f"a name of 18 lett{i}": squared(0.5, 0.2 + 0.1 * (i == highest)) for i in range(3)}
    decomposition_sweep(sweep, tmp_path / "a.png")
    (mark,) = [text for text in axes[0].texts if text.get_text().startswith("highest")]
    assert mark.get_ha() == side
    box, panel = mark.get_window_extent(), axes[0].get_window_extent()
    assert panel.x0 <= box.x0
    assert box.x1 <= panel.x1 + 160 * 1.15


def test_bands_are_the_intervals_and_missing_ones_leave_none(tmp_path, said):
    narrow = decomposition_sweep({1: squared(0.5, 0.2), 2: squared(0.5, 0.2)}, tmp_path / "a.png")
    assert "bands: 95% intervals" in said["beneath"]
    wide = decomposition_sweep({1: squared(0.5, 0.2, 0.03), 2: squared(0.5, 0.2, 0.03)}, tmp_path / "b.png")
    none = decomposition_sweep({1: squared(0.5, 0.2, None), 2: squared(0.5, 0.2, None)}, tmp_path / "c.png")
    assert "intervals" not in said["beneath"]
    blue = np.round(255 * (0.84 + 0.16 * style.rgb(style.BLUE)))

    def height(path):
        rows, _ = np.nonzero((np.abs(pixels(path) - blue) <= 2).all(axis=2))
        return np.ptp(rows) if len(rows) > 500 else 0

    assert height(narrow) == pytest.approx(HEIGHT * 0.04 / (1.05 * 0.72), abs=4)
    assert height(wide) > 2.5 * height(narrow)
    assert height(none) == 0


def test_endless_intervals_do_not_flatten_the_curves(tmp_path, axes):
    decomposition_sweep({1: squared(0.5, 0.2, 50.0), 2: squared(0.5, 0.2, 50.0)}, tmp_path / "a.png")
    low, high = axes[0].get_ylim()
    assert -0.4 < low < 0
    assert 0.7 < high < 1.3


def test_reshuffles_are_dashes(tmp_path, said, axes):
    decomposition_sweep({x: squared(0.5, 0.2, points=True) for x in (1, 2)}, tmp_path / "a.png")
    assert "6 models in each of 2 reshuffles, 300 images" in said["beneath"]
    assert "dashes: reshuffles" in said["beneath"]
    dashes = [line for line in axes[0].get_lines() if line.get_marker() == "_"]
    assert sorted(y for line in dashes for y in line.get_ydata()) == pytest.approx(
        sorted(2 * [0.18, 0.22, 0.48, 0.52, 0.68, 0.72])
    )
    decomposition_sweep(HUMP, tmp_path / "b.png")
    assert "dashes" not in said["beneath"]
    assert said["beneath"].startswith("6 models, 300 images")


def test_numbers_are_sorted_and_on_logarithms_beyond_a_decade(tmp_path, axes):
    decomposition_sweep({x: squared(0.5, 0.2) for x in (100, 1, 10)}, tmp_path / "a.png", x="width")
    decomposition_sweep({x: squared(0.5, 0.2) for x in (1, 3, 10)}, tmp_path / "b.png", x="width")
    decomposition_sweep({x: squared(0.5, 0.2) for x in (-10, 1, 100)}, tmp_path / "c.png", x="shift")
    decomposition_sweep({x: squared(0.5, 0.2) for x in (0, 1, 10, 100)}, tmp_path / "d.png", x="l2_lambda")
    decomposition_sweep({x: squared(0.5, 0.2) for x in (0, 1000)}, tmp_path / "e.png", x="l2_lambda")
    assert [panel.get_xlabel() for panel in axes] == [
        "width, log scale", "width", "shift", "l2_lambda, log scale", "l2_lambda",
    ]  # fmt: skip
    assert ticks(axes[0]) == ["1", "10", "100"]
    assert np.diff(axes[0].get_xticks()) == pytest.approx([1, 1])
    assert list(axes[1].get_xticks()) == [1, 3, 10]
    assert list(axes[2].get_xticks()) == [-10, 1, 100]
    assert ticks(axes[3]) == ["0", "1", "10", "100"]
    assert list(axes[3].get_xticks()) == pytest.approx([-1, 0, 1, 2])


def test_labels_of_places_keep_apart(tmp_path, axes):
    decomposition_sweep({2**i: everything(i) for i in range(11)}, tmp_path / "a.png")
    assert ticks(axes[0]) == ["1", "4", "16", "64", "256", "1,024"]  # evenly
    decomposition_sweep({i: everything(i) for i in range(1, 31)}, tmp_path / "b.png")
    shown = ticks(axes[3])
    assert shown[:3] == ["1", "2", "3"]
    assert 6 < len(shown) < 30
    at, width = np.array(axes[3].get_xticks()), 2.55 / np.diff(axes[3].get_xlim())[0]
    room = [(style.width_of(a, 8) + style.width_of(b, 8)) / 2 for a, b in pairwise(shown)]
    assert (np.diff(at) * width > room).all()


@pytest.mark.parametrize("count", [2, 60])
def test_names_keep_their_order_and_have_no_lines_between_them(tmp_path, axes, said, count):
    names = [f"arm number {count - i}" for i in range(count)]
    decomposition_sweep(
        {name: squared(0.5 - 0.005 * i, 0.2, points=True) for i, name in enumerate(names)}, tmp_path / "a.png", x="arm"
    )
    assert ticks(axes[0]) == names
    assert {label.get_rotation() for label in axes[0].get_xticklabels()} == {90 if count > 2 else 0}
    assert "lines: 95% intervals" in said["beneath"]
    curves = [line for line in axes[0].get_lines() if line.get_marker() == "o"]
    assert {line.get_linewidth() for line in curves} == {0}
    assert len({tuple(line.get_xdata()) for line in curves}) == 3  # side by side
    assert [len(lines.get_segments()) for lines in axes[0].collections] == [count] * 3
    assert axes[0].get_xlabel() == "arm"
    last = 0.5 - 0.005 * (count - 1)
    assert said["title"] == (
        f"Squared error is lowest at arm = {names[-1]}: bias² + noise {style.number(last)}, variance 0.2"
    )


@pytest.mark.parametrize("name", ["$x_1$", "雪", "", "x" * 200, "a_b^c\\d", "two\nlines"])
def test_names_of_any_kind_are_drawn_without_a_warning(tmp_path, name, axes):
    path = decomposition_sweep({name: everything(0), "b": everything(1)}, tmp_path / "a.png", x=name)
    assert path.exists()
    shown = ticks(axes[0])[0]
    assert len(shown) <= 18
    assert shown == {"$x_1$": "$x_1$", "雪": "no. 1", "": "no. 1", "two\nlines": "two lines"}.get(name, shown)


def test_the_title_says_what_is_beyond_chance(tmp_path, said):
    def title(bias, variance, error=0.01, x=None, **how):
        sweep = {at: squared(b, v, error) for at, b, v in zip(x or range(1, 9), bias, variance, strict=False)}
        decomposition_sweep(sweep, tmp_path / "a.png", **how)
        return said["title"] + (f" | {said['beneath'].splitlines()[0]}" if "\n" in said["beneath"] else "")

    peaked = title([0.78, 0.4, 0.21], [0.06, 0.14, 0.1], x=[1, 4, 1024])
    assert peaked == "Bias² + noise falls from 0.78 to 0.21; variance peaks at width 4 (0.14)"
    assert title([0.2, 0.4], [0.3, 0.1]) == "Bias² + noise rises from 0.2 to 0.4; variance falls from 0.3 to 0.1"
    assert title([0.5, 0.2, 0.4], [0.1, 0.1, 0.1], x=[1, 2, 3]) == (
        "Bias² + noise is lowest at width 2 (0.2) | variance goes from 0.1 to 0.1, within chance"
    )
    assert title([0.5, 0.2], [0.1, 0.3], None) == "Bias² + noise goes from 0.5 to 0.2; variance goes from 0.1 to 0.3"
    noisy = title([0.5, 0.48], [0.1, 0.12], 0.02)
    assert noisy == (
        "Bias² + noise goes from 0.5 to 0.48, within chance | variance goes from 0.1 to 0.12, within chance"
    )
    assert title([0.5], [0.2]) == "At width 1: bias² + noise 0.5, variance 0.2"


def test_the_setting_is_named(tmp_path, said, axes):
    decomposition_sweep(HUMP, tmp_path / "a.png", x="depth")
    assert "peaks at depth 4" in said["title"] + said["beneath"]
    assert axes[0].get_xlabel() == "depth, log scale"
    decomposition_sweep(HUMP, tmp_path / "a.png", x="epochs " * 20)
    assert style.width_of(axes[1].get_xlabel(), 9) < 5.9
    assert style.width_of(said["title"], 12, bold=True) < 7.6


def test_losses_are_panels_side_by_side(tmp_path, axes):
    sweep = {x: everything(x) for x in (1, 2, 3)}
    decomposition_sweep(sweep, tmp_path / "a.png")
    decomposition_sweep(sweep, tmp_path / "b.png", losses=["cross_entropy", "squared"])
    names = [panel.get_ylabel() for panel in axes]
    first = ["squared error of probabilities", "error rate", "cross-entropy (nats)"]
    assert names == [*first, "cross-entropy (nats)", "squared error of probabilities"]
    widths = [panel.get_position().width * panel.figure.get_size_inches()[0] for panel in axes]
    assert widths == pytest.approx([2.55] * 3 + [3.3] * 2)
    net = [sweep[x].zero_one.net_variance.value for x in (1, 2, 3)]
    red = [line for line in axes[1].get_lines() if line.get_color() == style.RED and line.get_marker() == "o"]
    assert list(red[0].get_ydata()) == pytest.approx(net)


def test_a_regression_is_drawn_with_all_three(tmp_path, said):
    generator, true = np.random.default_rng(0), np.sin(np.arange(10))
    sweep = {
        degree: decompose_regression(
            true / degree + 0.1 * generator.normal(size=(20, 10)), true, true + 0.3 * generator.normal(size=(4, 10))
        )
        for degree in (1, 2, 3)
    }
    path = decomposition_sweep(sweep, tmp_path / "a.png", x="degree", svg=True)
    assert path.with_suffix(".svg").exists()
    assert {"bias²", "variance", "noise", "total"} <= set(said["texts"])
    assert said["beneath"].splitlines()[-1] == "20 models at 10 places; bands: 95% intervals"


def test_settings_that_rest_on_different_models_are_not_said_to_be_alike(tmp_path, said):
    decomposition_sweep({1: squared(0.5, 0.2), 2: squared(0.5, 0.2, num_models=8)}, tmp_path / "a.png")
    assert said["beneath"].splitlines()[-1] == "2 settings, not all on as many models and images; bands: intervals"
    decomposition_sweep({1: squared(0.5, 0.2), 2: squared(0.5, 0.2, level=0.9)}, tmp_path / "a.png")
    assert "bands: intervals" in said["beneath"]


WRONG = replace(squared(0.5, 0.2), variance=estimate(float("nan")))


@pytest.mark.parametrize(
    ("sweep", "options", "says"),
    [
        ({}, {}, "empty"),
        ({1: squared(0.5, 0.2), "a": squared(0.5, 0.2)}, {}, "not both"),
        ({1: squared(0.5, 0.2), float("nan"): squared(0.5, 0.2)}, {}, "finite numbers"),
        ({1: squared(0.5, 0.2), 2: everything()}, {}, "one kind"),
        ({1: 0.5}, {}, "one kind"),
        ({1: everything()}, {"losses": ["brier"]}, "brier"),
        ({1: everything()}, {"losses": []}, r"\[\]"),
        ({1: everything()}, {"losses": ["squared", "squared"]}, "each once"),
        ({1: squared(0.5, 0.2), 2: squared(0.5, 0.2, noise=0.1)}, {}, "noise"),
        ({1: WRONG, 2: squared(0.5, 0.2)}, {}, "not every squared error is finite"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path, sweep, options, says):
    with pytest.raises(ValueError, match=says):
        decomposition_sweep(sweep, tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())


def test_drawing_imports_neither_pyplot_nor_torch(tmp_path):
    code = f"""
import sys
import numpy as np
from litmus.diagnosis import decompose
from litmus.diagnosis.decomposition_plots import decomposition_sweep
found = decompose(np.random.default_rng(0).normal(size=(3, 4, 2)), [0, 1, 0, 1])
decomposition_sweep({{1: found, 2: found}}, r"{tmp_path / "a.png"}")
print([name for name in ("matplotlib.pyplot", "torch", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert isinstance(everything(), Decompositions)


# Several conditions


def test_conditions_share_one_scale_and_are_named(tmp_path, monkeypatch):
    limits, heads = [], []
    draw, write = decomposition_plots._draw, decomposition_plots.style.write

    def drawn(axes, *given):
        draw(axes, *given)
        limits.append(axes.get_ylim())

    def written(where, x, y, text, **how):
        heads.append(text)
        return write(where, x, y, text, **how)

    monkeypatch.setattr(decomposition_plots, "_draw", drawn)
    monkeypatch.setattr(decomposition_plots.style, "write", written)
    low, high = {1: squared(0.1, 0.05), 4: squared(0.1, 0.02)}, {1: squared(0.7, 0.1), 4: squared(0.5, 0.3)}
    path = decomposition_sweeps({"clean": low, "noisy": high}, tmp_path / "two.png", title="A message", subtitle="a\nb")
    assert path.stat().st_size > 10_000
    assert limits[0] == limits[1]
    assert {"clean", "noisy"} <= set(heads)


def test_a_condition_of_which_nothing_is_known_has_an_empty_panel(tmp_path):
    known = {1: squared(0.1, 0.05), 4: squared(0.1, 0.02)}
    assert decomposition_sweeps({"clean": known, "lost": {}}, tmp_path / "a.png", title="t").is_file()
    assert decomposition_sweeps({"lost": {}}, tmp_path / "b.png", title="t").is_file()
    with pytest.raises(ValueError, match="empty sweep"):
        decomposition_sweeps({}, tmp_path / "c.png", title="t")
