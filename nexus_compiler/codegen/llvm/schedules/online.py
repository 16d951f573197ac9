"""Softmax over keys that come in blocks (Milakov & Gimelshein, "Online normalizer", 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build

_F32 = "float32"
_LEAST = -float("inf")


class Online:
    """Rows of `scores` become powers; their largest and their sum are kept from block to block.

    Attributes:
        shrink: after `row`: by what the sums of earlier blocks have to be multiplied.
        factor: after `settle`: one over the sum of all powers.
        buffers: what all of it needs.
    """

    def __init__(self, scores: tirx.Buffer, rows: int, lanes: int, *, once: bool) -> None:
        self._scores, self._lanes, self._once = scores, lanes, once
        self._peaks, self._totals = _buffer(rows, "peaks"), _buffer(rows, "totals")
        self.shrink, self.factor = _local(1, "shrink"), _local(1, "factor")
        self._part, self._peak = _local(lanes, "part"), _local(1, "peak")
        self.buffers = [self._peaks, self._totals, self.shrink, self.factor, self._peak, self._part]

    def clear(self, count: Any) -> tirx.Stmt:
        """Before the first of several blocks."""

        def one(i: Any) -> tirx.Stmt:
            return build.sequence(
                [_set(self._peaks, _f(_LEAST), i), _set(self._totals, _f(0.0), i)]
            )

        return build.loop(count, one, name="row")

    def row(self, i: Any, size: Any, score: Callable[[Any], Any]) -> tirx.Stmt:
        """Scores of row `i` to powers; `score(j)` is what softmax takes for key `j` of `size`."""
        lanes = self._lanes
        whole = size // lanes if isinstance(size, int) else tirx.floordiv(size, lanes)
        padded = build.ceil(size, lanes)

        def put(j: Any) -> tirx.Stmt:
            return tirx.BufferStore(self._scores, score(j), [i, j])

        def beyond(j: Any) -> tirx.Stmt:
            return tirx.BufferStore(self._scores, _f(_LEAST), [i, size + j])

        def largest(v: Any, j: Any) -> tirx.Stmt:
            return _set(self._part, tirx.max(self._part[v], self._scores[i, j]), v)

        steps = [build.loop(whole, lambda k: self._vector(lambda v: put(k * lanes + v)), name="k")]
        if not isinstance(size, int) or size % lanes:
            rest = size - whole * lanes
            steps.append(build.loop(rest, lambda j: put(whole * lanes + j), name="rest"))
            steps.append(build.loop(padded * lanes - size, beyond, name="beyond"))
        steps += [self._vector(lambda v: _set(self._part, _f(_LEAST), v))]
        steps.append(self._along(padded, largest))
        steps += self._join(tirx.max)
        steps.append(self._settle_peak(i))
        steps += self._powers(i, padded)
        return build.sequence(steps)

    def _settle_peak(self, i: Any) -> tirx.Stmt:
        if self._once:
            return _set(self._peak, self._part[0], 0)
        new = tirx.max(self._peaks[i], self._part[0])
        # Of nothing but -inf there is no difference: such powers are 0 until a larger score comes.
        seen = tirx.Select(self._part[0] == _f(_LEAST), _f(0.0), self._part[0])
        return build.sequence(
            [
                _set(self._part, new, 0),
                _set(self._peak, seen, 0),
                _set(self.shrink, tirx.exp(self._peaks[i] - self._peak[0]), 0),
                _set(self._peaks, self._part[0], i),
            ]
        )

    def _powers(self, i: Any, padded: Any) -> list[tirx.Stmt]:
        def power(v: Any, j: Any) -> tirx.Stmt:
            return tirx.BufferStore(
                self._scores, tirx.exp(self._scores[i, j] - self._peak[0]), [i, j]
            )

        def add(v: Any, j: Any) -> tirx.Stmt:
            return _set(self._part, self._part[v] + self._scores[i, j], v)

        total = self._part[0]
        if not self._once:
            total = self._totals[i] * self.shrink[0] + total
        return [
            self._vector(lambda v: _set(self._part, _f(0.0), v)),
            self._along(padded, power, add),
            *self._join(lambda a, b: a + b),
            _set(self._totals, total, i),
        ]

    def settle(self, i: Any) -> tirx.Stmt:
        """After the last block."""
        return _set(self.factor, _f(1.0) / self._totals[i], 0)

    def _along(self, count: Any, *bodies: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
        def step(k: Any) -> tirx.Stmt:
            return build.sequence(
                [self._vector(lambda v, body=body: body(v, k * self._lanes + v)) for body in bodies]
            )

        return build.loop(count, step, name="k")

    def _vector(self, make: Callable[[Any], tirx.Stmt]) -> tirx.Stmt:
        return build.loop(self._lanes, make, "vectorized", "lane")

    def _join(self, combine: Callable[[Any, Any], Any]) -> list[tirx.Stmt]:
        return join(self._part, self._lanes, combine)


def join(part: tirx.Buffer, lanes: int, combine: Callable[[Any, Any], Any]) -> list[tirx.Stmt]:
    """Halve `part` until its first element is all of it."""
    steps: list[tirx.Stmt] = []
    while lanes > 1:
        lanes //= 2

        def halve(v: Any, half: int = lanes) -> tirx.Stmt:
            return _set(part, combine(part[v], part[v + half]), v)

        steps.append(build.loop(lanes, halve, "vectorized", "lane"))
    return steps


def _set(buffer: tirx.Buffer, value: Any, place: Any) -> tirx.Stmt:
    return tirx.BufferStore(buffer, value, [place])


def _buffer(size: int, name: str) -> tirx.Buffer:
    return tirx.decl_buffer((size,), _F32, name)


def _local(size: int, name: str) -> tirx.Buffer:
    return tirx.decl_buffer((size,), _F32, name, scope="local")


def _f(value: float) -> Any:
    return tirx.const(value, _F32)
