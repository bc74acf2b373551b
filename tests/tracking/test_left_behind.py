"""What a process leaves that was killed in a run's first milliseconds, or for good: taken up, or put right."""

import sqlite3

import pytest

from litmus.errors import Refused
from litmus.tracking import Run, directory_of, find_run, put_right, record
from litmus.tracking.spool import FILE
from litmus.tracking.store import UID_TAG, Store
from litmus.tracking.stored import BEST_TAG

UID = "a1" * 16


def start(home, **how):
    return Run.start(home=home, experiment="litmus/test", name="trial", uid=UID, send=how.pop("send", "off"), **how)


@pytest.mark.parametrize("left", ["nothing", "empty file", "no uid"])
def test_a_run_killed_before_it_had_a_uid_can_be_started_again(tmp_path, left):
    folder = tmp_path / "runs" / f"trial-{UID[:8]}"
    folder.mkdir(parents=True)
    if left == "empty file":
        (folder / FILE).write_bytes(b"")
    if left == "no uid":
        with start(tmp_path) as run:
            pass
        with sqlite3.connect(run.dir / FILE) as db:
            db.execute("DELETE FROM meta WHERE key = 'uid'")
        db.close()
    with start(tmp_path) as again:
        again.log_metrics({"val/err": 0.5}, step=1)
    assert again.dir == folder
    assert find_run(UID, home=tmp_path).metrics == {"val/err": 0.5}
    assert directory_of(UID, tmp_path) == folder


def test_a_run_that_had_a_uid_is_never_cleared(tmp_path):
    with start(tmp_path) as run:
        run.log_metrics({"val/err": 0.5}, step=1)
    with start(tmp_path) as again:
        assert again.continued
    assert find_run(UID, home=tmp_path).metrics == {"val/err": 0.5}


def test_put_right_ends_the_wanted_run_and_leaves_the_others_running(tmp_path):
    other = "b2" * 16
    runs = [
        Run.start(home=tmp_path, experiment="litmus/test", name=name, uid=uid, send="thread")
        for name, uid in (("lost", UID), ("lives", other))
    ]
    try:
        assert all(run.wait_id(30) for run in runs)
        assert put_right({UID: "FAILED", "c3" * 16: "FINISHED"}, home=tmp_path) == ["lost"]
        found = {run.tags[UID_TAG]: run.status for run in Store(runs[0]._destination).runs()}
        assert found == {UID: "FAILED", other: "RUNNING"}
    finally:
        for run in runs:
            run.finish()


def test_put_right_makes_no_store_to_look_into(tmp_path):
    assert put_right({UID: "FAILED"}, home=tmp_path) == []
    assert not (tmp_path / "mlflow.db").exists()


def test_best_of_a_study_is_the_run_that_its_parent_names(tmp_path):
    with start(tmp_path):
        pass
    with Run.start(home=tmp_path, experiment="litmus/test", name="digits", kind="study", send="off") as parent:
        parent.set_tags({BEST_TAG: UID})
    assert find_run("best:digits", home=tmp_path).uid == UID
    with pytest.raises(Refused, match="did you mean 'digits'"):
        find_run("best:digit", home=tmp_path)


def test_a_study_without_a_finished_trial_has_no_best(tmp_path):
    with Run.start(home=tmp_path, experiment="litmus/test", name="digits", kind="study", send="off"):
        pass
    with pytest.raises(Refused, match="has no finished trial yet"):
        find_run("best:digits", home=tmp_path)


def test_where_the_surroundings_are_fixed_git_is_asked_once(monkeypatch):
    monkeypatch.setattr(record, "_fixed", None)
    asked = []
    monkeypatch.setattr(record, "_git", lambda folder, *words: asked.append(words) or "same")
    monkeypatch.setattr(record, "_repository", lambda: record.Path())
    record.git_diff()
    each = len(asked)
    record.git_diff()
    assert len(asked) == 2 * each > 0
    record.fix_surroundings()
    fixed = len(asked)
    assert record.git_diff()
    record.environment()
    record.fix_surroundings()
    assert len(asked) == fixed > 2 * each
