"""Plots as inline SVG: no script, nothing fetched, every text escaped, read aloud by their label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

INK, GREY, RING, OTHER = "#0b7285", "#8aa0ab", "#d9480f", "#7048e8"
_SIZE, _PAD = 270, 38
_ROW, _NAME, _WIDE = 22, 250, 330


class Line(NamedTuple):
    """A line of points (x, y) in data units."""

    points: Sequence[Sequence[float]]
    colour: str = INK
    name: str = ""
    dashed: bool = False


class Span(NamedTuple):
    """One row of a forest plot: a figure with its interval and the rows it rests on."""

    name: str
    figure: float
    low: float | None
    high: float | None
    n: int
    bad: bool = False


class Frame:
    """Data units to pixels of a square plot."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = _wide(*x), _wide(*y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        inner = _SIZE - 2 * _PAD
        across = (min(max(x, self.x[0]), self.x[1]) - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return _PAD + inner * across, _SIZE - _PAD - inner * up


def _wide(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def square(
    title: str,
    across: str,
    up: str,
    lines: Sequence[Line],
    *,
    x: tuple[float, float] = (0, 1),
    y: tuple[float, float] = (0, 1),
    mark: tuple[float, float] | None = None,
    diagonal: bool = False,
    bars: Sequence[tuple[float, float | None, float | None]] = (),
    at: float | None = None,
) -> str:
    """A square plot. ``mark`` rings a point, ``at`` draws a vertical line, ``bars`` are intervals (x, low, high)."""
    frame = Frame(x, y)
    (left, bottom), (right, top) = frame.at(frame.x[0], frame.y[0]), frame.at(frame.x[1], frame.y[1])
    out = [f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="{GREY}"/>']
    if diagonal:
        out.append(_line(frame, Line([(frame.x[0], frame.x[0]), (frame.x[1], frame.x[1])], GREY, dashed=True)))
    if at is not None:
        out.append(_line(frame, Line([(at, frame.y[0]), (at, frame.y[1])], RING, dashed=True)))
    for where, low, high in bars:
        out.append(
            _line(
                frame,
                Line(
                    [(where, frame.y[0] if low is None else low), (where, frame.y[1] if high is None else high)], GREY
                ),
            )
        )
    out += [_line(frame, line) for line in lines]
    if mark is not None:
        px, py = frame.at(*mark)
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="none" stroke="{RING}" stroke-width="2"/>')
    out += _ticks(frame)
    out.append(_text(_SIZE / 2, _SIZE - 6, across, anchor="middle"))
    out.append(_text(11, _SIZE / 2, up, anchor="middle", turned=True))
    return _figure(title, f"{title}: {up} over {across}", _SIZE, _SIZE, out, lines)


def _ticks(frame: Frame) -> list[str]:
    out = []
    for i in range(2):
        px, _ = frame.at(frame.x[i], frame.y[0])
        _, py = frame.at(frame.x[0], frame.y[i])
        out.append(_text(px, _SIZE - _PAD + 14, _short(frame.x[i]), anchor="middle"))
        out.append(_text(_PAD - 4, py + 4, _short(frame.y[i]), anchor="end"))
    return out


def forest(
    title: str,
    what: str,
    rows: Sequence[Span],
    *,
    centre: float | None = None,
    allowed: tuple[float | None, float | None] = (None, None),
) -> str:
    """One row per figure: a dot with its interval; a line at ``centre``, a band over what is allowed."""
    ends = [v for r in rows for v in (r.figure, r.low, r.high) if v is not None and math.isfinite(v)]
    ends += [v for v in (centre, *allowed) if v is not None]
    low, high = _wide(min(ends, default=0.0), max(ends, default=1.0))
    height = _ROW * (len(rows) + 1) + 12

    def px(value: float) -> float:
        return _NAME + 12 + (_WIDE - 24) * (min(max(value, low), high) - low) / (high - low)

    out = []
    if any(v is not None for v in allowed):
        start = px(low if allowed[0] is None else allowed[0])
        end = px(high if allowed[1] is None else allowed[1])
        out.append(
            f'<rect x="{start:.1f}" y="2" width="{max(end - start, 1):.1f}" height="{_ROW * len(rows)}" fill="{GREY}" opacity="0.18"/>'
        )
    if centre is not None:
        out.append(
            f'<line x1="{px(centre):.1f}" x2="{px(centre):.1f}" y1="2" y2="{_ROW * len(rows) + 2}" stroke="{GREY}" stroke-dasharray="4 4"/>'
        )
    for i, row in enumerate(rows):
        y = _ROW * i + _ROW / 2 + 2
        colour = RING if row.bad else INK
        out.append(_text(_NAME - 4, y + 4, row.name if len(row.name) <= 36 else row.name[:35] + "…", anchor="end"))
        a, b = px(low if row.low is None else row.low), px(high if row.high is None else row.high)
        out.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<circle cx="{px(row.figure):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        out.append(_text(_NAME + _WIDE + 6, y + 4, f"{row.figure:.3g}  n = {row.n:,}"))
    base = _ROW * (len(rows) + 1)
    out += [_text(_NAME + 12, base, _short(low)), _text(_NAME + _WIDE - 12, base, _short(high), anchor="end")]
    out.append(_text(_NAME + _WIDE / 2, base, what, anchor="middle"))
    return _figure(title, f"{title}: {what}", _NAME + _WIDE + 130, height, out, ())


def _line(frame: Frame, line: Line) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*frame.at(float(p[0]), float(p[1]))) for p in line.points)
    dashes = ' stroke-dasharray="4 4"' if line.dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x} {y})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="currentColor"{turn}>{escape(text)}</text>'


def _figure(title: str, label: str, width: float, height: float, marks: Sequence[str], lines: Sequence[Any]) -> str:
    named = [line for line in lines if line.name]
    key = "".join(f'<span style="color:{line.colour}">■</span> {escape(line.name)} ' for line in named)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{escape(label, quote=True)}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{"".join(marks)}</svg>'
        + (f"<div>{key}</div>" if key else "")
        + "</figure>"
    )


def _short(value: float) -> str:
    return f"{value:.3g}"
