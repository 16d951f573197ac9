"""What follows from shapes is computed while importing and leaves no trace in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import compare, floats, model, node
from tvm import relax

from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.frontend.onnx.sizes import Sizes
from nexus_compiler.ir import calls
from nexus_compiler.ir.sizes import text
from nexus_runtime.errors import ShapeError

SHAPE_OPERATORS = {"relax.shape_of", "relax.shape_to_tensor", "relax.tensor_to_shape"}


def operators(graph: CapturedGraph) -> set[str]:
    function = graph.module["main"]
    assert isinstance(function, relax.Function)
    return calls.operators(function)


def ints(*items: int) -> np.ndarray:
    return np.array(items, "int64")


def chain() -> onnx.ModelProto:
    """Heads of attention as exporters write it: [b, s, 12] -> [b, 3, s, 4] -> [b, s, 12]."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "b"),
        node("Gather", "s one", "l"),
        node("Gather", "s two", "c"),
        node("Div", "c three", "d"),
        node("Unsqueeze", "b axis", "b1"),
        node("Unsqueeze", "l axis", "l1"),
        node("Unsqueeze", "d axis", "d1"),
        node("Concat", "b1 l1 heads d1", "split", axis=0),
        node("Reshape", "x split", "h"),
        node("Transpose", "h", "t", perm=[0, 2, 1, 3]),
        node("Relu", "t", "r"),
        node("Transpose", "r", "u", perm=[0, 2, 1, 3]),
        node("Slice", "s axis end", "front"),
        node("Concat", "front rest", "back", axis=0),
        node("Reshape", "u back", "y"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "two": np.array(2)}
    constants |= {"three": np.array(3), "axis": ints(0), "heads": ints(3), "end": ints(2)}
    constants["rest"] = ints(-1)
    return model(nodes, {"x": ("float32", ("b", "s", 12))}, ("y",), constants)


def test_a_reshape_chain_leaves_no_shape_tensor() -> None:
    graph = compare(chain(), {"x": floats(2, 5, 12)})
    assert not operators(graph) & SHAPE_OPERATORS
    assert operators(graph) == {"relax.reshape", "relax.permute_dims", "relax.nn.relu"}
    assert not graph.params
    assert graph.signature.functions[0].outputs[0].shape == ("b", "s", 12)


def test_expand_by_a_computed_shape() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "rank", "ones", value=onnx.numpy_helper.from_array(ints(1))),
        node("Mul", "ones minus", "m"),
        node("Equal", "s m", "e"),
        node("Where", "e ones s", "w"),
        node("Expand", "row w", "y"),
    ]
    constants = {"rank": ints(2), "minus": ints(-1), "row": floats(1, 4)}
    proto = model(nodes, {"x": ("float32", ("n", 4))}, ("y",), constants)
    graph = compare(proto, {"x": floats(3, 4)})
    assert operators(graph) == {"relax.broadcast_to"}
    assert list(graph.params) == ["row"]


def test_resize_to_the_size_of_another_tensor() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s two four", "hw"),
        node("Cast", "hw", "f", to=1),
        node("Mul", "f factor", "g"),
        node("Floor", "g", "h"),
        node("Cast", "h", "i", to=7),
        node("Concat", "nc i", "sizes", axis=0),
        node("Resize", "x _ _ sizes", "y", mode="nearest", nearest_mode="floor"),
    ]
    constants = {"two": ints(2), "four": ints(4), "nc": ints(1, 2)}
    constants["factor"] = np.array(2, "float32")
    proto = model(nodes, {"x": ("float32", (1, 2, "h", "w"))}, ("y",), constants)
    graph = compare(proto, {"x": floats(1, 2, 3, 4)})
    assert graph.signature.functions[0].outputs[0].shape == (1, 2, "h * 2", "w * 2")
    assert not operators(graph) & SHAPE_OPERATORS


def test_positions_of_a_dynamic_length() -> None:
    nodes = [
        node("Shape", "x", "s", start=1, end=2),
        node("Squeeze", "s", "l"),
        node("Range", "zero l one", "p"),
        node("Gather", "table p", "e"),
        node("Add", "x e", "y"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "table": floats(9, 4)}
    proto = model(nodes, {"x": ("float32", ("b", "s", 4))}, ("y",), constants)
    graph = compare(proto, {"x": floats(2, 5, 4)})
    assert not operators(graph) & SHAPE_OPERATORS


def test_a_size_that_is_data_becomes_a_tensor() -> None:
    nodes = [
        node("Size", "x", "n"),
        node("Cast", "n", "f", to=1),
        node("ReduceSum", "x", "t", keepdims=0),
        node("Div", "t f", "y"),
    ]
    proto = model(nodes, {"x": ("float32", ("n", 3))})
    graph = compare(proto, {"x": floats(4, 3)})
    assert "relax.shape_to_tensor" in operators(graph)


def test_split_and_slice_of_a_symbolic_axis() -> None:
    nodes = [
        node("Slice", "x one last", "tail"),
        node("Slice", "x minus end", "final"),
        node("Add", "tail final", "y"),
    ]
    constants = {"one": ints(1), "last": ints(2**63 - 1), "minus": ints(-1), "end": ints(10**9)}
    proto = model(nodes, {"x": ("float32", ("n", 3))}, ("y",), constants)
    graph = compare(proto, {"x": floats(5, 3)})
    assert graph.signature.functions[0].outputs[0].shape == ("n - 1", 3)


def test_sizes_that_only_agree_when_the_model_runs_are_checked_then() -> None:
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2], strides=[2]),
        node("Resize", "p _ two", "u", mode="nearest", nearest_mode="floor"),
        node("Add", "x u", "y"),
    ]
    constants = {"two": np.array([1, 1, 2], "float32")}
    proto = model(nodes, {"x": ("float32", (1, 1, "n"))}, ("y",), constants)
    graph = compare(proto, {"x": floats(1, 1, 6)})
    assert graph.signature.functions[0].outputs[0].shape == (1, 1, "n // 2 * 2")
    with pytest.raises(Exception, match=r"(?i)match_cast|assert|shape"):
        compare(proto, {"x": floats(1, 1, 5)})


def test_dimension_names() -> None:
    inputs = {
        "a": ("float32", ("seq.len", None, 2)),
        "b": ("float32", ("seq.len", -1, 2)),
        "c": ("float32", ("1st", "batch", 2)),
    }
    graph = capture(model([node("Relu", "a", "y")], inputs))
    a, b, c = graph.signature.functions[0].inputs
    assert a.shape == ("seq_len", "a_1", 2)
    assert b.shape == ("seq_len", "b_1", 2)
    assert c.shape == ("dim_1st", "batch", 2)
    main = graph.module["main"]
    assert main.params[0].ty.shape[0].same_as(main.params[1].ty.shape[0])


def test_the_first_unknown_axis_is_the_batch() -> None:
    proto = model([node("Relu", "x", "y")], {"x": ("float32", (None, 3, None))})
    assert capture(proto).signature.functions[0].inputs[0].shape == ("batch", 3, "x_2")


def test_shapes_fix_and_rename() -> None:
    proto = model(
        [node("Add", "a b", "y")], {"a": ("float32", ("n", "m")), "b": ("float32", ("n", "m"))}
    )
    spec = capture(proto, shapes={"a": (4, "width")}).signature.functions[0]
    assert spec.inputs[1].shape == (4, "width")
    assert capture(proto, shapes={"a": (None, 3)}).signature.functions[0].outputs[0].shape == (
        "n",
        3,
    )


WRONG_SHAPES = [
    ({"z": (1, 2)}, "no input 'z'"),
    ({"a": (1,)}, "has 2 dimensions"),
    ({"a": (1, 4)}, "is 3 long on axis 1"),
    ({"a": (0, 3)}, "cannot be 0 long"),
    ({"a": (2, 3), "b": (4, 3)}, "cannot be both 2 and 4"),
    ({"a": ("two words", 3)}, "cannot name a dimension"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG_SHAPES)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int | str, ...]], message: str) -> None:
    inputs = {"a": ("float32", ("n", 3)), "b": ("float32", ("n", 3))}
    with pytest.raises(ShapeError, match=message) as caught:
        capture(model([node("Add", "a b", "y")], inputs), shapes=shapes)
    assert caught.value.hint


def test_sizes_decide_what_they_can() -> None:
    sizes = Sizes()
    n = sizes.variable("n")
    assert sizes.equal(n, 0) is False
    assert sizes.equal(n + n, n * 2) is True
    assert sizes.equal(n, 4) is None
    assert sizes.simple(n * 6 // 3 - n * 2) == 0
    assert sizes.quotient([n, 6, n * 2], [n * 2, 3]) is not None
    assert text(sizes.quotient([n, 6], [3])) == "n * 2"
    assert sizes.truncdiv(-7, 2) == -3
    assert sizes.minimum(n, 0) == 0
    assert text((n + 1) * 2 // 3 - (n - 1)) == "(n + 1) * 2 // 3 - (n - 1)"
