"""The networks, by name. They know tensors and nothing else.

Every file here is imported, so a network is added by adding one file: a ``Network`` under ``@network("its_name")``.
"""

from importlib import import_module
from pkgutil import iter_modules

from litmus.networks.init import INITS, gain, initialise_, lsuv_
from litmus.networks.registry import (
    NETWORKS,
    Network,
    UnreadableImageSize,
    build_network,
    network,
    num_params,
    options_of,
)

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

__all__ = [
    "INITS",
    "NETWORKS",
    "Network",
    "UnreadableImageSize",
    "build_network",
    "gain",
    "initialise_",
    "lsuv_",
    "network",
    "num_params",
    "options_of",
]
