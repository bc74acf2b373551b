"""On a GPU, with CUDA's determinism flags: twice the same, cut anywhere and resumed, and reproduced by another process.

The rest of the suite also trains on a GPU where there is one, for ``train.accelerator`` is ``auto``.
"""

import pytest
import torch

from tests.reliability import test_reproduce_proof as reproduce
from tests.reliability.test_exact_resume import VARIANTS, cut_at_every_batch
from tests.reliability.training import EVERYTHING, differing, merged, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = {"train": {"accelerator": "gpu"}}
KINDS = {
    **VARIANTS,
    "fp16": {"train": {"precision": "16-mixed"}},
    "channels last": {"train": {"precision": "bf16-mixed", "channels_last": True}},
    "images of 32x32": {"data": {**EVERYTHING["data"], "image_size": 32}, "augment": {"rotate": 15.0, "shear": 5.0}},
}


def config_of(kind):
    return merged(EVERYTHING, KINDS[kind], GPU)


@pytest.mark.parametrize("kind", ["everything", "fp16", "channels last"])
def test_a_training_on_a_gpu_ends_the_same_twice_and_when_it_was_cut(kind, tmp_path):
    whole = train(tmp_path / "whole", config_of(kind))
    assert differing(whole, train(tmp_path / "again", config_of(kind))) == []
    for batch, stopped, found in cut_at_every_batch(tmp_path / "cuts", config_of(kind), (3, 7, 11)):
        assert stopped, batch
        assert found == []


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_gpu_repeats_itself_to_the_last_bit(figure, tmp_path):
    wrong, twice, cuts = [], 0, 0
    for kind in KINDS:
        folder = tmp_path / kind.replace(" ", "-")
        whole = train(folder / "one", config_of(kind))
        found = differing(whole, train(folder / "other", config_of(kind)))
        twice += not found
        wrong += [f"{kind}, twice: {found[0]}"] if found else []
        for batch, _, differs in cut_at_every_batch(folder, config_of(kind), (3, 6, 7, 11)):
            cuts += not differs
            wrong += [f"{kind}, batch {batch}: {differs[0]}"] if differs else []
    again = ("mlp", "augmented", "moving average", "steps, bf16")
    same, said = reproduce.reproduced(again, tmp_path, more=("train.accelerator=gpu",))
    wrong += [f"reproduce {name}: {said[name][-300:]}" for name in again if name not in same]
    says = f"{twice} of {len(KINDS)} identical twice, {cuts} of {4 * len(KINDS)} when cut and resumed, "
    says += f"{len(same)} of {len(again)} by `litmus reproduce`"
    figure("cuda", says, holds=not wrong, note="; ".join([torch.cuda.get_device_name(), *wrong[:5]]))
