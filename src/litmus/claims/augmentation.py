"""Augmentation against clean and against transformed test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, mean_of, ordering, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.measure_splits import KINDS
from litmus.claims.regularisation import number
from litmus.config import Field, Section
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

NONE, ALL, TRIVIAL = "none", "all", "trivial"


class Augmentation(Claim):
    """Arms: no augmentation, each kind alone, all kinds together, TrivialAugment. The test images as they are and at
    the edge of each kind's range; nothing is chosen by them."""

    splits = ("train_eval", "val")

    class Settings(Section):
        transforms: dict[str, float] = Field(min_length=1)
        """Kind -> how much: shift as a part of the side, rotate and shear in degrees, scale as a factor above 1,
        brightness around 1."""
        images: int = Field(2_000, ge=1)
        """Test images that are evaluated."""

    @property
    def measure(self) -> Measure:
        return Measure(
            "litmus.claims.measure_splits:transformed",
            {"split": "test", "transforms": dict(self.settings.transforms), "images": self.settings.images},
        )

    @property
    def kinds(self) -> list[str]:
        return list(self.settings.transforms)

    def cells(self) -> list[Cell]:
        for kind, amount in self.settings.transforms.items():
            if kind not in KINDS:
                raise self.refuse(f"transforms.{kind}", f"is none of {', '.join(KINDS)}", amount)
            if not amount > (1 if kind == "scale" else 0):
                raise self.refuse(f"transforms.{kind}", "must be above 1" if kind == "scale" else "must be > 0", amount)
        each = {kind: {f"augment.{kind}": of_kind(kind, amount)} for kind, amount in self.settings.transforms.items()}
        together = {key: value for changes in each.values() for key, value in changes.items()}
        arms: dict[str, dict[str, Any]] = {NONE: {}, **each, ALL: together, TRIVIAL: {"augment.policy": "trivial"}}
        return [cell for arm, changes in arms.items() for cell in self.over_seeds(arm, changes, (self.measure,))]

    def read(self, done: Mapping[str, Done]) -> Table:
        arms, tests = [NONE, *self.kinds, ALL, TRIVIAL], ["clean", *self.kinds]
        errs = {arm: {test: self.per_seed(done, arm, self._err_on(test)) for test in tests} for arm in arms}
        return {
            "kinds": self.kinds,
            "errs": errs,
            "rows": [
                {"arm": arm, "seed": seed, **{test: errs[arm][test][seed] for test in tests}}
                for arm in arms
                for seed in self.seeds
            ],
        }

    def _err_on(self, test: str) -> Callable[[Done], float]:
        return lambda one: float(one.measured(self.measure)["err"][test])

    def judge(self, table: Table) -> list[Evidence]:
        errs = table["errs"]
        return [
            *(
                ordering(
                    f"error on {kind} test images, trained with {kind} below without",
                    errs[kind][kind],
                    errs[NONE][kind],
                )
                for kind in table["kinds"]
            ),
            reported("clean test error", ", ".join(f"{mean_of(errs[arm]['clean'])} {arm}" for arm in errs)),
            *(
                reported(
                    f"error on {kind} test images",
                    ", ".join(f"{mean_of(errs[arm][kind])} {arm}" for arm in (NONE, kind, ALL, TRIVIAL)),
                )
                for kind in table["kinds"]
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        errs, kinds = table["errs"], table["kinds"]
        panels = [Panel({arm: errs[arm]["clean"] for arm in errs}, "error rate", title="clean test images")]
        for kind in kinds:
            series = {arm: errs[arm][kind] for arm in (NONE, kind, ALL, TRIVIAL)}
            title = f"test images with {described(kind, self.settings.transforms[kind])}"
            panels.append(Panel(series, "error rate", title=title, order=list(errs)))
        first = kinds[0]
        before, after, clean_0, clean_1 = (
            sum(values) / len(values)
            for values in (errs[NONE][first], errs[first][first], errs[NONE]["clean"], errs[first]["clean"])
        )
        return draw(
            panels,
            path,
            title=f"Training with {first}: error on such images {number(before)} to {number(after)}, "
            f"on clean ones {number(clean_0)} to {number(clean_1)}",
            subtitle=f"{self.base.model.name} on {self.base.data.name}, {self.base.data.num_train or 'all'} training "
            f"images, {self.base.train.length} {self.base.train.unit} each; below: what was trained "
            f"with; {self.settings.images:,} test images; {self.spec.seeds} seeds: dots; bars: 95% intervals",
            width=3.2,
            columns=2 if len(panels) < 5 else 3,
        )  # fmt: skip


def of_kind(kind: str, amount: float) -> Any:
    """What the config calls it: the range whose edges ``changed`` goes to."""
    return (1 / amount, amount) if kind == "scale" else float(amount)


def described(kind: str, amount: float) -> str:
    return {
        "shift": f"a shift of {amount:.3g} of the side",
        "rotate": f"a rotation of {amount:g}°",
        "scale": f"size x {amount:g} or / {amount:g}",
        "shear": f"a shear of {amount:g}°",
        "brightness": f"brightness 1 ± {amount:g}",
    }[kind]
