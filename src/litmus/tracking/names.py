"""What MLflow takes as a name or a value, checked before anything is written."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from litmus.tracking.store import MAX_KEY_CHARS

_ALLOWED = re.compile(r"[/\w.\- :]+")


def check_key(key: str, what: str) -> str:
    """A parameter, metric or tag name MLflow takes.

    Raises:
        ValueError: it is empty, longer than 250 characters, has other characters than letters, digits,
            ``_ - . : /`` and space, or reads as another path (``a//b``, ``../a``, ``/a``).
    """
    if not isinstance(key, str) or not _ALLOWED.fullmatch(key):
        raise ValueError(f"{what} {key!r}: a name has letters, digits, spaces and any of _ - . : /")
    if len(key) > MAX_KEY_CHARS:
        raise ValueError(f"{what} {key[:40]!r}... has {len(key)} characters; MLflow takes {MAX_KEY_CHARS}")
    if posixpath.normpath(key) != key or key == "." or key.startswith(("/", "..")):
        raise ValueError(f"{what} {key!r} reads as the path {posixpath.normpath(key)!r}; use plain a/b/c names")
    return key


def check_artifact(name: str) -> str:
    """A relative posix path that stays inside the run's artifacts.

    Raises:
        ValueError: it is empty, absolute, climbs out, or has a character that a file system or URL may not take.
    """
    if not name or posixpath.isabs(name) or "\\" in name or any(ord(char) < 32 or char in '<>:"|?*#%' for char in name):
        raise ValueError(f"artifact {name!r}: give a relative path of plain names")
    if posixpath.normpath(name) != name or name.split("/")[0] in (".", ".."):
        raise ValueError(f"artifact {name!r} leaves the run's artifacts, or is not written plainly")
    return name


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names: ``{"optim": {"lr": 0.1}}`` is ``optim.lr``. An empty one is itself a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: Any) -> str:
    """A parameter as it would be typed on the command line: ``true``, ``null``, ``0.1``, ``[1, 2]``, ``he_normal``."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, default=str, ensure_ascii=False)
