"""Which register tile a product gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.codegen.llvm.schedules.machine import Machine

# A fused multiply-add takes this many cycles until its sum can be added to, and two start in each.
_LATENCY, _PER_CYCLE = 4, 2
# Addresses so far apart share the lines of a first cache (64 sets of 64 bytes in 8 to 12 ways):
# more rows than ways would drive each other out (measured: 14 rows 122 GFLOP/s, 8 rows 161).
SAME_LINES, ROWS_OF_SAME_LINES = 4096, 8
# Rows from which on a vector of the right operand comes no slower from the second cache than it is
# used (measured: 2 rows of 7 vectors took 1.7 times as long as 4 rows of 4).
_FROM_AFAR = 4
UNKNOWN = 64  # rows to choose for where their number is not known

_ALTERNATIVES = 5  # tiles that are worth measuring

Write = Callable[[Any, int], tirx.Stmt]
"""Writes what begins at a row or column and is so many high or wide."""


@dataclass(frozen=True)
class Tiling:
    """`rows` by `vectors` registers of `lanes` values."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Columns of a full tile."""
        return self.vectors * self.lanes

    @property
    def name(self) -> str:
        """Rows by vectors."""
        return f"{self.rows}x{self.vectors}"


def choose(
    rows: int | None,
    columns: int | None,
    dtype: str,
    machine: Machine,
    *,
    width: int = 0,
    line: int = 1,
    pitch: int = 0,
) -> Tiling:
    """The tile of least cost; where all sizes are known, the fork "tile" of `candidates`."""
    found = candidates(rows, columns, dtype, machine, width=width, line=line, pitch=pitch)
    known = len(found) if rows and columns else 1
    return machine.guide.take("tile", {one.name: one for one in found[:known]})


def candidates(
    rows: int | None,
    columns: int | None,
    dtype: str,
    machine: Machine,
    *,
    width: int = 0,
    line: int = 1,
    pitch: int = 0,
) -> list[Tiling]:
    """Tiles by their costs in a model of the two execution ports; None means known at run time.

    Then rows are a power of two, since what is left over is cut in halves. A `width` other than 0
    is that of the tiles in which the right operand lies already; rows are a multiple of `line`.
    `pitch`: bytes from one row of the left operand to the next, 0 where that is not known.
    """
    lanes = machine.lanes(dtype)
    found: list[tuple[float, Tiling]] = []
    widths = (-(-width // lanes),) if width else range(1, 9) if columns else (1,)
    for vectors in widths:
        most = (machine.vector_registers - 1 - vectors) // vectors
        if pitch and pitch % SAME_LINES == 0:
            most = min(most, ROWS_OF_SAME_LINES)
        tilings = [Tiling(height, vectors, lanes) for height in heights(rows, most, line)]
        costs = [(_cost(rows or UNKNOWN, columns or UNKNOWN, one), one) for one in tilings]
        found += sorted(costs, key=_by_cost)[: _ALTERNATIVES if width else 2]
    best = [one for _, one in sorted(found, key=_by_cost)[:_ALTERNATIVES]]
    return best or [Tiling(line, max(1, width // lanes), lanes)]


def _by_cost(found: tuple[float, Tiling]) -> float:
    return found[0]


def heights(rows: int | None, most: int, line: int) -> list[int]:
    """How many rows a tile may have: at most `most`, a multiple of `line`."""
    if rows is None:
        return [height for height in (1, 2, 4, 8) if height <= most]
    return list(range(line, min(most, rows) + 1, line))


def _cost(rows: int, columns: int, tiling: Tiling) -> float:
    """Cycles for one step of the reduction over the whole output."""
    total = 0.0
    for height, many in parts(rows, tiling.rows):
        for width, times in parts(columns, tiling.columns):
            vectors = len(pieces(width, tiling.lanes))
            busy = max(height * vectors, height + vectors) / _PER_CYCLE
            if rows >= _FROM_AFAR:
                busy = max(busy, _FROM_AFAR * vectors / _PER_CYCLE)
            # Fewer loads where the sums take equally long, and fewer, larger tiles.
            total += many * times * (max(busy, _LATENCY) + 0.05 * (height + vectors) + 0.2)
    # Each left-over is one more copy of the code to compile and to keep in the cache.
    extra = len(parts(rows, tiling.rows)) + len(parts(columns, tiling.columns)) - 2
    return total * (1 + 0.03 * extra)


def parts(extent: int, tile: int) -> list[tuple[int, int]]:
    """`extent` in tiles: (size, how many), whole ones first, then what is left over."""
    return [(tile, extent // tile)] + ([(extent % tile, 1)] if extent % tile else [])


def pieces(width: int, lanes: int) -> list[tuple[int, int]]:
    """`width` columns as vectors: (offset, lanes), whole registers first, then their halves."""
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < width:
        while lanes > width - offset:
            lanes //= 2
        found.append((offset, lanes))
        offset += lanes
    return found


def cells(height: int, width: int, lanes: int, make: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
    """`make(row, column)` for a whole tile: rows unrolled, columns in vectors."""

    def line(i: Any) -> tirx.Stmt:
        vectors = [
            build.loop(count, lambda v, at=at: make(i, at + v), "vectorized", "lane")
            for at, count in pieces(width, lanes)
        ]
        return build.sequence(vectors)

    return build.loop(height, line, "unroll", "row")


def pick_columns(extent: Any, tiling: Tiling, tile: Any, write: Write) -> tirx.Stmt:
    """A full tile, or what is left of the columns."""
    full = tiling.columns
    if isinstance(extent, int):
        whole, rest = divmod(extent, full)
        if not rest:
            return write(0, full)
        if not whole:
            return write(0, rest)
        return build.branch(tile < whole, write(0, full), write(0, rest))
    rest = extent - tile * full
    singles = build.loop(rest, lambda column: write(column, 1), name="column")
    return build.branch(rest >= full, write(0, full), singles)


def _factor(extent: Any) -> int:
    """The known part of a product of sizes."""
    if isinstance(extent, tirx.Mul):
        return _factor(extent.a) * _factor(extent.b)
    return int(extent) if isinstance(extent, tirx.IntImm) else 1


def pick_rows(extent: Any, tiling: Tiling, tile: Any, write: Write) -> tirx.Stmt:
    """A full tile, or what is left of the rows; in halves where that is known at run time."""
    full = tiling.rows
    first = tile * full
    if isinstance(extent, int):
        whole, rest = divmod(extent, full)
        if not rest:
            return write(first, full)
        if not whole:
            return write(first, rest)
        return build.branch(tile < whole, write(first, full), write(first, rest))
    if _factor(extent) % full == 0:  # images of known size: whole tiles, however many there are
        return write(first, full)
    rest = extent - first
    halves: list[tirx.Stmt] = []
    part = full // 2
    while part:
        begin = first + tirx.floordiv(rest, 2 * part) * (2 * part)
        takes = tirx.floormod(tirx.floordiv(rest, part), 2) == 1
        halves.append(build.branch(takes, write(begin, part)))
        part //= 2
    if not halves:
        return write(first, full)
    return build.branch(rest >= full, write(first, full), build.sequence(halves))
