"""Say in words when a score means less than its number suggests.

An accuracy is compared with guessing and with always answering the largest class; fewer than 30
images leave any share uncertain by more than 15 points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnets.report.html import percent, shorten

# Images, below which a share is too uncertain to choose or to judge by.
FEW_IMAGES = 30


def cautions_of(
    scores: Mapping[str, Any], split: str, *, validation_images: int | None = None
) -> list[str]:
    """Return a sentence for each reason not to trust the accuracy; none where there is no reason.

    Args:
        scores: `Scores.to_dict()`.
        split: Name of the scored images, "test" or "validation".
        validation_images: How many images chose the weights to keep.
    """
    images, found = scores["num_images"], []
    if baseline := _baseline(scores, split):
        found.append(baseline)
    answered = [row["name"] for k, row in enumerate(scores["per_class"]) if _column(scores, k)]
    if len(answered) == 1 < len(scores["classes"]):
        found.append(f"The model answers {shorten(answered[0], 40)} for every image.")
    if images < FEW_IMAGES:
        found.append(
            f"The accuracy is that of {images} images: each one moves it by {percent(1 / images)}."
        )
    if split != "validation" and validation_images and validation_images < FEW_IMAGES:
        found.append(
            f"The weights were chosen by their accuracy on {validation_images} validation images: "
            f"each one moves it by {percent(1 / validation_images)}."
        )
    return found


def _baseline(scores: Mapping[str, Any], split: str) -> str | None:
    """Compare with the better of guessing and always answering the largest class."""
    guess = 1 / len(scores["classes"])
    largest = max(scores["per_class"], key=lambda row: row["num_images"])
    share = largest["num_images"] / scores["num_images"]
    if scores["top1_interval"][0] > max(guess, share):
        return None
    how = "no" if scores["top1"] <= max(guess, share) else "not clearly"
    if share - guess < 0.02:
        return (
            f"The accuracy is {how} better than guessing among "
            f"{len(scores['classes'])} classes, which reaches {percent(guess)}."
        )
    return (
        f"The accuracy is {how} better than always answering {shorten(largest['name'], 40)}, "
        f"the class of {percent(share)} of the {split} images; "
        f"balanced accuracy is {percent(scores['balanced_accuracy'])}."
    )


def _column(scores: Mapping[str, Any], predicted: int) -> int:
    return sum(row[predicted] for row in scores["confusion"])
