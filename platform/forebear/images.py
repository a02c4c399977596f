"""Bytes to pixels: safe decoding, framing to a square, and PNG for pages."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from forebear.errors import DataError

MAX_PIXELS = 64_000_000
"""Larger pictures are refused, so that a small file cannot claim gigabytes of memory."""


class UnreadableImage(ValueError):  # noqa: N818 - it names the picture's state; sources turn it into a quarantine entry
    """The bytes are not a picture that Forebear can use; the message is the reason."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a whole picture to RGB on white, upright by its EXIF orientation.

    Raises UnreadableImage for empty, unknown, truncated, or oversized data.
    """
    if not data:
        raise UnreadableImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is the one that counts; odd tags are no news to the user
            picture = Image.open(io.BytesIO(data))
            _refuse_large(picture, max_pixels)
            picture.load()
        return on_white(ImageOps.exif_transpose(_eight_bits(picture)))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not a picture in a known format") from None
    except Exception as broken:  # Pillow's decoders meet bad bytes with errors of many kinds: OSError, struct.error ...
        raise UnreadableImage(f"damaged or truncated: {broken}") from None


def read_picture(given: Path | str | bytes, what: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file, by its path or its bytes, in RGB; `what` names its use in errors.

    Raises DataError when it cannot be read, is no picture, or is larger than `max_pixels`.
    """
    name = what if isinstance(given, bytes) else str(given)
    try:
        return decode(given if isinstance(given, bytes) else Path(given).expanduser().read_bytes(), max_pixels)
    except FileNotFoundError:
        raise DataError(f"{name} does not exist; give the path of a picture") from None
    except OSError as refused:
        raise DataError(f"{name} cannot be read ({refused.strerror}); give the path of a picture") from None
    except UnreadableImage as reason:
        raise DataError(f"{name} cannot be used as {what}: {reason}; give a PNG, JPEG or WebP picture") from None


def _refuse_large(picture: Image.Image, max_pixels: int) -> None:
    if picture.width * picture.height > max_pixels:
        raise UnreadableImage(f"{picture.width} x {picture.height} pixels, more than {max_pixels:,}")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: Pillow's own conversion clips at 255, which turns such a picture white."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture, dtype=np.uint16) >> 8).astype(np.uint8))


def on_white(picture: Image.Image) -> Image.Image:
    """RGB, with any transparency laid on white."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        page.alpha_composite(rgba)
        return page.convert("RGB")
    return picture.convert("RGB")


def to_pixels(picture: Image.Image, size: int, channels: int = 3) -> NDArray[np.float32]:
    """Centre-crop to a square, resize, and scale to [-1, 1]: float32[channels, size, size]."""
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    array = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 127.5 - 1.0
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def to_picture(pixels: NDArray[np.float32]) -> Image.Image:
    """The inverse of `to_pixels`: float[channels, H, W] in [-1, 1], clipped, to an RGB picture."""
    levels = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    grey_or_colour = levels[0] if levels.shape[0] == 1 else levels.transpose(1, 2, 0)
    return Image.fromarray(grey_or_colour).convert("RGB")


def to_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(picture: Image.Image) -> str:
    """The picture as a `data:` address that a page can hold inside itself."""
    return png_uri(to_png(picture))


def png_uri(png: bytes) -> str:
    """The same of a picture that is PNG already."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def grid(pictures: list[Image.Image], columns: int, scale: int = 1, gap: int = 2) -> Image.Image:
    """Lay equal-sized pictures out in rows on white, each enlarged `scale` times without smoothing."""
    width, height = (side * scale for side in pictures[0].size)
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
        page.paste(enlarged, (column * (width + gap), row * (height + gap)))
    return page
