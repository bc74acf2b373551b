"""Ranks that fail, stand still or are killed, as tiny processes: the others never outlive them for long."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from litmus.supervisor import LOST_OTHERS, Command, Supervisor, last_words

pytestmark = pytest.mark.timeout(30)  # what is broken here waits for ever

WAITS = "import signal, time; signal.signal(signal.SIGTERM, lambda *a: None)\nwhile True: time.sleep(9)"
OBEYS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
print("on", flush=True)
time.sleep(60)
"""
ENDS = "pass"


def supervisor(tmp_path, *codes, **times):
    commands = [
        Command([sys.executable, "-S", "-c", code], dict(os.environ), tmp_path / f"{rank}.log")
        for rank, code in enumerate(codes)
    ]
    return Supervisor(commands, **{"grace_sec": 0.5, "stopped_sec": 1.0, **times})


def in_the_background(ranks, act, *, when=lambda ranks: len(ranks.pids) == len(ranks.commands)):
    def wait():
        while not when(ranks):
            time.sleep(0.02)
        act(ranks)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def said(tmp_path, rank):
    return lambda ranks: (tmp_path / f"{rank}.log").exists() and "on" in (tmp_path / f"{rank}.log").read_text()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_ranks_that_end_well_end_well(tmp_path):
    outcome = supervisor(tmp_path, ENDS, ENDS, ENDS).run()
    assert (outcome.code, outcome.rank) == (0, None)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_others_and_gives_its_code(tmp_path, rank):
    codes = [WAITS, WAITS]
    codes[rank] = "import sys; print('no more'); sys.exit(65)"
    began = time.monotonic()
    outcome = supervisor(tmp_path, *codes).run()
    assert (outcome.code, outcome.rank, outcome.says) == (65, rank, f"rank {rank} failed with exit code 65")
    assert outcome.first_told == (rank == 0)
    assert time.monotonic() - began < 10
    assert last_words(tmp_path / f"{rank}.log") == ["no more"]


@pytest.mark.parametrize("cause", ["raise ValueError", "import os; os.kill(os.getpid(), 9)"])
def test_a_rank_that_lost_another_is_not_the_cause(tmp_path, cause):
    lost = f"import sys; sys.exit({LOST_OTHERS})"
    outcome = supervisor(tmp_path, lost, f"import time; time.sleep(0.3)\n{cause}", grace_sec=5).run()
    assert (outcome.code, outcome.rank, outcome.first_told) == (1, 1, False)
    outcome = supervisor(tmp_path, lost, WAITS).run()
    assert (outcome.code, outcome.says, outcome.first_told) == (1, "rank 0 lost the others", False)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_rank_is_named_with_its_signal(tmp_path, signum):
    outcome = supervisor(tmp_path, WAITS, f"import os; os.kill(os.getpid(), {int(signum)})").run()
    assert (outcome.code, outcome.says, outcome.told) == (1, f"rank 1 was killed by {signum.name}", False)


def test_a_rank_that_stands_still_is_lost(tmp_path):
    ranks = supervisor(tmp_path, WAITS, WAITS)
    thread = in_the_background(ranks, lambda ranks: os.kill(ranks.pids[1], signal.SIGSTOP))
    outcome = ranks.run()
    thread.join()
    assert (outcome.code, outcome.rank) == (1, 1)
    assert "stood still" in outcome.says


def test_a_rank_that_goes_on_in_time_is_not_lost(tmp_path):
    ranks = supervisor(tmp_path, "import time; print('on', flush=True); time.sleep(2.5)", ENDS, stopped_sec=1.5)

    def pause(ranks):
        os.kill(ranks.pids[0], signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(ranks.pids[0], signal.SIGCONT)

    thread = in_the_background(ranks, pause, when=said(tmp_path, 0))
    assert ranks.run().code == 0
    thread.join()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_asked_to_stop_stops_all_with_its_code(tmp_path, rank):
    ranks = supervisor(tmp_path, OBEYS, OBEYS, grace_sec=5)
    thread = in_the_background(
        ranks, lambda ranks: os.kill(ranks.pids[rank], signal.SIGTERM), when=said(tmp_path, rank)
    )
    outcome = ranks.run()
    thread.join()
    assert (outcome.code, outcome.says) == (143, f"rank {rank} was stopped by SIGTERM")
    assert outcome.told


def test_sigterm_to_the_supervisor_reaches_every_rank(tmp_path):
    ranks = supervisor(tmp_path, OBEYS, OBEYS, grace_sec=5)
    both = lambda ranks: said(tmp_path, 0)(ranks) and said(tmp_path, 1)(ranks)  # noqa: E731
    thread = in_the_background(ranks, lambda ranks: os.kill(os.getpid(), signal.SIGTERM), when=both)
    before = signal.getsignal(signal.SIGTERM)
    outcome = ranks.run()
    thread.join()
    assert (outcome.code, outcome.first_told) == (143, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_happens_after_the_first_rank_has_finished_is_no_failure(tmp_path):
    outcome = supervisor(tmp_path, ENDS, "import os, time; time.sleep(0.7); os.kill(os.getpid(), 9)").run()
    assert outcome.code == 0


def test_ranks_die_with_their_supervisor(tmp_path):
    rank = "import time, litmus.supervisor as s; s.end_with_parent(); print('on', flush=True); time.sleep(60)"
    code = f"""
import os, sys
from pathlib import Path
from litmus.supervisor import Command, Supervisor
here = Path({str(tmp_path)!r})
commands = [Command([sys.executable, "-c", {rank!r}], dict(os.environ), here / f"{{n}}.log") for n in (0, 1)]
ranks = Supervisor(commands)
ranks._start()
print(*ranks.pids.values(), flush=True)
ranks._watch()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    until = time.monotonic() + 20
    while not all((tmp_path / f"{n}.log").read_text() for n in (0, 1)) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGSTOP)  # a stopped process cannot see for itself that its parent is gone
    time.sleep(0.5)  # until all of its threads stand
    process.kill()
    process.wait()
    process.stdout.close()
    while not all(map(gone, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2
    assert all(map(gone, pids))
