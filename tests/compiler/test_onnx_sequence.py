"""Sequences and optionals, against ONNX Runtime: they leave no trace in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx_models import floats, model, node
from onnx_pipeline import check, subgraph

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import CaptureError, UnsupportedOperator

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


def test_sequences_across_the_border_are_refused() -> None:
    proto = build([node("SequenceConstruct", "x x", "q"), node("SequenceAt", "q zero", "y")], "y")
    kind = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    )
    given = build([node("SequenceAt", "x zero", "y")], "y")
    given.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(CaptureError, match="input 'x' is no tensor but sequence_type"):
        capture(given)
    proto.graph.output[0].name = "q"
    proto.graph.output[0].type.CopyFrom(kind)
    with pytest.raises(UnsupportedOperator, match="a sequence .* is an output of the model"):
        capture(proto)
