"""Every claim file of configs/claims is run by a class, in both of its forms."""

import json
from pathlib import Path

import pytest
from made import made_claim

from litmus.claims.registry import CLAIMS
from litmus.config.claim import load_claim, names
from litmus.diagnosis import style
from litmus.errors import Refused

ROOT = Path(__file__).resolve().parents[2]

ONE_BUDGET = ("augmentation", "bn_times_decay", "dropout_gap", "early_stopping", "l1_sparsifies", "l2_shrinks")
FORMS = [(name, full) for name in names() for full in (False, True) if not full or load_claim(name).full is not None]


@pytest.mark.parametrize(("name", "full"), FORMS)
def test_a_shipped_claim_plans_cells_with_names_of_their_own(name, full):
    claim = made_claim(name, full=full)
    cells = claim.cells()
    assert len({cell.name for cell in cells}) == len(cells)
    assert claim.spec.seeds >= 5


PILOT = 1000
"""Seeds from here on choose rates, and are in no condition."""
OWN_SEEDS = {"init_vs_sampling"}
"""Where a subset's seeds must be no other's, or starts would be alike."""


@pytest.mark.parametrize(("name", "full"), [form for form in FORMS if form[0] not in OWN_SEEDS])
def test_its_arms_share_their_seeds(name, full):
    arms: dict[str, list[int]] = {}
    for cell in made_claim(name, full=full).cells():
        if cell.config.seed < PILOT:
            arms.setdefault(cell.name.rpartition(", seed ")[0], []).append(cell.config.seed)
    assert len({tuple(sorted(seeds)) for seeds in arms.values()}) <= 1


@pytest.mark.parametrize(("name", "full"), [form for form in FORMS if form[0] in ONE_BUDGET])
def test_arms_of_one_budget_share_images_batches_and_length(name, full):
    configs = [cell.config for cell in made_claim(name, full=full).cells()]
    assert (
        len({(c.train.length, c.train.unit, c.batch_size, c.data.num_train, c.data.split_seed) for c in configs}) == 1
    )


@pytest.mark.parametrize("name", sorted(set(CLAIMS) & set(names())))
def test_a_wrong_setting_is_refused_by_its_key(name):
    with pytest.raises(Refused, match=r"settings\.nonsense"):
        made_claim(name, "settings.nonsense=1")


@pytest.mark.parametrize("name", names())
def test_the_figure_of_a_record_has_its_whole_title(name, tmp_path, monkeypatch):
    record = json.loads((ROOT / f"docs/claims/{name}.json").read_text())
    titles, write_title = [], style.write_title

    def watched(figure, title, *rest):
        shown = style.fitted(title, figure.get_size_inches()[0] - 0.4, 12, bold=True)
        titles.append((title, shown))
        write_title(figure, title, *rest)

    monkeypatch.setattr(style, "write_title", watched)
    made_claim(name).draw(finite(record["table"]), tmp_path / "figure.png")
    assert titles
    assert [title for title, shown in titles if shown != title] == []


def finite(value):
    """A record's table as it was: JSON has no NaN, so those are texts in it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
