"""Weights learnt elsewhere, put into a network's body: strict about names and shapes, or by order; the head is new."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from litmus.networks.registry import Network

WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "backbone.")
"""Prefixes that trainers put before the names of a network."""

_COUNT = "num_batches_tracked"  # of batch norm: no weight, and absent in older files


class UnfitWeights(ValueError):
    """The tensors are not those of this network; the text says which do not match."""


@dataclass(frozen=True)
class Loaded:
    """What was put where.

    Args:
        num: tensors of the body that were filled: all of them.
        left_over: names in the file that the network has no place for, its old classifier among them.
    """

    num: int
    left_over: tuple[str, ...]


@torch.no_grad()
def load_body_(network: Network, tensors: Mapping[str, Tensor], *, by: Literal["name", "order"] = "name") -> Loaded:
    """Fill every weight and statistic of the body; the head stays as it was drawn.

    ``by="name"``: each tensor goes where its name says, wrappers' prefixes (``module.``, ``model.``, ...) taken off.
    What does not fit that way a timm backbone's own converter is shown, which knows older layouts and resizes position
    embeddings. ``by="order"``: the n-th tensor of the file goes to the n-th of the network, for files with other names.
    Counts of batches are passed over in both.

    Raises:
        UnfitWeights: a tensor is missing or has another shape; nothing was changed then.
    """
    places = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    places = {name: value for name, value in places.items() if not name.endswith(_COUNT)}
    given = {name: value for name, value in tensors.items() if not name.endswith(_COUNT)}
    found = _by_order(places, given) if by == "order" else _by_name(network, places, given)
    wrong = [
        f"{name}: {source!r} has shape {_shape(given[source])}, wanted {_shape(places[name])}"
        for name, source in found.items()
        if given[source].shape != places[name].shape
    ]
    missing = [name for name in places if name not in found]
    taken = set(found.values())
    left_over = tuple(name for name in given if name not in taken)
    foreign = _not_a_head(network, places, left_over) if by == "name" else []
    if wrong or missing or foreign:
        raise UnfitWeights(_mismatch(places, given, missing, wrong, foreign, by))
    for name, source in found.items():
        places[name].copy_(given[source])  # state_dict's tensors share the network's memory
    return Loaded(len(found), left_over)


def _not_a_head(network: Network, places: Mapping[str, Tensor], left_over: tuple[str, ...]) -> list[str]:
    """Left-over tensors from inside the body: those of a deeper network would otherwise fill a shallower one."""
    backbone = getattr(network, "backbone", None)
    heads = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    inside = {name.removeprefix("backbone.").partition(".")[0] for name in places}
    return [
        name
        for name in left_over
        if name.partition(".")[0] in inside and not name.startswith(tuple(f"{head}." for head in heads))
    ]


def _by_order(places: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    return dict(zip(places, given, strict=False))


def _by_name(network: Network, places: Mapping[str, Tensor], given: dict[str, Tensor]) -> dict[str, str]:
    """Place -> name in ``given``, which is renamed on the way."""
    own = {name.removeprefix("backbone."): name for name in places}

    def bare(name: str) -> str:
        while name not in own and (wrapper := next(filter(name.startswith, WRAPPERS), None)):
            name = name.removeprefix(wrapper)
        return name

    renamed = {bare(name): value for name, value in given.items()}
    backbone = getattr(network, "backbone", None)
    fits = all(name in renamed and renamed[name].shape == places[place].shape for name, place in own.items())
    if backbone is not None and not fits:
        renamed = _converted(backbone, renamed)
    given.clear()
    given.update(renamed)
    return {place: name for name, place in own.items() if name in renamed}


def _converted(backbone: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """By timm's converter for this family, which every family that needs one has in its module under one name."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return {name: value for name, value in convert(dict(tensors), backbone).items() if isinstance(value, Tensor)}
    except Exception as error:  # converters expect their own layouts and fail on others in their own ways
        raise UnfitWeights(f"timm's converter for this backbone fails on them: {error!r}") from None


def _mismatch(
    places: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: list[str],
    wrong: list[str],
    foreign: list[str],
    by: str,
) -> str:
    said = [f"{len(places)} tensors wanted, {len(given)} in the file"]
    if missing:
        said.append(f"{len(missing)} not found ({_some(missing)})")
    if wrong:
        said.append(f"{len(wrong)} of another shape ({_some(wrong, 3)})")
    if foreign:
        said.append(f"{len(foreign)} that it has no place for ({_some(foreign)})")
    if by == "name" and len(missing) > len(places) / 2 and len(given) >= len(places):
        first = ", ".join(list(given)[:3])
        said.append(f"the file's begin with {first}; model.weights_by: order puts them by position")
    return "; ".join(said)


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
