"""Early stopping, replayed: every criterion on the same recorded curves, with clean and with noisy labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, in_seeds, mean_of, ordering, reported
from litmus.claims.figures import Curves, Panel, draw
from litmus.claims.regularisation import number
from litmus.config import Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

ENDS = Measure("litmus.claims.measure_splits:both_ends", {"split": "test"}, of_checkpoints=True)
CURVES = ("train/loss", "val/loss", "val/err")
PRECHELT: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("gl", {"alpha": alpha}) for alpha in (1.0, 2.0, 3.0, 5.0, 10.0)),
    *(("pq", {"alpha": alpha}) for alpha in (0.5, 0.75, 1.0, 2.0, 3.0)),
    *(("up", {"s": s}) for s in (2, 3, 4, 6, 8)),
)
"""The criteria of Prechelt 1998 with his parameters, and our default, GL with alpha 10."""
SHOWN = ("GL1", "GL5", "GL10", "PQ0.5", "PQ2", "UP2", "UP4", "UP8")
"""Those in the figure."""


class EarlyStops(Claim):
    """One long training for each seed and share of wrong labels; its lowest validation loss against its end.

    The weights of the lowest validation loss and the last ones are compared on the test images, for on the validation
    images the lowest loss is below the last one by definition.
    """

    class Settings(Section):
        noises: Numbers
        """Shares of wrong training labels, rising from 0, below 1; the last one is judged by its error."""

    def cells(self) -> list[Cell]:
        noises = list(self.settings.noises)
        if noises[0] != 0 or noises != sorted(set(noises)) or len(noises) < 2 or noises[-1] >= 1:
            raise self.refuse("noises", "must begin with 0 and rise, below 1, at least two of them", noises)
        if self.base.monitor != "val/loss" or self.base.checkpoint.evaluate != "best":
            raise self.refuse("noises", "base must keep the best weights by val/loss (checkpoint.monitor)", noises)
        return [
            cell
            for noise in noises
            for cell in self.over_seeds(label(noise), {"data.label_noise": float(noise)}, (ENDS,))
        ]

    def read(self, done: Mapping[str, Done]) -> Table:
        noises = list(self.settings.noises)
        table: Table = {"noises": noises, "ends": {}, "curves": {}, "stops": {}}
        for noise in noises:
            table["ends"][f"{noise:g}"] = {
                which: {
                    what: self.per_seed(done, label(noise), _of_end(which, what)) for what in ("loss", "err", "step")
                }
                for which in ("best", "last")
            }
            cells = [done[f"{label(noise)}, seed {seed}"] for seed in self.seeds]
            curves = [{} if one.diverged else {name: one.history(name) for name in CURVES} for one in cells]
            table["curves"][f"{noise:g}"] = [
                {name: [value for _, value in course] for name, course in one.items()} for one in curves
            ]
            table["steps"] = next(
                ([step for step, _ in one["val/loss"]] for one in curves if one), table.get("steps", [])
            )
            table["stops"][f"{noise:g}"] = [replay_all(one) for one in table["curves"][f"{noise:g}"]]
        table["rows"] = [
            {
                "noise": noise,
                "seed": seed,
                **{
                    f"{which}_{what}": table["ends"][f"{noise:g}"][which][what][seed]
                    for which in ("best", "last")
                    for what in ("loss", "err")
                },
                **{f"{name}_stop": stop["stop"] for name, stop in table["stops"][f"{noise:g}"][seed].items()},
            }
            for noise in noises
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        low, high = (f"{table['noises'][at]:g}" for at in (0, -1))
        clean, noisy = table["ends"][low], table["ends"][high]
        errs = list(zip(clean["best"]["err"], clean["last"]["err"], strict=True))
        return [
            ordering(
                f"noise {high}: test error at the lowest val loss below the last one",
                noisy["best"]["err"], noisy["last"]["err"],
            ),
            ordering(
                "noise 0: test loss at the lowest val loss below the last one",
                clean["best"]["loss"], clean["last"]["loss"],
            ),
            in_seeds("noise 0: and its test error is not", [best >= last for best, last in errs]),
            *(
                reported(
                    f"noise {name}: test error at the lowest val loss, and last",
                    f"{mean_of(ends['best']['err'])}, {mean_of(ends['last']['err'])}; losses "
                    f"{mean_of(ends['best']['loss'])}, {mean_of(ends['last']['loss'])}",
                )
                for name, ends in table["ends"].items()
            ),
            *(
                reported(f"noise {name}: median validation that stops (seeds whose lowest loss it keeps)", told(stops))
                for name, stops in table["stops"].items()
            ),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        names, steps, ends = list(table["curves"]), table["steps"], table["ends"]
        low, high = names[0], names[-1]

        def course(name: str, what: str) -> tuple[list[int], list[list[float]]]:
            return steps, _stacked(table["curves"][name], what, len(steps))

        def err(name: str, which: str) -> str:
            return number(sum(ends[name][which]["err"]) / len(ends[name][which]["err"]))

        points = {f"{which}, noise {name}": ends[name][which]["err"] for name in names for which in ("best", "last")}
        stops = {name: stopping_steps(table, high, name) for name in SHOWN}
        return draw(
            [
                Curves(
                    {f"noise {name}": course(name, "val/loss") for name in names},
                    "validation loss (nats)", "step, log scale", log_x=True, log_y=True,
                ),
                Curves(
                    {f"noise {name}": course(name, "val/err") for name in names},
                    "validation error rate", "step, log scale", log_x=True,
                ),
                Panel(points, "test error rate", title="weights of the lowest val loss (best), and last"),
                Panel(
                    stops, "stops after step", log_y=True, title=f"criteria, noise {high}", unfinished="never stopped",
                ),
            ],
            path,
            title=f"Test error at the lowest val loss, and at the end: {err(high, 'best')}, {err(high, 'last')} with "
            f"noise {high}; {err(low, 'best')}, {err(low, 'last')} without",
            subtitle=f"{self.base.model.name} on {self.base.data.name}, {self.base.data.num_train or 'all'} training "
            f"images, {self.base.train.length} {self.base.train.unit}; thin lines and dots: {self.spec.seeds} seeds, "
            "bands and bars: 95% intervals",
            width=3.4,
            columns=2,
        )  # fmt: skip


def _of_end(which: str, what: str) -> Callable[[Done], float]:
    return lambda done: float(done.measured(ENDS)[which][what])


def label(noise: float) -> str:
    return f"noise={noise:g}"


def replay(name: str, options: Mapping[str, Any], train: Sequence[float], val: Sequence[float]) -> dict[str, float]:
    """What a criterion would have done on recorded losses, one value a validation.

    Returns:
        ``stop``: the validation after which it stops, from 1; infinite where it never does; ``best``: the validation
        of the lowest loss until then, whose weights it restores; ``lowest``: that of the lowest loss of all.
    """
    from litmus.criteria import build_criterion

    criterion = build_criterion(name, **options)
    stop = math.inf
    for at, (train_loss, val_loss) in enumerate(zip(train, val, strict=True)):
        if criterion.update(train_loss, val_loss) is not None:
            stop = at + 1
            break
    seen = val[: len(val) if math.isinf(stop) else int(stop)]
    return {"stop": stop, "best": _lowest(seen), "lowest": _lowest(val)}


def replay_all(curves: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Every criterion of ``PRECHELT`` by its short name; of a training that diverged NaN."""
    found = {}
    for name, options in PRECHELT:
        short = f"{name.upper()}{next(iter(options.values())):g}"
        if curves:
            found[short] = replay(name, options, curves["train/loss"], curves["val/loss"])
        else:
            found[short] = dict.fromkeys(("stop", "best", "lowest"), math.nan)
    return found


def told(stops: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Median stop of each criterion over the seeds, and in how many it keeps the weights of the lowest loss of all."""
    words = []
    for name in stops[0]:
        rows = [one[name] for one in stops if not math.isnan(one[name]["stop"])]
        if not rows:
            continue
        middle = sorted(row["stop"] for row in rows)[len(rows) // 2]
        kept = sum(row["best"] == row["lowest"] for row in rows)
        words.append(f"{name} {'never' if math.isinf(middle) else f'{middle:g}'} ({kept}/{len(rows)})")
    return ", ".join(words) or "all diverged"


def stopping_steps(table: Table, noise: str, criterion: str) -> list[float]:
    """Of each seed; NaN where it never stops."""
    found = []
    for stops in table["stops"][noise]:
        stop = stops[criterion]["stop"]
        found.append(float(table["steps"][int(stop) - 1]) if math.isfinite(stop) else math.nan)
    return found


def _lowest(losses: Sequence[float]) -> int:
    """Position of the first lowest, from 1."""
    return min(range(len(losses)), key=lambda at: losses[at]) + 1


def _stacked(curves: Sequence[Mapping[str, Sequence[float]]], name: str, length: int) -> list[list[float]]:
    return [list(one[name]) if one else [math.nan] * length for one in curves]
