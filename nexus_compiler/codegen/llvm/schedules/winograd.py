"""The transforms of Winograd's convolutions: one tile by one vector of channels at a time.

What they compute stands in `codegen/llvm/winograd.py`, whose stages are known here by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel, sweep
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.placement import Placement, place
from nexus_compiler.codegen.llvm.schedules.tiles import pieces

TAPS, RESULTS, TILE = 3, 4, 6
"""Of one dimension: of the kernel, results of a tile, and its operands."""
INPUT, OUTPUT = "winograd_input", "winograd_output"
TRANSFORM = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
]
INVERSE = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
]
Element = Callable[[int, int, Any], Any]


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """A transform in vectors; None where the kernel is none."""
    stages = kernel_.stages
    if len(stages) == 2 and stages[1].name.startswith(INPUT):
        return build.function(kernel_.function, _input(stages[0], stages[1], machine))
    if stages and stages[0].name.startswith(OUTPUT) and (placement := place(stages)) is not None:
        return build.function(kernel_.function, _output(placement, machine))
    return None


def _input(pad: Stage, stage: Stage, machine: Machine) -> tirx.Stmt:
    """[n, y, x, channel] to [6, 6, tile, channel]."""
    padded = pad.store.buffer
    channels = build.known(padded.shape[-1]) or 0
    down, across = ((int(size) - 2) // RESULTS for size in padded.shape[1:3])
    images = build.known(padded.shape[0]) or 1
    target = stage.store.buffer

    def source(n: Any, y: Any, x: Any, c: Any, *, within: bool) -> Any:
        value = sweep.unguarded(pad.store.value) if within else pad.store.value
        return kernel.substitute(value, pad.axes_at([n, y, x, c]))

    def tile(flat: Any, first: Any, lanes: int) -> tirx.Stmt:
        n, down_, across_ = build.unflatten(flat, [images, down, across])
        top, left = down_ * RESULTS, across_ * RESULTS

        def write(*, within: bool) -> tirx.Stmt:
            return _transform(
                TRANSFORM,
                lambda i, j, c: source(n, top + i, left + j, first + c, within=within),
                lambda a, b, c, value: tirx.BufferStore(target, value, [a, b, flat, first + c]),
                lanes,
            )

        corners = [source(n, top + i, left + i, first, within=False) for i in (0, TILE - 1)]
        guards = [guard for corner in corners for guard in sweep.guards(corner)]
        if not guards:
            return write(within=True)
        return build.branch(tirx.all(*guards), write(within=True), write(within=False))

    return _tiles(images * down * across, channels, str(target.dtype), machine, tile)


def _output(placement: Placement, machine: Machine) -> tirx.Stmt:
    """[6, 6, tile, filter] to [n, y, x, filter], and the epilogue."""
    stage = placement.stage
    (load,) = {id(found.source): found for found in _operands(stage)}.values()
    images, rows, columns, filters = (int(size) for size in stage.store.buffer.shape)
    down, across = -(-rows // RESULTS), -(-columns // RESULTS)

    def tile(flat: Any, first: Any, lanes: int) -> tirx.Stmt:
        n, down_, across_ = build.unflatten(flat, [images, down, across])
        top, left = down_ * RESULTS, across_ * RESULTS

        def finish(i: int, j: int, c: Any, value: Any) -> tirx.Stmt:
            at = [n, top + i, left + j, first + c]
            return placement.finish(stage.axes_at(at), value)

        def guarded(i: int, j: int, store: tirx.Stmt) -> tirx.Stmt:
            whole = rows % RESULTS == 0 and columns % RESULTS == 0
            if whole:
                return store
            return build.branch(tirx.all(top + i < rows, left + j < columns), store)

        return _transform(
            INVERSE,
            lambda a, b, c: tirx.BufferLoad(load.source, [a, b, flat, first + c]),
            finish,
            lanes,
            guarded,
        )

    return _tiles(images * down * across, filters, str(stage.store.buffer.dtype), machine, tile)


def _operands(stage: Stage) -> list[Any]:
    own = stage.store.buffer
    return [load for load in kernel.loads(stage.store.value) if not load.source.same_as(own)]


def _tiles(
    count: int, channels: int, dtype: str, machine: Machine, body: Callable[..., tirx.Stmt]
) -> tirx.Stmt:
    """`body` for every tile and every vector of channels."""
    lanes = machine.lanes(dtype)
    whole, rest = divmod(channels, lanes)

    def one(flat: Any) -> tirx.Stmt:
        parts: list[tirx.Stmt] = []
        if whole:
            parts.append(build.loop(whole, lambda v: body(flat, v * lanes, lanes), name="vector"))
        parts += [
            body(flat, build.number(whole * lanes + at), width) for at, width in pieces(rest, lanes)
        ]
        return build.sequence(parts)

    return build.loop(count, one, machine.kind(count * channels * TILE * TILE), "tile")


def _transform(
    table: Sequence[Sequence[float]],
    load: Element,
    store: Callable[[int, int, Any, Any], tirx.Stmt],
    lanes: int,
    guarded: Callable[[int, int, tirx.Stmt], tirx.Stmt] = lambda i, j, statement: statement,
) -> tirx.Stmt:
    """`table` times a tile times its transpose, for `lanes` channels at once."""
    outer, inner = len(table), len(table[0])
    half = tirx.decl_buffer((outer, inner, lanes), "float32", "half", scope="local")

    def vector(make: Callable[[Any], tirx.Stmt]) -> tirx.Stmt:
        return build.loop(lanes, make, "vectorized", "lane")

    def down(i: int, j: int) -> tirx.Stmt:
        terms = [(factor, k) for k, factor in enumerate(table[i]) if factor]

        def sums(c: Any) -> tirx.Stmt:
            value = _combined([(factor, load(k, j, c)) for factor, k in terms])
            return tirx.BufferStore(half, value, [i, j, c])

        return vector(sums)

    def across(i: int, j: int) -> tirx.Stmt:
        terms = [(factor, k) for k, factor in enumerate(table[j]) if factor]

        def sums(c: Any) -> tirx.Stmt:
            values = [(factor, tirx.BufferLoad(half, [i, k, c])) for factor, k in terms]
            return store(i, j, c, _combined(values))

        return guarded(i, j, vector(sums))

    steps = [down(i, j) for j in range(inner) for i in range(outer)]
    steps += [across(i, j) for i in range(outer) for j in range(outer)]
    return build.scope([half], build.sequence(steps), "transform")


def _combined(terms: Sequence[tuple[float, Any]]) -> Any:
    total: Any = None
    for factor, value in terms:
        scaled = value if abs(factor) == 1 else value * tirx.const(abs(factor), "float32")
        if total is None:
            total = scaled if factor > 0 else tirx.const(0.0, "float32") - scaled
        else:
            total = total + scaled if factor > 0 else total - scaled
    return total
