"""Sums that read their operands as the bytes that they are stored in.

Fusion would otherwise dequantise an operand where it is made, and hand four bytes for one to the
sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tvm_ffi
from tvm import IRModule, relax, te, tirx

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.quantized import Integer, Lookup, count, name_of


@dataclass(frozen=True)
class SumBytes(Pass):
    """Sums of dequantised values become one kernel each; stands before `legalize_packed`."""

    name: ClassVar[str] = "sum_bytes"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        rewritten = module
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function):
                rewriter = _Rewriter(rewritten)
                rewriter.builder_.update_func(variable, rewriter.visit_expr(function))
                rewritten = rewriter.builder_.get()
        return relax.transform.DeadCodeElimination(entries(module))(rewritten)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: IRModule) -> None:
        super().__init__(module)
        self._find = Lookup(self.builder_)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if name_of(call) != "add" or str(call.ty.dtype) != "float32":
            return call
        found = [self._plain(argument, call) for argument in call.args]
        sides = [side for side in found if side is not None]
        if len(sides) < len(found):
            return call
        factors = [self._factor(side) for side in sides]

        def kernel(*data: te.Tensor) -> te.Tensor:
            def element(*place: Any) -> Any:
                left, right = (_real(x(*place), *factor) for x, factor in zip(data, factors))
                return left + right

            return te.compute(data[0].shape, element, name="add_bytes")

        operands = [side.data for side in sides]
        return self.builder_.call_te(kernel, *operands, primfunc_name_hint="add_bytes")

    def _plain(self, side: relax.Expr, call: relax.Call) -> Integer | None:
        """`side` where it is dequantised by constants and has the shape of the sum."""
        found = self._find.dequantized(side)
        if found is None or side.ty.shape is None or call.ty.shape is None:
            return None
        numbers = [value for value in (found.zero, found.scale) if value is not None]
        plain = all(count(v) == 1 and self._find.constant(v) is not None for v in numbers)
        return found if plain and tvm_ffi.structural_equal(side.ty.shape, call.ty.shape) else None

    def _factor(self, side: Integer) -> tuple[int, float]:
        zero, scale = self._find.constant(side.zero), self._find.constant(side.scale)
        assert scale is not None
        return 0 if zero is None else int(zero.reshape(())), float(scale.reshape(()))


def _real(value: Any, zero: int, scale: float) -> Any:
    whole = value.astype("int32") - tirx.const(zero, "int32")
    return whole.astype("float32") * tirx.const(scale, "float32")
