"""What ``litmus.optim`` promises about accumulated, clipped and mixed-precision steps, in Lightning's hands."""

from __future__ import annotations

import pytest
import torch

from litmus.optim import OPTIMIZERS, build_optimizer, build_schedule


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_clips_under_mixed_precision(name, learner, data, make_trainer):
    module = learner(lambda network: build_optimizer(network, name=name, lr=0.01, num_train=12, l2_lambda=0.1))
    before = module.network[0].weight.detach().clone()
    options = {"max_epochs": 1, "precision": "bf16-mixed", "gradient_clip_val": 0.1}
    make_trainer(**options).fit(module, data(12), data(4))
    assert not torch.equal(module.network[0].weight, before)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (3, 2)])
def test_schedule_and_l1_count_optimizer_steps_not_batches(accumulate, steps, learner, data, make_trainer):
    rates = []  # an epoch has 4 batches; accumulated by 3 they make a step of 3 and a step of 1

    def configure(network):
        optimizer = build_optimizer(network, name="sgd", lr=0.5, num_train=1, l1_lambda=1e-3)
        optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
        schedule = build_schedule(optimizer, name="step", total_steps=2 * steps, unit_steps=steps, every=1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    module = learner(configure)
    module.training_step = lambda batch, batch_idx: (module.network[0].weight * 0).sum()  # no gradient but a zero one
    before = module.network[0].weight.detach().clone()
    make_trainer(max_epochs=2, accumulate_grad_batches=accumulate).fit(module, data(16), data(4))
    assert rates == [0.5] * steps + [0.25] * steps
    moved = (before.abs() - module.network[0].weight.detach().abs()).max()
    assert moved.item() == pytest.approx(1e-3 * sum(rates), rel=1e-4)
