"""Who launched a process, and what the processes of one run say to each other."""

import pytest
import torch

from litmus import ranks
from litmus.classifier import Sums, means_of
from litmus.errors import Refused
from litmus.ranks import Place, contradictions, launched, meeting_point, num_threads

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}
BATCH = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}


def test_torchrun_and_srun_say_the_same_place():
    assert launched(TORCHRUN) == Place(3, 4, local_rank=1, node=1, nodes=2, by="torchrun")
    assert launched(SRUN) == Place(3, 4, local_rank=1, node=1, nodes=2, by="srun")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        BATCH,  # the batch script itself, before any srun
        {**BATCH, "SLURM_STEP_ID": "4294967291"},
        {**SRUN, "SLURM_JOB_NAME": "bash"},
        {**SRUN, "SLURM_NTASKS": "1"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_process_that_was_started_alone_is_no_rank(environ):
    assert launched(environ) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"RANK": "4"}, "RANK = 4: must be below WORLD_SIZE = 4"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE = 'four': must be a number"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK: is not set, though WORLD_SIZE = 4"),
    ],
)
def test_a_launch_that_contradicts_itself_is_refused(changed, says):
    environ = {name: value for name, value in {**TORCHRUN, **changed}.items() if value is not None}
    with pytest.raises(Refused, match=says):
        launched(environ)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu-[003-004]", "gpu-003"),
        ("gpu[7,9],cpu1", "gpu7"),
        ("a1,a2", "a1"),
        ("alone", "alone"),
    ],
)
def test_processes_of_srun_meet_at_the_first_node(nodes, first):
    address, port = meeting_point({**SRUN, "SLURM_STEP_NODELIST": nodes})
    assert address == first
    assert 20_000 <= port < 30_000
    assert meeting_point({"MASTER_ADDR": "here", "MASTER_PORT": "77", **SRUN}) == ("here", 77)


def test_devices_that_are_not_what_was_launched_are_refused_with_figures():
    place = launched(TORCHRUN)
    assert place is not None
    assert contradictions(place, devices=2, nodes=2) == []
    assert [str(problem) for problem in contradictions(place, devices=4, nodes=1)] == [
        "train.nodes = 1: torchrun started 4 processes on 2 machines: set it to 2"
    ]
    assert [str(problem) for problem in contradictions(place, devices=1, nodes=2)] == [
        "train.devices = 1: torchrun started 4 processes on 2 machines: set it to 2"
    ]


def test_processes_share_the_processors_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(ranks.os, "sched_getaffinity", lambda pid: range(12), raising=False)
    assert [num_threads({}, share) for share in (1, 2, 5, 24)] == [12, 6, 2, 1]
    assert num_threads({"OMP_NUM_THREADS": "3"}, 2) == 3
    assert num_threads({"SLURM_CPUS_PER_TASK": "4"}, 2) == 4


def test_each_rank_draws_from_its_own_stream_and_the_first_from_its_old_one():
    drawn = []
    for rank in (0, 1, 2, 1):
        torch.manual_seed(7)
        ranks.seed_rank(7, rank)
        drawn.append(torch.rand(3).tolist())
    torch.manual_seed(7)
    assert drawn[0] == torch.rand(3).tolist()
    assert drawn[1] == drawn[3]
    assert len({tuple(one) for one in drawn}) == 3


def test_sums_are_of_all_ranks(monkeypatch):
    """Two ranks in one process: what each adds up is kept, and both get the total."""
    first, second = Sums(), Sums()
    first.add(torch.tensor(2.0), torch.tensor(3), 10)
    second.add(torch.tensor(1.0), torch.tensor(0), 5)
    monkeypatch.setattr("litmus.classifier.world", lambda: (0, 2))
    other = [5.0, 0.0, 5.0]
    monkeypatch.setattr("litmus.classifier.add_up", lambda mine: [a + b for a, b in zip(mine, other, strict=True)])
    assert means_of([first]) == [{"loss": 25 / 15, "err": 3 / 15}]
    assert means_of([Sums()]) == [{"loss": 1.0, "err": 0.0}]  # images of another rank only
