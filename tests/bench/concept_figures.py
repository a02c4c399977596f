"""Draws the pictures of docs/concepts.md: hand-made SVG, with numbers from a store and from the committed LDS.

    .venv/bin/python tests/bench/concept_figures.py --run runs/demo

The run is the one that `make demo` leaves. The numbers that it prints are those of the page.
"""

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.files import write_text
from forebear.store import Store

ROOT = Path(__file__).parents[2]
LDS = ROOT / "docs" / "lds" / "digits" / "figures.parquet"
INK, FAINT, RULE = "#1f2328", "#59636e", "#d1d9e0"
COLOURS = ("#0969da", "#bc4c00", "#1a7f37")
FADED = "#aceebb"
"""The last colour, behind its line."""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0 8 4 0 8z" fill="{FAINT}"/></marker>'
)
"""An arrow's head."""
SHOWN = ("das", "dtrak", "retrac-ridge", "trak", "retrac-matched", "cosine", "retrac", "tracin", "pixel", "random")


class Drawing:
    """SVG on a white sheet, so that it reads the same on light and dark pages."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = width, height
        self._parts = [
            f"<title>{html.escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
            f"<defs>{TIP}</defs>",
        ]

    def text(self, x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "start") -> None:
        """Lines of words, the first with its base at (x, y)."""
        for number, line in enumerate(words.split("\n")):
            self._parts.append(
                f'<text x="{x:g}" y="{y + number * size * 1.3:.1f}" font-size="{size}" fill="{colour}" '
                f'text-anchor="{anchor}">{html.escape(line)}</text>'
            )

    def box(self, x: float, y: float, width: float, height: float, fill: str = "#f6f8fa", edge: str = RULE) -> None:
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{edge}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" fill="{fill}"/>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str = RULE, width: float = 1, tip: bool = False
    ) -> None:
        place = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self._parts.append(f'<polyline points="{place}" fill="none" stroke="{colour}" stroke-width="{width}"{end}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def write(self, path: Path) -> None:
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        )
        write_text(
            path, "\n".join([head + 'font-family="DejaVu Sans, Arial, sans-serif">', *self._parts, "</svg>", ""])
        )


def embedding(path: Path) -> None:
    """The way from a training image to a row of the store."""
    sheet = Drawing(880, 250, "How a training image becomes a row of the store")
    steps = (
        ("image x, caption", "noise at timestep t\nis added to it"),
        ("denoiser", "predicts the noise,\nor the clean image"),
        ("loss", "one number: how far\nthe prediction is off"),
        ("gradient g", "one number for each\nweight: millions"),
        ("projection", "k = 4,096 numbers,\nnearly the same\ninner products"),
    )
    for number, (name, words) in enumerate(steps):
        x = 24 + number * 168
        sheet.box(x, 44, 144, 92)
        sheet.text(x + 72, 68, name, 14, anchor="middle")
        sheet.text(x + 72, 90, words, 12, FAINT, "middle")
        if number:
            sheet.line([(x - 24, 90), (x - 3, 90)], FAINT, 1.5, tip=True)
    sheet.text(24, 28, "for each timestep t, at each checkpoint c:", 12, FAINT)
    sheet.line([(768, 136), (768, 178), (668, 178)], FAINT, 1.5, tip=True)
    sheet.box(236, 156, 428, 78, "#ddf4ff", "#54aeff")
    sheet.text(450, 177, "one row of the store, for each checkpoint", 14, anchor="middle")
    words = (
        "mean: of g over t\nunit_mean: of g / |g| over t; unit_matched: the same, by t\n"
        "norms, losses: |g| and the loss at each t"
    )
    sheet.text(450, 194, words, 12, FAINT, "middle")
    sheet.line([(236, 195), (184, 195)], FAINT, 1.5, tip=True)
    sheet.box(24, 156, 156, 78, "#dafbe1", "#4ac26b")
    sheet.text(102, 180, "index", 14, anchor="middle")
    sheet.text(102, 200, "searched with the\nquery's own vector", 12, FAINT, "middle")
    sheet.write(path)


def norms(path: Path, run: Path) -> None:
    """Left: |g| against t. Right: what part of an image's sum each timestep has."""
    store = Store.open(run / "store")
    names, times = store.plan.checkpoint_names, list(store.plan.timesteps)
    table = {name: store.norms(name) for name in names}
    sheet = Drawing(880, 330, "Gradient norm against timestep, and the part of each timestep in an image's vector")
    sheet.text(24, 30, "median |g| of the training images; bars: the last's middle half", 13)
    top = max(float(np.quantile(rows, 0.75)) for name in names for rows in table[name].T) * 1.1

    def at(t: float, norm: float) -> tuple[float, float]:
        return 64 + t / 1000 * 396, 280 - norm / top * 220

    for tick in np.arange(0, top, 0.1):
        x, y = at(0, tick)
        sheet.line([(x, y), (460, y)])
        sheet.text(x - 8, y + 4, f"{tick:.1f}", 11, FAINT, "end")
    for tick in range(0, 1001, 250):
        sheet.text(at(tick, 0)[0], 298, str(tick), 11, FAINT, "middle")
    sheet.text(262, 316, "timestep t (0: hardly any noise)", 12, FAINT, "middle")
    for t, low, high in zip(times, *np.quantile(table[names[-1]], [0.25, 0.75], axis=0), strict=True):
        sheet.line([at(t, low), at(t, high)], FADED, 8)
    for number, name in enumerate(names):
        middle = np.median(table[name], axis=0)
        points = [at(t, value) for t, value in zip(times, middle, strict=True)]
        sheet.line(points, COLOURS[number], 2)
        for x, y in points:
            sheet.dot(x, y, COLOURS[number])
        sheet.text(72, 60 + 18 * number, name, 12, COLOURS[number])
        print(name, "median norm", dict(zip(times, middle.round(3), strict=True)))
    sheet.text(500, 30, f"part of an image's vector at {names[0]}", 13)
    _shares(sheet, times, table[names[0]])
    low, high = np.quantile(table[names[-1]][:, -1], [0.05, 0.95])
    print(f"at {names[-1]}, t = {times[-1]}: 95th percentile {high:.3f} / 5th {low:.3f} = {high / low:.1f}")
    sheet.write(path)


def _shares(sheet: Drawing, times: Sequence[int], rows: NDArray[np.float32]) -> None:
    """Bars for each timestep: |g(t)| over their sum, as TracIn adds them up, and 1 / T, as ReTrac does."""
    tracin = (rows / rows.sum(axis=1, keepdims=True)).mean(axis=0)
    for number, (t, share) in enumerate(zip(times, tracin, strict=True)):
        y = 66 + 54 * number
        sheet.text(556, y + 20, f"t = {t}", 12, FAINT, "end")
        for place, (value, colour) in enumerate(((float(share), COLOURS[1]), (1 / len(times), COLOURS[0]))):
            sheet.bar(566, y + 17 * place, value * 480, 14, colour)
            sheet.text(572 + value * 480, y + 11 + 17 * place, f"{value:.0%}", 11, FAINT)
    sheet.text(566, 298, "TracIn: by length", 12, COLOURS[1])
    sheet.text(700, 298, "ReTrac: alike", 12, COLOURS[0])
    print("share of the sum of norms", dict(zip(times, tracin.round(3), strict=True)))


def lds(path: Path) -> None:
    """How the score comes about, and what the estimators reach on the digits."""
    sheet = Drawing(880, 330, "The linear datamodeling score: how it is measured, and of ten estimators on digits")
    steps = (
        ("1  draw a random half of the training images", "64 halves"),
        ("2  train a model on that half alone", "64 models"),
        ("3  truth: its loss on a query", "100 held-out queries"),
        ("4  prediction: add up the scores of that half", "no training"),
        ("5  rank both over the halves: Spearman", "1 right, 0 chance"),
    )
    for number, (words, count) in enumerate(steps):
        y = 48 + 52 * number
        sheet.box(24, y, 376, 40)
        sheet.text(36, y + 18, words, 12)
        sheet.text(36, y + 33, count, 11, FAINT)
        if number:
            sheet.line([(212, y - 12), (212, y - 2)], FAINT, 1.5, tip=True)
    sheet.text(24, 30, "what is measured", 13)
    sheet.text(440, 30, "LDS on digits, held-out queries, percent, 95 % interval", 13)
    found = {
        row["estimator"]: (row["value"], row["low"], row["high"])
        for row in pq.read_table(LDS).to_pylist()
        if row["metric"] == "lds" and row["variant"] == "validation"
    }
    zero = 560.0
    for number, name in enumerate(SHOWN):
        value, low, high = (100 * part for part in found[name])
        y = 48 + 26 * number
        sheet.text(zero + min(low, 0) * 5 - 8, y + 13, name, 12, INK, "end")
        sheet.bar(zero + min(value, 0) * 5, y + 2, abs(value) * 5, 14, COLOURS[0] if name in SHOWN[:8] else FAINT)
        sheet.line([(zero + low * 5, y + 9), (zero + high * 5, y + 9)], INK, 1.5)
        sheet.text(zero + max(high, 0) * 5 + 8, y + 13, f"{value:.1f}", 11, FAINT)
    sheet.line([(zero, 44), (zero, 308)], FAINT)
    sheet.write(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    chosen = parser.parse_args()
    embedding(chosen.out / "concepts-embedding.svg")
    norms(chosen.out / "concepts-norms.svg", chosen.run)
    lds(chosen.out / "concepts-lds.svg")


if __name__ == "__main__":
    main()
