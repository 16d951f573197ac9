"""The steps of a product in blocks: what tiles of rows read again stays in the second cache.

A panel of the right operand is read once for every tile of rows. Where it is larger than the
cache, each time comes from memory; in blocks of steps (the `kc` of Goto & van de Geijn 2008) it
comes once. The sums wait in a buffer of the group of rows until the next block. Measured for 128
rows of 3072 steps: 222 instead of 189 GFLOP/s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.codegen.llvm.schedules.tiles import Tiling, cells

_PANEL = 163840  # bytes of a block's panel: a sixth of a cache of 1 MiB, rows need some, too
_GROUP = 32  # tiles of rows that share a block, at most
# Rows that share one where there are few tasks. A copied panel takes as long as 4 rows: of 32 rows
# 190 GFLOP/s were left of 240, of 64 are 222.
_FEW = 64
_TASKS = 16
_REREAD = 4  # tiles of rows from which on sums may be stored and loaded again


@dataclass(frozen=True)
class Block:
    """One block of steps for one tile: from `begin` on, so many; `kept`[row, column] are its sums.

    `last` holds where the sums are complete.
    """

    begin: Any
    steps: int
    kept: tirx.Buffer
    row: Any
    last: Any

    def around(
        self, total: tirx.Buffer, column: Any, each: Any, step: Any, store: tirx.Stmt
    ) -> list[tirx.Stmt]:
        """The statements of a tile that sums up in `total` and whose first column is `column`.

        `step` writes a step by its number in the block.
        """

        def fetch(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(total, self.kept[self.row + i, column + j], [i, j])

        def keep(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(self.kept, total[i, j], [self.row + i, column + j])

        sums = build.loop(self.steps, step)
        return [each(fetch), sums, build.branch(self.last, store, each(keep))]


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `steps` for groups of `group` tiles of rows."""

    count: int
    steps: int
    group: int
    tiling: Tiling
    dtype: str
    init: Any

    def write(
        self,
        down: int,
        which: Any,
        tile: Callable[[Any, Block], tirx.Stmt],
        prepare: Callable[[Any], Sequence[tirx.Stmt]],
    ) -> tirx.Stmt:
        """Group number `which` of `down` tiles; `tile(number, block)` is one.

        `prepare(begin)` stands before the tiles of the block that begins at this step.
        """
        high, columns = self.tiling.rows, self.tiling.columns
        kept = tirx.decl_buffer((self.group * high, columns), self.dtype, "kept")
        begin = which * self.group

        def clear(row: Any) -> tirx.Stmt:
            def one(_: Any, j: Any) -> tirx.Stmt:
                return tirx.BufferStore(kept, self.init, [row, j])

            return cells(1, columns, self.tiling.lanes, one)

        def turn(number: Any) -> tirx.Stmt:
            last = tirx.EQ(number, build.number(self.count - 1))
            before = prepare(number * self.steps)

            def one(i: Any) -> tirx.Stmt:
                return tile(begin + i, Block(number * self.steps, self.steps, kept, i * high, last))

            tiles = build.loop(build.part(down, which, self.group), one, name="tile")
            return build.sequence([*before, tiles])

        # Clearing also keeps the buffer outside of the loops: TVM moves it to what it thinks is
        # its innermost use.
        body = [
            build.loop(self.group * high, clear, name="row"),
            build.loop(self.count, turn, name="block"),
        ]
        return build.scope([kept], build.sequence(body), "group")


def blocks(
    steps: Any, inner: int, down: Any, panels: Any, tiling: Tiling, dtype: str, init: Any
) -> Blocks | None:
    """How to take `steps` apart for `down` tiles of rows and so many `panels`.

    Each step is one of `inner` products. None where nothing is gained.
    """
    extent, tiles = build.known(steps), build.known(down)
    if not extent or not tiles or tiles < _REREAD:
        return None
    size = tvm.DataType(dtype).bits // 8
    least = -(-extent * inner * tiling.columns * size // _PANEL)
    count = next((n for n in range(least, 2 * least + 1) if extent % n == 0), 1)
    return of(count, steps, down, panels, tiling, dtype, init)


def of(
    count: int, steps: Any, down: Any, panels: Any, tiling: Tiling, dtype: str, init: Any
) -> Blocks | None:
    """`count` blocks, whatever is gained; None for a single one."""
    extent, tiles = build.known(steps), build.known(down)
    if not extent or not tiles or count == 1:
        return None
    group = min(tiles, _GROUP)
    turns = build.known(panels) or _TASKS
    while group * tiling.rows > _FEW and turns * -(-tiles // group) < _TASKS:
        group = -(-group // 2)
    return Blocks(count, extent // count, group, tiling, dtype, init)


def counts(steps: Any, down: Any, first: int) -> list[int]:
    """Numbers of blocks around `first`: it, none, about half of it and about twice as many."""
    extent, tiles = build.known(steps), build.known(down)
    if not extent or not tiles or tiles < 2:
        return [first]
    even = [n for n in range(1, extent + 1) if extent % n == 0]
    more = next((n for n in even if n >= 2 * first), first)
    less = next((n for n in reversed(even) if 2 * n <= first), first)
    return list(dict.fromkeys([first, 1, less, more]))
