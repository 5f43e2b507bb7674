"""Words, figures and pictures in; one HTML page out that needs nothing but itself.

What a page is made in stands in `frame.py`; here is what the page of a run holds. Whatever comes
from a user (class names, files) is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnets.report.charts import Figure, finite, percent, shorten
from resnets.report.frame import columns, document, drawing, section, table_of_facts, text
from resnets.report.pictures import MOST_PICTURES, grid
from resnets.report.quality import confusions

if TYPE_CHECKING:
    import numpy as np


def page(
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    learning: Sequence[Figure],
    quality: Sequence[Figure],
    scores: Mapping[str, Any],
    samples: Sequence[tuple[np.ndarray, str]],
    mistakes: Sequence[Mapping[str, Any]],
    notices: Sequence[str],
    part: str,
) -> str:
    """The whole page; sections without content are left out."""
    body = [
        f"<h1>{text(title)}</h1>",
        _headline(scores, part),
        _notices(notices, part),
        section("Facts", table_of_facts(facts)),
        section("Learning", columns(*map(_chart, learning))),
        section(f"Quality on the {part} images", _quality(quality, scores)),
        section("Training images, as the network saw them", _samples(samples)),
        section(f"Most confident mistakes on the {part} images", _mistakes(mistakes)),
        "<footer>The charts are also in the folder <code>figures</code> beside this page, "
        "as SVG and PNG.</footer>",
    ]
    return document(body, title=title)


def _name(name: str) -> str:
    return text(shorten(name, 40))


def _headline(scores: Mapping[str, Any], part: str) -> str:
    low, high = (percent(end) for end in scores["top1_interval"])
    cards = [("accuracy", percent(scores["top1"], 2), f"95% interval {low} to {high}")]
    if scores["top5"] is not None:
        low, high = (percent(end) for end in scores["top5_interval"])
        cards.append(("top-5", percent(scores["top5"], 2), f"95% interval {low} to {high}"))
    loss = finite(scores["loss"])
    cards += [
        ("balanced accuracy", percent(scores["balanced_accuracy"], 2), "mean recall of classes"),
        ("loss", "not finite" if loss is None else f"{loss:.4g}", "cross-entropy, nats"),
        (
            "calibration error",
            percent(scores["calibration_error"]),
            "gap from confidence to accuracy",
        ),
        (f"{part} images", f"{scores['num_images']:,}", f"{len(scores['classes']):,} classes"),
    ]
    items = "\n".join(
        f"<div><dt>{text(name)}</dt><dd><b>{value}</b><span>{detail}</span></dd></div>"
        for name, value, detail in cards
    )
    return f'<dl class="headline">\n{items}\n</dl>'


def _notices(notices: Sequence[str], part: str) -> str:
    told = list(notices)
    if part == "validation":
        told.append(
            "These are the validation images, which also chose the best epoch: the scores are "
            "a little better than they would be on images that chose nothing."
        )
    items = "\n".join(f"<li>{text(notice)}</li>" for notice in told)
    return f'<ul class="notices">\n{items}\n</ul>' if told else ""


def _chart(figure: Figure) -> str:
    note = f'\n<p class="note">{text(figure.note)}</p>' if figure.note else ""
    return f"<article>\n<h3>{text(figure.title)}</h3>\n{drawing(figure)}{note}\n</article>"


def _quality(figures: Sequence[Figure], scores: Mapping[str, Any]) -> str:
    confusion, classes, reliability = map(_chart, figures)
    pairs = _pairs(scores)
    num_classes = len(scores["classes"])
    if num_classes <= 20:  # small enough to stand side by side
        style = "lead" if num_classes > 4 else ""
        blocks = [columns(confusion, pairs, style=style), columns(classes, reliability)]
    else:
        blocks = [confusion, columns(pairs, reliability), classes]
    return "\n".join(blocks)


def _pairs(scores: Mapping[str, Any]) -> str:
    """The largest cells off the diagonal, in words: what to look at first."""
    rows = "\n".join(
        f"<tr><td>{_name(true)}</td><td>{_name(predicted)}</td>"
        f"<td>{images:,}</td><td>{percent(share)}</td></tr>"
        for true, predicted, images, share in confusions(scores)
    )
    if not rows:
        return ""
    head = "<th>true</th><th>predicted</th><th>images</th><th>of the true class</th>"
    return (
        '<article>\n<h3>Most frequent confusions</h3>\n<table class="pairs">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</article>"
    )


def _samples(samples: Sequence[tuple[np.ndarray, str]]) -> str:
    return grid([(image, _name(label)) for image, label in samples]) if samples else ""


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> str:
    if not mistakes:
        return ""
    pictures = [
        (
            mistake["image"],
            f"<b>{_name(mistake['predicted'])}</b> {percent(mistake['confidence'])}<br>"
            f"truly <b>{_name(mistake['true'])}</b><br>"
            f"<code>{text(mistake['id'])}</code>",
        )
        for mistake in mistakes[:MOST_PICTURES]
    ]
    note = (
        "What the model said and how sure it was, what the label says, and the file. "
        "Wrong labels often show up here first."
    )
    return f'<p class="note">{note}</p>\n{grid(pictures)}'
