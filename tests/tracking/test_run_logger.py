"""Lightning logs into a run and leaves its end to others."""

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litmus.tracking.logger import RunLogger
from litmus.tracking.spool import Spool


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")  # said on machines with many cores
def test_a_trainer_logs_its_metrics_by_step_and_leaves_the_run_open(start):
    run = start(params={"lr": 0.1})
    logger = RunLogger(run)
    data = DataLoader(TensorDataset(torch.ones(12, 2)), batch_size=2)
    trainer = L.Trainer(
        max_epochs=1, logger=logger, log_every_n_steps=2, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), data)
    with Spool(run.dir) as spool:
        assert [step for step, _, _ in spool.history("train/loss")] == [1, 3, 5]
        assert spool.status == "RUNNING"
        assert spool.texts("param") == {"lr": "0.1"}
    assert (logger.name, logger.version, logger.save_dir) == ("resnet8", run.uid[:8], str(run.dir))


def test_ranks_without_a_run_share_its_directory_and_log_nothing(start):
    run = start()
    logger, other = RunLogger(run), RunLogger(None, save_dir=run.dir)
    assert (other.save_dir, other.version) == (logger.save_dir, logger.version)
    other.log_metrics({"a": 1.0}, step=0)
    other.finalize("success")
    run.flush()
    with Spool(run.dir) as spool:
        assert spool.last_metrics() == {}
    with pytest.raises(ValueError, match="save_dir"):
        RunLogger(None)
