"""Image files decoded once: into a memory-mapped cache, or checked once and decoded again while training."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from litmus.data.hashing import digest_of
from litmus.data.images import Moments, cover, moments_of
from litmus.errors import Problem, Refused, refuse

try:
    import fcntl
except ImportError:  # not on Windows: two processes may then decode the same folder twice
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_VERSION = 1  # of the pixels a decoding gives: raise it when they change, and old caches are left alone
_GREY_MODES = {"1", "L", "LA", "La"}
_COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_FILES_PER_TASK = 32


class BadImage(Exception):
    """A file that is not an image we can train on; the text is the reason."""


class UnreadableImages(Refused):
    """A problem for each file that does not decode: path, index, reason."""


def decode(path: Path, image_size: tuple[int, int] | None = None, channels: int | None = None) -> NDArray[np.uint8]:
    """(C, H, W) uint8, turned upright as its EXIF tag says.

    ``image_size``: the short side is resized to fit (bilinear with antialiasing), then the centre is cropped.
    ``channels``: 1 or 3; ``None`` keeps grey as 1 and anything with colour as 3. An animation gives its first frame.

    Raises:
        BadImage: missing, empty, truncated, not an image, or of more than 8 bits a channel.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write
            raise BadImage("a folder, a pipe or a device")
        with Image.open(path) as file:
            if file.mode not in _GREY_MODES | _COLOUR_MODES:
                raise BadImage(f"mode {file.mode} is not 8 bits a channel: convert it first")
            image = ImageOps.exif_transpose(file)
            if "transparency" in image.info:
                image = image.convert("RGBA")
            grey = image.mode in _GREY_MODES if channels is None else channels == 1
            image = image.convert("L" if grey else "RGB")
    except BadImage:
        raise
    except Exception as error:  # PIL's decoders raise nearly everything: OSError, SyntaxError, struct.error, ...
        raise BadImage(_reason(path, error)) from None
    if image_size is not None:
        height, width = cover(image.height, image.width, image_size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        top, left = round((height - image_size[0]) / 2), round((width - image_size[1]) / 2)
        image = image.crop((left, top, left + image_size[1], top + image_size[0]))
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "missing"
    if path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels, ``names`` relative to ``base``, and what they are to become.

    ``key`` names them in error messages (``data.path``), ``title`` their cache (default: the folder's name).
    """

    base: Path
    names: Sequence[str]
    labels: NDArray[np.int64]
    image_size: tuple[int, int] | None
    channels: int | None
    key: str = "data.path"
    title: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, position: int) -> NDArray[np.uint8]:
        return decode(self.base / self.names[position], self.image_size, self.channels)

    def fingerprint(self) -> str:
        """32 hexadecimal digits over every relative name, size and time of change, and over what they become."""

        def stamps() -> Iterator[str]:
            yield f"{_VERSION} {self.image_size} {self.channels}"
            for name in self.names:
                with contextlib.suppress(FileNotFoundError):  # found missing, with all others, when decoded
                    stat = (self.base / name).stat()
                    yield f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"

        return digest_of(stamps())


class FileImages:
    """Decoded image files: memory-mapped pixels when there is a cache of them, else decoded at each access.

    ``digests`` (N, 16) identify the pixels of each image, whatever its file's name or format. ``decoded_sec``: how
    long decoding them all took, None if a cache was found.
    """

    def __init__(self, files: ImageFiles, folder: Path, *, decoded_sec: float | None = None):
        self.files, self.folder, self.decoded_sec = files, folder, decoded_sec
        with np.load(folder / "facts.npz") as facts:
            self.digests: NDArray[np.uint8] = facts["digests"]
            self._sums: NDArray[np.int64] = facts["sums"]
            channels, height, width = facts["shape"].tolist()
        self.shape: tuple[int, int, int] = (channels, height, width)
        self.labels = torch.from_numpy(files.labels)
        self._pixels: Tensor | None = None
        if (folder / "images.npy").exists():
            # Copy on write: torch wants memory it may write to, and a stray write must not reach the file.
            self._pixels = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))

    @property
    def streamed(self) -> bool:
        return self._pixels is None

    @cached_property
    def digest(self) -> str:
        return digest_of([str(self.shape), self.digests, self.files.labels])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, idx: Tensor) -> Tensor:
        if self._pixels is not None:
            return self._pixels.index_select(0, idx)
        images = torch.empty(len(idx), *self.shape, dtype=torch.uint8)
        for row, position in enumerate(idx.tolist()):
            try:
                pixels = self.files.decode(position)
            except BadImage as bad:
                raise _unreadable(self.files, {position: str(bad)}) from None
            if pixels.shape != self.shape:
                raise _unreadable(self.files, {position: f"changed since it was checked: now {pixels.shape}"})
            images.numpy()[row] = pixels
        return images

    def verify(self) -> list[Problem]:
        """Decode every file again, and compare with what the cache says and holds; a problem for each that differs."""
        bad: dict[int, str] = {}
        cached = f"remove {self.folder}"

        def work(position: int) -> None:
            try:
                pixels = self.files.decode(position)
            except BadImage as reason:
                bad[position] = str(reason)
                return
            if not _is_digest(self.digests[position], pixels):
                bad[position] = f"decodes to other pixels than when it was cached: {cached}"
            elif self._pixels is not None and not _is_digest(self.digests[position], self._pixels[position].numpy()):
                bad[position] = f"the cache of its pixels is damaged: {cached}"

        _for_each(work, len(self), f"decoding {self.files.base.name}")
        return _problems(self.files, bad)

    def moments(self, idx: Tensor) -> Moments:
        return moments_of(self._sums[idx.numpy()].sum(0), len(idx) * self.shape[1] * self.shape[2])


def open_files(files: ImageFiles, cache: Path, *, stream_above_gb: float) -> FileImages:
    """Decode every file once, or find that done: in ``cache``, under a name made of the files' fingerprint.

    Pixels are kept (``images.npy``, memory-mapped) unless they would take more than ``stream_above_gb`` GB of 1e9
    bytes; digests and sums of each image always are. Written to a temporary folder and renamed; processes that
    want the same folder wait for the first.

    Raises:
        Refused: every unreadable file with its reason; sizes or channels that differ; no room on the disk.
    """
    shape = _shape_of(files)
    keep = len(files) * int(np.prod(shape)) <= stream_above_gb * 1e9
    folder = cache / f"{files.title or files.base.resolve().name}-{files.fingerprint()}{'' if keep else '-streamed'}"
    decoded_sec = None
    if not _complete(folder):
        _make_room(cache, len(files) * int(np.prod(shape)) if keep else 0)
        with _locked(cache):
            if not _complete(folder):
                started = time.monotonic()
                _build(files, folder, shape, keep=keep)
                decoded_sec = time.monotonic() - started
    return FileImages(files, folder, decoded_sec=decoded_sec)


def _shape_of(files: ImageFiles) -> tuple[int, int, int]:
    """Of the first image that can be decoded."""
    bad: dict[int, str] = {}
    for position in range(len(files)):
        try:
            channels, height, width = files.decode(position).shape
            return channels, height, width
        except BadImage as reason:
            bad[position] = str(reason)
    raise _unreadable(files, bad)


def _build(files: ImageFiles, folder: Path, shape: tuple[int, int, int], *, keep: bool) -> None:
    num, channels = len(files), shape[0]
    digests = np.zeros((num, 16), np.uint8)
    sums = np.zeros((num, 2, channels), np.int64)
    bad: dict[int, str] = {}
    odd: dict[int, tuple[int, ...]] = {}
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: we hold the lock
    temporary.mkdir(parents=True)
    try:
        pixels = None
        if keep:
            logger.info("decoding %d images of %s into %s", num, files.base, folder)
            pixels = np.lib.format.open_memmap(temporary / "images.npy", "w+", np.uint8, (num, *shape))
        else:
            logger.info("checking %d images of %s, to be decoded while training", num, files.base)

        def work(position: int) -> None:
            try:
                image = files.decode(position)
            except BadImage as reason:
                bad[position] = str(reason)
                return
            if image.shape != shape:
                odd[position] = image.shape
                return
            wide = image.reshape(channels, -1).astype(np.int64)
            sums[position] = wide.sum(1), np.square(wide).sum(1)
            digests[position] = np.frombuffer(bytes.fromhex(digest_of([image])), np.uint8)
            if pixels is not None:
                pixels[position] = image

        _for_each(work, num, f"decoding {files.base.name}")
        problems = _problems(files, bad) + _mixed(files, shape, odd)
        if problems:
            raise UnreadableImages(problems, source=str(files.base))
        if pixels is not None:
            pixels.flush()
        np.savez(temporary / "facts.npz", digests=digests, sums=sums, shape=np.array(shape))
        (temporary / "made_from.json").write_text(json.dumps({"folder": str(files.base), "images": num}) + "\n")
        for made in temporary.iterdir():
            _sync(made)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _for_each(work: Callable[[int], None], num: int, what: str) -> None:
    """``work`` on 0..num-1 in threads, with a progress bar."""

    def some(start: int) -> int:
        stop = min(start + _FILES_PER_TASK, num)
        for position in range(start, stop):
            work(position)
        return stop - start

    with ThreadPoolExecutor(_cores()) as pool, _progress(num, what) as advance:
        for done in pool.map(some, range(0, num, _FILES_PER_TASK)):
            advance(done)


def _is_digest(digest: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bool:
    return digest.tobytes() == bytes.fromhex(digest_of([pixels]))


def _problems(files: ImageFiles, bad: dict[int, str]) -> list[Problem]:
    where = [(position, str(files.base / files.names[position])) for position in sorted(bad)]
    return [Problem(path, f"image {position} of {len(files)}: {bad[position]}") for position, path in where]


def _unreadable(files: ImageFiles, bad: dict[int, str]) -> UnreadableImages:
    return UnreadableImages(_problems(files, bad), source=str(files.base))


def _mixed(files: ImageFiles, shape: tuple[int, int, int], odd: dict[int, tuple[int, ...]]) -> list[Problem]:
    found = []
    shapes = [shape, *odd.values()]
    if files.image_size is None and len({one[1:] for one in shapes}) > 1:
        by_area = sorted((height * width, height, width) for _, height, width in shapes)
        (_, *small), (_, *large) = by_area[0], by_area[-1]
        says = (
            f"sizes differ, from {small[0]}x{small[1]} to {large[0]}x{large[1]} (height x width): "
            "set data.image_size to resize the short side and crop the centre"
        )
        found.append(Problem(files.key, says, str(files.base)))
    if files.channels is None and len({one[0] for one in shapes}) > 1:
        num_odd = sum(one[0] != shape[0] for one in odd.values())
        num_grey = num_odd if shape[0] == 3 else len(files) - num_odd
        example = files.names[next(position for position in sorted(odd) if odd[position][0] != shape[0])]
        says = (
            f"{num_grey} images are grey and {len(files) - num_grey} have colour (unlike the first: {example}): "
            "set data.channels to 1 or 3"
        )
        found.append(Problem(files.key, says, str(files.base)))
    return found


def _complete(folder: Path) -> bool:
    """Whether the cache is there and whole. A torn one (a disk that lost power) is removed."""
    if not folder.exists():
        return False
    try:
        with np.load(folder / "facts.npz") as facts:
            num = len(facts["digests"])
        if not folder.name.endswith("-streamed"):
            return len(np.load(folder / "images.npy", mmap_mode="r")) == num
        return True
    except Exception as error:  # numpy raises OSError, ValueError, EOFError or BadZipFile
        logger.warning("the cache %s is damaged (%s) and made anew", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return False


def _make_room(cache: Path, num_bytes: int) -> None:
    """Refuses a folder that cannot be written, or a disk with too little room."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not os.access(cache, os.W_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        says = f"cannot hold the cache of decoded images ({error}): set data.root or LITMUS_DATA"
        raise refuse("data.root", says, str(cache)) from None
    free = shutil.disk_usage(cache).free
    if num_bytes > 0.95 * free:
        says = f"the decoded images need {num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free on its disk"
        raise refuse("data.root", says, str(cache))


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process decodes at a time. The folder itself is locked, so that no lock file stays behind."""
    if fcntl is None:
        yield
        return
    handle = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _progress(total: int, what: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _cores() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
