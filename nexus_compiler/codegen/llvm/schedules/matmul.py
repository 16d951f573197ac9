"""Sums of products in register tiles.

The output is cut in tiles that fit the registers: rows are broadcast from the one operand, columns
are vectors of the other. The reduction runs outermost inside a tile, so that the accumulators stay
in registers: rows * vectors + vectors + 1 registers are needed, and past that bound speed halves
(measured with 32 registers of 16 floats: 8 by 3 vectors 240 GFLOP/s, 7 by 4 only 103-142).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import ahead, build, kernel, panel, spatial
from nexus_compiler.codegen.llvm.schedules import blocks as blocking
from nexus_compiler.codegen.llvm.schedules.blocks import Block, Blocks
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.product import Product, recognise
from nexus_compiler.codegen.llvm.schedules.tiles import cells, choose, pick_columns, pick_rows

_GROUP = 32  # tiles of rows that share a copied panel
_REREAD = 4  # tiles of rows from which on it pays to copy a panel that is in order
_SMALL = 8192  # bytes that stay in the first cache whatever their pitch is


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in register tiles; None where it is no sum of products."""
    form = recognise(kernel_, machine)
    return None if form is None else Writer(form, machine).function(kernel_.function)


class Writer:
    """Writes the loops of one product."""

    def __init__(self, form: Product, machine: Machine, pitch: int | None = None) -> None:
        self._form, self._machine = form, machine
        self._steps = form.stage.reduced
        # Blocks are of lines: of whole turns of the last axis, where there are several.
        self._lines = self._steps[:-1] or self._steps
        self._inner = self._steps[len(self._lines) :]
        self._rows = build.product(build.extents(form.rows))
        self._columns = build.product(build.extents(form.columns))
        self._dtype = str(form.stage.store.buffer.dtype)
        self._tiling = choose(
            build.known(self._rows),
            build.known(self._columns),
            self._dtype,
            machine,
            width=form.packed,
            line=form.line,
            pitch=form.pitch if pitch is None else pitch,
        )
        reach = kernel.variables(form.right)
        self._packed_outer = [axis for axis in form.outer if axis.var in reach]
        self._panel: tirx.Buffer | None = None

    def function(self, original: tirx.PrimFunc) -> tirx.PrimFunc:
        """The whole kernel."""
        before = self._before()
        buffers, steps = [buffer for buffer, _ in before], [step for _, step in before]
        return build.function(original, build.sequence([*steps, self._tiles()]), buffers)

    def _before(self) -> list[tuple[tirx.Buffer, tirx.Stmt]]:
        """What is made first: buffers, and the statements that fill them."""
        return [
            (stage.store.buffer, spatial.write(stage, {}, self._machine, parallel=True))
            for stage in self._form.before
        ]

    def _tiles(self) -> tirx.Stmt:
        # All that reads one panel of the right operand comes before the next panel.
        inner = [axis for axis in self._form.outer if axis not in self._packed_outer]
        follow = build.extents(inner)
        down, across = (
            build.ceil(self._rows, self._tiling.rows),
            build.ceil(self._columns, self._tiling.columns),
        )
        turns = [*build.extents(self._packed_outer), across]
        copied = self._copies(down)
        shared = [*follow, down]
        if found := self._blocks(shared, across, copied):
            return self._in_blocks(found, turns, inner, shared, copied)
        groups = build.ceil(build.product(shared), _GROUP) if copied else 1

        def row(place: list[Any], number: Any) -> tirx.Stmt:
            *lead, tile = place
            *at, first = build.unflatten(number, shared)
            values = build.bind(self._packed_outer, lead) | build.bind(inner, at)

            def piece(column: Any, width: int) -> tirx.Stmt:
                return pick_rows(
                    self._rows,
                    self._tiling,
                    first,
                    lambda begin, height: self._tile(values, begin, height, tile, column, width),
                )

            return pick_columns(self._columns, self._tiling, tile, piece)

        def group(flat: Any) -> tirx.Stmt:
            *place, which = build.unflatten(flat, [*turns, groups])
            many = build.part(build.product(shared), which, _GROUP)
            fill = self._fill(place, build.extents(self._steps), list)
            tiles = build.loop(many, lambda i: row(place, which * _GROUP + i), name="tile")
            return build.scope([self._panel], build.sequence([fill, tiles]), "panel")

        def one(flat: Any) -> tirx.Stmt:
            return row(*self._place(flat, turns, build.product(shared)))

        if copied:
            return build.loop(build.product([*turns, groups]), group, self._kind(), "group")
        return build.loop(build.product([*turns, *shared]), one, self._kind(), "tile")

    def _place(self, flat: Any, turns: list[Any], shared: Any) -> tuple[list[Any], Any]:
        """Which of `turns` and of the `shared` tiles task number `flat` computes."""
        if not self._rows_first(turns, shared):
            *place, number = build.unflatten(flat, [*turns, shared])
        else:
            # Several groups share a line of the left operand, which is the larger one.
            number, *place = build.unflatten(flat, [shared, *turns])
        return place, number

    def _rows_first(self, turns: list[Any], shared: Any) -> bool:
        """Whether all columns are made of some rows before the next rows are read."""
        first = self._form.groups is not None
        names = {"rows": True, "columns": False}
        order = sorted(names, key=lambda name: names[name] != first)
        sizes = [build.known(build.product(turns)) or 1, build.known(shared) or 1]
        free = order if min(sizes) > 1 else order[:1]
        return self._machine.guide.take("order", {name: names[name] for name in free})

    def _copies(self, down: Any) -> bool:
        """Whether a panel of the right operand is copied for the tiles that share it."""
        if self._form.packed or not self._form.ordered:
            return not self._form.packed
        first = self._pays_to_copy(down)
        free = [first, not first] if (build.known(down) or 1) > 1 else [first]
        return self._machine.guide.take("panel", {"copied" if f else "read": f for f in free})

    def _pays_to_copy(self, down: Any) -> bool:
        form, tiles = self._form, build.known(down)
        steps = build.known(build.product(build.extents(self._steps)))
        size = tvm.DataType(str(form.right.ty)).bits // 8
        if not steps or not tiles:
            return False
        if len(self._steps) == 1 and (build.known(self._columns) or 0) <= self._tiling.columns:
            return False  # it lies like a panel already
        return tiles >= _REREAD and steps * self._tiling.columns * size > _SMALL

    def _fill(self, place: list[Any], turns: list[Any], steps: Any) -> tirx.Stmt:
        """Copy the panel of the tile at `place`; `steps(at)` are those of `at` in the panel."""
        form, shape = self._form, [*map(build.number, turns), build.number(self._tiling.columns)]
        self._panel = tirx.decl_buffer(shape, str(form.right.ty), "panel")
        *lead, tile = place
        values = build.bind(self._packed_outer, lead)
        return panel.fill(self._panel, form, self._tiling, values, tile, turns, steps)

    def _blocks(self, shared: list[Any], across: Any, copied: bool) -> Blocks | None:
        if not copied and (len(self._steps) > 1 or len(shared) > 1 or not self._form.packed):
            return None
        inner = build.known(build.product(build.extents(self._inner)))
        if inner is None:
            return None
        lines, down = build.product(build.extents(self._lines)), build.product(shared)
        tiling, dtype, init = self._tiling, self._dtype, self._form.stage.init
        first = blocking.blocks(lines, inner, down, across, tiling, dtype, init)
        counts = blocking.counts(lines, down, 1 if first is None else first.count)
        count = self._machine.guide.take("blocks", {str(n): n for n in counts})
        return blocking.of(count, lines, down, across, tiling, dtype, init)

    def _in_blocks(
        self, found: Blocks, turns: list[Any], inner: list[Any], shared: list[Any], copied: bool
    ) -> tirx.Stmt:
        tiles = build.known(build.product(shared)) or 0

        def group(flat: Any) -> tirx.Stmt:
            *place, which = build.unflatten(flat, [*turns, -(-tiles // found.group)])
            *lead, tile = place

            def prepare(begin: Any) -> list[tirx.Stmt]:
                if not copied:
                    return []
                many = [found.steps, *build.extents(self._inner)]
                return [self._fill(place, many, lambda at: self._places(begin, at))]

            def rows(number: Any, block: Block) -> tirx.Stmt:
                *at, down = build.unflatten(number, shared)
                values = build.bind(self._packed_outer, lead) | build.bind(inner, at)

                def piece(column: Any, width: int) -> tirx.Stmt:
                    def part(first: Any, height: int) -> tirx.Stmt:
                        return self._tile(values, first, height, tile, column, width, block)

                    return pick_rows(self._rows, self._tiling, down, part)

                return pick_columns(self._columns, self._tiling, tile, piece)

            body = found.write(tiles, which, rows, prepare)
            return build.scope([self._panel], body, "panel") if copied else body

        many = build.product([*turns, -(-tiles // found.group)])
        return build.loop(many, group, self._kind(), "group")

    def _places(self, begin: Any, at: Any) -> list[Any]:
        """The values of all axes of steps for a line, counted from `begin`, and those within it."""
        line, *rest = at
        return [*build.unflatten(begin + line, build.extents(self._lines)), *rest]

    def _tile(
        self,
        values: dict[Any, Any],
        row: Any,
        height: int,
        tile: Any,
        column: Any,
        width: int,
        block: Block | None = None,
    ) -> tirx.Stmt:
        """Clear, sum up and store one tile."""
        form, lanes = self._form, self._tiling.lanes
        # Packed tiles go on with zeros: a whole vector costs less than its halves.
        wide = -(-width // lanes) * lanes if form.packed else width
        total = tirx.decl_buffer((height, wide), self._dtype, "total", scope="local")

        def each(make: Any) -> tirx.Stmt:
            return cells(height, wide, lanes, make)

        def clear(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(total, form.stage.init, [i, j])

        def step(at: list[Any], spot: list[Any]) -> tirx.Stmt:
            own = values | build.bind(self._steps, at)
            return self._add(total, own, row, tile, column, spot)

        def finish(i: Any, j: Any, sums: tirx.Buffer = total) -> tirx.Stmt:
            at = build.split(form.columns, tile * self._tiling.columns + column + j)
            own = form.settled(values | build.split(form.rows, row + i) | at)
            return form.placement.finish(own, sums[i, j])

        store = self._store(total, height, width, finish)
        if block is None:
            asked = ahead.fetch(form.placement, height, width, finish)
            turns = build.extents(self._steps)
            sums = ahead.between(asked, turns, lambda at: step(at, at))
            body = [each(clear), sums, store]
        else:

            def line(k: Any) -> tirx.Stmt:
                within = build.extents(self._inner)
                places = lambda rest: self._places(block.begin, [k, *rest])  # noqa: E731
                return build.nest(within, lambda rest: step(places(rest), [k, *rest]))

            body = block.around(total, column, each, line, store)
        made = [stage.store.buffer for stage in form.before]
        return build.scope([total], build.sequence(body), "tile", whole=made)

    def _store(self, total: tirx.Buffer, height: int, width: int, finish: Any) -> tirx.Stmt:
        """Write the results of a tile.

        Functions are long. Where the number of rows is open there are tiles of several heights, and
        written out for every row functions are most of the code: half of the time to compile it.
        """
        lanes = self._tiling.lanes
        called = kernel.calls(self._form.placement.store.value) - kernel.CHEAP_CALLS
        if height == 1 or not called or build.known(self._rows) is not None:
            return cells(height, width, lanes, finish)
        # Sums that a loop reads would leave the registers, hence the copy.
        done = tirx.decl_buffer(total.shape, self._dtype, "done", scope="local")

        def keep(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(done, total[i, j], [i, j])

        def line(row: Any) -> tirx.Stmt:
            return cells(1, width, lanes, lambda _, j: finish(row, j, done))

        steps = [cells(height, width, lanes, keep), build.loop(height, line, name="row")]
        return build.scope([done], build.sequence(steps), "results")

    def _add(
        self,
        total: tirx.Buffer,
        values: dict[Any, Any],
        row: Any,
        tile: Any,
        column: Any,
        spot: list[Any],
    ) -> tirx.Stmt:
        """One step of the sums of the tile that begins at `row` and `column`."""
        form = self._form

        def add(i: Any, j: Any) -> tirx.Stmt:
            left = kernel.substitute(form.left, values | build.split(form.rows, row + i))
            right = self._load(values, tile, column + j, spot)
            return tirx.BufferStore(total, total[i, j] + left * right, [i, j])

        height, width = (int(size) for size in total.shape)
        return cells(height, width, self._tiling.lanes, add)

    def _load(self, values: dict[Any, Any], tile: Any, column: Any, spot: list[Any]) -> Any:
        form = self._form
        if form.packed:
            steps = [kernel.substitute(index, values) for index in form.right.indices[1:-1]]
            return tirx.BufferLoad(form.right.source, [tile, *steps, column])
        if self._panel is None:
            at = build.split(form.columns, tile * self._tiling.columns + column)
            return kernel.substitute(form.right, values | at)
        return tirx.BufferLoad(self._panel, [*spot, column])

    def _kind(self) -> str:
        turns = [*build.extents(self._form.outer), *build.extents(self._steps)]
        return self._machine.kind(build.work([*turns, self._rows, self._columns]))
