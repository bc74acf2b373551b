"""A closer look at what a network answers: made on request, since it takes seconds that not every run is worth."""

from __future__ import annotations

import csv
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmus.data.batch import Batch
from litmus.data.datamodule import ImageDataModule
from litmus.diagnosis import (
    Calibration,
    TopLoss,
    confused_images,
    confusion_matrix,
    embed,
    knn_err,
    most_confused,
    pick_predictions,
    reliability,
    spread_over_classes,
    top_losses,
)
from litmus.diagnosis.embedding import MAX_POINTS, NEIGHBOURS
from litmus.diagnosis.suspects import Suspect, label_suspects
from litmus.evaluation import Evaluation
from litmus.networks import Network

MAX_FEATURES = 10_000
"""Distances between all pairs: more images would take minutes."""

SHOWN_LOSSES, LISTED_LOSSES = 32, 200
SHOWN_PAIRS = 6
_STEPS_BESIDES_FEATURES = 4

Step = Callable[[str], None]


@dataclass(frozen=True)
class Insight:
    """What a closer look found. ``metrics`` are ``<split>/name``."""

    pictures: list[Path]
    tables: list[Path]
    """``insight.json`` and ``top_losses.csv``."""
    metrics: dict[str, float]
    lines: list[str]
    """For a person to read."""


def make_insight(
    network: Network,
    data: ImageDataModule,
    seen: Evaluation,
    folder: Path,
    *,
    device: torch.device,
    split: str = "test",
    bf16: bool = False,
    trained_on: Evaluation | None = None,
) -> Insight:
    """Calibration, top losses, confused pairs, a map of the features and Grad-CAM of one evaluated split.

    Args:
        network: on ``device``; left as it was.
        data: where the images are.
        seen: what ``network`` says of ``split``, all of it or a part.
        folder: gets the tables; the pictures lie in its ``pictures``.
        split: whose images ``seen.idx`` are positions of.
        bf16: compute features as the evaluation was computed.
        trained_on: what it says of ``train_eval``, for the list of suspect labels.
    """
    from litmus.diagnosis import insight_plots as plots

    info, images, pictures = data.info, data.images(split), folder / "pictures"
    labels, predicted = seen.labels.numpy(), seen.predicted.numpy()
    chances = seen.probabilities.numpy()
    sure = chances.max(axis=1)
    matrix = confusion_matrix(labels, predicted, info.num_classes)
    chosen = spread_over_classes(labels, MAX_FEATURES)
    num_batches = -(-len(chosen) // data.eval_batch_size)

    def pixels(positions: NDArray[np.int64] | list[int]) -> Tensor:
        return images[seen.idx[torch.as_tensor(positions, dtype=torch.int64)]]

    with steps(num_batches + _STEPS_BESIDES_FEATURES, "insight") as step:
        step("calibration and losses")
        found = reliability(chances, labels)
        losses = top_losses(seen.logits, labels, LISTED_LOSSES)
        names = _image_names(images, seen.idx, losses)
        shown = losses[:SHOWN_LOSSES]
        made = [
            plots.reliability(found, pictures / "reliability.png", split=split),
            plots.top_losses(
                pixels([one.position for one in shown]),
                shown,
                [Path(name).stem if Path(name).suffix else f"#{name}" for name in names[:SHOWN_LOSSES]],
                info.class_names,
                pictures / "top_losses.png",
                split=split,
            ),
        ]

        step("confused pairs")
        rows = []
        for pair in most_confused(matrix, SHOWN_PAIRS):
            at = confused_images(labels, predicted, sure, pair)[: plots.COLUMNS]
            rows.append((pair, pixels(at), sure[at]))
        if rows:
            path = pictures / "confused_pairs.png"
            made.append(plots.confused_pairs(rows, matrix.sum(axis=1), info.class_names, path, split=split))

        step("Grad-CAM")
        cam, no_cam = _grad_cam(network, data, seen, pixels, pictures / "grad_cam.png", device)
        made += [cam] if cam else []

        features = _features(network, data, split, seen.idx[chosen], device, bf16, lambda: step("features")).numpy()
        err = knn_err(features, labels[chosen]) if len(chosen) > 1 else None
        step("map of the features")
        part = spread_over_classes(labels[chosen], MAX_POINTS)
        if err is not None:
            path = pictures / "embedding.png"
            made.append(
                plots.embedding(
                    embed(features[part]),
                    labels[chosen][part],
                    predicted[chosen][part],
                    info.class_names,
                    path,
                    knn_err=err,
                    head_err=float((labels != predicted)[chosen].mean()),
                    num_features=features.shape[1],
                    split=split,
                )
            )

    metrics = {f"{split}/ece": found.ece, f"{split}/brier": found.brier}
    if err is not None:
        metrics[f"{split}/knn_err"] = err
    tables = [
        _write_numbers(folder / "insight.json", split, found, err, len(chosen), no_cam),
        _write_losses(folder / "top_losses.csv", losses, names, info.class_names),
    ]
    lines = _lines(found, losses, names, info.class_names, err, seen.err, no_cam)
    if trained_on is not None:
        picture, table, line = _suspects(data, trained_on, folder)
        made, tables, lines = [*made, *picture], [*tables, table], [*lines, line]
    return Insight(made, tables, metrics, lines)


def _suspects(data: ImageDataModule, seen: Evaluation, folder: Path) -> tuple[list[Path], Path, str]:
    """``suspects.csv``, its picture where there are any, and a line: training labels that the network contradicts."""
    from litmus.diagnosis import plots

    found, names, images = (
        label_suspects(seen.probabilities, seen.labels),
        data.info.class_names,
        data.images("train_eval"),
    )
    files = [_name_of(images, int(seen.idx[one.position])) for one in found]
    table = folder / "suspects.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label", "suggested", "probability_of_label", "probability"])
        for one, name in zip(found, files, strict=True):
            numbers = [f"{value:.6g}" for value in (one.probability_of_label, one.probability)]
            rows.writerow([name, names[one.label], names[one.suggested], *numbers])
    if not found:
        return [], table, f"suspects    none of {seen.num_images:,} training labels is contradicted with confidence"
    shown = dict(enumerate(found[:SHOWN_LOSSES]))
    picture = plots.contact_sheet(
        {"": list(shown)},
        {k: images[seen.idx[one.position].reshape(1)][0].numpy() for k, one in shown.items()},
        {k: (one.suggested, one.probability) for k, one in shown.items()},
        {k: (f"labelled {names[one.label]}", f"{one.probability_of_label:.2f}") for k, one in shown.items()},
        names,
        folder / "pictures" / "suspects.png",
        title=f"{len(found):,} of {seen.num_images:,} training labels are contradicted with confidence",
        subtitle="what the network says, and its probability; beneath, the label: wrong labels, or hard images",
        wrong=list(shown),
    )
    first: Suspect = found[0]
    line = (
        f"suspects    {len(found):,} of {seen.num_images:,} training labels; the first: image {files[0]}, labelled "
        f"{names[first.label]}, {names[first.suggested]} at {first.probability:.3f}"
    )
    return [picture], table, line


def _features(
    network: Network,
    data: ImageDataModule,
    split: str,
    idx: Tensor,
    device: torch.device,
    bf16: bool,
    step: Callable[[], None],
) -> Tensor:
    """``(len(idx), F)`` float32 on the CPU: what the head reads of these images, in evaluation mode."""
    images = data.images(split)
    was_training = network.training
    network.eval()
    autocast = torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
    dtype = next(network.parameters()).dtype
    parts = []
    try:
        with torch.inference_mode(), autocast:
            for chunk in idx.split(data.eval_batch_size):
                batch = data.to_batch(Batch(images[chunk].to(device), images.labels[chunk], chunk))
                parts.append(network.features(batch.images.to(dtype=dtype)).float().cpu())
                step()
    finally:
        network.train(was_training)
    return torch.cat(parts)


def _grad_cam(
    network: Network,
    data: ImageDataModule,
    seen: Evaluation,
    pixels: Callable[[NDArray[np.int64]], Tensor],
    path: Path,
    device: torch.device,
) -> tuple[Path | None, str]:
    """The picture, or why there is none."""
    from litmus.diagnosis import insight_plots as plots
    from litmus.diagnosis.gradcam import NoSpatialMaps, grad_cam

    sure = seen.probabilities.max(1).values
    chosen = np.concatenate(pick_predictions(seen.labels, seen.predicted, sure, mistakes=6, successes=8))
    images, at = pixels(chosen), torch.from_numpy(chosen)
    labels, predicted = seen.labels[at], seen.predicted[at]
    batch = data.to_batch(Batch(images.to(device), labels, at)).images.to(next(network.parameters()).dtype)
    try:
        answer = grad_cam(network, batch, predicted.to(device))
        truth = grad_cam(network, batch, labels.to(device))
    except NoSpatialMaps as reason:
        return None, str(reason)
    path = plots.grad_cam(
        images,
        labels,
        predicted,
        seen.probabilities[at],
        answer.maps_BHW,
        truth.maps_BHW,
        data.info.class_names,
        path,
        grid=answer.grid,
        layer=answer.layer,
    )
    return path, ""


def _image_names(images: Any, idx: Tensor, losses: list[TopLoss]) -> list[str]:
    """The file of each image where there are files, else its position in the data set."""
    return [_name_of(images, int(idx[one.position])) for one in losses]


def _name_of(images: Any, at: int) -> str:
    files = getattr(images, "files", None)
    return str(at) if files is None else str(files.base / files.names[at])


def _write_numbers(
    path: Path, split: str, found: Calibration, err: float | None, num_features: int, no_cam: str
) -> Path:
    bins = [
        {**asdict(one), "interval": list(one.interval)} if one.count else {"low": one.low, "high": one.high, "count": 0}
        for one in found.bins
    ]
    table = {
        "split": split,
        "calibration": {
            **asdict(found),
            "interval": list(found.interval),
            "bins": bins,
            "tendency": found.tendency,
        },
        "knn": {"neighbours": NEIGHBOURS, "err": err, "num_images": num_features},
        "grad_cam": no_cam or "pictures/grad_cam.png",
    }
    path.write_text(json.dumps(table, indent=1) + "\n")
    return path


def _write_losses(path: Path, losses: list[TopLoss], names: list[str], class_names: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "label", "predicted", "probability_of_label", "confidence", "loss"])
        for one, name in zip(losses, names, strict=True):
            numbers = [f"{value:.6g}" for value in (one.probability, one.confidence, one.loss)]
            table.writerow([name, class_names[one.label], class_names[one.predicted], *numbers])
    return path


def _lines(
    found: Calibration,
    losses: list[TopLoss],
    names: list[str],
    class_names: tuple[str, ...],
    err: float | None,
    head_err: float,
    no_cam: str,
) -> list[str]:
    worst = losses[0]
    lines = [
        *textwrap.wrap(f"confidence  {found.sentence}", 116, subsequent_indent=12 * " "),
        f"            ECE {found.ece:.4f} over {len(found.bins)} bins (by chance alone, calibrated: about "
        f"{found.ece_by_chance:.4f}); Brier score {found.brier:.4f}",
        f"top losses  mislabelled or hard, look at them; the largest, {worst.loss:.2f}: image {names[0]}, labelled "
        f"{class_names[worst.label]}, {class_names[worst.predicted]} at {worst.confidence:.3f}",
    ]
    if err is not None:
        lines.append(
            f"features    their {NEIGHBOURS} nearest neighbours err at {err:.4f}, the head on them at {head_err:.4f}"
        )
    if no_cam:
        lines.append(f"grad-cam    none: {no_cam}")
    return lines


@contextmanager
def steps(total: int, what: str) -> Iterator[Step]:
    """A bar on stderr if that is a terminal; each call names what comes next and counts what came before as done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        done = itertools.chain([0], itertools.repeat(1))
        yield lambda doing: bar.update(task, advance=next(done), description=f"{what}: {doing}")
