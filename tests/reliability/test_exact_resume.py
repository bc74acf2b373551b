"""A training cut anywhere and resumed ends as if it had not been: weights, average, moments, random states, metrics."""

import random
import time

import pytest

from litmus.callbacks import checkpoint
from litmus.callbacks.features import FeatureTable
from litmus.checkpoints import newest_whole, saved
from litmus.config import parse_config
from litmus.resume import FOLDER
from litmus.tracking.spool import Spool
from tests.reliability import children
from tests.reliability.training import EVERYTHING, differing, final_state, merged, train

IN_STEPS = {"train": {"epochs": None, "steps": 13, "val_every": 4}}
VARIANTS = {
    "everything": {},
    "in steps": IN_STEPS,
    "validated every second epoch": {"train": {"epochs": 4, "val_every": 2}},
    "frozen, then thawed": {
        "augment": {"pad_crop": 0, "hflip": 0.0, "mixup": 0.0},
        "freeze": {"until": 2, "lr_after": 0.1},
        "train": {"ema_decay": None},
    },
    "plateau": {"schedule": {"name": "plateau", "patience": 0}},
    "adam": {"optim": {"name": "adam", "lr": 0.01}},
    "bf16": {"train": {"precision": "bf16-mixed"}},
    "stops early": {"early_stopping": {"name": "patience", "patience": 1, "min_delta": 0.5}},
}


def cut_at_every_batch(folder, config, batches=None):
    """Stop in each of the batches (a signal: the step is finished and saved), resume, and compare with the whole."""
    whole = train(folder / "whole", config)
    total = 7 * whole["last"]["epoch"] + 7  # 105 training images in batches of 16
    for batch in batches or range(1, total + 1):
        part = folder / f"cut-{batch}"
        stopped = train(part, config, stop_after=batch) is None
        yield batch, stopped, differing(whole, train(part, config))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_cut_in_any_batch_ends_as_the_whole_one(variant, tmp_path):
    chosen = (1, 3, 6, 7, 8, 12) if variant == "everything" else (3, 6, 7, 11)
    cuts = list(cut_at_every_batch(tmp_path, merged(EVERYTHING, VARIANTS[variant]), chosen))
    assert [(batch, found[:3]) for batch, _, found in cuts if found] == []
    assert all(stopped for _, stopped, _ in cuts[:4])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_fetch_ahead_change_nothing(workers, tmp_path, image_folder):
    data = {"name": "image_folder", "path": str(image_folder), "image_size": 8, "batch_size": 16, "workers": workers}
    config = merged(EVERYTHING, {"data": data, "train": {"epochs": 2}})
    whole = train(tmp_path / "whole", merged(config, {"data": {**data, "workers": 0}}))
    for batch in (3, 9, 12):
        assert train(tmp_path / f"cut-{batch}", config, stop_after=batch) is None
        assert differing(whole, train(tmp_path / f"cut-{batch}", config)) == []


def test_cuts_in_a_row_and_another_number_of_saves_change_nothing(tmp_path):
    whole = train(tmp_path / "whole", EVERYTHING)
    config = merged(EVERYTHING, {"checkpoint": {"every_steps": 1}})
    for cut in range(4):
        assert train(tmp_path / "cut", config, stop_after=4) is None, cut
    assert differing(whole, train(tmp_path / "cut", config)) == []


def test_features_are_computed_again_in_the_batches_of_the_first_time(tmp_path, monkeypatch):
    computed = []
    keep = FeatureTable._keep

    def noted(self, split, idx, rows, features):
        if split == "train":
            computed.append(idx.tolist())
        keep(self, split, idx, rows, features)

    monkeypatch.setattr(FeatureTable, "_keep", noted)
    config = merged(EVERYTHING, VARIANTS["frozen, then thawed"])
    assert train(tmp_path / "cut", config, stop_after=9) is None
    first = list(computed)
    computed.clear()
    train(tmp_path / "cut", config)
    assert computed == first
    assert len(first) == 7


def test_points_are_on_the_disk_before_the_checkpoint_is(tmp_path, monkeypatch):
    """What a kill right after the save would lose of the curves, no resumed training would log again."""
    seen = []
    writing = checkpoint.write

    def written(state, path):
        with Spool(next(tmp_path.glob("runs/*"))) as spool:
            seen.append((state["global_step"], len(spool.history("train_step/loss")), state["epoch"]))
        return writing(state, path)

    monkeypatch.setattr(checkpoint, "write", written)
    train(tmp_path, merged(EVERYTHING, {"train": {"epochs": 1, "accumulate": 1}, "checkpoint": {"every_steps": 1}}))
    assert [points for _, points, _ in seen] == [step for step, _, _ in seen]
    assert len(seen) >= 4


def test_two_last_checkpoints_are_kept_and_the_best_that_each_knows(tmp_path):
    train(tmp_path, merged(EVERYTHING, {"checkpoint": {"every_steps": 1}}))
    found = saved(next(tmp_path.glob("runs/*")) / FOLDER)
    assert [one.step for one in found if one.kind == "last"] == [12, 11]
    assert 1 <= sum(one.kind == "best" for one in found) <= 3


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_resume_from_every_batch(figure, tmp_path):
    wrong, count = [], 0
    for name, variant in VARIANTS.items():
        for batch, _, found in cut_at_every_batch(tmp_path / name, merged(EVERYTHING, variant)):
            count += 1
            wrong += [f"{name}, batch {batch}: {found[0]}"] if found else []
    note = f"{len(VARIANTS)} trainings, each cut in each of its batches" + "".join(f"; {one}" for one in wrong[:5])
    figure("every_step", f"{count - len(wrong)} of {count} identical", holds=not wrong, note=note)


KILLED = merged(
    EVERYTHING,
    {"data": {"num_images": 300}, "model": {"depth": 14}, "train": {"epochs": 8}, "checkpoint": {"every_steps": 3}},
)


def kill_until_done(folder, config, rng, *, kills):
    """Start the training again after each SIGKILL, ``kills`` of them, then let it end. Returns (kills done, state)."""
    done = 0
    while True:
        child = children.start(train, folder, config, log=folder.with_suffix(".log"))
        if done < kills:
            child.join(rng.uniform(0.1, 0.8))
        else:
            child.join()
        if child.is_alive():
            child.kill()
            done += 1
        child.join()
        if child.exitcode == 0:
            return done, final_state(next(folder.glob("runs/*")) / FOLDER)
        assert child.exitcode == -9, folder.with_suffix(".log").read_text()


def torn_files(folder):
    """Checkpoints whose bytes are not those that were written; unfinished temporary files do not count as such."""
    from litmus.checkpoints import damage

    return [one.path.name for path in folder.rglob(FOLDER) for one in saved(path) if damage(one.path)]


def test_a_killed_training_ends_as_the_whole_one(tmp_path):
    whole = train(tmp_path / "whole", KILLED)
    whole.pop("history")
    kills, state = kill_until_done(tmp_path / "killed", KILLED, random.Random(0), kills=3)
    assert kills >= 1
    assert differing(whole, state) == []
    assert torn_files(tmp_path) == []


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_a_hundred_kills(figure, tmp_path):
    from litmus.tracking import sync

    rng = random.Random(1)
    whole = train(tmp_path / "whole", KILLED)
    whole.pop("history")
    kills, chains, wrong, torn = 0, 0, [], []
    started = time.monotonic()
    while kills < 100 and time.monotonic() - started < 3000:
        folder = tmp_path / f"chain-{chains}"
        done, state = kill_until_done(folder, KILLED, rng, kills=min(8, 100 - kills))
        kills, chains = kills + done, chains + 1
        wrong += differing(whole, state)[:1]
        torn += torn_files(folder)
    points = []
    for folder in (tmp_path / "whole", tmp_path / "chain-0"):
        directory = next(folder.glob("runs/*"))
        assert sync(directory).complete
        with Spool(directory) as spool:
            points.append(
                {key: [(step, value) for step, value, _ in spool.history(key)] for key in spool.last_metrics()}
            )
    same_points = points[0] == points[1]
    note = f"in {chains} trainings; {len(torn)} torn files; curves {'the same' if same_points else 'differ'}"
    holds = kills >= 100 and not wrong and not torn and same_points
    figure("kills", f"{kills} kills, {chains - len(wrong)} of {chains} identical", holds=holds, note=note)


def test_the_configs_of_these_tests_are_whole(tmp_path):
    for variant in VARIANTS.values():
        config = parse_config(merged(EVERYTHING, variant, {"tracking": {"home": str(tmp_path)}}))
        assert config.train.accumulate == 2
    assert newest_whole(tmp_path / "nothing") is None
