"""What the forkserver imports once, so that each trial is a fork away from its first step. No CUDA call, no thread."""

from __future__ import annotations

import contextlib
import os
import signal

import litmus.experiment
import litmus.launch
import litmus.study.worker
import litmus.tracking.run
import litmus.tracking.system
from litmus.tracking.record import code_digest, environment, fix_surroundings, git_diff, installed_packages

__all__ = ["litmus"]

# A scheduler signals every process of a job, a terminal its group: who is forked from here decides, not this process.
with contextlib.suppress(OSError):
    os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)

fix_surroundings()  # the trials of a study are of one code, whatever happens to the sources meanwhile
for _look in (environment, installed_packages, git_diff, code_digest):
    _look()
