"""Networks taken apart answer with their own bits; a unit's maps are what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from resnets.errors import UserError
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.study.adapters import take_apart
from resnets.study.units import Chain, batch_statistics
from tiny_chains import OURS, SMALL, chain, network, sample, trained

TORCHVISION = {
    "basic": {"block": torchvision.models.resnet.BasicBlock, "layers": [1, 1, 1, 2]},
    "bottleneck": {"block": torchvision.models.resnet.Bottleneck, "layers": [1, 1, 1, 1],
                   "groups": 2, "width_per_group": 8},
}  # fmt: skip
TIMM = ["resnet18", "resnet26d", "resnetv2_18", "resnetv2_50", "test_resnet", "resnetblur18"]


def answers_as_itself(network: nn.Module, side: int) -> Chain:
    images, _ = sample(2, side=side)
    taken = take_apart(network)
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(taken(images), expected) and expected.std() > 0
        with batch_statistics(network):  # and so does it when the norms look at the batch
            assert torch.equal(taken(images), network(images))
    return taken


@pytest.mark.parametrize("name", OURS)
def test_our_networks_answer_as_themselves(name: str) -> None:
    taken = answers_as_itself(network(**OURS[name]), 17)
    assert len(taken.units) == 4 and taken.plain == (name == "plain")


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_answer_as_themselves(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.ResNet(**TORCHVISION[name], num_classes=4)
    taken = answers_as_itself(trained(model), 33)
    assert [unit.name for unit in taken.units][:2] == ["layer1.0", "layer2.0"]


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_answer_as_themselves(name: str) -> None:
    torch.manual_seed(0)
    taken = answers_as_itself(trained(timm.create_model(name, num_classes=4)), 33)
    stages = [unit.stage for unit in taken.units]
    assert stages == sorted(stages) and set(stages) == {1, 2, 3, 4}


def test_other_networks_are_refused() -> None:
    for other in (
        nn.Linear(2, 2),
        torchvision.models.alexnet(),
        timm.create_model("convnext_atto"),
    ):
        with pytest.raises(UserError, match="is no residual network that is known here"):
            take_apart(other)


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("plain56", 56)])
def test_depth_is_the_one_in_the_name(name: str, depth: int) -> None:
    from resnets import create_model

    assert take_apart(create_model(name)).depth == depth


def test_without_shortcuts_it_is_the_plain_twin() -> None:
    """The control of every experiment: strength 0 of all shortcuts, to the last bit."""
    ours = network(shortcut="pad")
    plain = ResNet(ResNetConfig(**SMALL, shortcut="none")).eval()
    plain.load_state_dict(ours.state_dict())
    images, _ = sample(2)
    taken, x = take_apart(ours), None
    with torch.no_grad():
        x = taken.stem(images)
        for unit in taken.units:
            assert unit.shortcut is not None
            x = unit.merge(0 * unit.shortcut(x) + unit.residual(x))
        assert torch.equal(taken.head(x), plain(images))


@pytest.mark.parametrize("values", [{}, {"order": "pre"}, {"block": "bottleneck"}])
def test_removed_units_leave_the_network_without_them(values: dict[str, Any]) -> None:
    """Branches at zero in a stage's identity units: the network that never had these units."""
    long, short = network(depths=(3, 1), **values), network(depths=(1, 1), **values)
    weights = {k: v for k, v in long.state_dict().items() if k in short.state_dict()}
    short.load_state_dict(weights)
    images, _ = sample(2)
    taken = take_apart(long)
    with torch.no_grad():
        x = taken.stem(images)
        for place, unit in enumerate(taken.units):
            x = unit.removed(x) if place in (1, 2) else unit(x)
        assert torch.equal(taken.head(x), short(images))


def test_batch_statistics_are_those_of_a_freshly_measured_network() -> None:
    """Against the plain way: forget, pass once in training mode, evaluate."""
    taken = chain()
    images, _ = sample(64)
    before = {k: v.clone() for k, v in taken.network.state_dict().items()}
    with torch.no_grad():
        with batch_statistics(taken.network):
            found = taken(images)
        assert all(torch.equal(v, before[k]) for k, v in taken.network.state_dict().items())
        assert not any(module.training for module in taken.network.modules())
        for module in taken.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        taken.network.train()(images)
        expected = taken.network.eval()(images)
        assert not torch.allclose(taken(images), found, atol=0)
    # Remembered variances are unbiased: N H W / (N H W - 1), at least 64 * 36 numbers here.
    assert torch.allclose(found, expected, rtol=5e-3, atol=1e-3)
