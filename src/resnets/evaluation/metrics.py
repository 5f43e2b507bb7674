"""Compute the scores of a classifier from its logits.

Sums over all batches are divided once at the end, so that neither the batch size nor the order of
the images changes a score beyond the rounding of a float64 sum.

Shapes: N images, K classes.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.device import MemoryBound
from resnets.errors import UserError

NUM_BINS = 15
# The "top-5" of five classes is always right, so it needs at least six.
TOP = 5
# Classes up to which a confusion matrix is kept: its size is their square, in memory and in files.
MAX_MATRIX = 2000

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """One class: precision is None if it is never predicted, recall if no image has it."""

    name: str
    precision: float | None
    recall: float | None
    num_images: int


@dataclass(frozen=True)
class Bin:
    """The images with a confidence in one interval; the means of an empty bin are None."""

    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a network on a set of images. All shares are fractions from 0 to 1.

    An image with logits that are not finite has no prediction: it counts as wrong in `top1`, `top5`
    and recall, makes `loss` NaN, and is part of neither `confusion` nor `reliability`.

    Args:
        num_images: Number of images.
        top1: Accuracy.
        top1_interval: Its 95 % interval (Wilson 1927).
        top5: Share of images whose class is among the five most probable; None below six classes.
        top5_interval: Its 95 % interval.
        loss: Mean cross-entropy in nats.
        balanced_accuracy: Mean recall over the classes that occur.
        calibration_error: Expected calibration error over 15 bins of equal width (Guo et al. 2017,
            arXiv 1706.04599); NaN without a prediction.
        classes: Class names, in the order of the logits.
        per_class: Precision, recall and number of images of each class.
        confusion: K rows of true classes with K columns of predicted classes, as counts; None
            above 2,000 classes.
        reliability: Images, mean confidence and accuracy of each of the 15 bins.

    Raises:
        UserError: There is no image, or the tables do not have K rows.
    """

    num_images: int
    top1: float
    top1_interval: Interval
    top5: float | None
    top5_interval: Interval | None
    loss: float
    balanced_accuracy: float
    calibration_error: float
    classes: tuple[str, ...]
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    reliability: tuple[Bin, ...]

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        matrix = self.confusion
        sizes = {len(self.per_class)} | ({len(matrix), *map(len, matrix)} if matrix else set())
        if self.num_images < 1 or sizes != {num_classes}:
            raise UserError(
                f"scores of {self.num_images} images and {num_classes} classes do not fit tables "
                f"of sizes {sorted(sizes)}: give at least 1 image and one row per class"
            )

    def __eq__(self, other: object) -> bool:
        # By value, as JSON sees it: two losses that are NaN are the same result.
        return isinstance(other, Scores) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types. A loss or calibration error that is not finite becomes None."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        return plain

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Scores":
        """Return the scores of which `to_dict` made a record, also after JSON.

        Args:
            record: The dictionary.

        Returns:
            Scores equal to the original ones.

        Raises:
            UserError: A field is missing.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in record]:
            raise UserError(f"a record of scores lacks {', '.join(missing)}")
        values = {name: _tuples(record[name]) for name in names}
        for name in ("loss", "calibration_error"):
            values[name] = math.nan if values[name] is None else values[name]
        values["per_class"] = tuple(ClassScore(**row) for row in record["per_class"])
        values["reliability"] = tuple(Bin(**row) for row in record["reliability"])
        return cls(**values)


class MetricAccumulator:
    """Sum what the scores need, batch by batch."""

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes:
            raise UserError("scores need at least one class; none was given")
        self.classes = tuple(classes)
        num_classes = len(self.classes)
        self.num_per_class = np.zeros(num_classes, np.int64)
        self.num_predicted = np.zeros(num_classes, np.int64)
        self.num_hits = np.zeros(num_classes, np.int64)
        side = num_classes if num_classes <= MAX_MATRIX else 0
        self.confusion = np.zeros((side, side), np.int64)
        self.num_top5 = 0
        self.loss = 0.0
        self.bin_counts = np.zeros(NUM_BINS, np.int64)
        self.bin_correct = np.zeros(NUM_BINS, np.int64)
        self.bin_confidence = np.zeros(NUM_BINS, np.float64)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add one batch: logits N K of any float type, targets N with class indices."""
        values = logits.detach().cpu().to(torch.float64).numpy()
        true = targets.detach().cpu().numpy()
        self._check(values, true)
        self.num_per_class += np.bincount(true, minlength=len(self.classes))
        log_probabilities = _log_softmax(values)
        self.loss += float(-log_probabilities[np.arange(len(true)), true].sum())

        finite = ~np.isnan(log_probabilities).any(axis=1)
        values, true, log_probabilities = values[finite], true[finite], log_probabilities[finite]
        predicted = values.argmax(axis=1)  # of equal logits, the lower class index
        self.num_predicted += np.bincount(predicted, minlength=len(self.classes))
        self.num_hits += np.bincount(true[predicted == true], minlength=len(self.classes))
        if self.confusion.size:
            np.add.at(self.confusion, (true, predicted), 1)
        own = values[np.arange(len(true)), true][:, None]
        lower = np.arange(values.shape[1]) < true[:, None]
        rank = ((values > own) | ((values == own) & lower)).sum(axis=1)
        self.num_top5 += int((rank < TOP).sum())
        confidence = np.exp(log_probabilities.max(axis=1, initial=-math.inf))
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        self.bin_counts += np.bincount(bins, minlength=NUM_BINS)
        self.bin_correct += np.bincount(bins[predicted == true], minlength=NUM_BINS)
        self.bin_confidence += np.bincount(bins, weights=confidence, minlength=NUM_BINS)

    def _check(self, values: NDArray[np.float64], true: NDArray[Any]) -> None:
        num_classes = len(self.classes)
        if values.ndim != 2 or values.shape[1] != num_classes or true.shape != values.shape[:1]:
            raise UserError(
                f"logits of shape {values.shape} with targets of shape {true.shape}: "
                f"give (N, {num_classes}) and (N,), since there are {num_classes} classes"
            )
        if not np.issubdtype(true.dtype, np.integer):
            raise UserError(f"targets of type {true.dtype}: give class indices (integers)")
        if true.size and not 0 <= true.min() <= true.max() < num_classes:
            allowed = f"{num_classes} classes have the indices 0 to {num_classes - 1}"
            raise UserError(f"targets from {true.min()} to {true.max()}: {allowed}")

    def scores(self) -> Scores:
        """Return the scores of all images that were added, of which there must be one."""
        num_images = int(self.num_per_class.sum())
        if not num_images:
            raise UserError("no image to evaluate: scores need at least one")
        hits, num_true = self.num_hits.tolist(), self.num_per_class.tolist()
        precision = _shares(hits, self.num_predicted.tolist())
        recall = _shares(hits, num_true)
        counts = self.bin_counts.tolist()
        confidence = _shares(self.bin_confidence.tolist(), counts)
        accuracy = _shares(self.bin_correct.tolist(), counts)
        gaps = float(np.abs(self.bin_confidence - self.bin_correct).sum())
        recalls = [value for value in recall if value is not None]
        has_top5 = len(self.classes) > TOP
        return Scores(
            num_images=num_images,
            top1=sum(hits) / num_images,
            top1_interval=wilson(sum(hits), num_images),
            top5=self.num_top5 / num_images if has_top5 else None,
            top5_interval=wilson(self.num_top5, num_images) if has_top5 else None,
            loss=self.loss / num_images if math.isfinite(self.loss) else math.nan,
            balanced_accuracy=math.fsum(recalls) / len(recalls),
            calibration_error=gaps / sum(counts) if any(counts) else math.nan,
            classes=self.classes,
            per_class=tuple(map(ClassScore, self.classes, precision, recall, num_true)),
            confusion=_tuples(self.confusion.tolist()) or None,
            reliability=tuple(map(Bin, counts, confidence, accuracy)),
        )


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module,
    batches: Iterable[Any],
    classes: Sequence[str],
    *,
    callback: Callable[[Any, torch.Tensor], None] | None = None,
    all_reduce: Callable[[MetricAccumulator], None] | None = None,
) -> Scores:
    """Score a network, N C H W -> N K, in evaluation mode; its own mode is restored.

    Batches are objects with `images` N C H W and `targets` N, class indices. `callback` gets each
    batch and its logits. `all_reduce` gets the sums before they are divided, to add those of other
    processes. Batches that exceed the memory are computed in smaller pieces.
    """
    training = model.training
    model.eval()
    sums, network = MetricAccumulator(classes), MemoryBound(model)
    try:
        for batch in batches:
            logits = network(batch.images).float()
            sums.add(logits, batch.targets)
            if callback is not None:
                callback(batch, logits)
    finally:
        model.train(training)
    if all_reduce is not None:
        all_reduce(sums)
    return sums.scores()


def wilson(successes: int, trials: int) -> Interval:
    """Return Wilson's 95 % interval for a share (Wilson 1927); (0, 1) without a trial."""
    if not 0 <= successes <= trials:
        raise UserError(f"{successes} successes in {trials} trials: 0 to {trials} are possible")
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964  # the 97.5 % point of the standard normal distribution
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The two ends are exact by algebra, but not in floating point.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-probabilities: all NaN in a row with NaN or +inf; -inf excludes a class."""
    with np.errstate(invalid="ignore"):
        shifted = values - values.max(axis=1, keepdims=True)
        broken = np.isnan(shifted).any(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.where(broken, math.nan, log_probabilities)


def _shares(parts: Sequence[float], wholes: Sequence[int]) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _tuples(value: Any) -> Any:
    """Return a list, and the lists in it, as tuples."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)
