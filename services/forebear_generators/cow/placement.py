"""Conditions on their canvas: pixels, masks, and where the kept area ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear.images import to_pixels
from forebear.masks import framed_weights
from forebear_generators.cow.condition import CowCondition, read_image, read_mask
from forebear_generators.cow.settings import CowConfig

GREY = 128 / 127.5 - 1.0
"""What is put where nothing is kept, in [-1, 1]: level 128, as in the paper's code."""


@dataclass(frozen=True)
class Placement:
    """A square of `size` pixels at (x, y) of a square canvas; all are whole positions of the model's clean space."""

    size: int
    x: int
    y: int
    canvas: int
    factor: int
    """Pixels for each position of the clean space."""

    @staticmethod
    def of(model: DiffusionModel, config: CowConfig) -> "Placement":
        """That of a model's canvas; raises ConfigError when the condition does not fit."""
        canvas, factor, asked = model.image_size, model.codec.factor, config.placement
        named = {"half": canvas // 2, "canvas": canvas}
        size = named[asked.size] if isinstance(asked.size, str) else asked.size
        if size > canvas:
            raise ConfigError(
                f"the condition of {size} pixels is larger than the canvas of {canvas}; "
                f"set placement.size to {canvas} or less"
            )
        x = (canvas - size) // 2 // factor * factor if asked.x is None else asked.x
        if x + size > canvas or asked.y + size > canvas:
            raise ConfigError(
                f"a condition of {size} pixels at {x},{asked.y} leaves the canvas of {canvas}; "
                f"set placement.x and placement.y to at most {canvas - size}"
            )
        for name, value in (("size", size), ("x", x), ("y", asked.y)):
            if value % factor:
                raise ConfigError(
                    f"placement.{name} is {value}, and this model sees squares of {factor} pixels; "
                    f"take a multiple, such as {max(value // factor, 1) * factor}"
                )
        place = Placement(size, x, asked.y, canvas, factor)
        if config.inversion == "alone" and not place.whole:
            _check_denoisable(model, place)
        return place

    @property
    def whole(self) -> bool:
        """Whether the condition fills the canvas."""
        return self.size == self.canvas

    def pixels_in(self, pictures: Tensor) -> Tensor:
        """The condition's part of [..., canvas, canvas]."""
        return pictures[..., self.y : self.y + self.size, self.x : self.x + self.size]

    def positions_in(self, x: Tensor) -> Tensor:
        """The condition's part of the clean or noisy space, [..., h, w]."""
        top, left, side = (value // self.factor for value in (self.y, self.x, self.size))
        return x[..., top : top + side, left : left + side]


@dataclass(frozen=True)
class Placed:
    """B conditions on their canvases."""

    placement: Placement
    seed: Tensor
    """float32[B, C, size, size] in [-1, 1]: the image where any of it is kept, grey elsewhere."""
    canvas: Tensor
    """float32[B, C, canvas, canvas]: the same on grey."""
    kept: Tensor
    """float32[B, canvas, canvas] in [0, 1]: the mask in pixels."""
    mask: Tensor
    """float32[B, 1, h, w] in [0, 1]: the mask in positions of the canvas, times `hold`."""

    @property
    def boundary(self) -> Tensor:
        """bool[B, 1, h, w]: positions that are not wholly kept, next to one that is kept; all where there is none."""
        around = F.max_pool2d(self.mask, 3, stride=1, padding=1)
        found = (around > self.mask) & (self.mask < 1)
        return found | ~found.flatten(1).any(1).view(-1, 1, 1, 1)


def place(model: DiffusionModel, conditions: Sequence[CowCondition], config: CowConfig) -> Placed:
    """Read B conditions and lay them on the model's canvas.

    Hard masks are brought to positions by their upper left pixel (nearest, as in the paper's code), soft ones by their
    mean. Raises ConfigError when a mask or the placement does not fit, DataError for what is no picture.
    """
    where = Placement.of(model, config)
    read = [_read(condition, where, config, model.image_channels) for condition in conditions]
    image, weights = (torch.from_numpy(np.stack(each)) for each in zip(*read, strict=True))
    kept = torch.zeros(len(read), where.canvas, where.canvas)
    where.pixels_in(kept)[:] = weights
    seed = torch.where(weights[:, None] > 0, image, torch.tensor(GREY))
    canvas = torch.full((*image.shape[:2], where.canvas, where.canvas), GREY)
    where.pixels_in(canvas)[:] = seed
    if config.edge == "hard":
        mask = kept[:, None, :: where.factor, :: where.factor]
    else:
        mask = F.avg_pool2d(kept[:, None], where.factor)
    if not bool(mask.flatten(1).any(1).all()):
        raise ConfigError(
            f"nothing of the kept area is left at the model's {mask.shape[-1]} x {mask.shape[-1]} positions; "
            "keep more, raise placement.size, or set edge to soft"
        )
    return Placed(where, seed, canvas, kept, config.hold * mask)


def _read(
    condition: CowCondition, where: Placement, config: CowConfig, channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image float32[C, size, size] and its mask float32[size, size]."""
    image = read_image(condition.image)
    weights = framed_weights(read_mask(condition.mask, image.size, config.keep), where.size)
    if config.edge == "hard":
        weights = (weights >= 0.5).astype(np.float32)
    if not weights.any():
        raise ConfigError("the mask is empty in the centred square that the model sees; keep a part of that")
    return to_pixels(image, where.size, channels), weights


def _check_denoisable(model: DiffusionModel, where: Placement) -> None:
    """Raise ConfigError when the denoiser cannot read a picture of the condition's size."""
    settings: Any = model.denoiser.config
    halvings = len(getattr(settings, "block_out_channels", None) or (1,)) - 1
    multiple = where.factor * max(2**halvings, int(getattr(settings, "patch_size", None) or 1))
    if where.size % multiple:
        raise ConfigError(
            f"this model cannot invert a condition of {where.size} pixels by itself; set placement.size to a multiple "
            f"of {multiple}, or inversion to canvas"
        )
