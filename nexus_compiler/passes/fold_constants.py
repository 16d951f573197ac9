"""Arithmetic on single numbers that the code itself holds is done when it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir.expr import GenericConst

from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.quantized import name_of

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
}


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Casts and sums of scalar constants become constants; casts that change nothing go.

    Scales and zero points are such numbers: as steps of their own, kernels would compute them in
    every call.
    """

    name: ClassVar[str] = "fold_constants"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function):
                updated.update_func(variable, _Rewriter(updated).visit_expr(function))
        updated = relax.transform.CanonicalizeBindings()(updated)
        return relax.transform.DeadCodeElimination(entries(module))(updated)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        name = name_of(call)
        if name == "astype":
            if call.args[0].ty.dtype == call.ty.dtype:
                return call.args[0]
            found = self._numbers(call)
            if found and _is_plain(str(call.ty.dtype)):
                return relax.const(found[0].astype(str(call.ty.dtype)), str(call.ty.dtype))
        if name in _ARITHMETIC and (found := self._numbers(call)) and len(found) == len(call.args):
            dtype = str(call.ty.dtype)
            with np.errstate(all="ignore"):
                result = np.asarray(_ARITHMETIC[name](*found))
            # Quotients of whole numbers are TVM's own.
            if result.dtype == dtype:
                return relax.const(result, dtype)
        return call

    def _numbers(self, call: relax.Call) -> list[np.ndarray]:
        """The arguments where all are scalar constants of NumPy's types; else nothing."""
        found: list[np.ndarray] = []
        for argument in call.args:
            bound = argument
            while isinstance(bound, relax.Var):
                bound = self.builder_.lookup_binding(bound)
            if not isinstance(bound, GenericConst) or getattr(bound.ty, "ndim", -1) != 0:
                return []
            if not _is_plain(str(bound.ty.dtype)):
                return []
            found.append(np.asarray(bound.value.numpy()))
        return found


def _is_plain(dtype: str) -> bool:
    return dtype in ("float32", "float64", "int8", "uint8", "int32", "int64")
