"""Provide `SourceListing`, what a source lists, and how all sources name splits and classes."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import numpy as np

from resnets.data.dataset import Images
from resnets.data.file_store import Array, ImageStore

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_ORDER = ("train", "val", "test", "all")
# Words for a split in the names of folders; "evaluation" is the test or, beside a test, validation.
_SPLIT_WORDS = {
    "train": "train|training|trn|trainval",
    "val": "val|valid|validation|validate|dev",
    "test": "test|testing|tst|holdout|heldout",
    "evaluation": "eval|evaluation",
}
# Words beside it that say no more.
_FILLERS = (
    "set|sets|split|splits|part|data|dataset|datasets|image|images|img|imgs|picture|pictures|pic|"
    "pics|photo|photos|folder|folders|file|files|seg|jpg|jpeg|png|labelled|labeled"
)
# Words for parts of a set, which are numbered, and for versions of the same images.
_PARTS = "fold|folds|part|parts|split|splits|batch|batches|chunk|chunks|shard|shards|subset|subsets"
_VERSIONS = (
    "image|images|img|imgs|mask|masks|label|labels|annotation|annotations|color|colors|colour|rgb|"
    "gray|grey|grayscale|greyscale|segmented|segmentation|segmentations|original|originals|"
    "augmented|augmentation|augmentations|resized|cropped|raw|processed|preprocessed|thumbnails|"
    r"\d+x\d+|\d+px"
)
# Labels that pandas and Excel write for a missing value or an error, and others that may be meant.
MISSING = re.compile(
    r"nan|nat|<na>|#n/?a!?|#(ref|value|div/0|name|null|num)[!?]|#wert!|#bezug!", re.IGNORECASE
)
DOUBTFUL = re.compile(rf"(?i:{MISSING.pattern})|NA|N/A|n/a|None|NULL|null|undefined|\?+")


@dataclass(frozen=True, eq=False)
class SplitListing:
    """Hold the files of one split; their headers are not read yet."""

    files: ImageStore
    targets: Array  # N int64, indices into the classes of `SourceListing`


@dataclass(frozen=True, eq=False)
class SourceListing:
    """Hold what a source lists, with the classes in the order of the source."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images | SplitListing]
    notices: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()  # class folders without images
    source: str = ""  # absolute path of the source

    def labels(self, split: str) -> set[str]:
        """Return the classes of which a split has an image."""
        return {self.classes[target] for target in np.unique(self.splits[split].targets)}


def numbered(labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Return the index of each label among the classes, N int64."""
    position = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position[label] for label in labels), np.int64, len(labels))


def printable(path: str) -> str:
    """Replace the bytes of a path that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def class_name(name: str) -> str:
    """Compose the accents of a name, which file systems encode in different ways."""
    return normalize("NFC", printable(name))


def named_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each name stands for, as far as it does.

    Case, numbers and words such as "set" or "images" do not matter: Training, test_set, seg-val,
    trainImages2. Other words matter unless a name for another split has them too: cats_train stands
    for a split beside cats_test, and is none beside dogs_train.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in names:
        splits, rest = _words_of(name)
        if len(splits) == 1:
            found[name] = splits.pop(), rest
    beside = defaultdict(set)
    for split, rest in found.values():
        beside[rest].add(split)
    named = {
        name: split for name, (split, rest) in found.items() if not rest or len(beside[rest]) > 1
    }
    present = set(named.values())
    evaluation = "val" if "test" in present and "val" not in present else "test"
    return {name: evaluation if split == "evaluation" else split for name, split in named.items()}


def are_parts(names: Iterable[str]) -> bool:
    """Return whether several names are those of parts of one set, or of versions of its images.

    fold1 and fold2, cells_part_1 and cells_part_2, color and grayscale, x_64x64 and x_128x128.
    """
    words = [set(re.findall(r"\d+x\d+|\d+px|[^\W\d_]+|\d+", name.lower())) for name in names]
    if len(words) < 2:
        return False
    shared = set.intersection(*words)
    own = [found - shared for found in words]
    if any(re.fullmatch(f"{_PARTS}|{_FILLERS}", word) for word in shared):
        return all(found and all(word.isdigit() for word in found) for found in own)
    return all(found and all(re.fullmatch(_VERSIONS, word) for word in found) for found in own)


def is_filler(name: str) -> bool:
    """Return whether a folder's name says nothing of what is in it, as "images" or "data"."""
    splits, rest = _words_of(name)
    return not splits and not rest


def _words_of(name: str) -> tuple[set[str], tuple[str, ...]]:
    """Return the splits that words of a name stand for, and its words that are no fillers."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", printable(name)).lower()
    text = re.sub(r"(hold|held)[\W_]?out", "holdout", text)
    text = re.sub(r"train[\W_]?val(?![a-z])", "trainval", text)
    splits, rest = set(), []
    for word in re.findall(r"[^\W\d_]+", text):
        for split, words in _SPLIT_WORDS.items():
            if re.fullmatch(f"({words})({_FILLERS})?", word):
                splits.add(split)
                break
        else:
            if not re.fullmatch(_FILLERS, word):
                rest.append(word)
    if not re.search(r"[^\W\d_]", text):  # a number, or signs only
        rest.append(text)
    return splits, tuple(rest)
