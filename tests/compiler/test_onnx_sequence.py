"""Sequences and optionals, against ONNX Runtime: inside, they leave no trace in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import floats, model, node
from onnx_pipeline import Model, check, subgraph

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.onnx import capture, containers
from nexus_runtime.errors import CaptureError, NeedsConstant, ShapeError, UnsupportedOperator

CONSTANTS = {"zero": np.array(0), "last": np.array(-1), "two": np.array(2), "four": np.array(4)}
CONSTANTS["uneven"] = np.array([1, 3, 2])


def build(nodes: Sequence[onnx.NodeProto], *outputs: str) -> onnx.ModelProto:
    return model(nodes, {"x": ("float32", ("n", 6))}, outputs, CONSTANTS)


def test_insert_erase_and_join() -> None:
    nodes = [
        node("SplitToSequence", "x two", "q", axis=1),
        node("SequenceLength", "q", "length"),
        node("SequenceAt", "q last", "item"),
        node("Relu", "x", "r"),
        node("SequenceInsert", "q r last", "q2"),
        node("SequenceErase", "q2 zero", "q3"),
        node("Identity", "q3", "q4"),
        node("ConcatFromSequence", "q4", "y", axis=1),
    ]
    graph = check(build(nodes, "y", "item", "length"), {"x": floats(4, 6)})
    assert [str(v.name_hint) for v in graph.module.functions] == ["main"]


@pytest.mark.parametrize("split", ["", "four", "uneven"])
def test_pieces(split: str) -> None:
    nodes = [
        node("SplitToSequence", f"x {split}", "q", axis=1, keepdims=1),
        node("SequenceAt", "q zero", "first"),
        node("SequenceAt", "q last", "second"),
    ]
    check(build(nodes, "first", "second"), {"x": floats(4, 6)})


def test_pieces_without_their_axis() -> None:
    nodes = [
        node("SplitToSequence", "x", "q", axis=1, keepdims=0),
        node("ConcatFromSequence", "q", "y", axis=0, new_axis=1),
    ]
    check(build(nodes, "y"), {"x": floats(4, 6)})


def test_a_sequence_may_begin_empty() -> None:
    nodes = [
        node("SequenceEmpty", "", "q"),
        node("SequenceInsert", "q x", "q1"),
        node("SequenceInsert", "q1 x", "q2"),
        node("ConcatFromSequence", "q2", "y", axis=0),
    ]
    check(build(nodes, "y"), {"x": floats(4, 6)})


def test_map() -> None:
    body = subgraph(
        [node("Add", "a b", "c"), node("Neg", "c", "d")],
        {"a": "float32", "b": "float32"},
        {"d": "float32"},
    )
    nodes = [
        node("Relu", "x", "r"),
        node("SequenceConstruct", "x r x", "q"),
        node("SequenceMap", "q x", "o", body=body),
        node("ConcatFromSequence", "o", "y", axis=0),
    ]
    check(build(nodes, "y"), {"x": floats(4, 6)})


def test_optionals_decide_while_importing() -> None:
    there, absent = (
        subgraph([node(kind, source, "z")], {}, {"z": "float32"})
        for kind, source in (("Neg", "g"), ("Exp", "x"))
    )
    nodes = [
        node("Relu", "x", "r"),
        node("Optional", "r", "o"),
        node("OptionalHasElement", "o", "h"),
        node("OptionalGetElement", "o", "g"),
        node("If", "h", "y", then_branch=there, else_branch=absent),
    ]
    graph = check(build(nodes, "y"), {"x": floats(4, 6)})
    assert [str(v.name_hint) for v in graph.module.functions] == ["main"]


def test_positions_outside_are_refused() -> None:
    nodes = [node("SequenceConstruct", "x x", "q"), node("SequenceAt", "q four", "y")]
    with pytest.raises(UnsupportedOperator, match="SequenceAt node 'y'.*position 4 .*2 places"):
        capture(build(nodes, "y"))


def crossing(kind: onnx.TypeProto, length: int | str = "n") -> onnx.ModelProto:
    """A model that takes and returns containers: what came in and one element more."""
    proto = build([node("SequenceInsert", "x x.extra", "y")], "y")
    proto.graph.input[0].type.CopyFrom(kind)
    extra = onnx.helper.make_tensor_value_info("x.extra", onnx.TensorProto.FLOAT, [length])
    proto.graph.input.append(extra)
    proto.graph.output[0].type.CopyFrom(kind)
    return proto


FLOATS = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["n"])
SEQUENCE = onnx.helper.make_sequence_type_proto(FLOATS)
OPTIONAL = onnx.helper.make_optional_type_proto


@pytest.mark.parametrize("count", [0, 1, 3])
def test_sequences_cross_the_border(count: int) -> None:
    proto = crossing(SEQUENCE)
    artifact = nexus_compiler.compile(proto, shapes={"x": (count,)})
    module = nexus_runtime.load(artifact)
    arrays = [floats(size) for size in range(3, 3 + count)]
    feeds = {f"x.{i}": array for i, array in enumerate(arrays)}
    outputs = module.run("main", feeds | {"x.extra": floats(7)})
    assert list(outputs) == [f"y.{i}" for i in range(count + 1)]
    for got, wanted in zip(outputs.values(), [*arrays, floats(7)], strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("there", [True, False])
def test_optionals_cross_the_border(there: bool) -> None:
    proto = build([node("Identity", "x", "y"), node("OptionalHasElement", "x", "h")], "y", "h")
    proto.graph.input[0].type.CopyFrom(OPTIONAL(SEQUENCE))
    proto.graph.output[0].type.CopyFrom(OPTIONAL(SEQUENCE))
    shapes, feeds = containers.split(OPTIONAL(SEQUENCE), "x", [floats(2)] if there else None)
    assert shapes == ({"x": (1,), "x.0": (1,), "x.0.0": (2,)} if there else {"x": (0,)})
    outputs = Model(proto, shapes=shapes).named(feeds)
    assert outputs.pop("h") == there
    found = containers.join(proto.graph.output[0].type, "y", outputs)
    assert (found is not None) == there
    if there:
        np.testing.assert_array_equal(found, [floats(2)])


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        (SEQUENCE, {}, "input 'x' is a sequence: what it holds must be known .*, not nothing"),
        (SEQUENCE, {"x": ("n",)}, "input 'x' is a sequence"),
        (OPTIONAL(SEQUENCE), {"x": (2,)}, r"input 'x' is an optional: .*, not \(2,\)"),
    ],
)
def test_what_a_container_holds_must_be_known(
    kind: onnx.TypeProto, shapes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        capture(crossing(kind), shapes=shapes)


def test_elements_of_a_sequence_cannot_be_frozen() -> None:
    with pytest.raises(CaptureError, match="'x.0' is a constant"):
        capture(crossing(SEQUENCE), shapes={"x": (1,)}, constants={"x.0": floats(2)})


def test_names_of_elements_must_be_free() -> None:
    proto = crossing(SEQUENCE)
    proto.graph.input[1].name = proto.graph.node[0].input[1] = "x.0"
    with pytest.raises(CaptureError, match="two inputs would be called 'x.0'"):
        capture(proto, shapes={"x": (1,)})


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_conditions_over_sequences_must_be_constants(kind: str) -> None:
    empty, inner = node("SequenceEmpty", "", "q"), node("SequenceConstruct", "x", "s")
    if kind == "If":
        branch = onnx.helper.make_graph([inner], "b", [], [value("s")])
        nodes = [node("If", "c", "r", then_branch=branch, else_branch=branch)]
        inputs, reason = {"c": ("bool", ())}, "decides over sequences"
    else:
        insert = node("SequenceInsert", "before x", "s")
        step = [node("Identity", "go", "on"), insert]
        body = onnx.helper.make_graph(
            step,
            "b",
            [scalar("i", "int64"), scalar("go", "bool"), value("before")],
            [scalar("on", "bool"), value("s")],
        )
        nodes = [empty, node("Loop", "c true q", "r", body=body)]
        inputs, reason = {"c": ("int64", ())}, "says how often a sequence changes"
    last = node("ConcatFromSequence", "r", "y", axis=0)
    proto = model(
        [*nodes, last],
        {"x": ("float32", ("n", 6)), **inputs},
        ("y",),
        {"true": np.array(True)},
    )
    with pytest.raises(NeedsConstant, match=reason):
        capture(proto)
    constant = np.array(True) if kind == "If" else np.array(6)
    found = Model(proto, constants={"c": constant}).run({"x": floats(2, 6)})
    np.testing.assert_array_equal(found[0], np.tile(floats(2, 6), (1 if kind == "If" else 6, 1)))


def value(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_value_info(name, SEQUENCE_OF_ROWS)


SEQUENCE_OF_ROWS = onnx.helper.make_sequence_type_proto(
    onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [None, 6])
)


def scalar(name: str, dtype: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(
        name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ()
    )
