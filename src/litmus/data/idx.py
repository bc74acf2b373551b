"""The IDX format of the MNIST family: plain or gzipped, checked before it is believed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litmus.errors import Problem, Refused

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PIECE = 2**18  # bytes unpacked at once: gzip makes a copy of what it is asked for
_GZIP_RATIO = 1100  # deflate cannot do better than 1032:1, so a header that claims more is wrong


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an IDX file, read straight into its place: no second copy is made.

    Raises:
        ValueError: wrong magic number, truncated, or more or fewer values than its header counts.
    """
    compressed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if compressed else open(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4:
                raise ValueError(f"{len(magic)} bytes, too short for an IDX header")
            if magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 4:
                raise ValueError(f"magic number 0x{magic.hex()} is not IDX's (0x00000803 for images)")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise ValueError("ends inside its header")
            shape = tuple(np.frombuffer(header, ">u4").tolist())
            dtype = np.dtype(_TYPES[magic[2]])
            claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if claimed > path.stat().st_size * (_GZIP_RATIO if compressed else 1):
                raise ValueError(f"header counts {_times(shape)} values, the file is far too short for that")
            array = np.empty(shape, dtype)
            view, got = array.reshape(-1).view(np.uint8).data, 0
            while got < claimed and (read := file.readinto(view[got : got + _PIECE])):
                got += read
            if got < claimed or file.read(1):
                found = f"only {got}" if got < claimed else "more"
                raise ValueError(f"header counts {_times(shape)} values ({claimed} bytes), found {found}")
            return array
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged gzip: {error}") from None


def find_idx(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of ``names`` that is in the folder, plain or with ``.gz``."""
    candidates = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, H, W) uint8 images and (N,) int64 labels; of QMNIST's eight label columns the first, the class.

    Raises:
        Refused: both files' problems, or counts that differ.
    """
    arrays, problems = {}, []
    for path, wanted in ((images_path, "images of 8 bits (3 dimensions)"), (labels_path, "labels (1 or 2 dimensions)")):
        try:
            array = read_idx(path)
            is_images = path is images_path
            if (
                (array.ndim != 3 or array.dtype.itemsize != 1)
                if is_images
                else array.ndim > 2 or array.dtype.kind == "f"
            ):
                raise ValueError(f"holds {array.dtype.name} of {_times(array.shape)}, not {wanted}")
            arrays[path] = array
        except (ValueError, OSError) as error:
            problems.append(Problem(str(path), str(error)))
    if not problems and len(arrays[images_path]) != len(arrays[labels_path]):
        says = f"{len(arrays[labels_path])} labels for {len(arrays[images_path])} images in {images_path.name}"
        problems.append(Problem(str(labels_path), says))
    if problems:
        raise Refused(problems, source=str(images_path.parent))
    labels = arrays[labels_path]
    return arrays[images_path].astype(np.uint8, copy=False), (labels if labels.ndim == 1 else labels[:, 0]).astype(
        np.int64
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
