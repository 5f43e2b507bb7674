"""Provide `find_layout`, which decides which folders of a tree are splits and which are classes.

A folder that holds nothing but one folder is looked through. Folders whose names stand for splits
are splits if folders with images lie in them. Where two readings are possible, the question is one
line, and `--class-level` answers it: nothing that may be a split is taken for a class in silence.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from resnets.data.sources.file_tree import Tree, joined
from resnets.data.sources.listing import (
    SPLIT_NAMES,
    SPLIT_ORDER,
    are_parts,
    class_name,
    is_filler,
    named_splits,
    printable,
)
from resnets.errors import UserError, shortened

# Levels at which the classes of a known model are looked for.
_LEVELS = (1, 2, 3)
# Names of images that have no class.
_UNLABELLED = re.compile(r"(un(label+ed|annotated|sorted|classified)|pred(iction)?s?)([\W_].*)?")


@dataclass(frozen=True)
class Folder:
    """Describe a folder of DATA at `path`, which is empty for DATA itself."""

    path: str
    tree: Tree

    @property
    def name(self) -> str:
        """Return the folder's own name."""
        return self.path.rpartition("/")[2]

    @property
    def level(self) -> int:
        """Return the class level at which the folders in it are classes."""
        return self.path.count("/") + 2 if self.path else 1

    def inner(self) -> "dict[str, Folder]":
        """Return the folders in it that have images at any depth, by name."""
        folders = self.tree.folders.items()
        return {n: Folder(joined(self.path, n), tree) for n, tree in folders if tree.has_images}

    def look_through(self, *, stop: Collection[str] = (), in_split: bool = False) -> "Folder":
        """Return the folder that really holds something: this one, or the only one in it.

        `stop` are names of classes, which are not looked through. A split may hold a folder of its
        own name, or of one that says nothing, whose images have no class folders.
        """
        folder = self
        while not folder.tree.images and len(inner := folder.inner()) == 1:
            (only,) = inner.values()
            says_nothing = only.name.lower() == folder.name.lower() or is_filler(only.name)
            split = only.name in named_splits(inner)
            beside = [tree for tree in folder.tree.folders.values() if tree is not only.tree]
            alone = not any(is_empty(tree) for tree in beside)
            if class_name(only.name) in stop or not (alone or says_nothing):
                break
            if in_split:
                if not (only.inner() or says_nothing or split):
                    break
            elif split or not only.inner():
                break
            folder = only
        return folder


@dataclass(frozen=True)
class Layout:
    """Say where the classes are: the folders of each split in which the class folders lie."""

    splits: Mapping[str, tuple[Folder, ...]]
    notices: tuple[str, ...] = ()

    def classes(self, split: str) -> list[Folder]:
        """Return the class folders of a split; one class may have several."""
        return list(chain.from_iterable(f.inner().values() for f in self.splits[split]))

    def labels(self) -> set[str]:
        """Return the classes of all splits."""
        return {class_name(folder.name) for split in self.splits for folder in self.classes(split)}


def is_empty(tree: Tree) -> bool:
    """Return whether a folder has neither images nor other files nor runs at any depth."""
    return not any(inner.images or inner.others or inner.runs for _, inner in tree.walk())


def find_layout(
    root: Folder, *, data: str, level: int | None = None, known: Collection[str] | None = None
) -> Layout:
    """Return the layout of a tree.

    Args:
        root: The folder of the data set.
        data: Its name in messages.
        level: How many folders below it the classes are; None finds it.
        known: The classes of a model, which are looked for where the tree does not tell.

    Raises:
        UserError: It has several meanings or none; the message asks for one.
    """
    if level is not None:
        return _at_level(root, level)
    error, found = None, None
    try:
        found = _guess(root, data)
    except UserError as reason:
        error = reason
    if known is not None and (found is None or not found.labels() <= set(known)):
        layouts = [_at_level(root, depth) for depth in _LEVELS]
        for layout in layouts:
            if layout.labels() and layout.labels() <= set(known):
                return layout
        # The classes that the model does not know are then named.
        found = found or max(layouts, key=lambda layout: len(layout.labels() & set(known)))
    if found is None:
        assert error is not None
        raise error
    return found


def _at_level(root: Folder, level: int) -> Layout:
    """Return the layout with the classes so many folders below the root."""
    places: list[tuple[str | None, Folder]] = [(None, root)]
    for _ in range(level - 1):
        below = list[tuple[str | None, Folder]]()
        for split, folder in places:
            inner = folder.inner()
            names = named_splits(inner)
            below += [(split or names.get(name), inner[name]) for name in inner]
        places = below
    named = any(split for split, _ in places)
    splits: dict[str, list[Folder]] = {}
    for split, folder in places:
        if (split or not named) and folder.inner():
            splits.setdefault(split or "all", []).append(folder)
    left_out = [folder.path for split, folder in places if named and not split]
    notices = [f"ignored beside the splits: {_listed(left_out)}"] if left_out else []
    if named:
        notices.append(
            _meaning((folder.path, split) for split in splits for folder in splits[split])
        )
    ordered = {split: tuple(splits[split]) for split in SPLIT_ORDER if split in splits}
    return Layout(ordered, tuple(notices))


def _guess(root: Folder, data: str) -> Layout:
    """Return the layout that names and depths of folders tell."""
    top = root.look_through()
    place = f"{data}/{printable(top.path)}" if top.path else data
    named, notices = _splits_of(top, place)
    if not named:
        if top.path:
            notices.append(f"the classes are the folders in {printable(top.path)}")
        return Layout({"all": (top,)}, (*notices, *_check_classes(top, data)))
    beside = sorted(folder.path for folder in named.values())
    ignored = [name for name in top.tree.folders if joined(top.path, name) not in beside]
    if ignored := sorted([*ignored, *top.tree.images, *top.tree.others]):
        names = ", ".join(map(printable, beside))
        notices.append(f"ignored beside the splits {names}: {shortened(ignored)}")
    splits: dict[str, Folder] = {}
    classes: set[str] = set()
    for split in SPLIT_ORDER:
        if split in named:
            splits[split] = named[split].look_through(stop=classes, in_split=True)
            classes = classes or set(map(class_name, splits[split].inner()))
    if any(folder.path.lower() not in SPLIT_NAMES for folder in splits.values()):
        notices.append(_meaning((folder.path, split) for split, folder in splits.items()))
    for folder in splits.values():
        notices += _check_classes(folder, data)
    return Layout({split: (folder,) for split, folder in splits.items()}, tuple(notices))


def _meaning(splits: Iterable[tuple[str, str]]) -> str:
    """Return the notice on what paths of folders were taken for."""
    return "taken as splits: " + shortened([f"{printable(path)} = {name}" for path, name in splits])


def _splits_of(top: Folder, place: str) -> tuple[dict[str, Folder], list[str]]:
    """Return the folder of each split, none if the folders are classes, and notices."""
    inner = top.inner()
    names = named_splits(top.tree.folders)
    splits: dict[str, Folder] = {}
    for name, split in names.items():
        if split in splits and name in inner and splits[split].tree.has_images:
            raise UserError(
                f"{place} has two folders for one split: {splits[split].name} and {name}"
            )
        if split not in splits or name in inner:
            splits[split] = Folder(joined(top.path, name), top.tree.folders[name])
    used = [printable(folder.name) for folder in splits.values() if folder.tree.has_images]
    deep = {s for s, folder in splits.items() if folder.look_through(in_split=True).inner()}
    others = [name for name in inner if name not in names]
    classes = sorted(name for name in others if inner[name].tree.images)
    if not used:
        return {}, []
    if deep:
        if others if "train" not in deep else deep == {"train"} and len(classes) > 1:
            raise UserError(
                f"{place}: is {shortened(used)} a split or a class, beside {_listed(others)}? "
                "If it is a split, put the class folders beside it into a folder train, or move "
                f"them out; {_answer({top.level: 'all of them are classes'})}"
            )
        return splits, []
    if len(classes) < len(used):
        raise UserError(
            f"{place}: {shortened(used)} {'look like splits' if used[1:] else 'looks like a split'}"
            ", but the images have no class folders: put them into one folder per class, or list "
            f"them in a manifest; {_answer({top.level: 'they are the classes'})}"
        )
    return {}, [
        f"{shortened(used)}: named like a split, but taken as a class, since the folders beside it "
        f"have images as well: {_listed(classes)}"
    ]


def _check_classes(folder: Folder, data: str) -> list[str]:
    """Return notices on class folders; raise UserError where they may be something else."""
    place = f"{data}/{printable(folder.path)}" if folder.path else data
    classes = folder.inner()
    through = {name: inner.look_through() for name, inner in classes.items()}
    inside = {name: set(names) for name, inner in through.items() if (names := inner.inner())}
    # A few images beside many folders do not make a class.
    nested = {n: names for n, names in inside.items() if len(classes[n].tree.images) < len(names)}
    below = max((through[name].level for name in nested), default=0)
    _check_overlap(classes, place, inside)
    _check_alike(place, nested, levels=(folder.level, below))
    if are_parts(classes):
        raise UserError(
            f"{place}: {_listed(classes)} look like parts or versions of one set, not like "
            "classes: give one of them, or a manifest; "
            f"{_answer({folder.level: 'they are the classes'})}"
        )
    several = any(len(names) > 1 for names in nested.values())
    if len(classes) > 1 and len(nested) * 2 > len(classes) and several:
        lower = set(chain.from_iterable(nested.values()))
        answer = _answer({folder.level: "the former are", below: "the latter are"})
        raise UserError(
            f"{place}: are the classes {_listed(classes)}, or the folders in them, "
            f"{_listed(lower)}? To answer, {answer}"
        )
    notices = []
    if odd := [n for n in classes if is_filler(n) or _UNLABELLED.fullmatch(n.lower())]:
        notices.append(f"taken as classes in spite of their names: {_listed(odd)}")
    deeper = [
        f"{printable(inner.path)} ({count:,})"
        for name in classes
        for inner in classes[name].inner().values()
        if (count := sum(len(tree.images) for _, tree in inner.tree.walk()))
    ]
    if deeper:
        notices.append(f"images in folders below a class belong to it: {shortened(deeper)}")
    return notices


def _check_overlap(
    classes: Mapping[str, Folder], place: str, inside: Mapping[str, set[str]]
) -> None:
    """Refuse a folder that holds the same folders as lie beside it."""
    for name, names in inside.items():
        beside = names & (classes.keys() - {name})
        if beside and len(beside) * 2 >= len(names):
            raise UserError(
                f"{place}: {printable(name)} holds the folders {_listed(beside)}, which also lie "
                f"beside it; give {place}/{printable(name)}, or move it out of the data"
            )


def _check_alike(place: str, inside: Mapping[str, set[str]], *, levels: tuple[int, int]) -> None:
    """Refuse folders that hold the same folders as each other: splits, versions or parts."""
    counts = Counter(chain.from_iterable(inside.values()))
    if len(inside) < 2 or len(counts) < 2 or counts.total() < 1.5 * len(counts):
        return
    same = sorted(name for name, count in counts.items() if count > 1)
    first = printable(min(inside))
    if all(name in named_splits(same) for name in same):
        raise UserError(
            f"{place}: {_listed(inside)} hold the splits {_listed(same)}: give one of them, or, if "
            f"they are classes, put them into the splits ({same[0]}/{first})"
        )
    upper, lower = levels
    answer = _answer({upper: "they are the classes", lower: "the folders in them are"})
    raise UserError(
        f"{place}: {_listed(inside)} hold the same folders, {_listed(same)}, so they look like "
        f"versions or parts of one set: give one, such as {place}/{first}, or name them train, "
        f"val and test; {answer}"
    )


def _answer(meanings: Mapping[int, str]) -> str:
    """Return the option that chooses each meaning, by the level of the classes."""
    options = (f"--class-level {level} if {meaning}" for level, meaning in meanings.items())
    return f"pass {', or '.join(options)}"


def _listed(names: Iterable[str]) -> str:
    return shortened(sorted(map(printable, names)))
