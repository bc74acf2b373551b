"""What a config's ``freeze`` and discriminative rates mean for its network: which layers learn, from when, how fast."""

from __future__ import annotations

import math

from torch import nn

from litmus.config import RunConfig
from litmus.errors import Problem
from litmus.networks import Network
from litmus.networks.layers import FreezePlan, layer_groups, lr_factors, plan_freezing


def make_plan(config: RunConfig, network: nn.Module) -> FreezePlan | None:
    """What ``freeze`` says of this network."""
    freeze = config.freeze
    if freeze is None or not isinstance(network, Network):
        return None
    return plan_freezing(network, freeze.layers, until=freeze.until, thaw_every=freeze.thaw_every)


def rates_of(config: RunConfig, network: nn.Module) -> dict[str, float]:
    """Parameter -> factor of the rate, where it is not 1."""
    optim = config.optim
    if not isinstance(network, Network):
        return {}
    return lr_factors(network, layer_decay=optim.layer_decay, by_pattern=optim.lr_factors)


def layer_problems(config: RunConfig, network: nn.Module) -> list[Problem]:
    """What is wrong with the layers that a config names."""
    found: list[Problem] = []
    try:
        plan = make_plan(config, network)
        if plan is not None and plan.thaws and plan.thaws[-1].at >= config.train.length:
            last = plan.thaws[-1]
            says = (
                f"the last of {len(plan.thaws)} groups, {last.groups[0]}, would thaw at {last.at} of "
                f"{config.train.length} {config.train.unit}"
            )
            found.append(Problem("freeze.thaw_every", says, config.freeze.thaw_every if config.freeze else None))
    except ValueError as error:
        found.append(Problem("freeze.layers", str(error)))
    try:
        rates_of(config, network)
    except ValueError as error:
        found.append(Problem("optim.lr_factors", str(error)))
    return found


def layer_table(config: RunConfig, network: nn.Module) -> list[str]:
    """Which groups of layers learn, from when and how fast, with their parameters; empty where all learn alike."""
    plan, factors = make_plan(config, network), rates_of(config, network)
    if not isinstance(network, Network) or (plan is None and not factors):
        return []
    plan = plan or FreezePlan(frozenset())
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    unit = config.train.unit.removesuffix("s")
    rows = [("layers", "parameters", "frozen", "trains", "lr")]
    for group, names in layer_groups(network).items():
        total, frozen = sum(map(sizes.__getitem__, names)), sum(sizes[name] for name in names if name in plan.held)
        when = sorted({plan.thaws_at(name) for name in names}, key=lambda at: math.inf if at is None else at)
        words = ["never" if at is None else f"from {unit} {at + 1:,}" if at else "from the start" for at in when]
        rates = sorted({config.optim.lr * factors.get(name, 1.0) for name in names if plan.thaws_at(name) is not None})
        shown_rates = " to ".join(f"{rate:.2g}" for rate in (rates if len(rates) < 3 else (rates[0], rates[-1])))
        rows.append((group, f"{total:,}", f"{frozen:,}" if frozen else "", ", ".join(words), shown_rates))
    held = sum(sizes[name] for name in plan.held)
    everything = sum(sizes.values())
    rows.append(("all", f"{everything:,}", f"{held:,}", f"{everything - held:,} of them at the start", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 0 < place < 3 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
