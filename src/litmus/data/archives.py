"""Archives are looked through before torchvision unpacks them.

torchvision leaves tar members to Python's ``data`` filter, which exists from Python 3.11.4 on and raises half-way
through; before that it unpacks whatever the archive says. zipfile renames unsafe members in silence. Neither looks at
sizes. So every archive is read through first, and nothing is written when one member is unsafe.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from litmus.errors import Problem, Refused, refuse

_ALWAYS_FINE = 10**9  # bytes; a small archive of zeros is no danger
_MAX_RATIO = 100  # images hardly shrink; a bomb shrinks a thousandfold
_MAX_MEMBERS = 5_000_000  # Places365 has 1.8 million
_MAX_NAME_BYTES = 255  # of one part; no file system takes more


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str  # file, folder, or what it is instead
    mode: int = 0


def check_archive(path: Path, kind: str | None = None) -> None:
    """Refuse a tar or zip archive that would write outside its folder, over its own files, or fill the disk.

    Args:
        path: the archive.
        kind: ``.zip`` or ``.tar``, as who unpacks it will read it: a file can be both. By default by its name.

    Raises:
        Refused: each member with ``..``, an absolute name, a name that some system reads as another, or a name that
            stands twice (upper and lower case are the same on some disks); each link, device, encrypted or setuid
            file; unpacked, more than 1 GB and 100 times the archive's size, or more than there is room for; or an
            archive that cannot be read.
    """
    problems: list[Problem] = []
    packed, total, files, folders = path.stat().st_size, 0, set(), set()
    limit = max(_ALWAYS_FINE, _MAX_RATIO * packed)
    try:
        for number, member in enumerate(_members(path, kind or (".zip" if path.suffix == ".zip" else ".tar"))):
            total += member.size
            if total > limit or number >= _MAX_MEMBERS:  # at once: reading a bomb through takes minutes
                says = f"a bomb: {packed} bytes would unpack to {total} or more, in {number + 1} or more files"
                raise Refused([*problems, Problem(str(path), says)], source="archive")
            says = _name_problem(member.name) or _kind_problem(member)
            parts = PurePosixPath(unicodedata.normalize("NFC", member.name).casefold()).parts
            if not says and member.kind == "file":
                if parts in files:
                    says = "a member's name stands twice, upper and lower case taken as the same"
                files.add(parts)
            folders |= {parts[:end] for end in range(1, len(parts))}
            if says:
                problems.append(Problem(str(path), says, member.name))
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
        problems.append(Problem(str(path), f"cannot be read as an archive: {error}"))
    problems += [
        Problem(str(path), "a member is a file and a folder", "/".join(both)) for both in sorted(files & folders)
    ]
    free = shutil.disk_usage(path.parent).free
    if total > free:
        problems.append(Problem(str(path), f"{total / 1e9:.2f} GB would be unpacked, its disk has {free / 1e9:.2f} GB"))
    if problems:
        raise Refused(problems, source="archive")


def _name_problem(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if ".." in parts or absolute or PureWindowsPath(name).drive:
        return "a member would be written outside its folder"
    if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "a member's name has a backslash or a control character"
    if any(len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES for part in parts):
        return f"a member's name is longer than {_MAX_NAME_BYTES} bytes"
    return ""


def _kind_problem(member: _Member) -> str:
    if member.kind not in ("file", "folder"):
        return f"a member is a {member.kind}"
    if member.kind == "file" and member.mode & (stat.S_ISUID | stat.S_ISGID):
        return "a member would run as its owner or group (setuid)"
    return ""


def _members(path: Path, kind: str) -> Iterator[_Member]:
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                mode = entry.external_attr >> 16
                what = {stat.S_IFLNK: "link", stat.S_IFREG: "file", stat.S_IFDIR: "folder", 0: "file"}.get(
                    stat.S_IFMT(mode), "device"
                )
                if entry.is_dir() and what == "file":
                    what = "folder"
                if entry.flag_bits & 1:
                    what = "file under a password"
                yield _Member(entry.orig_filename, entry.file_size, what, mode)  # as written: cut at no zero byte
        return
    with tarfile.open(path) as tar:
        for member in tar:
            what = "file" if member.isfile() else "folder" if member.isdir() else "device"
            if member.issym() or member.islnk():
                what = "link"
            yield _Member(member.name, member.size, what, member.mode)


def check_compressed(path: Path, opened: Callable[..., contextlib.AbstractContextManager[object]]) -> None:
    """Refuse a compressed file that is a bomb, as ``check_archive`` does; ``opened`` is ``gzip.open`` or its like."""
    limit, total = max(_ALWAYS_FINE, _MAX_RATIO * path.stat().st_size), 0
    with opened(path, "rb") as file:
        while piece := file.read(2**20):  # type: ignore[attr-defined]
            total += len(piece)
            if total > limit:
                says = f"a bomb: {path.stat().st_size} bytes would unpack to {total} or more"
                raise refuse(str(path), says, source="archive")


@contextlib.contextmanager
def checked_extraction() -> Iterator[None]:
    """Within: torchvision's data sets unpack an archive only after ``check_archive`` has passed it."""
    from torchvision.datasets import utils

    before, decompress = dict(utils._ARCHIVE_EXTRACTORS), utils._decompress

    def checked(kind: str, extract: Callable[..., None]) -> Callable[..., None]:
        def extract_checked(from_path: str | Path, *args: object) -> None:
            check_archive(Path(from_path), kind)
            extract(from_path, *args)

        return extract_checked

    def decompress_checked(from_path: str | Path, *args: object, **kwargs: object) -> object:
        compression = utils._detect_file_type(from_path)[2]
        if compression in utils._COMPRESSED_FILE_OPENERS:
            check_compressed(Path(from_path), utils._COMPRESSED_FILE_OPENERS[compression])
        return decompress(from_path, *args, **kwargs)

    utils._ARCHIVE_EXTRACTORS.update({kind: checked(kind, extract) for kind, extract in before.items()})
    utils._decompress = decompress_checked
    try:
        yield
    finally:
        utils._ARCHIVE_EXTRACTORS.update(before)
        utils._decompress = decompress
