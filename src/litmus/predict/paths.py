"""From what a person types to the image files that are meant: files, folders and glob patterns."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from litmus.data.sources.image_folder import images_below, is_image
from litmus.errors import Problem, nearest

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listing:
    """Image files in the order named, each once; those of a folder or pattern in natural order (2 before 10)."""

    files: list[Path]
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files of folders and patterns that were left out: how many are ``hidden``, and how many ``other`` than images."""


def list_images(named: Sequence[str | os.PathLike[str]]) -> tuple[Listing, list[Problem]]:
    """The files that ``named`` means, and what is wrong with each of the names.

    A file is taken whatever its suffix. A folder gives the images below it at any depth, by suffix; hidden files are
    passed over. A pattern (``*``, ``?``, ``[...]``, and ``**`` for any depth) gives what it matches: images by suffix,
    unless it spells out a suffix of its own, and the images below the folders it matches. A path that exists is never
    read as a pattern.
    """
    files: dict[str, Path] = {}
    passed_over: dict[str, str] = {}
    problems: list[Problem] = []
    real = _RealPaths()
    for given in named:
        name = os.fspath(given)
        path = os.path.expanduser(name)
        try:
            if os.path.exists(path):
                found = _below(path, passed_over)
            elif _WILD.search(path):
                found = _matching(path, passed_over)
            else:
                raise _NotThere(_missing(path))
            for file in found:
                files.setdefault(real[file], Path(file))
        except OSError as error:
            problems.append(Problem(one_line(name), f"cannot be read: {one_line(error.filename)}: {error.strerror}"))
        except _NotThere as error:
            problems.append(Problem(one_line(name), str(error)))
    left = Counter({real[path]: kind for path, kind in passed_over.items()}.values())
    if not files and not problems:
        where = ", ".join(one_line(given) for given in named[:5]) or "paths"
        says = f"holds no image{f'; passed over: {counted(left)}' if left else ''}"
        problems.append(Problem(where, says))
    return Listing(list(files.values()), left), problems


def counted(passed_over: Counter[str]) -> str:
    """``2 hidden, 3 not images by their suffix``; empty when nothing was passed over."""
    names = {"hidden": "hidden", "other": "not images by their suffix"}
    return ", ".join(f"{passed_over[kind]:,} {says}" for kind, says in names.items() if passed_over[kind])


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers within names by their value: ``img2`` before ``img10``, folder by folder."""
    parts: list[tuple[int, int, str]] = []
    for piece in re.split(r"([0-9]+|/)", name):
        if piece.isascii() and piece.isdigit():
            parts.append((1, int(piece), piece) if len(piece) < 4000 else (2, 0, piece))  # int() takes no more
        elif piece:
            parts.append((0 if piece == "/" else 2, 0, piece))
    return parts


def readable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and written as UTF-8; bytes that are no UTF-8 become ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(path: str | os.PathLike[str]) -> str:
    """``readable``, with control characters spelt out."""
    text = readable(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _NotThere(Exception):
    """Nothing has this name; the text says why."""


class _RealPaths(dict[str, str]):
    """Paths with links resolved in the folder, not in the file's own name: a link is another image. Folders once."""

    def __missing__(self, path: str) -> str:
        folder, name = os.path.split(path)
        if name:
            return os.path.join(self[folder + "/"], name)
        self[path] = os.path.realpath(folder or ".")
        return self[path]


def _below(path: str, passed_over: dict[str, str]) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    left: dict[str, str] = {}
    for name in sorted(images_below(Path(path), passed_over=left), key=natural):
        yield os.path.join(path, name)
    passed_over |= {os.path.join(path, name): kind for name, kind in left.items()}


def _matching(pattern: str, passed_over: dict[str, str]) -> Iterator[str]:
    matches = sorted(glob.iglob(pattern, recursive=True), key=natural)
    if not matches:
        fixed = _WILD.split(pattern)[0].rpartition("/")[0]
        raise _NotThere("matches nothing" + (f": {_missing(fixed)}" if fixed and not os.path.isdir(fixed) else ""))
    suffix = os.path.splitext(pattern)[1]
    any_suffix = bool(suffix) and not _WILD.search(suffix)
    with_files = "**" in pattern and os.path.basename(pattern) in ("*", "**")
    for path in matches:
        if os.path.isdir(path):
            if not with_files:  # such a pattern matches the files below as well
                yield from _below(path, passed_over)
        elif any_suffix or is_image(path):
            yield path
        else:
            passed_over[path] = "other"


def _missing(path: str) -> str:
    """Why a path does not exist: the first part of it that is not there, and the name nearest to that."""
    if "://" in path:
        return "is missing; images are read from files of this machine only"
    part = Path(path)
    while not os.path.exists(part.parent):
        part = part.parent
    says = "is missing" if part == Path(path) else f"is missing: there is no {one_line(part)}"
    if part.is_symlink():
        return f"{says}: it is a link to {one_line(os.readlink(part))}, which is not there"
    if not part.parent.is_dir():
        return f"is missing: {one_line(part.parent)} is a file"
    names = [one_line(name) for name in os.listdir(part.parent) if not name.startswith(".")]
    return f"{says}; {nearest(one_line(part.name), names) if names else f'{one_line(part.parent)} is empty'}"
