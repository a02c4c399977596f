"""Any bytes become an upright RGB picture on white, or a reason why not."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from forebear.images import UnreadableImage, data_uri, decode, grid, to_picture, to_pixels, to_png


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparency_is_laid_on_white() -> None:
    levels = np.zeros((1, 3, 4), np.uint8)
    levels[0, :, 0] = 200
    levels[0, :, 3] = [0, 255, 128]
    decoded = np.asarray(decode(encoded(Image.fromarray(levels))))
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, 1].tolist() == [200, 0, 0]
    np.testing.assert_allclose(decoded[0, 2], [227, 127, 127], atol=1)


def test_a_palette_with_a_transparent_colour_is_laid_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    decoded = np.asarray(decode(encoded(picture, transparency=0)))
    assert decoded.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_the_exif_orientation_is_applied() -> None:
    wide = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    assert decode(encoded(wide, "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "P", "F", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "JPEG", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    decoded = decode(encoded(Image.new(mode, (5, 3)), kind))
    assert (decoded.mode, decoded.size) == ("RGB", (5, 3))


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    levels = (np.arange(4, dtype=np.uint16) * 0x5555).reshape(1, 4)
    decoded = np.asarray(decode(encoded(Image.fromarray(levels))))
    assert decoded[0, :, 0].tolist() == [0x00, 0x55, 0xAA, 0xFF]


def test_empty_unknown_and_truncated_data_say_why() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"):
        whole = encoded(Image.fromarray(noisy), kind)
        decode(whole)
        with pytest.raises(UnreadableImage):
            decode(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match="empty file"):
        decode(b"")
    with pytest.raises(UnreadableImage, match="not a picture"):
        decode(b"<html>not found</html>")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImage, match=r"pixels|bomb"):
        decode(bomb)
    with pytest.raises(UnreadableImage, match="8 x 9 pixels, more than 64"):
        decode(encoded(Image.new("RGB", (8, 9))), max_pixels=64)


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.integers(0, 400))
def test_damaged_bytes_never_raise_anything_else(garbage: bytes, kind: str, place: int) -> None:
    whole = encoded(Image.new("RGB", (9, 7), "teal"), kind)
    for data in (garbage, whole[:place] + garbage + whole[place + len(garbage) :]):
        with contextlib.suppress(UnreadableImage):
            assert decode(data).mode == "RGB"


def test_all_256_levels_survive_the_way_to_pixels_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = Image.fromarray(levels)
    pixels = to_pixels(grey, 16, channels=1)
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1, 16, 16), np.float32, -1.0, 1.0)
    np.testing.assert_array_equal(np.asarray(to_picture(pixels))[:, :, 1], levels)
    colour = Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=2))
    np.testing.assert_array_equal(np.asarray(to_picture(to_pixels(colour, 16))), np.asarray(colour))


def test_pixels_are_cropped_to_the_middle_square() -> None:
    wide = Image.new("RGB", (12, 4), "red")
    wide.paste(Image.new("RGB", (4, 4), "blue"), (4, 0))
    pixels = to_pixels(wide, 4)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels[2], 1.0)
    np.testing.assert_array_equal(pixels[0], -1.0)


def test_pixels_outside_the_range_are_clipped() -> None:
    picture = to_picture(np.array([[[-7.0, 7.0]]], np.float32))
    assert np.asarray(picture).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_png_data_uri_and_grid() -> None:
    red, blue = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    assert np.asarray(decode(to_png(red)))[0, 0].tolist() == [255, 0, 0]
    assert data_uri(red).startswith("data:image/png;base64,iVBOR")
    page = grid([red, blue, red], columns=2, scale=3, gap=1)
    assert page.size == (13, 13)
    assert page.getpixel((6, 6)) == (255, 255, 255)
    assert page.getpixel((12, 0)) == (0, 0, 255)
    assert page.getpixel((0, 12)) == (255, 0, 0)
