"""Reads Markdown: a page's headings, links, code blocks and commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("", "bash", "sh", "shell")
"""What a block of commands is marked with; one without a mark may hold output, too."""
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    not_run: str
    """Why it cannot be run here; empty when it can."""


def pages() -> list[Path]:
    """README.md, all of docs/, and the pages beside what is deployed."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = _NOT_RUN.search(text[: match.start()])
        found.append(Block(match["language"], match["text"], before[1] if before else ""))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of links and pictures, those of other servers left out."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    found = re.findall(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)?)\)", text)
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """What `#name` may lead to: headings as GitHub names them, and explicit anchors."""
    text, seen, found = prose(page), dict[str, int](), set[str]()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found | set(re.findall(r"""<a (?:id|name)=["']([^"']+)["']""", text))


def commands(page: Path, program: str = "forebear") -> Iterator[list[str]]:
    """Every call of a program in blocks, indented lines and inline code: its arguments, without the program."""
    inline = [" ".join(part.split()) for part in re.findall(r"`([^`]+)`", prose(page))]
    indented = re.findall(r"^    (\S.*)$", prose(page), re.MULTILINE)
    fenced = [block.text for block in blocks(page) if block.language in SHELL]
    for text in [*fenced, *indented, *(part for part in inline if part.startswith(f"{program} "))]:
        yield from calls(text, program)


def calls(text: str, program: str = "forebear") -> Iterator[list[str]]:
    """The calls of a program in lines of shell, in their order."""
    for line in text.replace("\\\n", " ").splitlines():
        yield from _calls(line, program)


def _calls(line: str, program: str) -> Iterator[list[str]]:
    """The calls of `program` in a line of shell: after pipes, in substitutions, behind variables."""
    if program not in line:
        return
    lexer = shlex.shlex(line.replace("$(", " ; ").replace("`", " "), posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    words = ["&&"]
    try:
        words += [*lexer, "&&"]
    except ValueError:  # a quotation mark that another line closes
        return
    start = None
    for place, word in enumerate(words):
        if set(word) <= set(";&|()<>"):
            if start is not None:
                yield words[start + 1 : place]
            start = None
        elif start is None and Path(word).name == program and _begins(words, place):
            start = place


def _begins(words: list[str], place: int) -> bool:
    """Whether the word is the first of a command, variables apart."""
    before = words[place - 1]
    if re.fullmatch(r"[A-Za-z_]\w*=.*", before):
        return _begins(words, place - 1)
    return set(before) <= set(";&|()")
