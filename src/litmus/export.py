"""A trained network as files that run without Litmus, each checked against the network it came from."""

from __future__ import annotations

import mmap
import os
import shlex
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from litmus.config import RunConfig
from litmus.data.preprocessing import METADATA_KEY, Normalised, Preprocessing
from litmus.errors import Problem, Refused, nearest, refuse
from litmus.experiment import make_data, quiet_libraries
from litmus.paths import shown
from litmus.tracking import StoredRun, find_run
from litmus.tracking.models import SERVING_EXAMPLE, Registry, load_model, model_name_problem, save_model
from litmus.tracking.store import StoreTrouble
from litmus.trained import Trained, load_trained
from litmus.weights import FILE as WEIGHTS

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "mlflow": "mlflow_model"}
"""What each format is called on disk. The last is a folder, with the first in it."""
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "mlflow": ("onnx", "onnxscript", "onnxruntime", "mlflow")}

TOLERANCE = 1e-4
"""Largest difference of a logit that passes, times the largest logit where that is above 1."""
NUM_IMAGES = 256
SIZES = (1, 3, 64)
"""Batch sizes of the check. Traced with 2, a format that took that for the batch fails here."""
_MAX_ONNX_BYTES = 2_000_000_000  # of one protobuf file, less what the graph itself takes

Answer = Callable[[Tensor], NDArray[Any]]
"""Raw pixels (B, C, H, W) uint8 to logits or probabilities (B, K)."""


# --- writing ----------------------------------------------------------------------------------------------------------


def trace(model: nn.Module, example_BCHW: Tensor) -> ExportedProgram:
    """The program of a network in evaluation mode, for any batch size; dropout and stochastic depth are gone.

    ``example_BCHW`` has B > 1: torch takes a batch of one for a constant.
    """
    with torch.no_grad():
        program = torch.export.export(model, (example_BCHW,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # this machine's paths are nobody's business, and a third of a small file
    return program


def write_torch(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """A ``.pt2`` archive with ``metadata`` as its extra files."""
    torch.export.save(program, path, extra_files=dict(metadata))


def write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """One ONNX file with ``metadata`` as its metadata properties: ``images`` uint8 in, ``logits`` float32 out."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Of attention with a mask, the CPU's fused kernel has another memory layout than torch's decomposition for ONNX
    # expects (timm's vit_relpos: "Cannot view a tensor with shape ..."). ONNX is written in plain products anyway.
    with sdpa_kernel(SDPBackend.MATH):
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert written is not None
    written.model.metadata_props.update(metadata)
    written.save(path, external_data=False)


# --- asking -----------------------------------------------------------------------------------------------------------


def eager(trained: Trained) -> Answer:
    """The run's network as ``litmus test`` asks it, in float32 on the CPU."""

    @torch.inference_mode()
    def answer(images_BCHW: Tensor) -> NDArray[Any]:
        return trained.network(trained.preprocessing.normalise(images_BCHW)).numpy()

    return answer


def open_torch(path: Path) -> Answer:
    model = torch.export.load(path).module()

    @torch.inference_mode()
    def answer(images_BCHW: Tensor) -> NDArray[Any]:
        return model(images_BCHW).numpy()

    return answer


def open_onnx(path: Path) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as the network it is timed beside
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images_BCHW: session.run(["logits"], {"images": images_BCHW.numpy()})[0]


def onnx_of(path: Path) -> Path:
    """The ONNX file of a path of ours: itself, or the one in the MLflow model."""
    return path / "artifacts" / FILES["onnx"] if path.is_dir() else path


def open_mlflow(path: Path, class_names: Sequence[str]) -> Answer:
    predict = load_model(path)

    def answer(images_BCHW: Tensor) -> NDArray[Any]:
        rows = [row["probabilities"] for row in predict(images_BCHW.numpy())]
        return np.array([[row[name] for name in class_names] for row in rows])

    return answer


# --- checking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far two answers (N, K) to the same N images are apart.

    Args:
        difference: the largest, of any image and class; NaN if either has one.
        scale: the largest value expected, or 1 if that is below 1.
        same_class: images whose largest value is at the same class.
    """

    difference: float
    scale: float
    same_class: int
    num_images: int

    @classmethod
    def between(cls, expected_NK: NDArray[Any], found_NK: NDArray[Any]) -> Agreement:
        expected, found = expected_NK.astype(np.float64), found_NK.astype(np.float64)
        return cls(
            difference=float(np.abs(expected - found).max()),
            scale=max(1.0, float(np.abs(expected).max())),
            same_class=int((expected.argmax(1) == found.argmax(1)).sum()),
            num_images=len(expected),
        )

    @property
    def passes(self) -> bool:
        return self.difference <= TOLERANCE * self.scale  # of NaN: False


def ask(answer: Answer, images_BCHW: Tensor) -> NDArray[Any]:
    """Answers to all images, asked in batches of 1, of 3, and then of 64."""
    sizes, parts, start = iter(SIZES), [], 0
    size = SIZES[-1]
    while start < len(images_BCHW):
        size = next(sizes, size)
        parts.append(answer(images_BCHW[start : start + size]))
        start += size
    return np.concatenate(parts)


def softmax(logits_NK: NDArray[Any]) -> NDArray[Any]:
    return torch.from_numpy(logits_NK).double().softmax(1).numpy()


def median_ms(
    calls: Mapping[str, Callable[[], Any]], *, budget_sec: float = 1.0, max_rounds: int = 30
) -> dict[str, float]:
    """Median milliseconds of each call, taken in turns: one round to warm up, then as many as the budget allows."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    started = time.perf_counter()
    for _ in range(max_rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name].append(1e3 * (time.perf_counter() - began))
        if time.perf_counter() - started > budget_sec:
            break
    return {name: statistics.median(values) for name, values in found.items()}


@dataclass(frozen=True)
class Pictures:
    """Raw pixels (N, C, H, W) uint8 to check with, and where they come from."""

    images: Tensor
    where: str
    real: bool


def pictures_of(config: RunConfig, reads: Preprocessing, *, count: int = NUM_IMAGES) -> Pictures:
    """Images from all over the run's test split, or, where its data are not at hand, random pixels, and why."""
    data = config.data
    if "download" in type(data).model_fields:
        data = data.model_copy(update={"download": False})  # a check is no reason to fetch a data set
    try:
        module = make_data(config.model_copy(update={"data": data}))
        module.prepare()
        split = module.indices("test")
        images = module.images("test")[split[torch.linspace(0, len(split) - 1, min(count, len(split))).long()]]
        if images.shape[1:] == (reads.channels, *reads.image_size):
            if len(images) < SIZES[0] + SIZES[1]:
                images = images.repeat(SIZES[1] + 1, 1, 1, 1)
            return Pictures(images, f"{len(images)} images of {config.data.name}, test", real=True)
        why = f"{config.data.name} now has images of shape {'x'.join(map(str, images.shape[1:]))}"
    except Refused as refused:
        why = str(refused.problems[0])
    generator = torch.Generator().manual_seed(config.seed)
    shape = (count, reads.channels, *reads.image_size)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Pictures(pixels, f"{count} images of random pixels, as the run's data are not at hand ({why})", real=False)


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What is told of one format. Of the MLflow model, logits are its ONNX file's and probabilities what it answers."""

    format: str
    path: Path
    logits: Agreement
    probabilities: Agreement
    bytes: int


def export_run(
    reference: str,
    *,
    formats: Sequence[str] = (),
    out: Path | None = None,
    register: str | None = None,
    home: str,
    uri: str | None,
    say: Callable[[str], None] = print,
) -> bool:
    """Export a stored run; False if a format failed, and then nothing of that format is left.

    Raises:
        Refused: before anything is written.
    """
    wanted, problems = chosen_formats(formats, register)
    if register is not None and (problem := model_name_problem(register, "--register")):
        problems.append(problem)
    stored: StoredRun | None = None
    try:
        stored = find_run(reference, home=home, uri=uri)
        if WEIGHTS not in stored.artifacts():
            kind = f"a run of kind {stored.kind!r}, {stored.status}" if stored.kind else "not a run of Litmus"
            problems.append(Problem("run", f"is {kind}, and kept no weights; litmus runs lists the others", reference))
    except Refused as refused:
        problems += refused.problems
    folder = out or (stored.folder / "exports" if stored else None)
    if folder is not None:
        problems += folder_problems(folder, wanted, "--out" if out else str(folder))
    if stored is not None and not problems:
        with quiet_libraries():
            trained, problems = _loaded(stored, wanted)
    if problems:
        raise Refused(problems, source="export")
    assert stored is not None
    assert folder is not None
    registry = None if register is None else Registry.of(stored, where="--register", uri=uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unchecked = tempfile.TemporaryDirectory(dir=folder, prefix=".unchecked-")
    except OSError as error:
        raise refuse("--out", f"cannot be written: {error}", str(folder), source="export") from None
    with quiet_libraries(), unchecked as staging:
        with _busy("reading images"):
            pictures = pictures_of(trained.config, trained.preprocessing)
        for line in introduction(trained, pictures):
            say(line)
        rows, failures, answers = _write_and_check(trained, wanted, pictures, Path(staging))
        with _busy("timing"):
            times = _times(answers, pictures.images)
        rows = [_put(row, folder) for row in rows]
    say("")
    for line in table(rows, times):
        say(line)
    say(f"times are medians of calls in turns, on {torch.get_num_threads()} threads of this CPU")
    for row in rows:
        say(f"wrote    {shown(row.path)}")
    for format, why in failures.items():
        say(f"{format} failed, and no file of it was written: {why}")
    done = {row.format: row.path for row in rows}
    complete = not failures
    address = None
    if registry is not None:
        address = _register(registry, str(register), stored, done.get("mlflow"), say)
        complete &= address is not None
    for line in hints(done, trained.preprocessing, address):
        say(line)
    return complete


def chosen_formats(formats: Sequence[str], register: str | None) -> tuple[list[str], list[Problem]]:
    """Formats in our order, from options that may hold commas; ``mlflow`` among them where one is registered."""
    given = [name.strip() for option in formats or ["all"] for name in option.split(",")]
    known = [*FILES, "all"]
    problems = [Problem("--format", nearest(name, known), name) for name in given if name not in known]
    if register is not None:
        given.append("mlflow")
    wanted = [name for name in FILES if name in given or "all" in given]
    needed = dict.fromkeys(package for name in wanted for package in NEEDS.get(name, ()))
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        says = f"needs {' and '.join(missing)}; install: uv pip install {' '.join(missing)}, or take --format torch"
        problems.append(Problem("--format", says, ",".join(wanted)))
    return wanted, problems


def folder_problems(folder: Path, wanted: Sequence[str], where: str) -> list[Problem]:
    """Why the formats cannot be written here: no folder to be had, or another's files in their place."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        return [Problem(where, f"{existing} is a file, not a folder", str(folder))]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Problem(where, f"{existing} cannot be written by this user", str(folder))]
    taken = [path for name in wanted if os.path.lexists(path := folder / FILES[name]) and not is_ours(path)]
    return [Problem(where, "was not written by litmus export and is in the way: move it", str(path)) for path in taken]


def is_ours(path: Path) -> bool:
    """Whether an export carries the preprocessing that we put into each."""
    file = path / "MLmodel" if path.is_dir() else path
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as opened, closing(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)) as seen:
        return seen.find(METADATA_KEY.encode()) >= 0


def metadata_of(run: StoredRun, reads: Preprocessing) -> dict[str, str]:
    """What every file says of itself. The preprocessing holds the class names, in the order of the logits."""
    return {
        METADATA_KEY: reads.to_json(),
        "litmus.reads": (
            f"images: uint8 (B, {reads.channels}, {reads.image_size[0]}, {reads.image_size[1]}), pixels 0 to 255 as "
            f"decoded, {'RGB' if reads.channels == 3 else 'grey'}; mean and std are applied inside"
        ),
        "litmus.answers": f"logits: float32 (B, {reads.num_classes}), in the order of class_names",
        "litmus.run": run.name,
        "litmus.run_uid": run.uid,
    }


def introduction(trained: Trained, pictures: Pictures) -> list[str]:
    run, reads, precision = trained.run, trained.preprocessing, trained.config.train.precision
    err = f", test/err {run.metrics['test/err']:.4f}" if "test/err" in run.metrics else ""
    lines = [
        f"run      {run.name}, {run.id8}{err}",
        f"reads    uint8 (B, {reads.channels}, {reads.image_size[0]}, {reads.image_size[1]}), pixels 0 to 255; "
        "mean and std are inside",
        f"checked  on {pictures.where}, in batches of {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]},",
        "         against the run's network in float32 on this CPU",
    ]
    if precision != 32:
        kind = "float64" if precision == 64 else str(precision)
        lines.append(f"note     trained in {kind}; exported, and checked, in float32")
    return lines


def table(rows: Sequence[Row], times: Mapping[str, dict[str, float]]) -> list[str]:
    """One line a format, and the network itself to compare the times with."""
    sizes = list(times)

    def ms(name: str) -> list[str]:
        return [f"{times[size][name]:.3g} ms" if name in times[size] else "" for size in sizes]

    cells = [
        ["format", "logits differ by", "probabilities by", "same class", "size", *sizes],
        ["eager", "", "", "", "", *ms("eager")],
    ]
    cells += [
        [
            row.format,
            *(f"{seen.difference:.1e}" if seen.difference else "0" for seen in (row.logits, row.probabilities)),
            f"{row.probabilities.same_class} of {row.probabilities.num_images}",
            megabytes(row.bytes),
            *ms(row.format),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def hints(done: Mapping[str, Path], reads: Preprocessing, address: str | None = None) -> list[str]:
    """How each file is used: lines to paste. ``address``: how the registered model is named to a shell."""
    lines: list[str] = []
    shape = f"(1, {reads.channels}, {reads.image_size[0]}, {reads.image_size[1]})"
    if "onnx" in done:
        lines += [
            "",
            "in Python, with onnxruntime alone:",
            "  import numpy, onnxruntime",
            f'  session = onnxruntime.InferenceSession("{shown(done["onnx"])}")',
            f'  logits = session.run(["logits"], {{"images": numpy.zeros({shape}, numpy.uint8)}})[0]',
        ]
    if "torch" in done:
        lines += [
            "",
            "in Python, with torch alone:",
            "  import torch",
            f'  network = torch.export.load("{shown(done["torch"])}").module()',
            f"  logits = network(torch.zeros({shape}, dtype=torch.uint8))",
        ]
    if "mlflow" in done:
        served = address or f"mlflow models serve -m {shlex.quote(str(shown(done['mlflow'])))}"
        lines += [
            "",
            "over HTTP, in two shells with this environment active:",
            f"  {served} --env-manager local --port {PORT}",
            f"  {curl(done['mlflow'])}",
        ]
    return lines


PORT = 5001  # 5000 is the UI's


def curl(folder: Path) -> str:
    """A request with the one image that the model brings as its example."""
    example = shlex.quote(str(shown(folder / SERVING_EXAMPLE)))
    return f"curl -s 127.0.0.1:{PORT}/invocations -H 'Content-Type: application/json' -d @{example}"


def _loaded(stored: StoredRun, wanted: Sequence[str]) -> tuple[Trained, list[Problem]]:
    """The network, and what of it a format cannot hold."""
    trained = load_trained(stored)
    problems = []
    size = sum(value.numel() * value.element_size() for value in trained.network.state_dict().values())
    if size > _MAX_ONNX_BYTES and {"onnx", "mlflow"} & set(wanted):
        says = f"one ONNX file holds up to 2 GB, these weights are {size / 1e9:.1f} GB; take --format torch"
        problems.append(Problem("--format", says, ",".join(wanted)))
    names = trained.preprocessing.class_names
    if "mlflow" in wanted and (twice := sorted({name for name in names if names.count(name) > 1})):
        says = f"two classes are called {twice[0]!r}, and a served answer names classes; take --format onnx,torch"
        problems.append(Problem("--format", says, ",".join(wanted)))
    return trained, problems


def _write_and_check(
    trained: Trained, wanted: Sequence[str], pictures: Pictures, staging: Path
) -> tuple[list[Row], dict[str, str], dict[str, Answer]]:
    """Each wanted format in ``staging``: rows of those that agree, reasons of those that do not, and whom to ask."""
    reads = trained.preprocessing
    metadata = metadata_of(trained.run, reads)
    model = Normalised(trained.network, reads.mean, reads.std).eval()
    answers: dict[str, Answer] = {"eager": eager(trained)}
    logits = ask(answers["eager"], pictures.images)
    rows: list[Row] = []
    failures: dict[str, str] = {}

    with _busy("tracing the network"):
        try:
            program = trace(model, torch.zeros(2, reads.channels, *reads.image_size, dtype=torch.uint8))
        except Exception as error:  # a network with branches on its values, say
            return [], dict.fromkeys(wanted, f"torch.export cannot trace the network: {_reason(error)}"), answers
    paths = {name: staging / file for name, file in FILES.items()}

    def write_mlflow() -> None:
        if not paths["onnx"].exists():
            write_onnx(program, paths["onnx"], metadata)
        save_model(paths["mlflow"], paths["onnx"], example_BCHW=pictures.images[:1].numpy(), metadata=metadata)

    writers: dict[str, Callable[[], None]] = {
        "onnx": lambda: write_onnx(program, paths["onnx"], metadata),
        "torch": lambda: write_torch(program, paths["torch"], metadata),
        "mlflow": write_mlflow,
    }
    for name in wanted:
        with _busy(f"{name}: writing and checking"):
            try:
                writers[name]()
                answer = open_torch(paths[name]) if name == "torch" else open_onnx(onnx_of(paths[name]))
                found = ask(answer, pictures.images)
                told = softmax(found)
                if name == "mlflow":
                    told = ask(open_mlflow(paths[name], reads.class_names), pictures.images)
                row = Row(
                    name,
                    paths[name],
                    Agreement.between(logits, found),
                    Agreement.between(softmax(logits), told),
                    _bytes(paths[name]),
                )
            except Exception as error:  # whatever a translator or a runtime raises, the other formats go on
                failures[name] = _reason(error)
                continue
        for what, seen in (("logit", row.logits), ("probability", row.probabilities)):
            if not seen.passes:
                limit = TOLERANCE * seen.scale
                failures.setdefault(name, f"a {what} differs by {seen.difference:.3g}, more than {limit:.3g}")
        if name not in failures:
            rows.append(row)
            if name != "mlflow":
                answers[name] = answer
    return rows, failures, answers


def _reason(error: Exception) -> str:
    """A line of an error that may have a hundred: the last of torch's summary, else the first."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return f"{type(error.__cause__ or error).__name__}: {lines[0] if lines else ''}"[:300]


def _times(answers: Mapping[str, Answer], images: Tensor) -> dict[str, dict[str, float]]:
    """Per batch size, the milliseconds of each answer."""
    found = {}
    for size in (SIZES[0], SIZES[-1]):
        batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size]
        calls = {name: (lambda answer=answer, batch=batch: answer(batch)) for name, answer in answers.items()}
        found["1 image" if size == 1 else f"{size} images"] = median_ms(calls)
    return found


def _put(row: Row, folder: Path) -> Row:
    """Move a checked export to its place, over an older one of ours."""
    place = folder / row.path.name
    if place.is_symlink():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)
    os.replace(row.path, place)
    return replace(row, path=place)


def _register(
    registry: Registry, name: str, stored: StoredRun, model: Path | None, say: Callable[[str], None]
) -> str | None:
    """The start of the command that serves the new version; None if there is none, and why is said."""
    if model is None:
        say(f"not registered: there is no checked MLflow model to be {name}")
        return None
    tags = {"litmus.run_uid": stored.uid}
    if "test/err" in stored.metrics:
        tags["test/err"] = repr(stored.metrics["test/err"])
    try:
        with _busy("registering"):
            number = registry.register(name, model, tags=tags)
    except StoreTrouble as trouble:
        say(f"not registered: {trouble}")
        return None
    label = registry.destination.label
    say(f"registered {name}, version {number}, at {label}")
    return f"MLFLOW_TRACKING_URI={shlex.quote(label)} mlflow models serve -m {shlex.quote(f'models:/{name}/{number}')}"


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on a terminal, and no warnings of exporters that concern people who write exporters."""
    from rich.console import Console

    with Console(stderr=True).status(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
