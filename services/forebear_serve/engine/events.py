"""What passes between the gateway and the engines of pictures: plain data that needs no torch to be read."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear_serve.schemas import AttributeOptions, Picture, Progressed


@dataclass(frozen=True)
class Sighted:
    """The clean picture that the denoiser saw at a step where attribution can begin."""

    pixels: NDArray[np.float32]
    """float32[C, H, W] in [-1, 1]."""


@dataclass(frozen=True)
class Finished:
    """The picture."""

    picture: Picture
    pixels: NDArray[np.float32]
    """float32[C, H, W] in [-1, 1], those of the PNG, which attribution then need not decode."""
    seconds: float


MakerEvent = Progressed | Sighted | Finished


@dataclass(frozen=True)
class TraceQuery:
    """A picture and what is asked about it."""

    pixels: NDArray[np.float32] | Image.Image
    """float32[C, H, W] in [-1, 1] as the model sees it, or a picture of any size."""
    prompt: str = ""
    label: int | None = None
    options: AttributeOptions = field(default_factory=AttributeOptions)

    def key(self) -> str:
        """Of everything that decides its embedding."""
        pixels = self.pixels if isinstance(self.pixels, np.ndarray) else np.asarray(self.pixels)
        measured = self.options.model_dump_json(include={"estimators", "mode", "region", "timesteps"})
        told = f"{pixels.dtype}{pixels.shape}\0{self.prompt}\0{self.label}\0{measured}".encode()
        return hashlib.blake2b(told + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()
