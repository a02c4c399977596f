"""Words of others on our pages: captions, ids and groups come from data sets, so nothing in them may become markup."""

import html
import re

MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:^])")


def plain(text: object) -> str:
    """For widgets and texts that read Markdown: shown as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def escaped(text: object) -> str:
    """For HTML, in text and in attributes."""
    return html.escape(str(text), quote=True)


def percent(part: float) -> str:
    """A part of 1 as percent, with a decimal where it matters."""
    value = 100 * part
    return f"{value:.1f} %" if value < 10 else f"{value:.0f} %"


def score(value: float) -> str:
    """With its sign and three digits, and no power of ten where it can be read without."""
    if 999.5 <= abs(value) < 1e7:
        return f"{value:+,.0f}"
    number, _, power = f"{value:+.3g}".partition("e")
    return f"{number}e{int(power)}" if power else number


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 0.95 else f"{value:.1f} s"


def counted(number: int, one: str, many: str) -> str:
    """`1 image`, `1,444 images`."""
    return f"{number:,} {one if number == 1 else many}"
