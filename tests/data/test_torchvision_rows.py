"""Every row of the table reads a small tree in its set's own layout, and agrees with torchvision's class on it."""

import bz2
import dataclasses
import gzip
import importlib
import json
import os
import pathlib
import pickle
import urllib.request

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from litmus.data.sources import Request, load_source
from litmus.data.sources.torchvision_sets import TABLE
from litmus.errors import Refused

VALUES = iter(())


def grey(count, *shape):
    """Constant images, each of its own value."""
    values = np.array([next(VALUES) for _ in range(count)], np.uint8)
    return np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


def shot(path):
    """An image file of one value of its own; a JPEG moves it by at most 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 12, 3), next(VALUES), np.uint8)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def idx(path, array, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


def mat(path, **arrays):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)


def mnist(root, row, labels=(0, 1, 1)):
    for prefix in row.idx.values():
        idx(root / row.there / f"{prefix}-images-idx3-ubyte", grey(3, 28, 28), 8)
        idx(root / row.there / f"{prefix}-labels-idx1-ubyte", np.array(labels, np.uint8), 8)


def emnist_letters(root, row):
    mnist(root, row, labels=(1, 2, 2))


def qmnist(root, row):
    for prefix in row.idx.values():
        idx(root / row.there / f"{prefix}-images-idx3-ubyte", grey(3, 28, 28), 8)
        idx(root / row.there / f"{prefix}-labels-idx2-int", np.array([[0] * 8, [1] + [7] * 7, [1] * 8], np.int32), 12)


def usps(root, row):
    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [f"{label} " + " ".join(f"{k + 1}:{next(VALUES) / 127.5 - 1}" for k in range(256)) for label in (1, 2)]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def semeion(root, row):
    rows = [[k % 2 for k in range(256)] + [float(label == k) for k in range(10)] for label in (0, 1)]
    text(root / "semeion.data", "\n".join(" ".join(map(str, row)) for row in rows))


def cifar(root, row):
    cls = getattr(torchvision.datasets, row.cls)
    folder, key = root / cls.base_folder, "labels" if row.classes == 10 else "fine_labels"
    folder.mkdir()
    for name, _ in cls.train_list + cls.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": grey(2, 3072), key: [0, 1]}))
    (folder / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: ["plane", "car"]}))


def svhn(root, row):
    for name in ("train", "test"):
        mat(root / f"{name}_32x32.mat", X=np.moveaxis(grey(3, 32, 32, 3), 0, 3), y=np.array([[10], [1], [1]], np.uint8))


def stl10(root, row):
    for name in ("train", "test", "unlabeled"):
        text(root / "stl10_binary" / "class_names.txt", "airplane\nbird\n")
        (root / "stl10_binary" / f"{name}_X.bin").write_bytes(grey(2, 3, 96, 96).tobytes())
        (root / "stl10_binary" / f"{name}_y.bin").write_bytes(bytes([1, 2]))


def caltech101(root, row):
    for name in ("BACKGROUND_Google/image_0001", "ant/image_0001", "bee/image_0001", "bee/image_0002"):
        shot(root / "caltech101/101_ObjectCategories" / f"{name}.jpg")


def caltech256(root, row):
    for name in ("001.ak47/001_0001", "002.flag/002_0001", "002.flag/002_0002"):
        shot(root / "caltech256/256_ObjectCategories" / f"{name}.jpg")


def clevr_count(root, row):
    for split in ("train", "val"):
        names = [f"CLEVR_{split}_{k:06d}.png" for k in range(2)]
        for name in names:
            shot(root / "clevr/CLEVR_v1.0/images" / split / name)
        scenes = [{"image_filename": name, "objects": [{}] * (3 + k)} for k, name in enumerate(names)]
        text(root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))


def country211(root, row):
    for split in ("train", "valid", "test"):
        for name in ("AD/1", "AD/2", "ZW/3"):
            shot(root / "country211" / split / f"{name}.jpg")


def dtd(root, row):
    for split in ("train", "val", "test"):
        names = [f"banded/{split}.jpg", f"woven/{split}.jpg"]
        text(root / f"dtd/dtd/labels/{split}1.txt", "\n".join(names))
        for name in names:
            shot(root / "dtd/dtd/images" / name)


def eurosat(root, row):
    for name in ("AnnualCrop/1", "Forest/1", "Forest/2"):
        shot(root / "eurosat/2750" / f"{name}.jpg")


def fgvc_aircraft(root, row):
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", "707-320\nA300 B4\n")
    for split in ("train", "val", "test"):
        text(data / f"images_variant_{split}.txt", f"{split}1 A300 B4\n{split}0 707-320\n")
        for k in (0, 1):
            shot(data / "images" / f"{split}{k}.jpg")


def flowers102(root, row):
    folder = root / "flowers-102"
    mat(folder / "imagelabels.mat", labels=np.array([2, 1, 1, 2, 1, 2]))
    mat(folder / "setid.mat", trnid=np.array([1, 2]), valid=np.array([4, 3]), tstid=np.array([5, 6]))
    for k in range(1, 7):
        shot(folder / f"jpg/image_{k:05d}.jpg")


def food101(root, row):
    for split in ("train", "test"):
        text(root / f"food-101/meta/{split}.json", json.dumps({c: [f"{c}/{split}"] for c in ("tacos", "churros")}))
        for name in ("tacos", "churros"):
            shot(root / "food-101/images" / name / f"{split}.jpg")


def gtsrb(root, row):
    for name in ("00000/1", "00001/1", "00001/2"):
        shot(root / "gtsrb/GTSRB/Training" / f"{name}.ppm")
    for k in (0, 1):
        shot(root / f"gtsrb/GTSRB/Final_Test/Images/0000{k}.ppm")
    text(root / "gtsrb/GT-final_test.csv", "Filename;ClassId\n00000.ppm;1\n00001.ppm;0\n")


def imagenette(root, row):
    for split in ("train", "val"):
        for name in ("n01440764/1", "n02102040/1", "n02102040/2"):
            shot(root / "imagenette2-320" / split / f"{name}.JPEG")


def inaturalist_mini(root, row):
    for version in ("2021_train_mini", "2021_valid"):
        for k, name in enumerate(("ant", "bee")):
            shot(root / version / f"{k:05d}_Animalia_Arthropoda_Insecta_Hymenoptera_F_G_{name}" / "1.jpg")


def omniglot(root, row):
    text(root / "omniglot-py/images_background.zip", "")
    for name in ("Latin/character02/1", "Greek/character01/1", "Latin/character01/1"):
        shot(root / "omniglot-py/images_background" / f"{name}.png")


def oxford_pets(root, row):
    folder = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        text(folder / f"annotations/{split}.txt", f"great_dane_{split} 2 2 1\nBombay_{split} 1 1 1\n")
        for name in ("great_dane", "Bombay"):
            shot(folder / f"images/{name}_{split}.jpg")


def places365(root, row):
    text(root / "categories_places365.txt", "/a/abbey 0\n/b/bar 1\n")
    text(root / "places365_train_standard.txt", "/b/bar/1.jpg 1\n/a/abbey/1.jpg 0\n")
    text(root / "places365_val.txt", "v1.jpg 1\nv2.jpg 0\n")
    for name in ("data_256_standard/b/bar/1", "data_256_standard/a/abbey/1", "val_256/v1", "val_256/v2"):
        shot(root / f"{name}.jpg")


def rendered_sst2(root, row):
    for split in ("train", "valid", "test"):
        for name in ("negative/1", "positive/1"):
            shot(root / "rendered-sst2" / split / f"{name}.png")


def stanford_cars(root, row):
    folder = root / "stanford_cars"
    mat(folder / "devkit/cars_meta.mat", class_names=np.array(["Audi", "BMW"], object))
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        kind = [("fname", object), ("class", int)]
        mat(folder / path, annotations=np.array([(f"{split}1.jpg", 2), (f"{split}2.jpg", 1)], kind))
        for k in (1, 2):
            shot(folder / f"cars_{split}/{split}{k}.jpg")


def sun397(root, row):
    text(root / "SUN397/ClassName.txt", "/a/abbey\n/b/bar/outdoor\n")
    for name in ("b/bar/outdoor/sun_1", "a/abbey/sun_2", "a/abbey/sun_1"):
        shot(root / "SUN397" / f"{name}.jpg")


BUILDERS = {
    "mnist": mnist, "fashion_mnist": mnist, "kmnist": mnist, "emnist": mnist, "emnist_byclass": mnist,
    "emnist_bymerge": mnist, "emnist_digits": mnist, "cifar10": cifar, "cifar100": cifar,
}  # fmt: skip


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """``planted(name)``: the named set in small under the root; digests are not those of the real files."""
    global VALUES
    VALUES = iter(list(range(3, 255, 3)) * 40)
    for module in ("cifar", "svhn", "stl10", "semeion", "flowers102", "omniglot", "places365"):
        exists = lambda path, md5=None, **_: os.path.isfile(path)  # noqa: E731
        monkeypatch.setattr(importlib.import_module(f"torchvision.datasets.{module}"), "check_integrity", exists)

    def plant(name):
        row = TABLE[name]
        (BUILDERS.get(name) or globals()[name])(tmp_path, row)
        small = dataclasses.replace(row, images=dict.fromkeys(row.splits, 2), classes=2)
        monkeypatch.setitem(TABLE, name, small)
        return Request(name, tmp_path, download=False)

    return plant


@pytest.mark.parametrize("name", TABLE)
def test_every_row_gives_torchvisions_images_and_labels(planted, name):
    request, row = planted(name), TABLE[name]
    found = load_source(request)
    for split, arguments in row.splits.items():
        images = getattr(found, split)
        channels, *size = images.shape
        assert (channels, tuple(size)) == (row.channels, row.size)
        ours = images[torch.arange(len(images))].numpy()
        theirs = getattr(torchvision.datasets, row.cls)(str(request.root), download=False, **arguments)
        assert len(theirs) == len(images) >= 2
        expected = sorted((_value(image), int(label) - row.first_label) for image, label in theirs)
        got = sorted((_value(image), label) for image, label in zip(ours, images.labels.tolist(), strict=True))
        assert [value for value, _ in got] == pytest.approx([value for value, _ in expected], abs=1.1)
        if name != "omniglot":  # theirs numbers its classes in the order of the disk
            assert [label for _, label in got] == [label for _, label in expected]
        assert set(images.labels.tolist()) == {0, 1, *({2} if name == "omniglot" else ())}
    assert {split for split in ("train", "val", "test") if getattr(found, split) is not None} == set(row.splits)


def _value(image):
    return float(np.asarray(image).mean())


@pytest.mark.parametrize("name", TABLE)
def test_every_row_is_consistent_with_torchvisions_class(name):
    row = TABLE[name]
    cls = getattr(torchvision.datasets, row.cls)
    assert set(row.images) == set(row.splits) >= {"train"}
    assert row.class_names is None or len(row.class_names) == row.classes
    assert (row.mean is None) == (row.std is None)
    assert all(len(moments) == row.channels for moments in (row.mean, row.std) if moments)
    assert row.classes == len(getattr(cls, "classes", row.class_names or range(row.classes))) or row.class_names


def test_emnist_stands_upright(planted):
    request = planted("emnist")
    image = np.zeros((3, 28, 28), np.uint8)
    image[:, 5, 20] = 255  # row 5, column 20 of the published array
    idx(request.root / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte", image, 8)
    assert load_source(request).train[torch.tensor([0])][0, 0, 20, 5] == 255


def test_class_names_in_the_table_are_torchvisions():
    for name in ("fashion_mnist", "kmnist"):
        assert list(TABLE[name].class_names) == getattr(torchvision.datasets, TABLE[name].cls).classes
    for split, name in (("balanced", "emnist"), ("bymerge", "emnist_bymerge"), ("byclass", "emnist_byclass")):
        assert list(TABLE[name].class_names) == torchvision.datasets.EMNIST.classes_split_dict[split]


def test_the_order_of_the_disk_changes_neither_labels_nor_positions(planted, monkeypatch):
    requests = [planted(name) for name in ("omniglot", "sun397")]
    for module, name in ((torchvision.datasets.omniglot, "list_dir"), (pathlib.Path, "rglob")):
        listing = getattr(module, name)
        backwards = lambda *args, listing=listing: sorted(listing(*args), reverse=True)  # noqa: E731
        monkeypatch.setattr(module, name, backwards)
    for request in requests:
        images = load_source(request).train
        assert images.files.names == sorted(images.files.names)
        assert images.labels.tolist() == sorted(images.labels.tolist())


def test_class_names_are_readable(planted):
    assert load_source(planted("imagenette")).class_names == ("tench", "English springer")
    assert load_source(planted("gtsrb")).class_names == ("0", "1")  # torchvision has no names for these
    assert load_source(planted("oxford_pets")).class_names == ("Bombay", "Great Dane")


def test_packed_idx_files_are_read_in_place(planted):
    request = planted("kmnist")
    plain = load_source(request)
    for path in (request.root / "KMNIST/raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_source(request)
    assert (packed.train.digest, packed.test.digest) == (plain.train.digest, plain.test.digest)
    assert sorted(path.suffix for path in (request.root / "KMNIST/raw").iterdir()) == [".gz"] * 4


def test_published_moments_are_kept_only_for_the_published_images(planted):
    request = planted("cifar10")
    assert load_source(request).mean == (0.4914, 0.4822, 0.4465)
    assert load_source(dataclasses.replace(request, channels=1)).mean is None
    assert load_source(dataclasses.replace(request, image_size=(16, 16))).mean is None


def test_a_set_that_is_not_there_says_where_it_was_looked_for_and_how_to_fetch_it(tmp_path):
    with pytest.raises(Refused) as refused:
        load_source(Request("cifar10", tmp_path, download=False))
    message = str(refused.value)
    for part in (
        f"looked for cifar-10-batches-py in {tmp_path}", "data.download is off", "LITMUS_DATA", "about 170 MB",
        f"from torchvision.datasets import CIFAR10 as D; D('{tmp_path}', train=True, download=True)",
    ):  # fmt: skip
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_cannot_be_fetched_is_refused_soon_and_with_the_networks_words(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    for name in ("mnist", "stl10", "dtd"):
        with pytest.raises(Refused, match=r"the download failed: .*no route to host"):
            load_source(Request(name, tmp_path))


def test_damaged_files_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(Refused) as refused:
        load_source(Request("cifar10", tmp_path, download=False))
    assert "cifar-10-batches-py/data_batch_1 has a wrong digest" in str(refused.value)
    assert "cifar-10-batches-py/data_batch_2 is missing" in str(refused.value)


def test_an_unpacking_that_was_cut_short_is_refused(planted, monkeypatch):
    request = planted("eurosat")
    monkeypatch.setitem(TABLE, "eurosat", dataclasses.replace(TABLE["eurosat"], images={"train": 27_000}))
    with pytest.raises(Refused, match="3 train images found, the set has 27000: an unpacking was cut short"):
        load_source(request)


def test_a_download_goes_through_torchvision_and_its_archive_is_checked(tmp_path, monkeypatch):
    """A planted archive instead of the network: it climbs out of its folder, and is refused before it is unpacked."""
    import zipfile

    from torchvision.datasets import utils

    def fetch(url, root, filename=None, md5=None, **_):
        os.makedirs(root, exist_ok=True)
        with zipfile.ZipFile(os.path.join(root, filename or os.path.basename(url)), "w") as archive:
            archive.writestr("../../climbed.txt", "out")

    monkeypatch.setattr(utils, "download_url", fetch)
    with pytest.raises(Refused, match=r"'\.\./\.\./climbed\.txt': a member would be written outside its folder"):
        load_source(Request("eurosat", tmp_path / "root"))
    assert not (tmp_path / "climbed.txt").exists()
    assert not list(tmp_path.rglob("climbed.txt"))
