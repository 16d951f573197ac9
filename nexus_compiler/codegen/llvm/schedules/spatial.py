"""Elementwise stages, broadcasts, transposes, pads, joins: every output element on its own.

Neighbouring axes that every operand walks through alike become one. LLVM vectorises the innermost
loop, left-over included, when it is long and walks through memory in order; so the work here is to
give it such a loop.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel, merging, phases, turn
from nexus_compiler.codegen.llvm.schedules.kernel import Stage, is_const
from nexus_compiler.codegen.llvm.schedules.machine import Machine

_CHUNK = 4096  # elements that one task takes of a long axis
_BLOCK = 32  # rows and columns of a transposed block: both sides stay in the first cache
_SQUARE = 8
_MOST_LANES = 16  # of a square whose rows are all in registers
Axes = list[tirx.IterVar]


def write(stage: Stage, bound: dict[Any, Any], machine: Machine, *, parallel: bool) -> tirx.Stmt:
    """The loops of an elementwise stage; axes in `bound` have their values already."""
    if (written := phases.write(stage, bound, machine, parallel=parallel)) is not None:
        return written
    groups = merging.merge(stage, [axis for axis in stage.spatial if axis.var not in bound])

    def element(flats: list[Any]) -> tirx.Stmt:
        values = dict(bound)
        for group, flat in zip(groups, flats):
            values |= build.split(group, flat)
        return kernel.substitute(stage.store, values)

    extents = [build.product(build.extents(group)) for group in groups]
    kind = machine.kind(build.work(extents)) if parallel else "serial"
    if (crossing := _crossing(stage, groups)) is not None:
        return _blocked(extents, crossing, kind, element, machine)
    return _rows(extents, machine, kind, element)


def _rows(extents: Any, machine: Machine, kind: str, element: Any) -> tirx.Stmt:
    """Loops in the order of the output, the last one long."""
    if not extents:
        return element([])
    *outer, inner = extents
    if isinstance(inner, int) and kind == "parallel" and build.work(outer) < 8 and inner > _CHUNK:
        count = -(-inner // _CHUNK)

        def chunk(flat: Any) -> tirx.Stmt:
            *place, part = build.unflatten(flat, [*outer, count])
            size = tirx.min(build.number(_CHUNK), inner - part * _CHUNK)
            size = size if inner % _CHUNK else _CHUNK
            return build.loop(size, lambda i: element([*place, part * _CHUNK + i]), name="i")

        return build.loop(build.product([*outer, count]), chunk, kind, "chunk")
    if not outer:
        return build.loop(inner, lambda i: element([i]), name="i")

    def row(flat: Any) -> tirx.Stmt:
        place = build.unflatten(flat, outer)
        return build.loop(inner, lambda i: element([*place, i]), name="i")

    return build.loop(build.product(outer), row, kind, "row")


def _crossing(stage: Stage, groups: list[Axes]) -> int | None:
    """The group along which a load, but not the store, walks through memory in order."""
    if len(groups) < 2:
        return None
    last = groups[-1][-1].var
    store = stage.store.indices
    if not store or not last.same_as(store[-1]):
        return None
    for load in kernel.loads(stage.store.value):
        inner = [index for index in load.indices if not is_const(index)]
        # A reshape before it reads `x[i // 64, i % 64, j]`.
        if len(inner) < 2 or last not in kernel.variables(inner[:-1]):
            continue
        for place, group in enumerate(groups[:-1]):
            if group[-1].var.same_as(inner[-1]):
                return place
    return None


def _blocked(extents: Any, crossing: int, kind: str, element: Any, machine: Machine) -> tirx.Stmt:
    """A transposition in square blocks."""
    down, across = extents[crossing], extents[-1]
    others = [extent for i, extent in enumerate(extents[:-1]) if i != crossing]
    counts = [build.ceil(down, _BLOCK), build.ceil(across, _BLOCK)]

    def block(flat: Any) -> tirx.Stmt:
        *place, top, left = build.unflatten(flat, [*others, *counts])

        def cell(i: Any, j: Any) -> tirx.Stmt:
            own = [*place[:crossing], top * _BLOCK + i, *place[crossing:], left * _BLOCK + j]
            return element(own)

        height = build.part(down, top, _BLOCK)
        width = build.part(across, left, _BLOCK)
        edge = build.loop(height, lambda i: build.loop(width, lambda j: cell(i, j)))
        if not all((build.known(extent) or 0) >= _BLOCK for extent in (down, across)):
            return edge
        whole = ((top, down // _BLOCK, down % _BLOCK), (left, across // _BLOCK, across % _BLOCK))
        full = [at < count for at, count, rest in whole if build.known(rest)]
        if not full:
            return _in_squares(cell, machine)
        return build.branch(tirx.all(*full), _in_squares(cell, machine), edge)

    return build.loop(build.product([*others, *counts]), block, kind, "block")


def _in_squares(cell: Any, machine: Machine) -> tirx.Stmt:
    """A whole block, square by square; what only moves is turned in registers."""
    lanes = _turned_lanes(cell(build.number(0), build.number(0)), machine)

    def square(at: list[Any]) -> tirx.Stmt:
        down, across = at[0] * lanes, at[1] * lanes

        def read(j: int) -> Any:
            load = cell(down, across + j).value
            return tirx.BufferLoad(load.source, turn.along(load.indices, lanes))

        def write(i: int, values: Any) -> tirx.Stmt:
            store = cell(down + i, across)
            return tirx.BufferStore(store.buffer, values, turn.along(store.indices, lanes))

        return turn.square(lanes, read, write)

    def plain(at: list[Any]) -> tirx.Stmt:
        # LLVM turns so small squares in registers, too; longer loops it writes by gathers.
        down, across = at[0] * _SQUARE, at[1] * _SQUARE
        return build.loop(
            _SQUARE, lambda i: build.loop(_SQUARE, lambda j: cell(down + i, across + j))
        )

    if lanes < 2:
        return build.nest([_BLOCK // _SQUARE] * 2, plain)
    return build.nest([_BLOCK // lanes] * 2, square)


def _turned_lanes(store: tirx.BufferStore, machine: Machine) -> int:
    """The side of the squares in which a transposition is done; 0 where it is more than one."""
    value = store.value
    if not isinstance(value, TensorLoad) or is_const(value.indices[-1]):
        return 0
    if not turn.moves(str(value.ty)):
        return 0
    return min(machine.lanes(str(value.ty)), _MOST_LANES)
