"""Convolutions and pools: register tiles over a flat copy of the operand.

The padded operand is copied once, each plane as one flat row, split by the phases of the stride.
A window at (y, x) then starts at y * pitch + x and its taps lie at fixed distances, so neighbouring
results load neighbouring values for every stride, dilation and padding. The few results between the
end of one row and the begin of the next are computed and dropped (2 of 58 columns, 2 of 9 at worst
in ResNets), which costs less than rows that are no whole number of vectors.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import cells, choose
from nexus_compiler.codegen.llvm.schedules.window import Slide, Window, recognise

_STRIP = 4096  # results that a task holds before the epilogue: half of the first cache
_PHASES = 16


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in register tiles; None where nothing slides."""
    form = recognise(kernel_)
    if form is None or form.group == 0 or form.down.stride * form.across.stride > _PHASES:
        return None
    return _Writer(form, machine).function(kernel_.function)


def _used_phases(slide: Slide) -> list[int]:
    taps = 1 if slide.reduced is None else int(slide.reduced.dom.extent)
    return sorted({tap * slide.dilation % slide.stride for tap in range(taps)})


class _Writer:
    def __init__(self, form: Window, machine: Machine) -> None:
        self._form, self._machine = form, machine
        down, across = form.down, form.across
        self._dtype = str(form.stage.store.buffer.dtype)
        self._high = -(-down.size // down.stride)
        self._pitch = -(-across.size // across.stride)
        self._copied = form.pad is not None or down.stride * across.stride > 1
        shape = list(form.load.source.shape[:-2])
        size = self._high * self._pitch
        self._plane = tirx.decl_buffer(
            [*shape, build.number(down.stride), build.number(across.stride), build.number(size)],
            str(form.load.ty),
            "planes",
        )
        rows = 1 if form.rows is None else form.group
        self._rows = rows
        self._band = self._choose_band(rows)
        self._columns = (self._band - 1) * self._pitch + across.results
        self._tiling = choose(rows, self._columns, self._dtype, machine)

    def _choose_band(self, rows: int) -> int:
        """Rows of results that one task computes: whole fractions, as many as the strip holds."""
        total = self._form.down.results
        height = min(rows, 8)
        fits = [n for n in range(1, total + 1) if total % n == 0]
        good = [n for n in fits if n * self._pitch * height <= _STRIP]
        first = max(good, default=1)
        less = max((n for n in fits if n < first), default=first)
        more = min((n for n in fits if n > first), default=first)
        return self._machine.guide.take("band", {str(n): n for n in (first, less, more)})

    def function(self, original: tirx.PrimFunc) -> tirx.PrimFunc:
        """The whole kernel."""
        if not self._copied:
            return build.function(original, self._tasks())
        body = build.sequence([self._copy(), self._tasks()])
        return build.function(original, body, [self._plane])

    def _kind(self) -> str:
        form = self._form
        turns = build.extents([*form.placement.order, *form.stage.reduced])
        return self._machine.kind(build.work(turns))

    def _copy(self) -> tirx.Stmt:
        """Copy the operand, padding and all, plane by plane."""
        down, across = self._form.down, self._form.across
        lead = list(self._form.load.source.shape[:-2])

        def plane(flat: Any) -> tirx.Stmt:
            place = build.unflatten(flat, lead)
            phases = [
                self._copy_phase(place, top, left)
                for top in _used_phases(down)
                for left in _used_phases(across)
            ]
            return build.sequence(phases)

        return build.loop(build.product(lead), plane, self._kind(), "plane")

    def _copy_phase(self, place: list[Any], top: int, left: int) -> tirx.Stmt:
        down, across = self._form.down, self._form.across
        high = -(-(down.size - top) // down.stride)
        wide = -(-(across.size - left) // across.stride)

        def cell(y: Any, x: Any) -> tirx.Stmt:
            value = self._source([*place, y * down.stride + top, x * across.stride + left])
            indices = [*place, build.number(top), build.number(left), y * self._pitch + x]
            return tirx.BufferStore(self._plane, value, indices)

        return build.loop(
            high, lambda y: build.loop(wide, lambda x: cell(y, x), name="x"), name="y"
        )

    def _source(self, indices: list[Any]) -> Any:
        pad = self._form.pad
        if pad is None:
            return tirx.BufferLoad(self._form.load.source, indices)
        return kernel.substitute(pad.store.value, pad.axes_at(indices))

    def _tasks(self) -> tirx.Stmt:
        form = self._form
        outer = build.extents(form.outer)
        groups = 1 if form.rows is None else int(form.rows.dom.extent) // form.group
        bands = form.down.results // self._band
        tiles = build.ceil(self._rows, self._tiling.rows)

        def task(flat: Any) -> tirx.Stmt:
            *place, group, band, tile = build.unflatten(flat, [*outer, groups, bands, tiles])
            values = build.bind(form.outer, place)
            base = group * form.group
            first = tile * self._tiling.rows
            whole, rest = divmod(self._rows, self._tiling.rows)
            full = self._strip(values, base, first, self._tiling.rows, band)
            if not rest:
                return full
            last = self._strip(values, base, first, rest, band)
            return build.branch(tile < whole, full, last) if whole else last

        many = build.product([*outer, groups, bands, tiles])
        return build.loop(many, task, self._kind(), "task")

    def _strip(
        self, values: dict[Any, Any], base: Any, first: Any, height: int, band: Any
    ) -> tirx.Stmt:
        """`height` rows of one band: all their sums, then the epilogue."""
        form = self._form
        strip = tirx.decl_buffer((height, self._columns), self._dtype, "strip")
        begin = band * (self._band * self._pitch)
        tile, (whole, rest) = self._tiling.columns, divmod(self._columns, self._tiling.columns)

        def sums(column: Any, width: int) -> tirx.Stmt:
            return self._tile(values, base, first, height, begin, column, width, strip)

        parts = [build.loop(whole, lambda i: sums(i * tile, tile), name="column")] if whole else []
        if rest:
            parts.append(sums(build.number(whole * tile), rest))

        def result(i: Any, y: Any, x: Any) -> tirx.Stmt:
            own = dict(values)
            if form.rows is not None:
                own[form.rows.var] = base + first + i
            if form.down.kept is not None:
                own[form.down.kept.var] = band * self._band + y
            assert form.across.kept is not None
            own[form.across.kept.var] = x
            return form.placement.finish(own, strip[i, y * self._pitch + x])

        def line(i: Any, y: Any) -> tirx.Stmt:
            return build.loop(form.across.results, lambda x: result(i, y, x), name="x")

        finish = build.loop(height, lambda i: build.loop(self._band, lambda y: line(i, y)))
        return build.scope([strip], build.sequence([*parts, finish]), "strip")

    def _tile(
        self,
        values: dict[Any, Any],
        base: Any,
        first: Any,
        height: int,
        begin: Any,
        column: Any,
        width: int,
        strip: tirx.Buffer,
    ) -> tirx.Stmt:
        """The reduction for one register tile."""
        form, stage = self._form, self._form.stage
        total = tirx.decl_buffer((height, width), self._dtype, "total", scope="local")

        def each(make: Any) -> tirx.Stmt:
            return cells(height, width, self._tiling.lanes, make)

        def step(at: list[Any]) -> tirx.Stmt:
            own = values | build.bind(stage.reduced, at)
            shared = own if form.rows is None else own | {form.rows.var: base}
            lead = [kernel.substitute(index, shared) for index in form.lead]

            def add(i: Any, j: Any) -> tirx.Stmt:
                row = own if form.rows is None else own | {form.rows.var: base + first + i}
                tap = self._tap(lead, own, begin + column + j)
                value = kernel.replace_all_loads(
                    stage.store.value,
                    lambda load: self._pick(load, total[i, j], tap),
                )
                return tirx.BufferStore(total, kernel.substitute(value, row), [i, j])

            return each(add)

        clear = each(lambda i, j: tirx.BufferStore(total, stage.init, [i, j]))
        copy = each(lambda i, j: tirx.BufferStore(strip, total[i, j], [i, column + j]))
        body = [clear, build.nest(build.extents(stage.reduced), step), copy]
        return build.scope([total], build.sequence(body), "tile")

    def _pick(self, load: Any, total: Any, tap: Any) -> Any:
        if load.source.same_as(self._form.stage.store.buffer):
            return total
        return tap if load.source.same_as(self._form.load.source) else load

    def _tap(self, lead: list[Any], values: dict[Any, Any], flat: Any) -> Any:
        """What the window that begins at `flat` sees at the present step."""
        down, across = self._form.down, self._form.across
        y, x = (
            build.number(0) if slide.reduced is None else values[slide.reduced.var] * slide.dilation
            for slide in (down, across)
        )
        if not self._copied:
            at = flat + y * self._pitch + x
            places = [tirx.floordiv(at, self._pitch), tirx.floormod(at, self._pitch)]
            return tirx.BufferLoad(self._form.load.source, [*lead, *places])
        phases = [tirx.floormod(y, down.stride), tirx.floormod(x, across.stride)]
        shift = tirx.floordiv(y, down.stride) * self._pitch + tirx.floordiv(x, across.stride)
        return tirx.BufferLoad(self._plane, [*lead, *phases, flat + shift])
