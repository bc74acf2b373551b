"""Claims on optimizers: which is fast, and how much of that is its rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table, cell_name, lowest, of_result, value_of
from litmus.claims.evidence import Evidence, mean_of, ordering, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.lines import Line, Lines, Mark
from litmus.config import Numbers, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

TEST = Measure("litmus.claims.measures:errors_on", {"split": "test"})
SEARCH_SEED = 1000
"""How far the search's seed is from the first of those that its winners are trained on again."""
WHAT = {
    "train_loss": of_result("train_eval", "loss"),
    "val_loss": of_result("val", "loss"),
    "val_err": of_result("val"),
    "test_err": lambda one: one.measured(TEST)["err"],
}


class Optimizers(Claim):
    """Each optimizer over its own rates on one seed; the best by validation loss, and torch's default, on fresh seeds.

    A best rate at the end of its range asks for one beyond, up to ``widen`` times at either end.
    """

    class Settings(Section):
        rates: dict[str, Numbers]
        """Optimizer -> its rates, rising, three or more, as many for each."""
        defaults: dict[str, float]
        """Optimizer -> the rate that torch gives it."""
        widen: int = 3

    def cells(self) -> list[Cell]:
        rates, defaults = self.settings.rates, self.settings.defaults
        for name, row in rates.items():
            if list(row) != sorted(set(row)) or len(row) < 3 or min(row) <= 0:
                raise self.refuse(f"rates.{name}", "must rise and be > 0, at least three of them", list(row))
        if len({len(row) for row in rates.values()}) > 1:
            says = "must be as many for each: an optimizer with more tries has more luck"
            raise self.refuse("rates", says, {name: len(row) for name, row in rates.items()})
        if missing := [name for name in ("sgd", "momentum", "adam") if name not in rates]:
            raise self.refuse("rates", f"must hold {', '.join(missing)}, which the claim names", sorted(rates))
        if set(defaults) != set(rates):
            raise self.refuse("defaults", f"must be one for each of {', '.join(rates)}", sorted(defaults))
        search = [self.search_cell(name, rate) for name, row in rates.items() for rate in row]
        return search + [
            cell
            for name, rate in defaults.items()
            for cell in self.over_seeds(f"{name}, default", at(name, rate), [TEST])
        ]

    def then(self, done: Mapping[str, Done]) -> list[Cell]:
        wider = [
            self.search_cell(name, rate) for name in self.settings.rates for rate in self.tried(done, name) if rate
            and search_name(name, rate) not in done
        ]  # fmt: skip
        if wider:
            return wider
        if cell_name(best_label("sgd"), 0) in done:
            return []
        return [
            cell
            for name in self.settings.rates
            for cell in self.over_seeds(best_label(name), at(name, self.best(done, name)), [TEST])
        ]

    def search_cell(self, name: str, rate: float) -> Cell:
        seed = seeded(self.base, SEARCH_SEED)
        return Cell(search_name(name, rate), changed(self.base, {**at(name, rate), "seed": seed}))

    def tried(self, done: Mapping[str, Done], name: str) -> list[float]:
        """The optimizer's rates, rising; the last step wider is one that ``done`` may not hold yet."""
        rates = list(self.settings.rates[name])
        for _ in range(2 * self.settings.widen):
            scores = {rate: self.score(done, name, rate) for rate in rates}
            best, first = lowest(scores), self.settings.rates[name]
            below, above = sum(rate < first[0] for rate in rates), sum(rate > first[-1] for rate in rates)
            if best == rates[0] and below < self.settings.widen:
                rates.insert(0, beyond(rates[:3]))
            elif best == rates[-1] and above < self.settings.widen:
                rates.append(beyond(rates[:-4:-1]))
            else:
                break
            if any(search_name(name, rate) not in done for rate in rates):
                break
        return rates

    def score(self, done: Mapping[str, Done], name: str, rate: float) -> float:
        return value_of(done[search_name(name, rate)], WHAT["val_loss"])

    def best(self, done: Mapping[str, Done], name: str) -> float:
        """By validation loss on the search's seed; the lowest rate where all diverged."""
        rates = self.tried(done, name)
        found = lowest({rate: self.score(done, name, rate) for rate in rates})
        return rates[0] if found is None else found

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"rates": {}, "search": {}, "chosen": {}, "defaults": dict(self.settings.defaults)}
        table |= {"tuned": {}, "default": {}, "rows": []}
        for name in self.settings.rates:
            rates = table["rates"][name] = self.tried(done, name)
            cells = [done[search_name(name, rate)] for rate in rates]
            table["search"][name] = {
                what: [value_of(one, WHAT[what]) for one in cells] for what in ("train_loss", "val_loss")
            }
            table["chosen"][name] = self.best(done, name)
            for kind, label in (("tuned", best_label(name)), ("default", f"{name}, default")):
                found = table[kind][name] = {what: self.per_seed(done, label, value) for what, value in WHAT.items()}
                rate = table["chosen" if kind == "tuned" else "defaults"][name]
                table["rows"] += [
                    {"optimizer": name, "rate": rate, "kind": kind, "seed": seed}
                    | {what: values[seed] for what, values in found.items()}
                    for seed in self.seeds
                ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        tuned, default = ({name: found["train_loss"] for name, found in table[kind].items()} for kind in KINDS)
        others = [[finite_or_inf(value) for value in row] for name, row in default.items() if name != "adam"]
        return [
            ordering("train/loss of momentum below SGD's, each at its best rate", tuned["momentum"], tuned["sgd"]),
            ordering(
                "train/loss of Adam below that of each other, all at torch's default rates",
                default["adam"],
                [min(row) for row in zip(*others, strict=True)],
            ),
            *(
                reported(
                    f"{name} at lr = {table['chosen'][name]:g}{border(table, name)}",
                    f"train/loss {mean_of(tuned[name])}, test/err {mean_of(table['tuned'][name]['test_err'])}; at its "
                    f"default {table['defaults'][name]:g}: {mean_of(default[name])}, "
                    f"{mean_of(table['default'][name]['test_err'])}",
                )
                for name in tuned
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        names = list(table["rates"])
        series = {name: Line(table["rates"][name], table["search"][name]["train_loss"]) for name in names}
        marks = [
            Mark(name, rates[name], table[kind][name]["train_loss"], hollow=kind == "default")
            for kind, rates in (("tuned", table["chosen"]), ("default", table["defaults"]))
            for name in names
        ]
        config = self.base
        return draw(
            [
                Lines(
                    series, "train loss (nats, log scale)", "learning rate, log scale", marks, log_x=True, log_y=True,
                    top=3.0, legend=("filled: the best rate, hollow: torch's default", "dots: fresh seeds"),
                    title="Every optimizer over its rates",
                ),
                Panel(
                    {name: table["tuned"][name]["test_err"] for name in names}, "test error rate",
                    title="Each at its best rate",
                ),
            ],
            path,
            title=title_of(table),
            subtitle=f"{config.model.name} on {config.data.name}, {config.data.num_train or 'all'} training images, "
            f"{config.train.length} {config.train.unit} of batch {config.data.batch_size}; curves: one seed, which "
            "chose the rates by validation loss; bars: 95%",
            width=4.2,
        )  # fmt: skip


KINDS = ("tuned", "default")


def at(name: str, rate: float) -> dict[str, Any]:
    return {"optim": {"name": name, "lr": rate}}


def search_name(name: str, rate: float) -> str:
    return f"{name}, lr={rate:g}, search"


def best_label(name: str) -> str:
    return f"{name}, best rate"


def beyond(rates: Sequence[float]) -> float:
    """The next before three values from an end: it keeps the steps of 0.1, 0.3, 1 as well as those of 1, 2, 4."""
    return float(f"{rates[0] * rates[1] / rates[2]:.3g}")


def border(table: Table, name: str) -> str:
    """That the best rate is the last that was tried, where it is."""
    rates = table["rates"][name]
    return " (the end of its range)" if table["chosen"][name] in (rates[0], rates[-1]) else ""


def finite_or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def title_of(table: Table) -> str:
    parts = []
    for kind, words in (("default", "at torch's rates"), ("tuned", "each at its best")):
        means = {name: sum(found["train_loss"]) / len(found["train_loss"]) for name, found in table[kind].items()}
        finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}
        if not finite:
            parts.append(f"all diverged {words}")
            continue
        low, high = min(finite, key=finite.__getitem__), max(finite, key=finite.__getitem__)
        lost = ", some diverged" if len(finite) < len(means) else ""
        parts.append(f"{finite[low]:.2f} ({low}) to {finite[high]:.2f} ({high}){lost} {words}")
    return f"Train loss {parts[0]}; {parts[1]}"
