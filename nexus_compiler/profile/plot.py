"""The roofline plot as SVG: arithmetic intensity across, GFLOP/s upwards, both logarithmic.

Written directly: two axes, some lines and circles need no plotting library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from nexus_compiler.profile.kernels import KernelTime
from nexus_compiler.profile.roofline import Roofline

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 900, 560, 70, 60, 40, 20
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")


class _Axis:
    """Whole decades of a logarithmic axis, and where a value lies on it in pixels."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self._begin + min(max(share, 0.0), 1.0) * (self._end - self._begin)

    def decades(self) -> range:
        return range(self.low, self.high + 1)


def roofline_svg(title: str, rows: Sequence[KernelTime], machine: Roofline) -> str:
    """A circle for each kernel that computes, its area the share of the time, below the roofs."""
    points = [(row, row.flops / row.bytes, row.gflops) for row in rows
              if row.flops and row.bytes and row.gflops]  # fmt: skip
    peak = machine.peak("float32") / 1e9
    slopes = sorted(machine.gbytes.items())
    lowest = min((gflops for _, _, gflops in points), default=1.0)
    ridge = peak / slopes[-1][1]
    x = _Axis([ridge, 0.1, *(i for _, i, _ in points)], _LEFT, _WIDTH - _RIGHT)
    y = _Axis([peak, peak / 100, lowest], _HEIGHT - _BOTTOM, _TOP)
    families = sorted({row.family for row, _, _ in points})
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(families)}
    parts = [*_grid(x, y, title), *_roofs(x, y, peak, slopes)]
    for row, intensity, gflops in sorted(points, key=lambda point: -point[0].share):
        radius = 3 + 30 * math.sqrt(row.share)
        told = f"{row.label} {'; '.join(row.shapes)}: {gflops:.1f} GFLOP/s, {row.share:.1%}"
        place = f'cx="{x.at(intensity):.1f}" cy="{y.at(gflops):.1f}" r="{radius:.1f}"'
        colour = f'fill="{colours[row.family]}" fill-opacity="0.6"'
        parts.append(f"<circle {place} {colour}><title>{escape(told)}</title></circle>")
    for index, (name, colour) in enumerate(colours.items()):
        top = _HEIGHT - _BOTTOM - 20 * (len(colours) - index)
        parts.append(f'<circle cx="{_WIDTH - 130}" cy="{top}" r="6" fill="{colour}"/>')
        parts.append(_text(_WIDTH - 118, top + 4, name))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _grid(x: _Axis, y: _Axis, title: str) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for power in x.decades():
        at = x.at(10.0**power)
        yield _line(at, _TOP, at, bottom, "#ddd")
        yield _text(at, bottom + 18, f"{10.0**power:g}", "middle")
    for power in y.decades():
        at = y.at(10.0**power)
        yield _line(_LEFT, at, _WIDTH - _RIGHT, at, "#ddd")
        yield _text(_LEFT - 8, at + 4, f"{10.0**power:g}", "end")
    yield _text(_WIDTH / 2, _HEIGHT - 16, "operations a byte", "middle")
    yield _text(_LEFT - 50, _TOP - 16, "GFLOP/s")
    yield _text(_WIDTH / 2, 20, title, "middle")


def _roofs(x: _Axis, y: _Axis, peak: float, slopes: list[tuple[int, float]]) -> Iterator[str]:
    for size, bandwidth in slopes:
        begin = max(10.0**x.low, 10.0**y.low / bandwidth)
        yield _line(
            x.at(begin), y.at(begin * bandwidth), x.at(peak / bandwidth), y.at(peak), "#888"
        )
        label = f"{size / 2**20:.3g} MiB: {bandwidth:.0f} GB/s"
        yield _text(x.at(begin) + 4, y.at(begin * bandwidth) - 6, label)
    ridge = min(peak / bandwidth for _, bandwidth in slopes)
    yield _line(x.at(ridge), y.at(peak), _WIDTH - _RIGHT, y.at(peak), "#333")
    yield _text(_WIDTH - _RIGHT, y.at(peak) - 6, f"float32: {peak:.0f} GFLOP/s", "end")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
