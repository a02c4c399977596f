"""From a configuration to a training set."""

from collections.abc import Mapping
from dataclasses import field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.data.catalogue import Samples
from forebear.data.catalogue_cache import catalogue_of
from forebear.data.columns import Columns
from forebear.data.digits import DigitsSource
from forebear.data.locating import file_source
from forebear.data.openmoji import OpenMojiSource
from forebear.data.training_set import Source, TrainingSet
from forebear.errors import ConfigError, DataError


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which images a model was, or is to be, trained on."""

    source: str
    """`openmoji`, `digits`, a folder of images, or Parquet files, WebDataset tars, or a directory that Hugging Face's
    `save_to_disk` wrote: a file, a folder, or a pattern (`train-*.parquet`, `shard-{0000..0099}.tar`); on a disk or in
    an object store (`s3://bucket/prefix`)."""
    columns: Columns = field(default_factory=Columns)
    """Caption, label and group columns, for folders with metadata and for Parquet."""
    image_column: str = "image"
    """The image column of Parquet and Arrow files; in tars, the suffix of the picture where a sample has several."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keep only samples whose group has one of the listed values, for example {skin_tone: [none, dark]}."""
    limit: int | None = None
    """Keep at most this many samples, the first ones by id (a stable, unbiased choice)."""
    deny: tuple[str, ...] | None = None
    """Leave out the samples of these ids, such as those that reviewers rejected (`forebear train --deny FILE` reads
    them from a file). No other sample fills up `limit` in their place; ids that are not there do no harm."""
    max_bytes: int = 64_000_000
    """Larger image files are quarantined."""

    def __post_init__(self) -> None:
        """Refuse limits that leave nothing."""
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit is {self.limit}; give at least 1, or leave it out to keep every sample")
        if self.max_bytes < 1:
            raise ConfigError(f"data.max_bytes is {self.max_bytes}; give at least 1")


def open_training_set(config: DataConfig) -> TrainingSet:
    """Scan the source, or open the catalogue that an earlier scan of the same files left, and return what is usable.

    `where` is applied before `limit` and `limit` before `deny`; none changes the id or the order of what is kept.
    Raises DataError when the source does not exist, a named column or group is missing, or nothing usable is left.
    """
    source = _source(config)
    settings = {"columns": plain(config.columns), "image_column": config.image_column, "max_bytes": config.max_bytes}
    catalogue = catalogue_of(source, config.source, settings)
    samples, quarantined = _filtered(catalogue.samples, config.where), catalogue.quarantined
    if config.limit is not None:
        samples = samples.first_by_id(config.limit)
    if config.deny:
        denied = pc.is_in(samples.column("id"), pa.array(config.deny, pa.string())).to_numpy()
        samples = samples.of_rows(np.flatnonzero(~denied))
    if not len(samples):
        example = f", for example {quarantined[0].locator}: {quarantined[0].reason}" if len(quarantined) else ""
        raise DataError(
            f"{config.source} holds no usable image ({len(quarantined)} quarantined{example}); "
            "check the path, the file types, the `where` filter and the `deny` list"
        )
    return TrainingSet(source, samples, quarantined)


def _filtered(samples: Samples, where: Mapping[str, tuple[str, ...]]) -> Samples:
    for name, values in where.items():
        column = samples.group(name)
        present = set(pc.unique(column).to_pylist()) - {None}
        unknown = [value for value in values if value not in present]
        if unknown:
            offered = ", ".join(sorted(present)[:20]) or "this group does not exist"
            raise DataError(f"where: group {name!r} has no value {unknown[0]!r}; its values are: {offered}")
        kept = pc.is_in(column, pa.array(values, pa.string())).to_numpy()
        samples = samples.of_rows(np.flatnonzero(kept))
    return samples


def _source(config: DataConfig) -> Source:
    if config.source == "openmoji":
        return OpenMojiSource()
    if config.source == "digits":
        return DigitsSource()
    return file_source(config.source, config.image_column, config.columns, config.max_bytes)
