"""What a run is: every key with its type, range and unit, and what must hold between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from litmus.errors import Problem, Refused, nearest

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu"]
Norm = Literal["none", "batch", "group"]
Init = Literal[
    "normal",
    "xavier_uniform",
    "xavier_normal",
    "he_uniform",
    "he_normal",
    "lecun_normal",
    "orthogonal",
    "lsuv",
    "torch_default",
]

ResidualInit = Literal[Init, "zero_branch", "fixup"]
"""Two more, which stand in for a norm."""

METRICS: dict[str, Literal["min", "max"]] = {
    f"{split}/{name}": "min" for split in ("train", "train_eval", "val") for name in ("loss", "err")
}
"""Every metric a run can monitor, and which way is better. Errors are rates in [0, 1]."""

TORCHVISION_SETS = (
    "caltech101", "caltech256", "cifar10", "cifar100", "clevr_count", "country211", "dtd", "emnist",
    "emnist_byclass", "emnist_bymerge", "emnist_digits", "emnist_letters", "eurosat", "fashion_mnist",
    "fgvc_aircraft", "flowers102", "food101", "gtsrb", "imagenette", "inaturalist_mini", "kmnist", "mnist",
    "omniglot", "oxford_pets", "places365", "qmnist", "rendered_sst2", "semeion", "stanford_cars", "stl10",
    "sun397", "svhn", "usps",
)  # fmt: skip
TIMM_OPTIMIZERS = (
    "adabelief", "adadelta", "adafactor", "adafactorbv", "adafactorbvc", "adamax", "adamc", "adamp", "adamuon",
    "adan", "adanw", "adopt", "adoptc", "adoptw", "cadafactor", "cadafactorbv", "cadafactorbvc", "cadamc",
    "cadamp", "cadamw", "cadan", "cadanw", "cadopt", "cadoptc", "cadoptw", "clamb", "clambw", "claprop", "clion",
    "clionc", "cmars", "cnadamc", "cnadamw", "crmsproptf", "csgdc", "csgdp", "csgdw",
    "lamb", "lambc", "lambcd", "lambcw", "lambw", "laprop", "lapropc", "larc", "lars", "lion", "lionc", "madgrad",
    "madgradw", "mars", "muon", "nadam", "nadamc", "nadamuon", "nadamw", "nesterovw", "nlarc", "nlars", "nmuon",
    "novograd", "novogradc", "novogradw", "radabelief", "radam", "radamw", "rmsproptf", "rmsproptfc",
    "rmsproptfw", "sgdc", "sgdp", "sgdw",
)  # fmt: skip


class Section(BaseModel):
    """A part of the config: frozen, unknown keys refused, no coercion between types, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # YAML has lists, a frozen config has tuples


def _depth_6n_2(depth: int) -> int:
    if depth < 8 or (depth - 2) % 6:
        n = max(1, round((depth - 2) / 6))
        raise ValueError(f"must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...); the nearest is {6 * n + 2}")
    return depth


def _monitored(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"is not a metric of a run; {nearest(name, METRICS)}; all: {', '.join(METRICS)}")
    return name


def _trained(length: int) -> int:
    if length < 1:
        raise ValueError("must be >= 1; to evaluate a trained run use `litmus test`")
    return length


def _uri(uri: str) -> str:
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
        raise ValueError(
            "wants a server (http://HOST:PORT) or a database (sqlite:///PATH/mlflow.db); "
            "MLflow refuses file stores since 3.13: leave it out for the embedded sqlite store"
        )
    return uri


def _names(tags: dict[str, str]) -> dict[str, str]:
    for name in tags:
        if not re.fullmatch(r"[\w./: -]{1,250}", name):
            raise ValueError(f"tag {name!r}: may hold letters, digits, '.', '/', ':', '-', '_' and space, at most 250")
    return tags


def _range(low_high: tuple[float, float]) -> tuple[float, float]:
    if low_high[0] > low_high[1]:
        raise ValueError(f"is (low, high) with low > high: {low_high[0]} > {low_high[1]}")
    return low_high


Numbers = Annotated[tuple[float, ...], BeforeValidator(as_tuple), Field(min_length=1)]
WholeNumbers = Annotated[tuple[int, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Words = Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Keep = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Momentum, Momentum], BeforeValidator(as_tuple)]
Depth6n2 = Annotated[int, AfterValidator(_depth_6n_2)]
Monitor = Annotated[str, AfterValidator(_monitored)]
PerChannel = Annotated[tuple[float, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=4)]
Range = Annotated[tuple[Positive, Positive], BeforeValidator(as_tuple), AfterValidator(_range)]


# --- data -------------------------------------------------------------------------------------------------------------


class DataSection(Section):
    """What every data set takes."""

    root: str | None = None
    """Folder that holds the data sets; default: the environment's LITMUS_DATA, else ``data``."""
    batch_size: int = Field(128, ge=1)
    """Images per optimizer step, before ``train.accumulate``: over all devices, or of each, see ``batch_per``."""
    batch_per: Literal["all", "device"] = "all"
    """``all``: ``batch_size`` is that of all devices together, so that a config trains the same on any number of them;
    ``device``: of each one, so that the batch grows with them (``train.lr_scaling`` lets the rate follow)."""
    eval_batch_size: int = Field(512, ge=1)
    drop_last: bool = False
    """Leave out an incomplete last training batch."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Part of the training images held out for validation, stratified by class."""
    num_train: int | None = Field(None, ge=1)
    """Train on this many images only: a stratified subset, nested (100 images are among the 200)."""
    parts: int | None = Field(None, ge=2, le=10_000)
    """Cut the training images into so many disjoint, stratified parts of equal size and train on one of them: an
    independent draw for each ``part``, as a bias-variance decomposition needs them (``litmus decompose``)."""
    part: int = Field(0, ge=0)
    """Which of ``parts``, from 0."""
    draw_seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides which of the training images ``num_train`` or ``parts`` draw; 0: as ``split_seed`` has them. Validation
    and test images are the same for all."""
    label_noise: float = Field(0.0, ge=0, lt=1)
    """Part of the training labels that is replaced by another class, each as likely: which and by what is decided by
    (``split_seed``, image) alone, so that more noise keeps the wrong labels of less. ``train`` and ``train_eval`` are
    measured against the noisy labels; validation and test labels stay as they are."""
    train_eval_size: int = Field(5_000, ge=1)
    """Training images that are also seen as validation sees them; bias is read from these."""
    split_seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides the splits; apart from ``seed``, so that runs over seeds share their images."""
    mean: PerChannel | None = None
    """Per channel, of images in [0, 1]; default: the data set's."""
    std: PerChannel | None = None
    channels: Literal[1, 3] | None = None
    """Convert the images to grey (1) or RGB (3); default: as they are."""
    classes: Annotated[tuple[str | int, ...], BeforeValidator(as_tuple), Field(min_length=2)] | None = None
    """Keep the images of these classes only, by name or number; they become classes 0, 1, ... in this order."""
    target_err: float = Field(0.0, ge=0, lt=1)
    """Error that one could hope for on these images (Bayes or human level): avoidable bias is counted from here."""


class DigitsConfig(DataSection):
    """1,797 grey 8x8 digits that ship with scikit-learn."""

    name: Literal["digits"] = "digits"
    test_fraction: float = Field(0.2, gt=0, lt=1)
    image_size: int | None = Field(None, ge=4)
    """Resize to this square; default: 8."""


class SyntheticConfig(DataSection):
    """Generated images that can be learnt: for tests and benchmarks."""

    name: Literal["synthetic"] = "synthetic"
    num_images: int = Field(2_000, ge=2)
    num_classes: int = Field(10, ge=2)
    image_size: int = Field(32, ge=4)
    test_fraction: float = Field(0.2, gt=0, lt=1)


class TorchvisionConfig(DataSection):
    """A torchvision classification set: found locally first, else downloaded.

    Official validation and test sets are used as they are; a set without a test set gives a fifth of its images to one.
    """

    name: Literal[TORCHVISION_SETS] = "cifar10"  # type: ignore[valid-type]
    download: bool = True
    image_size: int | None = Field(None, ge=4)
    """Resize the short side and crop the centre to this square; default: the data set's own size."""
    workers: int = Field(0, ge=0, le=64)
    """Processes that decode, when the images are streamed."""
    stream_above_gb: float = Field(8.0, ge=0)
    """Decode while training when the decoded images would be larger than this."""
    train_dev_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of the training images held out and evaluated at the end, where the set has validation images of its own:
    tells variance (train-dev above training error) from data mismatch (validation above train-dev error)."""


class ImageFolderConfig(DataSection):
    """``path/CLASS/*.png``: decoded once into a memory-mapped cache, or streamed when that would be too large."""

    name: Literal["image_folder"] = "image_folder"
    path: str
    val_path: str | None = None
    """A folder of its own for validation; default: cut from ``path``."""
    test_path: str | None = None
    image_size: int | None = Field(None, ge=4)
    """Resize the short side and crop the centre to this square; needed when the images differ in size."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    workers: int = Field(0, ge=0, le=64)
    stream_above_gb: float = Field(8.0, ge=0)
    train_dev_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of ``path`` held out and evaluated at the end, where validation images have a folder of their own: tells
    variance (train-dev above training error) from data mismatch (validation above train-dev error)."""


# --- networks ---------------------------------------------------------------------------------------------------------


class ModelSection(Section):
    """The options of a network: its constructor's keyword arguments, and where its weights come from."""

    weights: str | None = None
    """Start from weights learnt elsewhere; the head is new. ``pretrained``: a timm backbone's published ones, from its
    cache or hub; ``run:RUN``: those a run ended with; ``package:NAME/FILE``: a file of an installed package; else a
    path (safetensors, or .pth loaded without running code). The data follow what these weights read, where
    ``data.image_size``, ``channels``, ``mean`` and ``std`` are not given."""
    weights_by: Literal["name", "order"] = "name"
    """How the file's tensors find their places: by their names, or, when the file has other names, by their order."""


class NetworkSection(ModelSection):
    """What the networks of ours have in common."""

    activation: Activation = "relu"
    norm: Norm = "batch"
    norm_position: Literal["before", "after"] = "before"
    """Normalise before or after each activation."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """Weight of the *new* batch in the running statistics (torch's convention)."""
    norm_eps: float = Field(1e-5, gt=0)
    norm_groups: int = Field(8, ge=1)
    """Groups of ``norm: group``; must divide the channels."""
    init: Init = "he_normal"
    init_std: float = Field(0.01, gt=0)
    """Standard deviation for ``init: normal``."""
    keep_prob: Keep = 1.0
    """Probability in (0, 1] that an activation survives dropout."""


class ConvSection(NetworkSection):
    """He et al. 2015, sec. 4.2: a 3x3 stem, three stages of n blocks with width, 2 width, 4 width channels, a head."""

    depth: Depth6n2 = 20
    """Weighted layers, 6n + 2."""
    width: int = Field(16, ge=1)
    """Channels of the first stage."""
    head_keep_prob: Keep = 1.0
    """The same for the pooled features before the head."""


class PlainConfig(ConvSection):
    """The residual network without its sums."""

    name: Literal["plain"] = "plain"
    dropout: Literal["plain", "spatial"] = "plain"
    """Single activations, or whole channels."""


class SkipSection(ConvSection):
    dropout: Literal["plain", "spatial", "stochastic_depth"] = "plain"
    """Single activations, whole channels, or whole blocks (linear rule; ``keep_prob`` is the last block's)."""


class ResidualConfig(SkipSection):
    """He et al. 2015; ``preactivation`` gives He et al. 2016."""

    name: Literal["residual"] = "residual"
    init: ResidualInit = "he_normal"  # type: ignore[assignment]  # wider than its parent's
    """For ``norm: none`` two more: ``zero_branch``, each block begins as its shortcut, and ``fixup`` (Zhang et al.
    2019), which scales the branches by the depth too and has scalars in place of biases."""
    shortcut: Literal["A", "B"] = "A"
    """Where channels grow: A pads with zeros and has no parameters, B projects by a 1x1 convolution."""
    preactivation: bool = False
    zero_gamma: bool = False
    """Start each block's last norm at zero, so that the block starts as the identity."""


class HighwayConfig(SkipSection):
    """A gated skip, y = T(x) H(x) + (1 - T(x)) x (Srivastava et al. 2015)."""

    name: Literal["highway"] = "highway"
    gate_bias: float = -2.0
    """Bias of T at the start; negative lets the carry through."""


class MLPConfig(NetworkSection):
    """Fully connected."""

    name: Literal["mlp"] = "mlp"
    depth: int = Field(3, ge=1, le=1000)
    """Weighted layers, the head included: 784-256-10 has depth 2."""
    width: int | tuple[int, ...] = 256
    """Units of each hidden layer: a number for all, or a list with one for each."""
    norm: Norm = "none"
    input_keep_prob: Keep = 1.0

    @model_validator(mode="before")
    @classmethod
    def _list_to_tuple(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("width"), list):
            return {**data, "width": tuple(data["width"])}
        return data

    @model_validator(mode="after")
    def _width_fits_depth(self) -> MLPConfig:
        widths = self.width if isinstance(self.width, tuple) else (self.width,)
        if min(widths, default=1) < 1:
            raise ValueError(f"width: {self.width}: every layer needs at least 1 unit")
        if isinstance(self.width, tuple) and len(self.width) != self.depth - 1:
            raise ValueError(
                f"depth {self.depth} means {self.depth - 1} hidden widths, found {len(self.width)}: {list(self.width)}"
            )
        return self


class ResidualMLPConfig(NetworkSection):
    """Fully connected with a skip around every two hidden layers."""

    name: Literal["residual_mlp"] = "residual_mlp"
    depth: int = Field(8, ge=4, multiple_of=2, le=1000)
    """Weighted layers, 2n + 2: the input layer, n blocks of two, the head."""
    width: int = Field(256, ge=1)
    norm: Norm = "none"
    input_keep_prob: Keep = 1.0
    zero_gamma: bool = False


class TimmConfig(ModelSection):
    """Any classification network of timm, by its name there, with new weights or with ``weights``."""

    name: Literal["timm"] = "timm"
    backbone: str = "resnet18"
    keep_prob: Keep = 1.0
    """Before the head."""
    drop_path_keep_prob: Keep = 1.0
    """Stochastic depth, where the backbone has it."""


# --- optimisation -----------------------------------------------------------------------------------------------------


class OptimSection(Section):
    """What every optimizer takes."""

    lr: float = Field(gt=0, le=1000)
    """Step size; with a schedule, its peak."""
    l2_lambda: float = Field(0.0, ge=0)
    """lambda in J = loss + lambda / (2m) * sum ||W||^2, m = number of training images: weight decay lambda / m,
    coupled to the gradient for sgd, momentum, nesterov, adagrad, rmsprop and adam, decoupled for adamw and timm's."""
    l1_lambda: float = Field(0.0, ge=0)
    """lambda_1 in J = loss + lambda_1 / m * sum |W|, by the proximal step: exact zeros."""
    decay: Literal["weights", "all"] = "weights"
    """What lambda acts on: weights only, or biases and norm parameters too."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Discriminative rates: the head learns at ``lr``, each group of layers below at this part of the one above."""
    lr_factors: dict[str, Positive] = Field(default_factory=dict)
    """Pattern -> factor of ``lr``: ``{"stages.0": 0.1}``; patterns as in ``freeze.layers``, the last match counts."""


class SGDConfig(OptimSection):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1000)


class MomentumConfig(OptimSection):
    name: Literal["momentum"] = "momentum"
    lr: float = Field(0.1, gt=0, le=1000)
    momentum: Momentum = 0.9


class NesterovConfig(OptimSection):
    name: Literal["nesterov"] = "nesterov"
    lr: float = Field(0.1, gt=0, le=1000)
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9


class AdagradConfig(OptimSection):
    name: Literal["adagrad"] = "adagrad"
    lr: float = Field(0.01, gt=0, le=1000)
    eps: Positive = 1e-10


class RMSpropConfig(OptimSection):
    name: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(1e-3, gt=0, le=1000)
    rho: Momentum = 0.99
    """Weight of the *old* average of squared gradients."""
    momentum: Momentum = 0.0
    eps: Positive = 1e-8


class AdamConfig(OptimSection):
    name: Literal["adam"] = "adam"
    lr: float = Field(1e-3, gt=0, le=1000)
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8


class AdamWConfig(OptimSection):
    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, le=1000)
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8


class TimmOptimConfig(OptimSection):
    """One of timm's optimizers by its name there (lion, lamb, muon, ...). Options left out keep timm's default."""

    name: Literal[TIMM_OPTIMIZERS]  # type: ignore[valid-type]
    lr: float = Field(1e-3, gt=0, le=1000)
    momentum: Momentum | None = None
    betas: Betas | None = None
    eps: Positive | None = None


class ScheduleSection(Section):
    """Durations are in the unit of the training length: epochs with ``train.epochs``, steps with ``train.steps``."""

    warmup: int = Field(0, ge=0)
    """Linear warm-up from ``warmup_factor * lr``, over this long."""
    warmup_factor: float = Field(0.1, gt=0, le=1)


class ConstantConfig(ScheduleSection):
    name: Literal["constant"] = "constant"


class StepConfig(ScheduleSection):
    name: Literal["step"] = "step"
    every: int = Field(30, ge=1)
    gamma: float = Field(0.1, gt=0, le=1)


class MultistepConfig(ScheduleSection):
    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_tuple), Field(min_length=1)]
    gamma: float = Field(0.1, gt=0, le=1)


class CosineConfig(ScheduleSection):
    name: Literal["cosine"] = "cosine"
    min_factor: float = Field(0.0, ge=0, le=1)
    """The last rate, as a part of ``optim.lr``."""


class OneCycleConfig(ScheduleSection):
    """Up to ``optim.lr`` and down again, by cosines (Smith & Topin 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    peak_at: float = Field(0.3, gt=0, lt=1)
    """Part of the training spent going up."""
    start_factor: float = Field(0.04, gt=0, le=1)
    final_factor: float = Field(1e-4, ge=0, le=1)


class PlateauConfig(ScheduleSection):
    """Multiply the rate by ``factor`` after ``patience`` validations without a better value."""

    name: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(5, ge=0)
    monitor: Monitor = "val/loss"


class AugmentConfig(Section):
    """Applied to training batches, on their device, in this order: geometry, colour, normalisation, erasing, mixing.
    Each sample's parameters follow from (seed, epoch, index) alone. Everything is off by default."""

    policy: Literal["none", "trivial"] = "none"
    """``trivial``: TrivialAugment (Mueller & Hutter 2021)."""
    hflip: Probability = 0.0
    vflip: Probability = 0.0
    pad_crop: int = Field(0, ge=0, le=256)
    """Pixels of zero padding before a random crop of the original size."""
    shift: float = Field(0.0, ge=0, le=1)
    """Largest shift, as a fraction of the side."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Largest rotation in degrees."""
    scale: Range | None = None
    """(low, high) of the scale factor."""
    shear: float = Field(0.0, ge=0, lt=90)
    """Largest shear in degrees."""
    brightness: float = Field(0.0, ge=0, le=10)
    """v: factor in [max(0, 1 - v), 1 + v]; contrast and saturation likewise."""
    contrast: float = Field(0.0, ge=0, le=10)
    saturation: float = Field(0.0, ge=0, le=10)
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest change of hue, in turns."""
    erase: Probability = 0.0
    """Random erasing (Zhong et al. 2020)."""
    erase_area: Annotated[tuple[Probability, Probability], BeforeValidator(as_tuple), AfterValidator(_range)] = (
        0.02,
        0.33,
    )
    erase_ratio: Range = (0.3, 3.3)
    mixup: float = Field(0.0, ge=0, le=100)
    """alpha of Beta(alpha, alpha) (Zhang et al. 2018); 0 is off."""
    cutmix: float = Field(0.0, ge=0, le=100)
    """alpha of Beta(alpha, alpha) (Yun et al. 2019); 0 is off."""
    mix_prob: Probability = 1.0


# --- training ---------------------------------------------------------------------------------------------------------


def _layers(value: Any) -> Any:
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) and part for part in value):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(
        "wants `body` (all but the head), a number k >= 0 (the stem and the first k blocks), or patterns over names of "
        "layers, such as [stem, 'stages.0']"
    )


class FreezeConfig(Section):
    """Layers that are held still: no gradient, no decay, no momentum, batch norm and dropout as in evaluation.
    Durations are in the unit of the training length."""

    layers: Annotated[int | tuple[str, ...], BeforeValidator(_layers)] = ("body",)
    """``body``: all but the head; a number k: the stem and the first k blocks; or patterns over names of layers,
    ``*`` for any letters: ``[stem, "stages.0"]``."""
    until: int | None = Field(None, ge=1)
    """First epoch (or step), counted from 0, in which they learn; default: held to the end."""
    thaw_every: int | None = Field(None, ge=1)
    """Gradual unfreezing: the group next to the head thaws at ``until``, the one below it so much later, and so on."""
    lr_after: float | None = Field(None, gt=0, le=1000)
    """A second phase from ``until`` on: the schedule starts anew at ``lr_after * optim.lr``. With ``layers: body`` this
    is a linear probe, then fine-tuning (Kumar et al. 2022)."""
    cache: bool = True
    """Compute the features once while the whole body is frozen and nothing augments the images."""


class TrainConfig(Section):
    epochs: Annotated[int, AfterValidator(_trained)] | None = None
    """Length in epochs, or in ``steps``, never both; with neither, 10 epochs."""
    steps: Annotated[int, AfterValidator(_trained)] | None = None
    """Length in optimizer steps."""
    val_every: int | None = Field(None, ge=1)
    """Validate every so many epochs or steps (the unit of the length); default: every epoch."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = Field(1, ge=1, le=1024)
    """Devices of one machine, a process each. ``litmus fit`` starts the processes, unless torchrun or srun did."""
    nodes: int = Field(1, ge=1, le=4096)
    """Machines; more than one wants torchrun or srun on each."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work: ``ddp``, each holds the whole network (``auto``); ``fsdp``, a part (GPUs)."""
    sync_bn: bool = False
    """Batch norm over the images of all devices (GPUs); else over each device's own."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiply ``optim.lr`` by the number of devices (Goyal et al. 2017), or by its square root. Only with
    ``data.batch_per: device``: otherwise the batch, and with it the right rate, does not depend on the devices."""
    timeout_sec: int = Field(1800, ge=10)
    """How long a process waits for the others before it gives up."""
    precision: Literal[32, 64, "bf16-mixed", "16-mixed"] = 32
    deterministic: bool = True
    """Refuse operations that differ from run to run."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are summed into one optimizer step."""
    grad_clip: float | None = Field(None, gt=0)
    """Largest norm of all gradients together."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    channels_last: bool = False
    compile: bool = False
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Evaluate a moving average of the weights with this decay per step."""
    log_every: int = Field(50, ge=1)
    """Steps between logged training metrics."""
    limit_batches: int | None = Field(None, ge=1)
    """Debug: stop each epoch and each evaluation after this many batches."""
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    trace_steps: int = Field(20, ge=0, le=10_000)
    """First optimizer steps of which order, batches, loss, gradients and weights are recorded exactly, for ``litmus
    reproduce``; the weights and metrics of every epoch are in any case."""

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        return "epochs" if self.steps is None else "steps"

    @property
    def length(self) -> int:
        """Training length in ``unit``."""
        return self.steps or self.epochs or 10

    @property
    def world_size(self) -> int:
        """Processes, one a device."""
        return self.devices * self.nodes


class PatienceConfig(Section):
    """Stop after ``patience`` validations without a value better by ``min_delta``."""

    name: Literal["patience"] = "patience"
    monitor: Monitor = "val/loss"
    patience: int = Field(10, ge=1)
    min_delta: float = Field(0.0, ge=0)


class GLConfig(Section):
    """Prechelt 1998: stop when validation loss is ``alpha`` percent above its minimum so far."""

    name: Literal["gl"] = "gl"
    alpha: float = Field(10.0, ge=0)


class PQConfig(Section):
    """Prechelt 1998: stop when the generalisation loss exceeds ``alpha`` times the training progress of a strip."""

    name: Literal["pq"] = "pq"
    alpha: float = Field(2.0, gt=0)
    strip: int = Field(5, ge=2)


class UPConfig(Section):
    """Prechelt 1998: stop after ``s`` successive strips that end with a higher validation loss than the one before."""

    name: Literal["up"] = "up"
    s: int = Field(3, ge=1)
    strip: int = Field(5, ge=1)


class CheckpointConfig(Section):
    monitor: Monitor | None = None
    """What makes a checkpoint the best; default: early stopping's metric, else ``val/err``."""
    evaluate: Literal["best", "last"] = "best"
    """Which weights the run ends with: they are tested, exported and diagnosed."""
    every_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two saves within an epoch; the end of an epoch is saved in any case."""
    every_sec: float | None = Field(600.0, gt=0)
    """Seconds after which the state is saved within an epoch: what a run killed without warning can lose at most."""


WATCHED = ("gradients",)
"""What can be looked at while a network trains."""


def _watched(value: Any) -> Any:
    names = (value,) if isinstance(value, str) else as_tuple(value)
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"wants names, such as [gradients]; known: {', '.join(WATCHED)}")
    for at, name in enumerate(names):
        if name not in WATCHED:
            raise ValueError(f"{name!r} cannot be watched; {nearest(name, WATCHED)}")
        if name in names[:at]:
            raise ValueError(f"names {name} twice")
    return names


class DiagnosisConfig(Section):
    tolerance: float = Field(0.02, gt=0, lt=1)
    """A gap below this is small."""


class TrackingConfig(Section):
    home: str = "mlruns"
    """Folder of the embedded MLflow store and of the run directories."""
    uri: Annotated[str, AfterValidator(_uri)] | None = None
    """An MLflow server; default: the environment's MLFLOW_TRACKING_URI, else the embedded store."""
    offline: bool = False
    """Keep the record in the run directory until ``litmus sync``: for machines without a network."""
    experiment: str | None = Field(None, min_length=1, max_length=250)
    """Default: ``litmus/<data>``."""
    tags: Annotated[dict[str, str], AfterValidator(_names)] = Field(default_factory=dict)
    system_metrics: bool = True
    """Sample processor, memory and GPU use."""


# --- the whole --------------------------------------------------------------------------------------------------------


def names_of(member: type[Section]) -> tuple[str, ...]:
    """The values of ``name`` that choose this member of a union."""
    return get_args(member.model_fields["name"].annotation)


def leaves(section: type[Section]) -> list[type[Section]]:
    """The subclasses that have a ``name``: defining one is all it takes to make it a choice."""
    found = [section] if "name" in section.model_fields else []
    for subclass in section.__subclasses__():
        found += leaves(subclass)
    return found


def one_of(members: Sequence[type[Section]], default: str) -> Any:
    """One of ``members``, chosen by its ``name``; without a name, ``default``."""
    tags = {name: member.__name__ for member in members for name in names_of(member)}

    def tag(value: Any) -> str | None:
        if isinstance(value, dict):
            name = value.get("name", default)
            return tags.get(name) if isinstance(name, str) else None
        return type(value).__name__ if type(value).__name__ in tags.values() else None

    tagged = tuple(Annotated[member, Tag(member.__name__)] for member in members)
    union: Any = tagged[0]
    for member in tagged[1:]:
        union = union | member
    return Annotated[union, Discriminator(tag)]


def choice(base: type[Section], name: str, **fields: Any) -> type[Section]:
    """One more choice, in a line: ``LeNetConfig = choice(ModelSection, "lenet", width=(int, Field(6, ge=1)))``."""
    return create_model(f"{name}Config", __base__=base, name=(Literal[name], name), **fields)  # type: ignore[arg-type]


# Sections of your own stand above this line; being defined makes them a choice.

DATA = leaves(DataSection)
NETWORKS = leaves(ModelSection)
OPTIMIZERS = leaves(OptimSection)
SCHEDULES = leaves(ScheduleSection)
CRITERIA: list[type[Section]] = [GLConfig, PQConfig, UPConfig, PatienceConfig]
CHOICES: dict[str, tuple[list[type[Section]], str]] = {
    "data": (DATA, "digits"),
    "model": (NETWORKS, "residual"),
    "optim": (OPTIMIZERS, "momentum"),
    "schedule": (SCHEDULES, "constant"),
    "early_stopping": (CRITERIA, "gl"),
}
"""Sections that are one of several, chosen by ``name``, with the default name."""


class RunConfig(Section):
    """A whole run. Everything has a default: ``RunConfig()`` trains ResNet-20 on digits."""

    name: str | None = Field(None, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the run is called; default: ``<model>-<data>``."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides initialisation, order, augmentation and dropout (the splits are ``data.split_seed``'s)."""
    data: one_of(*CHOICES["data"]) = DigitsConfig()  # type: ignore[valid-type]
    model: one_of(*CHOICES["model"]) = ResidualConfig()  # type: ignore[valid-type]
    optim: one_of(*CHOICES["optim"]) = MomentumConfig()  # type: ignore[valid-type]
    schedule: one_of(*CHOICES["schedule"]) = ConstantConfig()  # type: ignore[valid-type]
    augment: AugmentConfig = AugmentConfig()
    freeze: FreezeConfig | None = None
    train: TrainConfig = TrainConfig()
    early_stopping: one_of(*CHOICES["early_stopping"]) | None = None  # type: ignore[valid-type]
    checkpoint: CheckpointConfig = CheckpointConfig()
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    insight: bool = False
    """End with a closer look at the test images: calibration, top losses, confused pairs, a map of the features and
    Grad-CAM. Takes seconds; ``litmus diagnose RUN --insight`` does the same later."""
    watch: Annotated[tuple[str, ...], BeforeValidator(_watched)] = ()
    """What is looked at before the first step and at each validation, on 1,000 training images, without changing the
    training: ``gradients``, whether they reach the first layer (``litmus gradients`` compares configs by it). Costs
    them a pass forward and back each time, two where gradients have vanished."""
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sections_fit(self) -> RunConfig:
        problems = cross_check(self)
        if problems:
            raise Refused(problems, source="config")
        return self

    @property
    def monitor(self) -> str:
        """The metric that makes a checkpoint the best."""
        if self.checkpoint.monitor:
            return self.checkpoint.monitor
        if self.early_stopping is None:
            return "val/err"
        return getattr(self.early_stopping, "monitor", "val/loss")

    @property
    def batch_size(self) -> int:
        """Images of one batch over all devices."""
        return self.data.batch_size * (self.train.world_size if self.data.batch_per == "device" else 1)

    @property
    def lr(self) -> float:
        """The rate that is trained with: ``optim.lr``, scaled as ``train.lr_scaling`` says."""
        world_size, how = self.train.world_size, self.train.lr_scaling
        return self.optim.lr * {"none": 1.0, "linear": world_size, "sqrt": world_size**0.5}[how]

    @property
    def run_name(self) -> str:
        return self.name or f"{_model_name(self.model)}-{self.data.name}"


def _model_name(model: Any) -> str:
    if model.name == "timm":
        return str(model.backbone).replace("/", "-")
    return f"{model.name}{model.depth}" if hasattr(model, "depth") else model.name


def cross_check(config: RunConfig) -> list[Problem]:
    """What is wrong between sections that are each right; needs neither data nor torch."""
    found: list[Problem] = []
    train, schedule, unit = config.train, config.schedule, config.train.unit
    if train.epochs is not None and train.steps is not None:
        found.append(Problem("train.steps", f"set together with train.epochs = {train.epochs}: keep one", train.steps))
    if train.val_every is not None and train.val_every > train.length and unit == "steps":
        found.append(
            Problem("train.val_every", f"no validation would ever run in {train.length} {unit}", train.val_every)
        )
    if train.val_every is not None and unit == "epochs" and train.length % train.val_every:
        found.append(
            Problem(
                "train.val_every", f"must divide train.epochs = {train.length}: the last is validated", train.val_every
            )
        )
    if schedule.warmup >= train.length:
        found.append(
            Problem("schedule.warmup", f"must be shorter than the training, {train.length} {unit}", schedule.warmup)
        )
    if isinstance(schedule, MultistepConfig):
        if list(schedule.milestones) != sorted(set(schedule.milestones)):
            found.append(Problem("schedule.milestones", "must rise, each once", list(schedule.milestones)))
        if max(schedule.milestones) >= train.length:
            found.append(
                Problem(
                    "schedule.milestones",
                    f"must lie inside the training, {train.length} {unit}",
                    list(schedule.milestones),
                )
            )
    if isinstance(schedule, StepConfig) and schedule.every >= train.length:
        found.append(
            Problem("schedule.every", f"must be shorter than the training, {train.length} {unit}", schedule.every)
        )
    if config.data.parts is not None and config.data.part >= config.data.parts:
        says = f"counts from 0 and must be < data.parts = {config.data.parts}"
        found.append(Problem("data.part", says, config.data.part))
    found += _network_problems(config.model)
    found += _transfer_problems(config)
    found += _dropped(config)
    found += _device_problems(config)
    if train.precision == "16-mixed" and train.accelerator == "cpu":
        found.append(Problem("train.precision", "needs a GPU; on a CPU use 32 or bf16-mixed", train.precision))
    if config.data.mean is not None and config.data.std is not None and len(config.data.mean) != len(config.data.std):
        found.append(
            Problem("data.std", f"needs as many values as data.mean, {len(config.data.mean)}", config.data.std)
        )
    if config.data.std is not None and min(config.data.std) <= 0:
        found.append(Problem("data.std", "must be > 0", config.data.std))
    test_fraction = getattr(config.data, "test_fraction", 0.0)
    if getattr(config.data, "test_path", None) is None and config.data.val_fraction + test_fraction >= 1:
        found.append(
            Problem(
                "data.val_fraction",
                f"with data.test_fraction = {test_fraction} no image is left for training",
                config.data.val_fraction,
            )
        )
    if config.data.val_fraction == 0 and getattr(config.data, "val_path", None) is None:
        found.append(Problem("data.val_fraction", "must be > 0: without validation there is no diagnosis", 0.0))
    train_dev = getattr(config.data, "train_dev_fraction", 0.0)
    if train_dev and isinstance(config.data, ImageFolderConfig) and config.data.val_path is None:
        says = "only acts with data.val_path: validation images cut from data.path are of its kind"
        found.append(Problem("data.train_dev_fraction", says, train_dev))
    return found


def _network_problems(model: Any) -> list[Problem]:
    found = []
    if getattr(model, "zero_gamma", False):
        where = "model.zero_gamma"
        if model.norm == "none":
            found.append(Problem(where, "needs a norm whose gamma it can set: model.norm is 'none'", True))
        elif model.norm_position == "after" or getattr(model, "preactivation", False):
            setting = "model.preactivation" if getattr(model, "preactivation", False) else "model.norm_position = after"
            found.append(Problem(where, f"needs blocks that end in a norm, which {setting} does not give", True))
    if getattr(model, "init", None) in ("zero_branch", "fixup"):
        if model.norm != "none":
            says = f"stands in for a norm: it needs model.norm = none, found {model.norm!r}"
            found.append(Problem("model.init", says, model.init))
        if model.init == "fixup" and model.preactivation:
            says = "is made for the original block: it needs model.preactivation = false"
            found.append(Problem("model.init", says, model.init))
    if isinstance(model, MLPConfig) and model.depth == 1 and model.keep_prob < 1:
        says = "has no hidden layer to act on at model.depth = 1; model.input_keep_prob acts on the input"
        found.append(Problem("model.keep_prob", says, model.keep_prob))
    if getattr(model, "norm", None) == "group":
        widths = model.width if isinstance(model.width, tuple) else (model.width,)
        if any(width % model.norm_groups for width in widths):
            found.append(Problem("model.norm_groups", f"must divide model.width = {model.width}", model.norm_groups))
    return found


def _transfer_problems(config: RunConfig) -> list[Problem]:
    found, freeze, train, model = [], config.freeze, config.train, config.model
    if model.weights == "pretrained" and model.name != "timm":
        says = "is for timm's backbones; the weights of another run are run:RUN, or a path to its weights.safetensors"
        found.append(Problem("model.weights", says, "pretrained"))
    if model.weights is not None and getattr(model, "init", None) == "lsuv":
        found.append(Problem("model.init", "would rescale the weights that model.weights brings", "lsuv"))
    if freeze is None:
        return found
    if freeze.until is not None and freeze.until >= train.length:
        says = f"the training ends after {train.length} {train.unit}; leave it out to freeze to the end"
        found.append(Problem("freeze.until", says, freeze.until))
    if freeze.until is None:
        later = {"thaw_every": freeze.thaw_every, "lr_after": freeze.lr_after}
        says = "needs freeze.until: when it begins"
        found += [Problem(f"freeze.{key}", says, value) for key, value in later.items() if value is not None]
    if freeze.lr_after is not None and freeze.until is not None and freeze.until < train.length:
        shortest = min(freeze.until, train.length - freeze.until)
        for key in ("warmup", "every"):
            if getattr(config.schedule, key, 0) >= shortest and getattr(config.schedule, key, 0):
                says = f"must be shorter than each phase; freeze.until = {freeze.until} makes one of {shortest}"
                found.append(Problem(f"schedule.{key}", f"{says} {train.unit}", getattr(config.schedule, key)))
        milestones = getattr(config.schedule, "milestones", (0,))
        if max(milestones) >= max(freeze.until, train.length - freeze.until):
            says = f"lie beyond both phases, which freeze.until = {freeze.until} parts"
            found.append(Problem("schedule.milestones", says, list(milestones)))
    return found


def _device_problems(config: RunConfig) -> list[Problem]:
    """Several devices: options that do nothing with one, and what does not go together."""
    train, data, found = config.train, config.data, []
    if train.world_size == 1:
        idle = {"train.strategy": train.strategy != "auto", "train.sync_bn": train.sync_bn}
        idle |= {"train.lr_scaling": train.lr_scaling != "none", "data.batch_per": data.batch_per != "all"}
        idle["train.timeout_sec"] = train.timeout_sec != type(train).model_fields["timeout_sec"].default
        for where, set_ in idle.items():
            section, _, key = where.partition(".")
            if set_:
                found.append(Problem(where, "only acts with train.devices > 1", getattr(getattr(config, section), key)))
        return found
    if train.lr_scaling != "none" and data.batch_per == "all":
        says = f"has nothing to scale: the batch is {data.batch_size} on any number of devices (data.batch_per = all)"
        found.append(Problem("train.lr_scaling", says, train.lr_scaling))
    if config.batch_size < train.world_size:
        says = f"must be at least train.devices x train.nodes = {train.world_size}: each trains on a part of the batch"
        found.append(Problem("data.batch_size", says, data.batch_size))
    if train.accelerator == "mps":
        found.append(Problem("train.devices", "an Apple GPU is one device", train.devices))
    if train.sync_bn and getattr(config.model, "norm", "batch") != "batch":
        found.append(Problem("train.sync_bn", f"needs batch norm: model.norm is {config.model.norm!r}", True))
    if train.sync_bn and train.accelerator == "cpu":
        found.append(Problem("train.sync_bn", "needs GPUs: torch has no synchronised batch norm for processors", True))
    if train.profiler is not None:
        says = "watches one process: profile with train.devices = 1"
        found.append(Problem("train.profiler", says, train.profiler))
    if train.strategy == "fsdp":
        alone = {
            "train.accelerator": (train.accelerator in ("cpu", "mps"), train.accelerator, "is not one of fsdp's: GPUs"),
            "freeze": (config.freeze is not None, ..., "holds whole layers, which fsdp cuts into parts: use ddp"),
            "train.ema_decay": (train.ema_decay is not None, train.ema_decay, "averages whole weights: use ddp"),
            "train.grad_clip": (train.grad_clip is not None, train.grad_clip, "would see parts of a gradient: use ddp"),
            "train.compile": (train.compile, True, "is not made for networks in parts: use ddp"),
            "watch": (bool(config.watch), list(config.watch), "looks at whole layers, which fsdp cuts: use ddp"),
        }
        found += [Problem(where, says, value) for where, (wrong, value, says) in alone.items() if wrong]
    return found


def notes(config: RunConfig) -> list[str]:
    """What is allowed, and yet worth knowing before a run."""
    model, found = config.model, []
    drops = getattr(model, "keep_prob", 1) < 1 and getattr(model, "dropout", "plain") != "stochastic_depth"
    if drops and getattr(model, "norm", None) == "batch":
        found.append(
            "dropout before batch norm: activations vary more in training than in evaluation, and the running "
            "statistics are those of training (Li et al. 2018); model.head_keep_prob or stochastic depth avoid it"
        )
    if noise := config.data.label_noise:
        found.append(
            f"data.label_noise: train and train_eval are measured against labels of which about {noise:g} are wrong: "
            "that is the training error of a network that learns none of them"
        )
    if config.optim.l2_lambda and config.optim.name in ("adagrad", "rmsprop", "adam"):
        found.append(f"{config.optim.name} rescales l2_lambda together with the gradient; adamw does not")
    if config.freeze is not None and config.model.weights is None:
        found.append("the frozen layers keep weights as they were drawn: model.weights brings learnt ones")
    if config.train.world_size > 1 and getattr(model, "norm", None) == "batch" and not config.train.sync_bn:
        found.append(
            f"batch norm sees the {config.batch_size // config.train.world_size} images of its device, not the batch "
            f"of {config.batch_size}: train.sync_bn=true (GPUs) or model.norm=group do not depend on the devices"
        )
    return found


def _dropped(config: RunConfig) -> list[Problem]:
    """Options that would do nothing are refused, not ignored."""
    model, augment = config.model, config.augment
    idle = [
        (model, "model", "init_std", "model.init = normal", getattr(model, "init", None) != "normal"),
        (model, "model", "norm_groups", "model.norm = group", getattr(model, "norm", None) != "group"),
        (model, "model", "norm_position", "a norm", getattr(model, "norm", None) == "none"),
        (model, "model", "dropout", "model.keep_prob < 1", getattr(model, "keep_prob", 1) == 1),
        (augment, "augment", "erase_area", "augment.erase > 0", augment.erase == 0),
        (augment, "augment", "erase_ratio", "augment.erase > 0", augment.erase == 0),
        (model, "model", "weights_by", "model.weights", model.weights is None),
        (config.data, "data", "part", "data.parts", config.data.parts is None),
        (
            *(config.data, "data", "draw_seed", "data.num_train or data.parts"),
            config.data.parts is None and config.data.num_train is None,
        ),
        (augment, "augment", "mix_prob", "augment.mixup or augment.cutmix > 0", augment.mixup == augment.cutmix == 0),
    ]
    found = []
    for section, prefix, key, condition, without_effect in idle:
        field = type(section).model_fields.get(key)
        if field is not None and without_effect and getattr(section, key) != field.default:
            found.append(Problem(f"{prefix}.{key}", f"only acts with {condition}", getattr(section, key)))
    return found
