"""The gradient by path length, against the ordinary one and against paths one by one."""

from __future__ import annotations

from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.models.registry import create_model
from resnets.models.resnet import ResNet
from resnets.study.adapters import in_float64, take_apart
from resnets.study.paths import TOLERANCE, path_rows, path_spectrum, sampled_paths
from resnets.study.units import Chain
from tiny_chains import OURS, chain, network, sample, trained

FLOAT64 = 1e-12


def detached(chain: Chain, images: Tensor, targets: Tensor, takes: tuple[int, ...]) -> Tensor:
    """The gradient along one path: the other way through each unit is cut off from the graph."""
    x = start = chain.stem(images).detach().requires_grad_()
    for take, unit in zip(takes, chain.units, strict=True):
        assert unit.shortcut is not None
        kept, added = unit.shortcut(x), unit.residual(x)
        x = unit.merge(kept.detach() + added if take else kept + added.detach())
    loss = F.cross_entropy(chain.head(x), targets, reduction="sum")
    return torch.autograd.grad(loss, start)[0]


@pytest.mark.parametrize("values", [{}, {"order": "pre"}], ids=["post", "pre"])
def test_each_length_is_the_sum_of_its_paths(values: dict[str, str]) -> None:
    """All 2^4 of them, each by its own backward pass."""
    exact, (images, targets) = in_float64(chain(**values)), sample(3)
    expected = torch.zeros(5, 3, 4, 12, 12, dtype=torch.float64)
    for takes in product((0, 1), repeat=4):
        expected[sum(takes)] += detached(exact, images.double(), targets, takes)
    found = path_spectrum(chain(**values), images, targets)
    assert float((found.parts - expected).abs().max() / expected.abs().max()) < FLOAT64
    assert found.energy.min() > 0


@pytest.mark.parametrize("name", OURS)
def test_the_parts_sum_to_the_ordinary_gradient(name: str) -> None:
    taken, (images, targets) = chain(**OURS[name]), sample(4)
    found = path_spectrum(taken, images, targets)
    own = own_gradient(network(**OURS[name]).double(), images.double(), targets)
    assert found.mismatch < FLOAT64
    assert float((found.parts.sum(0) - own).norm() / own.norm()) < FLOAT64
    if name == "plain":
        assert found.energy.tolist() == [0, 0, 0, 0, 1]


def own_gradient(network: ResNet, images: Tensor, targets: Tensor) -> Tensor:
    """At the stem's output, from the network's own forward pass: no chain is involved."""
    kept: list[Tensor] = []
    network.maxpool.register_forward_hook(lambda module, inputs, output: kept.append(output))
    loss = F.cross_entropy(network(images), targets, reduction="sum")
    return torch.autograd.grad(loss, kept[0])[0]


def test_fifty_four_units_and_foreign_blocks() -> None:
    torch.manual_seed(0)
    deep = trained(create_model("resnet110", num_classes=4))
    found = path_spectrum(take_apart(deep), *sample(2, side=4))
    assert len(found.energy) == 55 and found.mismatch < TOLERANCE
    foreign = trained(timm.create_model("resnet18", num_classes=4))
    assert path_spectrum(take_apart(foreign), *sample(2, side=32)).mismatch < TOLERANCE


def test_a_branch_without_effect_has_only_the_path_of_shortcuts() -> None:
    taken = chain(residual_init="scalar")
    for name, parameter in taken.network.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.zeros_(parameter)
    assert path_spectrum(taken, *sample(3)).energy.tolist() == [1, 0, 0, 0, 0]


def test_sampled_paths_are_single_paths() -> None:
    """The shortest and the longest are one path each, so sampling finds them exactly."""
    exact, (images, targets) = in_float64(chain()), sample(3)
    norms = sampled_paths(chain(), images, targets, seed=0)
    for takes, norm in (((0,) * 4, norms[0]), ((1,) * 4, norms[4])):
        path = detached(exact, images.double(), targets, takes)
        assert norm == pytest.approx(float(path.flatten(1).norm(dim=1).mean()), rel=1e-9)


def test_a_network_without_a_gradient_has_no_lengths() -> None:
    """A fresh Fixup network answers zero: nothing comes back through its head."""
    fresh = create_model("resnet20", norm="bias", residual_init="fixup").eval()
    rows = path_rows(take_apart(fresh), torch.randn(4, 3, 16, 16), torch.arange(4), seed=0)
    undefined = [row for row in rows if row["metric"] in ("path_energy_low", "path_veit_mean")]
    assert len(undefined) == 2 and not any("value" in row for row in undefined)


def test_the_rows_add_up() -> None:
    rows = path_rows(chain(), *sample(8), seed=0)
    for metric in ("path_energy", "path_count", "path_veit"):
        shares = [row["value"] for row in rows if row["metric"] == metric]
        assert len(shares) == 5 and sum(shares) == pytest.approx(1)
        mean = next(row["value"] for row in rows if row["metric"] == f"{metric}_mean")
        assert mean == pytest.approx(sum(k * share for k, share in enumerate(shares)))
    assert [row["value"] for row in rows if row["metric"] == "path_count_mean"] == [2.0]
    plain = path_rows(chain(shortcut="none"), *sample(8), seed=0)
    assert not any(row["metric"].startswith("path_veit") for row in plain)
