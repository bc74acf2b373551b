"""Runs that were made to suffer from one thing each, and what the diagnosis says of them. Writes docs/diagnosis.*.

python scripts/diagnose_designed.py [--home mlruns] [--out docs] [--seeds 5] [--report]

The arms, what each is expected to show, and the thresholds of the readings were set on pilot seeds (0 and 100) and not
touched after. What was run is kept in docs/diagnosis.json and not run again; --report draws and writes from it alone.
"""

import argparse
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

BIAS, VARIANCE, BOTH, NEITHER = "high bias", "high variance", "high bias, high variance", "low bias, low variance"
VERDICTS = (BIAS, VARIANCE, BOTH, NEITHER, "undecided")


class Arm(NamedTuple):
    verdict: str
    overrides: str
    readings: Mapping[str, str] = MappingProxyType({})
    """Those that are expected to speak; of all others it is expected that they do not."""


DATA = "data.name=digits data.batch_size=64 data.val_fraction=0.3"
MLP = f"{DATA} model.name=mlp model.depth=3 model.width=128"
TWO_UNITS = f"{DATA} model.name=mlp model.depth=2 model.width=2 model.activation=leaky_relu"
ADAM = "optim.name=adam optim.lr=0.003"
QUIET = ("divergence", "learning_rate", "units", "overfitting", "progress")
"""The readings that are counted; early stopping and label noise describe, and mismatch has nothing to see here."""
ARMS = {
    "too small": Arm(BIAS, f"{TWO_UNITS} optim.name=adam optim.lr=0.01 train.epochs=40"),
    "too little data": Arm(VARIANCE, f"{MLP} {ADAM} data.num_train=60 train.epochs=25"),
    "small, and little data": Arm(
        BOTH,
        f"{TWO_UNITS} optim.name=adam optim.lr=0.03 data.num_train=60 train.epochs=150 train.val_every=15",
        {"overfitting": "overfits"},
    ),
    "trained too long": Arm(
        VARIANCE,
        f"{MLP} optim.name=adam optim.lr=0.01 data.num_train=120 data.batch_size=16 train.epochs=240 "
        "train.val_every=12 checkpoint.evaluate=last",
        {"overfitting": "overfits"},
    ),
    "too much dropout": Arm(BIAS, f"{MLP} {ADAM} model.keep_prob=0.1 train.epochs=15"),
    "too much lambda": Arm(
        BIAS, f"{MLP} optim.lr=0.05 optim.l2_lambda=300 train.epochs=15", {"divergence": "at chance"}
    ),
    "rate too high": Arm(
        BIAS,
        f"{MLP} optim.lr=1 train.epochs=15",
        {"learning_rate": "too high", "divergence": "at chance", "units": "dead"},
    ),
    "rate too low": Arm(
        BIAS,
        f"{MLP} optim.name=sgd optim.lr=0.0003 train.epochs=15",
        {"learning_rate": "too low", "progress": "still improving"},
    ),
    "too short": Arm(
        BIAS,
        f"{MLP} optim.name=sgd optim.lr=0.01 train.epochs=6",
        {"learning_rate": "too low", "progress": "still improving"},
    ),
    "sigmoids, 20 deep": Arm(
        BIAS,
        f"{MLP} model.depth=20 model.activation=sigmoid model.init=xavier_normal optim.lr=0.01 train.epochs=10",
        {"divergence": "at chance"},
    ),
    "well tuned": Arm(
        NEITHER,
        f"{DATA} model.name=residual model.depth=8 optim.lr=0.05 optim.l2_lambda=0.5 schedule.name=one_cycle "
        "train.epochs=15",
    ),
}

Row = dict[str, Any]


def one_run(name: str, seed: int, home: str) -> Row:
    from litmus.config import load_config
    from litmus.errors import NonFinite
    from litmus.experiment import run

    local = [f"tracking.home={home}", "tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]
    slug = f"designed-{name.replace(' ', '-').replace(',', '')}-{seed}"
    config = load_config([], [*ARMS[name].overrides.split(), f"seed={seed}", f"name={slug}", *local])
    started = time.perf_counter()
    try:
        with redirect_stdout(io.StringIO()):
            result = run(config)
    except NonFinite as error:
        return {"arm": name, "seed": seed, "verdict": "not finite", "says": str(error)}
    found = result.diagnosis
    return {
        "arm": name,
        "seed": seed,
        "verdict": found.verdict,
        "train_err": found.train_err,
        "val_err": found.val_err,
        "gaps": {key: [gap.value, *gap.interval] for key, gap in found.gaps.items()},
        "moves": list(found.moves),
        "readings": {one.name: [one.status, one.value, one.sentence] for one in result.readings},
        "sec": round(time.perf_counter() - started, 2),
    }


def write_table(path: Path, rows: list[Row]) -> None:
    part = path.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    part.replace(path)


def report(rows: list[Row]) -> Iterator[str]:
    seeds = len({row["seed"] for row in rows})
    yield "# The diagnosis against runs made to suffer"
    yield ""
    yield "Written by `python scripts/diagnose_designed.py`; every run's numbers are in `diagnosis.json`."
    yield ""
    yield "![Designed runs in the plane of avoidable bias and variance](diagnosis.png)"
    yield ""
    yield (
        f"{len(rows)} runs on digits, {seeds} seeds an arm, target error 0, tolerance 0.02, 539 validation "
        "images. Each arm was made to have its fault. Arms, expectations and thresholds were set on two pilot seeds "
        "that are not among these. A training that is far too short and one whose rate is far too low look "
        "the same: both are expected to say so."
    )
    yield ""
    yield "## Verdicts"
    yield ""
    known = [*VERDICTS, *sorted({row["verdict"] for row in rows} - set(VERDICTS))]
    yield f"| made | expected | {' | '.join(known)} | train / val error |"
    yield f"|---|---|{'---|' * len(known)}---|"
    right = 0
    for name, arm in ARMS.items():
        mine = [row for row in rows if row["arm"] == name]
        counts = Counter(row["verdict"] for row in mine)
        right += counts[arm.verdict]
        cells = [
            f"**{counts[one]}**" if one == arm.verdict and counts[one] else str(counts[one] or "") for one in known
        ]
        yield f"| {name} | {arm.verdict} | {' | '.join(cells)} | {mean(mine, 'train_err')} / {mean(mine, 'val_err')} |"
    wrong = sum(not agrees(row["verdict"], ARMS[row["arm"]].verdict) for row in rows)
    yield ""
    yield (
        f"As expected in {right} of {len(rows)}; undecided, or one of two faults named, in "
        f"{len(rows) - right - wrong}; contradicted in {wrong}."
    )
    yield ""
    yield "## Readings"
    yield ""
    yield f"| made | {' | '.join(name.replace('_', ' ') for name in QUIET)} |"
    yield f"|---|{'---|' * len(QUIET)}"
    false_alarms = missed = hits = silent = 0
    for name, arm in ARMS.items():
        cells = []
        for reading in QUIET:
            counts = Counter(
                row["readings"][reading][0] for row in rows if row["arm"] == name and reading in row.get("readings", {})
            )
            expected = arm.readings.get(reading, "no sign")
            told = [f"{status} {count}" for status, count in counts.most_common() if {status, expected} != {"no sign"}]
            cells.append(", ".join(f"**{one}**" if one.startswith(expected) else one for one in told))
            if expected == "no sign":
                silent += counts["no sign"]
                false_alarms += sum(counts.values()) - counts["no sign"]
            else:
                hits += counts[expected]
                missed += sum(counts.values()) - counts[expected]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"Bold is expected; an empty cell is `no sign`, as expected. Where a reading was to speak it did in {hits} of "
        f"{hits + missed}; where it was to be silent it spoke in {false_alarms} of {false_alarms + silent}."
    )
    yield ""
    yield "## First moves"
    yield ""
    yield "The first two moves of the first seed."
    yield ""
    yield "| made | first | then |"
    yield "|---|---|---|"
    for name in ARMS:
        moves = next(row.get("moves", []) for row in rows if row["arm"] == name)
        first, second = [f"`{move}`" if "`" not in move else move for move in [*moves, "-", "-"][:2]]
        yield f"| {name} | {first} | {second} |"


def agrees(said: str, made: str) -> bool:
    """Whether a verdict does not contradict the design: it is undecided, or names a part of the faults and no other."""
    if said in (made, "undecided"):
        return True
    return "high" in said and set(said.split(", ")) <= set(made.split(", "))


def mean(rows: list[Row], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def draw(rows: list[Row], path: Path) -> None:
    """Each run in the plane of its two gaps, on square-root axes; the lines are the tolerance."""
    import numpy as np

    from litmus.diagnosis import style
    from litmus.diagnosis.insight_plots import CLASS_COLORS, CLASS_MARKERS

    figure = style.new_figure(9.4, 4.9)
    axes = style.add_axes(figure, 0.8, 0.85, 4.9, 3.4)
    root = (lambda y: np.sqrt(np.maximum(y, 0)), np.square)
    axes.set_xscale("function", functions=root)
    axes.set_yscale("function", functions=root)
    axes.set(xlim=(0, 1), ylim=(0, 0.6))
    ticks = (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks[:-1], [f"{tick:g}" for tick in ticks[:-1]])
    for line in (axes.axhline, axes.axvline):
        line(0.02, color=style.SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for x, y, text in ((0.0175, 0.5, VARIANCE.replace(" ", "\n")), (0.9, 0.55, BOTH), (0.9, 0.0007, BIAS)):
        style.write(axes, x, y, text, color=style.SOFT, size=8, ha="right", va="center")
    for k, name in enumerate(ARMS):
        color, marker = CLASS_COLORS[k % len(CLASS_COLORS)], CLASS_MARKERS[k % len(CLASS_MARKERS)]
        mine = [row["gaps"] for row in rows if row["arm"] == name and "gaps" in row]
        axes.plot(
            [max(0, gaps["bias"][0]) for gaps in mine], [max(0, gaps["variance"][0]) for gaps in mine],
            marker, color=color, markersize=7, markeredgecolor="white", markeredgewidth=0.6, alpha=0.9, clip_on=False,
            zorder=4,
        )  # fmt: skip
        y = 1 - 0.088 * k
        axes.plot(1.07, y, marker, color=color, markersize=7, clip_on=False, transform=axes.transAxes)
        style.write(axes, 1.11, y, f"{name}: {ARMS[name].verdict}", size=8, va="center", transform=axes.transAxes)
    style.name_axes(axes, "avoidable bias: training error above target (square-root scale)",
                    "variance: validation above training error")  # fmt: skip
    wrong = sum(not agrees(row["verdict"], ARMS[row["arm"]].verdict) for row in rows)
    right = sum(row["verdict"] == ARMS[row["arm"]].verdict for row in rows)
    title = f"The verdict is the designed one in {right} of {len(rows)} runs and contradicts it in {wrong}"
    style.write_title(
        figure, title, "a marker is a run; at the right, what each was made to show; dashed: the tolerance"
    )
    style.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed; 0 and 100 are the pilots")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    path = args.out / "diagnosis.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    done = {(row["arm"], row["seed"]) for row in rows}
    if not args.report:
        import torch

        torch.set_num_threads(1)
        for seed in range(args.first, args.first + args.seeds):
            for name in ARMS:
                if (name, seed) not in done:
                    rows.append(one_run(name, seed, args.home))
                    write_table(path, rows)
                    row = rows[-1]
                    said = {key: one[0] for key, one in row.get("readings", {}).items() if one[0] != "no sign"}
                    print(f"{name:24} {seed}  {row['verdict']:26} {row.get('sec')} s  {said}", flush=True)
    (args.out / "diagnosis.md").write_text("\n".join(report(rows)) + "\n")
    draw(rows, args.out / "diagnosis.png")


if __name__ == "__main__":
    main()
