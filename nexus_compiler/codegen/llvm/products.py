"""Products that read a transposed operand where it lies, so that no kernel has to transpose it.

Gradients are such products: that of a weight is x' dy, that of what it was multiplied with dy w'.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import IRModule, relax, te

from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.codegen.llvm.schedules.tiles import ROWS_OF_SAME_LINES, SAME_LINES
from nexus_compiler.passes.turn_at_readers import exchanged

_FUSES = {"op_pattern": 4}  # what TVM's fusion calls OutEWiseFusable


def transposed(module: IRModule) -> dict[relax.Var, relax.Var]:
    """The variables of `module` that are others with their last two axes exchanged, with these."""
    found: dict[relax.Var, relax.Var] = {}
    for function in module.functions.values():
        if not isinstance(function, relax.Function):
            continue
        for block in function.body.blocks:
            for binding in block.bindings:
                source = exchanged(binding.value)
                if source is not None:
                    found[binding.var] = source
    return found


def reads_turned(call: relax.Call, turned: dict[relax.Var, relax.Var]) -> bool:
    """Whether `call` is a product of matrices that reads a transposed one where it lies.

    A left operand of which one step lies 4096 bytes behind the other is transposed before: all of
    them share a few lines of the first cache, and each is on a page of its own (measured: 170 to
    207 GFLOP/s instead of 240; the transposition takes a tenth of the difference and less).
    """
    flat = any(operand.ty.ndim < 2 for operand in call.args)
    return not flat and any(_ways(call, turned))


def _ways(call: relax.Call, turned: dict[relax.Var, relax.Var]) -> tuple[bool, bool]:
    left, right = call.args
    return left in turned and not _is_crowded(turned[left]), right in turned


def _is_crowded(source: relax.Var) -> bool:
    steps, rows = (build.known(size) for size in list(source.ty.shape)[-2:])
    pitch = (rows or 1) * (tvm.DataType(str(source.ty.dtype)).bits // 8)
    return pitch % SAME_LINES == 0 and (steps is None or steps > ROWS_OF_SAME_LINES)


def emit(
    builder: relax.BlockBuilder, call: relax.Call, turned: dict[relax.Var, relax.Var]
) -> relax.Expr:
    """The product `call`, whose operands are read from what they are the transposed of."""
    ways = _ways(call, turned)
    operands = [turned[operand] if way else operand for operand, way in zip(call.args, ways)]
    return builder.call_te(
        product,
        *operands,
        *ways,
        str(call.ty.dtype),
        primfunc_name_hint="matmul",
        primfunc_attrs=_FUSES,
    )


def product(a: te.Tensor, b: te.Tensor, left: bool, right: bool, dtype: str) -> te.Tensor:
    """a[..., rows, steps] times b[..., steps, columns], broadcast over the first axes.

    Args:
        a: the left operand, of at least two axes.
        b: the right operand, of at least two axes.
        left: whether `a` is given as [..., steps, rows].
        right: whether `b` is given as [..., columns, steps].
        dtype: of the result, in which it is summed up.
    """
    *a_outer, a0, a1 = a.shape
    *b_outer, b0, b1 = b.shape
    rows, steps = (a1, a0) if left else (a0, a1)
    columns = b0 if right else b1
    k = te.reduce_axis((0, steps), "k")
    rank = max(len(a_outer), len(b_outer))
    outer = [_wider(a_outer, b_outer, rank - 1 - axis) for axis in range(rank)]

    def element(*place: Any) -> Any:
        *lead, row, column = place
        one = a(*_within(lead, a_outer), *((k, row) if left else (row, k)))
        other = b(*_within(lead, b_outer), *((column, k) if right else (k, column)))
        return te.sum(one.astype(dtype) * other.astype(dtype), axis=k)

    return te.compute((*outer, rows, columns), element, name="matmul")


def _wider(a: list[Any], b: list[Any], back: int) -> Any:
    """The size of the axis `back` before the last of two that are broadcast."""
    sizes = [sizes[-1 - back] for sizes in (a, b) if back < len(sizes)]
    return next((size for size in sizes if build.known(size) != 1), sizes[0])


def _within(place: list[Any], sizes: list[Any]) -> list[Any]:
    own = place[len(place) - len(sizes) :]
    return [0 if build.known(size) == 1 else at for at, size in zip(own, sizes)]
