"""Exports say what the network says, run where Litmus is not, and are refused where they would not."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import litmus.export as exporting
from litmus.config import load_config
from litmus.data.preprocessing import METADATA_KEY, Normalised, Preprocessing
from litmus.experiment import make_data, run
from litmus.export import Agreement, export_run, open_onnx, open_torch, pictures_of, trace, write_onnx, write_torch
from litmus.networks import NETWORKS, build_network
from litmus.tracking import Run, find_run
from litmus.tracking.models import model_name_problem
from litmus.trained import load_trained

FAST = [
    *("train.epochs=1", "optim.lr=0.05", "tracking.offline=true", "tracking.system_metrics=false"),
    *("train.accelerator=cpu", "data.train_eval_size=100"),
]
MODELS = {
    "mlp": ["model.name=mlp", "model.depth=2", "model.width=16"],
    "residual": ["model.name=residual", "model.depth=8", "model.width=4"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two small networks trained for an epoch on digits."""
    home = tmp_path_factory.mktemp("exports") / "mlruns"
    for name, words in MODELS.items():
        run(load_config([], [*FAST, *words, f"name={name}", f"tracking.home={home}"]), say=lambda line: None)
    return home


@pytest.fixture(scope="module")
def exported(home):
    """Both, in all formats, in their run directories; and what was said."""
    said = {}
    for name in MODELS:
        lines: list[str] = []
        assert export_run(name, home=str(home), uri=None, say=lines.append)
        said[name] = "\n".join(lines)
    return said


@pytest.fixture(scope="module")
def images():
    """256 digits of the test split, raw."""
    data = make_data(load_config([], ["data.name=digits"]))
    return data.images("test")[data.indices("test")[:256]]


def folder(home, name) -> Path:
    return find_run(name, home=home).dir / "exports"


def eager(home, name, images):
    """Logits by the path of `litmus test`."""
    trained = load_trained(find_run(name, home=home))
    with torch.inference_mode():
        return trained.network(trained.preprocessing.normalise(images)).numpy()


# --- what is written --------------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys
sys.modules["litmus"] = None  # importing it is an ImportError
import numpy as np
folder, images, answers = sys.argv[1:]
images = np.load(images)

import onnxruntime
onnx = onnxruntime.InferenceSession(f"{folder}/model.onnx").run(["logits"], {"images": images})[0]

import torch
told = {"litmus.preprocessing": ""}
pt2 = torch.export.load(f"{folder}/model.pt2", extra_files=told).module()(torch.from_numpy(images)).detach().numpy()
assert '"class_names": ["0", "1"' in told["litmus.preprocessing"], told

import mlflow.pyfunc
rows = mlflow.pyfunc.load_model(f"{folder}/mlflow_model").predict(images)
served = np.array([list(row["probabilities"].values()) for row in rows])
classes = np.array([row["class"] for row in rows])
np.savez(answers, onnx=onnx, pt2=pt2, served=served, classes=classes)
"""


@pytest.mark.parametrize("name", MODELS)
def test_every_format_agrees_with_the_network_where_litmus_is_not(name, home, exported, images, tmp_path):
    np.save(tmp_path / "images.npy", images.numpy())
    argv = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, folder(home, name), "images.npy", "answers.npz"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(argv, cwd=tmp_path, env=environment, check=True)
    found, logits = np.load(tmp_path / "answers.npz"), eager(home, name, images)
    assert np.abs(found["onnx"] - logits).max() < 1e-4
    assert np.abs(found["pt2"] - logits).max() < 1e-4
    expected = torch.from_numpy(logits).softmax(1).numpy()
    assert np.abs(found["served"] - expected).max() < 1e-4
    assert found["classes"].tolist() == [str(digit) for digit in logits.argmax(1)]


@pytest.mark.parametrize("name", MODELS)
def test_the_largest_difference_of_each_format_is_printed(name, exported):
    said = exported[name]
    assert "256 images of digits, test, in batches of 1, 3 and 64" in said
    for line in ("onnx ", "torch ", "mlflow "):
        found = re.search(rf"^{line} +(\S+) +(\S+) +256 of 256", said, flags=re.MULTILINE)
        assert float(found[1]) < 1e-4
        assert float(found[2]) < 1e-4
    assert said.splitlines()[-1].endswith("mlflow_model/serving_input_example.json")


def test_the_onnx_file_says_what_it_reads_and_for_any_batch(home, exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder(home, "residual") / "model.onnx")
    (reads,), (answers,) = session.get_inputs(), session.get_outputs()
    assert (reads.name, reads.type, reads.shape) == ("images", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (answers.name, answers.type, answers.shape) == ("logits", "tensor(float)", ["batch", 10])
    told = session.get_modelmeta().custom_metadata_map
    assert Preprocessing.from_json(told[METADATA_KEY]) == load_trained(find_run("residual", home=home)).preprocessing
    assert told["litmus.run_uid"] == find_run("residual", home=home).uid
    assert "pixels 0 to 255" in told["litmus.reads"]


def test_the_mlflow_model_holds_no_pickle_and_its_onnx_file_once(home, exported):
    model = folder(home, "residual") / "mlflow_model"
    files = {str(file.relative_to(model)): file for file in model.rglob("*") if file.is_file()}
    assert set(files) == {
        *("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"),
        *("input_example.json", "serving_input_example.json", "served_model.py", "artifacts/model.onnx"),
    }
    assert not any(file.read_bytes().startswith(b"\x80") for file in files.values())
    assert files["artifacts/model.onnx"].samefile(model.parent / "model.onnx")
    pins = files["requirements.txt"].read_text().split()
    assert [re.fullmatch(r"(\w+)==[\d.]+", pin)[1] for pin in pins] == ["mlflow", "numpy", "onnxruntime"]
    assert json.loads(files["serving_input_example.json"].read_text()).keys() == {"inputs"}


def test_no_export_tells_where_it_was_made(home, exported):
    here = [str(Path(exporting.__file__).parent).encode(), str(home).encode(), b".unchecked-"]
    for file in folder(home, "residual").rglob("*"):
        assert not (file.is_file() and [place for place in here if place in file.read_bytes()]), file


def test_black_images_by_mistake_are_refused_by_the_served_model(home, exported):
    from mlflow.exceptions import MlflowException

    from litmus.tracking.models import load_model

    answer = load_model(folder(home, "mlp") / "mlflow_model")
    with pytest.raises(MlflowException, match="send pixels from 0 to 255"):
        answer(np.ones((2, 1, 8, 8), np.uint8))
    with pytest.raises(MlflowException, match="does not match expected shape"):
        answer(np.full((2, 3, 8, 8), 9, np.uint8))


@pytest.mark.parametrize("name", ["residual", "highway", "mlp", "timm"])
def test_a_network_exports(name, tmp_path):
    _exports(tmp_path, name, **NETWORKS[name].small)


SWEEP = [
    *[("plain", {}), ("residual", {"shortcut": "A"}), ("residual", {"shortcut": "B", "preactivation": True})],
    ("residual", {"norm": "group", "norm_groups": 2, "activation": "silu"}),
    ("residual", {"norm": "none", "activation": "gelu", "dropout": "stochastic_depth", "keep_prob": 0.9}),
    ("residual", {"norm_position": "after", "activation": "elu", "dropout": "spatial", "keep_prob": 0.9}),
    *[("plain", {"activation": "leaky_relu"}), ("plain", {"activation": "tanh"}), ("plain", {"activation": "sigmoid"})],
    *[("highway", {}), ("mlp", {"norm": "batch", "keep_prob": 0.5}), ("mlp", {"norm": "none"})],
    ("residual_mlp", {"norm": "group", "keep_prob": 0.9}),
    *[("timm", {"backbone": backbone}) for backbone in ("test_resnet", "test_convnext", "test_efficientnet")],
    *[("timm", {"backbone": backbone}) for backbone in ("test_vit", "test_vit_relpos", "test_maxvit", "test_nfnet")],
    ("timm", {"backbone": "test_convnext", "drop_path_keep_prob": 0.8, "keep_prob": 0.9}),
]


@pytest.mark.proof
@pytest.mark.parametrize(("name", "options"), SWEEP, ids=lambda value: str(value))
def test_every_network_exports(name, options, tmp_path):
    assert {name for name, _ in SWEEP} == set(NETWORKS)
    _exports(tmp_path, name, **{**NETWORKS[name].small, **options})


def _exports(folder, name, **options):
    """With statistics of a batch norm that are not the initial ones, for batches of 1, 3 and 64, without a warning."""
    torch.manual_seed(0)
    network = build_network(name, in_channels=3, num_classes=5, image_size=(32, 32), **options)
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 32, 32))
    model = Normalised(network, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)).eval()
    program = trace(model, torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    write_torch(program, folder / "model.pt2", {})
    write_onnx(program, folder / "model.onnx", {})
    pt2, onnx = open_torch(folder / "model.pt2"), open_onnx(folder / "model.onnx")
    for size in (1, 3, 64):
        pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
        with torch.inference_mode():
            logits = model(pixels).numpy()
        for answer in (pt2, onnx):
            agreement = Agreement.between(logits, answer(pixels))
            assert agreement.passes, agreement


# --- the check --------------------------------------------------------------------------------------------------------


def test_agreement_is_measured_against_the_largest_logit_and_nan_never_passes():
    expected = np.array([[50.0, 0.0], [0.0, 1.0]])
    found = expected + np.array([[0.0, 0.004], [1.5, 0.0]])
    assert Agreement.between(expected, found) == Agreement(1.5, 50.0, same_class=1, num_images=2)
    assert Agreement.between(expected, expected + 0.004).passes
    assert not Agreement.between(expected, expected + 0.006).passes
    assert not Agreement.between(expected / 100, expected / 100 + 0.0002).passes
    assert not Agreement.between(expected, expected * np.nan).passes


def test_a_format_that_differs_fails_with_the_number_and_leaves_nothing(home, tmp_path, monkeypatch, litmus):
    class Off(Normalised):
        def forward(self, images_BCHW):
            return super().forward(images_BCHW) + 0.01

    monkeypatch.setattr(exporting, "Normalised", Off)
    code, said, _ = litmus("export", "mlp", "--home", str(home), "--out", str(tmp_path / "out"))
    assert code == 1
    for name in ("onnx", "torch", "mlflow"):  # the last though no probability changes
        assert re.search(rf"^{name} failed, .*: a logit differs by 0\.01\d*, more than 0\.000\d+$", said, re.MULTILINE)
    assert "wrote" not in said
    assert list((tmp_path / "out").iterdir()) == []


def test_one_format_that_cannot_be_written_keeps_no_other_back(home, tmp_path, monkeypatch, litmus):
    def cannot(*_):
        raise RuntimeError("no translation of aten.odd\nand a hundred lines more")

    monkeypatch.setattr(exporting, "write_torch", cannot)
    argv = ("--home", str(home), "--out", str(tmp_path), "--format", "onnx,torch")
    code, said, _ = litmus("export", "mlp", *argv)
    assert code == 1
    assert "torch failed, and no file of it was written: RuntimeError: no translation of aten.odd\n" in said
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_without_the_data_random_pixels_are_checked_and_said_so(tmp_path):
    config = load_config([], ["data.name=cifar10", f"data.root={tmp_path}"])
    reads = Preprocessing(tuple("abcdefghij"), 3, (32, 32), (0.5,) * 3, (0.2,) * 3)
    seen = pictures_of(config, reads)  # cifar10's own default is to download
    assert not seen.real
    assert "random pixels, as the run's data are not at hand (data." in seen.where
    assert torch.equal(seen.images, pictures_of(config, reads).images)
    assert seen.images.shape == (256, 3, 32, 32)
    assert seen.images.float().mean().item() == pytest.approx(127.5, abs=1)


def test_weights_of_another_precision_are_exported_in_float32_and_it_is_said(tmp_path, litmus):
    words = [*FAST, *MODELS["mlp"], "train.precision=64", "name=double", f"tracking.home={tmp_path}"]
    run(load_config([], words), say=lambda line: None)
    code, said, _ = litmus("export", "double", "--home", str(tmp_path), "--format", "onnx")
    assert code == 0
    assert "note     trained in float64; exported, and checked, in float32" in said
    pixels = torch.full((1, 1, 8, 8), 9, dtype=torch.uint8)
    assert open_onnx(folder(tmp_path, "double") / "model.onnx")(pixels).dtype == np.float32


# --- what is refused --------------------------------------------------------------------------------------------------


def test_everything_wrong_with_an_export_is_refused_at_once(home, tmp_path, litmus):
    (tmp_path / "file").write_text("")
    code, out, said = litmus(
        *("export", "mpl", "--home", str(home), "--format", "onx,torch", "--format", "tensorflow"),
        *("--register", "a/b:c", "--out", str(tmp_path / "file" / "deep")),
    )
    assert (code, out) == (2, "")
    assert said.splitlines()[0] == "export is refused, 5 problems:"
    assert "--format = 'onx': did you mean 'onnx'?" in said
    assert "--format = 'tensorflow': one of: all, mlflow, onnx, torch" in said
    assert "--register = 'a/b:c': cannot have any of / : " in said
    assert "for example 'a-b-c'" in said
    assert "run = 'mpl': is unknown; did you mean 'mlp'?" in said
    assert f"{tmp_path / 'file'} is a file, not a folder" in said


def test_another_programs_file_is_not_overwritten_and_our_own_is(home, tmp_path, litmus):
    argv = ("export", "mlp", "--home", str(home), "--out", str(tmp_path), "--format", "torch")
    (tmp_path / "model.pt2").write_text("mine")
    code, _, said = litmus(*argv)
    assert code == 2
    assert f"--out = '{tmp_path / 'model.pt2'}': was not written by litmus export and is in the way" in said
    assert (tmp_path / "model.pt2").read_text() == "mine"
    (tmp_path / "model.pt2").unlink()
    for _ in range(2):
        assert litmus(*argv)[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_an_mlflow_model_is_replaced_as_a_whole(home, exported, tmp_path, litmus):
    shutil.copytree(folder(home, "mlp") / "mlflow_model", tmp_path / "mlflow_model")
    (tmp_path / "mlflow_model" / "stale").write_text("")
    argv = ("export", "mlp", "--home", str(home), "--out", str(tmp_path), "--format", "mlflow")
    assert litmus(*argv)[0] == 0
    assert not (tmp_path / "mlflow_model" / "stale").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow_model"]
    shutil.rmtree(tmp_path / "mlflow_model")
    (tmp_path / "mlflow_model").mkdir()
    assert litmus(*argv)[0] == 2  # somebody's folder


def test_a_run_without_weights_is_refused(tmp_path, litmus):
    with Run.start(home=tmp_path, experiment="e", name="bare", send="off") as bare:
        bare.log_text("data: {name: digits}\n", "config.yaml")
    code, _, said = litmus("export", "bare", "--home", str(tmp_path))
    assert code == 2
    assert "run = 'bare': is a run of kind 'train', FINISHED, and kept no weights" in said
    assert not (bare.dir / "exports").exists()


def test_a_missing_package_is_refused_with_how_to_install_it(home, monkeypatch, litmus):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else True)
    code, _, said = litmus("export", "mlp", "--home", str(home))
    assert code == 2
    assert "needs onnxscript; install: uv pip install onnxscript, or take --format torch" in said


@pytest.mark.parametrize("name", ["digits", "resnet 8, wide", "ärzte-1_0.b", "x" * 250])
def test_a_name_that_mlflow_takes_is_taken(name):
    from mlflow.utils.validation import _validate_model_name

    _validate_model_name(name)
    assert model_name_problem(name, "--register") is None


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a?b", "a@b", "..", ".", "a\n", " a", "x" * 251])
def test_a_name_that_could_not_be_served_is_refused(name):
    assert "--register" in str(model_name_problem(name, "--register"))


# --- the registry -----------------------------------------------------------------------------------------------------


def test_registered_versions_are_served_from_the_store_and_keep_their_files(home, litmus):
    from mlflow import MlflowClient

    uri = f"sqlite:///{home}/mlflow.db"
    for version in (1, 2):
        code, said, _ = litmus("export", "mlp", "--home", str(home), "-f", "onnx", "--register", "digits net")
        assert code == 0
        assert f"registered digits net, version {version}, at {uri}" in said
        assert f"MLFLOW_TRACKING_URI={uri} mlflow models serve -m 'models:/digits net/{version}'" in said
    stored = find_run("mlp", home=home)
    client = MlflowClient(uri, uri)
    first, second = (client.get_model_version("digits net", version) for version in "12")
    assert (first.run_id, second.run_id, first.status) == (stored.id, stored.id, "READY")
    assert first.tags == {"litmus.run_uid": stored.uid, "test/err": repr(stored.metrics["test/err"])}
    assert first.source != second.source
    kept = Path(client.get_model_version_download_uri("digits net", "2").removeprefix("file://"))
    assert (kept / "artifacts/model.onnx").samefile(stored.dir / "exports/model.onnx")
    assert (kept / "MLmodel").read_bytes() == (stored.dir / "exports/mlflow_model/MLmodel").read_bytes()


def test_a_registry_that_is_away_is_refused_before_the_export(home, tmp_path, monkeypatch, litmus):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://127.0.0.1:{_free_port()}"
    argv = ("--home", str(home), "--register", "x", "--uri", address, "--out", str(tmp_path / "out"))
    code, out, said = litmus("export", "mlp", *argv)
    assert (code, out) == (2, "")
    assert f"--register = '{address}': the run must be in MLflow first, and could not be sent there" in said
    assert "no server listens there" in said
    assert not (tmp_path / "out").exists()


# --- over HTTP --------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body.encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def _listening(argv, port, folder):
    """A command of this environment, as if that were activated and Litmus were not installed, until the block ends."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            argv, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            else:
                pytest.fail(log.read_text())
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


@pytest.fixture
def served(home, exported, tmp_path):
    """The port of `mlflow models serve`, typed as it was printed."""
    command = re.search(r"mlflow models serve -m (\S+) --env-manager local", exported["residual"])[0]
    port = _free_port()
    with _listening([*shlex.split(command), "--port", str(port)], port, tmp_path):
        yield port


@pytest.mark.proof
def test_the_served_model_answers_http_as_the_network_does(served, home, images):
    status, answer = _post(served, json.dumps({"inputs": images.tolist()}))
    assert status == 200
    rows = answer["predictions"]
    logits = eager(home, "residual", images)
    expected = torch.from_numpy(logits).double().softmax(1).numpy()
    found = np.array([[row["probabilities"][str(digit)] for digit in range(10)] for row in rows])
    assert np.abs(found - expected).max() < 1e-4
    assert [row["class"] for row in rows] == [str(digit) for digit in logits.argmax(1)]
    assert [row["probability"] for row in rows] == found.max(1).tolist()

    example = (folder(home, "residual") / "mlflow_model/serving_input_example.json").read_text()
    status, answer = _post(served, example)  # the line that is printed
    assert (status, len(answer["predictions"])) == (200, 1)

    black = np.zeros((1, 1, 8, 8), int)
    for wrong, says in (
        (images[:, :, :4].tolist(), "does not match expected shape"),
        ((black + 300).tolist(), "out of bounds"),
        ((black + 0.5).tolist(), "send pixels from 0 to 255"),
        ([], "input"),
    ):
        status, answer = _post(served, json.dumps({"inputs": wrong}))
        assert status == 400
        assert says in answer["message"]


@pytest.mark.proof
def test_a_model_is_registered_with_a_server_and_read_back_from_it(home, images, tmp_path, monkeypatch, litmus):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    server = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    server += ["--artifacts-destination", str(tmp_path / "kept"), "--host", "127.0.0.1", "--port", str(port)]
    read_back = f"""
import sys
sys.modules["litmus"] = None
import mlflow, numpy
rows = mlflow.pyfunc.load_model("models:/digits/1").predict(numpy.load({str(tmp_path / "images.npy")!r}))
print("".join(row["class"] for row in rows))
"""
    np.save(tmp_path / "images.npy", images.numpy())
    with _listening(server, port, tmp_path):
        argv = ("--home", str(home), "--uri", address, "--out", str(tmp_path / "out"), "--format", "mlflow")
        code, said, _ = litmus("export", "residual", *argv, "--register", "digits")
        assert code == 0
        assert f"registered digits, version 1, at {address}" in said
        assert f"MLFLOW_TRACKING_URI={address} mlflow models serve -m models:/digits/1" in said
        environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
        argv = [sys.executable, "-W", "ignore", "-c", read_back]
        answer = subprocess.run(argv, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert answer.split()[-1] == "".join(str(digit) for digit in eager(home, "residual", images).argmax(1))
