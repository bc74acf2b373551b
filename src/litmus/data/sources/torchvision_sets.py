"""torchvision's classification sets: one row each, found locally first, else downloaded.

To add one, add a row. PCAM, CelebA, FER2013, LFW and ImageNet are not here: torchvision downloads them not at all, or
only with packages we do not depend on; unpacked, they are an ``image_folder``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np
import torch

from litmus.data.archives import checked_extraction
from litmus.data.decode import ImageFiles, UnreadableImages, open_files
from litmus.data.idx import find_idx, read_pair
from litmus.data.images import ArrayImages, ImageSet, as_shape
from litmus.data.network import impatient_network
from litmus.data.sources import Request, Source, source
from litmus.errors import Problem, Refused, refuse

Arguments = Mapping[str, Any]
_BY_FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME: Mapping[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
_WITH_VAL: Mapping[str, Arguments] = {**_BY_NAME, "val": {"split": "val"}}
_ONE: Mapping[str, Arguments] = {"train": {}}
_DIGITS = tuple(digits)
_MERGED = digits + ascii_uppercase + "abdefghnqrt"  # capitals and small letters that look alike are one class


@dataclass(frozen=True)
class Row:
    """One data set.

    Args:
        cls: the class in ``torchvision.datasets``.
        classes: how many.
        images: of each split, as published; fewer found means an unpacking was cut short.
        there: a file or folder under the root that is there once the set is.
        mb: approximate download in MB; 0 where torchvision has none.
        splits: the arguments of ``cls`` for each of our splits. Without ``test``, one is cut from training;
            without ``val``, the same. An official split is used as it is.
        size: (H, W); of image files, what they are resized and cropped to when nothing else is asked.
        files: image files, decoded once into the cache; otherwise arrays.
        idx: the start of the names of the IDX files of each split, for the MNIST family.
        system: other folders that may hold the IDX files.
        class_names: where torchvision has none or other ones, and for IDX files, which are read without it.
        first_label: torchvision's label of our class 0.
        transposed: published lying on their side; we set them upright, like the other digits.
        mean, std: of the training set, pixels in [0, 1]; computed when there is none.
    """

    cls: str
    classes: int
    images: Mapping[str, int]
    there: str
    mb: int
    splits: Mapping[str, Arguments] = field(default_factory=lambda: _BY_FLAG)
    size: tuple[int, int] = (224, 224)
    channels: int = 3
    files: bool = False
    idx: Mapping[str, str] | None = None
    system: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    first_label: int = 0
    transposed: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


_mnist = partial(
    Row, classes=10, images={"train": 60_000, "test": 10_000}, size=(28, 28), channels=1,
    idx={"train": "train", "test": "t10k"},
)  # fmt: skip


def _emnist(split: str, class_names: str, train: int, test: int, first_label: int = 0) -> Row:
    return Row(
        cls="EMNIST", classes=len(class_names), images={"train": train, "test": test}, there="EMNIST/raw", mb=560,
        splits={"train": {"split": split, "train": True}, "test": {"split": split, "train": False}},
        size=(28, 28), channels=1, idx={s: f"emnist-{split}-{s}" for s in ("train", "test")},
        class_names=tuple(class_names), first_label=first_label, transposed=True,
    )  # fmt: skip


_photos = partial(Row, files=True)

TABLE: dict[str, Row] = {
    # in memory
    "mnist": _mnist("MNIST", there="MNIST/raw", mb=12, class_names=_DIGITS, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": _mnist(
        "FashionMNIST", there="FashionMNIST/raw", mb=31, mean=(0.2860,), std=(0.3530,),
        class_names=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        system=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
    ),
    "kmnist": _mnist(
        "KMNIST", there="KMNIST/raw", mb=21, class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    ),
    "qmnist": Row(
        "QMNIST", 10, {"train": 60_000, "test": 60_000}, "QMNIST/raw", 20, size=(28, 28), channels=1,
        idx={"train": "qmnist-train", "test": "qmnist-test"}, class_names=_DIGITS,
    ),
    "emnist": _emnist("balanced", _MERGED, 112_800, 18_800),
    "emnist_byclass": _emnist("byclass", digits + ascii_uppercase + ascii_lowercase, 697_932, 116_323),
    "emnist_bymerge": _emnist("bymerge", _MERGED, 697_932, 116_323),
    "emnist_digits": _emnist("digits", digits, 240_000, 40_000),
    "emnist_letters": _emnist("letters", ascii_lowercase, 124_800, 20_800, first_label=1),
    "usps": Row(
        "USPS", 10, {"train": 7_291, "test": 2_007}, "usps.bz2", 8, size=(16, 16), channels=1, class_names=_DIGITS
    ),
    "semeion": Row(
        "SEMEION", 10, {"train": 1_593}, "semeion.data", 3, _ONE, size=(16, 16), channels=1, class_names=_DIGITS
    ),
    "cifar10": Row(
        "CIFAR10", 10, {"train": 50_000, "test": 10_000}, "cifar-10-batches-py", 170, size=(32, 32),
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Row(
        "CIFAR100", 100, {"train": 50_000, "test": 10_000}, "cifar-100-python", 169, size=(32, 32),
        mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
    ),
    "svhn": Row(
        "SVHN", 10, {"train": 73_257, "test": 26_032}, "train_32x32.mat", 246, _BY_NAME, size=(32, 32),
        class_names=_DIGITS, mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970),
    ),
    "stl10": Row("STL10", 10, {"train": 5_000, "test": 8_000}, "stl10_binary", 2_640, _BY_NAME, size=(96, 96)),
    # image files
    "caltech101": _photos("Caltech101", 101, {"train": 8_677}, "caltech101/101_ObjectCategories", 137, _ONE),
    "caltech256": _photos("Caltech256", 257, {"train": 30_607}, "caltech256/256_ObjectCategories", 1_183, _ONE),
    "clevr_count": _photos(
        "CLEVRClassification", 8, {"train": 70_000, "test": 15_000}, "clevr/CLEVR_v1.0", 18_000,
        {"train": {"split": "train"}, "test": {"split": "val"}},  # the official test images have no labels
        class_names=(*"3456789", "10"), first_label=3,
    ),
    "country211": _photos(
        "Country211", 211, {"train": 31_650, "val": 10_550, "test": 21_100}, "country211", 11_500,
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    ),
    "dtd": _photos("DTD", 47, {"train": 1_880, "val": 1_880, "test": 1_880}, "dtd/dtd", 600, _WITH_VAL),
    "eurosat": _photos("EuroSAT", 10, {"train": 27_000}, "eurosat/2750", 94, _ONE, size=(64, 64)),
    "fgvc_aircraft": _photos(
        "FGVCAircraft", 100, {"train": 3_334, "val": 3_333, "test": 3_333}, "fgvc-aircraft-2013b", 2_750, _WITH_VAL
    ),
    "flowers102": _photos(
        "Flowers102", 102, {"train": 1_020, "val": 1_020, "test": 6_149}, "flowers-102/jpg", 345, _WITH_VAL
    ),
    "food101": _photos("Food101", 101, {"train": 75_750, "test": 25_250}, "food-101/images", 5_000, _BY_NAME),
    "gtsrb": _photos(
        "GTSRB", 43, {"train": 26_640, "test": 12_630}, "gtsrb/GTSRB/Training", 276, _BY_NAME, size=(32, 32)
    ),
    "imagenette": _photos(
        "Imagenette", 10, {"train": 9_469, "test": 3_925}, "imagenette2-320", 342,
        {"train": {"split": "train", "size": "320px"}, "test": {"split": "val", "size": "320px"}},
    ),
    "inaturalist_mini": _photos(
        "INaturalist", 10_000, {"train": 500_000, "test": 100_000}, "2021_train_mini", 51_000,
        {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    ),
    "omniglot": _photos(  # the published evaluation set has other characters: nothing to test these on
        "Omniglot", 964, {"train": 19_280}, "omniglot-py/images_background", 10, _ONE, size=(28, 28), channels=1
    ),
    "oxford_pets": _photos(
        "OxfordIIITPet", 37, {"train": 3_680, "test": 3_669}, "oxford-iiit-pet/images", 811,
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "places365": _photos(
        "Places365", 365, {"train": 1_803_460, "test": 36_500}, "data_256_standard", 26_000,
        {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    ),
    "rendered_sst2": _photos(
        "RenderedSST2", 2, {"train": 6_920, "val": 872, "test": 1_821}, "rendered-sst2/train", 150, _WITH_VAL
    ),
    "stanford_cars": _photos(
        "StanfordCars", 196, {"train": 8_144, "test": 8_041}, "stanford_cars/devkit", 0, _BY_NAME
    ),
    "sun397": _photos("SUN397", 397, {"train": 108_754}, "SUN397", 39_000, _ONE),
}  # fmt: skip


@source(*TABLE)
def torchvision_set(request: Request) -> Source:
    """The named set as published: official splits are kept, labels start at 0."""
    row = TABLE[request.name]
    sets: dict[str, ImageSet] = {}
    folders, names = [], row.class_names
    unreadable: list[Problem] = []
    for split in row.splits:
        try:
            images, found_names, folder = (_from_idx if row.idx else _from_class)(request, row, split)
        except UnreadableImages as bad:  # those of the other splits are named as well
            unreadable += bad.problems
            continue
        if len(images) < row.images[split]:
            says = (
                f"{len(images)} {split} images found, the set has {row.images[split]}: an unpacking was cut short? "
                f"Remove {folder} and fetch it again"
            )
            raise refuse("data.name", says, request.name)
        sets[split], names = images, names or found_names
        folders.append(str(folder))
    if unreadable:
        raise UnreadableImages(unreadable, source=request.name)
    shape = sets["train"].shape
    as_published = row.mean is not None and (shape[0], shape[1:]) == (row.channels, row.size)
    return Source(
        class_names=names or tuple(str(k) for k in range(row.classes)),
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        mean=row.mean if as_published else None,
        std=row.std if as_published else None,
        where=folders[0],
    )


Found = tuple[ImageSet, tuple[str, ...] | None, Path]


def _from_idx(request: Request, row: Row, split: str) -> Found:
    """IDX files are read by us: packed or not, straight into place, with their counts checked."""
    assert row.idx is not None
    prefix = row.idx[split]
    wanted = ((f"{prefix}-images-idx3-ubyte",), (f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels-idx2-int"))
    folders = [request.root / row.there, request.root / request.name, *map(Path, row.system)]

    def find() -> tuple[Path, Path] | None:
        for folder in folders:
            images, labels = (find_idx(folder, names) for names in wanted)
            if images and labels:
                return images, labels
        return None

    found = find()
    if found is None:
        _download(request, row, split, folders, [names[0] for names in wanted])
        found = find()
    if found is None:
        raise _missing(request, row, folders, [names[0] for names in wanted], "the download left other files")
    images, labels = (torch.from_numpy(array) for array in read_pair(*found))
    images = images.unsqueeze(1)
    return _in_memory(request, row, images, labels), row.class_names, found[0].parent


def _from_class(request: Request, row: Row, split: str) -> Found:
    """Through torchvision's class: arrays as they are, lists of files through the cache."""
    reason = f"{row.there} is not there"
    dataset = None
    if (request.root / row.there).exists():
        try:
            dataset = _class(row)(str(request.root), download=False, **row.splits[split])
        except Exception as error:  # torchvision's classes raise what their parsers raise
            reason = _damage(row, request.root) or f"{type(error).__name__}: {error}"
    if dataset is None:
        dataset = _download(request, row, split, [request.root], [row.there], reason)
    names = _named(getattr(dataset, "classes", None) or getattr(dataset, "categories", None), row)
    if not row.files:
        labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
        return (
            _in_memory(request, row, _channels_first(dataset.data), torch.as_tensor(labels)),
            names,
            request.root / row.there,
        )
    paths, found_labels = listed_files(dataset)
    relative = [os.path.relpath(path, request.root).replace(os.sep, "/") for path in paths]
    order = sorted(range(len(paths)), key=relative.__getitem__)  # some classes list in the order of the disk
    files = ImageFiles(
        base=request.root,
        names=[relative[k] for k in order],
        labels=np.array([found_labels[k] - row.first_label for k in order], np.int64),
        image_size=request.image_size or row.size,
        channels=request.channels or row.channels,
        key="data.name",
        title=f"{request.name}-{split}",
    )
    images = open_files(files, request.root / "cache", stream_above_gb=request.stream_above_gb)
    return images, names, request.root / row.there


def _in_memory(request: Request, row: Row, images: torch.Tensor, labels: torch.Tensor) -> ArrayImages:
    images = as_shape(
        (images.transpose(2, 3) if row.transposed else images).contiguous(),
        image_size=request.image_size,
        channels=request.channels,
        above_gb=request.stream_above_gb,
    )
    return ArrayImages(images, labels.long() - row.first_label)


def _channels_first(data: Any) -> torch.Tensor:
    """(N, H, W), (N, H, W, 3) or (N, 3, H, W) to (N, C, H, W), without a copy where memory allows."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images


def listed_files(dataset: Any) -> tuple[list[Path], list[int]]:
    """The image files of a torchvision data set with its labels; each class keeps them in its own way."""
    if hasattr(dataset, "_labels"):  # Flowers102, Food101, DTD, FGVCAircraft, SUN397, CLEVR, OxfordIIITPet
        paths, labels = getattr(dataset, "_image_files", None) or dataset._images, dataset._labels
    elif hasattr(dataset, "_flat_character_images"):  # Omniglot: numbered in the order of the disk
        characters = sorted(dataset._characters)
        paths, labels = [], []
        for name, number in dataset._flat_character_images:
            character = dataset._characters[number]
            paths.append(Path(dataset.target_folder, character, name))
            labels.append(characters.index(character))
    elif hasattr(dataset, "all_categories"):  # INaturalist
        paths = [Path(dataset.root, dataset.all_categories[number], name) for number, name in dataset.index]
        labels = [number for number, _ in dataset.index]
    elif hasattr(dataset, "annotation_categories"):  # Caltech101
        names = [f"101_ObjectCategories/{dataset.categories[y]}/image_{i:04d}.jpg" for y, i in _pairs(dataset)]
        paths, labels = [Path(dataset.root, name) for name in names], dataset.y
    elif hasattr(dataset, "categories"):  # Caltech256
        names = [
            f"256_ObjectCategories/{dataset.categories[y]}/{y + 1:03d}_{i:04d}.jpg" for y, i in _pairs(dataset)
        ]  # fmt: skip
        paths, labels = [Path(dataset.root, name) for name in names], dataset.y
    else:  # ImageFolder and its kind
        pairs = next(getattr(dataset, name) for name in ("_samples", "samples", "imgs") if hasattr(dataset, name))
        paths, labels = [path for path, _ in pairs], [label for _, label in pairs]
    return [Path(path) for path in paths], [int(label) for label in labels]


def _pairs(dataset: Any) -> list[tuple[int, int]]:
    return list(zip(dataset.y, dataset.index, strict=True))


def _class(row: Row) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, row.cls)


def _damage(row: Row, root: Path) -> str:
    """Which files are missing or differ from the published digests, where torchvision lists them."""
    from torchvision.datasets.utils import check_md5

    found = []
    for name, md5, needed in _published(row):
        if not (root / name).is_file():
            found += [f"{name} is missing"] if needed else []
        elif not check_md5(str(root / name), md5):
            found.append(f"{name} has a wrong digest")
    return ", ".join(found)


def _published(row: Row) -> list[tuple[str, str, bool]]:
    """(path below the root, MD5, whether reading needs it) of the files that torchvision knows the digests of."""
    cls = _class(row)
    folder = getattr(cls, "base_folder", "")
    listed = [
        (f"{folder}/{name}", md5, True)
        for name, md5 in (*getattr(cls, "train_list", ()), *getattr(cls, "test_list", ()))
        if not name.startswith("unlabeled")
    ]
    listed += [(name, md5, False) for _, name, md5 in getattr(cls, "split_list", {}).values()]
    packed = getattr(cls, "resources", ())  # of the MNIST family: (name or address, digest)
    groups = packed.values() if isinstance(packed, dict) else [packed]
    listed += [(f"{row.there}/{name.rpartition('/')[2]}", md5, False) for group in groups for name, md5 in group]
    for word in ("tgz_md5", "md5_checksum"):
        if md5 := getattr(cls, word, ""):
            listed.append((cls.filename, md5, False))
    return listed


def compare_published(request: Request) -> tuple[list[str], list[Problem]]:
    """The files below the root against their published digests: a sentence, and a problem for each that differs."""
    from torchvision.datasets.utils import calculate_md5

    row = TABLE[request.name]
    there = [(request.root / name, md5) for name, md5, _ in _published(row) if (request.root / name).is_file()]
    if not there:
        return ["no file here has a published digest to compare with"], []
    found = {path: calculate_md5(str(path)) for path, _ in there}
    wrong = [
        Problem(str(path), f"has MD5 {found[path]}, published is {md5}: remove it and fetch it again")
        for path, md5 in there
        if found[path] != md5
    ]
    return [f"{len(there) - len(wrong)} of {len(there)} files have their published digests"], wrong


def _named(names: Any, row: Row) -> tuple[str, ...] | None:
    """Class names as torchvision has them (Imagenette has tuples of synonyms), when there is one for each class."""
    if names is None or len(names) != row.classes:
        return None
    return tuple(name if isinstance(name, str) else name[0] for name in names)


def _download(
    request: Request, row: Row, split: str, folders: list[Path], wanted: list[str], reason: str = "not there"
) -> Any:
    """torchvision's own download, which verifies digests; archives are checked before they are unpacked."""
    if not request.download:
        raise _missing(request, row, folders, wanted, f"{reason}; data.download is off")
    try:
        request.root.mkdir(parents=True, exist_ok=True)
        with impatient_network(), checked_extraction():
            return _class(row)(str(request.root), **row.splits[split], download=True)
    except Refused:
        raise
    except Exception as error:  # no network, a server's answer, a digest that does not match, a full disk
        told = " ".join(str(error).split()) or type(error).__name__
        raise _missing(request, row, folders, wanted, f"{reason}; the download failed: {told}") from None


def _missing(request: Request, row: Row, folders: list[Path], wanted: list[str], reason: str) -> Refused:
    asked = [[f"{key}={value!r}" for key, value in arguments.items()] for arguments in row.splits.values()]
    calls = "; ".join(f"D({', '.join([repr(str(request.root)), *one, 'download=True'])})" for one in asked)
    fetch = f'python -c "from torchvision.datasets import {row.cls} as D; {calls}"'
    says = (
        f"looked for {' and '.join(wanted)} in {', '.join(map(str, folders))}: {reason}. "
        + (
            f"Where there is a network, {fetch} fetches it (about {row.mb:,} MB); "
            if row.mb
            else "It has to be found by hand; "
        )
        + "copy what that makes into the root, or set data.root or LITMUS_DATA to the folder that holds it"
    )
    return Refused(Problem("data.name", says, request.name), source=request.name)
