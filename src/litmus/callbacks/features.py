"""Features of a body that stands still: computed once, and the head trains on them."""

from __future__ import annotations

import itertools
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from litmus.networks.layers import is_still

SPLITS = ("train", "val", "train_eval")


class FeatureTable:
    """What a still body makes of each image, filled as training goes by.

    The first epoch computes the features in any case, so filling costs nothing, and they are those of a batch of the
    same size as without the table.

    Args:
        sizes: images in the set that the indices of a split are positions in.
    """

    def __init__(self, sizes: dict[str, int]):
        self.sizes = sizes
        self._row_of: dict[str, Tensor] = {split: torch.full((size,), -1) for split, size in sizes.items()}
        self._rows: dict[str, list[Tensor]] = {split: [] for split in sizes}
        self._table: dict[str, Tensor] = {}
        self._count = dict.fromkeys(sizes, 0)

    def of(self, network: Any, batch: Any, split: str) -> Tensor:
        """(B, F) features of the batch ``(images, labels, idx)``: known, or computed and kept."""
        images, _, idx = batch
        rows = self._row_of[split][idx.cpu()]
        if bool((rows >= 0).all()):
            return self._look_up(split, rows)
        features = network.features(images.to(next(network.parameters()).dtype)).detach()
        self._keep(split, idx.cpu(), rows, features)
        return features

    def known(self, split: str) -> int:
        """How many images of the split are known."""
        return self._count[split]

    def _look_up(self, split: str, rows: Tensor) -> Tensor:
        if self._rows[split]:  # put together at the first look, not at every batch that comes in
            parts = [self._table[split]] if split in self._table else []
            self._table[split] = torch.cat([*parts, *self._rows[split]])
            self._rows[split] = []
        table = self._table[split]
        return table.index_select(0, rows.to(table.device))

    def _keep(self, split: str, idx: Tensor, rows: Tensor, features: Tensor) -> None:
        new = rows < 0
        count = int(new.sum())
        self._row_of[split][idx[new]] = torch.arange(self._count[split], self._count[split] + count)
        self._rows[split].append(features[new.to(features.device)])
        self._count[split] += count


class CacheFeatures(L.Callback):
    """Gives the classifier a ``FeatureTable`` while its whole body is frozen, and takes it away when that thaws.

    Only for data that are not augmented: a feature is then a function of the image. Once all images of a split are
    known, the data module no longer makes them. ``sentence`` says what it saved, measured in the run itself.

    Stands after ``Freeze``, which decides what is still. Features are not in a checkpoint (of 60,000 images they are
    307 MB); a resumed run computes them again in the batches in which they were computed first, since in another batch
    the last bit of a convolution may be another.

    Args:
        num_train: training images: when so many are known, the training images are not needed any more.
        skip_images: whether the data module may leave out the images; not when layers may thaw within an epoch.
    """

    def __init__(self, num_train: int, *, skip_images: bool = True):
        self.num_train, self.skip_images = num_train, skip_images
        self.plain_sec: float | None = None
        self.cached_sec: list[float] = []
        self._epoch_started_at = 0.0
        self._complete_at_start = False
        self._since: tuple[int, int] | None = None  # (epoch, batches) at which the table was begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        since = self._since
        self._offer(trainer, pl_module)
        if since is not None and pl_module.features is not None:
            self._since = since
            self._recompute(trainer, pl_module, since)
            self._need_images(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._offer(trainer, pl_module)
        table = pl_module.features
        self._complete_at_start = isinstance(table, FeatureTable) and table.known("train") >= self.num_train
        self._epoch_started_at = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.features is None:
            return
        elapsed = time.monotonic() - self._epoch_started_at
        if self._complete_at_start:
            self.cached_sec.append(elapsed)
        elif self.plain_sec is None:
            self.plain_sec = elapsed

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.features = None
        self._need_images(trainer, pl_module)

    @property
    def sentence(self) -> str | None:
        """What the table saved, in seconds of this run, the first epoch's with what starting up costs; None if no epoch
        ran on it."""
        if self.plain_sec is None or not self.cached_sec:
            return None
        cached = sorted(self.cached_sec)[len(self.cached_sec) // 2]
        return (
            f"features of the frozen body were computed once, in a first epoch of {self.plain_sec:.2g} s; "
            f"epochs on them took {cached:.2g} s, {self.plain_sec / cached:.3g} times faster"
        )

    def _offer(self, trainer: L.Trainer, pl_module: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not is_still(pl_module.network):
            pl_module.features = self._since = None
        elif pl_module.features is None:
            now = data.state_dict()
            self._since = (now["epoch"], now["batches"])
            pl_module.features = FeatureTable({split: len(data.images(split)) for split in SPLITS})
        self._need_images(trainer, pl_module)

    @torch.no_grad()
    def _recompute(self, trainer: L.Trainer, pl_module: Any, since: tuple[int, int]) -> None:
        """Look up what has been looked up since, in the same order; once all is known the rest is left out."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        until_epoch, until_batches = data.position
        loader = data.loader("train")
        for epoch in range(since[0], until_epoch + 1):
            first = since[1] if epoch == since[0] else 0
            loader.sampler.start = (epoch, first)
            loader.sampler.set_epoch(epoch)
            end = until_batches if epoch == until_epoch else len(loader)
            for batch in itertools.islice(loader, max(0, end - first)):
                if pl_module.features.known("train") >= len(data.indices("train")):
                    return
                moved = data.transfer_batch_to_device(batch, pl_module.device, 0)
                with trainer.precision_plugin.train_step_context():
                    pl_module.features.of(pl_module.network, data.to_batch(moved), "train")

    def state_dict(self) -> dict[str, Any]:
        return {"since": None if self._since is None else list(self._since)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._since = None if state_dict["since"] is None else tuple(state_dict["since"])

    def _need_images(self, trainer: L.Trainer, pl_module: Any) -> None:
        data, table = trainer.datamodule, pl_module.features  # type: ignore[attr-defined]
        for split in SPLITS if self.skip_images else ():
            data.leave_out_images(split, table is not None and table.known(split) >= len(data.indices(split)))
