import csv
import io
import json
import math

import numpy as np
import pytest

from litmus.claims.base import Claim
from litmus.claims.command import as_csv, plain
from litmus.claims.evidence import ordering
from litmus.claims.figures import Panel, draw
from litmus.claims.registry import CLAIMS, make_claim
from litmus.config import Field, Numbers, Section
from litmus.config.claim import FOLDER, ClaimConfig, load_claim, names
from litmus.errors import Refused
from tests.sweep import small


class Widths(Claim):
    """Two widths of a tiny network: what a claim has, and no more."""

    class Settings(Section):
        lrs: Numbers
        names: dict[str, str] = Field(default_factory=dict)

    def cells(self):
        return [cell for lr in self.settings.lrs for cell in self.over_seeds(f"lr={lr:g}", {"optim.lr": lr})]

    def read(self, done):
        from litmus.claims.base import of_result

        rows = [self.per_seed(done, f"lr={lr:g}", of_result("train_eval", "loss")) for lr in self.settings.lrs]
        return {"losses": rows, "rows": [{"seed": seed, "loss": loss} for seed, loss in enumerate(rows[0])]}

    def judge(self, table):
        return [ordering("fast below slow", table["losses"][1], table["losses"][0])]

    def draw(self, table, path):
        return draw([Panel({"slow": table["losses"][0], "fast": table["losses"][1]}, "loss")], path, title="t")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr("litmus.claims.command.make_claim", Widths)
    path = tmp_path / "tiny.yaml"
    plain = {
        "name": "tiny",
        "says": "A larger rate learns faster.",
        "condition": "below in 5 of 5",
        "base": small.words(tmp_path / "mlruns"),
        "settings": {"lrs": [0.001, 0.5], "names": {"a name, with a comma": "x"}},
        "published": {"somebody": 0.5},
        "full": {"base": ["train.epochs=3"], "hours": 1},
    }
    path.write_text(json.dumps(plain))
    return path


def test_a_claim_is_trained_judged_drawn_and_recorded_and_found_the_second_time(tiny, litmus, tmp_path):
    code, out, _ = litmus("claim", tiny)
    assert code == 0, out
    assert "runs     10 trainings" in out
    assert "supported     fast below slow: difference" in out
    assert "outcome  SUPPORTED: A larger rate learns faster." in out
    assert "published: somebody 0.5" in out
    (directory,) = (tmp_path / "mlruns" / "runs").glob("claim-tiny-????????")
    record = json.loads((directory / "artifacts" / "claim.json").read_text())
    assert (record["outcome"], record["seeds"], record["trainings"]) == ("supported", 5, 10)
    assert record["p"] == pytest.approx(1 / 32)
    assert record["command"] == f"litmus claim {tiny}"
    assert (directory / "artifacts" / "pictures" / "tiny.png").stat().st_size > 5000
    rows = list(csv.DictReader(io.StringIO((directory / "artifacts" / "per_seed.csv").read_text())))
    assert [row["seed"] for row in rows] == list("01234")
    results = [json.loads(path.read_text()) for path in (tmp_path / "mlruns" / "runs").glob("*/artifacts/result.json")]
    assert len(results) == 10
    assert all("test" not in result for result in results)

    code, out, _ = litmus("claim", tiny)
    assert code == 0
    assert "10 of 10 trainings were done before" in out


def test_keys_of_a_claim_can_be_changed_where_it_is_run(tiny, litmus, tmp_path):
    code, out, _ = litmus("claim", tiny, "seeds=2", "settings.lrs=[0.001,0.002]")
    assert code == 0, out
    assert "runs     4 trainings" in out
    assert "INCONCLUSIVE" in out  # two seeds can never tell


@pytest.fixture
def two(tiny, tmp_path):
    """Two claims; the second's data are not there."""
    other = json.loads(tiny.read_text()) | {"name": "homeless"}
    rest = [word for word in other["base"] if not word.startswith("data.")]
    other["base"] = [*rest, "data.name=image_folder", f"data.path={tmp_path / 'nowhere'}"]
    path = tmp_path / "homeless.yaml"
    path.write_text(json.dumps(other))
    return tiny, path


def test_of_several_claims_one_that_is_refused_is_so_before_any_is_trained(two, litmus, tmp_path):
    code, out, err = litmus("claim", *two, "seeds=2")
    assert code == 2
    assert f"data.path = '{tmp_path / 'nowhere'}'" in err
    assert "runs     " not in out
    assert not list(tmp_path.glob("mlruns/runs/*"))


def test_all_claims_run_but_those_that_cannot_which_are_told_at_once_and_at_the_end(two, litmus, tmp_path, monkeypatch):
    monkeypatch.setattr("litmus.claims.command.names", lambda: [str(path) for path in two])
    code, out, err = litmus("claim", "--all")
    assert code == 1
    assert out.index(f"skipped  {two[1]}: claim") < out.index("outcome  SUPPORTED")
    assert "nowhere" in out
    assert "1 of 2 claims came to no answer" in err
    assert "nowhere" in err
    assert "next     litmus claim --all" in err
    (record,) = tmp_path.glob("mlruns/runs/claim-*/artifacts/claim.json")
    assert json.loads(record.read_text())["command"] == f"litmus claim {two[0]}"


def test_a_claim_without_an_answer_does_not_keep_the_next_from_running(two, litmus, monkeypatch):
    from litmus.sweep.experiment import Incomplete

    def judged(self, table):
        if self.spec.name == "tiny":
            raise Incomplete("3 of 10 trainings came to no answer")
        return [ordering("fast below slow", table["losses"][1], table["losses"][0])]

    monkeypatch.setattr(Widths, "judge", judged)
    plain = json.loads(two[0].read_text()) | {"name": "second"}
    two[1].write_text(json.dumps(plain))
    monkeypatch.setattr("litmus.claims.command.names", lambda: [str(path) for path in two])
    code, out, err = litmus("claim", "--all")
    assert code == 1
    assert f"supported     {two[1]}" in out
    assert f"{two[0]}: 3 of 10 trainings came to no answer" in err


def test_the_full_form_puts_its_own_over_the_claims(tiny):
    claim = load_claim(tiny, full=True)
    assert claim.base[-1] == "train.epochs=3"
    assert Widths(claim).base.train.epochs == 3


def test_the_full_form_stands_beside_the_short_one(tiny, litmus, tmp_path, monkeypatch):
    from litmus.claims.gallery import newest_of
    from litmus.tracking import local_runs

    monkeypatch.setattr(Widths, "cells", lambda self: [])
    monkeypatch.setattr(Widths, "read", lambda self, done: {"losses": [[2] * 5, [1] * 5]})
    assert [litmus("claim", tiny, *words)[0] for words in ([], ["--full"])] == [0, 0]
    assert list(newest_of(local_runs(str(tmp_path / "mlruns")))) == ["tiny", "tiny-full"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nosuch"], "claim = 'nosuch': there is no such claim; "),
        (["l2_shrink"], "did you mean 'l2_shrinks'?"),
        (["l2_shrinks", "--all"], "--all = ['l2_shrinks']: runs every claim"),
        (["--all", "seeds=3"], "--all = ['seeds=3']: takes no overrides"),
        (["l2_shrinks", "seeds=1"], "seeds = 1: must be >= 2"),
        (["l2_shrinks", "seedz=3"], "seedz = 3: is not a key; did you mean seeds?"),
        (["l2_shrinks", "settings.lambda=[0,1]"], "settings.lambda = [0, 1]: is not a key; did you mean lambdas?"),
        (["l2_shrinks", "settings.lambdas=[1,2,3]"], "must begin with 0 and rise"),
        (["l2_shrinks", "base=[nosuch.yaml]"], "nosuch.yaml: does not exist"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_trained(litmus, words, says):
    code, out, err = litmus("claim", *words)
    assert code == 2
    assert says in out + err


def test_every_claim_has_a_file_and_a_class_of_its_name():
    assert set(names()) == set(CLAIMS)
    for name in names():
        assert load_claim(name).name == name
        assert load_claim(FOLDER / f"{name}.yaml") == load_claim(name)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", names())
def test_every_claim_plans_cells_of_its_own_names_on_five_seeds_or_more(name, full):
    spec = load_claim(name)
    if full and spec.full is None:
        with pytest.raises(Refused, match="has no long form"):
            load_claim(name, full=True)
        return
    made = make_claim(load_claim(name, full=full))
    cells = made.cells()
    assert len({cell.name for cell in cells}) == len(cells)
    assert made.spec.seeds >= 5
    for cell in cells:
        for measure in cell.measures:
            assert callable(measure.load())


def test_a_claim_that_no_class_runs_is_refused():
    spec = ClaimConfig(name="nosuch", says="x", condition="x", base=("seed=1",))
    with pytest.raises(Refused, match="is run by no class"):
        make_claim(spec)


def test_json_has_no_nan_and_a_table_keeps_its_columns():
    given = {"a": np.float64("nan"), "b": (1, np.arange(2)), 3: math.inf}
    assert plain(given) == {"a": "nan", "b": [1, [0, 1]], "3": "inf"}
    rows = [{"a": 1}, {"a": 2, "b": "x, y"}]
    assert list(csv.DictReader(io.StringIO(as_csv(rows)))) == [{"a": "1", "b": ""}, {"a": "2", "b": "x, y"}]


# --- figures


@pytest.mark.parametrize(
    "panel",
    [
        Panel({"a": [[1, 2, 3], [2, 3, 4]], "b": [5, 6, 7]}, "loss", "lambda", [0, 1, 10], log_x=True),
        Panel({"a": [[1, math.nan, 3], [2, math.nan, 4]]}, "loss", "n", [1, 2, 3], log_y=True, lines={"bound": 2.5}),
        Panel({"a": [0.1, 0.2, math.nan], "b": [math.nan] * 3, "c": [0.3]}, "err", lines={"paper $x$": 0.15}),
        Panel({f"a rather long name {k}": [k, k + 1] for k in range(9)}, "err"),
        Panel({"flat": [[2, 2], [2, 2]]}, "err", "n", [1, 1000], log_x=True, title="one"),
        Panel({"none": [[math.nan]]}, "err", "n", [3]),
    ],
)
def test_panels_are_drawn_whatever_they_hold(panel, tmp_path):
    path = draw([panel, panel], tmp_path / "p.png", title="a title", subtitle="one\ntwo")
    assert path.stat().st_size > 5000
    assert path.with_suffix(".svg").is_file()
