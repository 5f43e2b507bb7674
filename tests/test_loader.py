"""Test batches: every image once an epoch, from any step and with any number of workers."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import multiprocessing
import os
import pickle
import random
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.nn import functional as F
from torchvision.transforms import v2

from resnets.data.augment import Augment, crop_boxes, flips, keys
from resnets.data.dataset import ImageFiles, Images
from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.loader import Batch, EvalLoader, TrainLoader, TrainReader, channel_statistics
from resnets.data.rng import permutation
from resnets.data.transforms import Preprocess
from resnets.data.workers import hide_broken_connection
from resnets.errors import UserError
from some_ranks import loaded_server

ALL_ON = Augment(
    crop="shift",
    crop_padding=2,
    flip="random",
    erasing=0.5,
    mixup=0.4,
    cutmix=1.0,
    auto_augment="randaugment",
)
ALL_ON_RESIZED = dataclasses.replace(
    ALL_ON, crop="resized", crop_padding=0, auto_augment="trivialaugment"
)
TO_16 = Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
STREAMED: dict[str, Any] = {"cache_mb": 0}
CACHED: dict[str, Any] = {"cache_mb": 1024}
posix = pytest.mark.skipif(os.name != "posix", reason="sends signals to a group of processes")
WORKERS_END_WITHIN = 15.0  # seconds; torch's workers look for their parent every 5


def pixels_of(count: int, height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (count, height // 4, width // 4, channels), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def images(count: int, size: int = 16, channels: int = 3) -> Images:
    return Images(
        pixels=pixels_of(count, size, size, channels),
        targets=np.arange(count) % 3,
        ids=tuple(f"{n}" for n in range(count)),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A store of files in memory."""

    names: PackedStrings
    contents: tuple[bytes, ...]
    num_readers = 1

    def __getitem__(self, index: int) -> bytes:
        return self.contents[index]

    def subset(self, indices: Any) -> Contents:
        return Contents(self.names.subset(indices), tuple(self.contents[i] for i in indices))

    def stamps(self) -> np.ndarray[Any, Any]:
        return np.zeros((len(self.contents), 3), np.int64)


def files(count: int, folder: Path | None = None) -> ImageFiles:
    """PNGs of 24 x 20, in memory or in a folder."""
    encoded = []
    for n, pixels in enumerate(pixels_of(count, 20, 24)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
        if folder is not None:
            (folder / f"{n}.png").write_bytes(buffer.getvalue())
    names = PackedStrings.of(f"{n}.png" for n in range(count))
    return ImageFiles(
        files=FileStore(str(folder), names) if folder else Contents(names, tuple(encoded)),
        targets=np.arange(count) % 3,
        sizes=np.tile(np.array([24, 20], np.int32), (count, 1)),
        num_bytes=np.array([len(content) for content in encoded]),
        channels=3,
    )


def stream(part: Images | ImageFiles, **changes: Any) -> TrainLoader:
    settings: dict[str, Any] = {
        "preprocess": TO_16,
        "augment": Augment(),
        "num_classes": 3,
        "batch_size": 8,
        "seed": 1,
        "device": "cpu",
    }
    return TrainLoader(part, **(settings | changes))


def assert_same(found: Iterable[Batch], expected: Iterable[Batch]) -> None:
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.indices, other.indices)
        assert one.replaced == other.replaced


# --- order


@pytest.mark.parametrize("batch_size", [1, 4, 10, 25])
def test_every_image_once_an_epoch_in_keyed_order(batch_size: int) -> None:
    part = images(10)
    batches = list(stream(part, batch_size=batch_size).batches(0, -(-30 // batch_size)))
    assert [len(batch.images) for batch in batches] == [batch_size] * len(batches)
    shown = np.concatenate([batch.indices for batch in batches])[:30]
    expected = np.concatenate([permutation(1, epoch, 10) for epoch in range(3)])
    np.testing.assert_array_equal(shown, expected)
    for batch in batches:
        pixels = torch.from_numpy(part.pixels[batch.indices]).permute(0, 3, 1, 2)
        assert torch.equal(batch.images, TO_16.normalise(pixels))
        np.testing.assert_array_equal(batch.targets.numpy(), part.targets[batch.indices])
        assert batch.images.is_contiguous()
        assert batch.replaced == 0


def test_seeds_and_epochs_differ() -> None:
    part = images(8)
    ours = stream(part, augment=ALL_ON)
    first, second = ours.batches(0, 2)
    other = next(stream(part, augment=ALL_ON, seed=2).batches(0, 1))
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    assert not np.array_equal(first.indices, other.indices)


# --- a pure function of the step


@pytest.mark.parametrize("augment", [ALL_ON, ALL_ON_RESIZED], ids=["shift", "resized"])
@pytest.mark.parametrize("where", [STREAMED, CACHED], ids=["streamed", "cached"])
def test_any_start_and_any_number_of_workers(augment: Augment, where: dict[str, Any]) -> None:
    part = files(11)
    whole = list(stream(part, augment=augment, **where).batches(0, 7))
    assert whole[0].targets.shape == (8, 3)
    for workers in (0, 1, 2):
        ours = stream(part, augment=augment, workers=workers, **where)
        assert ours.cached == (where is CACHED)
        assert_same(ours.batches(3, 7), whole[3:])
        assert_same(ours.batches(0, 7), whole)
        next(ours.batches(5, 7))  # left half-way
        assert_same(ours.batches(6, 7), whole[6:])
        ours.close()


def test_cached_and_streamed_batches_are_one() -> None:
    part = files(11)
    assert_same(
        stream(part, augment=ALL_ON, **CACHED).batches(0, 4),
        stream(part, augment=ALL_ON, **STREAMED).batches(0, 4),
    )


def test_a_cached_crop_looks_like_a_streamed_one() -> None:
    """They share the boxes; the cached one is cut from a canvas, the other from the original."""
    part, augment = files(32), Augment(crop="resized", min_area=0.5, flip="random")
    cached, streamed = (
        next(stream(part, augment=augment, batch_size=32, **where).batches(0, 1)).images
        for where in (CACHED, STREAMED)
    )
    alike = F.cosine_similarity(cached.flatten(1), streamed.flatten(1))
    other = F.cosine_similarity(cached.flatten(1), streamed.roll(1, 0).flatten(1))
    assert alike.min() > 0.8
    assert other.max() < alike.min()


def test_no_global_generator_is_read_or_advanced() -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    part, batches = files(9), []
    for workers, where in ((0, CACHED), (0, STREAMED), (2, STREAMED)):
        torch.rand(3)
        before = states()
        ours = stream(part, augment=ALL_ON, workers=workers, **where)
        batches.append(list(ours.batches(0, 2)))
        list(EvalLoader(part, preprocess=TO_16, batch_size=4, device="cpu", workers=workers))
        channel_statistics(part, TO_16)
        assert states() == before
        ours.close()
    assert_same(batches[1], batches[0])
    assert_same(batches[2], batches[0])


def test_what_workers_receive_can_be_pickled() -> None:
    reader = TrainReader(files(5), TO_16, ALL_ON_RESIZED, seed=1)
    request = np.array([0, 1]), np.array([4, 2])
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy[request][0], reader[request][0])


def test_more_workers_than_cores_are_no_cause_for_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    ours = stream(files(9), workers=2, **STREAMED)
    assert_same(ours.batches(0, 1), stream(files(9), **STREAMED).batches(0, 1))
    ours.close()


def test_a_newer_call_ends_an_older_one() -> None:
    ours = stream(files(9), **STREAMED)
    older = ours.batches(0, 5)
    next(older)
    assert_same(ours.batches(1, 2), stream(files(9), **STREAMED).batches(1, 2))
    with pytest.raises(RuntimeError, match="newer call"):
        next(older)


def test_memory_stays_flat_over_epochs() -> None:
    to_4 = Preprocess(size=4)
    augment = Augment(flip="random", erasing=0.5, mixup=0.4)
    ours = stream(images(2000, 4), preprocess=to_4, augment=augment, batch_size=1000, **STREAMED)
    tracemalloc.start()
    try:
        early = memory_after(ours.batches(0, 6))
        late = memory_after(ours.batches(6, 30))
    finally:
        tracemalloc.stop()
    assert late - early < 60_000  # bytes; to keep the 12 new orders would take 192,000


def memory_after(batches: Iterable[Batch]) -> int:
    for _ in batches:
        pass
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# --- large photos


def large_jpegs(folder: Path, count: int) -> ImageFiles:
    for n, pixels in enumerate(pixels_of(count, 96, 128)):
        Image.fromarray(pixels).save(folder / f"{n}.jpg")
    return ImageFiles(
        files=FileStore(str(folder), PackedStrings.of(f"{n}.jpg" for n in range(count))),
        targets=np.arange(count) % 3,
        sizes=np.tile(np.array([128, 96], np.int32), (count, 1)),
        num_bytes=np.ones(count, np.int64),
        channels=3,
    )


def test_training_decodes_smaller_and_evaluation_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, sizes = large_jpegs(tmp_path, 8), []
    loaded = ImageFile.ImageFile.load

    def load(picture: Image.Image) -> Any:
        sizes.append(picture.size)
        return loaded(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    augment = Augment(crop="resized", min_area=0.5)
    next(stream(part, augment=augment, **STREAMED).batches(0, 1))
    assert set(sizes) <= {(64, 48), (32, 24)}  # 16 pixels fit four times into most boxes
    sizes.clear()
    list(EvalLoader(part, preprocess=TO_16, batch_size=8, device="cpu", **STREAMED))
    next(stream(part, **STREAMED).batches(0, 1))  # nor does training without random boxes
    assert set(sizes) == {(128, 96)}


def test_a_streamed_box_is_torchvisions(tmp_path: Path) -> None:
    """Where nothing is reduced, the same pixels as cutting and resizing the whole image."""
    part, to_64 = large_jpegs(tmp_path, 8), Preprocess(size=64)
    augment = Augment(crop="resized", min_area=0.3, flip="random")
    reader = TrainReader(part, to_64, augment, seed=3)
    epochs, indices = np.zeros(8, np.int64), np.arange(8)
    sample_keys = keys(3, epochs, indices)
    boxes = crop_boxes(sample_keys, min_area=0.3, image_aspect=128 / 96).T
    mirrored = flips("random", seed=3, epochs=epochs, indices=indices)
    for index, (box, mirror) in enumerate(zip(boxes, mirrored, strict=True)):
        whole = torch.from_numpy(part.read(index, 3)).permute(2, 0, 1)
        corners = np.rint(box * (96, 128, 96, 128)).astype(int).tolist()
        expected = v2.functional.resized_crop(whole, *corners, [64, 64])
        found = reader[epochs, indices][0][index]
        assert torch.equal(found, expected.flip(2) if mirror else expected)


# --- files that fail after indexing


@pytest.mark.parametrize("where", [STREAMED, CACHED], ids=["streamed", "cached"])
def test_a_lost_file_is_replaced_by_the_next(tmp_path: Path, where: dict[str, Any]) -> None:
    part = files(9, tmp_path)
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    (tmp_path / "8.png").write_bytes(b"no image")
    replacement = {3: 5, 4: 5, 8: 0}
    runs = []
    for workers in (0, 1, 2):
        ours = stream(part, augment=ALL_ON_RESIZED, workers=workers, **where)
        runs.append(list(ours.batches(0, 3)))
        ours.close()
    assert_same(runs[1], runs[0])
    assert_same(runs[2], runs[0])
    asked = np.concatenate([permutation(1, epoch, 9) for epoch in range(3)])[:24]
    expected = [replacement.get(index, index) for index in asked.tolist()]
    assert np.concatenate([batch.indices for batch in runs[0]]).tolist() == expected
    assert sum(batch.replaced for batch in runs[0]) == sum(i in replacement for i in asked)
    plain = next(stream(part, **where).batches(0, 1))
    np.testing.assert_array_equal(plain.targets.numpy(), part.targets[plain.indices])


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_file_is_one_clear_line(tmp_path: Path, workers: int) -> None:
    part = files(3, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    for where in (STREAMED, CACHED):
        with pytest.raises(UserError, match=r"^none of the images can be read.*$"):
            list(stream(part, workers=workers, **where).batches(0, 1))
        with pytest.raises(UserError, match="none of the images"):
            list(EvalLoader(part, preprocess=TO_16, batch_size=2, device="cpu", **where))


# --- worker processes


def children() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes in /proc")
def test_close_ends_the_workers() -> None:
    before = children()
    ours = stream(files(9), workers=2, **STREAMED)
    unfinished = ours.batches(0, 50)
    next(unfinished)
    assert len(children() - before) >= 2
    ours.close()
    end = time.monotonic() + WORKERS_END_WITHIN
    while children() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert children() <= before
    with pytest.raises(RuntimeError, match="close"):
        next(unfinished)
    assert_same(ours.batches(0, 1), stream(files(9)).batches(0, 1))  # and they can start again
    ours.close()


def read_endlessly(said: Connection, errors: Path) -> None:
    """Read batches from two workers as the first process of a group of its own."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of the workers: no second server
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    asked: list[int] = []

    def once(*_: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours = stream(files(9), workers=2, **STREAMED)
    for number, _ in enumerate(ours.batches(0, 10**9)):
        if number == 3:
            signal.signal(signal.SIGINT, once)
            said.send("ready")
        if asked and number == asked[0] + 50:
            said.send("still reading")


@dataclasses.dataclass(frozen=True)
class Endless:
    """A process that reads batches, what it says, and its standard error."""

    process: BaseProcess
    said: Connection
    errors: Path

    @property
    def group(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Endless]:
    """Such a process at work."""
    context = loaded_server()
    receiving, sending = context.Pipe(duplex=False)
    errors = tmp_path / "errors.txt"
    process = context.Process(target=read_endlessly, args=(sending, errors))
    process.start()
    try:
        assert receiving.recv() == "ready"
        yield Endless(process, receiving, errors)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


@posix
def test_interrupts_are_for_the_main_process(endless: Endless) -> None:
    """Ctrl-C reaches the whole group: workers read on, and only the main process speaks of it."""
    os.killpg(endless.group, signal.SIGINT)
    assert endless.said.recv() == "still reading"
    os.killpg(endless.group, signal.SIGINT)
    endless.process.join(timeout=60)
    errors = endless.errors.read_text()
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert ends(endless.group)


def test_workers_speak_of_faults_but_not_of_a_lost_connection(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hide_broken_connection(ConnectionResetError, ConnectionResetError("gone"), None)
    assert capsys.readouterr().err == ""
    hide_broken_connection(ValueError, ValueError("a fault"), None)
    assert "a fault" in capsys.readouterr().err


@posix
def test_workers_end_with_a_killed_process(endless: Endless) -> None:
    endless.process.kill()
    endless.process.join()
    assert ends(endless.group)


@posix
def test_a_worker_that_is_asked_to_end_does_not_break_into_the_main_process() -> None:
    """A death by signal would be raised here at once, wherever the main process is."""
    ours = stream(files(9), workers=2, **STREAMED)
    next(ours.batches(0, 100))
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    os.kill(workers[0].pid or 0, signal.SIGTERM)
    workers[0].join(timeout=WORKERS_END_WITHIN)
    assert workers[0].exitcode == 0
    ours.close()


def ends(group: int) -> bool:
    """Whether the last process of a group ends in time."""
    end = time.monotonic() + WORKERS_END_WITHIN
    while group_alive(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not group_alive(group)


def group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- evaluation


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", [STREAMED, CACHED], ids=["streamed", "cached"])
def test_evaluation_is_the_preprocessing_in_order(workers: int, where: dict[str, Any]) -> None:
    part = files(10)
    ours = EvalLoader(part, preprocess=TO_16, batch_size=4, device="cpu", workers=workers, **where)
    assert len(ours) == 3
    resized = np.stack([TO_16.resize(part.read(n, 3)) for n in range(10)])
    expected = TO_16.normalise(torch.from_numpy(resized).permute(0, 3, 1, 2))
    for _ in range(2):
        batches = list(ours)
        assert [len(batch.images) for batch in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
        assert torch.cat([batch.targets for batch in batches]).tolist() == part.targets.tolist()
        assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(10))
    ours.close()


@pytest.mark.parametrize("where", [STREAMED, CACHED], ids=["streamed", "cached"])
@pytest.mark.parametrize("lost", [(3,), (0, 1, 2, 3), (4, 5, 6, 7, 8), (8,)])
def test_evaluation_leaves_out_what_cannot_be_read(
    tmp_path: Path, where: dict[str, Any], lost: tuple[int, ...]
) -> None:
    part = files(9, tmp_path)
    for index in lost:
        (tmp_path / f"{index}.png").write_bytes(b"")
    ours = EvalLoader(part, preprocess=TO_16, batch_size=4, device="cpu", **where)
    batches = list(ours)
    left = [index for index in range(9) if index not in lost]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == left
    assert sum(len(batch.images) for batch in batches) == len(left)
    assert all(len(batch.images) for batch in batches)


# --- statistics


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_equal_numpy(channels: int) -> None:
    part = images(40, 32, channels)
    mean, std = channel_statistics(part, Preprocess(size=32, channels=channels))
    scaled = part.pixels.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)
    normalised = Preprocess(size=32, channels=channels, mean=mean, std=std).normalise(
        torch.from_numpy(part.pixels).permute(0, 3, 1, 2)
    )
    assert normalised.mean().abs() < 1e-5
    assert abs(normalised.std(unbiased=False) - 1) < 1e-5


def test_statistics_of_many_files_take_an_even_sample(tmp_path: Path) -> None:
    part = files(21, tmp_path)
    (tmp_path / "10.png").unlink()
    mean, std = channel_statistics(part, TO_16, sample=5)  # 0, 5, 10, 15, 20, of which 10 is lost
    chosen = np.stack([TO_16.resize(part.read(n, 3)) for n in (0, 5, 15, 20)]) / 255
    np.testing.assert_allclose(mean, chosen.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_one_colour_can_be_divided_by() -> None:
    part = dataclasses.replace(images(3), pixels=np.full((3, 16, 16, 3), 51, np.uint8))
    mean, std = channel_statistics(part, TO_16)
    assert mean == pytest.approx((0.2, 0.2, 0.2))
    assert std == pytest.approx((1 / 255,) * 3)


# --- what is refused


def test_wrong_settings_are_named() -> None:
    part = images(4)
    with pytest.raises(UserError, match="batch size 0"):
        stream(part, batch_size=0)
    with pytest.raises(UserError, match="workers -1"):
        stream(part, workers=-1)
    with pytest.raises(UserError, match="no images"):
        stream(part.subset(np.arange(0)))
    with pytest.raises(UserError, match="--crop-padding 16 with --fill reflect"):
        stream(part, augment=Augment(crop="shift", crop_padding=16, fill="reflect"))
    assert keys(0, 0, np.arange(0)).shape == (0,)
