"""Randomness with an address: a counter-based hash, the same on every platform and library version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash64(*address: int | str | NDArray[Any]) -> NDArray[np.uint64]:
    """64 well-mixed bits for each address, e.g. ``hash64("order", seed, epoch, np.arange(n))``.

    Parts are integers, integer arrays (broadcast together) or words. Each goes through the
    finaliser of SplitMix64 (Steele, Lea & Flood 2014), chained.
    """
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        for part in address:
            state = _mix(state * _GOLDEN + _GOLDEN + _mix(_as_uint64(part) + _GOLDEN))
    return state


def uniform(*address: int | str | NDArray[Any]) -> NDArray[np.float64]:
    """A number in [0, 1) for each address, on a grid of 2**-53."""
    return (hash64(*address) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *address: int | str) -> NDArray[np.int64]:
    """0..n-1 in an order that is a function of the address alone."""
    return np.argsort(hash64(*address, np.arange(n)), kind="stable")


def digest_of(parts: Iterable[str | bytes | memoryview | NDArray[Any]]) -> str:
    """32 hexadecimal digits over texts, bytes and arrays; an array counts with its type and shape."""
    summary = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            summary.update(f"{part.dtype.str}{part.shape}".encode())
            summary.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        else:
            summary.update(part.encode() if isinstance(part, str) else part)
        summary.update(b"\0")
    return summary.hexdigest()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _as_uint64(part: int | str | NDArray[Any]) -> NDArray[np.uint64]:
    if isinstance(part, str):
        part = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
    if isinstance(part, int):
        return np.array([part & (2**64 - 1)], np.uint64)
    return np.asarray(part).astype(np.uint64)
