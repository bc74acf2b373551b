"""Moves are overrides that a run's own config takes, in the recipe's order, and none is made twice."""

from pathlib import Path

import pytest

from litmus.config import dump_config, flatten, load_config
from litmus.diagnosis import next_moves

SHIPPED = sorted(Path("configs").glob("*.yaml"))
VARIANTS = [
    "",
    "model.name=plain model.depth=8 model.keep_prob=0.5 model.dropout=spatial",
    "model.name=plain model.depth=32 model.head_keep_prob=0.6",
    "model.depth=110 model.dropout=stochastic_depth model.keep_prob=0.3 optim.l2_lambda=100000",
    "model.norm=group model.norm_groups=4 model.width=8",
    "model.norm=none model.depth=56",
    "model.name=highway model.norm=none model.activation=tanh model.depth=14",
    "model.name=mlp model.depth=1",
    "model.name=mlp model.depth=2 model.width=[8] model.init=normal model.init_std=0.1 model.activation=sigmoid",
    "model.name=mlp model.depth=30 model.activation=sigmoid model.init=normal model.init_std=0.3",
    "model.name=mlp model.depth=4 model.width=[64,32,16] model.input_keep_prob=0.9 model.keep_prob=0.8",
    "model.name=mlp model.init=lsuv",
    "model.name=residual_mlp model.depth=6 model.width=64",
    "model.name=timm model.backbone=resnet50 model.drop_path_keep_prob=0.9",
    "model.name=timm model.backbone=vit_tiny_patch16_224 model.weights=pretrained data.name=cifar10",
    "model.name=timm model.backbone=some_net.tag model.keep_prob=0.5",
    "optim.name=sgd optim.lr=0.00003",
    "optim.name=adagrad optim.l1_lambda=0.1 train.label_smoothing=0.1",
    "optim.name=lion optim.l2_lambda=3",
    "optim.lr=900",
    "schedule.name=multistep schedule.milestones=[3,7]",
    "schedule.name=step schedule.every=4 train.steps=90 train.val_every=30",
    "train.epochs=12 train.val_every=4 schedule.name=one_cycle schedule.warmup=2",
    "model.weights=run:other freeze.layers=body freeze.until=4 freeze.lr_after=0.1",
    "model.weights=run:other freeze.layers=body",
    "model.weights=run:other freeze.layers=body train.epochs=1",
    "model.weights=run:other schedule.name=multistep schedule.milestones=[2,3] freeze.layers=2 freeze.until=5",
    "augment.policy=trivial augment.scale=[0.9,1.1] augment.erase=0.3 augment.erase_area=[0.1,0.2] augment.mixup=0.4",
    "augment.shift=0.1 augment.cutmix=1 augment.mix_prob=0.5",
    "data.num_train=100 early_stopping.name=up",
    "data.name=cifar100 augment.pad_crop=4 augment.hflip=0.5",
    "data.name=rendered_sst2",
    "data.name=image_folder data.path=x data.val_path=y",
    "train.devices=2 data.batch_per=device train.lr_scaling=linear",
]


def every_move(config, **facts):
    found = {}
    for lr in (None, "too high", "too low"):
        for units in (None, "dead", "saturated"):
            for bias, variance in ((True, False), (False, True), (True, True)):
                for num_train in (None, 100, 50_000):
                    for move in next_moves(
                        bias=bias, variance=variance, config=flatten(config), num_train=num_train, lr=lr, units=units,
                        num_available=150, **facts,
                    ):  # fmt: skip
                        found[move.text] = move
    return list(found.values())


@pytest.mark.parametrize("source", [*SHIPPED, *VARIANTS], ids=str)
def test_every_override_is_accepted_over_the_runs_config_and_changes_it(source, tmp_path):
    config = load_config([source]) if isinstance(source, Path) else load_config([], source.split())
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    ready = [move for move in every_move(config) if move.ready]
    assert len(ready) >= 3
    for move in ready:
        changed = load_config([path], move.text.split())
        assert changed != config, move.text


def texts(config="", **facts):
    plain = flatten(load_config([], config.split()))
    return [move.text for move in next_moves(**{"bias": False, "variance": False, "config": plain, **facts})]


def test_the_recipe_is_bias_first_then_variance():
    assert texts(bias=True)[:3] == ["model.depth=32", "model.width=32", "train.epochs=20"]
    assert texts(variance=True, num_train=45_000, config="data.name=cifar10")[:3] == [
        "more data: see `litmus curve`",
        "augment.hflip=0.5 augment.shift=0.1 augment.rotate=10",
        "model.keep_prob=0.8 model.dropout=stochastic_depth optim.l2_lambda=20",
    ]
    both = texts(bias=True, variance=True)
    assert both == texts(bias=True) + texts(variance=True)
    assert texts() == []


def test_without_a_config_the_defaults_are_meant():
    assert [move.text for move in next_moves(bias=True, variance=True, num_train=1437)] == texts(
        bias=True, variance=True, num_train=1437
    )


def test_less_and_more_regularisation_do_not_cancel_out():
    run = "model.keep_prob=0.8 optim.l2_lambda=10 augment.shift=0.1"
    lighter = ["optim.l2_lambda=1 model.keep_prob=1", "augment.shift=0"]
    assert texts(run, bias=True, num_train=1000)[-2:] == lighter
    assert not set(lighter) & set(texts(run, bias=True, variance=True, num_train=1000))


def test_heavy_regularisation_is_the_first_suspect_of_bias():
    assert texts("model.name=mlp model.keep_prob=0.2", bias=True, num_train=1000)[0] == "model.keep_prob=1"
    assert texts("optim.l2_lambda=50", bias=True, num_train=1000)[0] == "optim.l2_lambda=5"
    assert texts("optim.l2_lambda=50", bias=True, num_train=50_000)[0] == "model.depth=32"  # a decay of 0.001


def test_a_sign_of_the_rate_comes_before_a_larger_network():
    assert texts(bias=True, lr="too high")[0] == "optim.lr=0.01"
    assert texts("optim.lr=0.00003", bias=True, lr="too low")[0] == "optim.lr=0.0003"
    assert texts("optim.lr=500", bias=True, lr="too low")[0] == "optim.lr=1000"
    assert "optim.lr: see `litmus lr`" in texts(bias=True)
    assert "optim.lr: see `litmus lr`" not in texts(bias=True, lr="too low")


def test_units_that_do_not_answer_are_replaced_before_more_of_them_are_added():
    sigmoids = "model.name=mlp model.depth=20 model.activation=sigmoid"
    assert texts(sigmoids, bias=True)[0] == "model.activation=relu model.init=he_normal"
    assert texts("model.name=mlp model.activation=tanh", bias=True, units="saturated")[0].startswith("model.activation")
    assert texts("model.name=mlp model.activation=tanh", bias=True)[0] == "model.width=512"
    assert texts(bias=True, units="dead")[0] == "model.activation=leaky_relu"
    assert texts("model.activation=elu", bias=True, units="dead")[0] == "model.depth=32"


def test_a_larger_network_is_the_next_of_its_kind():
    assert texts("model.depth=56", bias=True)[0] == "model.depth=110"
    assert texts("model.depth=110", bias=True)[0] == "model.width=32"
    assert texts("model.name=plain", bias=True)[:2] == ["model.name=residual", "model.width=32"]
    assert texts("model.name=plain model.depth=8", bias=True)[0] == "model.depth=14"
    assert texts("model.norm=none", bias=True)[0] == "model.width=32"  # deeper without a norm explodes
    assert texts("model.name=mlp model.depth=3 model.width=[8,4]", bias=True)[0] == "model.width=[16,8]"
    assert texts("model.name=mlp model.depth=1", bias=True)[0] == "model.depth=3 model.width=256"
    assert texts("model.name=mlp model.depth=11", bias=True)[0] == "model.name=residual_mlp model.depth=12"
    assert texts("model.name=timm", bias=True)[0] == "model.backbone=resnet34"
    assert texts("model.name=timm model.backbone=odd", bias=True)[0] == "train.epochs=20"


def test_a_longer_training_takes_its_schedule_along_and_follows_no_early_stop():
    assert "train.steps=180 schedule.every=8" in texts("schedule.name=step schedule.every=4 train.steps=90", bias=True)
    assert "train.epochs=20 schedule.milestones=[6,14] freeze.until=8" in texts(
        "schedule.name=multistep schedule.milestones=[3,7] freeze.layers=1 freeze.until=4", bias=True
    )
    assert not any(text.startswith("train.epochs") for text in texts(bias=True, stopped_early=True))


def test_a_loss_that_still_falls_asks_for_a_longer_training_before_a_larger_network():
    assert texts(bias=True, improving=True)[:2] == ["train.epochs=20", "model.depth=32"]
    assert texts(bias=True, improving=True, stopped_early=True)[0] == "model.depth=32"


def test_what_is_done_or_exhausted_is_not_proposed():
    done = (
        "model.keep_prob=0.5 optim.l2_lambda=100 early_stopping.name=gl augment.policy=trivial augment.mixup=0.2 "
        "data.name=cifar10"
    )
    assert texts(done, variance=True, num_train=1000) == ["more data: see `litmus curve`"]
    assert texts("optim.l2_lambda=1", variance=True, num_train=1000)[2].endswith("optim.l2_lambda=10")
    assert texts("optim.name=adamw", variance=True, num_train=1000)[2].endswith("optim.l2_lambda=50")  # decoupled
    assert texts("model.name=mlp model.norm=batch", variance=True)[-1] == "early_stopping.name=gl"


def test_more_data_is_what_was_left_out():
    limited = "data.num_train=100"
    assert texts(limited, variance=True, num_available=1000)[0] == "data.num_train=200"
    assert texts(limited, variance=True, num_available=150)[0] == "data.num_train=null"
    assert texts(limited, variance=True)[0] == "data.num_train=null"


@pytest.mark.parametrize(
    ("data", "first", "second"),
    [
        ("digits", "augment.shift=0.1 augment.rotate=8", "augment.mixup=0.2"),
        ("svhn", "augment.shift=0.1 augment.rotate=8", "augment.mixup=0.2"),
        ("cifar10", "augment.hflip=0.5 augment.shift=0.1 augment.rotate=10", "augment.policy=trivial"),
        ("places365", "augment.hflip=0.5 augment.shift=0.1", "augment.policy=trivial"),
        ("rendered_sst2", "augment.shift=0.1", "augment.mixup=0.2"),
        ("image_folder data.path=x", "augment.shift=0.1 augment.rotate=10", "augment.mixup=0.2"),
    ],
)
def test_augmentation_keeps_the_labels_of_its_set(data, first, second):
    assert texts(f"data.name={data}", variance=True)[1] == first
    assert texts(f"data.name={data} {first}", variance=True)[1] == second


def test_moves_know_what_a_transfer_may_change():
    learnt = "model.weights=run:other"
    frozen = texts(f"{learnt} freeze.layers=body", bias=True)
    assert frozen[0] == "freeze.until=5"
    assert texts(f"{learnt} freeze.layers=body train.epochs=1", bias=True)[0] == "freeze=null"
    assert not any("width" in text or "depth" in text or "model.name" in text for text in frozen)
    assert "freeze.layers=body" in texts(learnt, variance=True)
    assert "freeze" not in " ".join(texts(f"{learnt} freeze.layers=body", variance=True))
    assert "freeze" not in " ".join(texts(variance=True))


def test_a_mismatch_asks_for_other_images_and_an_undecided_bias_for_more():
    (move,) = next_moves(bias=False, variance=False, mismatch=True, seen_more=700)
    assert (move.text, move.ready) == ("training images like those of data.val_path", False)
    (move,) = next_moves(bias=False, variance=False, seen_more=700)
    assert (move.text, move.ready) == ("data.train_eval_size=700", True)
    assert "data.train_eval_size=700" not in texts(variance=True, seen_more=700)


def test_more_data_is_proposed_as_a_curve_says_and_not_the_curve_again():
    def texts(**how):
        return [move.text for move in next_moves(bias=False, variance=True, config={"data.num_train": 100}, **how)]

    assert texts(data_helps=True)[0] == "more data"
    assert not any("data" in text for text in texts(data_helps=False))
    assert texts()[0] == "data.num_train=null"
