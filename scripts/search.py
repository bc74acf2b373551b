"""Searching with and without pruning, beside random search at equal epochs, over study seeds. Writes docs/search.*.

python scripts/search.py [--home mlruns] [--out docs] [--only digits|fashion] [--report]

Three arms search the same space for the lowest validation error: random search and TPE, which train every trial to its
end, and TPE with Hyperband, which stops most of them early and so has more trials for its epochs. An arm is given the
epochs that random search needs for its trials; what is compared is the best validation error after so many epochs.

What was run is kept in docs/search.json and not run again; --report draws and writes from that file alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

SEEDS = range(5)
TRIALS, MOST = 60, 110
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


# --- the report -------------------------------------------------------------------------------------------------------


def budget_of(arms: dict[str, Any], seed: str) -> float:
    """Epochs of random search, or of the arm that spent least: what all are compared at."""
    return min(sum(row[0] for row in rows[seed]) for rows in arms.values())


def paired(arms: dict[str, Any]) -> list[str]:
    """Seeds that every arm has run."""
    return sorted(set.intersection(*(set(rows) for rows in arms.values())), key=int)


def table_of(key: str, arms: dict[str, Any]) -> list[str]:
    from litmus.diagnosis.paired import compare, interval

    seeds = paired(arms)
    reference = next(iter(ARMS))
    at = {seed: budget_of(arms, seed) for seed in seeds}
    best = {arm: [best_within(arms[arm][seed], at[seed])[0] for seed in seeds] for arm in ARMS}
    lines = [
        "| arm | trials in the budget | best val/err, mean over seeds (95%) | against random search, points (95%) | "
        "lower on | epochs until as good as random search's best |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        trials = [best_within(arms[arm][seed], at[seed])[1] for seed in seeds]
        mean, low, high = interval(best[arm])
        against = compare(best[reference], best[arm], direction="minimize")
        words = (
            ""
            if arm == reference
            else f"{-100 * against.difference:+.2f} ({-100 * against.high:+.2f} to {-100 * against.low:+.2f})"
        )
        wins = "" if arm == reference else f"{against.better} of {against.of}"
        parts = []
        for seed, target in zip(seeds, best[reference], strict=True):
            needed = epochs_to(arms[arm][seed], target)
            parts.append(None if needed is None else needed / at[seed])
        reached = sorted(part for part in parts if part is not None)
        half = statistics.median([*reached, *[math.inf] * (len(parts) - len(reached))])
        share = f"{half:.2f} of the budget" if math.isfinite(half) else "not within what was run"
        lines.append(
            f"| {arm} | {min(trials)} to {max(trials)} | {mean:.4f} ({low:.4f} to {high:.4f}) | {words} | {wins} | "
            f"{share} (median; reached on {len(reached)} of {len(seeds)}) |"
        )
    return lines


def pruning_of(arms: dict[str, Any]) -> list[str]:
    """As many trials with pruning as without: what they cost, and what they find."""
    from litmus.diagnosis.paired import compare

    seeds, lines = paired(arms), []
    pruned = [arms["TPE + Hyperband"][seed][:TRIALS] for seed in seeds]
    for other in ("random search", "TPE"):
        whole = [arms[other][seed] for seed in seeds]
        shares = [
            sum(row[0] for row in one) / sum(row[0] for row in two) for one, two in zip(pruned, whole, strict=True)
        ]
        best = [[best_curve(rows)[1][-1] for rows in side] for side in (whole, pruned)]
        against = compare(best[0], best[1], direction="minimize")
        pairs = ", ".join(f"{one:.4f} and {two:.4f}" for one, two in zip(best[1], best[0], strict=True))
        lines.append(
            f"- {TRIALS} trials of TPE with Hyperband spend {min(shares):.2f} to {max(shares):.2f} of the epochs of "
            f"{TRIALS} trials of {other} (mean {statistics.mean(shares):.2f}); best with and without, a seed each: "
            f"{pairs}: "
            f"{-100 * against.difference:+.2f} points ({-100 * against.high:+.2f} to {-100 * against.low:+.2f})."
        )
    return lines


def draw(found: dict[str, Any], path: Path) -> None:
    from litmus.diagnosis import style

    colors = dict(zip(ARMS, (style.SOFT, style.ORANGE, style.BLUE), strict=True))
    keys = [key for key in SETS if key in found]
    figure = style.new_figure(4.6 * len(keys) + 0.6, 4.2)
    for place, key in enumerate(keys):
        arms, seeds = found[key], paired(found[key])
        axes = style.add_axes(figure, 0.75 + 4.6 * place, 1.05, 3.6, 2.5)
        end = min(budget_of(arms, seed) for seed in seeds)
        grid = [end * (k + 1) / 120 for k in range(120)]
        for arm in ARMS:
            curves = [[best_within(arms[arm][seed], spent)[0] for spent in grid] for seed in seeds]
            for curve in curves:
                axes.plot(grid, curve, color=colors[arm], linewidth=0.6, alpha=0.35, drawstyle="steps-post")
            middle = [statistics.mean(values) for values in zip(*curves, strict=True)]
            axes.plot(grid, middle, color=colors[arm], linewidth=2.2, label=arm, drawstyle="steps-post")
        shown = [best_within(arms[arm][seed], spent)[0] for arm in ARMS for seed in seeds for spent in grid[12:]]
        margin = 0.08 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
        axes.set_xlim(0, end)
        style.name_axes(axes, "epochs trained, over all trials", "lowest validation error (rate)" if not place else "")
        style.write(axes, 0.02, 1.03, SETS[key]["title"], size=9, transform=axes.transAxes)
        if not place:
            axes.legend(frameon=False, fontsize=8, loc="upper right")
    seeds = paired(found[keys[0]])
    style.write_title(
        figure,
        "What a search finds for its epochs",
        f"best complete trial so far; thick: mean of {len(seeds)} study seeds, thin: each of them",
    )
    style.save(figure, path)


def report(found: dict[str, Any], out: Path) -> None:
    lines = [
        "# Searching: what TPE and Hyperband are worth beside random search",
        "",
        "Written by `python scripts/search.py`; every trial's numbers are in `search.json`.",
        "",
        "![Lowest validation error against epochs](search.png)",
        "",
        "One space (l2_lambda, keep_prob, optimizer, rate by optimizer), the base config as trial 0, the same study "
        f"seeds for every arm. Random search and TPE train {TRIALS} trials to the end; TPE with Hyperband gets the "
        "same epochs, then is looked at again for as many trials. "
        "Values are those the search saw: a search's best is best partly by luck, which `litmus tune` corrects by "
        "training the winners again.",
    ]
    for key, arms in found.items():
        seeds = paired(arms)
        budgets = [budget_of(arms, seed) for seed in seeds]
        lines += ["", f"## {SETS[key]['title']}", ""]
        lines += [
            f"{len(seeds)} study seeds. {SETS[key]['epochs']} epochs a full trial; compared at {min(budgets):g} to "
            f"{max(budgets):g} epochs.",
            "",
        ]
        lines += table_of(key, arms)
        lines += ["", *pruning_of(arms)]
    (out / "search.md").write_text("\n".join(lines) + "\n")
    draw(found, out / "search.png")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--home", default="mlruns", help="folder for the studies and their runs")
    words.add_argument("--out", default="docs")
    words.add_argument("--only", choices=SETS)
    words.add_argument("--report", action="store_true", help="run nothing")
    given = words.parse_args()
    out, home = Path(given.out), Path(given.home)
    place = out / "search.json"
    if not given.report:
        for seed in SEEDS:
            for key in [given.only] if given.only else SETS:
                for arm in ARMS:
                    found = json.loads(place.read_text()) if place.exists() else {}
                    if found.get(key, {}).get(arm, {}).get(str(seed)):
                        continue
                    rows = run_arm(key, arm, seed, home)
                    found.setdefault(key, {}).setdefault(arm, {})[str(seed)] = rows
                    place.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")
                    epochs = sum(row[0] for row in rows)
                    print(
                        f"{key} {arm} {seed}: {len(rows)} trials, {epochs:g} epochs, best {best_curve(rows)[1][-1]:.4f}"
                    )
    report(json.loads(place.read_text()), out)


if __name__ == "__main__":
    main()
