"""Models of ten thousand nodes, and kernels that such models make: no part may grow faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import floats, node, reference

import nexus_runtime
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.passes import base, pipelines
from nexus_compiler.pipeline import CompileOptions, compile
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import UnsupportedOperator

NODES = 10_000
Shape = Callable[[int], onnx.ModelProto]


def graph(
    nodes: list[onnx.NodeProto],
    output: str,
    constants: dict[str, np.ndarray],
    shape: tuple[int | str, ...] = (4, 8),
) -> onnx.ModelProto:
    """A model of one input; without shape inference, which takes longer than the import."""
    names = [f"size_{axis}" for axis in range(len(shape))]
    made = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, names)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def chain(length: int) -> onnx.ModelProto:
    nodes, last = list[onnx.NodeProto](), "x"
    for step in range(length):
        kind = ("Relu", "Add", "Sigmoid", "Mul")[step % 4]
        nodes.append(node(kind, f"{last} w" if step % 2 else last, f"v{step}"))
        last = f"v{step}"
    return graph(nodes, last, {"w": floats(8, low=-1, high=1)})


def fan(width: int) -> onnx.ModelProto:
    """As many branches as there are nodes, and one that adds them all up."""
    nodes = [node("Mul", f"x c{place}", f"v{place}") for place in range(width)]
    constants = {f"c{place}": np.array(place / width, "float32") for place in range(width)}
    nodes.append(node("Sum", " ".join(f"v{place}" for place in range(width)), "y"))
    return graph(nodes, "y", constants)


def shuffles(length: int) -> onnx.ModelProto:
    """Reshapes and transpositions: places that follow from places that follow from places."""
    nodes, last = list[onnx.NodeProto](), "x"
    for step in range(length):
        nodes.append(node("Reshape", f"{last} s", f"r{step}"))
        nodes.append(node("Transpose", f"r{step}", f"t{step}"))
        last = f"t{step}"
    return graph(nodes, last, {"s": np.array([4, 8])})


@pytest.mark.parametrize("shape", [chain, fan])
def test_ten_thousand_nodes_are_imported(shape: Shape) -> None:
    captured = capture(shape(NODES))
    module = base.run(captured.module, pipelines.common())
    bindings = sum(len(block.bindings) for block in module["main"].body.blocks)
    assert NODES / 2 < bindings < 2 * NODES + 2


@pytest.mark.parametrize(("shape", "size"), [(chain, 600), (fan, 200), (shuffles, 40)])
def test_large_models_are_compiled(shape: Shape, size: int, tmp_path: Path) -> None:
    """Large enough to fill the largest fused kernels several times."""
    proto = shape(size)
    built = compile(proto, options=CompileOptions(store=LocalStore(tmp_path), jobs=1))
    x = floats(4, 8)
    (wanted,) = reference(proto, {"x": x})
    np.testing.assert_allclose(nexus_runtime.load(built)(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_size_of_data_beside_one_of_the_input(tmp_path: Path) -> None:
    """A kernel that takes the input's size as a number, and one that has it in a shape."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        tiles (float[2, n, 3] x, int64[3] y) => (float[a, b, c] z) { z = Tile (x, y) }"""
    )
    built = compile(proto, options=CompileOptions(store=LocalStore(tmp_path), jobs=1))
    x, y = floats(2, 5, 3), np.array([1, 2, 3])
    np.testing.assert_array_equal(nexus_runtime.load(built)(x, y), np.tile(x, y))


def test_a_shape_that_depends_on_data_names_the_node_and_the_reason() -> None:
    """The rank itself is in the data: no kernel can be made for it."""
    wanted = helper.make_tensor_value_info("s", onnx.TensorProto.INT64, ["rank"])
    proto = graph([node("Reshape", "x s", "y", name="unknown_rank")], "y", {})
    proto.graph.input.append(wanted)
    with pytest.raises(UnsupportedOperator) as caught:
        capture(proto)
    assert "Reshape node 'unknown_rank' (opset 18)" in caught.value.message
    assert "the length of its input 1, rank, depends on the input" in caught.value.message
    assert caught.value.hint


def test_a_value_that_must_be_known_names_the_node_the_input_and_the_cure() -> None:
    proto = graph([node("CumSum", "x along", "y", name="running")], "y", {})
    along = helper.make_tensor_value_info("along", onnx.TensorProto.INT64, [])
    proto.graph.input.append(along)
    with pytest.raises(UnsupportedOperator) as caught:
        capture(proto)
    assert "CumSum node 'running'" in caught.value.message
    assert "its input 1 ('along') must be a constant" in caught.value.message
    assert "--freeze along=" in caught.value.hint
