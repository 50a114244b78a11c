"""A small writer of charts as inline SVG, coloured by the page's style sheet.

Every series has a colour, a dash and a marker of its own, so that none is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 360, 240
"""Of a chart in its own units, which are about pixels on a phone."""
COLORS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "5 2 1 2 1 2", "1 2")
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "M-3.6-3.6h7.2v7.2h-7.2Z",
    "M0-4.8L4.6 3.4H-4.6Z",
    "M0-5L5 0L0 5L-5 0Z",
    "M0 4.8L4.6-3.4H-4.6Z",
    "M-1.4-4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3Z",
)
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of `value`."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """At most about `most` round values within."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for parts in ((1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**d for d in decades for m in parts]
                found = [v for v in found if self.low <= v <= self.high]
                if len(found) <= most:
                    break
            if len(found) > 1:
                return found
        raw = (self.high - self.low) / most
        scale = 10 ** math.floor(math.log10(raw))
        step = next(m for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999) * scale
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + i) * step for i in range(count)]


def span(values: Iterable[float], log: bool = False, room: float = 0.06) -> tuple[float, float]:
    """Ends of an axis that shows `values` with some room at both."""
    values = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(values), max(values)
    if log:
        room = max(room * math.log10(high / low), 0.1)
        return low / 10**room, high * 10**room
    if low == high:
        low, high = low - (0.1 * abs(low) or 1.0), high + (0.1 * abs(high) or 1.0)
    return low - room * (high - low), high + room * (high - low)


@dataclass
class Chart:
    """A chart with axes; draw into it, then `render`."""

    name: str
    """Unique on the page, of letters, digits and hyphens."""
    title: str
    about: str
    """What it shows, in words, for those who do not see it."""
    x: Axis
    y: Axis
    height: float = HEIGHT
    inside: list[Markup] = field(default_factory=list)
    outside: list[Markup] = field(default_factory=list)

    def line(self, points: Iterable[Point], style: int, css: str = "line") -> None:
        """A polyline through `points`."""
        self.inside.append(
            Markup('<path class="{} c{}" stroke-dasharray="{}" d="{}"/>').format(
                css, style % COLORS, DASHES[style % len(DASHES)], self._path(points)
            )
        )

    def band(self, upper: Sequence[Point], lower: Sequence[Point], style: int) -> None:
        """The area between two lines."""
        path = self._path([*upper, *reversed(lower)]) + "Z"
        self.inside.append(Markup('<path class="band c{}" d="{}"/>').format(style % COLORS, path))

    def mark(
        self, x: float, y: float, style: int, told: str, css: str = "mark", size: float = 1
    ) -> None:
        """A marker at a point; `told` appears under the pointer."""
        place = f"translate({_short(self.x.at(x))} {_short(self.y.at(y))}) scale({size})"
        self.outside.append(
            Markup('<path class="{} c{}" transform="{}" d="{}"><title>{}</title></path>').format(
                css,
                style % COLORS,
                place.removesuffix(" scale(1)"),
                MARKS[style % len(MARKS)],
                told,
            )
        )

    def bar(self, x0: float, x1: float, y: float, style: int) -> None:
        """A horizontal whisker."""
        a, b, at = self.x.at(x0), self.x.at(x1), self.y.at(y)
        path = f"M{a:.1f} {at - 4:.1f}v8M{a:.1f} {at:.1f}H{b:.1f}M{b:.1f} {at - 4:.1f}v8"
        self.outside.append(
            Markup('<path class="whisker c{}" d="{}"/>').format(style % COLORS, path)
        )

    def text(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Words at a place of the picture, not a value."""
        self.outside.append(
            Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                _short(x), _short(y), anchor, words
            )
        )

    def axes(self, x_label: str, y_ticks: bool = True, factor: float = 1) -> None:
        """Grid lines and tick labels; y values are shown times `factor`."""
        bottom, top, left, right = self.y.start, self.y.end, self.x.start, self.x.end
        for value in self.x.ticks():
            at = self.x.at(value)
            self._grid(f"M{at:.1f} {bottom:.1f}V{top:.1f}")
            self.text(at, bottom + 14, tick(value), "middle")
        for value in self.y.ticks() if y_ticks else ():
            at = self.y.at(value)
            self._grid(f"M{left:.1f} {at:.1f}H{right:.1f}")
            self.text(left - 5, at + 4, tick(value * factor), "end")
        self.text((left + right) / 2, bottom + 29, x_label, "middle")

    def render(self) -> Markup:
        """The svg element; what was drawn `inside` is cut off at the axes."""
        box = (self.x.start, self.y.end, self.x.end - self.x.start, self.y.start - self.y.end)
        return Markup(
            '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">'
            '<title id="{n}-t">{title}</title><desc id="{n}-d">{about}</desc>'
            '<clipPath id="{n}-c"><rect x="{b[0]}" y="{b[1]}" width="{b[2]}" height="{b[3]}"/>'
            '</clipPath><g clip-path="url(#{n}-c)">{inside}</g>{outside}</svg>'
        ).format(
            w=WIDTH,
            h=_short(self.height),
            n=self.name,
            title=self.title,
            about=self.about,
            b=[_short(v) for v in box],
            inside=Markup("").join(self.inside),
            outside=Markup("").join(self.outside),
        )

    def _grid(self, path: str) -> None:
        self.outside.insert(0, Markup('<path class="grid" d="{}"/>').format(path))

    def _path(self, points: Iterable[Point]) -> str:
        return "M" + "L".join(f"{self.x.at(x):.1f} {self.y.at(y):.1f}" for x, y in points)


def swatch(style: int) -> Markup:
    """The line and marker of a series, for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">'
        '<path class="line c{c}" stroke-dasharray="{dash}" d="M0 6H34"/>'
        '<path class="mark c{c}" transform="translate(17 6)" d="{mark}"/></svg>'
    ).format(c=style % COLORS, dash=DASHES[style % len(DASHES)], mark=MARKS[style % len(MARKS)])


def tick(value: float) -> str:
    """A short label: `0.25`, `20k`, `3M`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return _sign(f"{value / size:.4g}{letter}")
    return _sign(f"{value:.4g}")


def _sign(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
