"""Arrow rows in the Hugging Face image layout become samples: what Parquet files and Arrow files share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from forebear.data.columns import Columns
from forebear.data.occurrences import Occurrences
from forebear.data.sample import Sample, sample_id
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode


@dataclass(frozen=True)
class Cells:
    """How the columns of a row are read."""

    image_column: str
    """A struct with `bytes` (and `path`), or plain binary."""
    columns: Columns
    max_bytes: int

    def names(self, schema: pa.Schema, origin: str) -> list[str]:
        """The columns to read; raises DataError when the schema lacks one that was chosen."""
        plain = [name for name in schema.names if self._is_plain(schema, name)]
        self.columns.check(plain, origin)
        if self.image_column not in schema.names:
            raise DataError(
                f"{origin} has no image column {self.image_column!r}; choose among: {', '.join(schema.names)}"
            )
        return [self.image_column, *plain]

    def sample(
        self, line: Mapping[str, Any], locator: str, class_names: Mapping[str, Sequence[str]], seen: Occurrences
    ) -> Sample:
        """The sample of a row; raises UnreadableImage when its picture cannot be used."""
        name, content = cell_content(line[self.image_column])
        if len(content) > self.max_bytes:
            raise UnreadableImage(f"{len(content):,} bytes, more than {self.max_bytes:,}")
        decode(content)
        named = {key: _class_name(line.get(key), names) for key, names in class_names.items()}
        return Sample(
            id=distinct_id(name, content, seen),
            locator=locator,
            caption=self.columns.caption(line),
            label=self.columns.label(line),
            groups=self.columns.groups({**line, **named}),
        )

    def _is_plain(self, schema: pa.Schema, name: str) -> bool:
        kind = schema.field(name).type
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return name != self.image_column and not binary and not pa.types.is_nested(kind)


def distinct_id(name: str, content: bytes, seen: Occurrences) -> str:
    """The id of a picture in a source where the same bytes may come under the same name more than once.

    Equal rows are told apart by how often they occurred, not by where.
    """
    stem = sample_id(name, content)
    times = seen.add(stem)
    return stem if times == 1 else sample_id(f"{name}#{times}", content)


def cell_content(value: Any) -> tuple[str, bytes]:
    """Name and bytes of an image cell."""
    if isinstance(value, dict):
        return str(value.get("path") or ""), value.get("bytes") or b""
    return "", value or b""


def _class_name(value: Any, names: Sequence[str]) -> Any:
    """The name of a class number; None for a number without a name: -1 means unlabelled."""
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def class_names_of(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of ClassLabel columns, from the schema metadata that Hugging Face datasets writes."""
    try:
        return class_names(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the ClassLabel columns among Hugging Face features."""
    return {
        name: list(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
