"""How much memory models take, ours and ONNX Runtime's, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nexus_compiler
from nexus_compiler.cli.main import _run
from nexus_runtime.errors import InternalError

WIDE = 16 << 20
"""Elements of what lies between input and output: 64 MiB."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x [1] -> a wide tensor, which is needed twice, -> one number."""
    wide = helper.make_tensor("shape", TensorProto.INT64, [1], [WIDE])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("CumSum", ["wide", "axis"], ["sums"]),
        helper.make_node("ReduceMax", ["sums", "axes"], ["y"], keepdims=1),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [0])
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [wide, axes, axis],
    )
    path = tmp_path / "wide.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def test_what_calls_take_is_seen_of_both(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    artifact = nexus_compiler.compile(model)
    artifact.save(model.with_suffix(".nxa"))
    told = artifact.work("native")
    assert told is not None
    command = ["bench", "wide.nxa", "--against", "onnxruntime", "--memory", "--rounds", "1"]
    status = _run([*command, "--input", "x=random:0:0.001", "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    memory = json.loads(out)["memory"]
    assert memory["onnxruntime"]["calls"] > 4 * WIDE * 0.9
    planned = told.memory["main"].fixed
    assert planned >= 4 * WIDE
    assert memory["nexus"]["calls"] == pytest.approx(planned, rel=0.2)
    assert memory["nexus"]["load"] > 0


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    from nexus_compiler.verify import memory

    with pytest.raises(InternalError, match=r"cannot read .*none.nxa"):
        memory.measure(memory.NEXUS, tmp_path / "none.nxa", {"x": np.zeros(1, np.float32)})
