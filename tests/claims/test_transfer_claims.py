import math

import pytest

from litmus.claims.transfer_far import PHOTOS
from litmus.claims.transferring import PILOT, SCRATCH, crossing, first_step, median_of, ratio
from litmus.errors import Refused
from tests.claims import made_stages as made

FROZEN, TUNED = "frozen body", "probe, then tuned"
BEST = {SCRATCH: 0.3, FROZEN: 1.0, TUNED: 0.1}


def near(gain=0.1, falls=0.05, best=BEST):
    """Frozen is ``gain`` better at 25 labels and loses ``falls`` of it at each further size."""

    def result(cell):
        if cell.name.startswith("source"):
            return made.errors(0.04)
        config = cell.config
        arm = SCRATCH if config.model.weights is None else FROZEN if config.freeze.until is None else TUNED
        place = [25, 50, 100, 250, 1000].index(config.data.num_train)
        away = abs(math.log10(config.optim.lr / best[arm]))
        better = 0.0 if arm == SCRATCH else gain - falls * place
        return made.errors(0.4 - 0.05 * place - better + 0.02 * away + 0.001 * (config.seed % 5) * (arm == SCRATCH))

    return result


def curve(cell):
    """Validated every 15 steps: scratch reaches its last error, 0.2, at step 150, the frozen body at 45."""
    if cell.config.train.val_every != 15:
        return ((300, 0.2),)
    reached = 150 if cell.config.model.weights is None else 45 if cell.config.freeze.until is None else 1000
    return tuple((step, 0.2 if step >= reached else 0.5) for step in range(15, 301, 15))


def table_of_near(**how):
    one = made.claim("transfer_near")
    done, _ = made.conduct(one, near(**how), curve)
    return one, one.read(done), done


def test_sources_first_then_pilots_from_their_weights_then_all_arms():
    one = made.claim("transfer_near")
    done, stages = made.conduct(one, near(), curve)
    assert stages == [7 + 16, 32, 75]
    arms = {arm: done[f"{arm}, n=50, seed 3"].cell.config for arm in (SCRATCH, FROZEN, TUNED)}
    assert arms[SCRATCH].model.weights is None
    assert arms[FROZEN].model.weights == arms[TUNED].model.weights == f"run:{done['source, seed 3'].directory}"
    assert arms[FROZEN].freeze.until is None
    assert (arms[TUNED].freeze.until, arms[TUNED].freeze.lr_after) == (150, 0.1)
    assert all(config.data.classes == (4, 6, 7, 8, 9) for config in arms.values())
    assert done["source, seed 3"].cell.config.data.classes == (0, 1, 2, 3, 5)
    assert (
        done["pilot frozen body, n=25, lr=1, seed 1000"].cell.config.model.weights
        == f"run:{done['source, seed 1000'].directory}"
    )


def test_arms_share_seed_images_and_steps_and_a_seed_has_its_own():
    _, _, done = table_of_near()
    for n in (25, 1000):
        for seed in range(5):
            configs = [done[f"{arm}, n={n}, seed {seed}"].cell.config for arm in (SCRATCH, FROZEN, TUNED)]
            assert {(c.seed, c.data.split_seed, c.data.num_train, c.train.steps) for c in configs} == {
                (seed, seed, n, 300)
            }
    pilots = [one.cell.config.seed for name, one in done.items() if name.startswith("pilot")]
    assert set(pilots) == {PILOT, PILOT + 1}


def test_the_rate_of_a_size_is_that_of_the_nearer_pilot():
    one, found, done = table_of_near()
    assert found["rates"] == {SCRATCH: [0.3] * 5, FROZEN: [1.0] * 5, TUNED: [0.1] * 5}
    assert [one.near_size(n) for n in (25, 50, 100, 250, 1000)] == [25, 25, 25, 1000, 1000]
    done["pilot from scratch, n=1000, lr=0.03, seed 1000"].table = made.errors(0.05)
    assert one.read(done)["rates"][SCRATCH] == [0.3, 0.3, 0.3, 0.03, 0.03]  # 0.05 and 0.22: less than 0.2 on average
    done["pilot from scratch, n=1000, lr=0.03, seed 1001"].table = None
    found = one.read(done)
    assert found["rates"][SCRATCH] == [0.3] * 5  # one that diverged is not chosen for the other's luck
    told = {piece.what: piece.found for piece in one.judge(found)}["rates by the pilots' validation error"]
    assert "frozen body 1 (end) at 25 labels" in told
    assert told.startswith("from scratch 0.3 at 25 labels, 0.3 at 1000")


def test_rates_are_chosen_by_the_validation_error():
    def result(cell):  # the smallest rate is the best on training images
        return near()(cell) | {"train_eval": {"err": cell.config.optim.lr, "loss": 0.0}}

    one = made.claim("transfer_near")
    found = one.read(made.conduct(one, result, curve)[0])
    assert {arm: rates[0] for arm, rates in found["rates"].items()} == BEST


def test_the_interval_at_the_fewest_labels_decides():
    one, found, _ = table_of_near()
    evidence = one.judge(found)
    assert made.outcomes(evidence) == ["supported"]
    assert made.outcomes(one.judge(table_of_near(gain=-0.1)[1])) == ["contradicted"]
    found["val_err"][FROZEN][0] = [0.3, 0.5, 0.4, 0.45, 0.35]
    assert made.outcomes(one.judge(found)) == ["inconclusive"]
    found["val_err"][FROZEN][0][0] = made.NAN
    assert made.outcomes(one.judge(found)) == ["inconclusive"]


def test_the_crossing_and_the_steps_are_reported():
    one, found, _ = table_of_near()
    told = {piece.what: piece.found for piece in one.judge(found)}
    assert told["the frozen body's gain"] == "is gone at 250 labels"
    steps = [piece.found for piece in one.judge(found) if piece.what.startswith("steps")]
    assert steps[0].startswith("from scratch 150 (150 to 150), frozen body 45 (45 to 45) (median and range; ratio 3.3)")
    assert "> 300" in steps[1]
    assert "ratio below 0.5" in steps[1]
    always = one.judge(table_of_near(falls=0.0)[1])
    assert "is there at all of 25 to 1000 labels" in [piece.found for piece in always]


def test_a_crossing_is_where_the_gain_ends_for_good():
    scratch = [[0.3], [0.3], [0.3], [0.3]]
    assert crossing([1, 2, 3, 4], [[0.2], [0.4], [0.2], [0.4]], scratch) == 4
    assert crossing([1, 2, 3, 4], [[0.4]] * 4, scratch) == 1
    assert crossing([1, 2, 3, 4], [[0.2]] * 4, scratch) is None
    assert crossing([1, 2], [[0.2], [0.3]], [[0.3], [0.3]]) == 2  # equal is no gain
    assert crossing([1, 2], [[0.2], [made.NAN]], [[0.3], [0.3]]) == 2
    assert crossing([1, 2], [[0.2], [0.2]], [[0.3], [made.NAN]]) is None


def test_steps_to_a_goal_on_known_curves():
    falling = [(10, 0.5), (20, 0.3), (30, 0.2)]
    assert first_step(falling, 0.3) == 20
    assert first_step(falling, 0.1) == math.inf
    assert math.isnan(first_step([], 0.3))
    assert math.isnan(first_step(falling, made.NAN))
    assert median_of([10, 20, math.inf], 300) == "20 (10 to > 300)"
    assert median_of([math.inf, math.inf, 10], 300) == "> 300 (10 to > 300)"
    assert median_of([made.NAN], 300) == "not known"
    assert ratio({"steps": {SCRATCH: [100], FROZEN: [made.NAN]}, "length": 300}, FROZEN) == "not known"


def test_a_source_that_diverged_ends_the_claim_with_its_name():
    def result(cell):
        return None if cell.name == "source, seed 2" else near()(cell)

    with pytest.raises(Refused, match="source, seed 2"):
        made.conduct(made.claim("transfer_near"), result)


@pytest.mark.parametrize("lost", [False, True])
def test_near_is_drawn_with_a_title_from_the_table(tmp_path, lost):
    one, found, _ = table_of_near()
    if lost:
        found["val_err"][SCRATCH][0] = [made.NAN] * 5
        found["curves"] = {}
    assert one.draw(found, tmp_path / "near.png").stat().st_size > 15_000


def test_a_target_that_diverged_on_a_seed_has_no_curve_and_no_steps():
    one = made.claim("transfer_near")

    def result(cell):
        return None if cell.name == "frozen body, n=50, seed 1" else near()(cell)

    found = one.read(made.conduct(one, result, curve)[0])
    assert math.isnan(found["steps"][FROZEN][1])
    assert set(found["curves"]) == {SCRATCH, TUNED}
    assert made.outcomes(one.judge(found)) == ["supported"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("settings.labels=[50,25]", "settings.labels"),
        ("settings.rates=[0.1,0.1]", "settings.rates"),
        ("settings.pilots=0", "settings.pilots"),
        ("settings.ratio_at=30", "settings.ratio_at"),
        ("settings.source.data.classes=null", "settings.source.data"),
        ("settings.source.data.classes=[4,1]", "settings.source.data.classes"),
    ],
)
def test_wrong_settings_of_near_are_refused_by_their_key(override, key):
    with pytest.raises(Refused) as caught:
        made.claim("transfer_near", override).cells()
    assert [problem.where for problem in caught.value.problems] == [key]


# --- far


def far(at_32=0.0, at_64=0.1):
    def result(cell):
        config = cell.config
        away = abs(math.log10(config.optim.lr / 0.03))
        gains = {32: at_32, 64: at_64} if config.model.name == "timm" else {}
        gain = gains.get(getattr(config.data, "image_size", None), 0.0)
        return made.errors(0.2 - gain + 0.02 * away + 0.001 * (config.seed % 3) * (config.model.name == "timm"))

    return result


def test_far_has_a_pilot_and_then_all_seeds_of_frozen_networks_that_read_rgb():
    one = made.claim("transfer_far")
    done, stages = made.conduct(one, far())
    assert stages == [30, 30]
    config = done["ImageNet, at 64 px, n=1000, seed 2"].cell.config
    assert (config.model.name, config.model.weights_by, config.freeze.layers) == ("timm", "order", ("body",))
    assert (config.data.image_size, config.data.channels, config.data.mean) == (64, 3, (0.5,) * 3)
    assert config.data.name == "fashion_mnist"
    assert done["from scratch, n=1000, seed 2"].cell.config.model.name == "residual"
    assert {one.cell.config.train.steps for one in done.values()} == {900}


def test_far_wants_a_gain_at_both_sizes():
    one = made.claim("transfer_far")

    def judged(**how):
        return made.outcomes(one.judge(one.read(made.conduct(one, far(**how))[0])))

    assert judged(at_32=0.1) == ["supported", "supported"]
    assert judged(at_32=-0.1) == ["contradicted", "supported"]
    assert judged(at_32=0.001) == ["inconclusive", "supported"]


def test_a_folder_of_photos_adds_both_arms_at_the_most_labels(tmp_path):
    one = made.claim("transfer_far", f"settings.folder={tmp_path}")
    done, stages = made.conduct(one, far())
    assert stages == [30 + 10, 30 + 10]
    scratch, frozen = (done[f"{arm}, n=1000, seed 0"].cell.config for arm in PHOTOS)
    assert scratch.data.name == frozen.data.name == "image_folder"
    assert scratch.data.image_size == frozen.data.image_size == 64
    assert (scratch.model.name, frozen.model.name, frozen.data.channels) == ("residual", "timm", 3)
    assert (scratch.data.batch_size, scratch.data.num_train) == (32, 1000)
    found = one.read(done)
    evidence = one.judge(found)
    assert evidence[-2].what.startswith("photos")
    assert made.outcomes(evidence) == ["inconclusive", "supported", "supported"]
    assert one.draw(found, tmp_path / "far.png").stat().st_size > 15_000


@pytest.mark.parametrize("lost", [False, True])
def test_far_is_drawn(tmp_path, lost):
    one = made.claim("transfer_far")
    found = one.read(made.conduct(one, far())[0])
    if lost:
        found["val_err"][SCRATCH] = [[made.NAN] * 5, [0.2, made.NAN, 0.2, 0.2, 0.2]]
    assert one.draw(found, tmp_path / "far.png").stat().st_size > 15_000


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("settings.folder=nowhere/photos", "settings.folder", "is no folder here"),
        ("settings.image_sizes=[16]", "settings.image_sizes", ">= 32"),
        ("settings.labels=[1000]", "settings.labels", "at least two"),
        ("settings.backbone=3", "settings.backbone", "text"),
    ],
)
def test_wrong_settings_of_far_are_refused_by_their_key(override, key, words):
    with pytest.raises(Refused, match=words) as caught:
        made.claim("transfer_far", override).cells()
    assert [problem.where for problem in caught.value.problems] == [key]
