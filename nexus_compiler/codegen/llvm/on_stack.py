"""Puts the small buffers of kernels on the stack, where LLVM makes registers of them.

TVM's last passes take all memory of scope "local" from a pool, by two calls for every tile; only
"global" buffers below 1 KiB stand on the stack. A tile's sums are local, and up to 2 KiB.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, tirx

from nexus_compiler.codegen.llvm import unchecked

STACK = "nexus.stack"
"""Attribute of a kernel: so many bytes one local buffer may have to stand on the stack."""
MOST = 16384
PIPELINE = "nexus-cpu"
"""The name of the passes that lower a kernel, for `tvm.tirx.build`."""

# An annotation of `tvm::tirx::transform`, which LowerTVMBuiltin reads.
_LEAVE = "disable_lower_builtin"


def _kept(function: tirx.PrimFunc, module: IRModule, context: Any) -> tirx.PrimFunc:
    del module, context
    most = int((function.attrs or {}).get(STACK, 0))

    def rewrite(made: tirx.AllocBuffer) -> tirx.AllocBuffer:
        buffer = made.buffer
        if buffer.ty.storage_scope != "local" or not 0 < _bytes(buffer) <= most:
            return made
        notes = {**dict(made.annotations.items()), _LEAVE: tirx.IntImm("int32", 1)}
        return tirx.AllocBuffer(buffer, notes)

    body = tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, rewrite))
    return function if body.same_as(function.body) else function.with_body(body)


def _bytes(buffer: tirx.Buffer) -> int:
    """Its size; 0 where only a call tells it."""
    kind = tvm.DataType(str(buffer.dtype))
    size = kind.bits * kind.lanes // 8
    for extent in buffer.shape:
        if not isinstance(extent, tirx.IntImm):
            return 0
        size *= int(extent)
    return size


def _pipeline(**options: Any) -> tuple[Any, Any, Any]:
    """TVM's own passes, and ours before the last of them."""
    lower, host, device = tirx.get_tir_pipeline("s_tir", **options)
    keep = tirx.transform.prim_func_pass(_kept, opt_level=0, name="nexus.KeepOnStack")
    trust = tirx.transform.prim_func_pass(
        unchecked.trusting, opt_level=0, name="nexus.LeaveOutChecks"
    )
    return tvm.transform.Sequential([lower, keep, trust]), host, device


tirx.register_tir_pipeline(PIPELINE, _pipeline)
