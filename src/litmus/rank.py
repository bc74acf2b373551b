"""``python -m litmus.rank FOLDER MEETING WORLD_SIZE RANK``: one process of several, started by ``litmus fit``.

It leaves by the shortest way: a library that waits for the others while it unloads would hide that this one failed.
"""

from __future__ import annotations

import os
import sys

from litmus.cli import masked_traceback, run_command
from litmus.supervisor import LOST_OTHERS

OTHER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""torch's words; its traceback says nothing of the cause, which the supervisor names."""


def is_gone(error: BaseException) -> bool:
    """Whether an error says no more than that another process does not answer."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in kinds or any(words in str(error) for words in OTHER_IS_GONE)


def leave_with(argv: list[str]) -> int:
    """The exit code that ``litmus rank`` ends with, its traceback written."""
    try:
        run_command(["rank", *argv])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        if is_gone(error):
            sys.stderr.write(f"\nanother process of the run is gone: {str(error).splitlines()[0]}\n")
            return LOST_OTHERS
        sys.stderr.write(f"\nrank {argv[-2]} failed\n{masked_traceback()}")
        return 1
    return 0


if __name__ == "__main__":
    code = leave_with(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
