"""Provide small image files for the tests of the data package."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from resnets.data import DataSet


def paint(path: Path, colour: object = "red", size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def painted(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, *names: str) -> Path:
    """A small PNG at each name below `root`."""
    for name in names:
        paint(root / name)
    return root


def labels(data: DataSet, part: str) -> dict[str, str]:
    """Id -> class name."""
    content = data.splits[part]
    pairs = zip(content.ids, content.targets, strict=True)
    return {name: data.classes[target] for name, target in pairs}


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}
