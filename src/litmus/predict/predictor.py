"""What a trained network says of image files: read ahead in threads, predicted in batches, nothing kept but answers."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from litmus.config import RunConfig
from litmus.data.decode import BadImage
from litmus.data.hashing import hash64
from litmus.data.preprocessing import Preprocessing
from litmus.devices import best_device
from litmus.diagnosis.uncertainty import entropy, spread
from litmus.errors import NonFinite, Problem, Refused, nearest
from litmus.predict.dropout import dropout_modules, thinned
from litmus.predict.paths import Listing, list_images, one_line
from litmus.predict.views import IDENTITY, View, choose_views
from litmus.tracking import StoredRun, find_run
from litmus.trained import Trained, load_trained
from litmus.weights import FILE

ACCELERATORS = ("auto", "cpu", "gpu", "mps")
SHORTLIST = 24
"""Images kept of each kind for the contact sheet: the least certain, and others drawn at random."""
_FILES_PER_TASK = 8


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of one file. Probabilities are averages when there were several views or passes."""

    path: Path
    predicted: str
    predicted_idx: int
    probability: float
    top: tuple[tuple[str, float], ...]
    """The k most probable classes with their probabilities, the first being ``predicted``."""
    entropy: float
    """Of the K probabilities, in nats: 0 when sure, log K at most."""
    label: str | None = None
    """The folder that the file lies in, if it is named like one of the classes."""
    std: float | None = None
    """With MC dropout: standard deviation over the passes of the predicted class's probability."""
    mutual_information: float | None = None
    """With MC dropout: what the passes disagree on, in nats; the rest of ``entropy`` is in every pass."""
    variation_ratio: float | None = None
    """With MC dropout: part of the passes that do not predict the class that most of them do."""
    view_std: float | None = None
    """With test-time augmentation: standard deviation over the views of the predicted class's probability."""
    view_disagreement: float | None = None
    """With test-time augmentation: part of the views that do not predict the class that most of them do."""


@dataclass(frozen=True)
class Settings:
    """How predictions were made."""

    top_k: int
    batch_size: int
    views: tuple[View, ...] = IDENTITY
    mc: int = 0
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class Predictions:
    """Predictions in the order of the files, and the files that could not be read with the reason."""

    run: StoredRun
    config: RunConfig
    preprocessing: Preprocessing
    weights: Path
    settings: Settings
    predictions: list[Prediction]
    skipped: list[tuple[Path, str]]
    passed_over: Counter[str]
    """Files of folders and patterns that were not tried: ``hidden``, and ``other`` than images by their suffix."""
    has_dropout: bool
    least_certain: list[int]
    """Positions in ``predictions`` of at most ``SHORTLIST``, the least probable prediction first."""
    drawn: list[int]
    """Of at most ``SHORTLIST`` others, drawn at random."""
    pixels: dict[int, NDArray[np.uint8]] = field(repr=False)
    """(C, H, W) of these, as the network read them."""

    @property
    def weights_sha256(self) -> str:
        with open(self.weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def counts(self) -> Counter[str]:
        """Images predicted of each class."""
        return Counter(prediction.predicted for prediction in self.predictions)

    @property
    def labelled(self) -> tuple[int, int]:
        """Wrong ones and all, of the files that lie in a folder named like a class."""
        known = [prediction for prediction in self.predictions if prediction.label is not None]
        return sum(prediction.label != prediction.predicted for prediction in known), len(known)


def predict_files(
    run: Trained | str,
    paths: Sequence[str | os.PathLike[str]],
    *,
    top_k: int | None = None,
    batch_size: int = 64,
    tta: str | None = None,
    mc: int | None = None,
    seed: int | None = None,
    accelerator: str | None = None,
    home: str = "mlruns",
    uri: str | None = None,
    problems: Sequence[Problem] = (),
    progress: Callable[[int], Any] | None = None,
) -> Predictions:
    """Predict image files with a run's weights; the run's data set is not needed.

    Args:
        run: what ``load_trained`` gave, or what ``litmus test`` takes: an id, a prefix of it, a name, ``latest``.
        paths: files, folders (searched at any depth) and glob patterns.
        top_k: classes listed for each image; default: 3, or all when there are fewer.
        batch_size: images at once; changes no prediction but for rounding.
        tta: views to average over: ``auto``, as the run was trained, or some of hflip, vflip, shift, with commas.
        mc: passes of Monte Carlo dropout, 2 or more (see ``litmus.predict.dropout``).
        seed: of its masks; default: 0. The same seed gives the same numbers.
        accelerator: auto, cpu, gpu or mps; default: the run's own.
        home, uri: where the run is looked for.
        problems: what a caller has found wrong already, to be refused together with what is found here.
        progress: called with the number of all files, then after each batch with the number done in it.

    Raises:
        Refused: all that is wrong with the arguments; or no file at all could be read, with each reason.
        NonFinite: the weights give no probabilities.
    """
    listing, found = list_images(paths)
    found = [*problems, *found]
    try:
        trained = run if isinstance(run, Trained) else load_trained(find_run(run, home=home, uri=uri))
    except Refused as refused:
        raise Refused([*refused.problems, *found], source="predict") from None
    settings, wrong = _settings(trained, top_k, batch_size, tta, mc, seed, accelerator)
    if found or wrong:
        raise Refused([*found, *wrong], source="predict")
    return _predict(trained, listing, settings, progress or (lambda done: None))


def _settings(
    trained: Trained,
    top_k: int | None,
    batch_size: int,
    tta: str | None,
    mc: int | None,
    seed: int | None,
    accelerator: str | None,
) -> tuple[Settings, list[Problem]]:
    config, reads = trained.config, trained.preprocessing
    found: list[Problem] = []
    if top_k is not None and not 1 <= top_k <= reads.num_classes:
        found.append(Problem("--top-k", f"must be 1 to {reads.num_classes}, the classes of the run", top_k))
    if batch_size < 1:
        found.append(Problem("--batch-size", "must be >= 1", batch_size))
    views, wrong = choose_views(tta, config, reads.image_size) if tta is not None else (IDENTITY, [])
    found += wrong
    found += _dropout_problems(trained, mc, seed)
    accelerator = config.train.accelerator if accelerator is None else accelerator
    found += _accelerator_problems(accelerator)
    settings = Settings(
        top_k=top_k or min(3, reads.num_classes),
        batch_size=batch_size,
        views=views,
        mc=mc or 0,
        seed=seed or 0,
        device=best_device(accelerator).type,
        bf16=config.train.precision == "bf16-mixed",
        channels_last=config.train.channels_last,
    )
    return settings, found


def _dropout_problems(trained: Trained, mc: int | None, seed: int | None) -> list[Problem]:
    if mc is None:
        return [Problem("--seed", "does nothing without --mc", seed)] if seed is not None else []
    found = []
    if mc < 2:
        found.append(Problem("--mc", "must be >= 2: one pass has no spread", mc))
    if seed is not None and seed < 0:
        found.append(Problem("--seed", "must be >= 0", seed))
    try:
        if not dropout_modules(trained.network):
            model = trained.config.model
            keys = [f"model.{key}" for key in type(model).model_fields if key.endswith("keep_prob")]
            how = f": train with {' or '.join(keys)} below 1" if keys else ""
            found.append(Problem("--mc", f"the run's network drops nothing, every pass would be the same{how}", mc))
    except ValueError as error:
        found.append(Problem("--mc", str(error), mc))
    return found


def _accelerator_problems(accelerator: str) -> list[Problem]:
    key = "--accelerator"
    if accelerator not in ACCELERATORS:
        return [Problem(key, f"is one of {', '.join(ACCELERATORS)}; {nearest(accelerator, ACCELERATORS)}", accelerator)]
    if accelerator == "gpu" and not torch.cuda.is_available():
        return [Problem(key, "this machine has no GPU that torch can use; use --accelerator cpu", accelerator)]
    if accelerator == "mps" and not torch.backends.mps.is_available():
        return [Problem(key, "this machine has no Apple GPU; use --accelerator cpu", accelerator)]
    return []


def _predict(trained: Trained, listing: Listing, settings: Settings, progress: Callable[[int], Any]) -> Predictions:
    reads = trained.preprocessing
    network = trained.network.to(settings.device)
    names = reads.class_names
    predictions: list[Prediction] = []
    skipped: list[tuple[Path, str]] = []
    shortlist = _Shortlist()
    label_of = _folder_labels(names)
    progress(len(listing.files))
    with _quiet_pil(), closing(_batches(listing.files, reads, settings.batch_size)) as batches:
        for batch in batches:
            skipped += batch.skipped
            if batch.paths:
                answers = _Answers.of(network, batch.images, reads, settings)
                answers.check(batch.paths)
                shortlist.add(len(predictions), answers.probability, batch.images)
                predictions += answers.predictions(batch.paths, names, settings.top_k, label_of)
            progress(len(batch.paths) + len(batch.skipped))
    if not predictions:
        reasons = [Problem(one_line(path), reason) for path, reason in skipped[:20]]
        more = f"; the first {len(reasons)}" if len(skipped) > len(reasons) else ""
        raise Refused(reasons, source=f"predict: none of {len(skipped)} files could be read{more}; input")
    least_certain, drawn = shortlist.chosen()
    return Predictions(
        run=trained.run,
        config=trained.config,
        preprocessing=reads,
        weights=trained.run.artifact(FILE),
        settings=settings,
        predictions=predictions,
        skipped=skipped,
        passed_over=listing.passed_over,
        has_dropout=bool(_dropout_or_none(network)),
        least_certain=least_certain,
        drawn=drawn,
        pixels={position: shortlist.pixels[position] for position in (*least_certain, *drawn)},
    )


def _dropout_or_none(network: nn.Module) -> list[Any]:
    try:
        return dropout_modules(network)
    except ValueError:
        return []


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    paths: list[Path]
    images: Tensor
    """(B, C, H, W) uint8."""
    skipped: list[tuple[Path, str]]


_Read = list[tuple[Path, NDArray[np.uint8] | str]]


def _batches(files: Sequence[Path], reads: Preprocessing, batch_size: int) -> Generator[_Batch, None, None]:
    """Batches of decoded images in the order of ``files``; what cannot be read is in its place among ``skipped``."""
    paths: list[Path] = []
    images: list[NDArray[np.uint8]] = []
    skipped: list[tuple[Path, str]] = []

    def batch() -> _Batch:
        stacked = np.stack(images) if images else np.empty((0, reads.channels, *reads.image_size), np.uint8)
        return _Batch(paths, torch.from_numpy(stacked), skipped)

    for path, pixels in _decoded(files, reads, ahead=2 * batch_size):
        if isinstance(pixels, str):
            skipped.append((path, pixels))
        else:
            paths.append(path)
            images.append(pixels)
        if len(paths) + len(skipped) == batch_size:
            yield batch()
            paths, images, skipped = [], [], []
    if paths or skipped:
        yield batch()


def _decoded(
    files: Sequence[Path], reads: Preprocessing, *, ahead: int
) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
    """Pixels, or the reason why there are none, of each file in order, from threads that are ``ahead`` files before."""

    def work(chunk: Sequence[Path]) -> _Read:
        return [(path, _read(path, reads)) for path in chunk]

    chunks = (files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK))
    pool = ThreadPoolExecutor(num_threads(), thread_name_prefix="decode")
    under_way: deque[Future[_Read]] = deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(work, chunk))
            if len(under_way) * _FILES_PER_TASK > ahead + num_threads() * _FILES_PER_TASK:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _quiet_pil() -> Iterator[None]:
    """Without PIL's warnings of odd files: what matters is whether they can be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _read(path: Path, reads: Preprocessing) -> NDArray[np.uint8] | str:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write
            return "is neither a file nor a folder"
        return reads.decode(path)
    except (BadImage, OSError) as bad:
        return str(bad)


def num_threads() -> int:
    """Threads that decode: PIL lets go of the interpreter while it does."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


# --- predicting -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def probabilities(
    network: nn.Module, images_BCHW: Tensor, reads: Preprocessing, settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(max(mc, 1), B, K) of every pass, averaged over the views, and (V, B, K) of every view, over the passes.

    Each image is read and each logit computed as ``evaluation.evaluate`` does it; softmax and averages in float64.
    """
    device = torch.device(settings.device)
    dtype = next(network.parameters()).dtype
    images = images_BCHW.to(device)
    seen = [
        reads.normalise(view(images), channels_last=settings.channels_last).to(dtype=dtype) for view in settings.views
    ]
    by_pass = []
    by_view: Any = 0.0
    for number in range(max(settings.mc, 1)):
        dropout = thinned(network, seed=settings.seed, number=number) if settings.mc else nullcontext()
        autocast = torch.autocast(device.type, dtype=torch.bfloat16) if settings.bf16 else nullcontext()
        with dropout, autocast:
            logits = torch.stack([network(view).float() for view in seen]).cpu()
        table = logits.double().softmax(-1).numpy()
        by_pass.append(table.mean(0))
        by_view = by_view + table
    return np.stack(by_pass), by_view / len(by_pass)


@dataclass(frozen=True)
class _Answers:
    """Of one batch: the averages (B, K), the predicted class's probability (B,), and further columns by their name."""

    mean: NDArray[np.float64]
    probability: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, reads: Preprocessing, settings: Settings) -> _Answers:
        by_pass, by_view = probabilities(network, images, reads, settings)
        mean = by_pass.mean(0)
        columns = {"entropy": entropy(mean)}
        finite = bool(np.isfinite(mean).all())
        if settings.mc and finite:
            over_passes = spread(by_pass)
            columns["std"] = over_passes.std
            columns["mutual_information"] = over_passes.mutual_information
            columns["variation_ratio"] = over_passes.variation_ratio
        if len(settings.views) > 1 and finite:
            over_views = spread(by_view)
            columns["view_std"] = over_views.std
            columns["view_disagreement"] = over_views.variation_ratio
        return cls(mean, mean.max(1), columns)

    def check(self, paths: Sequence[Path]) -> None:
        bad = np.flatnonzero(~np.isfinite(self.mean).all(1))
        if len(bad):
            raise NonFinite(f"the network's output for {one_line(paths[bad[0]])} is not finite: its weights are no use")

    def predictions(
        self, paths: Sequence[Path], names: Sequence[str], top_k: int, label_of: Callable[[Path], str | None]
    ) -> list[Prediction]:
        order = np.argsort(-self.mean, axis=1, kind="stable")[:, :top_k]
        rows = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        return [
            Prediction(
                path=path,
                predicted=names[ranked[0]],
                predicted_idx=ranked[0],
                probability=float(chances[ranked[0]]),
                top=tuple((names[idx], float(chances[idx])) for idx in ranked),
                label=label_of(path),
                **dict(zip(self.columns, row, strict=True)),
            )
            for path, ranked, chances, row in zip(paths, order.tolist(), self.mean, rows, strict=True)
        ]


def _folder_labels(class_names: Sequence[str]) -> Callable[[Path], str | None]:
    known = set(class_names)
    folders: dict[Path, str] = {}

    def label_of(path: Path) -> str | None:
        folder = path.parent
        if folder not in folders:
            folders[folder] = folder.resolve().name
        return folders[folder] if folders[folder] in known else None

    return label_of


class _Shortlist:
    """The images for a contact sheet, out of a stream of which the rest is let go."""

    def __init__(self) -> None:
        self.pixels: dict[int, NDArray[np.uint8]] = {}
        self._probability: dict[int, float] = {}
        self._lot: dict[int, int] = {}

    def add(self, start: int, probability: NDArray[np.float64], images_BCHW: Tensor) -> None:
        positions = range(start, start + len(probability))
        self._probability.update(zip(positions, probability.tolist(), strict=True))
        self._lot.update(zip(positions, hash64("contact sheet", np.array(positions)).tolist(), strict=True))
        self.pixels.update(zip(positions, images_BCHW.numpy(), strict=True))
        least, by_lot = self._ranked()
        kept = {*least[:SHORTLIST], *by_lot[: 2 * SHORTLIST]}
        for position in self.pixels.keys() - kept:
            del self.pixels[position], self._probability[position], self._lot[position]
        for position in self.pixels.keys() & set(positions):
            self.pixels[position] = self.pixels[position].copy()  # not a view that holds the whole batch

    def chosen(self) -> tuple[list[int], list[int]]:
        """The least certain, and of the others those that the lot fell on."""
        least, by_lot = self._ranked()
        least = least[:SHORTLIST]
        drawn = [position for position in by_lot if position not in set(least)][:SHORTLIST]
        return least, sorted(drawn, key=lambda position: (self._probability[position], position))

    def _ranked(self) -> tuple[list[int], list[int]]:
        probability, lot = self._probability, self._lot
        return (
            sorted(self.pixels, key=lambda position: (probability[position], position)),
            sorted(self.pixels, key=lambda position: (lot[position], position)),
        )
