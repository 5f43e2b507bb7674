"""What every page of ours is made in: its policy, its look, its library, its charts.

Enters: finished HTML and figures. Leaves: a document that needs nothing but itself. The chart
library (Vega, Vega-Lite, Vega-Embed; 0.9 MB) is in the page once, each chart is its JSON beside it.
The page's security policy forbids every request, so it opens offline and tells nobody. Whatever
comes from a user (class names, files) is escaped, in HTML and in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape

import vl_convert

from resnets.report.charts import Figure, tidy
from resnets.report.style import POLICY, SCRIPT, STYLE


def document(body: Iterable[str], *, title: str, style: str = "", script: str = "") -> str:
    """The whole page; parts without content are left out."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>",
            *filter(None, body),
            "</main>",
            f"<script>{_library()}</script>\n<script>{SCRIPT}{script}</script>\n</body>\n</html>\n",
        ]
    )


def text(words: str) -> str:
    """The words, safe in HTML."""
    return escape(tidy(words))


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def columns(*blocks: str, style: str = "") -> str:
    shown = "\n".join(filter(None, blocks))
    return f'<div class="columns {style}">\n{shown}\n</div>' if shown else ""


def drawing(figure: Figure) -> str:
    """The place of a chart, and its specification for the script that draws it there."""
    # "<" in JSON would let a class called "</script>" end the element
    spec = json.dumps(figure.for_page(), ensure_ascii=False, allow_nan=False, sort_keys=True)
    spec = spec.replace("<", "\\u003c")
    shape = " square" if figure.square else ""
    return (
        f'<div class="chart{shape}" id="{figure.name}"></div>\n'
        f'<script type="application/json" id="{figure.name}-chart">{spec}</script>'
    )


def table_of_facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in facts
    )
    return f'<table class="facts">\n{rows}\n</table>' if rows else ""


def _library() -> str:
    # "</script" inside a string of the library would end the element
    library: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return library.replace("</script", "<\\/script")
