"""Kernels that take arrays wherever they lie.

TVM promises LLVM that every tensor begins at a multiple of 64 bytes, and NumPy's do not: each call
copied its inputs, which took a model of two layers and 32 rows 15 % of its time. Without the
promise LLVM chooses loads that need none, and that are as fast where the address is a multiple.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


def loosened(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` whose tensors lie at multiples of one element's bytes, and no more."""
    names = {p: _anywhere(p) for p in function.params if tirx.buffer.is_buffer_var(p)}
    if not names:
        return function
    body = tvm_ffi.structural_map(function.body, (tirx.Var, lambda v: names.get(v, v)))
    params = [names.get(p, p) for p in function.params]
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)


def _anywhere(tensor: tirx.Var) -> tirx.Var:
    kind = tensor.ty
    return tirx.decl_buffer(
        list(kind.shape),
        str(kind.dtype),
        str(tensor.name),
        strides=list(kind.strides),
        elem_offset=kind.elem_offset,
        data_alignment=max(1, tvm.DataType(str(kind.dtype)).bits // 8),
        offset_factor=kind.offset_factor,
        layout=kind.layout,
    )
