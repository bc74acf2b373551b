"""Any classification backbone of timm by its name there, with new weights and a head of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from litmus.errors import nearest
from litmus.networks.blocks import dropout_or_identity
from litmus.networks.checks import at_least, probability_to_keep
from litmus.networks.registry import Network, UnreadableImageSize, network


@network("timm")
class Timm(Network):
    """A timm backbone without its classifier; dropout and a linear head stand where that was.

    Weights are drawn as timm draws them, nothing is downloaded. Backbones that have to know the image size (vision
    transformers) are built for it. The head is a linear layer as torch draws it, whatever timm puts there (a
    convolution, two heads for distillation), so state dict keys are ``backbone.*`` and ``head.*`` for every backbone.

    Args:
        backbone: a name that ``timm.list_models()`` knows.
        keep_prob: probability in (0, 1] that a feature survives dropout in front of the head. The backbone's own
            ``drop_rate`` is 0.
        drop_path_keep_prob: probability in (0, 1] that the last block survives stochastic depth; 1 switches off also
            what a backbone does by default (Swin: 0.9).

    Raises:
        ValueError: unknown backbone, or ``drop_path_keep_prob`` for a backbone without stochastic depth.
        UnreadableImageSize: the backbone fails on images of this size; found by trying one.
    """

    small: ClassVar = {"backbone": "test_resnet"}  # timm's own, for tests

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        backbone: str = "resnet18",
        keep_prob: float = 1.0,
        drop_path_keep_prob: float = 1.0,
    ):
        super().__init__()
        import timm  # seconds to import, and only this network needs it

        at_least("in_channels", in_channels, 1)
        at_least("num_classes", num_classes, 1)
        probability_to_keep("keep_prob", keep_prob)
        probability_to_keep("drop_path_keep_prob", drop_path_keep_prob)
        if not timm.is_model(backbone):  # so are "hf-hub:..." and "local-dir:...", which would read weights
            hint = nearest(backbone, names := timm.list_models())
            hint = hint if "did you mean" in hint else f"timm.list_models() gives the {len(names)} names it knows"
            raise ValueError(f"backbone = {backbone!r} is unknown to timm; {hint}")

        drop_path = 1 - drop_path_keep_prob  # timm counts the dropped, we count the kept
        try:
            self.backbone, width = _build(backbone, in_channels, image_size, drop_path)
        except _NoStochasticDepth:
            raise ValueError(
                f"drop_path_keep_prob = {drop_path_keep_prob} needs stochastic depth, which backbone {backbone!r} lacks"
            ) from None
        except Exception as error:  # every family fails in its own way
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            smallest = _smallest_square(backbone, in_channels)
            if smallest is None:
                raise ValueError(f"backbone = {backbone!r} cannot be built: {why}") from error
            raise UnreadableImageSize(f"backbone {backbone!r}", image_size, smallest, why) from error
        self.dropout = dropout_or_identity(keep_prob)
        self.head = nn.Linear(width, num_classes)

    def features(self, x_BCHW: Tensor) -> Tensor:
        return self.backbone.forward_head(self.backbone.forward_features(x_BCHW), pre_logits=True)

    def layer_groups(self, *, blocks: bool = False) -> dict[str, list[str]]:
        """As timm groups them, under the name of each group's first layer."""
        from timm.models import group_parameters

        everything = [name for name, _ in self.backbone.named_parameters()]
        groups: dict[str, list[str]] = {}
        for names in group_parameters(self.backbone, self.backbone.group_matcher(coarse=not blocks)).values():
            group = _largest_module(names, everything) if groups else "stem"
            groups[group] = [f"backbone.{name}" for name in names]
        return groups


def _largest_module(names: Sequence[str], everything: Sequence[str]) -> str:
    """The largest module that holds the first of the names and no other parameter than these: ``layer1``."""
    path = names[0].split(".")
    for depth in range(1, len(path)):
        module = ".".join(path[:depth])
        if module != "head" and {name for name in everything if name.startswith(f"{module}.")} <= set(names):
            return module
    return names[0]


class _NoStochasticDepth(Exception):
    pass


def _build(backbone: str, in_channels: int, image_size: tuple[int, int] | None, drop_path: float) -> tuple[Any, int]:
    """The backbone, in training mode and tried on one image, and the width of its features."""
    import timm
    from timm.layers import DropPath

    asked: dict[str, Any] = {"drop_rate": 0.0, "drop_path_rate": drop_path}
    if image_size is not None:
        asked["img_size"] = image_size
    model: Any
    while True:
        try:
            model = timm.create_model(backbone, pretrained=False, in_chans=in_channels, num_classes=0, **asked)
            break
        except TypeError as error:  # backbones take different keywords, and say so only this way
            unknown = [key for key in asked if f"'{key}'" in str(error)]
            if "unexpected keyword" not in str(error) or not unknown:
                raise
            del asked[unknown[0]]
    if drop_path > 0 and not any(isinstance(m, DropPath) and m.drop_prob for m in model.modules()):
        raise _NoStochasticDepth
    height, width = image_size or model.pretrained_cfg["input_size"][1:]
    model.eval()
    with torch.no_grad():
        features = model.forward_head(
            model.forward_features(torch.zeros(1, in_channels, height, width)), pre_logits=True
        )
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"its features have shape {tuple(features.shape)}, not (B, F)")
    return model.train(), features.shape[1]


def _smallest_square(backbone: str, in_channels: int) -> int | None:
    """Side of the smallest square the backbone can read, by bisection below its usual size; None if not even that.

    On torch's meta device: shapes without numbers, a fraction of a second a try.
    """

    def reads(side: int) -> bool:
        try:
            _build(backbone, in_channels, (side, side), 0.0)
        except Exception:
            return False
        return True

    with torch.device("meta"):
        try:
            model, _ = _build(backbone, in_channels, None, 0.0)
        except Exception:
            return None
        usual = model.pretrained_cfg["input_size"][-1]
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
        step = patch[0] if isinstance(patch, tuple) else int(patch)
        fails, works = 0, usual // step
        if not reads(works * step):
            return None
        while works - fails > 1:
            middle = (fails + works) // 2
            fails, works = (fails, middle) if reads(middle * step) else (middle, works)
    return works * step
