"""`examples/from_scratch.py`, the article with its defects repaired, is `resnet18_cifar`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from resnets import ResNet, create_model

EXAMPLE = Path(__file__).parent.parent / "examples" / "from_scratch.py"


@pytest.fixture(scope="module")
def article() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_scratch", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pair(article: ModuleType) -> tuple[nn.Module, ResNet]:
    """The network of the example and ours, with the same weights."""
    torch.manual_seed(0)
    theirs, ours = article.ResNet18(), create_model("resnet18_cifar")
    ours.load_state_dict({renamed(key): value for key, value in theirs.state_dict().items()})
    return theirs, ours


def renamed(key: str) -> str:
    return key.replace("shortcut", "downsample").replace("linear.", "fc.")


@pytest.mark.parametrize("training", [False, True])
def test_the_same_weights_give_the_same_bits(article: ModuleType, training: bool) -> None:
    """Logits and gradients, in channels_last, where the mean over a map adds in one order."""
    theirs, ours = pair(article)
    images = torch.randn(3, 3, 16, 16).to(memory_format=torch.channels_last)
    results = []
    for network in (theirs, ours):
        network.to(memory_format=torch.channels_last).train(training)
        logits = network(images)
        logits.square().mean().backward()
        results.append((logits, {renamed(k): p.grad for k, p in network.named_parameters()}))
    (logits, gradients), (our_logits, our_gradients) = results
    assert torch.equal(logits, our_logits)
    assert gradients.keys() == our_gradients.keys()
    assert all(torch.equal(value, our_gradients[key]) for key, value in gradients.items())


def test_in_the_usual_layout_only_the_mean_adds_in_another_order(article: ModuleType) -> None:
    theirs, ours = (network.eval() for network in pair(article))
    images = torch.randn(3, 3, 32, 32)
    maps: list[torch.Tensor] = []
    theirs.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    torch.testing.assert_close(theirs(images), ours(images))
    assert torch.equal(maps[0], ours.forward_features(images))


def test_its_weights_load_as_they_are_saved(article: ModuleType, tmp_path: Path) -> None:
    theirs = article.ResNet18(in_channels=1, num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "from_scratch.pth")
    path = tmp_path / "from_scratch.pth"
    ours = create_model("resnet18_cifar", in_channels=1, num_classes=7, weights=path).eval()
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(theirs(images), ours(images))


def test_any_image_size_fits(article: ModuleType) -> None:
    network = article.ResNet18().eval()
    for side in (1, 17, 33, 64):
        assert network(torch.randn(1, 3, side, side)).shape == (1, 10)


def test_it_trains(
    article: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two steps of the real loop, then the weights are read back by the package."""
    weights = tmp_path / "weights.pth"
    images, labels = article.load_images("test")
    assert (images.shape, labels.max()) == ((2000, 1, 14, 14), 9)
    monkeypatch.setattr(article, "load_images", lambda part: (images[:40], labels[:40]))
    top1 = article.main(["--epochs", "5", "--save", str(weights)])
    printed = capsys.readouterr().out
    assert "step    1" in printed and f"test accuracy {top1:.1%}" in printed
    create_model("resnet18_cifar", in_channels=1, weights=weights)


@pytest.mark.slow
def test_it_learns(article: ModuleType) -> None:
    assert article.main(["--epochs", "1"]) > 0.7


def test_as_printed_it_cannot_run(article: ModuleType) -> None:
    class Printed(nn.Module):
        def __init__(self) -> None:
            super().__init()  # type: ignore[misc]

    with pytest.raises(AttributeError, match="__init"):
        Printed()
    block = article.BasicBlock(64, 128, stride=2)
    block.shortcut = nn.Sequential()
    with pytest.raises(RuntimeError, match="must match the size"):
        block(torch.randn(1, 64, 8, 8))
