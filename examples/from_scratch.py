"""ResNet-18 from scratch: the block, the network and the training loop in one file.

This is the code of the article "ResNet from scratch" with its three defects repaired (the lines
marked "Repair"). It needs PyTorch, NumPy and the 12,000 images that the package embeds; there is no
download. Run it with

    python examples/from_scratch.py

`resnets.create_model("resnet18_cifar")` computes the same function from the same weights.

Paper: He et al. 2015, arXiv 1512.03385. Shapes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import argparse
import time
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions that learn what to add to their input: y = relu(F(x) + x)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()  # Repair 1: the article has `super().__init()`, which raises.
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        # Repair 2: the article adds x itself, which does not fit where the shape changes.
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))  # N C H W -> N C' H/s W/s
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual)


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean over the last map, a linear classifier."""

    def __init__(self, depths: tuple[int, ...], in_channels: int = 3, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self.make_stage(depths[0], 64, 64, stride=1)
        self.layer2 = self.make_stage(depths[1], 64, 128, stride=2)
        self.layer3 = self.make_stage(depths[2], 128, 256, stride=2)
        self.layer4 = self.make_stage(depths[3], 256, 512, stride=2)
        self.linear = nn.Linear(512, num_classes)

    @staticmethod
    def make_stage(depth: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        """Return `depth` blocks; the first changes the shape."""
        first = BasicBlock(in_channels, out_channels, stride)
        rest = [BasicBlock(out_channels, out_channels) for _ in range(depth - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))  # N C H W -> N 64 H W
        x = self.layer1(x)
        x = self.layer2(x)  # -> N 128 H/2 W/2
        x = self.layer3(x)  # -> N 256 H/4 W/4
        x = self.layer4(x)  # -> N 512 H/8 W/8
        # Repair 3: the article has `avg_pool2d(x, 4)`, which fits images of 32 pixels only.
        logits: Tensor = self.linear(x.mean((2, 3)))  # -> N 512 -> N K
        return logits


def ResNet18(in_channels: int = 3, num_classes: int = 10) -> ResNet:  # noqa: N802
    """Return the network of 18 weighted layers: stem, 4 stages of 2 blocks, classifier."""
    return ResNet((2, 2, 2, 2), in_channels, num_classes)


def load_images(part: str) -> tuple[Tensor, Tensor]:
    """Return the embedded Fashion-MNIST images ("train" or "test") and their classes.

    The images are averaged over 2x2 pixels, which makes training four times as fast.
    """
    with np.load(str(files("resnets") / "data" / "fashion_mini.npz")) as arrays:
        pixels, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    images = torch.from_numpy(pixels).float().div(255).sub(0.286).div(0.353)  # N 28 28
    return F.avg_pool2d(images[:, None], 2), torch.from_numpy(labels).long()  # -> N 1 14 14, N


def train(model: nn.Module, epochs: float, batch_size: int = 100, peak_rate: float = 0.1) -> None:
    """Train with SGD and Nesterov momentum; the learning rate rises and falls linearly."""
    images, labels = load_images("train")
    num_steps = max(1, round(epochs * len(images) / batch_size))
    optimizer = torch.optim.SGD(model.parameters(), peak_rate, 0.9, nesterov=True)
    optimizer.param_groups[0]["weight_decay"] = 5e-4
    order = torch.randperm(len(images))
    model.train()
    start = time.perf_counter()
    for step in range(num_steps):
        place = step * batch_size % len(images)
        if place == 0:
            order = torch.randperm(len(images))
        chosen = order[place : place + batch_size]
        batch = images[chosen]
        mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
        batch = torch.where(mirrored, batch.flip(3), batch)
        share = step / num_steps
        optimizer.param_groups[0]["lr"] = peak_rate * min(share / 0.2, (1 - share) / 0.8)
        loss = F.cross_entropy(model(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == num_steps - 1:
            print(f"step {step:4}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s")


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the share of the 2,000 test images that the network classifies correctly."""
    images, labels = load_images("test")
    model.eval()
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(500)])
    return (predicted == labels).float().mean().item()


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=3, help="passes over the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="write the trained weights to this .pth file")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = ResNet18(in_channels=1)
    train(model, options.epochs)
    top1 = accuracy(model)
    print(f"test accuracy {top1:.1%}")
    if options.save:
        torch.save(model.state_dict(), options.save)
    return top1


if __name__ == "__main__":
    main()
