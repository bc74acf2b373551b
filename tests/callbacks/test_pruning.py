"""The callback that lets a study end a training, driven by scripted errors."""

import pytest

from litmus.callbacks import Pruning

CURVE = [{"val/err": value} for value in (0.5, 0.4, 0.3, 0.2)]


class Asked:
    """Says stop at validation ``at``; keeps what it was told."""

    def __init__(self, at=None):
        self.at, self.told = at, []

    def __call__(self, reports):
        self.told.append(list(reports))
        return self.at is not None and reports[-1][0] >= self.at


def rounded(told):
    return [[(at, round(value, 6)) for at, value in reports] for reports in told]


def test_each_validation_is_reported_once_under_its_index(play):
    ask = Asked()
    pruning = Pruning("val/err", ask)
    trainer = play(CURVE, pruning)
    assert rounded(ask.told) == [[(0, 0.5)], [(1, 0.4)], [(2, 0.3)], [(3, 0.2)]]
    assert (pruning.pruned_at, trainer.current_epoch) == (None, 4)


def test_a_stop_ends_fit_as_any_other_end_at_that_validation(play):
    ask = Asked(at=1)
    pruning = Pruning("val/err", ask)
    trainer = play(CURVE, pruning)
    assert pruning.pruned_at == 1
    assert [round(value, 6) for value in pruning.reports] == [0.5, 0.4]
    assert (trainer.current_epoch, trainer.should_stop, trainer.interrupted) == (2, True, False)


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 8}])
def test_the_last_validation_prunes_nothing(play, length):
    pruning = Pruning("val/err", Asked(at=3))
    trainer = play(CURVE, pruning, **length)
    assert pruning.pruned_at is None
    assert (len(pruning.reports), trainer.global_step) == (4, 8)


def test_a_resumed_training_reports_its_curve_again_and_goes_on_with_the_next_index(play):
    first = Pruning("val/err", Asked())
    play(CURVE[:2], first)
    ask = Asked()
    resumed = Pruning("val/err", ask)
    resumed.load_state_dict(first.state_dict())
    play(CURVE[2:], resumed)
    assert rounded(ask.told) == [[(0, 0.5), (1, 0.4)], [(2, 0.3)], [(3, 0.2)]]


def test_one_that_was_pruned_just_before_it_was_killed_trains_on_no_further(play):
    resumed = Pruning("val/err", Asked())
    resumed.load_state_dict({"reports": [0.5, 0.4], "pruned_at": 1})
    trainer = play(CURVE, resumed)
    assert trainer.should_stop
    assert trainer.global_step <= 2  # Lightning ends the epoch that it has begun
    assert resumed.pruned_at == 1


def test_its_state_is_a_copy(play):
    pruning = Pruning("val/err", Asked())
    pruning.reports = [0.5]
    state = pruning.state_dict()
    pruning.reports.append(0.4)
    assert state == {"reports": [0.5], "pruned_at": None}


def test_a_metric_that_nobody_logs_is_named_with_the_nearest(play):
    with pytest.raises(ValueError, match=r"'val/error', which nobody logs; .*val/err"):
        play(CURVE, Pruning("val/error", Asked()))


def test_a_rank_without_a_study_reports_nothing_and_keeps_its_curve(play):
    pruning = Pruning("val/err", None)
    play(CURVE, pruning)
    assert (len(pruning.reports), pruning.pruned_at) == (4, None)
