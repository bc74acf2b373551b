"""``litmus gradients``: does the gradient arrive, config beside config, before training and while it goes on."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from litmus.config import RunConfig
from litmus.config.vary import Arm, arm_configs, arms_of
from litmus.data.datamodule import ImageDataModule
from litmus.devices import best_device
from litmus.diagnosis.gradient_flow import Flow, FlowAt, LayerFlow, measure_flow, story, to_json, weighted_layers
from litmus.errors import NonFinite, Problem, Refused
from litmus.experiment import (
    RESULT,
    WATCHED,
    Scope,
    check,
    conduct,
    make_classifier,
    make_data,
    make_network,
    open_run,
    quiet_libraries,
    start_tracking,
    training_probe,
)
from litmus.networks.layers import set_frozen_
from litmus.paths import shown
from litmus.stopping import Signals
from litmus.tracking import Run
from litmus.tracking.spool import ARTIFACTS
from litmus.transfer import make_plan
from litmus.weights import follow_weights

KIND, ARM = "gradients", "arm"
"""The kind of the run that holds the comparison, and of the trainings under it."""

Say = Callable[[str], None]


@dataclass
class Compared:
    """One config, and what was found of it."""

    label: str
    overrides: tuple[str, ...]
    config: RunConfig
    flow: Flow | None = None
    rows: list[FlowAt] = field(default_factory=list)
    """Of its training."""
    val_err: float | None = None
    ended: str = ""
    """Why its training did not end by itself."""

    @property
    def verdict(self) -> str:
        """At initialisation, and what became of it in training."""
        assert self.flow is not None
        diverged = ["diverged"] if self.ended else []
        return story([self.flow.verdict, *(row.flow.verdict for row in self.rows), *diverged])


def compare_gradients(
    files: Sequence[str],
    overrides: Sequence[str],
    *,
    over: Sequence[str] = (),
    arms: Sequence[str] = (),
    train: bool = False,
    out: Path | None = None,
    say: Say = print,
) -> list[Compared]:
    """Measure the gradient's way through each config's network, and with ``train`` while each is trained.

    Args:
        files, overrides: the config that all have in common.
        over, arms: what they do not, see ``litmus.config.vary.arms_of``.
        train: train each as its config says, one after the other; the test set stays untouched, since this compares.
        out: gets copies of the pictures and tables.

    Raises:
        Refused: before any compute, everything that is wrong with any of them.
        Stopped: SIGTERM or Ctrl-C came.
    """
    chosen = arms_of(over, arms)
    base, *configs = arm_configs(files, overrides, [Arm(""), *chosen])
    compared = [
        Compared(arm.label or config.run_name, arm.overrides, config)
        for arm, config in zip(chosen, configs, strict=True)
    ]
    if out is not None and out.exists() and not out.is_dir():
        raise Refused(Problem("--out", "is a file, not a folder", str(out)), source="command")
    with quiet_libraries(), Signals() if train else nullcontext() as signals:
        data = prepare(compared, train=train)
        with start_tracking(base, data[0].info, kind=KIND, tags={"litmus.arms": str(len(compared))}) as tracked:
            for number, (one, images) in enumerate(zip(_with_bar(compared), data, strict=True)):
                one.flow = measure_at_start(one.config, images)
                tracked.log_metrics(one.flow.metrics(), step=number)
            made = write_start(compared, tracked)
            if train:
                assert signals is not None
                say("\n".join(start_lines(compared)))
                for number, one in enumerate(compared):
                    say(f"\narm    {number + 1} of {len(compared)}: {one.label}")
                    train_arm(one, number, tracked, signals, say)
                made += write_training(compared, tracked)
            tracked.set_tags({"litmus.gradients": summary(compared)})
            if out is not None:
                made = [_copy(path, out) for path in made]
    say("\n".join([*(training_lines(compared) if train else start_lines(compared)), ""]))
    for path in made:
        say(f"{'picture' if path.suffix in ('.png', '.svg') else 'table  '}  {shown(path)}")
    say(f"next     {next_command(files, overrides, compared, over=over, arms=arms, trained=train)}")
    return compared


def _with_bar(compared: Sequence[Compared]) -> Iterable[Compared]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(compared, "measuring", console=console, transient=True, disable=not console.is_terminal)


# --- before anything is computed --------------------------------------------------------------------------------------


def prepare(compared: Sequence[Compared], *, train: bool) -> list[ImageDataModule]:
    """The data of each config, loaded once where several have the same. ``Refused`` with the problems of all."""
    known: dict[str, ImageDataModule] = {}
    problems: dict[str, Problem] = {}
    data = []
    for one in compared:
        try:
            one.config = follow_weights(one.config)
            key = one.config.data.model_dump_json()
            if key not in known:
                known[key] = make_data(one.config)
            data.append(known[key])
            found = check(one.config, known[key].info) or learning_problems(one.config, known[key])
            if train and one.config.train.world_size > 1:
                says = "--train trains in this process, on one device"
                found.append(Problem("train.devices", says, one.config.train.world_size))
        except Refused as refused:
            found = refused.problems
        problems |= {str(problem): problem for problem in found}
    if problems:
        raise Refused(problems.values(), source="config")
    return data


def learning_problems(config: RunConfig, data: ImageDataModule) -> list[Problem]:
    with torch.random.fork_rng(devices=[]):
        network = make_network(config, data.info)
    freeze_as_first_(config, network)
    if weighted_layers(network):
        return []
    layers = None if config.freeze is None else config.freeze.layers
    return [Problem("freeze.layers", "leaves no linear layer or convolution that learns", layers)]


def freeze_as_first_(config: RunConfig, network: Any) -> None:
    """Hold what is frozen when the training begins."""
    if (plan := make_plan(config, network)) is not None:
        set_frozen_(network, plan.frozen_at(0))


# --- measuring --------------------------------------------------------------------------------------------------------


def measure_at_start(config: RunConfig, data: ImageDataModule) -> Flow:
    """The flow of a config's network before its first step: the same network, images and numbers as ``watch`` has."""
    device = best_device(config.train.accelerator)
    network: nn.Module = make_classifier(config, data).network.to(device)
    freeze_as_first_(config, network)
    images, labels = training_probe(data)(device)
    return measure_flow(network, images, labels, batch_size=config.batch_size // config.train.world_size)


def train_arm(one: Compared, number: int, parent: Run, signals: Signals, say: Say) -> None:
    """Train one config under the parent's run, watched; a training that diverges is a result too."""
    config = one.config.model_copy(update={"watch": ("gradients",), "insight": False})
    name, tags = f"{config.run_name}-arm{number + 1}", {"litmus.arm": one.label}
    opened = open_run(config, say=say, kind=ARM, name=name, parent_uid=parent.uid, tags=tags)
    folder = opened.tracked.dir
    scope = Scope(splits=("train_eval", "val"), pictures=False)  # nothing that compares looks at the test set
    try:
        conduct(opened, folder, signals, say=say, scope=scope)
        one.val_err = json.loads((folder / ARTIFACTS / RESULT).read_text())["val"]["err"]
    except NonFinite as error:
        one.ended = str(error).splitlines()[0]
        say(one.ended)
    signals.deferred = False
    if (folder / ARTIFACTS / WATCHED).is_file():
        one.rows = [FlowAt.of(row) for row in json.loads((folder / ARTIFACTS / WATCHED).read_text())["rows"]]
    signals.obey()  # one that came when this training was done ends those to come


# --- what is kept -----------------------------------------------------------------------------------------------------


def write_start(compared: Sequence[Compared], tracked: Run) -> list[Path]:
    """Pictures and tables of all configs at initialisation; returns where they lie."""
    from litmus.diagnosis.flow_plots import flow_by_depth

    flows = [(one.label, one.flow) for one in compared if one.flow is not None]
    tables = [
        {"label": one.label, "overrides": list(one.overrides), "flow": one.flow.table()} for one in compared if one.flow
    ]
    folder = tracked.dir / "pictures"
    picture = flow_by_depth(flows, folder / "gradients.png", when="at initialisation", svg=True)
    for path in (picture, picture.with_suffix(".svg")):
        tracked.log_artifact(path, "pictures")
    return [
        picture,
        picture.with_suffix(".svg"),
        tracked.log_text(json.dumps(to_json({"arms": tables}), indent=1), "gradients.json"),
        tracked.log_text(layers_csv(flows), "gradients.csv"),
    ]


def write_training(compared: Sequence[Compared], tracked: Run) -> list[Path]:
    """The maps of depth against time, and the whole table; nothing when no training got as far as a look."""
    from litmus.diagnosis.flow_plots import flow_in_training

    if not any(one.rows for one in compared):
        return []
    tables = [
        {
            "label": one.label,
            "overrides": list(one.overrides),
            "verdict": one.verdict,
            "val_err": one.val_err,
            "ended": one.ended,
            "rows": [row.table() for row in one.rows],
        }
        for one in compared
    ]
    path = tracked.dir / "pictures" / "gradients_training.png"
    labels = [f"{one.label}, diverged" if one.ended else one.label for one in compared]
    picture = flow_in_training(list(zip(labels, (one.rows for one in compared), strict=True)), path, svg=True)
    for path in (picture, picture.with_suffix(".svg")):
        tracked.log_artifact(path, "pictures")
    text = json.dumps(to_json({"arms": tables}))
    return [picture, picture.with_suffix(".svg"), tracked.log_text(text, "gradients_training.json")]


def layers_csv(flows: Iterable[tuple[str, Flow]]) -> str:
    """A row for each layer of each config."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(LayerFlow)]
    rows.writerow(["arm", "layer", *names, "log10_relative"])
    for label, flow in flows:
        for number, layer in enumerate(flow.layers, start=1):
            rows.writerow([label, number, *(getattr(layer, name) for name in names), layer.log10_relative])
    return text.getvalue()


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, folder / path.name))


# --- what is said -----------------------------------------------------------------------------------------------------


def start_lines(compared: Sequence[Compared]) -> list[str]:
    """The table of all configs at initialisation, and in a sentence each what is wrong with those that are not healthy.

    Columns: log10 of ``||dL/dz||`` of the first layer over the head's; decades a layer on the way back; the same ratio
    of weight gradients, which does not tell; parts of dead and of saturated units.
    """
    rows = [("arm", "verdict", "first/head", "a layer", "R2", "(weights)", "dead", "saturated")]
    for one in compared:
        flow = one.flow
        assert flow is not None
        rows.append(
            (
                one.label,
                flow.verdict,
                _figure(flow.first_to_last, "+.1f"),
                _figure(flow.decades_per_layer, "+.2f"),
                _figure(flow.r2, ".2f"),
                _figure(flow.weight_gradient_ratio, "+.1f"),
                _figure(flow.dead, ".2f"),
                _figure(flow.saturated, ".2f"),
            )
        )
    flow = compared[0].flow
    assert flow is not None
    return [
        *_aligned(rows),
        "",
        f"at initialisation, on {flow.num_images:,} training images in parts of {flow.batch_size}; first/head: log10 "
        "of ||dL/dz||, (weights): of ||dL/dW||, which does not tell",
        *(f"{one.label}: {one.flow.sentence}" for one in compared if one.flow and one.flow.verdict != "healthy"),
    ]


def training_lines(compared: Sequence[Compared]) -> list[str]:
    """The table of all configs, trained."""
    rows = [("arm", "verdict", "first/head", "at the end", "update", "val/err", "")]
    for one in compared:
        assert one.flow is not None
        last = one.rows[-1].flow.first_to_last if one.rows else None
        updates = [row.relative_update for row in one.rows if row.relative_update is not None]
        rows.append(
            (
                one.label,
                one.verdict,
                _figure(one.flow.first_to_last, "+.1f"),
                _figure(last, "+.1f"),
                _figure(updates[-1] if updates else None, ".1e"),
                _figure(one.val_err, ".4f"),
                one.ended,
            )
        )
    note = "update: ||W' - W|| / ||W|| of a step, median over layers, at the last look that a step followed"
    return ["", *_aligned(rows), "", note]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = (0, 1)  # to the left; figures to the right
    return [
        "  ".join(
            cell.ljust(width) if at in words or at == len(widths) - 1 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _figure(value: float | None, how: str) -> str:
    if value is None or value != value:
        return "-"
    text = format(value, how)
    return text.replace("-", "+", 1) if float(text) == 0 and text.startswith("-") else text


def summary(compared: Sequence[Compared]) -> str:
    """``3 vanishing, 5 healthy``."""
    counts = Counter(one.verdict for one in compared)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def next_command(
    files: Sequence[str],
    overrides: Sequence[str],
    compared: Sequence[Compared],
    *,
    over: Sequence[str],
    arms: Sequence[str],
    trained: bool,
) -> str:
    """Train the config whose gradient arrives best, or, trained already, the one with the least validation error; where
    none is healthy, look at what usually helps."""
    words = [*files, *overrides]
    healthy = [one for one in compared if one.flow is not None and one.flow.verdict == "healthy"]
    learnt = [one for one in compared if one.val_err is not None]
    if trained and learnt:
        best = min(learnt, key=lambda one: one.val_err or 0.0)
        return shlex.join(["litmus", "fit", *words, *best.overrides])
    if not healthy:
        model = compared[0].config.model
        helps = {"init": "he_normal,orthogonal", "norm": "none,batch"}
        known = [f"model.{key}={values}" for key, values in helps.items() if hasattr(model, key)]
        if known:
            return shlex.join(["litmus", "gradients", *words, *(word for pair in known for word in ("--over", pair))])
        return shlex.join(["litmus", "fit", *words])
    best = min(healthy, key=lambda one: abs(one.flow.first_to_last) if one.flow else 0.0)
    fit = shlex.join(["litmus", "fit", *words, *best.overrides])
    options = [word for key, values in (("--over", over), ("--arm", arms)) for value in values for word in (key, value)]
    return f"{fit}    or    {shlex.join(['litmus', 'gradients', *words, *options, '--train'])}"
