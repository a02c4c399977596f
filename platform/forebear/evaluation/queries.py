"""The queries of an evaluation: held-out pictures, and pictures that the run's own model makes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.sampling import generate
from forebear.errors import ConfigError, StoreError
from forebear.evaluation.lds_config import GeneratedConfig, ValidationConfig
from forebear.files import whole_file
from forebear.randomness import keyed_permutation

QueryKind = Literal["validation", "generated"]

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("tuning", pa.bool_()),
        ("caption", pa.string()),
        ("label", pa.int64()),
    ]
)
TABLE, PIXELS = "queries.parquet", "queries.npy"
AT_ONCE = 50
"""Pictures that are generated at a time."""


@dataclass(frozen=True)
class Query:
    """What is known of a query apart from its pixels."""

    id: str
    """The sample id of a held-out picture, `generated-00042` of one that the model made with seed 42."""
    kind: QueryKind
    tuning: bool
    """Whether settings are chosen on it, and it is therefore left out of what is reported."""
    caption: str
    label: int | None


@dataclass(frozen=True)
class Queries:
    """Q queries."""

    table: tuple[Query, ...]
    pixels: NDArray[np.float32]
    """float32[Q, C, H, W] in [-1, 1], of the model's size."""

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, kind: QueryKind, *, tuning: bool = False) -> NDArray[np.int64]:
        """The rows of the reported queries of a kind, or of those on which settings are chosen: int64[n]."""
        found = [row for row, query in enumerate(self.table) if (query.kind, query.tuning) == (kind, tuning)]
        return np.array(found, np.int64)


def held_out(config: ValidationConfig, own: DataConfig, training_set: TrainingSet) -> TrainingSet:
    """All samples of the validation data that are not trained on; raises ConfigError when there are too few."""
    source = config.data or replace(own, limit=None)
    found = open_training_set(source).where(lambda sample: sample.id not in training_set.rows)
    if len(found) < config.count:
        raise ConfigError(
            f"validation: {config.count} held-out pictures are asked for, {source.source} has {len(found)} that are "
            "not trained on; ask for fewer, train on fewer (data.limit), or name other pictures (validation.data)"
        )
    return found


def validation_queries(
    config: ValidationConfig, pool: TrainingSet, model: DiffusionModel, seed: int
) -> tuple[list[Query], NDArray[np.float32]]:
    """A random choice of the pool's samples, the first ones of which are for tuning."""
    by_id = sorted(range(len(pool)), key=lambda row: pool.samples[row].id)
    rows = [by_id[place] for place in keyed_permutation(len(pool), "validation", seed)[: config.count]]
    tuning = round(config.tuning * config.count)
    samples = [pool.samples[row] for row in rows]
    table = [Query(s.id, "validation", place < tuning, s.caption, s.label) for place, s in enumerate(samples)]
    return table, pool.pixels(rows, model.image_size, model.image_channels)


def generated_queries(
    config: GeneratedConfig, training_set: TrainingSet, model: DiffusionModel, seed: int
) -> tuple[list[Query], NDArray[np.float32]]:
    """Pictures by the model; class by class in turn where it knows classes, else after random training samples."""
    by_id = sorted(training_set.samples, key=lambda sample: sample.id)
    order = [by_id[place] for place in keyed_permutation(len(by_id), "generated", seed)]
    if model.conditioner.kind == "class":
        first = {sample.label: sample for sample in reversed(order)}  # one of each class
        order = [first[label] for label in sorted(first, key=lambda label: (label is None, label))]
    numbers = range(seed, seed + config.count)
    likes = [order[place % len(order)] for place in range(config.count)]
    table = [
        Query(f"generated-{n:05d}", "generated", False, like.caption, like.label)
        for n, like in zip(numbers, likes, strict=True)
    ]
    pictures = [
        generate(
            model,
            [query.caption for query in table[start : start + AT_ONCE]],
            [query.label for query in table[start : start + AT_ONCE]],
            numbers[start : start + AT_ONCE],
            steps=config.steps,
            guidance=config.guidance,
        )
        for start in range(0, config.count, AT_ONCE)
    ]
    return table, torch.cat(pictures).numpy()


def write_queries(folder: Path, queries: Queries) -> None:
    """The pixels as .npy, then the rest as Parquet: the table is there only when the pixels are."""
    with whole_file(folder / PIXELS) as part, part.open("wb") as handle:
        np.save(handle, queries.pixels)
    with whole_file(folder / TABLE) as part:
        pq.write_table(pa.Table.from_pylist([vars(query) for query in queries.table], schema=SCHEMA), part)


def read_queries(folder: Path) -> Queries:
    """Raises StoreError when they are missing or damaged."""
    try:
        table = pq.read_table(folder / TABLE, schema=SCHEMA).to_pylist()
        pixels = np.load(folder / PIXELS, allow_pickle=False)
    except (pa.ArrowException, OSError, ValueError) as broken:
        raise StoreError(
            f"the queries in {folder} cannot be read ({broken}); remove the folder and run the evaluation again"
        ) from None
    if len(table) != len(pixels):
        raise StoreError(f"{folder} has {len(table)} queries and pixels of {len(pixels)}; remove the folder, run again")
    return Queries(tuple(Query(**line) for line in table), pixels)
