"""Score the network of a model file, and collect its most confident mistakes."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

import torch

from resnets.data import Split
from resnets.data.dataset import listed_reasons
from resnets.data.decode import DecodeError
from resnets.data.loader import Batch, EvalLoader
from resnets.data.transforms import Preprocess
from resnets.device import place
from resnets.errors import shortened
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
    images: EvalLoader,
    *,
    check: Callable[[], None] = lambda: None,
    callback: Callable[[Any, torch.Tensor], None] | None = None,
) -> Scores:
    """Score the network of a model file in float32, whatever precision it was trained in.

    `check` is called whenever more images than before could not be read; it may raise. `callback`
    gets each batch and its logits N K.
    """
    model = place(file.build(), device=images.device, memory_format="channels_last")
    network = with_tta(model, file.preprocess.tta)
    return evaluate(network, _checked(images, check), file.classes, callback=callback)


def _checked(images: EvalLoader, check: Callable[[], None]) -> Iterator[Batch]:
    """Yield the batches; what cannot be read is checked as soon as it is known."""
    images.decode()
    num_failures = 0
    for batch in chain([None], images, [None]):
        if len(images.failures) > num_failures:
            num_failures = len(images.failures)
            check()
        if batch is not None:
            yield batch


def score_cautions(scores: Scores, lost: Mapping[str, str], *, images: str) -> list[str]:
    """Return what must be said beside scores that lack images or classes.

    `lost` has the id and reason of each image that could not be read. `images` says which ones were
    scored, such as "test images".
    """
    cautions = []
    if lost:
        total = scores.num_images + len(lost)
        cautions.append(
            f"{len(lost):,} of {total:,} {images} cannot be read and are not in the scores: "
            f"{listed_reasons(lost)}"
        )
    if unseen := [row.name for row in scores.per_class if not row.num_images]:
        of = "the class" if len(unseen) == 1 else f"{len(unseen)} classes:"
        cautions.append(f"the scores say nothing about {of} {shortened(unseen)}: no {images}")
    return cautions


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
        """Return pictures and classes of the most frequent pairs, then of the most confident.

        An image whose file has vanished since it was scored is left out.
        """
        pairs = sorted(self.kept, key=lambda pair: (-self.counts[pair], pair))
        first, others = (
            [(*found, *pair) for pair in some for found in self.kept[pair]]
            for some in (pairs[:PAIRS_SHOWN], pairs[PAIRS_SHOWN:])
        )
        rows = []
        for confidence, index, true, predicted in [*first, *sorted(others)][:MISTAKES_SHOWN]:
            with suppress(DecodeError):
                image = self.images.read(index, self.preprocess.channels)
                row = {"image": self.preprocess.resize(image), "id": self.images.ids[index]}
                row |= {"true": true, "predicted": predicted, "confidence": -confidence}
                rows.append(row)
        return rows
