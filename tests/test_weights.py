"""What ``model.weights`` may say, where its file is found, and what the data follow from it."""

import json
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from litmus.config import load_config
from litmus.data.preprocessing import METADATA_KEY, Preprocessing
from litmus.errors import Refused
from litmus.experiment import check, make_data, run
from litmus.networks import build_network
from litmus.weights import find_weights, follow_weights, load_weights_, read_weights

LOCAL = ["tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]
SMALL = ["model.name=residual", "model.depth=8", "model.width=4"]
TIMM = ["model.name=timm", "model.backbone=test_resnet"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    home = tmp_path_factory.mktemp("mlruns")
    overrides = [*SMALL, *LOCAL, f"tracking.home={home}", "train.epochs=1", "data.num_train=100", "name=source"]
    return home, run(load_config([], [*overrides, "data.image_size=12", "data.channels=3"]), say=lambda line: None)


def config_of(*overrides):
    return load_config([], [*LOCAL, *overrides])


def refusal(*overrides):
    with pytest.raises(Refused) as caught:
        follow_weights(config_of(*overrides))
    assert [problem.where for problem in caught.value.problems]
    return str(caught.value)


def test_another_run_is_named_for_good_and_its_images_are_followed(source):
    home, result = source
    config = follow_weights(config_of(*SMALL, f"tracking.home={home}", "model.weights=run:latest"))
    assert config.model.weights == f"run:{result.run.uid}"
    info = result.info
    assert (config.data.image_size, config.data.channels) == (12, 3)
    assert (config.data.mean, config.data.std) == (info.mean, info.std)


def test_what_the_config_says_of_the_data_stays(source):
    home, _ = source
    said = ["data.image_size=16", "data.mean=[0,0,0]", "data.std=[1,1,1]"]
    said = [word.replace("0,0,0", "0.0,0.0,0.0").replace("1,1,1", "1.0,1.0,1.0") for word in said]
    config = follow_weights(config_of(*SMALL, f"tracking.home={home}", "model.weights=run:source", *said))
    assert (config.data.image_size, config.data.mean, config.data.channels) == (16, (0, 0, 0), 3)


def test_a_runs_weights_are_followed_under_their_path_too(source):
    _, result = source
    path = result.run.dir / "weights.safetensors"
    config = follow_weights(config_of(*SMALL, f"model.weights={path}"))
    assert config.data.image_size == 12
    network = build_network("residual", depth=8, width=4, num_classes=4, image_size=(12, 12))
    says = load_weights_(network, config)
    assert "35 tensors by name from weights.safetensors, not used: head.bias, head.weight; the head is new" in says
    assert torch.equal(network.stem.conv.weight, read_weights(path)[0]["stem.conv.weight"])


def test_a_run_from_a_run_remembers_what_it_began_with(source, tmp_path):
    home, result = source
    config = config_of(
        *SMALL, f"tracking.home={home}", "model.weights=run:source", "train.epochs=1", "data.num_train=80"
    )
    said: list[str] = []
    run(config, say=said.append)
    from litmus.tracking import find_run

    kept = find_run("latest", home=home)
    assert kept.params["model.weights"] == f"run:{result.run.uid}"
    assert kept.tags["litmus.weights"] == f"run {result.run.uid[:8]} (source)"
    assert len(kept.tags["litmus.weights_digest"]) == 32
    assert "35 tensors by name from run" in "\n".join(said)
    assert kept.params["data.image_size"] == "12"


def test_a_timm_file_follows_the_backbones_own_data(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"epoch": 3, "state_dict": timm.create_model("test_resnet").state_dict()}, path)
    published = timm.get_pretrained_cfg("test_resnet")
    config = follow_weights(config_of(*TIMM, f"model.weights={path}"))
    assert (config.data.image_size, config.data.channels) == (published.input_size[1], 3)
    assert config.data.mean == tuple(published.mean)


def test_by_order_takes_what_the_config_names(tmp_path):
    path = tmp_path / "foreign.safetensors"
    tensors = timm.create_model("test_resnet").state_dict()
    kept = [value for name, value in tensors.items() if "num_batches" not in name]
    save_file({f"t{place:03}": value for place, value in enumerate(kept)}, path)
    config = follow_weights(config_of(*TIMM, f"model.weights={path}", "model.weights_by=order", "data.image_size=32"))
    network = build_network("timm", backbone="test_resnet", image_size=(32, 32))
    assert "by order from foreign.safetensors, not used:" in load_weights_(network, config)


# --- published weights: a cache in the hub's own layout, and no network


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_published_weights_come_from_the_cache(hub):
    repository = timm.get_pretrained_cfg("test_resnet").hf_hub_id
    snapshot = hub / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    config = follow_weights(config_of(*TIMM, "model.weights=pretrained", "data.image_size=32"))
    network = build_network("timm", backbone="test_resnet", image_size=(32, 32))
    assert f"from {repository} (cached)" in load_weights_(network, config)
    assert torch.equal(network.backbone.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


def test_published_weights_that_are_not_there_are_refused_with_the_cache_and_the_way_to_fetch(hub):
    says = refusal(*TIMM, "model.weights=pretrained")
    assert str(hub / "hub") in says
    assert "hf download timm/test_resnet" in says


def test_without_a_network_the_answer_comes_at_once(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("litmus.weights.getproxies", dict)
    asked = []

    def no_name(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    assert "cannot be fetched ([Errno -2] Name or service not known)" in refusal(*TIMM, "model.weights=pretrained")
    assert asked == ["huggingface.co"]


def test_a_backbone_without_published_weights_is_refused(hub):
    says = refusal("model.name=timm", "model.backbone=resnet50t", "model.weights=pretrained")
    assert "no published weights for backbone 'resnet50t'" in says
    says = refusal("model.name=timm", "model.backbone=test_resnet.nosuch", "model.weights=pretrained")
    assert "published: test_resnet.r160_in1k" in says


# --- what is refused


def test_files_that_are_none_of_weights_are_refused_by_their_path(tmp_path, source):
    whole = (source[1].run.dir / "weights.safetensors").read_bytes()
    for name, content in {
        "torn.safetensors": whole[: len(whole) // 2],
        "text.safetensors": b"hello",
        "empty.pth": b"",
        "text.pth": b"hello",
        "torn.pth": b"PK\x03\x04",
    }.items():
        (tmp_path / name).write_bytes(content)
        says = refusal(*SMALL, f"model.weights={tmp_path / name}") if name.endswith("tensors") else None
        if says is None:
            with pytest.raises(Refused) as caught:
                read_weights(tmp_path / name)
            says = str(caught.value)
        assert name in says
        assert "whole" in says or "tensors" in says


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Code()}, tmp_path / "code.pth")
    with pytest.raises(Refused, match="could run code"):
        read_weights(tmp_path / "code.pth")
    assert "ran" not in capsys.readouterr().out


def test_tensors_are_found_in_the_nests_of_trainers(tmp_path):
    for nest in ("state_dict", "model", "model_ema"):
        torch.save({nest: {"a": torch.ones(2)}, "optimizer": {"b": torch.zeros(1)}}, tmp_path / "nested.ckpt")
        assert read_weights(tmp_path / "nested.ckpt")[0].keys() == {"a"}


ROWS = {
    "missing": ("model.weights={tmp}/nosuch.safetensors", "did you mean"),
    "missing folder": ("model.weights={tmp}/no/such.pth", "there is no folder"),
    "folder": ("model.weights={tmp}", "is a folder; did you mean"),
    "suffix": ("model.weights={tmp}/notes.txt", "ends in '.txt'"),
    "address": ("model.weights=https://example.org/w.pth", "is an address"),
    "unknown run": ("model.weights=run:nosuch", "model.weights = 'run:nosuch': names a run that is unknown"),
    "package": ("model.weights=package:nosuchpackage/w.pth", "uv pip install nosuchpackage"),
    "out of the package": ("model.weights=package:litmus/../../x.pth", "no such file"),
    "package file": ("model.weights=package:litmus/w.pth", "no such file"),
}


@pytest.mark.parametrize(("override", "words"), ROWS.values(), ids=ROWS.keys())
def test_words_that_lead_nowhere_are_refused(override, words, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "nosuck.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    said = refusal(*SMALL, f"tracking.home={tmp_path}/mlruns", override.replace("{tmp}", str(tmp_path)))
    assert words in said


def test_weights_of_another_network_are_refused_before_a_run_exists(source, tmp_path):
    _, result = source
    path = result.run.dir / "weights.safetensors"
    config = config_of("model.depth=14", "model.width=4", f"model.weights={path}", f"tracking.home={tmp_path}/mlruns")
    with pytest.raises(Refused, match=r"model\.weights = .*do not fit: .*not found"):
        run(config, say=lambda line: None)
    assert not (tmp_path / "mlruns").exists()


def test_a_first_layer_of_other_channels_says_which_key_to_leave_out(source, tmp_path):
    _, result = source
    path = result.run.dir / "weights.safetensors"
    grey = ["data.channels=1", "data.mean=[0.5]", "data.std=[0.5]"]
    config = follow_weights(config_of(*SMALL, f"model.weights={path}", *grey))
    [problem] = check(config, make_data(config).prepare())
    assert "leave data.channels out" in problem.says


def test_a_runs_weights_say_what_they_read(source):
    _, result = source
    _, preprocessing = read_weights(result.run.dir / "weights.safetensors")
    assert preprocessing == Preprocessing.of(result.info)


def test_metadata_is_json(tmp_path):
    reads = Preprocessing(("a", "b"), 1, (8, 8), (0.5,), (0.5,))
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={METADATA_KEY: reads.to_json()})
    assert json.loads(reads.to_json())["class_names"] == ["a", "b"]
    assert read_weights(tmp_path / "w.safetensors")[1] == reads


def test_without_weights_nothing_is_followed():
    config = config_of(*SMALL)
    assert follow_weights(config) is config
    assert find_weights(config) is None
