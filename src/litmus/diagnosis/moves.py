"""What to change next, as overrides that can be pasted: bias first, then variance (Ng 2018, ch. 25 and 26)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

LrSign = Literal["too high", "too low"]
UnitSign = Literal["dead", "saturated"]

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
"""6n + 2 with n = 1, 2, 3, 5, 7, 9, 18: those of He et al. 2015, and two below."""

LARGER_BACKBONES = {
    "resnet10t": "resnet18",
    "resnet18": "resnet34",
    "resnet34": "resnet50",
    "resnet50": "resnet101",
    "resnet101": "resnet152",
    "mobilenetv3_small_100": "mobilenetv3_large_100",
    **{f"efficientnet_b{n}": f"efficientnet_b{n + 1}" for n in range(4)},
    **{f"tf_efficientnet_lite{n}": f"tf_efficientnet_lite{n + 1}" for n in range(4)},
    "convnext_atto": "convnext_femto",
    "convnext_femto": "convnext_pico",
    "convnext_pico": "convnext_nano",
    "convnext_nano": "convnext_tiny",
    "convnext_tiny": "convnext_small",
    "vit_tiny_patch16_224": "vit_small_patch16_224",
    "vit_small_patch16_224": "vit_base_patch16_224",
}

SIDED = {
    *("digits", "mnist", "qmnist", "kmnist", "usps", "semeion", "omniglot", "svhn", "gtsrb"),
    *("emnist", "emnist_byclass", "emnist_bymerge", "emnist_digits", "emnist_letters"),
}
"""Sets of characters and signs: a mirror image is another one, or none."""
NOT_TURNED = {"rendered_sst2", "clevr_count", "places365", "sun397"}
"""Sentences and scenes, which have an up and a down."""
OWN_IMAGES = {"image_folder", "synthetic"}
"""Nobody but their owner knows which changes keep a label: only small ones are proposed."""

_COUPLED = {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"}
_MOST_DECAY = {True: 0.1, False: 1.0}
"""Largest lambda / m proposed, for coupled and decoupled decay."""
_HEAVY_DECAY = 0.03
_HEAVY_KEEP = 0.4


class Move(NamedTuple):
    """One thing to change, alone."""

    text: str
    """Overrides with spaces between them, ``model.keep_prob=0.8 optim.l2_lambda=20``; or, unless ``ready``, advice."""
    why: str
    ready: bool = True
    """Whether ``text`` can be pasted behind ``litmus fit CONFIG``."""


def next_moves(
    *,
    bias: bool,
    variance: bool,
    mismatch: bool = False,
    config: Mapping[str, Any] | None = None,
    num_train: int | None = None,
    num_available: int | None = None,
    seen_more: int | None = None,
    stopped_early: bool = False,
    lr: LrSign | None = None,
    units: UnitSign | None = None,
    improving: bool = False,
    data_helps: bool | None = None,
) -> list[Move]:
    """What to change next, the most promising first: against bias, then against variance.

    Moves that the run has already made, or cannot make, are left out. Where both gaps are high, bias is treated by
    capacity and length: less regularisation against it and more against variance would cancel out.

    Args:
        bias: whether avoidable bias is high.
        variance: whether the generalisation gap is high.
        mismatch: whether validation images are of another kind than those trained on.
        config: dotted key -> value of the run, as ``litmus.config.flatten`` gives it; what is missing has the default.
        num_train: m, training images in use, by which ``optim.l2_lambda`` is divided.
        num_available: training images that there are, where ``data.num_train`` leaves some out.
        seen_more: size of ``train_eval`` at which an undecided bias would be decided.
        stopped_early: whether early stopping ended the run: a longer one would be the same.
        lr: what the curves say of the learning rate.
        units: what the probe images say of the network's units.
        improving: whether validation loss still fell at the end: then a longer training comes before a larger network.
        data_helps: what a learning curve says of more images; None where there is none.
    """
    run = _Run(config or {}, num_train)
    first = list(_against_bias(run, stopped_early, lr, units, improving, alone=not variance)) if bias else []
    second = list(_against_variance(run, num_available, data_helps)) if variance else []
    third = []
    if mismatch:
        says = "training and validation images differ in kind, which no regulariser mends"
        third.append(Move("training images like those of data.val_path", says, ready=False))
    if seen_more is not None and not (bias or variance or mismatch):
        third.append(Move(f"data.train_eval_size={seen_more}", "so many training images decide the bias"))
    return first + second + third


def is_held_back(config: Mapping[str, Any], num_train: int | None) -> bool:
    """Whether dropout or decay is so strong that it is the first suspect of a bias: keep_prob up to 0.4, or a decay
    lambda / m from 0.03."""
    return _Run(config, num_train).is_held_back


class _Run:
    """The run's values by dotted key."""

    def __init__(self, config: Mapping[str, Any], num_train: int | None):
        self._config, self.num_train = config, num_train
        self.model = str(self("model.name", "residual"))
        self.norm = str(self("model.norm", "none" if "mlp" in self.model else "batch"))
        self.convolves = self.model in ("plain", "residual", "highway")
        self.optimizer = str(self("optim.name", "momentum"))
        self.l2_lambda = float(self("optim.l2_lambda", 0.0))
        self.keep_prob = float(self("model.keep_prob", 1.0))
        self.transferred = self("model.weights") is not None
        self.freezes = any(key == "freeze.layers" for key in config)
        self.frozen = self.freezes and self("freeze.until") is None
        self.unit = "epochs" if self("train.steps") is None else "steps"
        self.length = int(self("train.steps") or self("train.epochs") or 10)

    def __call__(self, key: str, default: Any = None) -> Any:
        return self._config.get(key, default)

    def not_default(self, prefix: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of a section that are not at ``defaults``, with what they would be there."""
        return {
            f"{prefix}.{key}": value
            for key, value in defaults.items()
            if _plain(self(f"{prefix}.{key}", value)) != _plain(value)
        }

    @property
    def is_held_back(self) -> bool:
        return self.decay >= _HEAVY_DECAY or self.keep_prob <= _HEAVY_KEEP

    @property
    def decay(self) -> float:
        return self.l2_lambda / self.num_train if self.num_train else 0.0


def _against_bias(
    run: _Run, stopped_early: bool, lr: LrSign | None, units: UnitSign | None, improving: bool, *, alone: bool
) -> Iterator[Move]:
    heavy = run.is_held_back
    lighter = list(_lighter(run)) if alone or heavy else []
    if lr is not None:
        yield _rate(run, lr)
    if units is not None or _squashes(run):
        yield from _other_activation(run, units)
    if heavy:
        yield from lighter
    if run.frozen:
        yield _thaw(run)
    longer = [] if stopped_early else [_longer(run)]
    yield from (*longer, *_larger(run)) if improving else (*_larger(run), *longer)
    if run.optimizer in ("sgd", "adagrad"):
        yield Move("optim.name=adam optim.lr=0.001", f"{run.optimizer} is the slowest of the optimizers")
    if lr is None:
        yield Move("optim.lr: see `litmus lr`", "a range test finds the rate, the curves show no sign", ready=False)
    if not heavy:
        yield from lighter


def _rate(run: _Run, sign: LrSign) -> Move:
    lr = float(run("optim.lr", 0.1))
    if sign == "too high":
        return Move(f"optim.lr={_figure(lr / 10)}", "the loss jumps, or never leaves chance: the rate is too high")
    return Move(f"optim.lr={_figure(min(lr * 10, 1000))}", "the loss still falls as slowly as it began: a higher rate")


def _squashes(run: _Run) -> bool:
    return run("model.activation") in ("sigmoid", "tanh") and int(run("model.depth", 0)) >= 10 and run.norm == "none"


def _other_activation(run: _Run, units: UnitSign | None) -> Iterator[Move]:
    activation = run("model.activation", "relu")
    if run.transferred or run.model == "timm":
        return
    if units == "dead" and activation == "relu":
        yield Move("model.activation=leaky_relu", "units that are zero on every image learn nothing any more")
    elif activation in ("sigmoid", "tanh"):
        std = " model.init_std=0.01" if run("model.init") == "normal" and run("model.init_std", 0.01) != 0.01 else ""
        why = f"{activation} units saturate, and gradients shrink from layer to layer"
        yield Move(f"model.activation=relu model.init=he_normal{std}", why)


def _thaw(run: _Run) -> Move:
    if run.length < 2:
        return Move("freeze=null", "frozen layers cannot learn these images")
    return Move(
        f"freeze.until={run.length // 2}", f"frozen layers cannot learn these images: let them, halfway ({run.unit})"
    )


def _larger(run: _Run) -> Iterator[Move]:
    """More capacity; of learnt weights the shapes are fixed."""
    if run.model == "timm":
        backbone = str(run("model.backbone", "resnet18"))
        name, dot, _ = backbone.partition(".")
        if name in LARGER_BACKBONES and not dot and run("model.weights") in (None, "pretrained"):
            yield Move(f"model.backbone={LARGER_BACKBONES[name]}", "the next larger backbone of its family")
        return
    if run.transferred:
        return
    depth, width = int(run("model.depth", 20 if run.convolves else 3)), run("model.width", 16 if run.convolves else 256)
    wider = Move(f"model.width={_doubled(width)}", "twice as wide") if width not in ([], ()) else None
    if run.convolves:
        deeper = next((depth_ for depth_ in DEPTHS if depth_ > depth), None)
        if run.model == "plain" and depth >= 20:
            yield Move("model.name=residual", "plain networks of this depth are hard to optimise (He et al. 2015)")
        elif deeper is not None and not (run.norm == "none" and depth >= 20):
            yield Move(f"model.depth={deeper}", f"a larger network: {depth} weighted layers now")
        if wider:
            yield wider
        return
    if run.model == "mlp" and depth == 1:
        yield Move("model.depth=3 model.width=256", "without a hidden layer only straight borders can be learnt")
        return
    if run.model == "mlp" and depth >= 10:
        yield _with_skips(run, depth, width, "a skip around every two layers lets deep networks train")
    if wider:
        yield wider
    if isinstance(width, int) and depth < 10:
        yield Move(f"model.depth={depth + (2 if run.model == 'residual_mlp' else 1)}", f"deeper: {depth} layers now")


def _with_skips(run: _Run, depth: int, width: Any, why: str) -> Move:
    words = ["model.name=residual_mlp"]
    even = max(4, depth + depth % 2)
    if even != depth:
        words.append(f"model.depth={even}")
    if not isinstance(width, int):
        words.append(f"model.width={max(width, default=256)}")
    return Move(" ".join(words), why)


def _longer(run: _Run) -> Move:
    """Twice as long; what the schedule and the freezing count in the same unit goes along."""
    words = [f"train.{run.unit}={2 * run.length}"]
    if run("schedule.name") == "multistep":
        words.append(f"schedule.milestones={_listed(2 * at for at in run('schedule.milestones'))}")
    if run("schedule.name") == "step":
        words.append(f"schedule.every={2 * int(run('schedule.every', 30))}")
    if run("freeze.until") is not None:
        words.append(f"freeze.until={2 * int(run('freeze.until'))}")
    return Move(" ".join(words), f"twice as long: {run.length:,} {run.unit} now")


def _lighter(run: _Run) -> Iterator[Move]:
    words = []
    if run.l2_lambda:
        less = run.l2_lambda / 10
        words.append(f"optim.l2_lambda={_figure(less) if not run.num_train or less / run.num_train > 1e-6 else 0}")
    if run("optim.l1_lambda", 0.0):
        words.append("optim.l1_lambda=0")
    kept = [key for key in _KEEPS if float(run(key, 1.0)) < 1]
    words += [f"{key}=1" for key in kept]
    if "model.keep_prob" in kept and run("model.dropout", "plain") != "plain":
        words.append("model.dropout=plain")
    if words:
        yield Move(" ".join(words), "less regularisation: it is paid for in training error")
    if run("train.label_smoothing", 0.0):
        yield Move("train.label_smoothing=0", "smoothed labels hold the training error up")
    changed = run.not_default("augment", _AUGMENT)
    if changed:
        yield Move(
            " ".join(f"{key}={_word(value)}" for key, value in changed.items()), "no augmentation: easier images"
        )


_KEEPS = ("model.keep_prob", "model.head_keep_prob", "model.input_keep_prob", "model.drop_path_keep_prob")
_AUGMENT: dict[str, Any] = {
    "policy": "none",
    **dict.fromkeys(("hflip", "vflip", "pad_crop", "shift", "rotate", "shear"), 0),
    "scale": None,
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue", "erase", "mixup", "cutmix"), 0),
    "erase_area": (0.02, 0.33),
    "erase_ratio": (0.3, 3.3),
    "mix_prob": 1.0,
}
"""Every key of ``augment`` where nothing is augmented."""


def _against_variance(run: _Run, num_available: int | None, data_helps: bool | None) -> Iterator[Move]:
    asked = run("data.num_train")
    if data_helps is not None:
        if data_helps:
            yield Move("more data", "the curve has not levelled off", ready=False)
    elif asked is not None:
        twice = 2 * int(asked)
        all_of_them = num_available is None or twice >= num_available
        more = "null" if all_of_them else twice
        yield Move(f"data.num_train={more}", f"{'all images there are' if all_of_them else 'twice as many images'}")
    else:
        yield Move("more data: see `litmus curve`", "it says what more images would be worth", ready=False)
    yield from _augment(run)
    if run.transferred and not run.freezes:
        yield Move("freeze.layers=body", "only the head learns: few images move few weights")
    yield from _heavier(run)
    if run("early_stopping.name") is None:
        yield Move("early_stopping.name=gl", "ends the training where the validation loss has risen by a tenth")
    if run.norm == "none" and run.model != "timm" and not run.transferred and run("model.init") != "lsuv":
        yield Move("model.norm=batch", "batch norm regularises a little, and trains faster")


def _augment(run: _Run) -> Iterator[Move]:
    name = str(run("data.name", "digits"))
    mirrored = name not in SIDED | OWN_IMAGES | {"rendered_sst2"}
    moved = any(run(f"augment.{key}", 0) for key in ("shift", "pad_crop")) or run("augment.policy") == "trivial"
    if not moved:
        words = ["augment.shift=0.1"]
        if name not in NOT_TURNED:
            words.append(f"augment.rotate={8 if name in SIDED else 10}")
        if mirrored:
            words.insert(0, "augment.hflip=0.5")
        unless = "; augment.hflip=0.5 too if a mirror image keeps its label" if name in OWN_IMAGES else ""
        yield Move(" ".join(words), f"shifted and turned images are new ones{unless}")
    elif mirrored and run("augment.policy", "none") == "none":
        yield Move("augment.policy=trivial", "stronger: TrivialAugment (Mueller & Hutter 2021)")
    elif not run("augment.mixup", 0) and not run("augment.cutmix", 0):
        yield Move("augment.mixup=0.2", "mixed pairs of images, in any kind of set (Zhang et al. 2018)")


def _heavier(run: _Run) -> Iterator[Move]:
    words = _drop_more(run)
    m = run.num_train
    coupled = run.optimizer in _COUPLED
    if m:
        # He et al. 2015 and after: some 5e-4 with batch norm; without it the penalty itself has to shrink the weights.
        first = (5e-4 if run.norm == "batch" or run.model == "timm" else 5e-3) if coupled else 0.05
        wanted = 10 * run.decay if run.l2_lambda else first
        if wanted <= _MOST_DECAY[coupled] * (1 + 1e-9):
            value = _figure(10 * run.l2_lambda) if run.l2_lambda else _figure(first * m, 1)
            words.append(f"optim.l2_lambda={value}")
    elif not run.l2_lambda:
        words.append("optim.l2_lambda=10")
    elif run.l2_lambda < 100:
        words.append(f"optim.l2_lambda={_figure(10 * run.l2_lambda)}")
    if words:
        yield Move(" ".join(words), "more regularisation, weighted by the number of images")


def _drop_more(run: _Run) -> list[str]:
    if run.model == "mlp" and int(run("model.depth", 3)) == 1:
        return []
    lower = next((keep for keep in (0.8, 0.5) if keep < run.keep_prob), None)
    if run.model == "plain" and run.norm == "batch" and run.keep_prob == 1:  # dropout before batch norm shifts variance
        head = float(run("model.head_keep_prob", 1.0))
        lower = next((keep for keep in (0.8, 0.5) if keep < head), None)
        return [] if lower is None else [f"model.head_keep_prob={lower:g}"]
    if lower is None:
        return []
    words = [f"model.keep_prob={lower:g}"]
    if run.model in ("residual", "highway") and run.norm == "batch" and run.keep_prob == 1:
        words.append("model.dropout=stochastic_depth")  # whole blocks: nothing is dropped before batch norm
    return words


def _figure(value: float, digits: int = 2) -> str:
    """A number with few digits, without an exponent where that is short."""
    if value == 0 or not math.isfinite(value):
        return "0"
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:.10f}".rstrip("0").rstrip(".") if rounded >= 1e-6 else f"{rounded:.0e}"


def _doubled(width: Any) -> str:
    return str(2 * width) if isinstance(width, int) else _listed(2 * units for units in width)


def _listed(values: Any) -> str:
    return f"[{','.join(map(str, values))}]"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return _listed(value) if isinstance(value, tuple | list) else f"{value:g}" if value != "none" else value
