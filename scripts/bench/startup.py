"""How long a person waits: help, a refused config, and the first training step, each as a whole process.

    python scripts/bench/startup.py

The peer of the first step is a bare script that imports torch and lightning and trains the same network on the same
images. Interleaved, medians of whole processes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LITMUS = [sys.executable, "-m", "litmus.cli"]
BARE = """
import lightning as L, torch, torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
data = torch.utils.data.TensorDataset(images, torch.tensor(digits.target))
trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
trainer.fit(Net(), torch.utils.data.DataLoader(data, batch_size=128))
"""
FIRST_STEP = """
import sys
import litmus.classifier
step = litmus.classifier.ImageClassifier.training_step
def first(self, batch, batch_idx):
    step(self, batch, batch_idx)
    raise SystemExit(0)
litmus.classifier.ImageClassifier.training_step = first
from litmus.cli import main
main(["fit", "model.name=mlp", "model.depth=2", "train.accelerator=cpu", f"tracking.home={sys.argv[1]}"])
"""


def wall(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        bare, first = Path(home) / "bare.py", Path(home) / "first.py"
        bare.write_text(BARE)
        first.write_text(FIRST_STEP)
        commands = {
            "litmus --help": [*LITMUS, "--help"],
            "a refused config": [*LITMUS, "fit", "model.depht=20"],
            "first step, bare script": [sys.executable, str(bare)],
            "first step, litmus fit": [sys.executable, str(first), home],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):  # the first round warms the file cache
            for name, argv in commands.items():
                seconds = wall(argv)
                if turn:
                    times[name].append(seconds)
    print(f"{'whole process, median of ' + str(rounds):<36}{'seconds':>9}{'target':>9}")
    for name, target in (("litmus --help", "0.5"), ("a refused config", "0.5")):
        print(f"{name:<36}{statistics.median(times[name]):>9.2f}{'<= ' + target:>9}")
    names = ("first step, bare script", "first step, litmus fit")
    peer, ours = (statistics.median(times[name]) for name in names)
    for name, seconds in zip(names, (peer, ours), strict=True):
        print(f"{name:<36}{seconds:>9.2f}")
    pairs = [b / a for a, b in zip(*(times[name] for name in names), strict=True)]
    print(f"{'litmus / bare, median of pairs':<36}{statistics.median(pairs):>9.2f}")


if __name__ == "__main__":
    main()
