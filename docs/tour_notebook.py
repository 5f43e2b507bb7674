"""Write tour.ipynb, the executed notebook of tour.md. Run by `make notebook`.

The Markdown file is the source. A Python block marked `runs` or `raises` becomes a code cell, and
the `text` block that shows its output is dropped. Everything else stays Markdown.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BLOCK = re.compile(
    r"<!-- (?P<mark>[^\n]*) -->\n```python\n(?P<code>.*?)```\n(?:```text\n.*?```\n)?", re.DOTALL
)


def cells(text: str) -> list[dict[str, Any]]:
    """Return the cells of the notebook for the Markdown text, without outputs."""
    found: list[dict[str, Any]] = []
    start = 0
    for match in BLOCK.finditer(text):
        if not re.search(r"runs$|^raises", match["mark"]):
            continue
        found.append(_markdown(text[start : match.start()]))
        found.append(_code(match["code"], raises=match["mark"] == "raises"))
        start = match.end()
    found.append(_markdown(text[start:]))
    return [{"id": f"cell-{number}"} | cell for number, cell in enumerate(found)]


def _markdown(text: str) -> dict[str, Any]:
    text = re.sub(r"<!-- [^\n]* -->\n", "", text).strip("\n")
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _code(code: str, *, raises: bool) -> dict[str, Any]:
    metadata = {"tags": ["raises-exception"]} if raises else {}
    code = code.strip("\n")
    cell = {"cell_type": "code", "metadata": metadata, "source": code}
    return cell | {"execution_count": None, "outputs": []}


def notebook(text: str) -> dict[str, Any]:
    """Return the notebook without outputs."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells(text)}


def main() -> None:
    """Execute the notebook and write it; of an error keep the message, not the paths."""
    import nbformat
    from nbclient import NotebookClient

    plain = json.dumps(notebook((HERE / "tour.md").read_text("utf-8")))
    document: Any = nbformat.reads(plain, as_version=4)
    NotebookClient(document, timeout=600, record_timing=False, coalesce_streams=True).execute()
    for cell in document.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
    document.metadata.language_info = {"name": "python"}
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
    (HERE / "tour.ipynb").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
