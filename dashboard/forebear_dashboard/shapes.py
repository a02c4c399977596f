"""Masks: grey pictures of a picture's size, white where a part of it is meant."""

import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from forebear.errors import ConfigError
from forebear.images import read_picture

Box = tuple[int, int, int, int]
Size = tuple[int, int]
SIDE = 256
"""Pixels of the longer side at which a background is looked for."""
BACKGROUND = 24
"""Sum over red, green and blue of how far a background's levels lie apart, of 765."""
SHAPES = 0.01
"""Part by which the shapes of a mask and its picture may differ."""


def box_mask(size: Size, box: Box) -> Image.Image:
    """A box: left, top, right, bottom in pixels."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def ellipse_mask(size: Size, box: Box) -> Image.Image:
    """The ellipse that fills a box: pixels whose centre is in it."""
    large = Image.new("L", (4 * size[0], 4 * size[1]))
    left, top, right, bottom = (4 * one for one in box)
    ImageDraw.Draw(large).ellipse((left, top, right - 1, bottom - 1), fill=255)
    return large.resize(size, Image.Resampling.BOX).point(lambda level: 255 * (level > 127))


def subject_mask(picture: Image.Image, alpha: Image.Image | None = None) -> Image.Image:
    """What is not transparent; of a picture without transparency, what is not its even background.

    The background reaches a corner and has about its colour. A picture that is nothing else is meant as a whole.
    """
    if alpha is not None:
        found = alpha.point(lambda level: 255 * (level > 127))
    else:
        small = picture.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        corner = np.asarray(small)[0, 0].tolist()
        around = ImageOps.expand(small, 1, tuple(corner))  # a way to all corners
        filled = around.copy()
        ImageDraw.floodfill(filled, (0, 0), tuple((level + 128) % 256 for level in corner), thresh=BACKGROUND)
        kept = (np.asarray(filled) == np.asarray(around)).all(2)[1:-1, 1:-1]
        found = Image.fromarray(np.where(kept, 255, 0).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return found if found.getbbox() else Image.new("L", picture.size, 255)


def uploaded_mask(data: bytes, size: Size) -> Image.Image:
    """A mask picture brought to a picture's size.

    Raises DataError for what is no picture, ConfigError for one of another shape, or black everywhere.
    """
    mask = read_picture(data, "mask").convert("L")
    if abs(mask.width * size[1] - mask.height * size[0]) > SHAPES * mask.width * size[1]:
        raise ConfigError(
            f"the mask is {mask.width} x {mask.height} pixels and the picture {size[0]} x {size[1]}: give one of the "
            "picture's shape"
        )
    found = mask if mask.size == size else mask.resize(size, Image.Resampling.BOX)
    if not found.getbbox():
        raise ConfigError("the mask is black everywhere; make it white where the picture is meant")
    return found


def opened(data: bytes, longest: int) -> tuple[Image.Image, Image.Image | None]:
    """An uploaded picture in RGB on white, and its transparency where it has any; at most `longest` pixels a side.

    Raises DataError for what is no picture.
    """
    picture, alpha = read_picture(data, "image"), None
    whole = Image.open(io.BytesIO(data))
    if "A" in whole.getbands() or "transparency" in whole.info:
        alpha = ImageOps.exif_transpose(whole).convert("RGBA").getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
    for one in (picture, alpha):
        if one is not None:
            one.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture, alpha


def outlined(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the mask's edge drawn into it in black and white, to be seen on any ground."""
    edge = 8
    around = mask.resize(picture.size, Image.Resampling.NEAREST).point(lambda level: 255 * (level > 127))
    around = ImageOps.expand(around, edge, 0)  # so that the picture's border is an edge too
    found = picture.copy()
    for colour, outer, inner in (("black", 1, 11), ("white", 3, 7)):
        ring = ImageChops.subtract(_shrunk(around, outer), _shrunk(around, inner))
        found.paste(colour, (0, 0), ring.crop((edge, edge, edge + picture.width, edge + picture.height)))
    return found


def _shrunk(mask: Image.Image, width: int) -> Image.Image:
    return mask.filter(ImageFilter.MinFilter(width)) if width > 1 else mask
