import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from litmus import ImageClassifier, PlainClassifier, ResidualClassifier
from litmus.classifier import count_errors
from litmus.errors import NonFinite
from litmus.networks import num_params

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


def loader(n=20, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(n, 1, 4, 4, generator=generator), torch.randint(3, (n,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def linear(**options):
    torch.manual_seed(0)
    return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), optim={"name": "sgd", "lr": 0.1}, **options)


def fit(model, tmp_path, *loaders, **options):
    kwargs = {**QUIET, "max_epochs": 1, "logger": False, "enable_checkpointing": False, **options}
    trainer = L.Trainer(default_root_dir=tmp_path, **kwargs)
    trainer.fit(model, *loaders)
    return trainer


def test_metrics_are_means_over_images_not_over_batches(tmp_path):
    model, val = linear(), loader(n=11, batch_size=8)  # batches of 8 and 3
    trainer = fit(model, tmp_path, loader(), val)
    images, labels = val.dataset.tensors
    logits = model(images)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    wrong = (logits.argmax(1) != labels).float().mean().item()
    assert trainer.callback_metrics["val/err"] == pytest.approx(wrong)


def test_a_second_validation_loader_is_train_eval(tmp_path):
    train = loader()
    trainer = fit(linear(), tmp_path, train, [loader(n=9), train])
    assert {"val/err", "train_eval/err", "train/err"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train_eval/loss"] != trainer.callback_metrics["val/loss"]


def test_the_running_training_error_counts_each_image_once_and_starts_anew_after_a_validation(tmp_path):
    model = linear()
    fit(model, tmp_path, loader(), loader(), max_epochs=2)
    first, second = (row["train/loss"] for row in model.history)
    assert second < first
    assert [row["step"] for row in model.history] == [3, 6]


def test_label_smoothing_acts_in_training_only(tmp_path):
    plain, smooth = linear(), linear(label_smoothing=0.5)
    batch = next(iter(loader()))
    smooth.log_every = plain.log_every = 0
    assert smooth.training_step(batch, 0) != plain.training_step(batch, 0)
    for model in (plain, smooth):
        model.validation_step(batch, 0)
    assert plain.sums["val"].means() == smooth.sums["val"].means()


def test_mixed_labels_count_as_the_heavier_class():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert count_errors(logits, torch.tensor([[0.7, 0.3, 0.0], [0.6, 0.0, 0.4]])) == 1
    assert count_errors(logits, torch.tensor([0, 0])) == 1


def test_l2_lambda_is_divided_by_the_number_of_training_images(tmp_path):
    model = linear()
    model.optim["l2_lambda"] = 5.0
    trainer = fit(model, tmp_path, loader(n=20), loader())
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.25


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path):
    model = linear()
    with torch.no_grad():
        model.network[1].weight.fill_(float("inf"))
    with pytest.raises(NonFinite, match=r"train/loss = nan.* epoch 1, step 3"):
        fit(model, tmp_path, loader(), loader())


@pytest.mark.parametrize("cls", [PlainClassifier, ResidualClassifier])
def test_a_classifier_comes_back_from_its_checkpoint_without_unpickling(cls, tmp_path):
    model = cls(depth=8, num_classes=3, in_channels=1, image_size=4, keep_prob=0.9, width=4, l2_lambda=1.0)
    trainer = fit(model, tmp_path, loader(), loader())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = cls.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    images = next(iter(loader()))[0]
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert again.hparams.keep_prob == 0.9


def test_plain_and_residual_classifiers_differ_in_the_sum_and_nothing_else():
    networks = []
    for cls in (PlainClassifier, ResidualClassifier):
        torch.manual_seed(0)
        networks.append(cls(depth=20, num_classes=10).network)
    plain, residual = networks
    assert num_params(plain) == num_params(residual) == 269_722
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), residual.parameters(), strict=True))


def test_a_plateau_schedule_works_in_a_plain_script(tmp_path):
    model = linear(schedule={"name": "plateau", "patience": 0, "factor": 0.5})
    model.optim["lr"] = 1e-9  # so small a rate that nothing gets better
    fit(model, tmp_path, loader(), loader(), max_epochs=4)
    rates = [row["train/lr"] for row in model.history]
    assert rates[-1] < rates[0]


def test_an_unknown_number_of_training_images_is_named(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(loader().dataset)

    with pytest.raises(ValueError, match="pass num_train="):
        fit(linear(), tmp_path, DataLoader(Endless(), batch_size=8), loader(), max_steps=2)
