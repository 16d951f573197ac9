"""Kernels trust their caller; the module's door does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from schedule_support import graph, modules
from tvm import relax, te, tirx

from nexus_compiler.codegen.llvm import on_stack, unchecked
from nexus_compiler.codegen.remembered import Remembered
from nexus_runtime.errors import InputError


def kernel(size: int, name: str = "x") -> tirx.PrimFunc:
    x = te.placeholder((size,), "float32", name)
    made = te.create_prim_func([x, te.compute(x.shape, lambda i: x[i] + np.float32(1))])
    return made.with_attr("global_symbol", "main")


def source(function: tirx.PrimFunc) -> str:
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu"})
    module = tvm.IRModule({"main": function})
    return tvm.tirx.build(module, target=target, pipeline=on_stack.PIPELINE).inspect_source("ll")


def test_only_kernels_that_say_so_leave_checks_out() -> None:
    checked = source(kernel(8))
    trusting = source(kernel(8).with_attr(unchecked.ATTRIBUTE, 1))
    assert "set_raised" in checked
    assert "set_raised" not in trusting
    assert len(trusting) < len(checked) / 2


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((3, 5), np.float32),
        np.zeros((4, 6), np.float32),
        np.zeros((4, 5, 1), np.float32),
        np.zeros((4, 5), np.float64),
        np.zeros(20, np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_the_runtime_refuses_what_a_kernel_no_longer_checks(
    given: np.ndarray, tmp_path: Path
) -> None:
    captured = graph([(4, 5), ("n", 5)], lambda x, y: relax.op.add(x, relax.op.sum(y, axis=[0])))
    for module in modules(tmp_path, captured):
        fine = np.ones((4, 5), np.float32)
        assert (module(fine, np.ones((2, 5), np.float32)) == 3).all()
        with pytest.raises(InputError):
            module(given, fine)
        if given.shape[1:] != (5,) or given.dtype != np.float32:
            with pytest.raises(InputError):
                module(fine, given)


def test_equal_functions_are_made_once_and_the_oldest_forgotten() -> None:
    known: Remembered[str] = Remembered(most=2)
    assert known.get((1, kernel(4)), lambda: "first") == "first"
    assert known.get((1, kernel(4, "y")), lambda: "again") == "first"
    assert known.get((2, kernel(4)), lambda: "other setting") == "other setting"
    assert known.get((1, kernel(5)), lambda: "other function") == "other function"
    assert known.get((1, kernel(4)), lambda: "made anew") == "made anew"
