"""Archives are looked through before torchvision unpacks them.

torchvision leaves tar members to Python's ``data`` filter, which exists from Python 3.11.4 on and raises half-way
through; before that it unpacks whatever the archive says. zipfile renames unsafe members in silence. Neither looks at
sizes. So every archive is read through first, and nothing is written when one member is unsafe.
"""

from __future__ import annotations

import contextlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from litmus.errors import Problem, Refused

_ALWAYS_FINE = 10**9  # bytes; a small archive of zeros is no danger
_MAX_RATIO = 100  # images hardly shrink; a bomb shrinks a thousandfold


def check_archive(path: Path) -> None:
    """Refuse a tar or zip archive that would write outside its folder or fill the disk.

    Raises:
        Refused: each member with ``..``, an absolute name, or a link or device; unpacked, more than 1 GB and 100
            times the archive's size; or an archive that cannot be read.
    """
    problems, total = [], 0
    try:
        for name, size, odd in _members(path):
            total += size
            parts = PurePosixPath(name.replace("\\", "/")).parts
            absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
            if ".." in parts or absolute or PureWindowsPath(name).drive:
                problems.append(Problem(str(path), "a member would be written outside its folder", name))
            elif odd:
                problems.append(Problem(str(path), f"a member is a {odd}", name))
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        problems.append(Problem(str(path), f"cannot be read as an archive: {error}"))
    if total > max(_ALWAYS_FINE, _MAX_RATIO * path.stat().st_size):
        packed = path.stat().st_size
        problems.append(Problem(str(path), f"a bomb: {packed} bytes would unpack to {total}"))
    if problems:
        raise Refused(problems, source="archive")


def _members(path: Path) -> Iterator[tuple[str, int, str]]:
    """(name, unpacked size, what is odd about it) of each member."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                link = stat.S_ISLNK(entry.external_attr >> 16)
                yield entry.filename, entry.file_size, "link" if link else ""
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                plain = member.isfile() or member.isdir()
                yield (
                    member.name,
                    member.size,
                    "" if plain else "link" if member.issym() or member.islnk() else "device",
                )


@contextlib.contextmanager
def checked_extraction() -> Iterator[None]:
    """Within: torchvision's data sets unpack an archive only after ``check_archive`` has passed it."""
    from torchvision.datasets import utils

    before = dict(utils._ARCHIVE_EXTRACTORS)

    def checked(extract: Callable[..., None]) -> Callable[..., None]:
        def extract_checked(from_path: str | Path, *args: object) -> None:
            check_archive(Path(from_path))
            extract(from_path, *args)

        return extract_checked

    utils._ARCHIVE_EXTRACTORS.update({kind: checked(extract) for kind, extract in before.items()})
    try:
        yield
    finally:
        utils._ARCHIVE_EXTRACTORS.update(before)
