"""Provide `scan`, which lists a folder and all below it once, whatever lies there.

Each real folder is listed once, however many links lead to it, and a link to a folder above it is
not followed. What systems and programs leave behind is counted and passed over; what is no file (a
pipe, a socket, a device, a dead link) is named and never opened. Files without a suffix, or with an
unknown one, are images if their first bytes say so.
"""

import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnets.data.decode import SUFFIXES
from resnets.data.sources.listing import printable
from resnets.errors import UserError, shortened
from resnets.fileio import SPECIAL_FILES, open_file

# Folders inside folders; deeper ones are a mistake of a program.
MAX_DEPTH = 64
# Files of unknown suffix that turned out to be no images, after which no more are opened: in all,
# and of one suffix.
MAX_OPENED = 1000
MAX_OPENED_PER_SUFFIX = 100

# Names, in lower case, of what systems and programs leave behind; so are names that begin with "."
_LEFTOVERS = frozenset(
    (
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("$recycle.bin", "recycler", "system volume information", "found.000"),
        *("lost+found", "lost.dir", "@eadir", "#recycle", "@recycle", "#snapshot", "@tmp"),
        *("__pycache__", "node_modules"),
    )
)
# Files that a download or an editor has not finished: never images, whatever they hold.
_UNFINISHED = frozenset((".part", ".partial", ".crdownload", ".download", ".tmp", ".bak", ".swp"))
# Raw images of cameras are TIFFs by their first bytes, and hold a thumbnail where others have the
# picture.
RAW = frozenset(
    (
        *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".pef", ".srw", ".orf"),
        *(".rw2", ".raf", ".raw", ".3fr", ".iiq", ".erf", ".mef", ".mos", ".kdc", ".dcr", ".rwl"),
    )
)
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+"
    # A BMP: its size, four zeros, the offset of its pixels, the size of one of its headers.
    rb"|BM....\0{4}....[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)


@dataclass(slots=True, eq=False)
class Tree:
    """Hold the names that lie in one real folder; two paths may lead to one Tree.

    Args:
        images: Files that are images by their suffix or their first bytes.
        others: All other files.
        runs: Folders that a training run has written; they are not looked into.
        folders: All other folders, by name.
        has_images: Whether there is an image at any depth.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    folders: "dict[str, Tree]" = field(default_factory=dict)
    has_images: bool = False

    def walk(self, path: str = "") -> "Iterator[tuple[str, Tree]]":
        """Yield the folder, which lies at `path`, and each folder below it once."""
        waiting, seen = deque([(path, self)]), {self}
        while waiting:
            place, tree = waiting.popleft()
            yield place, tree
            for name, inner in tree.folders.items():
                if inner not in seen:
                    seen.add(inner)
                    waiting.append((joined(place, name), inner))


@dataclass(frozen=True, slots=True)
class _Place:
    """Say where a folder was found: `path` below the root, `real` without links."""

    tree: Tree
    path: str
    real: str
    above: "_Place | None"

    def is_below(self, tree: Tree) -> bool:
        """Return whether this folder is `tree`, or lies in it."""
        place: _Place | None = self
        while place is not None and place.tree is not tree:
            place = place.above
        return place is not None


class FolderScan:
    """List a folder and all below it.

    Args:
        root: The folder; `root` is then its absolute path, and `tree` what lies in it.

    Raises:
        UserError: A folder cannot be listed, or is too deep.
    """

    def __init__(self, root: str | Path) -> None:
        self.root, self.tree = os.path.abspath(root), Tree()
        self.leftovers: Counter[str] = Counter()  # ignored, by name
        self.special: list[str] = []  # paths of what is no file, with what it is
        self.recognised: Counter[str] = Counter()  # images of unknown suffix, by suffix
        self.unopened: Counter[str] = Counter()  # files of unknown suffix that were not opened
        self.links_outside = 0
        self.links_above: list[str] = []  # paths of links to a folder above them
        self.links_again: list[str] = []  # further paths of one folder
        self._num_refused: Counter[str] = Counter()  # opened, but no images, by suffix and in all
        self._real_root = os.path.realpath(self.root)
        start = _Place(self.tree, "", self._real_root, None)
        self._known = {start.real: self.tree}
        self._parents: dict[Tree, list[Tree]] = {self.tree: []}
        waiting = deque([start])
        while waiting:  # nearest first: a folder gets its shortest path
            waiting.extend(self._list(waiting.popleft()))
        self._mark_images()

    def notices(self) -> Iterator[str]:
        """Yield what was passed over, and what may surprise."""
        if self.leftovers:
            yield f"ignored, left by systems and programs: {counted(self.leftovers)}"
        if self.special:
            yield f"ignored, since they are no files: {shortened(self.special)}"
        if self.recognised:
            yield (
                f"{self.recognised.total()} files are images by their first bytes and are used; "
                f"their suffixes: {counted(self.recognised)}"
            )
        if self.links_outside:
            count = self.links_outside
            links, lead = ("link", "leads") if count == 1 else ("links", "lead")
            yield f"{count:,} {links} {lead} out of {printable(self.root)}: followed"
        if self.links_above:
            yield f"links to a folder above them, ignored: {shortened(self.links_above)}"
        if self.links_again:
            yield (
                "folders that links make reachable by a second path, so their images may be in two "
                f"classes or splits: {shortened(self.links_again)}"
            )

    def _list(self, place: _Place) -> "Iterator[_Place]":
        """List one folder; yield the folders in it that are not known yet."""
        folder = os.path.join(self.root, place.path) if place.path else self.root
        tree = place.tree
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            for entry in entries:
                name = entry.name
                if entry.is_file(follow_symlinks=False):
                    self._add_file(tree, name)
                elif self._is_leftover(name):
                    self.leftovers[name] += 1
                elif not entry.is_symlink() and entry.is_dir(follow_symlinks=False):
                    yield from self._add_folder(place, entry, os.path.join(place.real, name))
                else:
                    yield from self._add_special(place, entry)
        except FileNotFoundError:
            raise UserError(
                f"the folder {printable(folder)} vanished while the data were listed; wait until "
                "they are complete"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot list the folder {printable(folder)}: {error.strerror}; permit it, or move "
                "the folder out of the data"
            ) from error
        self._look_into_others(tree, folder)

    def _is_leftover(self, name: str) -> bool:
        return name[0] == "." or name.lower() in _LEFTOVERS

    def _add_file(self, tree: Tree, name: str) -> None:
        if name[name.rfind(".") :].lower() in SUFFIXES and name[0] != ".":
            tree.images.append(name)
        elif self._is_leftover(name):
            self.leftovers["._*" if name.startswith("._") else name] += 1
        else:
            tree.others.append(name)

    def _add_folder(
        self, place: _Place, entry: "os.DirEntry[str]", real: str
    ) -> "Iterator[_Place]":
        path = joined(place.path, entry.name)
        tree = self._known.get(real)
        if self._real_root.startswith(os.path.join(real, "")):  # a folder that holds the root
            self.links_above.append(printable(path))
            return
        if tree is None:
            if path.count("/") >= MAX_DEPTH:
                raise UserError(
                    f"{printable(self.root)} has folders inside folders, more than {MAX_DEPTH} "
                    f"levels deep: {printable(path)[:80]}..."
                )
            if is_run(entry.path):
                place.tree.runs.append(entry.name)
                return
            tree = self._known[real] = Tree()
            self._parents[tree] = []
            yield _Place(tree, path, real, place)
        elif place.is_below(tree):
            self.links_above.append(printable(path))
            return
        else:
            self.links_again.append(printable(path))
        place.tree.folders[entry.name] = tree
        self._parents[tree].append(place.tree)

    def _add_special(self, place: _Place, entry: "os.DirEntry[str]") -> "Iterator[_Place]":
        """Add what is neither a plain file nor a plain folder: a link, a pipe, a device."""
        path = joined(place.path, entry.name)
        is_image = os.path.splitext(entry.name)[1].lower() in SUFFIXES
        try:
            mode = os.stat(entry.path).st_mode
        except OSError as error:
            if is_image:  # an image that cannot be read, as other damaged ones
                place.tree.images.append(entry.name)
            else:
                self.special.append(f"{printable(path)} ({(error.strerror or 'no file').lower()})")
            return
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            self.links_outside += self._leads_outside(place, entry)
        if stat.S_ISREG(mode):
            self._add_file(place.tree, entry.name)
        elif stat.S_ISDIR(mode):
            yield from self._add_folder(place, entry, os.path.realpath(entry.path))
        else:
            kind = SPECIAL_FILES.get(stat.S_IFMT(mode), "a special file")
            self.special.append(f"{printable(path)} ({kind})")

    def _leads_outside(self, place: _Place, entry: "os.DirEntry[str]") -> bool:
        """Return whether the target that a link names lies outside the root."""
        target = os.path.normpath(os.path.join(place.real, os.readlink(entry.path)))
        inside = (self._real_root, self.root)
        return not any(target == root or target.startswith(f"{root}{os.sep}") for root in inside)

    def _look_into_others(self, tree: Tree, folder: str) -> None:
        """Move the files of a folder to its images that are images by their first bytes."""
        others, tree.others = tree.others, []
        for name in others:
            suffix = suffix_of(name)
            if suffix in _UNFINISHED or suffix in RAW or suffix.endswith("~"):
                tree.others.append(name)
            elif (
                self._num_refused[suffix] >= MAX_OPENED_PER_SUFFIX
                or self._num_refused[""] >= MAX_OPENED
            ):
                self.unopened[suffix] += 1
                tree.others.append(name)
            elif _is_image(os.path.join(folder, name)):
                self.recognised[suffix] += 1
                tree.images.append(name)
            else:
                self._num_refused.update((suffix, ""))
                tree.others.append(name)

    def _mark_images(self) -> None:
        """Mark all folders that have an image at any depth."""
        waiting = [tree for tree in self._parents if tree.images]
        while waiting:
            tree = waiting.pop()
            if not tree.has_images:
                tree.has_images = True
                waiting += self._parents[tree]
        self._known, self._parents = {}, {}


def is_run(folder: str | Path) -> bool:
    """Return whether a folder was written by a training run."""
    files = (os.path.join(folder, name) for name in ("config.json", "metrics.jsonl"))
    return all(map(os.path.isfile, files))


def joined(path: str, name: str) -> str:
    """Return the path of a name in a folder at `path`, which is empty for the root."""
    return f"{path}/{name}" if path else name


def suffix_of(name: str) -> str:
    """Return the suffix of a file in lower case, or "no suffix"."""
    return os.path.splitext(name)[1].lower() or "no suffix"


def counted(numbers: "Counter[str]") -> str:
    """Return names with how often each occurs, the most frequent first."""
    ordered = sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))
    names = [f"{printable(name)} {n:,}" if n > 1 else printable(name) for name, n in ordered]
    return shortened(names, shown=12)


def _is_image(path: str) -> bool:
    """Return whether the first bytes of a file are those of an image that can be read."""
    try:
        with open_file(path) as file:
            start = file.read(18) or b""  # None where the system would wait for more
            return _SIGNATURE.match(start) is not None
    except OSError:
        return False
