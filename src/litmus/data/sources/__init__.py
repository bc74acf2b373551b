"""Where images come from. A module in this folder adds a source by decorating one function with ``@source``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litmus.data.images import ImageSet
from litmus.errors import nearest, refuse


@dataclass(frozen=True)
class Request:
    """What a source function is asked for; one uses what concerns it. Described at ``ImageDataModule``."""

    name: str
    root: Path
    download: bool = True
    path: Path | None = None
    val_path: Path | None = None
    test_path: Path | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    stream_above_gb: float = 8.0
    num_images: int = 2000
    num_classes: int = 10
    split_seed: int = 0


@dataclass(frozen=True)
class Source:
    """What a source function returns.

    Args:
        train: the images to train on; validation and test are cut from it where they are ``None``.
        val, test: sets of their own, never re-split.
        mean, std: per channel, pixels in [0, 1]; ``None`` to compute them from the training split.
        where: the folder or package the images came from.
        unique: refuse when an image is in two splits (sets made by hand, not published ones).
    """

    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet | None = None
    test: ImageSet | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    where: str = ""
    unique: bool = False


SourceFunction = Callable[[Request], Source]
_SOURCES: dict[str, SourceFunction] = {}


def source(*names: str) -> Callable[[SourceFunction], SourceFunction]:
    """Register the decorated function under one or several names."""

    def register(function: SourceFunction) -> SourceFunction:
        for name in names:
            if _SOURCES.setdefault(name, function) is not function:
                raise ValueError(f"the source {name!r} is registered twice")
        return function

    return register


def source_names() -> list[str]:
    """Every name ``load_source`` knows."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_SOURCES)


def load_source(request: Request) -> Source:
    """Find, fetch where allowed, and read the named data set.

    Raises:
        Refused: unknown name, nothing there, or files that cannot be used.
    """
    names = source_names()
    if request.name not in names:
        raise refuse("data.name", f"is not a data set; {nearest(request.name, names)}", request.name)
    return _SOURCES[request.name](request)
