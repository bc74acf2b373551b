"""``litmus curve``: error against the number of training images, and what more of them would bring."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from litmus.config import RunConfig, flatten, load_config
from litmus.errors import Problem, Refused
from litmus.paths import shown
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed, halved_sizes, in_steps, seeded, steps_per_epoch
from litmus.sweep.engine import Done, data_of
from litmus.sweep.experiment import Experiment, Options

FEWEST_SIZES = 2


@dataclass(frozen=True)
class Design:
    """What is trained for a curve.

    Attributes:
        sizes: numbers of training images; empty for all of them, a half, a quarter, ...
        seeds: trainings of each size; each draws images of its own, the smaller sets inside the larger.
        equal: what all sizes have in common. ``steps``: as many as the config makes on all images. ``epochs``: then
            a small set is trained for few steps, and a curve falls for that reason too.
    """

    sizes: tuple[int, ...] = ()
    seeds: int = 5
    equal: Literal["steps", "epochs"] = "steps"

    def check(self, base: RunConfig) -> None:
        """What can be said before the data are looked at. Raises ``Refused``."""
        problems = []
        if self.seeds < 1:
            problems.append(Problem("--seeds", "must be at least 1; an interval needs 2, a law 3", self.seeds))
        if self.equal not in ("steps", "epochs"):
            problems.append(Problem("--equal", "is one of steps, epochs", self.equal))
        if self.sizes and (list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1):
            problems.append(Problem("--sizes", "must be >= 1 and rise, each once", list(self.sizes)))
        elif self.sizes and len(self.sizes) < FEWEST_SIZES:
            problems.append(Problem("--sizes", "a curve has at least 2, a law at least 3", list(self.sizes)))
        for key in ("parts", "draw_seed"):
            if getattr(base.data, key):
                says = "decides which images are drawn, and that is what the command varies: leave it out"
                problems.append(Problem(f"data.{key}", says, getattr(base.data, key)))
        if base.train.unit == "steps" and self.equal == "epochs":
            says = "needs a config that counts in epochs; this one sets train.steps"
            problems.append(Problem("--equal", says, self.equal))
        if problems:
            raise Refused(problems, source="litmus curve")

    def sizes_for(self, base: RunConfig, info: Any) -> list[int]:
        """Raises ``Refused`` for sizes that the data do not have."""
        sizes = list(self.sizes) or halved_sizes(base, info)
        problems = []
        if sizes and sizes[-1] > info.num_train:
            says = f"has more than the {info.num_train:,} training images that there are"
            problems.append(Problem("--sizes", says, sizes[-1]))
        if sizes and sizes[0] < info.num_classes:
            says = f"must hold an image of each of the {info.num_classes} classes"
            problems.append(Problem("--sizes", says, sizes[0]))
        if len(sizes) < FEWEST_SIZES:
            says = f"{info.num_train} training images of {info.num_classes} classes are too few for a curve"
            problems.append(Problem("data", says))
        if problems:
            raise Refused(problems, source="litmus curve")
        return sizes

    def cells(self, base: RunConfig, sizes: Sequence[int], num_train: int) -> list[Cell]:
        """Size by size, seed by seed; stopped early as ``criterion_of`` says."""
        config = in_steps(base, num_train) if self.equal == "steps" else base
        found = []
        for size in sizes:
            for seed in range(self.seeds):
                changes: dict[str, Any] = {
                    "seed": seeded(base, seed),
                    "data.num_train": size,
                    "data.draw_seed": seeded(base, seed + 1),
                }
                if base.early_stopping is None and criterion_of(base):
                    changes["early_stopping"] = {"name": "gl"}
                found.append(Cell(name_of(size, seed), changed(config, changes)))
        return found


def criterion_of(base: RunConfig) -> str:
    """What may end the trainings of a curve early; empty for nothing.

    Where the config says nothing it is GL: without it a small set would be trained until it is known by heart, and the
    curve would show that. But not under a rate that decays: the loss rises for a while where the rate is still high,
    and a training that is ended then never sees the low rates (measured: GL ended trainings on 1,000 to 4,000 images
    of Fashion-MNIST after a quarter of their steps, under a cosine).
    """
    if base.early_stopping is not None:
        return str(base.early_stopping.name)
    return "gl" if base.schedule.name == "constant" else ""


def name_of(size: int, seed: int) -> str:
    return f"n={size}, seed {seed}"


def curve(
    sources: Sequence[str],
    overrides: Sequence[str],
    *,
    design: Design | None = None,
    options: Options | None = None,
    typed: Sequence[str] = ("curve",),
    say: Callable[[str], None] = print,
) -> Any:
    """Train on nested subsets, read the curve, draw, record. Returns the ``CurveReading``.

    Raises:
        Refused: everything that is wrong, before the first training.
        Stopped: by a signal; the same command goes on.
        Incomplete: trainings came to no answer, or diverged.
    """
    design = design or Design()
    base = load_config(list(sources), list(overrides))
    design.check(base)
    info = data_of(base, source="litmus curve")
    sizes = design.sizes_for(base, info)
    cells = design.cells(base, sizes, info.num_train)
    with Experiment(
        kind="curve",
        name=f"curve-{base.run_name}",
        base=base,
        typed=typed,
        options=options,
        params={"curve.sizes": sizes, "curve.seeds": design.seeds, "curve.equal": design.equal},
        say=say,
    ) as experiment:
        experiment.plan(cells)
        say("\n".join(_head(base, design, sizes, info, experiment)))
        done = experiment.train()
        return _conclude(experiment, base, design, sizes, done, info, say)


def length_in_words(base: RunConfig, design: Design, num_train: int) -> str:
    """How long each size is trained, for the figure: curves of equal steps and of equal epochs are different curves."""
    train = base.train
    if design.equal == "epochs":
        how = f"equal epochs: {train.length} each"
    else:
        how = f"equal steps: at most {num_steps(base, num_train):,} each"
    stop = criterion_of(base)
    ends = f"early stopping ({stop})" if stop else "no early stopping, for the rate decays"
    return f"{how}, {ends}, {base.checkpoint.evaluate} weights"


def num_steps(base: RunConfig, num_train: int) -> int:
    """Of the config's training on all images."""
    train = base.train
    return train.length if train.unit == "steps" else train.length * steps_per_epoch(base, num_train)


def _head(base: RunConfig, design: Design, sizes: Sequence[int], info: Any, experiment: Experiment) -> list[str]:
    return [
        f"curve    {base.run_name} on {', '.join(f'{size:,}' for size in sizes)} images, {design.seeds} seeds each: "
        f"{len(sizes) * design.seeds} trainings, {len(experiment.posts)} at a time",
        f"length   {length_in_words(base, design, info.num_train)}",
        f"draws    stratified, nested, another for each seed; the same {info.num_val:,} validation images for all",
    ]


def _conclude(
    experiment: Experiment,
    base: RunConfig,
    design: Design,
    sizes: Sequence[int],
    done: dict[str, Done],
    info: Any,
    say: Callable[[str], None],
) -> Any:
    from litmus.diagnosis.curve import read_curve
    from litmus.diagnosis.curve_plots import data_curve
    from litmus.sweep.experiment import Incomplete

    if diverged := [one.cell.name for one in done.values() if one.diverged]:
        error = Incomplete(f"{len(diverged)} of {len(done)} trainings diverged: {'; '.join(diverged[:5])}")
        error.add_note("a smaller optim.lr, train.grad_clip=1 or a schedule.warmup may help; litmus lr finds a rate")
        raise error
    results = [[done[name_of(size, seed)].result() for seed in range(design.seeds)] for size in sizes]
    errs = {split: np.array([[one[split]["err"] for one in row] for row in results]) for split in ("train_eval", "val")}
    seen = [row[0]["train_eval"]["num_images"] for row in results]
    reading = read_curve(
        sizes,
        errs["train_eval"],
        errs["val"],
        num_val=info.num_val,
        num_train=seen,
        target_err=base.data.target_err,
        tolerance=base.diagnosis.tolerance,
        config=flatten(base),
    )
    run = experiment.run
    for size, row_train, row_val in zip(sizes, errs["train_eval"], errs["val"], strict=True):
        run.log_metrics({"curve/train_err": row_train.mean(), "curve/val_err": row_val.mean()}, step=size)
    run.set_tags({"litmus.verdict": reading.verdict, "litmus.curve": reading.forecast})
    run.log_text(json.dumps(table_of(reading, design, sizes, errs), indent=1), "curve.json")
    run.log_text(_csv(sizes, errs), "curve.csv")
    picture = data_curve(
        reading,
        Path(run.dir) / "curve.png",
        equal=design.equal,
        early_stopping=bool(criterion_of(base)),
        length=num_steps(base, info.num_train) if design.equal == "steps" else base.train.length,
        svg=True,
    )
    say("")
    for line in (reading.headline, reading.shape, reading.forecast):
        say(line)
    for note in reading.notes:
        say(f"  note: {note}")
    for i, move in enumerate(reading.moves, start=1):
        say(f"  {'next moves' if i == 1 else '':<12}{i}. {move}")
    say("")
    say(f"picture  {experiment.kept(picture)}")
    experiment.kept(picture.with_suffix(".svg"))
    say(f"table    {shown(Path(run.dir) / 'artifacts' / 'curve.csv')}")
    say(f"run      {run.id or run.uid}")
    say("next     litmus ui")
    return reading


def table_of(reading: Any, design: Design, sizes: Sequence[int], errs: dict[str, Any]) -> dict[str, Any]:
    """Plain numbers of a curve, for JSON."""
    from litmus.diagnosis.power_law import NoFit

    law = reading.law
    fitted: dict[str, Any] = {"reason": law.reason} if isinstance(law, NoFit) else {}
    if not fitted:
        fitted = {"a": law.a, "b": law.b, "c": law.c, "b_95": list(law.b_interval), "c_95": list(law.c_interval)}
    held = reading.held_out
    return {
        "design": {**asdict(design), "sizes": list(sizes)},
        "train_err": errs["train_eval"].tolist(),
        "val_err": errs["val"].tolist(),
        "law": fitted,
        "gain": None if reading.gain is None else {**asdict(reading.gain), "interval": list(reading.gain.interval)},
        "held_out": {"reason": held.reason} if isinstance(held, NoFit) else held.sentence,
        "verdict": reading.verdict,
        "sentence": reading.sentence,
        "notes": list(reading.notes),
    }


def _csv(sizes: Sequence[int], errs: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["images", "seed", "train_err", "val_err"])
    for size, trains, vals in zip(sizes, errs["train_eval"], errs["val"], strict=True):
        writer.writerows([size, seed, one, two] for seed, (one, two) in enumerate(zip(trains, vals, strict=True)))
    return out.getvalue()
