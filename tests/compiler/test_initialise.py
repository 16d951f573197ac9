from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, tirx

from nexus_compiler.codegen.llvm.schedules.initialise import initialise


def kernel(rows: object) -> tirx.PrimFunc:
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, 3), "float32"))
    with block.function("main", [x]):
        with block.dataflow():
            output = block.emit_output(relax.op.sum(x, axis=0))
        block.emit_func_output(output)
    module = relax.transform.LegalizeOps()(block.get())
    return next(f for f in module.functions.values() if isinstance(f, tirx.PrimFunc))


def run(function: tirx.PrimFunc, x: np.ndarray) -> np.ndarray:
    result = tvm.runtime.tensor(np.full(3, 7, np.float32))
    named = function.with_attr("global_symbol", "main")
    tvm.compile(tvm.IRModule({"main": named}), target="llvm")["main"](tvm.runtime.tensor(x), result)
    return result.numpy()


def test_a_sum_of_nothing_is_zero() -> None:
    naive = kernel(tirx.Var("n", "int64"))
    empty, full = np.ones((0, 3), np.float32), np.ones((4, 3), np.float32)
    assert (run(naive, empty) == 7).all(), "TVM sets it now: this pass can go"
    assert (run(initialise(naive), empty) == 0).all()
    assert (run(initialise(naive), full) == 4).all()


def test_known_extents_stay_as_they_are() -> None:
    tvm.ir.assert_structural_equal(initialise(kernel(4)), kernel(4))
