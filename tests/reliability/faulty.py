"""``litmus fit`` whose rank so-and-so is killed, stopped or fails in step so-and-so.

    python -m tests.reliability.faulty fit FAULT ARGV...

FAULT is JSON: rank, step (of the optimizer, from 0), kind (a signal's name, or raise), mark (a file for the time).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

FAULT = "LITMUS_TEST_FAULT"


def fit(fault: str, argv: list[str]) -> None:
    """The command as typed; its ranks start here below instead."""
    from litmus import launch
    from litmus.cli import main

    commands = launch.commands

    def faulty_commands(*args: Any) -> list[Any]:
        return [
            replace(
                command,
                argv=["tests.reliability.faulty" if word == "litmus.rank" else word for word in command.argv],
                env={**command.env, FAULT: fault},
            )
            for command in commands(*args)
        ]

    launch.commands = faulty_commands
    main(argv)


def rank(argv: list[str]) -> int:
    """One rank, with the fault in it if it is meant."""
    from litmus.classifier import ImageClassifier
    from litmus.rank import leave_with

    fault = json.loads(os.environ[FAULT])
    if str(fault["rank"]) == argv[3]:
        step = ImageClassifier.training_step

        def faulty_step(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == fault["step"]:
                Path(fault["mark"]).write_text(str(time.time()))
                if fault["kind"] == "raise":
                    raise RuntimeError("a step that fails")
                os.kill(os.getpid(), getattr(signal, fault["kind"]))
            return step(self, batch, batch_idx)

        ImageClassifier.training_step = faulty_step  # type: ignore[method-assign]
    return leave_with(argv)


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        fit(sys.argv[2], sys.argv[3:])
    code = rank(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
