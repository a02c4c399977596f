"""Line charts as SVG coordinates; `templates/charts.html.j2` draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 8, 36
TICKS = 5


@dataclass(frozen=True)
class Line:
    """One curve, with a band around it where `low` and `high` are given."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(x, y) by rising x."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Curves over one x axis; a logarithmic y axis leaves out what is not positive."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_y: bool = False

    @cached_property
    def x_range(self) -> tuple[float, float]:
        return _range([x for line in self.lines for x, _ in line.points])

    @cached_property
    def y_range(self) -> tuple[float, float]:
        values = [y for line in self.lines for y in (*(y for _, y in line.points), *line.low, *line.high)]
        if self.log_y:
            return _range([math.log10(y) for y in values if y > 0])
        return _range([*values, 0.0])

    def path(self, line: Line) -> str:
        """The `points` of a polyline."""
        return " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in line.points if self._drawn(y))

    def marks(self, line: Line) -> list[tuple[float, float]]:
        """Centres of the dots of a line: the point of one that has no other, which a polyline would not show."""
        return [(self._x(x), self._y(y)) for x, y in line.points if len(line.points) == 1 and self._drawn(y)]

    def band(self, line: Line) -> str:
        """The `points` of a polygon around the line; empty when it has no band."""
        if not line.low or not line.high:
            return ""
        xs = [x for x, _ in line.points]
        there = [(x, y) for x, y in zip(xs, line.high, strict=True) if self._drawn(y)]
        back = [(x, y) for x, y in zip(reversed(xs), reversed(line.low), strict=True) if self._drawn(y)]
        return " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in (*there, *back))

    @property
    def x_ticks(self) -> list[Tick]:
        return [Tick(self._x(x), f"{x:.4g}") for x in _ticks(self.x_range)]

    @property
    def y_ticks(self) -> list[Tick]:
        if not self.log_y:
            return [Tick(self._y(y), f"{y:.3g}") for y in _ticks(self.y_range)]
        low, high = self.y_range
        whole = list(range(math.ceil(low), math.floor(high) + 1))
        powers = whole if len(whole) > 1 else _ticks(self.y_range)
        return [Tick(self._y(10.0**power), f"{10.0**power:.2g}") for power in powers]

    def _drawn(self, y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not self.log_y)

    def _x(self, x: float) -> float:
        low, high = self.x_range
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def _y(self, y: float) -> float:
        low, high = self.y_range
        value = math.log10(y) if self.log_y else y
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, never the same."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(ends: tuple[float, float]) -> list[float]:
    """About TICKS round numbers between the ends."""
    low, high = ends
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
