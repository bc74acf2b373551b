"""Files of weights: what ``model.weights`` means, where the file is, what is in it, and what images it reads."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from litmus.config import RunConfig, parse_config, to_dict
from litmus.data.hashing import digest_of
from litmus.data.network import impatient_network
from litmus.data.preprocessing import METADATA_KEY, Preprocessing
from litmus.errors import Refused, nearest, refuse
from litmus.networks import Network
from litmus.networks.weights import Loaded, UnfitWeights, load_body_
from litmus.tracking import find_run

FILE = "weights.safetensors"
"""The artifact that a run leaves."""

KEY = "model.weights"
_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")  # where trainers put the network's tensors
_PUBLISHED = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Origin:
    """Where the weights of a config come from.

    Args:
        file: on this disk.
        by: ``name`` or ``order``.
        says: what a person calls it.
        reads: the data keys that follow from it: ``channels``, ``image_size``, ``mean``, ``std``.
    """

    file: Path
    by: str
    says: str
    reads: Mapping[str, Any]


def follow_weights(config: RunConfig) -> RunConfig:
    """The config with its weights found, and with what they read where the data section leaves that open.

    A relative word such as ``run:latest`` becomes a lasting one; nothing is changed without ``model.weights``.

    Raises:
        Refused: the weights are not there and cannot be fetched, or the file is not one of weights.
    """
    origin = find_weights(config)
    if origin is None:
        return config
    data, fields = config.data, type(config.data).model_fields
    follows = {
        key: value
        for key, value in origin.reads.items()
        if key in fields and (getattr(data, key) is None or key not in data.model_fields_set)
    }
    plain = to_dict(config)
    plain["data"] |= follows
    if config.model.weights.startswith("run:"):
        plain["model"]["weights"] = f"run:{_run(config).uid}"
    return parse_config(plain)


def load_weights_(network: nn.Module, config: RunConfig) -> str:
    """Fill the body of the config's network; returns a sentence about what went where.

    Raises:
        Refused: the file's tensors are not this network's.
    """
    origin = find_weights(config)
    if origin is None or not isinstance(network, Network):
        return ""
    tensors, _ = read_weights(origin.file)
    try:
        loaded: Loaded = load_body_(network, tensors, by="order" if origin.by == "order" else "name")
    except UnfitWeights as error:
        channels = config.data.channels
        hint = " (its first layer reads 3 channels: leave data.channels out)" if channels == 1 else ""
        raise refuse(KEY, f"do not fit: {error}{hint}", config.model.weights, source=str(origin.file)) from None
    left = f", not used: {', '.join(loaded.left_over[:4])}" if loaded.left_over else ""
    return f"{loaded.num} tensors by {origin.by} from {origin.says}{left}; the head is new"


def find_weights(config: RunConfig) -> Origin | None:
    """What ``model.weights`` means, fetched if it has to be; None where the network starts anew.

    Raises:
        Refused: see ``follow_weights``.
    """
    model = config.model
    if model.weights is None:
        return None
    what, _, rest = model.weights.partition(":")
    reads = _backbone_reads(model.backbone) if model.name == "timm" else {}
    if model.weights == "pretrained":
        file, says = _published(model.backbone)
    elif what == "run":
        run = _run(config)
        file, says = run.artifact(FILE), f"run {run.id8} ({run.name})"
    elif what == "package":
        file = _in_package(rest, model.weights)
        says = file.name
    elif what in ("http", "https", "s3", "gs", "ftp"):
        raise refuse(
            KEY, "is an address; weights are read from this disk alone: fetch the file and name its path", model.weights
        )
    else:
        file = Path(model.weights).expanduser()
        says = file.name
        _check_path(file)
    _, preprocessing = read_weights(file, tensors=False)
    if preprocessing is not None:
        height, width = preprocessing.image_size
        size = {"image_size": height} if height == width else {}
        reads = {
            "channels": preprocessing.channels,
            **size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        }
    return Origin(file, model.weights_by, says, reads)


def digest_of_file(path: Path) -> str:
    """32 hexadecimal digits over a file's bytes."""
    with open(path, "rb") as file:
        return digest_of(iter(partial(file.read, 2**22), b""))


def read_weights(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], Preprocessing | None]:
    """The tensors of a file, none with ``tensors=False``, and the preprocessing that a run's weights carry.

    Nothing in the file is executed: safetensors, or torch's format with tensors and plain values only.

    Raises:
        Refused: not a whole file of weights.
    """
    if path.suffix in _PICKLED:
        return (_unpickled(path) if tensors else {}), None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            kept = (file.metadata() or {}).get(METADATA_KEY)
            names = list(file.keys()) if tensors else []
            found = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise refuse(str(path), f"is not a whole safetensors file: {error}") from None
    return found, None if kept is None else Preprocessing.from_json(kept)


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        says = "holds more than tensors, and reading it could run code: convert it to safetensors where it was made"
        raise refuse(str(path), says) from None
    except Exception as error:  # torch raises RuntimeError, EOFError, ValueError, ... for torn and foreign files
        raise refuse(str(path), f"is not a whole file of weights: {error!r}"[:300]) from None
    while isinstance(held, dict) and (nest := next((key for key in _NESTS if isinstance(held.get(key), dict)), None)):
        held = held[nest]
    found = {name: value for name, value in held.items() if isinstance(value, Tensor)} if isinstance(held, dict) else {}
    if not found:
        raise refuse(str(path), f"holds no tensors by name, but {type(held).__name__}")
    return found


def _check_path(file: Path) -> None:
    if file.is_dir():
        inside = [str(path) for path in sorted(file.iterdir()) if path.suffix in (".safetensors", *_PICKLED)]
        raise refuse(KEY, f"is a folder; {f'did you mean {inside[0]!r}?' if inside else 'name a file'}", str(file))
    if file.exists() and not file.is_file():
        raise refuse(KEY, "is a pipe or a device; name a file", str(file))
    if not file.is_file():
        near = [str(path) for path in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = f"; {nearest(str(file), near)}" if near else f"; there is no folder {file.parent.resolve()} either"
        words = "pretrained, run:RUN and package:NAME/FILE are the words it may be instead"
        raise refuse(KEY, f"does not exist{hint}; {words}", str(file))
    if file.suffix not in (".safetensors", *_PICKLED):
        raise refuse(KEY, f"ends in {file.suffix!r}; wanted .safetensors, {', '.join(_PICKLED)}", str(file))


def _run(config: RunConfig) -> Any:
    reference = str(config.model.weights).removeprefix("run:")
    try:
        return find_run(reference, home=config.tracking.home, uri=config.tracking.uri)
    except Refused as refused:
        says = refused.problems[0].says
        raise refuse(KEY, f"names a run that {says}", config.model.weights) from None


def _in_package(place: str, value: str) -> Path:
    package, _, inner = place.partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        says = f"package {package!r} is not installed: uv pip install {package.replace('_', '-')}"
        raise refuse(KEY, says, value)
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    file = (folder / inner).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        held = [
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".safetensors", *_PICKLED)
        ]
        raise refuse(
            KEY, f"the package has no such file; {nearest(inner, held) if held else 'nor any of weights'}", value
        )
    return file


def _backbone_reads(backbone: str) -> dict[str, Any]:
    published = _published_config(backbone)
    if published is None:
        return {}
    channels, height, width = published.input_size
    size = {"image_size": height} if height == width else {}
    return {"channels": channels, **size, "mean": list(published.mean), "std": list(published.std)}


def _published_config(backbone: str) -> Any:
    """What timm knows of a backbone's published weights; None for an unknown name or tag."""
    import timm

    try:
        return timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    except RuntimeError:  # the name is known, the tag behind its dot is not
        return None


# --- published weights: the cache first, then the hub -----------------------------------------------------------------


def _published(backbone: str) -> tuple[Path, str]:
    import timm

    published = _published_config(backbone)
    if published is None or not (published.hf_hub_id or published.url):
        tags = timm.list_pretrained(f"{backbone.partition('.')[0]}.*") if timm.is_model(backbone) else []
        hint = f"; published: {', '.join(tags)}" if tags else ""
        raise refuse(KEY, f"timm has no published weights for backbone {backbone!r}{hint}", "pretrained")
    repository: str = published.hf_hub_id or ""
    url = published.url if isinstance(published.url, str) else ""
    files = [published.hf_hub_filename] if published.hf_hub_filename else list(_PUBLISHED)
    found = _cached(repository, files, url)
    if found is not None:
        return found, f"{repository or url} (cached)"
    try:
        with impatient_network(), _quiet_hub():
            return _fetch(repository, files, url), repository or url
    except Exception as error:  # every layer of the hub's client has its own
        from huggingface_hub import constants

        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = published.hf_hub_filename or _PUBLISHED[0]
        says = (
            f"weights of {backbone!r} are not in the cache {constants.HF_HUB_CACHE} and cannot be fetched ({why}); "
            f"on a machine with a network: hf download {repository} {name}, then copy that folder, or name the file"
        )
        raise refuse(KEY, says, "pretrained") from None


def _cached(repository: str, files: list[str], url: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in files if repository else ():
        held = try_to_load_from_cache(repository, name)
        if isinstance(held, str | os.PathLike) and Path(held).is_file():
            return Path(held)
    if url:
        held = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if held.is_file() and held.suffix in (".safetensors", *_PICKLED):
            return held
    return None


def _fetch(repository: str, files: list[str], url: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if repository and not constants.HF_HUB_OFFLINE and not getproxies():
        # The hub's client asks six times before it says that there is no network: 23 s measured.
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    for name in files if repository else ():
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError:  # the hub did not answer, so there is nothing to be asked next
            raise
        except EntryNotFoundError:
            continue
    if not url or not url.endswith(_PICKLED):
        raise FileNotFoundError(f"published only in a format that is not read here: {url or repository}")
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(place))
    return place


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the client's warnings about tokens, which are none of our users' business."""
    import logging

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
