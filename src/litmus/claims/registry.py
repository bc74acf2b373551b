"""Which class runs which claim; a class is imported when its claim is run."""

from __future__ import annotations

import importlib
from typing import Any

from litmus.config.claim import ClaimConfig
from litmus.errors import nearest, refuse

CLAIMS = {
    "l2_shrinks": "regularisation:L2Shrinks",
    "vanishing": "vanishing:Vanishing",
    "optimizers": "optimizers:Optimizers",
    "toy_landscapes": "toys:ToyLandscapes",
    "transfer_near": "transferring:TransferNear",
    "transfer_far": "transfer_far:TransferFar",
    "search_shrinkage": "searching:SearchShrinkage",
}
"""Name -> ``module:Class`` below ``litmus.claims``."""


def make_claim(spec: ClaimConfig) -> Any:
    """The claim of a file. Raises ``Refused`` for one that no class runs, and for wrong settings."""
    if spec.name not in CLAIMS:
        raise refuse("name", f"is run by no class; {nearest(spec.name, CLAIMS)}", spec.name, source="claim")
    module, _, name = CLAIMS[spec.name].partition(":")
    return getattr(importlib.import_module(f"litmus.claims.{module}"), name)(spec)
