"""Find the scale of wide pixels over a sample of the training files, and whether contrast is left.

The sample is evenly spaced, so the same files give the same scale.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset import DataSet, ImageFiles, Split
from resnets.data.decode import DecodeError, Piece, sample_values
from resnets.data.sources.source_config import SourceConfig
from resnets.data.wide_pixels import DEPTHS, KINDS, SCALED_BY_DEPTH, WORDS, PixelRange, described
from resnets.errors import UserError

# Most files in a sample of wide pixels, the fewest, and the pixels that it reads in between.
MOST_FILES, FEWEST_FILES, MOST_PIXELS = 64, 8, 2**26
# Shares in percent that are cut off at each end: the first that leaves enough levels.
TAILS = (0.1, 0.01, 0.001, 0.0)
LEVELS = 256
# Values of pixels without data in maps, and below which there is no other value.
FILLS, LOWEST_FILL = (-9999, -99999, -32767, -32768), -1e30
# Most files whose contrast is measured, the fewest, and the pixels that it reads in between.
LOOKED_AT, FEWEST_LOOKED_AT, MOST_LOOKED_AT = 16, 4, 2**23
# Contrast is nearly gone where a set spreads over fewer of 256 levels, or an image over so many.
FEW_LEVELS, ONE_COLOUR = 16, 3
# Share of images of nearly one colour from which there is a notice.
MANY = 0.25


def with_pixel_range(data: DataSet, config: SourceConfig) -> DataSet:
    """Return the set with the scale of its wide pixels, and notices on it and on the contrast."""
    training = data.splits["train" if "train" in data.splits else "all"]
    if isinstance(training, ImageFiles) and (wide := _wide_of(data.splits.values())):
        pixel_range = config.given_range() or _found_range(training, wide, config)
        data = scaled(data, pixel_range)
        training = data.splits["train" if "train" in data.splits else "all"]
    elif config.pixel_range != "auto":
        notice = f"--pixel-range {config.pixel_range}: all images have 8 bits and stay as they are"
        data = replace(data, notices=(*data.notices, notice))
    return replace(data, notices=(*data.notices, *_contrast(training, "training images")))


def with_known_range(data: DataSet, pixel_range: PixelRange | None) -> DataSet:
    """Return the set with the scale of a model or an earlier run, and notices.

    Raises UserError where there is none, and the depth of the pixels does not tell it.
    """
    if not _wide_of(data.splits.values()):
        return data
    data = scaled(data, pixel_range)
    split = next(iter(data.splits.values()))
    return replace(data, notices=(*data.notices, *_contrast(split, "images")))


def scaled(data: DataSet, pixel_range: PixelRange | None) -> DataSet:
    """Return the set with this scale of wide pixels, and a notice of it.

    Raises UserError where there is none, and the depth of the pixels does not tell it.
    """
    wide = _wide_of(data.splits.values())
    if not wide:
        return data
    strange = sorted(set(wide) - SCALED_BY_DEPTH)
    if pixel_range is None and strange:
        raise UserError(
            f"{data.name} has images of {WORDS[strange[0]]} pixels, and the model was trained on "
            "8-bit images: what is black and white in them is not known; save them with 8 bits"
        )
    splits = {
        name: replace(split, pixel_range=pixel_range) if isinstance(split, ImageFiles) else split
        for name, split in data.splits.items()
    }
    notice = _notice(data, wide, pixel_range)
    return replace(data, splits=splits, notices=(*data.notices, notice))


def _wide_of(splits: Iterable[Split]) -> dict[str, int]:
    """Return how many files have each kind of wide pixels."""
    counts = np.zeros(len(KINDS), np.int64)
    for split in splits:
        if isinstance(split, ImageFiles) and split.depths is not None:
            counts += np.bincount(split.depths, minlength=len(KINDS))
    return {kind: int(n) for kind, n in zip(KINDS, counts, strict=True) if n and kind != "uint8"}


def _found_range(training: ImageFiles, wide: dict[str, int], config: SourceConfig) -> PixelRange:
    """Return the range of the format, or the one that the training files use."""
    kinds = list(wide)
    if config.pixel_range == "full":
        if len(kinds) > 1:
            words = " and ".join(WORDS[kind] for kind in kinds)
            raise UserError(f"--pixel-range full: there are {words} images; give LOW,HIGH")
        return DEPTHS[kinds[0]]
    depths = training.depths
    places = np.flatnonzero(depths) if depths is not None else np.arange(0)
    values = [sample for sample in _samples(training, places) if len(sample)]
    if not values:  # the training files have 8 bits, or cannot be read
        return DEPTHS[kinds[0]]
    return measured(np.concatenate(values), whole="float32" not in wide)


def _samples(training: ImageFiles, places: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Yield values of evenly spaced ones of these files; of what cannot be read there are none."""
    if not len(places):
        return
    pixels = training.sizes[places].astype(np.int64).prod(axis=1).mean()
    count = int(np.clip(MOST_PIXELS // max(1, pixels), FEWEST_FILES, MOST_FILES))
    with ThreadPoolExecutor(training.files.num_readers) as pool:
        yield from pool.map(lambda place: _values(training, place), _spaced(places, count))


def _values(training: ImageFiles, place: int) -> NDArray[np.float64]:
    try:
        return sample_values(training.files[place], max_pixels=training.max_pixels)
    except DecodeError:
        return np.empty(0)


def measured(values: NDArray[np.float64], *, whole: bool) -> PixelRange:
    """Return the range that the values use, without rare outliers.

    Where the values have 256 levels or more, so has the range. `whole` numbers stay whole.
    """
    values = _without_fill(values)
    levels = np.unique(values)
    needed = LEVELS if len(levels) >= LEVELS else 1
    for tail in TAILS:
        low, high = map(float, np.percentile(values, (tail, 100 - tail)))
        inside = np.count_nonzero((levels >= low) & (levels <= high))
        if high > low and inside >= needed:
            break
    if high <= low:  # all of one value
        return low, low + max(1.0, abs(low))
    return (float(np.floor(low)), float(np.ceil(high))) if whole else (low, high)


def _without_fill(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out the usual mark of pixels without data, where it is far below all others."""
    fill = values.min()
    rest = values[values > fill]
    marked = fill in FILLS or fill < LOWEST_FILL
    return rest if marked and len(rest) and rest.min() - fill > np.ptp(rest) else values


def _notice(data: DataSet, wide: dict[str, int], pixel_range: PixelRange | None) -> str:
    """Describe the scale, as "16-bit: 312..3,480 -> 0..255"."""
    words = " and ".join(WORDS[kind] for kind in wide)
    if pixel_range is None:
        return f"{words}: the whole depth -> 0..255, since the model was trained on 8-bit images"
    text = f"{words}: {described(pixel_range)}"
    total, number = sum(map(len, data.splits.values())), sum(wide.values())
    if number < total:
        text += f" in {number:,} of {total:,} images; the others have 8 bits and stay as they are"
    if len(wide) > 1:
        text += "; one scale for all, so check that they mean the same, or convert them"
    return text


@dataclass(frozen=True)
class _Spread:
    """The grey levels that a sample of images uses: of each image, and of all."""

    images: NDArray[np.float64]
    low: float
    high: float


def _contrast(split: Split, what: str) -> list[str]:
    """Return a notice where images are nearly of one colour."""
    found = _spread(split)
    if found is None:
        return []
    advice = "look at them, and see --pixel-range in the documentation"
    if found.high - found.low < FEW_LEVELS:
        used = f"levels {found.low:.0f} to {found.high:.0f} of 0..255"
        return [f"contrast is nearly gone: the {what} use the {used}; {advice}"]
    blank = int((found.images <= ONE_COLOUR).sum())
    if blank < MANY * len(found.images):
        return []
    return [
        f"contrast is nearly gone: {blank} of {len(found.images)} {what} in a sample are "
        f"nearly of one colour; {advice}"
    ]


def _spread(training: Split) -> _Spread | None:
    """Look at evenly spaced images, fewer where they are large."""
    sizes = training.sizes.astype(np.int64).prod(axis=1)
    places = np.flatnonzero(sizes <= MOST_LOOKED_AT // 4)
    if not len(places):
        places = np.arange(len(sizes))
    count = int(np.clip(MOST_LOOKED_AT // sizes[places].mean(), FEWEST_LOOKED_AT, LOOKED_AT))
    seen: list[NDArray[Any]] = []
    for place in _spaced(places, count):
        try:
            seen.append(training.read(place, training.channels, Piece(0, 0, 1, 1, side=128)))
        except DecodeError:
            continue
    if not seen:
        return None
    ends = [np.percentile(image, (0.1, 99.9)) for image in seen]
    lows, highs = np.array(ends).T
    return _Spread(highs - lows, float(lows.min()), float(highs.max()))


def _spaced(places: NDArray[np.int64], count: int) -> list[int]:
    """Return at most so many of the places, evenly spaced."""
    if len(places) <= count:
        return [int(place) for place in places]
    return [int(places[at]) for at in np.linspace(0, len(places) - 1, count).round().astype(int)]
