"""``litmus decompose``: many trainings on independent draws, taken apart into bias, variance and noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from litmus.config import RunConfig, load_config
from litmus.config.vary import Arm, arm_configs, arms_of
from litmus.errors import Problem, Refused
from litmus.paths import shown
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done
from litmus.sweep.experiment import Experiment, Options

Split = Literal["val", "test"]
FEWEST_FOR_INTERVAL = 3


@dataclass(frozen=True)
class Design:
    """How a way of training is repeated.

    Attributes:
        draws: disjoint parts of the training images, each trained on by a model of its own.
        reshuffles: how often the training images are cut anew.
        seeds: trainings on each draw; with more than one, what initialisation and order add is told apart.
        split: whose images the models are asked about.
    """

    draws: int = 6
    reshuffles: int = 2
    seeds: int = 1
    split: Split = "test"

    @property
    def num_models(self) -> int:
        return self.draws * self.reshuffles * self.seeds

    def check(self) -> None:
        """Raises ``Refused``."""
        problems = []
        if self.draws < 2:
            problems.append(Problem("--draws", "must be at least 2: a variance is between models", self.draws))
        for name, value in (("--reshuffles", self.reshuffles), ("--seeds", self.seeds)):
            if value < 1:
                problems.append(Problem(name, "must be at least 1", value))
        if self.split not in ("val", "test"):
            problems.append(Problem("--split", "is one of val, test", self.split))
        if problems:
            raise Refused(problems, source="litmus decompose")

    def cells(self, arm: Arm, config: RunConfig) -> list[Cell]:
        """In the order reshuffle, draw, seed. All arms share their draws and seeds, so that they are paired."""
        measure = answers_to(self.split)
        found = []
        for reshuffle in range(self.reshuffles):
            for draw in range(self.draws):
                for seed in range(self.seeds):
                    number = (reshuffle * self.draws + draw) * self.seeds + seed
                    words = [arm.label, f"reshuffle {reshuffle}", f"draw {draw}", f"seed {seed}" * (self.seeds > 1)]
                    changes = {
                        "seed": seeded(config, number),
                        "data.parts": self.draws,
                        "data.part": draw,
                        "data.draw_seed": reshuffle + 1,
                    }
                    found.append(Cell(", ".join(filter(None, words)), changed(config, changes), (measure,)))
        return found


def answers_to(split: str) -> Measure:
    return Measure("litmus.sweep.look:answers", {"split": split})


def decompose(
    sources: Sequence[str],
    overrides: Sequence[str],
    *,
    over: Sequence[str] = (),
    arms: Sequence[str] = (),
    design: Design | None = None,
    options: Options | None = None,
    typed: Sequence[str] = ("decompose",),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, take apart, draw, record. Returns the table that ``decomposition.json`` holds.

    Raises:
        Refused: everything that is wrong, before the first training.
        Stopped: by a signal; the same command goes on.
        Incomplete: trainings came to no answer.
    """
    design = design or Design()
    design.check()
    base = load_config(list(sources), list(overrides))
    for key in ("parts", "part", "draw_seed"):
        if getattr(base.data, key):
            says = "is what the command varies: leave it out (see --draws, --reshuffles)"
            raise Refused(Problem(f"data.{key}", says, getattr(base.data, key)), source="litmus decompose")
    chosen = arms_of(over, arms)
    configs = arm_configs(sources, overrides, chosen)
    plan = [design.cells(arm, config) for arm, config in zip(chosen, configs, strict=True)]
    params: dict[str, Any] = {"decompose.draws": design.draws, "decompose.reshuffles": design.reshuffles}
    params |= {"decompose.seeds": design.seeds, "decompose.over": [*over, *arms]}
    with Experiment(
        kind="decompose",
        name=f"decompose-{base.run_name}",
        base=base,
        typed=typed,
        options=options,
        params=params,
        say=say,
    ) as experiment:
        experiment.plan([cell for cells in plan for cell in cells])
        say("\n".join(_head(base, design, chosen, experiment)))
        done = experiment.train()
        found = {
            arm.label: take_apart([done[cell.name] for cell in cells], design)
            for arm, cells in zip(chosen, plan, strict=True)
        }
        return _conclude(experiment, design, chosen, over, found, say)


def _head(base: RunConfig, design: Design, arms: Sequence[Arm], experiment: Experiment) -> list[str]:
    models = f"{design.draws} disjoint draws x {design.reshuffles} reshuffles"
    models += f" x {design.seeds} seeds" if design.seeds > 1 else ""
    listed = ", ".join(arm.label for arm in arms if arm.label)
    return [
        f"models   {models} = {design.num_models} for each of {len(arms)} arms, asked about the {design.split} images",
        *([f"arms     {listed[:300]}"] if listed else []),
        f"config   {base.run_name}, {base.train.length} {base.train.unit}; {len(experiment.posts)} at a time",
    ]


@dataclass(frozen=True)
class TakenApart:
    """One arm. ``parts`` is None where models diverged: of fewer models nothing would be comparable."""

    parts: Any
    sources: Any
    diverged: int
    train_err: float


def answers_of(done: Sequence[Done], design: Design) -> tuple[Any, Any]:
    """Log-probabilities (reshuffles, draws, seeds, N, K) of the models of one arm, in ``Design.cells``' order, and
    labels (N,).

    Raises:
        RuntimeError: the models were not asked about the same images.
    """
    answers = [one.measured(answers_to(design.split)) for one in done]
    labels = answers[0]["labels"]
    if any(not np.array_equal(one[what], answers[0][what]) for what in ("idx", "labels") for one in answers):
        raise RuntimeError("the models were not asked about the same images")
    shape = (design.reshuffles, design.draws, design.seeds, *answers[0]["log_probs"].shape)
    return np.stack([one["log_probs"] for one in answers]).reshape(shape), labels


def take_apart(done: Sequence[Done], design: Design) -> TakenApart:
    """What the models of one arm say of the same images, taken apart."""
    from litmus.diagnosis.decomposition import decompose as taken
    from litmus.diagnosis.decomposition import variance_sources

    diverged = sum(one.diverged for one in done)
    if diverged:
        return TakenApart(None, None, diverged, float("nan"))
    train_err = float(np.mean([one.result()["train_eval"]["err"] for one in done]))
    logs, labels = answers_of(done, design)
    parts = taken(logs[:, :, 0], labels)
    sources = None
    if design.seeds > 1:
        sources = variance_sources(np.exp(logs[0]))  # of one cut: the training sets of two share images
    return TakenApart(parts, sources, 0, train_err)


def _conclude(
    experiment: Experiment,
    design: Design,
    arms: Sequence[Arm],
    over: Sequence[str],
    found: dict[str, TakenApart],
    say: Callable[[str], None],
) -> dict[str, Any]:
    from litmus.diagnosis.decomposition_plots import decomposition_sweep

    table: dict[str, Any] = {
        "design": vars(design),
        "arms": {
            label: {
                "train_err": one.train_err,
                "diverged": one.diverged,
                **(one.parts.table() if one.parts else {}),
                **({"sources": one.sources.table()} if one.sources else {}),
            }
            for label, one in found.items()
        },
    }
    run = experiment.run
    run.log_text(json.dumps(table, indent=1), "decomposition.json")
    whole = {label: one.parts for label, one in found.items() if one.parts is not None}
    say("")
    for label, one in found.items():
        name = f"{label}: " if label else ""
        if one.parts is None:
            say(f"{name}{one.diverged} of {design.num_models} models diverged; nothing is said of it")
            continue
        say(f"{name}{one.parts.squared.sentence}")
        if one.sources is not None:
            say(f"  {one.sources.sentence}")
    for step, (_, one) in enumerate(found.items()):
        if one.parts is not None:
            squared = one.parts.squared
            metrics = {
                "decompose/bias2_and_noise": squared.bias2_and_noise.value,
                "decompose/variance": squared.variance.value,
                "decompose/total": squared.total.value,
                "decompose/err": one.parts.zero_one.total.value,
            }
            run.log_metrics(metrics, step=step)
    if whole:
        x, sweep = axis_of(over, arms, whole)
        picture = decomposition_sweep(sweep, Path(run.dir) / "decomposition.png", x=x, svg=True)
        say("")
        say(f"picture  {experiment.kept(picture)}")
        experiment.kept(picture.with_suffix(".svg"))
    say(f"table    {shown(Path(run.dir) / 'artifacts' / 'decomposition.json')}")
    say(f"run      {run.id or run.uid}")
    if len(arms) == 1:
        say(f"next     {experiment.again} --over model.width=...    (the figure over a setting)")
    else:
        say("next     litmus ui")
    return table


def axis_of(over: Sequence[str], arms: Sequence[Arm], whole: dict[str, Any]) -> tuple[str, dict[Any, Any]]:
    """What the figure's axis is: the one key that is varied, as numbers where they are numbers; else the arms."""
    if len(over) == 1 and len(arms) > 1 and all(len(arm.overrides) == 1 for arm in arms):
        key = over[0].partition("=")[0].strip()
        values = {arm.label: arm.overrides[0].partition("=")[2] for arm in arms}
        try:
            return key, {float(values[label]): parts for label, parts in whole.items()}
        except ValueError:
            return key, {values[label]: parts for label, parts in whole.items()}
    return "arm", {label or "as it is": parts for label, parts in whole.items()}
