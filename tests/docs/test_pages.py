"""Links lead somewhere, the README is short, and it and what it links to hold the command for each of five tasks."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from documents import ROOT, anchors, blocks, links, name_of, pages

README = ROOT / "README.md"
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "how-to").glob("*.md"))
LINES, COLUMNS = 90, 120
"""Two screens."""
TASKS = {
    "a first demo": r"^make demo\b",
    "own data": r"^forebear train photos\.yaml --run \S+",
    "a cluster": r"^RAY_ADDRESS=\S+ forebear embed .*--workers \d+",
    "a call of the API": r"^curl .*/v1/generate .*Authorization: Bearer",
    "a takedown": r"^forebear store remove --run \S+ --ids-file \S+",
}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    lost = []
    for target in links(page):
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        if not path.exists() or (anchor and (path.suffix != ".md" or anchor not in anchors(path))):
            lost.append(target)
    assert not lost


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `x` & [two](b.md#c)\n\n![a](p.png) `[no](none.md)`\n```\n# no [n](n.md)\n```\n# One\n# One\n",
        encoding="utf-8",
    )
    assert links(page) == ["b.md#c", "p.png"]
    assert anchors(page) == {"one-x--two", "one", "one-1"}


def test_every_page_is_reached_from_the_first_one() -> None:
    known, new = set[Path](), {README}
    while new:
        known |= new
        found = {(page.parent / target.split("#")[0]).resolve() for page in new for target in links(page)}
        new = {path for path in found if path.suffix == ".md" and path.is_file()} - known
    assert not [name_of(page) for page in DOCS.rglob("*.md") if page not in known]


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    named = {(DOCS / target.split("#")[0]).resolve() for target in links(index)}
    # The reference has an index of its own.
    own = [page for page in DOCS.rglob("*.md") if page.parent in (DOCS, DOCS / "how-to") and page != index]
    assert not [name_of(page) for page in own if page not in named]


def test_every_picture_is_shown_on_a_page() -> None:
    shown = {(page.parent / target).resolve() for page in pages() for target in links(page)}
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg")]
    assert not [name_of(path) for path in pictures if path not in shown]


def test_the_readme_fits_two_screens() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES
    # A table's row is as long as its links; what a reader sees of it is not.
    seen = [re.sub(r"\]\([^)]*\)", "]", line) if line.startswith("|") else line for line in lines]
    assert not [line for line in seen if len(line) > COLUMNS + 20 * line.startswith("|")]


@pytest.mark.parametrize("task", TASKS)
def test_the_readme_or_one_link_has_the_command_for(task: str) -> None:
    near = [README, *{(ROOT / target.split("#")[0]).resolve() for target in links(README)}]
    guides = [page for page in near if page == README or page in GUIDES]
    lines = [
        line
        for page in guides
        for block in blocks(page)
        if block.language in ("", "bash")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    assert [line for line in lines if re.search(TASKS[task], line)]


@pytest.mark.parametrize("task", TASKS)
def test_the_readme_itself_names(task: str) -> None:
    """Whoever reads nothing else knows what to look for."""
    text = README.read_text(encoding="utf-8").replace("\\\n", " ").replace("| `", "\n").replace("` |", "\n")
    assert re.search(TASKS[task].replace("^", r"(?m)^"), text)


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_guide_is_one_page_with_commands(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 125
    assert [block for block in blocks(guide) if block.language == "bash" and not block.not_run]


def test_the_norms_of_the_concepts_are_those_of_the_picture() -> None:
    """The page's last rows are what the picture's bars say; both come from `concept_figures.py`."""
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    picture = (DOCS / "concepts-norms.svg").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| part of the sum of norms.*\|$", page, re.MULTILINE)
    shares = re.findall(r"(\d+) %", row)
    assert len(shares) == 4
    assert re.findall(r">(\d+)%<", picture)[::2] == shares
    assert re.findall(r"> ?(\d+)%<", picture)[1::2] == ["25"] * 4


def test_the_lds_picture_shows_the_committed_figures() -> None:
    import pyarrow.parquet as pq

    picture = (DOCS / "concepts-lds.svg").read_text(encoding="utf-8")
    rows = pq.read_table(DOCS / "lds" / "digits" / "figures.parquet").to_pylist()
    values = {
        row["estimator"]: row["value"] for row in rows if (row["metric"], row["variant"]) == ("lds", "validation")
    }
    shown = re.findall(r">([\w-]+)</text>\n(?:<rect[^\n]*\n<polyline[^\n]*\n)<text[^>]*>([\d.-]+)</text>", picture)
    assert len(shown) == 10
    assert dict(shown) == {name: f"{100 * values[name]:.1f}" for name, _ in shown}
