"""The training set's clean pictures in the model's space, decoded once and kept while they fit in memory."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.data import TrainingSet
from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel

CACHE_BYTES = 1 << 30
"""Sets whose pixels need more than this are decoded anew each time."""


class Pictures:
    """Clean x0 and condition of training samples, by row."""

    def __init__(self, training_set: TrainingSet, model: DiffusionModel) -> None:
        self.training_set, self._model = training_set, model
        self._shape = (model.image_channels, model.image_size, model.image_size)
        count = len(training_set)
        self._cached = count * int(np.prod(self._shape)) <= CACHE_BYTES
        self._levels: NDArray[np.uint8] = np.empty((count if self._cached else 0, *self._shape), np.uint8)
        self._known = np.zeros(count if self._cached else 0, np.bool_)

    def x0(self, rows: Sequence[int], flipped: NDArray[np.bool_] | None = None) -> Tensor:
        """Clean pictures float32[B, c, h, w]; rows whose `flipped` bool[B] is set are mirrored left to right."""
        pixels = self._pixels(rows)  # [B, C, H, W]
        if flipped is not None and flipped.any():
            pixels[flipped] = pixels[flipped, :, :, ::-1]
        return self._model.codec.encode(torch.from_numpy(pixels))

    def condition(self, rows: Sequence[int], dropped: NDArray[np.bool_] | None = None) -> Condition:
        """Conditions of the rows; where `dropped` bool[B] is set the caption is empty."""
        samples = [self.training_set.samples[row] for row in rows]
        hidden = np.zeros(len(samples), np.bool_) if dropped is None else dropped
        captions = ["" if gone else sample.caption for sample, gone in zip(samples, hidden, strict=True)]
        return self._model.conditioner.encode(captions, [sample.label for sample in samples])

    def _pixels(self, rows: Sequence[int]) -> NDArray[np.float32]:
        _, size, _ = self._shape
        if not self._cached:
            return self.training_set.pixels(rows, size, self._shape[0])
        index = np.asarray(rows)
        missing = index[~self._known[index]]
        if len(missing):
            fresh = self.training_set.pixels(missing.tolist(), size, self._shape[0])
            self._levels[missing] = np.rint((fresh + 1.0) * 127.5).astype(np.uint8)
            self._known[missing] = True
        pixels: NDArray[np.float32] = self._levels[index].astype(np.float32) / 127.5 - 1.0
        return pixels
