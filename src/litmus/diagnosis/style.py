"""The look of every figure, in one place.

matplotlib is imported by the first figure drawn, and its global state is left alone: no pyplot, no rcParams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
FONT = "DejaVu Sans"  # comes with matplotlib
INK, SOFT, FAINT = "#222222", "#6b6b6b", "#d9d9d9"

# Okabe & Ito 2008: told apart with every common colour blindness, and by lightness in grey print.
BLUE, SKY, ORANGE, RED, GREEN = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73"
TRAIN, RUNNING, VAL = BLUE, SKY, RED
RIGHT, WRONG = BLUE, RED


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float, *, bare: bool = False) -> Axes:
    """Axes at a place in inches from the figure's upper left corner. ``bare``: a canvas without frame and ticks."""
    total_width, total_height = figure.get_size_inches()
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(box, facecolor="white", frameon=not bare)
    if bare:
        axes.set_axis_off()
        return axes
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(color=SOFT, linewidth=0.8)
    axes.tick_params(which="major", colors=SOFT, labelsize=8, labelfontfamily=FONT, length=3, width=0.8)
    axes.tick_params(which="minor", colors=SOFT, length=2, width=0.6, labelleft=False, labelbottom=False)
    return axes


def write(where: Figure | Axes, x: float, y: float, text: str, *, size: float = 9, color: str = INK, **how: Any) -> Any:
    """Text as it is: a ``$`` is a dollar."""
    return where.text(x, y, text, fontsize=size, color=color, family=FONT, parse_math=False, **how)


def write_title(figure: Figure, title: str, subtitle: str = "") -> None:
    """The message in bold at the upper left, what it rests on beneath."""
    width, height = figure.get_size_inches()
    left = 0.2 / width
    write(figure, left, 1 - 0.14 / height, fitted(title, width - 0.4, 12, bold=True), size=12, weight="bold", va="top")
    if subtitle:
        write(figure, left, 1 - 0.4 / height, subtitle, size=8.5, color=SOFT, va="top", linespacing=1.35)


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names to the right of the curves' ends, moved apart where they would overlap."""
    if not labels:
        return
    pixels = axes.transData.transform([(axes.get_xlim()[1], value) for value, _, _ in labels])[:, 1]
    low, high = axes.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    placed = spread(list(np.clip(pixels, low, high)), 0.17 * DPI, low, high)
    for y, (_, text, color) in zip(placed, labels, strict=True):
        share = (y - low) / (high - low)
        write(axes, 1.02, share, text, color=color, va="center", transform=axes.transAxes, weight="bold", size=8.5)


def name_axes(axes: Axes, x: str = "", y: str = "") -> None:
    axes.set_xlabel(x, fontsize=9, color=INK, family=FONT, parse_math=False)
    axes.set_ylabel(y, fontsize=9, color=INK, family=FONT, parse_math=False)


def save(figure: Figure, path: str | Path, *, svg: bool = False) -> Path:
    """Write the PNG, and with ``svg`` an SVG of the same name beside it; make the folder; return the PNG's path."""
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"a picture's path ends in .png, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})
    if svg:
        figure.savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None})
    return path


def printable(name: Any, idx: int, longest: int = 18) -> str:
    """A class name on one line, cut in the middle when long; ``class 3`` when the font has no glyph of it.

    Single letters that the font lacks become ``?``: matplotlib would warn and draw a box.
    """
    known = _glyphs()
    if not any(ord(letter) in known for letter in str(name) if not letter.isspace()):
        return f"class {idx}"
    return shortened(legible(name), longest)


def legible(text: Any) -> str:
    """On one line, with a ``?`` for every letter that the font lacks."""
    known = _glyphs()
    return "".join(letter if ord(letter) in known else "?" for letter in " ".join(str(text).split()))


def shortened(text: str, longest: int) -> str:
    """At most ``longest`` letters; the end is kept too, since names often differ there."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 3
    return f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"


def fitted(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """``text`` cut to a width."""
    if width_of(text, size, bold=bold) <= inches:
        return text
    fits, too_long = min(3, len(text)), len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if width_of(shortened(text, middle), size, bold=bold) <= inches:
            fits = middle
        else:
            too_long = middle
    return shortened(text, fits)


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Width in inches of one line."""
    from matplotlib.font_manager import get_font

    font = get_font(_font_file(bold))
    font.set_size(size, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 72


@lru_cache(maxsize=2)
def _font_file(bold: bool) -> str:
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties(family=FONT, weight="bold" if bold else "normal")))


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(_font_file(False)).get_charmap())


def number(value: float) -> str:
    """A number for a label: three decimals, or two digits when that would say nothing; no trailing zeros."""
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.2g}"


def rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least ``gap``, as little as needed, within ``low`` and ``high`` where they all fit."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[list[float]] = []  # [centre of the block, number of labels in it]
    for i in order:
        blocks.append([positions[i], 1])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (above, many), (below, few) = blocks.pop(), blocks.pop()
            blocks.append([(above * many + below * few) / (many + few), many + few])
    placed = []
    for centre, count in blocks:
        half = gap * (count - 1) / 2
        centre = min(max(centre, low + half), max(high - half, low + half))
        placed += [centre - half + gap * step for step in range(int(count))]
    for j in range(1, len(placed)):  # clamping to the edges may have pushed blocks together
        placed[j] = max(placed[j], placed[j - 1] + gap)
    return [placed[order.index(i)] for i in range(len(positions))]


# Sheets of images


def checked_images(images: ArrayLike) -> NDArray[np.uint8]:
    """``(N, C, H, W)`` uint8, C 1 or 3; anything else raises ``ValueError``."""
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.dtype != np.uint8:
        raise ValueError(f"images are (N, C, H, W) uint8 with C 1 or 3, got {array.shape} {array.dtype}")
    return array


def canvas(figure: Figure) -> Axes:
    """The whole figure, in inches from its upper left corner."""
    width, height = figure.get_size_inches()
    axes = add_axes(figure, 0, 0, width, height, bare=True)
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return axes


def place(
    axes: Axes, image_CHW: NDArray[np.uint8], left: float, top: float, tile: float, *, frame: str | None = None
) -> None:
    """Draw an image within a square of ``tile`` inches: small ones by whole pixels, large ones averaged."""
    from PIL import Image

    channels, height, width = image_CHW.shape
    picture = Image.fromarray(image_CHW[0] if channels == 1 else np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    across = tile * DPI
    factor = across / max(height, width)
    small = factor >= 1
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shown = np.asarray(picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BOX).convert("RGB"))
    x, y = left + (across - size[0]) / 2 / DPI, top + (across - size[1]) / 2 / DPI
    right, bottom = x + size[0] / DPI, y + size[1] / DPI
    axes.imshow(shown, extent=(x, right, bottom, y), interpolation="nearest", aspect="auto", zorder=1)
    if frame is not None:
        out = 0.02
        axes.plot(
            [x - out, right + out, right + out, x - out, x - out],
            [y - out, y - out, bottom + out, bottom + out, y - out],
            color=frame, linewidth=2.2, solid_joinstyle="miter", zorder=2,
        )  # fmt: skip


def caption(axes: Axes, left: float, y: float, width: float, text: str, chance: float, color: str) -> None:
    """A name at the left and its probability at the right."""
    name = fitted(text, width - width_of("0.00", 7) - 0.08, 7)
    write(axes, left, y, name, size=7, color=color, va="center")
    write(axes, left + width, y, f"{chance:.2f}", size=7, color=color, va="center", ha="right")
