"""What dropout costs and brings, measured of a trained network; and what it does in front of a batch norm."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from litmus.sweep.look import Look


def averaged(look: Look, *, passes: int = 30, split: str = "val") -> dict[str, Any]:
    """Negative log-likelihood of the usual single pass and of the mean of ``passes`` thinned networks.

    Returns:
        ``one_nll`` and ``mc_nll`` in nats, ``thinned_nll``: the mean of a single thinned network's, which ``mc_nll``
        cannot exceed (Jensen); ``one_err`` and ``mc_err``; ``saved_bytes``: what a training step of one batch of
        training images keeps for its backward pass.
    """
    import torch

    from litmus.experiment import eval_batches

    network, cpu = look.trained.network, torch.device("cpu")
    batches = list(eval_batches(look.data, split, cpu))
    found = average_of(network, [batch.images for batch in batches], [batch.labels for batch in batches], passes=passes)
    batch = next(iter(eval_batches(look.data, "train_eval", cpu)))
    size = look.config.data.batch_size
    return {**found, "saved_bytes": saved_bytes(network, batch.images[:size], batch.labels[:size])}


def average_of(network: nn.Module, images: list[Tensor], labels: list[Tensor], *, passes: int) -> dict[str, float]:
    """What ``averaged`` returns of a network in evaluation mode, over batches of normalised images."""
    import torch

    from litmus.predict.dropout import thinned

    def log_probs() -> Tensor:
        with torch.inference_mode():
            return torch.cat([network(batch).double().log_softmax(1) for batch in images])

    truth = torch.cat(labels)
    one, total, thinned_nll = log_probs(), None, 0.0
    for number in range(passes):
        with thinned(network, seed=0, number=number):
            found = log_probs()
        thinned_nll += _nll(found, truth) / passes
        total = found if total is None else torch.logaddexp(total, found)
    assert total is not None
    mean = total - torch.tensor(float(passes), dtype=torch.float64).log()
    return {
        "one_nll": _nll(one, truth),
        "mc_nll": _nll(mean, truth),
        "thinned_nll": thinned_nll,
        "one_err": _err(one, truth),
        "mc_err": _err(mean, truth),
    }


def saved_bytes(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one batch, each storage once; weights,
    which are there in any case, are not counted."""
    import torch

    network = copy.deepcopy(network).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(network(images), labels)
    return sum(size for size, _ in kept.values())


def variance_ratio(keep_prob: float, *, seed: int, num: int = 1_000_000) -> float:
    """Variance in training over that in evaluation of what a batch norm reads behind ReLU(N(0, 1)) and dropout.

    By torch's own modules: the batch norm's running variance after one batch of ``num`` in training mode, against the
    variance of what it reads in evaluation mode.
    """
    import torch
    from torch import nn

    from litmus.networks.blocks import dropout_or_identity

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        read = nn.Sequential(nn.ReLU(), dropout_or_identity(keep_prob)).double()
        norm = nn.BatchNorm1d(1, momentum=1.0).double()
        drawn = torch.randn(num, 1, dtype=torch.float64)
        norm(read(drawn))
        assert norm.running_var is not None
        return float(norm.running_var) / float(read.eval()(drawn).var())


def predicted_ratio(keep_prob: float) -> float:
    """``variance_ratio`` exactly: E z^2 = 1/2 and (E z)^2 = 1/(2 pi) for z = ReLU(N(0, 1)), and dropout makes
    E z^2 / keep_prob of the first and nothing of the second (Li et al. 2018, eq. 7 with another activation)."""
    import math

    mean_square = 1 / (2 * math.pi)
    return (0.5 / keep_prob - mean_square) / (0.5 - mean_square)


def ratios_in_network(network: nn.Module, images: Tensor, *, seed: int) -> dict[str, float]:
    """Variance in training over that in evaluation at the input of each batch norm, dropout alone being switched.

    Args:
        network: left as it is; its batch norms normalise by the batch both times, so that only dropout differs.
        images: (B, C, H, W), normalised.

    Returns:
        Name of the norm -> mean over its channels of the ratio.
    """
    import torch
    from torch import nn

    network = copy.deepcopy(network).train()
    norms = {name: one for name, one in network.named_modules() if isinstance(one, nn.BatchNorm2d | nn.BatchNorm1d)}
    found: dict[str, list[Tensor]] = {name: [] for name in norms}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            (x,) = inputs
            found[name].append(x.detach().double().transpose(0, 1).flatten(1).var(1))

        return hook

    for name, norm in norms.items():
        norm.register_forward_pre_hook(listen(name))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network(images)
        for module in network.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.eval()
        network(images)
    return {name: float((train / evaluated).mean()) for name, (train, evaluated) in found.items()}


def _nll(log_probs: Tensor, labels: Tensor) -> float:
    return float(-log_probs.gather(1, labels.unsqueeze(1)).mean())


def _err(log_probs: Tensor, labels: Tensor) -> float:
    return float((log_probs.argmax(1) != labels).double().mean())
