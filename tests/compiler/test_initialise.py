from __future__ import annotations

import numpy as np
import torch
import tvm
from tvm import relax, tirx

from nexus_compiler.codegen.llvm.schedule import Schedule
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


def test_a_form_that_no_family_knows_stays_naive() -> None:
    # The schedule of convolutions left the channel of a grouped one over one axis unbound.
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 9), "float32"))
    w = relax.Var("w", relax.TensorType((4, 1, 3), "float32"))
    with block.function("main", [x, w]):
        with block.dataflow():
            output = block.emit_output(relax.op.nn.conv1d(x, w, groups=4))
        block.emit_func_output(output)
    module = Schedule(512, 32).apply(relax.transform.LegalizeOps()(block.get()))
    (kernel,) = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    named = kernel.with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": named}), target="llvm")
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s).astype(np.float32) for s in ((1, 4, 9), (4, 1, 3))]
    result = tvm.runtime.tensor(np.zeros((1, 4, 7), np.float32))
    built["main"](*map(tvm.runtime.tensor, arrays), result)
    expected = torch.conv1d(*map(torch.from_numpy, arrays), groups=4)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)
