"""The first difference of two traces, and nothing that is merely near."""

import copy
import math

import pytest

from litmus.comparison import Comparison, Different, Enough, compare_results, metric_distances, outside


def step(n):
    batches = {"order": [f"o{n}a", f"o{n}b"], "batch": [f"b{n}a", f"b{n}b"], "loss": [(0.1 * n).hex(), (0.2 * n).hex()]}
    return {"step": n, **batches, "gradient": f"g{n}", "weights": f"w{n}"}


TRACE = {
    "start": "s0",
    "steps": [step(1), step(2), step(3)],
    "epochs": [{"epoch": 1, "step": 3, "weights": "w3", "evaluated": "e3", "metrics": {"val/loss": (0.5).hex()}}],
}


def play(then, now, *, whole=True):
    seen = Comparison(then, whole=whole)
    seen("start", {"step": 0, "weights": now["start"]})
    for row in now["steps"]:
        seen("step", row)
    for row in now["epochs"]:
        seen("epoch", row)
    seen.finish()
    return seen


def changed(*path, value):
    now = copy.deepcopy(TRACE)
    place = now
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return now


def test_equal_traces_are_equal():
    seen = play(TRACE, copy.deepcopy(TRACE))
    assert (seen.steps, seen.epochs) == (3, 1)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("start",), "weights of the start, before step 1"),
        (("steps", 1, "order", 1), "order of step 2, batch 2"),
        (("steps", 1, "batch", 0), "batch of step 2, batch 1"),
        (("steps", 1, "loss", 0), "loss of step 2, batch 1"),
        (("steps", 2, "gradient"), "gradient of step 3"),
        (("steps", 0, "weights"), "weights of step 1"),
        (("epochs", 0, "weights"), "weights of epoch 1, step 3"),
        (("epochs", 0, "evaluated"), "evaluated of epoch 1, step 3"),
        (("epochs", 0, "metrics", "val/loss"), "val/loss of epoch 1, step 3"),
    ],
)
def test_each_difference_is_named_with_its_place(path, named):
    with pytest.raises(Different) as raised:
        play(TRACE, changed(*path, value="0x1.0p+0"))
    assert str(raised.value) == named


def test_the_first_difference_is_the_one_that_others_follow_from():
    now = changed("steps", 1, "weights", value="x")
    now["steps"][1] |= {"order": ["o2a", "x"], "batch": ["b2a", "x"], "loss": ["x", "x"], "gradient": "x"}
    with pytest.raises(Different) as raised:
        play(TRACE, now)
    assert str(raised.value) == "loss of step 2, batch 1"  # the first batch was the same and gave another loss


def test_a_last_bit_is_a_difference_and_its_size_is_told():
    near = math.nextafter(0.5, 1)
    with pytest.raises(Different) as raised:
        play(TRACE, changed("epochs", 0, "metrics", "val/loss", value=near.hex()))
    assert raised.value.difference.size == near - 0.5 > 0


def test_a_digest_has_no_size():
    with pytest.raises(Different) as raised:
        play(TRACE, changed("steps", 0, "weights", value="123"))
    assert raised.value.difference.size is None


def test_rows_missing_or_made_beyond_the_record_are_a_difference():
    shorter = {**TRACE, "steps": TRACE["steps"][:2]}
    with pytest.raises(Different, match="rows of the whole run"):
        play(TRACE, shorter)
    with pytest.raises(Different, match="rows of step at step 3"):
        play(shorter, TRACE)


def test_the_record_of_a_run_that_did_not_end_is_followed_as_far_as_it_goes():
    with pytest.raises(Enough):
        play({**TRACE, "steps": TRACE["steps"][:2], "epochs": []}, TRACE, whole=False)


def test_results_are_compared_number_by_number_without_the_time_they_took():
    then = {"test": {"loss": 0.5, "err": 0.1}, "verdict": "fine", "trained_sec": 3.0}
    assert compare_results(then, {**then, "trained_sec": 9.0}) is None
    found = compare_results(then, {**then, "test": {"loss": math.nextafter(0.5, 1), "err": 0.1}})
    assert str(found) == "test/loss of result.json"
    assert str(compare_results(then, {**then, "verdict": "bad"})) == "verdict of result.json"


def test_a_distance_to_what_is_not_a_number_is_within_nothing():
    then = {"val": {"loss": 1.0, "err": 0.5}, "test": {"loss": 1.0, "err": 0.5}}
    now = {**then, "test": {"loss": math.nan, "err": 0.25}}
    distances = metric_distances(then, now)
    assert distances["test/err"] == (0.5, 0.25, 0.25)
    assert outside(distances, 1e9) == ["test/loss"]
    assert outside(distances, 0.25) == ["test/loss"]
    assert outside(distances, 0.24) == ["test/loss", "test/err"]
