"""Read a page of ours as a browser does, and let one draw it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest

with_browser = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium on this machine"
)
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-sync --disable-component-update --virtual-time-budget=15000 --dump-dom"
FLAGS += " --enable-logging=stderr"


class Page(HTMLParser):
    """What a browser would see: elements with attributes, the text, the charts' JSON."""

    def __init__(self, html: Path | str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.charts, self.script = "", {}, False
        self.feed(html.read_text(encoding="utf-8") if isinstance(html, Path) else html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.script = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.script = False

    def handle_data(self, data: str) -> None:
        if not self.script:
            self.text += data
        elif self.elements[-1][1].get("type") == "application/json":
            name = (self.elements[-1][1]["id"] or "").removesuffix("-chart")
            self.charts[name] = json.loads(data, parse_constant=pytest.fail)


# Names that would run a script, each in another context of HTML, and set the title to PWNED.
HOSTILE = (
    '"><img src=x onerror=document.title=`PWNED`>',
    "</script><script>document.title='PWNED'</script>",
    "' onmouseover=document.title='PWNED' autofocus onfocus=document.title='PWNED' x='",
    "<svg onload=document.title='PWNED'>",
    "</title></style><script>document.title='PWNED'</script>",
    "]]>--><script>document.title='PWNED'</script><!--<script>",
    "javascript:document.title='PWNED'",
    "{{ 7 * 7 }}{% raw %}\u2028\u2029\x1b[31m\u202e\udcff\x00&lt;script&gt;",
    "<base href=https://evil.invalid/><form action=x><meta http-equiv=refresh content=0;url=x>",
)


def browsed(page: Path, *, profile: Path) -> str:
    """Return the page as a browser has it after its scripts; none may break its policy."""
    command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Content Security Policy" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def assert_a_browser_draws(names: Iterable[str], page: Path, *, profile: Path) -> None:
    """Each chart of the page becomes a drawing, by a browser that keeps its files in `profile`."""
    dom = browsed(page, profile=profile)
    for name in names:
        place = rf'<div class="chart[^"]*" id="{name}"[^>]*>(.*?)</div>'
        drawn = re.search(place, dom, re.DOTALL)
        assert drawn is not None, name
        assert re.search(r"<svg|<canvas", drawn[1]), f"{name}: {drawn[1][:200]}"
    assert_nothing_foreign(dom)


def assert_nothing_foreign(html: Path | str) -> None:
    """No name in the page has become an element, an attribute, a title or an address."""
    page = Page(html)
    source = html.read_text(encoding="utf-8") if isinstance(html, Path) else html
    title = re.search(r"<title>(.*?)</title>", source, re.DOTALL)
    assert title is not None and title[1] != "PWNED", "a script has run"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids), "an id occurs twice"
    for tag, attributes in page.elements:
        assert tag not in ("base", "iframe", "object", "embed", "link", "image"), tag
        assert "action" not in attributes, attributes
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert re.fullmatch(r"[\w-]+", attributes.get("id") or "x", re.ASCII), attributes
        assert tag != "meta" or attributes.get("http-equiv") in (None, "Content-Security-Policy")
        for name in ("href", "src"):
            place = attributes.get(name) or "#"
            assert place.startswith(("#", "data:image/", "data/", "figures/", "blob:")), place
    policy = next(at["content"] or "" for _, at in page.elements if "http-equiv" in at)
    assert "unsafe" not in policy and policy.startswith("default-src 'none'"), policy
