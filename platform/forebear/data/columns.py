"""Which columns of a source carry the caption, the class label and the groups."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.errors import DataError

CAPTION_NAMES = ("caption", "text", "prompt")
"""Column names that are taken for the caption when none is chosen."""


@dataclass(frozen=True, config=STRICT)
class Columns:
    """Names of the columns to read from metadata or Parquet."""

    caption_column: str | None = None
    """Column with the caption; by default the first of `caption`, `text`, `prompt` that exists."""
    label_column: str | None = None
    """Integer column with the class label, for class-conditional models; a negative label means unlabelled."""
    group_columns: tuple[str, ...] = ()
    """Columns that group samples for totals: artist, licence, source, class ..."""

    def check(self, available: Iterable[str], origin: str) -> None:
        """Raise DataError when a chosen column is not among those available."""
        present = set(available)
        chosen = [name for name in (self.caption_column, self.label_column, *self.group_columns) if name]
        for name in chosen:
            if name not in present:
                offered = ", ".join(sorted(present)) or "none"
                raise DataError(f"{origin} has no column {name!r}; choose among: {offered}")

    def caption(self, line: Mapping[str, Any]) -> str:
        names = (self.caption_column,) if self.caption_column else CAPTION_NAMES
        return next((str(line[name]) for name in names if line.get(name) is not None), "")

    def label(self, line: Mapping[str, Any]) -> int | None:
        value = line.get(self.label_column) if self.label_column else None
        if value is None or value == "":
            return None
        try:
            label = int(value)
            whole = label == float(value)
        except (ValueError, TypeError, OverflowError):
            whole = False
        if not whole:
            raise DataError(
                f"column {self.label_column!r} holds {value!r}; class labels must be whole numbers, "
                "use it as a group column instead"
            )
        return label if label >= 0 else None

    def groups(self, line: Mapping[str, Any]) -> dict[str, str]:
        return {name: str(line[name]) for name in self.group_columns if line.get(name) not in (None, "")}
