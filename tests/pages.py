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


def assert_a_browser_draws(names: Iterable[str], page: Path, *, profile: Path) -> None:
    """Each chart of the page becomes a drawing, by a browser that keeps its files in `profile`."""
    command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for name in names:
        place = rf'<div class="chart[^"]*" id="{name}"[^>]*>(.*?)</div>'
        drawn = re.search(place, done.stdout, re.DOTALL)
        assert drawn is not None, name
        assert re.search(r"<svg|<canvas", drawn[1]), f"{name}: {drawn[1][:200]}"
