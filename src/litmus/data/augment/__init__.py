"""Augmentation on the batch, on its device, with parameters per sample. Needs torch alone.

``Augment`` is the whole path; the modules below hold its operations as functions of images and parameters.
"""

from litmus.data.augment.pipeline import Augment, normalise

__all__ = ["Augment", "normalise"]
