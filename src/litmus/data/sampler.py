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
        batch_size: images of a batch over all ranks.
        drop_last: leave out a last batch of fewer than ``batch_size``.
        rank, world_size: of several processes, each yields its part of every batch, sizes differing by at most one:
            the batches themselves are those of one process.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, must be at least 0 and below world_size = {world_size}")
        if last := last_batch_size(len(indices), batch_size, drop_last):
            smallest = min(batch_size, last)
            if smallest < world_size:
                raise ValueError(f"a batch of {smallest} images has no part for each of {world_size} processes")
        self.indices, self.batch_size = indices, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = (0, 0)
        """(epoch, batches): that epoch begins after so many batches, which were trained before; its length stays."""
        self._last: tuple[int, frozenset[int]] | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> Tensor:
        """(n,) int64: every index once, in this epoch's order."""
        if not self.shuffle:
            return self.indices
        return self.indices[torch.from_numpy(permutation(len(self.indices), "order", self.seed, self.epoch))]

    def __iter__(self) -> Iterator[Tensor]:
        epoch, batches = self.start
        begin = batches if epoch == self.epoch else 0
        return iter([self.part(batch) for batch in self.order().split(self.batch_size)[begin : len(self)]])

    def part(self, batch: Tensor) -> Tensor:
        """This rank's share of a batch."""
        return batch if self.world_size == 1 else batch.tensor_split(self.world_size)[self.rank]

    def whole(self, idx: Tensor) -> int:
        """How many images the batch has, over all ranks, that the positions ``idx`` of this epoch are a part of."""
        rest = len(self.indices) % self.batch_size
        if self.world_size == 1 or not rest or self.drop_last:
            return len(idx) if self.world_size == 1 else self.batch_size
        if self._last is None or self._last[0] != self.epoch:
            self._last = (self.epoch, frozenset(self.order()[-rest:].tolist()))
        return rest if int(idx[0]) in self._last[1] else self.batch_size

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)


class FixedBatches(IndexBatches, SequentialSampler):  # type: ignore[misc]  # of tensors, not of ints
    """The same batches each epoch, under the type that Lightning's ``overfit_batches`` leaves in place.

    Any other sampler it replaces by one that yields single positions.
    """

    def __init__(
        self, indices: Tensor, batch_size: int, *, drop_last: bool = False, rank: int = 0, world_size: int = 1
    ):
        IndexBatches.__init__(
            self, indices, batch_size, shuffle=False, drop_last=drop_last, rank=rank, world_size=world_size
        )


class EvalShare(Sampler[Tensor]):
    """One rank's share of a split that is evaluated: every image is in one share, none is added to even them out.

    All ranks get equally many batches, none empty, since a batch may hold calls that every rank has to make. They have
    at most ``batch_size`` images, or one more where a share of single images does not go round.

    Args:
        indices: (n,) int64, n >= ``world_size``.
    """

    def __init__(self, indices: Tensor, batch_size: int, *, rank: int, world_size: int):
        if len(indices) < world_size:
            raise ValueError(f"{len(indices)} images have no share for each of {world_size} processes")
        smallest, largest = len(indices) // world_size, -(-len(indices) // world_size)
        self.indices = indices.tensor_split(world_size)[rank]
        self.num_batches = min(-(-largest // batch_size), smallest)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.indices.tensor_split(self.num_batches))

    def __len__(self) -> int:
        return self.num_batches


def last_batch_size(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Images in the last batch of an epoch over ``n``; 0 when there is no batch. 1 breaks batch norm."""
    if n >= batch_size:
        return batch_size if drop_last else n % batch_size or batch_size
    return 0 if drop_last else n
