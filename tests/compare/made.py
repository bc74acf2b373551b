"""Trainings that were never trained: what a comparison reads of a run, made up."""

from __future__ import annotations

import itertools
from typing import Any

from litmus.compare.select import Training
from litmus.config import deciding, load_config
from litmus.tracking import StoredRun

_NUMBERS = itertools.count()


def training(
    *overrides: str,
    seed: int = 0,
    val: float = 0.1,
    test: float | None = None,
    n: int = 200,
    world: dict[str, str] | None = None,
    steps: int = 20,
    **run: Any,
) -> Training:
    """A finished run of an MLP on digits: ``val`` and ``test`` are error rates over ``n`` images."""
    number = next(_NUMBERS)
    config = load_config([], ["model.name=mlp", "data.name=digits", *overrides, f"seed={seed}"])
    facts = {"status": "FINISHED", "tags": {"litmus.kind": "train", "litmus.verdict": "high bias"}, **run}
    stored = StoredRun(
        None, f"{number:032x}", f"run{number}", "litmus/digits", facts.pop("status"), float(number), None, None, **facts
    )
    result: dict[str, Any] = {
        split: {"err": err, "num_errors": round(err * n), "num_images": n}
        for split, err in (("val", val), ("test", test))
        if err is not None
    }
    result["epochs"] = 2.0
    values = {key: value for key, value in deciding(config).items() if key != "seed"}
    curve = [(steps // 2, 2 * val), (steps, val)]
    curves = {"val/err": curve, "val/loss": curve, "train/loss": curve}
    surroundings = {"data": "d", "splits": "s", "code": "c", **(world or {})}
    return Training(stored, config, values, config.seed, result, surroundings, curves)


def arm(*overrides: str, errs: dict[int, float], **facts: Any) -> list[Training]:
    """One run for each seed."""
    return [training(*overrides, seed=seed, val=err, **facts) for seed, err in errs.items()]
