"""Names the open sizes of a kernel after its own tensors.

Behind a few strided layers every size is a quotient of the model's (`(width - 1) // 8 + 1`), and
each subscript holds several. TVM's simplifier and LLVM took up to 25 s for one such kernel; with a
name for it, the size is one variable, which the call reads off the tensor. Kernels that differ only
in what their sizes are of the model's become equal.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer

from nexus_compiler.codegen.llvm.schedules.kernel import variables

_QUOTIENTS = (tirx.FloorDiv, tirx.FloorMod)
_ARITHMETIC = (*_QUOTIENTS, tirx.Add, tirx.Sub, tirx.Mul)


def name_sizes(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with a variable for each quotient that a dimension of a tensor tells.

    `D = q + c` is solved for `q`, which becomes `D - c` wherever it stands, so that what the sizes
    of several tensors have to do with each other stays known.
    """
    sizes = _sizes(function)
    if not sizes:
        return function
    named = _simplified(function, sizes)
    for place in [(i, axis) for i, p in enumerate(named.params) for axis in range(_rank(p))]:
        quotient, offset = _solved(_size(named, place))
        if quotient is None:
            continue
        name = tirx.Var("size", quotient.ty)
        found = _simplified(_replaced(named, quotient, name - offset), {*sizes, name})
        if _size(found, place).same_as(name):
            named = found
            sizes.add(name)
    # The type of the function is that of before; a new function makes it anew.
    return tirx.PrimFunc(named.params, named.body, named.ret_type, named.attrs)


def _rank(parameter: Any) -> int:
    """How many dimensions it has; kernels also take numbers."""
    return len(getattr(parameter.ty, "shape", ()))


def _size(function: tirx.PrimFunc, place: tuple[int, int]) -> Any:
    return function.params[place[0]].ty.shape[place[1]]


def _sizes(function: tirx.PrimFunc) -> set[tirx.Var]:
    """The variables in dimensions that are no variable themselves."""
    found: set[tirx.Var] = set()
    for parameter in function.params:
        for size in getattr(parameter.ty, "shape", ()):
            tvm_ffi.structural_walk(size, (_QUOTIENTS, lambda q: found.update(variables(q))))
    return found


def _simplified(function: tirx.PrimFunc, sizes: set[tirx.Var]) -> tirx.PrimFunc:
    """`function` with all arithmetic of nothing but `sizes` in one form."""
    analyzer = Analyzer()

    def rewrite(node: Any) -> Any:
        return analyzer.simplify(node) if variables(node) <= sizes else node

    return tvm_ffi.structural_map(function, (_ARITHMETIC, rewrite))


def _replaced(function: tirx.PrimFunc, quotient: Any, meaning: Any) -> tirx.PrimFunc:
    def rewrite(node: Any) -> Any:
        return meaning if tvm_ffi.structural_equal(node, quotient) else node

    return tvm_ffi.structural_map(function, (_QUOTIENTS, rewrite))


def _solved(size: Any) -> tuple[Any, Any]:
    """The quotient and the constant that `size` is the sum of, if it is one."""
    if isinstance(size, tirx.Add) and isinstance(size.b, tirx.IntImm):
        quotient, offset = size.a, size.b
    else:
        quotient, offset = size, tirx.const(0, "int64")
    return (quotient, offset) if isinstance(quotient, _QUOTIENTS) else (None, None)
