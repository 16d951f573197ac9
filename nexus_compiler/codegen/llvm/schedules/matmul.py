"""Sums of products with reuse: matmul in all layouts, batched or not, and 1x1 convolutions.

The output is cut in tiles that fit the registers: rows are broadcast from the one operand, columns
are vectors of the other. The reduction runs outermost inside a tile, so that the accumulators stay
in registers: rows * vectors + vectors + 1 registers are needed, and past that bound speed halves
(measured: 8x64 floats in 32 registers 240 GFLOP/s, 7x64 + spill 103-142).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage, is_const
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import choose, pieces

_REUSE = 4  # rows from which on it pays to copy the right operand into the order of the tiles


@dataclass(frozen=True)
class Product:
    """A recognised kernel: out[outer, rows, columns] = epilogue(sum over k of left * right).

    Axes are variables of the sum's own stage; `place` gives the epilogue's variable for each.
    """

    sum: Stage
    left: Any
    right: Any
    outer: tuple[tirx.IterVar, ...]
    rows: tuple[tirx.IterVar, ...]
    columns: tuple[tirx.IterVar, ...]
    store: tirx.BufferStore
    place: dict[tirx.Var, Any]
    units: dict[tirx.Var, Any]


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in register tiles; None where it is no sum of products."""
    form = recognise(kernel_)
    if form is None:
        return None
    rows = build.known(build.product(build.extents(form.rows)))
    if rows is not None and rows < _REUSE and not _contiguous(form.right, form.columns):
        return None
    return _Writer(form, machine).function(kernel_.function)


def recognise(kernel_: Kernel) -> Product | None:
    """Find operands and axes; None where the form is another."""
    if not 0 < len(kernel_.stages) <= 2 or not kernel_.stages[0].reduced:
        return None
    stage = kernel_.stages[0]
    operands = _operands(stage)
    placed = _placement(kernel_.stages)
    if operands is None or placed is None:
        return None
    store, place, order = placed
    wide = [axis for axis in order if not is_const(axis.dom.extent, 1)]
    if not wide:
        return None
    left, right = operands
    if wide[-1].var in kernel.variables(left):
        left, right = right, left
    reach_left, reach_right = kernel.variables(left), kernel.variables(right)
    columns = _run(wide, lambda v: v in reach_right and v not in reach_left)
    if not columns:
        return None
    rest = wide[: len(wide) - len(columns)]
    rows = _run(rest, lambda v: v in reach_left and v not in reach_right)
    outer = tuple(axis for axis in rest if axis not in rows)
    if not rows:
        lone = [a for a in rest if a.var in reach_left and a.var not in reach_right]
        rows = (lone[-1],) if lone else ()
        outer = tuple(axis for axis in rest if axis not in rows)
    units = {
        axis.var: build.number(0)
        for axis in kernel_.stages[-1].spatial
        if is_const(axis.dom.extent, 1)
    }
    return Product(stage, left, right, outer, rows, columns, store, place, units)


def _operands(stage: Stage) -> tuple[Any, Any] | None:
    value = stage.store.value
    if not isinstance(value, tirx.Add) or stage.init is None:
        return None
    for total, term in ((value.a, value.b), (value.b, value.a)):
        if isinstance(total, TensorLoad) and total.source.same_as(stage.store.buffer):
            return (term.a, term.b) if isinstance(term, tirx.Mul) else None
    return None


def _placement(
    stages: Sequence[Stage],
) -> tuple[tirx.BufferStore, dict[tirx.Var, Any], list[tirx.IterVar]] | None:
    """The final store, the sum's axes in its terms, and the sum's axes in its loop order."""
    total, last = stages[0], stages[-1]
    axes = {axis.var: axis for axis in total.spatial}
    written = list(total.store.indices)
    found_axes = [index for index in written if isinstance(index, tirx.Var) and index in axes]
    if len(found_axes) != len(axes) or len(set(found_axes)) != len(axes):
        return None
    if len(stages) == 1:
        return total.store, {}, list(total.spatial)
    found = kernel.loads(last.store.value, total.store.buffer)
    if last.reduced or not found or not all(_same(f, found[0]) for f in found):
        return None
    order: dict[tirx.Var, tirx.IterVar] = {}
    place: dict[tirx.Var, Any] = {}
    for index, own in zip(found[0].indices, written):
        if not isinstance(own, tirx.Var):
            continue
        if not isinstance(index, tirx.Var) or index in order:
            return None
        order[index], place[own] = axes[own], index
    loops = [axis for axis in last.spatial if not is_const(axis.dom.extent, 1)]
    if {axis.var for axis in loops} != set(order):
        return None
    return last.store, place, [order[axis.var] for axis in loops]


def _same(one: Any, other: Any) -> bool:
    return tvm_ffi.structural_equal(one, other)


def _run(axes: list[tirx.IterVar], belongs: Any) -> tuple[tirx.IterVar, ...]:
    """The longest tail of `axes` of which each `belongs`."""
    count = 0
    while count < len(axes) and belongs(axes[-1 - count].var):
        count += 1
    return tuple(axes[len(axes) - count :])


class _Writer:
    """Writes the loops of one product."""

    def __init__(self, form: Product, machine: Machine) -> None:
        self._form, self._machine = form, machine
        self._steps = [a for a in form.sum.reduced if not is_const(a.dom.extent, 1)]
        self._rows = build.product(build.extents(form.rows))
        self._columns = build.product(build.extents(form.columns))
        self._dtype = str(form.sum.store.buffer.dtype)
        self._tiling = choose(
            build.known(self._rows), build.known(self._columns), self._dtype, machine
        )
        self._packed: tirx.Buffer | None = None
        reach = kernel.variables(form.right)
        self._packed_outer = [axis for axis in form.outer if axis.var in reach]

    def function(self, original: tirx.PrimFunc) -> tirx.PrimFunc:
        """The whole kernel."""
        if _contiguous(self._form.right, self._form.columns):
            return build.function(original, self._tiles())
        pack = self._pack()
        body = build.sequence([pack, self._tiles()])
        return build.function(original, body, [self._packed])

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
                values = self._zeros() | build.bind(self._packed_outer, place)
                values |= build.split(form.columns, tile * width + offset)

                def copy(at: list[Any]) -> tirx.Stmt:
                    element = kernel.substitute(form.right, values | build.bind(self._steps, at))
                    return tirx.BufferStore(buffer, element, [*place, tile, *at, offset])

                return build.nest(steps, copy)

            return build.loop(left, column, name="column")

        return build.loop(build.product([*outer, count]), one, self._kind(), "pack")

    def _tiles(self) -> tirx.Stmt:
        outer = build.extents(self._form.outer)
        down, across = (
            build.ceil(self._rows, self._tiling.rows),
            build.ceil(self._columns, self._tiling.columns),
        )

        def one(flat: Any) -> tirx.Stmt:
            *place, tile, row = build.unflatten(flat, [*outer, across, down])
            values = self._zeros() | build.bind(self._form.outer, place)

            def piece(column: Any, width: int) -> tirx.Stmt:
                return self._pick_rows(
                    row,
                    lambda first, height: self._tile(values, first, height, tile, column, width),
                )

            return self._pick_columns(tile, piece)

        many = build.product([*outer, across, down])
        return build.loop(many, one, self._kind(), "tile")

    def _pick_columns(self, tile: Any, write: Any) -> tirx.Stmt:
        """A full tile, or what is left of the columns."""
        full = self._tiling.columns
        if isinstance(self._columns, int):
            whole, rest = divmod(self._columns, full)
            if not rest:
                return write(0, full)
            if not whole:
                return write(0, rest)
            return build.branch(tile < whole, write(0, full), write(0, rest))
        rest = self._columns - tile * full
        singles = build.loop(rest, lambda column: write(column, 1), name="column")
        return build.branch(rest >= full, write(0, full), singles)

    def _pick_rows(self, tile: Any, write: Any) -> tirx.Stmt:
        """A full tile, or what is left of the rows; in halves where that is known at run time."""
        full = self._tiling.rows
        first = tile * full
        if isinstance(self._rows, int):
            whole, rest = divmod(self._rows, full)
            if not rest:
                return write(first, full)
            if not whole:
                return write(first, rest)
            return build.branch(tile < whole, write(first, full), write(first, rest))
        rest = self._rows - first
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

    def _tile(
        self, values: dict[Any, Any], row: Any, height: int, tile: Any, column: Any, width: int
    ) -> tirx.Stmt:
        """Clear, sum up and store one tile."""
        form = self._form
        total = tirx.decl_buffer((height, width), self._dtype, "total", scope="local")

        def each(make: Any) -> tirx.Stmt:
            def line(i: Any) -> tirx.Stmt:
                parts = [
                    build.loop(lanes, lambda v, at=at: make(i, at + v), "vectorized", "lane")
                    for at, lanes in pieces(width, self._tiling.lanes)
                ]
                return build.sequence(parts)

            return build.loop(height, line, "unroll", "row")

        def clear(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(total, form.sum.init, [i, j])

        def step(at: list[Any]) -> tirx.Stmt:
            own = values | build.bind(self._steps, at)

            def add(i: Any, j: Any) -> tirx.Stmt:
                left = kernel.substitute(form.left, own | build.split(form.rows, row + i))
                right = self._load(own, tile, column + j)
                return tirx.BufferStore(total, total[i, j] + left * right, [i, j])

            return each(add)

        def finish(i: Any, j: Any) -> tirx.Stmt:
            at = build.split(form.columns, tile * self._tiling.columns + column + j)
            return self._store(values | build.split(form.rows, row + i) | at, total[i, j])

        body = [each(clear), build.nest(build.extents(self._steps), step), each(finish)]
        return build.scope([total], build.sequence(body), "tile")

    def _load(self, values: dict[Any, Any], tile: Any, column: Any) -> Any:
        form = self._form
        if self._packed is None:
            at = build.split(form.columns, tile * self._tiling.columns + column)
            return kernel.substitute(form.right, values | at)
        place = [values[axis.var] for axis in self._packed_outer]
        steps = [values[axis.var] for axis in self._steps]
        return tirx.BufferLoad(self._packed, [*place, tile, *steps, column])

    def _store(self, values: dict[Any, Any], total: Any) -> tirx.Stmt:
        """The epilogue of one element."""
        form = self._form
        own = {form.place.get(variable, variable): value for variable, value in values.items()}
        own |= form.units
        if form.store.same_as(form.sum.store):
            value = total
        else:
            value = kernel.replace_loads(form.store.value, form.sum.store.buffer, lambda _: total)
        indices = [kernel.substitute(index, own) for index in form.store.indices]
        return tirx.BufferStore(form.store.buffer, kernel.substitute(value, own), indices)

    def _zeros(self) -> dict[Any, Any]:
        axes = (*self._form.sum.spatial, *self._form.sum.reduced)
        return {axis.var: build.number(0) for axis in axes if is_const(axis.dom.extent, 1)}

    def _kind(self) -> str:
        turns = [*build.extents(self._form.outer), *build.extents(self._steps)]
        work = build.work([*turns, self._rows, self._columns])
        return "parallel" if work >= self._machine.parallel_work else "serial"


def _contiguous(value: Any, columns: tuple[tirx.IterVar, ...]) -> bool:
    """Whether neighbouring columns are neighbours in memory."""
    if not isinstance(value, TensorLoad):
        return False
    count = len(columns)
    names = [axis.var for axis in columns]
    if not all(index.same_as(name) for index, name in zip(value.indices[-count:], names)):
        return False
    if any(name in kernel.variables(index) for index in value.indices[:-count] for name in names):
        return False
    inner = zip(value.source.shape[-count + 1 :] if count > 1 else [], build.extents(columns)[1:])
    return all(is_const(a) and is_const(b) and int(a) == int(b) for a, b in inner)
