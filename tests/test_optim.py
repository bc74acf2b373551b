"""Every rule is checked against its formula, written out below in float64; every schedule against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litmus.config.schema import OPTIMIZERS as OPTIMIZER_SECTIONS
from litmus.config.schema import SCHEDULES as SCHEDULE_SECTIONS
from litmus.config.schema import names_of
from litmus.optim import (
    OPTIMIZERS,
    SCHEDULES,
    Plateau,
    build_optimizer,
    build_schedule,
    l1_penalty,
    l2_penalty,
    lr_factor,
    parameter_groups,
    soft_threshold_,
    timm_optimizers,
    warmed_up,
)

NUM_TRAIN, LAMBDA, LR, STEPS = 40, 3.0, 0.05, 6
images, labels = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def gradients(net):
    loss = F.cross_entropy(net(images), labels)
    return dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))


def train(net, optimizer, steps=STEPS):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def follow(net, rule, steps=STEPS):
    """The weights after ``steps`` of ``rule(w, gradient, is_weight, state, t) -> w``, starting from ``net``'s."""
    states = {name: {} for name, _ in net.named_parameters()}
    for t in range(1, steps + 1):
        found = gradients(net)
        with torch.no_grad():
            for name, w in net.named_parameters():
                w.copy_(rule(w.clone(), found[name], name in ("0.weight", "3.weight"), states[name], t))
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def coupled(update):
    """A rule that sees the gradient of J: the loss's, plus lambda/m W for weights."""
    return lambda w, g, is_weight, s, t: w - LR * update(g + LAMBDA / NUM_TRAIN * w * is_weight, s, t)


def momentum(g, s, t):
    s["v"] = 0.8 * s.get("v", 0) + g
    return s["v"]


def nesterov(g, s, t):
    return g + 0.8 * momentum(g, s, t)


def adagrad(g, s, t):
    s["s"] = s.get("s", 0) + g**2
    return g / (s["s"].sqrt() + 1e-6)


def rmsprop(g, s, t):
    s["s"] = 0.7 * s.get("s", 0) + 0.3 * g**2
    return g / (s["s"].sqrt() + 1e-6)


def rmsprop_momentum(g, s, t):
    s["v"] = 0.8 * s.get("v", 0) + rmsprop(g, s, t)
    return s["v"]


def adam(g, s, t):
    s["a"], s["b"] = 0.8 * s.get("a", 0) + 0.2 * g, 0.7 * s.get("b", 0) + 0.3 * g**2
    return (s["a"] / (1 - 0.8**t)) / ((s["b"] / (1 - 0.7**t)).sqrt() + 1e-6)


def adamw(w, g, is_weight, s, t):
    return w - LR * LAMBDA / NUM_TRAIN * w * is_weight - LR * adam(g, s, t)


RULES = [
    ("sgd", {}, coupled(lambda g, s, t: g)),
    ("momentum", {"momentum": 0.8}, coupled(momentum)),
    ("nesterov", {"momentum": 0.8}, coupled(nesterov)),
    ("adagrad", {"eps": 1e-6}, coupled(adagrad)),
    ("rmsprop", {"rho": 0.7, "eps": 1e-6}, coupled(rmsprop)),
    ("rmsprop", {"rho": 0.7, "eps": 1e-6, "momentum": 0.8}, coupled(rmsprop_momentum)),
    ("adam", {"betas": (0.8, 0.7), "eps": 1e-6}, coupled(adam)),
    ("adamw", {"betas": (0.8, 0.7), "eps": 1e-6}, adamw),
]


@pytest.mark.parametrize(("name", "options", "rule"), RULES, ids=[f"{name}-{len(o)}" for name, o, _ in RULES])
def test_optimizer_follows_its_written_rule(net, name, options, rule):
    optimizer = build_optimizer(net, name=name, lr=LR, num_train=NUM_TRAIN, l2_lambda=LAMBDA, **options)
    start = {key: value.clone() for key, value in net.state_dict().items()}
    found = train(net, optimizer)
    net.load_state_dict(start)
    expected = follow(net, rule)
    for parameter in expected:
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-11, atol=1e-13)


def test_every_optimizer_of_ours_has_a_rule_above():
    assert {name for name, _, _ in RULES} == set(OPTIMIZERS)


def test_one_sgd_step_is_the_gradient_of_the_loss_plus_the_course_penalty(net):
    before = {name: w.detach().clone() for name, w in net.named_parameters()}
    weights = [net[0].weight, net[3].weight]
    penalty = LAMBDA / (2 * NUM_TRAIN) * sum(w.square().sum() for w in weights)
    cost = F.cross_entropy(net(images), labels) + penalty
    expected = torch.autograd.grad(cost, list(net.parameters()))
    after = train(net, build_optimizer(net, name="sgd", lr=LR, num_train=NUM_TRAIN, l2_lambda=LAMBDA), steps=1)
    for (name, w), gradient in zip(before.items(), expected, strict=True):
        torch.testing.assert_close(after[name], w - LR * gradient, rtol=1e-12, atol=1e-14)


def test_penalties_are_those_of_the_objective(net):
    weights = torch.cat([net[0].weight.flatten(), net[3].weight.flatten()])
    assert l2_penalty(net, LAMBDA, NUM_TRAIN).item() == pytest.approx(LAMBDA / 80 * weights.square().sum().item())
    assert l1_penalty(net, LAMBDA, NUM_TRAIN).item() == pytest.approx(LAMBDA / 40 * weights.abs().sum().item())
    everything = torch.cat([p.flatten() for p in net.parameters()]).abs().sum().item()
    assert l1_penalty(net, LAMBDA, NUM_TRAIN, decay="all").item() == pytest.approx(LAMBDA / 40 * everything)


def test_biases_norms_and_what_a_backbone_exempts_are_not_penalised():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1, 4, 6))
            self.conv = nn.Conv2d(1, 6, 3)
            self.scale = nn.Parameter(torch.ones(6))
            self.norm = nn.LayerNorm([6, 2, 2])  # a norm whose parameters have three axes
            self.head = nn.Linear(6, 2)

        def no_weight_decay(self):
            return {"pos_embed"}

    net = nn.Sequential(Backbone())
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    penalised, free = parameter_groups(net)
    assert [names[id(p)] for p in penalised["params"]] == ["0.conv.weight", "0.head.weight"]
    assert free["weight_decay"] == 0.0
    assert [names[id(p)] for p in free["params"]] == [
        "0.pos_embed", "0.scale", "0.conv.bias", "0.norm.weight", "0.norm.bias", "0.head.bias",
    ]  # fmt: skip
    (everything,) = parameter_groups(net, decay="all")
    assert [names[id(p)] for p in everything["params"]] == list(names.values())


def test_decay_all_moves_biases_too(net):
    with torch.no_grad():
        net[3].bias.fill_(1.0)
    net(images).mul(0).sum().backward()  # gradients of zero: what moves, decays
    build_optimizer(net, name="sgd", lr=0.1, num_train=10, l2_lambda=2.0, decay="all").step()
    torch.testing.assert_close(net[3].bias.detach(), torch.full((3,), 0.98).double())


def test_l1_leaves_exact_zeros_where_the_written_proximal_step_has_them(net):
    lambda_1, start = 60.0, {key: value.clone() for key, value in net.state_dict().items()}

    def proximal(w, g, is_weight, s, t):
        moved = w - LR * (g + LAMBDA / NUM_TRAIN * w * is_weight)
        return moved.sign() * (moved.abs() - LR * lambda_1 / NUM_TRAIN).clamp(min=0) if is_weight else moved

    options = {"lr": LR, "num_train": NUM_TRAIN, "l2_lambda": LAMBDA}
    found = train(net, build_optimizer(net, name="sgd", l1_lambda=lambda_1, **options))
    net.load_state_dict(start)
    expected = follow(net, proximal)
    zeros = {name: int((w == 0).sum()) for name, w in found.items()}
    assert zeros == {name: int((w == 0).sum()) for name, w in expected.items()}
    assert 0 < zeros["0.weight"] < 20
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-14)


def test_l1_threshold_uses_the_rate_of_its_own_step():
    weight = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        weight.weight.fill_(1.0)
    optimizer = build_optimizer(weight, name="sgd", lr=0.1, num_train=1, l1_lambda=1.0)
    schedule = build_schedule(optimizer, name="step", total_steps=4, every=2, gamma=0.5)["scheduler"]
    for _ in range(4):
        weight.weight.grad = torch.zeros(1, 1, dtype=torch.float64)
        optimizer.step()
        schedule.step()
    assert weight.weight.item() == pytest.approx(1 - 0.1 - 0.1 - 0.05 - 0.05, abs=1e-15)


def test_frozen_weights_are_not_shrunk(net):
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = build_optimizer(net, name="momentum", lr=0.1, num_train=1, l1_lambda=1.0, l2_lambda=1.0)
    train(net, optimizer, steps=2)
    assert torch.equal(net[0].weight, before)
    assert (net[3].weight == 0).any()


def test_soft_threshold_is_the_written_one():
    w = torch.tensor([-2.0, -0.5, -0.1, 0.0, 0.3, 0.5, 0.6])
    soft_threshold_([w], 0.5)
    torch.testing.assert_close(w, torch.tensor([-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1]))
    assert (w == 0).sum() == 5


@pytest.mark.parametrize("name", timm_optimizers())
def test_every_timm_optimizer_moves_every_parameter_and_keeps_them_finite(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4))
    before = {key: p.detach().clone() for key, p in net.named_parameters() if key != "0.bias"}  # cancelled by the norm
    optimizer = build_optimizer(net, name=name, lr=1e-2, num_train=100, l2_lambda=0.1)
    x = torch.randn(8, 1, 4, 4)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x), torch.arange(8) % 4).backward()
        optimizer.step()
    assert [key for key in before if torch.equal(before[key], net.get_parameter(key))] == []
    assert all(p.isfinite().all() for p in net.parameters())


def test_config_and_optim_know_the_same_names():
    in_config = {name for section in OPTIMIZER_SECTIONS for name in names_of(section)}
    assert in_config == {*OPTIMIZERS, *timm_optimizers()}
    assert {name for section in SCHEDULE_SECTIONS for name in names_of(section)} == {*SCHEDULES, "plateau"}


@pytest.mark.parametrize("section", OPTIMIZER_SECTIONS, ids=lambda section: section.__name__)
def test_what_a_config_section_holds_is_what_its_optimizer_takes(section):
    name = names_of(section)[0]
    options = section(name=name).model_dump()
    build_optimizer(nn.Linear(4, 4), num_train=10, **options)


def test_muon_turns_matrix_gradients_into_orthogonal_steps_and_gives_vectors_to_adamw():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 8))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = build_optimizer(net, name="muon", lr=1e-2, num_train=1)
    F.cross_entropy(net(torch.randn(16, 4, 4, 4)), torch.arange(16) % 8).backward()
    optimizer.step()
    conv, conv_bias, head, head_bias = (
        (now - then).detach() for now, then in zip(net.parameters(), before, strict=True)
    )
    for moved in (conv.flatten(1), head):
        singular = torch.linalg.svdvals(moved)[:7]  # softmax gradients sum to zero over classes: the head's rank is 7
        assert singular.max() < 1.1 * singular.min()  # the gradients' own differ by a factor of 2 to 3
    for moved in (conv_bias, head_bias):
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-2), rtol=1e-3, atol=0)  # Adam's first step


def test_adamw_decays_apart_from_the_gradient_and_adam_does_not():
    def first_step(name):
        net = nn.Linear(1, 1, bias=False).double()
        with torch.no_grad():
            net.weight.fill_(2.0)
        optimizer = build_optimizer(net, name=name, lr=0.1, num_train=10, l2_lambda=1.0)
        net.weight.grad = torch.tensor([[5.0]]).double()
        optimizer.step()
        return net.weight.item()

    assert first_step("adam") == pytest.approx(2 - 0.1)  # the penalty vanishes in the preconditioner
    assert first_step("adamw") == pytest.approx(2 - 0.1 * 0.1 * 2 - 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adma"}, r"'adma' is unknown; did you mean 'adam'\?"),
        ({"name": "lookahead_adam"}, "is unknown"),
        ({"name": "adahessian"}, "is unknown"),
        ({"name": "sgd", "momentum": 0.9}, "'sgd' does not take momentum; it takes no options"),
        ({"name": "adam", "rho": 0.9}, "'adam' does not take rho; it takes betas, eps"),
        ({"name": "lion", "eps": 1e-8}, "'lion' does not take eps; it takes betas"),
        ({"name": "lamb", "momentum": 0.9}, "'lamb' does not take momentum; it takes"),
        ({"name": "adan", "betas": (0.9, 0.99)}, r"'adan' takes 3 betas, not \[0.9, 0.99\]"),
        ({"name": "sgd", "num_train": 0}, "num_train = 0"),
        ({"name": "sgd", "l2_lambda": -1.0}, "l2_lambda = -1.0"),
        ({"name": "sgd", "decay": "biases"}, "decay = 'biases'"),
    ],
)
def test_wrong_optimizer_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(2, 2), **({"lr": 0.1, "num_train": 10} | arguments))


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        build_optimizer(nn.ReLU(), name="sgd", lr=0.1, num_train=10)


# --- schedules --------------------------------------------------------------------------------------------------------


def torch_rates(scheduler_class, steps, lr=1.0, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = scheduler_class(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:  # OneCycleLR counts the construction, and refuses a step past its end
            scheduler.step()
    return rates


def our_rates(steps, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    config = build_schedule(optimizer, **arguments)
    assert (config["interval"], config["frequency"]) == ("step", 1)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step()
    return rates


LR_SCHEDULER = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("arguments", "theirs", "options"),
    [
        ({"name": "step", "every": 2, "gamma": 0.5}, LR_SCHEDULER.StepLR, {"step_size": 10, "gamma": 0.5}),
        ({"name": "multistep", "milestones": (2, 5)}, LR_SCHEDULER.MultiStepLR, {"milestones": [10, 25], "gamma": 0.1}),
        ({"name": "cosine", "min_factor": 0.1}, LR_SCHEDULER.CosineAnnealingLR, {"T_max": 40, "eta_min": 0.1}),
        (
            {"name": "one_cycle", "peak_at": 0.3, "start_factor": 0.04, "final_factor": 1e-4},
            LR_SCHEDULER.OneCycleLR,
            {"max_lr": 1.0, "total_steps": 40, "div_factor": 25, "final_div_factor": 400, "cycle_momentum": False},
        ),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_schedule_is_torchs_own(arguments, theirs, options):
    expected = torch_rates(theirs, 40, **options)
    assert our_rates(40, total_steps=40, unit_steps=5, **arguments) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_cycle_starts_peaks_and_ends_at_its_factors():
    factor = lr_factor("one_cycle", total_steps=100, peak_at=0.25, start_factor=0.1, final_factor=0.01)
    assert [factor(0), factor(24), factor(99), factor(1000)] == pytest.approx([0.1, 1.0, 0.01, 0.01])
    assert 0 < lr_factor("one_cycle", total_steps=1)(0) <= 1  # shorter than its way up


@pytest.mark.parametrize("name", ["step", "multistep", "cosine", "one_cycle", "constant"])
def test_warm_up_is_a_line_times_the_schedule(name):
    options = {"multistep": {"milestones": (1, 6)}, "step": {"every": 1}}.get(name, {})
    plain = lr_factor(name, total_steps=40, unit_steps=4, **options)
    rates = our_rates(40, name=name, total_steps=40, unit_steps=4, warmup=2, warmup_factor=0.2, **options)
    assert rates[:8] == pytest.approx([plain(t) * (0.2 + 0.8 * t / 8) for t in range(8)])
    assert rates[8:] == pytest.approx([plain(t) for t in range(8, 40)])


def test_constant_needs_no_scheduler():
    assert build_schedule(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), name="constant", total_steps=3) is None


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_reduces_when_torchs_does(mode, patience):
    values = [5.0, 4.0, 4.0, 4.5, 4.1, 3.0, 3.5, math.nan, 3.6, 3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5]
    values = values if mode == "min" else [-value for value in values]
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2))
    plateau = Plateau(ours, lambda step: 1.0, factor=0.5, patience=patience, mode=mode)
    reference = LR_SCHEDULER.ReduceLROnPlateau(theirs, mode=mode, factor=0.5, patience=patience, threshold=0, eps=0)
    rates = []
    for value in values:
        plateau.observe(value)
        reference.step(value)
        rates.append((ours.param_groups[0]["lr"], theirs.param_groups[0]["lr"]))
    assert [rate for rate, _ in rates] == [rate for _, rate in rates]
    assert len({rate for rate, _ in rates}) > 2  # there was something to agree on


def test_plateau_warms_up_and_resumes_where_it_was():
    def make():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        config = build_schedule(
            optimizer, name="plateau", total_steps=20, warmup=4, warmup_factor=0.5, patience=0, factor=0.1
        )
        assert config["monitor"] == "val/loss"
        return optimizer, config["scheduler"]

    def run(optimizer, plateau, steps):
        rates = []
        for step in steps:
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            plateau.step()
            if step % 2:
                plateau.observe([3.0, 4.0, 2.0, 2.5, 2.5, 1.0][step // 2])
        return rates

    whole = run(*make(), range(12))
    assert whole == pytest.approx([0.5, 0.625, 0.75, 0.875, *[0.1] * 4, 0.01, 0.01, 0.001, 0.001])

    optimizer, plateau = make()
    first = run(optimizer, plateau, range(7))
    saved = plateau.state_dict(), optimizer.state_dict()
    optimizer, plateau = make()
    optimizer.load_state_dict(saved[1])
    plateau.load_state_dict(saved[0])
    assert first + run(optimizer, plateau, range(7, 12)) == whole


def test_schedule_state_is_plain_data(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for name in ("cosine", "plateau"):
        scheduler = build_schedule(optimizer, name=name, total_steps=20, warmup=2)["scheduler"]
        torch.save(scheduler.state_dict(), tmp_path / name)
        assert torch.load(tmp_path / name, weights_only=True) == scheduler.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin"}, r"'cosin' is unknown; did you mean 'cosine'\?"),
        ({"name": "cosine", "total_steps": 0}, "0 steps"),
        ({"name": "cosine", "total_steps": -5}, "-5 steps"),
        ({"name": "cosine", "gamma": 0.1}, "'cosine' does not take gamma; it takes min_factor"),
        ({"name": "plateau", "gamma": 0.1}, "'plateau' does not take gamma; it takes factor"),
        ({"name": "constant", "warmup": 10, "unit_steps": 2}, "warm-up of 20 steps does not end within .* 20 steps"),
        ({"name": "step", "every": 0}, "every = 0"),
        ({"name": "plateau", "factor": 1.0}, "factor = 1.0"),
        ({"name": "plateau", "patience": -1}, "patience = -1"),
    ],
)
def test_wrong_schedule_arguments_are_named(arguments, message):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        build_schedule(optimizer, **({"total_steps": 20} | arguments))


def test_warmed_up_reaches_one():
    warm = warmed_up(lambda step: 1.0, 4, 0.0, total_steps=10)
    assert [warm(step) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
