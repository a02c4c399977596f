"""Between pictures and the space in which a model denoises."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Codec(Protocol):
    """Maps pixels in [-1, 1] to the model's clean space x0 and back."""

    @property
    def factor(self) -> int:
        """Pixels along one side for each position of x0."""

    def image_channels(self, x0_channels: int) -> int:
        """Channels of the pictures whose x0 has `x0_channels`."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels float[B, C, H, W] to x0 float[B, c, h, w]."""

    def decode(self, x0: Tensor) -> Tensor:
        """x0 float[B, c, h, w] to pixels float[B, C, H, W]."""


class PixelCodec:
    """The model denoises pixels themselves."""

    factor = 1

    def image_channels(self, x0_channels: int) -> int:
        return x0_channels

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class SpaceToDepthCodec:
    """Each square of factor x factor pixels becomes one position with all its values: exact, nothing is lost."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def image_channels(self, x0_channels: int) -> int:
        return x0_channels // self.factor**2

    def encode(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(pixels, self.factor)

    def decode(self, x0: Tensor) -> Tensor:
        return F.pixel_shuffle(x0, self.factor)


class VaeCodec:
    """A diffusers autoencoder; encodes to the posterior's mode, so that the same picture always gives the same x0."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def image_channels(self, x0_channels: int) -> int:  # noqa: ARG002 - latents say nothing about the pictures
        return int(self.vae.config.in_channels)

    def encode(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            latent: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return (latent - self._shift) * self._scale

    def decode(self, x0: Tensor) -> Tensor:
        with torch.no_grad():
            pixels: Tensor = self.vae.decode(x0 / self._scale + self._shift).sample
        return pixels
