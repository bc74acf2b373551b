"""``docs/claims.md``: every claim's figure, numbers, command and run, from the records of the runs and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litmus.claims.command import RECORD
from litmus.config.claim import names
from litmus.errors import refuse
from litmus.tracking import StoredRun, local_runs

PAGE, FOLDER = "claims.md", "claims"
MARKS = {"supported": "supported", "contradicted": "**contradicted**", "inconclusive": "inconclusive"}


def make_gallery(folder: Path, *, home: str, say: Callable[[str], None] = print) -> Path:
    """Write the page, its pictures and its records below ``folder``, from the newest finished run of each claim.

    Raises:
        Refused: no claim was run yet.
    """
    newest = newest_of(local_runs(home))
    if not newest:
        raise refuse("--gallery", f"there is no finished claim in {home}: litmus claim --all", str(folder))
    shelf = folder / FOLDER
    shelf.mkdir(parents=True, exist_ok=True)
    records = {}
    for name, stored in newest.items():
        record = json.loads(stored.artifact(RECORD).read_text())
        record["run"] = {
            "id": stored.id or stored.uid,
            "when": datetime.fromtimestamp(stored.started_at, UTC).strftime("%Y-%m-%d"),
            "commit": stored.tags.get("env.git.commit", "")[:12],
        }
        records[name] = record
        shutil.copy(stored.artifact(f"pictures/{picture_of(record)}.png"), shelf / f"{name}.png")
        (shelf / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    page = folder / PAGE
    page.write_text(page_of(records))
    say(f"page     {page}")
    if missing := [name for name in names() if name not in newest]:
        say(f"  not run yet: {', '.join(missing)}")
    return page


def newest_of(runs: Sequence[StoredRun]) -> dict[str, StoredRun]:
    """Claim -> its newest finished run, by name; a ``--full`` one stands beside the short one."""
    found: dict[str, StoredRun] = {}
    for stored in runs:
        name = stored.name.removeprefix("claim-")
        if stored.kind != "claim" or stored.status != "FINISHED" or "litmus.outcome" not in stored.tags:
            continue
        if name not in found or found[name].started_at < stored.started_at:
            found[name] = stored
    return dict(sorted(found.items()))


def picture_of(record: Mapping[str, Any]) -> str:
    return str(record["name"])


def page_of(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, in Markdown: a table of outcomes, then a section a claim."""
    from litmus.diagnosis.paired import holm

    tested = {name: record["p"] for name, record in records.items() if record["p"] is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True)) if tested else {}
    counts = {outcome: sum(record["outcome"] == outcome for record in records.values()) for outcome in MARKS}
    lines = [
        "# The course, tested",
        "",
        "Each claim has a condition that was fixed before its run, at least five paired seeds where there is chance in",
        "it, and one of three outcomes. A claim that does not hold here is shown as it is. Made by",
        "`litmus claim --gallery docs` from the tracked runs; `litmus claim NAME` runs one again.",
        "",
        f"{len(records)} claims: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + ".",
        "",
        "p is that of the claim's weakest condition, one-sided and exact; beside it the same corrected for all claims",
        "of this page together (Holm 1979). Five of five seeds are p = 0.031 at best: corrected for many claims, no",
        "single one of that kind can fall below 0.05, and what carries them is that they hold on every seed. Claims",
        "that are identities, or that an interval decides, have no p.",
        "",
        "| claim | outcome | p | corrected |",
        "|---|---|---|---|",
    ]
    for name, record in records.items():
        chance = f"{record['p']:.3g}" if record["p"] is not None else ""
        corrected = f"{adjusted[name]:.3g}" if name in adjusted else ""
        lines.append(f"| [{name}](#{name}) | {MARKS[record['outcome']]} | {chance} | {corrected} |")
    for name, record in records.items():
        lines += section_of(name, record)
    return "\n".join(lines) + "\n"


def section_of(name: str, record: Mapping[str, Any]) -> list[str]:
    """One claim."""
    run, outcome = record["run"], record["outcome"]
    mark = MARKS[outcome].replace(outcome, outcome.capitalize())
    trained = f"{record['trainings']} trainings, {record['seeds']} seeds" if record["trainings"] else "no training"
    published = [f"- published: {what}, {value:g}" for what, value in record["published"].items()]
    return [
        "",
        f"## {name}",
        "",
        f"*{record['says']}*",
        "",
        f"{mark}. Condition: {record['condition']}",
        "",
        f"![{name}: {outcome}]({FOLDER}/{name}.png)",
        "",
        *(f"- {piece_of(piece)}" for piece in record["evidence"]),
        *published,
        *(["", record["note"]] if record["note"] else []),
        "",
        f"`{record['command']}`; {trained}"
        + (f"; {'; '.join(record['papers'])}" if record["papers"] else "")
        + f"; run {run['id'][:8]} of {run['when']}"
        + (f", commit {run['commit']}" if run["commit"] else "")
        + f"; [numbers]({FOLDER}/{name}.json)",
    ]


def piece_of(piece: Mapping[str, Any]) -> str:
    chance = f" (p = {piece['p']:.3g})" if piece["p"] is not None else ""
    return f"{piece['outcome'] or 'reported'}: {piece['what']}: {piece['found']}{chance}"
