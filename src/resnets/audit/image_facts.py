"""Find images and classes that stand out: unreadable, blank, tiny, rotated, rare."""

from collections.abc import Callable
from unicodedata import normalize

import numpy as np

from resnets.audit.findings import Finding, ImageRef
from resnets.audit.image_scan import ScannedImages
from resnets.data.dataset import DataSet
from resnets.data.file_store import Array
from resnets.errors import shortened

Refer = Callable[[int, str], ImageRef]

# Levels of 255 by which the colours of a blank image differ at most.
BLANK_RANGE = 12
# Sides in pixels below which an image is tiny, and by which factor sides are far from the median.
TINY_SIDE, FAR = 8, 4
# Width to height, or height to width, from which an aspect is odd.
ODD_ASPECT = 4
# Largest to smallest class from which a set is unbalanced; images of a class that are few.
UNBALANCED, FEW_IMAGES = 10, 10
# Share of the images up to which a number of channels is odd.
RARE = 0.5
_COLOURS = {
    "grey": ("1", "L", "I", "F", "I;16", "I;16B", "I;16L"),
    "transparency": ("LA", "La", "PA", "RGBA", "RGBa"),
    "CMYK": ("CMYK",),
    "LAB": ("LAB", "HSV"),
}


def blank_images(scan: ScannedImages) -> Array:
    """Return whether each image is of nearly one colour, N bool."""
    flat = scan.thumbnails.reshape(len(scan), -1, 3)
    ranges = flat.max(1).astype(np.int64) - flat.min(1)  # N 3
    blank: Array = (ranges.max(1) <= BLANK_RANGE) & scan.readable
    return blank


def unreadable_finding(
    data: DataSet, scan: ScannedImages, refer: Refer, *, max_corrupt: float
) -> list[Finding]:
    """Return the files that cannot be read: by their header (not in the scan), or their pixels."""
    images = [ImageRef(name, "", "", reason) for name, reason in data.skipped]
    images += [refer(row, reason) for row, reason in sorted(scan.reasons.items())]
    if not images:
        return []
    total = len(scan) + len(data.skipped)
    share = len(images) / total
    lost = _lost_classes(data, scan)
    too_many = share > max_corrupt
    advice = "They are left out of training. Repair or remove them."
    if lost:
        advice = f"All images of {shortened(lost)} are lost in a split. {advice}"
    elif too_many:
        advice = f"More than --max-corrupt {max_corrupt:g} allows. {advice}"
    return [
        Finding(
            kind="unreadable",
            level="problem" if too_many or lost else "notice",
            title=f"{len(images):,} of {total:,} images cannot be read ({share:.2%})",
            advice=advice,
            groups=tuple((image,) for image in images),
        )
    ]


def _lost_classes(data: DataSet, scan: ScannedImages) -> list[str]:
    """Return the classes of which a split has images, but none whose pixels can be read."""
    keys = scan.which * len(data.classes) + scan.targets
    lost = np.setdiff1d(keys, keys[scan.readable])
    return sorted({data.classes[key % len(data.classes)] for key in lost.tolist()})


def image_findings(scan: ScannedImages, blank: Array, refer: Refer) -> list[Finding]:
    """Return what stands out in single images."""
    widths, heights = scan.sizes.T.astype(np.float64)
    shorter, longer = np.minimum(widths, heights), np.maximum(widths, heights)
    middle_short, middle_long = np.median(shorter), np.median(longer)
    sizes = [f"{width:.0f} x {height:.0f} pixels" for width, height in scan.sizes]
    turned = np.where(scan.orientations > 1, scan.orientations, 0)
    usual_aspect = float(np.median(longer / np.maximum(shorter, 1)))
    odd_aspect = longer >= max(ODD_ASPECT, 2 * usual_aspect) * shorter
    tiny = (shorter < TINY_SIDE) | (shorter < middle_short / FAR)
    if np.all(shorter < TINY_SIDE):
        tiny[:] = False  # a set of tiny images
    found = [
        _single(
            refer,
            "blank",
            blank,
            "{images} of nearly one colour",
            "Nothing can be learned from them. Look at what went wrong, and remove them.",
        ),
        _single(
            refer,
            "cut",
            scan.cut,
            "{images} grey from some row on: the end of the JPEG is missing",
            "No program reports an error for them: the grey stands for what is lost. Restore them.",
        ),
        _single(
            refer,
            "tiny",
            tiny,
            f"{{images}} tiny (below {TINY_SIDE} pixels, or a quarter of the median side)",
            "They are magnified to the network's input. Thumbnails among photos?",
            sizes,
        ),
        _single(
            refer,
            "huge",
            longer > FAR * middle_long,
            f"{{images}} huge (more than {FAR} times the median side)",
            "They are reduced to the network's input; reading them takes longer.",
            sizes,
        ),
        _single(
            refer,
            "aspect",
            odd_aspect & ~tiny,
            f"{{images}} of an odd shape ({ODD_ASPECT}:1 or longer)",
            "Training sees the middle of them, or all of it out of shape (--resize-mode).",
            sizes,
        ),
        _single(
            refer,
            "rotated",
            turned > 0,
            "{images} with an EXIF orientation: stored turned or mirrored",
            "resnets turns them upright everywhere; other programs may not.",
            [f"orientation {value}" for value in scan.orientations],
        ),
    ]
    return [finding for finding in found if finding] + _channel_findings(scan, refer)


def _channel_findings(scan: ScannedImages, refer: Refer) -> list[Finding]:
    """Return files whose channels are not those of most others."""
    found = []
    for name, modes in _COLOURS.items():
        odd = np.isin(scan.modes, modes) & scan.readable
        if odd.any() and odd.mean() <= RARE:
            title = f"{{images}} with {name}, unlike most others"
            if name == "grey":
                title = "{images} grey among colour images"
            advice = (
                "They are converted as the others are: grey becomes colour, transparency white. "
                "If one class has most of them, a network may learn that instead."
            )
            found.append(_single(refer, f"channels-{name.lower()}", odd, title, advice, scan.modes))
    return [finding for finding in found if finding]


def _single(
    refer: Refer,
    kind: str,
    chosen: Array,
    title: str,
    advice: str,
    details: "Array | list[str] | None" = None,
) -> Finding | None:
    rows = np.flatnonzero(chosen).tolist()
    if not rows:
        return None
    groups = tuple((refer(row, "" if details is None else str(details[row])),) for row in rows)
    images = f"{len(rows):,} {'image' if len(rows) == 1 else 'images'}"
    return Finding(kind, "notice", title.format(images=images), advice, groups)


def class_findings(data: DataSet, scan: ScannedImages) -> list[Finding]:
    """Return what stands out in the classes: names, numbers of images, splits without a class."""
    names = data.classes
    found = []
    similar: dict[str, list[str]] = {}
    for name in names:
        similar.setdefault(_plain(name), []).append(name)
    if doubled := [" = ".join(map(repr, group)) for group in similar.values() if len(group) > 1]:
        found.append(
            Finding(
                kind="class-names",
                level="problem",
                title=f"class names that differ only in case, spaces or Unicode form: "
                f"{shortened(doubled)}",
                advice="A reader takes these for one class in several folders. Give them one name.",
            )
        )
    counts = {
        split: np.bincount(scan.targets[scan.which == which], minlength=len(names))
        for which, split in enumerate(scan.splits)
    }
    for split, count in counts.items():
        if lacking := [name for name, number in zip(names, count, strict=True) if not number]:
            found.append(
                Finding(
                    kind="missing-class",
                    level="problem",
                    title=f"the split {split} has no images of: {shortened(lacking)}",
                    advice="Its score says nothing about these classes. Move some images there.",
                )
            )
    training = counts["train" if "train" in counts else "all"]
    few = [f"{names[i]} ({training[i]})" for i in np.flatnonzero(training < FEW_IMAGES)]
    if few:
        found.append(
            Finding(
                kind="few-images",
                level="notice",
                title=f"classes with fewer than {FEW_IMAGES} training images: {shortened(few)}",
                advice="A network can hardly learn them, and their scores are chance.",
            )
        )
    smallest, largest = int(training.argmin()), int(training.argmax())
    if training[largest] >= UNBALANCED * max(int(training[smallest]), 1):
        found.append(
            Finding(
                kind="imbalance",
                level="notice",
                title=f"unbalanced: {training[largest]:,} training images of {names[largest]}, "
                f"{training[smallest]:,} of {names[smallest]}",
                advice="Read the balanced accuracy: always answering the largest class is right "
                f"for {training[largest] / training.sum():.0%} of the images.",
            )
        )
    return found


def _plain(name: str) -> str:
    """Return a name without what eyes overlook: case, form of letters, spaces, - and _."""
    words = normalize("NFKC", normalize("NFKC", name).casefold())
    return "".join(letter for letter in words if letter not in " -_\u200b\u00ad\t")
