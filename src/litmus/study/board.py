"""What a person sees of a study while it runs: a line a trial, and under them a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optuna.trial import TrialState
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from litmus.study.ledger import ATTEMPT, DUPLICATE_OF, EPOCHS, SECONDS, Lineage


def best_of(known: Mapping[int, Lineage], direction: str) -> Lineage | None:
    """The complete lineage with the best first objective; of equal ones the oldest."""
    complete = [
        lineage
        for lineage in known.values()
        if lineage.state == "finished" and lineage.last.state == TrialState.COMPLETE
    ]
    sign = 1 if direction == "minimize" else -1
    return min(complete, key=lambda lineage: (sign * lineage.last.values[0], lineage.origin), default=None)


def counts(known: Mapping[int, Lineage]) -> dict[str, int]:
    """How many are finished, pruned among them, failed, running, waiting."""
    states = [lineage.state for lineage in known.values()]
    pruned = sum(l.state == "finished" and l.last.state == TrialState.PRUNED for l in known.values())  # noqa: E741
    return {
        "finished": states.count("finished"),
        "pruned": pruned,
        "failed": states.count("failed"),
        "running": states.count("running"),
        "waiting": states.count("waiting") + states.count("pending"),
    }


def line_of(
    lineage: Lineage, *, num_objectives: int, mark: str, width: int, values: Mapping[str, Any], of_search: bool = True
) -> str:
    """One trial: number, state, value, epochs, seconds, and what was tried."""
    trial = lineage.last
    if trial.state == TrialState.COMPLETE:
        shown = "  ".join(f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}" for value in trial.values)
    elif trial.state == TrialState.PRUNED and trial.intermediate_values:
        shown = f"{trial.intermediate_values[max(trial.intermediate_values)]:.4f}"
    else:
        shown = "-"
    epochs = f"{trial.user_attrs[EPOCHS]:g}" if EPOCHS in trial.user_attrs else "-"
    took = trial.user_attrs.get(SECONDS)
    state = trial.state.name if lineage.state == "finished" else "FAIL"
    words = [f"{key}={_short(value)}" for key, value in values.items()]
    if lineage.origin == 0 and of_search:
        words = ["the base config", *words]
    if DUPLICATE_OF in trial.user_attrs:
        words = [f"as trial {trial.user_attrs[DUPLICATE_OF]}", *words]
    if state == "FAIL":
        words = [lineage.reason, *words]
    if (attempt := trial.user_attrs.get(ATTEMPT, 1)) > 1:
        words = [f"attempt {attempt}", *words]
    head = f"{lineage.origin:>5}  {state:<8}  {shown:>{8 * num_objectives}}{mark:1}  {epochs:>6}"
    seconds = f"{took:>6.1f} s" if took is not None else f"{'-':>8}"
    text = f"{head}  {seconds}  {'  '.join(words)}"
    return text if len(text) <= width else text[: width - 3] + "..."


def header(objectives: Sequence[str], unit: str = "epochs") -> str:
    names = "  ".join(name.rpartition("/")[2][:8] for name in objectives)
    return f"{'trial':>5}  {'state':<8}  {names:>{8 * len(objectives)}}   {unit:>6}  {'time':>8}  parameters"


class Board:
    """Prints each trial as it ends, and in a terminal a bar below. ``say`` prints above the bar."""

    def __init__(
        self,
        *,
        total: int,
        objectives: Sequence[str],
        direction: str,
        space: Any,
        what: Literal["trials", "trainings"] = "trials",
        console: Console | None = None,
        values_of: Any = None,
    ) -> None:
        self.total, self.objectives, self.direction, self.what = total, objectives, direction, what
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._values_of = values_of or (lambda trial: space.values_of(trial.params))
        self._shown: set[int] = set()
        self._best: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(what, total=total, facts="")

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self.console.print(escape(text))

    def begin(self, known: Mapping[int, Lineage]) -> None:
        """What is there already is counted, not listed."""
        self._shown = {origin for origin, lineage in known.items() if lineage.state in ("finished", "failed", "void")}
        best = best_of(known, self.direction)
        self._best = best.origin if best else None
        self.say(header(self.objectives))

    def update(self, known: Mapping[int, Lineage]) -> list[Lineage]:
        """Show what has ended since; those lineages, in the order in which they ended."""
        fresh = [
            lineage
            for origin, lineage in known.items()
            if lineage.state in ("finished", "failed") and origin not in self._shown
        ]
        fresh.sort(key=lambda lineage: (lineage.last.datetime_complete is None, lineage.last.datetime_complete))
        best = best_of(known, self.direction)
        for lineage in fresh:
            self._shown.add(lineage.origin)
            is_best = best is not None and lineage.origin == best.origin and best.origin != self._best
            width = max(self.console.width, 100) if self.console.is_terminal else 240
            self.say(
                line_of(
                    lineage,
                    num_objectives=len(self.objectives),
                    mark="*" if is_best else "",
                    width=width,
                    values=self._values_of(lineage.last),
                    of_search=self.what == "trials",
                )
            )
        self._best = best.origin if best else self._best
        now = counts(known)
        facts = [f"best {best.last.values[0]:.4f} (trial {best.origin})"] if best else []
        facts += [f"{now[key]} {key}" for key in ("pruned", "failed", "running") if now[key]]
        self._progress.update(self._task, completed=min(now["finished"], self.total), facts=", ".join(facts))
        return fresh


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_short, value)) + "]"
    return str(value)
