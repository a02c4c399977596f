"""docs/methods.md has a card for every method, and names no figure that the pages of results do not hold."""

import re
from pathlib import Path

import pytest

from forebear.estimators import ESTIMATORS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")
CARDS = dict(re.findall(r"^## (.+)\n\n((?:[- ].*\n)+)", PAGE, re.MULTILINE))
LINES = ("Computes.", "Assumes.", "Use it", "Cost.", "Measured.", "Fails.")
OTHERS = (
    "All estimators",
    "Regions and noise levels",
    "Temporal Feature Matters: quantised generators",
    "Cyclic One-Way Diffusion",
)
RESULTS = " ".join(
    (DOCS / name).read_text(encoding="utf-8")
    for name in ("results.md", "estimators.md", "quantisation.md", "generator-speed.md", "cow.md")
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d*\.\d+(?![\w.]\d)")
"""Figures: numbers with a decimal point."""


def test_every_method_has_a_card() -> None:
    assert set(CARDS) == {*ESTIMATORS, *OTHERS}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_cards_say(name: str) -> None:
    found = re.findall(r"^- \*\*(.+?)\*\*(.*(?:\n  .*)*)", CARDS[name], re.MULTILINE)
    assert tuple(title for title, _ in found) == LINES
    assert all(len(text.split()) > 0 for _, text in found)


@pytest.mark.parametrize("name", CARDS)
def test_figures_stand_in_the_results(name: str) -> None:
    links_apart = re.sub(r"arXiv [\d., ]+|\(\d{4}\.\d{5}\)|TFMQ-DM \d{4}\.\d{5}|Matters \d{4}\.\d{5}", "", CARDS[name])
    for figure in NUMBER.findall(links_apart):
        plain = figure.lstrip("+").rstrip(".")
        assert re.search(rf"(?<![\d.]){re.escape(plain)}0*(?![\d])", RESULTS), figure


def test_papers_are_named() -> None:
    for paper in ("2401.09031", "2303.14186", "2311.00500", "2410.18639", "2407.19547", "2311.16503", "2306.08247"):
        assert paper in PAGE
    assert "results.md" in PAGE


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (DOCS / target).exists(), target
