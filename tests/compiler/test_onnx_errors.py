"""What cannot be imported is refused with a sentence and a cure, never translated in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import execute, floats, model, node, single

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import CaptureError, ShapeError, UnsupportedOperator

SIMPLE = model([node("Relu", "x", "y")], {"x": ("float32", (2, 3))})

BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"this is no model, but a text of some length\n", "is not an ONNX model"),
    "truncated": (SIMPLE.SerializeToString()[:-9], "is not"),
    "other protobuf": (helper.make_opsetid("", 18).SerializeToString(), "is not an ONNX model"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_model(kind: str, tmp_path: Path) -> None:
    data, message = BROKEN[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=message) as caught:
        capture(path)
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no file"):
        capture(tmp_path / "nothing.onnx")
    with pytest.raises(CaptureError, match="cannot be read"):
        capture(tmp_path)


def test_missing_external_weights(tmp_path: Path) -> None:
    proto, _ = single("Add", [floats(40, 40)], [floats(40, 40)])
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(capture(path).params) == 1
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CaptureError, match="other file"):
        capture(path)


def test_a_model_that_the_checker_refuses() -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(SIMPLE)
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(CaptureError, match="not a valid ONNX model"):
        capture(proto)


def test_all_missing_operators_are_listed_at_once() -> None:
    nodes = [
        node("ImageDecoder", "x", "a"),
        helper.make_node("Foo", ["x"], ["b"], "foo_1", domain="acme"),
        helper.make_node("Foo", ["b"], ["c"], "foo_2", domain="acme"),
    ]
    proto = model(nodes, {"x": ("float32", (2, 3))}, ("a", "c"), domains=["acme"])
    with pytest.raises(UnsupportedOperator) as caught:
        capture(proto)
    assert "ImageDecoder (once, in node 'a')" in caught.value.message
    assert "acme::Foo (2 times, first in node 'foo_1')" in caught.value.message
    assert "@op" in caught.value.hint


def test_an_operator_of_another_domain_is_another_operator() -> None:
    proto = model(
        [node("Relu", "x", "y", domain="acme")], {"x": ("float32", (2, 3))}, domains=["acme"]
    )
    with pytest.raises(UnsupportedOperator, match="acme::Relu"):
        capture(proto)


def test_operators_that_no_output_needs_do_not_matter() -> None:
    nodes = [node("NonZero", "x", "unused"), node("Relu", "x", "y")]
    assert capture(model(nodes, {"x": ("float32", (2, 3))}))


def test_unread_inputs_attributes_and_outputs_are_refused() -> None:
    arrays = [floats(4, seed=s) for s in range(4)]
    with pytest.raises(UnsupportedOperator, match="output 4 is not handled"):
        capture(single("BatchNormalization", [floats(2, 4)], arrays, outputs=5, opset=9)[0])
    with pytest.raises(UnsupportedOperator, match="antialias"):
        made = node("Resize", "x _ scales", mode="linear", antialias=1)
        constants = {"scales": np.array([1, 1, 2, 2], "float32")}
        capture(model([made], {"x": ("float32", [1, 1, "h", "w"])}, constants=constants))


def test_sizes_that_contradict_each_other() -> None:
    proto = model(
        [node("Add", "a b", "y")], {"a": ("float32", ("n", 3)), "b": ("float32", ("m", 3))}
    )
    with pytest.raises(ShapeError, match="2 and 4 long"):
        capture(proto, shapes={"a": (2, 3), "b": (4, 3)})


def test_strings_are_refused() -> None:
    proto = model([node("Identity", "x", "y")], {"x": ("float32", (2,))})
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    with pytest.raises(CaptureError, match="input 'x' holds STRING"):
        capture(proto)


def test_functions_of_the_model_are_followed() -> None:
    function = helper.make_function(
        "acme",
        "Twice",
        ["x"],
        ["y"],
        [
            helper.make_node("LeakyRelu", ["x"], ["t"]),
            node("Add", "t t", "y"),
        ],
        [helper.make_opsetid("", 18)],
        ["slope"],
    )
    slope = function.node[0].attribute.add()
    slope.name, slope.ref_attr_name, slope.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    proto = model(
        [node("Twice", "x", "y", domain="acme", slope=0.5)],
        {"x": ("float32", (2, 3))},
        domains=["acme"],
    )
    proto.functions.append(function)
    x = floats(2, 3)
    (y,) = execute(capture(proto), {"x": x})
    np.testing.assert_allclose(y, 2 * np.where(x > 0, x, 0.5 * x), rtol=1e-6)


def test_the_same_file_gives_the_same_module(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto, _ = single("Gemm", [floats(2, 3)], [floats(3, 4), floats(4)])
    onnx.save(proto, path)
    one, two = capture(path), capture(path)
    assert one.module.script() == two.module.script()
    assert one.source == two.source
    assert one.source.kind == "onnx"
    assert one.source.name == "model.onnx"
    assert len(one.source.sha256) == 64
    assert one.params_digest() == two.params_digest()
