"""Is the query a near copy of a training image?

The nearest training image is found by several measures: by pixels, by pixels with mirroring and small moves allowed
(`nearest`), and by the cosine of gradients where the query was measured as the store's samples were. How near is near
is told by the training images themselves: a keyed set of them is compared with all others, and a query is a near copy
when it is nearer than the given quantile (1 %) of them are to their own nearest neighbours. A picture that the model
made up is, like a picture that it was never shown, about as far from its neighbour as they are from theirs; it is
flagged with about the probability of the quantile. References that have an exact copy in the training set are left out:
they would call every copy ordinary.
"""

from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from forebear.attribution.answer import Memorisation, NearestImage
from forebear.attribution.auditing import AuditConfig, reference_rows
from forebear.attribution.calibration import Calibration
from forebear.attribution.decoded import DecodedPictures
from forebear.attribution.nearest import DESCRIPTIONS, MEASURES, PixelMeasure, nearest
from forebear.config import STRICT, parse, plain
from forebear.data import TrainingSet
from forebear.errors import ForebearError, SearchIndexError
from forebear.files import read_json, write_json
from forebear.run import Run

SAME = 1.0 / 255.0
"""Distance up to which two pictures are one: a level of 8 bits."""


@dataclass(frozen=True, config=STRICT)
class NeighbourDescription:
    """What RUN/calibration/neighbours.json says: how far training images are from their nearest neighbours."""

    dataset: str
    """Fingerprint of the training set."""
    shape: tuple[int, ...]
    """Channels and side of the decoded pictures, and the side of the coarse ones."""
    seed: int
    """Of the choice of references."""
    references: tuple[int, ...]
    """Rows of the M training images that were compared with all others, rising."""
    distances: dict[str, tuple[float, ...]]
    """[M] by measure; infinite where there is no other image."""


@plain_dataclass(frozen=True)
class GradientNearest:
    """The gradient measure of one query, where it has one."""

    estimator: str
    scores: NDArray[np.float32]
    """float32[N]."""
    weight: float
    """Sum of the checkpoints' weights: the score of equal gradients."""
    calibration: Calibration
    """With the same references as the pixel measures."""


class CopyDetector:
    """Searches a training set for what a query may be a copy of."""

    def __init__(self, run: Run, training_set: TrainingSet, channels: int, size: int, audit: AuditConfig) -> None:
        self._training_set, self._audit = training_set, audit
        self._pictures = DecodedPictures.of(run, training_set, channels, size)
        self._neighbours = _neighbours(run, training_set, self._pictures, audit)

    def examine(self, pixels: NDArray[np.float32], gradients: GradientNearest | None = None) -> Memorisation:
        """Compare a query float32[C, S, S] in [-1, 1] with every training image."""
        found = []
        for measure in MEASURES:
            best = nearest(self._pictures, pixels[None], measure)
            usual = self._usual(measure)
            usual = usual[np.isfinite(usual) & (usual > SAME)]
            value = float(best.distances[0])
            found.append(self._judged(measure, DESCRIPTIONS[measure], int(best.rows[0]), value, usual, nearer=-1))
        if gradients is not None:
            row = int(np.argmax(gradients.scores))
            usual = np.array(gradients.calibration.description.nearest) / gradients.weight  # [M]
            single = self._usual("pixel")
            usual = usual[np.isfinite(single) & (single > SAME)]
            value = float(gradients.scores[row]) / gradients.weight
            found.append(self._judged(gradients.estimator, "cosine of the loss gradients", row, value, usual, nearer=1))
        return Memorisation(
            near_copy=any(one.near_copy for one in found),
            nearest=tuple(found),
            references=len(self._neighbours.references),
            quantile=self._audit.copy_quantile,
        )

    def _usual(self, measure: PixelMeasure) -> NDArray[np.float64]:
        """The references' distances from their own nearest neighbours: float64[M]."""
        return np.array(self._neighbours.distances[measure])

    def _judged(
        self, measure: str, description: str, row: int, value: float, usual: NDArray[np.float64], *, nearer: int
    ) -> NearestImage:
        """`usual` float64[M]: the references' own; `nearer` is 1 when a larger value is nearer, else -1."""
        sample = self._training_set.samples[row]
        threshold = closer_than = None
        if len(usual):
            ends = nearer * np.quantile(nearer * usual, 1 - self._audit.copy_quantile)
            threshold = float(ends)
            closer_than = float(100.0 * (nearer * usual < nearer * value).mean())
        beyond = threshold is not None and nearer * value > nearer * threshold
        same = nearer < 0 and value <= SAME
        return NearestImage(
            measure=measure,
            description=description,
            row=row,
            sample_id=sample.id,
            caption=sample.caption,
            value=value,
            similarity=nearer > 0,
            threshold=threshold,
            closer_than=closer_than,
            references=len(usual),
            near_copy=beyond or same,
        )


def _neighbours(
    run: Run, training_set: TrainingSet, pictures: DecodedPictures, audit: AuditConfig
) -> NeighbourDescription:
    """The references' distances, from the run, or computed and kept there."""
    file = run.folder / "calibration" / "neighbours.json"
    rows = reference_rows(len(training_set), audit.references, audit.seed)
    shape = (*pictures.fine.shape[1:3], pictures.coarse.shape[-1])
    wanted = NeighbourDescription(training_set.fingerprint, shape, audit.seed, rows, {})
    known = _kept(file)
    if known is not None and replace(known, distances={}) == wanted and set(known.distances) == set(MEASURES):
        return known
    index = np.array(rows, np.int64)
    queries = pictures.fine[index].astype(np.float32) / 127.5 - 1.0
    distances: dict[str, tuple[float, ...]] = {
        name: tuple(nearest(pictures, queries, name, itself=index).distances.tolist()) for name in MEASURES
    }
    made = replace(wanted, distances=distances)
    with suppress(OSError):  # a run on a read-only disk answers all the same
        write_json(file, plain(made))
    return made


def _kept(file: Path) -> NeighbourDescription | None:
    try:
        return parse(NeighbourDescription, read_json(file, SearchIndexError, ""), str(file))
    except ForebearError:
        return None
