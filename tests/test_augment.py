"""Compare augmentation with the published generator, plain loops, torch and torchvision."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from resnets.data.augment import (
    CROP_ASPECT,
    ERASE_AREA,
    ERASE_ASPECT,
    Augment,
    apply_auto_augment,
    boxes,
    crop_boxes,
    erase,
    flips,
    keys,
    mix_batch,
    resized_crop,
    shift_and_flip,
    uniforms,
)
from resnets.data.rng import MASK, Draw, hashes, permutation
from resnets.errors import UserError

MANY = 20_000
FIVE_SIGMA = 5.0
ONE_GREY_LEVEL = 1


def keys_of(count: int, *, seed: int = 7, epoch: int = 0) -> NDArray[np.uint64]:
    return keys(seed, epoch, np.arange(count))


def noise(*shape: int) -> Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


# --- draws


def test_hash_is_splitmix64_as_published() -> None:
    start = np.array([1234567], dtype=np.uint64)  # the usual test vector of SplitMix64
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(hashes(start, draw)[0]) for draw in range(3)] == published


def test_keys_equal_plain_integer_arithmetic() -> None:
    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def key(seed: int, epoch: int, index: int) -> int:
        state = 0
        for number in (seed, epoch, index):
            state = mixed((state + number + 0x9E3779B97F4A7C15) & MASK)
        return state

    for seed, epoch in ((0, 0), (5, 3), (-1, 2**40)):
        found = keys(seed, epoch, np.arange(4))
        assert found.tolist() == [key(seed, epoch, index) for index in range(4)]
    several = keys(5, np.array([3, 4]), np.array([0, 9]))
    assert several.tolist() == [key(5, 3, 0), key(5, 4, 9)]


def test_no_key_comes_twice() -> None:
    found = [keys_of(2000, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(5)]
    assert len(np.unique(np.concatenate(found))) == 30_000


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    now = keys_of(MANY)
    rows = [uniforms(now, draw) for draw in (0, 1, 2)]
    rows += [uniforms(keys_of(MANY, epoch=1), 1), uniforms(keys_of(MANY, seed=8), 1)]
    rows += [np.roll(rows[1], 1)]  # the neighbour's
    numbers = np.stack(rows)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(axis=1) - 0.5).max() < FIVE_SIGMA * np.sqrt(1 / 12 / MANY)
    correlation = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(correlation).max() < FIVE_SIGMA / np.sqrt(MANY)
    counts = np.stack([np.bincount((row * 100).astype(int), minlength=100) for row in numbers])
    chi_squared = ((counts - MANY / 100) ** 2 / (MANY / 100)).sum(axis=1)
    assert (np.abs(chi_squared - 99) < FIVE_SIGMA * np.sqrt(2 * 99)).all()


def test_permutation_is_one_and_uniform() -> None:
    orders = np.stack([permutation(1, epoch, 50) for epoch in range(400)])
    assert (np.sort(orders, axis=1) == np.arange(50)).all()
    assert len(np.unique(orders, axis=0)) == 400
    assert np.abs(orders.mean(axis=0) - 24.5).max() < FIVE_SIGMA * np.sqrt(50**2 / 12 / 400)


# --- shift and flip


@pytest.mark.parametrize("fill", ["zero", "reflect"])
@pytest.mark.parametrize("flip", ["none", "random"])
def test_shift_equals_a_plain_loop(fill: str, flip: str) -> None:
    images, pad = noise(40, 3, 9, 7), 3
    augment = Augment(crop="shift", crop_padding=pad, fill=fill, flip=flip)  # type: ignore[arg-type]
    mirrored = half(40) if flip == "random" else np.zeros(40, dtype=np.bool_)
    found = shift_and_flip(images, keys_of(40), augment, mirrored=mirrored)
    rows, columns = (uniforms(keys_of(40), d) for d in (Draw.SHIFT_ROW, Draw.SHIFT_COLUMN))
    mode = {"zero": "constant", "reflect": "reflect"}[fill]
    for n in range(40):
        padded = np.pad(images[n].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode=mode)  # type: ignore[call-overload]
        top, left = int(rows[n] * 7), int(columns[n] * 7)
        expected = padded[:, top : top + 9, left : left + 7]
        if mirrored[n]:
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(found[n].numpy(), expected)
    assert {int(r * 7) for r in rows} == set(range(7))


def test_flip_equals_torch() -> None:
    images = noise(64, 1, 5, 6)
    found = shift_and_flip(images, keys_of(64), Augment(flip="random"), mirrored=half(64))
    mirrored = torch.from_numpy(half(64))
    assert torch.equal(found[mirrored], torch.flip(images[mirrored], dims=(3,)))
    assert torch.equal(found[~mirrored], images[~mirrored])


def test_flips_are_half_of_the_images_and_drawn_again_each_epoch() -> None:
    first, second = flips_of("random", 0), flips_of("random", 1)
    for drawn in (first, second, first ^ second):
        assert abs(drawn.mean() - 0.5) < FIVE_SIGMA * 0.5 / np.sqrt(len(drawn))
    assert not flips_of("none", 0).any()


def test_alternating_flips_show_both_ways_in_two_epochs() -> None:
    first = flips_of("alternating", 0)
    assert abs(first.mean() - 0.5) < FIVE_SIGMA * 0.5 / np.sqrt(len(first))
    np.testing.assert_array_equal(flips_of("alternating", 1), ~first)
    np.testing.assert_array_equal(flips_of("alternating", 2), first)


def flips_of(flip: str, epoch: int) -> NDArray[np.bool_]:
    indices = np.arange(4000)
    epochs = np.full_like(indices, epoch)
    return flips(flip, seed=1, epochs=epochs, indices=indices)  # type: ignore[arg-type]


def half(count: int) -> NDArray[np.bool_]:
    """Every other one, beginning with the second."""
    return np.arange(count) % 2 == 1


def test_nothing_asked_nothing_done() -> None:
    images = noise(4, 3, 5, 5)
    assert shift_and_flip(images, keys_of(4), Augment(), mirrored=half(4)) is images
    assert apply_auto_augment(images, keys_of(4), "none") is images
    assert erase(images, keys_of(4), 0.0) is images


# --- random resized crop


@pytest.mark.parametrize("source", [40, 24])  # shrinking and enlarging
def test_full_box_equals_interpolate(source: int) -> None:
    images, none = noise(3, 3, source, source), np.zeros(3, dtype=np.bool_)
    box = crop_boxes(keys_of(3), min_area=1.0, image_aspect=1.0)
    np.testing.assert_allclose(box, np.array([0, 0, 1, 1])[:, None] * np.ones(3), atol=1e-12)
    found = resized_crop(images, box, size=32, mirrored=none).int()
    expected = F.interpolate(images.float(), (32, 32), mode="bilinear", antialias=True).round()
    assert (found - expected).abs().max() <= ONE_GREY_LEVEL
    assert torch.equal(resized_crop(images, box, size=source, mirrored=none), images)


def test_inner_box_equals_torchvision_away_from_its_edge() -> None:
    images = noise(1, 3, 60, 60)
    box = np.array([10, 6, 40, 30])[:, None] / 60
    found = resized_crop(images, box, size=16, mirrored=np.array([False])).int()
    expected = v2.functional.resized_crop(images, 10, 6, 40, 30, [16, 16], antialias=True).int()
    # torchvision cuts first, so its filter sees nothing beyond the edge of the box.
    assert (found - expected)[:, :, 1:-1, 1:-1].abs().max() <= ONE_GREY_LEVEL
    mirrored = resized_crop(images, box, size=16, mirrored=np.array([True])).int()
    assert torch.equal(mirrored, found.flip(3))


@pytest.mark.parametrize("size", [(48, 64), (200, 40)])  # the second: hardly any box fits
def test_boxes_follow_torchvisions_law(size: tuple[int, int]) -> None:
    H, W = size
    top, left, height, width = crop_boxes(keys_of(4000), min_area=0.35, image_aspect=W / H)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-12).all()
    assert (left + width <= 1 + 1e-12).all()
    image = torch.zeros(1, 1, 1).expand(1, 10 * H, 10 * W)  # so large that rounding is nothing
    crop = v2.RandomResizedCrop(8, scale=(0.35, 1), ratio=CROP_ASPECT)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [list(crop.make_params([image]).values()) for _ in range(4000)]
    reference = np.array(drawn) / (10 * H, 10 * W, 10 * H, 10 * W)
    for ours, theirs in zip((top, left, height, width), reference.T, strict=True):
        spread = np.sqrt((ours.var() + theirs.var()) / 4000) + 2e-3
        assert abs(ours.mean() - theirs.mean()) < FIVE_SIGMA * spread
        assert abs(ours.std() - theirs.std()) < 0.02


# --- erasing


def test_erasing_hides_rectangles_of_the_papers_size() -> None:
    count, size = 2000, 40
    images = torch.rand(count, 2, size, size) + 1
    found = erase(images, keys_of(count), 0.4)
    hidden = found == 0
    assert torch.equal(found[~hidden], images[~hidden])
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    erased = hidden[:, 0].flatten(1).any(1)
    assert abs(erased.float().mean().item() - 0.4) < FIVE_SIGMA * np.sqrt(0.4 * 0.6 / count)
    heights = hidden[erased, 0].any(2).sum(1).numpy()
    widths = hidden[erased, 0].any(1).sum(1).numpy()
    areas = hidden[erased, 0].flatten(1).sum(1).numpy()
    np.testing.assert_array_equal(areas, heights * widths)  # rectangles, nothing else
    one_pixel = 1.0
    assert ((heights - one_pixel) * (widths - one_pixel) <= ERASE_AREA[1] * size**2).all()
    assert ((heights + one_pixel) * (widths + one_pixel) >= ERASE_AREA[0] * size**2).all()
    assert ((widths - one_pixel) / (heights + one_pixel) <= ERASE_ASPECT[1]).all()
    assert ((widths + one_pixel) / (heights - one_pixel).clip(1e-9) >= ERASE_ASPECT[0]).all()
    assert abs(np.log(widths / heights).mean()) < 0.1  # wide and tall alike
    assert 0.18 < areas.mean() / size**2 < 0.22  # uniform from 2 % to 40 %, a few do not fit


def test_boxes_say_which_do_not_fit() -> None:
    _, fits = boxes(keys_of(50), Draw.ERASE_BOX, area=(0.9, 1), aspect=(9, 10))
    assert not fits.any()


# --- mixup and CutMix


def mixed(count: int, augment: Augment, *, epoch: int) -> tuple[Tensor, Tensor]:
    """Images of the constant n + 1 with targets n, so that shares can be read off."""
    images = torch.arange(1, count + 1.0).view(-1, 1, 1, 1).expand(count, 1, 20, 20)
    now = keys_of(count, epoch=epoch)
    return mix_batch(images, torch.arange(count), now, augment=augment, num_classes=count)


def test_mixup_mixes_images_as_targets() -> None:
    kept = []
    for epoch in range(300):
        images, targets = mixed(5, Augment(mixup=1.0), epoch=epoch)
        torch.testing.assert_close(targets.sum(1), torch.ones(5))
        expected = targets @ torch.arange(1, 6.0)
        torch.testing.assert_close(images, expected.view(-1, 1, 1, 1).expand_as(images))
        kept.append(targets[0, 0].item())
        assert targets[0, 4].item() == pytest.approx(1 - kept[-1], abs=1e-6)
    assert abs(np.mean(kept) - 0.5) < FIVE_SIGMA * np.sqrt(1 / 12 / 300)  # Beta(1, 1) is uniform
    assert abs(np.var(kept) - 1 / 12) < 0.02


def test_cutmix_counts_its_pixels() -> None:
    shares = []
    for epoch in range(300):
        images, targets = mixed(4, Augment(cutmix=1.0), epoch=epoch)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        own = images == torch.arange(1, 5.0).view(-1, 1, 1, 1)
        other = images == torch.arange(1, 5.0).roll(1).view(-1, 1, 1, 1)
        assert (own | other).all()
        torch.testing.assert_close(own.float().mean((1, 2, 3)), targets.diagonal())
        outside = ~own[0, 0]
        assert int(outside.sum()) == int(outside.any(0).sum()) * int(outside.any(1).sum())
        shares.append(targets[0, 0].item())
    assert min(shares) < 0.3
    assert max(shares) == 1.0 or max(shares) > 0.95


def test_both_take_turns_by_batch() -> None:
    cut = []
    for epoch in range(200):
        images, _ = mixed(4, Augment(mixup=1.0, cutmix=1.0), epoch=epoch)
        cut.append(bool((images == images.round()).all()))
    assert abs(np.mean(cut) - 0.5) < FIVE_SIGMA * np.sqrt(0.25 / 200)


def test_a_batch_of_one_mixes_with_itself() -> None:
    for augment in (Augment(mixup=0.2), Augment(cutmix=1.0)):
        images, targets = mixed(1, augment, epoch=0)
        torch.testing.assert_close(images, torch.ones(1, 1, 20, 20))
        torch.testing.assert_close(targets, torch.ones(1, 1))


# --- policies


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policy_equals_torchvision_under_the_same_seed(policy: str, channels: int) -> None:
    images, now = noise(12, channels, 16, 16), keys_of(12)
    found = apply_auto_augment(images, now, policy)  # type: ignore[arg-type]
    assert found.dtype == torch.uint8
    assert not torch.equal(found, images)
    transform = {
        "randaugment": v2.RandAugment(2, 9, interpolation=InterpolationMode.BILINEAR),
        "trivialaugment": v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
    }[policy]
    for n in range(12):
        with torch.random.fork_rng():
            torch.manual_seed(int(hashes(now[n], Draw.POLICY)))
            assert torch.equal(found[n], transform(images[n]))


def test_no_global_generator_is_touched() -> None:
    images, now = noise(8, 3, 16, 16), keys_of(8)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    everything = Augment(crop="shift", crop_padding=2, flip="random", mixup=1.0, cutmix=1.0)
    first = apply_auto_augment(
        shift_and_flip(images, now, everything, mirrored=half(8)), now, "trivialaugment"
    )
    mix_batch(
        first.float(), torch.zeros(8, dtype=torch.long), now, augment=everything, num_classes=2
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index,union-attr]
    assert random.getstate() == before[2]
    torch.rand(5)  # and what it holds does not matter
    assert torch.equal(
        first,
        apply_auto_augment(
            shift_and_flip(images, now, everything, mirrored=half(8)), now, "trivialaugment"
        ),
    )


# --- what is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crop": "resize"}, "unknown --crop 'resize'; did you mean 'resized'"),
        ({"auto_augment": "rand"}, "unknown --auto-augment"),
        ({"crop": "shift", "crop_padding": 0}, "needs at least 1 pixel"),
        ({"crop": "shift", "crop_padding": -1}, "--crop-padding -1"),
        ({"min_area": 0.0}, "--min-area 0.0: must be between 0.01 and 1"),
        ({"erasing": 1.5}, "--erasing 1.5"),
        ({"mixup": -0.1}, "--mixup -0.1"),
        ({"cutmix": float("nan")}, "--cutmix nan"),
    ],
)
def test_wrong_values_are_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        Augment(**given)  # type: ignore[arg-type]
