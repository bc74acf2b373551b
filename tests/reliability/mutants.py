"""Guards, each with the edit that takes it out and the test that must then fail."""

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


MUTANTS: list[Mutant] = []
