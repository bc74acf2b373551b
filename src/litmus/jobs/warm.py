"""What the forkserver imports once, so that each trial is a fork away from its first step. No CUDA call, no thread."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import socket
from multiprocessing import reduction

import torch.utils.serialization.config
import torchmetrics

import litmus.data.sources.digits
import litmus.data.sources.image_folder
import litmus.data.sources.synthetic
import litmus.data.sources.torchvision_sets
import litmus.experiment
import litmus.launch
import litmus.tracking.run
import litmus.tracking.system
from litmus.config import load_config
from litmus.tracking.record import fix_surroundings

__all__ = ["litmus", "torch", "torchmetrics"]

# A scheduler signals every process of a job, a terminal its group: who is forked from here decides, not this process.
with contextlib.suppress(OSError):
    os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)

_receive = reduction.recvfds


def _receive_or_go_on(asking: socket.socket, size: int) -> list[int]:
    """What the forkserver receives from who asks for a fork. One that is killed while it asks must not end the server,
    which passes over an aborted connection and over no other trouble."""
    try:
        return list(_receive(asking, size))
    except (EOFError, ConnectionError) as error:
        raise ConnectionAbortedError(errno.ECONNABORTED, f"who asked for a fork is gone: {error}") from None


reduction.recvfds = _receive_or_go_on  # type: ignore[assignment]

load_config([], [])  # what reading one imports
fix_surroundings()  # the trials of a study are of one code, whatever happens to the sources meanwhile

# Lightning asks of each value that a module holds whether it is a metric, and Python's first answer for a class walks
# all of torchmetrics.
for _kind in {type(_value) for _value in vars(torch.nn.Module()).values()} | {torch.Tensor, torch.device, torch.dtype}:
    issubclass(_kind, torchmetrics.Metric)

# What was imported is never garbage. Left to the collector, its first full round in every child reads, and by marking
# copies, all of the pages that are shared: 0.3 s of a trial.
gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # else extension modules complain of what is left at the server's end
