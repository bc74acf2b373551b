"""What a training batch goes through on its device, and the plain normalisation that evaluation sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from litmus.data.augment import colour, draws, mixing, trivial
from litmus.data.augment.draws import Draw
from litmus.data.augment.geometry import flip_crop, grid_axes, inverse_affine, resample

_BYTES_AT_ONCE = 3 * 2**18


class Augment:
    """Augment, normalise and mix a uint8 batch, each sample with its own parameters.

    In this order: flips, pad-crop, the policy, one bilinear warp (shift, rotate, scale, shear, with zeros outside),
    brightness, contrast, saturation, hue, normalisation, erasing (to 0), mixup or cutmix. Colour follows torchvision's
    definitions on [0, 1]; saturation and hue do nothing to one channel.

    A parameter is a function of (seed, epoch, sample index, number of the draw): batch size, order, workers, rank and
    device do not change a sample's augmentation, and no torch generator is used. The exception is what mixing cannot
    help: a sample's partner is another sample of its batch, found by an order of the batch's indices that is such a
    function too.

    Args:
        shift: largest shift as a fraction of the side, each axis on its own.
        rotate: largest rotation in degrees, either way.
        scale: (low, high) of the scale factor; None is 1.
        shear: largest shear parallel to the x axis in degrees, either way.
        hflip: probability of mirroring left to right.
        vflip: probability of turning upside down.
        pad_crop: pixels of zero padding on each side before a random crop of the original size.
        brightness: v draws a factor from [max(0, 1 - v), 1 + v].
        contrast: likewise.
        saturation: likewise.
        hue: largest change of hue in turns, at most 0.5.
        erase: probability of erasing a box (Zhong et al. 2020).
        erase_area: (low, high) of the box's area as a fraction of the image.
        erase_ratio: (low, high) of its height over its width, drawn on a log scale.
        mixup: alpha of Beta(alpha, alpha) (Zhang et al. 2018), one weight a sample; 0 is off.
        cutmix: alpha of Beta(alpha, alpha) (Yun et al. 2019), one box a sample; 0 is off. With mixup on as well, each
            sample gets one of the two, with equal chances.
        mix_prob: probability that a sample is mixed at all.
        policy: ``trivial`` for TrivialAugment, wide (Mueller & Hutter 2021), or ``none``.
        seed: first part of every draw's address.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """

    def __init__(
        self,
        *,
        shift: float = 0.0,
        rotate: float = 0.0,
        scale: Sequence[float] | None = None,
        shear: float = 0.0,
        hflip: float = 0.0,
        vflip: float = 0.0,
        pad_crop: int = 0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        erase: float = 0.0,
        erase_area: Sequence[float] = (0.02, 0.33),
        erase_ratio: Sequence[float] = (0.3, 3.3),
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_prob: float = 1.0,
        policy: str = "none",
        seed: int = 0,
    ):
        for name, value in {
            "hflip": hflip,
            "vflip": vflip,
            "erase": erase,
            "mix_prob": mix_prob,
            "shift": shift,
        }.items():
            _require(0 <= value <= 1, name, value, "from 0 to 1")
        _require(0 <= rotate <= 180, "rotate", rotate, "from 0 to 180 degrees")
        _require(0 <= shear < 90, "shear", shear, "from 0 to below 90 degrees")
        _require(0 <= hue <= 0.5, "hue", hue, "from 0 to 0.5 turns")
        for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
            _require(0 <= value < math.inf, name, value, "0 or a finite number above")
        for name, value in {"mixup": mixup, "cutmix": cutmix}.items():
            _require(0 <= value < math.inf, name, value, "0 (off) or a finite number above")
        for name, value in {"pad_crop": pad_crop, "seed": seed}.items():
            _require(type(value) is int and value >= 0, name, value, "a whole number, at least 0")
        for name, pair in {"scale": scale or (1.0, 1.0), "erase_ratio": erase_ratio}.items():
            ordered = len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf
            _require(ordered, name, pair, "(low, high) with 0 < low <= high")
        ordered = len(erase_area) == 2 and 0 <= erase_area[0] <= erase_area[1] <= 1
        _require(ordered, "erase_area", erase_area, "(low, high) with 0 <= low <= high <= 1")
        _require(policy in ("none", "trivial"), "policy", policy, "'none' or 'trivial'")

        self.shift, self.rotate, self.scale, self.shear = shift, rotate, scale, shear
        self.hflip, self.vflip, self.pad_crop = hflip, vflip, pad_crop
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.erase, self.mixup, self.cutmix, self.mix_prob = erase, mixup, cutmix, mix_prob
        self.policy, self.seed = policy, seed
        self._warps = bool(shift or rotate or scale is not None or shear)
        self._to_float = bool(self._warps or brightness or contrast or saturation or hue)

        ranges = self._ranges(erase_area)
        self._rows = {draw: row for row, draw in enumerate(ranges)}
        self._constants = {
            "draws": torch.tensor(list(ranges), dtype=torch.int64),
            "low": torch.tensor([low for low, _ in ranges.values()]).unsqueeze(1),
            "span": torch.tensor([high - low for low, high in ranges.values()]).unsqueeze(1),
            "partner": torch.tensor([Draw.PARTNER], dtype=torch.int64),
        }
        if erase:
            self._constants["erase_ratio"] = draws.log_uniform_quantiles(erase_ratio[0], erase_ratio[1])
        for name, alpha in {"mixup": mixup, "cutmix": cutmix}.items():
            if alpha:
                self._constants[name] = draws.beta_quantiles(alpha)
        if policy == "trivial":
            self._constants["levels"], self._constants["signed"] = trivial.levels(), trivial.signed()
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    @property
    def mixes(self) -> bool:
        """Whether labels come back as (B, K) class weights."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        idx: Tensor,
        *,
        epoch: int,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Augment one batch.

        Args:
            images: (B, C, H, W) uint8; left as they are.
            labels: (B,) int64 in [0, num_classes).
            idx: (B,) int64, the samples' positions in the training set.
            epoch: counted from 0.
            mean, std: per channel, of pixels in [0, 1].

        Returns:
            Images, (B, C, H, W) float32, and labels: (B,) int64 as given, or (B, num_classes) float32 if ``mixes``.

        Raises:
            ValueError: if the images are not uint8 (B, C, H, W), or colour is wanted of other than 1 or 3 channels.
        """
        channels = _num_channels(images)
        if channels not in (1, 3) and (self.contrast or self.saturation or self.hue or self.policy == "trivial"):
            raise ValueError(f"images have {channels} channels; contrast, saturation, hue and policies need 1 or 3")
        idx = idx.to(images.device)
        p = self._parameters(idx, epoch)
        plan = self._plan(p, images.shape[2], images.shape[3])
        layout = torch.channels_last if channels_last else torch.contiguous_format
        result = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=layout)
        for part in self._parts(images):
            pixels = self._picture(images[part], {name: values[part] for name, values in plan.items()})
            _standardise(pixels, mean, std, out=result[part])
        if self.erase:
            result = self._erase(result, p)
        if self.mixes:
            result, labels = self._mix(result, labels, idx, epoch, num_classes, p)
        return result, labels

    def _ranges(self, erase_area: Sequence[float]) -> dict[int, tuple[float, float]]:
        """The draws that are needed, with the range of each."""
        unit = (0.0, 1.0)
        ranges: dict[int, tuple[float, float]] = {}
        if self.hflip:
            ranges[Draw.HFLIP] = unit
        if self.vflip:
            ranges[Draw.VFLIP] = unit
        if self.pad_crop:
            ranges[Draw.CROP_TOP] = ranges[Draw.CROP_LEFT] = (0, 2 * self.pad_crop + 1)
        if self.policy == "trivial":
            ranges |= {Draw.POLICY_OP: (0, len(trivial.OPS)), Draw.POLICY_BIN: (0, trivial.NUM_BINS)}
            ranges[Draw.POLICY_SIGN] = unit
        if self.shift:
            ranges[Draw.SHIFT_X] = ranges[Draw.SHIFT_Y] = (-self.shift, self.shift)
        if self.rotate:
            ranges[Draw.ROTATE] = (-self.rotate, self.rotate)
        if self.scale is not None:
            ranges[Draw.SCALE] = (self.scale[0], self.scale[1])
        if self.shear:
            ranges[Draw.SHEAR] = (-self.shear, self.shear)
        for draw, v in (
            (Draw.BRIGHTNESS, self.brightness),
            (Draw.CONTRAST, self.contrast),
            (Draw.SATURATION, self.saturation),
        ):
            if v:
                ranges[draw] = (max(0.0, 1 - v), 1 + v)
        if self.hue:
            ranges[Draw.HUE] = (-self.hue, self.hue)
        if self.erase:
            ranges |= {Draw.ERASE: unit, Draw.ERASE_TOP: unit, Draw.ERASE_LEFT: unit}
            ranges |= {Draw.ERASE_AREA + t: (erase_area[0], erase_area[1]) for t in range(draws.ERASE_TRIES)}
            ranges |= {Draw.ERASE_RATIO + t: unit for t in range(draws.ERASE_TRIES)}
        if self.mixes:
            ranges |= dict.fromkeys((Draw.MIX, Draw.MIX_KIND, Draw.MIX_LAMBDA, Draw.CUT_X, Draw.CUT_Y), unit)
        return ranges

    def _parameters(self, idx: Tensor, epoch: int) -> _Parameters:
        constants = self._on_device.get(idx.device)
        if constants is None:
            constants = {name: value.to(idx.device) for name, value in self._constants.items()}
            self._on_device[idx.device] = constants
        values = draws.uniforms(_stream_key(self.seed, epoch), idx, constants["draws"])
        return _Parameters(values.mul_(constants["span"]).add_(constants["low"]), self._rows, constants)

    def _plan(self, p: _Parameters, height: int, width: int) -> dict[str, Tensor]:
        """What each operation needs of each sample, (B, ...), by the operation's name."""
        plan = {}
        if self.hflip:
            plan["hflip"] = p[Draw.HFLIP] < self.hflip
        if self.vflip:
            plan["vflip"] = p[Draw.VFLIP] < self.vflip
        if self.pad_crop:
            plan["top"], plan["left"] = p[Draw.CROP_TOP].long(), p[Draw.CROP_LEFT].long()
        if self.policy == "trivial":
            plan["op"] = op = p[Draw.POLICY_OP].long()
            level = p.constants["levels"][op, p[Draw.POLICY_BIN].long()]
            negative = p.constants["signed"][op] & (p[Draw.POLICY_SIGN] < 0.5)
            plan["level"] = torch.where(negative, -level, level)
        if self._warps:
            matrix = inverse_affine(
                angle=p[Draw.ROTATE] if self.rotate else None,
                shear=p[Draw.SHEAR] if self.shear else None,
                scale=p[Draw.SCALE] if self.scale is not None else None,
                translate=torch.stack((p[Draw.SHIFT_X] * width, p[Draw.SHIFT_Y] * height), 1) if self.shift else None,
            )
            plan["from_column"], plan["from_row"] = grid_axes(matrix, height, width)
        if self.brightness:
            plan["brightness"] = p[Draw.BRIGHTNESS].div(255).view(-1, 1, 1, 1)
        if self.contrast:
            plan["contrast"] = p[Draw.CONTRAST]
        if self.saturation:
            plan["saturation"] = p[Draw.SATURATION]
        if self.hue:
            plan["hue"] = colour.hue_offsets(p[Draw.HUE])
        return plan

    def _parts(self, images: Tensor) -> list[slice]:
        """Pieces of the batch that are taken through all operations at once.

        On a CPU small enough for the cache and for memory that the allocator keeps: with batches of 128 CIFAR images
        in one piece, new pages for intermediate results took half of the time. The policy has too many operations.
        """
        step = max(1, len(images))
        if images.device.type == "cpu" and self.policy == "none":
            step = max(1, _BYTES_AT_ONCE // (images.shape[1:].numel() * (4 if self._to_float else 1)))
        return [slice(start, start + step) for start in range(0, len(images), step)]

    def _picture(self, images: Tensor, plan: dict[str, Tensor]) -> Tensor:
        """Everything up to normalisation, of one piece: float in [0, 1], or uint8 if all that was done is to move."""
        if self.hflip or self.vflip or self.pad_crop:
            moves = {name: plan.get(name) for name in ("hflip", "vflip", "top", "left")}
            images = flip_crop(images, **moves, padding=self.pad_crop)
        if self.policy == "trivial":
            images = trivial.apply_ops(images, plan["op"], plan["level"])
        if not self._to_float:
            return images
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
        # The warp is linear, so brightness may multiply before it; its clamp has to wait.
        pixels.mul_(plan["brightness"] if self.brightness else 1 / 255)
        if self._warps:
            pixels = resample(pixels, plan["from_column"], plan["from_row"])
        if self.brightness:
            pixels.clamp_(max=1)
        if self.contrast:
            colour.contrast_(pixels, plan["contrast"])
        if self.saturation:
            colour.saturation_(pixels, plan["saturation"])
        if self.hue:
            colour.hue_(pixels, plan["hue"])
        return pixels

    def _erase(self, images: Tensor, p: _Parameters) -> Tensor:
        size = (images.shape[2], images.shape[3])
        tries = range(draws.ERASE_TRIES)
        ratios = draws.look_up(p.constants["erase_ratio"], torch.stack([p[Draw.ERASE_RATIO + t] for t in tries]))
        height, width = mixing.erase_sides(torch.stack([p[Draw.ERASE_AREA + t] for t in tries]), ratios, size)
        height = height * (p[Draw.ERASE] < self.erase)
        top = (p[Draw.ERASE_TOP] * (size[0] + 1 - height)).floor_()
        left = (p[Draw.ERASE_LEFT] * (size[1] + 1 - width)).floor_()
        return mixing.erase_(images, top, left, height, width)

    def _mix(
        self, images: Tensor, labels: Tensor, idx: Tensor, epoch: int, num_classes: int, p: _Parameters
    ) -> tuple[Tensor, Tensor]:
        """Each sample with the next one in an order of the batch drawn for this epoch; the last with the first."""
        size = (images.shape[2], images.shape[3])
        partner = _partners(draws.hash_bits(_stream_key(self.seed, epoch), idx, p.constants["partner"])[0])
        weight = torch.ones_like(p[Draw.MIX])
        shares = weight.view(-1, 1, 1, 1)
        chosen = p[Draw.MIX] < self.mix_prob
        cut = chosen & (p[Draw.MIX_KIND] < 0.5) if self.mixup and self.cutmix else chosen & (self.cutmix > 0)
        if self.mixup:
            weight = torch.where(chosen & ~cut, draws.look_up(p.constants["mixup"], p[Draw.MIX_LAMBDA]), weight)
            shares = weight.view(-1, 1, 1, 1)
        if self.cutmix:
            kept = torch.where(cut, draws.look_up(p.constants["cutmix"], p[Draw.MIX_LAMBDA]), 1)
            centre = (p[Draw.CUT_X] * size[1]).floor_(), (p[Draw.CUT_Y] * size[0]).floor_()
            box = mixing.cut_box(kept, *centre, size)
            shares = shares * (1 - mixing.boxes(*box, size).float())
            weight = weight * (1 - box[2] * box[3] / (size[0] * size[1]))
        return mixing.mix(images, partner, shares), mixing.mix_labels(labels, partner, weight, num_classes)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = False) -> Tensor:
    """What evaluation sees: (pixel / 255 - mean) / std.

    Args:
        images: (B, C, H, W) uint8.
        mean, std: per channel, of pixels in [0, 1].

    Raises:
        ValueError: if the images are not uint8 (B, C, H, W), or have another number of channels than ``mean``.
    """
    _num_channels(images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=layout)
    return _standardise(images, mean, std, out=result)


def _standardise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], *, out: Tensor) -> Tensor:
    """(pixels / white - mean) / std; white is 255 of uint8, and 1 of float pixels."""
    if not len(mean) == len(std) == pixels.shape[1]:
        raise ValueError(f"images have {pixels.shape[1]} channels; mean has {len(mean)} values and std {len(std)}")
    white = 1 if pixels.is_floating_point() else 255
    centre, factor = _mean_and_factor(tuple(mean), tuple(std), white, pixels.device)
    if pixels.is_floating_point():
        return torch.sub(pixels, centre, out=out).mul_(factor)
    return out.copy_(pixels).sub_(centre).mul_(factor)


@lru_cache(maxsize=16)
def _mean_and_factor(
    mean: tuple[float, ...], std: tuple[float, ...], white: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    centre = torch.tensor([m * white for m in mean], device=device)
    factor = torch.tensor([1 / (s * white) for s in std], device=device)
    return centre.view(-1, 1, 1), factor.view(-1, 1, 1)


@lru_cache(maxsize=16)
def _stream_key(seed: int, epoch: int) -> int:
    return draws.stream_key(seed, epoch)


def _partners(keys: Tensor) -> Tensor:
    """For each sample the one with the next larger key, and for the largest the smallest: no two share a partner."""
    order = keys.argsort(stable=True)
    return order.roll(-1).index_select(0, order.argsort())


def _num_channels(images: Tensor) -> int:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}, must be uint8 (B, C, H, W)")
    return images.shape[1]


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}, must be {allowed}")


class _Parameters:
    """One batch's draws, scaled to their ranges, and the constants of its device."""

    def __init__(self, values: Tensor, rows: dict[int, int], constants: dict[str, Tensor]):
        self.values, self.rows, self.constants = values.unbind(0), rows, constants

    def __getitem__(self, draw: int) -> Tensor:
        return self.values[self.rows[draw]]
