import numpy as np
import pytest
import torch
from PIL import Image

from litmus.data.datamodule import ImageDataModule
from litmus.data.sources import Request, load_source
from litmus.errors import Refused


def load(path, tmp_path, **changes):
    return load_source(Request("image_folder", tmp_path / "root", path=path, **changes))


def test_classes_are_the_sub_folders_by_name_and_labels_follow(make_folder, tmp_path):
    found = load(make_folder("photos", {"dog": 3, "cat": 2, "Ant": 4}), tmp_path)
    assert found.class_names == ("Ant", "cat", "dog")
    assert found.train.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 3


def test_hidden_and_foreign_files_and_folders_are_passed_over(make_folder, tmp_path):
    path = make_folder("photos", {"cat": 2, "dog": 2, ".ipynb_checkpoints": 3, "__MACOSX": 1, "cat/.thumbnails": 1})
    for name in ("cat/notes.txt", "dog/.DS_Store", "dog/._000.png", "list.csv"):
        (path / name).write_bytes(b"x")
    found = load(path, tmp_path)
    assert found.class_names == ("cat", "dog")
    assert found.train.files.names == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


def test_images_may_lie_deeper_and_a_link_upwards_does_not_loop(make_folder, tmp_path):
    path = make_folder("photos", {"cat/indoor": 2, "cat/outdoor/day": 1, "dog": 2})
    (path / "cat" / "loop").symlink_to(path / "cat", target_is_directory=True)
    assert load(path, tmp_path).train.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_linked_class_folder_and_capital_suffixes_count(make_folder, tmp_path):
    elsewhere = make_folder("elsewhere", {"cat": 2}, suffix="JPG")
    path = make_folder("photos", {"dog": 2})
    (path / "cat").symlink_to(elsewhere / "cat", target_is_directory=True)
    assert load(path, tmp_path).train.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_channels_are_the_images_own_unless_asked(make_folder, tmp_path, channels):
    grey, rgb = make_folder("grey", {"a": 2, "b": 2}), make_folder("rgb", {"a": 2, "b": 2}, mode="RGB")
    assert load(grey, tmp_path, channels=channels).train.shape[0] == (channels or 1)
    assert load(rgb, tmp_path, channels=channels).train.shape[0] == (channels or 3)


def test_given_validation_and_test_folders_are_used_whole(make_folder, tmp_path):
    folders = {
        key: make_folder(name, {"cat": 6, "dog": 5})
        for key, name in (("path", "one"), ("val_path", "two"), ("test_path", "three"))
    }
    data = ImageDataModule("image_folder", root=tmp_path / "root", **folders)
    assert (data.info.num_train, data.info.num_val, data.info.num_test) == (11, 11, 11)
    batch = next(iter(data.loader("val")))
    expected = np.stack([np.asarray(Image.open(p)) for p in sorted(folders["val_path"].rglob("*.png"))])
    assert np.array_equal(batch.images[:, 0].numpy(), expected)
    assert batch.idx.tolist() == list(range(11))


def test_moments_are_of_the_training_split_alone(make_folder, tmp_path):
    data = ImageDataModule(
        "image_folder", root=tmp_path / "root", path=make_folder("photos", {"cat": 20, "dog": 20}), num_train=10
    )
    held_out = set(data.indices("val").tolist()) | set(data.indices("test").tolist())
    train = torch.tensor([k for k in range(40) if k not in held_out])
    pixels = data.images("train")[train].double() / 255
    assert data.info.mean == pytest.approx((float(pixels.mean()),), abs=1e-12)
    assert data.info.std == pytest.approx((float(pixels.std(correction=0)),), abs=1e-12)


def test_streaming_changes_no_batch_and_no_digest(make_folder, tmp_path):
    path = make_folder("photos", {"cat": 12, "dog": 12})
    cached, streamed, with_a_worker = (
        ImageDataModule("image_folder", root=tmp_path / "root", path=path, batch_size=5, **how)
        for how in ({}, {"stream_above_gb": 0}, {"stream_above_gb": 0, "workers": 1})
    )
    assert (cached.images("train").streamed, streamed.images("train").streamed) == (False, True)
    assert cached.info == streamed.info == with_a_worker.info
    for batches in zip(*(data.loader("train") for data in (cached, streamed, with_a_worker)), strict=True):
        for one in batches[1:]:
            assert all(torch.equal(left, right) for left, right in zip(batches[0], one, strict=True))


def test_a_copy_under_another_name_and_format_is_the_same_image(make_folder, tmp_path):
    train, test = make_folder("train", {"cat": 4, "dog": 4}), make_folder("held_out", {"cat": 4, "dog": 4})
    Image.open(train / "cat" / "002.png").save(test / "dog" / "copy.bmp")
    with pytest.raises(Refused) as refused:
        ImageDataModule("image_folder", root=tmp_path / "root", path=train, test_path=test).prepare()
    message = str(refused.value)
    assert "share 1 image, remove" in message
    assert "train/cat/002.png = " in message
    assert "held_out/dog/copy.bmp" in message


def test_two_sets_with_a_repeat_inside_one_split_are_accepted(make_folder, tmp_path):
    train, val, test = (make_folder(name, {"cat": 4, "dog": 4}) for name in ("train", "val2", "test2"))
    Image.open(train / "cat" / "002.png").save(train / "cat" / "again.png")
    data = ImageDataModule("image_folder", root=tmp_path / "root", path=train, val_path=val, test_path=test)
    assert data.info.num_train == 9
