"""Asks for what the end of a tile reads while its sums run.

A gradient of a weight is joined to what is as large as itself, and of which nothing is in a cache:
rows of a tile lie further apart than the processor looks ahead, and it waited for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import Call

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.placement import Placement

_LINE = 64  # bytes of a line of the cache
_LARGE = 1 << 20  # bytes from which on an operand is not in the second cache any more


def fetch(
    placement: Placement, height: int, width: int, finish: Callable[[Any, Any], tirx.Stmt]
) -> list[tirx.Stmt]:
    """Prefetches of the large operands of `finish`(row, column) for a tile, row by row."""
    large = [load.source for load in kernel.loads(placement.store.value) if _is_large(load.source)]
    made: list[tirx.Stmt] = []
    for row in range(height if large else 0):
        asked: list[tirx.Stmt] = []
        for column in range(0, width, _LINE // _bytes(placement.store.buffer)):
            store = finish(build.number(row), build.number(column))
            # Of several results the first is made of all that the others are made of.
            first = store.seq[0] if isinstance(store, tirx.SeqStmt) else store
            for load in kernel.loads(first):
                if any(load.source.same_as(one) for one in large):
                    asked.append(_prefetch(load))
        if asked:
            made.append(build.sequence(asked))
    return made


def between(
    asked: Sequence[tirx.Stmt], turns: Sequence[Any], body: Callable[[list[Any]], tirx.Stmt]
) -> tirx.Stmt:
    """Loops of `turns` around `body`, with what is asked for spread over them.

    The processor waits for so many lines at once; with more of them its other loads would wait.
    """
    many = build.known(turns[0]) if len(turns) == 1 else None
    if not asked or many is None or many < 2 * len(asked):
        return build.sequence([*asked, build.nest(turns, body)])
    each, rest = divmod(many, len(asked))
    parts = [
        build.sequence([one, build.loop(each, lambda k, at=at: body([at * each + k]), name="k")])
        for at, one in enumerate(asked)
    ]
    if rest:
        parts.append(build.loop(rest, lambda k: body([many - rest + k]), name="k"))
    return build.sequence(parts)


def without(body: tirx.Stmt) -> tirx.Stmt:
    """`body` without prefetches, which read nothing."""
    nothing = tirx.Evaluate(tirx.const(0, "int32"))

    def plain(statement: tirx.Evaluate) -> tirx.Evaluate:
        value = statement.value
        named = isinstance(value, Call) and kernel.operator(value) == "prefetch"
        return nothing if named else statement

    return tvm_ffi.structural_map(body, (tirx.Evaluate, plain))


def _is_large(buffer: tirx.Buffer) -> bool:
    extent = build.known(build.product(list(buffer.shape)))
    return extent is not None and extent * _bytes(buffer) >= _LARGE


def _bytes(buffer: tirx.Buffer) -> int:
    return max(1, tvm.DataType(str(buffer.dtype)).bits // 8)


def _prefetch(load: Any) -> tirx.Stmt:
    """To be written, as it is where the result takes the operand's place; and to be kept."""
    numbers = [tirx.const(value, "int32") for value in (1, 3, 1)]
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(load), *numbers))
