"""Grad-CAM beside Captum's, and by hand where Captum has none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litmus.diagnosis.gradcam import NoSpatialMaps, grad_cam
from litmus.networks import build_network


def scaled(maps_B1hw, size):
    heat = F.interpolate(maps_B1hw, size=size, mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-30)


CONVOLUTIONAL = [
    ("residual", {"depth": 8}, "end", (8, 8), (2, 2)),
    ("residual", {"depth": 8, "preactivation": True}, "end", (32, 48), (8, 12)),
    ("highway", {"depth": 8, "width": 4}, "end", (16, 16), (4, 4)),
    ("timm", {"backbone": "test_resnet"}, "backbone.layer4", (64, 64), (2, 2)),
    ("timm", {"backbone": "test_resnet"}, "backbone.layer3", (32, 32), (2, 2)),  # layer4 is a single place
]


@pytest.mark.parametrize(
    ("name", "options", "layer", "size", "grid"),
    CONVOLUTIONAL,
    ids=[f"{row[0]} {row[2]} {row[3]}" for row in CONVOLUTIONAL],
)
def test_it_is_captums_grad_cam_of_the_last_maps(name, options, layer, size, grid):
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    network = build_network(name, in_channels=3, num_classes=6, image_size=size, **options).eval()
    images, classes = torch.randn(4, 3, *size), torch.tensor([0, 5, 3, 3])
    found = grad_cam(network, images, classes)
    assert (found.layer, found.grid) == (layer, grid)
    module = network.get_submodule(layer)
    theirs = attr.LayerGradCam(network, module).attribute(images, target=classes, relu_attributions=True)
    assert torch.allclose(found.maps_BHW, scaled(theirs.detach(), size), atol=1e-5)
    assert found.maps_BHW.any()


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("test_vit", "blocks.5.norm1"),  # by its class token: past this layer, patches do not reach the score
        ("test_vit2", "norm"),  # by the mean of its patches
    ],
)
def test_a_vision_transformer_is_read_from_its_last_patches_that_count(backbone, layer):
    torch.manual_seed(0)
    size, grid = (160, 160), (10, 10)
    network = build_network("timm", in_channels=3, num_classes=4, image_size=size, backbone=backbone).eval()
    images, classes = torch.randn(2, 3, *size), torch.tensor([1, 2])
    found = grad_cam(network, images, classes)
    assert (found.layer, found.grid) == (f"backbone.{layer}", grid)

    kept = []
    with network.backbone.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1])):
        score = network(images).gather(1, classes[:, None]).sum()
    (slope,) = torch.autograd.grad(score, kept[0])
    patches, slopes = kept[0][:, 1:].detach(), slope[:, 1:]
    by_hand = (slopes.mean(1, keepdim=True) * patches).sum(2).relu().reshape(2, 1, *grid)
    assert torch.allclose(found.maps_BHW, scaled(by_hand, size), atol=1e-5)


class Toy(nn.Module):
    """Two channels, of which class 0 reads the first and class 1 the second; class 2 dislikes the first."""

    def __init__(self, *, channels_last=False):
        super().__init__()
        self.maps = nn.Identity()
        self.head = nn.Linear(2, 3, bias=False)
        self.channels_last = channels_last
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))

    def forward(self, x):
        if self.channels_last:
            return self.head(self.maps(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return self.head(self.maps(x).mean((2, 3)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_heat_is_where_the_class_is(channels_last):
    images = torch.zeros(3, 2, 6, 9)
    images[:, 0, 1, 2], images[:, 1, 4, 7] = 3.0, 5.0
    found = grad_cam(Toy(channels_last=channels_last), images, torch.tensor([0, 1, 2]))
    assert found.grid == (6, 9)
    expected = torch.zeros(3, 6, 9)
    expected[0, 1, 2], expected[1, 4, 7] = 1.0, 1.0
    assert torch.equal(found.maps_BHW, expected)  # nothing speaks for class 2: 0, not NaN


@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_as_it_was(frozen):
    network = build_network(
        "residual", in_channels=1, num_classes=3, image_size=(8, 8), depth=8, width=4, keep_prob=0.5
    )
    network.requires_grad_(not frozen).train()
    network.stem.eval()
    network.head.weight.grad = torch.full_like(network.head.weight, 7.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():  # whoever calls may evaluate
        found = grad_cam(
            network, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
        )
    assert found.maps_BHW.shape == (2, 8, 8)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {p.requires_grad for p in network.parameters()} == {not frozen}
    assert [name for name, p in network.named_parameters() if p.grad is not None] == ["head.weight"]
    assert (network.head.weight.grad == 7).all()
    assert network.training
    assert network.stages.training
    assert not any(module.training for module in network.stem.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
def test_a_network_without_maps_says_so(name):
    network = build_network(name, in_channels=1, num_classes=3, image_size=(8, 8))
    with pytest.raises(NoSpatialMaps, match="maps over the image"):
        grad_cam(network, torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))


def test_attention_is_not_taken_for_a_map():
    """(B, heads, N, N) is as square as the image."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.attention, self.mixed = nn.Identity(), nn.Identity(), nn.Linear(3, 3)
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            tokens = self.tokens(F.avg_pool2d(x, 2).flatten(2).transpose(1, 2))  # 16 patches of an 8x8 image
            weights = self.attention((tokens @ tokens.mT).softmax(-1)[:, None].expand(-1, 4, -1, -1))
            return self.head((weights.mean(1) @ tokens).mean(1))

    found = grad_cam(Attends(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    assert (found.layer, found.grid) == ("tokens", (4, 4))
