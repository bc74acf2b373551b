import math

import numpy as np
import pytest

from litmus.claims.searching import FRESH
from litmus.errors import Refused
from tests.claims import made_stages as made


def lucky(gain=0.0, noise=0.05):
    """The error is 0.2, ``gain`` less for any candidate, and luck that depends on everything that was drawn."""

    def result(cell):
        config = cell.config
        luck = np.random.default_rng((config.seed, int(config.optim.lr * 1e6))).uniform(-noise, noise)
        default = config.optim.name == "adam" and config.optim.lr == 0.001
        return made.errors(0.2 - (0 if default else gain) + luck)

    return result


def test_searches_on_splits_of_their_own_then_winner_and_default_on_fresh_seeds():
    one = made.claim("search_shrinkage")
    done, stages = made.conduct(one, lucky())
    assert stages == [120, 50]
    first = [done[f"search 2, candidate {at}"].cell.config for at in range(24)]
    assert {(config.seed, config.data.split_seed) for config in first} == {(2, 2)}
    assert first[0].model_dump() == {**one.base.model_dump(), "seed": 2, "data": first[0].data.model_dump()}
    assert len({config.optim.lr for config in first}) == 24
    for kind in ("winner", "default"):
        again = [done[f"search 2, {kind} again, seed {fresh}"].cell.config for fresh in range(1, 6)]
        assert [config.seed for config in again] == [FRESH * fresh + 2 for fresh in range(1, 6)]
        assert {config.data.split_seed for config in again} == {2}
    winner = min(range(24), key=lambda at: done[f"search 2, candidate {at}"].result()["val"]["err"])
    assert done["search 2, winner again, seed 1"].cell.config.optim == first[winner].optim
    assert done["search 2, default again, seed 1"].cell.config.optim == one.base.optim


def test_test_images_are_answered_by_re_trainings_alone():
    done, _ = made.conduct(made.claim("search_shrinkage"), lucky())
    assert all(bool(one.cell.measures) == ("again" in name) for name, one in done.items())


def test_candidates_lie_in_their_ranges_and_are_the_same_again():
    one, other = made.claim("search_shrinkage"), made.claim("search_shrinkage")
    drawn = [one.candidate(search, at) for search in range(5) for at in range(1, 24)]
    assert drawn == [other.candidate(search, at) for search in range(5) for at in range(1, 24)]
    rates = [candidate["optim"]["lr"] for candidate in drawn]
    assert 0.0003 <= min(rates) < 0.001
    assert 0.01 < max(rates) <= 0.03
    assert abs(np.log10(rates).mean() - np.log10(0.003)) < 0.15  # even on the logarithm
    assert {candidate["optim"]["name"] for candidate in drawn} == {"momentum", "adam", "rmsprop"}
    keeps = [candidate["model.keep_prob"] for candidate in drawn]
    assert 0.5 <= min(keeps) < 0.55 < 0.95 < max(keeps) <= 1


def test_the_curse_is_the_luck_of_the_best_of_24():
    one = made.claim("search_shrinkage")
    found = one.read(made.conduct(one, lucky())[0])
    told = {piece.what: piece.found for piece in one.judge(found)}
    curse = float(told["the winner's curse: val/err re-trained minus the best seen, points"].split()[0])
    assert 3 < curse < 6.5  # the least of 24 evenly spread over 10 points lies 4.6 below their middle
    assert told["on top, test/err minus val/err of the same trainings, points"].split()[0] == "1"


def test_judged_by_every_search():
    one = made.claim("search_shrinkage")
    assert made.outcomes(one.judge(one.read(made.conduct(one, lucky(gain=0.1))[0]))) == ["supported"]
    worse = one.read(made.conduct(one, lucky(noise=0.01))[0])
    worse["winner_test"] = [[0.3] * 5] * 5
    assert made.outcomes(one.judge(worse)) == ["contradicted"]
    worse["winner_test"] = [[0.1] * 5] * 4 + [[0.3] * 5]
    assert made.outcomes(one.judge(worse)) == ["inconclusive"]
    worse["winner_test"] = worse["default_test"]  # the default won: no worse than itself
    assert made.outcomes(one.judge(worse)) == ["supported"]
    worse["winner_test"] = [[0.1] * 5] * 4 + [[0.1] * 4 + [made.NAN]]
    assert made.outcomes(one.judge(worse)) == ["inconclusive"]


def test_a_search_may_return_the_default():
    one = made.claim("search_shrinkage")
    done, _ = made.conduct(one, lucky(gain=-0.5))
    assert [row["candidate"] for row in one.read(done)["winner"]] == [0] * 5
    again = [done[f"search 3, {kind} again, seed 2"].cell.config for kind in ("winner", "default")]
    assert again[0] == again[1]  # and is trained once for both


def test_a_candidate_that_diverged_does_not_win():
    one = made.claim("search_shrinkage")

    def result(cell):
        return None if cell.name in ("search 0, candidate 3", "search 1, candidate 0") else lucky()(cell)

    done, _ = made.conduct(one, result)
    found = one.read(done)
    assert math.isnan(found["seen"][0][3])
    assert all(row["candidate"] != 3 for row in found["winner"][:1])


@pytest.mark.parametrize("lost", [False, True])
def test_it_is_drawn_with_a_title_from_the_table(tmp_path, lost):
    one = made.claim("search_shrinkage")
    found = one.read(made.conduct(one, lucky())[0])
    if lost:
        found["seen"][0][0] = made.NAN
        found["winner_val"] = [[made.NAN] * 5] * 5
    assert one.draw(found, tmp_path / "search.png").stat().st_size > 15_000


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("settings.candidates=2", "settings.candidates"),
        ("settings.fresh=1", "settings.fresh"),
        ("settings.lr=[0.1,0.01]", "settings.lr"),
        ("settings.keep_prob=[0.5,1.5]", "settings.keep_prob"),
        ("settings.optimizers=[]", "settings.optimizers"),
    ],
)
def test_wrong_settings_are_refused_by_their_key(override, key):
    with pytest.raises(Refused) as caught:
        made.claim("search_shrinkage", override).cells()
    assert [problem.where for problem in caught.value.problems] == [key]
