import gzip
import io
import tarfile
import warnings
import zipfile

import pytest
from torchvision.datasets.utils import extract_archive

from litmus.data import archives
from litmus.data.archives import check_archive, checked_extraction
from litmus.errors import Refused


def tar_of(path, *names, kind=tarfile.REGTYPE, content=b"x", link="", mode=0o644):
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for member_name, member_kind in (("folder/fine.txt", tarfile.REGTYPE), *((name, kind) for name in names)):
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname, member.mode = member_kind, link, mode
            member.size = len(content) if member_kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def zip_of(path, *names, content=b"x", mode=0o644):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/fine.txt", content)
        for name in names:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename, entry.orig_filename = name, name
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            with warnings.catch_warnings():  # zipfile has its doubts about a name that stands twice
                warnings.simplefilter("ignore")
                archive.writestr(entry, content)
    return path


def both_of(path):
    """A tar that climbs, with a harmless zip at its end: what it is depends on who reads it."""
    tar_of(path, "../out.txt")
    harmless = zip_of(path.with_name("harmless.zip"), "fine")
    path.write_bytes(path.read_bytes() + harmless.read_bytes())
    harmless.unlink()
    return path


UNSAFE = {
    "climbing tar": (lambda p: tar_of(p / "a.tgz", "../out.txt"), r"'\.\./out\.txt': a member would be written out"),
    "absolute tar": (lambda p: tar_of(p / "a.tar.gz", "/tmp/out.txt"), "outside its folder"),
    "linking tar": (lambda p: tar_of(p / "a.tar", "out", kind=tarfile.SYMTYPE, link="/x"), "'out': a member is a link"),
    "hard link": (lambda p: tar_of(p / "a.tar.gz", "out", kind=tarfile.LNKTYPE, link="x"), "a member is a link"),
    "device": (lambda p: tar_of(p / "a.tar.gz", "out", kind=tarfile.CHRTYPE), "a member is a device"),
    "climbing zip": (lambda p: zip_of(p / "a.zip", "a/../../out.txt"), "outside its folder"),
    "drive zip": (lambda p: zip_of(p / "a.zip", "C:\\out.txt"), "outside its folder"),
    "linking zip": (lambda p: zip_of(p / "a.zip", "out", mode=0o120777), "a member is a link"),
    "pipe": (lambda p: tar_of(p / "a.tar", "out", kind=tarfile.FIFOTYPE), "a member is a device"),
    "device in a zip": (lambda p: zip_of(p / "a.zip", "out", mode=0o020644), "a member is a device"),
    "setuid": (lambda p: tar_of(p / "a.tar", "out", mode=0o4755), r"would run as its owner or group \(setuid\)"),
    "twice in a tar": (lambda p: tar_of(p / "a.tar", "a/b", "a/b"), "'a/b': a member's name stands twice"),
    "twice in a zip": (lambda p: zip_of(p / "a.zip", "a/b", "a/b"), "'a/b': a member's name stands twice"),
    "twice in upper case": (lambda p: zip_of(p / "a.zip", "a/b", "A/B"), "'A/B': a member's name stands twice"),
    "file and folder": (lambda p: tar_of(p / "a.tar", "a", "a/b"), "'a': a member is a file and a folder"),
    "backslash": (lambda p: tar_of(p / "a.tar", "a\\b"), "a backslash or a control character"),
    "zero byte": (lambda p: zip_of(p / "a.zip", "a\0b"), "a backslash or a control character"),
    "long name": (lambda p: tar_of(p / "a.tar", "a" * 256), "longer than 255 bytes"),
    "tar and zip": (lambda p: both_of(p / "a.tar"), "outside its folder"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), UNSAFE.values(), ids=UNSAFE)
def test_an_unsafe_archive_is_refused_by_name_and_nothing_is_written(tmp_path, make, says):
    path = make(tmp_path)
    with checked_extraction(), pytest.raises(Refused, match=says):
        extract_archive(str(path), str(tmp_path / "to"))
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "make", [lambda p, c: tar_of(p / "a.tgz", "b", content=c), lambda p, c: zip_of(p / "a.zip", "b", content=c)]
)
def test_a_bomb_is_refused_with_figures(tmp_path, monkeypatch, make):
    monkeypatch.setattr(archives, "_ALWAYS_FINE", 10**6)
    path = make(tmp_path, bytes(4 * 10**6))
    with pytest.raises(Refused, match=rf"a bomb: {path.stat().st_size} bytes would unpack to 4000000 or more"):
        check_archive(path)


def test_a_compressed_file_that_is_a_bomb_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ALWAYS_FINE", 10**6)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(4 * 10**6)))
    with checked_extraction(), pytest.raises(Refused, match="a bomb"):
        extract_archive(str(path), str(tmp_path / "to"))
    assert [left.name for left in tmp_path.iterdir()] == ["a.gz"]
    path.write_bytes(gzip.compress(b"fine"))
    with checked_extraction():
        extract_archive(str(path), str(tmp_path))
    assert (tmp_path / "a").read_bytes() == b"fine"


def test_an_archive_of_too_many_members_or_for_too_small_a_disk_is_refused(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "a.tar", *map(str, range(20)), content=b"x" * 1000)
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 20)
    with pytest.raises(Refused, match="21 or more files"):
        check_archive(path)
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 50)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10_000}))
    with pytest.raises(Refused, match=r"0\.00 GB would be unpacked"):
        check_archive(path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_torn_archive_is_refused(tmp_path, name):
    whole = (tar_of if "tar" in name else zip_of)(tmp_path / name, "b", content=bytes(range(256)) * 999)
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(Refused, match="cannot be read as an archive"):
        check_archive(whole)


@pytest.mark.parametrize(
    "make", [lambda p: tar_of(p / "a.tar.gz", "folder/b"), lambda p: zip_of(p / "a.zip", "folder/b")]
)
def test_an_ordinary_archive_is_unpacked(tmp_path, make):
    with checked_extraction():
        extract_archive(str(make(tmp_path)), str(tmp_path / "to"))
    assert sorted(p.name for p in (tmp_path / "to" / "folder").iterdir()) == ["b", "fine.txt"]


def test_torchvision_is_left_as_it_was():
    from torchvision.datasets import utils

    before = (dict(utils._ARCHIVE_EXTRACTORS), utils._decompress)
    with checked_extraction():
        assert before[0] != utils._ARCHIVE_EXTRACTORS
        assert before[1] is not utils._decompress
    assert before == (utils._ARCHIVE_EXTRACTORS, utils._decompress)
