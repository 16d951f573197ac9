"""Sorts and scans: kernels of the CPU room that call into a library of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tvm import relax, tirx

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime.artifact import Artifact
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

X = np.random.default_rng(0).permutation(24).reshape(4, 6).astype(np.float32)


def built(operator: Callable[[relax.Var], relax.Expr], root: Path) -> Artifact:
    """One operator over (n, 6), with one result."""
    rows, block = tirx.Var("n", "int64"), relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, 6), "float32"))
    with block.function("main", [x]):
        with block.dataflow():
            output = block.emit_output(relax.Tuple([block.emit(operator(x))]))
        block.emit_func_output(output)
    inputs = (TensorSpec("x", "float32", ("n", 6)),)
    function = FunctionSpec("main", inputs, (TensorSpec("y", "float32", ("n", "m")),))
    graph = CapturedGraph(block.get(), Signature((function,)), {})
    options = nexus_compiler.CompileOptions(store=LocalStore(root))
    return nexus_compiler.compile(graph, options=options)


CASES = {
    "sort": (lambda x: relax.op.sort(x, axis=1), np.sort(X, axis=1)),
    "sort down": (lambda x: relax.op.sort(x, axis=1, descending=True), -np.sort(-X, axis=1)),
    "argsort": (lambda x: relax.op.argsort(x, axis=1), np.argsort(X, axis=1)),
    "topk": (lambda x: relax.op.topk(x, k=2, axis=1, ret_type="values"), -np.sort(-X, 1)[:, :2]),
    "cumsum": (lambda x: relax.op.cumsum(x, axis=1), np.cumsum(X, axis=1)),
    "cumprod": (lambda x: relax.op.cumprod(x, axis=0), np.cumprod(X, axis=0)),
}


@pytest.mark.parametrize("name", CASES)
def test_results(name: str, tmp_path: Path) -> None:
    operator, expected = CASES[name]
    np.testing.assert_allclose(
        nexus_runtime.load(built(operator, tmp_path))(X), expected, rtol=1e-6
    )


def test_they_run_without_the_compiler(tmp_path: Path) -> None:
    path = built(CASES["sort"][0], tmp_path).save(tmp_path / "sort.nxa")
    code = (
        "import sys, numpy, nexus_runtime; x = numpy.ones((2, 6), 'float32')\n"
        f"print(nexus_runtime.load({str(path)!r})(x).sum(), 'tvm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12.0", "False"]
