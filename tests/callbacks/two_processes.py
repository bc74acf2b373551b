"""Trains a thawing network once in one process and once in two (gloo), and prints how they compare, as JSON."""

import json
import tempfile
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from litmus.callbacks import Freeze
from litmus.classifier import ImageClassifier
from litmus.networks import build_network
from litmus.networks.layers import plan_freezing

EPOCHS = 3  # the body frozen, stages.2 thawed, stages.1 thawed


class InOrder(L.LightningDataModule):
    """32 images in global batches of 8, whatever the number of processes."""

    def train_dataloader(self):
        images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        data, world_size = TensorDataset(images, torch.arange(32) % 3), self.trainer.world_size
        sampler = DistributedSampler(data, world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=8 // world_size, sampler=sampler)


class Recorder(L.Callback):
    """Saves the weights of every rank after each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        path = self.folder / f"{trainer.current_epoch}-{trainer.global_rank}.pt"
        torch.save(pl_module.network.state_dict(), path)


def new_network():
    torch.manual_seed(0)  # group norm, since batch norm's statistics are those of each rank's own images
    options = {"depth": 8, "width": 4, "norm": "group", "norm_groups": 2}
    return build_network("residual", image_size=(8, 8), num_classes=3, **options)


def fit(folder, processes):
    network = new_network()
    module = ImageClassifier(network, optim={"name": "momentum", "lr": 0.05, "l2_lambda": 1.0}, num_train=32)
    freeze = Freeze(plan_freezing(network, ["body"], until=1, thaw_every=1))
    ddp = DDPStrategy(start_method="fork", process_group_backend="gloo", find_unused_parameters=False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=ddp if processes > 1 else "auto",
        max_epochs=EPOCHS,
        callbacks=[freeze, Recorder(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, InOrder())


def moved(before, after, *prefixes):
    return [name for name in before if name.startswith(prefixes) and not torch.equal(before[name], after[name])]


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = {name: value.clone() for name, value in new_network().state_dict().items()}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        fit(Path(two), processes=2)
        fit(Path(one), processes=1)
        single = [torch.load(Path(one) / f"{epoch}-0.pt", weights_only=True) for epoch in range(EPOCHS)]
        ranks = [
            [torch.load(Path(two) / f"{epoch}-{rank}.pt", weights_only=True) for epoch in range(EPOCHS)]
            for rank in range(2)
        ]
    first, second = ranks
    found = {
        "frozen_moved": [
            *moved(start, first[0], "stem", "stages"),
            *moved(start, first[1], "stem", "stages.0", "stages.1"),
            *moved(start, first[2], "stem", "stages.0"),
        ],
        "thawed_moved": [len(moved(start, first[1], "stages.2")), len(moved(first[1], first[2], "stages.1"))],
        "ranks_differ": [name for a, b in zip(first, second, strict=True) for name in moved(a, b, "")],
        "largest_difference": max(
            float((a[name] - b[name]).abs().max()) for a, b in zip(first, single, strict=True) for name in a
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
