"""The body of ``litmus predict``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litmus.errors import Problem
from litmus.experiment import quiet_libraries
from litmus.predict.predictor import predict_files
from litmus.predict.report import folder_problems, new_folder, tell, write


def predict_and_write(
    run: str,
    paths: Sequence[str],
    *,
    out: Path | None,
    overwrite: bool,
    home: str,
    uri: str | None,
    say: Callable[[str], None] = print,
    **how: Any,
) -> None:
    """Predict, write the results into ``out`` (default: a new folder below ``home``) and tell of them.

    ``how``: further arguments of ``predict_files``. Nothing is written when it refuses.
    """
    if out is not None:
        problems = folder_problems(out, overwrite=overwrite)
    else:
        problems = [Problem("--overwrite", "does nothing without --out")] if overwrite else []
        problems += folder_problems(Path(home) / "predictions", overwrite=True)
    with quiet_libraries(), _progress() as advance:
        found = predict_files(run, paths, home=home, uri=uri, problems=problems, progress=advance, **how)
    folder = new_folder(Path(home), found.run.name, found.run.id8) if out is None else out
    tell(found, write(found, folder), paths, "" if home == "mlruns" else f" --home {shlex.quote(home)}", say)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if a person sees it: the first call gives the total, each other what was done since."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = None

        def advance(number: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("", total=number)
            else:
                bar.advance(task, number)

        yield advance
