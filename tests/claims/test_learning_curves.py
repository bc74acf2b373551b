"""The claim on more data, on errors that are made by a law; its file and settings."""

import json
import math

import numpy as np
import pytest

from litmus.claims.evidence import conclude
from litmus.claims.learning_curves import NET, SMALL, held_out, slopes_of
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim
from litmus.errors import Refused
from litmus.jobs.job import Outcome
from litmus.sweep.engine import Done

SIZES = [250, 500, 1000, 2000, 4000, 8000, 16000]
SEEDS = 5


@pytest.fixture(scope="module")
def claim():
    return make_claim(load_claim("more_data"))


def law(a=1.0, b=0.22, c=0.0, *, noise=0.01, seed=0):
    """(sizes, seeds) errors: a law, and noise in proportion."""
    means = a * np.array(SIZES, dtype=float) ** -b + c
    scatter = 1 + noise * np.random.default_rng(seed).standard_normal((len(SIZES), SEEDS))
    return (means[:, None] * scatter).tolist()


def made(val=None, **how):
    val = law(**how) if val is None else val
    small = {"train": law(a=0.5, b=0, seed=1), "val": law(a=0.51, b=0, seed=2)}
    return {"sizes": SIZES, "num_val": 6000, "rows": [], "arms": {NET: {"train": law(b=0.5), "val": val}, SMALL: small}}


def with_base(claim, *overrides):
    return make_claim(claim.spec.model_copy(update={"base": (*claim.spec.base, *overrides)}))


def outcomes(claim, table):
    return [one.outcome for one in claim.judge(table) if one.outcome is not None]


def test_a_law_supports(claim):
    table = made()
    assert outcomes(claim, table) == ["supported", "supported"]
    assert held_out(table).per_seed == (True,) * SEEDS


def test_an_error_that_stops_falling_is_not_foretold(claim):
    val = law()
    val[-1] = val[-2]
    assert outcomes(claim, made(val))[0] == "contradicted"


def test_three_of_five_seeds_are_too_few_and_four_enough(claim):
    for lost, outcome in ((1, "supported"), (2, "inconclusive")):
        val = law()
        val[-1][:lost] = val[-2][:lost]
        assert outcomes(claim, made(val))[0] == outcome


def test_too_steep_or_too_flat_a_slope_contradicts(claim):
    assert outcomes(claim, made(b=0.4))[1] == "contradicted"
    assert outcomes(claim, made(b=0.05))[1] == "contradicted"
    assert outcomes(claim, made(b=0.295, noise=0.1))[1] == "inconclusive"


def test_trainings_that_diverged_decide_nothing(claim, tmp_path):
    val = law()
    val[2][1] = math.nan
    table = made(val)
    assert outcomes(claim, table) == ["inconclusive", "inconclusive"]
    assert "1 trainings diverged" in claim.judge(table)[0].found
    assert claim.draw(table, tmp_path / "a.png").is_file()
    lost = [[math.nan] * SEEDS] * len(SIZES)
    table["arms"][SMALL] = table["arms"][NET] = {"train": lost, "val": lost}
    assert claim.draw(table, tmp_path / "b.png").is_file()
    assert conclude(claim.judge(table)) == "inconclusive"


def test_the_small_network_is_only_reported(claim):
    evidence = claim.judge(made())
    assert [one.outcome for one in evidence[-2:]] == [None, None]
    assert "slope" in evidence[-1].found
    assert "train/err 0.5" in evidence[-1].found


def test_slopes_are_exponents():
    assert slopes_of(SIZES, law(b=0.3, noise=0)) == pytest.approx([-0.3] * SEEDS)
    assert all(math.isnan(slope) for slope in slopes_of([1, 2], [[0.1], [0.0]]))
    assert all(math.isnan(slope) for slope in slopes_of([1, 2], [[0.1], [math.nan]]))


def test_it_is_drawn_with_its_forecast(claim, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("litmus.claims.learning_curves.style.write_title", lambda figure, *words: titles.append(words))
    table = made()
    held = held_out(table)
    assert claim.draw(table, tmp_path / "a.png").stat().st_size > 10_000
    assert f"Foretold {held.predicted:.3f} and measured {held.err:.3f} at 16,000 images; in 5 of 5" in titles[0][0]
    assert f"equal steps: {claim.base.train.steps:,} each, last weights" in titles[0][1]
    stopped = with_base(claim, "early_stopping.name=up", "checkpoint.evaluate=best")
    stopped.draw(table, tmp_path / "b.png")
    assert f"equal steps: at most {claim.base.train.steps:,}, early stopping (up), best weights" in titles[1][1]


def test_networks_are_named(claim):
    assert claim.named(NET) == "plain, depth 8, width 8"
    assert claim.named(SMALL) == "mlp, depth 2, width 2"


class Made(Done):
    def result(self):
        err = 1 / self.cell.config.data.num_train ** (0.2 if self.cell.name.startswith(NET) else 0.01)
        return {"train_eval": {"err": err / 2}, "val": {"err": err, "num_images": 6000}}


def test_tables_are_read_off_the_results(claim):
    cells = claim.cells()
    done = {cell.name: Made(cell, Outcome("COMPLETE"), None) for cell in cells}
    done[cells[1].name] = Made(cells[1], Outcome("FAIL", reason="not finite: loss"), None)
    table = claim.read(done)
    val = np.array(table["arms"][NET]["val"])
    assert math.isnan(val[0, 1])
    assert val[-1] == pytest.approx(16000**-0.2)
    assert table["num_val"] == 6000
    assert len(table["rows"]) == 2 * len(SIZES) * SEEDS
    assert np.array(table["arms"][SMALL]["train"])[0] == pytest.approx(250**-0.01 / 2)


# File and settings


@pytest.mark.parametrize("full", [False, True])
def test_sizes_are_nested_and_seeds_paired(full):
    claim = make_claim(load_claim("more_data", full=full))
    cells = claim.cells()
    sizes = list(claim.settings.sizes)
    assert len({cell.name for cell in cells}) == len(cells) == 2 * len(sizes) * SEEDS
    configs = [cell.config for cell in cells]
    for config in configs:
        assert config.data.draw_seed == config.seed + 1
        assert config.early_stopping is None
        assert config.train.steps == claim.base.train.steps
    assert {config.data.num_train for config in configs} == set(sizes)
    assert [(c.seed, c.data.num_train) for c in configs[: len(configs) // 2]] == [
        (c.seed, c.data.num_train) for c in configs[len(configs) // 2 :]
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sizes": [1, 2, 3, 4]}, "at least five"),
        ({"sizes": [1, 3, 2, 4, 5]}, "rise"),
        ({"sizes": [100, 200, 400, 800, 4000]}, "at most 4 times"),
        ({"needed": 6}, "settings.needed"),
        ({"needed": 0}, "settings.needed"),
        ({"slope": [-0.1, -0.3]}, "settings.slope"),
        ({"slope": [-0.1]}, "settings.slope"),
        ({"small": ["model.widht=2"]}, r"settings\.small(.|\n)*model\.widht"),
        ({"size": [1]}, "settings.size"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    with pytest.raises(Refused, match=says):
        make_claim(load_claim("more_data", [f"settings.{k}={json.dumps(v)}" for k, v in given.items()])).cells()


def test_early_stopping_is_that_of_the_base(claim):
    stopped = with_base(claim, "early_stopping.name=up", "checkpoint.evaluate=best")
    assert {cell.config.early_stopping.name for cell in stopped.cells()} == {"up"}


def test_a_length_in_epochs_is_refused(claim):
    with pytest.raises(Refused, match=r"train\.epochs.*equal steps"):
        with_base(claim, "train.steps=null", "train.val_every=1").cells()
