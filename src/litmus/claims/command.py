"""``litmus claim NAME``: run a claim, judge it by the condition that its file fixed, draw it, record it."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, Outcome, conclude, p_of
from litmus.claims.registry import make_claim
from litmus.config.claim import ClaimConfig, load_claim, names
from litmus.errors import refuse
from litmus.sweep.experiment import Experiment, Options

EXPERIMENT = "litmus/claims"
RECORD = "claim.json"


def claim(
    files: Sequence[str],
    overrides: Sequence[str],
    *,
    full: bool = False,
    everything: bool = False,
    options: Options | None = None,
    typed: Sequence[str] = ("claim",),
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Run claims by name or file, one after the other; what each came to.

    Raises:
        Refused: no such claim, or what is wrong with one, before anything is trained.
        Stopped: by a signal; the same command goes on.
        Incomplete: trainings came to no answer.
    """
    if everything and files:
        raise refuse("--all", "runs every claim: give it or names, not both", list(files))
    if not files and not everything:
        raise refuse("claim", f"which? one of {', '.join(names())}; --all runs them all")
    if everything and overrides:
        raise refuse("--all", "takes no overrides: claims have keys of their own", list(overrides))
    chosen = names() if everything else list(files)
    if everything and full:
        specs = [load_claim(name) for name in chosen]
        chosen = [spec.name for spec in specs if spec.full is not None]
    made = [make_claim(load_claim(name, overrides, full=full)) for name in chosen]
    found: dict[str, Outcome] = {}
    for at, one in enumerate(made):
        if at:
            say("\n" + "-" * 80)
        again = typed if len(made) == 1 else ["claim", one.spec.name, *(["--full"] if full else [])]
        found[one.spec.name] = run(one, full=full, options=options, typed=again, say=say)
    if len(found) > 1:
        say("")
        for name, outcome in found.items():
            say(f"{outcome:<13} {name}")
    say("next     litmus claim --gallery docs    or    litmus ui")
    return found


def run(
    one: Claim,
    *,
    full: bool = False,
    options: Options | None = None,
    typed: Sequence[str] = ("claim",),
    say: Callable[[str], None] = print,
) -> Outcome:
    """One claim, from its first training to its record."""
    spec, began = one.spec, time.monotonic()
    params = {
        "claim.seeds": spec.seeds,
        "claim.full": full,
        # As one text: a mapping's keys are names of arms, which MLflow may refuse as names of parameters.
        **{f"claim.{key}": json.dumps(v) if isinstance(v, Mapping) else v for key, v in spec.settings.items()},
    }
    with Experiment(
        kind="claim",
        name=f"claim-{spec.name}{'-full' if full else ''}",
        base=one.base,
        typed=typed,
        options=options,
        params=params,
        experiment=EXPERIMENT,
        splits=one.splits,
        say=say,
    ) as experiment:
        cells = one.cells()
        experiment.plan(cells)
        say("\n".join(head(spec, len(cells), len(experiment.posts))))
        done = experiment.train() if cells else {}
        while more := one.then(done):
            experiment.extend(more)
            cells = [*cells, *more]
            say(f"then     {len(more)} trainings more, which those above led to")
            done = experiment.train()
        say("")
        table = one.read(done)
        evidence = one.judge(table)
        outcome = conclude(evidence)
        for piece in evidence:
            say("\n".join(textwrap.wrap(piece.line, 116, subsequent_indent=14 * " ")))
        say(f"outcome  {outcome.upper()}: {spec.says}")
        for name, value in spec.published.items():
            say(f"  published: {name} {value:g}")
        picture = one.draw(table, Path(experiment.run.dir) / f"{spec.name}.png")
        record = record_of(spec, table, evidence, outcome, full=full, num_cells=len(cells), typed=typed)
        record["seconds"] = round(time.monotonic() - began, 1)
        experiment.run.log_text(json.dumps(plain(record), indent=1), RECORD)
        if rows := table.get("rows"):
            experiment.run.log_text(as_csv(rows), "per_seed.csv")
        experiment.run.set_tags({"litmus.claim": spec.name, "litmus.outcome": outcome})
        shown = experiment.kept(picture)
        if picture.with_suffix(".svg").is_file():
            experiment.kept(picture.with_suffix(".svg"))
        say("")
        say(f"picture  {shown}")
        say(f"run      {experiment.run.id or experiment.run.uid}")
    return outcome


def head(spec: ClaimConfig, num_cells: int, workers: int) -> list[str]:
    trained = f"{num_cells} trainings, {workers} at a time" if num_cells else "nothing to train"
    return [
        f"claim    {spec.name}: {spec.says}",
        *textwrap.wrap(f"holds    {spec.condition}", 116, subsequent_indent=9 * " "),
        f"runs     {trained}, {spec.seeds} seeds",
        *(f"paper    {paper}" for paper in spec.papers),
    ]


def record_of(
    spec: ClaimConfig,
    table: Table,
    evidence: Sequence[Evidence],
    outcome: Outcome,
    *,
    full: bool,
    num_cells: int,
    typed: Sequence[str],
) -> dict[str, Any]:
    """What ``claim.json`` holds: all that the gallery needs."""
    return {
        "name": spec.name,
        "says": spec.says,
        "condition": spec.condition,
        "note": spec.note,
        "papers": list(spec.papers),
        "published": spec.published,
        "full": full,
        "seeds": spec.seeds,
        "settings": spec.settings,
        "trainings": num_cells,
        "outcome": outcome,
        "p": p_of(evidence),
        "evidence": [piece.plain() for piece in evidence],
        "table": table,
        "command": " ".join(["litmus", *typed]),
    }


def plain(value: Any) -> Any:
    """For JSON: numpy's numbers as Python's, NaN and infinity as texts, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one table; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
