"""Facts about the pixels of each picture; warnings are errors."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from litmus.diagnosis import (
    Confusion,
    Embedding,
    confused_images,
    confusion_matrix,
    insight_plots,
    most_confused,
    reliability,
    style,
    top_losses,
)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def where(path, color, tolerance=3):
    wanted = np.round(255 * style.rgb(color)) if isinstance(color, str) else color
    return np.nonzero((np.abs(pixels(path) - wanted) <= tolerance).all(axis=2))


def answers(n=200, num_classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, n)
    logits = generator.normal(size=(n, num_classes)) + 2 * np.eye(num_classes)[labels]
    chances = np.exp(logits)
    return logits, labels, chances / chances.sum(1, keepdims=True)


def test_a_bin_stands_at_its_confidence_and_accuracy(tmp_path):
    chances = np.tile([0.75, 0.25], (100, 1))
    path = insight_plots.reliability(
        reliability(chances, 1 * (np.arange(100) >= 40)), tmp_path / "a" / "reliability.png"
    )
    left, foot, width, height = 160 * 0.75, 160 * (1.25 + 3.4), 160 * 4.9, 160 * 3.4  # of the axes
    rows, columns = where(path, style.BLUE)
    dot = (rows < foot) & (columns > left)
    assert np.median(columns[dot]) == pytest.approx(left + 0.75 * width, abs=2)
    assert np.median(rows[dot]) == pytest.approx(foot - 0.4 * height, abs=8)  # accuracy 0.4, within its interval


@pytest.mark.parametrize("num_classes", [2, 10, 102])
def test_a_calibration_of_any_kind_is_drawn(tmp_path, num_classes):
    _, labels, chances = answers(num_classes=num_classes)
    assert insight_plots.reliability(reliability(chances, labels), tmp_path / "r.png", svg=True).exists()
    sure = np.eye(num_classes)[[0]]
    assert insight_plots.reliability(reliability(sure, [0]), tmp_path / "one.png").exists()


def test_only_mistakes_among_the_top_losses_are_framed(tmp_path):
    right, wrong = [[4.0, 0.0]], [[0.0, 4.0]]
    image = np.full((1, 1, 8, 8), 90, np.uint8)
    framed, plain = (
        insight_plots.top_losses(image, top_losses(logits, [0]), ["#0"], ["a", "b"], tmp_path / f"{name}.png")
        for name, logits in (("wrong", wrong), ("right", right))
    )
    assert len(where(framed, style.WRONG)[0]) > 4 * 150 * 3
    assert len(where(plain, style.WRONG)[0]) == 0
    assert len(where(plain, (90, 90, 90), 0)[0]) == pytest.approx(160**2, rel=0.05)


def test_top_losses_come_row_by_row_the_worst_first(tmp_path):
    logits = np.array([[0.0, loss] for loss in range(9)])
    losses = top_losses(logits, np.zeros(9, int))
    levels = 20 * (1 + np.arange(9))
    images = np.broadcast_to(levels[:, None, None, None], (9, 1, 4, 4)).astype(np.uint8)
    path = insight_plots.top_losses(images, losses, ["#"] * 9, ["a", "b"], tmp_path / "t.png")
    places = [[float(np.median(axis)) for axis in where(path, (level,) * 3, 0)] for level in levels]
    assert [place[0] for place in places[:8]] == pytest.approx([places[0][0]] * 8, abs=1)
    assert np.diff([place[1] for place in places[:8]]).min() > 160
    assert places[8][0] > places[0][0] + 160


def test_each_pair_has_a_row_of_its_images(tmp_path):
    labels, said = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 2, 1, 2])
    matrix = confusion_matrix(labels, said, 3)
    sure = np.array([0.6, 0.9, 0.8, 0.7, 0.5, 0.5])
    levels = np.array([40, 80, 120, 160, 200, 240])
    images = np.broadcast_to(levels[:, None, None, None], (6, 1, 4, 4)).astype(np.uint8)
    rows = []
    for pair in most_confused(matrix):
        at = confused_images(labels, said, sure, pair)
        rows.append((pair, images[at], sure[at]))
    path = insight_plots.confused_pairs(rows, matrix.sum(1), ["a", "b", "c"], tmp_path / "pairs.png")
    first, second, other = (
        [float(np.median(axis)) for axis in where(path, (level,) * 3, 0)] for level in (80, 40, 160)
    )
    assert first[0] == pytest.approx(second[0])
    assert first[1] < second[1]  # the more confident one first
    assert other[0] > first[0] + 160
    assert len(where(path, (200,) * 3, 0)[0]) < 100  # right answers are not drawn
    with pytest.raises(ValueError, match="no pair"):
        insight_plots.confused_pairs([], [1], ["a"], tmp_path / "none.png")


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 224)])
def test_the_heat_lies_over_its_place_in_the_image(tmp_path, channels, side):
    images = np.full((2, channels, side, side), 128, np.uint8)
    heat = np.zeros((2, side, side), np.float32)
    heat[:, : side // 2, : side // 2] = 1
    path = insight_plots.grad_cam(
        images, [0, 1], [0, 0], [[0.9, 0.1], [0.6, 0.4]], heat, 0 * heat, ["a", "b"], tmp_path / "cam.png",
        grid=(2, 2), layer="end",
    )  # fmt: skip
    seen = pixels(path)
    colored = (seen.max(2) - seen.min(2) > 60) & (seen[..., 0] > 150) & (seen[..., 2] < 110)
    colored &= (np.abs(seen - np.round(255 * style.rgb(style.WRONG))) > 3).any(2)
    rows, columns = np.nonzero(colored)
    tile, left, mistakes, answers = 160, round(160 * (0.2 + 1.05)), 160 * (0.82 + 0.36), 160 * (0.82 + 2 * 0.36 + 1.3)
    for top in (mistakes, answers):  # in the upper left quarter of the second tile, nowhere in the third
        inside = (rows >= top) & (rows < top + tile) & (columns >= left)
        assert np.median(rows[inside]) == pytest.approx(top + 0.25 * tile, abs=12)
        assert np.median(columns[inside]) == pytest.approx(left + 0.25 * tile, abs=12)
        assert columns[inside].max() < left + 0.7 * tile


def test_heat_of_another_shape_is_refused(tmp_path):
    images = np.zeros((1, 1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
        insight_plots.grad_cam(images, [0], [0], [[1.0]], np.zeros((1, 4, 4)), np.zeros((1, 8, 8)), ["a"],
                               tmp_path / "c.png", grid=(2, 2), layer="x")  # fmt: skip


def test_each_class_has_its_colour_and_each_mistake_a_ring(tmp_path):
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])

    def draw(name, said):
        return insight_plots.embedding(
            Embedding(points, "t-SNE", 30), [0, 0, 1, 1], said, ["a", "b"], tmp_path / name, knn_err=0.1, head_err=0.2,
            num_features=5,
        )  # fmt: skip

    right, wrong = draw("right.png", [0, 0, 1, 1]), draw("wrong.png", [0, 0, 1, 0])
    blended = [np.round(255 * (0.75 * style.rgb(color) + 0.25)) for color in insight_plots.CLASS_COLORS[:2]]
    first, second = (where(right, color) for color in blended)
    assert np.median(first[0]) > np.median(second[0]) + 400  # class 1 is above
    rows, columns = np.nonzero(
        (pixels(right) != pixels(wrong)).any(2) & (np.arange(pixels(right).shape[0]) > 150)[:, None]
    )
    assert rows.max() - rows.min() < 60  # one ring, and
    assert np.median(columns) > pixels(right).shape[1] * 0.6  # at the upper right


@pytest.mark.parametrize("num_classes", [2, 20, 21, 102, 301])
def test_an_embedding_of_many_classes_is_drawn(tmp_path, num_classes):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, num_classes, 400)
    path = insight_plots.embedding(
        Embedding(generator.normal(size=(400, 2)), "PCA"), labels, np.roll(labels, 1),
        [f"a long class name, number {idx}" for idx in range(num_classes)], tmp_path / "e.png", knn_err=0, head_err=1,
        num_features=2,
    )  # fmt: skip
    assert len({tuple(c) for c in pixels(path).reshape(-1, 3)}) > 50


def test_points_in_one_place_are_drawn(tmp_path):
    insight_plots.embedding(Embedding(np.zeros((3, 2)), "PCA"), [0, 1, 0], [0, 1, 1], ["a", "b"], tmp_path / "e.png",
                            knn_err=0, head_err=0, num_features=1)  # fmt: skip


@pytest.mark.parametrize("name", ["$x_1$", "雪", "", "x" * 200, "a_b^c\\d", 7, "🐈 cat"])
def test_class_names_of_any_kind_are_drawn_without_a_warning(tmp_path, name):
    images, names = np.zeros((2, 3, 4, 4), np.uint8), [name, "b"]
    losses = top_losses([[0.0, 1.0], [0.0, 1.0]], [0, 1])
    insight_plots.top_losses(images, losses, [name, "#2"], names, tmp_path / "t.png")
    insight_plots.confused_pairs([(Confusion(0, 1, 1, 0.5), images[:1], [0.9])], [2, 1], names, tmp_path / "p.png")
    heat = np.ones((2, 4, 4), np.float32)
    insight_plots.grad_cam(images, [0, 1], [1, 1], np.full((2, 2), 0.5), heat, heat, names, tmp_path / "c.png",
                           grid=(2, 2), layer="end")  # fmt: skip
    insight_plots.embedding(Embedding(np.eye(2), "PCA"), [0, 1], [1, 1], names, tmp_path / "e.png", knn_err=0,
                            head_err=0.5, num_features=3)  # fmt: skip


def test_drawing_imports_neither_pyplot_nor_torch(tmp_path):
    code = f"""
import sys
import numpy as np
from litmus.diagnosis import insight_plots, reliability
insight_plots.reliability(reliability(np.eye(2), [0, 1]), r"{tmp_path / "r.png"}")
print([name for name in ("matplotlib.pyplot", "torch", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
