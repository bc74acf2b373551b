"""A trained network read back from its run: all that is needed is the run's config and its weights, not its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from litmus.config import RunConfig, load_recorded
from litmus.data.preprocessing import Preprocessing
from litmus.errors import refuse
from litmus.experiment import make_network
from litmus.tracking import StoredRun
from litmus.weights import FILE, read_weights


@dataclass(frozen=True)
class Trained:
    """A run's network, in evaluation mode on the CPU, and what it reads."""

    run: StoredRun
    config: RunConfig
    network: nn.Module
    preprocessing: Preprocessing


def load_trained(run: StoredRun) -> Trained:
    """The network that ``run`` ended with: the weights that were tested.

    Raises:
        Refused: the run kept no weights, or they are damaged, or another network's.
    """
    config = load_recorded(run.artifact("config.yaml"))
    weights = run.artifact(FILE)
    tensors, preprocessing = read_weights(weights)
    if preprocessing is None:
        raise refuse(str(weights), "does not say what images it reads: it was not written by `litmus fit`")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn for nothing
        network = make_network(config, preprocessing)
    load_into(network, tensors, weights)
    return Trained(run, config, network.eval(), preprocessing)


def load_into(network: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load a run's weights into its network; ``Refused`` when they belong to another one."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise refuse(str(where), f"holds another network's weights: {str(error).splitlines()[1].strip()}") from None
