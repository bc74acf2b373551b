"""Adding to the record of a run that has ended."""

import pytest

from litmus.errors import Refused
from litmus.tracking.run import Run
from litmus.tracking.spool import Spool
from litmus.tracking.stored import find_run, sync


def ended(start, **settings):
    run = start(**settings)
    run.log_metrics({"test/err": 0.3}, step=3)
    run.finish(timeout_sec=20)
    return run


def facts(run):
    with Spool(run.dir) as spool:
        return spool.status, spool.ended_at, spool.texts("tag"), spool.meta


def test_what_is_added_joins_the_record_and_the_end_stays(start, home, tmp_path):
    run = ended(start)
    before = facts(run)
    (tmp_path / "a.png").write_bytes(b"picture")
    with Run.reopen(run.dir) as again:
        again.log_metrics({"test/ece": 0.02}, step=3)
        again.log_artifact(tmp_path / "a.png", "pictures")
    assert facts(run) == before
    stored = find_run(run.uid, home=home)
    assert stored.metrics == {"test/err": 0.3, "test/ece": 0.02}
    assert stored.artifact("pictures/a.png").read_bytes() == b"picture"


def test_it_is_sent_by_sync_to_where_the_run_is(start, server, tmp_path):
    run = ended(start, send="thread", uri=server.uri)
    (remote,) = server.runs.values()
    info = dict(remote["info"])
    (tmp_path / "a.png").write_bytes(b"picture")
    for _ in range(2):  # twice is the same as once
        with Run.reopen(run.dir) as again:
            assert again.id == run.id
            again.log_metrics({"test/ece": 0.02}, step=3)
            again.log_artifact(tmp_path / "a.png", "pictures")
        assert sync(run.dir).complete
    assert sorted((key, value) for key, value, *_ in remote["metrics"]) == [("test/ece", 0.02), ("test/err", 0.3)]
    assert (server.artifacts / info["run_id"] / "pictures" / "a.png").read_bytes() == b"picture"
    assert remote["info"] == info
    assert len(server.runs) == 1


def test_an_exception_leaves_a_finished_run_finished(start):
    run = ended(start)
    before = facts(run)
    with pytest.raises(ZeroDivisionError), Run.reopen(run.dir):
        _ = 1 / 0
    assert facts(run) == before
    with Run.reopen(run.dir):  # and free
        pass


def test_a_run_that_is_written_and_what_is_no_run_are_refused(start, tmp_path):
    run = start()
    with pytest.raises(Refused, match="is in use by process"):
        Run.reopen(run.dir)
    with pytest.raises(Refused, match="is no run directory"):
        Run.reopen(tmp_path)
    assert list(tmp_path.glob("*.lock")) == []
