"""Searching with and without pruning, beside random search at equal epochs, over paired study seeds. Writes docs/search.*.

python scripts/search.py [--home mlruns] [--out docs] [--only digits|fashion] [--report]

Three arms search the same space for the lowest validation error: random search and TPE, which train every trial to its
end, and TPE with Hyperband, which stops most of them early and so has more trials for its epochs. An arm is given the
epochs that random search needs for its trials; what is compared is the best validation error after so many epochs.

What was run is kept in docs/search.json and not run again; --report draws and writes from that file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

SEEDS = range(5)
TRIALS, MOST = 60, 240
"""Trials of the arms without pruning; of the one with, the most that its budget could hold."""
SPACE = """\
  optim.l2_lambda: {low: 0.01, high: 1000, log: true, or: 0}
  model.keep_prob: {low: 0.3, high: 1.0, step: 0.05}
  optim.name: {choices: [momentum, adam, rmsprop]}
  optim.lr:
    - {when: {optim.name: momentum}, low: 0.001, high: 1, log: true}
    - {when: {optim.name: [adam, rmsprop]}, low: 1.0e-4, high: 0.1, log: true}
"""
COMMON = ["early_stopping=null", "tracking.offline=true", "tracking.system_metrics=false", "train.trace_steps=0"]
SETS: dict[str, dict[str, Any]] = {
    "digits": {
        "title": "digits (1,797 images of 8x8), MLP",
        "base": ["configs/digits_mlp.yaml", "data.val_fraction=0.3", "train.epochs=12"],
        "epochs": 12,
    },
    "fashion": {
        "title": "Fashion-MNIST, 5,000 training images, MLP",
        "base": [
            "configs/mlp_fashion_mnist.yaml",
            *("data.num_train=5000", "data.val_fraction=0.05", "data.train_eval_size=500", "train.epochs=9"),
        ],
        "epochs": 9,
    },
}
ARMS: dict[str, list[str]] = {
    "random search": ["sampler.name=random", "pruner.name=none"],
    "TPE": ["sampler.name=tpe", "pruner.name=none"],
    "TPE + Hyperband": ["sampler.name=tpe", "pruner.name=hyperband"],
}


# --- running ----------------------------------------------------------------------------------------------------------


def run_arm(key: str, arm: str, seed: int, home: Path) -> list[list[float]]:
    """[epochs trained, value or last report, 1 for complete] of each trial in the order in which they ended."""
    plan = SETS[key]
    name = f"{key}-{arm.lower().replace(' + ', '-').replace(' ', '-')}-{seed}"
    base = [*plan["base"], *COMMON, f"tracking.home={home}"]
    trials = MOST if "Hyperband" in arm else TRIALS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        text = f"base: {json.dumps(base)}\nobjective: val/err\nspace:\n{SPACE}n_trials: {trials}\nseed: {seed}\n"
        path.write_text(f"{text}confirm: {{top: 0}}\n")
        command = [sys.executable, "-m", "litmus.cli", "tune", str(path), *ARMS[arm], "--workers", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return rows_of(name, home)


def rows_of(name: str, home: Path) -> list[list[float]]:
    import optuna

    study = optuna.load_study(study_name=name, storage=f"sqlite:///{home.absolute()}/studies.db")
    done = [t for t in study.get_trials() if t.state.name in ("COMPLETE", "PRUNED")]
    done.sort(key=lambda t: t.datetime_complete)
    rows = []
    for trial in done:
        last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else 1.0
        value = trial.values[0] if trial.state.name == "COMPLETE" else last
        rows.append([trial.user_attrs.get("litmus.epochs", 0.0), value, float(trial.state.name == "COMPLETE")])
    return rows


# --- what it came to --------------------------------------------------------------------------------------------------


def best_curve(rows: list[list[float]]) -> tuple[list[float], list[float]]:
    """Epochs spent after each trial, and the lowest error of a complete one so far."""
    spent, best, epochs, errors = 0.0, 1.0, [], []
    for took, value, complete in rows:
        spent += took
        if complete:
            best = min(best, value)
        epochs.append(spent)
        errors.append(best)
    return epochs, errors


def best_within(rows: list[list[float]], budget: float) -> tuple[float, int]:
    """The lowest error within a budget of epochs, and how many trials it held."""
    epochs, errors = best_curve(rows)
    within = [error for spent, error in zip(epochs, errors, strict=True) if spent <= budget]
    return (within[-1] if within else 1.0), len(within)


def epochs_to(rows: list[list[float]], error: float) -> float | None:
    """Epochs until a complete trial is as good as ``error``."""
    for spent, best in zip(*best_curve(rows), strict=True):
        if best <= error:
            return spent
    return None


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--home", default="mlruns", help="folder for the studies and their runs")
    words.add_argument("--out", default="docs")
    words.add_argument("--only", choices=SETS)
    words.add_argument("--report", action="store_true", help="run nothing")
    given = words.parse_args()
    out, home = Path(given.out), Path(given.home)
    if not given.report:
        for seed in SEEDS:
            for key in [given.only] if given.only else SETS:
                for arm in ARMS:
                    place = out / f"search-{key}.json" if given.only else out / "search.json"
                    found = json.loads(place.read_text()) if place.exists() else {}
                    if found.get(key, {}).get(arm, {}).get(str(seed)):
                        continue
                    rows = run_arm(key, arm, seed, home)
                    found.setdefault(key, {}).setdefault(arm, {})[str(seed)] = rows
                    place.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")
                    epochs = sum(row[0] for row in rows)
                    print(f"{key} {arm} {seed}: {len(rows)} trials, {epochs:g} epochs, best {best_curve(rows)[1][-1]:.4f}")


if __name__ == "__main__":
    main()
