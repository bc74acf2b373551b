"""Which trials count, by hand: lineages, what is surplus, how often in a row a study failed, who is gone."""

import os
import time
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from litmus.study.ledger import (
    Ledger,
    failures_in_a_row,
    is_gone,
    is_surplus,
    lineages,
    myself,
    reason_of,
    uid_of,
)
from litmus.study.storage import open_storage

LR = FloatDistribution(0.0, 1.0)
STARTED_AT = datetime(2026, 3, 1, 12)
STATES = {"R": TrialState.RUNNING, "W": TrialState.WAITING, "C": TrialState.COMPLETE, "P": TrialState.PRUNED}


def trial(number, state, *, origin=None, params=True, ended=None, fixed=False):
    """``state``: R, W, C, P, or the reason of a FAIL; "" for one that Optuna failed."""
    attrs = {} if origin is None else {"litmus.origin": origin}
    if state not in STATES and state:
        attrs["litmus.fail_reason"] = state
    over = state not in ("R", "W")
    return FrozenTrial(
        number=number,
        state=STATES.get(state, TrialState.FAIL),
        value=0.1 * number if state == "C" else None,
        datetime_start=STARTED_AT,
        datetime_complete=STARTED_AT + timedelta(minutes=number if ended is None else ended) if over else None,
        params={"lr": 0.5} if params else {},
        distributions={"lr": LR} if params else {},
        user_attrs=attrs,
        system_attrs={"fixed_params": {}} if fixed else {},
        intermediate_values={},
        trial_id=number + 1000,
    )


def states(*trials, max_retry=3):
    return {origin: lineage.state for origin, lineage in lineages(trials, max_retry=max_retry).items()}


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("C", "finished"),
        ("P", "finished"),
        ("R", "running"),
        ("W", "waiting"),
        ("", "pending"),  # Optuna failed it for its silence
        ("lost: its worker is gone", "pending"),
        ("stopped: its worker was asked to stop", "pending"),
        ("surplus", "void"),
        ("duplicate of trial 3, which runs", "void"),
        ("killed: its process ended by SIGKILL", "failed"),
        ("not finite: the objective is nan", "failed"),
        ("lostness", "failed"),
    ],
)
def test_a_single_attempt_says_what_becomes_of_it(reason, state):
    assert states(trial(7, reason)) == {7: state}


def test_the_attempts_at_a_trial_are_one_lineage_under_the_first_number():
    known = lineages([trial(5, "C", origin=2), trial(3, "R"), trial(2, "lost: gone")], max_retry=3)
    assert list(known) == [2, 3]
    assert [one.number for one in known[2].attempts] == [2, 5]
    assert (known[2].last.number, known[2].state, known[3].state) == (5, "finished", "running")


def test_what_was_queued_again_is_pending_no_more():
    assert states(trial(0, "lost: gone"), trial(4, "W", origin=0)) == {0: "waiting"}
    assert states(trial(0, "lost: gone"), trial(4, "R", origin=0)) == {0: "running"}
    assert states(trial(0, "lost: gone"), trial(4, "killed: by SIGKILL", origin=0)) == {0: "failed"}


def test_an_end_counts_whatever_an_older_attempt_comes_to_later():
    late = lineages([trial(0, "R"), trial(4, "C", origin=0)], max_retry=3)
    assert (late[0].state, late[0].last.number) == ("finished", 4)
    twice = lineages([trial(0, "C"), trial(4, "C", origin=0)], max_retry=3)
    assert twice[0].last.number == 0


def test_a_trial_is_taken_up_max_retry_times_after_a_loss_and_always_after_a_stop():
    lost = [trial(number, "lost: gone", origin=0 if number else None) for number in range(4)]
    assert states(*lost[:3], max_retry=3) == {0: "pending"}
    assert states(*lost, max_retry=3) == {0: "failed"}
    assert states(trial(0, "lost: gone"), max_retry=0) == {0: "failed"}
    stopped = [trial(number, "stopped: asked to", origin=0 if number else None) for number in range(9)]
    assert states(*stopped, max_retry=0) == {0: "pending"}


def test_what_was_lost_before_it_had_parameters_never_was_a_trial_unless_it_was_queued_with_some():
    assert states(trial(0, "lost: gone", params=False)) == {0: "void"}
    assert states(trial(0, "lost: gone", params=False, fixed=True)) == {0: "pending"}


def test_surplus_is_what_has_n_trials_living_lineages_before_it():
    trials = [trial(0, "C"), trial(1, "killed: by SIGKILL"), trial(2, "R"), trial(3, "lost: gone"), trial(4, "surplus")]
    trials += [trial(5, "R"), trial(6, "R")]
    known = lineages(trials, max_retry=3)
    living = [origin for origin, one in known.items() if one.alive]
    assert living == [0, 2, 3, 5, 6]  # failed for good and surplus have freed their places; lost has not
    assert [is_surplus(one, known, n_trials=4) for one in trials[-2:]] == [False, True]
    assert [is_surplus(one, known, n_trials=3) for one in trials[-2:]] == [True, True]


def test_a_trial_taken_up_again_keeps_the_place_of_its_first_attempt():
    trials = [trial(0, "lost: gone"), trial(1, "C"), trial(2, "C"), trial(3, "R", origin=0)]
    assert not is_surplus(trials[-1], lineages(trials, max_retry=3), n_trials=2)


def test_failures_in_a_row_are_those_after_the_last_that_finished_in_the_order_of_their_ends():
    trials = [trial(0, "C", ended=5), trial(1, "error: a", ended=9), trial(2, "error: b", ended=7)]
    trials += [trial(3, "error: c", ended=1), trial(4, "R"), trial(5, "surplus", ended=8), trial(6, "lost: x", ended=8)]
    known = lineages(trials, max_retry=3)
    assert [one.origin for one in failures_in_a_row(known)] == [2, 1]  # 3 ended before trial 0 did
    assert failures_in_a_row(lineages([*trials, trial(9, "P", ended=20)], max_retry=3)) == []


def test_a_reason_is_the_one_given_and_for_a_silent_trial_its_silence():
    assert reason_of(trial(0, "C")) == ""
    assert reason_of(trial(0, "disk: full")) == "disk: full"
    assert reason_of(trial(0, "")) == "lost: its worker fell silent"


def test_a_uid_is_that_of_its_parts():
    assert uid_of("a", "b", 3) == uid_of("a", "b", "3") != uid_of("a", "b", 4)
    assert len(uid_of("a")) == 32
    assert int(uid_of("a"), 16) >= 0


# --- who is gone


def test_a_worker_is_gone_when_its_process_is_or_its_number_is_another_ones():
    me = myself(3)
    assert me.partition("|")[0].endswith("/3")
    assert not is_gone(me)
    head, _, started = me.rpartition("|")
    assert is_gone(f"{head}|{float(started) - 100:.2f}")  # the number was given to another process
    assert is_gone(me.replace(f"|{os.getpid()}|", "|4194999|"))


@pytest.mark.parametrize("place", [1, 2, 3])
def test_of_a_worker_elsewhere_nothing_is_known(place):
    words = myself(0).split("|")
    words[place] = "another"
    words[-2] = "4194999"
    assert not is_gone("|".join(words))


@pytest.mark.parametrize("name", ["", "host/0", "a|b|c|d|e|f", "host/0|||||"])
def test_a_worker_without_an_address_is_not_known_to_be_gone(name):
    assert not is_gone(name)


# --- in a storage


@pytest.fixture
def ledger(place):
    storage = open_storage(place, heartbeat_sec=1, grace_sec=3)
    study = optuna.create_study(study_name="s", storage=storage)
    study.set_user_attr("litmus.uid", "u")
    yield Ledger(study, storage, place, n_trials=4, max_retry=1, grace_sec=3)
    storage.close()


def dead_worker():
    head, _, _ = myself(0).rpartition("|")
    return f"{head}|1.00"


def running(ledger, worker):
    one = ledger.study.ask({"lr": LR})
    one.set_user_attr("litmus.worker", worker)
    one.set_user_attr("litmus.config_sha", "abc")
    ledger.storage.record_heartbeat(one._trial_id)
    return one


@pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")
class TestReclaim:
    def test_a_trial_of_a_dead_worker_is_queued_again_once_with_its_parameters(self, ledger):
        ours, lost = running(ledger, myself(0)), running(ledger, dead_worker())
        assert ledger.needs_reclaim(ledger.lineages())
        assert ledger.reclaim() == [lost.number]
        assert ledger.reclaim() == []
        first, second, third = ledger.study.get_trials()
        assert (first.number, first.state) == (ours.number, TrialState.RUNNING)
        assert (second.state, reason_of(second)) == (TrialState.FAIL, "lost: its worker is gone")
        assert (third.state, third.params) == (TrialState.WAITING, lost.params)
        assert third.user_attrs == {"litmus.origin": 1, "litmus.attempt": 2, "litmus.config_sha": "abc"}

    def test_a_trial_failed_and_not_queued_is_queued_by_the_next_who_looks(self, ledger):
        lost = running(ledger, dead_worker())
        ledger.reclaim()
        ledger.study.ask()  # it is taken up again, and lost again, and whoever failed it died
        again = ledger.study.trials[1]
        assert ledger.fail(again, "stopped: and killed before it was queued")
        assert ledger.needs_reclaim(ledger.lineages())
        assert ledger.reclaim() == [lost.number]
        assert ledger.lineages()[lost.number].state == "waiting"
        assert [one.number for one in ledger.lineages()[lost.number].attempts] == [0, 1, 2]

    def test_a_trial_that_never_had_a_sign_of_life_gets_its_first_and_is_lost_after_the_grace_time(self, ledger):
        ledger.grace_sec = ledger.storage.grace_period = 1
        silent = ledger.study.ask({"lr": LR})
        assert ledger.reclaim() == []
        time.sleep(2.2)
        assert ledger.reclaim() == [silent.number]

    def test_a_second_fail_says_so_and_changes_nothing(self, ledger):
        one = running(ledger, myself(0))
        assert ledger.fail(one, "disk: full")
        assert not ledger.fail(one, "error: later")
        assert reason_of(ledger.study.trials[0]) == "disk: full"
