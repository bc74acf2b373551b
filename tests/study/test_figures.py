"""The pictures of a study: what their artists hold, and that every state a study can be in is drawn or left out."""

import itertools
import math
from datetime import timedelta

import numpy as np
import optuna
import pytest
from made_studies import CONTINUED, DUPLICATE, LOST, STARTED_AT, make_study, view_of
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from litmus.study import figures
from litmus.study.figures import Key, NothingToDraw, dotted_values, draw, front, logical, parse_name

SHARES = {"optim.lr": 0.6, "optim.l2_lambda": 0.3, "model.keep_prob": 0.07, "optim.name": 0.02, "model.width": 0.01}


@pytest.fixture(scope="module")
def study():
    return make_study(60)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Calls a picture's function and gives its figure."""
    kept = []
    save = figures.style.save
    monkeypatch.setattr(figures.style, "save", lambda figure, path: (kept.append(figure), save(figure, path))[1])

    def call(function, *args, **more):
        path = function(*args, tmp_path / "picture.png", **more)
        with Image.open(path) as picture:
            assert 700 < picture.width < 3500
            assert 300 < picture.height < 3500
        return kept[-1]

    return call


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def labelled(axes):
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def small(count, make, directions=("minimize",)):
    study = optuna.create_study(directions=list(directions))
    for i in range(count):
        params, distributions, values = make(i)
        state = TrialState.COMPLETE if values else TrialState.FAIL
        study.add_trial(create_trial(state=state, values=values, params=params, distributions=distributions))
    return study


# Names and lineages


def test_names_are_taken_apart_into_key_branch_and_switch():
    assert parse_name("optim.lr") == Key("optim.lr")
    assert parse_name("optim.lr[optim.name=adam]") == Key("optim.lr", "optim.name=adam")
    assert parse_name("optim.l2_lambda=0") == Key("optim.l2_lambda", "", "0")
    assert parse_name("optim.l2_lambda[optim.name=adam]=0") == Key("optim.l2_lambda", "optim.name=adam", "0")
    assert parse_name("a.b[c.d=x|y,e=1]=[1, 2]") == Key("a.b", "c.d=x|y,e=1", "[1, 2]")
    assert parse_name("a.b[c=[1]]") == Key("a.b", "c=[1]")


def test_names_are_those_that_a_space_gives():
    from litmus.config.study import ParameterConfig
    from litmus.study.branch import Branch, condition_text

    entry = ParameterConfig(
        **{"low": 0.01, "high": 1000, "log": True, "or": None, "when": {"optim.name": ["adam", "sgd"]}}
    )
    name = f"optim.l2_lambda[{condition_text(entry.conditions)}]"
    branch = Branch("optim.l2_lambda", entry, name, False)
    assert parse_name(branch.name) == Key("optim.l2_lambda", "optim.name=adam|sgd")
    assert parse_name(branch.switch) == Key("optim.l2_lambda", "optim.name=adam|sgd", "null")
    assert dotted_values(branch.params(None)) == {"optim.l2_lambda": branch.entry.also}


def test_values_come_under_dotted_keys_with_the_switch_carried_out():
    params = {"optim.name": "adam", "optim.lr[optim.name=adam]": 0.001, "optim.l2_lambda=0": True, "model.width": 8}
    expected = {"optim.name": "adam", "optim.lr": 0.001, "optim.l2_lambda": 0, "model.width": 8}
    assert dotted_values(params) == expected
    assert dotted_values({"optim.l2_lambda=0": False, "optim.l2_lambda": 4.5}) == {"optim.l2_lambda": 4.5}


def test_a_lineage_is_one_trial_and_surplus_and_duplicates_are_none(study):
    left_out = {trial.number for trial in study.trials} - {trial.number for trial in logical(study.trials)}
    assert left_out == {LOST, DUPLICATE}
    alone = [trial for trial in study.trials if trial.number != CONTINUED]
    assert LOST in {trial.number for trial in logical(alone)}  # lost and not continued: it failed
    assert any(trial.state == TrialState.FAIL for trial in logical(study.trials))


# Each picture


def test_history_holds_every_finished_value_and_the_best_so_far(study, drawn):
    axes = drawn(figures.history, view_of(study)).axes[0]
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    artists = labelled(axes)
    points = artists["complete"].get_offsets()
    assert np.asarray(points).tolist() == [[trial.number, trial.value] for trial in done]
    x, y = artists["best so far"].get_data()
    assert y.tolist() == [*np.minimum.accumulate([trial.value for trial in done]), study.best_value]
    assert x[-1] == study.trials[-1].number
    assert set(artists["base"].get_ydata()) == {study.trials[0].value}
    pruned = sum(trial.state == TrialState.PRUNED for trial in study.trials)
    failed = sum(trial.state == TrialState.FAIL for trial in logical(study.trials))
    assert (len(artists["pruned"].get_offsets()), len(artists["failed"].get_xdata())) == (pruned, failed)


def test_history_of_what_is_maximised_rises(drawn):
    values = [0.5, 0.7, 0.6, 0.9]
    study = small(4, lambda i: ({}, {}, [values[i]]), ["maximize"])
    figure = drawn(figures.history, view_of(study))
    assert labelled(figure.axes[0])["best so far"].get_ydata().tolist() == [0.5, 0.7, 0.7, 0.9, 0.9]
    assert "Validation error 0.9 is the best of 4 finished trials" in texts(figure)


def test_intermediate_values_are_all_drawn_and_the_budget_is_told(study, drawn):
    figure = drawn(figures.intermediate, view_of(study))
    artists = labelled(figure.axes[0])
    trials = logical(study.trials)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(artists["pruned"].get_segments()) == len(pruned)
    assert len(artists["complete"].get_segments()) == len(complete) - 2  # the best and the base are lines of their own
    best = study.best_trial
    curve = artists[f"best (trial {best.number})"].get_xydata()
    assert curve.tolist() == [[step, value] for step, value in sorted(best.intermediate_values.items())]
    epochs = sum(trial.user_attrs["litmus.epochs"] for trial in pruned + complete)
    share = epochs / (20 * (len(pruned) + len(complete)))
    assert any(f"{epochs:,} epochs trained, {share:.2f} of those without pruning" in text for text in texts(figure))


def test_importances_stand_in_order_with_role_and_coverage(drawn):
    study = small(
        12,
        lambda i: (
            {"a": i / 12} | ({"b": i / 12} if i % 2 else {}),
            {"a": FloatDistribution(0, 1)} | ({"b": FloatDistribution(0, 1)} if i % 2 else {}),
            [float(i)],
        ),
    )
    figure = drawn(figures.importances, view_of(study, importances={"b": 0.25, "a": 0.75}, roles={"b": "nuisance"}))
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.75, 0.25]
    found = texts(figure)
    assert "a matters most" in found
    assert any("nuisance, in 50% of trials" in text for text in found)


def test_parallel_coordinates_have_a_line_for_each_finished_trial(study, drawn):
    figure = drawn(figures.parallel, view_of(study, importances=SHARES))
    lines = [line for collection in figure.axes[0].collections for line in collection.get_segments()]
    done = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert len(lines) == done
    assert {len(line) for line in lines} == {6}  # five parameters, the branches of optim.lr merged, and the value
    order = [text for text in texts(figure) if text in SHARES]
    assert order == sorted(SHARES, key=lambda key: -SHARES[key])


def test_a_parameter_that_a_trial_did_not_have_is_drawn_below_its_axis(drawn):
    study = small(
        4,
        lambda i: (
            {"a": i / 4} | ({"b": 0.5 + i / 10} if i % 2 else {}),
            {"a": FloatDistribution(0, 1)} | ({"b": FloatDistribution(0, 1)} if i % 2 else {}),
            [float(i)],
        ),
    )
    figure = drawn(figures.parallel, view_of(study))
    lines = [line for collection in figure.axes[0].collections for line in collection.get_segments()]
    assert sorted(line[1][1] < 0 for line in lines) == [False, False, True, True]
    assert "not used" in texts(figure)


def test_slices_place_logarithmic_ranges_on_logarithms_and_zero_beside(study, drawn):
    figure = drawn(figures.slices, view_of(study, importances=SHARES))
    assert len(figure.axes) == 5
    scale = figures._scales(view_of(study), figures._rows(view_of(study), 0))["optim.l2_lambda"]
    assert (scale.log, scale.beside, scale.place(0), scale.place(0.01), scale.place(1000)) == (True, 0, 0, 0.12, 1)
    assert scale.place(math.sqrt(10)) == pytest.approx(0.56)  # the middle of 0.01..1000, on 0.12..1
    off = [trial for trial in study.trials if trial.params["optim.l2_lambda=0"] and trial.state == TrialState.COMPLETE]
    points = np.asarray(figure.axes[1].collections[0].get_offsets())
    assert sorted(points[points[:, 0] == 0, 1]) == sorted(trial.value for trial in off)


def test_branches_of_one_key_are_told_apart_by_colour(study, drawn):
    figure = drawn(figures.slices, view_of(study, importances=SHARES))
    colors = {tuple(color[:3]) for color in figure.axes[0].collections[0].get_facecolors()}
    assert len(colors) == 2
    assert {"momentum", "adam"} <= set(texts(figure))


def test_contour_takes_the_two_most_important_and_paints_only_near_trials(study, drawn):
    figure = drawn(figures.contour, view_of(study, importances=SHARES))
    axes = figure.axes[0]
    assert axes.get_xlabel() == "optim.lr, log"
    alpha = axes.images[0].get_array()[..., 3]
    assert 0 < (alpha == 0).mean() < 0.5
    points = np.asarray(axes.collections[0].get_offsets())
    left, right, bottom, top = axes.images[0].get_extent()
    columns = ((points[:, 0] - left) / (right - left) * alpha.shape[1]).astype(int)
    rows = ((points[:, 1] - bottom) / (top - bottom) * alpha.shape[0]).astype(int)
    assert (alpha[rows, columns] > 0).all()


def test_between_trials_of_equal_value_the_plane_is_even():
    x, y = np.random.default_rng(0).uniform(size=(2, 30))
    scale = figures.ParameterScale("number")
    mean, thin = figures._near(x, y, np.full(30, 0.25), scale, scale)
    np.testing.assert_allclose(mean[~thin], 0.25)


def test_edf_is_the_empirical_distribution(study, drawn):
    line = drawn(figures.edf, view_of(study)).axes[0].lines[0]
    values = sorted(trial.value for trial in study.trials if trial.state == TrialState.COMPLETE)
    assert line.get_xdata().tolist() == values
    assert line.get_ydata().tolist() == (np.arange(1, len(values) + 1) / len(values)).tolist()


def test_timeline_has_a_bar_for_all_that_ran_in_the_row_of_its_worker(study, drawn):
    figure = drawn(figures.timeline, view_of(study))
    axes = figure.axes[0]
    bars = {label: collection.get_paths() for label, collection in labelled(axes).items()}
    assert sum(map(len, bars.values())) == len(study.trials)
    assert len(bars["failed"]) == sum(trial.state == TrialState.FAIL for trial in study.trials)  # the lost one too
    first = study.trials[0]
    box = bars["complete"][0].vertices
    assert (box[:, 0].max() - box[:, 0].min()) * 60 == pytest.approx(first.duration.total_seconds())
    assert [text for text in texts(figure) if text.startswith("host-")] == ["host-0/0", "host-0/1", "host-1/2"]


def test_a_running_trial_ends_now_and_two_at_once_on_a_worker_take_two_lanes(drawn):
    study = optuna.create_study()
    for start, seconds, state in ((0, 60, TrialState.COMPLETE), (30, None, TrialState.RUNNING)):
        trial = create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs={"litmus.worker": "w0"})
        trial.state, trial.values = state, [0.5] if seconds else None
        trial.datetime_start = STARTED_AT + timedelta(seconds=start)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds) if seconds else None
        study.add_trial(trial)
    figure = drawn(figures.timeline, view_of(study), now=STARTED_AT + timedelta(seconds=90))
    boxes = {label: bars.get_paths()[0].vertices for label, bars in labelled(figure.axes[0]).items()}
    assert boxes["running"][:, 0].max() == 90  # seconds
    assert boxes["running"][:, 1].min() > boxes["complete"][:, 1].max()


def test_pareto_front_is_what_optuna_finds(drawn):
    study = make_study(40, with_time=True)
    figure = drawn(figures.pareto, view_of(study))
    points = np.asarray(labelled(figure.axes[0])["Pareto front"].get_offsets())
    assert sorted(map(tuple, points)) == sorted(tuple(trial.values) for trial in study.best_trials)


def test_front_keeps_equals_and_drops_the_dominated():
    points = np.array([[1, 3], [1, 3], [2, 2], [3, 3], [3, 1], [1, 4]])
    assert front(points).tolist() == [True, True, True, False, True, False]


# The whole


def test_draw_makes_all_that_apply_and_says_why_others_are_missing(study, tmp_path):
    drawn = draw(view_of(study, importances=SHARES), tmp_path)
    names = ["history", "intermediate", "parallel_coordinates", "slice", "contour", "edf", "importances", "timeline"]
    assert [path.stem for path in drawn.paths] == names
    assert all(path.stat().st_size > 10_000 for path in drawn.paths)
    assert drawn.left_out == {"pareto_front": "a Pareto front has two objectives"}


def test_two_objectives_have_pictures_each(tmp_path):
    drawn = draw(view_of(make_study(30, with_time=True), importances=SHARES), tmp_path)
    names = {path.stem for path in drawn.paths}
    assert {"history_val_err", "history_trained_sec", "contour_val_err", "pareto_front", "importances"} <= names
    assert set(drawn.left_out) == {"intermediate_val_err", "intermediate_trained_sec"}


LONG = "model.a_section_whose_name_goes_on_and_on.and_a_parameter_name_that_is_no_shorter_"
ODD = CategoricalDistribution([None, 1, 2.5, "<b>x $y</b>", True])
STATES = {
    "no trial": small(0, lambda i: None),
    "one trial": small(1, lambda i: ({"lr": 0.1}, {"lr": FloatDistribution(0.01, 1, log=True)}, [0.3])),
    "all failed": small(5, lambda i: ({"lr": 0.1}, {"lr": FloatDistribution(0.01, 1, log=True)}, None)),
    "nothing searched": small(4, lambda i: ({}, {}, [0.3 + i])),
    "all equal": small(12, lambda i: ({"x": i / 12}, {"x": FloatDistribution(0, 1)}, [0.0])),
    "huge ranges": small(
        25,
        lambda i: (
            {"lr": 10.0 ** (i % 19 - 9), "n": 10 ** (i % 7)},
            {"lr": FloatDistribution(1e-9, 1e9, log=True), "n": IntDistribution(1, 10**6, log=True)},
            [10.0 ** (i - 12)],
        ),
    ),
    "both signs": small(
        25,
        lambda i: ({"x": i / 30}, {"x": FloatDistribution(0, 1)}, [(-1) ** i * 10.0 ** (i / 3)]),
        ["maximize"],
    ),
    "long names, many": small(
        15,
        lambda i: (
            {f"{LONG}{k}": (i * (k + 1) % 15) / 15 for k in range(14)},
            {f"{LONG}{k}": FloatDistribution(0, 1) for k in range(14)},
            [float(i)],
        ),
    ),
    "odd categories": small(
        15, lambda i: ({"c": ODD.choices[i % 5], "d": i % 2}, {"c": ODD, "d": IntDistribution(0, 1)}, [i])
    ),
    "null beside a range": small(
        15,
        lambda i: (
            {"clip=null": i % 3 == 0} | ({} if i % 3 == 0 else {"clip": 0.1 + i}),
            {"clip=null": CategoricalDistribution([False, True])}
            | ({} if i % 3 == 0 else {"clip": FloatDistribution(0.1, 20)}),
            [float(i)],
        ),
    ),
    "never together": small(
        12,
        lambda i: (
            {f"{'ab'[i % 2]}[o={i % 2}]": i / 12},
            {f"{'ab'[i % 2]}[o={i % 2}]": FloatDistribution(0, 1)},
            [float(i)],
        ),
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_every_state_of_a_study_is_drawn_or_left_out_with_a_reason(name, tmp_path):
    keys = {parse_name(key).dotted for trial in STATES[name].trials for key in trial.params}
    drawn = draw(view_of(STATES[name], importances={key: 1 / len(keys) for key in keys}), tmp_path)
    made = {path.stem for path in drawn.paths}
    assert made | set(drawn.left_out) == {*figures.PER_OBJECTIVE, *figures.PER_STUDY}
    assert all(len(reason) > 10 for reason in drawn.left_out.values())
    assert ("history" in made) == (len(STATES[name].trials) > 0)
    assert ("slice" in made) == (name not in ("no trial", "all failed", "nothing searched"))


def test_nothing_to_draw_writes_no_file(tmp_path):
    with pytest.raises(NothingToDraw, match="no trial has begun"):
        figures.timeline(view_of(STATES["no trial"]), tmp_path / "timeline.png")
    assert not list(tmp_path.iterdir())


def test_pyplot_is_left_alone(study, tmp_path):
    import sys

    from matplotlib import rcParams

    before = dict(rcParams)
    draw(view_of(study, importances=SHARES), tmp_path)
    assert dict(rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_ticks_of_a_logarithmic_range_are_powers_of_ten_within_it():
    for low, high in itertools.pairwise([1e-5, 1e-3, 0.5, 30, 1e6]):
        ticks = figures._nice(low, high, True, 4)
        assert 2 <= len(ticks) <= 5
        assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
