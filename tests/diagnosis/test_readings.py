"""Readings on made-up curves whose story is known."""

import math

import numpy as np
import pytest
from scipy import stats

from litmus.diagnosis.readings import (
    divergence,
    early_stopping,
    learning_rate,
    overfitting,
    progress,
    read_curves,
    read_mismatch,
    read_units,
    trend,
)

CHANCE = math.log(10)


def rows(train, val=None, *, running=None, lr=0.1, err=None):
    """Validations with these losses; ``lr`` one number or one each."""
    n = len(train)
    val, running = train if val is None else val, train if running is None else running
    rates = np.broadcast_to(lr, n)
    made = []
    for k in range(n):
        row = {"epoch": k + 1, "step": 10 * (k + 1), "train_eval/loss": train[k], "val/loss": val[k]}
        row |= {"train/loss": running[k], "train/lr": float(rates[k]), "val/err": 0.5, "train_eval/err": 0.5}
        made.append(row | ({} if err is None else {"train_eval/err": err, "val/err": err}))
    return made


def decay(n, start=2.3, end=0.1, pace=5.0):
    return end + (start - end) * np.exp(-np.arange(n) / pace)


def test_a_sound_training_makes_no_reading_speak():
    train, val = decay(40, end=0.01, pace=3), decay(40, end=0.12, pace=3)
    found = read_curves(rows(train, val), num_classes=10, stops={"GL 10": None})
    assert [one.name for one in found] == ["early_stopping", "overfitting", "progress", "divergence", "learning_rate"]
    assert [one.status for one in found] == ["no sign"] * 5
    assert not any(one.speaks for one in found)


def test_stopping_at_the_lowest_loss_pays_where_the_end_is_a_tenth_above_it():
    val = np.concatenate([decay(10), np.linspace(0.45, 0.9, 10)])
    made = rows(decay(20), val)
    made[10]["val/err"], made[-1]["val/err"] = 0.2, 0.25
    found = early_stopping(made, stops={"GL 10": 11, "UP 3": None})
    assert (found.status, found.value) == ("pays", pytest.approx(100 * (0.9 / 0.45 - 1)))
    assert "lowest at epoch 11" in found.sentence
    assert "err 0.2000 there and 0.2500 at the end" in found.sentence
    assert "would have stopped: GL 10 at 12, UP 3 never" in found.sentence
    assert early_stopping(made, stopped="GL = 12%").status == "stopped"
    mild = val.copy()
    mild[-1] = 1.09 * 0.45
    assert early_stopping(rows(decay(20), mild)).status == "no sign"
    assert early_stopping(rows(decay(20), mild), unit="steps").sentence.startswith(
        "validation loss is lowest at step 110 "
    )
    assert early_stopping([{"epoch": 1}]).sentence == "no validation loss was recorded"
    assert early_stopping([]).status == "no sign"


def test_overfitting_begins_where_validation_loss_turns_while_training_loss_falls():
    val = np.concatenate([decay(10), np.linspace(0.5, 0.9, 10)])
    found = overfitting(rows(decay(20), val))
    assert (found.status, found.value) == ("overfits", 10 + (val[10] < val[9]))
    assert "training loss fell" in found.sentence
    assert overfitting(rows(decay(20), val), unit="steps").value == 10 * found.value
    risen = decay(20)
    risen[-2] = 2.0  # training loss rises too: that is no overfitting
    assert overfitting(rows(risen, val)).status == "no sign"
    once = val.copy()
    once[-2] = decay(10)[-1]
    assert overfitting(rows(decay(20), once)).status == "no sign"
    assert overfitting(rows(decay(3), val[:3])).sentence == "too few validations to tell"


def test_a_loss_that_still_falls_at_the_end_asks_for_a_longer_training():
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    falling = 2.0 - 0.04 * np.arange(30) + noise
    found = progress(rows(falling))
    assert (found.status, found.value) == ("still improving", pytest.approx(-0.04, abs=0.01))
    assert progress(rows(falling, lr=np.linspace(0.1, 0.001, 30))).status == "no sign"  # a rate that has gone to 0
    assert "rate has fallen to 0.001" in progress(rows(falling, lr=np.linspace(0.1, 0.001, 30))).sentence
    assert progress(rows(falling, lr=np.linspace(0.1, 0.011, 30))).status == "still improving"
    assert progress(rows(1.0 - 0.0001 * np.arange(30))).status == "no sign"  # for sure, but by less than 2%
    assert progress(rows(falling[:3])).sentence == "too few validations to tell"


def test_a_flat_noisy_loss_is_seldom_said_to_improve():
    rng, said = np.random.default_rng(1), 0
    for _ in range(400):
        said += progress(rows(1 + 0.05 * rng.standard_normal(25))).status == "still improving"
    assert said / 400 < 0.03


def test_a_trend_is_least_squares_and_wider_where_residuals_hang_together():
    rng = np.random.default_rng(2)
    values = 3 - 0.5 * np.arange(12) + np.tile([0.1, -0.1], 6) + rng.normal(0, 0.01, 12)  # negative correlation
    theirs = stats.linregress(np.arange(12), values)
    half = stats.t.ppf(0.975, 10) * theirs.stderr
    assert trend(values) == pytest.approx((theirs.slope, theirs.slope - half, theirs.slope + half))
    bent = np.arange(12.0) ** 2
    theirs = stats.linregress(np.arange(12), bent)
    slope, low, high = trend(bent)
    assert slope == pytest.approx(theirs.slope)
    assert high - low > 2.2 * stats.t.ppf(0.975, 10) * theirs.stderr
    assert trend([1.0, 1.0, 1.0]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="2 values"):
        trend([1.0, 2.0])


def test_an_independent_trend_covers_at_its_level():
    rng = np.random.default_rng(3)
    hits = [
        low <= -0.1 <= high for _, low, high in (trend(-0.1 * np.arange(8) + rng.normal(size=8)) for _ in range(2000))
    ]
    assert 0.945 < np.mean(hits) < 0.985


def test_divergence_knows_chance():
    assert divergence(rows(np.array([2.3, 2.4, 2.6])), num_classes=10).status == "diverged"
    assert divergence(rows(np.array([2.3, math.inf])), num_classes=10).status == "diverged"
    stuck = rows(np.array([2.31, 2.303, 2.303]), err=0.9)
    found = divergence(stuck, num_classes=10)
    assert (found.status, found.value) == ("at chance", 2.303)
    assert divergence(rows(np.array([2.3, 2.2]), err=0.7), num_classes=10).status == "no sign"  # it knows something
    assert divergence(rows(np.array([2.3, 2.0]), err=0.9), num_classes=10).status == "no sign"
    assert divergence(stuck, num_classes=100).status == "no sign"
    jumpy = np.array([2.0, 0.5, 2.5, 0.5, 2.4, 0.5])
    found = divergence(rows(decay(6), running=jumpy), num_classes=10)
    assert (found.status, found.value) == ("spikes", pytest.approx(decay(6)[-1]))
    assert "2 times: epoch 3, 5" in found.sentence
    assert divergence(rows(decay(4), running=jumpy[:4]), num_classes=10).status == "no sign"  # one spike
    assert divergence([], num_classes=10).status == "no sign"
    bare = [{"epoch": 1, "train/loss": 2.303}]
    assert divergence(bare, num_classes=10).status == "at chance"  # without an error the loss tells


def test_a_rate_is_too_high_where_the_loss_ends_above_chance_or_restless():
    def status(*args, **options):
        return learning_rate(rows(*args), num_classes=10, **options).status

    assert status(np.array([2.3, 3.0, 4.0, 5.0])) == "too high"
    assert status(np.array([2.3, 3.0, 4.0, math.inf])) == "too high"
    stuck = np.full(6, CHANCE)
    assert status(stuck) == "no sign"  # quietly at chance: gradients do not arrive
    assert status(stuck + np.array([0, 0.08, 0, 0.08, 0, 0.08])) == "too high"
    assert learning_rate(rows(stuck, running=np.r_[9.0, stuck[1:]]), num_classes=10).status == "too high"
    restless = np.tile([1.8, 0.6], 6)
    assert status(restless) == "too high"
    assert learning_rate(rows(restless, running=decay(12)), num_classes=10).status == "no sign"  # dropout's noise
    assert status(np.r_[restless, np.full(12, 0.02)]) == "no sign"  # it has settled
    assert status(restless, held_back=True) == "no sign"
    assert status(np.array([2.3, 3.0, 4.0, 5.0]), held_back=True) == "too high"
    assert learning_rate(rows(restless, lr=0.7), num_classes=10).value == 0.7
    assert status(decay(3)) == "no sign"


def test_a_rate_is_too_low_where_the_whole_curve_is_a_beginning():
    slow = 2.3 - 0.03 * np.arange(20)
    found = learning_rate(rows(slow, lr=0.001), num_classes=10)
    assert found.status == "too low"
    assert "too low, or the training far too short" in found.sentence
    assert learning_rate(rows(slow, lr=np.linspace(0.1, 0.01, 20)), num_classes=10).status == "no sign"  # lowered
    assert learning_rate(rows(decay(20, end=1.2, pace=3)), num_classes=10).status == "no sign"  # a whole curve
    assert learning_rate(rows(0.7 - 0.03 * np.arange(20)), num_classes=10).status == "no sign"  # far from chance
    bumpy = slow.copy()
    bumpy[10] += 0.2
    assert learning_rate(rows(bumpy), num_classes=10).status == "no sign"
    assert learning_rate(rows(CHANCE - 0.0001 * np.arange(20)), num_classes=10).status == "no sign"  # does not move


def test_running_losses_stand_in_where_nothing_else_was_recorded():
    slow = [
        {key: value for key, value in row.items() if not key.startswith("train_eval")}
        for row in rows(2.3 - 0.03 * np.arange(20))
    ]
    assert learning_rate(slow, num_classes=10).status == "too low"
    val = np.concatenate([decay(10), np.linspace(0.5, 0.9, 10)])
    bare = [{key: row[key] for key in ("epoch", "val/loss", "train/loss")} for row in rows(decay(20), val)]
    assert overfitting(bare).status == "overfits"
    assert learning_rate(bare, num_classes=10).sentence == "the curves do not speak against the rate"


def test_units_speak_where_half_of_a_layer_is_gone():
    layers = [("a", "relu", 0.1, 0.0), ("b", "relu", 0.5, 0.0), ("c", "sigmoid", 0.0, 0.4)]
    found = read_units(layers, 1024)
    assert (found.status, found.value) == ("dead", 0.5)
    assert "50% of the units are 0 on every image in b (relu), half or more in 1 of 3 layers; 1,024" in found.sentence
    saturated = read_units([("a", "relu", 0.49, 0.0), ("c", "tanh", 0.0, 0.75)], 1000)
    assert (saturated.status, saturated.value) == ("saturated", 0.75)
    calm = read_units([("a", "relu", 0.49, 0.0), ("c", "tanh", 0.0, 0.2)], 1000)
    assert (calm.status, calm.value) == ("no sign", 0.49)
    assert read_units([], 0).value is None


def test_a_mismatch_is_measured_hinted_at_or_ruled_out():
    nothing = {"train_dev_err": None, "status": None, "value": None}
    assert read_mismatch(**nothing, elsewhere=False).status == "no sign"
    hint = read_mismatch(**nothing, elsewhere=True)
    assert (hint.status, hint.value) == ("not measured", None)
    assert "data.train_dev_fraction=0.1" in hint.sentence
    for status, said in (("high", "high"), ("undecided", "undecided"), ("low", "no sign")):
        found = read_mismatch(train_dev_err=0.05, status=status, value=0.1, elsewhere=True)
        assert (found.status, found.value) == (said, 0.1)
