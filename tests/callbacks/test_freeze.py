"""Frozen layers do not move, whatever trains around them; and they learn when their time comes."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litmus.callbacks import EMA, Freeze, FreezeBySteps, LastCheckpoint, skip_unused_hooks
from litmus.classifier import ImageClassifier
from litmus.networks import NETWORKS, build_network
from litmus.networks.layers import layer_groups, match_layers, plan_freezing

FAMILIES = ("test_resnet", "test_efficientnet_gn", "test_vit")  # conv and batch norm, conv and group norm, transformer
EVERY = [(name, {}) for name in NETWORKS if name != "timm"] + [("timm", {"backbone": one}) for one in FAMILIES]
every_network = pytest.mark.parametrize(("name", "options"), EVERY, ids=[o.get("backbone", n) for n, o in EVERY])


def classifier(name="residual", optim=None, schedule=None, restart=None, **options):
    torch.manual_seed(0)
    network = build_network(name, image_size=(16, 16), num_classes=3, **{**NETWORKS[name].small, **options})
    optim = {"name": "momentum", "lr": 0.05, "l2_lambda": 1.0, **(optim or {})}
    return ImageClassifier(network, optim=optim, schedule=schedule, num_train=12, restart=restart)


def batches(num=12, batch_size=4):
    generator = torch.Generator().manual_seed(1)
    images = 3 + torch.randn(num, 3, 16, 16, generator=generator)  # off zero: running statistics would move
    return DataLoader(TensorDataset(images, torch.arange(num) % 3), batch_size=batch_size)


def state(module):
    return {name: value.clone() for name, value in module.network.state_dict().items()}


def frozen_states(network, names):
    """State dict names of the frozen parameters and of the statistics beside them."""
    modules = {name.rpartition(".")[0] for name in names}
    return {key for key in network.state_dict() if key in names or key.rpartition(".")[0] in modules}


def moved(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def train(module, make_trainer, *callbacks, epochs=2, ckpt_path=None, **options):
    skip_unused_hooks(callbacks)
    trainer = make_trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module, batches(), batches(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@every_network
def test_a_frozen_body_keeps_every_weight_and_statistic_while_the_head_learns(name, options, make_trainer):
    module = classifier(name, **options)
    before = state(module)
    train(module, make_trainer, Freeze(plan_freezing(module.network, ["body"])))
    assert moved(before, state(module)) == {"head.weight", "head.bias"}


@every_network
def test_frozen_first_layers_keep_all_and_the_others_learn(name, options, make_trainer):
    module = classifier(name, **options)
    first = list(layer_groups(module.network))[:2]
    names = frozenset(name for group in first for name in layer_groups(module.network)[group])
    before, still = state(module), frozen_states(module.network, names)
    train(module, make_trainer, Freeze(plan_freezing(module.network, sorted(names))))
    after = moved(before, state(module))
    assert after.isdisjoint(still)
    assert {n for n, p in module.network.named_parameters() if p.ndim > 1} - names <= after


OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion", "lamb", "muon", "nadamw"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_moves_or_decays_what_is_frozen(name, make_trainer):
    module = classifier(optim={"name": name, "lr": 0.01, "l2_lambda": 5.0, "l1_lambda": 0.1, "decay": "all"})
    before = state(module)
    train(module, make_trainer, Freeze(plan_freezing(module.network, ["body"])))
    assert moved(before, state(module)) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_when_a_part_of_its_parameters_thaws(name, make_trainer):
    module = classifier(optim={"name": name, "lr": 0.01})
    before = state(module)
    train(module, make_trainer, Freeze(plan_freezing(module.network, ["stem", "stages.1"], until=1)))
    weights = {n for n, p in module.network.named_parameters() if p.ndim > 1}
    assert weights <= moved(before, state(module))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"callbacks": EMA},
        {"schedule": {"name": "one_cycle"}},
        {"schedule": {"name": "plateau", "patience": 0}},
        {"schedule": {"name": "cosine", "warmup": 1}},
    ],
    ids=str,
)
def test_nothing_else_of_a_training_moves_what_is_frozen(options, make_trainer):
    module = classifier(schedule=options.pop("schedule", None), keep_prob=0.8)
    extra = [options.pop("callbacks")(0.9)] if "callbacks" in options else []
    before = state(module)
    train(module, make_trainer, Freeze(plan_freezing(module.network, ["body"])), *extra, epochs=3, **options)
    assert moved(before, state(module)) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("epoch", range(1, 5))
@pytest.mark.parametrize(
    ("schedule", "restart"), [("constant", None), ("plateau", None), ("one_cycle", None), ("cosine", (2, 0.1))], ids=str
)
def test_a_run_resumed_at_any_epoch_ends_where_the_other_did(epoch, schedule, restart, make_trainer, tmp_path, kept):
    def make():
        module = classifier(schedule={"name": schedule}, optim={"name": "adam", "lr": 0.01}, restart=restart)
        return module, Freeze(plan_freezing(module.network, ["body"], until=2, thaw_every=1))

    class StopAfter(LastCheckpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            trainer.should_stop = trainer.current_epoch + 1 == epoch

    whole, freeze = make()
    train(whole, make_trainer, freeze, epochs=6)
    begun, freeze = make()
    train(begun, make_trainer, freeze, StopAfter(tmp_path), epochs=6)
    resumed, freeze = make()
    train(resumed, make_trainer, freeze, epochs=6, ckpt_path=kept(tmp_path, "last"))
    assert moved(state(whole), state(resumed)) == set()
    assert moved(state(whole), state(begun)) != set()


def test_groups_thaw_from_the_head_down_and_not_before(make_trainer):
    module = classifier("residual")
    plan = plan_freezing(module.network, ["body"], until=1, thaw_every=1)
    snapshots = []

    class Watch(Freeze):
        def on_train_epoch_end(self, trainer, pl_module):
            snapshots.append(state(pl_module))

    before = state(module)
    train(module, make_trainer, Watch(plan), epochs=5)
    groups = ["head", "stages.2", "stages.1", "stages.0", "stem"]
    for epoch, (one, other) in enumerate(itertools.pairwise([before, *snapshots])):
        assert {n.split(".blocks")[0].split(".conv")[0].split(".norm")[0] for n in moved(one, other)} == {
            *(f"{group}" for group in groups[1 : epoch + 1]),
            "head.weight",
            "head.bias",
        }


def test_a_plan_in_steps_thaws_within_an_epoch(make_trainer):
    module = classifier("mlp")
    plan = plan_freezing(module.network, ["body"], until=2)
    snapshots = []

    class Watch(FreezeBySteps):
        def on_train_batch_end(self, trainer, pl_module, *_):
            snapshots.append(state(pl_module))

    before = state(module)
    train(module, make_trainer, Watch(plan), max_steps=3, epochs=-1)
    changes = [moved(one, other) for one, other in itertools.pairwise([before, *snapshots])]
    assert changes[0] == changes[1] == {"head.weight", "head.bias"}
    assert match_layers(module.network, ["body"]) <= changes[2]


def test_momentum_starts_anew_when_a_layer_thaws(make_trainer):
    module = classifier("mlp", optim={"name": "momentum"})
    trainer = train(module, make_trainer, Freeze(plan_freezing(module.network, ["body"])))
    held = trainer.optimizers[0].state
    assert {id(p) for p in held} == {id(p) for p in module.network.head.parameters()}
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == 8


def test_every_group_has_its_own_rate_and_the_logged_one_is_the_heads(make_trainer):
    module = classifier(optim={"lr": 0.05, "layer_decay": 0.5, "l1_lambda": 0.0}, schedule={"name": "cosine"})
    trainer = train(module, make_trainer, epochs=1)
    rate_of = {id(p): group["lr"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    groups = layer_groups(module.network)
    parameters = dict(module.network.named_parameters())
    logged = float(trainer.callback_metrics["train/lr"])
    for depth, names in enumerate(reversed(groups.values())):
        rates = [rate_of[id(parameters[name])] for name in names]
        assert rates == pytest.approx([logged * 0.5**depth] * len(names))


def test_one_sgd_step_goes_each_groups_part_of_the_way(make_trainer):
    plain, decayed = (
        classifier("mlp", optim={"name": "sgd", "lr": 0.1, "l2_lambda": 0.0, "layer_decay": decay})
        for decay in (1, 0.25)
    )
    before = state(plain)
    for module in (plain, decayed):
        train(module, make_trainer, max_steps=1, epochs=-1)
    for depth, names in enumerate(reversed(layer_groups(plain.network).values())):
        for name in names:
            whole, part = (state(module)[name] - before[name] for module in (plain, decayed))
            torch.testing.assert_close(part, 0.25**depth * whole, rtol=1e-3, atol=1e-7)


def test_two_processes_agree_with_one_and_keep_what_is_frozen():
    done = subprocess.run(
        [sys.executable, "tests/callbacks/two_processes.py"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["frozen_moved"] == []
    assert found["ranks_differ"] == []
    assert found["largest_difference"] < 1e-5
    assert min(found["thawed_moved"]) > 0
