"""The local log: what is in it stays, once."""

import math
import multiprocessing
import sqlite3
import threading

import pytest

from litmus.tracking import spool as spool_module
from litmus.tracking.spool import Lock, Spool, locked


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path, create=True) as spool:
        yield spool


def metric(key, value, step, at=1000):
    return (at, "metric", key, value, step)


def test_last_metric_is_the_one_of_the_highest_step_not_the_last_written(spool):
    spool.append(
        [metric("val/err", 0.5, 0), metric("val/err", 0.2, 9), metric("val/err", 0.3, 4), metric("lr", 1.0, 0)]
    )
    assert spool.last_metrics() == {"val/err": 0.2, "lr": 1.0}
    assert [step for step, _, _ in spool.history("val/err")] == [0, 4, 9]


def test_no_metrics_are_no_metrics(spool):
    assert spool.last_metrics() == {}
    assert spool.history("val/err") == []


def test_a_point_logged_again_by_a_resumed_run_is_kept_once(spool):
    spool.append([metric("train/loss", 0.25, step) for step in range(5)])
    spool.append([metric("train/loss", 0.25, step, at=2000) for step in range(3, 8)])
    assert len(spool.history("train/loss")) == 8
    spool.append([metric("train/loss", 0.5, 7, at=3000)])  # another value is another fact
    assert spool.last_metrics() == {"train/loss": 0.5}


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e-320, -0.0])
def test_odd_numbers_come_back_as_they_went_in(spool, value):
    spool.append([metric("train/loss", value, 0)])
    assert spool.last_metrics()["train/loss"] == value
    assert spool.after(0, 10)[0].value == value


def test_nan_comes_back_as_nan(spool):
    spool.append([metric("train/loss", math.nan, 0)])
    assert math.isnan(spool.last_metrics()["train/loss"])
    assert math.isnan(spool.after(0, 10)[0].value)


def test_first_parameter_and_last_tag_count(spool):
    spool.append([(1, "param", "seed", "0", None), (1, "param", "seed", "1", None)])
    spool.append([(1, "tag", "state", "a", None), (2, "tag", "state", "b", None)])
    assert spool.texts("param") == {"seed": "0"}
    assert spool.texts("tag") == {"state": "b"}


def test_rows_are_all_there_or_none(spool):
    with pytest.raises(sqlite3.Error):
        spool.append([metric("a", 1.0, 0), (None, "metric", "b", 2.0, 0)])
    assert spool.last_metrics() == {}


def test_what_is_missing_at_a_destination_is_counted_per_destination(spool):
    spool.append([metric("a", 1.0, 0), (1, "artifact", "config.yaml", "{}", None), metric("a", 2.0, 1)])
    assert spool.unsent("here") == 3
    spool.update_destination("here", sent=3)
    (artifact,) = spool.undelivered("here")
    spool.mark_delivered("here", artifact.seq)
    assert (spool.unsent("here"), spool.unsent("there")) == (0, 3)
    assert spool.is_sent("here")
    assert not spool.is_sent("there")
    spool.append([(2, "artifact", "config.yaml", "{}", None)])  # written again: to be sent again, once
    assert spool.unsent("here") == 1


def test_a_newer_format_or_another_file_is_refused_by_name(tmp_path):
    with Spool(tmp_path, create=True) as spool:
        spool.set_meta(format="99")
    with pytest.raises(ValueError, match="format 99"):
        Spool(tmp_path)
    (tmp_path / "spool.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 20)
    with pytest.raises(ValueError, match=r"spool\.sqlite is not a run's spool"):
        Spool(tmp_path)
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "elsewhere")


def test_network_file_systems_get_no_write_ahead_log(tmp_path, monkeypatch):
    journal = "PRAGMA journal_mode"
    with Spool(tmp_path, create=True) as spool:
        assert spool._all(journal) == [("wal",)]
    monkeypatch.setattr(spool_module, "on_network", lambda path: True)
    with Spool(tmp_path) as spool:
        assert spool._all(journal) == [("truncate",)]


def test_the_deepest_mount_decides_what_the_file_system_is(tmp_path, monkeypatch):
    mounts = f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n/dev/b {tmp_path}/local xfs rw 0 0\n"
    real = spool_module.Path.read_text
    fake = lambda path, *a, **k: mounts if str(path) == "/proc/mounts" else real(path, *a, **k)  # noqa: E731
    monkeypatch.setattr(spool_module.Path, "read_text", fake)
    assert spool_module.on_network(tmp_path / "runs")
    assert not spool_module.on_network(tmp_path / "local" / "runs")
    assert not spool_module.on_network(tmp_path.parent)


def test_threads_may_write_at_once(spool):
    def write(key):
        for step in range(50):
            spool.append([metric(key, float(step), step)])

    threads = [threading.Thread(target=write, args=(f"m{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spool.last_metrics() == dict.fromkeys(["m0", "m1", "m2", "m3"], 49.0)


def test_a_lock_excludes_other_holders_and_dies_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    processes = multiprocessing.get_context("spawn")
    ready, release = processes.Event(), processes.Event()
    holder = processes.Process(target=_hold_for_test, args=(path, ready, release))
    holder.start()
    assert ready.wait(20)
    assert not Lock(path).acquire()
    with pytest.raises(TimeoutError, match="another process"), locked(path, timeout_sec=0.05):
        pass
    holder.kill()
    holder.join()
    with locked(path, timeout_sec=0.0):
        assert not Lock(path).acquire()  # nor twice in one process
    mine = Lock(path)
    assert mine.acquire()
    mine.release()


def _hold_for_test(path, ready, release):
    held = Lock(path)
    assert held.acquire()
    ready.set()
    release.wait(20)
