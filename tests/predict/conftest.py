"""Small runs on digits, made once, and their test images as files."""

from pathlib import Path

import pytest
from PIL import Image

from litmus.config import load_config
from litmus.data.datamodule import ImageDataModule
from litmus.experiment import run
from litmus.tracking import find_run
from litmus.trained import load_trained

FAST = [
    *("train.epochs=2", "tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"),
    "optim.lr=0.05",
]
RUNS = {
    "drops": [
        "model.depth=8",
        "model.width=4",
        "model.keep_prob=0.8",
        "augment.pad_crop=3",
        "model.head_keep_prob=0.7",
    ],
    "plain": ["model.name=mlp", "model.depth=2", "model.width=16"],
    "bf16": ["model.depth=8", "model.width=4", "train.precision=bf16-mixed", "train.channels_last=true"],
}


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> str:
    """Holds the runs of ``RUNS``, by their names."""
    folder = str(tmp_path_factory.mktemp("home"))
    for name, options in RUNS.items():
        run(load_config([], [*FAST, *options, f"name={name}", f"tracking.home={folder}"]), say=lambda line: None)
    return folder


@pytest.fixture(scope="session")
def trained(home):
    """``trained("drops")``: that run's network."""
    return lambda name: load_trained(find_run(name, home=home))


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The runs' test images: ``<class>/<position in the data set>.png``."""
    folder = tmp_path_factory.mktemp("digits")
    data = ImageDataModule("digits")
    for batch in data.loader("test"):
        for image, label, idx in zip(batch.images, batch.labels.tolist(), batch.idx.tolist(), strict=True):
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / str(label) / f"{idx}.png")
    return folder
