"""Nearest training pictures by their pixels, block by block in NumPy.

    pixel     root of the mean squared difference, levels from 0 to 1, at the model's resolution
    shifted   the least of those over mirroring and moving the query by a pixel in each direction, at 16 x 16 pixels
              (6 % of the side); what a move brings in from outside repeats the border

Distances of all pairs come from inner products, in float32; that of the nearest is then computed directly, so that a
copy has a distance of exactly 0.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.decoded import DecodedPictures, pooled, to_levels

PixelMeasure = Literal["pixel", "shifted"]
MEASURES: tuple[PixelMeasure, ...] = get_args(PixelMeasure)
DESCRIPTIONS = {
    "pixel": "root mean squared difference of the pixels at the model's resolution, levels from 0 to 1",
    "shifted": "the same on reduced pictures, the least over mirroring and small moves of the query",
}
SHIFT = 1
"""Pixels of the coarse pictures."""
CANDIDATES = 4
"""Nearest rows whose distances are computed directly."""
BLOCK_ROWS = 2048
VIEWS_AT_ONCE = 512
"""Query pictures, each mirroring and move counted, that are compared together."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each of Q queries."""

    rows: NDArray[np.int64]
    """int64[Q]; of equal distances the lowest row. -1 where every row was left out."""
    distances: NDArray[np.float64]
    """float64[Q]; infinite where the row is -1."""


def nearest(
    pictures: DecodedPictures,
    queries: NDArray[np.float32],
    measure: PixelMeasure,
    itself: NDArray[np.int64] | None = None,
) -> Nearest:
    """The nearest of N training pictures to queries float32[Q, C, S, S] in [-1, 1], which are resized by averaging.

    `itself` int64[Q]: a row for each query that is left out.
    """
    stored = pictures.fine if measure == "pixel" else pictures.coarse
    levels = to_levels(pooled(queries, stored.shape[-1])).astype(np.float32)  # [Q, C, h, w], 0 .. 255
    seen = levels[:, None] if measure == "pixel" else views(levels)  # [Q, V, C, h, w]
    flat = seen.reshape(*seen.shape[:2], -1)  # [Q, V, P]
    step = max(1, VIEWS_AT_ONCE // flat.shape[1])
    parts = [
        _nearest(stored, flat[first : first + step], None if itself is None else itself[first : first + step])
        for first in range(0, len(flat), step)
    ]
    return Nearest(np.concatenate([part.rows for part in parts]), np.concatenate([part.distances for part in parts]))


def views(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures float32[Q, C, h, w], mirrored or not, in every position within SHIFT: float32[Q, V, C, h, w]."""
    height, width = levels.shape[2:]
    found = []
    for picture in (levels, levels[..., ::-1]):
        padded = np.pad(picture, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
        found += [
            padded[:, :, top : top + height, left : left + width]
            for top in range(2 * SHIFT + 1)
            for left in range(2 * SHIFT + 1)
        ]
    return np.stack(found, axis=1)


def _nearest(stored: NDArray[np.uint8], flat: NDArray[np.float32], itself: NDArray[np.int64] | None) -> Nearest:
    """Of queries float32[Q, V, P], the views of one query being alternatives."""
    squares = _squares(stored, flat)  # [Q, N]
    if itself is not None:
        squares[np.arange(len(flat)), itself] = np.inf
    count = min(CANDIDATES, squares.shape[1])
    rows = np.sort(np.argpartition(squares, count - 1, axis=1)[:, :count], axis=1)  # [Q, K], rising
    found, distances = np.empty(len(flat), np.int64), np.empty(len(flat))
    for place, candidates in enumerate(rows):
        usable = candidates[np.isfinite(squares[place, candidates])]
        exact = [_distance(stored[row], flat[place]) for row in usable]
        best = int(np.argmin(exact)) if exact else -1
        found[place], distances[place] = (usable[best], exact[best]) if exact else (-1, np.inf)
    return Nearest(found, distances)


def _squares(stored: NDArray[np.uint8], flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean squared differences of levels from 0 to 255, the least over views: float32[Q, N]."""
    queries, count, numbers = flat.shape
    tall = flat.reshape(-1, numbers)  # [Q * V, P]
    own = np.einsum("vp,vp->v", tall, tall)[:, None]
    squares = np.empty((queries, len(stored)), np.float32)
    for first in range(0, len(stored), BLOCK_ROWS):
        block = stored[first : first + BLOCK_ROWS].reshape(-1, numbers).astype(np.float32)  # [B, P]
        theirs = np.einsum("bp,bp->b", block, block)
        apart = own + theirs - 2 * (tall @ block.T)  # [Q * V, B]
        squares[:, first : first + len(block)] = apart.reshape(queries, count, -1).min(axis=1) / numbers
    return squares


def _distance(stored: NDArray[np.uint8], views: NDArray[np.float32]) -> float:
    """Root mean squared difference of a stored picture and the nearest of views float32[V, P]."""
    levels = stored.reshape(-1).astype(np.float64)
    return float(np.sqrt(np.square(views.astype(np.float64) - levels).mean(axis=1).min())) / 255.0
