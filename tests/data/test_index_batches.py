import pytest
import torch
from torch.utils.data import SequentialSampler

from litmus.data.sampler import FixedBatches, IndexBatches, last_batch_size

INDICES = torch.arange(100, 133)


def batches(**changes):
    return IndexBatches(INDICES, **{"batch_size": 10, "shuffle": True, **changes})


def test_an_epoch_hands_out_every_index_once_as_tensors():
    epoch = list(batches())
    assert [len(batch) for batch in epoch] == [10, 10, 10, 3]
    assert all(batch.dtype == torch.int64 for batch in epoch)
    assert torch.equal(torch.cat(epoch).sort().values, INDICES)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    first, again = batches(seed=3), batches(seed=3)
    list(again)  # an epoch already handed out changes nothing
    for sampler in (first, again):
        sampler.set_epoch(5)
    assert torch.equal(first.order(), again.order())
    again.set_epoch(6)
    assert not torch.equal(first.order(), again.order())
    again.set_epoch(5)
    assert torch.equal(first.order(), again.order())
    assert not torch.equal(batches(seed=4).order(), batches(seed=3).order())


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before, order = torch.get_rng_state(), batches().order()
    torch.manual_seed(1)
    assert torch.equal(batches().order(), order)
    torch.manual_seed(0)
    list(batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_drop_last_leaves_out_the_incomplete_batch_only():
    assert [len(batch) for batch in batches(drop_last=True)] == [10, 10, 10]
    assert len(list(batches(drop_last=True, batch_size=11))) == 3


def test_without_shuffling_the_given_order_is_kept():
    sampler = batches(shuffle=False)
    sampler.set_epoch(4)
    assert torch.equal(torch.cat(list(sampler)), INDICES)


def test_fixed_batches_are_what_lightning_takes_for_sequential():
    sampler = FixedBatches(INDICES, 10, drop_last=True)
    assert isinstance(sampler, SequentialSampler)
    assert [len(batch) for batch in sampler] == [10, 10, 10]
    assert len(sampler) == 3


@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last", "last"),
    [
        (33, 10, False, 3),
        (33, 10, True, 10),
        (30, 10, False, 10),
        (31, 10, False, 1),
        (5, 10, False, 5),
        (5, 10, True, 0),
    ],
)
def test_the_last_batch_has_the_size_that_is_announced(n, batch_size, drop_last, last):
    assert last_batch_size(n, batch_size, drop_last) == last
    handed_out = list(IndexBatches(torch.arange(n), batch_size, shuffle=True, drop_last=drop_last))
    assert (len(handed_out[-1]) if handed_out else 0) == last
    assert len(handed_out) == len(IndexBatches(torch.arange(n), batch_size, shuffle=True, drop_last=drop_last))


def test_a_batch_of_nothing_is_refused_by_name():
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(batch_size=0)
