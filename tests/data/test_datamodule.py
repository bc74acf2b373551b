import dataclasses
import gzip
import tracemalloc

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from litmus.data.augment import Augment, normalise
from litmus.data.batch import Batch
from litmus.data.datamodule import SPLITS, ImageDataModule
from litmus.data.hashing import permutation
from litmus.data.sources.torchvision_sets import TABLE
from litmus.errors import Refused


def synthetic(**changes):
    return ImageDataModule(
        "synthetic", **{"num_images": 200, "image_size": 8, "channels": 1, "batch_size": 32, **changes}
    )


class Watcher(L.LightningModule):
    """A plain Lightning module that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.seen: dict[str, list[Batch]] = {"train": [], "val": [], "train_eval": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return nn.functional.cross_entropy(self.head(batch.images.flatten(1)), batch.labels)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen[("val", "train_eval")[dataloader_idx]].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**changes):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **changes})


def test_a_plain_lightning_script_trains_validates_and_tests():
    data, model = synthetic(), Watcher()
    run = trainer()
    run.fit(model, data)
    run.test(model, data)
    counts = {split: sum(len(batch.idx) for batch in batches) for split, batches in model.seen.items()}
    assert counts == {"train": 140, "val": 20, "train_eval": 140, "test": 40}
    for split in SPLITS:
        idx = torch.cat([batch.idx for batch in model.seen[split]])
        assert torch.equal(idx.sort().values, data.indices(split).sort().values)
        assert all(batch.images.dtype == torch.float32 for batch in model.seen[split])


@pytest.mark.parametrize("workers", [0, 1])
def test_each_epoch_of_a_fit_has_the_order_of_seed_and_epoch(workers):
    data, model = synthetic(seed=7, workers=workers), Watcher()
    trainer(max_epochs=3, limit_val_batches=0).fit(model, data)
    seen = torch.cat([batch.idx for batch in model.seen["train"]]).split(140)
    for epoch in range(3):
        assert torch.equal(seen[epoch], data.indices("train")[torch.from_numpy(permutation(140, "order", 7, epoch))])


def test_augmentation_is_of_the_current_epoch_and_of_training_only():
    augment = {"hflip": 0.5, "shift": 0.2}
    data, model = synthetic(seed=5, augment=augment), Watcher()
    trainer(max_epochs=2).fit(model, data)
    info, per_epoch = data.info, len(model.seen["train"]) // 2
    for number, batch in enumerate(model.seen["train"]):
        images, _ = Augment(**augment, seed=5)(
            data.images("train")[batch.idx], batch.labels, batch.idx,
            epoch=number // per_epoch, num_classes=10, mean=info.mean, std=info.std,
        )  # fmt: skip
        assert torch.equal(batch.images, images)
    for split in ("val", "train_eval"):
        for batch in model.seen[split]:
            assert torch.equal(batch.images, normalise(data.images(split)[batch.idx], info.mean, info.std))


def test_mixed_labels_reach_the_training_step_as_weights():
    data, model = synthetic(augment={"mixup": 1.0}), Watcher()
    trainer(limit_train_batches=1).fit(model, data)
    assert model.seen["train"][0].labels.shape == (32, 10)
    assert model.seen["train"][0].labels.sum(1) == pytest.approx(torch.ones(32))
    assert model.seen["val"][0].labels.dtype == torch.int64


def test_lightning_does_not_ask_for_workers_that_would_have_nothing_to_do(monkeypatch):
    connector = "lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers"
    monkeypatch.setattr(connector, lambda devices: 16)
    trainer().fit(Watcher(), synthetic())  # its warning would be an error here


def test_overfit_batches_repeats_the_same_images():
    data, model = synthetic(), Watcher()
    trainer(max_epochs=3, overfit_batches=1).fit(model, data)  # a warning of Lightning's would be an error here
    assert [batch.idx.tolist() for batch in model.seen["train"]] == [data.indices("train")[:32].tolist()] * 3
    assert torch.bincount(model.seen["train"][0].labels, minlength=10).min() >= 3  # stratified, not one class


def test_the_epoch_of_a_resumed_run_reaches_the_order(tmp_path):
    data, model = synthetic(workers=1), Watcher()
    first = trainer(max_epochs=2, limit_val_batches=0)
    first.fit(model, data)
    first.save_checkpoint(tmp_path / "two.ckpt")
    data, model = synthetic(workers=1), Watcher()
    trainer(max_epochs=3, limit_val_batches=0).fit(model, data, ckpt_path=tmp_path / "two.ckpt")
    seen = torch.cat([batch.idx for batch in model.seen["train"]])
    assert torch.equal(seen, data.indices("train")[torch.from_numpy(permutation(140, "order", 0, 2))])


def test_a_fit_after_a_resumed_one_begins_at_the_beginning(tmp_path):
    data, model = synthetic(), Watcher()
    first = trainer(max_epochs=2, limit_val_batches=0)
    first.fit(model, data)
    first.save_checkpoint(tmp_path / "two.ckpt")
    trainer(max_epochs=3, limit_val_batches=0).fit(Watcher(), data, ckpt_path=tmp_path / "two.ckpt")
    again = Watcher()
    trainer(limit_val_batches=0).fit(again, data)
    seen = torch.cat([batch.idx for batch in again.seen["train"]])
    assert torch.equal(seen, data.indices("train")[torch.from_numpy(permutation(140, "order", 0, 0))])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = synthetic(augment={"hflip": 0.5, "erase": 0.5})
    for split in SPLITS:
        for batch in data.loader(split):
            data.to_batch(batch, epoch=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_and_batch_size_do_not_change_the_order():
    orders = [
        torch.cat([batch.idx for batch in synthetic(**how).loader("train")]).tolist()
        for how in ({}, {"workers": 1}, {"batch_size": 9})
    ]
    assert orders[0] == orders[1] == orders[2]


def test_training_subsets_are_nested_and_leave_the_other_splits_alone():
    small, middle, whole = (synthetic(num_train=n) for n in (20, 50, None))
    assert small.indices("train").tolist() == middle.indices("train")[:20].tolist()
    assert middle.indices("train").tolist() == whole.indices("train")[:50].tolist()
    for split in ("val", "test"):
        assert torch.equal(small.indices(split), whole.indices(split))
    assert small.info.mean == whole.info.mean
    assert small.info.digest == whole.info.digest
    assert small.info.split_digest != whole.info.split_digest
    assert torch.bincount(small.images("train").labels[small.indices("train")]).tolist() == [2] * 10


def test_parts_of_the_training_images_share_validation_test_and_moments():
    whole, parts = synthetic(), [synthetic(parts=4, part=k) for k in range(4)]
    drawn = [set(part.indices("train").tolist()) for part in parts]
    assert set.union(*drawn) == set(whole.indices("train").tolist())
    assert sum(map(len, drawn)) == 140
    for part in parts:
        assert part.info.mean == whole.info.mean
        for split in ("val", "test"):
            assert torch.equal(part.indices(split), whole.indices(split))
        assert set(part.indices("train_eval").tolist()) == set(part.indices("train").tolist())
    few = synthetic(parts=4, part=1, num_train=20)
    assert few.indices("train").tolist() == parts[1].indices("train")[:20].tolist()
    assert len({part.info.split_digest for part in parts}) == 4


def test_another_draw_is_nested_and_stratified_too_and_shares_validation():
    small, middle = (synthetic(num_train=n, draw_seed=5) for n in (20, 50))
    assert small.indices("train").tolist() == middle.indices("train")[:20].tolist()
    assert torch.bincount(small.images("train").labels[small.indices("train")]).tolist() == [2] * 10
    assert set(small.indices("train").tolist()) != set(synthetic(num_train=20).indices("train").tolist())
    assert torch.equal(small.indices("val"), synthetic().indices("val"))
    one, other = (set(synthetic(parts=4, draw_seed=seed).indices("train").tolist()) for seed in (0, 5))
    assert one != other


def test_parts_too_small_to_hold_every_class_are_refused():
    with pytest.raises(Refused, match=r"data.parts = 15: leaves parts with fewer images than classes: 140"):
        synthetic(parts=15).prepare()


def test_label_noise_reaches_training_and_train_eval_and_nothing_else():
    clean, noisy = synthetic(), synthetic(label_noise=0.4)
    for split in SPLITS:
        before, after = (torch.cat([batch.labels for batch in data.loader(split)]) for data in (clean, noisy))
        assert torch.equal(before, after) == (split in ("val", "test")), split
    idx = noisy.indices("train")
    assert torch.equal(noisy.images("train").labels, clean.images("train").labels)
    wrong = noisy.labels("train")[idx] != clean.labels("train")[idx]
    assert 0.3 < wrong.float().mean() < 0.5
    others = torch.ones(200, dtype=torch.bool).index_fill(0, idx, False)
    assert torch.equal(noisy.labels("train")[others], clean.labels("train")[others])


def test_label_noise_changes_the_digest_of_the_data_and_no_split():
    clean, noisy, more = (synthetic(label_noise=share).info for share in (0.0, 0.2, 0.4))
    assert len({clean.digest, noisy.digest, more.digest}) == 3
    assert clean.split_digest == noisy.split_digest == more.split_digest
    assert clean.mean == noisy.mean


def test_label_noise_belongs_to_the_split_seed_and_the_image():
    base, other_seed, few = (synthetic(label_noise=0.4, **how) for how in ({}, {"seed": 1}, {"num_train": 50}))
    assert torch.equal(base.labels("train"), other_seed.labels("train"))
    idx = few.indices("train")
    assert torch.equal(few.labels("train")[idx], base.labels("train")[idx])


def test_train_eval_is_a_fixed_part_of_the_training_images():
    data = synthetic(train_eval_size=30)
    idx = data.indices("train_eval")
    assert len(idx) == 30
    assert set(idx.tolist()) == set(data.indices("train")[:30].tolist())
    assert [len(loader.sampler.indices) for loader in data.val_dataloader()] == [20, 30]
    assert len(synthetic(train_eval_size=0).val_dataloader()) == 1


def test_info_says_what_the_data_are():
    info = synthetic(num_classes=4).info
    assert (info.name, info.num_classes, info.channels, info.image_size) == ("synthetic", 4, 1, (8, 8))
    assert (info.num_train, info.num_val, info.num_test, info.num_train_eval) == (140, 20, 40, 140)
    assert len(info.class_names) == 4
    assert max(len(info.digest), len(info.split_digest)) <= 36  # MLflow's limit for a digest


def test_splits_belong_to_the_split_seed_and_order_to_the_seed():
    base, other_seed, other_split = (synthetic(**how) for how in ({}, {"seed": 1}, {"split_seed": 1}))
    assert base.info == other_seed.info
    assert base.info.split_digest != other_split.info.split_digest
    orders = [next(iter(data.loader("train"))).idx.tolist() for data in (base, other_seed)]
    assert orders[0] != orders[1]


def test_preparing_twice_reads_once(monkeypatch):
    data = synthetic()
    assert data.prepare() is data.prepare()
    monkeypatch.setattr(data, "_load", lambda: pytest.fail("read again"))
    data.prepare_data()
    data.setup("fit")


def test_own_mean_and_deviation_are_used():
    data = synthetic(mean=(0.5,), std=(0.25,))
    batch = next(iter(data.loader("val")))
    assert torch.equal(data.to_batch(batch).images, normalise(batch.images, (0.5,), (0.25,)))
    assert (data.info.mean, data.info.std) == ((0.5,), (0.25,))


def test_channels_last_is_a_memory_format_not_another_batch():
    data = synthetic(channels=3, channels_last=True, augment={"hflip": 0.5})
    plain = synthetic(channels=3, augment={"hflip": 0.5})
    batch = next(iter(data.loader("train")))
    for epoch in (None, 0):
        images = data.to_batch(batch, epoch=epoch).images
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, plain.to_batch(batch, epoch=epoch).images)


def test_the_root_is_the_environments_unless_given(monkeypatch, tmp_path):
    monkeypatch.setenv("LITMUS_DATA", str(tmp_path))
    assert ImageDataModule().request.root == tmp_path
    assert ImageDataModule(root="elsewhere").request.root.name == "elsewhere"
    monkeypatch.delenv("LITMUS_DATA")
    assert ImageDataModule().request.root.name == "data"


def test_the_loader_takes_a_batch_in_one_gather():
    """No work a sample: the data set is asked once a batch, with a tensor."""
    data, asked = synthetic(), []
    loader = data.loader("train")
    whole = loader.dataset.images
    loader.dataset.images = type(
        "Spy", (), {"labels": whole.labels, "__getitem__": lambda self, idx: (asked.append(idx), whole[idx])[1]}
    )()
    batches = list(loader)
    assert [len(idx) for idx in asked] == [len(batch.idx) for batch in batches] == [32, 32, 32, 32, 12]


def test_memory_stays_at_the_images_and_little_more(tmp_path, monkeypatch):
    """Twenty thousand 28x28 images from gzipped IDX files, with moments to compute, and one epoch."""
    few = dataclasses.replace(TABLE["kmnist"], images={"train": 20_000, "test": 2})
    monkeypatch.setitem(TABLE, "kmnist", few)
    for prefix, count in (("train", 20_000), ("t10k", 2)):
        pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8).reshape(count, 28, 28)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte.gz", pixels), (f"{prefix}-labels-idx1-ubyte.gz", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / name).write_bytes(gzip.compress(header + array.tobytes(), 1))
    (tmp_path / "kmnist").symlink_to(tmp_path, target_is_directory=True)
    del pixels, labels, array
    tracemalloc.start()  # sees numpy's memory, where the images and the permutations lie
    data = ImageDataModule("kmnist", root=tmp_path, download=False, mean=(0.5,))
    monkeypatch.setattr("litmus.data.datamodule.check_labels", lambda *args: None)  # two test images
    for batch in data.loader("train"):
        assert batch.images.nbytes <= 128 * 784
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 20_002 * 784
    assert data.images("train").images.data_ptr() == data.images("val").images.data_ptr()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"eval_batch_size": -1}, "eval_batch_size is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1"),
        ({"num_train": 0}, "num_train is 0"),
        ({"parts": 3, "part": 3}, r"part is 3, must be in \[0, 3\)"),
        ({"part": 1}, "part is 1, which only acts with parts"),
        ({"draw_seed": 1}, "draw_seed is 1, which only acts with num_train or parts"),
        ({"label_noise": 1.0}, r"label_noise is 1.0, must be in \[0, 1\)"),
        ({"label_noise": -0.1}, "label_noise is -0.1"),
        ({"channels": 4}, "channels is 4"),
        ({"image_size": (0, 8)}, "image_size is"),
        ({"path": "photos"}, "path is 'photos', which only name='image_folder' uses"),
        ({"num_images": 5}, "num_images is 5, which only name='synthetic' uses"),
        ({"augment": {"rotate": 400}}, "rotate"),
    ],
)
def test_an_argument_out_of_range_or_without_use_is_refused_by_name(arguments, says):
    with pytest.raises(ValueError, match=says):
        ImageDataModule("digits", **arguments)
