"""A run that one process opens and another goes on with: one attempt, one record."""

import pytest

from litmus.errors import Refused
from litmus.tracking.delivery import settle
from litmus.tracking.run import Run
from litmus.tracking.spool import Spool
from litmus.tracking.stored import find_run


def test_a_run_handed_over_is_one_attempt_with_the_record_of_both(start, home):
    with start(send="off") as first:
        first.log_metrics({"a": 1.0}, step=1)
        first.hand_over()
    with Spool(first.dir) as spool:
        assert settle(spool)  # as a `sync` would that comes in between, and sees nobody
    with Run.take_over(first.dir, send="off") as second:
        second.log_metrics({"b": 2.0}, step=1)
        with pytest.raises(Refused, match="in use by process"):
            Run.take_over(first.dir, send="off")
    run = find_run(first.uid, home=home)
    assert (run.status, run.metrics, run.tags["litmus.attempt"]) == ("FINISHED", {"a": 1.0, "b": 2.0}, "1")
    assert run.tags["litmus.fail_reason"] == ""


def test_a_run_that_fails_in_the_second_hand_has_failed(start, home):
    first = start(send="off")
    first.hand_over()
    with pytest.raises(ZeroDivisionError), Run.take_over(first.dir, send="off"):
        _ = 1 / 0
    run = find_run(first.uid, home=home)
    assert run.status == "FAILED"
    assert "ZeroDivisionError" in run.tags["litmus.fail_reason"]
