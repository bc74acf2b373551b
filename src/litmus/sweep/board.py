"""What a person sees of a sweep while it runs: a line a training, and in a terminal a bar below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from litmus.sweep.engine import Done

Columns = Mapping[str, Callable[[Done], str]]


def _err(split: str) -> Callable[[Done], str]:
    return lambda done: f"{done.result()[split]['err']:.4f}"


ERRORS: Columns = {"train": _err("train_eval"), "val": _err("val")}


class Board:
    """Counts trainings that are done; ``show`` prints those that have just been."""

    def __init__(self, total: int, columns: Columns | None = None, *, console: Console | None = None):
        self.total, self.columns = total, ERRORS if columns is None else columns
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("trainings", total=total, facts="")

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, fresh: Sequence[Done], *, found: int = 0, running: int = 0) -> None:
        """Args: ``fresh`` are listed; ``found``, done before this command, are counted."""
        if found:
            self._say(f"{found} of {self.total} trainings were done before")
        if fresh and self._done == 0:
            heads = "  ".join(f"{name:>8}" for name in self.columns)
            self._say(f"{'':>{len(str(self.total)) * 2 + 1}}  {heads}  {'epochs':>7}  {'time':>8}")
        self._done += found
        for one in fresh:
            self._done += 1
            self._say(f"{self._done:>{len(str(self.total))}}/{self.total}  {self._line(one)}")
        self._progress.update(self._task, completed=self._done, facts=f"{running} running" if running else "")

    def _line(self, one: Done) -> str:
        if one.complete:
            values = "  ".join(f"{column(one):>8}" for column in self.columns.values())
            return f"{values}  {one.outcome.epochs:>7.1f}  {one.outcome.seconds:>6.1f} s  {one.cell.name}"
        return f"{one.outcome.reason[:100]}  {one.cell.name}"

    def _say(self, text: str) -> None:
        self.console.print(escape(text))
