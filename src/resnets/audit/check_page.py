"""Write what a check found: check.json, and a page with pictures that needs no other file."""

import json
from dataclasses import dataclass
from pathlib import Path

from resnets.audit.findings import CheckReport, Finding, ImageRef
from resnets.data.dataset import DataSet, Images
from resnets.data.decode import DecodeError
from resnets.errors import UserError
from resnets.fileio import write_atomic
from resnets.report.html import image_address, render

PAGE, RECORD = "check.html", "check.json"
# Groups and images of a group that a finding shows, and pictures of the whole page (about 2 MB).
MOST_GROUPS, MOST_IN_GROUP, MOST_PICTURES = 24, 6, 240


@dataclass(frozen=True)
class Picture:
    """An image on the page: its address and class of style (None where unreadable), its facts."""

    image: tuple[str, str] | None
    ref: ImageRef


@dataclass(frozen=True)
class Section:
    """A finding on the page, with the groups that are shown."""

    finding: Finding
    groups: tuple[tuple[Picture, ...], ...]

    @property
    def num_hidden(self) -> int:
        """Number of images that only check.json lists."""
        return self.finding.num_images - sum(map(len, self.groups))


def check_folder(folder: Path, data: str | Path) -> None:
    """Refuse a folder that holds something else, or lies in the data, which are never changed."""
    name = f"--out {folder}"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{name}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise UserError(f"{name}: holds other files; give a new or empty folder")
    if is_inside(folder, data):
        raise UserError(f"{name}: lies inside the data, which a check never changes; give another")


def is_inside(folder: Path, data: str | Path) -> bool:
    """Return whether a folder is the folder of the data or lies below it."""
    root = Path(data).expanduser()
    return root.is_dir() and folder.resolve().is_relative_to(root.resolve())


def write_check(folder: Path, report: CheckReport, data: DataSet, *, clean: Path | None) -> None:
    """Write the page and the JSON document into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    left = MOST_PICTURES
    sections = []
    for finding in report.findings:
        groups = []
        for group in finding.groups[:MOST_GROUPS]:
            shown = group[: min(MOST_IN_GROUP, left)]
            left -= len(shown)
            if shown:
                groups.append(tuple(Picture(_address(data, ref), ref) for ref in shown))
        sections.append(Section(finding, tuple(groups)))
    page = render(
        "check.html.j2",
        package="resnets.audit",
        charts=False,
        report=report,
        problems=[one for one in sections if one.finding.level == "problem"],
        notices=[one for one in sections if one.finding.level == "notice"],
        num_images=sum(report.split_sizes.values()),
        clean=None if clean is None else str(clean),
    )
    write_atomic(folder / RECORD, json.dumps(report.to_dict(), indent=1) + "\n")
    write_atomic(folder / PAGE, page)


def _address(data: DataSet, ref: ImageRef) -> tuple[str, str] | None:
    """Return the picture of an image, or None where it cannot be read."""
    if ref.index is None:
        return None
    split = data.splits[ref.split]
    try:
        channels = split.channels if isinstance(split, Images) else 3
        return image_address(split.read(ref.index, channels))
    except DecodeError:
        return None
