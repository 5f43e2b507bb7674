"""State what the records of a run show: for each chart a title, an alt text, a table and its data.

None of this needs the chart library, so a page without charts keeps its numbers.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from resnets.evaluation.metrics import wilson
from resnets.report.html import finite, percent, shorten, tidy

Record = Mapping[str, Any]
Row = dict[str, Any]
Pair = tuple[int, int]
T = TypeVar("T")
# Points of one curve: more than a screen can show.
MOST_POINTS = 500
# Rows of a table that are of one curve, and rows of a table of confused pairs.
_MOST_EPOCHS, _MOST_PAIRS = 40, 100
# Classes in the chart of recall; of more, those with the lowest recall.
_MOST_DOTS = 100
# Classes up to which a confusion matrix can show its counts.
FEW_CLASSES = 20


class Link(NamedTuple):
    """A cell of a table that leads to an element of the page."""

    text: str
    target: str


@dataclass(frozen=True)
class Finding:
    """What one chart shows: a title of at most 12 words, an alt text, and the table behind it.

    `data` has the rows that the chart draws by the name of their data set; they refer to the
    classes in `names` by number.
    """

    name: str
    title: str
    description: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str | Link]]
    data: dict[str, list[Row]]
    names: list[str] = field(default_factory=list)


def training_findings(history: Sequence[Record]) -> list[Finding]:
    """Return the findings about loss, accuracy and learning rate that have something to show."""
    train, validation = of_kind(history, "train"), of_kind(history, "validation")
    found = [
        _curves("loss", "loss", train, validation, lambda value: f"{value:.3g}"),
        _curves("accuracy", "top1", train, validation, percent),
        _learning_rate(train),
    ]
    return [finding for finding in found if finding is not None]


def score_findings(scores: Record, pictured: Container[Pair]) -> list[Finding]:
    """Return the findings about confusions (some have pictures), classes and calibration."""
    matrix = [_confusion(scores, pictured)] if scores["confusion"] else []
    return [*matrix, _classes(scores, pictured), _reliability(scores)]


def of_kind(history: Sequence[Record], kind: str) -> list[Record]:
    """Return the records of one kind."""
    return [record for record in history if record.get("kind") == kind]


def epoch_number(epoch: float) -> int:
    """Return the epoch, counted from 1, that a moment lies in; a last step may overshoot a bit."""
    return max(1, math.ceil(epoch - 0.01))


def pair_id(pair: Pair) -> str:
    """Return the id of the pictures of a confused pair."""
    return f"pair-{pair[0]}-{pair[1]}"


def confusions(scores: Record) -> list[tuple[Pair, int]]:
    """Return true and predicted class of the mistakes, and their number, most frequent first.

    There are none without a confusion matrix.
    """
    cells = [
        ((true, predicted), images, images / sum(row))
        for true, row in enumerate(scores["confusion"] or ())
        for predicted, images in enumerate(row)
        if images and true != predicted
    ]
    cells.sort(key=lambda cell: (-cell[1], -cell[2]))  # ties in order of the classes
    return [(pair, images) for pair, images, _ in cells]


def linked(text: str, pair: Pair, pictured: Container[Pair]) -> str | Link:
    """Return a cell about a confused pair that leads to its pictures where the page has some."""
    return Link(text, pair_id(pair)) if pair in pictured else text


def _thin(items: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """Return at most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _curve(records: Sequence[Record], field: str, series: str) -> list[Row]:
    """Return the points of one curve, a gap where the value is not finite; none if all are gaps."""
    rows = [
        {"epoch": finite(record["epoch"]), "value": finite(record[field]), "series": series}
        for record in _thin([record for record in records if field in record])
    ]
    return rows if _known(rows) else []


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["value"] is not None]


def _curves(
    name: str,
    field: str,
    train: Sequence[Record],
    validation: Sequence[Record],
    shown: Callable[[float], str],
) -> Finding | None:
    """Return the finding about one quantity on training and validation images."""
    rows = _curve(train, name, "training") + _curve(validation, field, "validation")
    if not rows:
        return None
    title, marked = f"{name.capitalize()} during training", []
    scored = [record for record in validation if finite(record.get("top1")) is not None]
    if scored:
        # Of equals the last is the best: its weights are those that a run keeps.
        best = max(reversed(scored), key=lambda record: record["top1"])
        label, value = f"best: epoch {epoch_number(best['epoch'])}", finite(best.get(field))
        marked = [{"epoch": finite(best["epoch"]), "value": value, "label": label}]
    ends, points = "", dict[float, dict[str, str]]()
    for series in ("training", "validation"):
        known = [row for row in _known(rows) if row["series"] == series]
        if known:
            first, last = shown(known[0]["value"]), shown(known[-1]["value"])
            ends += f" On {series} images it goes from {first} to {last}."
        for row in _thin(known, _MOST_EPOCHS):
            points.setdefault(row["epoch"], {})[series] = shown(row["value"])
    if known:  # of the validation images
        sign, word = (-1, "lowest") if name == "loss" else (1, "highest")
        top = max(reversed(known), key=lambda row: sign * row["value"])
        title = f"Validation {name} is {word} in epoch {epoch_number(top['epoch'])}"
        if len(known) > 1 and len({row["value"] for row in known}) == 1:
            title = f"Validation {name} stays at {shown(known[0]['value'])}"
    return Finding(
        name=name,
        title=title,
        description=f"Line chart of {name} by epoch. {title}.{ends}",
        head=("epoch", f"training {name}", f"validation {name}"),
        rows=[
            (f"{epoch:.2f}", point.get("training", ""), point.get("validation", ""))
            for epoch, point in sorted(points.items())
        ],
        data={"rows": rows, "best": marked},
    )


def _learning_rate(train: Sequence[Record]) -> Finding | None:
    rows = _curve(train, "learning_rate", "training")
    drawn = _known(rows)
    if len(drawn) < 2:  # one point says nothing of a schedule
        return None
    peak = max(drawn, key=lambda row: row["value"])
    title = f"Learning rate peaks at {peak['value']:.3g} in epoch {epoch_number(peak['epoch'])}"
    if len({row["value"] for row in drawn}) == 1:
        title = f"Learning rate stays at {peak['value']:.3g}"
    return Finding(
        name="learning_rate",
        title=title,
        description=f"Line chart by epoch. {title}; it ends at {drawn[-1]['value']:.3g}.",
        head=("epoch", "learning rate"),
        rows=[(f"{row['epoch']:.2f}", f"{row['value']:.4g}") for row in _thin(drawn, 12)],
        data={"rows": rows},
    )


def _confusion(scores: Record, pictured: Container[Pair]) -> Finding:
    names = [shorten(name, 24) for name in scores["classes"]]
    found, matrix = confusions(scores), scores["confusion"]
    total = sum(map(sum, matrix))
    correct = total - sum(images for _, images in found)
    title, most = "Every image is classified correctly", ""
    if found:
        (true, predicted), _ = found[0]
        title = f"{names[true]} is most often taken for {names[predicted]}"
        answers = [k for k in range(len(names)) if any(row[k] for row in matrix)]
        if len(answers) == 1:
            title = f"Every image is classified as {names[answers[0]]}"
        listed = (f"{names[t]} for {names[p]} ({images})" for (t, p), images in found[:3])
        most = f" Most frequent confusions: {', '.join(listed)}."
    head: tuple[str, ...] = ("true class", "predicted class", "images")
    rows = [[names[t], names[p], linked(f"{n:,}", (t, p), pictured)] for (t, p), n in found]
    if len(names) <= FEW_CLASSES:
        head = ("true class", *names)
        rows = [
            [names[true], *(linked(f"{n:,}", (true, k), pictured) for k, n in enumerate(row))]
            for true, row in enumerate(matrix)
        ]
    cells = [
        # 200 classes have 40,000 cells, nearly all of them empty.
        {"true": true, "predicted": k, "images": images, "share": finite(images / sum(row))}
        | ({"target": pair_id((true, k))} if (true, k) in pictured else {})
        for true, row in enumerate(matrix)
        for k, images in enumerate(row)
        if images
    ]
    return Finding(
        name="confusion",
        title=title,
        description=f"Confusion matrix of {len(names)} classes. {correct:,} of {total:,} images "
        f"lie on the diagonal.{most}",
        head=head,
        rows=rows[:_MOST_PAIRS],
        data={"cells": cells},
        names=[tidy(name) for name in scores["classes"]],
    )


def _interval(share: float, images: int) -> tuple[Row, str]:
    """Return the 95% interval of a share of images, as fields and as words."""
    low, high = wilson(round(share * images), images)
    return {"low": finite(low), "high": finite(high)}, f"{percent(low)} to {percent(high)}"


def _classes(scores: Record, pictured: Container[Pair]) -> Finding:
    """Return the finding about classes, lowest recall first, those without images last."""
    ordered = list(enumerate(scores["per_class"]))
    ordered.sort(key=lambda item: 2.0 if item[1]["recall"] is None else item[1]["recall"])
    # The last one of a class that is set is its most frequent.
    likeliest = {pair[0]: pair for pair, _ in reversed(confusions(scores))}
    table: list[list[str | Link]] = []
    data: dict[str, list[Row]] = {"rows": [], "intervals": []}
    for place, (k, row) in enumerate(ordered):
        name, images, interval = row["name"], row["num_images"], ""
        if row["recall"] is not None:
            ends, interval = _interval(row["recall"], images)
            data["intervals"].append({"class": place} | ends)
        words = {"class": place, "name": tidy(name), "images": images}
        for series in ("recall", "precision"):
            if row[series] is not None:
                data["rows"].append(words | {"series": series, "value": finite(row[series])})
        pair = likeliest.get(k)
        taken_for = [linked(scores["classes"][pair[1]], pair, pictured) if pair else ""]
        shares = (percent(row["recall"]), interval, percent(row["precision"]))
        table.append([name, f"{images:,}", *shares, *(taken_for if scores["confusion"] else ())])
    confused = ("most often taken for",) if scores["confusion"] else ()
    title, known = "No class has an image", [row for _, row in ordered if row["recall"] is not None]
    if known:
        first, last = known[0], known[-1]
        title = f"Every class has a recall of {percent(first['recall'])}"
        if first["recall"] != last["recall"]:
            lowest, highest = (
                f"{percent(row['recall'])} ({shorten(row['name'], 24)})" for row in (first, last)
            )
            title = f"Recall runs from {lowest} to {highest}"
    return Finding(
        name="per_class",
        title=title,
        description=f"Dot plot of recall and precision for each class. {title}.",
        head=("class", "images", "recall", "95% interval", "precision", *confused),
        rows=table,
        data={n: [row for row in rows if row["class"] < _MOST_DOTS] for n, rows in data.items()},
        names=[
            f"{shorten(tidy(row['name']), 24)} ({row['num_images']:,})"
            for _, row in ordered[:_MOST_DOTS]
        ],
    )


def _reliability(scores: Record) -> Finding:
    bins: list[Row] = []
    table = []
    for place, row in enumerate(scores["reliability"]):
        if row["count"]:
            start, end = (edge / len(scores["reliability"]) for edge in (place, place + 1))
            shares = {"from": start, "to": end}
            shares |= {name: row[name] for name in ("confidence", "accuracy")}
            ends, interval = _interval(row["accuracy"], row["count"])
            rounded = {name: finite(share) for name, share in shares.items()}
            bins.append({"images": row["count"]} | rounded | ends)
            means = (percent(row["confidence"]), percent(row["accuracy"]))
            table.append((f"{start:.0%} to {end:.0%}", f"{row['count']:,}", *means, interval))
    title, total = "No image has a prediction", sum(row["images"] for row in bins)
    if total:
        confidence = sum(row["images"] * row["confidence"] for row in bins) / total
        correct = round(sum(row["images"] * row["accuracy"] for row in bins))
        gap = confidence - correct / total
        low, high = wilson(correct, total)
        kind = "over" if gap > 0 else "under"
        title = f"The model is {kind}confident by {100 * abs(gap):.1f} points"
        if low <= confidence <= high:
            title = "Mean confidence agrees with accuracy"
    return Finding(
        name="reliability",
        title=title,
        description=f"Reliability diagram: accuracy by confidence. {title}. "
        f"The expected calibration error is {percent(scores['calibration_error'])}.",
        head=("confidence", "images", "mean confidence", "accuracy", "95% interval"),
        rows=table,
        data={"rows": bins, "ideal": [{"value": 0}, {"value": 1}]},
    )
