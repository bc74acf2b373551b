"""Whether the gradient arrives: its size from layer to layer, from the head back to the input. Needs torch, so import
it by name.

The ratio of the first to the last *weight* gradient says little: where everything has vanished it stays near 1, because
the activations shrink as the gradients do, and a weight's gradient is a product of both. What is read here is the
gradient by the pre-activations, and the weights' gradients relative to the weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Verdict = Literal["vanishing", "exploding", "healthy"]
BatchNorm = Literal["batch", "running"]

LIMIT = 3.0
"""Decades between the first layer and the head beyond which a gradient has vanished or exploded."""

MIN_IMAGES = 1_000
"""A unit that is zero on fewer images may only be a rare one."""

_SINGLE_HOLDS = -25.0
_SATURATES = {"Sigmoid": (0.05, 0.95), "Tanh": (-0.95, 0.95)}
_DIES = {"ReLU", "ReLU6"}
_NOT_ELEMENTWISE = {"MultiheadAttention", "Softmax", "Softmin", "LogSoftmax", "Softmax2d"}
_ACTIVATIONS_LIVE_IN = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")


@dataclass(frozen=True)
class LayerFlow:
    """One weighted layer. Norms are over all its entries, of a loss that is the mean over the images, in log10.

    A norm of exactly 0 is ``-inf``.
    """

    name: str
    kind: str
    """``Linear``, ``Conv2d``, ..."""
    log10_delta: float
    """``||dL/dz||``, z = W a + b: what the layer puts out, in front of any norm; over images, channels and places."""
    log10_gradient: float
    """``||dL/dW||``."""
    log10_weight: float
    """``||W||``."""
    activation: str
    """Class of the activation that reads z first; empty where none does, or where it is no module."""
    mean: float
    """Of that activation's output over images, units and places; of z where there is none."""
    std: float
    saturated: float | None
    """Part of the outputs outside [0.05, 0.95] (sigmoid) or [-0.95, 0.95] (tanh); None for other activations."""
    dead: float | None
    """Part of the units (channels) that are 0 at every place of every image; None where it is not a ReLU."""

    @property
    def log10_relative(self) -> float:
        """``||dL/dW|| / ||W||``; NaN for weights that are all 0."""
        return math.nan if self.log10_weight == -math.inf else self.log10_gradient - self.log10_weight


@dataclass(frozen=True)
class Flow:
    """The weighted layers that learn, in the order in which the images pass them. Frozen ones are absent."""

    layers: tuple[LayerFlow, ...]
    num_images: int
    batch_size: int
    """Largest number of images that went through together: batch norm's ``batch`` depends on it."""
    batch_norm: BatchNorm
    precision: int
    """Bits of the numbers that passed, 32 or 64."""
    loss: float
    """Mean cross-entropy in nats."""

    @property
    def first_to_last(self) -> float:
        """log10 of ``||dL/dz||`` of the first layer over that of the last; 0 where only one layer learns."""
        return _minus(self.layers[0].log10_delta, self.layers[-1].log10_delta)

    @property
    def weight_gradient_ratio(self) -> float:
        """log10 of the first layer's ``||dL/dW||`` over the last's: near 0 also where all has vanished."""
        return _minus(self.layers[0].log10_gradient, self.layers[-1].log10_gradient)

    @property
    def decades_per_layer(self) -> float:
        """What a layer adds to log10 of ``||dL/dz||`` on the way back, by least squares: negative where it shrinks.

        Over the layers whose gradient is neither 0 nor infinite; NaN where these are fewer than two.
        """
        return self._line()[0]

    @property
    def r2(self) -> float:
        """How much of log10 of ``||dL/dz||`` the straight line explains, in [0, 1]; NaN for fewer than three layers."""
        return self._line()[1]

    @property
    def saturated(self) -> float | None:
        """Mean over the layers that can saturate; None without one."""
        return _mean([layer.saturated for layer in self.layers if layer.saturated is not None])

    @property
    def dead(self) -> float | None:
        """Mean over the layers of ReLUs; None without one."""
        return _mean([layer.dead for layer in self.layers if layer.dead is not None])

    @property
    def cut_off(self) -> tuple[str, ...]:
        """Layers without any gradient though one nearer to the input has some: a factor of 0 stands behind them, such
        as the scale of a residual branch that begins as its shortcut. They are left out of the verdict."""
        reached = [layer.log10_delta > -math.inf for layer in self.layers]
        return tuple(layer.name for i, layer in enumerate(self.layers) if not reached[i] and any(reached[:i]))

    @property
    def verdict(self) -> Verdict:
        """*vanishing* if ``||dL/dz||`` of the first layer is below 1e-3 of the last's, or ``||dL/dW|| / ||W||`` of any
        layer below 1e-3 of the last's; *exploding* if one of them is above 1e3, or a number is not finite; else
        *healthy*. Where they contradict each other the first counts."""
        return self._judged()[0]

    @property
    def sentence(self) -> str:
        """The verdict, and the numbers and the layer that it rests on."""
        verdict, why = self._judged()
        if cut := self.cut_off:
            why += f"; {len(cut)} layers have no gradient at all, {cut[0]} the first: a factor of 0 stands behind them"
        return f"{verdict}: {why}"

    def metrics(self) -> dict[str, float]:
        """``gradients/*``, those that are finite numbers: log10 of 0 and the slope of a single layer are none."""
        numbers = {
            "first_to_last_log10": self.first_to_last,
            "decades_per_layer": self.decades_per_layer,
            "weight_gradient_ratio_log10": self.weight_gradient_ratio,
            "dead": self.dead,
            "saturated": self.saturated,
        }
        known = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
        return {f"gradients/{name}": value for name, value in known.items()}

    def _judged(self) -> tuple[Verdict, str]:
        first, last = self.layers[0], self.layers[-1]
        for layer in self.layers:
            wrong = [
                value for value in (layer.log10_delta, layer.log10_gradient) if value != value or value == math.inf
            ]
            if wrong or not math.isfinite(self.loss):
                return "exploding", f"the gradient is not finite at {layer.name}, the loss is {self.loss:.3g}"
        if last.log10_delta == -math.inf:
            return "healthy", f"the loss, {self.loss:.3g}, has no gradient left to send back"
        if first.log10_delta == -math.inf:
            arrived = next(layer.name for layer in self.layers if layer.log10_delta > -math.inf)
            return "vanishing", f"dL/dz is exactly 0 at {first.name}; the first layer that it reaches is {arrived}"
        if len(self.layers) == 1:
            return "healthy", f"{first.name} alone learns: there is no depth to pass"

        cut = set(self.cut_off)
        relative = {layer.name: layer.log10_relative - last.log10_relative for layer in self.layers}
        relative = {name: value for name, value in relative.items() if value == value and name not in cut}
        found: list[tuple[Verdict, str]] = []
        ratio, per_layer, r2 = self.first_to_last, self.decades_per_layer, self.r2
        fit = f"{per_layer:+.2f} a layer" + ("" if r2 != r2 else f", R2 {r2:.2f}")
        whole = f"||dL/dz|| changes by {ratio:+.1f} decades from {last.name} to {first.name} ({fit})"
        if abs(ratio) > LIMIT:
            found.append(("vanishing" if ratio < 0 else "exploding", whole))
        for verdict, choose in (("vanishing", min), ("exploding", max)):
            name = choose(relative, key=relative.__getitem__, default=None)
            if name is not None and abs(relative[name]) > LIMIT and (relative[name] < 0) == (verdict == "vanishing"):
                by = f"||dL/dW||/||W|| of {name} is 10^{relative[name]:.1f} of {last.name}'s"
                found.append((verdict, by))  # type: ignore[arg-type]
        if not found:
            return "healthy", whole
        return found[0][0], "; ".join(says for _, says in found)

    def _line(self) -> tuple[float, float]:
        """Slope against the number of layers passed on the way back, and R2."""
        height = np.array([layer.log10_delta for layer in self.layers])
        depth = np.arange(len(height), dtype=float)
        depth, height = depth[np.isfinite(height)], height[np.isfinite(height)]
        if len(height) < 2:
            return math.nan, math.nan
        x, y = depth - depth.mean(), height - height.mean()
        slope = float(x @ y / (x @ x))
        spread = float(y @ y)
        explained = 1.0 if spread == 0 else 1 - float(np.square(y - slope * x).sum()) / spread
        return -slope, math.nan if len(height) < 3 else explained

    def plain(self) -> dict[str, Any]:
        """Plain values, of which ``of`` makes an equal one."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Flow:
        """From ``plain()``, or from a table that has more."""
        layers = tuple(
            LayerFlow(**{field.name: _number(layer[field.name]) for field in fields(LayerFlow)})
            for layer in plain["layers"]
        )
        own = {field.name: _number(plain[field.name]) for field in fields(cls) if field.name != "layers"}
        return cls(layers=layers, **own)

    def table(self) -> dict[str, Any]:
        """``plain()``, and what follows from it."""
        derived = ("verdict", "sentence", "first_to_last", "weight_gradient_ratio", "decades_per_layer", "r2")
        numbers = {name: getattr(self, name) for name in (*derived, "saturated", "dead")}
        layers = [{**asdict(layer), "log10_relative": layer.log10_relative} for layer in self.layers]
        return {**numbers, **self.plain(), "layers": layers}


@dataclass(frozen=True)
class FlowAt:
    """A moment of a training."""

    step: int
    """Optimizer steps done."""
    flow: Flow
    log10_update: tuple[float, ...] | None = None
    """``||W' - W|| / ||W||`` of each layer over the optimizer's next step, in log10; None where none followed."""

    @property
    def relative_update(self) -> float | None:
        """Median over the layers, as a number, not its logarithm."""
        known = [value for value in self.log10_update or () if value == value]
        return float(10 ** np.median(known)) if known else None

    def plain(self) -> dict[str, Any]:
        """Plain values, of which ``of`` makes an equal one."""
        update = None if self.log10_update is None else list(self.log10_update)
        return {"step": self.step, "log10_update": update, "flow": self.flow.plain()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> FlowAt:
        """From ``plain()``, or from a table that has more."""
        update = plain["log10_update"]
        return cls(plain["step"], Flow.of(plain["flow"]), None if update is None else tuple(map(_number, update)))

    def table(self) -> dict[str, Any]:
        """``plain()``, and what follows from it."""
        return {**self.plain(), "relative_update": self.relative_update, "flow": self.flow.table()}


def story(verdicts: Sequence[str]) -> str:
    """``healthy``, or ``vanishing, then healthy``: each verdict once for as long as it holds."""
    return ", then ".join(verdict for verdict, _ in itertools.groupby(verdicts))


def measure_flow(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 128,
    batch_norm: BatchNorm = "batch",
    dtype: torch.dtype | None = None,
) -> Flow:
    """One pass of the images forward and back, through a copy of the network.

    The network, its gradients, modes, hooks and statistics are left alone, and nothing is drawn at random: the copy has
    dropout off. It lies on the network's device, or on the CPU where the device lacks its precision. Layers are linear
    layers and convolutions whose weight learns; one that is used several times counts all its uses together. What is
    activated by a function, not a module, counts as not activated.

    Single precision holds numbers down to 1e-45, which thirty ReLU layers drawn too small pass; double down to 5e-324.
    So a network whose norms come near that, or are not finite, passes a second time, in double precision. Else it would
    tell nothing new: the norms differ in the seventh digit.

    Args:
        network: images to logits (N, K).
        images: (N, C, H, W), float, as the network reads them; for dead units at least ``MIN_IMAGES``.
        labels: (N,) classes, or (N, K) class probabilities.
        batch_size: at most so many images at a time, in parts of nearly equal size.
        batch_norm: ``batch`` normalises by the part, as training does: then the gradient passes through mean and
            variance, and numbers depend on ``batch_size``. ``running`` takes the running statistics, which before
            training are 0 and 1. Frozen norms keep to their running statistics in any case.
        dtype: of the copy; default: float32, and float64 where that does not hold the numbers.

    Raises:
        ValueError: no image, labels that do not fit, or no weighted layer that learns and is used.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels: as many of both, at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}, must be at least 1")
    first = next(network.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    own = torch.float32 if first is None else first.dtype
    single = dtype is None and own != torch.float64
    how: dict[str, Any] = {"batch_size": batch_size, "batch_norm": batch_norm}
    flow = _measure(network, images, labels, device, torch.float32 if single else dtype or own, **how)
    if single and not _held(flow):
        flow = _measure(network, images, labels, device, torch.float64, **how)
    return flow


def _held(flow: Flow) -> bool:
    """Whether single precision was enough: what makes up a norm is some ten decades above the smallest number."""
    norms = (norm for layer in flow.layers for norm in (layer.log10_delta, layer.log10_gradient))
    spreads = (layer.std for layer in flow.layers)
    return all(_SINGLE_HOLDS < norm < math.inf for norm in norms) and all(std > 10**_SINGLE_HOLDS for std in spreads)


def _measure(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    *,
    batch_size: int,
    batch_norm: BatchNorm,
) -> Flow:
    if device.type == "mps" and dtype == torch.float64:
        device = torch.device("cpu")
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        twin = _copy_of(network).to(device=device, dtype=dtype)
        _set_modes_(twin, batch_norm)
        gauges = [_Gauge(name, module) for name, module in twin.named_modules() if _is_weighted(module)]
        watch = _Watch(gauges)
        watch.attach(twin)
        num_parts, loss = -(-len(images) // batch_size), 0.0
        parts = zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
        for some, of_some in parts:
            watch.begin()
            target = of_some.to(device, copy=True)
            logits = twin(some.to(device=device, dtype=dtype, copy=True))
            target = target.to(dtype) if target.is_floating_point() else target
            part = F.cross_entropy(logits, target, reduction="sum") / len(images)
            if not part.requires_grad:
                break
            part.backward()
            loss += float(part.detach())
    used = sorted((gauge for gauge in gauges if gauge.order is not None), key=lambda gauge: gauge.order or 0)
    if not used:
        raise ValueError("has no linear layer or convolution that learns and is used: there is no gradient to measure")
    return Flow(
        layers=tuple(gauge.read() for gauge in used),
        num_images=len(images),
        batch_size=-(-len(images) // num_parts),
        batch_norm=batch_norm,
        precision=32 if dtype == torch.float32 else 64,
        loss=loss,
    )


def weighted_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers and convolutions that learn, in the order in which they are defined."""
    return [name for name, module in network.named_modules() if _is_weighted(module)]


def _is_weighted(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear | _ConvNd) and weight is not None and weight.requires_grad


def _copy_of(network: nn.Module) -> nn.Module:
    """Without its hooks, which are for who uses the network, and uncompiled."""
    memo: dict[int, Any] = {
        id(value): type(value)()
        for module in network.modules()
        for name, value in vars(module).items()
        if "_hooks" in name and isinstance(value, dict)
    }
    return copy.deepcopy(network, memo)


def _set_modes_(twin: nn.Module, batch_norm: BatchNorm) -> None:
    if batch_norm not in ("batch", "running"):
        raise ValueError(f"batch_norm = {batch_norm!r}: 'batch' or 'running'")
    twin.eval()
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters())
            module.train(batch_norm == "batch" and (not own or any(p.requires_grad for p in own)))
            if isinstance(module, nn.SyncBatchNorm):  # would wait for processes that measure nothing
                module.forward = partial(_BatchNorm.forward, module)  # type: ignore[method-assign]


class _Gauge:
    """What is gathered of one weighted layer, part by part."""

    def __init__(self, name: str, module: nn.Module):
        self.name, self.module = name, module
        self.order: int | None = None
        self.log10_delta = -math.inf
        self.own, self.activated = _Moments(), _Moments()
        self.activation = ""
        self.outside = 0
        self.alive: Tensor | None = None

    def add_delta(self, gradient: Tensor) -> None:
        self.log10_delta = _log10_hypot(self.log10_delta, log10_norm(gradient))

    def add_activation(self, kind: str, values: Tensor) -> None:
        self.activation = kind
        self.activated.add(values)
        if kind in _SATURATES:
            low, high = _SATURATES[kind]
            self.outside += int(((values < low) | (values > high)).sum())
        if kind in _DIES:
            axis = values.ndim - 1 if isinstance(self.module, nn.Linear) else 1
            alive = (values > 0).transpose(0, axis).flatten(1).any(dim=1)
            self.alive = alive if self.alive is None else self.alive | alive

    def read(self) -> LayerFlow:
        seen = self.activated if self.activation else self.own
        weight: Any = self.module.weight
        return LayerFlow(
            name=self.name,
            kind=type(self.module).__name__,
            log10_delta=self.log10_delta,
            log10_gradient=-math.inf if weight.grad is None else log10_norm(weight.grad),
            log10_weight=log10_norm(weight.detach()),
            activation=self.activation,
            mean=seen.mean,
            std=math.sqrt(seen.squares / seen.count),
            saturated=self.outside / seen.count if self.activation in _SATURATES else None,
            dead=None if self.alive is None else 1 - float(self.alive.double().mean()),
        )


class _Watch:
    """Hooks on a network that fill its gauges.

    Which activation reads a layer is found in the graph of the pass, from the activation back to the nearest weighted
    layers: through norms, sums and shortcuts, whatever order the modules are called in.
    """

    def __init__(self, gauges: Sequence[_Gauge]):
        self.gauges = {gauge.module: gauge for gauge in gauges}
        self.num_used = 0
        self.begin()

    def begin(self) -> None:
        self._layer_of: dict[Any, _Gauge] = {}
        self._passed: set[Any] = set()  # holds the nodes, so that none is another's address

    def attach(self, network: nn.Module) -> None:
        for module in network.modules():
            if module in self.gauges:
                module.register_forward_hook(self._see_layer)
            elif _is_activation(module):
                module.register_forward_hook(self._see_activation)

    def _see_layer(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        gauge = self.gauges[module]
        if gauge.order is None:
            gauge.order, self.num_used = self.num_used, self.num_used + 1
        gauge.own.add(output.detach())
        self._layer_of[output.grad_fn] = gauge
        output.register_hook(gauge.add_delta)

    def _see_activation(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        for gauge in self._read_by(output):
            gauge.add_activation(type(module).__name__, output.detach())

    def _read_by(self, output: Tensor) -> Iterator[_Gauge]:
        """Layers that no activation before has read."""
        ahead = [output.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in self._passed:
                continue
            self._passed.add(node)
            if (gauge := self._layer_of.get(node)) is not None:
                yield gauge
            else:
                ahead += [before for before, _ in node.next_functions]


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__ in _ACTIVATIONS_LIVE_IN and kind.__name__ not in _NOT_ELEMENTWISE


class _Moments:
    """Mean and sum of squared distances from it, over parts (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        count = values.numel()
        variance, mean = (float(value) for value in torch.var_mean(values, correction=0))
        away, total = mean - self.mean, self.count + count
        self.squares += variance * count + away * away * self.count * count / total
        self.mean += away * count / total
        self.count = total


def log10_norm(values: Tensor) -> float:
    """log10 of the Euclidean norm; squares of small numbers do not underflow in it. ``-inf`` for zeros alone."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return -math.inf if largest == 0 else largest
    return math.log10(largest) + math.log10(float((values / largest).norm()))


def _log10_hypot(a: float, b: float) -> float:
    """log10 of sqrt(x^2 + y^2) from log10 of x and of y."""
    low, high = min(a, b), max(a, b)
    if low == -math.inf or high == math.inf or low != low or high != high:
        return a + b if a != a or b != b else high
    return high + 0.5 * math.log10(1 + 10 ** (2 * (low - high)))


def to_json(value: Any) -> Any:
    """The same with text for what JSON has no number for, ``nan``, ``inf`` and ``-inf``; ``of`` reads that too."""
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _minus(a: float, b: float) -> float:
    return 0.0 if a == b else a - b


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
