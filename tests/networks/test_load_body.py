"""Weights learnt elsewhere find their places, or say which do not."""

import pytest
import timm
import torch

from litmus.networks import build_network
from litmus.networks.weights import UnfitWeights, load_body_


def residual(**options):
    return build_network("residual", **{"depth": 8, "width": 4, "num_classes": 3, **options})


def timm_network(backbone="test_resnet", side=32):
    return build_network("timm", backbone=backbone, image_size=(side, side), num_classes=3)


def body(network):
    return {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_body_is_the_sources_and_the_head_stays_new():
    source, network = residual(num_classes=7), residual()
    source(torch.randn(8, 3, 32, 32))  # moves running statistics
    head = network.head.weight.clone()
    loaded = load_body_(network, source.state_dict())
    taken = {name: value for name, value in body(source).items() if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in taken.items())
    assert torch.equal(network.head.weight, head)
    assert loaded.num == len(taken)
    assert loaded.left_over == ("head.weight", "head.bias")


@pytest.mark.parametrize("prefix", ["", "module.", "network.", "model.", "_orig_mod.", "module.network."])
def test_wrappers_prefixes_are_taken_off(prefix):
    source, network = residual(), residual()
    load_body_(network, {prefix + name: value for name, value in source.state_dict().items()})
    assert torch.equal(network.stem.conv.weight, source.stem.conv.weight)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_timms_own_names_fit_a_timm_backbone(backbone):
    source, network = timm.create_model(backbone), timm_network(backbone, side=160)
    load_body_(network, source.state_dict())
    images = torch.randn(2, 3, 160, 160)
    expected = source.eval().forward_head(source.forward_features(images), pre_logits=True)
    torch.testing.assert_close(network.eval().features(images), expected)


def test_our_own_names_fit_a_timm_backbone_too():
    source, network = timm_network(), timm_network()
    load_body_(network, source.state_dict())
    assert same(body(source), body(network))


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning", "ignore:Using a non-tuple sequence:UserWarning")
def test_position_embeddings_are_resized_to_the_images():
    source, network = timm.create_model("test_vit"), timm_network("test_vit", side=64)
    assert source.pos_embed.shape != network.backbone.pos_embed.shape
    load_body_(network, source.state_dict())
    assert network.backbone.pos_embed.std() > 0


def test_by_order_the_names_do_not_matter():
    source, network = timm_network(), timm_network()
    kept = [value for name, value in source.state_dict().items() if "num_batches" not in name]
    foreign = {f"_t{place}": value for place, value in enumerate(kept)}
    with pytest.raises(UnfitWeights, match="weights_by: order puts them by position"):
        load_body_(network, foreign)
    loaded = load_body_(network, foreign, by="order")
    assert torch.equal(network.backbone.layer4[0].conv1.weight, source.backbone.layer4[0].conv1.weight)
    assert len(loaded.left_over) == 2


WRONG = {
    "other width": (
        residual(width=8),
        "name",
        "of another shape (stem.conv.weight: 'stem.conv.weight' has shape 8x3x3x3",
    ),
    "other width by order": (residual(width=8), "order", "of another shape"),
    "deeper": (residual(depth=14), "name", "that it has no place for (stages.0.blocks.1."),
    "grey": (residual(in_channels=1), "name", "has shape 4x1x3x3, wanted 4x3x3x3"),
}


@pytest.mark.parametrize(("source", "by", "words"), WRONG.values(), ids=WRONG.keys())
def test_another_network_is_refused_by_name_and_nothing_changes(source, by, words):
    network = residual()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UnfitWeights) as caught:
        load_body_(network, source.state_dict(), by=by)
    assert words in str(caught.value)
    assert same(before, network.state_dict())


def test_missing_tensors_are_named():
    network = residual()
    tensors = residual().state_dict()
    del tensors["stages.1.blocks.0.branch.conv2.weight"]
    with pytest.raises(UnfitWeights, match=r"1 not found \(stages\.1\.blocks\.0\.branch\.conv2\.weight\)"):
        load_body_(network, tensors)
