"""From one config to the configs of an experiment: other sizes, other draws, other seeds, as many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from litmus.config import RunConfig

if TYPE_CHECKING:
    from litmus.data.batch import DataInfo


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """``config`` with other values, by dotted key; checked like any.

    Raises:
        Refused: values that do not go together.
    """
    plain = config.model_dump()
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = plain
        for section in sections:
            inner = inner[section]
        inner[last] = value
    return RunConfig.model_validate(plain)


def seeded(config: RunConfig, by: int) -> int:
    """The config's seed, ``by`` further."""
    return (config.seed + by) % 2**32


def steps_per_epoch(config: RunConfig, num_train: int) -> int:
    """Optimizer steps of an epoch over ``num_train`` images."""
    whole, rest = divmod(num_train, config.batch_size)
    batches = whole + (rest > 0 and not config.data.drop_last)
    batches = min(batches, config.train.limit_batches or batches)
    return max(1, -(-batches // config.train.accumulate))


def in_steps(config: RunConfig, num_train: int) -> RunConfig:
    """The same training with its durations in steps: on other numbers of images it stays as long.

    Args:
        config: of any unit; one that counts in steps is returned as it is.
        num_train: images of the training that it describes.
    """
    train = config.train
    if train.unit == "steps":
        return config
    an_epoch = steps_per_epoch(config, num_train)
    changes: dict[str, Any] = {
        "train.epochs": None,
        "train.steps": train.length * an_epoch,
        "train.val_every": (train.val_every or 1) * an_epoch,
    }
    for section, keys in (("schedule", ("warmup", "every", "milestones")), ("freeze", ("until", "thaw_every"))):
        held = getattr(config, section)
        for key in keys:
            value = getattr(held, key, None)
            if value:
                many = isinstance(value, tuple)
                changes[f"{section}.{key}"] = tuple(v * an_epoch for v in value) if many else value * an_epoch
    return changed(config, changes)


def without_lone_image(size: int, config: RunConfig) -> int:
    """``size``, or one fewer where the last batch would hold a single image, which batch norm cannot normalise."""
    return size - 1 if size % config.batch_size == 1 and size > 1 and not config.data.drop_last else size


def halved_sizes(config: RunConfig, info: DataInfo, *, at_most: int = 6, at_least: int = 5) -> list[int]:
    """The whole training set, half of it, a quarter, ..., rising; none with fewer than two images of each class.

    At most ``at_most`` of them: each halving is as many trainings again, and the smallest tell least.
    """
    sizes: list[int] = []
    size = info.num_train
    while len(sizes) < at_most and (size >= 2 * info.num_classes or len(sizes) < at_least) and size >= info.num_classes:
        sizes.append(without_lone_image(size, config))
        size = round(info.num_train / 2 ** len(sizes))
    return sorted(set(sizes))
