import pytest

from litmus.config import load_config
from litmus.data.batch import DataInfo
from litmus.errors import Refused
from litmus.sweep.designs import changed, halved_sizes, in_steps, seeded, steps_per_epoch


def config(*words):
    return load_config([], ["data.batch_size=32", *words])


def info(num_train, num_classes=10):
    return DataInfo(
        name="x",
        num_classes=num_classes,
        channels=1,
        image_size=(8, 8),
        class_names=tuple("abcdefghij"[:num_classes]),
        num_train=num_train,
        num_val=10,
        num_test=10,
        num_train_eval=10,
        mean=(0.0,),
        std=(1.0,),
        digest="",
        split_digest="",
        source="",
    )


@pytest.mark.parametrize(
    ("words", "num_train", "steps"),
    [
        ((), 100, 4),
        (("data.drop_last=true",), 100, 3),
        (("train.accumulate=2",), 100, 2),
        (("train.accumulate=3",), 100, 2),
        (("train.limit_batches=2",), 100, 2),
        ((), 10, 1),
    ],
)
def test_steps_of_an_epoch(words, num_train, steps):
    assert steps_per_epoch(config(*words), num_train) == steps


def test_durations_in_steps_are_those_in_epochs_times_the_steps_of_one():
    given = config(
        "train.epochs=6", "schedule.name=multistep", "schedule.milestones=[2,4]", "schedule.warmup=1",
        "train.val_every=2", "freeze={layers: body, until: 3}",
    )  # fmt: skip
    made = in_steps(given, 100)
    assert (made.train.epochs, made.train.steps, made.train.val_every) == (None, 24, 8)
    assert (made.schedule.milestones, made.schedule.warmup) == ((8, 16), 4)
    assert made.freeze.until == 12
    assert in_steps(made, 100) == made


def test_a_step_schedule_counts_in_steps_too():
    made = in_steps(config("train.epochs=6", "schedule={name: step, every: 2}"), 64)
    assert (made.schedule.every, made.train.val_every) == (4, 2)


def test_changed_is_checked_like_any_config():
    assert changed(config(), {"optim.lr": 0.5, "seed": 3}).optim.lr == 0.5
    with pytest.raises((Refused, ValueError)):
        changed(config(), {"optim.lr": -1.0})


def test_seeds_wrap_around_at_their_end():
    assert seeded(config("seed=4294967295"), 2) == 1


@pytest.mark.parametrize(
    ("num_train", "num_classes", "sizes"),
    [
        (1600, 10, [50, 100, 200, 400, 800, 1600]),
        (160, 10, [10, 20, 40, 80, 160]),  # at least five, and an image of each class
        (30, 10, [15, 30]),
        (193, 2, [6, 12, 24, 48, 96, 192]),  # a batch of one image is no batch for batch norm
    ],
)
def test_sizes_are_halved(num_train, num_classes, sizes):
    assert halved_sizes(config(), info(num_train, num_classes)) == sizes
