"""The claims that many models decide: rules, made tables, known variances, files and settings."""

import json
import math

import numpy as np
import pytest

from litmus.claims.evidence import conclude
from litmus.claims.many_models import between_subsets, estimates_of, falls, interior_maximum, share, sources_of, top
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.errors import Refused
from litmus.jobs.job import Outcome
from litmus.sweep.engine import Done

NAN = math.nan
GENERATOR = np.random.default_rng(5)


def sweep(values, error=0.01):
    return estimates_of([estimate(value, error) for value in values])


def estimate(value, error=0.01):
    ends = {"low": None, "high": None} if error is None else {"low": value - 2 * error, "high": value + 2 * error}
    return {"value": value, "std_error": error, **ends, "points": [value - 0.002, value + 0.002]}


# The rules


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.5, 0.3, 0.2], "supported"),
        ([0.5, 0.2, 0.21], "supported"),  # up by less than 2 standard errors, which are of a difference
        ([0.5, 0.2, 0.3], "inconclusive"),  # a step up
        ([0.3, 0.29, 0.28], "inconclusive"),  # within chance
        ([0.28, 0.29, 0.3], "inconclusive"),
        ([0.2, 0.3, 0.5], "contradicted"),
        ([0.5, NAN, 0.2], "inconclusive"),
        ([0.5, 0.3, NAN], "inconclusive"),
    ],
)
def test_falling_is_from_end_to_end_and_at_no_step_up(values, outcome):
    assert falls("bias", [1, 2, 3], sweep(values)).outcome == outcome


def test_two_standard_errors_are_of_the_difference():
    """0.03 apart with errors of 0.01 each: 2.1 standard errors of 0.0141; 0.028: 1.98."""
    assert falls("bias", [1, 2], sweep([0.5, 0.47])).outcome == "supported"
    assert falls("bias", [1, 2], sweep([0.5, 0.472])).outcome == "inconclusive"


def test_without_errors_nothing_is_decided():
    assert falls("bias", [1, 2], sweep([0.5, 0.1], None)).outcome == "inconclusive"
    assert interior_maximum("variance", [1, 2, 3], sweep([0.1, 0.5, 0.1], None)).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.1, 0.3, 0.1], "supported"),
        ([0.1, 0.3, 0.29], "inconclusive"),  # not above the last
        ([0.29, 0.3, 0.1], "inconclusive"),
        ([0.1, 0.2, 0.3], "contradicted"),
        ([0.3, 0.2, 0.1], "contradicted"),
        ([0.1, 0.29, 0.3], "inconclusive"),
        ([0.1, NAN, 0.1], "inconclusive"),
    ],
)
def test_the_maximum_lies_between_the_ends(values, outcome):
    assert interior_maximum("variance", [1, 2, 3], sweep(values)).outcome == outcome


def test_the_highest_of_what_is_finite():
    assert top(sweep([0.1, NAN, 0.3])) == 2
    assert top(sweep([NAN, NAN])) is None


def test_estimates_come_back_from_their_tables():
    plain = [estimate(0.3), estimate(0.2, None)]
    assert [one.table() for one in estimates_of(plain)] == plain


# Over widths


@pytest.fixture(scope="module")
def widths():
    return make_claim(load_claim("decomposition_width", ["settings.widths=[1,4,64]", "settings.label_noise=[0,0.2]"]))


def of_noise(bias, variance):
    total = [b + v for b, v in zip(bias, variance, strict=True)]
    found = {"bias2_and_noise": bias, "variance": variance, "total": total}
    return {name: [estimate(value) for value in values] for name, values in found.items()}


def made(clean=((0.8, 0.3, 0.2), (0.1, 0.2, 0.1)), noisy=((0.8, 0.4, 0.2), (0.1, 0.4, 0.2)), off=1e-9, diverged=0):
    noises = {"0": of_noise(*clean), "0.2": of_noise(*noisy)}
    return {"widths": [1, 4, 64], "noises": noises, "rows": [], "off": off, "diverged": diverged}


def test_falling_bias_and_a_hump_support(widths):
    assert conclude(widths.judge(made())) == "supported"


def test_both_noises_are_judged(widths):
    assert conclude(widths.judge(made(clean=((0.8, 0.3, 0.2), (0.1, 0.2, 0.3))))) == "contradicted"
    assert conclude(widths.judge(made(noisy=((0.8, 0.3, 0.79), (0.1, 0.2, 0.1))))) == "inconclusive"


def test_parts_that_do_not_add_up_contradict(widths):
    assert conclude(widths.judge(made(off=1e-5))) == "contradicted"


def test_diverged_models_are_told_and_decide_nothing(widths):
    evidence = widths.judge(made(clean=((0.8, NAN, 0.2), (0.1, NAN, 0.1)), diverged=3))
    assert conclude(evidence) == "inconclusive"
    assert "3 trainings" in evidence[-1].found


def test_the_hump_is_named_in_the_title(widths, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "litmus.diagnosis.decomposition_plots.style.write_title", lambda figure, title, sub: titles.append(title)
    )
    assert widths.draw(made(noisy=((0.8, 0.4, 0.2), (0.1, 0.3, 0.4))), tmp_path / "a.png").stat().st_size > 10_000
    assert titles == ["Variance is highest at width 4 with label noise 0 and at width 64 with label noise 0.2"]


def test_what_diverged_is_left_out_of_the_figure(widths, tmp_path):
    lost = (NAN, NAN, NAN)
    assert widths.draw(made(clean=((0.8, NAN, 0.2), (0.1, NAN, 0.1)), noisy=(lost, lost)), tmp_path / "a.png").is_file()


def answers(num, num_images=40, num_classes=3, *, spread=1.0, generator=GENERATOR):
    labels = np.arange(num_images) % num_classes
    logits = spread * generator.standard_normal((num, num_images, num_classes))
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return [{"log_probs": one, "labels": labels, "idx": np.arange(num_images)} for one in logits]


class Made(Done):
    """A training whose answers are made up."""

    def result(self):
        return {"train_eval": {"err": 0.1}, "val": {"err": 0.2}}

    def measured(self, measure):
        return self.__dict__["answer"]


def trained(cells, given, lost=()):
    found = {}
    for at, (cell, answer) in enumerate(zip(cells, given, strict=True)):
        state = Outcome("FAIL", reason="not finite: loss") if at in lost else Outcome("COMPLETE")
        found[cell.name] = Made(cell, state, None)
        found[cell.name].__dict__["answer"] = answer
    return found


def test_tables_are_read_off_the_answers(widths):
    cells = widths.cells()
    table = widths.read(trained(cells, answers(len(cells)), lost=(0,)))
    assert len(table["rows"]) == 6
    assert table["diverged"] == 1
    assert table["off"] < 1e-9
    first, second = (table["noises"]["0"]["variance"][at] for at in (0, 1))
    assert math.isnan(first["value"])
    assert second["value"] > 0.1
    assert second["std_error"] > 0
    assert table["rows"][1]["total"] == pytest.approx(
        table["rows"][1]["bias2_and_noise"] + table["rows"][1]["variance"]
    )
    assert len(second["points"]) == 2  # reshuffles


# Sources


@pytest.fixture(scope="module")
def sources():
    return make_claim(load_claim("init_vs_sampling", ["settings.widths=[4,32]", "settings.subsets=3", "seeds=12"]))


def probabilities(of_subset, of_seed, shape=(30, 4, 200, 2), seed=0):
    """Two classes, the first 0.5 + a subset's shift + a seed's: variances, over both, of 2 of_subset^2, 2 of_seed^2."""
    generator = np.random.default_rng(seed)
    num_subsets, num_seeds, num_images, _ = shape
    subset = of_subset * generator.standard_normal((num_subsets, 1, num_images))
    one = 0.5 + subset + of_seed * generator.standard_normal((num_subsets, num_seeds, num_images))
    return np.stack([one, 1 - one], axis=-1)


def test_known_variances_are_found_by_both_ways():
    found = sources_of(probabilities(0.03, 0.02))
    assert found["sampling"] == pytest.approx(2 * 0.03**2, rel=0.05)
    assert found["initialisation"] == pytest.approx(2 * 0.02**2, rel=0.05)
    assert found["of_pairs"] == pytest.approx(found["sampling"] + found["initialisation"], rel=1e-12)


def test_pairs_are_of_two_subsets():
    """Two subsets, one seed, one image: half the squared distance of the two, over both classes."""
    two = np.array([[[[0.2, 0.8]]], [[[0.6, 0.4]]]])
    assert between_subsets(two) == pytest.approx((0.4**2 + 0.4**2) / 2)


def test_points_carry_the_intervals():
    from litmus.diagnosis.paired import interval

    found = sources_of(probabilities(0.03, 0.02, (5, 3, 50, 2)))
    for part in ("sampling", "initialisation", "total"):
        mean, low, high = interval(found[f"{part}_points"])
        assert mean == pytest.approx(found[part], rel=1e-9)
        assert [low, high] == pytest.approx(found[f"{part}_ends"], rel=1e-9)


def table_of(*found, widths=(4, 32)):
    return {"widths": list(widths), **{name: [one[name] for one in found] for name in found[0]}}


def test_a_sum_that_holds_supports_and_one_that_does_not_contradicts(sources):
    one = sources_of(probabilities(0.03, 0.02, (3, 3, 50, 2)))
    assert conclude(sources.judge(table_of(one, one))) == "supported"
    assert conclude(sources.judge(table_of(one, one | {"of_pairs": one["of_pairs"] + 2e-6}))) == "contradicted"
    assert conclude(sources.judge(table_of(one, one | {"of_pairs": NAN, "total": NAN}))) == "inconclusive"


def test_the_seeds_share_is_of_the_total():
    assert share({"initialisation": [0.1], "total": [0.4]}, 0) == 0.25
    assert math.isnan(share({"initialisation": [0.0], "total": [0.0]}, 0))


def test_sources_are_read_judged_and_drawn(sources, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("litmus.claims.figures.style.write_title", lambda figure, title, sub: titles.append(title))
    cells = sources.cells()
    table = sources.read(trained(cells, answers(len(cells))))
    evidence = sources.judge(table)
    assert conclude(evidence) == "supported"
    assert len(evidence) == 3
    assert len(table["rows"]) == 2
    assert sources.draw(table, tmp_path / "a.png").stat().st_size > 10_000
    assert titles[0].startswith(f"Part of the variance that is the seed's: {share(table, 0):.0%} at width 4, ")

    lost = sources.read(trained(cells, answers(len(cells)), lost=(0,)))
    assert conclude(sources.judge(lost)) == "inconclusive"
    assert sources.draw(lost, tmp_path / "b.png").is_file()
    every = sources.read(trained(cells, answers(len(cells)), lost=range(len(cells))))
    assert sources.draw(every, tmp_path / "c.png").is_file()
    assert titles[2].endswith("not known, trainings diverged")


def test_models_stand_where_the_design_put_them(widths):
    from litmus.config.vary import Arm
    from litmus.decompose import Design, answers_of

    design = Design(draws=2, reshuffles=3, seeds=2)
    cells = design.cells(Arm(""), widths.base)
    four = np.arange(4)
    given = [{"log_probs": np.full((4, 3), float(at)), "labels": four, "idx": four} for at in range(len(cells))]
    logs, labels = answers_of(list(trained(cells, given).values()), design)
    assert logs.shape == (3, 2, 2, 4, 3)
    assert labels.tolist() == [0, 1, 2, 3]
    for at, cell in enumerate(cells):
        data = cell.config.data
        assert (logs[data.draw_seed - 1, data.part, cell.config.seed % 2] == at).all()
    given[3]["labels"] = np.arange(4)[::-1]
    with pytest.raises(RuntimeError, match="same images"):
        answers_of(list(trained(cells, given).values()), design)


# Files and settings


@pytest.mark.parametrize("full", [False, True])
def test_widths_share_their_draws_and_seeds(full):
    claim = make_claim(load_claim("decomposition_width", full=full))
    cells, num = claim.cells(), claim.spec.seeds
    assert len({cell.name for cell in cells}) == len(cells) == num * len(claim.settings.widths) * 2
    designs = [
        [(c.config.seed, c.config.data.part, c.config.data.draw_seed) for c in cells[at : at + num]]
        for at in range(0, len(cells), num)
    ]
    assert all(design == designs[0] for design in designs)
    assert len(set(designs[0])) == num
    assert {(c.config.data.label_noise, c.config.model.width) for c in cells} == {
        (noise, width) for noise in (0, 0.2) for width in claim.settings.widths
    }
    assert {c.config.data.parts for c in cells} == {6}


@pytest.mark.parametrize("full", [False, True])
def test_no_seed_is_on_two_subsets(full):
    claim = make_claim(load_claim("init_vs_sampling", full=full))
    cells, num = claim.cells(), claim.spec.seeds
    assert len({cell.name for cell in cells}) == len(cells) == num * len(claim.settings.widths)
    first = cells[:num]
    assert len({c.config.seed for c in first}) == num
    assert [c.config.data.part for c in first] == sorted(list(range(claim.settings.subsets)) * claim.design.seeds)
    assert [c.config.seed for c in cells[num : 2 * num]] == [c.config.seed for c in first]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("decomposition_width", ["settings.widths=[4,2,8]"], "settings.widths"),
        ("decomposition_width", ["settings.widths=[1,2]"], "at least 3"),
        ("decomposition_width", ["settings.widths=[0,1,2]"], "settings.widths"),
        ("decomposition_width", ["settings.draws=5"], "must divide seeds = 12"),
        ("decomposition_width", ["settings.draws=2"], "settings.draws"),
        ("decomposition_width", ["settings.label_noise=[0,0]"], "settings.label_noise"),
        ("decomposition_width", ["settings.label_noise=[1]"], "settings.label_noise"),
        ("decomposition_width", ["settings.noise=[0]"], "settings.noise"),
        ("init_vs_sampling", ["settings.widths=[4]"], "at least 2"),
        ("init_vs_sampling", ["settings.subsets=2"], "settings.subsets"),
        ("init_vs_sampling", ["settings.subsets=3"], "must go into seeds = 16"),
        ("init_vs_sampling", ["settings.subsets=4", "seeds=4"], "must go into seeds = 4"),
    ],
)
def test_wrong_settings_are_refused(name, given, says):
    with pytest.raises(Refused, match=says):
        make_claim(load_claim(name, given))


def test_a_table_is_plain_numbers(widths):
    from litmus.claims.command import plain

    cells = widths.cells()
    json.dumps(plain(widths.read(trained(cells, answers(len(cells))))), allow_nan=False)
