"""From a run's config, errors and curves to verdict, moves and readings.

Plain numbers and no torch: a run that is long over is read in milliseconds.
"""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from litmus.config import RunConfig, flatten, merge_overrides, parse_config
from litmus.criteria import GL, PQ, UP, Criterion, stops_at
from litmus.diagnosis import Diagnosis, diagnose_errors, diagnose_seeds
from litmus.diagnosis.moves import is_held_back
from litmus.diagnosis.readings import Reading, Row, read_curves, read_mismatch, read_units
from litmus.errors import Refused
from litmus.paths import shown

CURVES = (
    *("train/loss", "train/err", "train_eval/loss", "train_eval/err", "val/loss", "val/err"),
    "train/lr",
)
"""The metrics whose history is read."""

SPLITS = ("train_eval", "train_dev", "val", "test")
"""Those that a run is evaluated on in the end, where it has them."""

MOST_TOLD = 6


@dataclass(frozen=True)
class Facts:
    """What is known of a run besides its config, its errors and its curves.

    Args:
        num_train: training images in use.
        num_classes: K; None for a run of an older version, whose curves are then read without chance level.
        num_available: training images that there are; 0 where it is not known.
        elsewhere: whether validation images are a set of their own.
        stopped: why early stopping ended the training, if it did.
        layers: ``(name, activation, dead, saturated)`` of each activation layer; None where nobody looked.
        num_probed: images that these are of.
        noise: the reading of label noise; None where nobody looked.
    """

    num_train: int
    num_classes: int | None = None
    num_available: int = 0
    elsewhere: bool = False
    stopped: str | None = None
    layers: Sequence[tuple[str, str, float, float]] | None = None
    num_probed: int = 0
    noise: Reading | None = None


@dataclass(frozen=True)
class Assessment:
    """A run's verdict and what else it says of itself."""

    diagnosis: Diagnosis
    readings: tuple[Reading, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        return {
            "litmus.verdict": self.diagnosis.verdict,
            "litmus.dominant_gap": self.diagnosis.dominant_gap,
            **{f"litmus.reading.{reading.name}": reading.status for reading in self.readings},
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Gaps with the ends of their intervals, and the value of every reading that has a finite one."""
        found, names = self.diagnosis, {"bias": "avoidable_bias", "variance": "variance", "mismatch": "data_mismatch"}
        metrics = {"diagnosis/generalisation_gap": found.val_err - found.train_err}
        for name, gap in found.gaps.items():
            metrics[f"diagnosis/{names[name]}"] = gap.value
            metrics[f"diagnosis/{names[name]}_low"], metrics[f"diagnosis/{names[name]}_high"] = gap.interval
        for reading in self.readings:
            if reading.value is not None and math.isfinite(reading.value):
                metrics[f"diagnosis/{reading.name}"] = reading.value
        return metrics

    def table(self) -> dict[str, Any]:
        """Plain values: what ``diagnosis.json`` holds."""
        found = self.diagnosis
        return {
            "verdict": found.verdict,
            "finding": found.finding,
            "dominant_gap": found.dominant_gap,
            "gaps": {
                name: {"value": gap.value, "interval": list(gap.interval), "status": gap.status,
                       "more_images": gap.more_images, "more_seeds": gap.more_seeds}
                for name, gap in found.gaps.items()
            },
            "num_seeds": found.num_seeds,
            "target_err": found.target_err,
            "tolerance": found.tolerance,
            "level": found.level,
            "moves": [
                {"text": text, "why": why, "ready": ready}
                for text, why, ready in zip(found.moves, found.reasons, found.ready, strict=True)
            ],
            "notes": list(found.notes),
            "readings": [
                {"name": one.name, "status": one.status, "sentence": one.sentence,
                 "value": one.value if one.value is None or math.isfinite(one.value) else None}
                for one in self.readings
            ],
        }  # fmt: skip


def assess(
    config: RunConfig, seen: Mapping[str, Mapping[str, Any]], facts: Facts, rows: Sequence[Row] = ()
) -> Assessment:
    """Verdict, moves and readings of one run.

    Args:
        config: of the run.
        seen: split -> ``num_errors`` and ``num_images`` of ``train_eval``, ``val`` and, where there is one,
            ``train_dev``, of the weights that the run ended with.
        facts: what else is known.
        rows: the validations of its training.
    """
    readings = _readings(config, facts, rows)
    said = {reading.name: reading.status for reading in readings}
    train, val, dev = seen["train_eval"], seen["val"], seen.get("train_dev")
    found = diagnose_errors(
        _err(train),
        _err(val),
        train["num_images"],
        val["num_images"],
        config.data.target_err,
        config.diagnosis.tolerance,
        train_population=facts.num_train,
        train_dev_err=_err(dev) if dev else None,
        num_train_dev=dev["num_images"] if dev else None,
        config=flatten(config),
        num_available=facts.num_available or None,
        stopped_early=facts.stopped is not None,
        lr=_sign(said.get("learning_rate"), "too high", "too low"),
        units=_sign(said.get("units"), "dead", "saturated"),
        improving=said.get("progress") == "still improving",
    )
    gap = found.mismatch
    readings.append(
        read_mismatch(
            train_dev_err=found.train_dev_err,
            status=gap.status if gap else None,
            value=gap.value if gap else None,
            elsewhere=facts.elsewhere,
        )
    )
    return Assessment(only_accepted(found, config), tuple(readings))


def assess_seeds(config: RunConfig, runs: Sequence[Mapping[str, Any]]) -> Diagnosis:
    """The verdict over trainings that differ in their seed alone, from each one's ``Result.table``."""
    first = runs[0]
    found = diagnose_seeds(
        [(_err(run["train_eval"]), _err(run["val"])) for run in runs],
        first["train_eval"]["num_images"],
        first["val"]["num_images"],
        config.data.target_err,
        config.diagnosis.tolerance,
        train_population=first["num_train"],
        config=flatten(config),
        num_available=first.get("num_available"),
        stopped_early=all(run["stopped"] is not None for run in runs),
    )
    return only_accepted(found, config)


def only_accepted(found: Diagnosis, config: RunConfig) -> Diagnosis:
    """Without the overrides that this config would refuse: what is proposed can be run."""
    plain = config.model_dump(mode="json")

    def accepted(text: str, ready: bool) -> bool:
        if not ready:
            return True
        try:
            parse_config(merge_overrides(plain, text.split()))
        except Refused:
            return False
        return True

    rows = [row for row in zip(found.moves, found.reasons, found.ready, strict=True) if accepted(row[0], row[2])]
    moves, reasons, ready = (tuple(column) for column in zip(*rows, strict=True)) if rows else ((), (), ())
    return replace(found, moves=moves, reasons=reasons, ready=ready)


def _readings(config: RunConfig, facts: Facts, rows: Sequence[Row]) -> list[Reading]:
    readings: list[Reading] = []
    if rows and facts.num_classes is not None:
        readings += read_curves(
            rows,
            num_classes=facts.num_classes,
            unit=config.train.unit,
            stops=replay(rows),
            stopped=facts.stopped,
            held_back=is_held_back(flatten(config), facts.num_train),
        )
    if facts.layers is not None:
        readings.append(read_units(facts.layers, facts.num_probed))
    if facts.noise is not None:
        readings.append(facts.noise)
    return readings


def replay(rows: Sequence[Row]) -> dict[str, int | None]:
    """Where Prechelt's criteria would have ended this training: position of the row, None for never."""
    if not all("val/loss" in row for row in rows):
        return {}
    losses = [(row.get("train/loss"), row["val/loss"]) for row in rows]
    criteria: dict[str, Criterion] = {"GL 10": GL(10), "PQ 2": PQ(2), "UP 3": UP(3)}
    if any(train is None for train, _ in losses):
        del criteria["PQ 2"]
    return {name: stops_at(criterion, losses) for name, criterion in criteria.items()}


def rows_of(history: Mapping[str, Sequence[tuple[int, float]]], config: RunConfig) -> list[dict[str, float]]:
    """The validations of a run from its recorded metrics, ``(step, value)`` of each of ``CURVES``."""
    by_step: dict[int, dict[str, float]] = {}
    for name, points in history.items():
        for step, value in points:
            by_step.setdefault(step, {"step": step})[name] = value
    rows = [row for _, row in sorted(by_step.items()) if "val/loss" in row]
    every = (config.train.val_every or 1) if config.train.unit == "epochs" else 0
    return [{**row, "epoch": (k + 1) * every} if every else row for k, row in enumerate(rows)]


# --- for a person to read ---------------------------------------------------------------------------------------------


def told(table: Mapping[str, Any]) -> Iterator[str]:
    """Finding, moves with their reasons, and readings, from an ``Assessment.table``."""
    yield from textwrap.wrap(table["finding"], 116, subsequent_indent="  ")
    for note in table["notes"]:
        yield from textwrap.wrap(f"note: {note}", 116, initial_indent="  ", subsequent_indent="    ")
    moves = table["moves"][:MOST_TOLD]
    width = max((len(move["text"]) for move in moves if len(move["text"]) < 48), default=0)
    for i, move in enumerate(moves, start=1):
        lead = f"  {'next moves' if i == 1 else '':<12}{i}. "
        if len(lead) + max(width, len(move["text"])) + len(move["why"]) < 118:
            yield f"{lead}{move['text']:<{width}}  {move['why']}"
        else:
            yield lead + move["text"]
            yield 17 * " " + move["why"]
    if more := len(table["moves"]) - len(moves):
        yield f"  {'':<12}and {more} more in diagnosis.json"
    speaking = [one for one in table["readings"] if one["status"] != "no sign"]
    for i, one in enumerate(speaking):
        words = f"{one['name'].replace('_', ' ')}, {one['status']}: {one['sentence']}"
        lead = f"  {'readings' if i == 0 else '':<12}"
        yield from textwrap.wrap(words, 116, initial_indent=lead, subsequent_indent=16 * " ")
    silent = [one["name"].replace("_", " ") for one in table["readings"] if one["status"] == "no sign"]
    if silent:
        yield f"  {'' if speaking else 'readings':<12}no sign of anything: {', '.join(silent)}"


def command(config_file: Path | None, table: Mapping[str, Any]) -> str:
    """The first move as a whole command; empty where there is none to run."""
    ready = next((move["text"] for move in table["moves"] if move["ready"]), None)
    if ready is None or config_file is None:
        return ""
    return shlex.join(["litmus", "fit", str(shown(config_file)), *ready.split()])


def _err(seen: Mapping[str, Any]) -> float:
    return float(seen["num_errors"]) / float(seen["num_images"])


def _sign(status: str | None, *known: str) -> Any:
    return status if status in known else None
