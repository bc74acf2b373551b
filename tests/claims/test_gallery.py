import json
import math

import pytest

from litmus.claims.command import plain
from litmus.claims.gallery import newest_of, page_of
from litmus.tracking import Run
from litmus.tracking.stored import StoredRun


def record(name="l2_shrinks", outcome="supported", p=0.03125, **changes):
    return {
        "name": name,
        "says": "A larger lambda makes the weights smaller.",
        "condition": "In 5 of 5 seeds.",
        "note": "A note.",
        "papers": ["Somebody 1992"],
        "published": {"their error": 0.12},
        "full": False,
        "seeds": 5,
        "settings": {},
        "trainings": 25,
        "outcome": outcome,
        "p": p,
        "evidence": [
            {"what": "norms fall", "outcome": outcome, "found": "5 of 5 seeds", "p": p},
            {"what": "val/err", "outcome": None, "found": "0.16", "p": None},
        ],
        "table": {"norm": [1.0, math.nan]},
        "command": f"litmus claim {name}",
        **changes,
    }


def recorded(home, name, *, outcome="supported", finished="FINISHED", **changes):
    run = Run.start(home=home, experiment="litmus/claims", name=f"claim-{name}", kind="claim", send="off")
    run.log_text(json.dumps(plain(record(name, outcome, **changes))), "claim.json")
    picture = home / f"{name}.png"
    picture.write_bytes(b"picture of " + outcome.encode())
    run.log_artifact(picture, "pictures")
    run.set_tags({"litmus.claim": name, "litmus.outcome": outcome})
    run.finish(finished)
    return run


def test_the_gallery_shows_the_newest_finished_run_of_each_claim(tmp_path, litmus):
    home = tmp_path / "mlruns"
    home.mkdir()
    recorded(home, "l2_shrinks", outcome="inconclusive")
    recorded(home, "l2_shrinks", outcome="contradicted")
    recorded(home, "l2_shrinks", finished="FAILED")
    recorded(home, "vanishing", p=None, trainings=0, published={}, papers=[], note="")
    code, out, _ = litmus("claim", "--gallery", tmp_path / "docs", "--home", home)
    assert code == 0
    assert "not run yet: " not in out or "l2_shrinks" not in out
    page = (tmp_path / "docs" / "claims.md").read_text()
    assert "2 claims: 1 supported, 1 contradicted, 0 inconclusive." in page
    assert "| [l2_shrinks](#l2_shrinks) | **contradicted** | 0.0312 | 0.0312 |" in page
    assert "| [vanishing](#vanishing) | supported |  |  |" in page
    assert "**Contradicted**. Condition: " in page
    assert "![l2_shrinks: contradicted](claims/l2_shrinks.png)" in page
    assert (tmp_path / "docs" / "claims" / "l2_shrinks.png").read_bytes() == b"picture of contradicted"
    held = json.loads((tmp_path / "docs" / "claims" / "l2_shrinks.json").read_text())
    assert held["table"]["norm"] == [1.0, "nan"]
    assert held["run"]["id"]
    assert "- published: their error, 0.12" in page
    assert "no training" in page.split("## vanishing")[1]


def test_p_values_are_corrected_for_all_claims_together():
    run = {"id": "abcdef0123", "when": "2026-01-01", "commit": "c0ffee"}
    records = {name: {**record(name, p=p), "run": run} for name, p in (("a", 0.01), ("b", 0.03), ("c", None))}
    page = page_of(records)
    assert "| [a](#a) | supported | 0.01 | 0.02 |" in page
    assert "| [b](#b) | supported | 0.03 | 0.03 |" in page
    assert "run abcdef01 of 2026-01-01, commit c0ffee" in page


def test_without_a_finished_claim_there_is_no_gallery(tmp_path, litmus):
    code, _, err = litmus("claim", "--gallery", tmp_path / "docs", "--home", tmp_path / "mlruns")
    assert code == 2
    assert "there is no finished claim" in err
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize("words", [["l2_shrinks"], ["--all"], ["--full"]])
def test_a_gallery_runs_nothing(words, litmus, tmp_path):
    code, _, err = litmus("claim", *words, "--gallery", tmp_path)
    assert code == 2
    assert "runs nothing: give it alone" in err


def test_home_is_the_gallerys(litmus):
    code, _, err = litmus("claim", "l2_shrinks", "--home", "x")
    assert code == 2
    assert "--home = 'x': only acts with --gallery" in err


def test_runs_of_other_kinds_are_no_claims():
    tags = {"litmus.kind": "train", "litmus.outcome": "supported"}
    assert newest_of([StoredRun("1", "1", "claim-x", "e", "FINISHED", 0, 1, None, tags=tags)]) == {}
