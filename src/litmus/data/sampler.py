"""The order of the images: a function of (seed, epoch), a batch of indices at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from litmus.data.hashing import permutation


class IndexBatches(Sampler[Tensor]):
    """Yields the positions of one batch as an int64 tensor, so that one gather makes the batch.

    Neither reads nor seeds the global generators. ``set_epoch`` is what Lightning calls on a loader's
    sampler; the order of an epoch is drawn when its iteration begins.

    Args:
        indices: (n,) int64, the images to hand out.
        shuffle: a new order each epoch; otherwise the given one, always.
        drop_last: leave out a last batch of fewer than ``batch_size``.
    """

    def __init__(self, indices: Tensor, batch_size: int, *, shuffle: bool, drop_last: bool = False, seed: int = 0):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        self.indices, self.batch_size = indices, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.epoch = 0
        self.start = (0, 0)
        """(epoch, batches): that epoch begins after so many batches, which were trained before; its length stays."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> Tensor:
        """(n,) int64: every index once, in this epoch's order."""
        if not self.shuffle:
            return self.indices
        return self.indices[torch.from_numpy(permutation(len(self.indices), "order", self.seed, self.epoch))]

    def __iter__(self) -> Iterator[Tensor]:
        epoch, batches = self.start
        return iter(self.order().split(self.batch_size)[batches if epoch == self.epoch else 0 : len(self)])

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)


class FixedBatches(IndexBatches, SequentialSampler):  # type: ignore[misc]  # of tensors, not of ints
    """The same batches each epoch, under the type that Lightning's ``overfit_batches`` leaves in place.

    Any other sampler it replaces by one that yields single positions.
    """

    def __init__(self, indices: Tensor, batch_size: int, *, drop_last: bool = False):
        IndexBatches.__init__(self, indices, batch_size, shuffle=False, drop_last=drop_last)


def last_batch_size(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Images in the last batch of an epoch over ``n``; 0 when there is no batch. 1 breaks batch norm."""
    if n >= batch_size:
        return batch_size if drop_last else n % batch_size or batch_size
    return 0 if drop_last else n
