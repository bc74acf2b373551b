"""Optimizers, penalties and schedules: the one place where ``l2_lambda`` becomes ``weight_decay``.

An optimizer is a function of parameter groups and a line in ``OPTIMIZERS``; a schedule is a function of the training's
length and a line in ``SCHEDULES``. Their keyword arguments are the options that a config can set.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from litmus.errors import nearest
from litmus.networks import Network
from litmus.networks.layers import lr_factors as factors_of

Decay = Literal["weights", "all"]
Groups = list[dict[str, Any]]
Factor = Callable[[int], float]

PENALISED, FREE = "penalised", "free"
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def build_optimizer(
    module: nn.Module,
    *,
    name: str,
    lr: float,
    num_train: int,
    l2_lambda: float = 0.0,
    l1_lambda: float = 0.0,
    decay: Decay = "weights",
    layer_decay: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
    **options: Any,
) -> Optimizer:
    """The optimizer called ``name`` over all parameters of ``module``, frozen ones included.

    J = 1/m sum L + l2_lambda/(2m) sum ||W||^2 + l1_lambda/m sum |W|, with m = ``num_train``.

    ``l2_lambda`` becomes ``weight_decay = l2_lambda / num_train``. It is coupled (added to the gradient) for sgd,
    momentum, nesterov, adagrad, rmsprop and adam, of which the last three rescale it together with the gradient. It is
    decoupled for adamw, w -= lr * weight_decay * w (Loshchilov & Hutter 2019), and for timm's it is what timm makes of
    weight_decay: decoupled for lion and muon, coupled for lamb and lars.

    ``l1_lambda`` acts by the proximal step after each optimizer step, w = soft(w, lr * l1_lambda / m) with the rate of
    that step: exact zeros. A parameter without a gradient, such as a frozen one, is left alone.

    Args:
        name: a key of ``OPTIMIZERS``, or one of ``timm_optimizers()``.
        lr: step size; a schedule multiplies it.
        num_train: m, the number of training images over all devices; not the batch size.
        l2_lambda, l1_lambda: >= 0.
        decay: what the lambdas act on, see ``parameter_groups``.
        layer_decay, lr_factors: discriminative rates, see ``litmus.networks.layers.lr_factors``; other values than
            1 and none need a ``litmus.networks.Network``.
        options: the optimizer's own (``momentum``, ``betas``, ``eps``, ``rho``); None keeps its default.

    Raises:
        ValueError: unknown name, an option that the optimizer does not take, ``num_train`` < 1, no parameters.
    """
    if num_train < 1 or l2_lambda < 0 or l1_lambda < 0:
        raise ValueError(
            f"num_train = {num_train} must be >= 1, l2_lambda = {l2_lambda} and l1_lambda = {l1_lambda} >= 0"
        )
    groups = parameter_groups(module, decay=decay, factors=_rate_factors(module, layer_decay, lr_factors or {}))
    for group in groups:
        if group["lr_factor"] != 1:
            group["lr"] = lr * group["lr_factor"]
    if not groups:
        raise ValueError(f"{type(module).__name__} has no parameters to optimise")
    build = OPTIMIZERS.get(name) or _timm_builder(name)
    options = {option: value for option, value in options.items() if value is not None}
    _refuse_unknown(f"optimizer {name!r}", options, _options_of(build))
    optimizer = build(groups, lr=lr, weight_decay=l2_lambda / num_train, **options)
    # A fused optimizer announces that it unscales gradients itself, and Lightning then refuses to clip them under any
    # mixed precision, even bf16. Unscaled before the step, as for every other optimizer, they can be clipped.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if l1_lambda:
        _shrink_after_step(optimizer, l1_lambda / num_train)
    return optimizer


def _rate_factors(module: nn.Module, layer_decay: float, by_pattern: Mapping[str, float]) -> dict[str, float]:
    if layer_decay == 1 and not by_pattern:
        return {}
    if not isinstance(module, Network):
        raise ValueError(f"layer_decay and lr_factors need a Network with its groups of layers, not {type(module)}")
    return factors_of(module, layer_decay=layer_decay, by_pattern=by_pattern)


def parameter_groups(
    module: nn.Module, *, decay: Decay = "weights", factors: Mapping[str, float] | None = None
) -> Groups:
    """The parameters in their natural order, in two groups: those that the lambdas act on, and the others; in as many
    pairs of groups as there are ``factors`` (name -> factor of the rate, 1 where there is none).

    With ``"weights"`` the others are biases, norm parameters, all vectors and scalars, and what a timm backbone lists
    in ``no_weight_decay()`` (position embeddings, class tokens). With ``"all"`` there are no others.

    Returns:
        ``{"name": "penalised", "params": [...], "lr_factor": 1.0}``, which will take the optimizer's ``weight_decay``,
        and ``{"name": "free", "params": [...], "lr_factor": 1.0, "weight_decay": 0.0}``; a group without parameters is
        left out.
    """
    if decay not in ("weights", "all"):
        raise ValueError(f"decay = {decay!r}: 'weights' or 'all'")
    free = _free_names(module) if decay == "weights" else set()
    named = dict(module.named_parameters())
    factor_of = {name: (factors or {}).get(name, 1.0) for name in named}
    groups: Groups = []
    for factor in dict.fromkeys(factor_of.values()):
        mine = {name: parameter for name, parameter in named.items() if factor_of[name] == factor}
        penalised = [parameter for name, parameter in mine.items() if name not in free]
        others = [parameter for name, parameter in mine.items() if name in free]
        groups.append({"name": PENALISED, "params": penalised, "lr_factor": factor})
        groups.append({"name": FREE, "params": others, "lr_factor": factor, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def begin_momentum_(optimizer: Optimizer) -> None:
    """Give the parameters that begin to learn late a momentum of zero, which is what the first step makes of none.

    torch's fused SGD wants it for all parameters of a group or for none, and fails on a group of which a part thawed.
    """
    if isinstance(optimizer, SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if parameter.requires_grad and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Rate, decay, momentum, ... of each group, as built: before a schedule or a checkpoint changes them."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def set_options_(optimizer: Optimizer, options: Sequence[Mapping[str, Any]], schedulers: Sequence[LambdaLR]) -> None:
    """Give a restored optimizer the options of a new one; its moments and the schedule's position stay.

    A checkpoint brings the rate it was saved with, so that a changed ``optim.lr`` would be ignored.
    """
    for group, new in zip(optimizer.param_groups, options, strict=True):
        group.update(new)
    for scheduler in schedulers:
        scheduler.base_lrs = [float(new["lr"]) for new in options]
        for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = base, base * factor(scheduler.last_epoch)


def learning_rate(optimizer: Optimizer) -> float:
    """The rate of a parameter whose factor is 1, as the schedule has it now."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get("lr_factor", 1.0))


@torch.no_grad()
def l2_penalty(module: nn.Module, l2_lambda: float, num_train: int, *, decay: Decay = "weights") -> Tensor:
    """l2_lambda/(2m) sum ||W||^2, a scalar on the parameters' device: what the logged loss leaves out of J."""
    return sum((w.square().sum() for w in _penalised(module, decay)), torch.zeros(())) * (l2_lambda / (2 * num_train))


@torch.no_grad()
def l1_penalty(module: nn.Module, l1_lambda: float, num_train: int, *, decay: Decay = "weights") -> Tensor:
    """l1_lambda/m sum |W|, a scalar on the parameters' device."""
    return sum((w.abs().sum() for w in _penalised(module, decay)), torch.zeros(())) * (l1_lambda / num_train)


@torch.no_grad()
def soft_threshold_(parameters: Iterable[Tensor], amount: float) -> None:
    """Move every entry towards zero by ``amount``, in place; entries within ``amount`` of zero become exactly 0."""
    for parameter in parameters:
        parameter.copy_(F.softshrink(parameter, amount))


def _shrink_after_step(optimizer: Optimizer, threshold_per_lr: float) -> None:
    # A hook of the optimizer, not of the trainer: it runs once a true step, whatever is accumulated or skipped, and
    # before the schedule moves on to the next step's rate, which Lightning does before its own end-of-batch hook.
    def shrink(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            if group["name"] == PENALISED:
                learning = (parameter for parameter in group["params"] if parameter.grad is not None)
                soft_threshold_(learning, float(group["lr"]) * threshold_per_lr)

    optimizer.register_step_post_hook(shrink)


def _penalised(module: nn.Module, decay: Decay) -> Iterator[Tensor]:
    return (w for group in parameter_groups(module, decay=decay) if group["name"] == PENALISED for w in group["params"])


def _free_names(module: nn.Module) -> set[str]:
    free = {name for name, parameter in module.named_parameters() if parameter.ndim < 2}
    for prefix, child in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(child, NORMS):
            free |= {dot + name for name, _ in child.named_parameters()}
        if callable(listed := getattr(child, "no_weight_decay", None)):
            free |= {dot + name for name in listed()}
    return free


def _refuse_unknown(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        takes = ", ".join(sorted(known)) or "no options"
        raise ValueError(f"{what} does not take {', '.join(unknown)}; it takes {takes}")


def _options_of(build: Callable[..., Any]) -> set[str]:
    """Names of the arguments of an optimizer or a schedule that are its own."""
    return set(inspect.signature(build).parameters) - {
        "groups",
        "params",
        "lr",
        "weight_decay",
        "total_steps",
        "unit_steps",
    }


# --- optimizers -------------------------------------------------------------------------------------------------------
# g is the gradient of J without its l1 part. On a CPU the fused kernels take 0.25 to 0.45 of the time of the loop that
# torch would choose there, and give the same numbers to rounding.

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {}


def optimizer(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Register ``build(groups, *, lr, weight_decay, **own options)`` under its own name."""
    OPTIMIZERS[build.__name__] = build
    return build


@optimizer
def sgd(groups: Groups, *, lr: float, weight_decay: float) -> Optimizer:
    """w -= lr g."""
    return SGD(groups, lr=lr, weight_decay=weight_decay, **_fused(groups))


@optimizer
def momentum(groups: Groups, *, lr: float, weight_decay: float, momentum: float = 0.9) -> Optimizer:
    """v = momentum v + g; w -= lr v. The form with (1 - momentum) g takes the same steps at lr / (1 - momentum)."""
    return SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, **_fused(groups))


@optimizer
def nesterov(groups: Groups, *, lr: float, weight_decay: float, momentum: float = 0.9) -> Optimizer:
    """v = momentum v + g; w -= lr (g + momentum v) (Sutskever et al. 2013, in torch's variables)."""
    return SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=True, **_fused(groups))


@optimizer
def adagrad(groups: Groups, *, lr: float, weight_decay: float, eps: float = 1e-10) -> Optimizer:
    """s += g^2; w -= lr g / (sqrt(s) + eps) (Duchi et al. 2011)."""
    fused = _fused(groups, devices=("cpu",))  # older torch has this kernel for the CPU only
    return Adagrad(groups, lr=lr, weight_decay=weight_decay, eps=eps, **fused)


@optimizer
def rmsprop(
    groups: Groups, *, lr: float, weight_decay: float, rho: float = 0.99, momentum: float = 0.0, eps: float = 1e-8
) -> Optimizer:
    """s = rho s + (1 - rho) g^2; u = g / (sqrt(s) + eps); v = momentum v + u; w -= lr v (Tieleman & Hinton 2012)."""
    return RMSprop(groups, lr=lr, weight_decay=weight_decay, alpha=rho, momentum=momentum, eps=eps, foreach=True)


@optimizer
def adam(
    groups: Groups, *, lr: float, weight_decay: float, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """w -= lr a / (sqrt(s) + eps), with a and s the bias-corrected averages of g and g^2 (Kingma & Ba 2015)."""
    first, second = betas
    return Adam(groups, lr=lr, weight_decay=weight_decay, betas=(first, second), eps=eps, **_fused(groups))


@optimizer
def adamw(
    groups: Groups, *, lr: float, weight_decay: float, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """w -= lr weight_decay w, then adam with the gradient of the loss alone (Loshchilov & Hutter 2019)."""
    first, second = betas
    return AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(first, second), eps=eps, **_fused(groups))


def timm_optimizers() -> list[str]:
    """Names of timm's optimizers that work here and are not ours.

    Left out: those that need another package (``fused*``, ``bnb*``, ``kron*``) or a gradient of the gradient
    (adahessian), and timm's old copies of torch's (``*legacy``).
    """
    from timm import optim

    names = [str(name) for name in optim.list_optimizers(exclude_filters=["fused*", "bnb*", "kron*", "*legacy"])]
    return [name for name in names if name not in OPTIMIZERS and not optim.get_optimizer_info(name).second_order]


def _timm_builder(name: str) -> Callable[..., Optimizer]:
    """timm's optimizer of that name, its options those that ``OptimInfo`` admits, with timm's defaults (momentum 0.9).

    The muon family orthogonalises the steps of weights that are matrices once a convolution's input channels and kernel
    are flattened together. Vectors, sides below 4 and aspect ratios above 128 take AdamW's step (nmuon: NAdamW's) in
    the same optimizer and at the same rate: timm scales the matrix steps to the size of AdamW's.
    """
    from timm import optim

    names = timm_optimizers()
    if name not in names:
        raise ValueError(f"optimizer {name!r} is unknown; {nearest(name, [*OPTIMIZERS, *names])}")
    info = optim.get_optimizer_info(name)
    accepted = inspect.signature(optim.get_optimizer_class(name, bind_defaults=False)).parameters

    def build(groups: Groups, **options: Any) -> Optimizer:
        if len(options.get("betas", ())) not in (0, info.num_betas):
            raise ValueError(f"optimizer {name!r} takes {info.num_betas} betas, not {list(options['betas'])}")
        return optim.create_optimizer_v2(groups, opt=name, **options)

    dropped = {option for option in ("momentum", "betas", "eps") if not getattr(info, f"has_{option}")}
    build.__signature__ = inspect.Signature([p for p in accepted.values() if p.name not in dropped])  # type: ignore[attr-defined]
    return build


def _fused(groups: Groups, devices: Iterable[str] = ("cpu", "cuda")) -> dict[str, bool]:
    params = [parameter for group in groups for parameter in group["params"]]
    fusible = all(parameter.is_floating_point() and parameter.device.type in devices for parameter in params)
    return {"fused": True} if fusible else {}


# --- schedules --------------------------------------------------------------------------------------------------------
# A schedule is a pure function from the index of an optimizer step to a factor of lr, so that a resumed run is at the
# same rate as one that was never stopped.


def build_schedule(
    optimizer: Optimizer,
    *,
    name: str,
    total_steps: int,
    unit_steps: int = 1,
    warmup: int = 0,
    warmup_factor: float = 0.1,
    restart_at: int | None = None,
    restart_factor: float = 1.0,
    **options: Any,
) -> dict[str, Any] | None:
    """Lightning's ``lr_scheduler`` config for the schedule called ``name``, or None when the rate never changes.

    Durations (``warmup``, ``every``, ``milestones``) are counted in units of ``unit_steps`` optimizer steps: the steps
    of an epoch when the training length is in epochs, 1 when it is in steps. Momentum and betas are not scheduled. The
    ``plateau`` schedule counts validations, and must be shown them: ``litmus.callbacks.ObservePlateau`` does.

    Args:
        name: a key of ``SCHEDULES``, or ``plateau``.
        total_steps: optimizer steps in the whole training; batches accumulated into one step count once.
        warmup: length of a linear warm-up that multiplies the schedule, from ``warmup_factor`` up to 1. The default
            factor is that of He et al. 2015 for 110 layers, who hold it and then jump.
        restart_at: where a second phase begins: warm-up and schedule start anew over what is left, at
            ``restart_factor * lr``. A plateau schedule goes on at that factor; it has no length to start anew over.
        options: the schedule's own.

    Raises:
        ValueError: unknown name or option, no steps, a warm-up that does not end within a phase of the training.
    """
    config: dict[str, Any] = {"interval": "step", "frequency": 1}
    lengths = [total_steps]
    if restart_at is not None:
        lengths = [restart_at * unit_steps, total_steps - restart_at * unit_steps]
    warm = _in_phases(
        [warmed_up(lambda step: 1.0, warmup * unit_steps, warmup_factor, total_steps=length) for length in lengths],
        lengths,
        restart_factor,
    )
    if name == "plateau":
        _refuse_unknown("schedule 'plateau'", options, {"factor", "patience", "mode", "monitor"})
        monitor = options.pop("monitor", "val/loss")
        return config | {"scheduler": Plateau(optimizer, warm, **options), "monitor": monitor}
    factor = _in_phases(
        [lr_factor(name, total_steps=length, unit_steps=unit_steps, **options) for length in lengths], lengths
    )
    if name == "constant" and not warmup and restart_at is None:
        return None
    return config | {"scheduler": LambdaLR(optimizer, lambda step: warm(step) * factor(step))}


def _in_phases(factors: Sequence[Factor], lengths: Sequence[int], second: float = 1.0) -> Factor:
    """One factor, or one until ``lengths[0]`` and then ``second`` times another, counted from there."""
    first, later, switch = factors[0], factors[-1], lengths[0]
    if len(factors) == 1:
        return first
    return lambda step: first(step) if step < switch else second * later(step - switch)


def lr_factor(name: str, *, total_steps: int, unit_steps: int = 1, **options: Any) -> Factor:
    """index of an optimizer step, from 0 -> factor of ``lr``, without warm-up; arguments as in ``build_schedule``."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown; {nearest(name, [*SCHEDULES, 'plateau'])}")
    if total_steps < 1 or unit_steps < 1:
        raise ValueError(f"total_steps = {total_steps}, unit_steps = {unit_steps}: a schedule needs at least one step")
    _refuse_unknown(f"schedule {name!r}", options, _options_of(SCHEDULES[name]))
    return SCHEDULES[name](total_steps=total_steps, unit_steps=unit_steps, **options)


def warmed_up(factor: Factor, warmup_steps: int, warmup_factor: float, *, total_steps: int) -> Factor:
    """``factor`` times a line from ``warmup_factor`` at step 0 to 1 at ``warmup_steps``."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not end within a training of {total_steps} steps")

    def warm(step: int) -> float:
        done = min(step / warmup_steps, 1.0) if warmup_steps else 1.0
        return factor(step) * (warmup_factor + (1 - warmup_factor) * done)

    return warm


def constant(*, total_steps: int, unit_steps: int) -> Factor:
    return lambda step: 1.0


def step(*, total_steps: int, unit_steps: int, every: int = 30, gamma: float = 0.1) -> Factor:
    """``gamma`` once more after every ``every`` units."""
    period = every * unit_steps
    if period < 1:
        raise ValueError(f"every = {every}: must be at least 1")
    return lambda step: gamma ** (step // period)


def multistep(*, total_steps: int, unit_steps: int, milestones: Sequence[int], gamma: float = 0.1) -> Factor:
    """``gamma`` once more at each milestone (He et al. 2015: a tenth at 32k and at 48k of 64k steps)."""
    ends = sorted(milestone * unit_steps for milestone in milestones)
    return lambda step: gamma ** bisect_right(ends, step)


def cosine(*, total_steps: int, unit_steps: int, min_factor: float = 0.0) -> Factor:
    """Half a cosine from 1 to ``min_factor`` over the whole training (Loshchilov & Hutter 2017, without restarts)."""
    return lambda step: _half_cosine(1.0, min_factor, step / total_steps)


def one_cycle(
    *,
    total_steps: int,
    unit_steps: int,
    peak_at: float = 0.3,
    start_factor: float = 0.04,
    final_factor: float = 1e-4,
) -> Factor:
    """Half a cosine from ``start_factor`` up to 1, the peak, and one down to ``final_factor`` at the last step (Smith &
    Topin 2018). Differs from torch's ``OneCycleLR``: ``final_factor`` is of ``lr`` as well, and momentum stays."""
    peak, last = peak_at * total_steps - 1, total_steps - 1

    def factor(step: int) -> float:
        if step < peak:
            return _half_cosine(start_factor, 1.0, step / peak)
        return _half_cosine(1.0, final_factor, (step - peak) / (last - peak))

    return factor


SCHEDULES: dict[str, Callable[..., Factor]] = {
    "constant": constant,
    "step": step,
    "multistep": multistep,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


class Plateau(LambdaLR):
    """Multiply the rate by ``factor`` when more than ``patience`` validations in a row brought no better value.

    torch's ``ReduceLROnPlateau`` at threshold 0, with a warm-up, and shown its values by ``observe`` *before* the
    checkpoint of the epoch is written. Lightning steps torch's one after that, so that a resumed run misses one.

    Args:
        warm: step -> factor of the warm-up.
        factor: in (0, 1).
        patience: validations in a row without a better value that are tolerated, >= 0. NaN is never better.
        mode: which way is better, ``min`` or ``max``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warm: Factor,
        *,
        factor: float = 0.1,
        patience: int = 5,
        mode: Literal["min", "max"] = "min",
    ):
        if not 0 < factor < 1 or patience < 0 or mode not in ("min", "max"):
            raise ValueError(f"factor = {factor} in (0, 1), patience = {patience} >= 0, mode = {mode!r} in min, max")
        self.factor, self.patience, self.mode = factor, patience, mode
        self.best: float | None = None
        self.num_worse = 0
        self.reductions = 0
        super().__init__(optimizer, lambda step: warm(step) * self.factor**self.reductions)

    def observe(self, value: float) -> None:
        """Take note of one validation; the next optimizer step is at the new rate."""
        sign = 1 if self.mode == "min" else -1
        if not math.isnan(value) and (self.best is None or sign * value < sign * self.best):
            self.best, self.num_worse = value, 0
            return
        self.num_worse += 1
        if self.num_worse > self.patience:
            self.num_worse = 0
            self.reductions += 1
            rates = [lr * factor(self.last_epoch) for lr, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self._last_lr = rates


def _half_cosine(start: float, end: float, part: float) -> float:
    """From ``start`` at part 0 to ``end`` at part 1 and ever after."""
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
