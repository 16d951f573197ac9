"""Moves and maxima of dequantised values are done on their bytes.

Dequantising keeps the order of values, so that the largest of a window is where the largest byte
is; and quantising what was dequantised by the same scale and zero point gives the bytes again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tvm import IRModule, relax
from tvm.relax import op

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.quantized import Integer, Lookup, count, name_of

_PICKS = ("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d")
_MOVES = ("reshape", "permute_dims", "strided_slice", *_PICKS)


@dataclass(frozen=True)
class KeepBytes(Pass):
    """Dequantising moves behind what only moves and picks; back and forth is left out."""

    name: ClassVar[str] = "keep_bytes"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function):
                updated.update_func(variable, _Rewriter(updated).visit_expr(function))
        return relax.transform.DeadCodeElimination(entries(module))(updated)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: IRModule) -> None:
        super().__init__(module)
        self._find = Lookup(self.builder_)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        better = self._rewritten(call)
        return call if better is None else better

    def _rewritten(self, call: relax.Call) -> relax.Expr | None:
        name = name_of(call)
        if name == "astype":
            return self._unchanged(call)
        if name in _MOVES and str(call.ty.dtype) == "float32":
            found = self._plain(call.args[0])
            if found is not None and (name not in _PICKS or self._grows(found)):
                data = self.builder_.emit(
                    relax.Call(call.op, [found.data, *call.args[1:]], call.attrs)
                )
                return self._dequantized(replace(found, data=data))
        if name == "concat" and str(call.ty.dtype) == "float32":
            return self._joined(call)
        return None

    def _plain(self, expr: relax.Expr) -> Integer | None:
        """`expr` as a dequantised value with one scale and one zero point."""
        found = self._find.dequantized(expr)
        if found is None or found.scale is None:
            return None
        ones = [value for value in (found.zero, found.scale) if value is not None]
        return found if all(count(value) == 1 for value in ones) else None

    def _grows(self, found: Integer) -> bool:
        """Whether a larger byte is a larger value."""
        scale = self._find.constant(found.scale)
        return scale is not None and bool((scale > 0).all())

    def _unchanged(self, call: relax.Call) -> relax.Expr | None:
        """The bytes that are dequantised and quantised alike."""
        wanted = self._find.quantized(call)
        found = None if wanted is None else self._plain(wanted.x)
        if wanted is None or found is None or str(found.data.ty.dtype) != wanted.dtype:
            return None
        alike = self._find.same(wanted.scale, found.scale) and self._grows(found)
        return found.data if alike and self._find.same(wanted.zero, found.zero) else None

    def _joined(self, call: relax.Call) -> relax.Expr | None:
        parts = self._find.value(call.args[0])
        if not isinstance(parts, relax.Tuple):
            return None
        found = [self._plain(part) for part in parts.fields]
        first = found[0]
        if first is None:
            return None
        for other in found:
            if other is None or other.data.ty.dtype != first.data.ty.dtype:
                return None
            alike = self._find.same(other.scale, first.scale)
            if not alike or not self._find.same(other.zero, first.zero):
                return None
        fields = [other.data for other in found if other is not None]
        data = self.builder_.emit(op.concat(fields, call.attrs.axis))
        return self._dequantized(replace(first, data=data))

    def _dequantized(self, value: Integer) -> relax.Expr:
        emit = self.builder_.emit
        wide = emit(op.astype(value.data, "int32"))
        if value.zero is not None:
            wide = emit(op.subtract(wide, value.zero))
        return op.multiply(emit(op.astype(wide, "float32")), value.scale)
