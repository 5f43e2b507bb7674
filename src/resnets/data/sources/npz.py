"""Provide .npz files of images and labels, a pair of arrays for each split.

The names are those of numpy examples (x_train, y_train), of MedMNIST (train_images, train_labels)
or of a single split (images, labels); `classes` or `class_names` names the classes. Images are
uint8, N H W or N H W C with 1 or 3 channels; what can be converted without loss is, with a notice.
Labels are whole numbers (indices into the names, if there are any) or strings.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnets.data.dataset import Images
from resnets.data.file_store import Array
from resnets.data.sources.listing import (
    MISSING,
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    numbered,
)
from resnets.data.sources.npz_file import NpzFile
from resnets.data.sources.table_rows import MAX_LABEL
from resnets.errors import UserError, shortened

IMAGE_WORDS = frozenset(("x", "image", "images", "img", "imgs", "data", "pixels"))
LABEL_WORDS = frozenset(("y", "label", "labels", "target", "targets"))
CLASS_KEYS = ("classes", "class_names", "classnames", "label_names", "target_names")
NAMES = "x_train, y_train, x_test, y_test, or train_images, train_labels, or images, labels"
# From how many images on each must take how many bytes of the file: packed digits take 165.
MANY, LEAST_BYTES = 100_000, 50
# Images that are looked at together when their values are converted, in bytes.
_PIECE = 2**24
# Furthest that a float may be from a multiple of 1/255: half precision has 11 bits.
_TOLERANCE = 0.07


@dataclass
class _Keys:
    """The names of the arrays of each split, of the classes, and of what is not used."""

    images: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    classes: str | None = None
    unused: list[str] = field(default_factory=list)

    def used(self) -> list[str]:
        """Return the names of all arrays that are read."""
        classes = [] if self.classes is None else [self.classes]
        return [*self.images.values(), *self.labels.values(), *classes]


def read_npz(path: Path) -> SourceListing:
    """Read an .npz; raise UserError if it is damaged or its arrays do not fit together."""
    file = NpzFile(path)
    keys = _keys(file.headers, str(path))
    used = keys.used()
    for name in keys.images.values():
        count = max((0, *file.headers[name].shape[:1]))
        if count > MANY and count * LEAST_BYTES > file.size:
            raise UserError(f"{name} of {path} promises {count:,} images in {file.size:,} bytes")
    # What is not used is named, and not unpacked.
    empty = {name: np.zeros(0) for name in file.headers if name not in used}
    return list_arrays(file.read(used) | empty, name=path.stem, source=str(path))


def list_arrays(arrays: Mapping[str, Array], *, name: str, source: str) -> SourceListing:
    """Make a listing of arrays in memory; `source` names them in messages."""
    keys = _keys(arrays, source)
    notices = [f"arrays not used: {shortened(keys.unused)}"] if keys.unused else []
    present = [split for split in SPLIT_ORDER if split in keys.images]
    pixels, labels = {}, {}
    for split in present:
        images, where = arrays[keys.images[split]], f"{keys.images[split]} of {source}"
        pixels[split] = _pixels(images, where, notices)
        where = f"{keys.labels[split]} of {source}"
        labels[split] = _labels(arrays[keys.labels[split]], len(images), where, notices)
    if keys.classes is None:
        kinds = {split: label.dtype.kind == "U" for split, label in labels.items()}
        if len(set(kinds.values())) > 1:
            raise UserError(f"{source} has strings as labels in one split and numbers in another")
        named = np.unique(np.concatenate(list(labels.values())))
        classes = tuple(str(label) for label in named)
    else:
        classes = _class_names(arrays[keys.classes], f"{keys.classes} of {source}")
    splits = {
        split: Images(
            pixels=pixels[split],
            targets=_targets(
                labels[split],
                classes,
                keys.classes is not None,
                f"{keys.labels[split]} of {source}",
            ),
            ids=tuple(f"{split}/{index}" for index in range(len(pixels[split]))),
        )
        for split in present
    }
    return SourceListing(name=name, classes=classes, splits=splits, notices=tuple(notices))


def _keys(names: Collection[str], source: str) -> _Keys:
    """Return what each array is, by its name."""
    found = _Keys()
    for name in names:
        if name.lower() in CLASS_KEYS:
            if found.classes is not None:
                raise UserError(f"{source} names classes twice: {found.classes} and {name}")
            found.classes = name
            continue
        split, words = _meaning(name)
        table = found.images if words == "images" else found.labels
        if not words:
            found.unused.append(name)
        elif split in table:
            raise UserError(
                f"{source} has the {words} of one split twice: {table[split]} and {name}"
            )
        else:
            table[split] = name
    if not found.images:
        listed = shortened(sorted(name[:40] for name in names)) or "nothing"
        raise UserError(f"{source} has {listed}; expected {NAMES}")
    if "all" in found.images and len(found.images) > 1:
        listed = ", ".join(found.images.values())
        raise UserError(f"{source} has images with and without a split: {listed}")
    for split, name in found.images.items():
        if split not in found.labels:
            raise UserError(f"{source} has {name} but no labels for it; expected {NAMES}")
    found.unused += [found.labels.pop(split) for split in found.labels.keys() - found.images.keys()]
    return found


def _meaning(name: str) -> tuple[str, str]:
    """Return the split of an array, and whether it holds images, labels or something else."""
    words = name.lower().replace("-", "_").split("_")
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    others = [word for word in words if word not in SPLIT_NAMES]
    if len(others) == 1 and len(splits) <= 1 and len(words) - len(others) == len(splits):
        split = splits.pop() if splits else "all"
        if others[0] in IMAGE_WORDS:
            return split, "images"
        if others[0] in LABEL_WORDS:
            return split, "labels"
    return "", ""


def _pixels(images: Array, source: str, notices: list[str]) -> Array:
    """Return uint8 N H W C; what cannot be converted without loss is refused."""
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        reason = "images without pixels" if 0 in images.shape[1:] else "expected N H W or N H W C"
        raise UserError(f"{source} has shape {images.shape}: {reason}")
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        notices.append(f"{source} is N C H W: read as such")
    if images.shape[3] not in (1, 3):
        raise UserError(
            f"{source} has shape {images.shape}; expected N H W, or N H W C with 1 or 3 channels "
            "(without transparency)"
        )
    return images if images.dtype == np.uint8 else _to_uint8(images, source, notices)


def _to_uint8(images: Array, source: str, notices: list[str]) -> Array:
    """Convert numbers that are whole from 0 to 255, or such divided by 255."""
    advice = "save images as uint8 (0 to 255)"
    if images.dtype.kind not in "iuf":
        raise UserError(f"{source} is {images.dtype}; {advice}")
    step = max(1, _PIECE // max(1, images[:1].nbytes))
    pieces = [images[start : start + step] for start in range(0, len(images), step)]
    low = float(np.min([piece.min() for piece in pieces], initial=0))
    high = float(np.max([piece.max() for piece in pieces], initial=0))
    if not (low >= 0 and high <= 255):  # NaN too
        raise UserError(f"{source} is {images.dtype} from {low:g} to {high:g}; {advice}")
    if images.dtype.kind != "f" and high == 1:
        raise UserError(f"{source} is {images.dtype} of 0 and 1; multiply by 255, and {advice}")
    factor = 255.0 if images.dtype.kind == "f" and high <= 1 else 1.0
    converted = np.empty(images.shape, np.uint8)
    for start, piece in zip(range(0, len(images), step), pieces, strict=True):
        scaled = piece if images.dtype.kind != "f" else piece.astype(np.float32) * factor
        whole = np.rint(scaled)
        if images.dtype.kind == "f" and np.abs(scaled - whole).max() > _TOLERANCE:
            raise UserError(
                f"{source} is {images.dtype} from {low:g} to {high:g}, and its values are no 8-bit "
                f"colours; {advice}: (x * 255).round().astype('uint8') where x is from 0 to 1"
            )
        converted[start : start + len(piece)] = whole
    meaning = "0 to 1 read as 0 to 255" if factor > 1 else "0 to 255"
    notices.append(f"{source} is {images.dtype}: converted to uint8 without loss ({meaning})")
    return converted


def _labels(labels: Array, length: int, source: str, notices: list[str]) -> Array:
    """Return one label an image: whole numbers that are not negative, or strings."""
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras keeps CIFAR's
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[0] == length and labels.dtype.kind in "iufb":
        labels = _from_one_hot(labels, source, notices)
    if labels.shape != (length,):
        raise UserError(
            f"{source} has shape {labels.shape} for {length} images; expected one label per image"
        )
    if labels.dtype.kind in "SU":
        return _strings(labels, source)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
            wrong = labels[~np.isfinite(labels) | (labels != np.rint(labels))][0]
            raise UserError(f"{source} has the label {wrong}; labels are whole numbers or strings")
        notices.append(f"{source} is {labels.dtype}: read as whole numbers")
    elif labels.dtype.kind not in "iu":
        raise UserError(f"{source} is {labels.dtype}; labels are whole numbers or strings")
    if length and (labels.min() < 0 or labels.max() >= 2**31):
        wrong = labels[(labels < 0) | (labels >= 2**31)][0]
        raise UserError(
            f"{source} has the label {wrong} for image {int(np.argmax(labels == wrong))}; number "
            "classes from 0, and leave out images without a label"
        )
    return labels.astype(np.int64)


def _from_one_hot(labels: Array, source: str, notices: list[str]) -> Array:
    """Return the place of the one 1 in each row."""
    if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise UserError(
            f"{source} has shape {labels.shape} and is not one-hot; expected one label per image"
        )
    notices.append(f"{source} is one-hot: read as {labels.shape[1]} classes")
    return np.asarray(labels.argmax(axis=1))


def _strings(labels: Array, source: str) -> Array:
    """Return strings that are text: UTF-8 bytes are decoded, half characters refused."""
    try:
        text = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        codes = np.dtype(np.uint32).newbyteorder(text.dtype.byteorder)
        if (
            text.dtype.itemsize
            and np.frombuffer(text.tobytes(), codes).max(initial=0) > sys.maxunicode
        ):
            raise ValueError("no Unicode character")
        for label in np.unique(text).tolist():
            label.encode()
            if not label.strip() or MISSING.fullmatch(label.strip()):
                raise UserError(f"{source} has the label {label!r}; leave out images without one")
            if len(label) > MAX_LABEL:
                raise UserError(f"{source} has a label of {len(label):,} characters")
    except (UnicodeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} has a label that is no text ({error})") from None
    return text


def _class_names(named: Array, source: str) -> tuple[str, ...]:
    if named.ndim != 1 or named.dtype.kind not in "iuSU":
        raise UserError(
            f"{source} is {named.dtype} of shape {named.shape}; expected a list of strings"
        )
    texts = _strings(named, source) if named.dtype.kind in "SU" else named
    classes = tuple(str(label) for label in texts)
    if len(set(classes)) < len(classes):
        raise UserError(f"{source} names a class twice")
    return classes


def _targets(labels: Array, classes: tuple[str, ...], indexed: bool, source: str) -> Array:
    """Return indices into `classes`: the labels themselves, or the places of their names."""
    if labels.dtype.kind != "U" and indexed:
        wrong = labels[labels >= len(classes)]
        if len(wrong):
            raise UserError(
                f"{source} has the label {wrong[0]}, but there are {len(classes)} classes"
            )
        return labels.astype(np.int64)
    names = labels.astype(str).tolist()
    if missing := sorted(set(names) - set(classes)):
        raise UserError(f"{source} has the label {missing[0]!r}, which is not among its classes")
    return numbered(names, classes)
