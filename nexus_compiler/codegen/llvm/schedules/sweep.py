"""Windows over images whose channels are neighbours: pools and depthwise convolutions.

A tile is some pixels of a line by some vectors of channels. Nothing is copied for the padding:
tiles that lie within the image load without a look at its borders, the others look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import Call
from tvm.sym import Analyzer

from nexus_compiler.codegen.llvm.schedules import build, kernel, reduce, sweep_tiles, tiles
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.placement import Placement, place
from nexus_compiler.codegen.llvm.schedules.sweep_tiles import Line
from nexus_compiler.codegen.llvm.schedules.tiles import Tiling, cells, pick_columns, pick_rows

_UNROLLED = 160  # updates of accumulators that one turn of the innermost loop may hold


@dataclass(frozen=True)
class Sweep:
    """out[outer, pixel, channel] = epilogue(reduction of `value`).

    Attributes:
        value: the reduced store's value, which looks at the borders.
        guards: what must hold where an element lies within the image.
    """

    placement: Placement
    value: Any
    guards: tuple[Any, ...]
    outer: tuple[tirx.IterVar, ...]
    pixel: tirx.IterVar
    channel: tirx.IterVar

    @property
    def stage(self) -> Stage:
        """The reduction."""
        return self.placement.stage


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in tiles of pixels and channels; None where it is no such window."""
    form = recognise(kernel_)
    if form is None:
        return None
    return build.function(kernel_.function, _Writer(form, machine).tasks())


def recognise(kernel_: Kernel) -> Sweep | None:
    """Find pixels, channels and padding; None where the form is another."""
    stages = kernel_.stages
    pads = [stage for stage in stages[:1] if not stage.reduced]
    stages = stages[len(pads) :]
    if not 0 < len(stages) <= 2 or not stages[0].reduced or stages[0].init is None:
        return None
    stage, placement = stages[0], place(stages)
    if placement is None or len(placement.order) < 2 or not reduce.is_window(stage):
        return None
    *outer, pixel, channel = placement.order
    value = _inlined(stage.store.value, pads)
    if build.known(channel.dom.extent) is None or not _in_lanes(stage, value, channel.var):
        return None
    if _is_product(stage, value, pixel.var, channel.var) or not _runs_forward(stage, value, pixel):
        return None
    borders = tuple(guards(value))
    if any(channel.var in kernel.variables(guard) for guard in borders):
        return None
    return Sweep(placement, value, borders, tuple(outer), pixel, channel)


def _is_product(stage: Stage, value: Any, row: tirx.Var, column: tirx.Var) -> bool:
    """Whether each operand knows rows or columns only, and no window moves along the rows."""
    own, reduced = stage.store.buffer, {axis.var for axis in stage.reduced}
    found = [load for load in kernel.loads(value) if not load.source.same_as(own)]
    known = [kernel.variables(list(load.indices)) & {row, column} for load in found]
    moves = any(
        row in (names := kernel.variables(index)) and names & reduced
        for load in found
        for index in load.indices
    )
    return len(found) == 2 and {row} in known and {column} in known and not moves


def _runs_forward(stage: Stage, value: Any, pixel: tirx.IterVar) -> bool:
    """Whether later taps see later pixels, so that the first and the last corner of a tile tell.

    In the gradient of a pool the taps run against the pixels.
    """
    analyzer, axes = Analyzer(), (pixel, *stage.reduced)
    own = stage.store.buffer
    for load in kernel.loads(value):
        for index in load.indices:
            known = [axis for axis in axes if axis.var in kernel.variables(index)]
            if load.source.same_as(own) or len(known) < 2:
                continue
            for axis in known:
                step = kernel.substitute(index, {axis.var: axis.var + 1}) - index
                if (build.known(analyzer.simplify(step)) or 0) <= 0:
                    return False
    return True


def _inlined(value: Any, pads: Sequence[Stage]) -> Any:
    for pad in pads:

        def element(load: Any, pad: Stage = pad) -> Any:
            return kernel.substitute(pad.store.value, pad.axes_at(load.indices))

        value = kernel.replace_loads(value, pad.store.buffer, element)
    return value


def _in_lanes(stage: Stage, value: Any, channel: tirx.Var) -> bool:
    """Whether every operand lies in order along `channel`, or does not know of it."""
    own = stage.store.buffer
    found = [load for load in kernel.loads(value) if not load.source.same_as(own)]
    inner = [load for load in found if channel in kernel.variables(list(load.indices))]
    return bool(inner) and all(
        channel.same_as(load.indices[-1])
        and channel not in kernel.variables(list(load.indices[:-1]))
        for load in inner
    )


def unguarded(value: Any) -> Any:
    """`value` as it is where all its conditions hold."""
    within = (Call, lambda call: call.args[1] if _is_choice(call) else call)
    return tvm_ffi.structural_map(value, within)


def taken(value: Any, condition: Any, way: bool) -> Any:
    """`value` where `condition`, on which it has choices, holds or not."""

    def choose(call: Call) -> Any:
        if _is_choice(call) and kernel.same(call.args[0], condition):
            return call.args[1 if way else 2]
        return call

    return tvm_ffi.structural_map(value, (Call, choose))


def guards(value: Any) -> list[Any]:
    """The conditions of the choices in `value`."""
    found: list[Any] = []

    def visit(call: Call) -> None:
        if _is_choice(call):
            found.append(call.args[0])

    tvm_ffi.structural_walk(value, (Call, visit))
    return found


def _is_choice(call: Call) -> bool:
    return kernel.operator(call) == "if_then_else"


def _tiling(form: Sweep, rows: int | None, columns: int, machine: Machine) -> Tiling:
    """Where vectors of taps serve all pixels, as in a sum over input channels, as for a product."""
    dtype, own = str(form.stage.store.buffer.dtype), form.stage.store.buffer
    known = [
        kernel.variables(list(load.indices))
        for load in kernel.loads(form.value)
        if not load.source.same_as(own)
    ]
    if any(form.pixel.var in names and form.channel.var not in names for names in known):
        return tiles.choose(rows, columns, dtype, machine)
    return sweep_tiles.choose(rows, columns, dtype, _line(form), machine)


def _line(form: Sweep) -> Line:
    """The window along a line of pixels; sizes that are not known count as one."""
    analyzer, pixel = Analyzer(), form.pixel.var
    taps = step = 1
    for index in (index for load in kernel.loads(form.value) for index in load.indices):
        names = kernel.variables(index)
        moved = [axis for axis in form.stage.reduced if axis.var in names]
        if pixel in names and moved:
            taps = build.known(build.product(build.extents(moved))) or 1
            after = kernel.substitute(index, {pixel: pixel + 1})
            step = build.known(analyzer.simplify(after - index)) or 1
    window = build.known(build.product(build.extents(form.stage.reduced))) or taps
    return Line(taps, max(1, window // taps), step, bool(form.guards))


class _Writer:
    def __init__(self, form: Sweep, machine: Machine) -> None:
        self._form, self._machine = form, machine
        self._dtype = str(form.stage.store.buffer.dtype)
        self._rows = build.product([form.pixel.dom.extent])
        self._columns = int(form.channel.dom.extent)
        rows = build.known(self._rows)
        self._tiling = _tiling(form, rows, self._columns, machine)
        self._unguarded = unguarded(form.value)

    def tasks(self) -> tirx.Stmt:
        """Every tile of every line."""
        form, tiling = self._form, self._tiling
        down, across = (
            build.ceil(self._rows, tiling.rows),
            build.ceil(self._columns, tiling.columns),
        )
        turns = [*build.extents(form.outer), down, across]

        def one(flat: Any) -> tirx.Stmt:
            *place, row, tile = build.unflatten(flat, turns)
            values = build.bind(form.outer, place)

            def piece(column: Any, width: int) -> tirx.Stmt:
                begin = tile * tiling.columns + column
                return pick_rows(
                    self._rows,
                    tiling,
                    row,
                    lambda first, height: self._tile(values, first, height, begin, width),
                )

            return pick_columns(self._columns, tiling, tile, piece)

        work = build.work(
            [*build.extents(form.placement.order), *build.extents(form.stage.reduced)]
        )
        return build.loop(build.product(turns), one, self._machine.kind(work), "tile")

    def _tile(
        self, values: dict[Any, Any], first: Any, height: int, begin: Any, width: int
    ) -> tirx.Stmt:
        """Reduce and store one tile; the quick way where it lies within the image."""
        total = tirx.decl_buffer((height, width), self._dtype, "total", scope="local")
        sums = self._reduce(values, first, height, begin, width, total, self._form.value)
        if self._form.guards:
            quick = self._reduce(values, first, height, begin, width, total, self._unguarded)
            sums = build.branch(self._within(values, first, height), quick, sums)

        def finish(i: Any, j: Any) -> tirx.Stmt:
            own = values | {self._form.pixel.var: first + i, self._form.channel.var: begin + j}
            return self._form.placement.finish(own, total[i, j])

        lanes = self._tiling.lanes
        return build.scope(
            [total], build.sequence([sums, cells(height, width, lanes, finish)]), "tile"
        )

    def _reduce(
        self,
        values: dict[Any, Any],
        first: Any,
        height: int,
        begin: Any,
        width: int,
        total: tirx.Buffer,
        value: Any,
    ) -> tirx.Stmt:
        stage, lanes = self._form.stage, self._tiling.lanes

        def update(value: Any, at: list[Any], i: Any, j: Any) -> tirx.Stmt:
            place = {self._form.pixel.var: first + i, self._form.channel.var: begin + j}
            own = values | build.bind(stage.reduced, at) | place
            new = kernel.replace_loads(value, stage.store.buffer, lambda _: total[i, j])
            return tirx.BufferStore(total, kernel.substitute(new, own), [i, j])

        def step(at: list[Any]) -> tirx.Stmt:
            return build.loop(height, lambda i: line(at, i), "unroll", "row")

        def line(at: list[Any], i: Any) -> tirx.Stmt:
            """Of products: one look at the border for all vectors of a pixel.

            Compiles twice as fast where sizes are open. Pools are up to a tenth slower with it.
            """
            found = guards(value)
            if len(found) != 1 or not kernel.contains(value, tirx.Mul):
                return cells(1, width, lanes, lambda _, j: update(value, at, i, j))
            inside, outside = (
                cells(1, width, lanes, lambda _, j, v=v: update(v, at, i, j))
                for v in (taken(value, found[0], True), taken(value, found[0], False))
            )
            place = {self._form.pixel.var: first + i}
            own = values | build.bind(stage.reduced, at) | place
            return build.branch(kernel.substitute(found[0], own), inside, outside)

        clear = cells(
            height, width, lanes, lambda i, j: tirx.BufferStore(total, stage.init, [i, j])
        )
        *outer, inner = build.extents(stage.reduced)
        vectors = height * -(-width // lanes)
        unrolled = (build.known(inner) or _UNROLLED) * vectors <= _UNROLLED
        kind = "unroll" if unrolled else "serial"
        body = build.nest(
            outer, lambda at: build.loop(inner, lambda k: step([*at, k]), kind, "tap")
        )
        return build.sequence([clear, body])

    def _within(self, values: dict[Any, Any], first: Any, height: int) -> Any:
        """Whether the whole window of a tile is in the image: its first and its last corner are."""
        stage, pixel = self._form.stage, self._form.pixel.var
        low = values | {pixel: first} | {axis.var: build.number(0) for axis in stage.reduced}
        high = values | {pixel: first + (height - 1)}
        high |= {axis.var: build.number(axis.dom.extent) - 1 for axis in stage.reduced}
        corners = [kernel.substitute(g, at) for g in self._form.guards for at in (low, high)]
        return tirx.all(*corners)
