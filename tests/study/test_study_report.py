"""What a study leaves to read: importances, the page, the table, the best config."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import optuna
import pytest
from made_studies import CONTINUED, DUPLICATE, LOST, make_study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from plotly.offline import get_plotlyjs

from litmus.config import load_config
from litmus.study import report
from litmus.study.figures import logical
from litmus.study.report import allowed_in, best_yaml, importances, ranges, trials_csv, write_page
from litmus.study.verdict import Candidate


@pytest.fixture(scope="module")
def study():
    return make_study(60)


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    candidates = [
        Candidate("base", 0, {}, 0.089, (0.090, 0.089, 0.091, 0.088, 0.090)),
        Candidate("trial 16", 16, {"optim.lr": 0.00108}, 0.049, (0.055, 0.056, 0.054, 0.056, 0.055)),
    ]
    path = write_page(
        study,
        tmp_path_factory.mktemp("page") / "study.html",
        title="Study <digits> & more",
        head=["litmus tune --storage postgresql://me:hunter2@host/db"],
        objectives=["val/err"],
        candidates=candidates,
        verdict=["trial 16 <beats> the base"],
    )
    return path.read_text()


class Loads(HTMLParser):
    """Every address that the page's own elements would fetch, and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.scripts, self.headings, self.cells, self._inside = [], 0, [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        if self._inside in ("h1", "h2"):
            self.headings.append(data)
        elif self._inside == "td":
            self.cells.append(data)

    def handle_endtag(self, tag):
        self._inside = ""


# Importances


def additive(count, seed=0):
    """Values whose variance is known: 4 parts of ``a``, 1 of ``b``, none of ``c``."""
    random, study = np.random.default_rng(seed), optuna.create_study()
    for _ in range(count):
        params = {name: float(random.uniform(-1, 1)) for name in "abc"}
        value = 2 * params["a"] ** 2 + 1 * params["b"] ** 2
        space = FloatDistribution(-1, 1)
        study.add_trial(create_trial(value=value, params=params, distributions=dict.fromkeys("abc", space)))
    return study


def test_importances_rank_what_the_formula_ranks_and_sum_to_1():
    shares = importances(additive(60))
    assert list(shares) == ["a", "b", "c"]
    assert shares["a"] > 1.5 * shares["b"] > 6 * shares["c"]
    assert sum(shares.values()) == pytest.approx(1)


def test_a_quarter_as_best_ranks_better_than_optuna_s_tenth():
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    studies = [additive(20, seed) for seed in range(20)]
    ours = sum(next(iter(importances(study))) == "a" for study in studies)
    default = sum(next(iter(evaluator.evaluate(study))) == "a" for study in studies)
    assert ours > default


def test_branches_and_switch_are_merged_into_their_dotted_key(study):
    shares = importances(study)
    assert set(shares) == {"optim.lr", "optim.l2_lambda", "optim.name", "model.keep_prob", "model.width"}
    assert set(list(shares)[:2]) == {"optim.lr", "optim.l2_lambda"}  # what the formula is made of
    parts = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25).evaluate(study)
    lr = sum(share for name, share in parts.items() if name.startswith("optim.lr["))
    assert shares["optim.lr"] == pytest.approx(lr / sum(parts.values()))


def test_importances_are_empty_when_they_cannot_be_told():
    assert importances(optuna.create_study()) == {}
    assert importances(additive(9)) == {}
    equal = optuna.create_study()
    for _ in range(12):
        equal.add_trial(create_trial(value=1.0, params={"n": 1}, distributions={"n": IntDistribution(1, 1)}))
    assert importances(equal) == {}


def test_two_objectives_have_importances_for_the_front():
    shares = importances(make_study(60, with_time=True))
    assert shares["model.width"] > shares["model.keep_prob"]  # the width decides on the time
    assert sum(shares.values()) == pytest.approx(1)


# The page


def test_the_page_holds_plotly_once_and_loads_nothing(page):
    assert page.count(get_plotlyjs()) == 1
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    found = Loads(page.replace(get_plotlyjs(), ""))
    assert found.addresses == []
    assert "default-src 'none'; script-src 'unsafe-inline'; " in page
    ours = page.replace(get_plotlyjs(), "")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", ours)
    assert re.findall(r"https?://[^\"'\s]+", ours) == []


def test_the_page_has_no_button_that_sends_a_chart_away(page):
    assert "sendChartToCloud" in get_plotlyjs()  # the trap is there: without the setting the button is shown
    ours = page.replace(get_plotlyjs(), "")
    assert ours.count("Plotly.newPlot(") == ours.count('"modeBarButtonsToRemove": ["sendChartToCloud"') == 8


def test_the_page_shows_every_figure_under_its_heading(page):
    figures = [
        "History",
        "Intermediate values",
        "Parallel coordinates",
        "Importances",
        "Slice",
        "Contour",
        "EDF",
        "Timeline",
    ]
    expected = ["Study <digits> & more", "Verdict", "Candidates on fresh seeds", *figures, "Trials"]
    assert Loads(page.replace(get_plotlyjs(), "")).headings == expected


def test_what_came_from_outside_is_escaped_and_secrets_are_masked(page):
    assert "Study &lt;digits&gt; &amp; more" in page
    assert "trial 16 &lt;beats&gt; the base" in page
    ours = page.replace(get_plotlyjs(), "")
    assert "<digits>" not in ours
    assert "<lr & lambda>" not in ours
    assert "hunter2" not in page


def test_a_category_cannot_end_the_script(tmp_path):
    bad = "</script><img src=x onerror=alert(1)>"
    study = optuna.create_study()
    for i in range(12):
        space = {"c": CategoricalDistribution([bad, "b"]), "x": FloatDistribution(0, 1)}
        params = {"c": [bad, "b"][i % 2], "x": i / 12}
        attrs = {"litmus.fail_reason": bad, "litmus.worker": bad}
        study.add_trial(create_trial(value=float(i), params=params, distributions=space, user_attrs=attrs))
    text = write_page(study, tmp_path / "p.html", title=bad, verdict=[bad], objectives=[bad]).read_text()
    assert "<img" not in text.replace(get_plotlyjs(), "")
    assert Loads(text.replace(get_plotlyjs(), "")).addresses == []


def test_the_table_has_a_row_for_each_logical_trial(page, study):
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    numbers = [int(number) for number in re.findall(r'<tr class="[^"]*"><td data-v="(\d+)\.0">', body)]
    assert numbers == [trial.number for trial in logical(study.trials)]
    assert re.findall(r'<tr class="complete best"><td data-v="(\d+)', body) == [str(study.best_trial.number)]
    assert "not finite: loss is nan" in body


def test_the_size_is_stated(page):
    stated = re.search(r"This page is ([\d.]+) MB", page)
    assert float(stated[1]) == pytest.approx(len(page.encode()) / 1e6, abs=0.1)


def test_a_page_without_trials_says_so_and_is_small(tmp_path):
    text = write_page(optuna.create_study(), tmp_path / "p.html", title="new").read_text()
    assert "No trial has begun" in text
    assert len(text) < 10_000
    assert list(tmp_path.iterdir()) == [tmp_path / "p.html"]


def test_two_objectives_have_a_front_and_names_on_the_page(tmp_path):
    path = write_page(
        make_study(30, with_time=True), tmp_path / "p.html", title="two", objectives=["val/err", "trained_sec"]
    )
    ours = path.read_text().replace(get_plotlyjs(), "")
    headings = Loads(ours).headings
    assert {"Pareto front", "History of val/err", "Slice of trained_sec", "Importances"} <= set(headings)
    assert "Objective 0" not in ours


def test_running_failed_and_oddly_valued_trials_are_no_obstacle(tmp_path):
    study = optuna.create_study()
    space = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution([None, True, 1, "1"])}
    for i, state in enumerate([TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE]):
        params = {"x": 0.5, "c": [None, True, 1, "1"][i]}
        values = [0.5] if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, values=values, params=params, distributions=space))
    text = write_page(study, tmp_path / "p.html", title="odd").read_text()
    assert "Trials" in Loads(text.replace(get_plotlyjs(), "")).headings


def test_the_contour_of_a_long_study_holds_the_best_hundred():
    study = make_study(200)
    found = {name: (note, figure) for name, note, figure in report._figures(study, ["val/err"], importances(study))}
    note, figure = found["Contour"]
    done = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert done > 110
    assert f"the 100 best of {done} trials" in note
    assert len(figure.to_json()) < 1_500_000


def test_the_copy_for_the_figures_keeps_numbers_states_and_values(study):
    copy = report._merged(study, ["val/err"])
    assert [(t.number, t.state, t.values, t.datetime_start) for t in copy.trials] == [
        (t.number, t.state, t.values, t.datetime_start) for t in study.trials
    ]
    assert copy.best_trial.number == study.best_trial.number
    space = copy.trials[0].distributions["optim.lr"]
    assert (space.low, space.high, space.log) == (1e-5, 1.0, True)  # both branches
    assert all("optim.lr" in trial.params for trial in copy.trials)


# CSV, best config, ranges


def test_csv_has_a_row_for_each_logical_trial_under_dotted_keys(study):
    rows = list(csv.DictReader(io.StringIO(trials_csv(study.trials, ["val/err"]))))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in logical(study.trials)]
    by_number = {int(row["trial"]): row for row in rows}
    assert not {LOST, DUPLICATE} & set(by_number)
    continued = by_number[CONTINUED]
    assert (continued["origin"], continued["attempt"], continued["run_uid"]) == (str(LOST), "2", f"u{CONTINUED:04d}")
    best = by_number[study.best_trial.number]
    assert float(best["val/err"]) == study.best_value  # to the last digit
    assert float(best["optim.lr"]) == study.best_params[f"optim.lr[optim.name={best['optim.name']}]"]
    off = [row for row in rows if study.trials[int(row["trial"])].params["optim.l2_lambda=0"]]
    assert {row["optim.l2_lambda"] for row in off} == {"0"}
    assert {row["state"] for row in rows} == {"complete", "pruned", "failed"}


def test_the_best_config_runs_as_it_is(tmp_path):
    config = load_config(["configs/digits_resnet8.yaml"], ["optim.lr=0.0123", "optim.l2_lambda=4.5", "seed=7"])
    command = "litmus fit best.yaml"
    text = best_yaml(
        config, command, ["study digits: trial 17 of 60\nval/err 0.0371", "postgresql://me:hunter2@host/db"]
    )
    (tmp_path / "best.yaml").write_text(text)
    assert load_config([tmp_path / "best.yaml"]) == config
    assert text.splitlines()[:3] == ["# litmus fit best.yaml", "# study digits: trial 17 of 60", "# val/err 0.0371"]
    assert "hunter2" not in text


def test_a_border_that_the_config_draws_is_none_to_widen():
    allows = allowed_in(load_config(["configs/digits_mlp.yaml"]))
    trial = create_trial(
        value=1.0,
        params={"model.keep_prob": 0.99, "optim.lr": 0.1, "optim.l2_lambda=0": True, "data.batch_size": 1},
        distributions={
            "model.keep_prob": FloatDistribution(0.5, 1.0),
            "optim.lr": FloatDistribution(1e-4, 0.1, log=True),
            "optim.l2_lambda=0": CategoricalDistribution([True, False]),
            "data.batch_size": IntDistribution(1, 64),
        },
    )
    found = {one.key: one for one in ranges(trial, allows)}
    assert set(found) == {"model.keep_prob", "optim.lr", "data.batch_size"}
    assert (found["model.keep_prob"].down, found["model.keep_prob"].up) == (True, False)
    assert (found["optim.lr"].down, found["optim.lr"].up, found["optim.lr"].log) == (True, True, True)
    assert (found["data.batch_size"].down, found["data.batch_size"].up) == (False, True)
