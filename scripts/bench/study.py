"""What a study costs per trial, beside a fresh process for each trial and one process for all of them.

    python scripts/bench/study.py [--epochs 4 8] [--quick] [--profile]

What a process costs is the same for a trial of any length, so it weighs most on the shortest: a table for each length.
The trials are the same few epochs of an MLP on digits, recorded the same way (a run directory; nothing is sent to
MLflow, which is another process's work). `litmus tune` gives each a process of its own, forked from a warm one. One
peer is `litmus fit`, a new process that imports everything; the other is Optuna's `study.optimize` around the very same
training, in one process, where a trial that runs out of memory takes the study along.

Start-up is stated apart: what is compared is the time from the beginning of the second trial to the end of the last, by
the storage's own clock; of `litmus fit`, the whole command. Arms are interleaved, round by round, and the ratio is the
median over rounds. Beside the wall time stands the processor time of all processes of an arm, which a busy machine
disturbs less.

--profile says where one trial's time goes, in the child and around it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

LOW, HIGH = 1e-4, 1e-2


def common(epochs: int) -> list[str]:
    """What every trial of every arm has: the config's file first, then its overrides."""
    return [
        *("configs/digits_mlp.yaml", f"train.epochs={epochs}", "early_stopping=null"),
        *("tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu", "insight=false"),
    ]


def write_study(folder: Path, trials: int, epochs: int) -> Path:
    plain = {
        "base": [*common(epochs), f"tracking.home={folder / 'mlruns'}"],
        "objective": "val/err",
        "space": {"optim.lr": {"low": LOW, "high": HIGH, "log": True}},
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
        "confirm": {"top": 0},
        "n_trials": trials,
    }
    path = folder / "bench.yaml"
    path.write_text(json.dumps(plain))
    return path


def spent(argv: list[str]) -> tuple[float, float]:
    """(wall, processor) seconds of a command, its children included."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def per_trial(database: Path) -> float:
    """Seconds a trial, from the beginning of the second to the end of the last."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT datetime_start, datetime_complete FROM trials WHERE state = 'COMPLETE'").fetchall()
    begun = sorted(datetime.fromisoformat(begin) for begin, _ in rows)
    ended = max(datetime.fromisoformat(end) for _, end in rows)
    return (ended - begun[1]).total_seconds() / (len(rows) - 1)


def by_tune(trials: int, workers: int, epochs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_study(Path(folder), trials, epochs)
        flags = ["--workers", str(workers), "--share"]
        wall, cpu = spent([sys.executable, "-m", "litmus.cli", "tune", str(path), *flags])
        each = per_trial(Path(folder) / "mlruns/studies.db")
    return {"trial": each, "cpu": cpu, "rest": wall - each * trials}


def by_fit(trials: int, epochs: int) -> dict[str, float]:
    """A new process for each trial."""
    walls, cpus = [], []
    for number in range(trials):
        with tempfile.TemporaryDirectory() as folder:
            lr = LOW * (HIGH / LOW) ** ((number + 0.5) / trials)
            words = [*common(epochs), f"optim.lr={lr}", f"tracking.home={folder}/mlruns"]
            wall, cpu = spent([sys.executable, "-m", "litmus.cli", "fit", *words])
        walls.append(wall)
        cpus.append(cpu)
    return {"trial": statistics.median(walls), "cpu": statistics.median(cpus) * trials, "rest": 0.0}


def by_optimize(trials: int, epochs: int) -> dict[str, float]:
    """One process for all, with nothing between a trial and the study."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = spent([sys.executable, __file__, "--optimize", folder, str(trials), str(epochs)])
        each = per_trial(Path(folder) / "plain.db")
    return {"trial": each, "cpu": cpu, "rest": wall - each * trials}


def optimize(folder: str, trials: int, epochs: int) -> None:
    """The peer: Optuna as its tutorial shows it, around the training and the record that a trial of ours has."""
    import optuna
    import torch

    from litmus.config import load_config
    from litmus.experiment import Scope, conduct, objective_of, open_run, quiet_libraries
    from litmus.stopping import Signals

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    file, *overrides = common(epochs)
    scope = Scope(splits=("train_eval", "val"), pictures=False, objectives=("val/err",))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", LOW, HIGH, log=True)
        words = [f"optim.lr={lr}", f"tracking.home={folder}/mlruns"]
        config = load_config([file], [*overrides, *words])
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()), Signals() as signals:
            opened = open_run(config, send="off")
            result: Any = conduct(opened, opened.tracked.dir, signals, say=print, scope=scope)
        return objective_of(result.table(), "val/err")

    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)


def profile(trials: int, epochs: int) -> None:
    """Where a trial's time goes: in its process by cProfile, around it by the storage's clock and its log."""
    import cProfile
    import pstats

    with tempfile.TemporaryDirectory() as folder:
        profiler = cProfile.Profile()
        profiler.enable()
        optimize(folder, 2, epochs)  # the first warms up
        profiler.disable()
        profiler = cProfile.Profile()
        profiler.enable()
        optimize(folder, trials, epochs)
        profiler.disable()
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats("litmus|optuna.study|fit_loop", 45)
        print(text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", nargs="+", type=int, default=[4, 8], help="lengths of a trial, a table for each")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--profile", action="store_true", help="where a trial's time goes")
    parser.add_argument("--optimize", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.optimize:
        folder, trials, epochs = given.optimize
        return optimize(folder, int(trials), int(epochs))
    for epochs in given.epochs:
        if given.profile:
            profile(8, epochs)
        else:
            compare(epochs, quick=given.quick)


def compare(epochs: int, *, quick: bool) -> None:
    rounds, trials, fits = (2, 8, 2) if quick else (5, 16, 3)
    arms: dict[str, list[dict[str, float]]] = {name: [] for name in ("tune", "two", "fit", "optimize")}
    for _ in range(rounds):
        arms["tune"].append(by_tune(trials, 1, epochs))
        arms["optimize"].append(by_optimize(trials, epochs))
        arms["two"].append(by_tune(2 * trials, 2, epochs))
        arms["fit"].append(by_fit(fits, epochs))
    counts = {"tune": trials, "optimize": trials, "two": 2 * trials, "fit": fits}
    load = os.getloadavg()[0]
    print(f"{trials} trials of {epochs} epochs, digits MLP, one thread each; {rounds} rounds, load {load:.1f}\n")
    print(f"{'':<44}{'s/trial':>9}{'/min':>8}{'cpu s/trial':>13}{'rest s':>8}{'ratio':>8}{'target':>9}")
    names = {
        "tune": "litmus tune, 1 worker",
        "fit": "a fresh process per trial (litmus fit)",
        "optimize": "one process, study.optimize",
        "two": "litmus tune, 2 workers",
    }
    goals = {"tune": "", "fit": ">= 8", "optimize": ">= 0.9", "two": ">= 1.2"}
    for arm, rows in arms.items():
        each = statistics.median(row["trial"] for row in rows)
        cpu = statistics.median(row["cpu"] for row in rows) / counts[arm]
        rest = statistics.median(row["rest"] for row in rows)
        pairs = [row["trial"] / ours["trial"] for row, ours in zip(rows, arms["tune"], strict=True)]
        ratio = 1 / statistics.median(pairs) if arm == "two" else statistics.median(pairs)
        shown = f"{ratio:>8.2f}" if arm != "tune" else f"{'':>8}"
        print(f"{names[arm]:<44}{each:>9.3f}{60 / each:>8.1f}{cpu:>13.3f}{rest:>8.1f}{shown}{goals[arm]:>9}")
    print("\nratio: time of the peer over that of one worker; of two workers, how much faster they are than one")
    print("cpu: all processes of the command, start-up and end included; rest: wall time outside the trials\n")


if __name__ == "__main__":
    main()
