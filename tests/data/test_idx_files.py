import gzip
import tracemalloc

import numpy as np
import pytest

from litmus.data.idx import find_idx, read_idx, read_pair
from litmus.errors import Refused

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array):
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([0, 1, 2, 1, 0], np.uint8)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
@pytest.mark.parametrize("dtype", CODES)
def test_every_type_is_read_back_plain_and_packed(tmp_path, name, dtype):
    content = idx_bytes(IMAGES.astype(dtype))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_idx(tmp_path / name)
    assert found.dtype.name == dtype
    assert np.array_equal(found, IMAGES)


def test_torchvision_reads_the_same(tmp_path):
    from torchvision.datasets.mnist import read_image_file

    (tmp_path / "x").write_bytes(idx_bytes(IMAGES))
    assert np.array_equal(read_image_file(str(tmp_path / "x")).numpy(), read_idx(tmp_path / "x"))


def test_reading_needs_no_second_copy(tmp_path):
    big = np.zeros((1000, 100, 100), np.uint8)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_bytes(big), 1))
    tracemalloc.start()
    read_idx(tmp_path / "x.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * big.nbytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b[:2], "2 bytes, too short"),
        (lambda b: b[:9], "ends inside its header"),
        (lambda b: b"\0\0\x07\x03" + b[4:], "magic number 0x00000703"),
        (lambda b: b"\x89PNG" + b[4:], "magic number 0x89504e47"),
        (lambda b: b[:-1], r"counts 5x4x3 values \(60 bytes\), found only 59"),
        (lambda b: b + b"\0", r"counts 5x4x3 values \(60 bytes\), found more"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "far too short"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_file_is_told_by_its_reason(tmp_path, change, says, packed):
    path = tmp_path / ("x.gz" if packed else "x")
    content = change(idx_bytes(IMAGES))
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=says):
        read_idx(path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b[:-8] + bytes(8), lambda b: b[:999] + b"\xff" * 9 + b[1008:]]
)
def test_a_damaged_gzip_is_refused(tmp_path, damage):
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5, 20, 20), dtype=np.uint8)
    (tmp_path / "x.gz").write_bytes(damage(gzip.compress(idx_bytes(noise))))
    with pytest.raises(ValueError, match="damaged gzip"):
        read_idx(tmp_path / "x.gz")


def test_qmnist_labels_are_the_first_of_eight_columns(tmp_path):
    table = np.arange(5 * 8, dtype=np.int32).reshape(5, 8)
    (tmp_path / "images").write_bytes(idx_bytes(IMAGES))
    (tmp_path / "labels").write_bytes(idx_bytes(table))
    assert read_pair(tmp_path / "images", tmp_path / "labels")[1].tolist() == [0, 8, 16, 24, 32]


def test_every_problem_of_a_pair_is_told_at_once(tmp_path):
    (tmp_path / "images").write_bytes(idx_bytes(LABELS))
    (tmp_path / "labels").write_bytes(b"\0\0")
    with pytest.raises(Refused) as refused:
        read_pair(tmp_path / "images", tmp_path / "labels")
    first, second = map(str, refused.value.problems)
    assert "images: holds uint8 of 5, not images of 8 bits (3 dimensions)" in first
    assert "labels: 2 bytes, too short" in second


def test_counts_that_differ_are_refused(tmp_path):
    (tmp_path / "images").write_bytes(idx_bytes(IMAGES))
    (tmp_path / "labels").write_bytes(idx_bytes(LABELS[:4]))
    with pytest.raises(Refused, match="4 labels for 5 images in images"):
        read_pair(tmp_path / "images", tmp_path / "labels")


def test_the_unpacked_file_is_preferred(tmp_path):
    (tmp_path / "x.gz").touch()
    assert find_idx(tmp_path, ("y", "x")) == tmp_path / "x.gz"
    (tmp_path / "x").touch()
    assert find_idx(tmp_path, ("y", "x")) == tmp_path / "x"
    assert find_idx(tmp_path, ("z",)) is None
