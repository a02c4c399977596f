"""Answers as tables of pandas."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from forebear.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(entries: "Iterable[Any]") -> "DataFrame":
    """A row for each entry of an answer: influences, group totals, samples, reviews, and the like.

    Columns are the entries' fields; what is nested has a name such as `groups.category`. Raises ConfigError where
    pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError("tables need pandas; pip install pandas") from None
    rows = [one.model_dump() if isinstance(one, BaseModel) else asdict(one) for one in entries]
    return pandas.json_normalize(rows)
