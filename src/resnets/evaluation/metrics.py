"""How good a classifier is: logits and targets enter, one frozen `Scores` leaves.

Sums are gathered over all batches and divided once at the end, so neither the batch size nor the
order of the images changes a score beyond the rounding of a float64 sum. Shares come with Wilson's
95 % interval (Wilson 1927). Confidence is compared with accuracy in 15 bins of equal width, the
expected calibration error of Guo et al. 2017 (arXiv 1706.04599).

Shapes: N images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.errors import UserError

NUM_BINS = 15
TOP = 5  # a "top-5" of five classes would always be right, so it needs at least six
Z_95 = 1.959964  # the standard normal's 97.5 % point

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """One class: precision is None if it was never predicted, recall if no image has it."""

    name: str
    precision: float | None
    recall: float | None
    num_images: int


@dataclass(frozen=True)
class Bin:
    """The images whose confidence fell into one bin; the two means are None in an empty one."""

    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one network on one set of images; every score is a fraction from 0 to 1.

    An image whose logits are not finite has no prediction: it counts as wrong in `top1`, `top5`
    and recall, makes `loss` NaN, and stands in neither `confusion` nor `reliability`.
    """

    num_images: int
    top1: float
    top1_interval: Interval
    top5: float | None
    top5_interval: Interval | None
    loss: float  # mean cross-entropy in nats; NaN unless finite
    balanced_accuracy: float  # mean recall over the classes that occur
    calibration_error: float  # NaN if no image has a prediction
    classes: tuple[str, ...]
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # K rows of true classes, K columns of predicted ones
    reliability: tuple[Bin, ...]

    def __post_init__(self) -> None:
        num_classes = len(self.classes)
        sizes = {len(self.per_class), len(self.confusion), *map(len, self.confusion)}
        if self.num_images < 1 or sizes != {num_classes}:
            raise UserError(
                f"scores of {self.num_images} images and {num_classes} classes do not fit tables "
                f"of sizes {sorted(sizes)}: at least 1 image and one row a class are needed"
            )

    def __eq__(self, other: object) -> bool:
        # By value, as JSON sees it: two losses that are NaN are the same result.
        return isinstance(other, Scores) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a loss or calibration error that is not finite becomes null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Scores:
        """What `to_dict` gave, also after a journey through JSON."""
        missing = [field.name for field in fields(cls) if field.name not in record]
        if missing:
            raise UserError(f"a record of scores lacks {', '.join(missing)}")
        return cls(
            num_images=record["num_images"],
            top1=record["top1"],
            top1_interval=tuple(record["top1_interval"]),
            top5=record["top5"],
            top5_interval=None if record["top5_interval"] is None else (*record["top5_interval"],),
            loss=_number(record["loss"]),
            balanced_accuracy=record["balanced_accuracy"],
            calibration_error=_number(record["calibration_error"]),
            classes=tuple(record["classes"]),
            per_class=tuple(ClassScore(**row) for row in record["per_class"]),
            confusion=tuple(tuple(row) for row in record["confusion"]),
            reliability=tuple(Bin(**row) for row in record["reliability"]),
        )


class Labelled(Protocol):
    """A batch, as far as scores are concerned."""

    @property
    def images(self) -> torch.Tensor:
        """N C H W."""
        ...

    @property
    def targets(self) -> torch.Tensor:
        """N class indices."""
        ...


class MetricAccumulator:
    """Gathers sums batch by batch: `add` as often as you like, then `scores` once."""

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes:
            raise UserError("scores need at least one class; none was given")
        self.classes = tuple(classes)
        num_classes = len(self.classes)
        self.num_per_class = np.zeros(num_classes, np.int64)
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.num_top5 = 0
        self.loss = 0.0
        self.bin_counts = np.zeros(NUM_BINS, np.int64)
        self.bin_correct = np.zeros(NUM_BINS, np.int64)
        self.bin_confidence = np.zeros(NUM_BINS, np.float64)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count one batch: logits N K of any float type, targets N with class indices."""
        values = logits.detach().cpu().to(torch.float64).numpy()
        true = targets.detach().cpu().numpy()
        self._check(values, true)
        log_probabilities = _log_softmax(values)
        self.num_per_class += np.bincount(true, minlength=len(self.classes))
        self.loss += float(-log_probabilities[np.arange(len(true)), true].sum())
        predicted_one = ~np.isnan(log_probabilities).any(axis=1)
        self._count(values[predicted_one], true[predicted_one], log_probabilities[predicted_one])

    def _check(self, values: NDArray[np.float64], true: NDArray[Any]) -> None:
        num_classes = len(self.classes)
        if values.ndim != 2 or values.shape[1] != num_classes or true.shape != values.shape[:1]:
            raise UserError(
                f"logits of shape {values.shape} with targets of shape {true.shape}: "
                f"(N, {num_classes}) and (N,) are needed for {num_classes} classes"
            )
        if not np.issubdtype(true.dtype, np.integer):
            raise UserError(f"targets of type {true.dtype}: class indices (integers) are needed")
        if true.size and not 0 <= true.min() <= true.max() < num_classes:
            raise UserError(
                f"targets from {true.min()} to {true.max()}: "
                f"{num_classes} classes have the indices 0 to {num_classes - 1}"
            )

    def _count(
        self,
        values: NDArray[np.float64],
        true: NDArray[Any],
        log_probabilities: NDArray[np.float64],
    ) -> None:
        predicted = values.argmax(axis=1)  # numpy takes the first maximum: the lower class index
        np.add.at(self.confusion, (true, predicted), 1)
        self.num_top5 += int((_rank(values, true) < TOP).sum())
        confidence = np.exp(log_probabilities.max(axis=1, initial=-math.inf))
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        self.bin_counts += np.bincount(bins, minlength=NUM_BINS)
        self.bin_correct += np.bincount(bins[predicted == true], minlength=NUM_BINS)
        self.bin_confidence += np.bincount(bins, weights=confidence, minlength=NUM_BINS)

    def scores(self) -> Scores:
        """Divide the sums, once; raises UserError if no image was added."""
        num_images = int(self.num_per_class.sum())
        if not num_images:
            raise UserError("no image to evaluate: scores need at least one")
        num_correct = int(self.confusion.trace())
        has_top5 = len(self.classes) > TOP
        per_class = self._per_class()
        recalls = [row.recall for row in per_class if row.recall is not None]
        return Scores(
            num_images=num_images,
            top1=num_correct / num_images,
            top1_interval=wilson(num_correct, num_images),
            top5=self.num_top5 / num_images if has_top5 else None,
            top5_interval=wilson(self.num_top5, num_images) if has_top5 else None,
            loss=self.loss / num_images if math.isfinite(self.loss) else math.nan,
            balanced_accuracy=math.fsum(recalls) / len(recalls),
            calibration_error=self._calibration_error(),
            classes=self.classes,
            per_class=per_class,
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            reliability=self._reliability(),
        )

    def _per_class(self) -> tuple[ClassScore, ...]:
        hits = self.confusion.diagonal().tolist()
        num_predicted = self.confusion.sum(axis=0).tolist()
        rows = zip(self.classes, hits, num_predicted, self.num_per_class.tolist(), strict=True)
        return tuple(
            ClassScore(name, _share(hit, predicted), _share(hit, true), true)
            for name, hit, predicted, true in rows
        )

    def _reliability(self) -> tuple[Bin, ...]:
        sums = (self.bin_counts, self.bin_confidence, self.bin_correct)
        rows = zip(*(values.tolist() for values in sums), strict=True)
        return tuple(Bin(n, _share(confidence, n), _share(hits, n)) for n, confidence, hits in rows)

    def _calibration_error(self) -> float:
        gaps = np.abs(self.bin_confidence - self.bin_correct)
        error = _share(float(gaps.sum()), int(self.bin_counts.sum()))
        return math.nan if error is None else error


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module,
    batches: Iterable[Labelled],
    classes: Sequence[str],
    *,
    watch: Callable[[Any, torch.Tensor], None] | None = None,
    add_up: Callable[[MetricAccumulator], None] = lambda tally: None,
) -> Scores:
    """Score a network on batches with `images` N C H W and `targets` N; its mode is restored.

    `watch` sees every batch with its logits N K, for those who want more than sums; `add_up` sees
    the sums before they are divided, to add those of other processes.
    """
    training = model.training
    model.eval()
    tally = MetricAccumulator(classes)
    try:
        for batch in batches:
            logits = model(batch.images).float()
            tally.add(logits, batch.targets)
            if watch is not None:
                watch(batch, logits)
    finally:
        model.train(training)
    add_up(tally)
    return tally.scores()


def wilson(successes: int, trials: int, z: float = Z_95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927); (0, 1) where nothing was tried."""
    if not 0 <= successes <= trials:
        raise UserError(f"{successes} successes in {trials} trials: 0 to {trials} are possible")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The two ends are exact by algebra, but not in floating point.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN all along a row that holds NaN or +inf; -inf is a class that is ruled out."""
    with np.errstate(invalid="ignore"):
        shifted = values - values.max(axis=1, keepdims=True)
        broken = np.isnan(shifted).any(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.where(broken, math.nan, log_probabilities)


def _rank(values: NDArray[np.float64], true: NDArray[Any]) -> NDArray[np.int64]:
    """How many classes come before the true one; among equals the lower index comes first."""
    own = values[np.arange(len(true)), true][:, None]
    earlier = np.arange(values.shape[1])[None, :] < true[:, None]
    before = (values > own) | ((values == own) & earlier)
    ranks: NDArray[np.int64] = before.sum(axis=1, dtype=np.int64)
    return ranks


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
