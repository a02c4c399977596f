"""What the database takes: bounded text that every database and every export can hold."""

from unicodedata import category

from forebear_serve.database.errors import InvalidEntryError

BREAKS = "\n\r\t"
UNFIT = ("Cc", "Cs")
"""Control characters, and halves of surrogate pairs, which UTF-8 cannot hold."""
BREAKING = ("Zl", "Zp")
"""Unicode's own line and paragraph breaks."""


def checked_text(name: str, value: str, longest: int, *, empty: bool = False, lines: bool = True) -> str:
    """The text itself.

    Raises InvalidEntryError naming the field when it is empty, too long, or holds control characters or halves of
    surrogate pairs. Line breaks and tabs are for text of several `lines`; other text has no blanks around it either,
    so that a list with one on each line is read back as it was.
    """
    if not value.strip() and not (empty and not value):
        raise InvalidEntryError(f"{name} is empty; give some text")
    if len(value) > longest:
        raise InvalidEntryError(f"{name} has {len(value):,} characters; give at most {longest:,}")
    if bad := next((one for one in value if _is_unfit(one, lines)), None):
        raise InvalidEntryError(f"{name} holds the character U+{ord(bad):04X}, which cannot be kept; leave it out")
    if not lines and value != value.strip():
        raise InvalidEntryError(f"{name} begins or ends with a blank; leave it out")
    return value


def _is_unfit(one: str, lines: bool) -> bool:
    if lines:
        return one not in BREAKS and category(one) in UNFIT
    return category(one) in (*UNFIT, *BREAKING)
