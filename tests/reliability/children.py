"""Training processes to be killed: forked from one that has imported everything, which makes each cheap.

Each child is a process group of its own, and what it prints goes to a file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["litmus.experiment", "litmus.cli", "tests.reliability.training"])


def start(function: Callable[..., Any], *args: Any, log: Path) -> Any:
    """Run ``function(*args)``, which can be imported, in a child; its exit code is that of ``SystemExit``, else 0."""
    process = CONTEXT.Process(target=_run, args=(function, args, str(log)))
    process.start()
    return process


def command_line(*argv: str) -> None:
    """``litmus ARGV`` as a child."""
    from litmus.cli import main

    main(list(argv))


def _run(function: Callable[..., Any], args: tuple[Any, ...], log: str) -> None:
    os.setsid()
    with open(log, "a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    import torch

    torch.set_num_threads(1)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(*args)
