"""Which register tile a window over channels gets: pixels of a line by vectors of channels.

A product loads rows and columns; a window loads pixels, which neighbouring results share. The taps
of a line are unrolled, so that LLVM loads each pixel once for all of them, and holds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import (
    UNKNOWN,
    Tiling,
    heights,
    parts,
    pieces,
)

_LOADS = _UPDATES = 2  # of each, so many start in one cycle
# Fitted to 500 timings of 21 depthwise convolutions on one core of Zen 5: cycles of a load besides
# its port, cycles of a tile besides its taps, and what a look at the borders adds to the taps.
_LOAD, _TILE, _LOOK = 0.5, 4.0, 0.5
_REST = 0.06  # each left-over is one more copy of the code, in each of two ways
_ALTERNATIVES = 5  # tiles that are worth measuring


@dataclass(frozen=True)
class Line:
    """What a window sees along a line.

    Attributes:
        taps: of one line of the window.
        lines: of the window.
        step: pixels from one window to the next.
        borders: whether windows reach over the image's borders.
    """

    taps: int
    lines: int
    step: int
    borders: bool


def choose(rows: int | None, columns: int, dtype: str, line: Line, machine: Machine) -> Tiling:
    """The tile of least cost; where the pixels of a line are known, a fork "tile".

    The sums of a tile take at most half of the registers; the pixels that they share take the
    other half (measured: 14 pixels by 2 vectors, which spill, took 2.2 times as long as 7 by 2).
    """
    lanes, most = machine.lanes(dtype), max(1, machine.vector_registers // 2)
    widths = range(1, min(most, len(pieces(columns, lanes))) + 1)
    tilings = [
        Tiling(height, vectors, lanes)
        for vectors in widths
        for height in heights(rows, most // vectors, 1)
    ]
    best = sorted(tilings, key=lambda one: _cost(rows or UNKNOWN, columns, line, one))
    known = _ALTERNATIVES if rows else 1
    return machine.guide.take("tile", {one.name: one for one in best[:known]})


def _cost(rows: int, columns: int, line: Line, tiling: Tiling) -> float:
    """Cycles for one line of results."""
    total, down, across = 0.0, parts(rows, tiling.rows), parts(columns, tiling.columns)
    last = down[-1][0]
    for height, many in down:
        pixels = min((height - 1) * line.step + line.taps, height * line.taps)
        loads = pixels + line.taps
        busy = max(height * line.taps / _UPDATES, loads / _LOADS) + _LOAD * loads
        # The first and the last tile look; one that is a whole line knows what it would see.
        looking = (height == tiling.rows) + (height == last) if line.borders else 0
        turns = many + _LOOK * (min(looking, many) if height < rows else 0)
        for width, times in across:
            vectors = len(pieces(width, tiling.lanes))
            total += times * (turns * line.lines * vectors * busy + many * _TILE)
    return total * (1 + _REST * (len(down) + len(across) - 2))
