from __future__ import annotations

import pytest
import torch
from torch import nn

from litmus.callbacks import LastCheckpoint, ObservePlateau
from litmus.optim import build_schedule


@pytest.fixture
def with_plateau(scripted):
    class WithPlateau(scripted):
        monitor = "val/loss"

        def __init__(self, script):
            super().__init__(script)
            self.layer = nn.Linear(3, 1)
            self.rates: list[float] = []

        def on_train_batch_start(self, batch, batch_idx):
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            options = {"patience": 0, "factor": 0.5, "warmup": 2, "warmup_factor": 0.5, "monitor": self.monitor}
            schedule = build_schedule(optimizer, name="plateau", total_steps=100, **options)
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return WithPlateau


SCRIPT = [{"val/loss": value} for value in (3.0, 4.0, 2.0, 2.5, 2.5, 1.0)]


def test_rate_falls_after_each_validation_that_is_not_better(with_plateau, data, make_trainer):
    module = with_plateau(SCRIPT)
    make_trainer(ObservePlateau(), max_epochs=6, num_sanity_val_steps=1).fit(module, data(4, 2), data(4, 2))
    assert module.rates == [0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize("length", [{"max_epochs": 6}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_resumed_run_is_at_the_rate_of_the_whole_run(length, cut, with_plateau, data, make_trainer, tmp_path, kept):
    def fit(folder, turn=0, ckpt_path=None, **options):
        module = with_plateau(SCRIPT)
        module.turn = turn
        trainer = make_trainer(ObservePlateau(), LastCheckpoint(tmp_path / folder), **(length | options))
        trainer.fit(module, data(4, 2), data(4, 2), ckpt_path=ckpt_path)
        return module.rates

    whole = fit("whole")
    first = fit("parts", **({"max_epochs": cut} if "max_steps" not in length else {"max_steps": 2 * cut}))
    assert first + fit("parts", turn=cut, ckpt_path=kept(tmp_path / "parts", "last")) == whole


def test_an_unknown_metric_is_refused_with_the_nearest(with_plateau, data, make_trainer):
    module = with_plateau(SCRIPT)
    module.monitor = "val/los"
    with pytest.raises(ValueError, match=r"'val/los', which nobody logs; did you mean 'val/loss'\?"):
        make_trainer(ObservePlateau(), max_epochs=1).fit(module, data(4, 2), data(4, 2))
