"""What reaches a store, whatever the store does: everything, once, in batches it takes."""

import json
import math
import socket

import pytest

from litmus.tracking.delivery import Delivery, settle
from litmus.tracking.destination import Destination
from litmus.tracking.spool import Lock, Spool, now_ms
from litmus.tracking.store import RowsRefused, RunDeleted, RunGone, StoreTrouble, attempt_in

HERE = Destination("http://store", "http://store")


class MemoryStore:
    """A store that keeps what it is sent as MLflow does, and can be told to fail."""

    def __init__(self):
        self.metrics, self.params, self.tags, self.files, self.datasets = set(), {}, {}, {}, {}
        self.status, self.run_id, self.parent = None, None, None
        self.parents_known: set[str] = set()
        self.batches: list[tuple[int, int, int]] = []
        self.fail: list[Exception] = []  # raised by the next calls, after they did their work
        self.bad_param, self.says = "", ""
        self.bad_file = ""

    def _answer(self):
        if self.fail:
            raise self.fail.pop(0)

    def attach(self, *, uid, experiment, name, started_at, tags):
        self.run_id = self.run_id or f"id-of-{uid}"
        self._answer()
        return self.run_id

    def exists(self, run_id):
        return run_id == self.run_id

    def attempt_of(self, run_id):
        return attempt_in(self.tags)

    def link_parent(self, run_id, *, experiment, parent_uid):
        self.parent = parent_uid if parent_uid in self.parents_known else self.parent
        return self.parent is not None

    def send(self, run_id, *, metrics, params, tags):
        if run_id != self.run_id:
            raise RunGone(run_id)
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        assert len(metrics) + len(params) + len(tags) <= 1000
        assert len(json.dumps([params, tags])) < 1_000_000
        if self.bad_param in params:
            raise RowsRefused(self.says or f"{self.bad_param} is not taken")
        self.batches.append((len(metrics), len(params), len(tags)))
        self.metrics |= set(metrics)
        self.params |= params
        self.tags |= tags
        self._answer()

    def send_dataset(self, run_id, *, name, source, digest, context):
        self.datasets[name, digest] = (source, context)
        self._answer()

    def set_status(self, run_id, status, at):
        self.status = status
        self._answer()

    def upload(self, run_id, path, name):
        if name == self.bad_file:
            raise StoreTrouble("too large today")
        self.files[name] = path.read_text()
        self._answer()


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path, create=True) as spool:
        spool.set_meta(uid="a" * 32, name="n", experiment="e", started_at="1", parent_uid="", owner_host="elsewhere")
        yield spool


@pytest.fixture
def store():
    return MemoryStore()


def deliver(spool, store):
    delivery = Delivery(spool, HERE, lambda destination: store)
    delivery.deliver()
    return delivery


def fill(spool, points=2500):
    spool.append([(1, "param", f"p{index}", "v" * 5000, None) for index in range(150)])
    spool.append([(1, "tag", f"t{index}", "v" * 7000, None) for index in range(120)])
    spool.append([(step, "metric", "train/loss", 1 / (step + 1), step) for step in range(points)])
    spool.append([(1, "dataset", "digits", '{"source": "s", "digest": "d", "context": "train"}', None)])
    spool.append([(9, "status", "status", "FINISHED", None)])


def keep(spool, name, text):
    (spool.directory / "artifacts").mkdir(exist_ok=True)
    (spool.directory / "artifacts" / name).write_text(text)
    spool.append([(1, "artifact", name, "{}", None)])


def test_everything_arrives_in_batches_within_the_limits(spool, store):
    fill(spool)
    keep(spool, "config.yaml", "a: 1")
    deliver(spool, store)
    assert (len(store.params), len(store.tags), len(store.metrics)) == (150, 120, 2500)
    assert store.datasets == {("digits", "d"): ("s", "train")}
    assert store.status == "FINISHED"
    assert store.files == {"config.yaml": "a: 1"}
    assert spool.is_sent(HERE.label)


def test_a_second_delivery_sends_nothing(spool, store):
    fill(spool)
    deliver(spool, store)
    sent = len(store.batches)
    deliver(spool, store)
    assert len(store.batches) == sent


@pytest.mark.parametrize("lost_after", range(6))
def test_an_answer_lost_anywhere_neither_doubles_nor_drops(spool, store, lost_after):
    fill(spool)
    keep(spool, "config.yaml", "a: 1")

    class LosesOne(list):
        calls = 0

        def __bool__(self):
            LosesOne.calls += 1
            return LosesOne.calls == lost_after + 1

        def pop(self, index=-1):
            return StoreTrouble("no answer")

    store.fail = LosesOne()
    with pytest.raises(StoreTrouble):
        deliver(spool, store)
    store.fail = []
    deliver(spool, store)
    assert (len(store.params), len(store.tags), len(store.metrics)) == (150, 120, 2500)
    assert (store.status, len(store.datasets), len(store.files)) == ("FINISHED", 1, 1)


def test_one_row_that_is_refused_keeps_no_other_back(spool, store):
    fill(spool)
    store.bad_param = "p77"
    deliver(spool, store)
    assert set(store.params) == {f"p{index}" for index in range(150)} - {"p77"}
    assert store.status == "FINISHED"
    assert spool.skipped(HERE.label) == ["param p77: p77 is not taken"]


def test_a_store_made_anew_gets_everything_again(spool, store):
    fill(spool)
    deliver(spool, store)
    spool.append([(10, "tag", "late", "1", None)])
    fresh = MemoryStore()
    fresh.run_id = "another"
    delivery = Delivery(spool, HERE, lambda destination: fresh)
    delivery._run_id = "id-of-" + "a" * 32  # a sender that has been connected all along
    delivery.deliver()
    assert (len(fresh.metrics), fresh.tags["late"], fresh.status) == (2500, "1", "FINISHED")


def test_a_secret_in_a_stores_refusal_is_masked(spool, store, caplog):
    spool.append([(1, "param", "bad", "x", None)])
    store.bad_param = "bad"
    store.says = "the header was Authorization: Bearer correct.horse"
    deliver(spool, store)
    (skipped,) = spool.skipped(HERE.label)
    assert skipped == "param bad: the header was Authorization: [masked] [masked]"
    assert "correct.horse" not in caplog.text


def test_a_run_deleted_in_mlflow_is_left_alone(spool, store):
    fill(spool)
    store.fail = [RunDeleted("deleted")]
    delivery = Delivery(spool, HERE, lambda destination: store)
    with pytest.raises(RunDeleted):
        delivery.deliver()
    assert delivery.gave_up


def test_a_later_attempt_from_another_directory_is_not_overwritten(spool, store):
    """A machine that was thought dead, or came back: another one went on with its trial, and finished it."""
    spool.append([(1, "tag", "litmus.trial_attempt", "1", None), (1, "metric", "val/err", 0.5, 0)])
    delivery = Delivery(spool, HERE, lambda destination: store)
    delivery.deliver()
    store.tags["litmus.trial_attempt"] = "2"  # as the other machine's record says
    store.status = "FINISHED"
    spool.append([(2, "metric", "val/err", 0.25, 1), (3, "status", "status", "KILLED", None)])
    keep(spool, "late.txt", "late")
    delivery.deliver()
    assert (store.status, store.tags["litmus.trial_attempt"], store.files) == ("FINISHED", "2", {})
    assert spool.is_sent(HERE.label)
    assert spool.unsent(HERE.label) == 0
    assert "attempt 1 at this run, of which attempt 2 is recorded elsewhere" in spool.skipped(HERE.label)[-1]

    spool.append([(4, "tag", "litmus.fail_reason", "its process ended", None), (4, "status", "status", "KILLED", None)])
    Delivery(spool, HERE, lambda destination: store).deliver()  # by who comes next: nothing at all is sent
    assert (store.status, "litmus.fail_reason" in store.tags) == ("FINISHED", False)
    assert spool.is_sent(HERE.label)


def test_an_attempt_that_goes_on_in_its_directory_is_sent_as_ever(spool, store):
    spool.append([(1, "tag", "litmus.trial_attempt", "1", None), (2, "status", "status", "KILLED", None)])
    deliver(spool, store)
    spool.append([(3, "tag", "litmus.trial_attempt", "2", None), (4, "status", "status", "FINISHED", None)])
    deliver(spool, store)
    assert (store.status, store.tags["litmus.trial_attempt"]) == ("FINISHED", "2")


def test_a_file_that_fails_keeps_no_other_back(spool, store):
    for name in ("a.txt", "b.txt", "c.txt"):
        keep(spool, name, name)
    store.bad_file = "a.txt"
    with pytest.raises(StoreTrouble, match="too large today"):
        deliver(spool, store)
    assert set(store.files) == {"b.txt", "c.txt"}
    store.bad_file = ""
    deliver(spool, store)
    assert set(store.files) == {"a.txt", "b.txt", "c.txt"}


def test_a_file_that_is_gone_is_named_and_passed_over(spool, store):
    keep(spool, "a.txt", "a")
    (spool.directory / "artifacts" / "a.txt").unlink()
    deliver(spool, store)
    assert spool.is_sent(HERE.label)
    assert "a.txt is not there any more" in spool.skipped(HERE.label)[0]


def test_a_child_hangs_under_its_parent_as_soon_as_that_is_there(spool, store):
    spool.set_meta(parent_uid="b" * 32)
    delivery = Delivery(spool, HERE, lambda destination: store)
    delivery.deliver()
    assert store.parent is None
    store.parents_known.add("b" * 32)
    delivery.deliver()
    assert store.parent == "b" * 32


def test_nan_is_sent_as_nan(spool, store):
    spool.append([(1, "metric", "train/loss", math.nan, 0)])
    deliver(spool, store)
    ((_, value, _, _),) = store.metrics
    assert math.isnan(value)


def test_a_run_whose_process_is_gone_is_called_killed(spool):
    spool.set_meta(owner_host=socket.gethostname(), owner_pid="123")
    held = Lock(spool.directory / ".owner.lock")
    assert held.acquire()
    assert not settle(spool)  # it lives
    held.release()
    assert settle(spool)
    assert spool.status == "KILLED"
    assert spool.texts("tag")["litmus.fail_reason"] == "its process (123) ended without a word"
    assert not settle(spool)  # said once


def test_another_machines_run_is_called_killed_when_it_has_been_silent_for_ten_minutes(spool):
    spool.set_meta(owner_host="elsewhere", owner_pid="123", alive_at=str(now_ms() - 590_000))
    assert not settle(spool)
    assert spool.status == "RUNNING"
    silent_since = now_ms() - 601_000
    spool.set_meta(alive_at=str(silent_since))
    assert settle(spool)
    assert (spool.status, spool.ended_at) == ("KILLED", silent_since)
    assert spool.texts("tag")["litmus.fail_reason"] == "its process (123 on elsewhere) ended without a word"
