"""Builds small ONNX models, runs captured ones with TVM, and compares with ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from machines import machine
from onnx import helper, numpy_helper
from tvm import relax

from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.ir import law

sys.path.append(str(Path(__file__).parents[1]))  # for `zoo`

Arrays = Mapping[str, np.ndarray]


def floats(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def whole(*shape: int, low: int = 0, high: int = 10, dtype: str = "int64") -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, shape).astype(dtype)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; its inputs and outputs in one string each, '_' for an absent one."""
    split = [["" if name == "_" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *split, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[Any] | None]],
    outputs: Sequence[str] = ("y",),
    constants: Arrays | None = None,
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; `inputs` maps a name to its dtype and shape."""

    def element(dtype: str) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, element(d), s) for n, (d, s) in inputs.items()],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    for value in proto.graph.output:  # of functions, inference may know nothing
        if not value.type.tensor_type.HasField("shape"):
            value.type.CopyFrom(proto.graph.input[0].type)
    return proto


def single(
    op: str,
    arrays: Sequence[np.ndarray | None],
    constants: Sequence[np.ndarray | None] = (),
    *,
    opset: int = 18,
    outputs: int = 1,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node: `arrays` are fed, `constants` (the inputs after them) are stored."""
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    stored = {f"c{i}": a for i, a in enumerate(constants) if a is not None}
    names = [f"x{i}" if a is not None else "_" for i, a in enumerate(arrays)]
    names += [f"c{i}" if a is not None else "_" for i, a in enumerate(constants)]
    results = [f"y{i}" for i in range(outputs)]
    made = node(op, " ".join(names), " ".join(results), **attributes)
    shapes = {name: (a.dtype.name, a.shape) for name, a in feeds.items()}
    return model([made], shapes, results, stored, opset), feeds


def execute(graph: CapturedGraph, feeds: Arrays) -> list[np.ndarray]:
    """Run a captured graph with TVM's own kernels."""
    law.check(graph.module, "captured", after="capture")
    module = relax.transform.DecomposeOpsForInference("main")(graph.module)
    # Unoptimised: these kernels run once, and LLVM takes most of the time of a test.
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    program = machine(relax.build(module, target))
    (entry,) = graph.signature.functions
    arrays = [feeds[spec.name] for spec in entry.inputs]
    arrays += [graph.params[name] for name in entry.parameters]
    # `tensor` copies to aligned memory, which kernels rely on.
    return [out.numpy() for out in program["main"](*map(tvm.runtime.tensor, arrays))]


def reference(proto: onnx.ModelProto | Path, feeds: Arrays) -> list[np.ndarray]:
    """Run a model with ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    data = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def compare(
    proto: onnx.ModelProto | Path, feeds: Arrays, *, tol: float = 1e-5, **options: Any
) -> CapturedGraph:
    """Capture, run, compare with ONNX Runtime; what is declared must be what comes out."""
    graph = capture(proto, **options)
    results = execute(graph, feeds)
    (entry,) = graph.signature.functions
    sizes = entry.check(feeds)
    for spec, got, wanted in zip(entry.outputs, results, reference(proto, feeds), strict=True):
        assert got.dtype == wanted.dtype == np.dtype(spec.dtype)
        assert got.shape == wanted.shape
        # Python's own rules evaluate the expressions of a signature.
        assert got.shape == tuple(eval(str(dim), {}, dict(sizes)) for dim in spec.shape)
        if got.dtype.kind == "f":
            # Of the size of the result: small outputs must not pass for being small.
            scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)) or 1.0
            np.testing.assert_allclose(got, wanted, rtol=tol, atol=tol * scale)
        else:
            np.testing.assert_array_equal(got, wanted)
    return graph
