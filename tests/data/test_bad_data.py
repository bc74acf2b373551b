"""Wrong data are refused when they are prepared, before a model is built: what, where, how many, and what to do."""

import dataclasses
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litmus.data.checks import network_problems
from litmus.data.datamodule import ImageDataModule
from litmus.data.images import ArrayImages
from litmus.data.sources import _SOURCES, Source, source
from litmus.data.sources.torchvision_sets import TABLE
from litmus.errors import Refused

BAD = {}


def bad(*says):
    """Register a case: a function that makes the data and returns the arguments, and what the refusal must say."""

    def register(function):
        BAD[function.__name__] = (function, says)
        return function

    return register


def folder(path, **more):
    return {"name": "image_folder", "path": path, **more}


# --- folders ----------------------------------------------------------------------------------------------------------


@bad("data.path = ", "/photos': is missing (")
def path_missing(make, tmp):
    return folder(tmp / "photos")


@bad("data.path: the folder with one sub-folder of images a class is needed")
def path_not_given(make, tmp):
    return {"name": "image_folder"}


@bad("is a file: unpack it and name the folder")
def path_is_an_archive(make, tmp):
    (tmp / "photos.zip").write_bytes(b"PK")
    return folder(tmp / "photos.zip")


@bad("1 of 3 class folders hold no image, among them 'cow'; images: cat 3, cow 0, dog 2")
def empty_class_folder(make, tmp):
    return folder(make("photos", {"cat": 3, "cow": 0, "dog": 2}))


@bad("class folders hold no image, among them 'cow'")
def class_folder_without_images(make, tmp):
    path = make("photos", {"cat": 3, "cow": 0})
    (path / "cow" / "notes.txt").write_text("moo")
    return folder(path)


@bad("has one class only, two or more are needed; images: cat 3")
def one_class_beside_a_hidden_one(make, tmp):
    return folder(make("photos", {"cat": 3, ".ipynb_checkpoints": 2}))


@bad("has one class only", "images: cat 1")
def one_image(make, tmp):
    return folder(make("photos", {"cat": 1}))


@bad("leaves the val split empty: 2 images in all")
def one_image_a_class(make, tmp):
    return folder(make("photos", {"cat": 1, "dog": 1}))


@bad("holds no class folders, only 2 images")
def images_without_class_folders(make, tmp):
    make("photos", {"cat": 2})
    return folder(tmp / "photos" / "cat")


@bad("holds splits, not classes: name test, train, val in data.path, data.val_path, data.test_path")
def folder_of_splits(make, tmp):
    return folder(make("photos", {"train/cat": 2, "val/cat": 2, "test/cat": 2}))


@bad("data.val_path: classes differ from those of data.path; only in data.path: cow, dog; only in data.val_path: Dog")
def classes_differ(make, tmp):
    return folder(make("one", {"cat": 3, "cow": 3, "dog": 3}), val_path=make("two", {"cat": 3, "Dog": 3}))


@bad("3 problems", "data.path", "data.val_path", "data.test_path", "dog 0")
def everything_wrong_with_three_folders_at_once(make, tmp):
    return folder(tmp / "none", val_path=make("two", {"cat": 1, "dog": 0}), test_path=make("three", {"cat": 1}))


# --- files ------------------------------------------------------------------------------------------------------------


@bad(
    "3 problems",
    "cat/001.png: image 1 of 12: empty file",
    "cat/004.png: image 4 of 12: not an image",
    "dog/002.png: image 8 of 12: ", "truncated",
)  # fmt: skip
def unreadable_images(make, tmp):
    path = make("photos", {"cat": 6, "dog": 6}, size=(64, 64))
    (path / "cat/001.png").write_bytes(b"")
    (path / "cat/004.png").write_bytes(b"<html>404</html>")
    (path / "dog/002.png").write_bytes((path / "dog/002.png").read_bytes()[:2000])
    return folder(path)


@bad("3 problems", "cat/001.png: image 1 of 12: empty file")
def unreadable_images_to_be_streamed(make, tmp):
    return {**unreadable_images(make, tmp), "stream_above_gb": 0}


@bad("2 problems", "image 0 of 2: empty file", "image 1 of 2: empty file")
def no_readable_image_at_all(make, tmp):
    path = make("photos", {"cat": 1, "dog": 1})
    for image in path.rglob("*.png"):
        image.write_bytes(b"")
    return folder(path)


@bad("mode I;16 is not 8 bits a channel")
def sixteen_bit_image(make, tmp):
    path = make("photos", {"cat": 3, "dog": 3})
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path / "dog/001.png")
    return folder(path)


@bad("sizes differ, from 6x9 to 20x7 (height x width): set data.image_size")
def mixed_sizes(make, tmp):
    make("photos", {"cat": 3}, size=(8, 8))
    make("photos", {"dog": 3}, size=(20, 7))
    return folder(make("photos", {"cow": 3}, size=(6, 9)))


@bad("2 images are grey and 5 have colour (unlike the first: dog/000.png): set data.channels to 1 or 3")
def grey_among_colour(make, tmp):
    make("photos", {"cat": 5}, mode="RGB")
    return folder(make("photos", {"dog": 2}))


@bad("data.test_path", "images are 8x8 with 3 channels, those of data.path 8x8 with 1 channel: set data.image_size and")
def kind_of_test_set_differs(make, tmp):
    return folder(make("one", {"cat": 9, "dog": 9}), test_path=make("two", {"cat": 3, "dog": 3}, mode="RGB"))


@bad(
    "data.test_path: train and test share 2 images, remove one of each pair: ",
    "one/cat/003.png = ",
    "two/cat/x.png",
)
def same_image_in_given_folders(make, tmp):
    one, two = make("one", {"cat": 40, "dog": 40}), make("two", {"cat": 3, "dog": 3})
    val = make("three", {"cat": 3, "dog": 3})
    shutil.copy(one / "cat/003.png", two / "cat/x.png")
    shutil.copy(one / "dog/030.png", two / "dog/x.png")
    return folder(one, test_path=two, val_path=val)


@bad("data.path: ", "train and test share ", "train and val share ", " = cat/copy")
def same_images_in_one_folder_that_is_split(make, tmp):
    path = make("photos", {"cat": 30, "dog": 30})
    for k in range(30):
        shutil.copy(path / f"cat/{k:03d}.png", path / f"cat/copy{k}.png")
    return folder(path)


@bad("train and test share 1 image, remove one of each pair: ", "one/cat/003.png")
def same_image_beyond_the_training_subset(make, tmp):
    """Whether data are accepted must not depend on how many of them are trained on."""
    arguments = same_image_in_given_folders(make, tmp)
    (tmp / "two/dog/x.png").unlink()
    return {**arguments, "num_train": 2, "train_eval_size": 1}


# --- figures ----------------------------------------------------------------------------------------------------------


@bad("data.batch_size = 1500: drop_last leaves no batch at all of 1258 training images")
def batch_larger_than_the_data(make, tmp):
    return {"name": "digits", "batch_size": 1500, "drop_last": True}


@bad("data.batch_size = 128: drop_last leaves no batch at all of 100 training images")
def batch_larger_than_the_subset(make, tmp):
    return {"name": "digits", "num_train": 100, "drop_last": True}


@bad("data.num_train = 2000: the training split has 1258 images")
def subset_larger_than_the_data(make, tmp):
    return {"name": "digits", "num_train": 2000}


@bad("data.val_fraction = 0.0: leaves the val split empty: 1797 images in all")
def no_validation(make, tmp):
    return {"name": "digits", "val_fraction": 0.0}


@bad("data.val_fraction = 0.6: val_fraction 0.6, test_fraction 0.5 take 1976 of 1797 images")
def fractions_over_one(make, tmp):
    return {"name": "digits", "val_fraction": 0.6, "test_fraction": 0.5}


@bad("data.mean = [0.5, 0.5, 0.5]: needs one value for each of 1 channels")
def moments_for_other_channels(make, tmp):
    return {"name": "digits", "mean": (0.5, 0.5, 0.5)}


@bad("data.std = [0.0]: must be > 0")
def deviation_of_zero(make, tmp):
    return {"name": "digits", "std": (0.0,)}


# --- labels and IDX files ---------------------------------------------------------------------------------------------


def labelled(labels, num_classes=3, white=0):
    labels = torch.as_tensor(labels)
    images = torch.arange(len(labels) * 16).to(torch.uint8).view(-1, 1, 4, 4) | white
    function = lambda request: Source(tuple(map(str, range(num_classes))), ArrayImages(images, labels))  # noqa: E731
    _SOURCES.pop("own", None)
    source("own")(function)
    return {"name": "own"}


@bad("train labels run from -100 to 2, must be 0 to 2: 1 of 60 are outside, the first at index 7")
def label_of_minus_100(make, tmp):
    labels = np.arange(60) % 3
    labels[7] = -100
    return labelled(labels)


@bad("train labels run from 1 to 3, must be 0 to 2: 20 of 60 are outside, the first at index 2")
def labels_that_count_from_one(make, tmp):
    return labelled(np.arange(60) % 3 + 1)


@bad("data.std = [0.0]: must be > 0 (a computed 0 means that all pixels are equal)")
def images_that_are_all_one_colour(make, tmp):
    return labelled(np.arange(60) % 3, white=255)


@bad("2 of 5 classes have no training image: 3, 4")
def fewer_classes_than_named(make, tmp):
    return labelled(np.arange(60) % 3, num_classes=5)


def idx(tmp, *, images=None, labels=None, spoil=None):
    """Fashion-MNIST in its format: 40 training and 20 test images."""
    raw = tmp / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    drawn = np.random.Generator(np.random.PCG64(0))
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = drawn.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    if spoil:
        path = raw / f"{spoil[0]}-ubyte.gz"
        path.write_bytes(spoil[1](path.read_bytes()))
    return {"name": "fashion_mnist", "download": False, "val_fraction": 0.2}


def repack(change):
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


@bad("train-images-idx3-ubyte.gz: damaged gzip: Compressed file ended before the end-of-stream marker")
def truncated_gzip(make, tmp):
    return idx(tmp, spoil=("train-images-idx3", lambda packed: packed[:-500]))


@bad("t10k-labels-idx1-ubyte.gz: magic number 0x504b0304 is not IDX's")
def wrong_magic_number(make, tmp):
    return idx(tmp, spoil=("t10k-labels-idx1", repack(lambda b: b"PK\3\4" + b[4:])))


@bad("train-images-idx3-ubyte.gz: header counts 40x28x28 values (31360 bytes), found only 31160")
def wrong_idx_count(make, tmp):
    return idx(tmp, spoil=("train-images-idx3", repack(lambda b: b[:-200])))


@bad("train-labels-idx1-ubyte.gz: 39 labels for 40 images in train-images-idx3-ubyte.gz")
def fewer_labels_than_images(make, tmp):
    return idx(tmp, spoil=("train-labels-idx1", repack(lambda b: b[:7] + bytes([39]) + b[8:-1])))


@bad("train labels run from 0 to 200, must be 0 to 9: 1 of 40 are outside, the first at index 3")
def label_out_of_range_in_a_file(make, tmp):
    return idx(tmp, spoil=("train-labels-idx1", repack(lambda b: b[:11] + bytes([200]) + b[12:])))


@bad("looked for cifar-10-batches-py", "cifar-10-batches-py/data_batch_1 has a wrong digest")
def wrong_digest(make, tmp):
    path = tmp / "root" / "cifar-10-batches-py" / "data_batch_1"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    return {"name": "cifar10", "download": False}


@bad("data.name = 'cifar11': is not a data set; did you mean 'cifar10'?")
def unknown_name(make, tmp):
    return {"name": "cifar11"}


@bad("looked for train-images-idx3-ubyte and train-labels-idx1-ubyte in ", "data.download is off")
def nothing_there(make, tmp):
    return {"name": "mnist", "download": False}


@pytest.mark.parametrize("name", BAD)
def test_wrong_data_are_refused(name, make_folder, tmp_path, monkeypatch):
    few = dataclasses.replace(TABLE["fashion_mnist"], images={"train": 40, "test": 20}, system=())
    monkeypatch.setitem(TABLE, "fashion_mnist", few)
    make, says = BAD[name]
    try:
        arguments = make(make_folder, tmp_path)
        with pytest.raises(Refused) as refused:
            ImageDataModule(root=tmp_path / "root", **arguments).prepare()
    finally:
        _SOURCES.pop("own", None)
    message = str(refused.value)
    assert [part for part in says if part not in message] == [], message
    assert list((tmp_path / "root").rglob("*.tmp")) == []


def test_a_refused_folder_leaves_no_cache(make_folder, tmp_path):
    with pytest.raises(Refused):
        ImageDataModule(root=tmp_path / "root", **unreadable_images(make_folder, tmp_path)).prepare()
    assert [path for path in Path(tmp_path / "root").rglob("*") if path.is_file()] == []


# --- what needs the network's wishes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"num_classes": 9}, "model.num_classes = 9: digits has labels 0 to 9: 10 classes"),
        ({"num_classes": 11}, "model.num_classes = 11: digits has labels 0 to 9: 10 classes"),
        ({"channels": 3}, "data.channels = 1: digits has 1, the network takes 3: set data.channels to 3"),
        ({"smallest": 32}, "data.image_size: images are 8x8, the network needs 32x32 or more: set data.image_size"),
        (
            {"batch_norm": True, "batch_size": 1257},
            "data.batch_size = 1257: 1258 training images leave a last batch of 1, on which batch norm fails: "
            "change it or set data.drop_last",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_told_by_figures(wishes, says):
    assert [str(problem) for problem in network_problems(ImageDataModule().info, **wishes)] == [says]


def test_a_network_that_fits_has_no_problems():
    info = ImageDataModule().info
    fits = {"num_classes": 10, "channels": 1, "smallest": 8, "batch_norm": True}
    assert network_problems(info, **fits, batch_size=128) == []
    assert network_problems(info, **fits, batch_size=1257, drop_last=True) == []
    assert network_problems(info, **{**fits, "batch_norm": False}, batch_size=1257) == []
    assert len(network_problems(info, num_classes=3, channels=3, smallest=99, batch_norm=True, batch_size=1257)) == 4


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"batch_size": 628, "world_size": 3}, "the last batch of an epoch has 2 images for 3 devices, each needs one"),
        (
            {"batch_size": 418, "world_size": 3, "batch_norm": True},
            "the last batch of an epoch has 4 images for 3 devices, batch norm needs 2 on each",
        ),
        ({"batch_size": 6, "world_size": 4, "batch_norm": True}, "a batch has 6 images for 4 devices, batch norm"),
        ({"world_size": 200}, "data.val_fraction: leaves 180 images for 200 devices to evaluate"),
    ],
)
def test_a_device_without_a_share_is_told_by_figures(wishes, says):
    found = network_problems(ImageDataModule().info, **wishes)  # 1258 training images
    assert any(says in str(problem) for problem in found)
    if "batch_norm" in wishes and wishes["batch_size"] > 100:
        assert network_problems(ImageDataModule().info, **wishes, drop_last=True) == []
