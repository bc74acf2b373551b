"""A module that logs what a script says, one that trains, and a trainer that says nothing."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Scripted(L.LightningModule):
    """Logs the next dict of ``script`` at the end of each validation; one weight that an optimizer may move."""

    def __init__(self, script: list[dict[str, float]]):
        super().__init__()
        self.script = script
        self.turn = 0
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean() * 0.0 + 3.0

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log_dict(self.script[self.turn % len(self.script)])
            self.turn += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Learner(L.LightningModule):
    """A network with batch norm that learns; ``seen`` has its first weight at each validation and test."""

    def __init__(self, configure=None):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
        self.configure = configure or (lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
        self.seen: list[tuple[str, torch.Tensor]] = []
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.seen.append(("val", self.network[0].weight.detach().clone()))
        self.losses.append(nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.seen.append(("test", self.network[0].weight.detach().clone()))

    def on_validation_epoch_end(self):
        self.log("val/loss", torch.stack(self.losses).mean())
        self.losses = []

    def configure_optimizers(self):
        return self.configure(self.network)


def loader(num=10, batch_size=4):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(num, 3, generator=generator)
    return DataLoader(TensorDataset(images, (images.sum(1) > 0).long()), batch_size=batch_size)


@pytest.fixture
def kept():
    """``kept(folder, "last")``: the one newest checkpoint of a kind, None if there is none."""
    from litmus.checkpoints import saved

    def find(folder, kind):
        found = saved(folder, kind)
        return found[0].path if found else None

    return find


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def learner():
    return Learner


@pytest.fixture
def data():
    return loader


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **options):
        bar = any(isinstance(callback, L.pytorch.callbacks.ProgressBar) for callback in callbacks)
        defaults = {
            "accelerator": "cpu",
            "logger": False,
            "enable_model_summary": False,
            "enable_progress_bar": bar,
            "enable_checkpointing": any(isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks),
            "default_root_dir": tmp_path,
            "num_sanity_val_steps": 0,
        }
        return L.Trainer(callbacks=list(callbacks), **(defaults | options))

    return make


@pytest.fixture
def play(make_trainer):
    """Run a script of validations through callbacks, one an epoch, and hand back the trainer."""

    def run(script, *callbacks, **options):
        module = Scripted(script)
        trainer = make_trainer(*callbacks, **({"max_epochs": len(script)} | options))
        batches = DataLoader(TensorDataset(torch.zeros(2, 1)), batch_size=1)
        trainer.fit(module, batches, batches, ckpt_path=None)
        return trainer

    return run
