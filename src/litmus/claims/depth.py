"""Claims on deep convolutional networks: what depth costs, what a shortcut carries, what stands in for a norm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litmus.claims.base import Claim, Table, cell_name, of_result
from litmus.claims.evidence import Evidence, above, below, mean_of, ordering, reported
from litmus.claims.figures import Panel, draw
from litmus.config import Numbers, Section, WholeNumbers, Words
from litmus.sweep.cells import Cell, Measure
from litmus.sweep.engine import Done

if TYPE_CHECKING:
    from torch import nn

    from litmus.sweep.look import Look

NAN = math.nan
CHANCE = {"chance": 0.9}
WITHOUT = Measure("litmus.claims.depth:without_a_block")


class DepthSettings(Section):
    networks: Words
    """``plain`` and ``residual`` at least."""
    depths: WholeNumbers
    """Rising, 6n + 2."""


class OfDepth(Claim):
    """Networks by depths, each trained the same way."""

    Settings = DepthSettings
    measures: tuple[Measure, ...] = ()

    def cells(self) -> list[Cell]:
        networks, depths = self.settings.networks, list(self.settings.depths)
        if not {"plain", "residual"} <= set(networks) or len(set(networks)) < len(networks):
            raise self.refuse("networks", "must hold plain and residual, each once", list(networks))
        if depths != sorted(set(depths)) or len(depths) < 2:
            raise self.refuse("depths", "must rise, at least two of them", depths)
        return [
            cell
            for network in networks
            for depth in depths
            for cell in self.over_seeds(
                arm(network, depth), {"model": of_network(self.base, network, depth)}, self.measures
            )
        ]

    def subtitle(self) -> str:
        base = self.base
        return (
            f"{base.data.name}, channels {base.model.width}/{2 * base.model.width}/{4 * base.model.width}, "
            f"{base.model.norm} norm, {base.train.length} {base.train.unit} of {base.optim.name}, "
            f"rate {base.optim.lr:g}"
        )


class Degradation(OfDepth):
    """Training errors over depth, plain, residual and gated."""

    def read(self, done: Mapping[str, Done]) -> Table:
        networks, depths = list(self.settings.networks), list(self.settings.depths)
        table: Table = {"networks": networks, "depths": depths, "seeds": len(self.seeds)}
        for name, value in (("train_err", of_result("train_eval")), ("val_err", of_result("val"))):
            table[name] = {arm(n, d): self.per_seed(done, arm(n, d), value) for n in networks for d in depths}
        table["curves"] = {
            arm(n, d): [
                [[step, err] for step, err in done[cell_name(arm(n, d), seed)].history("train_eval/err")]
                for seed in self.seeds
            ]
            for n in networks
            for d in depths
        }
        table["rows"] = [
            {"network": n, "depth": d, "seed": seed, **{x: table[x][arm(n, d)][seed] for x in ("train_err", "val_err")}}
            for n in networks
            for d in depths
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        errors, (shallow, deep) = table["train_err"], ends(table["depths"])
        plain, worse = errors[arm("plain", deep)], arm("plain", deep)
        shown = [
            reported(f"train/err of {name}", f"{mean_of(values)}; val/err {mean_of(table['val_err'][name])}")
            for name, values in errors.items()
        ]
        return [
            ordering(f"train/err of {arm('plain', shallow)} below {worse}", errors[arm("plain", shallow)], plain),
            ordering(f"train/err of {arm('residual', deep)} below {worse}", errors[arm("residual", deep)], plain),
            *shown,
        ]

    def draw(self, table: Table, path: Path) -> Path:
        steps = sorted({point[0] for rows in table["curves"].values() for row in rows for point in row})
        panels = []
        for network in table["networks"]:
            series = {
                f"{depth} layers": [along(row, steps) for row in table["curves"][arm(network, depth)]]
                for depth in table["depths"]
            }
            panels.append(
                Panel(series, "training error rate", "optimizer step", steps or [0], title=network, y_range=(0, 1))
            )
        _, deep = ends(table["depths"])
        told = [f"{mean(table['train_err'][arm(n, deep)])} {n}" for n in table["networks"]]
        return draw(
            panels, path, title=f"Training error with {deep} layers: {', '.join(told)}", width=2.5, one_legend=True,
            subtitle=f"{self.subtitle()}\ndots: seeds, bands: 95% intervals; training images as validation sees them",
        )  # fmt: skip


class DeleteABlock(OfDepth):
    """Trained networks with one block in turn replaced by its shortcut (Veit et al. 2016)."""

    measures = (WITHOUT,)

    def read(self, done: Mapping[str, Done]) -> Table:
        networks, depths = list(self.settings.networks), list(self.settings.depths)
        table: Table = {"networks": networks, "depths": depths, "whole": {}, "without": {}, "rows": []}
        for name in (arm(n, d) for n in networks for d in depths):
            cells = [done[cell_name(name, seed)] for seed in self.seeds]
            num = (int(name.rpartition("-")[2]) - 2) // 2
            without = [[NAN] * num if one.diverged else list(map(float, one.measured(WITHOUT)["val"])) for one in cells]
            whole = self.per_seed(done, name, of_result("val"))
            table["whole"][name], table["without"][name] = whole, without
            table["rows"] += [
                {"network": name, "seed": seed, "block": block + 1, "whole": whole[seed], "without": err}
                for seed in self.seeds
                for block, err in enumerate(without[seed])
            ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        shallow = ends(table["depths"])[0]
        residual, plain = (rises(table, arm(name, shallow)) for name in ("residual", "plain"))
        return [
            below(f"median rise of val/err in {arm('residual', shallow)}, one block deleted", residual, 0.05),
            # A plain network that diverged has nothing that could be broken.
            above(f"median rise of val/err in {arm('plain', shallow)}, one block deleted", [
                -math.inf if math.isnan(rise) else rise for rise in plain
            ], 0.30),
            *(
                reported(name, f"val/err {mean_of(table['whole'][name])}, median rise {mean_of(rises(table, name))}")
                for name in table["whole"]
            ),
        ]  # fmt: skip

    def draw(self, table: Table, path: Path) -> Path:
        panels = [
            Panel(
                {network: table["without"][arm(network, depth)] for network in table["networks"]},
                "validation error rate",
                "block that is deleted",
                list(range(1, (depth - 2) // 2 + 1)),
                title=f"{depth} layers",
                y_range=(0, 1),
            )
            for depth in table["depths"]
        ]
        shallow = ends(table["depths"])[0]
        told = [f"{mean(rises(table, arm(n, shallow)), sign=True)} {n}" for n in ("residual", "plain")]
        whole = ", ".join(f"{mean(errors)} {name}" for name, errors in table["whole"].items())
        return draw(
            panels, path, title=f"Error without one block of {shallow} layers, median rise: {', '.join(told)}",
            width=3.4, one_legend=True,
            subtitle=f"{self.subtitle()}\nafter training each block in turn gives way to its shortcut; dots: seeds, "
            f"bands: 95% intervals\nnothing deleted: {whole}",
        )  # fmt: skip


class RescueWithoutBN(Claim):
    """A deep residual network without a norm, by how it begins."""

    class Settings(Section):
        small_rates: Numbers
        """Falling, for He's initialisation; the best of them by training error is shown."""

    def cells(self) -> list[Cell]:
        rates, base = list(self.settings.small_rates), self.base
        if rates != sorted(set(rates), reverse=True) or not 0 < rates[-1] <= rates[0] < base.optim.lr:
            raise self.refuse("small_rates", f"must fall, above 0 and below optim.lr = {base.optim.lr:g}", rates)
        if base.model.name != "residual" or base.model.norm != "none":
            raise self.refuse("base", "is to be a residual network with model.norm = none", base.model.norm)
        arms: dict[str, dict[str, Any]] = {
            "He": {},
            "Fixup": {"model.init": "fixup"},
            "zero branch": {"model.init": "zero_branch"},
            "batch norm": {"model.norm": "batch"},
            **{f"He, rate {rate:g}": {"optim.lr": float(rate)} for rate in rates},
        }
        return [cell for name, changes in arms.items() for cell in self.over_seeds(name, changes)]

    def read(self, done: Mapping[str, Done]) -> Table:
        names = ["He", "Fixup", "zero branch", "batch norm"]
        names += [f"He, rate {rate:g}" for rate in self.settings.small_rates]
        table: Table = {"rate": self.base.optim.lr, "arms": names}
        for name, value in (("train_err", of_result("train_eval")), ("val_err", of_result("val"))):
            table[name] = {one: self.per_seed(done, one, value) for one in names}
        table["rows"] = [
            {"arm": one, "seed": seed, **{x: table[x][one][seed] for x in ("train_err", "val_err")}}
            for one in names
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        errors = table["train_err"]
        return [
            above("He without a norm does not train: train/err above 0.5, or not finite", errors["He"], 0.5),
            below("train/err of Fixup at the same rate", errors["Fixup"], 0.1),
            *(
                reported(f"train/err of {name}", f"{mean_of(errors[name])}; val/err {mean_of(table['val_err'][name])}")
                for name in table["arms"]
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        errors = table["train_err"]
        small = [name for name in table["arms"] if name.startswith("He, ")]
        best = min(small, key=lambda name: sum(0.9 if err != err else err for err in errors[name]))
        names = ["He", best, "zero branch", "Fixup", "batch norm"]
        told = [f"{name} {mean(errors[name])}" for name in ("Fixup", "He")]
        base = self.base
        return draw(
            [Panel({name: errors[name] for name in names}, "training error rate", lines=CHANCE, y_range=(-0.03, 1))],
            path, title=f"{base.model.depth} layers without a norm: {', '.join(told)}", width=5.6,
            subtitle=f"{base.data.name}, channels from {base.model.width}, {base.train.length} {base.train.unit}, "
            f"rate {table['rate']:g} where none is named; dots: seeds, bar: 95% interval",
        )  # fmt: skip


# --- what is measured


def without_a_block(look: Look) -> dict[str, Any]:
    """Error rates of the network with each block in turn replaced by its shortcut, from the first to the last.

    Returns:
        ``train_eval`` and ``val``, (blocks,) each; the network is left as it was.
    """
    import numpy as np

    network: Any = look.trained.network
    found: dict[str, list[float]] = {"train_eval": [], "val": []}
    for stage in network.stages:
        for at, block in enumerate(stage.blocks):
            stage.blocks[at] = bypass(block)
            for split, errors in found.items():
                errors.append(look.evaluate(split).err)
            stage.blocks[at] = block
    return {split: np.array(errors) for split, errors in found.items()}


def bypass(block: Any) -> nn.Module:
    """What a block carries past its convolutions; of a plain one, what its residual counterpart would (option A)."""
    from litmus.networks.blocks import ZeroPadShortcut

    if hasattr(block, "shortcut"):
        return block.shortcut
    conv = block.get_submodule("branch.conv1")
    return ZeroPadShortcut(conv.out_channels - conv.in_channels, stride=conv.stride[0])


# --- words and numbers


def arm(network: str, depth: int) -> str:
    return f"{network}-{depth}"


def of_network(base: Any, network: str, depth: int) -> dict[str, Any]:
    """The base's model as another network: what is special to its own kind stays behind."""
    plain = base.model.model_dump()
    special = ("shortcut", "preactivation", "zero_gamma", "gate_bias")
    return {**{k: v for k, v in plain.items() if k not in special}, "name": network, "depth": depth}


def ends(depths: Sequence[int]) -> tuple[int, int]:
    """Of the depths that the condition compares: the last but one and the last."""
    return depths[-2], depths[-1]


def rises(table: Table, name: str) -> list[float]:
    """Of each seed the median over the blocks of how much the error rises without one."""
    whole = table["whole"][name]
    return [statistics.median(err - at for err in row) for at, row in zip(whole, table["without"][name], strict=True)]


def along(row: Sequence[Sequence[float]], steps: Sequence[int]) -> list[float]:
    """A curve at these steps; NaN where it has none."""
    at = {int(step): float(err) for step, err in row}
    return [at.get(step, NAN) for step in steps] or [NAN]


def mean(values: Sequence[float], *, sign: bool = False) -> str:
    """For a title: mean of the finite ones, or that there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "all diverged"
    value = sum(finite) / len(finite)
    return f"{value:+.3f}" if sign else f"{value:.3f}"
