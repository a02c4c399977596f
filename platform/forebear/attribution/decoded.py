"""The training pictures as small 8-bit arrays on disk: decoded once, then compared with any query."""

from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch.nn import functional as F

from forebear.config import STRICT, parse, plain
from forebear.data import TrainingSet
from forebear.errors import ForebearError, SearchIndexError
from forebear.files import read_json, whole_file, write_json
from forebear.run import Run

MAX_BYTES = 2**31
"""Of the decoded pictures: where the model's resolution needs more, they are halved until they fit."""
MIN_SIDE = 16
COARSE_SIDE = 16
"""Pictures are reduced to at most this side where they are compared in many positions."""
BLOCK_ROWS = 1024
IDS_FILE = "pixels-ids.npy"
"""Sample ids of the rows: when images are removed or added, the others are not decoded again."""


@dataclass(frozen=True, config=STRICT)
class DecodedDescription:
    """What RUN/calibration/pixels.json says; written when both arrays are there."""

    dataset: str
    """Fingerprint of the training set."""
    samples: int
    """N."""
    channels: int
    """Of a picture."""
    side: int
    """Of the fine pictures, in pixels."""
    coarse: int
    """Side of the coarse ones."""


@plain_dataclass(frozen=True)
class DecodedPictures:
    """N pictures at two resolutions, 8 bits for each number."""

    fine: NDArray[np.uint8]
    """uint8[N, C, side, side]: the model's resolution, unless that takes more than MAX_BYTES."""
    coarse: NDArray[np.uint8]
    """uint8[N, C, coarse, coarse]."""

    @classmethod
    def of(cls, run: Run, training_set: TrainingSet, channels: int, size: int) -> "DecodedPictures":
        """The pictures of a training set as a model of `size` pixels sees them: from the run, or decoded and kept.

        They are only held in memory when the run cannot be written to.
        """
        count = len(training_set)
        side = size
        while side > MIN_SIDE and count * channels * side * side > MAX_BYTES:
            side //= 2
        wanted = DecodedDescription(training_set.fingerprint, count, channels, side, min(side, COARSE_SIDE))
        folder = run.folder / "calibration"
        return _kept(folder, wanted) or _made(folder, wanted, training_set, size)

    def __len__(self) -> int:
        return len(self.fine)


def pooled(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Pictures float32[B, C, H, W] averaged to at most `side` pixels on a side."""
    if pixels.shape[-1] <= side:
        return pixels
    small: NDArray[np.float32] = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(pixels)), side).numpy()
    return small


def to_levels(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] to 0 .. 255."""
    levels: NDArray[np.uint8] = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return levels


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "pixels.json", folder / "pixels.npy", folder / "pixels-coarse.npy"


def _kept(folder: Path, wanted: DecodedDescription) -> DecodedPictures | None:
    described, found = _read(folder)
    if found is None or described != wanted:
        return None
    shapes = [(wanted.samples, wanted.channels, side, side) for side in (wanted.side, wanted.coarse)]
    whole = [found.fine.shape, found.coarse.shape] == shapes and found.fine.dtype == found.coarse.dtype == np.uint8
    return found if whole else None


def _read(folder: Path) -> tuple[DecodedDescription | None, DecodedPictures | None]:
    """What the run holds, of whatever images; None twice when it holds nothing that can be read."""
    said, fine, coarse = _files(folder)
    try:
        described = parse(DecodedDescription, read_json(said, SearchIndexError, ""), str(said))
        return described, DecodedPictures(
            *(np.load(path, mmap_mode="r", allow_pickle=False) for path in (fine, coarse))
        )
    except (ForebearError, OSError, ValueError):
        return None, None


def _known(
    folder: Path, wanted: DecodedDescription, ids: NDArray[np.str_]
) -> tuple[NDArray[np.int64], DecodedPictures | None]:
    """Rows int64[N] of pictures that were decoded for other images of this run, removed or added to since; -1: none."""
    nothing = np.full(len(ids), -1, np.int64)
    described, found = _read(folder)
    alike = described is not None and replace(described, dataset=wanted.dataset, samples=wanted.samples) == wanted
    try:
        old = np.load(folder / IDS_FILE, allow_pickle=False)
    except (OSError, ValueError):
        return nothing, None
    if found is None or not alike or not len(old) == len(found.fine) == len(found.coarse):
        return nothing, None
    places = {name: row for row, name in enumerate(old.tolist())}
    return np.array([places.get(name, -1) for name in ids.tolist()], np.int64), found


def _made(folder: Path, wanted: DecodedDescription, training_set: TrainingSet, size: int) -> DecodedPictures:
    fine, coarse = (
        np.empty((wanted.samples, wanted.channels, side, side), np.uint8) for side in (wanted.side, wanted.coarse)
    )
    ids = np.array(training_set.samples.column("id").to_pylist())
    known, before = _known(folder, wanted, ids)
    for first in range(0, wanted.samples, BLOCK_ROWS):
        rows = np.arange(first, min(first + BLOCK_ROWS, wanted.samples))
        old = rows[known[rows] >= 0]
        if before is not None and len(old):
            fine[old], coarse[old] = before.fine[known[old]], before.coarse[known[old]]
        new = rows[known[rows] < 0]
        if len(new):
            pixels = pooled(training_set.pixels(new.tolist(), size, wanted.channels), wanted.side)
            fine[new], coarse[new] = to_levels(pixels), to_levels(pooled(pixels, wanted.coarse))
    said, *paths = _files(folder)
    with suppress(OSError):  # a run on a read-only disk answers all the same
        said.unlink(missing_ok=True)
        for path, array in zip((*paths, folder / IDS_FILE), (fine, coarse, ids), strict=True):
            with whole_file(path) as part, part.open("wb") as handle:
                np.save(handle, array)
        write_json(said, plain(wanted))
    return DecodedPictures(fine, coarse)
