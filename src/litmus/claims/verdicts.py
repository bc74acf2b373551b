"""Claims on the verdict: whether it names what a network was built to suffer from, and whether its advice helps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from litmus.claims.base import Claim, Table, cell_name
from litmus.claims.evidence import Evidence, in_seeds, mean_of, ordering, reported
from litmus.claims.plane import Group, draw_plane
from litmus.config import RunConfig, Section
from litmus.config.claim import ArmConfig, Several, claim_base
from litmus.sweep.cells import Cell
from litmus.sweep.designs import changed, seeded
from litmus.sweep.engine import Done

Verdict = Literal["high bias", "high variance", "high bias, high variance", "low bias, low variance"]
DIVERGED = "diverged"


class VerdictClaim(Claim):
    """Arms, each the base with overrides, on every seed; a seed draws the training images too, where some are drawn."""

    @abstractmethod
    def arms(self) -> dict[str, tuple[str, ...]]:
        """Name -> overrides."""

    def named_apart(self, key: str) -> None:
        """Raises ``Refused`` for two arms of one name."""
        names = [arm.name for arm in getattr(self.settings, key)]
        if len(set(names)) < len(names):
            raise self.refuse(key, "have names of their own", names)

    def configs(self) -> dict[str, RunConfig]:
        """Raises ``Refused`` for overrides that do not fit the base."""
        specs = {
            name: self.spec.model_copy(update={"base": (*self.spec.base, *set_)}) for name, set_ in self.arms().items()
        }
        return {name: claim_base(spec, source=f"claim {self.spec.name}: {name}") for name, spec in specs.items()}

    def cells(self) -> list[Cell]:
        found = []
        for name, config in self.configs().items():
            for seed in self.seeds:
                changes: dict[str, Any] = {"seed": seeded(config, seed)}
                if config.data.num_train is not None:
                    changes["data.draw_seed"] = changes["seed"] + 1
                found.append(Cell(cell_name(name, seed), changed(config, changes)))
        return found

    def read(self, done: Mapping[str, Done]) -> Table:
        table: Table = {"tolerance": self.base.diagnosis.tolerance, "seeds": list(self.seeds), "arms": {}, "rows": []}
        for name, config in self.configs().items():
            rows = [verdict_of(done[cell_name(name, seed)], config) for seed in self.seeds]
            table["arms"][name] = {key: [row[key] for row in rows] for key in rows[0]}
            table["rows"] += [
                {"arm": name, "seed": seed, **{key: row[key] for key in ("verdict", "train_err", "val_err", "gap")}}
                for seed, row in zip(self.seeds, rows, strict=True)
            ]
        return table


def verdict_of(one: Done, config: RunConfig) -> dict[str, Any]:
    """Verdict, errors, bias and gap of a training, with the intervals of the two; NaN where it diverged."""
    from litmus.diagnosis.gaps import diagnose_errors

    nan = math.nan
    if one.diverged:
        numbers = dict.fromkeys(("train_err", "val_err", "bias", "gap"), nan)
        return {"verdict": DIVERGED, **numbers, "bias_ends": [nan, nan], "gap_ends": [nan, nan]}
    result = one.result()
    train, val = result["train_eval"], result["val"]
    found = diagnose_errors(
        train["err"],
        val["err"],
        train["num_images"],
        val["num_images"],
        config.data.target_err,
        config.diagnosis.tolerance,
        train_population=result["num_train"],
    )
    return {
        "verdict": found.verdict,
        "train_err": train["err"],
        "val_err": val["err"],
        "bias": found.bias.value,
        "gap": found.gap.value,
        "bias_ends": list(found.bias.interval),
        "gap_ends": list(found.gap.interval),
    }


def groups_of(table: Table) -> dict[str, Group]:
    return {
        name: Group(*(arm[key] for key in ("bias", "gap", "bias_ends", "gap_ends")))
        for name, arm in table["arms"].items()
    }


class RegimeConfig(ArmConfig):
    expects: Verdict
    """What the verdict has to be."""


class FourRegimes(VerdictClaim):
    """A network in each quadrant of the plane, and what the verdict says of it."""

    class Settings(Section):
        regimes: Several[RegimeConfig]

    def arms(self) -> dict[str, tuple[str, ...]]:
        self.named_apart("regimes")
        return {regime.name: regime.set for regime in self.settings.regimes}

    def read(self, done: Mapping[str, Done]) -> Table:
        return {**super().read(done), "expects": {regime.name: regime.expects for regime in self.settings.regimes}}

    def judge(self, table: Table) -> list[Evidence]:
        found = []
        for name, expected in table["expects"].items():
            arm = table["arms"][name]
            held = in_seeds(f"{name}: {expected}", [verdict == expected for verdict in arm["verdict"]])
            found.append(held)
            others = sorted({verdict for verdict in arm["verdict"] if verdict != expected})
            said = f"; else called {', '.join(others)}" if others else ""
            numbers = f"avoidable bias {mean_of(arm['bias'])}, gap {mean_of(arm['gap'])}{said}"
            found.append(reported(name, numbers))
        return found

    def draw(self, table: Table, path: Path) -> Path:
        right = sum(
            verdict == table["expects"][name] for name, arm in table["arms"].items() for verdict in arm["verdict"]
        )
        of = sum(len(arm["verdict"]) for arm in table["arms"].values())
        return draw_plane(
            groups_of(table),
            path,
            tolerance=table["tolerance"],
            title=f"The verdict names the regime built in {right} of {of} trainings",
            subtitle=f"{len(table['seeds'])} seeds each; crosses: 95% intervals; dashed: the tolerance of "
            f"{table['tolerance']:g}; axes of square roots",
        )


class StepConfig(ArmConfig):
    treats: Literal["bias", "variance"] | None = None
    """What the step, whose overrides come over those of the steps before, is to lower; None for the start."""


class BiasFirstRecipe(VerdictClaim):
    """The course's recipe, step by step: bias until it is low, then variance."""

    class Settings(Section):
        steps: Several[StepConfig]
        """In their order; the first is the start and treats nothing."""

    def arms(self) -> dict[str, tuple[str, ...]]:
        self.named_apart("steps")
        first, *later = self.settings.steps
        treats = [step.treats for step in later]
        if not later or first.treats is not None or None in treats:
            says = "begins with a step that treats nothing; each later one has treats: bias or variance"
            raise self.refuse("steps", says, [step.treats for step in self.settings.steps])
        if treats != sorted(treats):
            raise self.refuse("steps", "treat bias first, then variance", treats)
        found: dict[str, tuple[str, ...]] = {}
        so_far: tuple[str, ...] = ()
        for step in self.settings.steps:
            so_far = found[step.name] = (*so_far, *step.set)
        return found

    def read(self, done: Mapping[str, Done]) -> Table:
        return {**super().read(done), "treats": {step.name: step.treats for step in self.settings.steps}}

    def judge(self, table: Table) -> list[Evidence]:
        names, arms = list(table["arms"]), table["arms"]
        start = arms[names[0]]["verdict"]
        found = [in_seeds(f"{names[0]}: high bias", [verdict == "high bias" for verdict in start])]
        for before, name in pairwise(names):
            treated = "bias" if table["treats"][name] == "bias" else "gap"
            what = "avoidable bias" if treated == "bias" else "gap"
            found.append(ordering(f"{name}: {what} falls", arms[name][treated], arms[before][treated]))
        found += [
            reported(name, f"{commonest(arm['verdict'])}; bias {mean_of(arm['bias'])}, gap {mean_of(arm['gap'])}, "
                     f"val/err {mean_of(arm['val_err'])}")
            for name, arm in arms.items()
        ]  # fmt: skip
        return found

    def draw(self, table: Table, path: Path) -> Path:
        names, arms = list(table["arms"]), table["arms"]
        errs = [_mean(arms[name]["val_err"]) for name in names]
        title = f"Validation error {errs[0]:.3f} to {errs[-1]:.3f} in {len(errs) - 1} steps"
        best = min((at for at in range(len(errs)) if math.isfinite(errs[at])), key=errs.__getitem__, default=0)
        if best < len(errs) - 1 and math.isfinite(errs[best]):
            title += f" ({errs[best]:.3f} at point {best + 1})"
        verdicts = [commonest(arms[name]["verdict"]).replace(", ", " and ") for name in names]
        distinct = [name for at, name in enumerate(verdicts) if at == 0 or verdicts[at - 1] != name]
        return draw_plane(
            groups_of(table),
            path,
            tolerance=table["tolerance"],
            title=title,
            subtitle=f"Verdicts: {' → '.join(distinct)}\n{len(table['seeds'])} seeds each; crosses: 95% intervals; "
            f"dashed: the tolerance of {table['tolerance']:g}; axes of square roots",
            joined=True,
        )


def commonest(verdicts: Sequence[str]) -> str:
    """The verdict of most seeds, of equally many the first."""
    return max(dict.fromkeys(verdicts), key=list(verdicts).count)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
