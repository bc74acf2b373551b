import pytest
import torch
from torch import nn

from litmus.networks import UnreadableImageSize, build_network


def built(backbone, **options):
    torch.manual_seed(0)
    return build_network("timm", **{"backbone": backbone, "num_classes": 7} | options)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_the_network_is_timms_with_the_head_copied(backbone):
    import timm

    options = {"img_size": (32, 32)} if backbone == "test_vit" else {}
    reference = timm.create_model(backbone, pretrained=False, num_classes=7, **options).eval()
    network = built(backbone).eval()
    missing, extra = network.backbone.load_state_dict(reference.state_dict(), strict=False)
    network.head.load_state_dict(reference.get_classifier().state_dict())
    assert missing == []
    assert len(extra) == 2  # timm's classifier
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), reference(x))


def test_a_convolutional_or_a_double_head_becomes_a_linear_one():
    for backbone in ("resnetv2_18", "deit_tiny_distilled_patch16_224"):
        network = built(backbone, image_size=(16, 16)).eval()
        assert isinstance(network.head, nn.Linear)
        assert network(torch.randn(2, 3, 16, 16)).shape == (2, 7)


def test_weights_are_drawn_not_downloaded(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    first, second = built("test_resnet"), built("test_resnet.r160_in1k")
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, build_network("timm", backbone="test_resnet", num_classes=7).head.weight)


def test_building_leaves_it_in_training_mode_with_fresh_statistics():
    network = built("test_resnet")
    assert all(module.training for module in network.modules())
    assert {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0}


def test_keeping_everything_silences_a_backbones_own_stochastic_depth():
    network = built("swin_tiny_patch4_window7_224")  # timm drops 0.1 by default
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("backbone", ["test_vit", "resnet18"])
def test_drop_path_survival_reaches_the_last_block(backbone):
    from timm.layers import DropPath

    rates = [m.drop_prob for m in built(backbone, drop_path_keep_prob=0.7).modules() if isinstance(m, DropPath)]
    assert rates[-1] == pytest.approx(0.3)


def test_drop_path_where_there_is_none_is_refused():
    with pytest.raises(
        ValueError, match=r"drop_path_keep_prob = 0\.5 needs stochastic depth, which backbone 'dla34' lacks"
    ):
        built("dla34", drop_path_keep_prob=0.5)


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("resnett18", r"backbone = 'resnett18' is unknown to timm; did you mean 'resnet18'\?"),
        ("hf-hub:timm/resnet18.a1_in1k", r"unknown to timm; timm.list_models\(\) gives the \d+ names"),
        ("local-dir:/tmp", "unknown to timm"),
        ("resnet18.no_such_tag", "cannot be built: Invalid pretrained tag"),
    ],
)
def test_an_unknown_backbone_is_named(backbone, says):
    with pytest.raises(ValueError, match=says):
        built(backbone)


@pytest.mark.parametrize(
    ("backbone", "image_size", "smallest"),
    [("vit_tiny_patch16_224", (8, 8), 16), ("convnext_atto", (28, 64), 32)],
)
def test_images_too_small_for_a_backbone_are_refused_with_the_smallest_that_work(backbone, image_size, smallest):
    with pytest.raises(UnreadableImageSize, match=f"{smallest}x{smallest}") as caught:
        built(backbone, image_size=image_size)
    assert caught.value.smallest == smallest
    assert built(backbone, image_size=(smallest, smallest)).eval()(torch.zeros(1, 3, smallest, smallest)).shape == (
        1,
        7,
    )
