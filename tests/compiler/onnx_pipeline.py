"""Lowers ONNX models as for CPUs, runs them, and compares with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from machines import machine
from onnx import helper
from onnx_models import Arrays, reference
from tvm import relax

from nexus_compiler.codegen.llvm import sort_scan
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.fence import FenceSizes
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalization, Legalize
from nexus_runtime.signature import FunctionSpec


def subgraph(
    nodes: list[onnx.NodeProto], inputs: dict[str, str], outputs: dict[str, str]
) -> onnx.GraphProto:
    """A branch or body; inputs and outputs with their dtypes, of any shape."""

    def infos(names: dict[str, str]) -> list[onnx.ValueInfoProto]:
        # ONNX Runtime wants the shapes of a loop's number and condition.
        shapes = {n: None if "float" in d else () for n, d in names.items()}
        kinds = {n: helper.np_dtype_to_tensor_dtype(np.dtype(d)) for n, d in names.items()}
        return [helper.make_tensor_value_info(n, kinds[n], shapes[n]) for n in names]

    return helper.make_graph(nodes, "inner", infos(inputs), infos(outputs))


class _Legalize(Legalize):
    """Plain kernels, and those of operators that have none."""

    def kernels(self, module: tvm.IRModule) -> dict[str, Legalization]:
        return super().kernels(module) | sort_scan.KERNELS


class Model:
    """A captured model, with the passes of the room for CPUs, but without LLVM's optimiser."""

    def __init__(self, proto: onnx.ModelProto, **options: Any) -> None:
        self.graph = capture(proto, **options)
        passes = (*pipelines.common(), _Legalize(), FenceSizes(), Fuse())
        lowered = base.run(self.graph.module, passes)
        target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
        self._machine = machine(relax.build(lowered, target))
        (self.main,) = self.graph.signature.functions

    def run(self, feeds: Arrays) -> list[np.ndarray]:
        """The outputs."""
        arrays = [feeds[spec.name] for spec in self.main.inputs]
        arrays += [self.graph.params[name] for name in self.main.parameters]
        outputs = self._machine["main"](*map(tvm.runtime.tensor, arrays))
        return [output.numpy() for output in outputs]

    def named(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """The outputs by name."""
        return dict(zip((spec.name for spec in self.main.outputs), self.run(feeds), strict=True))


def check(
    proto: onnx.ModelProto, *feeds: Arrays, tol: float = 1e-5, exact_empty: bool = True
) -> CapturedGraph:
    """Build once, run with each of `feeds`, compare with ONNX Runtime."""
    built = Model(proto)
    for arrays in feeds:
        outputs = built.run(arrays)
        same(built.main, arrays, outputs, reference(proto, arrays), tol, exact_empty)
    return built.graph


def same(
    main: FunctionSpec,
    arrays: Arrays,
    outputs: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    tol: float = 1e-5,
    exact_empty: bool = True,
) -> None:
    """Compare, and see that the signature tells the truth."""
    sizes = main.check(arrays)
    for spec, got, other in zip(main.outputs, outputs, wanted, strict=True):
        assert got.dtype == other.dtype == np.dtype(spec.dtype)
        for dim, size in zip(spec.shape, got.shape, strict=True):
            # A size that depends on data has a name of its own.
            assert eval(str(dim), {}, {str(dim): size} | dict(sizes)) == size
        if not exact_empty and not other.size:
            assert not got.size
            continue
        assert got.shape == other.shape
        np.testing.assert_allclose(got, other, rtol=tol, atol=tol)
