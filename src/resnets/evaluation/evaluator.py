"""Score the network of a model file, and collect its most confident mistakes."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from resnets.data import Split
from resnets.data.loader import Batch, EvalLoader
from resnets.data.transforms import Preprocess
from resnets.device import place
from resnets.evaluation.metrics import Scores, evaluate
from resnets.inference.model_file import ModelFile
from resnets.inference.tta import with_tta

BATCH_SIZE = 250
# Pictures of mistakes: for each pair of classes, pairs that are always shown, and pictures in all.
MISTAKES_PER_PAIR = 4
PAIRS_SHOWN = 12
MISTAKES_SHOWN = 60


def score(
    file: ModelFile,
    images: Split,
    *,
    device: torch.device,
    workers: int,
    callback: Callable[[Any, torch.Tensor], None] | None = None,
    cache_mb: float = 1024,
) -> Scores:
    """Score the network of a model file in float32, whatever precision it was trained in.

    `callback` gets each batch and its logits N K. `workers` processes decode images that do not fit
    into `cache_mb` megabytes of memory.
    """
    model = place(file.build(), device=device, memory_format="channels_last")
    network = with_tta(model, file.preprocess.tta)
    loader = EvalLoader(
        images,
        preprocess=file.preprocess,
        batch_size=BATCH_SIZE,
        device=device,
        workers=workers,
        cache_mb=cache_mb,
    )
    with closing(loader) as batches:
        return evaluate(network, batches, file.classes, callback=callback)


def unreadable_notice(scores: Scores, images: Split) -> list[str]:
    """Return a notice of the images that could not be read, or nothing."""
    lost = len(images) - scores.num_images
    return [f"{lost:,} of the images could not be read and were left out"] if lost else []


class Mistakes:
    """Keep the most confident mistakes of each pair of classes: a callback for `score`."""

    def __init__(self, images: Split, classes: tuple[str, ...], preprocess: Preprocess) -> None:
        self.images, self.classes, self.preprocess = images, classes, preprocess
        # (true, predicted) -> (-confidence, index), the most confident first
        self.kept: dict[tuple[int, int], list[tuple[float, int]]] = {}
        self.counts: Counter[tuple[int, int]] = Counter()

    def __call__(self, batch: Batch, logits: torch.Tensor) -> None:
        """Keep the most confident mistakes so far and in this batch."""
        confidence, predicted = logits.softmax(1).max(1)
        for i in (predicted != batch.targets).nonzero().flatten().tolist():
            pair = int(batch.targets[i]), int(predicted[i])
            found = (-confidence[i].item(), int(batch.indices[i]))
            self.counts[pair] += 1
            self.kept[pair] = sorted([*self.kept.get(pair, []), found])[:MISTAKES_PER_PAIR]

    def worst(self) -> list[dict[str, Any]]:
        """Return pictures and classes of the most frequent pairs, then of the most confident."""
        pairs = sorted(self.kept, key=lambda pair: (-self.counts[pair], pair))
        first, others = (
            [(*found, *pair) for pair in some for found in self.kept[pair]]
            for some in (pairs[:PAIRS_SHOWN], pairs[PAIRS_SHOWN:])
        )
        return [
            {
                "image": self.preprocess.resize(self.images.read(index, self.preprocess.channels)),
                "true": true,
                "predicted": predicted,
                "confidence": -confidence,
                "id": self.images.ids[index],
            }
            for confidence, index, true, predicted in [*first, *sorted(others)][:MISTAKES_SHOWN]
        ]
