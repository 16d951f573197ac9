"""Builds ONNX models for one instruction for products of bytes, and runs them in the process."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import tvm
from machines import machine
from onnx_models import Arrays
from tvm import relax, tirx

from nexus_compiler import targets
from nexus_compiler.codegen.llvm.room import LlvmRoom, tvm_target
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.weights import INPUTS
from nexus_compiler.targets import TargetSpec
from nexus_runtime import host

PLAIN = "native, multiply and add"
"""This machine, as if it had no instruction for products of bytes."""
MACHINES = ("native", PLAIN, "x86-64-v2", "x86-64-v3", "x86-64-v4")
RUNNABLE = [
    name
    for name in MACHINES
    if name in ("native", PLAIN)
    or set(targets.load(name).requires.cpu_features) <= host.cpu_features()
]


def target(name: str) -> TargetSpec:
    if name != PLAIN:
        return LlvmRoom().resolve(targets.load(name))
    native = LlvmRoom().resolve(targets.load("native"))
    return msgspec.structs.replace(native, limits={**native.limits, "dot": ""})


class Built:
    """A model, lowered by the pipeline of the room for CPUs."""

    def __init__(self, proto: onnx.ModelProto, name: str) -> None:
        spec = target(name)
        self.graph = capture(proto)
        (self.main,) = self.graph.signature.functions
        module = tvm.IRModule(dict(self.graph.module.functions.items()))
        marked = module["main"].with_attr(INPUTS, len(self.main.inputs))
        module.update_func(module.get_global_var("main"), marked)
        room = LlvmRoom()
        passes = (*pipelines.common(), *room.graph_passes(spec), *room.region_passes(spec))
        self.module = base.run(module, passes)
        built = relax.build(self.module, tvm_target(spec))
        self._machine = machine(built)

    def families(self) -> list[str]:
        """The schedules of all kernels."""
        functions = self.module.functions.values()
        return [str(f.attrs["nexus.family"]) for f in functions if isinstance(f, tirx.PrimFunc)]

    def run(self, feeds: Arrays) -> list[np.ndarray]:
        arrays = [feeds[spec.name] for spec in self.main.inputs]
        arrays += [self.graph.params[name] for name in self.main.parameters]
        outputs = self._machine["main"](*map(tvm.runtime.tensor, arrays))
        return [output.numpy() for output in outputs]


def in_floats(proto: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    """ONNX Runtime without its optimiser: every node alone, products of floats."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def assert_steps(found: np.ndarray, wanted: np.ndarray, share: float = 0.02) -> None:
    """At most one step apart, and that in few places: where floats rounded the other way."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    apart = np.abs(found.astype("int64") - wanted.astype("int64"))
    assert apart.max(initial=0) <= 1
    assert (apart > 0).mean() <= share


def number(value: Any, dtype: str) -> np.ndarray:
    return np.array(value, dtype)
