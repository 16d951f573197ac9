"""Attention in blocks of queries and keys: the scores of one pair of blocks stay in the cache.

For each block of keys the sums of earlier blocks are scaled to the largest score seen so far (the
online softmax of Milakov & Gimelshein 2018, in blocks as in FlashAttention, Dao et al. 2022). Both
products are register tiles over packed blocks. Few queries, as when a text is continued, read keys
and values once, where they are.

A row whose scores are all -inf gives NaN, as it does by the definition of softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel, spatial
from nexus_compiler.codegen.llvm.schedules.attending import Attention, recognise
from nexus_compiler.codegen.llvm.schedules.few_queries import FewQueries
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.online import Online
from nexus_compiler.codegen.llvm.schedules.tiles import cells

_QUERIES, _KEYS = 128, 128  # of a block: scores, keys and values are 128 kB, a part of the second
_OPEN = 32  # queries of a block where their number is not known
_TASKS = 8
_FEW = 4  # queries from which on it pays to copy keys and values into the order of the tiles
_SQUARE = 8
_F32 = "float32"


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in blocks; None where it is no attention."""
    form = recognise(kernel_)
    if form is None:
        return None
    rows = 1 if form.row is None else build.known(form.row.dom.extent)
    few = rows is not None and rows < _FEW
    tasks = FewQueries(form, machine).tasks() if few else _Blocks(form, machine).tasks()
    if (after := form.pending) is None:
        return build.function(kernel_.function, tasks)
    body = build.sequence([tasks, spatial.write(after, {}, machine, parallel=True)])
    return build.function(kernel_.function, body, [form.total.store.buffer])


class _Blocks:
    """Writes the loops for many queries."""

    def __init__(self, form: Attention, machine: Machine) -> None:
        assert form.row is not None
        self._form, self._machine, self._row = form, machine, form.row
        self._lanes = machine.lanes(_F32)
        self._rows, self._keys = form.row.dom.extent, form.key_axis.dom.extent
        self._steps, self._wide = int(form.step.dom.extent), int(form.column.dom.extent)
        vectors = -(-self._wide // self._lanes)
        self._vectors = 2 if vectors % 2 == 0 else 1
        self._queries = self._choose_queries()
        self._height = self._choose_height()
        self._panel = 2 * self._lanes
        self._block = self._choose_keys()
        down = -(-self._queries // self._height) * self._height
        across = vectors * self._lanes
        self._query = _buffer((down, self._steps), "query")
        self._key = _buffer((self._block // self._panel, self._steps, self._panel), "key")
        self._value = _buffer((self._block, across), "value")
        self._scores = _buffer((down, self._block), "scores")
        self._sums = _buffer((down, across), "sums")
        known = build.known(self._keys)
        self._once = known is not None and known <= self._block
        self._online = Online(self._scores, down, self._lanes, once=self._once)

    def _choose_queries(self) -> int:
        """Queries of a block: equal parts, more where there would be few tasks."""
        rows = build.known(self._rows)
        if rows is None:
            return _OPEN
        outer = build.work(build.extents(self._form.outer))
        parts = max(-(-rows // _QUERIES), min(-(-_TASKS // outer), -(-rows // _OPEN)))
        return -(-rows // parts)

    def _choose_height(self) -> int:
        """Rows of a tile: as many as registers hold, few of them beyond the block."""
        most = (self._machine.vector_registers - 3) // 2
        if build.known(self._rows) is None:
            return min(most, 8)

        def cost(height: int) -> float:
            return -(-self._queries // height) * (height + 0.25)

        return min(range(max(1, most // 2), most + 1), key=lambda h: (cost(h), -h))

    def _choose_keys(self) -> int:
        known = build.known(self._keys)
        if known is None:
            return _KEYS
        parts = -(-known // (_KEYS + _KEYS // 2))
        return -(-known // (parts * self._panel)) * self._panel

    def tasks(self) -> tirx.Stmt:
        """Every block of queries of every head."""
        form = self._form
        turns = [*build.extents(form.outer), build.ceil(self._rows, self._queries)]
        work = build.work([*turns, self._queries, self._keys, self._steps + self._wide])
        buffers = [self._query, self._key, self._value, self._scores, self._sums]

        def task(flat: Any) -> tirx.Stmt:
            *place, which = build.unflatten(flat, turns)
            values = build.bind(form.outer, place)
            first = which * self._queries
            count = build.part(self._rows, which, self._queries)

            def block(number: Any) -> tirx.Stmt:
                begin = number * self._block
                size = build.part(self._keys, number, self._block)
                return self._one_block(values, first, count, begin, size)

            steps = [self._pack_queries(values, first, count)]
            steps += [] if self._once else [self._online.clear(count), self._clear(count)]
            steps.append(build.loop(build.ceil(self._keys, self._block), block, name="block"))
            steps.append(self._finish(values, first, count))
            return build.scope([*buffers, *self._online.buffers], build.sequence(steps), "task")

        return build.loop(build.product(turns), task, self._machine.kind(work), "task")

    def _one_block(
        self, values: dict[Any, Any], first: Any, count: Any, begin: Any, size: Any
    ) -> tirx.Stmt:
        row, key = self._row.var, self._form.key_axis.var

        def weigh(i: Any) -> tirx.Stmt:
            def score(j: Any) -> Any:
                at = values | {row: first + i, key: begin + j}
                return self._form.score(self._scores[i, j], at)

            own = [self._online.row(i, size, score)]
            if not self._once:
                own.append(self._rescale(i))
            return build.sequence(own)

        return build.sequence(
            [
                self._pack_keys(values, begin, size),
                self._products(count, size),
                build.loop(count, weigh, name="row"),
                self._pack_values(values, begin, size),
                self._weighted(count, size),
            ]
        )

    def _tiles(self, count: Any) -> Any:
        return build.ceil(count, self._height)

    def _pack_queries(self, values: dict[Any, Any], first: Any, count: Any) -> tirx.Stmt:
        """The block of queries as rows; zeros behind the last one, up to a whole tile."""

        def line(i: Any) -> tirx.Stmt:
            def copy(d: Any) -> tirx.Stmt:
                at = values | {self._row.var: first + i, self._form.step.var: d}
                return tirx.BufferStore(
                    self._query, kernel.substitute(self._form.query, at), [i, d]
                )

            def zero(d: Any) -> tirx.Stmt:
                return tirx.BufferStore(self._query, _zero(), [i, d])

            taken = build.loop(self._steps, copy, name="step")
            if isinstance(count, int) and count % self._height == 0:
                return taken
            return build.branch(i < count, taken, build.loop(self._steps, zero, name="step"))

        return build.loop(self._tiles(count) * self._height, line, name="row")

    def _pack_keys(self, values: dict[Any, Any], begin: Any, size: Any) -> tirx.Stmt:
        """[panel, step, key]; zeros behind the last key, up to a whole panel."""
        form, wide = self._form, self._panel

        def panel(tile: Any) -> tirx.Stmt:
            def element(d: Any, j: Any) -> Any:
                at = values | {form.key_axis.var: begin + tile * wide + j, form.step.var: d}
                return kernel.substitute(form.key, at)

            def copy(d: Any, j: Any) -> tirx.Stmt:
                return tirx.BufferStore(self._key, element(d, j), [tile, d, j])

            def guarded(d: Any, j: Any) -> tirx.Stmt:
                value = tirx.if_then_else(tile * wide + j < size, element(d, j), _zero())
                return tirx.BufferStore(self._key, value, [tile, d, j])

            whole = self._turned(copy) if self._crosses() else self._plainly(copy)
            if isinstance(size, int) and size % wide == 0:
                return whole
            return build.branch((tile + 1) * wide <= size, whole, self._plainly(guarded))

        return build.loop(build.ceil(size, wide), panel, name="panel")

    def _crosses(self) -> bool:
        """Whether the elements of one key are neighbours in memory."""
        found = kernel.loads(self._form.key)
        return any(self._form.step.var in kernel.variables(load.indices[-1]) for load in found)

    def _plainly(self, cell: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
        return build.nest([self._steps, self._panel], lambda at: cell(at[0], at[1]))

    def _turned(self, cell: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
        """In squares that LLVM turns in registers."""
        whole = self._steps // _SQUARE * _SQUARE

        def square(at: list[Any]) -> tirx.Stmt:
            across, down = at[0] * _SQUARE, at[1] * _SQUARE
            return build.nest([_SQUARE] * 2, lambda p: cell(down + p[0], across + p[1]))

        parts = [build.nest([self._panel // _SQUARE, whole // _SQUARE], square)] if whole else []
        if rest := self._steps - whole:
            parts.append(build.nest([rest, self._panel], lambda at: cell(whole + at[0], at[1])))
        return build.sequence(parts)

    def _products(self, count: Any, size: Any) -> tirx.Stmt:
        """The sums of query times key, in tiles."""

        def tile(at: list[Any]) -> tirx.Stmt:
            panel, row = at[0], at[1] * self._height
            return self._tile(
                self._panel,
                self._steps,
                None,
                lambda i, d: self._query[row + i, d],
                lambda d, j: self._key[panel, d, j],
                lambda i, j, v: tirx.BufferStore(
                    self._scores, v, [row + i, panel * self._panel + j]
                ),
            )

        return build.nest([build.ceil(size, self._panel), self._tiles(count)], tile)

    def _weighted(self, count: Any, size: Any) -> tirx.Stmt:
        """The sums of powers times value, in tiles."""
        wide = self._vectors * self._lanes

        def tile(at: list[Any]) -> tirx.Stmt:
            column, row = at[0] * wide, at[1] * self._height
            return self._tile(
                wide,
                size,
                None if self._once else lambda i, j: self._sums[row + i, column + j],
                lambda i, k: self._scores[row + i, k],
                lambda k, j: self._value[k, column + j],
                lambda i, j, v: tirx.BufferStore(self._sums, v, [row + i, column + j]),
            )

        return build.nest([int(self._sums.shape[1]) // wide, self._tiles(count)], tile)

    def _tile(
        self,
        wide: int,
        steps: Any,
        begin: Callable[[Any, Any], Any] | None,
        left: Callable[[Any, Any], Any],
        right: Callable[[Any, Any], Any],
        store: Callable[[Any, Any, Any], tirx.Stmt],
    ) -> tirx.Stmt:
        """One register tile of a product."""
        total = tirx.decl_buffer((self._height, wide), _F32, "total", scope="local")

        def each(make: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
            return cells(self._height, wide, self._lanes, make)

        def step(k: Any) -> tirx.Stmt:
            def add(i: Any, j: Any) -> tirx.Stmt:
                return tirx.BufferStore(total, total[i, j] + left(i, k) * right(k, j), [i, j])

            return each(add)

        def clear(i: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(total, begin(i, j) if begin else _zero(), [i, j])

        body = [each(clear), build.loop(steps, step, name="k")]
        body.append(each(lambda i, j: store(i, j, total[i, j])))
        return build.scope([total], build.sequence(body), "tile")

    def _pack_values(self, values: dict[Any, Any], begin: Any, size: Any) -> tirx.Stmt:
        """[key, column], zeros behind the last column."""
        form, across = self._form, int(self._value.shape[1])

        def line(j: Any) -> tirx.Stmt:
            def copy(e: Any) -> tirx.Stmt:
                at = values | {form.key_axis.var: begin + j, form.column.var: e}
                return tirx.BufferStore(self._value, kernel.substitute(form.value, at), [j, e])

            def zero(e: Any) -> tirx.Stmt:
                return tirx.BufferStore(self._value, _zero(), [j, self._wide + e])

            parts = [build.loop(self._wide, copy, name="column")]
            if across > self._wide:
                parts.append(build.loop(across - self._wide, zero, name="rest"))
            return build.sequence(parts)

        return build.loop(size, line, name="key")

    def _clear(self, count: Any) -> tirx.Stmt:
        across = int(self._sums.shape[1])

        def one(at: list[Any]) -> tirx.Stmt:
            return tirx.BufferStore(self._sums, _zero(), at)

        return build.nest([self._tiles(count) * self._height, across], one)

    def _rescale(self, i: Any) -> tirx.Stmt:
        def one(e: Any) -> tirx.Stmt:
            return tirx.BufferStore(self._sums, self._sums[i, e] * self._online.shrink[0], [i, e])

        return build.loop(int(self._sums.shape[1]), one, name="column")

    def _finish(self, values: dict[Any, Any], first: Any, count: Any) -> tirx.Stmt:
        def line(i: Any) -> tirx.Stmt:
            def one(e: Any) -> tirx.Stmt:
                own = values | {self._row.var: first + i, self._form.column.var: e}
                return self._form.finish(self._sums[i, e] * self._online.factor[0], own)

            return build.sequence(
                [self._online.settle(i), build.loop(self._wide, one, name="column")]
            )

        return build.loop(count, line, name="row")


def _buffer(shape: tuple[int, ...], name: str) -> tirx.Buffer:
    return tirx.decl_buffer(shape, _F32, name)


def _zero() -> Any:
    return tirx.const(0.0, _F32)
