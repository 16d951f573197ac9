"""Divides factors and biases of an integer product by the scale of what it is quantised to.

    round((total * factor + bias) / scale)    becomes    round(total * factor' + bias')

The quotients follow from weights and are computed once at load; a division takes as long as ten
multiplications. The product itself is a rounded one, so that nothing exact is lost; a value that is
only quantised keeps its division.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import IRModule, relax
from tvm.relax import op

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.quantized import BYTES, Lookup, name_of
from nexus_compiler.passes.weights import INPUTS, weights_of


@dataclass(frozen=True)
class FoldScales(Pass):
    """Quotients of integer products and of their sums; stands behind `integer_products`."""

    name: ClassVar[str] = "fold_scales"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every function that says which of its parameters are weights."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and INPUTS in (function.attrs or {}):
                rewriter = _Rewriter(updated, weights_of(function))
                updated.update_func(variable, rewriter.visit_expr(function))
        return relax.transform.DeadCodeElimination(entries(module))(updated)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: IRModule, weights: Any) -> None:
        super().__init__(module)
        self._find = Lookup(self.builder_, weights)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        # Rounding is what follows a quotient that nobody else sees.
        if name_of(call) != "round":
            return call
        ratio = self._find.call(call.args[0], "divide")
        scale = None if ratio is None else self._find.constant(ratio.args[1])
        if ratio is None or scale is None or scale.size != 1:
            return call
        if self._is_exact(ratio.args[0]):
            return call
        scaled = self._scaled(ratio.args[0], relax.const(scale.reshape(()), "float32"))
        return call if scaled is None else op.round(scaled)

    def _is_exact(self, expr: relax.Expr) -> bool:
        """Whether `expr` is one dequantised value, or the larger of it and 0."""
        below = self._positive(expr)
        return self._find.dequantized(expr if below is None else below) is not None

    def _positive(self, expr: relax.Expr) -> relax.Expr | None:
        """`x` where `expr` is the larger of it and 0."""
        call = self._find.call(expr, "nn.relu", "maximum")
        if call is None:
            return None
        if name_of(call) == "nn.relu":
            return call.args[0]
        least = self._find.constant(call.args[1])
        return call.args[0] if least is not None and not least.any() else None

    def _scaled(self, expr: relax.Expr, scale: relax.Expr) -> relax.Var | None:
        """`expr / scale`, where that needs no division when the model runs."""
        emit, find = self.builder_.emit, self._find
        below = self._positive(expr)
        if below is not None:
            inner = self._scaled(below, scale)
            return None if inner is None else emit(op.nn.relu(inner))
        if (product := find.call(expr, "multiply")) is not None:
            for value, factor in (product.args, tuple(product.args)[::-1]):
                if self._is_whole(value) and find.known(factor):
                    return emit(op.multiply(value, self._quotient(factor, scale)))
            return None
        total = find.call(expr, "add")
        parts = [] if total is None else [self._part(part, scale) for part in total.args]
        found = [part for part in parts if part is not None]
        return emit(op.add(*found)) if len(found) == 2 else None

    def _part(self, expr: relax.Expr, scale: relax.Expr) -> relax.Expr | None:
        if self._find.known(expr):
            return self._quotient(expr, scale)
        return self._scaled(expr, scale)

    def _quotient(self, known: relax.Expr, scale: relax.Expr) -> relax.Expr:
        number, divisor = self._find.constant(known), self._find.constant(scale)
        if number is not None and divisor is not None and number.size == 1:
            return relax.const(number / divisor, "float32")
        return self.builder_.emit(op.divide(known, scale))

    def _is_whole(self, expr: relax.Expr) -> bool:
        cast = self._find.call(expr, "astype")
        return cast is not None and str(cast.args[0].ty.dtype) in ("int32", *BYTES)
