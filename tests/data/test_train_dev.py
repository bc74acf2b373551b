"""The train-dev split: images like the training images, beside validation images of another source."""

import numpy as np
import pytest
import torch
from PIL import Image

from litmus.config import deciding, load_config
from litmus.data.datamodule import SPLITS, ImageDataModule
from litmus.data.hashing import digest_of
from litmus.data.splits import make_splits
from litmus.errors import Refused
from litmus.experiment import run
from litmus.tracking import find_run

LABELS = np.repeat(np.arange(5), [200, 100, 50, 30, 20])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes that differ in brightness; validation images have them the other way about."""
    base = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, per_class, turned in (("train", 60, False), ("val", 30, True), ("test", 10, False)):
        for label in (0, 1):
            (base / name / f"class{label}").mkdir(parents=True)
            for k in range(per_class):
                level = 60 if (label == 1) == turned else 180
                pixels = np.clip(rng.normal(level, 25, (8, 8)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(base / name / f"class{label}" / f"{k}.png")
    return base


def data_of(folders, **options):
    paths = {f"{split}_path": folders / split for split in ("val", "test")}
    return ImageDataModule(
        "image_folder", path=folders / "train", root=folders / "cache", batch_size=16, **{**paths, **options}
    )


def test_it_is_cut_from_the_training_images_alone_and_stratified():
    plain = make_splits(LABELS, split_seed=3, val_fraction=None, test_fraction=0.25)
    cut = make_splits(LABELS, split_seed=3, val_fraction=None, test_fraction=0.25, train_dev_fraction=0.1)
    assert len(cut.train_dev) == 40
    assert np.array_equal(cut.test, plain.test)
    assert np.array_equal(np.sort(np.concatenate([cut.train, cut.train_dev, cut.test])), np.arange(400))
    assert np.abs(np.bincount(LABELS[cut.train_dev]) - np.bincount(LABELS) / 10).max() < 1.5
    assert len(plain.train_dev) == 0
    larger = make_splits(LABELS, split_seed=3, val_fraction=None, test_fraction=0.25, train_dev_fraction=0.2)
    assert set(cut.train_dev) < set(larger.train_dev)


def test_a_fraction_that_leaves_nothing_is_refused_by_its_own_name():
    for fraction, words in ((0.001, "leaves the train_dev split empty"), (0.99, "take 396 of 400")):
        with pytest.raises(Refused, match=r"data\.train_dev_fraction") as refused:
            make_splits(LABELS, split_seed=0, val_fraction=None, test_fraction=None, train_dev_fraction=fraction)
        assert words in str(refused.value)


def test_the_data_module_hands_it_out_as_it_does_validation_images(folders):
    data = data_of(folders, train_dev_fraction=0.25, augment={"hflip": 1.0})
    info = data.prepare()
    assert (info.num_train, info.num_train_dev, info.num_val, info.num_available) == (90, 30, 60, 90)
    assert not info.val_is_cut
    idx = torch.cat([batch.idx for batch in data.loader("train_dev")])
    assert torch.equal(idx, data.indices("train_dev"))
    assert not set(idx.tolist()) & set(data.indices("train").tolist())
    batch = next(iter(data.loader("train_dev")))
    assert torch.equal(batch.images, data.images("train_dev")[batch.idx])
    assert torch.bincount(batch.labels).tolist() == [15, 15]


def test_without_it_the_digest_of_the_splits_is_what_it_was(folders):
    plain, cut = data_of(folders), data_of(folders, train_dev_fraction=0.25)
    assert plain.info.num_train_dev == 0
    assert plain.info.split_digest != cut.info.split_digest
    assert plain.info.digest == cut.info.digest
    with pytest.raises(ValueError, match="must be one of train, val, train_eval, test"):
        plain.indices("train_dev")
    assert "train_dev" not in SPLITS
    digits = ImageDataModule("digits")
    assert digits.info.split_digest == digest_of(digits.indices(split).numpy() for split in SPLITS)


def test_where_validation_is_cut_from_the_same_set_it_is_refused(folders):
    with pytest.raises(Refused, match=r"data\.train_dev_fraction = 0\.1: only acts with data\.val_path"):
        load_config([], ["data.name=image_folder", "data.path=x", "data.train_dev_fraction=0.1"])
    with pytest.raises(Refused, match="validation images are a set of their own, and digits has none"):
        ImageDataModule("digits", train_dev_fraction=0.1).prepare()
    with pytest.raises(Refused, match=r"data\.train_dev_fraction"):
        load_config([], ["data.name=digits", "data.train_dev_fraction=0.1"])
    with pytest.raises(ValueError, match="train_dev_fraction is 1"):
        data_of(folders, train_dev_fraction=1)


def test_a_run_tells_a_mismatch_from_variance(folders, tmp_path):
    words = [
        "data.name=image_folder", *(f"data.{key}={folders / name}" for key, name in
        (("path", "train"), ("val_path", "val"), ("test_path", "test"), ("root", "cache"))),
        "data.train_dev_fraction=0.25", "data.batch_size=16", "model.name=mlp", "model.depth=2", "model.width=16",
        "optim.lr=0.05", "train.epochs=6", "train.accelerator=cpu", "tracking.offline=true",
        "tracking.system_metrics=false", f"tracking.home={tmp_path}", "checkpoint.evaluate=last",
    ]  # fmt: skip
    config = load_config([], words)
    assert deciding(config)["data.train_dev_fraction"] == 0.25
    said: list[str] = []
    result = run(config, say=said.append)
    assert result.diagnosis.verdict == "high mismatch"
    assert result.diagnosis.train_dev_err == result.evaluations["train_dev"].err < 0.1
    assert result.evaluations["val"].err > 0.9
    kept = find_run(result.run.uid, home=tmp_path)
    assert kept.tags["litmus.dominant_gap"] == "mismatch"
    assert kept.tags["litmus.reading.mismatch"] == "high"
    assert "best/train_dev_err" in kept.metrics
    assert kept.metrics["diagnosis/data_mismatch_low"] > 0.5
    assert "training images like those of data.val_path" in "\n".join(said)
    without = run(load_config([], [*words, "data.train_dev_fraction=0"]), say=lambda line: None)
    assert {one.name: one.status for one in without.readings}["mismatch"] == "not measured"
    assert without.diagnosis.verdict == "high variance"
