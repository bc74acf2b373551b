"""One run, from a config to a tracked, diagnosed result: the composition root that every command calls."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from safetensors.torch import save_file
from torch import nn

from litmus.advice import Assessment, Facts, assess, command, told
from litmus.callbacks import (
    EMA,
    BestCheckpoint,
    CacheFeatures,
    EarlyStopping,
    EpochTable,
    ExactResume,
    FiniteGuard,
    Freeze,
    FreezeBySteps,
    GradientWatch,
    LastCheckpoint,
    Pruning,
    Trace,
    ValidateAtEnd,
    build_criterion,
    skip_unused_hooks,
)
from litmus.callbacks.trace import Watch
from litmus.checkpoints import Damaged, Saved, newest_whole, read, saved, set_aside_after
from litmus.classifier import ImageClassifier
from litmus.config import METRICS, RunConfig, dump_config, flatten, notes, options, to_dict
from litmus.data.batch import Batch, DataInfo
from litmus.data.checks import network_problems
from litmus.data.datamodule import SPLITS, TRAIN_DEV, ImageDataModule
from litmus.data.preprocessing import METADATA_KEY, Preprocessing
from litmus.diagnosis import Diagnosis, confusion_matrix, pick_predictions, wilson
from litmus.diagnosis.gradient_flow import MIN_IMAGES, FlowAt, story, to_json
from litmus.diagnosis.readings import Reading, Row
from litmus.diagnosis.suspects import label_suspects, read_label_noise
from litmus.diagnosis.units import FEWEST_IMAGES, LayerHealth, unit_health
from litmus.errors import NonFinite, Problem, Refused
from litmus.evaluation import Evaluation, evaluate
from litmus.fingerprint import FILE as FINGERPRINT
from litmus.fingerprint import Fingerprint, compare, take_fingerprint
from litmus.insight import Insight, make_insight
from litmus.networks import Network, UnreadableImageSize, build_network, lsuv_, num_params
from litmus.paths import shown
from litmus.ranks import Place, leave, seed_rank
from litmus.resume import FOLDER as CHECKPOINTS
from litmus.resume import Resume
from litmus.stopping import Signals
from litmus.strategy import device_problems, trainer_options
from litmus.tracking import (
    Run,
    SystemMetrics,
    environment,
    environment_tags,
    git_diff,
    installed_packages,
    mask_secrets,
)
from litmus.tracking.logger import RunLogger
from litmus.tracking.spool import ARTIFACTS
from litmus.transfer import layer_problems, layer_table, make_plan
from litmus.weights import digest_of_file, find_weights, follow_weights, load_weights_

TRACE = "trace.json"
"""The artifact with what a run computed, to the last bit."""

RESULT, PRUNED = "result.json", "pruned.json"
"""The artifacts with what a run came to: the one of a training that ended, the other of one that its study ended."""

WATCHED = "gradients.json"
"""The artifact with what ``watch: gradients`` saw: the layers, at each step at which they were looked at."""
DIAGNOSIS = "diagnosis.json"
"""The artifact with a run's verdict, intervals, next moves and readings: ``Assessment.table``."""

log = logging.getLogger("litmus")

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}

FLAGS = {32: "32-true", 64: "64-true"}
"""Lightning's words for the precisions that are not mixed."""


@dataclass(frozen=True)
class Kept:
    """Which weights a run ends with: ``which`` is best or last, ``epoch`` counts from 1."""

    which: str
    epoch: int
    step: int


@dataclass(frozen=True)
class Scope:
    """How much of a run is done.

    Attributes:
        splits: evaluated once the training is over. A search leaves ``test`` out: it must not be chosen by.
        pictures: whether any are drawn.
        pruning: watches the validations, and may end the training.
        objectives: what a study searches by, logged as ``objective/<name>`` in every one of its trials.
    """

    splits: tuple[str, ...] = SPLITS[1:]
    pictures: bool = True
    pruning: Pruning | None = None
    objectives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """A run that its study ended early: nothing was evaluated, its curves are kept.

    Attributes:
        epochs: that were trained.
        reports: of the watched metric, one a validation.
    """

    run: Run
    epochs: float
    reports: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """What a run came to. ``evaluations`` are by split, of the weights that ``checkpoint.evaluate`` names."""

    run: Run
    info: DataInfo
    evaluations: dict[str, Evaluation]
    assessment: Assessment
    stopped: str | None
    """Why early stopping ended the training, in a sentence."""
    kept: Kept
    trained_sec: float
    pictures: list[Path]
    profiles: list[Path]
    """What ``train.profiler`` wrote."""
    saved: str | None = None
    """What computing the features of a frozen body once saved, in a sentence."""
    insight: Insight | None = None
    epochs: float = 0.0
    """That were trained, over all attempts."""
    num_params: int = 0
    watched: str | None = None
    """What ``watch`` saw of the gradients, in a sentence."""

    @property
    def diagnosis(self) -> Diagnosis:
        return self.assessment.diagnosis

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.assessment.readings

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's 95% interval of the test error; None for a run that was not tested."""
        test = self.evaluations.get("test")
        if test is None:
            return None
        low, high = wilson(test.num_errors, test.num_images)
        return low, high

    def table(self) -> dict[str, Any]:
        """Plain numbers: what ``result.json`` holds."""
        tested = {"test_err_95": list(self.test_interval)} if self.test_interval else {}
        return {
            **result_table(self.evaluations, self.diagnosis, self.info),
            **tested,
            "evaluated": {"weights": self.kept.which, "epoch": self.kept.epoch, "step": self.kept.step},
            "stopped": self.stopped,
            "epochs": self.epochs,
            "num_params": self.num_params,
            "trained_sec": self.trained_sec,
        }


def result_table(evaluations: Mapping[str, Evaluation], diagnosis: Diagnosis, info: DataInfo) -> dict[str, Any]:
    """What follows from the weights and the data alone."""
    return {
        **{
            split: {"loss": seen.loss, "err": seen.err, "num_errors": seen.num_errors, "num_images": seen.num_images}
            for split, seen in evaluations.items()
        },
        "num_train": info.num_train,
        "num_available": info.num_available,
        "num_classes": info.num_classes,
        "val_is_cut": info.val_is_cut,
        "verdict": diagnosis.sentence,
        "moves": list(diagnosis.moves),
        "notes": list(diagnosis.notes),
    }


def objective_of(result: Mapping[str, Any], name: str) -> float:
    """The value of an objective of studies, from a run's ``Result.table``."""
    apart = {"time/train_sec": "trained_sec", "model/num_params": "num_params"}
    if name in apart:
        return float(result[apart[name]])
    split, _, what = name.partition("/")
    return float(result[split][what])


def logged_objective(name: str) -> str:
    """The metric that holds an objective in every trial of a study: the MLflow UI compares by one name."""
    return f"objective/{name.replace('/', '_')}"


def augments(config: RunConfig) -> bool:
    """Whether training images are changed at all."""
    return config.augment != type(config.augment)()


def make_data(config: RunConfig) -> ImageDataModule:
    return ImageDataModule(
        config.data.name,
        **{**options(config.data, "batch_per", "target_err"), "batch_size": config.batch_size},
        seed=config.seed,
        augment=config.augment.model_dump() if augments(config) else None,
        channels_last=config.train.channels_last,
    )


def make_network(config: RunConfig, info: DataInfo | Preprocessing) -> nn.Module:
    """The config's network for this data, initialised from torch's global generator."""
    try:
        return build_network(
            config.model.name,
            in_channels=info.channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
            **options(config.model, "weights", "weights_by"),
        )
    except UnreadableImageSize as error:
        raise Refused(Problem("data.image_size", str(error)), source="config") from error
    except ValueError as error:
        raise Refused(Problem("model", str(error)), source="config") from error


def check(config: RunConfig, info: DataInfo) -> list[Problem]:
    """What is wrong with a config once its data are known; found before the first step."""
    data, train, augment = config.data, config.train, config.augment
    found = network_problems(
        info,
        batch_norm=getattr(config.model, "norm", "batch") == "batch" and not train.sync_bn,
        batch_size=config.batch_size,
        drop_last=data.drop_last,
        world_size=train.world_size,
    )
    found += device_problems(config)
    if info.channels == 1:
        for key in ("saturation", "hue"):
            if getattr(augment, key):
                found.append(
                    Problem(f"augment.{key}", "does nothing on grey images: set it to 0", getattr(augment, key))
                )
    smallest = min(info.image_size)
    if augment.pad_crop >= smallest:
        says = f"could crop the whole image away: the smaller side has {smallest} pixels"
        found.append(Problem("augment.pad_crop", says, augment.pad_crop))
    cuda = torch.cuda.is_available()
    if train.accelerator == "gpu" and not cuda:
        found.append(Problem("train.accelerator", "this machine has no GPU that torch can use; use cpu or auto", "gpu"))
    if train.accelerator == "mps" and not torch.backends.mps.is_available():
        found.append(Problem("train.accelerator", "this machine has no Apple GPU; use cpu or auto", "mps"))
    if train.precision == "16-mixed" and not cuda:
        found.append(Problem("train.precision", "needs a GPU; on a CPU use 32 or bf16-mixed", train.precision))
    try:
        with torch.random.fork_rng(devices=[]):
            network = make_network(config, info)
    except Refused as refused:
        return found + refused.problems
    try:
        load_weights_(network, config)
    except Refused as refused:
        found += refused.problems
    found += layer_problems(config, network)
    home = Path(config.tracking.home)
    needed = 2 * 3 * sum(p.numel() * p.element_size() for p in network.parameters())
    free = shutil.disk_usage(_existing(home)).free
    if free < needed:  # a checkpoint holds the weights and at most two moments of each
        says = f"{free / 1e6:.0f} MB free, two checkpoints need about {needed / 1e6:.0f} MB"
        found.append(Problem("tracking.home", says, str(home)))
    return found


def checked_data(config: RunConfig) -> ImageDataModule:
    """The prepared data of a config that nothing is wrong with; else ``Refused`` with everything that is."""
    data = make_data(config)
    problems = check(config, data.prepare())
    if problems:
        raise Refused(problems, source="config")
    return data


def run(
    config: RunConfig,
    *,
    resume: Resume | None = None,
    signals: Signals | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Train, validate, test, diagnose and track one config.

    Args:
        config: what to run.
        resume: a run to go on with, from its newest whole checkpoint.
        signals: entered already, by who wants them taken from earlier on.
        say: takes the lines that a person reads.

    Raises:
        Refused: before any compute, with everything that is wrong with the config and its data.
        NonFinite: when a loss or a gradient is no longer a number; the run is FAILED.
        Stopped: SIGTERM or Ctrl-C came; the state is saved, the run is KILLED and can be resumed.
        DiskTrouble: a checkpoint could not be written; the one before is whole, the run is FAILED.
    """
    with quiet_libraries(), nullcontext(signals) if signals else Signals() as signals:
        opened = open_run(config, resume=resume, say=say)
        result = cast(Result, conduct(opened, opened.tracked.dir, signals, say=say))
        say(farewell(opened.config, result))
        return result


@dataclass(frozen=True)
class Opened:
    """A run with which nothing is wrong, before its first step.

    Attributes:
        tracked: its record; None in processes that write none.
        resumed: whether it goes on, after the checkpoint ``begin_at`` or, where nothing was saved, from the start.
        changed: whether it goes on with another config.
    """

    config: RunConfig
    data: ImageDataModule
    tracked: Any
    resumed: bool = False
    begin_at: Saved | None = None
    changed: bool = False


def open_run(
    config: RunConfig,
    *,
    resume: Resume | None = None,
    say: Callable[[str], None] = print,
    send: Literal["process", "off"] = "process",
    kind: str = "train",
    **record: Any,
) -> Opened:
    """Check all that can be checked, then open the run's record.

    Args:
        kind, record: what its record says of it: ``start_tracking``.

    Raises:
        Refused: everything that is wrong; then there is no record.
    """
    config = follow_weights(config)
    data = checked_data(config)
    begin_at = None
    if resume is not None:
        resume.check_data(data.info)
        begin_at = resume.find(header_of(config, data.info), say)
    record.setdefault("uid", resume.uid if resume else None)
    tracked = start_tracking(config, data.info, kind=kind, send=send, **record)
    return Opened(config, data, tracked, resume is not None, begin_at, resume is not None and bool(resume.changed))


def conduct(
    opened: Opened,
    folder: Path,
    signals: Signals,
    *,
    say: Callable[[str], None],
    place: Place | None = None,
    scope: Scope | None = None,
) -> Result | Pruned | None:
    """Train, evaluate and record a run that is open; its record says how it ended.

    Args:
        folder: the run directory.
        place: of this process among several; all but the first return None once the training is over.
    """
    config, tracked = opened.config, opened.tracked
    with tracked or nullcontext():
        try:
            if opened.resumed and tracked:
                set_aside_after(folder / CHECKPOINTS, opened.begin_at.step if opened.begin_at else -1)
                after = f"after {opened.begin_at.path.name}" if opened.begin_at else "from the start: nothing was saved"
                say(f"resume {after}")
            result = _train(opened, folder, signals, say=say, place=place, scope=scope or Scope())
        except NonFinite as error:
            if error.facts and tracked:
                tracked.log_text(json.dumps(error.facts, indent=1), "non_finite.json")
            raise
        except BaseException as error:
            for line in way_on(config, folder, (tracked.id or tracked.uid) if tracked else folder.name[-8:]):
                error.add_note(line)
            raise
        # A signal that came when all was done changes nothing any more.
        signals.deferred = True
    return result


def way_on(config: RunConfig, folder: Path, run_id: str) -> list[str]:
    """What is kept of the run in ``folder`` that did not end, and the command that goes on with it."""
    found = saved(folder / CHECKPOINTS, "last")
    home = "" if config.tracking.home == "mlruns" else f" --home {shlex.quote(config.tracking.home)}"
    return [
        f"saved    {f'step {found[0].step}, in {shown(found[0].path)}' if found else 'nothing yet: no step was done'}",
        f"next     litmus fit --resume {run_id[:8]}{home}",
    ]


def header_of(config: RunConfig, info: DataInfo) -> dict[str, Any]:
    """What must be the same for a training to take up a checkpoint's weights and moments."""
    decides_nothing = ("init", "init_std", "keep_prob", "weights", "weights_by")
    model = {key: value for key, value in to_dict(config.model).items() if not key.endswith(decides_nothing)}
    return {
        "network": json.dumps(model, sort_keys=True),
        "optimizer": config.optim.name,
        "schedule": config.schedule.name,
        "classes": info.num_classes,
        "images": [info.channels, *info.image_size],
    }


def start_tracking(
    config: RunConfig,
    info: DataInfo,
    *,
    kind: str,
    uid: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    parent_uid: str | None = None,
    send: Literal["process", "off"] = "process",
) -> Run:
    """A tracked run that already holds its config, its data set, its surroundings and their fingerprint; with ``uid``,
    that run again."""
    origin, facts = find_weights(config), environment()
    digest = digest_of_file(origin.file) if origin else ""
    weights = {"litmus.weights": origin.says, "litmus.weights_digest": digest} if origin else {}
    tracked = Run.start(
        home=config.tracking.home,
        uri=config.tracking.uri,
        experiment=config.tracking.experiment or f"litmus/{config.data.name}",
        name=name or config.run_name,
        kind=kind,
        uid=uid,
        parent_uid=parent_uid,
        params=flatten(config),
        tags={
            **config.tracking.tags,
            **environment_tags(facts),
            **weights,
            "litmus.data_digest": info.digest,
            "litmus.split_digest": info.split_digest,
            **(tags or {}),
        },
        send="off" if config.tracking.offline else send,
    )
    # Masked as values, not as lines of text, where [masked] would be read back as a list.
    tracked.log_text(dump_config(mask_secrets(to_dict(config))), "config.yaml")
    fingerprint = take_fingerprint(config, info, weights=digest, processes=config.train.world_size, facts=facts)
    if differing := keep_fingerprint(tracked, fingerprint):
        log.warning("%s differ from the run's beginning: what follows is not what it would have been", differing)
    tracked.log_text(installed_packages(), "packages.txt")
    if diff := git_diff():
        tracked.log_text(diff, "code.diff")
    tracked.log_dataset(info.name, info.source, info.digest, context="train")
    return tracked


def keep_fingerprint(tracked: Run, now: Fingerprint) -> str:
    """The run's first one; where it goes on in another world, what differs there, also as ``litmus.changed_world``."""
    first = tracked.dir / ARTIFACTS / FINGERPRINT
    if not first.exists():
        tracked.log_text(now.to_json(), FINGERPRINT)
        return ""
    then = Fingerprint.from_json(first.read_text())
    differing = ", ".join(field.name for field in compare(then, now) if field.differs)
    if differing:
        tracked.set_tags({"litmus.changed_world": differing})
    return differing


def make_classifier(config: RunConfig, data: ImageDataModule) -> ImageClassifier:
    """Network, loss and optimizer of a config, initialised by its seed and ``model.weights``."""
    L.seed_everything(config.seed, verbose=False)
    network = make_network(config, data.info)
    origin = load_weights_(network, config)
    if getattr(config.model, "init", None) == "lsuv":
        lsuv_(network, next(eval_batches(data, "train_eval", torch.device("cpu")))[0])
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if config.train.compile:
        network.compile()
    restart = None
    if config.freeze is not None and config.freeze.until is not None and config.freeze.lr_after is not None:
        restart = (config.freeze.until, config.freeze.lr_after)
    classifier = ImageClassifier(
        network,
        optim={**config.optim.model_dump(), "lr": config.lr},
        restart=restart,
        schedule=config.schedule.model_dump(),
        label_smoothing=config.train.label_smoothing,
        num_train=data.info.num_train,
        log_every=config.train.log_every,
    )
    classifier.origin = origin
    return classifier


def make_trainer(
    config: RunConfig,
    tracked: Run | None,
    callbacks: list[L.Callback],
    *,
    folder: Path | None = None,
    place: Place | None = None,
) -> L.Trainer:
    """Lightning's trainer for one device, or for this ``place`` among several; ``folder`` where there is no record."""
    train, logger = config.train, RunLogger(tracked, save_dir=folder)
    folder = Path(logger.save_dir)
    length: dict[str, Any] = {"max_epochs": train.length}
    if train.unit == "steps":
        length = {"max_epochs": -1, "max_steps": train.length}
    every: dict[str, Any] = {"check_val_every_n_epoch": 1}
    if train.val_every and train.unit == "epochs":
        every = {"check_val_every_n_epoch": train.val_every}
    elif train.val_every:  # Lightning counts batches here, we count optimizer steps
        every = {"check_val_every_n_epoch": None, "val_check_interval": train.val_every * train.accumulate}
    trainer = L.Trainer(
        **length,
        **every,
        **trainer_options(config, place),
        accelerator=train.accelerator,
        precision=FLAGS.get(train.precision, train.precision),  # type: ignore[arg-type]
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.grad_clip,
        deterministic=train.deterministic,
        limit_train_batches=train.limit_batches,
        limit_val_batches=train.limit_batches,
        profiler=PROFILERS[train.profiler](dirpath=folder, filename="profile") if train.profiler else None,
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        num_sanity_val_steps=0,  # everything it could find has been checked
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Lightning's answer to SIGTERM saves nothing, exits 0 and hangs several processes; ours are taken by ``Signals``.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def make_callbacks(
    config: RunConfig,
    folder: Path,
    data: ImageDataModule,
    network: nn.Module,
    signals: Signals | None = None,
    watch: Watch | None = None,
    pruning: Pruning | None = None,
) -> list[L.Callback]:
    """In this order: what guards, changes and traces the weights or the rate, what stops, what shows, what keeps."""
    stop, mode = config.early_stopping, METRICS[config.monitor]
    callbacks: list[L.Callback] = [FiniteGuard(folder)]
    plan = make_plan(config, network)
    if plan is not None and config.freeze is not None:
        in_epochs = config.train.unit == "epochs"
        callbacks.append(Freeze(plan) if in_epochs else FreezeBySteps(plan))
        if config.freeze.cache and not augments(config):
            callbacks.append(CacheFeatures(data.info.num_train, skip_images=in_epochs))
    if config.train.ema_decay is not None:
        callbacks.append(EMA(config.train.ema_decay))
    callbacks.append(Trace(folder / TRACE, config.train.trace_steps, watch))
    if "gradients" in config.watch:
        callbacks.append(GradientWatch(training_probe(data), batch_size=config.batch_size // config.train.world_size))
    if stop is not None:
        watched = getattr(stop, "monitor", "val/loss")
        direction = {"mode": METRICS[watched]} if stop.name == "patience" else {}
        callbacks.append(EarlyStopping(build_criterion(stop.name, **options(stop, "monitor"), **direction), watched))
    if pruning is not None:
        callbacks.append(pruning)
    if config.train.unit == "steps":
        callbacks.append(ValidateAtEnd())
    callbacks += [
        EpochTable(config.monitor, mode),
        ExactResume(header_of(config, data.info)),
        BestCheckpoint(folder, config.monitor, mode),
        LastCheckpoint(
            folder,
            every_steps=config.checkpoint.every_steps,
            every_sec=config.checkpoint.every_sec,
            signals=signals,
        ),
    ]
    skip_unused_hooks(callbacks)
    return callbacks


def training_probe(data: ImageDataModule, num_images: int = MIN_IMAGES) -> Callable[[torch.device], Any]:
    """The first training images, which hold all classes in their proportions, as validation sees them.

    Returns a function of a device: (images, labels) there, of ``num_images`` or as many as there are.
    """
    held: list[Batch] = []

    def probe(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if not held:
            chosen = data.indices("train")[:num_images]
            held.append(Batch(data.images("train")[chosen], data.images("train").labels[chosen], chosen))
        batch = data.to_batch(Batch(*(column.to(device) for column in held[0])))
        return batch.images, batch.labels

    return probe


def keep_watched(rows: Sequence[FlowAt], tracked: Run) -> None:
    """What ``GradientWatch`` saw: its table as an artifact and the verdict as a tag."""
    table = {"probe": f"the first {rows[0].flow.num_images:,} training images, not augmented, dropout off"}
    tracked.log_text(json.dumps(to_json({**table, "rows": [row.table() for row in rows]})), WATCHED)
    tracked.set_tags({"litmus.gradients": story([row.flow.verdict for row in rows])})


def train(
    config: RunConfig,
    data: ImageDataModule,
    tracked: Run,
    signals: Signals,
    begin_at: Saved | None = None,
    *,
    changed: bool = False,
    watch: Watch | None = None,
    stops: Sequence[L.Callback] = (),
    scope: Scope | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Train, evaluate and record one config as the run ``tracked``, in this process.

    Args:
        begin_at: the checkpoint to go on from.
        changed: whether the config is another than the checkpoint's.
        watch: sees each row of the trace as it is made.
        stops: callbacks that may end the training by raising.
    """
    opened = Opened(config, data, tracked, begin_at=begin_at, changed=changed)
    scope = scope or Scope()
    return cast(Result, _train(opened, tracked.dir, signals, watch=watch, stops=stops, say=say, scope=scope))


def _train(
    opened: Opened,
    run_folder: Path,
    signals: Signals,
    *,
    watch: Watch | None = None,
    stops: Sequence[L.Callback] = (),
    say: Callable[[str], None],
    place: Place | None = None,
    scope: Scope,
) -> Result | Pruned | None:
    config, data, tracked, begin_at = opened.config, opened.data, opened.tracked, opened.begin_at
    folder = run_folder / CHECKPOINTS
    classifier = make_classifier(config, data)
    classifier.take_new_options = opened.changed
    if place is not None:
        seed_rank(config.seed, place.rank)
        os.environ.pop("PL_GLOBAL_SEED", None)  # else Lightning's strategy gives all of them one stream again
    callbacks = [*make_callbacks(config, folder, data, classifier.network, signals, watch, scope.pruning), *stops]
    trainer = make_trainer(config, tracked, callbacks, folder=run_folder, place=place)
    if tracked is not None:
        say(headline(config, data.info, classifier, trainer, tracked))
        if layers := layer_table(config, classifier.network):
            tracked.log_text("\n".join(layers) + "\n", "layers.txt")

    seen = next((callback for callback in callbacks if isinstance(callback, GradientWatch)), None)
    monitor = SystemMetrics(tracked) if tracked and config.tracking.system_metrics else nullcontext()
    with monitor:
        try:
            trainer.fit(classifier, datamodule=data, ckpt_path=begin_at.path if begin_at else None)
        finally:
            if tracked and (folder / TRACE).exists():
                tracked.log_artifact(folder / TRACE)
            if tracked and seen is not None and seen.rows:
                keep_watched(seen.rows, tracked)
    signals.obey()  # one that came during the last step: all is saved, the rest is done by the run that resumes
    exact = next(callback for callback in callbacks if isinstance(callback, ExactResume))

    history = classifier.history
    if place is not None:
        trainer.strategy.barrier("trained")
        leave()  # what follows must not wait for anybody
    if tracked is None:
        return None
    data.trainer = None  # from here on this process stands for all
    epochs = _epochs_trained(trainer)
    if scope.pruning is not None and scope.pruning.pruned_at is not None:
        pruned = Pruned(tracked, epochs, tuple(scope.pruning.reports))
        tracked.log_text(json.dumps({"epochs": epochs, "reports": pruned.reports}), PRUNED)
        tracked.set_tags({"litmus.stopped": f"pruned after {epochs:g} epochs", "litmus.state": "PRUNED"})
        if pruned.reports and scope.pruning.metric in scope.objectives:
            tracked.log_metrics({logged_objective(scope.pruning.metric): pruned.reports[-1]}, step=trainer.global_step)
        tracked.finish("KILLED")
        return pruned
    if config.train.strategy == "fsdp":
        classifier = make_classifier(config, data)  # whole again
    kept = load_weights(classifier, folder, config.checkpoint.evaluate)
    device, bf16 = trainer.strategy.root_device, config.train.precision == "bf16-mixed"
    classifier.to(device)
    evaluations = {
        split: evaluate(
            classifier.network, eval_batches(data, split, device, config.train.limit_batches), device=device, bf16=bf16
        )
        for split in (*scope.splits, *([TRAIN_DEV] if data.info.num_train_dev else []))
    }
    stop = next((callback for callback in callbacks if isinstance(callback, EarlyStopping)), None)
    stopped = stop.reason if stop else None
    assessment = diagnose(config, data, evaluations, classifier.network, history, device=device, stopped=stopped)
    cache = next((callback for callback in callbacks if isinstance(callback, CacheFeatures)), None)
    pictures = []
    if scope.pictures:
        pictures = draw(config, data, evaluations, history, kept, tracked.dir / "pictures", assessment)
    if seen is not None and scope.pictures:
        from litmus.diagnosis.flow_plots import flow_in_training

        pictures.append(flow_in_training([("", seen.rows)], tracked.dir / "pictures" / "gradients.png"))
    result = Result(
        run=tracked,
        info=data.info,
        evaluations=evaluations,
        assessment=assessment,
        stopped=stopped,
        kept=kept,
        trained_sec=exact.trained_sec,
        pictures=pictures,
        profiles=sorted(tracked.dir.glob("*profile*.*")),
        saved=cache.sentence if cache else None,
        epochs=epochs,
        num_params=num_params(classifier.network),
        watched=None if seen is None else f"{seen.rows[-1].flow.sentence} (step {seen.rows[-1].step:,})",
    )
    record(config, result, classifier.network, tracked)
    if scope.objectives:
        numbers = result.table()
        values = {logged_objective(name): objective_of(numbers, name) for name in scope.objectives}
        tracked.log_metrics(values, step=kept.step)
        tracked.set_tags({"litmus.state": "COMPLETE"})
    if not config.insight or not scope.pictures:
        return result
    # Last, when all else is on disk: a closer look that fails must not cost a training.
    network = cast(Network, classifier.network)
    insight = make_insight(
        network, data, evaluations["test"], tracked.dir, device=device, bf16=bf16, trained_on=evaluations["train_eval"]
    )
    tracked.log_metrics(insight.metrics, step=kept.step)
    for picture in insight.pictures:
        tracked.log_artifact(picture, "pictures")
    for table in insight.tables:
        tracked.log_artifact(table)
    return replace(result, insight=insight, pictures=[*result.pictures, *insight.pictures])


def _epochs_trained(trainer: L.Trainer) -> float:
    """Optimizer steps in units of epochs: what a training cost, however it ended."""
    steps_an_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    return trainer.global_step / max(steps_an_epoch, 1)


def eval_batches(data: ImageDataModule, split: str, device: torch.device, limit: int | None = None) -> Iterator[Batch]:
    """A split as evaluation sees it, on ``device``: every image once, normalised, not augmented."""
    for batch in itertools.islice(data.loader(split), limit):
        yield data.to_batch(Batch(*(column.to(device, non_blocking=True) for column in batch)))


def load_weights(classifier: ImageClassifier, folder: Path, which: str) -> Kept:
    """Put the best or the last checkpoint's weights into the classifier."""
    found = newest_whole(folder, which)
    if found is None:
        raise Damaged(f"{folder}: no whole {which} checkpoint to end the run with")
    checkpoint = read(found.path)
    classifier.load_state_dict(checkpoint["state_dict"])
    return Kept(which, epoch=int(checkpoint["epoch"]) + 1, step=int(checkpoint["global_step"]))


def diagnose(
    config: RunConfig,
    data: ImageDataModule,
    evaluations: Mapping[str, Evaluation],
    network: nn.Module,
    rows: Sequence[Row],
    *,
    device: torch.device,
    stopped: str | None = None,
) -> Assessment:
    """The verdict over one run's weights, next moves in the config's own keys; what curves, units and labels say."""
    info, train, val = data.info, evaluations["train_eval"], evaluations["val"]
    health, probed = probe_units(data, network, device, compiled=config.train.compile)
    noise = read_label_noise(
        suspects=len(label_suspects(train.probabilities, train.labels)),
        num_images=train.num_images,
        train_err=train.err,
        mean_probability=float(train.probabilities.gather(1, train.labels[:, None]).mean()),
        val_suspects=len(label_suspects(val.probabilities, val.labels)),
        num_val=val.num_images,
    )
    facts = Facts(
        num_train=info.num_train,
        num_classes=info.num_classes,
        num_available=info.num_available,
        elsewhere=not info.val_is_cut,
        stopped=stopped,
        layers=[(one.name, one.activation, one.dead, one.saturated) for one in health],
        num_probed=probed,
        noise=noise,
    )
    seen = {split: {"num_errors": one.num_errors, "num_images": one.num_images} for split, one in evaluations.items()}
    return assess(config, seen, facts, rows)


def probe_units(
    data: ImageDataModule, network: nn.Module, device: torch.device, *, compiled: bool = False
) -> tuple[list[LayerHealth], int]:
    """Dead and saturated units on the first 1,000 images or more of ``train_eval``, and how many these were."""
    if compiled:  # hooks would make it compile anew
        return [], 0
    dtype, count = next(network.parameters()).dtype, 0

    def batches() -> Iterator[torch.Tensor]:
        nonlocal count
        for batch in eval_batches(data, "train_eval", device):
            count += len(batch.labels)
            yield batch.images.to(dtype)
            if count >= FEWEST_IMAGES:
                return

    return unit_health(network, batches()), count


def draw(
    config: RunConfig,
    data: ImageDataModule,
    evaluations: dict[str, Evaluation],
    history: list[dict[str, float]],
    kept: Kept,
    folder: Path,
    assessment: Assessment,
) -> list[Path]:
    """The pictures of a run: its errors as a ladder, learning curves, confusion matrix, sample predictions."""
    from litmus.diagnosis import plots

    folder.mkdir(parents=True, exist_ok=True)
    info, test, unit = data.info, evaluations["test"], config.train.unit
    x = "epoch" if unit == "epochs" else "step"
    keys = {key for row in history for key in row if key in METRICS}
    curves = {key: [(row[x], row[key]) for row in history if key in row] for key in keys}
    matrix = confusion_matrix(test.labels, test.predicted, info.num_classes)
    confidence = test.probabilities.max(1).values
    chosen = torch.from_numpy(np.concatenate(pick_predictions(test.labels, test.predicted, confidence)))
    return [
        plots.learning_curves(
            curves,
            folder / "learning_curves.png",
            best_epoch=kept.epoch if unit == "epochs" else kept.step,
            target_err=config.data.target_err,
            augmented=augments(config),
            unit=unit,
        ),
        plots.confusion(matrix, info.class_names, folder / "confusion.png", split="test"),
        plots.predictions(
            data.images("test")[test.idx[chosen]],
            test.labels[chosen],
            test.predicted[chosen],
            test.probabilities[chosen],
            info.class_names,
            folder / "predictions.png",
            totals=(test.num_errors, test.num_images),
        ),
        plots.diagnosis(assessment.diagnosis, folder / "diagnosis.png", test=(test.num_errors, test.num_images)),
    ]


def record(config: RunConfig, result: Result, network: nn.Module, tracked: Run) -> None:
    """Best values as metrics of their own, the verdict as tags, weights and pictures as artifacts."""
    best = {
        f"{'best' if split != 'test' else 'test'}/{name if split == 'test' else f'{split}_{name}'}": value
        for split, seen in result.evaluations.items()
        for name, value in (("loss", seen.loss), ("err", seen.err))
    }
    if result.test_interval:
        best["test/err_low"], best["test/err_high"] = result.test_interval
    best |= {"best/epoch": float(result.kept.epoch), **result.assessment.metrics}
    tracked.log_metrics(best, step=result.kept.step)
    tracked.set_tags(
        {
            **result.assessment.tags,
            "litmus.evaluated": f"{result.kept.which} weights, epoch {result.kept.epoch}, step {result.kept.step}",
            "litmus.stopped": result.stopped or f"after {config.train.length} {config.train.unit}",
        }
    )
    weights = tracked.dir / "weights.safetensors"
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        weights,
        metadata={METADATA_KEY: Preprocessing.of(result.info).to_json()},
    )
    tracked.log_artifact(weights)
    tracked.log_text(json.dumps(result.table(), indent=1), RESULT)
    tracked.log_text(json.dumps(result.assessment.table(), indent=1), DIAGNOSIS)
    for picture in result.pictures:
        tracked.log_artifact(picture, "pictures")
    for profile in result.profiles:
        tracked.log_artifact(profile, "profile")


def headline(config: RunConfig, info: DataInfo, classifier: ImageClassifier, trainer: L.Trainer, tracked: Run) -> str:
    """What is about to run, in a few lines."""
    network = classifier.network
    train, optim = config.train, config.optim
    size = num_params(network)
    images = "x".join(map(str, (info.channels, *info.image_size)))
    device, rate = str(trainer.strategy.root_device), f"lr {config.lr:g}"
    if train.world_size > 1:
        device = f"{train.world_size} x {trainer.strategy.root_device.type} ({train.strategy.replace('auto', 'ddp')})"
    if train.lr_scaling != "none":
        rate += f" ({optim.lr:g} with {train.lr_scaling} scaling for {train.world_size} devices)"
    facts = [rate, f"l2_lambda {optim.l2_lambda:g}" if optim.l2_lambda else ""]
    return "\n".join(
        [
            f"run    {tracked.name}, seed {config.seed}, in {shown(tracked.dir)}",
            f"model  {config.model.name} {getattr(config.model, 'depth', getattr(config.model, 'backbone', ''))}, "
            f"{size:,} parameters, on {device} in {train.precision}",
            f"data   {info.name} {images}, {info.num_train:,} train / {info.num_val:,} val / {info.num_test:,} test, "
            f"{info.num_classes} classes, from {info.source}",
            f"optim  {optim.name}, {', '.join(filter(None, facts))}, {config.schedule.name} rate, "
            f"{train.length:,} {train.unit} in batches of {config.batch_size * train.accumulate}",
            *([f"start  {classifier.origin}"] if classifier.origin else []),
            *(f"note   {note}" for note in notes(config)),
            *(f"       {row}" for row in layer_table(config, network)),
        ]
    )


def farewell(config: RunConfig, result: Result) -> str:
    """The end of a run: test error, verdict, pictures, run, next command."""
    assert result.test_interval is not None
    test, (low, high) = result.evaluations["test"], result.test_interval
    kept, run_id = result.kept, result.run.id or result.run.uid
    ended = f"stopped: {result.stopped}; " if result.stopped else ""
    table = result.assessment.table()
    lines = [
        "",
        f"test/err {test.err:.4f} (95% {low:.4f} to {high:.4f}; {test.num_errors:,} of {test.num_images:,} images), "
        f"test/loss {test.loss:.4f}",
        f"  {ended}{kept.which} weights by {config.monitor}, epoch {kept.epoch}"
        if kept.which == "best"
        else f"  {ended}last weights, epoch {kept.epoch}",
        *([f"  {result.saved}"] if result.saved else []),
        *textwrap.wrap(f"  gradients {result.watched}" if result.watched else "", 116, subsequent_indent="    "),
        *told(table),
        "",
        *([*result.insight.lines, ""] if result.insight else []),
        *(f"picture  {shown(picture)}" for picture in result.pictures),
        *(f"table    {shown(table)}" for table in (result.insight.tables if result.insight else [])),
        *(f"profile  {shown(profile)}" for profile in result.profiles),
        f"run      {run_id}" + ("" if result.run.id else "  (not sent yet: litmus sync)"),
        f"again    litmus reproduce {run_id[:8]}",
        *([f"try      {line}"] if (line := command(result.run.dir / ARTIFACTS / "config.yaml", table)) else []),
        f"next     litmus diagnose {run_id[:8]}{'' if result.insight else ' --insight'}    or    litmus ui",
    ]
    return "\n".join(lines)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's banners and the warnings that concern its users, not ours, off the screen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*isinstance\\(treespec, LeafSpec\\).*",
                ".*number of training batches.*",
                ".*Checkpoint directory .* exists and is not empty.*",
                ".*when logging on epoch level in distributed setting.*",  # our sums are those of all devices
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
