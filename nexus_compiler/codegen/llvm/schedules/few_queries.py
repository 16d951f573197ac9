"""Attention of few queries: keys and values are read once, from where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel, sweep
from nexus_compiler.codegen.llvm.schedules.attending import Attention
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.online import Online, join
from nexus_compiler.codegen.llvm.schedules.tiles import cells

_KEYS = 512  # of a block: their scores are 2 kB
_VECTORS = 8  # accumulators of a tile of columns
_F32 = "float32"


class FewQueries:
    """Writes the loops: each query of each head on its own."""

    def __init__(self, form: Attention, machine: Machine) -> None:
        self._form, self._machine, self._lanes = form, machine, machine.lanes(_F32)
        rows = [] if form.row is None else [form.row]
        self._outer = [*form.outer, *rows]
        self._keys = form.key_axis.dom.extent
        self._steps, self._wide = int(form.step.dom.extent), int(form.column.dom.extent)
        known = build.known(self._keys)
        self._once = known is not None and known <= _KEYS
        lanes = self._lanes
        self._block = -(-known // lanes) * lanes if known and self._once else _KEYS
        self._query = tirx.decl_buffer((self._steps,), _F32, "query")
        self._scores = tirx.decl_buffer((1, self._block), _F32, "scores")
        self._sums = tirx.decl_buffer((self._wide,), _F32, "sums")
        self._online = Online(self._scores, 1, lanes, once=self._once)

    def tasks(self) -> tirx.Stmt:
        """Every query of every head."""
        turns = build.extents(self._outer)
        work = build.work([*turns, self._keys, self._steps + self._wide])

        def task(flat: Any) -> tirx.Stmt:
            values = build.bind(self._outer, build.unflatten(flat, turns))

            def block(number: Any) -> tirx.Stmt:
                size = build.part(self._keys, number, self._block)
                return self._one_block(values, number * self._block, size)

            zero = build.number(0)
            steps = [self._pack_query(values)]
            steps += [] if self._once else [self._online.clear(1), self._clear()]
            steps.append(build.loop(build.ceil(self._keys, self._block), block, name="block"))
            steps += [self._online.settle(zero), self._finish(values)]
            buffers = [self._query, self._scores, self._sums, *self._online.buffers]
            return build.scope(buffers, build.sequence(steps), "task")

        return build.loop(build.product(turns), task, self._machine.kind(work), "task")

    def _pack_query(self, values: dict[Any, Any]) -> tirx.Stmt:
        def copy(d: Any) -> tirx.Stmt:
            value = kernel.substitute(self._form.query, values | {self._form.step.var: d})
            return tirx.BufferStore(self._query, value, [d])

        return build.loop(self._steps, copy, name="step")

    def _one_block(self, values: dict[Any, Any], begin: Any, size: Any) -> tirx.Stmt:
        zero, key = build.number(0), self._form.key_axis.var

        def score(j: Any) -> Any:
            return self._form.score(self._scores[0, j], values | {key: begin + j})

        steps = [self._products(values, begin, size), self._online.row(zero, size, score)]
        return build.sequence([*steps, self._weighted(values, begin, size)])

    def _products(self, values: dict[Any, Any], begin: Any, size: Any) -> tirx.Stmt:
        """One sum along each key, in the lanes of one vector."""
        form, lanes = self._form, min(self._lanes, _power_below(self._steps))
        part = tirx.decl_buffer((lanes,), _F32, "part", scope="local")
        whole = self._steps // lanes

        def one(j: Any) -> tirx.Stmt:
            at = values | {form.key_axis.var: begin + j}
            return _by_choice(form.key, form.step.var, at, lambda key: sums(j, at, key))

        def sums(j: Any, at: dict[Any, Any], key: Any) -> tirx.Stmt:
            def add(d: Any, v: Any) -> tirx.Stmt:
                value = self._query[d] * kernel.substitute(key, at | {form.step.var: d})
                return tirx.BufferStore(part, part[v] + value, [v])

            def vector(k: Any) -> tirx.Stmt:
                return build.loop(lanes, lambda v: add(k * lanes + v, v), "vectorized", "lane")

            clear = build.loop(
                lanes,
                lambda v: tirx.BufferStore(part, tirx.const(0.0, _F32), [v]),
                "vectorized",
                "lane",
            )
            steps = [clear, build.loop(whole, vector, "unroll", "k")]
            steps += join(part, lanes, lambda a, b: a + b)
            if rest := self._steps - whole * lanes:
                zero = build.number(0)
                steps.append(build.loop(rest, lambda d: add(whole * lanes + d, zero), name="rest"))
            steps.append(tirx.BufferStore(self._scores, part[0], [0, j]))
            return build.sequence(steps)

        return build.scope([part], build.loop(size, one, name="key"), "products")

    def _weighted(self, values: dict[Any, Any], begin: Any, size: Any) -> tirx.Stmt:
        """Powers times values; the sums of some columns stay in registers."""
        most = self._lanes * _VECTORS
        parts = [
            self._columns(values, begin, size, first, min(most, self._wide - first))
            for first in range(0, self._wide, most)
        ]
        return build.sequence(parts)

    def _columns(
        self, values: dict[Any, Any], begin: Any, size: Any, first: int, wide: int
    ) -> tirx.Stmt:
        form = self._form
        total = tirx.decl_buffer((wide,), _F32, "total", scope="local")

        def each(make: Callable[[Any], tirx.Stmt]) -> tirx.Stmt:
            return cells(1, wide, self._lanes, lambda _, e: make(e))

        def step(j: Any) -> tirx.Stmt:
            at = values | {form.key_axis.var: begin + j}
            return _by_choice(form.value, form.column.var, at, lambda value: add(j, at, value))

        def add(j: Any, at: dict[Any, Any], value: Any) -> tirx.Stmt:
            def one(e: Any) -> tirx.Stmt:
                term = self._scores[0, j] * kernel.substitute(
                    value, at | {form.column.var: first + e}
                )
                return tirx.BufferStore(total, total[e] + term, [e])

            return each(one)

        def begun(e: Any) -> tirx.Stmt:
            zero = tirx.const(0.0, _F32)
            value = zero if self._once else self._sums[first + e] * self._online.shrink[0]
            return tirx.BufferStore(total, value, [e])

        keep = each(lambda e: tirx.BufferStore(self._sums, total[e], [first + e]))
        body = [each(begun), build.loop(size, step, name="key"), keep]
        return build.scope([total], build.sequence(body), "columns")

    def _clear(self) -> tirx.Stmt:
        def one(e: Any) -> tirx.Stmt:
            return tirx.BufferStore(self._sums, tirx.const(0.0, _F32), [e])

        return build.loop(self._wide, one, name="column")

    def _finish(self, values: dict[Any, Any]) -> tirx.Stmt:
        def one(e: Any) -> tirx.Stmt:
            own = values | {self._form.column.var: e}
            return self._form.finish(self._sums[e] * self._online.factor[0], own)

        return build.loop(self._wide, one, name="column")


def _power_below(size: int) -> int:
    return 1 << (size.bit_length() - 1)


def _by_choice(
    value: Any, inner: tirx.Var, values: dict[Any, Any], make: Callable[[Any], tirx.Stmt]
) -> tirx.Stmt:
    """`make(value)`, with those choices in it outside of the loops that `inner` does not decide.

    Such is the choice between old keys and new ones where both have been joined.
    """
    for condition in sweep.guards(value):
        if inner not in kernel.variables(condition):
            ways = [
                _by_choice(sweep.taken(value, condition, way), inner, values, make)
                for way in (True, False)
            ]
            return build.branch(kernel.substitute(condition, values), *ways)
    return make(value)
