import io
import tarfile
import zipfile

import pytest
from torchvision.datasets.utils import extract_archive

from litmus.data import archives
from litmus.data.archives import check_archive, checked_extraction
from litmus.errors import Refused


def tar_of(path, name, *, kind=tarfile.REGTYPE, content=b"x", link=""):
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for member_name, member_kind in (("folder/fine.txt", tarfile.REGTYPE), (name, kind)):
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname = member_kind, link
            member.size = len(content) if member_kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def zip_of(path, name, *, content=b"x", mode=0o644):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/fine.txt", content)
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(entry, content)
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
    with pytest.raises(Refused, match=rf"a bomb: {path.stat().st_size} bytes would unpack to 8000000"):
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

    before = dict(utils._ARCHIVE_EXTRACTORS)
    with checked_extraction():
        assert before != utils._ARCHIVE_EXTRACTORS
    assert before == utils._ARCHIVE_EXTRACTORS
