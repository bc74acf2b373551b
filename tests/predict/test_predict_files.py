"""Files are read and predicted as the evaluation of the run read and predicted its own images."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litmus.data.preprocessing import Preprocessing
from litmus.errors import NonFinite, Refused
from litmus.evaluation import evaluate
from litmus.experiment import checked_data, eval_batches
from litmus.predict import predict_files, predictor
from litmus.predict.views import make_views

CPU = torch.device("cpu")


def by_name(found):
    return {prediction.path.stem: prediction for prediction in found.predictions}


@pytest.mark.parametrize("name", ["drops", "plain", "bf16"])
@pytest.mark.parametrize("batch_size", [7, 512])
def test_the_test_images_as_files_give_what_litmus_test_reports(trained, digits, name, batch_size):
    own = trained(name)
    data = checked_data(own.config)
    test = evaluate(own.network, eval_batches(data, "test", CPU), device=CPU, bf16=name == "bf16")
    found = predict_files(own, [digits], top_k=10, batch_size=batch_size)
    assert found.labelled == (test.num_errors, test.num_images)
    table = np.zeros((test.num_images, 10))
    named = by_name(found)
    for row, idx in enumerate(test.idx.tolist()):
        for class_name, chance in named[str(idx)].top:
            table[row, int(class_name)] = chance
    atol = 1e-6 if name != "bf16" else 0.02  # bf16 rounds otherwise in a batch of another size
    np.testing.assert_allclose(table, test.probabilities, rtol=0, atol=atol if batch_size == 7 else 1e-6)


def test_a_prediction_says_what_a_person_asks(trained, digits):
    found = predict_files(trained("plain"), [digits / "3"])
    one = found.predictions[0]
    assert one.top[0][0] == one.predicted == str(one.predicted_idx)
    assert one.top[0][1] == one.probability > one.top[1][1] > one.top[2][1]
    assert len(one.top) == 3
    assert (one.label, one.std, one.view_std) == ("3", None, None)
    assert 0 < one.entropy < np.log(10)
    assert found.counts.total() == len(found.predictions) == len(list((digits / "3").iterdir()))


def test_a_folder_is_a_label_only_when_a_class_is_called_so(trained, digits, tmp_path, monkeypatch):
    for folder in ("3", "three"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(next((digits / "3").iterdir()).read_bytes())
    found = predict_files(trained("plain"), [tmp_path])
    assert [one.label for one in found.predictions] == ["3", None]
    monkeypatch.chdir(tmp_path / "3")
    assert predict_files(trained("plain"), ["x.png"]).predictions[0].label == "3"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_monte_carlo_dropout_does_not_depend_on_the_batch_or_the_other_images(trained, digits, batch_size):
    all_at_once = by_name(predict_files(trained("drops"), [digits / "1"], mc=6))
    some = predict_files(trained("drops"), sorted((digits / "1").iterdir())[:5], mc=6, batch_size=batch_size)
    for one in some.predictions:
        other = all_at_once[one.path.stem]
        for field in ("probability", "std", "entropy", "mutual_information", "variation_ratio"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=2e-6)


def test_the_seed_of_the_masks_decides_and_torchs_generator_is_left_alone(trained, digits):
    state = torch.get_rng_state()
    first, again, other = (
        [one.std for one in predict_files(trained("drops"), [digits / "2"], mc=4, seed=seed).predictions]
        for seed in (None, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert min(first) > 0
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_views_are_averaged_as_if_each_were_a_file(trained, digits, tmp_path):
    original = next((digits / "5").iterdir())
    views = make_views(("shift",), 1)
    pixels = torch.from_numpy(np.array(Image.open(original)))[None, None]
    for number, view in enumerate(views):
        Image.fromarray(view(pixels)[0, 0].contiguous().numpy()).save(tmp_path / f"{number}.png")
    apart = predict_files(trained("drops"), [tmp_path], top_k=10)
    table = np.array([[dict(one.top)[str(k)] for k in range(10)] for one in apart.predictions])
    (averaged,) = predict_files(trained("drops"), [original], tta="auto", top_k=10).predictions
    mean = table.mean(0)
    assert [dict(averaged.top)[str(k)] for k in range(10)] == pytest.approx(mean.tolist(), abs=1e-6)
    assert averaged.view_std == pytest.approx(table[:, mean.argmax()].std(ddof=1), abs=1e-6)
    most = max(np.bincount(table.argmax(1)))
    assert averaged.view_disagreement == pytest.approx(1 - most / len(views))


def test_views_and_dropout_together_report_both(trained, digits):
    plain = predict_files(trained("drops"), [digits / "5"], mc=3)
    both = predict_files(trained("drops"), [digits / "5"], mc=3, tta="shift")
    assert [one.std for one in both.predictions] != [one.std for one in plain.predictions]
    assert all(one.view_std > 0 for one in both.predictions)
    assert all(one.mutual_information > 0 for one in both.predictions)


def test_corrupt_files_are_listed_and_the_rest_is_predicted(trained, digits, tmp_path):
    good = sorted((digits / "0").iterdir())[:3]
    bytes_of = [path.read_bytes() for path in good]
    for place, content in enumerate([bytes_of[0], b"", bytes_of[1], bytes_of[2][:60], b"junk", bytes_of[2]]):
        (tmp_path / f"{place}.png").write_bytes(content)
    (tmp_path / "6.png").symlink_to("nowhere")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "7.png")
    found = predict_files(trained("plain"), [tmp_path], batch_size=2)
    assert [one.path.name for one in found.predictions] == ["0.png", "2.png", "5.png"]
    reasons = {path.name: reason for path, reason in found.skipped}
    assert list(reasons) == ["1.png", "3.png", "4.png", "6.png", "7.png"]
    assert (reasons["1.png"], reasons["4.png"], reasons["6.png"]) == ("empty file", "not an image", "missing")
    assert "not 8 bits" in reasons["7.png"]
    alone = predict_files(trained("plain"), good)
    assert [one.probability for one in found.predictions] == pytest.approx(
        [one.probability for one in alone.predictions]
    )


def test_a_pipe_called_like_an_image_is_not_waited_for(trained, digits, tmp_path):
    import os

    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(next((digits / "0").iterdir()).read_bytes())
    found = predict_files(trained("plain"), [tmp_path])
    assert found.skipped == [(tmp_path / "a.png", "is neither a file nor a folder")]


def test_when_nothing_can_be_read_every_reason_is_said(trained, tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").write_text("junk")
    with pytest.raises(Refused) as refused:
        predict_files(trained("plain"), [tmp_path])
    assert f"{tmp_path}/a.png: empty file" in str(refused.value)
    assert f"{tmp_path}/b.png: not an image" in str(refused.value)
    assert "none of 2 files" in str(refused.value)


def test_reading_stays_a_bounded_way_ahead(tmp_path, monkeypatch):
    """100,000 images must not be held at once."""
    reads, lock, decoded = Preprocessing(("a", "b"), 1, (8, 8), (0.5,), (0.5,)), threading.Lock(), []

    def decode(path, reads):
        with lock:
            decoded.append(path)
        return np.zeros((1, 8, 8), np.uint8)

    monkeypatch.setattr(predictor, "_read", decode)
    files = [Path(f"{number}.png") for number in range(2_000)]
    room = 2 * 16 + (predictor.num_threads() + 1) * predictor._FILES_PER_TASK
    seen = 0
    for batch in predictor._batches(files, reads, 16):
        seen += len(batch.paths)
        assert len(decoded) - seen <= room
    assert seen == len(decoded) == 2_000


def test_a_contact_sheet_has_the_least_certain_of_a_stream_and_others(trained, digits, monkeypatch):
    monkeypatch.setattr(predictor, "SHORTLIST", 5)
    found = predict_files(trained("plain"), [digits], batch_size=10)
    chances = [one.probability for one in found.predictions]
    assert found.least_certain == sorted(range(len(chances)), key=chances.__getitem__)[:5]
    assert len(set(found.drawn) - set(found.least_certain)) == 5
    assert set(found.pixels) == {*found.least_certain, *found.drawn}
    for position, pixels in found.pixels.items():
        np.testing.assert_array_equal(pixels, found.preprocessing.decode(found.predictions[position].path))
    other = predict_files(trained("plain"), [digits], batch_size=64)
    assert (other.least_certain, other.drawn) == (found.least_certain, found.drawn)


def test_weights_that_give_no_numbers_end_it(trained, digits):
    broken = trained("plain")
    with torch.no_grad():
        broken.network.head.bias[0] = float("nan")
    with pytest.raises(NonFinite, match=r"\.png is not finite"):
        predict_files(broken, [digits / "0"])


BAD = {
    "top_k of 11": ("plain", {"top_k": 11}, ["--top-k = 11: must be 1 to 10, the classes of the run"]),
    "top_k of 0": ("plain", {"top_k": 0}, ["--top-k = 0: must be 1 to 10"]),
    "batch_size of 0": ("plain", {"batch_size": 0}, ["--batch-size = 0: must be >= 1"]),
    "one pass": ("drops", {"mc": 1}, ["--mc = 1: must be >= 2: one pass has no spread"]),
    "no dropout, mlp": ("plain", {"mc": 5}, ["train with model.keep_prob or model.input_keep_prob below 1"]),
    "no dropout, conv": ("bf16", {"mc": 5}, ["train with model.keep_prob or model.head_keep_prob below 1"]),
    "a seed for nothing": ("plain", {"seed": 3}, ["--seed = 3: does nothing without --mc"]),
    "a negative seed": ("drops", {"mc": 5, "seed": -1}, ["--seed = -1: must be >= 0"]),
    "untrained views": ("plain", {"tta": "auto"}, ["--tta = 'auto': the run was trained without"]),
    "unknown views": ("plain", {"tta": "hflip,rotat"}, ["--tta = 'rotat': is 'auto', or"]),
    "unknown accelerator": (
        "plain",
        {"accelerator": "cuda"},
        ["--accelerator = 'cuda': is one of auto, cpu, gpu, mps"],
    ),
    "no such file": ("plain", {}, ["nosuch.png: is missing"]),
    "no such run": ("plane", {}, ["run = 'plane': is unknown; did you mean 'plain'?"]),
    "several": ("plain", {"top_k": 11, "mc": 5, "batch_size": -1}, ["--top-k", "--mc", "--batch-size", "4 problems"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_argument_is_refused(home, digits, tmp_path, case):
    run, options, says = BAD[case]
    with pytest.raises(Refused) as refused:
        predict_files(run, [digits / "0", tmp_path / "nosuch.png"], home=home, **options)
    assert [words for words in says if words not in str(refused.value)] == []
    assert "nosuch.png" in str(refused.value)  # all at once


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused(home, digits):
    with pytest.raises(Refused, match="no GPU that torch can use"):
        predict_files("plain", [digits / "0"], home=home, accelerator="gpu")
