from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import torch

from litmus.callbacks import GL, PQ, UP, EarlyStopping, LastCheckpoint, Patience, build_criterion
from litmus.criteria import CRITERIA, generalisation_loss, training_progress


def stops_at(criterion, val_losses, train_losses=None):
    """1-based validation at which the criterion first gives a reason, or None."""
    for t, (train, val) in enumerate(zip(train_losses or itertools.repeat(1.0), val_losses, strict=False), 1):
        if criterion.update(train, val):
            return t
    return None


def test_gl_is_percent_above_the_lowest_so_far():
    assert generalisation_loss(1.1, 1.0) == pytest.approx(10.0)
    # lowest 0.5; 0.54 is +8%, 0.625 is +25% and not above it, 0.626 is
    assert stops_at(GL(alpha=25), [1.0, 0.5, 0.54, 0.625, 0.626]) == 5
    assert stops_at(GL(alpha=1), [1.0, 0.5, 0.54, 0.625, 0.626]) == 3
    assert stops_at(GL(alpha=0), [0.5, 0.5, 0.4, 0.41]) == 4
    assert GL().alpha == 10


def test_gl_says_what_it_saw():
    criterion = GL(alpha=5)
    assert [criterion.update(None, loss) for loss in (1.0, 0.5)] == [None, None]
    reason = criterion.update(None, 0.6)
    assert reason == "GL = 20.0% > 5%: validation loss 0.6 at validation 3, 0.5 at validation 2"


def test_training_progress_is_per_mille_above_the_strips_minimum():
    assert training_progress([1.0, 1.0, 1.0]) == 0
    assert training_progress([1.2, 1.0, 1.1]) == pytest.approx(100.0)  # mean 1.1 over minimum 1.0


def test_pq_forgives_while_training_progresses_and_stops_when_it_does_not():
    val = [1.0, 1.02, 1.04, 1.06, 1.08, 1.10]  # GL 2, 4, 6, 8, 10 percent
    fast = [2.0, 1.5, 1.0, 0.9, 0.8, 0.7]
    slow = [1.000, 0.999, 0.998, 0.997, 0.996, 0.995]
    # strip of 3, slow: mean 0.999, minimum 0.998: P = 1.002; GL 4 / 1.002 = 3.99
    assert stops_at(PQ(alpha=3.9, strip=3), val, slow) == 3
    assert stops_at(PQ(alpha=4.1, strip=3), val, slow) == 6  # second strip: GL 10, P 1.004
    # fast: mean 1.5 over 1.0: P = 500; then 0.8 over 0.7: P = 143; GL 10 / 143 = 0.07
    assert stops_at(PQ(alpha=0.06, strip=3), val, fast) == 6
    assert stops_at(PQ(alpha=0.08, strip=3), val, fast) is None


def test_pq_looks_at_the_end_of_a_strip_only():
    val = [1.0, 9.0, 9.0, 9.0, 9.0, 1.0, 9.0]
    assert stops_at(PQ(alpha=0.5, strip=5), val, [1.0] * 7) == 5
    # 2 and 3 are within a strip, and 4, which ends one, is the new lowest
    assert stops_at(PQ(alpha=0.5, strip=4), [1.0, 9.0, 9.0, 0.9, 9.0, 9.0, 9.0], [1.0] * 7) is None


def test_pq_strips_do_not_overlap():
    # the jump from 2.0 down is in the first strip only; the second is flat, P = 0, so any GL > 0 stops
    assert stops_at(PQ(alpha=5, strip=2), [1.0, 1.1, 1.2, 1.3], [2.0, 1.0, 1.0, 1.0]) == 4


def test_pq_without_training_loss_is_told_which_to_log():
    with pytest.raises(ValueError, match="log train/loss"):
        PQ().update(None, 1.0)


def test_up_needs_s_rises_in_a_row_between_strip_ends():
    val = [5, 4, 3, 2, 2.5, 2.6, 2.4, 2.7, 2.3, 2.8]  # ends of strips of 2: 4, 2, 2.6, 2.7, 2.8
    assert stops_at(UP(s=1, strip=2), val) == 6
    assert stops_at(UP(s=2, strip=2), val) == 8
    assert stops_at(UP(s=3, strip=2), val) == 10
    assert stops_at(UP(s=4, strip=2), val) is None
    assert stops_at(UP(s=1, strip=3), [1, 1, 1, 1, 1, 1, 1, 1, 1.1]) == 9  # equal is not a rise
    assert stops_at(UP(s=2, strip=1), [1.0, 1.1, 1.1, 1.2, 1.3]) == 5  # equality breaks the row


def test_up_is_prechelts_recurrence():
    def recurrence(val, t, s, k):
        if s == 0:
            return t >= k
        return t > k and recurrence(val, t - k, s - 1, k) and val[t - 1] > val[t - k - 1]

    draw = random.Random(0)
    found = set()
    for _ in range(300):
        val = [draw.choice([1.0, 1.1, 1.2, 1.3]) for _ in range(18)]
        s, k = draw.choice([1, 2, 3]), draw.choice([1, 2, 3])
        first = next((t for t in range(k, 19, k) if recurrence(val, t, s, k)), None)
        assert stops_at(UP(s, k), val) == first
        found.add(first)
    assert len(found) > 5


def test_patience_counts_validations_since_the_best():
    assert stops_at(Patience(patience=2), [1.0, 0.9, 0.95, 0.8, 0.81, 0.8]) == 6  # equal is not better
    assert stops_at(Patience(patience=2, min_delta=0.2), [1.0, 0.9, 0.85, 0.7]) == 3
    assert stops_at(Patience(patience=2, mode="max"), [0.1, 0.2, 0.3, 0.3, 0.2]) == 5
    reason = Patience(patience=1)
    reason.update(None, 0.5)
    assert reason.update(None, 0.6) == ("no value better than 0.5 in 1 validations since validation 1: the last is 0.6")


@pytest.mark.parametrize("make", [lambda: GL(10), lambda: PQ(0.7, 3), lambda: UP(2, 2), lambda: Patience(3, 0.05)])
def test_a_criterion_resumed_from_json_goes_on_as_if_never_stopped(make):
    draw = random.Random(1)
    train = [1.0 + 0.1 * draw.random() for _ in range(30)]
    val = [1.0 + 0.01 * t + 0.1 * draw.random() for t in range(30)]
    whole = make()
    expected = [whole.update(t, v) for t, v in zip(train, val, strict=True)]
    assert any(expected)
    for cut in range(1, 29):
        first, second = make(), make()
        reasons = [first.update(t, v) for t, v in zip(train[:cut], val[:cut], strict=True)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        reasons += [second.update(t, v) for t, v in zip(train[cut:], val[cut:], strict=True)]
        assert reasons == expected


@pytest.mark.parametrize("name", CRITERIA)
def test_a_value_that_is_not_finite_stops_at_once(name):
    criterion = build_criterion(name)
    assert criterion.update(1.0, 1.0) is None
    assert criterion.update(1.0, math.nan) == "the monitored value is nan"
    assert build_criterion(name).update(1.0, math.inf) == "the monitored value is inf"


def test_ratios_of_losses_refuse_what_cannot_be_a_loss():
    for criterion in (GL(), PQ()):
        with pytest.raises(ValueError, match=r"validation loss -0\.1"):
            criterion.update(1.0, -0.1)
    assert stops_at(GL(), [1.0, 0.0, 0.0]) is None  # a perfect fit stays perfect
    assert stops_at(GL(), [1.0, 0.0, 1e-3]) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gl", {"alpha": -1}, "alpha = -1"),
        ("gl", {"alpha": math.nan}, "alpha = nan"),
        ("pq", {"strip": 1}, "strip = 1"),
        ("up", {"s": 0}, "s = 0"),
        ("up", {"strip": 0}, "strip = 0"),
        ("patience", {"patience": 0}, "patience = 0"),
        ("patience", {"mode": "lower"}, "mode = 'lower'"),
        ("ql", {}, r"'ql' is unknown; one of|did you mean"),
    ],
)
def test_wrong_criterion_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_criterion(name, **options)


# --- the callback -----------------------------------------------------------------------------------------------------


def losses(*values):
    return [{"train/loss": 1.0, "val/loss": value} for value in values]


def test_callback_stops_the_trainer_and_keeps_the_reason(play):
    stopping = EarlyStopping(GL(alpha=10))
    trainer = play(losses(1.0, 0.5, 0.54, 0.6, 0.4, 0.4), stopping)
    assert trainer.current_epoch == 4
    assert stopping.stopped_epoch == 3
    assert stopping.reason == "GL = 20.0% > 10%: validation loss 0.6 at validation 4, 0.5 at validation 2"


def test_callback_that_never_stops_has_no_reason(play):
    stopping = EarlyStopping(GL(alpha=10))
    trainer = play(losses(1.0, 0.5, 0.54), stopping)
    assert (trainer.current_epoch, stopping.reason, stopping.stopped_epoch) == (3, None, None)


def test_callback_watches_the_metric_it_was_given(play):
    script = [{"val/loss": 1.0, "val/err": err} for err in (0.3, 0.2, 0.2, 0.2, 0.2)]
    stopping = EarlyStopping(Patience(patience=2), monitor="val/err")
    assert play(script, stopping).current_epoch == 4


def test_callback_hands_the_training_loss_on(play):
    script = [{"train/loss": t, "val/loss": v} for t, v in [(1.0, 1.0), (1.0, 1.1), (0.5, 1.2), (0.5, 1.2)]]
    assert play(script, EarlyStopping(PQ(alpha=1, strip=2))).current_epoch == 2


def test_sanity_check_is_not_a_validation(play):
    stopping = EarlyStopping(GL(alpha=10))
    play(losses(1.0, 0.9), stopping, num_sanity_val_steps=2)
    assert stopping.criterion.state["count"] == 2


def test_an_unknown_metric_is_refused_with_the_nearest(play):
    with pytest.raises(ValueError, match=r"'val/los', which nobody logs; did you mean 'val/loss'\?"):
        play(losses(1.0), EarlyStopping(GL(), monitor="val/los"))


@pytest.mark.parametrize("length", [{"max_epochs": 6}, {"max_epochs": -1, "max_steps": 12}])
def test_resumed_callback_stops_where_the_whole_run_does(length, scripted, make_trainer, data, tmp_path, kept):
    script = losses(1.0, 0.5, 0.54, 0.52, 0.6, 0.4)

    def fit(stopping, folder, turn=0, ckpt_path=None, **options):
        module = scripted(script)
        module.turn = turn
        module.layer = torch.nn.Linear(3, 1)
        trainer = make_trainer(stopping, LastCheckpoint(tmp_path / folder), **(length | options))
        trainer.fit(module, data(4, 2), data(4, 2), ckpt_path=ckpt_path)
        return trainer

    halfway = {"max_epochs": 3} if "max_steps" not in length else {"max_steps": 6}
    fit(EarlyStopping(GL(alpha=10)), "first", **halfway)
    second = EarlyStopping(GL(alpha=10))
    trainer = fit(second, "second", turn=3, ckpt_path=kept(tmp_path / "first", "last"))
    assert second.stopped_epoch == 4
    assert second.reason == "GL = 20.0% > 10%: validation loss 0.6 at validation 5, 0.5 at validation 2"

    third = EarlyStopping(GL(alpha=10))
    again = fit(third, "third", turn=5, ckpt_path=kept(tmp_path / "second", "last"))
    assert again.global_step == trainer.global_step == 10  # a run that had stopped stays stopped
    assert third.reason == second.reason
