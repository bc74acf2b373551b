"""A transfer from end to end: ImageNet's weights, a folder of photographs, and what remains when the source is gone."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from litmus.commands import retest
from litmus.config import load_config
from litmus.data.decode import decode
from litmus.experiment import checked_data, make_classifier, run
from litmus.tracking import find_run
from litmus.weights import find_weights, follow_weights, read_weights

CONFIG = "configs/transfer_folder.yaml"
LOCAL = ["tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes: cuttings of two photographs."""
    folder, places = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")
        (folder / name).mkdir()
        for number in range(30):
            side = int(places.integers(90, 200))
            top, left = (int(places.integers(0, length - side)) for length in image.shape[:2])
            Image.fromarray(image[top : top + side, left : left + side]).save(folder / name / f"{number}.jpg")
    return folder


def test_a_folder_of_photographs_is_told_apart_on_imagenet_features(photographs, tmp_path):
    said: list[str] = []
    words = [f"data.path={photographs}", f"data.root={tmp_path}", f"tracking.home={tmp_path}/mlruns"]
    short = ["data.image_size=64", "train.epochs=12"]
    result = run(load_config([CONFIG], [*LOCAL, *words, *short]), say=said.append)
    assert "245 tensors by order from efficientnet-lite0-57934424.pth, not used: _fc.weight, _fc.bias" in said[0]
    assert result.evaluations["test"].err <= 1 / 12  # of 12 images
    assert result.info.mean == (0.5, 0.5, 0.5)
    assert result.saved is not None


def test_the_data_follow_the_backbone_to_224_pixels_in_colour(photographs, tmp_path):
    config = follow_weights(load_config([CONFIG], [f"data.path={photographs}", f"data.root={tmp_path}"]))
    assert (config.data.image_size, config.data.channels, config.data.mean) == (224, 3, (0.5, 0.5, 0.5))


def test_weights_put_by_order_know_a_palace_when_they_see_one(tmp_path):
    """Order, padding, epsilon, size, mean and deviation: were one of them wrong, the right class would not come out."""
    origin = find_weights(load_config([CONFIG], [f"data.path={tmp_path}"]))
    tensors, _ = read_weights(origin.file)
    model = timm.create_model("tf_efficientnet_lite0")
    named = [name for name in model.state_dict() if "num_batches" not in name]
    given = [value for name, value in tensors.items() if "num_batches" not in name]
    model.load_state_dict(dict(zip(named, given, strict=True)), strict=False)
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "china.png")
    pixels = torch.from_numpy(decode(tmp_path / "china.png", (224, 224), 3)).unsqueeze(0)
    with torch.inference_mode():
        top = model.eval()((pixels / 255 - 0.5) / 0.5)[0].topk(3).indices.tolist()
    assert top[0] == 698  # n03877845, palace


def test_a_run_is_tested_again_when_the_weights_it_began_with_are_gone(tmp_path):
    small = ["model.name=mlp", "model.depth=3", "model.width=16", "train.epochs=1", f"tracking.home={tmp_path}", *LOCAL]
    first = run(load_config([], small), say=lambda line: None)
    source = first.run.dir / "weights.safetensors"
    copy = Path(tmp_path / "source.safetensors")
    copy.write_bytes(source.read_bytes())
    second = run(load_config([], [*small, f"model.weights={copy}", "freeze.layers=body"]), say=lambda line: None)
    copy.unlink()
    said: list[str] = []
    retest(second.run.uid, home=str(tmp_path), uri=None, say=said.append)
    assert said[-1] == "the run reported the same"


def test_a_chain_of_runs_remembers_each_link(tmp_path):
    small = ["model.name=mlp", "model.depth=3", "model.width=16", "train.epochs=1", f"tracking.home={tmp_path}", *LOCAL]
    run(load_config([], [*small, "name=first"]), say=lambda line: None)
    config = follow_weights(load_config([], [*small, "name=second", "model.weights=run:first"]))
    network = make_classifier(config, checked_data(config)).network
    kept, _ = read_weights(find_run("first", home=tmp_path).artifact("weights.safetensors"))
    assert torch.equal(network.layers[0].before.linear.weight, kept["layers.0.before.linear.weight"])
    assert not torch.equal(network.head.weight, kept["head.weight"])
