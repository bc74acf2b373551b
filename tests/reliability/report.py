"""The rows of docs/reliability.md: written by proofs as they pass, drawn as a table, never typed.

python -m tests.reliability.report     writes docs/reliability.md from docs/reliability.json
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from litmus.tracking.spool import locked

FOLDER = Path(__file__).resolve().parents[2] / "docs"
ROWS = {  # key -> claim, in the order of the table
    "kills": "SIGKILL at random moments, started again until done: final states bit-identical, no torn file",
    "every_step": "resume from every step of a run, epoch ends and steps of several batches included",
    "signals": "SIGTERM, Ctrl-C in set-up, step, validation, save, tear-down: right code, loads, at most a step lost",
    "save_kills": "killed inside the save, temporary folder in the same or another file system: readable after",
    "disk_full": "disk full inside the save: the state before it is intact",
    "damage": "truncated or bit-flipped checkpoints found, named and bypassed",
    "outage": "tracking absent, hanging, answering 500, killed, back again: points missing or double after sync",
    "outage_cost": "processor time that these outages cost a training, and wall time beside it",
    "first_use": "first use of a store by 8 processes at once: all start",
    "ddp_faults": "two processes, one killed, stopped or raising: all down in 30 s, resumed exactly",
    "ddp_order": "order and evaluation in 1, 2 and 3 processes, lengths that do not divide: the same, every image once",
    "ddp_equal": "1 process against 2, no batch norm or synchronised, 30 steps: largest relative difference",
    "ddp_repeat": "2 processes twice: bit-identical",
    "non_finite": "NaN or infinity at 20 places: stopped before the optimizer moves",
    "reproduce": "`litmus reproduce` on runs of 10 configs: identical",
    "refused": "changed fingerprints: refused, with the field that differs",
    "secrets": "planted secrets found in params, config, spool, diff, log or store",
    "malicious": "malicious checkpoints, archives and paths: refused",
    "mutants": "each guard taken out in turn: a test fails",
    "study_kills_sqlite": "studies: 4 workers, 100 SIGKILLs at random, the same command until done, on sqlite",
    "study_kills_postgresql": "the same on PostgreSQL",
    "study_moments_sqlite": "workers killed in ask, before a first beat, save, tell, between fail and requeue, requeue",
    "study_moments_postgresql": "the same on PostgreSQL",
    "study_locks": "the database of a study locked for 10 s, or its server stopped for 4 s: lost or doubled trials",
    "study_stopped": "a worker stopped for longer than the grace time, and woken: overwrites nothing, lives on",
    "study_writers": "8 and 16 workers at once on one database, 400 trials each: errors, and trials lost or too many",
    "study_two_commands": "two `litmus tune` of one study on PostgreSQL, two homes, all of one killed at once",
    "overhead": "time that all of this costs a training step of ResNet-20",
    "cuda": "the same on a GPU, with CUDA's determinism flags",
}


def put(key: str, figure: str, *, holds: bool, command: str, sec: float, note: str = "") -> None:
    """Keep the measured figure of one claim; a later measurement replaces it."""
    if key not in ROWS:
        raise KeyError(f"{key!r} is no claim: {', '.join(ROWS)}")
    folder = Path(os.environ.get("LITMUS_PROOF_DIR", FOLDER))
    path = folder / "reliability.json"
    with locked(folder / ".reliability.lock", timeout_sec=60):
        rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        rows[key] = {
            "figure": figure,
            "holds": holds,
            "command": command,
            "sec": round(sec, 1),
            "note": note,
            "on": f"{platform.system()}, {os.cpu_count()} cores",
            "at": time.strftime("%Y-%m-%d"),
        }
        path.write_text(json.dumps({name: rows[name] for name in ROWS if name in rows}, indent=1) + "\n")


def table(rows: dict[str, Any]) -> str:
    """The rows as a page of Markdown; a claim without a figure says so."""
    lines = [
        "# What holds, and how often it was tried",
        "",
        "Made by `make proof`: each figure is written by the test that measured it. A line is one command.",
        "",
        "| claim | figure | holds | measured by |",
        "|---|---|---|---|",
    ]
    for key, claim in ROWS.items():
        row = rows.get(key)
        if row is None:
            lines.append(f"| {claim} | *not measured* | | |")
            continue
        note = f" ({row['note']})" if row["note"] else ""
        holds = "yes" if row["holds"] else "**no**"
        lines.append(f"| {claim} | {row['figure']}{note} | {holds} | `{row['command']}`, {row['sec']:.0f} s |")
    dates = sorted({f"{row['on']}, {row['at']}" for row in rows.values()})
    return "\n".join([*lines, "", *(f"Measured on {date}." for date in dates), ""])


def main() -> None:
    folder = Path(os.environ.get("LITMUS_PROOF_DIR", FOLDER))
    path = folder / "reliability.json"
    (folder / "reliability.md").write_text(table(json.loads(path.read_text()) if path.exists() else {}))
    print(f"wrote {folder / 'reliability.md'}")


if __name__ == "__main__":
    main()
