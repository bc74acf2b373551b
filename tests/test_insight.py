"""A closer look at one run: its files, its numbers against their sources, and networks of every kind."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from litmus.config import load_config
from litmus.data.datamodule import ImageDataModule
from litmus.evaluation import Evaluation, evaluate
from litmus.experiment import eval_batches, run
from litmus.insight import make_insight
from litmus.networks import build_network
from litmus.tracking import find_run

CPU = torch.device("cpu")
PICTURES = ["reliability", "top_losses", "confused_pairs", "grad_cam", "embedding"]


def trained(data, name="residual", **options):
    """A network that was trained for a few steps: some right, some wrong."""
    torch.manual_seed(0)
    info = data.prepare()
    network = build_network(
        name, in_channels=info.channels, num_classes=info.num_classes, image_size=info.image_size, **options
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for images, labels, _ in eval_batches(data, "train_eval", CPU):
        for x, y in zip(images.split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network, evaluate(network, eval_batches(data, "test", CPU), device=CPU)


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    data = ImageDataModule("digits")
    network, seen = trained(data, depth=8, width=8)
    network.train()
    state = torch.get_rng_state()
    insight = make_insight(network, data, seen, tmp_path_factory.mktemp("run"), device=CPU)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
    assert network.training
    return insight, network, data, seen


def test_every_picture_and_table_is_made(looked):
    insight, *_ = looked
    assert [path.stem for path in insight.pictures] == PICTURES
    assert {path.parent.name for path in insight.pictures} == {"pictures"}
    assert [path.name for path in insight.tables] == ["insight.json", "top_losses.csv"]
    assert all(path.stat().st_size > 500 for path in (*insight.pictures, *insight.tables))


def test_the_numbers_are_those_of_the_evaluation(looked):
    insight, _, _, seen = looked
    assert set(insight.metrics) == {"test/ece", "test/brier", "test/knn_err"}
    brier = (seen.probabilities - torch.nn.functional.one_hot(seen.labels, 10)).square().sum(1).mean()
    assert insight.metrics["test/brier"] == pytest.approx(brier.item())
    table = json.loads(insight.tables[0].read_text())
    assert table["calibration"]["nll"] == pytest.approx(seen.loss)
    assert table["calibration"]["accuracy"] == pytest.approx(1 - seen.err)
    assert sum(one["count"] for one in table["calibration"]["bins"]) == seen.num_images == 359
    assert table["knn"] == {"neighbours": 5, "err": insight.metrics["test/knn_err"], "num_images": 359}
    assert table["grad_cam"] == "pictures/grad_cam.png"


def test_the_listed_losses_name_images_whose_loss_it_is(looked):
    insight, network, data, _ = looked
    with insight.tables[1].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    for row in (rows[0], rows[150]):
        idx = torch.tensor([int(row["image"])])
        batch = data.to_batch(data.loader("test").dataset[idx])
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(network.eval()(batch.images), batch.labels).item()
        assert loss == pytest.approx(float(row["loss"]), abs=1e-4)
        assert data.info.class_names[int(batch.labels)] == row["label"]


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [("mlp", {"width": 16}, 8), ("timm", {"backbone": "test_vit"}, 32), ("timm", {"backbone": "test_resnet"}, 32)],
    ids=["mlp", "vision transformer", "timm resnet"],
)
def test_networks_of_other_kinds(tmp_path, name, options, side):
    data = ImageDataModule("synthetic", num_images=120, num_classes=3, image_size=side, channels=3)
    network, seen = trained(data, name, **options)
    insight = make_insight(network, data, seen, tmp_path, device=CPU)
    made = [path.stem for path in insight.pictures]
    if name == "mlp":
        assert "grad_cam" not in made
        assert "grad-cam    none: no layer gives maps over the image of more than one place" in insight.lines
        assert json.loads(insight.tables[0].read_text())["grad_cam"].startswith("no layer")
    else:
        assert "grad_cam" in made
        assert not any("grad-cam" in line for line in insight.lines)


def test_a_network_that_is_never_wrong_has_no_confused_pairs(tmp_path):
    data = ImageDataModule("digits")
    info, idx = data.prepare(), data.indices("test")[:12]
    labels = data.images("test").labels[idx]
    seen = Evaluation(9.0 * torch.nn.functional.one_hot(labels, 10).float(), labels, idx)
    network = build_network("plain", in_channels=1, num_classes=10, image_size=info.image_size, depth=8, width=4)
    insight = make_insight(network, data, seen, tmp_path, device=CPU)
    assert [path.stem for path in insight.pictures] == [name for name in PICTURES if name != "confused_pairs"]


def test_a_single_image_is_enough(tmp_path):
    data = ImageDataModule("digits")
    data.prepare()
    idx = data.indices("test")[:1]
    seen = Evaluation(torch.eye(10)[:1], data.images("test").labels[idx], idx)
    network = build_network("mlp", in_channels=1, num_classes=10, image_size=(8, 8))
    insight = make_insight(network, data, seen, tmp_path, device=CPU)
    assert "test/knn_err" not in insight.metrics
    assert "embedding" not in [path.stem for path in insight.pictures]


def test_images_from_files_are_named_by_their_files(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{name}{i:02d}.png")
    data = ImageDataModule("image_folder", path=tmp_path / "images", root=tmp_path, batch_size=4)
    network, seen = trained(data, "mlp", width=4)
    insight = make_insight(network, data, seen, tmp_path / "run_dir_of_insight", device=CPU)
    with insight.tables[1].open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["image"] == str(tmp_path / "images" / row["label"] / row["image"].rsplit("/", 1)[1])


def test_a_run_that_asks_for_insight_keeps_it_in_its_record(tmp_path):
    said: list[str] = []
    overrides = ["model.depth=8", "model.width=4", "train.epochs=1", "insight=true", "tracking.offline=true"]
    quiet = ["tracking.system_metrics=false", "train.accelerator=cpu", f"tracking.home={tmp_path}"]
    result = run(load_config([], [*overrides, *quiet]), say=said.append)
    stored = find_run(result.run.uid, home=tmp_path)
    assert {*(f"pictures/{name}.png" for name in PICTURES), "insight.json", "top_losses.csv"} <= set(stored.artifacts())
    assert stored.metrics["test/ece"] == result.insight.metrics["test/ece"]
    text = "\n".join(said)
    for path in result.pictures:
        assert f"picture  {path}" in text
    assert f"table    {result.run.dir}/top_losses.csv" in text
    assert "ECE" in text


def test_suspect_labels_are_listed_with_their_images_and_drawn(tmp_path):
    data = ImageDataModule("digits", num_train=300)
    network, seen = trained(data, "mlp", depth=2, width=32)
    truth = evaluate(network, eval_batches(data, "train_eval", CPU), device=CPU)
    labels = truth.labels.clone()
    labels[:3] = (labels[:3] + 1) % 10  # the set's own labels are right: here three are said to be others
    twisted = Evaluation(10 * torch.nn.functional.one_hot(truth.labels, 10).float(), labels, truth.idx)
    insight = make_insight(network, data, seen, tmp_path, device=CPU, trained_on=twisted)
    with (tmp_path / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["image"]) for row in rows} == set(truth.idx[:3].tolist())
    named = {int(row["image"]): row for row in rows}
    for k in range(3):
        row = named[int(truth.idx[k])]
        assert (int(row["label"]), int(row["suggested"])) == (int(labels[k]), int(truth.labels[k]))
        assert float(row["probability"]) > 0.99 > 0.01 > float(row["probability_of_label"])
    assert insight.pictures[-1] == tmp_path / "pictures" / "suspects.png"
    assert "suspects    3 of 300 training labels; the first: image" in insight.lines[-1]

    clean = Evaluation(twisted.logits, truth.labels, truth.idx)
    insight = make_insight(network, data, seen, tmp_path / "clean", device=CPU, trained_on=clean)
    assert insight.lines[-1] == "suspects    none of 300 training labels is contradicted with confidence"
    assert insight.pictures[-1].name != "suspects.png"
    assert (tmp_path / "clean" / "suspects.csv").read_text().count("\n") == 1
