"""Where a run computes."""

import torch


def best_device(accelerator: str) -> torch.device:
    """The device that Lightning's ``accelerator`` would choose."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
