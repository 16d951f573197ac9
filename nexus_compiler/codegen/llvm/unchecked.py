"""Leaves out what kernels check of their arguments.

Who calls a module has his inputs checked by the runtime, and the weights once at load; what one
kernel hands to the next was checked by the compiler. That every kernel checked all of it again,
with a message for each of some forty cases, was most of what LLVM had to compile: small kernels
took twice as long without doing anything more.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import IRModule, tirx

ATTRIBUTE = "nexus.unchecked"
"""Of a kernel: whether it trusts its caller."""


def trusting(function: tirx.PrimFunc, module: IRModule, context: Any) -> tirx.PrimFunc:
    """`function`, which has TVM's calling convention, without checks, where it says so itself."""
    del module, context
    if not int((function.attrs or {}).get(ATTRIBUTE, 0)):
        return function
    nothing = tirx.Evaluate(tirx.const(0, "int32"))
    body = tvm_ffi.structural_map(function.body, (tirx.AssertStmt, lambda _: nothing))
    return function if body.same_as(function.body) else function.with_body(body)
