"""Claims on searches: what the best value that a search saw is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from litmus.claims.base import Claim, Table, lowest, of_result, value_of
from litmus.claims.evidence import Evidence, mean_of, not_above, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.lines import Line, Lines
from litmus.config import Numbers, Section, Words
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

TEST = Measure("litmus.claims.measures:errors_on", {"split": "test"})
FRESH = 1000
"""How far the seeds of the re-training are from those of the searches."""

val_err = of_result("val")


class SearchShrinkage(Claim):
    """Random searches, each on one seed with a split of its own; the winner is trained again on fresh seeds.

    Candidate 0 of each search is the base config, its default. The claim's ``seeds`` are whole searches.
    """

    class Settings(Section):
        candidates: int
        """Of each search, the default included."""
        fresh: int
        """Seeds on which winner and default of each search are trained again."""
        lr: Numbers
        """(low, high), drawn on a logarithmic scale."""
        l2_lambda: Numbers
        keep_prob: Numbers
        """(low, high), drawn evenly."""
        optimizers: Words

    def cells(self) -> list[Cell]:
        asked = self.settings
        for key, least in (("candidates", 3), ("fresh", 2)):
            if getattr(asked, key) < least:
                raise self.refuse(key, f"must be >= {least}", getattr(asked, key))
        for key in ("lr", "l2_lambda", "keep_prob"):
            ends = getattr(asked, key)
            if len(ends) != 2 or not 0 < ends[0] < ends[1] or (key == "keep_prob" and ends[1] > 1):
                says = "must be (low, high) with 0 < low < high" + (" <= 1" if key == "keep_prob" else "")
                raise self.refuse(key, says, list(ends))
        return [
            Cell(candidate_name(search, at), changed(self.base, {**self.candidate(search, at), **self.on(search, 0)}))
            for search in self.seeds
            for at in range(asked.candidates)
        ]

    def candidate(self, search: int, at: int) -> dict[str, Any]:
        """Its changes to the base; none for the default."""
        if at == 0:
            return {}
        asked, draw_ = self.settings, np.random.default_rng((search, at))
        low, high = (np.log(asked.lr[0]), np.log(asked.lr[1]))
        rate = float(f"{math.exp(draw_.uniform(low, high)):.4g}")
        low, high = (np.log(asked.l2_lambda[0]), np.log(asked.l2_lambda[1]))
        strength = float(f"{math.exp(draw_.uniform(low, high)):.4g}")
        name = str(asked.optimizers[int(draw_.integers(len(asked.optimizers)))])
        return {
            "optim": {"name": name, "lr": rate, "l2_lambda": strength},
            "model.keep_prob": round(float(draw_.uniform(*asked.keep_prob)), 3),
        }

    def on(self, search: int, fresh: int) -> dict[str, Any]:
        """The seed of a training, 0 for the search's own, and the split, which is the search's for all of its."""
        by = search if fresh == 0 else FRESH * fresh + search
        return {"seed": seeded(self.base, by), "data.split_seed": seeded(self.base, search)}

    def then(self, done: Mapping[str, Done]) -> list[Cell]:
        if retrained_name("winner", 0, 1) in done:
            return []
        return [
            Cell(
                retrained_name(kind, search, fresh),
                changed(self.base, {**self.candidate(search, at), **self.on(search, fresh)}),
                (TEST,),
            )
            for search in self.seeds
            for kind, at in (("winner", self.winner(done, search)), ("default", 0))
            for fresh in range(1, self.settings.fresh + 1)
        ]

    def seen(self, done: Mapping[str, Done], search: int) -> list[float]:
        """Validation errors of its candidates, in the order in which they were drawn."""
        return [value_of(done[candidate_name(search, at)], val_err) for at in range(self.settings.candidates)]

    def winner(self, done: Mapping[str, Done], search: int) -> int:
        """Of equal ones the first; the default where all diverged."""
        return lowest(dict(enumerate(self.seen(done, search)))) or 0

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"seen": [], "winner": [], "best": [], "rows": []}
        again: dict[str, list[list[float]]] = {
            f"{kind}_{split}": [] for kind in ("winner", "default") for split in ("val", "test")
        }
        for search in self.seeds:
            seen, at = self.seen(done, search), self.winner(done, search)
            table["seen"].append(seen)
            table["best"].append(seen[at])
            table["winner"].append({"candidate": at, **self.candidate(search, at)})
            row: dict[str, Any] = {"search": search, "candidate": at, "best_seen": seen[at]}
            for kind in ("winner", "default"):
                cells = [done[retrained_name(kind, search, fresh)] for fresh in range(1, self.settings.fresh + 1)]
                values = {
                    "val": [value_of(one, val_err) for one in cells],
                    "test": [value_of(one, lambda one: one.measured(TEST)["err"]) for one in cells],
                }
                for split, found in values.items():
                    again[f"{kind}_{split}"].append(found)
                    row[f"{kind}_{split}"] = statistics.fmean(found)
            table["rows"].append(row)
        return table | again

    def judge(self, table: Table) -> list[Evidence]:
        mean = {key: [statistics.fmean(row) for row in table[key]] for key in RETRAINED}
        curse = [100 * (again - best) for again, best in zip(mean["winner_val"], table["best"], strict=True)]
        images = [100 * (test - val) for test, val in zip(mean["winner_test"], mean["winner_val"], strict=True)]
        gain = [100 * (base - best) for base, best in zip(mean["default_val"], table["best"], strict=True)]
        kept = [100 * (base - won) for base, won in zip(mean["default_test"], mean["winner_test"], strict=True)]
        return [
            not_above(
                "test/err of the re-trained winner no higher than the default's",
                mean["winner_test"],
                mean["default_test"],
            ),
            reported("the winner's curse: val/err re-trained minus the best seen, points", mean_of(curse)),
            reported("on top, test/err minus val/err of the same trainings, points", mean_of(images)),
            reported(
                "gain over the default, points",
                f"{mean_of(gain)} as the search saw it, {mean_of(kept)} re-trained, on test",
            ),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        mean = {key: [statistics.fmean(row) for row in table[key]] for key in RETRAINED}
        count = len(table["seen"][0])
        best_so_far = [np.fmin.accumulate(row).tolist() for row in table["seen"]]
        again = [value for value in mean["winner_val"] if math.isfinite(value)]
        levels = {"its winner, re-trained": statistics.fmean(again)} if again else {}
        config = self.base
        return draw(
            [
                Panel(
                    {
                        "best seen, val": table["best"],
                        "re-trained, val": mean["winner_val"],
                        "re-trained, test": mean["winner_test"],
                        "default, val": mean["default_val"],
                        "default, test": mean["default_test"],
                    },
                    "error rate",
                ),
                Lines(
                    {"best so far": Line(list(range(1, count + 1)), best_so_far, dots=False)},
                    "validation error rate", "candidates tried", lines=levels,
                ),
            ],
            path,
            title=title_of(table),
            subtitle=f"{config.model.name} on {config.data.name}; {len(table['seen'])} random searches of {count} "
            f"candidates on splits of their own, winner and default re-trained on {self.settings.fresh} fresh seeds; "
            "dots: searches, bars and band: 95%",
        )  # fmt: skip


RETRAINED = ("winner_val", "winner_test", "default_val", "default_test")


def candidate_name(search: int, at: int) -> str:
    return f"search {search}, candidate {at}"


def retrained_name(kind: str, search: int, fresh: int) -> str:
    return f"search {search}, {kind} again, seed {fresh}"


def title_of(table: Table) -> str:
    means = [
        short(table["best"]),
        short([statistics.fmean(row) for row in table["winner_val"]]),
        short([statistics.fmean(row) for row in table["winner_test"]]),
    ]
    return f"Error {means[0]} as the search saw it, {means[1]} when its winner is trained again, {means[2]} on test"


def short(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{100 * statistics.fmean(finite):.2f}%" if finite else "not known"
