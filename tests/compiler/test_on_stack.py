"""Where kernels keep what they compute with: tiles on the stack, large buffers in TVM's pool."""

from __future__ import annotations

import pytest
import tvm
from schedule_support import MACHINES, scheduled
from tvm import IRModule, tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm import on_stack

PRODUCT = [(7, 64), (64, 192)]  # too few rows to copy an operand for
POOL = "load ptr, ptr @__TVMBackendAllocWorkspace"


def source(function: tirx.PrimFunc, pipeline: str) -> str:
    module = IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v4"})
    return tvm.tirx.build(module, target=target, pipeline=pipeline).inspect_source("ll")


@pytest.mark.parametrize("options", MACHINES, ids=lambda o: str(o["vector_bits"]))
def test_tiles_take_no_memory_from_the_pool(options: dict[str, int]) -> None:
    (product,) = scheduled(PRODUCT, op.matmul, **options)
    assert POOL in source(product, "s_tir")
    assert POOL not in source(product, on_stack.PIPELINE)


def test_what_is_larger_than_the_kernel_allows_is_taken_from_the_pool() -> None:
    (product,) = scheduled(PRODUCT, op.matmul, **MACHINES[0])
    allowed = product.with_attr(on_stack.STACK, 64)
    assert POOL in source(allowed, on_stack.PIPELINE)


def test_buffers_that_are_not_local_stay_where_they_were() -> None:
    kernels = scheduled([(1, 3, 64, 64), (8, 3, 3, 3)], lambda x, w: op.nn.conv2d(x, w, padding=1))
    (convolution,) = kernels
    assert POOL in source(convolution, on_stack.PIPELINE)
