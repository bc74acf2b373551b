"""Which class runs which claim; a class is imported when its claim is run."""

from __future__ import annotations

import importlib
from typing import Any

from litmus.config.claim import ClaimConfig
from litmus.errors import nearest, refuse

CLAIMS = {
    "augmentation": "augmentation:Augmentation",
    "batch_norm_speed": "batch_norm:BatchNormSpeed",
    "bias_first_recipe": "verdicts:BiasFirstRecipe",
    "bn_times_decay": "scale:BNTimesDecay",
    "decomposition_regression": "regression:DecompositionRegression",
    "decomposition_width": "many_models:DecompositionWidth",
    "degradation": "depth:Degradation",
    "delete_a_block": "depth:DeleteABlock",
    "dropout_before_bn": "dropout:DropoutBeforeBN",
    "dropout_gap": "dropout:DropoutGap",
    "early_stopping": "early_stopping:EarlyStops",
    "four_regimes": "verdicts:FourRegimes",
    "gradients_in_training": "gradients:GradientsInTraining",
    "he_vs_xavier_30": "gradients:HeVsXavier30",
    "init_vs_sampling": "many_models:InitVsSampling",
    "l1_sparsifies": "regularisation:L1Sparsifies",
    "l2_shrinks": "regularisation:L2Shrinks",
    "more_data": "learning_curves:MoreData",
    "optimizers": "optimizers:Optimizers",
    "rescue_without_bn": "depth:RescueWithoutBN",
    "search_shrinkage": "searching:SearchShrinkage",
    "toy_landscapes": "toys:ToyLandscapes",
    "transfer_far": "transfer_far:TransferFar",
    "transfer_near": "transferring:TransferNear",
    "vanishing": "gradients:Vanishing",
}
"""Name -> ``module:Class`` below ``litmus.claims``."""


def make_claim(spec: ClaimConfig) -> Any:
    """The claim of a file. Raises ``Refused`` for one that no class runs, and for wrong settings."""
    if spec.name not in CLAIMS:
        raise refuse("name", f"is run by no class; {nearest(spec.name, CLAIMS)}", spec.name, source="claim")
    module, _, name = CLAIMS[spec.name].partition(":")
    return getattr(importlib.import_module(f"litmus.claims.{module}"), name)(spec)
