"""The 1,797 handwritten 8 x 8 digits that come inside scikit-learn."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.data.sample import Sample, sample_id
from forebear.errors import DataError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class DigitsSource:
    """Handwritten digits; caption `digit three`, label 3, group `class`."""

    def scan(self) -> Iterator[Sample]:
        levels, labels = self._arrays
        for row, label in enumerate(labels):
            yield Sample(
                id=sample_id(f"digits/{row}", levels[row].tobytes()),
                locator=str(row),
                caption=f"digit {NAMES[label]}",
                label=int(label),
                groups={"class": NAMES[label]},
            )

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - digits have their own size
        return Image.fromarray(self._arrays[0][int(sample.locator)]).convert("RGB")

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError("the source `digits` needs scikit-learn; pip install 'forebear[demo]'") from None
        levels, labels = load_digits(return_X_y=True)
        return np.rint(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels
