"""What the proofs share: a way to write down the figure that they measured."""

import time

import pytest

from tests.reliability import report


@pytest.fixture
def figure(request):
    """``figure(key, "100 of 100", holds=True)``: a row of docs/reliability.md, timed from the test's start."""
    started = time.monotonic()

    def keep(key, text, *, holds, note=""):
        command = f"pytest {request.node.nodeid.partition('[')[0]} -m proof"
        report.put(key, text, holds=holds, command=command, sec=time.monotonic() - started, note=note)
        assert holds, f"{key}: {text} {note}"

    return keep
