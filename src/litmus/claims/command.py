"""``litmus claim NAME``: run a claim, judge it by the condition that its file fixed, draw it, record it."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, Outcome, conclude, p_of
from litmus.claims.registry import make_claim
from litmus.config.claim import ClaimConfig, load_claim, names
from litmus.errors import Refused, refuse
from litmus.sweep.engine import plan
from litmus.sweep.experiment import Experiment, Incomplete, Options

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
        Refused: no such claim, or what is wrong with any, before anything is trained.
        Stopped: by a signal; the same command goes on.
        Incomplete: trainings came to no answer; with ``everything``, claims that cannot run here. The others ran.
    """
    if everything and files:
        raise refuse("--all", "runs every claim: give it or names, not both", list(files))
    if not files and not everything:
        raise refuse("claim", f"which? one of {', '.join(names())}; --all runs them all")
    if everything and overrides:
        raise refuse("--all", "takes no overrides: claims have keys of their own", list(overrides))
    chosen = names() if everything else list(dict.fromkeys(files))
    if everything and full:
        chosen = [name for name in chosen if load_claim(name).full is not None]
    made = {name: make_claim(load_claim(name, overrides, full=full)) for name in chosen}
    refused = cannot_run(made, say) if len(made) > 1 else {}
    if refused and not everything:
        raise Refused([problem for error in refused.values() for problem in error.problems], source="litmus claim")
    found: dict[str, Outcome] = {}
    no_answer: dict[str, Refused | Incomplete] = {**refused}
    for name, error in refused.items():
        say(f"skipped  {name}: {error}")
    for name, one in made.items():
        if name in refused:
            continue
        its = typed
        if len(made) > 1:
            say("\n" + "-" * 80)
            its = ["claim", name, *overrides, *(["--full"] if full else [])]
        try:
            found[name] = run(one, full=full, options=options, typed=its, again=typed, say=say)
        except (Refused, Incomplete) as error:
            if len(made) == 1:
                raise
            no_answer[name] = error  # the others go on
            say(told(error))
    if len(made) > 1:
        say("\n" + "\n".join(f"{outcome:<13} {name}" for name, outcome in found.items()))
    if no_answer:
        incomplete = Incomplete(f"{len(no_answer)} of {len(made)} claims came to no answer")
        for name, why in no_answer.items():
            incomplete.add_note(f"  {name}: {why}")
        incomplete.add_note(f"next     {shlex.join(['litmus', *typed])}    (what is done is kept)")
        raise incomplete
    say("next     litmus claim --gallery docs    or    litmus ui")
    return found


def cannot_run(made: Mapping[str, Claim], say: Callable[[str], None]) -> dict[str, Refused]:
    """Those claims whose first trainings are refused, found before any of them begins.

    An hour's work shall not end on a file that was missing from the start.
    """
    say(f"checking the data and networks of {len(made)} claims")
    refused: dict[str, Refused] = {}
    for name, one in made.items():
        try:
            if cells := one.cells():
                plan(cells, source=f"claim {name}")
        except Refused as error:
            refused[name] = error
    return refused


def told(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def run(
    one: Claim,
    *,
    full: bool = False,
    options: Options | None = None,
    typed: Sequence[str] = ("claim",),
    again: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """One claim, from its first training to its record.

    Args:
        typed: the command that its record names.
        again: what is told to be typed where it is stopped; default: ``typed``.
    """
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
        typed=again or typed,
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
