"""Lists of sample ids as verbs take them: options, text, JSON, CSV and Parquet; and the deny lists among them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from forebear.errors import DataError
from forebear.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])

KINDS = "text with one id a line, a JSON list, or CSV or Parquet with a column sample_id"


def ids_file_option(command: Command) -> Command:
    """`--ids-file FILE`."""
    return click.option(
        "--ids-file",
        type=click.Path(path_type=Path),
        help="An id a line, JSON, or CSV or Parquet with a column sample_id.",
    )(command)


def deny_option(command: Command) -> Command:
    """`--deny FILE`."""
    return click.option(
        "--deny",
        type=click.Path(path_type=Path),
        help="Leave out the samples that this deny list names: an id a line, JSON, or CSV or Parquet with a column "
        "sample_id.",
    )(command)


def take_out(run: Run, file: Path) -> None:
    """Take the samples of a deny list out of the run's store, also those that it does not have (yet), and say so."""
    from forebear.store import remove_samples
    from forebear.store.replacing import present

    ids = read_ids(file)
    folder = present(run.store_folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = remove_samples(folder, ids, f"deny list {file.name}")
    click.echo(f"{file}: {len(ids):,} samples are left out of all answers, {len(done):,} of them from now on")


def read_ids(file: Path) -> list[str]:
    """The ids of a list, each once; raises DataError when it cannot be read."""
    import pyarrow as pa

    try:
        values = _values(file)
    except (OSError, ValueError, KeyError, pa.ArrowException) as broken:
        raise DataError(
            f"{file} cannot be read as a list of ids ({str(broken).splitlines()[0]}); give {KINDS}"
        ) from None
    return list(dict.fromkeys(text for value in values if (text := str(value or "").strip())))


def _values(file: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        values: list[Any] = pq.read_table(file, columns=["sample_id"])["sample_id"].to_pylist()
        return values
    if file.suffix == ".csv":
        text = pa.csv.ConvertOptions(column_types={"sample_id": pa.string()}, include_columns=["sample_id"])
        parsed: list[Any] = pa.csv.read_csv(
            file,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=text,
        )["sample_id"].to_pylist()
        return parsed
    content = file.read_text(encoding="utf-8")
    if file.suffix != ".json":
        return content.splitlines()
    listed = json.loads(content)
    ids = listed["sample_ids"] if isinstance(listed, dict) else listed
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError("its JSON is neither a list of texts nor an object with such a list as sample_ids")
    return ids
