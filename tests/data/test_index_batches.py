import pytest
import torch
from torch.utils.data import SequentialSampler

from litmus.data.sampler import EvalShare, FixedBatches, IndexBatches, last_batch_size

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


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("n", [30, 31, 37, 39])
def test_the_parts_of_all_ranks_are_the_batches_of_one_process(world_size, n):
    how = {"batch_size": 10, "shuffle": True, "seed": 3}
    if n == 31:
        how["drop_last"] = True
    elif n == 37:
        world_size = min(world_size, 3)
    whole, *ranks = (
        IndexBatches(torch.arange(n), **how, **place)
        for place in ({}, *({"rank": rank, "world_size": world_size} for rank in range(world_size)))
    )
    for epoch in (0, 4):
        for sampler in (whole, *ranks):
            sampler.set_epoch(epoch)
        for batch, *parts in zip(whole, *ranks, strict=True):
            assert torch.equal(torch.cat(parts), batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert [rank.whole(part) for rank, part in zip(ranks, parts, strict=True)] == [len(batch)] * world_size


def test_a_rank_without_a_part_of_the_last_batch_is_refused():
    with pytest.raises(ValueError, match="a batch of 2 images has no part for each of 3 processes"):
        IndexBatches(torch.arange(22), 10, shuffle=True, rank=0, world_size=3)
    with pytest.raises(ValueError, match="rank is 3, must be at least 0 and below world_size = 3"):
        batches(rank=3, world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("n", "batch_size"), [(3, 1), (5, 1), (7, 2), (33, 10), (100, 7), (101, 512)])
def test_what_is_evaluated_is_shared_out_once_in_equally_many_batches(world_size, n, batch_size):
    shares = [EvalShare(torch.arange(n), batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([part for share in shares for part in share]), torch.arange(n))  # nothing twice
    assert len({len(list(share)) for share in shares} | {len(share) for share in shares}) == 1
    sizes = [len(part) for share in shares for part in share]
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size + (batch_size == 1)


def test_too_few_images_to_share_out_are_refused():
    with pytest.raises(ValueError, match="2 images have no share for each of 3 processes"):
        EvalShare(torch.arange(2), 10, rank=0, world_size=3)
