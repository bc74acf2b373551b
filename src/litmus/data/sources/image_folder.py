"""Folders of images, a sub-folder a class: ``path/CLASS/anything.png``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from litmus.data.decode import FileImages, ImageFiles, UnreadableImages, open_files
from litmus.data.sources import Request, Source, source
from litmus.errors import Problem, Refused

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


@source("image_folder")
def image_folder(request: Request) -> Source:
    """Classes are the sub-folders, in the order of their names; hidden folders and files, and files that are not
    images by their suffix, are passed over. Images may lie deeper. Without ``val_path`` or ``test_path`` those splits
    are cut from ``path``.

    Raises:
        Refused: everything wrong with the folders at once, then everything wrong with the files.
    """
    folders = {"data.path": request.path, "data.val_path": request.val_path, "data.test_path": request.test_path}
    listings: dict[str, dict[str, list[str]]] = {}
    problems: list[Problem] = []
    for key, folder in folders.items():
        if folder is None and key == "data.path":
            problems.append(Problem(key, "the folder with one sub-folder of images a class is needed"))
        elif folder is not None:
            listing, found = _list_classes(folder, key)
            listings[key] = listing
            problems += found
    if not problems:
        for key in listings.keys() - {"data.path"}:
            problems += _class_difference(listings["data.path"], listings[key], key)
    if problems:
        raise Refused(problems, source="image_folder")

    class_names = tuple(listings["data.path"])
    sets: dict[str, FileImages] = {}
    for key, listing in listings.items():
        names = [name for class_name in class_names for name in listing[class_name]]
        labels = np.repeat(np.arange(len(class_names)), [len(listing[class_name]) for class_name in class_names])
        folder = folders[key]
        assert folder is not None
        files = ImageFiles(folder, names, labels, request.image_size, request.channels, key)
        try:
            sets[key] = open_files(files, request.root / "cache", stream_above_gb=request.stream_above_gb)
        except UnreadableImages as bad:  # those of the other folders are named as well
            problems += bad.problems
    if problems:
        raise UnreadableImages(problems, source=str(request.path))
    problems = [
        Problem(key, f"images are {_chw(other.shape)}, those of data.path {_chw(sets['data.path'].shape)}: "
                "set data.image_size and data.channels", str(folders[key]))
        for key, other in sets.items() if other.shape != sets["data.path"].shape
    ]  # fmt: skip
    if problems:
        raise Refused(problems, source="image_folder")
    return Source(
        class_names=class_names,
        train=sets["data.path"],
        val=sets.get("data.val_path"),
        test=sets.get("data.test_path"),
        where=str(request.path),
        unique=True,
    )


def count_table(counts: Mapping[str, int], limit: int = 20) -> str:
    """``cat 12, dog 0``: images of each class, the smallest first when there are more than ``limit``."""
    items = list(counts.items())
    if len(items) > limit:
        items = sorted(items, key=lambda item: item[1])[:limit]
    more = f", ... ({len(counts)} classes)" if len(counts) > limit else ""
    return ", ".join(f"{name} {count}" for name, count in items) + more


def _list_classes(folder: Path, key: str) -> tuple[dict[str, list[str]], list[Problem]]:
    """Relative names of the images of each class, sorted, and what is wrong with the folder."""

    def wrong(says: str) -> tuple[dict[str, list[str]], list[Problem]]:
        return {}, [Problem(key, says, str(folder))]

    if not folder.is_dir():
        return wrong(
            "is a file: unpack it and name the folder" if folder.exists() else f"is missing ({folder.resolve()})"
        )
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if not _hidden(entry.name))
    except OSError as error:
        return wrong(f"cannot be read: {error.strerror}")
    classes = [name for name in entries if (folder / name).is_dir()]
    loose = sum(is_image(name) for name in entries if name not in classes)
    if not classes:
        return wrong(f"holds no class folders, only {loose} images: they must lie in {folder / 'CLASS'}")
    if set(map(str.lower, classes)) <= _SPLIT_NAMES:
        return wrong(
            f"holds splits, not classes: name {', '.join(classes)} in data.path, data.val_path, data.test_path"
        )
    try:
        listing = {name: sorted(images_below(folder, name)) for name in classes}
    except OSError as error:
        return wrong(f"cannot be read: {error.filename}: {error.strerror}")
    counts = {name: len(files) for name, files in listing.items()}
    table = f"images: {count_table(counts)}"
    if empty := [name for name, count in counts.items() if not count]:
        return wrong(f"{len(empty)} of {len(classes)} class folders hold no image, among them {empty[0]!r}; {table}")
    if len(classes) == 1:
        return wrong(f"has one class only, two or more are needed; {table}")
    return listing, []


def images_below(
    base: Path, name: str = "", passed_over: dict[str, str] | None = None, *, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Paths relative to ``base`` of the images in its folder ``name``, at any depth, in no order.

    ``passed_over`` takes what is left out: paths of ``hidden`` files and folders, and of ``other`` files, which are
    not images by their suffix. ``seen``: real paths of the folders above; a link to one of them ends the walk.

    Raises:
        OSError: a folder that cannot be read.
    """
    real = os.path.realpath(base / name)
    if real in seen:
        return
    for entry in os.scandir(base / name):
        path = f"{name}/{entry.name}" if name else entry.name
        if _hidden(entry.name):
            kind = "hidden"
        elif entry.is_dir():
            yield from images_below(base, path, passed_over, seen=seen | {real})
            continue
        elif is_image(entry.name):
            yield path
            continue
        else:
            kind = "other"
        if passed_over is not None:
            passed_over[path] = kind


def is_image(name: str) -> bool:
    """By its suffix."""
    return name.lower().endswith(SUFFIXES)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _class_difference(train: Mapping[str, object], other: Mapping[str, object], key: str) -> list[Problem]:
    parts = []
    if missing := sorted(train.keys() - other.keys()):
        parts.append(f"only in data.path: {', '.join(missing[:20])}")
    if extra := sorted(other.keys() - train.keys()):
        parts.append(f"only in {key}: {', '.join(extra[:20])}")
    return [Problem(key, f"classes differ from those of data.path; {'; '.join(parts)}")] if parts else []


def _chw(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' * (shape[0] > 1)}"
