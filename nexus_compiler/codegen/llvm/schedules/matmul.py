"""Sums of products in register tiles.

The output is cut in tiles that fit the registers: rows are broadcast from the one operand, columns
are vectors of the other. The reduction runs outermost inside a tile, so that the accumulators stay
in registers: rows * vectors + vectors + 1 registers are needed, and past that bound speed halves
(measured with 32 registers of 16 floats: 8 by 3 vectors 240 GFLOP/s, 7 by 4 only 103-142).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel, spatial
from nexus_compiler.codegen.llvm.schedules.blocks import Block, Blocks, blocks
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.product import Product, recognise
from nexus_compiler.codegen.llvm.schedules.tiles import cells, choose, pick_columns, pick_rows


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in register tiles; None where it is no sum of products."""
    form = recognise(kernel_, machine)
    return None if form is None else _Writer(form, machine).function(kernel_.function)


class _Writer:
    """Writes the loops of one product."""

    def __init__(self, form: Product, machine: Machine) -> None:
        self._form, self._machine = form, machine
        self._steps = form.stage.reduced
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
            pitch=form.pitch,
        )
        self._packed: tirx.Buffer | None = None
        reach = kernel.variables(form.right)
        self._packed_outer = [axis for axis in form.outer if axis.var in reach]

    def function(self, original: tirx.PrimFunc) -> tirx.PrimFunc:
        """The whole kernel."""
        steps = [spatial.write(s, {}, self._machine, parallel=True) for s in self._form.before]
        buffers = [stage.store.buffer for stage in self._form.before]
        if not self._form.ordered:
            steps.append(self._pack())
            buffers.append(self._packed)
        return build.function(original, build.sequence([*steps, self._tiles()]), buffers)

    def _pack(self) -> tirx.Stmt:
        """Copy the right operand to [outer, tile of columns, steps, column]; it is read often."""
        form, width = self._form, self._tiling.columns
        outer, steps = build.extents(self._packed_outer), build.extents(self._steps)
        count = build.ceil(self._columns, width)
        shape = [build.number(extent) for extent in (*outer, count, *steps, width)]
        buffer = tirx.decl_buffer(shape, str(form.right.ty), "packed")
        self._packed = buffer

        def one(flat: Any) -> tirx.Stmt:
            *place, tile = build.unflatten(flat, [*outer, count])
            left = tirx.min(build.number(width), self._columns - tile * width)

            def column(offset: Any) -> tirx.Stmt:
                values = build.bind(self._packed_outer, place)
                values |= build.split(form.columns, tile * width + offset)

                def copy(at: list[Any]) -> tirx.Stmt:
                    element = kernel.substitute(form.right, values | build.bind(self._steps, at))
                    return tirx.BufferStore(buffer, element, [*place, tile, *at, offset])

                return build.nest(steps, copy)

            return build.loop(left, column, name="column")

        return build.loop(build.product([*outer, count]), one, self._kind(), "pack")

    def _tiles(self) -> tirx.Stmt:
        # All that reads one panel of the right operand comes before the next panel.
        inner = [axis for axis in self._form.outer if axis not in self._packed_outer]
        lead, follow = build.extents(self._packed_outer), build.extents(inner)
        down, across = (
            build.ceil(self._rows, self._tiling.rows),
            build.ceil(self._columns, self._tiling.columns),
        )
        if (found := self._blocks(across)) and not follow:
            return self._in_blocks(found, [*lead, across], build.known(down) or 0)
        turns = [*lead, across, *follow, down]

        def one(flat: Any) -> tirx.Stmt:
            place = build.unflatten(flat, turns)
            tile, row = place[len(lead)], place[-1]
            values = build.bind(self._packed_outer, place) | build.bind(
                inner, place[len(lead) + 1 :]
            )

            def piece(column: Any, width: int) -> tirx.Stmt:
                return pick_rows(
                    self._rows,
                    self._tiling,
                    row,
                    lambda first, height: self._tile(values, first, height, tile, column, width),
                )

            return pick_columns(self._columns, self._tiling, tile, piece)

        return build.loop(build.product(turns), one, self._kind(), "tile")

    def _blocks(self, across: Any) -> Blocks | None:
        in_order = bool(self._form.packed) or self._packed is not None
        if len(self._steps) != 1 or not in_order:
            return None
        steps, init = self._steps[0].dom.extent, self._form.stage.init
        return blocks(steps, self._rows, across, self._tiling, self._dtype, init)

    def _in_blocks(self, found: Blocks, turns: list[Any], down: int) -> tirx.Stmt:
        def group(flat: Any) -> tirx.Stmt:
            *place, tile, which = build.unflatten(flat, [*turns, -(-down // found.group)])
            values = build.bind(self._packed_outer, place)

            def rows(number: Any, block: Block) -> tirx.Stmt:
                def piece(column: Any, width: int) -> tirx.Stmt:
                    def part(first: Any, height: int) -> tirx.Stmt:
                        return self._tile(values, first, height, tile, column, width, block)

                    return pick_rows(self._rows, self._tiling, number, part)

                return pick_columns(self._columns, self._tiling, tile, piece)

            return found.write(down, which, rows)

        many = build.product([*turns, -(-down // found.group)])
        return build.loop(many, group, self._kind(), "group")

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

        def step(at: list[Any]) -> tirx.Stmt:
            own = values | build.bind(self._steps, at)

            def add(i: Any, j: Any) -> tirx.Stmt:
                left = kernel.substitute(form.left, own | build.split(form.rows, row + i))
                right = self._load(own, tile, column + j)
                return tirx.BufferStore(total, total[i, j] + left * right, [i, j])

            return each(add)

        def finish(i: Any, j: Any) -> tirx.Stmt:
            at = build.split(form.columns, tile * self._tiling.columns + column + j)
            return form.placement.finish(values | build.split(form.rows, row + i) | at, total[i, j])

        store = cells(height, width, lanes, finish)
        if block is None:
            body = [each(clear), build.nest(build.extents(self._steps), step), store]
        else:
            body = block.around(total, column, each, step, store)
        return build.scope([total], build.sequence(body), "tile")

    def _load(self, values: dict[Any, Any], tile: Any, column: Any) -> Any:
        form = self._form
        if form.packed:
            steps = [kernel.substitute(index, values) for index in form.right.indices[1:-1]]
            return tirx.BufferLoad(form.right.source, [tile, *steps, column])
        if self._packed is None:
            at = build.split(form.columns, tile * self._tiling.columns + column)
            return kernel.substitute(form.right, values | at)
        place = [values[axis.var] for axis in self._packed_outer]
        steps = [values[axis.var] for axis in self._steps]
        return tirx.BufferLoad(self._packed, [*place, tile, *steps, column])

    def _kind(self) -> str:
        turns = [*build.extents(self._form.outer), *build.extents(self._steps)]
        return self._machine.kind(build.work([*turns, self._rows, self._columns]))
