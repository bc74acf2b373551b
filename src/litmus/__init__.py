"""Litmus: train image classifiers, and learn from each run what to try next.

The names below can be used in a plain Lightning script; the command line is ``litmus``.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ImageClassifier", "ImageDataModule", "PlainClassifier", "ResidualClassifier", "build_network"]

if TYPE_CHECKING:
    from litmus.classifier import ImageClassifier, PlainClassifier, ResidualClassifier
    from litmus.data.datamodule import ImageDataModule
    from litmus.networks import build_network

_HOMES = {
    "ImageClassifier": "litmus.classifier",
    "PlainClassifier": "litmus.classifier",
    "ResidualClassifier": "litmus.classifier",
    "ImageDataModule": "litmus.data.datamodule",
    "build_network": "litmus.networks",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for: the command line's help does not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'litmus' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
