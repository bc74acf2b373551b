"""Paths as they are printed; on its own, since commands that answer at once use it too."""

from pathlib import Path


def shown(path: Path) -> Path:
    """A path as a person reads it: relative where it lies below the folder they are in."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
