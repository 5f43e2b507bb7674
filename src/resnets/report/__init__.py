"""The report of a run: records and scores in, one self-contained page and its figures out.

Each chart is defined once (Altair, a grammar of graphics) and leaves three times: interactive in
`report.html`, which opens offline, and as SVG and PNG in `figures/`. The same input gives the
same bytes. The rooms, in the order that the data walks through them: `learning` and `quality`
draw, `figure` exports, `pictures` holds the images, `page` writes the HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def write_report(
    folder: Path,
    *,
    title: str,
    facts: list[tuple[str, str]],
    history: list[dict[str, Any]],
    scores: dict[str, Any],
    samples: list[tuple[np.ndarray, str]],
    mistakes: list[dict[str, Any]],
    notices: list[str],
    part: str,
) -> Path:
    """Write `report.html` and `figures/` into the folder; the page's path is returned.

    `history` is the run's metrics (empty when a model is only evaluated), `scores` is
    `Scores.to_dict()`, `part` names the scored images ("test" or "validation").
    """
    # imported here: `import resnets.report` stays free, Altair takes 0.4 s
    from resnets.report.learning import learning_figures
    from resnets.report.page import page
    from resnets.report.quality import quality_figures

    learning, quality = learning_figures(history), quality_figures(scores)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for figure in (*learning, *quality):
        figure.save(folder / "figures")
    html = page(
        title=title,
        facts=facts,
        learning=learning,
        quality=quality,
        scores=scores,
        samples=samples,
        mistakes=mistakes,
        notices=notices,
        part=part,
    )
    path = folder / "report.html"
    path.write_bytes(html.encode())
    return path
