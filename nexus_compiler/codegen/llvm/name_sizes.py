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


def name_sizes(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with a variable for each quotient that a dimension of a tensor tells.

    `D = q + c` is solved for `q`, which becomes `D - c` wherever it stands, so that what the sizes
    of several tensors have to do with each other stays known.
    """
    sizes = _sizes(function)
    if not sizes:
        return function
    analyzer = Analyzer()

    def simplified(node: Any) -> Any:
        return analyzer.simplify(node) if variables(node) <= sizes else node

    function = tvm_ffi.structural_map(function, (_QUOTIENTS, simplified))
    while (found := _quotient(function, analyzer)) is not None:
        quotient, name, offset = found
        sizes.add(name)

        def named(node: Any, quotient: Any = quotient, meaning: Any = name - offset) -> Any:
            return meaning if tvm_ffi.structural_equal(node, quotient) else node

        function = tvm_ffi.structural_map(function, (_QUOTIENTS, named))
        function = tvm_ffi.structural_map(function, ((tirx.Add, tirx.Sub), simplified))
    # The type of the function is that of before; a new function makes it anew.
    return tirx.PrimFunc(function.params, function.body, function.ret_type, function.attrs)


def _sizes(function: tirx.PrimFunc) -> set[tirx.Var]:
    """The variables in dimensions that are no variable themselves."""
    found: set[tirx.Var] = set()
    for parameter in function.params:
        for size in getattr(parameter.ty, "shape", ()):
            tvm_ffi.structural_walk(size, (_QUOTIENTS, lambda q: found.update(variables(q))))
    return found


def _quotient(function: tirx.PrimFunc, analyzer: Analyzer) -> tuple[Any, tirx.Var, Any] | None:
    """The first quotient that a dimension tells, a name for the dimension, and what is added."""
    for parameter in function.params:
        for size in getattr(parameter.ty, "shape", ()):
            quotient, offset = _solved(analyzer.simplify(size))
            if quotient is not None:
                return quotient, tirx.Var("size", size.ty), offset
    return None


def _solved(size: Any) -> tuple[Any, Any]:
    """The quotient and the constant that `size` is the sum of, if it is one."""
    if isinstance(size, tirx.Add) and isinstance(size.b, tirx.IntImm):
        quotient, offset = size.a, size.b
    else:
        quotient, offset = size, tirx.const(0, "int64")
    return (quotient, offset) if isinstance(quotient, _QUOTIENTS) else (None, None)
