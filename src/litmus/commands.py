"""What the sub-commands do, besides ``fit``."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from litmus.config import RunConfig, notes


def check_run(
    config: RunConfig,
    *,
    show: bool,
    decode: bool = False,
    sources: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Everything that can be refused before compute; with ``show``, a picture of augmented training batches.

    ``decode`` looks at every file of the data again; where one of ``sources`` is a run's ``config.yaml``, the data are
    compared with those of the run.
    """
    from litmus.experiment import checked_data, make_network
    from litmus.networks import num_params
    from litmus.paths import shown
    from litmus.transfer import layer_table
    from litmus.weights import follow_weights, load_weights_

    config = follow_weights(config)
    data = checked_data(config)
    info = data.info
    images = "x".join(map(str, (info.channels, *info.image_size)))
    say(f"data   {info.name} {images}, {info.num_classes} classes, from {info.source}")
    say(
        f"       {info.num_train:,} train / {info.num_val:,} val / {info.num_test:,} test, digest {info.digest}, "
        f"splits {info.split_digest}"
    )
    if decode:
        from litmus.data.verify import verify_files

        for line in verify_files(data):
            say(f"files  {line}")
        for line in same_data(info.digest, sources):
            say(f"data   {line}")
    network = make_network(config, info)
    say(f"model  {config.model.name}, {num_params(network):,} parameters")
    if origin := load_weights_(network, config):
        say(f"start  {origin}")
    for note in notes(config):
        say(f"note   {note}")
    for row in layer_table(config, network):
        say(f"       {row}")
    if show:
        say(f"picture  {shown(draw_augmented(config, data))}")
    say("nothing to refuse; next: litmus fit with the same arguments")


def same_data(digest: str, sources: Sequence[str]) -> Iterator[str]:
    """Says so for each run whose ``config.yaml`` is among ``sources``; ``Refused`` if its data were others."""
    from litmus.errors import refuse
    from litmus.tracking import find_run

    for source in sources:
        directory = Path(source).absolute().parent.parent
        if Path(source).name != "config.yaml" or not (directory / "spool.sqlite").is_file():
            continue
        run = find_run(str(directory))
        for name, recorded in run.data_digests().items():
            if recorded != digest:
                says = f"is the digest of {name} now, run {run.id8} recorded {recorded}: images or labels changed"
                raise refuse("data", says, digest, source=str(directory))
            yield f"the same as run {run.id8} had"


def draw_augmented(config: RunConfig, data: Any, *, rows: int = 8, epochs: int = 8) -> Path:
    """A grid of training images, as they are and as the first epochs would see them."""
    import torch

    from litmus.data.batch import Batch
    from litmus.diagnosis import plots

    chosen = data.indices("train")[:rows]
    originals, labels = data.images("train")[chosen], data.labels("train")[chosen]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.info.mean, data.info.std))
    seen = [data.to_batch(Batch(originals, labels, chosen), epoch=epoch).images for epoch in range(epochs)]
    views = [(view * std + mean).clamp(0, 1).mul(255).round().byte() for view in seen]
    path = Path(config.tracking.home) / "pictures" / f"{config.run_name}-augmented.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return plots.augmented(originals, views, labels, data.info.class_names, path)


def retest(reference: str, *, home: str, uri: str | None, say: Callable[[str], None] = print) -> None:
    """Evaluate a stored run's weights on its test set, and say whether that is what the run reported."""
    import json

    from litmus.devices import best_device
    from litmus.diagnosis import wilson
    from litmus.evaluation import evaluate
    from litmus.experiment import eval_batches, make_data, quiet_libraries
    from litmus.tracking import find_run
    from litmus.trained import load_trained

    stored = find_run(reference, home=home, uri=uri)
    with quiet_libraries():
        trained = load_trained(stored)
        config, device = trained.config, best_device(trained.config.train.accelerator)
        data = make_data(config)  # not what a training would need besides, such as the weights it began with
        data.prepare()
        test = evaluate(
            trained.network.to(device),
            eval_batches(data, "test", device),
            device=device,
            bf16=config.train.precision == "bf16-mixed",
        )
    low, high = wilson(test.num_errors, test.num_images)
    say(f"run {stored.id or stored.uid}  {stored.name}")
    say(
        f"test/err {test.err:.4f} (95% {low:.4f} to {high:.4f}; {test.num_errors:,} of {test.num_images:,} images), "
        f"test/loss {test.loss:.4f}"
    )
    reported = json.loads(Path(stored.artifact("result.json")).read_text()).get("test")
    if reported is None:
        say("the run itself was not tested: a study's trial leaves the test set alone")
        return
    same = reported["num_errors"] == test.num_errors
    say("the run reported the same" if same else f"the run reported {reported['err']:.4f}: not the same")


def list_runs(*, home: str, uri: str | None, limit: int, say: Callable[[str], None] = print) -> None:
    """A table of runs, newest first."""
    from litmus.tracking import list_runs as find_runs

    stored = find_runs(home=home, uri=uri, limit=limit)
    if not stored:
        say(f"no runs in {home}; make one: litmus fit configs/digits_resnet8.yaml")
        return
    rows = [("run", "kind", "name", "status", "val/err", "test/err", "age", "verdict")]
    for run in stored:
        val_err, test_err = (
            f"{run.metrics[key]:.4f}" if key in run.metrics else "" for key in ("best/val_err", "test/err")
        )
        age, verdict = ago(time.time() - run.started_at), run.tags.get("litmus.verdict", "")
        rows.append((run.id8, run.kind, run.name, run.status, val_err, test_err, age, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    trained = next((run for run in stored if run.kind == "train"), None)
    words: list[str] = []
    if trained is not None and trained.status != "RUNNING":
        ways = ("test", "reproduce") if trained.status == "FINISHED" else ("fit --resume",)
        words = [f"litmus {way} {trained.id8}" for way in ways]
    say(f"next: {'    or    '.join([*words, 'litmus ui'])}")


def send(
    reference: str | None, *, home: str | None = None, uri: str | None, say: Callable[[str], None] = print
) -> bool:
    """Send one run, or every run that was not sent; False when something is left.

    A run directory from outside ``home`` goes to the store of ``home`` when that was named, else where it was sent
    when it was made.
    """
    from rich.console import Console
    from rich.progress import track

    from litmus.errors import Problem, Refused, refuse
    from litmus.tracking import embedded_uri, find_run, sync, unsynced

    runs = home or "mlruns"
    directories: list[Path] = []
    if reference is None:
        directories = unsynced(runs)
    else:
        found = find_run(reference, home=runs, uri=uri)
        if found.dir is None:
            raise refuse("run", f"has no run directory in {runs}: there is nothing to send from here", reference)
        directories = [found.dir]
        if home and uri is None and found.dir.resolve().parent != Path(home, "runs").resolve():
            uri = embedded_uri(home)
    if not directories:
        say("nothing to send; litmus runs lists what there is")
        return True
    complete = True
    refused: list[Problem] = []
    with_bar = len(directories) > 1
    console = Console(stderr=True)
    for directory in track(
        directories, "sending", console=console, transient=True, disable=not (with_bar and console.is_terminal)
    ):
        try:
            sent = sync(directory, uri=uri)
        except Refused as one:  # the others can be sent all the same
            refused += one.problems
            continue
        complete &= sent.complete
        facts = f"{sent.sent:,} facts sent" if sent.sent else "nothing was missing"
        where = f"as run {(sent.run_id or '')[:8]}, {facts}" if sent.complete else f"{sent.left:,} left: {sent.error}"
        say(f"{directory.name}  {'sent' if sent.complete else 'not sent'}  {where}")
        for row in sent.refused:
            say(f"  MLflow does not take {row}")
    if refused:
        raise Refused(refused, source="run")
    say("next: litmus runs    or    litmus ui" if complete else f"next: {_again(reference, home, uri)}")
    return complete


def _again(reference: str | None, home: str | None, uri: str | None) -> str:
    words = ["litmus", "sync", reference or "--all", *(["--home", home] if home else [])]
    if uri is not None and "@" not in uri:
        words += ["--uri", uri]
    return shlex.join(words)


def ago(elapsed_sec: float) -> str:
    """``3 min``, ``5 h``, ``2 d``."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if elapsed_sec >= seconds:
            return f"{elapsed_sec / seconds:.0f} {unit}"
    return f"{max(elapsed_sec, 0):.0f} s"


def lr_range_test(
    config: RunConfig,
    *,
    steps: int,
    low: float,
    high: float,
    sources: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Train with a rate that grows from ``low`` to ``high``, and read a rate off the curve of the loss (Smith 2017).

    The batches, augmentation, loss and optimizer are the run's; the weights are thrown away. Ends early once the loss
    has clearly diverged.
    """
    import json

    from litmus.diagnosis import plots, suggest_lr
    from litmus.experiment import checked_data, make_classifier, quiet_libraries, start_tracking
    from litmus.paths import shown
    from litmus.weights import follow_weights

    with quiet_libraries():
        config = follow_weights(config)
        data = checked_data(config)
        with start_tracking(config, data.info, kind="lr") as tracked:
            classifier = make_classifier(config, data)
            rates, losses = range_test(config, classifier, data, steps=steps, low=low, high=high)
            found = suggest_lr(rates, losses)
            for step, (rate, loss) in enumerate(zip(rates, losses, strict=True)):
                tracked.log_metrics({"lr_range/lr": rate, "lr_range/loss": loss}, step=step)
            if found.lr is not None:
                tracked.set_tags({"litmus.suggested_lr": f"{found.lr:.2g}"})
            tracked.log_text(json.dumps({"lr": rates, "loss": losses}), "lr_range.json")
            picture = plots.lr_range(rates, losses, tracked.dir / "lr_range.png", found, configured=config.optim.lr)
            tracked.log_artifact(picture, "pictures")
    if found.lr is not None:
        say(f"suggested optim.lr = {found.lr:.2g}; the config has {config.optim.lr:g}")
    if found.note:
        say(f"  note: {found.note}")
    say(f"picture  {shown(picture)}")
    if found.lr is not None:
        say(f"next     {shlex.join(['litmus', 'fit', *sources, f'optim.lr={found.lr:.2g}'])}")


def training_batches(data: Any, device: Any) -> Iterator[Any]:
    """Augmented training batches on ``device``, epoch after epoch."""
    from litmus.data.batch import Batch

    loader = data.loader("train")
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield data.to_batch(Batch(*(column.to(device) for column in batch)), epoch=epoch)


def range_test(
    config: RunConfig, classifier: Any, data: Any, *, steps: int, low: float, high: float
) -> tuple[list[float], list[float]]:
    """Rates and training losses of a range test; ends once the loss is 10 times its best or not finite."""
    import math

    import torch
    from rich.progress import track
    from torch.nn import functional as F

    from litmus.devices import best_device
    from litmus.networks.layers import set_frozen_
    from litmus.optim import build_optimizer
    from litmus.transfer import make_plan

    device = best_device(config.train.accelerator)
    network = classifier.network.to(device).train()
    if (plan := make_plan(config, network)) is not None:
        set_frozen_(network, plan.frozen_at(0))
    optim = {**classifier.optim, "lr": low}
    optimizer = build_optimizer(network, num_train=data.info.num_train, **optim)
    bf16 = config.train.precision == "bf16-mixed"
    rates: list[float] = []
    losses: list[float] = []
    batches = training_batches(data, device)
    for step in track(range(steps), description="range test", transient=True):
        rate = low * (high / low) ** (step / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        images, labels = next(batches)[:2]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images), labels, label_smoothing=config.train.label_smoothing)
        if not math.isfinite(loss.item()):
            break
        rates.append(rate)
        losses.append(loss.item())
        if loss.item() > 10 * min(losses):
            break
        optimizer.zero_grad()
        loss.backward()
        if config.train.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip)
        optimizer.step()
    return rates, losses
