"""Draws the pictures of docs/quantisation.md from an evaluation: a grid of variants at equal seeds, and its curves.

    python tests/bench/quantisation_figures.py --evaluation runs/demo/evaluation/quantization --out docs/quantisation

Writes OUT-grid.png, OUT-deviation.svg, OUT-temporal.svg and OUT-cosine.svg; --curves leaves out the grid, for models of
pictures that have no licence.
"""

import argparse
import html
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from forebear.evaluation import charts
from forebear.evaluation.charts import Chart, Line
from forebear.evaluation.figures import read_result
from forebear.evaluation.report import told_charts
from forebear.files import whole_file, write_text

CURVES = ("deviation", "temporal", "cosine")
"""Of the charts that an evaluation tells, in their order."""
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#cf222e", "#59636e", "#1b7c83")
INK, RULE = "#1f2328", "#d1d9e0"
LEGEND = 18
"""Height of a line of the legend."""


def drawn(chart: Chart) -> str:
    """The chart as SVG on a white sheet, so that it reads the same on light and dark pages, its legend below."""
    height = charts.HEIGHT + 24 + LEGEND * len(chart.lines)
    foot = charts.HEIGHT - charts.BOTTOM
    size = f'viewBox="0 0 {charts.WIDTH} {height}" width="{charts.WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="{INK}">',
        f"<title>{html.escape(chart.title)}</title>",
        f'<rect width="{charts.WIDTH}" height="{height}" fill="#ffffff"/>',
        '<g transform="translate(0 20)">',
    ]
    for tick in chart.x_ticks:
        parts.append(f'<path d="M{tick.at:.1f} {charts.TOP}V{foot}" stroke="{RULE}"/>')
        parts.append(f'<text x="{tick.at:.1f}" y="{foot + 14}" text-anchor="middle">{tick.text}</text>')
    for tick in chart.y_ticks:
        parts.append(f'<path d="M{charts.LEFT} {tick.at:.1f}H{charts.WIDTH - charts.RIGHT}" stroke="{RULE}"/>')
        parts.append(f'<text x="{charts.LEFT - 5}" y="{tick.at + 4:.1f}" text-anchor="end">{tick.text}</text>')
    middle = (charts.WIDTH + charts.LEFT) // 2
    parts.append(f'<text x="{middle}" y="{charts.HEIGHT - 4}" text-anchor="middle">{html.escape(chart.x_label)}</text>')
    for place, line in enumerate(chart.lines):
        parts += _curve(chart, line, COLOURS[place % len(COLOURS)], charts.HEIGHT + 6 + LEGEND * place)
    parts += ["</g>", f'<text x="8" y="15" font-size="13">{html.escape(chart.title)}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _curve(chart: Chart, line: Line, colour: str, key: int) -> list[str]:
    """A line, its band, and its entry in the legend at height `key`."""
    return [
        f'<polygon points="{chart.band(line)}" fill="{colour}" opacity="0.15"/>',
        f'<polyline points="{chart.path(line)}" fill="none" stroke="{colour}" stroke-width="1.8"/>',
        f'<path d="M{charts.LEFT} {key}h18" stroke="{colour}" stroke-width="3"/>',
        f'<text x="{charts.LEFT + 26}" y="{key + 4}">{html.escape(line.name)}</text>',
    ]


def pasted(rows: list[tuple[str, Path]]) -> Image.Image:
    """The strips of pictures below each other, each under its name."""
    strips = [(name, Image.open(path).convert("RGB")) for name, path in rows]
    width = max(strip.width for _, strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height + 16 for _, strip in strips)), "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(12), 0
    for name, strip in strips:
        pen.text((2, top + 1), name, fill=INK, font=font)
        sheet.paste(strip, (0, top + 16))
        top += strip.height + 16
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluation", type=Path, required=True, help="RUN/evaluation/NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/quantisation"), help="Stem of the files")
    parser.add_argument("--curves", action="store_true", help="No grid")
    chosen = parser.parse_args()
    result = read_result(chosen.evaluation)
    for name, chart in zip(CURVES, told_charts(result), strict=True):
        write_text(chosen.out.with_name(f"{chosen.out.name}-{name}.svg"), drawn(chart))
    if chosen.curves:
        return
    sheet = pasted([(name, chosen.evaluation / file) for name, file in result.facts["strips"]])
    with whole_file(chosen.out.with_name(f"{chosen.out.name}-grid.png")) as part:
        sheet.quantize(128).save(part, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
