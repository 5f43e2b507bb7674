"""Test the sizes of a network against counts made by hand and by PyTorch."""

from __future__ import annotations

import math

import torch
from torch import nn

from resnets.models.registry import create_model
from resnets.models.summary import count_macs, count_parameters, layer_table


def by_hand() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def test_the_layer_table_of_a_network_counted_by_hand() -> None:
    rows = layer_table(by_hand(), 8)
    assert [(r.name, r.type, r.shape, r.parameters, r.macs) for r in rows] == [
        ("0", "Conv2d", (6, 4, 4), 108, 6 * 16 * 18),
        ("1", "BatchNorm2d", (6, 4, 4), 12, 0),
        ("2", "ReLU", (6, 4, 4), 0, 0),
        ("3", "AdaptiveAvgPool2d", (6, 1, 1), 0, 0),
        ("4", "Flatten", (6,), 0, 0),
        ("5", "Linear", (5,), 35, 30),
    ]
    assert count_parameters(by_hand()) == 155
    assert count_macs(by_hand(), 8) == 1758


def test_each_call_of_a_shared_layer_is_a_row() -> None:
    shared = nn.Conv2d(2, 2, 1, bias=False)
    rows = layer_table(nn.Sequential(shared, nn.ReLU(), shared), 3)
    assert [row.macs for row in rows] == [36, 0, 36]


def test_fixup_costs_what_batch_norm_costs() -> None:
    fixup = create_model("resnet20", norm="bias", residual_init="fixup")
    assert count_macs(fixup, 32) == count_macs(create_model("resnet20"), 32)


def test_macs_are_the_products_of_each_output() -> None:
    model = create_model("resnet50", in_channels=1)
    for row in layer_table(model, 64):
        layer = model.get_submodule(row.name)
        weights = layer.weight[0].numel() if isinstance(layer, nn.Conv2d | nn.Linear) else 0
        assert row.macs == math.prod(row.shape) * weights


def test_measuring_neither_runs_nor_changes_the_model() -> None:
    model = create_model("resnet20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.register_forward_pre_hook(lambda module, args: None)
    count_macs(model, 33)
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
