"""What claims measure of a trained network, each in the process that trained it."""

from __future__ import annotations

from typing import Any

from litmus.sweep.look import Look


def weights(look: Look, *, bins: int = 60) -> dict[str, Any]:
    """Norm of all weights together, without biases and norm parameters, and their histogram.

    Returns:
        ``norm``, ``zeros`` (part that is exactly 0), ``counts`` (bins,) and ``edges`` (bins + 1,).
    """
    import numpy as np
    import torch

    from litmus.optim import PENALISED, parameter_groups

    penalised = [group for group in parameter_groups(look.trained.network) if group["name"] == PENALISED]
    values = torch.cat([p.detach().double().flatten() for group in penalised for p in group["params"]])
    counts, edges = np.histogram(values.numpy(), bins=bins)
    return {
        "norm": float(values.norm()),
        "zeros": float((values == 0).double().mean()),
        "counts": counts,
        "edges": edges,
    }


def errors_on(look: Look, *, split: str) -> dict[str, float]:
    """Loss and error rate on a split that the training left out: test, once everything is chosen."""
    seen = look.evaluate(split)
    return {"err": float(seen.err), "loss": float(seen.loss)}
