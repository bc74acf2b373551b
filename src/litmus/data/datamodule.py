"""The data of a run: found, checked, split, and handed out a batch at a time."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from litmus.data.augment import Augment, normalise
from litmus.data.batch import Batch, DataInfo
from litmus.data.checks import check_labels, check_moments, check_sizes, check_unique, keep_classes
from litmus.data.hashing import digest_of
from litmus.data.images import ImageSet
from litmus.data.sampler import EvalShare, FixedBatches, IndexBatches
from litmus.data.sources import Request, Source, load_source
from litmus.data.splits import make_splits, noisy_labels, part_of, stratified_order
from litmus.errors import refuse

SPLITS = ("train", "val", "train_eval", "test")
_ONLY_FOR: dict[str, dict[str, Any]] = {
    "image_folder": {"path": None, "val_path": None, "test_path": None},
    "synthetic": {"num_images": 2000, "num_classes": 10},
}


class IndexedImages(Dataset[Batch]):
    """A batch for a tensor of positions, in one gather; without pixels, (B, 0), while ``wanted`` is False.

    ``wanted`` is a tensor in shared memory: worker processes that live on see it change.
    """

    def __init__(self, images: ImageSet, labels: Tensor, wanted: Tensor):
        self.images, self.labels, self.wanted = images, labels, wanted

    def __getitem__(self, idx: Tensor) -> Batch:
        pixels = self.images[idx] if self.wanted else torch.empty(len(idx), 0, dtype=torch.uint8)
        return Batch(pixels, self.labels[idx], idx)

    def __len__(self) -> int:
        return len(self.images)


class ImageDataModule(L.LightningDataModule):
    """A data set by name, as batches of uint8 images that are augmented and normalised on their device.

    Images lie in memory once, as uint8 (or in a memory-mapped file); splits are indices into them. The order is a
    function of (``seed``, epoch), augmentation of (``seed``, epoch, image): neither depends on workers, and the
    global random state is not touched. ``val_dataloader`` gives two loaders, ``val`` and ``train_eval``: fixed
    training images seen as validation sees them, from which bias is read.

    Of a trainer's several processes each gets its part of every batch, and its share of what is evaluated.

    Args:
        name: ``digits``, ``synthetic``, ``image_folder`` or a torchvision set such as ``cifar10``.
        root: folder of the data sets and of the cache of decoded images; default: the environment's
            ``LITMUS_DATA``, else ``data``.
        download: fetch a set that is not there.
        path: ``image_folder`` only: the folder with one sub-folder a class.
        val_path, test_path: ``image_folder`` only: folders of their own for these splits.
        image_size: H = W, or (H, W), in pixels: resize the short side to fit and crop the centre. Default: as
            published, and for sets of photographs of many sizes 224.
        channels: 1 or 3; default: as the images are.
        classes: names or numbers of the classes whose images are used; they become classes 0, 1, ... in this order.
        mean, std: per channel, for pixels in [0, 1]; default: the set's.
        drop_last: leave out an incomplete last training batch.
        val_fraction: of the training images, where there is no validation set (``test_fraction`` alike).
        num_train: train on this many images: a stratified subset, each inside the next larger.
        parts: cut the training images into so many disjoint, stratified parts of equal size, and train on one.
        part: which of ``parts``, from 0.
        draw_seed: decides which images ``num_train`` or ``parts`` draw; 0: as ``split_seed`` has them.
        label_noise: in [0, 1), the part of the training labels that is replaced by another class, as ``noisy_labels``
            does with ``split_seed``; ``train_eval`` has the same labels, validation and test keep theirs.
        train_eval_size: at most this many training images are evaluated; 0 for no such loader.
        split_seed: decides the splits, and the images of ``synthetic``.
        shuffle: a new order each epoch.
        workers: processes that gather, and decode streamed images.
        stream_above_gb: decode while training when the decoded images of a folder would take more GB (1e9 bytes).
        num_images, num_classes: ``synthetic`` only.
        seed: order and augmentation.
        augment: keyword arguments of ``Augment``; ``None`` for none.
        channels_last: memory format of the batch.

    Attributes:
        batch_weight: what this process's part of the last training batch weighs in the mean of all processes' losses,
            which is to be the mean over the batch: 1 where the parts are equal.

    Raises:
        ValueError: an argument out of its range, or one the source has no use for.
    """

    def __init__(
        self,
        name: str = "digits",
        *,
        root: str | Path | None = None,
        download: bool = True,
        path: str | Path | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        classes: Sequence[str | int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        drop_last: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        num_train: int | None = None,
        parts: int | None = None,
        part: int = 0,
        draw_seed: int = 0,
        label_noise: float = 0.0,
        train_eval_size: int = 5000,
        split_seed: int = 0,
        shuffle: bool = True,
        workers: int = 0,
        stream_above_gb: float = 8.0,
        num_images: int = 2000,
        num_classes: int = 10,
        seed: int = 0,
        augment: dict[str, Any] | None = None,
        channels_last: bool = False,
    ):
        super().__init__()
        _check_arguments(locals())
        self.request = Request(
            name=name,
            root=Path(root or os.environ.get("LITMUS_DATA") or "data").expanduser(),
            download=download,
            path=_path(path),
            val_path=_path(val_path),
            test_path=_path(test_path),
            image_size=_size(image_size),
            channels=channels,
            stream_above_gb=stream_above_gb,
            num_images=num_images,
            num_classes=num_classes,
            split_seed=split_seed,
        )
        self.classes, self.mean, self.std = classes, mean, std
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.num_train, self.train_eval_size = num_train, train_eval_size
        self.part, self.draw_seed = None if parts is None else (part, parts), draw_seed
        self.label_noise = label_noise
        self.shuffle, self.workers, self.seed, self.channels_last = shuffle, workers, seed, channels_last
        self.augment = None if augment is None else Augment(**augment, seed=seed)
        self._info: DataInfo | None = None
        self._sets: dict[str, ImageSet] = {}
        self._labels: dict[str, Tensor] = {}
        self._indices: dict[str, Tensor] = {}
        self._position = (0, 0)  # (epoch, batches): where a resumed training goes on
        self._wanted = {split: torch.ones(1, dtype=torch.bool).share_memory_() for split in SPLITS}
        self._training: IndexBatches | None = None
        self.batch_weight = 1.0

    # --- once ---------------------------------------------------------------------------------------------------------

    def prepare(self) -> DataInfo:
        """Find, fetch, decode, check and split; the second call returns what the first found.

        Raises:
            Refused: everything that is wrong with the data, before any compute.
        """
        if self._info is None:
            self._info = self._load()
        return self._info

    @property
    def info(self) -> DataInfo:
        return self.prepare()

    def _load(self) -> DataInfo:
        found = load_source(self.request)
        class_names = found.class_names
        sets = {split: images for split in ("train", "val", "test") if (images := getattr(found, split)) is not None}
        check_labels(sets, len(class_names))
        digests = [images.digest for images in sets.values()]
        if self.classes is not None:
            class_names = keep_classes(sets, class_names, self.classes)
            digests += class_names
        kept = {split: (images.labels >= 0).nonzero().flatten() for split, images in sets.items()}
        splits = make_splits(
            found.train.labels[kept["train"]].numpy(),
            split_seed=self.split_seed,
            val_fraction=self.val_fraction if found.val is None else None,
            test_fraction=self.test_fraction if found.test is None else None,
        )
        whole_train = kept["train"][torch.from_numpy(splits.train)]
        own = self._drawn(whole_train, found.train.labels[whole_train].numpy(), len(class_names))
        check_sizes(len(own), num_train=self.num_train, batch_size=self.batch_size, drop_last=self.drop_last)
        train = own[: self.num_train]
        self._sets = {
            "train": found.train,
            "train_eval": found.train,
            "val": found.val or found.train,
            "test": found.test or found.train,
        }
        self._indices = {
            "train": train,
            "train_eval": train[: self.train_eval_size].sort().values,
            "val": kept["val"] if found.val else kept["train"][torch.from_numpy(splits.val)],
            "test": kept["test"] if found.test else kept["train"][torch.from_numpy(splits.test)],
        }
        self._labels = {split: images.labels for split, images in self._sets.items()}
        if self.label_noise:
            noisy, at = found.train.labels.clone(), whole_train.numpy()
            made = noisy_labels(noisy.numpy()[at], at, self.label_noise, len(class_names), self.split_seed)
            noisy[whole_train] = torch.from_numpy(made)
            self._labels |= {"train": noisy, "train_eval": noisy}
            digests.append(digest_of([noisy.numpy()]))
        if found.unique:
            check_unique(self._sets, {**self._indices, "train": whole_train})
        mean, std = self._moments(found, whole_train)
        channels, height, width = found.train.shape
        return DataInfo(
            name=self.request.name,
            num_classes=len(class_names),
            channels=channels,
            image_size=(height, width),
            class_names=class_names,
            num_train=len(train),
            num_val=len(self._indices["val"]),
            num_test=len(self._indices["test"]),
            num_train_eval=len(self._indices["train_eval"]),
            mean=mean,
            std=std,
            digest=digest_of(digests),
            split_digest=digest_of(self._indices[split].numpy() for split in SPLITS),
            source=found.where,
        )

    def _drawn(self, train: Tensor, labels: Any, num_classes: int) -> Tensor:
        """The images that this run may train on, in the order in which ``num_train`` takes them."""
        if self.part is None:
            return (
                train[torch.from_numpy(stratified_order(labels, "draw", self.draw_seed))] if self.draw_seed else train
            )
        part, parts = self.part
        if len(train) // parts < num_classes:
            says = f"leaves parts with fewer images than classes: {len(train):,} training images in all"
            raise refuse("data.parts", says, parts)
        return train[torch.from_numpy(part_of(labels, part, parts, self.draw_seed))]

    def _moments(self, found: Source, train: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Given, else the set's own, else computed from all training images, so that ``num_train`` changes nothing."""
        mean, std = self.mean or found.mean, self.std or found.std
        if mean is None or std is None:
            computed = found.train.moments(train)
            mean, std = mean or computed[0], std or computed[1]
        check_moments(mean, std, found.train.shape[0])
        return tuple(mean), tuple(std)

    def indices(self, split: str) -> Tensor:
        """(n,) int64: positions of the split's images in their set. Every prefix of ``train`` is stratified."""
        self.prepare()
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
        return self._indices[split]

    def images(self, split: str) -> ImageSet:
        """The set that ``indices(split)`` are positions in."""
        self.prepare()
        return self._sets[split]

    def labels(self, split: str) -> Tensor:
        """(N,) int64 of that set: what its images are trained or evaluated against. ``images(split).labels`` are those
        without ``label_noise``."""
        self.prepare()
        return self._labels[split]

    # --- loaders ------------------------------------------------------------------------------------------------------

    def loader(self, split: str) -> DataLoader[Batch]:
        """Batches of uint8 images. Training images in the order of (seed, epoch), the others ascending."""
        indices, dataset = (
            self.indices(split),
            IndexedImages(self.images(split), self.labels(split), self._wanted[split]),
        )
        training, trainer = split == "train", self.trainer
        batch_size = self.batch_size if training else self.eval_batch_size
        drop_last = training and self.drop_last
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        sampler: IndexBatches | EvalShare
        if trainer is not None and getattr(trainer, "overfit_batches", False):  # set, but not declared, by Lightning
            sampler = FixedBatches(indices, batch_size, drop_last=drop_last, rank=rank, world_size=world_size)
        elif not training and world_size > 1:
            sampler = EvalShare(indices, batch_size, rank=rank, world_size=world_size)
        else:
            sampler = IndexBatches(
                indices,
                batch_size,
                shuffle=training and self.shuffle,
                drop_last=drop_last,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
            )
            if training:
                # A worker process asks for its first batch before Lightning has set the epoch of a resumed run.
                sampler.start = self._position
                sampler.set_epoch(self._position[0])
        if training:
            self._training = sampler if isinstance(sampler, IndexBatches) else None
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # else iterating draws from the global one
            worker_init_fn=_leave_signals_to_the_run,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train")

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return [self.loader("val")] + ([self.loader("train_eval")] if self.train_eval_size else [])

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")

    def leave_out_images(self, split: str, leave_out: bool) -> None:
        """From the next epoch of this split on, its batches come without pixels, or with them again."""
        self._wanted[split].fill_(not leave_out)

    # --- batches ------------------------------------------------------------------------------------------------------

    def to_batch(self, batch: Batch, *, epoch: int | None = None) -> Batch:
        """What the network gets: float images, augmented as training sees them in ``epoch``, or as evaluation does."""
        info = self.info
        if epoch is None or self.augment is None:
            return batch._replace(images=normalise(batch.images, info.mean, info.std, channels_last=self.channels_last))
        images, labels = self.augment(
            batch.images,
            batch.labels,
            batch.idx,
            epoch=epoch,
            num_classes=info.num_classes,
            mean=info.mean,
            std=info.std,
            channels_last=self.channels_last,
        )
        return Batch(images, labels, batch.idx)

    # --- Lightning ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        self.prepare()  # once a machine: what it fetches and decodes the other processes find

    def setup(self, stage: str) -> None:
        self.prepare()
        self._position = (0, 0)  # of an earlier fit; a checkpoint that is resumed is loaded after this
        if not self.workers:  # true of data sets that read a file for each image; ours are one gather a batch
            warnings.filterwarnings("ignore", message=".*_dataloader' does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # ``state_dict`` sees to it

    def state_dict(self) -> dict[str, Any]:
        """The position in the training images: the epoch that goes on, and its batches trained so far."""
        if self.trainer is None:
            return {}
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        epoch, begun = epochs.processed, epochs.started
        return {"epoch": epoch, "batches": loop.epoch_loop.batch_progress.current.completed if begun > epoch else 0}

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batches) at which a resumed training went on; (0, 0) for one that began."""
        return self._position

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = (state_dict["epoch"], state_dict["batches"])

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        trainer, sampler = self.trainer, self._training
        if trainer is not None and trainer.world_size > 1 and trainer.training and sampler is not None:
            # here, while the positions are still on the host
            self.batch_weight = len(batch.idx) * trainer.world_size / sampler.whole(batch.idx)
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        training = self.trainer is not None and self.trainer.training
        if batch.images.ndim != 4:  # the features of these images are known
            return batch
        return self.to_batch(batch, epoch=self.trainer.current_epoch if training else None)  # type: ignore[union-attr]


def _leave_signals_to_the_run(worker: int) -> None:
    """A terminal and a scheduler signal every process of a job; the one that trains says when its workers end."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _check_arguments(given: dict[str, Any]) -> None:
    at_least = {"batch_size": 1, "eval_batch_size": 1, "train_eval_size": 0, "workers": 0, "num_images": 1}
    for name, least in {**at_least, "num_classes": 2, "stream_above_gb": 0}.items():
        if given[name] < least:
            raise ValueError(f"{name} is {given[name]!r}, must be at least {least}")
    for name in ("val_fraction", "test_fraction"):
        if not 0 <= given[name] < 1:
            raise ValueError(f"{name} is {given[name]!r}, must be in [0, 1)")
    if not 0 <= given["label_noise"] < 1:
        raise ValueError(f"label_noise is {given['label_noise']!r}, must be in [0, 1)")
    if given["num_train"] is not None and given["num_train"] < 1:
        raise ValueError(f"num_train is {given['num_train']!r}, must be at least 1")
    if given["parts"] is not None and not 0 <= given["part"] < given["parts"]:
        raise ValueError(f"part is {given['part']!r}, must be in [0, {given['parts']}), the number of parts")
    if given["parts"] is None and given["part"]:
        raise ValueError(f"part is {given['part']!r}, which only acts with parts")
    if given["parts"] is None and given["num_train"] is None and given["draw_seed"]:
        raise ValueError(f"draw_seed is {given['draw_seed']!r}, which only acts with num_train or parts")
    if given["channels"] not in (None, 1, 3):
        raise ValueError(f"channels is {given['channels']!r}, must be 1, 3 or None")
    for source, defaults in _ONLY_FOR.items():
        for name, default in defaults.items():
            if given[name] != default and given["name"] != source:
                raise ValueError(f"{name} is {given[name]!r}, which only name={source!r} uses")


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"image_size is {size!r}, must be positive")
    return height, width
