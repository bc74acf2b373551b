"""``litmus fit`` on one device or on many: who decides, who trains, and who writes the record.

One process resolves the config, checks it and opens the run: the one that was typed, or rank 0 of those that torchrun
or srun started. The others are told where the run is and what it trains. Rank 0 alone writes the record.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litmus.channel import Channel, Closed
from litmus.config import RunConfig, load_recorded, parse_config, to_dict
from litmus.errors import Refused, refuse
from litmus.paths import shown
from litmus.ranks import Place, contradictions, hear, join, launched, meeting_point, num_threads, tell
from litmus.stopping import Signals
from litmus.supervisor import Command, Outcome, Supervisor, end_with_parent, last_words

if TYPE_CHECKING:
    from litmus.experiment import Opened, Scope
    from litmus.resume import Resume

Choice = tuple[RunConfig, "Resume | None", str]
"""What to run, the run to go on with, and why there is nothing to do, if so."""

CONFIG = "artifacts/config.yaml"
_NEWS = "litmus/run"
_HEARD = "litmus/heard"
_LAST_WORD_SEC = 2
_LONGEST_CHECK_SEC = 24 * 3600
"""Rank 0 may have a large set to fetch and decode before the others hear of it; if it dies, they hear that at once."""


def fit(choose: Callable[[], Choice], *, signals: Signals, say: Callable[[str], None] = print) -> int:
    """Run what ``choose`` gives, on all of its devices; the exit code.

    Raises:
        Refused: before any process is started, with everything that is wrong.
    """
    place = launched(os.environ)
    if place is not None:
        return _fit_among_others(place, choose, signals, say)
    config, resume, done = choose()
    if done:
        say(done)
        return 0
    if config.train.nodes > 1:
        says = "machines: start `litmus fit` on each of them, by torchrun or srun (scripts/slurm/fit.sbatch)"
        raise refuse("train.nodes", says, config.train.nodes, source="config")
    from litmus.experiment import open_run, quiet_libraries, run

    if config.train.world_size == 1:
        run(config, resume=resume, signals=signals, say=say)
        return 0
    with quiet_libraries():
        opened = open_run(config, resume=resume, say=say, send="off")  # rank 0 will send
        with opened.tracked as tracked:
            tracked.hand_over()
    return supervise(tracked.dir, opened.config, beginning_of(opened))


def beginning_of(opened: Opened) -> dict[str, Any]:
    """Where the training begins, in plain values for the processes that train."""
    begin_at = opened.begin_at.path.name if opened.begin_at else None
    return {"resumed": opened.resumed, "begin_at": begin_at, "changed": opened.changed}


def scope_of(beginning: Mapping[str, Any], *, reports: bool = True) -> Scope:
    """What is done of a run, from the plain values under ``scope`` of its beginning.

    Args:
        reports: whether this process is the one that a study hears of.
    """
    from litmus.callbacks import Pruning
    from litmus.experiment import Scope

    told = beginning.get("scope")
    if not told:
        return Scope()
    pruning = None
    if told.get("metric"):
        pruning = Pruning(told["metric"], asker(told["address"]) if reports and told.get("address") else None)
    return Scope(tuple(told["splits"]), told["pictures"], pruning, tuple(told.get("objectives", ())))


def asker(address: str, *, patience_sec: float = 20.0) -> Callable[[Sequence[tuple[int, float]]], bool]:
    """Asks the study's worker at ``address`` about each report. One that is gone, or slow, lets the training go on."""
    channel: Channel | None = None

    def ask(reports: Sequence[tuple[int, float]]) -> bool:
        nonlocal channel
        try:
            channel = channel or Channel.to(address)
            channel.send(reports=[list(report) for report in reports])
            answer = channel.receive(patience_sec)
            while answer is not None and answer.get("of") != reports[-1][0]:  # one that came too late
                answer = channel.receive(patience_sec)
            return bool(answer and answer.get("stop"))
        except Closed:
            return False

    return ask


def supervise(folder: Path, config: RunConfig, beginning: Mapping[str, Any]) -> int:
    """Start a process a device for the run in ``folder`` and wait until all have ended; the exit code."""
    meeting = Path(tempfile.mkdtemp(prefix="litmus-"))
    try:
        outcome = Supervisor(commands(folder, config, beginning, meeting / "ranks")).run()
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
    if outcome.rank is not None and not outcome.first_told:  # else rank 0 has said and recorded it all
        from litmus.experiment import way_on

        run_id = settle(folder, config, outcome)
        sys.stderr.write(obituary(folder, outcome, way_on(config, folder, run_id)))
    return outcome.code


def commands(folder: Path, config: RunConfig, beginning: Mapping[str, Any], meeting: Path) -> list[Command]:
    """What each rank runs. Rank 0 has the terminal, the others a log in the run directory."""
    world_size = config.train.world_size
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(num_threads(os.environ, world_size)),
    }
    if config.tracking.uri:  # a password in it is nowhere in the run directory
        env["MLFLOW_TRACKING_URI"] = config.tracking.uri
    if "GLOO_SOCKET_IFNAME" not in env and sys.platform.startswith("linux"):
        env["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: whatever its host name resolves to
    start = [sys.executable, "-P", "-m", "litmus.rank", str(folder), str(meeting), str(world_size)]
    return [
        Command([*start, str(rank), json.dumps(beginning)], env, folder / f"rank-{rank}.log" if rank else None)
        for rank in range(world_size)
    ]


def settle(folder: Path, config: RunConfig, outcome: Outcome) -> str:
    """Write down how the run ended when rank 0 could not, or saw no more than that another was gone; the run's id."""
    from litmus.tracking import Run

    tracked = Run.take_over(folder, send="off" if config.tracking.offline else "process")
    tracked.set_tags({"litmus.fail_reason": outcome.says})
    tracked.finish("KILLED" if outcome.code > 128 else "FAILED")
    return tracked.id or tracked.uid


def obituary(folder: Path, outcome: Outcome, way_on: list[str]) -> str:
    """What went wrong, in which rank, its last words, and what to do."""
    lines = ["", f"{outcome.says}; all processes of the run have ended"]
    log = folder / f"rank-{outcome.rank}.log"
    if outcome.rank and (words := last_words(log)):
        lines += [f"the end of {shown(log)}:", *(f"  {word}" for word in words)]
    return "\n".join([*lines, *way_on]) + "\n"


# --- in each process --------------------------------------------------------------------------------------------------


def run_rank(
    folder: Path,
    meeting: str,
    place: Place,
    beginning: Mapping[str, Any],
    *,
    signals: Signals,
    say: Callable[[str], None] = print,
) -> None:
    """One process of the run in ``folder``, which a supervisor opened and whose config it has checked."""
    from litmus.tracking import Run

    end_with_parent()
    config = load_recorded(folder / CONFIG)
    tracked = None
    if place.rank == 0:
        tracked = Run.take_over(folder, send="off" if config.tracking.offline else "process")
    _train_at(config, folder, place, tracked, beginning, signals, say, file=meeting)


def _fit_among_others(place: Place, choose: Callable[[], Choice], signals: Signals, say: Callable[[str], None]) -> int:
    """One of the processes that torchrun or srun started; each was given the same command."""
    store = _meet(place, os.environ)
    if place.rank:
        told = _be_told(store)
        if "code" in told:
            time.sleep(_LAST_WORD_SEC)  # rank 0 says why, before a launcher that sees us gone ends it
            return told["code"]
        config = parse_config(told["config"])
        _train_at(config, Path(told["folder"]), place, None, told["beginning"], signals, say, store=store)
        return 0
    from litmus.experiment import open_run, quiet_libraries

    try:
        config, resume, done = choose()
        if done:
            _tell_all(store, place, {"code": 0})
            say(done)
            return 0
        if problems := contradictions(place, config.train.devices, config.train.nodes):
            raise Refused(problems, source="config")
        with quiet_libraries():
            opened = open_run(config, resume=resume, say=say)
    except BaseException as error:
        _tell_all(store, place, {"code": 2 if isinstance(error, Refused) else 1})
        raise
    folder, beginning = opened.tracked.dir, beginning_of(opened)
    recorded = load_recorded(folder / CONFIG)  # secrets are masked in it
    _tell_all(store, place, {"folder": str(folder), "config": to_dict(recorded), "beginning": beginning})
    _train_at(opened.config, folder, place, opened.tracked, beginning, signals, say, store=store)
    return 0


def _meet(place: Place, environ: Mapping[str, str]) -> Any:
    """The store through which the processes talk before they are a group."""
    import torch.distributed as dist

    where = dict(zip(("MASTER_ADDR", "MASTER_PORT"), map(str, meeting_point(environ)), strict=True))
    if place.by == "torchrun" and (absent := [name for name in where if name not in environ]):
        raise refuse(absent[0], "is not set, though RANK and WORLD_SIZE are: torchrun sets all of them")
    os.environ.update(where)
    return next(iter(dist.rendezvous("env://", place.rank, place.world_size)))[0]


def _tell_all(store: Any, place: Place, message: dict[str, Any]) -> None:
    """Rank 0's word, and a moment for the others to hear it: the store may end with this process."""
    tell(store, _NEWS, message)
    until = time.monotonic() + 20
    while "code" in message and store.add(_HEARD, 0) < place.world_size - 1 and time.monotonic() < until:
        time.sleep(0.05)


def _be_told(store: Any) -> dict[str, Any]:
    from torch.distributed import DistError

    try:
        message = hear(store, _NEWS, timeout_sec=_LONGEST_CHECK_SEC)
        store.add(_HEARD, 1)
    except DistError as error:
        raise RuntimeError(f"rank 0 is gone before it said what to train: {error}") from None
    return message


def _train_at(
    config: RunConfig,
    folder: Path,
    place: Place,
    tracked: Any,
    beginning: Mapping[str, Any],
    signals: Signals,
    say: Callable[[str], None],
    **meeting: Any,
) -> None:
    """Join the others, train with them, and, as rank 0, evaluate and record; as another, leave."""
    from contextlib import nullcontext

    import torch
    import torch.distributed as dist

    from litmus.checkpoints import Saved
    from litmus.experiment import Opened, Result, conduct, farewell, make_data, quiet_libraries
    from litmus.resume import FOLDER
    from litmus.strategy import backend, on_gpu

    with quiet_libraries(), tracked or nullcontext():
        torch.set_num_threads(num_threads(os.environ, config.train.devices))
        if on_gpu(config):
            torch.cuda.set_device(place.local_rank)
        join(place, backend=backend(config), timeout_sec=config.train.timeout_sec, **meeting)
        data = make_data(config)
        if place.local_rank == 0:  # once a machine: what it fetches and decodes the others find
            data.prepare()
        dist.barrier()
        data.prepare()
        name = beginning["begin_at"]
        begin_at = Saved.at(folder / FOLDER / name) if name else None
        opened = Opened(config, data, tracked, beginning["resumed"], begin_at, beginning["changed"])
        scope = scope_of(beginning, reports=place.rank == 0)
        result = conduct(opened, folder, signals, say=say, place=place, scope=scope)
        if result is not None:
            if isinstance(result, Result) and result.test_interval:
                say(farewell(config, result))
            return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do, and a library that fails while it unloads must not look like a failure
