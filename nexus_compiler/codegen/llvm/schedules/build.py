"""Small words to write loops with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Range
from tvm.s_tir.stmt import SBlock, SBlockRealize

from nexus_compiler.codegen.llvm.schedules.kernel import is_const

# Turns of an axis whose extent is known at run time only, to decide about threads.
_GUESS = 16
Body = Callable[[Any], tirx.Stmt]


def loop(extent: Any, body: Body, kind: str = "serial", name: str = "i") -> tirx.Stmt:
    """`for name in kind(extent): body(name)`; no loop where there is one turn."""
    if is_const(extent, 1) or (isinstance(extent, int) and extent == 1):
        return body(tirx.const(0, "int64"))
    variable = tirx.Var(name, "int64")
    kinds = {
        "serial": tirx.ForKind.SERIAL,
        "parallel": tirx.ForKind.PARALLEL,
        "vectorized": tirx.ForKind.VECTORIZED,
        "unroll": tirx.ForKind.UNROLLED,
    }
    return tirx.For(variable, number(0), number(extent), kinds[kind], body(variable))


def nest(extents: Sequence[Any], body: Callable[[list[Any]], tirx.Stmt]) -> tirx.Stmt:
    """Serial loops around `body`."""
    if not extents:
        return body([])
    return loop(extents[0], lambda i: nest(extents[1:], lambda rest: body([i, *rest])))


def number(value: Any) -> Any:
    """An index constant, or the expression as it is."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def branch(condition: Any, then: tirx.Stmt, otherwise: tirx.Stmt | None = None) -> tirx.Stmt:
    """`if condition: then else: otherwise`."""
    return tirx.IfThenElse(condition, then, otherwise)


def sequence(statements: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """One statement after the other."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def scope(
    buffers: Sequence[tirx.Buffer],
    body: tirx.Stmt,
    name: str = "scope",
    whole: Sequence[tirx.Buffer] = (),
) -> tirx.Stmt:
    """`body` with `buffers` that live no longer than it.

    `whole` are buffers from outside that are kept as large as they are. What TVM else makes of the
    places where they are read is wrong for `(tile * 14 + i) // 8` under `if tile < 4`: a size with
    `tile` in it, which stands before the loop over `tile`.
    """
    reads = [tirx.BufferRegion(b, [Range(number(0), size) for size in b.shape]) for b in whole]
    notes = {"explicit_read_region": list(range(len(reads)))} if reads else {}
    block = SBlock([], reads, [], name, body, alloc_buffers=list(buffers), annotations=notes)
    return SBlockRealize([], True, block)


def product(extents: Sequence[Any]) -> Any:
    """The product, a Python number where all are known."""
    result: Any = 1
    for extent in extents:
        result = result * (int(extent) if is_const(extent) else extent)
    return result


def extents(axes: Any) -> list[Any]:
    """How many turns each of `axes` takes."""
    return [axis.dom.extent for axis in axes]


def work(turns: Sequence[Any]) -> int:
    """The product, with a guess for what is known at run time only."""
    result = 1
    for extent in turns:
        result *= known(extent) or _GUESS
    return result


def known(extent: Any) -> int | None:
    """`extent` as a Python number, where it is one."""
    return int(extent) if isinstance(extent, int) or is_const(extent) else None


def ceil(extent: Any, tile: int) -> Any:
    """How many tiles cover `extent`."""
    if (exact := known(extent)) is not None:
        return -(-exact // tile)
    return tirx.floordiv(extent + (tile - 1), tile)


def part(extent: Any, index: Any, tile: int) -> Any:
    """The size of tile number `index`, of which the last may be smaller."""
    exact = known(extent)
    if exact is not None and exact % tile == 0:
        return tile
    return tirx.min(number(tile), number(extent) - index * tile)


def bind(axes: Any, values: Any) -> dict[Any, Any]:
    """Values by the variables of `axes`."""
    return {axis.var: value for axis, value in zip(axes, values)}


def split(axes: Sequence[tirx.IterVar], flat: Any) -> dict[Any, Any]:
    """Values for `axes` from the number of an element in row-major order."""
    return bind(axes, unflatten(flat, extents(axes)))


def unflatten(flat: Any, extents: Sequence[Any]) -> list[Any]:
    """Indices whose row-major number is `flat`."""
    indices: list[Any] = []
    for extent in reversed(extents[1:]):
        indices.append(tirx.floormod(flat, extent))
        flat = tirx.floordiv(flat, extent)
    return ([flat, *reversed(indices)]) if extents else []


def function(
    original: tirx.PrimFunc, body: tirx.Stmt, buffers: Sequence[tirx.Buffer] = ()
) -> tirx.PrimFunc:
    """`original` with another body, which may use `buffers`."""
    return original.with_body(scope(buffers, body, "root"))
