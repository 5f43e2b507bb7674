"""What the probes measure, against plain ways to the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.study.probes import block_stats
from resnets.study.probes.ablation import remove_each, remove_several, without
from resnets.study.probes.adapters import take_apart
from resnets.study.probes.block_stats import (
    RIDGE,
    branch_use,
    gradient_profile,
    layer_responses,
    linear_probes,
    logit_lens,
)
from resnets.study.probes.cka import MINIBATCH, cka
from resnets.study.probes.loss_landscape import filter_normalised, loss_lines
from resnets.study.probes.residual_chain import score
from resnets.study.twins.study_config import ProbeConfig
from tiny_chains import K, chain, network, sample, trained


def values(rows: Any, metric: str) -> dict[Any, float]:
    """By unit, or else by x."""
    chosen = [row for row in rows if row["metric"] == metric and "value" in row]
    return {row.get("unit", row.get("x")): row["value"] for row in chosen}


def test_responses_are_those_of_the_norms() -> None:
    net = network()
    images, _ = sample()
    heard: list[float] = []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module is not net.bn1:
            module.register_forward_hook(lambda m, i, output: heard.append(float(output.std())))
    with torch.no_grad():
        net(images)
    once = list(heard)
    found = [row["value"] for row in layer_responses(take_apart(net), images)]
    # A unit's projection has a norm too, heard before or after: it is not the branch's.
    assert set(found) <= set(once) and (len(found), len(once)) == (8, 9)


def test_responses_of_norms_with_a_built_in_relu_are_taken_before_it() -> None:
    model = trained(timm.create_model("resnetv2_18", num_classes=K))
    rows = layer_responses(take_apart(model), sample(2, side=32)[0])
    x = take_apart(model).stem(sample(2, side=32)[0])
    norm = model.get_submodule("stages.0.blocks.0.norm1")
    assert isinstance(norm, nn.BatchNorm2d)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    assert rows[0]["value"] == pytest.approx(float(expected.detach().std()), rel=1e-5)


def test_gradients_are_those_of_training_mode() -> None:
    net = network()
    images, targets = sample()
    rows = gradient_profile(take_apart(net), images, targets)
    assert all(parameter.grad is None for parameter in net.parameters())
    twin = network().train()
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    for module in (twin.maxpool, *twin.layer1, *twin.layer2):
        module.register_forward_hook(keep)
    F.cross_entropy(twin(images), targets).backward()
    expected = [float(x.grad.norm()) for x in kept if x.grad is not None]
    assert len(expected) == 5
    assert list(values(rows, "gradient_x").values()) == pytest.approx(expected, rel=1e-4)


def test_ratio_and_angle_of_a_branch() -> None:
    """Of the last unit, whose gradient is short to compute by hand."""
    taken = chain(order="pre")
    images, targets = sample(4)
    last, x = taken.blocks[-1], taken.stream(images)[-2].detach().requires_grad_()
    loss = F.cross_entropy(taken.head(last(x)), targets, reduction="sum")
    g = torch.autograd.grad(loss, x)[0].flatten(1)
    added = last.residual(x).flatten(1)
    rows = branch_use(taken, images, targets)
    angle = F.cosine_similarity(added, -g).mean()
    assert values(rows, "branch_angle")[4] == pytest.approx(float(angle.detach()), abs=1e-5)
    ratio = (added.norm(dim=1) / x.flatten(1).norm(dim=1)).mean()
    assert values(rows, "branch_ratio")[4] == pytest.approx(float(ratio.detach()), rel=1e-4)
    assert [r["unit"] for r in rows if r.get("status") == "shapes differ"] == [3]
    plain = branch_use(chain(shortcut="none"), images, targets)
    assert {row["status"] for row in plain} == {"no shortcut"}


@pytest.mark.parametrize("length", [1.0, 1e-25, 1e-35])
def test_an_angle_does_not_depend_on_the_gradients_length(length: float) -> None:
    added = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    gradient = length * torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert block_stats._angle(added, gradient) == {"value": pytest.approx(0.5)}


def test_the_lens_ends_in_the_networks_own_answer() -> None:
    images, targets = sample()
    for taken in (chain(), chain(shortcut="none")):
        with torch.no_grad():
            own = score(taken.network(images), targets)
        rows = logit_lens(taken, images, targets)
        assert values(rows, "lens_error")[4] == own["error"]
        assert values(rows, "lens_loss")[4] == own["loss"]
        asked = len(values(rows, "lens_error"))
        assert asked == (2 if taken.plain else 5)  # plain: only what has the head's shape


def test_linear_probes_are_ridge_regressions() -> None:
    """The same minimum, found as an ordinary least-squares problem with the penalty as data."""
    taken = chain()
    images, targets = sample(64)
    x = taken.stream(images)[3].mean((2, 3)).detach().double().numpy()
    z = (x - x[:32].mean(0)) / x[:32].std(0, ddof=1)
    y = np.eye(K)[targets.numpy()]
    rows = np.concatenate([z[:32], np.sqrt(RIDGE * 32) * np.eye(z.shape[1])])
    asked = np.concatenate([y[:32] - y[:32].mean(0), np.zeros((z.shape[1], K))])
    weights = np.linalg.lstsq(rows, asked, rcond=None)[0]
    guess = (z[32:] @ weights + y[:32].mean(0)).argmax(1)
    expected = (guess != targets[32:].numpy()).mean()
    assert values(linear_probes(taken, images, targets), "probe_error")[3] == expected


@pytest.mark.parametrize("shortcut", ["pad", "none"])
def test_lesions_agree_with_each_other(shortcut: str) -> None:
    """Each removed alone, from what follows it, equals the whole pass without that one."""
    taken, (images, targets) = chain(shortcut=shortcut), sample()
    rows = remove_each(taken, images, targets)
    for place in range(4):
        if shortcut == "none" and place == 2:  # its input has another shape
            assert {r.get("status") for r in rows if r["unit"] == 3} == {"shapes differ"}
            continue
        alone = without(taken, {place}, images, targets, metric="removed", place={})
        for row in alone:
            assert values(rows, row["metric"])[place + 1] == pytest.approx(row["value"], abs=1e-6)
    several = remove_several(taken, images, targets, draws=2, seed=0)
    most = max(row["x"] for row in several)
    assert most == (4 if shortcut == "pad" else 2)
    assert several == remove_several(taken, images, targets, draws=2, seed=0)


def unbiased(k: Tensor, other: Tensor) -> float:
    """HSIC_1 as Song 2012 and Nguyen 2021 print it."""
    n = len(k)
    k, other = k - torch.diag(torch.diag(k)), other - torch.diag(torch.diag(other))
    ones = torch.ones(n, dtype=k.dtype)
    value = torch.trace(k @ other) + (ones @ k @ ones) * (ones @ other @ ones) / (n - 1) / (n - 2)
    return float((value - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3)))


def test_cka_is_the_printed_formula() -> None:
    first, second = chain(), chain(depths=(1, 2), widths=(4, 4))
    images, _ = sample(2 * MINIBATCH)
    found = cka(first, images, second, images)
    assert found.shape == (5, 4)
    sums = np.zeros(3)
    for batch in images.split(MINIBATCH):
        x, y = (c.stream(batch)[2].detach().flatten(1).double() for c in (first, second))
        k, other = x @ x.T, y @ y.T
        sums += [unbiased(k, other), unbiased(k, k), unbiased(other, other)]
    assert float(found[2, 2]) == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), rel=1e-9)
    itself = cka(first, images, first, images)
    assert torch.allclose(itself.diagonal(), torch.ones(5, dtype=torch.float64))
    noise = cka(first, images, first, sample(2 * MINIBATCH, seed=9)[0])
    assert abs(float(noise[4, 4])) < 0.2  # unbiased: nothing in common is about zero


def test_directions_have_the_lengths_of_the_filters() -> None:
    net = network()
    direction = filter_normalised(net, seed=3)
    for (name, weight), part in zip(net.named_parameters(), direction, strict=True):
        if weight.ndim < 2:
            assert not part.any(), name
        else:
            lengths = (weight.detach().flatten(1).norm(dim=1), part.flatten(1).norm(dim=1))
            assert torch.allclose(*lengths, rtol=1e-5)


def test_lines_pass_through_the_network_and_leave_it_alone() -> None:
    taken, (images, targets) = chain(), sample()
    before = {k: v.clone() for k, v in taken.network.state_dict().items()}
    rows = loss_lines(taken, images, targets, config=ProbeConfig(directions=2))
    assert all(torch.equal(v, before[k]) for k, v in taken.network.state_dict().items())
    with torch.no_grad():
        own = score(taken(images), targets)["loss"]
    middle = [r["value"] for r in rows if r["metric"] == "line_loss" and r["x"] == 0]
    assert middle == [own, own]
    ends = [r["value"] for r in rows if r["metric"] == "line_loss" and r["x"] == 1]
    assert len(set(ends)) == 2
