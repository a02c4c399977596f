"""Reviews as files: CSV for spreadsheets, Parquet for programs, deny lists for `forebear train` and others."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forebear.files import whole_file
from forebear_serve.database.review import Review

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("picture_id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        ("verdict", pa.string()),
        pa.field("note", pa.string(), nullable=False),
        pa.field("groups", pa.map_(pa.string(), pa.string()), nullable=False),
        ("fingerprint", pa.string()),
        ("estimator", pa.string()),
        ("score", pa.float64()),
        ("rank", pa.int32()),
        pa.field("creator", pa.string(), nullable=False),
        ("reviewer", pa.string()),
        pa.field("created", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("changed", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""The columns of an export, in Parquet's types; CSV has the same, groups as JSON and times as ISO 8601."""
ROWS = 10_000
"""Rows of a Parquet row group."""
FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""What makes a spreadsheet take a cell for a formula, also in full width."""
DENY_FORMAT = "forebear-deny-list"


def csv_lines(reviews: Iterable[Review]) -> Iterator[str]:
    """The lines of a CSV file (RFC 4180), the header first; a note may hold line breaks, and so may its line.

    Text that a spreadsheet would compute gets an apostrophe in front, and so does text that begins with one: taking
    one leading apostrophe away gives every text back.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(SCHEMA.names)
    for review in reviews:
        yield _taken(buffer)
        values = _values(review)
        values["groups"] = json.dumps(values["groups"], ensure_ascii=False, sort_keys=True)
        for name in ("created", "changed"):
            values[name] = values[name].isoformat()
        writer.writerow([_harmless(values[name]) for name in SCHEMA.names])
    yield _taken(buffer)


def write_csv(path: Path, reviews: Iterable[Review]) -> None:
    """UTF-8, without a byte order mark."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as handle:
        handle.writelines(csv_lines(reviews))


def write_parquet(path: Path, reviews: Iterable[Review]) -> None:
    """The columns of SCHEMA, which hold every value exactly."""
    rest = iter(reviews)
    with whole_file(path) as part, pq.ParquetWriter(part, SCHEMA) as writer:
        while rows := [_values(review) for review in islice(rest, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def deny_text(sample_ids: Sequence[str]) -> str:
    """A sample id a line."""
    return "".join(f"{one}\n" for one in sample_ids)


def deny_json(sample_ids: Sequence[str]) -> str:
    """The same as a JSON object that says what it is."""
    content = {"format": DENY_FORMAT, "format_version": 1, "sample_ids": list(sample_ids)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _values(review: Review) -> dict[str, Any]:
    found = review.attribution
    return {
        "id": review.id,
        "version": review.version,
        "run": review.run,
        "sample_id": review.sample_id,
        "picture_id": review.picture_id,
        "state": review.state,
        "verdict": review.verdict,
        "note": review.note,
        "groups": dict(review.groups),
        "fingerprint": found.fingerprint if found else None,
        "estimator": found.estimator if found else None,
        "score": found.score if found else None,
        "rank": found.rank if found else None,
        "creator": review.creator,
        "reviewer": review.reviewer,
        "created": review.created,
        "changed": review.changed,
    }


def _harmless(value: Any) -> Any:
    """Numbers as they are: -0.5 is no formula."""
    if not isinstance(value, str) or not value.startswith(("'", *FORMULA_STARTS)):
        return value
    return f"'{value}"


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
