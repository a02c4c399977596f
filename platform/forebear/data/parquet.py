"""Parquet files in the Hugging Face image layout: an image struct of bytes and path, and plain columns."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from forebear.data.columns import Columns
from forebear.data.sample import Quarantined, Sample, sample_id
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode


class ParquetSource:
    """Rows of one or more Parquet files, read in row groups.

    The image column is a struct with `bytes` (and `path`), or plain binary. Class label columns become their names
    where the Hugging Face schema carries them.
    """

    def __init__(self, paths: list[Path], image_column: str, columns: Columns, max_bytes: int) -> None:
        self._paths, self._image_column, self._columns, self._max_bytes = paths, image_column, columns, max_bytes

    def scan(self) -> tuple[list[Sample], list[Quarantined]]:
        samples: list[Sample] = []
        quarantined: list[Quarantined] = []
        seen: Counter[str] = Counter()
        for number, path in enumerate(self._paths):
            handle = _open(path)
            schema = handle.schema_arrow
            plain = [name for name in schema.names if self._is_plain(schema, name)]
            self._columns.check(plain, str(path))
            if self._image_column not in schema.names:
                raise DataError(
                    f"{path} has no image column {self._image_column!r}; choose among: {', '.join(schema.names)}"
                )
            class_names = _class_names(schema)
            for group in range(handle.num_row_groups):
                for row, line in enumerate(_read(handle, path, group, [self._image_column, *plain]).to_pylist()):
                    locator = f"{number}:{group}:{row}"
                    try:
                        samples.append(self._sample(line, locator, class_names, seen))
                    except UnreadableImage as reason:
                        quarantined.append(Quarantined(f"{path.name}, row group {group}, row {row}", str(reason)))
        return samples, quarantined

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - rows have their own size
        number, group, row = (int(part) for part in sample.locator.split(":"))
        path = self._paths[number]
        try:
            column = _image_column(path, path.stat().st_mtime_ns, group, self._image_column)
            return decode(_content(column[row].as_py())[1])
        except (UnreadableImage, IndexError, OSError) as reason:
            raise DataError(
                f"{path}, row group {group}, row {row} was readable and is not any more ({reason}); "
                "restore the file or scan again"
            ) from None

    def _is_plain(self, schema: pa.Schema, name: str) -> bool:
        kind = schema.field(name).type
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return name != self._image_column and not binary and not pa.types.is_nested(kind)

    def _sample(
        self, line: Mapping[str, Any], locator: str, class_names: Mapping[str, list[str]], seen: Counter[str]
    ) -> Sample:
        name, content = _content(line[self._image_column])
        if len(content) > self._max_bytes:
            raise UnreadableImage(f"{len(content):,} bytes, more than {self._max_bytes:,}")
        decode(content)
        stem = sample_id(name, content)
        seen[stem] += 1
        named = {key: _class_name(line.get(key), names) for key, names in class_names.items()}
        return Sample(
            # The same bytes under the same name more than once: equal rows, told apart by how often they occurred.
            id=stem if seen[stem] == 1 else sample_id(f"{name}#{seen[stem]}", content),
            locator=locator,
            caption=self._columns.caption(line),
            label=self._columns.label(line),
            groups=self._columns.groups({**line, **named}),
        )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as broken:
        raise DataError(f"{path} is not a readable Parquet file ({broken}); replace or remove it") from None


def _read(handle: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> pa.Table:
    try:
        return handle.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError) as broken:
        raise DataError(f"{path}, row group {group} is damaged ({broken}); replace or remove the file") from None


def _content(value: Any) -> tuple[str, bytes]:
    """Name and bytes of an image cell."""
    if isinstance(value, dict):
        return str(value.get("path") or ""), value.get("bytes") or b""
    return "", value or b""


@lru_cache(maxsize=4)
def _image_column(path: Path, changed: int, group: int, name: str) -> pa.ChunkedArray:  # noqa: ARG001
    # `changed` is the file's time of change: a rewritten file is read again.
    return _read(_open(path), path, group, [name]).column(name)


def _class_name(value: Any, names: list[str]) -> Any:
    """The name of a class number; None for a number without a name: -1 means unlabelled."""
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of ClassLabel columns, from the schema metadata that Hugging Face datasets writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError):
        return {}
