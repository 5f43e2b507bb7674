"""Score the network of a model file, and collect its most confident mistakes."""

from __future__ import annotations

from collections.abc import Callable
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
MISTAKES_SHOWN = 24


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
    batches = EvalLoader(
        images,
        preprocess=file.preprocess,
        batch_size=BATCH_SIZE,
        device=device,
        workers=workers,
        cache_mb=cache_mb,
    )
    try:
        return evaluate(network, batches, file.classes, callback=callback)
    finally:
        batches.close()


def unreadable_notice(scores: Scores, images: Split) -> list[str]:
    """Return a notice of the images that could not be read, or nothing."""
    lost = len(images) - scores.num_images
    return [f"{lost:,} of the images could not be read and were left out"] if lost else []


class Mistakes:
    """Collect the most confident mistakes: a callback for `score`."""

    def __init__(self, images: Split, classes: tuple[str, ...], preprocess: Preprocess) -> None:
        self.images, self.classes, self.preprocess = images, classes, preprocess
        self.kept: list[tuple[float, int, int, int]] = []

    def __call__(self, batch: Batch, logits: torch.Tensor) -> None:
        """Keep the most confident mistakes so far and in this batch."""
        confidence, predicted = logits.softmax(1).max(1)
        wrong = (predicted != batch.targets).nonzero().flatten().tolist()
        self.kept += [
            (-confidence[i].item(), int(batch.indices[i]), int(batch.targets[i]), int(predicted[i]))
            for i in wrong
        ]
        self.kept = sorted(self.kept)[:MISTAKES_SHOWN]

    def worst(self) -> list[dict[str, Any]]:
        """Return pictures, names and confidences, most confident first."""
        return [
            {
                "image": self.preprocess.resize(self.images.read(index, self.preprocess.channels)),
                "true": self.classes[true],
                "predicted": self.classes[predicted],
                "confidence": -confidence,
                "id": self.images.ids[index],
            }
            for confidence, index, true, predicted in self.kept
        ]
