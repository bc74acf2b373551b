"""What `litmus fit` costs per training step, beside a bare loop over the same batches.

    python scripts/bench/step.py [--quick] [--accelerator gpu]

The bare loop gathers the same uint8 batch, normalises it, and does forward, loss, backward and step: no accuracy, no
logging, no progress bar. `litmus fit` does all of these, by the very callbacks, logger and trainer of a run. Both run
in one process, turn about (a bare epoch before each epoch of the run); the ratio is the median over pairs. The control
is the bare loop against itself.

The second table is what makes a run safe: the finite guard, the look for signals between two steps, the clock of the
saves. Epochs with and without them alternate within one run, and a save is timed by itself.

The last table is ResNet-20 in fp32 against channels_last and bf16-mixed: time of a step, and the test error on digits.
"""

import argparse
import io
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from litmus.callbacks import BATCH_HOOKS, FiniteGuard, LastCheckpoint
from litmus.checkpoints import target
from litmus.config import load_config
from litmus.data.batch import Batch
from litmus.devices import best_device
from litmus.experiment import (
    checked_data,
    make_callbacks,
    make_classifier,
    make_network,
    make_trainer,
    quiet_libraries,
    run,
    start_tracking,
)
from litmus.optim import build_optimizer
from litmus.stopping import Signals

IMAGES = ["data.name=synthetic", "data.val_fraction=0.01", "data.test_fraction=0.01", "data.train_eval_size=10"]


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class BareLoop:
    """A plain training loop over the run's own batches."""

    def __init__(self, config: Any, data: Any):
        torch.manual_seed(0)
        self.device = best_device(config.train.accelerator)
        self.network = make_network(config, data.info).to(self.device)
        self.optimizer = build_optimizer(self.network, num_train=data.info.num_train, **config.optim.model_dump())
        self.data, self.loader = data, data.loader("train")
        if self.device.type == "cuda":
            self.loader = DataLoader(self.loader.dataset, None, sampler=self.loader.sampler, pin_memory=True)

    def epoch(self) -> float:
        """Seconds of one epoch."""
        self.network.train()
        started = now(self.device)
        for batch in self.loader:
            on_device = Batch(*(column.to(self.device, non_blocking=True) for column in batch))
            images, labels, _ = self.data.to_batch(on_device)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.network(images), labels)
            loss.backward()
            self.optimizer.step()
        return now(self.device) - started


class TurnAbout(L.Callback):
    """Before each epoch of the run, two epochs of the bare loop; times all three."""

    def __init__(self, bare: BareLoop):
        self.bare = bare
        self.rows: list[tuple[float, float, float]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first, self.second = self.bare.epoch(), self.bare.epoch()
        self.started = now(self.bare.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows.append((self.first, self.second, now(self.bare.device) - self.started))


def steps_of(overrides: list[str], rounds: int) -> tuple[float, float, float, float]:
    """(bare step in us, litmus step in us, litmus / bare, bare / bare), medians over ``rounds`` epochs."""
    with tempfile.TemporaryDirectory() as home, quiet_libraries(), redirect_stdout(io.StringIO()):
        config = load_config([], [*IMAGES, *overrides, f"train.epochs={rounds + 1}", f"tracking.home={home}"])
        data = checked_data(config)
        with start_tracking(config, data.info, kind="bench") as tracked:
            turn = TurnAbout(BareLoop(config, data))
            classifier = make_classifier(config, data)
            make_trainer(config, tracked, [turn, *make_callbacks(config, tracked.dir, data, classifier.network)]).fit(
                classifier, datamodule=data
            )
    rows, steps = turn.rows[1:], len(data.loader("train"))  # the first epoch warms everything up
    bare = statistics.median(first for first, _, _ in rows) / steps
    ours = statistics.median(ours for _, _, ours in rows) / steps
    ratio = statistics.median(2 * ours / (first + second) for first, second, ours in rows)
    control = statistics.median(second / first for first, second, _ in rows)
    return bare * 1e6, ours * 1e6, ratio, control


class Alternate(L.Callback):
    """Takes ``callbacks``' hooks of a batch away in every second epoch; times the epochs of both kinds."""

    def __init__(self, callbacks: list[L.Callback]):
        hooks = [(callback, hook) for callback in callbacks for hook in BATCH_HOOKS]
        self.hooks = [(callback, hook) for callback, hook in hooks if getattr(callback, hook) is not None]
        self.times: dict[bool, list[float]] = {True: [], False: []}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on = trainer.current_epoch % 2 == 0
        for callback, hook in self.hooks:
            if self.on:
                callback.__dict__.pop(hook, None)
            else:
                setattr(callback, hook, None)
        self.started = now(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.times[self.on].append(now(pl_module.device) - self.started)


def safety_cost(overrides: list[str], rounds: int) -> tuple[float, float, float]:
    """(step without in us, with / without as a median over pairs of epochs, a save in ms)."""
    with tempfile.TemporaryDirectory() as home, quiet_libraries(), redirect_stdout(io.StringIO()):
        config = load_config([], [*IMAGES, *overrides, f"train.epochs={2 * rounds + 2}", f"tracking.home={home}"])
        data = checked_data(config)
        with start_tracking(config, data.info, kind="bench") as tracked, Signals() as signals:
            classifier = make_classifier(config, data)
            callbacks = make_callbacks(config, tracked.dir, data, classifier.network, signals)
            safe = [one for one in callbacks if isinstance(one, FiniteGuard | LastCheckpoint)]
            turn = Alternate(safe)
            trainer = make_trainer(config, tracked, [turn, *callbacks])
            trainer.fit(classifier, datamodule=data)
            saves = []
            for _ in range(5):
                started = time.perf_counter()
                trainer.save_checkpoint(target(tracked.dir, "last", 0))
                saves.append(time.perf_counter() - started)
    steps = len(data.loader("train"))
    pairs = list(zip(turn.times[True][1:], turn.times[False][1:], strict=True))  # the first two warm everything up
    without = statistics.median(off for _, off in pairs) / steps
    return without * 1e6, statistics.median(on / off for on, off in pairs), statistics.median(saves) * 1e3


def bf16_time(rounds: int, device: torch.device) -> tuple[float, float, float]:
    """(fp32 step in ms, bf16 channels_last step in ms, ratio): ResNet-20, batch 128 of 32x32x3, interleaved."""
    from litmus.networks import build_network

    images, labels = torch.rand(128, 3, 32, 32, device=device), torch.randint(10, (128,), device=device)
    variants = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        network = build_network("residual", depth=20).to(device)
        pictures = images
        if bf16:
            network = network.to(memory_format=torch.channels_last)
            pictures = images.contiguous(memory_format=torch.channels_last)
        variants.append((network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), pictures, bf16))
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 2):
        for which, (network, optimizer, pictures, bf16) in enumerate(variants):
            started = now(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(network(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if turn > 1:
                times[which].append(now(device) - started)
    pairs = [fast / slow for slow, fast in zip(*times, strict=True)]
    return statistics.median(times[0]) * 1e3, statistics.median(times[1]) * 1e3, statistics.median(pairs)


def digits_errors(overrides: list[str], epochs: int) -> str:
    """Test errors of ResNet-20 on digits over three seeds."""
    found = []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as home, redirect_stdout(io.StringIO()):
            base = ["model.depth=20", "data.batch_size=64", f"train.epochs={epochs}", "schedule.name=one_cycle"]
            config = load_config([], [*base, *overrides, f"seed={seed}", f"tracking.home={home}"])
            found.append(run(config).evaluations["test"].err)
    return ", ".join(f"{err:.4f}" for err in found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    given = parser.parse_args()
    quick, device = given.quick, best_device(given.accelerator)
    IMAGES.append(f"train.accelerator={given.accelerator}")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}, batch 128\n")
    print(f"{'network':<28}{'bare us':>10}{'litmus us':>11}{'ratio':>8}{'target':>9}{'control':>9}")
    resnet = ["model.depth=20", "data.num_images=2650"]
    mlp = ["model.name=mlp", "model.depth=2", "data.image_size=28", "data.channels=1", "data.num_images=26200"]
    for name, overrides, goal, rounds in (
        ("residual, depth 20, 32x32x3", resnet, "<= 1.05", 4 if quick else 9),
        ("mlp 784-256-10", mlp, "<= 1.35", 8 if quick else 21),
    ):
        bare, ours, ratio, control = steps_of(overrides, rounds)
        print(f"{name:<28}{bare:>10.0f}{ours:>11.0f}{ratio:>8.3f}{goal:>9}{control:>9.3f}")
    print(f"\n{'guard, signals, saves':<28}{'step us':>10}{'':>11}{'ratio':>8}{'target':>9}{'a save':>9}")
    for name, overrides, goal, rounds in (
        ("residual, depth 20, 32x32x3", resnet, "<= 1.02", 4 if quick else 15),
        ("mlp 784-256-10", mlp, "", 8 if quick else 21),
    ):
        without, ratio, save = safety_cost(overrides, rounds)
        print(f"{name:<28}{without:>10.0f}{'':>11}{ratio:>8.3f}{goal:>9}{save:>6.0f} ms")
    slow, fast, ratio = bf16_time(8 if quick else 25, device)
    print(f"\n{'residual, depth 20':<28}{'fp32 ms':>10}{'bf16 ms':>11}{'ratio':>8}{'target':>9}")
    print(f"{'channels_last, bf16-mixed':<28}{slow:>10.1f}{fast:>11.1f}{ratio:>8.3f}{'<= 0.50':>9}")
    print("\ntest/err on digits, residual depth 20, seeds 0 to 2")
    epochs = 4 if quick else 15
    base = [f"train.accelerator={given.accelerator}"]
    half = [*base, "train.precision=bf16-mixed", "train.channels_last=true"]
    print(f"  fp32                      {digits_errors(base, epochs)}")
    print(f"  channels_last bf16-mixed  {digits_errors(half, epochs)}")


if __name__ == "__main__":
    main()
