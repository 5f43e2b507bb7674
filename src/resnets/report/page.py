"""Write the report page of a run or an evaluation, and its charts as SVG and PNG.

The page opens offline and holds everything it shows. The same record gives the same bytes. Charts
need the extra `report` (vl-convert); without it the page keeps its numbers, tables and images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.report.chart_data import (
    FEW_CLASSES,
    Pair,
    confusions,
    linked,
    of_kind,
    pair_id,
    score_findings,
    training_findings,
)
from resnets.report.html import finite, image_address, percent, render, shorten

if TYPE_CHECKING:
    import numpy as np

    from resnets.report.charts import Figure

# Pictures of training images, and of mistakes: the page stays near a megabyte.
MOST_PICTURES = 60
# Rows of the table of confused pairs.
MOST_PAIRS = 12


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a model was trained: the sizes of "train", "val" and "test", and the resolved recipe.

    `learning_rate` is the highest of the schedule, and `best_step` the one whose weights are kept.
    """

    split_sizes: Mapping[str, int]
    steps: int
    batch_size: int
    best_step: int
    optimizer: str
    schedule: str
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image H W C of 8 bits, as the network saw it, that the model classified wrongly.

    `true` and `predicted` are indices of classes, `confidence` is the probability of the answer,
    and `id` is the image's name in its data set.
    """

    image: "np.ndarray"
    true: int
    predicted: int
    confidence: float
    id: str


@dataclass(frozen=True, kw_only=True)
class ReportRecord:
    """Plain data of a finished run, or of the evaluation of a model.

    `split` is "test" or "validation", and `scores` is `Scores.to_dict()`. By `model_file` a reader
    of the page finds the model. An evaluation has no `training`; its `source` is what it scored,
    such as "the whole of photos", and its model was `trained_on` the data of that name.
    `wide_pixels` is their scale, as "0..4,095 -> 0..255", if there are any. `history` has the run's
    metrics, and `samples` are training images as the network sees them, with their classes. The
    most confident `mistakes` come first. `cautions` belong next to the scores.
    """

    model: str
    image_size: int
    data: str
    split: str
    scores: Mapping[str, Any]
    model_file: str | None = None
    training: TrainingRecord | None = None
    source: str = ""
    trained_on: str = ""
    wide_pixels: str = ""
    history: Sequence[Mapping[str, Any]] = ()
    samples: "Sequence[tuple[np.ndarray, str]]" = ()
    mistakes: Sequence[Mistake] = ()
    notices: Sequence[str] = ()
    cautions: Sequence[str] = ()


def missing_charts() -> list[str]:
    """Return a notice if the chart libraries are not installed, else nothing."""
    if find_spec("vl_convert"):
        return []
    return ["the report has no charts: pip install 'resnets[report]' adds them"]


def write_report(folder: Path, record: ReportRecord) -> Path:
    """Write `report.html` and, with the extra `report`, `figures/`; return the page's path."""
    scores, names = record.scores, record.scores["classes"]
    pictures: dict[Pair, list[Any]] = {}
    for mistake in record.mistakes[:MOST_PICTURES]:
        pair = mistake.true, mistake.predicted
        pictures.setdefault(pair, []).append((image_address(mistake.image), mistake))
    findings = [*training_findings(record.history), *score_findings(scores, pictures)]
    figures: dict[str, Figure] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if not missing_charts():
        from resnets.report.run_charts import draw

        figures = {finding.name: draw(finding) for finding in findings}
        (folder / "figures").mkdir(exist_ok=True)
        for figure in figures.values():
            figure.save(folder / "figures")
    losses = [row["loss"] for row in record.history if "loss" in row]
    validation = record.training.split_sizes.get("val") if record.training else None
    guardrails = cautions_of(scores, record.split, validation_images=validation)
    page = render(
        "report.html.j2",
        charts=bool(figures),
        record=record,
        cautions=[*guardrails, *record.cautions],
        missing_charts=missing_charts(),
        speed=[row["text"] for row in of_kind(record.history, "shares")][-1:],
        lost_losses=sum(finite(loss) is None for loss in losses),
        findings={finding.name: finding for finding in findings},
        figures=figures,
        few_classes=len(names) <= FEW_CLASSES,
        pairs=[
            (
                names[true],
                names[predicted],
                linked(f"{images:,}", (true, predicted), pictures),
                percent(images / sum(scores["confusion"][true])),
            )
            for (true, predicted), images in confusions(scores)[:MOST_PAIRS]
        ],
        groups=[
            (pair_id(pair), " taken for ".join(shorten(names[k], 40) for k in pair), images, shown)
            for pair, images in confusions(scores)
            if (shown := pictures.get(pair))
        ],
        samples=[(image_address(image), name) for image, name in record.samples[:MOST_PICTURES]],
    )
    path = folder / "report.html"
    path.write_bytes(page.encode())
    return path


# Images, below which a share is too uncertain to choose or to judge by.
FEW_IMAGES = 30


def cautions_of(
    scores: Mapping[str, Any], split: str, *, validation_images: int | None = None
) -> list[str]:
    """Return a sentence for each reason not to trust the accuracy.

    `validation_images` is how many images chose the weights to keep.
    """
    found = []
    if sum(row["num_images"] > 0 for row in scores["per_class"]) > 1:
        found += _baseline(scores, split)
        answers = [row["name"] for row in scores["per_class"] if row["precision"] is not None]
        if len(answers) == 1:
            found.append(f"The model answers {shorten(answers[0], 40)} for every image.")
    counts = {split: scores["num_images"]}
    counts.setdefault("validation", validation_images or FEW_IMAGES)
    return found + [
        f"There are few {name} images ({count}): each moves {name} accuracy by "
        f"{100 / count:.1f} points."
        for name, count in counts.items()
        if count < FEW_IMAGES
    ]


def _baseline(scores: Mapping[str, Any], split: str) -> list[str]:
    """Compare with the better of guessing and always answering the largest class."""
    guess = 1 / len(scores["classes"])
    largest = max(scores["per_class"], key=lambda row: row["num_images"])
    share = largest["num_images"] / scores["num_images"]
    if scores["top1_interval"][0] > max(guess, share):
        return []
    how = "no" if scores["top1"] <= max(guess, share) else "not clearly"
    than = f"guessing among {len(scores['classes'])} classes, which reaches {percent(guess)}"
    if share - guess >= 0.02:
        than = (
            f"always answering {shorten(largest['name'], 40)}, the class of {percent(share)} of "
            f"the {split} images; balanced accuracy is {percent(scores['balanced_accuracy'])}"
        )
    return [f"The accuracy is {how} better than {than}."]
