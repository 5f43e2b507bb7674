"""Test the decoder: depths, colours, transparency, rotation, limits and damage."""

from __future__ import annotations

import io
import os
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

from image_files import chunk, jpeg, jpeg_of_scans, jpeg_with, png, segment, shared_tags, tiff
from resnets.data.decode import (
    MAX_PIXELS,
    DecodeError,
    Header,
    Piece,
    decode,
    from_array,
    from_picture,
    inspect,
)
from resnets.data.wide_pixels import checked_range
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
    with pytest.raises(DecodeError, match=r"what is black and white in them is not known"):
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


DEPTHS = {  # values of each depth, the range, and what they become
    "uint16": ([0, 1000, 2000, 65535], (0, 2000), [0, 128, 255, 255]),
    "int16": ([-32768, -15, 0, 15], (-15, 15), [0, 0, 128, 255]),
    "int32": ([-(2**31), -15, 15, 70000], (-15, 15), [0, 0, 255, 255]),
    "uint32": ([0, 2**31, 2**32 - 1, 5], (0, 2**32 - 1), [0, 128, 255, 0]),
    "float32": ([0, 0.25, 0.5, 1.5], (0, 0.5), [0, 128, 255, 255]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_tiff_of_every_depth_is_right_or_refused(
    depth: str, big_endian: bool, packed: bool
) -> None:
    values, pixel_range, expected = DEPTHS[depth]
    pixels = np.array([values], depth)
    content = tiff(pixels, big_endian=big_endian, packed=packed)
    if depth == "uint32" and big_endian:
        with pytest.raises(DecodeError, match=r"32-bit unsigned pixels .* not supported; save it"):
            decode(content)
        return
    found = decode(content, channels=1, pixel_range=pixel_range)
    assert found[0, :, 0].tolist() == expected
    assert inspect(content) == Header(4, 1, 1, depth)
    with Image.open(io.BytesIO(content)) as picture:
        assert (
            from_picture(picture, channels=1, pixel_range=pixel_range).tobytes() == found.tobytes()
        )


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("packed", [False, True])
def test_white_is_zero(depth: str, packed: bool) -> None:
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[depth]
    pixels = np.array([[0, top]], depth)
    content = tiff(pixels, photometric=0, packed=packed)
    assert decode(content, channels=1, pixel_range=(0, top))[0, :, 0].tolist() == [255, 0]
    part = decode(content, channels=1, pixel_range=(top / 2, top))
    assert part[0, :, 0].tolist() == [255, 0]


def test_one_bit_where_white_is_zero() -> None:
    picture = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    content = saved(picture, "TIFF", tiffinfo={262: 0})
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 255]


def test_black_is_zero_where_a_tiff_does_not_tell() -> None:
    for depth, top in (("uint8", 255), ("uint16", 65535)):
        content = tiff(np.array([[0, top]], depth), photometric=None)
        assert decode(content, channels=1)[0, :, 0].tolist() == [0, 255]


def test_signed_bytes() -> None:
    content = tiff(np.array([[-128, -1, 0, 127]], np.int8))
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 127, 128, 255]


def test_twelve_bits_in_a_tiff() -> None:
    content = tiff(np.array([[0x00, 0x0F, 0xFF]], np.uint8), tags={258: (3, [12]), 256: (4, [2])})
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 255]
    assert inspect(content).depth == "uint12"


@pytest.mark.parametrize("depth", ["float16", "float64", "int64"])
def test_unsupported_depths_name_themselves(depth: str) -> None:
    content = tiff(np.zeros((2, 2), depth))
    bits = depth.lstrip("floatin")
    with pytest.raises(DecodeError, match=rf"a TIFF of {bits}-bit .* not supported; save it as"):
        inspect(content)


COLOURS = {
    "rgb": (2, [[255, 0, 0], [0, 0, 255]], [[255, 0, 0], [0, 0, 255]]),
    "cmyk": (5, [[0, 0, 0, 0], [255, 0, 0, 0]], [[255, 255, 255], [0, 255, 255]]),
    "lab": (8, [[255, 0, 0], [138, 80, 67]], [[254, 255, 254], [251, 9, 11]]),
    "ycbcr": (6, [[76, 85, 255], [255, 128, 128]], [[254, 0, 0], [255, 255, 255]]),
}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", COLOURS)
def test_tiff_colours_are_right_or_refused(
    name: str, wide: bool, planar: bool, packed: bool, big_endian: bool
) -> None:
    photometric, stored, expected = COLOURS[name]
    pixels = np.array([stored], np.uint8)
    pixels = pixels.astype(np.uint16) * 257 if wide else pixels
    content = tiff(
        pixels,
        photometric=photometric,
        big_endian=big_endian,
        packed=packed,
        planar=planar,
        tags={530: (3, [1, 1])} if name == "ycbcr" else None,
    )
    unknown = wide and name in ("lab", "ycbcr")
    apart = planar and (name == "lab" or (not packed and (wide or name == "ycbcr")))
    if unknown or apart:
        with pytest.raises(DecodeError, match="not supported"):
            decode(content)
    else:
        assert np.abs(decode(content)[0].astype(int) - expected).max() <= 2


def test_ycbcr_of_fewer_colours_is_refused() -> None:
    content = tiff(np.zeros((2, 2, 3), np.uint8), photometric=6)
    with pytest.raises(DecodeError, match="fewer colours than pixels"):
        decode(content)


def test_premultiplied_grey() -> None:
    pixels = np.array([[[100, 128], [0, 0], [255, 255]]], np.uint8)
    content = tiff(pixels, tags={338: (3, [1])})
    found = decode(content, channels=1)[0, :, 0].astype(int)
    assert np.abs(found - [100 + 127, 255, 255]).max() <= 1


def test_colours_of_eight_bits_in_a_palette_of_sixteen() -> None:
    colours = [[0] * 256, [0] * 256, [0] * 256]
    colours[0][1], colours[2][2] = 255, 255
    entries = {320: (3, [*colours[0], *colours[1], *colours[2]])}
    content = tiff(np.array([[1, 2]], np.uint8), photometric=3, tags=entries)
    assert decode(content).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "expected"),
    [
        (1, 0, b"\x40", 1, [0, 255]),
        (2, 0, b"\x60", 2, [85, 255]),
        (4, 0, b"\x2c", 2, [255, 204]),
        (8, 0, b"\x05\xc8", 5, [255, 200]),
        (16, 0, struct.pack(">2H", 1000, 20000), 1000, [255, 78]),
    ],
)
def test_the_transparent_grey_of_a_png(
    bits: int, colour: int, row: bytes, transparent: int, expected: list[int]
) -> None:
    content = png(2, bits, colour, [row], chunk(b"tRNS", struct.pack(">H", transparent)))
    assert decode(content, channels=1)[0, :, 0].tolist() == expected


def test_the_transparent_colour_of_a_wide_png() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 256, 512, 768)
    content = png(2, 16, 2, [row], chunk(b"tRNS", row[:6]))
    assert decode(content).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_wide_grey_with_alpha_is_on_white() -> None:
    content = png(2, 16, 4, [struct.pack(">4H", 0x8000, 65535, 0, 0)])
    assert decode(content, channels=1)[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize(("factor", "side"), [(1, 64), (2, 32), (4, 16), (8, 8)])
def test_a_jpeg_above_the_limit_is_decoded_smaller(factor: int, side: int) -> None:
    content = saved(photo(64, 64), "JPEG")
    limit = side * side
    assert decode(content, max_pixels=limit).shape == (side, side, 3)
    assert inspect(content, max_pixels=limit) == Header(64, 64, 3)
    half = Piece(top=0, left=0, height=0.5, width=1, side=64)
    assert decode(content, max_pixels=limit, piece=half).shape == (side // 2, side, 3)
    with pytest.raises(DecodeError, match=r"64 x 64 pixels .* raise --max-pixels"):
        decode(content, max_pixels=63)


def test_a_higher_limit_changes_no_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnets.data.decode.MAX_PIXELS", 32 * 32)
    content = saved(photo(64, 64), "JPEG")
    np.testing.assert_array_equal(decode(content), decode(content, max_pixels=2**30))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_strips_make_no_difference(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.arange(63 * 40, dtype=np.float32).reshape(63, 40)
    if mode == "F":
        picture = Image.fromarray(grey)
    elif mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16))
    else:
        picture = Image.fromarray(smooth(63, 40)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray((grey % 256).astype(np.uint8)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = saved(picture, "TIFF", exif=exif)
    options = {"pixel_range": (0, 2520)} if mode in ("F", "I;16") else {}
    for piece in (None, Piece(0.1, 0.2, 0.7, 0.6, side=64)):
        monkeypatch.setattr("resnets.data.decode.STRIP", 2**22)
        whole = decode(content, piece=piece, **options)
        monkeypatch.setattr("resnets.data.decode.STRIP", 200)
        np.testing.assert_array_equal(decode(content, piece=piece, **options), whole)


HOSTILE = {
    "exif segments": lambda: jpeg_with(segment(0xE1, b"Exif\0\0MM") * 65),
    "segments": lambda: jpeg_with(segment(0xE5, b"x") * 5000),
    "padding": lambda: jpeg_with(b"\xff" * 70_000),
    "zeros": lambda: jpeg_with(segment(0xE5, b"x") + b"\0" * 70_000),
    "escapes": lambda: jpeg_with(segment(0xE5, b"x") + b"\xff\0" * 40_000),
    "starts": lambda: jpeg_with(b"\xff\xd8" * 5000),
    "scans": lambda: jpeg_of_scans(2000, 2000, 200),
    "chunks before": lambda: png(2, 8, 0, [b"ab"], chunk(b"prVt", b"") * 70_000),
    "chunks after": lambda: png(2, 8, 0, [b"ab"], after=chunk(b"prVt", b"") * 70_000),
    "shared tags": lambda: shared_tags(5000, 2_000_000),
    "shared exif": lambda: png(2, 8, 0, [b"ab"], chunk(b"eXIf", shared_tags(5000, 2_000_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_structures_that_are_no_images(name: str) -> None:
    with pytest.raises(DecodeError, match="its structure is not that of an image"):
        decode(HOSTILE[name]())


@pytest.mark.parametrize("gap", [b"", b"\xff", b"\xff" * 300, b"\0", b"\0\xff\0\0"])
def test_a_little_padding_is_allowed(gap: bytes) -> None:
    content = jpeg_with(segment(0xE5, b"\xff\xda inside") + gap + segment(0xFE, b"x"))
    np.testing.assert_array_equal(decode(content), decode(jpeg()))


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DecodeError, match="it is a pipe, not a file"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32, np.float64, np.int8])
def test_arrays_are_scaled_as_files(kind: type) -> None:
    values = np.array([[0, 50], [100, 127]], kind)
    expected = [[0, 128], [255, 255]]
    assert from_array(values, channels=1, pixel_range=(0, 100))[..., 0].tolist() == expected
    colours = np.repeat(values[..., None], 3, axis=2)
    assert from_array(colours, channels=3, pixel_range=(0, 100))[..., 1].tolist() == expected
    for wrong in (np.zeros(3, kind), np.zeros((2, 2, 4), kind), np.zeros((0, 2), kind)):
        with pytest.raises(UserError, match=r"no image|no pixels"):
            from_array(wrong, channels=3, pixel_range=(0, 1))


@pytest.mark.parametrize("given", [(0, 1, 2), (1, 0), (0, 0), ("0", 1), (0, float("nan")), 5])
def test_ranges_are_checked(given: object) -> None:
    with pytest.raises(UserError, match="must be two rising numbers"):
        checked_range(given)
