"""Images in, uint8 batches out: sources, splits, order, and augmentation on the batch.

Empty on purpose: the augmentation must stay importable without Lightning.
"""
