"""Transposes squares of a matrix in registers.

A square of as many rows as a vector has lanes is read in rows and written in columns; between them
stand perfect shuffles: that of the rows i and i + n / 2 of n gives the rows 2i and 2i + 1, and log2
n rounds of them turn the square (Stone, "Parallel Processing with the Perfect Shuffle", 1971).
LLVM makes single moves of the plain loops: a sixth of the speed where this was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build

Read = Callable[[int], Any]
"""The vector that begins in row number so and so of the square."""
Write = Callable[[int, Any], tirx.Stmt]
"""Stores a vector as the column number so and so of the square."""


def moves(dtype: str) -> bool:
    """Whether vectors of `dtype` can be kept under a name and shuffled.

    TVM puts 16-bit integers in the place of bfloat16, but forgets the names; it has no vectors of
    bool in memory.
    """
    return dtype not in {"bfloat16", "bool"}


def square(lanes: int, read: Read, write: Write) -> tirx.Stmt:
    """Turn one square of `lanes` by `lanes` values; `lanes` is a power of two."""
    made: list[tirx.Stmt] = []

    def keep(value: Any, name: str) -> Any:
        variable = tirx.Var(name, str(value.ty))
        made.append(tirx.Bind(variable, value))
        return variable

    rows = [keep(read(i), f"row{i}") for i in range(lanes)]
    half = lanes // 2
    for _ in range(lanes.bit_length() - 1):
        pairs = list(zip(rows[:half], rows[half:]))
        rows = [
            keep(_shuffled(pair, lanes, part), "turned") for pair in pairs for part in (0, half)
        ]
    made += [write(j, column) for j, column in enumerate(rows)]
    return build.sequence(made)


def along(indices: Sequence[Any], lanes: int) -> list[Any]:
    """Subscripts of a vector of `lanes` values that begins at `indices`."""
    *lead, last = map(build.number, indices)
    return [*lead, tirx.Ramp(last, build.number(1), lanes) if lanes > 1 else last]


def _shuffled(pair: Sequence[Any], lanes: int, begin: int) -> Any:
    """Lanes from `begin` on of the one and the other in turns, as many as a vector has."""
    places = [begin + i // 2 + (i % 2) * lanes for i in range(lanes)]
    return tirx.Shuffle(list(pair), [tirx.const(place, "int32") for place in places])
