"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old`` stands exactly once in ``file`` (below ``src/litmus``); with ``new`` in its place ``test`` fails."""

    name: str
    file: str
    old: str
    new: str
    test: str
