"""`nexusc verify` of models as its users see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nexus_compiler.cli.main import _run
from nexus_compiler.verify import api

pytest.importorskip("jax", reason="pip install 'nexus-compiler[xla]'")
pytest.importorskip("onnxruntime", reason="pip install 'nexus-compiler[verify]'")


def network(operator: str = "Relu", scale: float = 1.0) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) * scale, name)
        for name, shape in (("first.w", (6, 8)), ("last.w", (8, 3)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first.w"], ["h"]),
        helper.make_node(operator, ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "last.w"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    capsys.readouterr()
    found = _run(["verify", *arguments, "--json"])
    said = capsys.readouterr()
    assert found == status, said.err
    return json.loads(said.out)


def test_a_file_is_compared_with_onnx_runtime_and_inherits(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("net.onnx", "--dim", "batch=5")
    first, again = told(capsys, *rows), told(capsys, *rows)
    assert first["passed"] and again["passed"]
    assert {one["status"] for one in first["regions"]} == {"proved"}
    assert {one["status"] for one in again["regions"]} == {"inherited"}
    (whole,) = first["functions"]
    assert (whole["status"], whole["reference"]) == ("proved", "onnxruntime")
    assert whole["outputs"][0]["output"] == "y"
    assert again["functions"][0]["status"] == "inherited"
    assert {one["status"] for one in told(capsys, *rows, "--all")["regions"]} == {"proved"}


def test_one_edit_proves_one_region(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "net.onnx")
    onnx.save(network("Sigmoid"), "net.onnx")
    found = told(capsys, "net.onnx")
    status = {one["origin"]: one["status"] for one in found["regions"]}
    assert status == {"first": "proved", "last": "inherited"}
    assert found["functions"][0]["status"] == "proved"


def test_the_table_names_what_was_proved_and_where(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "model.py").write_text(
        "from nexus_compiler import GraphBuilder\n\n\ndef net():\n"
        "    graph = GraphBuilder().input('x', (2, 6))\n"
        "    graph = graph.dense(8, activation='relu', name='first')\n"
        "    return graph.dense(3, name='last')\n"
    )
    capsys.readouterr()
    assert _run(["verify", "model.py:net"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    head = "region places where operators max rel bound reference"
    assert " ".join(lines[0].split()) == head
    assert lines[1].startswith("proved") and "first at model.py:6" in lines[1]
    assert "last at model.py:7" in lines[2]
    assert "main end to end, against jax: proved" in lines
    assert lines[-1].startswith("native: verified: of 2 regions 2 proved; built in ")


def test_a_model_that_is_another_differs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(scale=1.01), "other.onnx")
    capsys.readouterr()
    assert _run(["verify", "net.onnx", "--against", "other.onnx"]) == 1
    said = capsys.readouterr()
    assert "main end to end, against onnxruntime: differs" in said.out
    assert "NOT VERIFIED: of 2 regions 2 proved" in said.out
    assert "every region agrees: what differs lies between them" in said.err
    assert told(capsys, "net.onnx", "--against", "other.onnx", "--regions-only")["passed"]


def test_what_onnx_runtime_refuses_is_compared_with_its_own_graph(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # ONNX Runtime has no rectifier of 16-bit numbers.
    ends = [helper.make_tensor_value_info(n, TensorProto.INT16, [2, 3]) for n in ("x", "y")]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), "short.onnx")
    with pytest.warns(api.ReferenceWarning, match="ONNX Runtime refuses .* import is not checked"):
        found = told(capsys, "short.onnx")
    assert found["passed"]
    assert [one["reference"] for one in found["functions"]] == ["jax"]


def test_constants_are_inputs_of_the_reference(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "c", "y")]
    node = helper.make_node("Mul", ["x", "c"], ["y"])
    graph = helper.make_graph([node], "net", ends[:2], ends[2:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), "scaled.onnx")
    np.save("c.npy", np.full((2, 3), 3, np.float32))
    assert told(capsys, "scaled.onnx", "--freeze", "c=c.npy")["passed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.nxa",), "add --against MODEL.onnx"),
        (("net.nxa", "--against", "net.onnx", "--all"), "--all is for models"),
        (("net.nxa", "--against", "net.onnx", "--shape", "x=1,6"), "--shape is for models"),
        (("none.onnx",), "none.onnx"),
        (("net.py",), "does not say which function makes the model"),
        (("net.onnx", "--input", "z=random"), "there is no input 'z'"),
        (("net.onnx", "--target", "xla-cpu", "--regions-only"), "nothing to check but end to end"),
        (("net.onnx", "--against", "none.onnx"), "cannot read none.onnx"),
    ],
)
def test_what_cannot_be_verified_is_an_error(
    arguments: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert _run(["verify", *arguments]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
