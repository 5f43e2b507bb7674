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
    found, images = [], scores["num_images"]
    if sum(row["num_images"] > 0 for row in scores["per_class"]) > 1:
        found += _baseline(scores, split)
        columns = zip(scores["classes"], *scores["confusion"], strict=True)
        answers = [name for name, *column in columns if any(column)]
        if len(answers) == 1:
            found.append(f"The model answers {shorten(answers[0], 40)} for every image.")
    few = [(split, images)]
    if split != "validation" and validation_images:
        few.append(("validation", validation_images))
    for name, count in few:
        if count < FEW_IMAGES:
            found.append(
                f"There are few {name} images ({count}): each moves {name} accuracy by "
                f"{100 / count:.1f} points."
            )
    return found


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
