"""Checkpoint files that are whole or not there: written, found and read without trusting the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from litmus.errors import DiskTrouble, refuse

_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<step>\d{9})-(?P<digest>[0-9a-f]{32})\.ckpt")
_PART = ".part"
_KEPT = 2
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


class Damaged(Exception):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint file ``<kind>-<step>-<digest>.ckpt``.

    The digest of the bytes is in the name: the one rename that makes the file visible commits both, so there is no
    moment, and no second file, in which they could disagree. Order is by step; the file's time means nothing.
    """

    path: Path
    kind: str
    step: int
    digest: str

    @classmethod
    def at(cls, path: Path) -> Saved | None:
        found = _NAME.fullmatch(path.name)
        return cls(path, found["kind"], int(found["step"]), found["digest"]) if found else None


def saved(folder: Path, kind: str | None = None) -> list[Saved]:
    """The checkpoints of a folder, the highest step first; none when there is no folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = (one for path in paths if (one := Saved.at(path)) is not None and kind in (None, one.kind))
    return sorted(found, key=lambda one: (one.step, one.kind, one.digest), reverse=True)


def target(folder: Path, kind: str, step: int) -> Path:
    """Where to ``write``: the path with a place for the digest."""
    return folder / f"{kind}-{step:09d}-{{digest}}.ckpt"


def write(state: dict[str, Any], path: Path) -> Path:
    """Write ``state`` to ``path``, in whose name ``{digest}`` stands for the digest of the bytes.

    Into a temporary file in the same folder, which is synchronised with the disk, then renamed, then the folder: a
    process or a machine that dies in between leaves what was there before, whole.

    Returns:
        the path written.

    Raises:
        TypeError: the state holds what is neither a tensor nor a plain value, which ``weights_only`` would not load.
        DiskTrouble: the disk is full or fails; what was there before is whole.
    """
    check_plain(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name.replace('{digest}', str(os.getpid()))}{_PART}")
    try:
        with part.open("wb") as file:
            stream = _Digesting(file)
            torch.save(state, cast(IO[bytes], stream))
            file.flush()
            os.fsync(file.fileno())
        whole = path.with_name(path.name.replace("{digest}", stream.digest))
        part.replace(whole)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        # torch's writer turns the operating system's error into its own and keeps the reason as its context
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno in _DISK:
            says = f"{path.parent}: {cause.strerror}; the checkpoints in it are whole"
            raise DiskTrouble(cause.errno, says) from error
        raise
    return whole


def read(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """The state in ``path``: tensors and plain values, never code.

    Raises:
        Damaged: the bytes are not those of the digest in its name, or are no checkpoint.
        FileNotFoundError: there is none.
    """
    if reason := damage(path):
        raise Damaged(f"{path}: {reason}")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a torn zip, a pickle that holds code, another format: torch has a class for each
        raise Damaged(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(state, dict):
        raise Damaged(f"{path}: holds a {type(state).__name__}, not a training's state")
    return state


def damage(path: Path) -> str:
    """Why the file's bytes are not those that were written; empty if they are, or if its name holds no digest."""
    one = Saved.at(path)
    if one is None:
        return ""
    found = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if found.hexdigest() == one.digest else "its bytes are not those that were written"


def newest_whole(folder: Path, kind: str = "last", say: Callable[[str], None] = print) -> Saved | None:
    """The checkpoint of the highest step whose bytes are those written; damaged ones are named and passed over."""
    for one in saved(folder, kind):
        reason = damage(one.path)
        if not reason:
            return one
        say(f"note   {one.path.name} is passed over: {reason}")
    return None


def set_aside_after(folder: Path, step: int) -> None:
    """Leave only checkpoints up to ``step``, from which a run goes on: what lies beyond is damaged, or will be remade.

    Damaged files stay beside the others as ``*.damaged``; nothing looks at them again.
    """
    for one in saved(folder):
        if damage(one.path):
            one.path.replace(one.path.with_name(f"{one.path.name}.damaged"))
        elif one.step > step:
            one.path.unlink()
    remove_parts(folder)


def remove_parts(folder: Path) -> None:
    """Delete what writers that were killed have left; only where no other process writes."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def prune(folder: Path) -> None:
    """Delete what nobody will go back to."""
    for one in superfluous(saved(folder)):
        one.path.unlink(missing_ok=True)


def superfluous(found: Iterable[Saved]) -> list[Saved]:
    """All but the two newest ``last``, the newest ``best``, and for each of those two the best of its time: a run that
    goes on from the older one must find the best weights which that one knows of."""
    ordered = sorted(found, key=lambda one: one.step, reverse=True)
    lasts = [one for one in ordered if one.kind == "last"]
    bests = [one for one in ordered if one.kind == "best"]
    kept = {*lasts[:_KEPT], *bests[:1]}
    for last in lasts[:_KEPT]:
        kept |= set([best for best in bests if best.step <= last.step][:1])
    return [one for one in (*lasts, *bests) if one not in kept]


def check_plain(value: Any, where: str = "checkpoint") -> None:
    """``TypeError`` naming the first entry that is neither a tensor nor a plain value."""
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(inner, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, inner in enumerate(value):
            check_plain(inner, f"{where}[{position}]")
    else:
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}: only tensors and plain values"
        )


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` outlive a loss of power; where folders cannot be synchronised, nothing."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def local_checkpoint(path: str | os.PathLike[str]) -> Path:
    """``path`` if it can be a checkpoint; an address is refused, since what it sends could be anything."""
    if "://" in str(path):
        raise refuse("checkpoint", "is an address: fetch it first, only local files are read", str(path))
    return Path(path)


class _Digesting:
    """A file for ``torch.save`` that digests what goes through it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._summary = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self._summary.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._summary.hexdigest()
