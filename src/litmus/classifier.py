"""THE training step, the same for every network; and two classifiers for plain Lightning scripts."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.callbacks.features import FeatureTable
from litmus.callbacks.plateau import ObservePlateau
from litmus.errors import NonFinite
from litmus.networks import build_network
from litmus.optim import build_optimizer, build_schedule, learning_rate, options_of, set_options_
from litmus.ranks import add_up, world

OPTIM = {"name": "momentum", "lr": 0.1}
SCHEDULE = {"name": "constant"}


class ImageClassifier(L.LightningModule):
    """A network, its loss and its optimizer.

    A batch is ``(images, labels, ...)``: images (B, C, H, W), normalised; labels (B,) of class indices, or (B, K) of
    class probabilities when images were mixed. Logged at every validation, over the images since the last one:
    ``train/loss`` and ``train/err`` (running, augmented, dropout on), ``val/*``, and ``train_eval/*`` when there is a
    second validation loader. The loss is the data term: no weight penalty in it, and in evaluation no label smoothing.
    Of several processes each adds its images, and all log the same.

    Args:
        network: ``(B, C, H, W) -> (B, K)`` logits.
        optim: keyword arguments of ``litmus.optim.build_optimizer``.
        schedule: keyword arguments of ``litmus.optim.build_schedule``, durations in epochs, or in steps when the
            trainer has ``max_steps``.
        label_smoothing: in [0, 1).
        num_train: m, the number of training images, by which ``l2_lambda`` is divided; default: asked of the trainer.
        log_every: steps between the logged ``train_step/*``, 0 for none.
        restart: ``(at, factor)``, the start of the schedule's second phase and its part of the rate, see
            ``build_schedule``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optim: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        num_train: int | None = None,
        log_every: int = 50,
        restart: tuple[int, float] | None = None,
    ):
        super().__init__()
        self.network: Any = network
        self.optim = dict(optim or OPTIM)
        self.schedule = dict(schedule or SCHEDULE)
        self.label_smoothing = label_smoothing
        self.num_train = num_train
        self.log_every = log_every
        self.restart = restart
        self.features: FeatureTable | None = None
        self.origin = ""
        """Where the weights came from, in words; empty for new ones."""
        self.take_new_options = False
        """Whether a resumed training takes rate, decay and momentum from ``optim``, not from the checkpoint."""
        self.sums = {split: Sums() for split in ("train", "val", "train_eval", "test")}
        self.history: list[dict[str, float]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # set by Lightning 40 times a step; past nn.Module's search it costs nothing
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def logits(self, batch: Any, split: str) -> Tensor:
        """(B, K): the network's, or while its body stands still the head's on features known already."""
        if self.features is None:
            return self.network(batch[0].to(self.dtype))
        return self.network.head(self.network.dropout(self.features.of(self.network, batch, split)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels, logits = batch[1], self.logits(batch, "train")
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        errors = count_errors(logits, labels)
        self.sums["train"].add(loss, errors, len(labels))
        if self.log_every and batch_idx % self.log_every == 0:
            self._log_step(loss, errors / len(labels))
        weight = self._weight()
        return loss if weight == 1 else loss * weight

    def _weight(self) -> float:
        """Of this process's mean loss in that of all processes, which is to be the mean over the batch."""
        return getattr(getattr(self._trainer, "datamodule", None), "batch_weight", 1.0)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, ("val", "train_eval")[dataloader_idx])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(batch[0].to(self.dtype))

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("train", "val", "train_eval")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def configure_optimizers(self) -> Any:
        trainer, schedule = self.trainer, self.schedule
        total_steps = int(trainer.estimated_stepping_batches)  # loads the training data, which num_train_of looks at
        optimizer = build_optimizer(self.network, num_train=self.num_train or num_train_of(trainer), **self.optim)
        in_steps = trainer.max_epochs in (None, -1)
        unit_steps = 1 if in_steps else max(1, total_steps // trainer.max_epochs)  # type: ignore[operator]
        if self.restart is not None:
            schedule = {**schedule, "restart_at": self.restart[0], "restart_factor": self.restart[1]}
        self._options = options_of(optimizer)
        lr_scheduler = build_schedule(optimizer, total_steps=total_steps, unit_steps=unit_steps, **schedule)
        return optimizer if lr_scheduler is None else {"optimizer": optimizer, "lr_scheduler": lr_scheduler}

    def on_train_start(self) -> None:
        if self.take_new_options:
            schedulers: list[Any] = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            set_options_(self.trainer.optimizers[0], self._options, schedulers)

    def configure_callbacks(self) -> list[L.Callback]:
        return [ObservePlateau()] if self.schedule["name"] == "plateau" else []

    def _evaluate(self, batch: Any, split: str) -> None:
        labels, logits = batch[1], self.logits(batch, split)
        self.sums[split].add(F.cross_entropy(logits, labels), count_errors(logits, labels), len(labels))

    def _log_epoch(self, *splits: str) -> None:
        means = means_of([self.sums[split] for split in splits])
        metrics = {
            f"{split}/{name}": value for split, of in zip(splits, means, strict=True) for name, value in of.items()
        }
        self._refuse_non_finite(metrics)
        if "val" in splits:
            metrics["train/lr"] = learning_rate(self.trainer.optimizers[0])
            at = {"epoch": self.current_epoch + 1, "step": self.trainer.global_step}
            self.history.append({**at, **metrics})
        self.log_dict(metrics, prog_bar=True, logger=False)  # for the callbacks
        self._to_loggers(metrics)

    def _refuse_non_finite(self, metrics: dict[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if wrong:
            rate = learning_rate(self.trainer.optimizers[0]) if self.trainer.optimizers else math.nan
            raise NonFinite(
                f"{', '.join(wrong)} in epoch {self.current_epoch + 1}, step {self.trainer.global_step}, lr {rate:g}: "
                "a smaller optim.lr, train.grad_clip=1 or a schedule.warmup may help; litmus lr finds a rate"
            )

    def _log_step(self, loss: Tensor, err: Tensor) -> None:
        """Straight to the loggers: ``self.log`` at every step doubles the step of a small net."""
        if self.loggers:
            lr = learning_rate(self.trainer.optimizers[0])
            self._to_loggers({"train_step/loss": loss.item(), "train_step/err": err.item(), "train_step/lr": lr})

    def _to_loggers(self, metrics: dict[str, float]) -> None:
        """Under the number of optimizer steps done; Lightning itself would count from 0 here and from 1 there."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)


class Sums:
    """Loss, errors and images so far, summed on the device: nothing waits for it until ``means``."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.errors: Tensor | float = 0.0
        self.images = 0

    def add(self, mean_loss: Tensor, errors: Tensor, images: int) -> None:
        self.loss = self.loss + mean_loss.detach().float() * images
        self.errors = self.errors + errors
        self.images += images

    def means(self) -> dict[str, float]:
        """``{"loss": ..., "err": ...}`` over the images since the last call; empty when there were none."""
        if not self.images:
            return {}
        means = {"loss": float(self.loss) / self.images, "err": float(self.errors) / self.images}
        self.__init__()  # type: ignore[misc]
        return means


def means_of(sums: list[Sums]) -> list[dict[str, float]]:
    """``Sums.means`` of each, over the images of all processes, which have to call it together."""
    if world()[1] == 1:
        return [one.means() for one in sums]
    totals = add_up([value for one in sums for value in (float(one.loss), float(one.errors), float(one.images))])
    for one, loss, errors, images in zip(sums, totals[::3], totals[1::3], totals[2::3], strict=True):
        one.loss, one.errors, one.images = loss, errors, int(images)
    return [one.means() for one in sums]


def count_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Images whose largest logit is not the label's class; for mixed labels (B, K), not the heavier class."""
    target = labels if labels.ndim == 1 else labels.argmax(1)
    return (logits.detach().argmax(1) != target).sum()


def num_train_of(trainer: L.Trainer) -> int:
    """m: the number of training images, from the data module or the length of the training set."""
    info = getattr(getattr(trainer, "datamodule", None), "info", None)
    if info is not None:
        return int(info.num_train)
    loader = trainer.train_dataloader
    try:
        return len(loader.dataset)  # type: ignore[union-attr]
    except (AttributeError, TypeError):  # no data set, or one without a length
        says = "cannot tell the number of training images, by which l2_lambda is divided: pass num_train="
        raise ValueError(says) from None


class _NetworkClassifier(ImageClassifier):
    """An ``ImageClassifier`` that builds its network from keyword arguments, so that a checkpoint can rebuild it."""

    network_name: str

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        optimizer: str = "momentum",
        lr: float = 0.1,
        l2_lambda: float = 0.0,
        schedule: str = "constant",
        label_smoothing: float = 0.0,
        num_train: int | None = None,
        **network_options: Any,
    ):
        network = build_network(
            self.network_name,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=(image_size, image_size),
            **network_options,
        )
        super().__init__(
            network,
            optim={"name": optimizer, "lr": lr, "l2_lambda": l2_lambda},
            schedule={"name": schedule},
            label_smoothing=label_smoothing,
            num_train=num_train,
        )
        self.save_hyperparameters()  # plain numbers and strings only: they load with weights_only=True


class PlainClassifier(_NetworkClassifier):
    """The plain network of He et al. 2015, sec. 4.2, ready for a Lightning ``Trainer``.

    Args:
        num_classes, in_channels, image_size: K, C and the side of the (square) images.
        optimizer, lr, l2_lambda, schedule: names and values as in a config's ``optim`` and ``schedule``.
        label_smoothing: in [0, 1).
        num_train: m for ``l2_lambda``; default: asked of the trainer.
        network_options: ``depth``, ``keep_prob``, ``norm``, ... as in a config's ``model``.
    """

    network_name = "plain"


class ResidualClassifier(_NetworkClassifier):
    """The residual network of He et al. 2015, sec. 4.2; arguments as ``PlainClassifier``, and ``shortcut``,
    ``preactivation``, ``zero_gamma``."""

    network_name = "residual"
