import lightning as L
import pytest
import torch

from litmus.callbacks import ValidateAtEnd


class Counting(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.validated_at: list[int] = []

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_end(self):
        self.validated_at.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("steps", "validated"),
    [(7, [4, 7]), (8, [4, 8])],
    ids=["in the middle of an epoch", "at the end of one"],
)
def test_the_last_step_is_validated_once(steps, validated, tmp_path):
    loader = torch.utils.data.DataLoader(torch.zeros(4, 2), batch_size=1)
    module = Counting()
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=steps,
        callbacks=[ValidateAtEnd()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, loader)
    assert module.validated_at == validated
    assert trainer.global_step == steps
