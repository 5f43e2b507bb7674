"""Test the decoder: depths, colours, transparency, rotation, limits and damage."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from resnets.data.decode import MAX_PIXELS, DecodeError, Header, Piece, decode, inspect
from resnets.errors import UserError

REDUCED_LOSS = 3.0  # of 255, on average, against the full picture shrunk by a box filter
JPEG_LOSS = 20  # of 255, for a smooth picture at quality 95 with halved chroma


def smooth(height: int = 12, width: int = 20) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 4]
    return np.stack(channels, axis=-1).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats(kind: str, tmp_path: Path) -> None:
    content = saved(
        Image.fromarray(smooth()), kind, **({"lossless": True} if kind == "WEBP" else {})
    )
    np.testing.assert_array_equal(decode(content), smooth())
    assert inspect(content) == Header(width=20, height=12, channels=3)
    path = tmp_path / "picture"
    path.write_bytes(content)
    for source in (path, str(path)):
        np.testing.assert_array_equal(decode(source), smooth())


def test_jpeg_is_pillows() -> None:
    content = saved(Image.fromarray(smooth()), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(content), np.array(Image.open(io.BytesIO(content))))
    assert np.abs(decode(content).astype(int) - smooth()).max() <= JPEG_LOSS


def test_result_is_writable_uint8() -> None:
    pixels = decode(saved(Image.fromarray(smooth()), "PNG"))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turn(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    content = saved(Image.fromarray(smooth()), kind, exif=exif, **options)
    turns = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.transpose(a, (1, 0, 2)),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
        8: np.rot90,
    }
    expected = turns.get(orientation, lambda a: a)(smooth())
    pixels = decode(content)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (JPEG_LOSS if kind == "JPEG" else 0)
    height, width, _ = expected.shape
    assert inspect(content) == Header(width=width, height=height, channels=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    wide = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    content = saved(Image.fromarray(wide), kind)
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert decode(content)[0, :, 2].tolist() == [0, 0, 1, 128, 255]
    assert inspect(content).channels == 1


def test_sixteen_bit_colour_is_scaled() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 32768, 0, 257, 514, 65535)  # two pixels, filter none

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(content).tolist() == [[[255, 128, 0], [1, 2, 255]]]


@pytest.mark.parametrize(
    ("values", "pixel_range", "expected"),
    [
        ([0.0, 0.5, 1.0], (0, 1), [0, 128, 255]),
        ([-0.05, 0.55, 1.1, 1.5], (0, 1.1), [0, 128, 255, 255]),
        ([float("nan"), 0.25, float("inf"), -float("inf")], (0, 1), [0, 64, 255, 0]),
    ],
)
def test_floats_are_scaled_by_the_range(
    values: list[float], pixel_range: tuple[float, float], expected: list[int]
) -> None:
    content = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    found = decode(content, channels=1, pixel_range=pixel_range)
    assert found[0, :, 0].tolist() == expected
    assert inspect(content) == Header(len(values), 1, 1, "float32")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_without_a_range_wide_numbers_are_refused(kind: type) -> None:
    content = saved(Image.fromarray(np.array([[0, 1]], kind)), "TIFF")
    with pytest.raises(DecodeError, match="what is black and white in them is not known"):
        decode(content)


@pytest.mark.parametrize(
    ("values", "pixel_range", "expected"),
    [
        ([0, 32768, 65535], (0, 65535), [0, 128, 255]),
        ([-1000, 1000, 3000], (-1000, 3000), [0, 128, 255]),
        ([-15, 0, 15], (-15, 15), [0, 128, 255]),
    ],
)
def test_wide_integers_are_scaled(
    values: list[int], pixel_range: tuple[float, float], expected: list[int]
) -> None:
    content = saved(Image.fromarray(np.array([values], np.int32)), "TIFF")
    found = decode(content, channels=1, pixel_range=pixel_range)
    assert found[0, :, 0].tolist() == expected


def test_one_bit() -> None:
    content = saved(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG")
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 255]
    assert inspect(content).channels == 1


def test_cmyk() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    content = saved(Image.frombytes("CMYK", (3, 1), inks.tobytes()), "TIFF")
    assert decode(content).tolist() == [[[255, 255, 255], [0, 255, 255], [0, 0, 0]]]
    white = saved(Image.new("CMYK", (8, 8)), "JPEG")  # Adobe's files hold inverted inks
    assert decode(white).min() >= 255 - JPEG_LOSS
    assert decode(white, channels=1).shape == (8, 8, 1)
    assert inspect(white).channels == 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_on_white(kind: str) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(pixels), kind, **options)
    half = (200 * 128 + 255 * 127) / 255, 255 * 127 / 255, 255 * 127 / 255
    result = decode(content)[0].astype(float)
    np.testing.assert_allclose(result, [[200, 0, 0], [255] * 3, half], atol=1)


def test_grey_with_transparency_stays_grey() -> None:
    content = saved(Image.frombytes("LA", (2, 1), bytes((10, 255, 10, 0))), "PNG")
    assert decode(content, channels=1)[0, :, 0].tolist() == [10, 255]
    assert inspect(content).channels == 1


def test_palette_with_a_transparent_entry() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert decode(saved(picture, kind)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
        see_through = saved(picture, kind, transparency=1)
        assert decode(see_through).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_one_colour_declared_transparent() -> None:
    pixels = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    content = saved(pixels, "PNG", transparency=(1, 2, 3))
    assert decode(content).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_grey_from_colour_is_pillows_luma() -> None:
    content = saved(Image.fromarray(smooth()), "PNG")
    expected = np.array(Image.fromarray(smooth()).convert("L"))
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(content)[0, 0].tolist() == [255, 0, 0]


def test_pictures_of_two_lens_phones() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    content = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode(content).min() >= 255 - JPEG_LOSS


def test_limit_is_checked_before_decoding() -> None:
    content = saved(Image.new("L", (60, 50)), "PNG")
    assert decode(content, max_pixels=3000).shape == (50, 60, 3)
    cut = content[:60]  # the pixels are gone: only the header can have been read
    for read in (inspect, decode):
        with pytest.raises(DecodeError, match=r"60 x 50 .* the 0\.003 million .*--max-pixels"):
            read(cut, max_pixels=2999)


@pytest.mark.parametrize("side", [9000, 11000, 20000])
def test_bombs(side: int) -> None:
    header = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    header[16:24] = struct.pack(">II", side, side)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    assert side * side > MAX_PIXELS
    with pytest.raises(DecodeError, match="pixels"):
        decode(bytes(header))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    content = saved(Image.fromarray(noise), kind)
    with pytest.raises(DecodeError) as caught:
        decode(content[: len(content) // 2])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture at all", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
        (saved(Image.new("RGB", (8, 8)), "PPM"), "not a JPEG"),
        (saved(Image.new("RGB", (8, 8)), "ICO"), "not a JPEG"),
    ],
)
def test_what_is_no_picture(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(DecodeError, match=reason):
            inspect(source)
    with pytest.raises(UserError, match=r"cannot read .*x\.jpg: "):
        decode(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "absent.png")
    with pytest.raises(DecodeError, match="it is a folder"):
        decode(tmp_path)


def test_random_damage_raises_nothing_else() -> None:
    generator = np.random.default_rng(0)
    originals = [saved(Image.fromarray(smooth()), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF")]
    for trial in range(400):
        content = bytearray(originals[trial % len(originals)])
        for position in generator.integers(0, len(content), 4):
            content[position] = generator.integers(0, 256)
        with suppress(DecodeError):
            inspect(bytes(content))
            assert decode(bytes(content)).dtype == np.uint8


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("empty", "a.png")))
    assert (error.reason, error.source, str(error)) == (
        "empty",
        "a.png",
        "cannot read a.png: empty",
    )


def test_broken_metadata_is_no_obstacle_and_no_noise() -> None:
    content = saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        results = list(pool.map(decode, [content] * 40))
    assert heard == []
    assert warnings.filters == filters
    assert all(result.shape == (12, 20, 3) for result in results)


def test_agrees_with_exif_transpose() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = saved(Image.fromarray(smooth()), "JPEG", exif=exif)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode(content), np.array(theirs))


def photo(height: int, width: int) -> Image.Image:
    """Smooth noise, as a photo."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_piece_is_cut_from_the_decoded_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = saved(photo(160, 96), kind, exif=exif)
    whole = decode(content)
    height, width, _ = whole.shape
    piece = Piece(top=0.25, left=0.5, height=0.5, width=0.25, side=32)
    cut = whole[height // 4 : height * 3 // 4, width // 2 : width * 3 // 4]
    np.testing.assert_array_equal(decode(content, piece=piece), cut)
    assert decode(content, piece=Piece(0.999, 0.999, 0.001, 0.001, side=32)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("side", "factor"), [(400, 1), (201, 1), (200, 2), (101, 2), (100, 4), (50, 8), (7, 8)]
)
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_smaller(side: int, factor: int, kind: str) -> None:
    picture = photo(480, 640).convert(kind)
    content = saved(picture, "JPEG", quality=95)
    channels = 1 if kind == "L" else 3
    piece = Piece(top=0, left=0, height=400 / 480, width=1, side=side)
    found = decode(content, channels=channels, piece=piece)
    assert found.shape == (400 // factor, 640 // factor, channels)
    assert min(found.shape[:2]) >= min(side, 400)
    full = decode(content, channels=channels)[:400]
    boxes = full.reshape(400 // factor, factor, 640 // factor, factor, channels)
    assert np.abs(found - boxes.mean((1, 3))).mean() < REDUCED_LOSS


def test_a_turned_jpeg_is_decoded_smaller_the_right_way_up() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = saved(photo(320, 480), "JPEG", quality=95, exif=exif)
    top = Piece(top=0, left=0, height=0.5, width=1, side=120)  # of 480 x 320, upright
    found, whole = decode(content, piece=top), decode(content)
    assert (whole.shape, found.shape) == ((480, 320, 3), (120, 160, 3))
    boxes = whole[:240].reshape(120, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(found - boxes).mean() < REDUCED_LOSS


def test_other_formats_are_never_reduced() -> None:
    content = saved(photo(160, 160), "PNG")
    np.testing.assert_array_equal(decode(content, piece=Piece(0, 0, 1, 1, side=8)), decode(content))
