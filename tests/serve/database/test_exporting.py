"""Exports: every value comes back, spreadsheets compute nothing, deny lists are read by those who take them."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebear.cli.sample_ids import read_ids
from forebear_serve.database import AttributionEvidence, Review, Verdict
from forebear_serve.database.exporting import (
    FORMULA_STARTS,
    SCHEMA,
    csv_lines,
    deny_json,
    deny_text,
    write_csv,
    write_parquet,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TIME = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
FINITE = st.floats(allow_nan=False, allow_infinity=False)
REVIEWS = st.lists(
    st.builds(
        Review,
        id=st.integers(1, 2**40),
        version=st.integers(1, 9),
        run=TEXT,
        sample_id=TEXT | st.sampled_from(["=1+1", "'=1", "@SUM(A1)", "-1", "\uff1d1", "\r\n=1"]),
        picture_id=TEXT,
        verdict=st.none() | st.sampled_from(Verdict),
        note=TEXT,
        groups=st.dictionaries(TEXT, TEXT, max_size=2),
        attribution=st.none() | st.builds(AttributionEvidence, TEXT, TEXT, FINITE, st.integers(1, 99)),
        creator=TEXT,
        reviewer=st.none() | TEXT,
        created=TIME,
        changed=TIME,
    ),
    max_size=5,
)


def cells(text: str) -> list[dict[str, str]]:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == SCHEMA.names
    assert all(len(row) == len(SCHEMA) for row in rows)
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def plain(cell: str) -> str:
    return cell.removeprefix("'")


@given(reviews=REVIEWS)
def test_csv_gives_every_text_back_and_no_cell_is_a_formula(reviews: list[Review]) -> None:
    text = "".join(csv_lines(reviews))
    assert text.endswith("\r\n")
    found = cells(text)
    assert len(found) == len(reviews)
    for row, review in zip(found, reviews, strict=True):
        assert plain(row["sample_id"]) == review.sample_id
        assert plain(row["note"]) == review.note
        assert plain(row["reviewer"]) == (review.reviewer or "")
        assert json.loads(row["groups"]) == review.groups
        assert datetime.fromisoformat(row["changed"]) == review.changed
        if review.attribution is not None:
            assert float(row["score"]) == review.attribution.score
            assert plain(row["fingerprint"]) == review.attribution.fingerprint
        for name, cell in row.items():
            assert name == "score" or not cell.startswith(tuple(FORMULA_STARTS))


@settings(max_examples=30)
@given(reviews=REVIEWS)
def test_parquet_holds_every_value(tmp_path_factory: pytest.TempPathFactory, reviews: list[Review]) -> None:
    path = tmp_path_factory.mktemp("export") / "reviews.parquet"
    write_parquet(path, reviews)
    table = pq.read_table(path)
    assert table.schema == SCHEMA
    for row, review in zip(table.to_pylist(), reviews, strict=True):
        evidence = review.attribution or AttributionEvidence(None, None, None, None)  # type: ignore[arg-type]
        back = Review(
            **{name: row[name] for name in row if name not in ("state", "fingerprint", "estimator", "score", "rank")}
            | {"groups": dict(row["groups"]), "attribution": review.attribution}
        )
        assert back == review
        assert row["state"] == review.state
        assert AttributionEvidence(row["fingerprint"], row["estimator"], row["score"], row["rank"]) == evidence


def test_an_export_is_a_list_of_samples_too(tmp_path: Path) -> None:
    """`store remove --ids-file` and the deny options read the column sample_id, whatever notes hold."""
    now = datetime.now(UTC)
    first = Review(1, 1, "demo", "a", "", Verdict.REMOVE, 'two\r\nlines, "quoted"', {}, None, "ana", "bob", now, now)
    reviews = [first, replace(first, id=2, sample_id="b", note="=1")]
    write_csv(tmp_path / "reviews.csv", reviews)
    write_parquet(tmp_path / "reviews.parquet", reviews)
    (tmp_path / "deny.txt").write_text(deny_text(["a", "b"]))
    (tmp_path / "deny.json").write_text(deny_json(["a", "b"]))
    for path in tmp_path.iterdir():
        assert read_ids(path) == ["a", "b"], path
    assert (tmp_path / "reviews.csv").read_bytes().decode("utf-8") == "".join(csv_lines(reviews))
    assert deny_text([]) == ""


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("before")

    def broken():
        yield from ()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_csv(path, broken())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
