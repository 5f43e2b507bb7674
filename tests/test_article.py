"""The article's network, written as it was printed but for three repairs, is `resnet18_cifar`.

As printed it cannot run: `super().__init()` lacks underscores, the identity is added where its
shape differs from the residual's, and `avg_pool2d(out, 4)` fits images of 32 x 32 only. The first
two are repaired here in place; the third is the size of the images.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models.registry import create_model


class ArticleBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()  # repair 1: `super().__init()`
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:  # repair 2: there was no projection
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return F.relu(out)


class ArticleResNet(nn.Module):
    def __init__(self, num_blocks: tuple[int, ...] = (2, 2, 2, 2), num_classes: int = 10) -> None:
        super().__init__()  # repair 1
        self.in_channels = 64
        self.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self.make_layer(64, num_blocks[0], 1)
        self.layer2 = self.make_layer(128, num_blocks[1], 2)
        self.layer3 = self.make_layer(256, num_blocks[2], 2)
        self.layer4 = self.make_layer(512, num_blocks[3], 2)
        self.linear = nn.Linear(512, num_classes)

    def make_layer(self, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        layers = []
        for step in [stride] + [1] * (num_blocks - 1):
            layers.append(ArticleBlock(self.in_channels, channels, step))
            self.in_channels = channels
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.avg_pool2d(out, 4)  # repair 3: of 32 x 32 images only
        out = out.view(out.size(0), -1)
        return self.linear(out)


def names_of_the_article(key: str) -> str:
    return key.replace("downsample", "shortcut").replace("fc.", "linear.")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
def test_the_same_weights_give_the_same_bits(
    training: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = create_model("resnet18_cifar").to(memory_format=memory_format)
    article = ArticleResNet()
    weights = {names_of_the_article(key): value for key, value in ours.state_dict().items()}
    article.load_state_dict(weights)
    ours.train(training)
    article.to(memory_format=memory_format).train(training)
    images = torch.randn(3, 3, 32, 32).to(memory_format=memory_format)
    assert torch.equal(ours(images), article(images))


def test_as_printed_it_cannot_run() -> None:
    class Printed(nn.Module):
        def __init__(self) -> None:
            super().__init()  # type: ignore[misc]

    with pytest.raises(AttributeError, match="__init"):
        Printed()
    block = ArticleBlock(64, 128, stride=2)
    block.shortcut = nn.Sequential()
    with pytest.raises(RuntimeError, match="must match the size"):
        block(torch.randn(1, 64, 8, 8))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ArticleResNet()(torch.randn(1, 3, 64, 64))


def test_ours_takes_the_sizes_that_the_article_refuses() -> None:
    assert create_model("resnet18_cifar").eval()(torch.randn(1, 3, 64, 64)).shape == (1, 10)
