"""Is a training picture found again when it, or an altered copy of it, is the query?

The answer is known by construction, so this tests an estimator without any retraining: recall@k and mean reciprocal
rank of the one right sample.
"""

import colorsys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.attribution.query import EmbeddedQuery
from forebear.config import STRICT, plain
from forebear.errors import ConfigError
from forebear.evaluation.asking import training_queries, training_rows
from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.evaluation.figures import Figure, Result, check_name, write_result
from forebear.evaluation.metrics import first_ranks, recall_at_k, reciprocal_ranks
from forebear.images import to_picture, to_pixels
from forebear.run import Run

Transform = Literal["copy", "flip", "crop", "hue", "brightness"]
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]
ALIKE = 1e-3
"""A changed picture differs from its source by more than this on average, or it is only a copy."""


@dataclass(frozen=True, config=STRICT)
class TracingConfig:
    """Which pictures are asked for, and how they are altered."""

    queries: Annotated[int, Field(ge=2)] = 100
    """Training pictures chosen by key; each is asked for once under every transform."""
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = get_args(Transform)
    """`copy` leaves it as it is, `flip` mirrors it left to right, `crop` enlarges its middle, `hue` and `brightness`
    recolour it. `hue` is left out for grey pictures."""
    crop: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Side of the middle that `crop` keeps, as a share of the picture's."""
    hue: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Turn of the colour circle."""
    brightness: Annotated[float, Field(gt=0)] = 0.7
    """Factor on every level, from black."""
    recall_at: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 10)
    """k: the source counts as found among so many first images."""
    estimators: tuple[str, ...] = ()
    """Empty: all that the store serves. The baselines `pixel` and `random` are always added."""
    seed: int = 0
    """Of the choice of pictures."""


def run_tracing(run: Run, config: TracingConfig, name: str = "tracing") -> Result:
    """Evaluate and write RUN/evaluation/NAME. Embedded queries are kept: the same call goes on where it stopped.

    The query keeps its source's caption and label. Raises ConfigError for more queries than training images, or when no
    transform is left, and what EvaluatedRun raises.
    """
    check_name(name)
    evaluated = EvaluatedRun.open(run)
    estimators = evaluated.estimators(config.estimators)
    transforms = _transforms(config, evaluated.model.image_channels)
    rows = training_rows(evaluated, config.queries, "tracing", config.seed)
    sources = training_queries(evaluated, rows)
    relevant = np.zeros((len(rows), len(evaluated.training_set)), np.bool_)
    relevant[np.arange(len(rows)), rows] = True
    figures: list[Figure] = []
    details: list[pa.Table] = []
    changes: dict[str, float] = {}
    embedded: list[EmbeddedQuery] = []
    for label, transform in transforms.items():
        asked = [Asked(f"{one.id}-{label}", transform(one.pixels), one.caption, one.label) for one in sources]
        changes[label] = float(
            np.mean([np.abs(a.pixels - s.pixels).mean() for a, s in zip(asked, sources, strict=True)])
        )
        embedded = evaluated.embed(asked, estimators)
        for estimator in estimators:
            ranks = first_ranks(evaluated.scores(estimator, embedded), relevant)
            figures += tracing_figures(estimator, label, ranks, config.recall_at)
            details.append(
                pa.table(
                    {
                        "estimator": [estimator] * len(ranks),
                        "transform": [label] * len(ranks),
                        "sample_id": [one.id for one in sources],
                        "rank": ranks,
                    }
                )
            )
    facts: dict[str, Any] = evaluated.facts(embedded, estimators) | {
        "mean_change": changes,
        "twins": twins(evaluated, rows),
        "unchanged": [label for label, change in changes.items() if label != "copy" and change < ALIKE],
    }
    result = Result("tracing", name, plain(config), tuple(figures), facts)
    write_result(run, result, pa.concat_tables(details))
    return result


def tracing_figures(
    estimator: str, transform: str, ranks: NDArray[np.float64], recall_at: tuple[int, ...]
) -> list[Figure]:
    """recall@k and MRR from the ranks float64[Q] of the right samples."""
    recalls = [Figure.mean(estimator, f"recall@{k}", recall_at_k(ranks, k), transform) for k in recall_at]
    return [*recalls, Figure.mean(estimator, "MRR", reciprocal_ranks(ranks), transform)]


def twins(evaluated: EvaluatedRun, rows: list[int]) -> int:
    """How many of the rows have another training picture with equal pixels, which no estimator can tell from them."""
    digests: dict[bytes, int] = {}
    keys = [evaluated.pixels(row).tobytes() for row in range(len(evaluated.training_set))]
    for key in keys:
        digests[key] = digests.get(key, 0) + 1
    return sum(digests[keys[row]] > 1 for row in rows)


def flipped(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mirrored left to right: float32[C, H, W]."""
    return np.ascontiguousarray(pixels[..., ::-1])


def cropped(pixels: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """The middle `side` of each dimension, enlarged to the whole again: float32[C, H, W]."""
    channels, height, width = pixels.shape
    picture = to_picture(pixels)
    left, top = width * (1 - side) / 2, height * (1 - side) / 2
    box = (left, top, width - left, height - top)
    enlarged = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return to_pixels(enlarged, width, channels)


def hue_turned(pixels: NDArray[np.float32], turn: float) -> NDArray[np.float32]:
    """Every pixel's hue turned by a share of the colour circle, saturation and value kept: float32[3, H, W]."""
    levels = np.clip((pixels + 1.0) / 2.0, 0.0, 1.0).astype(np.float64)
    flat = levels.reshape(3, -1).T  # [H * W, 3]
    turned = []
    for red, green, blue in flat:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        turned.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    return (np.array(turned).T.reshape(levels.shape) * 2.0 - 1.0).astype(np.float32)


def brightened(pixels: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Levels from black times a factor, clipped at white: float32[C, H, W]."""
    return np.asarray(np.clip((pixels + 1.0) * factor - 1.0, -1.0, 1.0), np.float32)


def _transforms(config: TracingConfig, channels: int) -> Mapping[Transform, Change]:
    known: dict[Transform, Change] = {
        "copy": lambda pixels: pixels,
        "flip": flipped,
        "crop": lambda pixels: cropped(pixels, config.crop),
        "hue": lambda pixels: hue_turned(pixels, config.hue),
        "brightness": lambda pixels: brightened(pixels, config.brightness),
    }
    chosen = {label: known[label] for label in config.transforms if label != "hue" or channels == 3}
    if not chosen:
        raise ConfigError("grey pictures have no hue to turn; name other transforms")
    return chosen
