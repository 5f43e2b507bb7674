"""Provide augmentation of whole batches, every draw keyed by (seed, epoch, sample index).

Parameters are drawn by numpy for the whole batch; pixels are moved by one gather or matrix product
on the images' device. Images are N C H W uint8, after `erase` and `mix_batch` float32.

Papers: random resized crop (Szegedy et al., "Going deeper with convolutions", 2015), Random Erasing
(Zhong et al., 2017), mixup (Zhang et al., 2018), CutMix (Yun et al., 2019), RandAugment (Cubuk et
al., 2020), TrivialAugment (Müller and Hutter, 2021).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnets.data.augment_config import Augment as Augment
from resnets.data.rng import Draw, Keys, hashes, keys, uniforms
from resnets.data.transforms import to_device

Floats = NDArray[np.float64]

CROP_ASPECT = (3 / 4, 4 / 3)  # width / height, in pixels
ERASE_AREA = (0.02, 0.4)
ERASE_ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10


def boxes(
    keys: Keys,
    first_draw: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    image_aspect: float | Floats = 1.0,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw rectangles with uniform area and log-uniform aspect (width / height in pixels).

    torchvision draws in this way. Returned are top, left, height and width as shares of the image,
    4 N, and whether one of ten attempts fits, N; the other rectangles are undefined.
    """
    share, shape, row, column = (
        uniforms(keys[:, None], first_draw + number * ATTEMPTS + np.arange(ATTEMPTS))  # N 10
        for number in range(4)
    )
    share = area[0] + (area[1] - area[0]) * share
    low, high = np.log(aspect)
    shape = np.exp(low + (high - low) * shape) / np.reshape(image_aspect, (-1, 1))
    height, width = np.sqrt(share / shape), np.sqrt(share * shape)
    fits = (height <= 1) & (width <= 1)
    chosen = np.arange(len(keys)), fits.argmax(axis=1)
    height, width = height[chosen], width[chosen]
    top, left = row[chosen] * (1 - height), column[chosen] * (1 - width)
    return np.stack([top, left, height, width]), fits.any(axis=1)


def crop_boxes(keys: Keys, *, min_area: float, image_aspect: float | Floats) -> Floats:
    """Return the boxes of random resized crops, 4 N; the largest in the centre where none fits."""
    found, fits = boxes(
        keys, Draw.CROP_BOX, area=(min_area, 1), aspect=CROP_ASPECT, image_aspect=image_aspect
    )
    aspect = np.broadcast_to(np.asarray(image_aspect, dtype=np.float64), keys.shape)
    height = np.minimum(1, aspect / CROP_ASPECT[0])
    width = np.minimum(1, CROP_ASPECT[1] / aspect)
    centre = np.stack([(1 - height) / 2, (1 - width) / 2, height, width])
    return np.where(fits, found, centre)


def flips(
    flip: str, *, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which samples are mirrored, N: half of them in every epoch.

    "alternating" (Jordan, arXiv 2404.00498, section 3.6) draws once and then mirrors every image in
    every other epoch.
    """
    if flip == "none":
        return np.zeros(len(indices), dtype=np.bool_)
    alternates = flip == "alternating"
    drawn = uniforms(keys(seed, 0 if alternates else epochs, indices), Draw.FLIP) < 0.5
    mirrored: NDArray[np.bool_] = drawn ^ (alternates & (epochs % 2 == 1))
    return mirrored


def shift_and_flip(
    images: Tensor, keys: Keys, augment: Augment, *, mirrored: NDArray[np.bool_]
) -> Tensor:
    """Shift each image by up to `crop_padding` pixels and mirror some, in one gather."""
    if augment.crop != "shift" and augment.flip == "none":
        return images
    N, C, H, W = images.shape
    pad, device = augment.padding, images.device
    # The place of each row and column of the result in the image with `pad` pixels around it.
    rows, columns = (  # N H, N W
        (uniforms(keys, draw) * (2 * pad + 1)).astype(np.int64)[:, None] + np.arange(side)
        for draw, side in ((Draw.SHIFT_ROW, H), (Draw.SHIFT_COLUMN, W))
    )
    if augment.fill == "reflect":  # the padding is the image itself, so it need not be made
        rows, columns = mirror(rows - pad, H), mirror(columns - pad, W)
    else:
        images = F.pad(images, (pad,) * 4)  # black, since these are bytes
    columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    rows = rows * images.shape[3]
    down, right = (to_device(torch.from_numpy(places), device) for places in (rows, columns))
    where = (down[:, :, None] + right[:, None]).view(N, 1, H * W).expand(N, C, H * W)
    return images.flatten(2).gather(2, where).view(N, C, H, W)


def mirror(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Mirror places beyond the first and last pixel at these pixels' centres."""
    inner: NDArray[np.int64] = size - 1 - np.abs(size - 1 - np.abs(places))
    return inner


def resample(start: Floats, length: Floats, *, source: int, size: int) -> Tensor:
    """Return the weights N size source of an antialiased resize of [start, start + length).

    The triangle filter of PIL and torch: as wide as one output pixel when shrinking, as one
    input pixel when enlarging. Start and length are in input pixels.
    """
    scale = length[:, None] / size  # N 1
    centres = start[:, None] + (np.arange(size) + 0.5) * scale - 0.5  # N size
    distance = np.arange(source, dtype=np.float32) - centres.astype(np.float32)[:, :, None]
    reach = np.maximum(scale, 1).astype(np.float32)[:, :, None]
    weights = np.maximum(1 - np.abs(distance) / reach, 0)  # N size source
    return torch.from_numpy(weights / weights.sum(axis=2, keepdims=True))


def resized_crop(images: Tensor, box: Floats, *, size: int, mirrored: NDArray[np.bool_]) -> Tensor:
    """Crop a box (4 N, shares of the image) from each image, resize it to size, mirror some.

    The filter is separable, so it is a product of matrices: rows @ image @ columns.
    """
    N, C, H, W = images.shape
    top, left, height, width = box
    rows = to_device(resample(top * H, height * H, source=H, size=size), images.device)  # N S H
    columns = resample(left * W, width * W, source=W, size=size)  # N S W
    columns = torch.where(torch.from_numpy(mirrored)[:, None, None], columns.flip(1), columns)
    across = to_device(columns, images.device).transpose(1, 2)  # N W S
    narrow = (images.float().view(N, C * H, W) @ across).view(N, C, H, size)
    return (rows[:, None] @ narrow).add_(0.5).to(torch.uint8)  # N C S S


def apply_auto_augment(images: Tensor, keys: Keys, policy: str) -> Tensor:
    """Apply torchvision's RandAugment or TrivialAugment to each image, with a seed of its own.

    torchvision draws from torch's global CPU generator only; its state is restored.
    """
    if policy == "none":
        return images
    from torchvision.transforms import InterpolationMode, v2

    policies = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
    transform = policies[policy](interpolation=InterpolationMode.BILINEAR)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, hashes(keys, Draw.POLICY).tolist(), strict=True):
            torch.default_generator.manual_seed(seed)
            changed.append(transform(image))
    return torch.stack(changed)


def erase(images: Tensor, keys: Keys, probability: float) -> Tensor:
    """Apply Random Erasing to normalised images: a rectangle becomes 0, the mean colour.

    Differs from the paper: the aspect is log-uniform, so that wide and tall are equally likely.
    """
    if probability == 0:
        return images
    H, W = images.shape[2:]
    (top, left, height, width), fits = boxes(
        keys, Draw.ERASE_BOX, area=ERASE_AREA, aspect=ERASE_ASPECT, image_aspect=W / H
    )
    chosen = fits & (uniforms(keys, Draw.ERASE) < probability)
    rows = inside(top, height, H) & chosen[:, None]
    hidden = rows[:, :, None] & inside(left, width, W)[:, None]
    return images.masked_fill(to_device(torch.from_numpy(hidden), images.device)[:, None], 0)


def inside(start: Floats, length: Floats, size: int) -> NDArray[np.bool_]:
    """Return which of `size` pixels have their centre in [start, start + length), N size."""
    centres = (np.arange(size) + 0.5) / size
    past = centres - start[:, None]
    return (past >= 0) & (past < length[:, None])


def with_partners(
    places: NDArray[np.int64], *, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Insert before each run of places of a batch the neighbour that its first is mixed with.

    Also return which places are the caller's own. A whole batch has every neighbour.
    """
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    if len(places) == batch_size:
        begins = begins[:0]
    own = np.insert(np.ones(len(places), dtype=np.bool_), begins, False)
    return np.insert(places, begins, (places[begins] - 1) % batch_size), own


def mix_batch(
    images: Tensor, targets: Tensor, keys: Keys, *, augment: Augment, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Apply mixup or CutMix to each image and its neighbour; targets become shares N K.

    A batch has one strength and one rectangle, as in both papers, keyed by its first sample.
    """
    key = keys[:1]
    both = augment.mixup > 0 and augment.cutmix > 0
    cut = augment.mixup == 0 or (both and float(uniforms(key, Draw.MIX_CHOICE)[0]) < 0.5)
    alpha = augment.cutmix if cut else augment.mixup
    # A generator of its own, seeded by a keyed draw.
    generator = np.random.Generator(np.random.Philox(key=int(hashes(key, Draw.MIX_STRENGTH)[0])))
    kept = float(generator.beta(alpha, alpha))
    partner = images.roll(1, 0)
    if cut:
        images, kept = paste(images, partner, key, kept)
    else:
        images = torch.lerp(partner, images, kept)
    shares = F.one_hot(targets, num_classes).float()
    return images, torch.lerp(shares.roll(1, 0), shares, kept)


def paste(images: Tensor, partner: Tensor, key: Keys, kept: float) -> tuple[Tensor, float]:
    """Paste a rectangle of area 1 - kept, its centre anywhere; also return the share kept."""
    H, W = images.shape[2:]
    half = np.sqrt(1 - kept) / 2
    row, column = (float(uniforms(key, d)[0]) for d in (Draw.MIX_ROW, Draw.MIX_COLUMN))
    top, bottom = (int(np.clip(round((row + d) * H), 0, H)) for d in (-half, half))
    left, right = (int(np.clip(round((column + d) * W), 0, W)) for d in (-half, half))
    images = images.clone()
    images[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (H * W)
