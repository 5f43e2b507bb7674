"""Provide `ImagePaths`: the files that a table names, below the table's folder.

A path is taken as it is written if there is such a file. Otherwise other spellings are tried: with
/ for a backslash, with accents composed or apart, with the suffix of an image, in a folder beside
the table.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from resnets.data.decode import SUFFIXES
from resnets.data.sources.listing import printable
from resnets.errors import UserError, shortened

# Folders beside the table in which images are looked for, and rows for which it is tried.
MAX_FOLDERS, MAX_SEARCHES = 200, 100
# Folders beside the table that are all searched for each row; of more, those that had others.
FEW_FOLDERS = 20
FILE, FOLDER, LINK = "file", "folder", "link"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|file:/", re.IGNORECASE)


@dataclass(frozen=True)
class Folder:
    """A folder that rows name: its path relative to the table, and what lies in it."""

    name: str
    path: str
    outside: bool  # not below the folder of the table
    entries: dict[str, str]  # name -> FILE, FOLDER or LINK

    @cached_property
    def composed(self) -> dict[str, str]:
        """The files by their names with composed accents."""
        return {
            normalize("NFC", printable(name)): name
            for name, kind in self.entries.items()
            if kind != FOLDER
        }

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """The images by their composed names without suffix."""
        found: dict[str, list[str]] = {}
        for composed, name in self.composed.items():
            stem, suffix = posixpath.splitext(composed)
            if suffix.lower() in SUFFIXES:
                found.setdefault(stem, []).append(name)
        return found

    def has(self, name: str) -> bool:
        """Return whether there is a file, or a link, of this name."""
        return self.entries.get(name, FOLDER) != FOLDER

    def child(self, name: str) -> str:
        """Return the id of an entry."""
        return f"{self.name}/{name}" if self.name else name


NOWHERE = Folder("", "", outside=False, entries={})


@dataclass
class ImagePaths:
    """Find the files that the rows of a table name.

    Args:
        base: Folder of the table: paths are relative to it.
        allow_outside: Whether images may lie elsewhere.
    """

    base: str
    allow_outside: bool
    changes: Counter[str] = field(default_factory=Counter)  # how many paths needed which change
    _folders: dict[str, Folder] = field(default_factory=dict)  # by the text that names them
    _names: dict[str, str] = field(default_factory=dict)  # real path of a folder -> its name
    _beside: list[str] = field(default_factory=list)  # folders beside the table with images
    _searches: int = MAX_SEARCHES

    def __post_init__(self) -> None:
        self._real_base = os.path.realpath(self.base)

    def find(self, written: str, where: str) -> tuple[str, bool]:
        """Return the id of the image that a row names, and whether there is such a file.

        The id is the path relative to `base`, the same for every spelling, or an absolute one.

        Raises:
            UserError: The path is a URL, outside of `base` without permission, or ambiguous;
                `where` names the row.
        """
        text = _without_scheme(written, where) if ":" in written else written
        folder, name = self._place(text, where)
        if folder.has(name):
            self._check_link(folder, name, where)
            return folder.child(name), True
        for change, other in self._spellings(text, where):
            self._place(other, where)
            if found := self._similar(other, where):
                self._check_link(*found, where)
                self.changes[change or _change(other, found[1])] += 1
                return found[0].child(found[1]), True
        # A file system may know names that it does not list: in another case, for example.
        return folder.child(name), os.path.isfile(os.path.join(folder.path, name))

    def _place(self, text: str, where: str) -> tuple[Folder, str]:
        """Return the folder and the name of a file; refuse a folder outside."""
        parent, slash, name = text.rpartition("/")
        if name in (".", ".."):  # no file
            parent, name = text, ""
        folder = self._folder(parent or slash)
        if folder.outside and not self.allow_outside:
            raise self._outside(text, where)
        return folder, name

    def _outside(self, text: str, where: str) -> UserError:
        return UserError(
            f"{where}: {printable(text)!r} is outside of {self.base}; pass --allow-outside "
            "(allow_outside=True in Python) if images may be read from there"
        )

    def _check_link(self, folder: Folder, name: str, where: str) -> None:
        """Refuse a link to a file outside."""
        if folder.entries[name] == LINK and not self.allow_outside:
            real = os.path.realpath(os.path.join(folder.path, name))
            if not _is_below(real, self._real_base):
                raise self._outside(f"{folder.child(name)} -> {real}", where)

    def _folder(self, text: str) -> Folder:
        """Return the folder that a text names, listed once."""
        if text not in self._folders:
            path = os.path.join(self.base, text)
            real = os.path.realpath(path)
            outside = not _is_below(real, self._real_base)
            name = self._names.setdefault(real, self._name(text, real))
            entries = {} if outside and not self.allow_outside else _listed(path)
            self._folders[text] = Folder(name, path, outside, entries)
        return self._folders[text]

    def _name(self, text: str, real: str) -> str:
        """Return the path relative to `base` without `.` and `..`, or the absolute one."""
        name = posixpath.normpath(text) if text else "."
        # .. after a link is not the folder above the link.
        if ".." in text and os.path.realpath(os.path.join(self.base, name)) != real:
            name = real
        if os.path.isabs(name) and _is_below(real, self._real_base):
            name = os.path.relpath(real, self._real_base).replace(os.sep, "/")
        return "" if name == "." else name

    def _spellings(self, text: str, where: str) -> Iterator[tuple[str, str]]:
        """Yield other spellings, each with what it changes (nothing: as `_similar` finds it)."""
        yield "", text
        if "\\" in text:
            text = text.replace("\\", "/")
            yield "/ for \\", text
        if text.startswith("~"):
            yield "~", os.path.expanduser(text)
        elif (
            not text.startswith(("/", "../"))
            and (beside := self._folder_beside(text, where)) is not None
        ):
            yield f"in the folder {beside}", f"{beside}/{text}"

    def _folder_beside(self, text: str, where: str) -> str | None:
        """Return the folder beside the table that has this image."""
        names = [name for name, kind in self._folder("").entries.items() if kind == FOLDER]
        if len(names) <= FEW_FOLDERS:
            return self._search(text, where, names)
        found = self._search(text, where, self._beside)
        if found is None and self._searches > 0:
            self._searches -= 1
            if found := self._search(text, where, names[:MAX_FOLDERS]):
                self._beside.append(found)
        return found

    def _search(self, text: str, where: str, names: list[str]) -> str | None:
        """Return the one of these folders beside the table that has this image."""
        fitting = [name for name in names if self._similar(f"{name}/{text}", where)]
        if len(fitting) > 1:
            listed = shortened(sorted(fitting))
            raise UserError(
                f"{where}: {printable(text)!r} is in several folders, {listed}: write the folder "
                "into the path"
            )
        return fitting[0] if fitting else None

    def _similar(self, text: str, where: str) -> tuple[Folder, str] | None:
        """Return the file of this name, perhaps with other accents or without its suffix."""
        *parents, name = text.split("/")
        folder = self._folder("/".join(parents) or "/"[: len(parents)])
        if not folder.entries and parents:
            folder = self._folder_with_accents(parents)
        if folder.has(name):
            return folder, name
        composed = normalize("NFC", printable(name))
        if composed in folder.composed:
            return folder, folder.composed[composed]
        names = folder.stems.get(composed, [])
        if not names:  # .JPG for .jpg
            stem, suffix = posixpath.splitext(composed.lower())
            same = folder.stems.get(composed[: len(stem)], [])
            names = [one for one in same if one.lower().endswith(suffix)]
        if len(names) > 1:
            raise UserError(
                f"{where}: {printable(text)!r} may be {shortened(sorted(names))}; write the suffix"
            )
        return (folder, names[0]) if names else None

    def _folder_with_accents(self, parents: list[str]) -> Folder:
        """Return the folder of this path, its parts compared with composed accents."""
        reached = "/" if parents[0] == "" else ""
        for part in filter(None, parents):
            folder = self._folder(reached.rstrip("/") or reached)
            composed = normalize("NFC", printable(part))
            same = (
                name for name in folder.entries if normalize("NFC", printable(name)) == composed
            )
            name = part if part in folder.entries or part in (".", "..") else next(same, None)
            if name is None:
                return NOWHERE
            reached += f"{name}/"
        return self._folder(reached.rstrip("/") or reached)


def _change(written: str, found: str) -> str:
    written = posixpath.basename(written)
    if found.startswith(written):
        return "suffix" if found != written else "accents"
    return "suffix in another case" if found.lower() == written.lower() else "accents"


def _without_scheme(written: str, where: str) -> str:
    """Return the path of a file:// URL; refuse other URLs."""
    if not (match := _URL.match(written)):
        return written
    url = urlsplit(written)
    if url.scheme.lower() != "file" or url.netloc not in ("", "localhost"):
        place = f"{match[1]}://{url.hostname or ''}"  # no passwords, no queries
        raise UserError(
            f"{where} names an image on the network ({place}/...); download the images, and give "
            "their paths"
        )
    return unquote(url.path)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _listed(path: str) -> dict[str, str]:
    try:
        with os.scandir(path) as entries:
            return {
                entry.name: FOLDER if entry.is_dir() else LINK if entry.is_symlink() else FILE
                for entry in entries
            }
    except (OSError, ValueError):  # no such folder, or a name that none can have
        return {}
