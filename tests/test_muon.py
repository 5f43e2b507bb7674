"""Muon against exact orthogonalisation, torch's own SGD, and what its groups promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnets.errors import UserError
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.training.muon import Muon, orthogonal
from resnets.training.optimizer import OTHERS_FACTOR, make_optimizer, set_learning_rate
from resnets.training.recipe import Recipe

SINGULAR_VALUES = (0.4, 1.4)
"""where three iterations leave those of a matrix whose own lie within a factor of 30"""
ROUNDING = 1e-5  # float32


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 4, 1, 1), (8, 8, 1, 1)])
def test_updates_are_nearly_orthonormal_and_point_like_the_gradient(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = shape[0], shape[1] * shape[2] * shape[3]
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0]
    rank = min(rows, columns)
    sizes = torch.logspace(0, 1.4, rank)
    gradient = ((left[:, :rank] * sizes) @ right[:rank]).view(shape)
    update = orthogonal(gradient)
    assert update.shape == shape
    values = torch.linalg.svdvals(update.flatten(1))
    assert values.min() > SINGULAR_VALUES[0] and values.max() < SINGULAR_VALUES[1]
    exact = left[:, :rank] @ right[:rank]
    assert torch.cosine_similarity(update.flatten(), exact.flatten(), dim=0) > 0.95
    torch.testing.assert_close(orthogonal(1000 * gradient), update, rtol=1e-3, atol=1e-3)
    coarse = orthogonal(gradient.bfloat16()).float()
    assert torch.cosine_similarity(coarse.flatten(), update.flatten(), dim=0) > 0.99


def test_filters_keep_the_length_of_an_orthonormal_bank() -> None:
    filters = nn.Parameter(torch.randn(16, 8, 3, 3))
    groups = [{"params": [filters], "filters": True}]
    optimizer = Muon(groups, lr=0.1, momentum=0.9)
    filters.grad = torch.randn(16, 8, 3, 3)
    optimizer.step()
    before = filters.detach().clone()
    filters.grad = torch.zeros_like(filters)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert filters.norm().item() == pytest.approx(4.0, rel=ROUNDING)  # sqrt of 16 channels
    assert torch.cosine_similarity(filters.flatten(), before.flatten(), dim=0) > 1 - ROUNDING


@pytest.mark.parametrize("nesterov", [True, False])
def test_what_is_no_filter_is_trained_as_by_torchs_sgd(nesterov: bool) -> None:
    values = torch.randn(5, 7)
    ours, theirs = nn.Parameter(values.clone()), nn.Parameter(values.clone())
    group = {"params": [ours], "filters": False, "weight_decay": 0.01}
    muon = Muon([group], lr=0.1, momentum=0.8, nesterov=nesterov)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.01)
    for step in range(4):
        ours.grad = theirs.grad = torch.sin(values + step)
        muon.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=ROUNDING)


def test_a_parameter_without_a_gradient_stays() -> None:
    frozen = nn.Parameter(torch.ones(3, 3))
    Muon([{"params": [frozen], "filters": False}], lr=0.1, momentum=0.9).step()
    assert torch.equal(frozen, torch.ones(3, 3))


def test_groups_of_a_network() -> None:
    model = ResNet(ResNetConfig((1, 1), "basic", (8, 16), num_classes=3, stem="small"))
    optimizer = make_optimizer(
        model, Recipe().override(optimizer="muon", learning_rate=0.1, momentum=0.85)
    )
    assert isinstance(optimizer, Muon)
    set_learning_rate(optimizer, 0.05)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        filters = parameter.ndim == 4
        assert group["filters"] == filters, name
        assert group["lr"] == pytest.approx(0.05 * (1 if filters else OTHERS_FACTOR))
        assert group["momentum"] == 0.85


def test_filters_of_zeros_stay_finite_and_begin_to_learn() -> None:
    """A pre-activation unit whose branch starts at zero ends in such filters."""
    torch.manual_seed(0)
    values = {"stem": "small", "order": "pre", "residual_init": "zero"}
    model = ResNet(ResNetConfig((1,), "basic", (8,), num_classes=3, **values))  # type: ignore[arg-type]
    optimizer = make_optimizer(model, Recipe().override(optimizer="muon", learning_rate=0.1))
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.layer1[0].conv2.weight.abs().sum() > 0


def test_gates_are_no_filters_since_no_norm_follows() -> None:
    model = ResNet(ResNetConfig((1,), "basic", (8,), num_classes=3, stem="small", se=0.5))
    groups = make_optimizer(
        model, Recipe().override(optimizer="muon", learning_rate=0.1)
    ).param_groups
    filters = {id(p) for group in groups if group["filters"] for p in group["params"]}
    unit = model.layer1[0]
    assert id(unit.conv1.weight) in filters
    assert not {id(unit.se.fc1.weight), id(unit.se.fc2.weight)} & filters


def test_a_network_without_norms_is_refused() -> None:
    model = ResNet(ResNetConfig((1,), "basic", (8,), num_classes=3, stem="small", norm="none"))
    with pytest.raises(UserError, match="--optimizer muon needs a network with norms"):
        make_optimizer(model, Recipe().override(optimizer="muon", learning_rate=0.1))
