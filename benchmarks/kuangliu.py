"""`resnet18_cifar` on the CPU: `resnets train` against the loop of kuangliu/pytorch-cifar.

    .venv/bin/python benchmarks/kuangliu.py CIFAR [--rounds 5] [--steps 3]
    .venv/bin/python benchmarks/kuangliu.py CIFAR --minutes 15 --out OUT

CIFAR is a folder made by `cifar10_jpeg.py`. The peer's loop, in our words: NCHW, fp32, batches of
128 from a DataLoader with 2 workers that pads by 4, crops, flips and normalises image by image, SGD
with learning rate 0.1, momentum 0.9 and weight decay 5e-4, a cosine over 200 epochs, and a progress
line that reads `loss.item()` at each step. Its ResNet18 is the network that we call
`resnet18_cifar` (3x3 stem, no pooling, stages 64 to 512, option B shortcuts), so both arms build
that one. The images lie decoded in memory for the peer too, as its own data set's do.

Without `--minutes`: images a second of both loops in short alternating turns; the last line is the
ratio. With it: accuracy on the test images after that time each. The peer ends within it and is
scored afterwards; ours is `resnets train --time`, which counts everything, its scores included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

import resnets
from resnets.data import DataSet, open_data
from resnets.training.auto_config import DataFacts, ResolvedConfig, resolve
from resnets.training.train_step import TrainState, train_step
from resnets.training.trainer import Trainer, splits_for

BATCH, SIDE, EPOCHS = 128, 32, 200
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NUMBERS = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
AUGMENT = v2.Compose([v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(), NUMBERS])


class Transformed(TensorDataset):
    """Images that are augmented one by one, in the workers of a DataLoader."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = (tensor[index] for tensor in self.tensors)
        return AUGMENT(image), target


def tensors(data: DataSet, name: str) -> tuple[Tensor, Tensor]:
    """All images of a part N C H W as bytes, and their classes."""
    part = data.splits[name]
    pixels = np.stack([part.read(index, 3) for index in range(len(part))])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(part.targets)


def peer(model: nn.Module, images: Tensor, targets: Tensor) -> Iterator[None]:
    """One training step each time it is asked."""
    loader = DataLoader(Transformed(images, targets), BATCH, shuffle=True, num_workers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for _ in range(EPOCHS):
        model.train()
        running, correct, seen = 0.0, 0, 0
        for step, (batch, labels) in enumerate(loader, 1):
            optimizer.zero_grad()
            logits = model(batch)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
            seen += len(labels)
            correct += int((logits.argmax(1) == labels).sum().item())
            print(f"\r{step} loss {running / step:.3f} accuracy {correct / seen:.1%}", end=" ")
            yield
        schedule.step()


def ours(data: DataSet) -> Iterator[None]:
    """Take a step of the trainer each time it is asked, computed as autotune chooses."""
    device = torch.device("cpu")
    config = ResolvedConfig().set("flag", model="resnet18_cifar", size=SIDE, batch_size=BATCH)
    splits = splits_for(data, config.recipe)
    facts = DataFacts.of(splits, num_classes=len(data.classes))
    config = resolve(config, facts, seconds=900, device=device).set("", steps=10**6)
    print(*config.reasons, sep="\n")
    trainer = Trainer(config, data, splits, device=device)
    state = TrainState.start(trainer.new_model(), trainer.recipe, device=device)
    state.model.train()
    for batch in trainer.train_loader.batches(0, 10**6):
        train_step(state, state.model, batch, trainer.recipe)
        state.step += 1
        yield


def speeds(data: DataSet, *, rounds: int, steps: int) -> None:
    """Alternating turns; each keeps its own number of threads."""
    model = resnets.create_model("resnet18_cifar", num_classes=len(data.classes))
    cores = torch.get_num_threads()
    arms = {"kuangliu": peer(model, *tensors(data, "train")), "ours": ours(data)}
    threads = dict.fromkeys(arms, cores)
    for name, arm in arms.items():
        next(arm), next(arm)  # workers start, kernels are made
        threads[name] = torch.get_num_threads()
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            torch.set_num_threads(threads[name])
            begin = time.perf_counter()
            for _ in range(steps):
                next(arm)
            found[name].append(steps * BATCH / (time.perf_counter() - begin))
    print()
    for name, values in found.items():
        print(
            f"{name:10} {statistics.median(values):6.1f} images/s  "
            f"({min(values):.1f} .. {max(values):.1f})"
        )
    ratio = statistics.median(found["ours"]) / statistics.median(found["kuangliu"])
    print(f"ours / kuangliu: {ratio:.2f} in images/s, median of {rounds} rounds")


def accuracies(data: DataSet, folder: Path, out: Path, *, minutes: float) -> None:
    """Both for the same time, one after the other."""
    torch.manual_seed(0)
    model = resnets.create_model("resnet18_cifar", num_classes=len(data.classes))
    begin, steps = time.perf_counter(), 0
    for _ in peer(model, *tensors(data, "train")):
        steps += 1
        if time.perf_counter() - begin > 60 * minutes:
            break
    images, targets = tensors(data, "test")
    model.eval()
    with torch.inference_mode():
        answers = [model(NUMBERS(batch)).argmax(1) for batch in images.split(500)]
    theirs = (torch.cat(answers) == targets).double().mean().item()
    epochs = steps * BATCH / len(data.splits["train"])
    print(f"\nkuangliu   {theirs:.2%} of {len(targets):,} test images after {epochs:.1f} epochs")
    result = resnets.train(folder, out=out, model="resnet18_cifar", time=f"{minutes}m")
    assert result.scores is not None
    print(f"ours       {result.scores.top1:.2%} of {result.scores.num_images:,} test images")
    gain = 100 * (result.scores.top1 - theirs)
    print(f"ours - kuangliu: {gain:+.2f} points after {minutes:g} minutes each, 1 seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path, default=Path("runs/kuangliu"))
    options = parser.parse_args()
    data = open_data(options.data)
    if options.minutes is None:
        speeds(data, rounds=options.rounds, steps=options.steps)
    else:
        accuracies(data, options.data, options.out, minutes=options.minutes)


if __name__ == "__main__":
    main()
