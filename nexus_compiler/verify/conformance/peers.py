"""How others run a case: ONNX Runtime, and TVM with its own importer and its own kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from nexus_compiler.verify.conformance.cases import Case

Outputs = Sequence[Any]
Peer = Callable[[Case], Outputs]


def onnxruntime_(case: Case) -> Outputs:
    """The outputs of ONNX Runtime. Its classes of errors are private."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    exotic = {np.asarray(v).dtype for v in case.inputs.values() if isinstance(v, np.ndarray)}
    exotic |= {v.dtype for v in case.outputs if isinstance(v, np.ndarray)}
    if not any(dtype.type.__module__.startswith("ml_dtypes") for dtype in exotic):
        return session.run(None, dict(case.inputs))
    feeds: dict[str, Any] = {}
    for name, value in case.inputs.items():
        number = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        feeds[name] = make(np.ascontiguousarray(value).reshape(value.shape), number)
    results = session.run_with_ort_values([o.name for o in session.get_outputs()], feeds)
    return [_bits(result, want) for result, want in zip(results, case.outputs)]


def _bits(result: Any, want: Any) -> Any:
    """A result; of a type that NumPy lacks, ONNX Runtime gives the bits."""
    with contextlib.suppress(Exception):
        return result.numpy()
    element = int(onnx.helper.np_dtype_to_tensor_dtype(want.dtype))
    if result.element_type() != element:
        raise ValueError(f"it returns elements of type {result.element_type()}, not {element}")
    raw = np.from_dlpack(result)
    return raw.view(want.dtype).reshape(result.shape())


def tvm_importer(case: Case) -> Outputs:
    """The outputs of TVM's own importer and default build.

    Where it fails with the model as it is, all inputs of at most one dimension but the first are
    constants: it takes axes and shapes in no other way.
    """
    try:
        return _tvm(case.model, case.inputs)
    except Exception:  # whatever it is, the second way follows
        small = [
            name
            for place, (name, value) in enumerate(case.inputs.items())
            if place and isinstance(value, np.ndarray) and value.ndim <= 1
        ]
        if not small:
            raise
        return _tvm(_frozen(case, small), case.inputs)


def _frozen(case: Case, names: Sequence[str]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(case.inputs[name], name) for name in names
    )
    return model


def _tvm(model: Any, inputs: Mapping[str, Any]) -> Outputs:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = relax.transform.DecomposeOpsForInference()(from_onnx(model))
    target = tvm.target.Target.from_device(tvm.cpu())
    machine = relax.VirtualMachine(relax.build(module, target), tvm.cpu())
    tensors = [_tensor(inputs[value.name]) for value in model.graph.input]
    found = machine["main"](*tensors)
    return [_array(found)] if len(model.graph.output) == 1 else [_array(item) for item in found]


def _tensor(value: Any) -> Any:
    import tvm

    if isinstance(value, list):
        return [_tensor(item) for item in value]
    return tvm.runtime.tensor(value)


def _array(value: Any) -> Any:
    if hasattr(value, "numpy"):
        return value.numpy()
    return [_array(item) for item in value] if hasattr(value, "__len__") else np.asarray(value)


PEERS: Mapping[str, Peer] = {"onnxruntime": onnxruntime_, "tvm": tvm_importer}
"""Whom the compiler can be compared with."""
