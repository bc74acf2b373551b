"""Weights back into a network."""

from pathlib import Path

import pytest
from torch import nn

from litmus.errors import Refused
from litmus.trained import load_into


def test_weights_of_another_network_are_refused_with_the_difference():
    with pytest.raises(Refused, match=r"w\.safetensors: holds another network's weights: size mismatch for weight"):
        load_into(nn.Linear(3, 2), nn.Linear(4, 2).state_dict(), Path("w.safetensors"))
