"""Products of bytes on processors that are not here, under their emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import nexus_compiler
from nexus_compiler import targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.store.local import LocalStore
from nexus_compiler.verify import runner


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("name", ["cortex-a72", "cortex-a76"])
def test_the_largest_sums_are_exact(name: str, dtype: str, tmp_path: Path) -> None:
    spec = targets.load(name)
    missing = [need.what for need in room_for(spec).requirements(spec) if not need.found]
    if missing:
        pytest.skip(f"target {name} not run: needs {', '.join(missing)}")
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).choice([limits.min, limits.max], (7, 130)).astype(dtype)
    x[0], x[1] = limits.max, limits.min
    weight = np.random.default_rng(1).choice([-128, 127], (130, 21)).astype("int8")
    stored = {"w": weight, "xz": np.array(limits.max, dtype), "wz": np.array(0, "int8")}
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", element, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, (7, 21))],
        [numpy_helper.from_array(array, key) for key, array in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    artifact = nexus_compiler.compile(proto, targets=[name], options=options)
    call = runner.open_function(artifact, artifact.manifest.signature.functions[0], target=name)
    wanted = (x.astype("int64") - int(limits.max)) @ weight.astype("int64")
    np.testing.assert_array_equal(np.asarray(next(iter(call({"x": x}).values()))), wanted)
