"""From a configuration to a training set."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.data.columns import Columns
from forebear.data.digits import DigitsSource
from forebear.data.folder import FolderSource
from forebear.data.openmoji import OpenMojiSource
from forebear.data.parquet import ParquetSource
from forebear.data.sample import Sample
from forebear.data.training_set import Source, TrainingSet
from forebear.errors import ConfigError, DataError


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which images a model was, or is to be, trained on."""

    source: str
    """`openmoji`, `digits`, a folder of images, or a Parquet file, folder or glob pattern."""
    columns: Columns = field(default_factory=Columns)
    """Caption, label and group columns, for folders with metadata and for Parquet."""
    image_column: str = "image"
    """The image column of Parquet files."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keep only samples whose group has one of the listed values, for example {skin_tone: [none, dark]}."""
    limit: int | None = None
    """Keep at most this many samples, the first ones by id (a stable, unbiased choice)."""
    max_bytes: int = 64_000_000
    """Larger image files are quarantined."""

    def __post_init__(self) -> None:
        """Refuse limits that leave nothing."""
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit is {self.limit}; give at least 1, or leave it out to keep every sample")
        if self.max_bytes < 1:
            raise ConfigError(f"data.max_bytes is {self.max_bytes}; give at least 1")


def open_training_set(config: DataConfig) -> TrainingSet:
    """Scan the source and return its usable samples.

    `where` is applied before `limit`, and neither changes the id or the order of what is kept.
    Raises DataError when the source does not exist, a named column or group is missing, or nothing usable is left.
    """
    samples, quarantined = (source := _source(config)).scan()
    samples = _filtered(samples, config.where)
    if config.limit is not None and len(samples) > config.limit:
        first = {sample.id for sample in sorted(samples, key=lambda sample: sample.id)[: config.limit]}
        samples = [sample for sample in samples if sample.id in first]
    if not samples:
        example = f", for example {quarantined[0].locator}: {quarantined[0].reason}" if quarantined else ""
        raise DataError(
            f"{config.source} holds no usable image ({len(quarantined)} quarantined{example}); "
            "check the path, the file types and the `where` filter"
        )
    return TrainingSet(source, samples, quarantined)


def _filtered(samples: list[Sample], where: Mapping[str, tuple[str, ...]]) -> list[Sample]:
    for name, values in where.items():
        present = {sample.groups[name] for sample in samples if name in sample.groups}
        unknown = [value for value in values if value not in present]
        if unknown:
            offered = ", ".join(sorted(present)[:20]) or "this group does not exist"
            raise DataError(f"where: group {name!r} has no value {unknown[0]!r}; its values are: {offered}")
        samples = [sample for sample in samples if sample.groups.get(name) in values]
    return samples


def _source(config: DataConfig) -> Source:
    if config.source == "openmoji":
        return OpenMojiSource()
    if config.source == "digits":
        return DigitsSource()
    path = Path(config.source).expanduser()
    if paths := _parquet_files(path):
        return ParquetSource(paths, config.image_column, config.columns, config.max_bytes)
    if path.is_dir():
        return FolderSource(path, config.columns, config.max_bytes)
    raise DataError(f"{config.source} does not exist; give `openmoji`, `digits`, a folder of images, or Parquet files")


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        # A clone of a Hugging Face dataset keeps its files in data/; metadata.parquet belongs to a folder of images.
        found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        return [file for file in found if file.name != "metadata.parquet"]
    return sorted(path.parent.glob(path.name)) if any(mark in path.name for mark in "*?[") else []
