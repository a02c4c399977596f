"""Markdown out of plain values: headings, tables, anchors."""

import re
from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """Text as it can stand in a table: one line, bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing when there are no rows."""
    lines = ["".join(f"| {text} " if (text := cell(one)) else "| " for one in row) + "|" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *lines])


def page(*blocks: str) -> str:
    """Blocks with a blank line between them; empty ones are left out."""
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def anchor(heading: str) -> str:
    """The name by which a heading is linked to, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def code(value: object) -> str:
    return f"`{value}`"
