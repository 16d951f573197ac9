"""Computes, while importing, every value that follows from shapes and small constants alone.

Numbers go through ONNX's own reference operators. With symbolic sizes there are two kinds of nodes:
those that only move elements run on stand-in numbers, which are then replaced by the sizes that
they stand for; those that calculate do so element by element on expressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nexus_compiler.frontend.onnx import values
from nexus_compiler.frontend.onnx.sizes import Size, Sizes, is_symbolic
from nexus_compiler.frontend.onnx.values import Host
from nexus_runtime.errors import CaptureError

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.node import Node

LARGEST = 1 << 16
"""Larger constants are not computed here: code that makes them is smaller than they are."""

_ALL = range(1 << 10)

# Operators that only move elements, and which of their inputs hold these.
_MOVES: dict[str, Sequence[int]] = {
    "Concat": _ALL,
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Reshape": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}

# Handlers that return host values themselves, and operators that must not be computed once for all.
_NEVER = {
    *("Bernoulli", "Constant", "Dropout", "Identity", "If", "Loop", "Multinomial", "RandomNormal"),
    *("RandomNormalLike", "RandomUniform", "RandomUniformLike", "Scan", "Shape", "Size"),
    # Results that are no tensors.
    *("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceConstruct"),
    *("SequenceMap", "SplitToSequence"),
}

_Scalar = Callable[[Sizes, Any, Any], Any]

_BINARY: dict[str, _Scalar] = {
    "Add": lambda s, a, b: s.simple(a + b),
    "Sub": lambda s, a, b: s.simple(a - b),
    "Mul": lambda s, a, b: s.simple(a * b),
    "Min": lambda s, a, b: s.minimum(a, b),
    "Max": lambda s, a, b: s.maximum(a, b),
    "Equal": lambda s, a, b: s.equal(a, b),
    "Less": lambda s, a, b: s.less(a, b),
    "Greater": lambda s, a, b: s.less(b, a),
    "LessOrEqual": lambda s, a, b: _negated(s.less(b, a)),
    "GreaterOrEqual": lambda s, a, b: _negated(s.less(a, b)),
    "Div": lambda s, a, b: s.truncdiv(a, b),
    "Mod": lambda s, a, b: s.simple(a % b),
}

_REDUCE: dict[str, _Scalar] = {
    "ReduceSum": _BINARY["Add"],
    "ReduceProd": _BINARY["Mul"],
    "ReduceMin": _BINARY["Min"],
    "ReduceMax": _BINARY["Max"],
}

_COMPARE = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}


def evaluate(node: Node) -> list[Host] | None:
    """The outputs of `node`, or None where they are for the graph to compute."""
    hosts = [value for value in node.values if value is not None]
    if not hosts or node.domain or node.kind in _NEVER:
        return None
    if not all(isinstance(value, Host) for value in hosts):
        return None
    known = [value for value in hosts if isinstance(value, Host)]
    if sum(value.array.size for value in known) > LARGEST:
        return None
    if any(value.symbolic for value in known):
        return _symbolic(node)
    # A weight stays as it is in the model: training must be able to find and change it.
    return None if any(value.weight for value in known) else _fold(node)


def _fold(node: Node) -> list[Host] | None:
    arrays = [value.array if isinstance(value, Host) else None for value in node.values]
    results = _reference(node, arrays)
    if results is None or sum(array.size for array in results) > LARGEST:
        return None
    return [values.host(array) for array in results]


def _reference(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    """Run one node through ONNX's reference operators; None where they cannot."""
    from onnx.reference import ReferenceEvaluator

    feeds = {f"i{i}": array for i, array in enumerate(arrays) if array is not None}
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend(f"i{i}" if a is not None else "" for i, a in enumerate(arrays))
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in feeds],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output if name],
    )
    imports = [onnx.helper.make_opsetid("", node.opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    try:
        if _is_large(model, feeds):
            return None
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever it raises: it is a fallback, and the handler follows
        del error
        return None
    return [np.asarray(result) for result in results]


def _is_large(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether a result is larger than what is computed here, as far as ONNX can tell beforehand.

    Two small inputs can ask for any size: Expand, Range, Pad, or a product of column and row.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.input[:]
    stored = (onnx.numpy_helper.from_array(array, name) for name, array in feeds.items())
    probe.graph.initializer.extend(stored)
    inferred = onnx.shape_inference.infer_shapes(probe, data_prop=True)
    shapes = [value.type.tensor_type.shape.dim for value in inferred.graph.output]
    return any(math.prod(dim.dim_value for dim in shape) > LARGEST for shape in shapes)


def _symbolic(node: Node) -> list[Host] | None:
    if node.kind in _MOVES:
        return _move(node)
    if node.kind in _REDUCE:
        return _reduce(node)
    if node.kind == "Cast":
        return _cast(node)
    if node.kind in {"Floor", "Ceil", "Round"}:  # sizes are whole numbers already
        return [_operand(node, 0)]
    if node.kind == "Neg":
        return _elementwise(node, lambda s, a, b: s.simple(b - a), extra=0)
    if node.kind in _BINARY:
        return _elementwise(node, _BINARY[node.kind])
    return None


def _operand(node: Node, index: int) -> Host:
    value = node.values[index]
    if not isinstance(value, Host):
        raise CaptureError(f"{node} lacks its input {index}")
    return value


def _move(node: Node) -> list[Host] | None:
    pool: list[Any] = []
    arrays: list[np.ndarray | None] = []
    dtype = ""
    for index, value in enumerate(node.values):
        if not isinstance(value, Host):
            arrays.append(None)
        elif index in _MOVES[node.kind]:
            arrays.append(np.arange(value.array.size).reshape(value.array.shape) + len(pool))
            pool.extend(value.array.reshape(-1).tolist())
            dtype = dtype or value.dtype
        elif value.symbolic:
            return None
        else:
            arrays.append(value.array)
    if (moved := _reference(node, arrays)) is None:
        return None
    return [values.host(_picked(pool, places), dtype) for places in moved]


def _picked(pool: Sequence[Any], places: np.ndarray) -> np.ndarray:
    result = np.empty(places.size, object)
    result[:] = [pool[place] for place in places.reshape(-1)]
    return result.reshape(places.shape)


def _elementwise(node: Node, scalar: _Scalar, extra: Size | None = None) -> list[Host] | None:
    operands = [_operand(node, index) for index in range(len(node.values))]
    if (arrays := _whole(operands)) is None:
        return None
    if extra is not None:
        arrays.append(_objects(np.asarray(extra)))
    dtype = "bool" if node.kind in _COMPARE else operands[0].dtype
    if node.kind in {"Div", "Mod"} and (values.is_float(dtype) or node.kind == "Mod"):
        arrays = _exact(node, arrays)
    total = arrays[0] if arrays else None
    for other in arrays[1:] if arrays else ():
        total = _broadcast(node.sizes, scalar, total, other)
    if total is None or any(item is None for item in total.flat):
        return None
    return [values.host(total, dtype)]


def _exact(node: Node, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
    """The operands, if a division of floats leaves no rest and signs do not matter."""
    sizes, (a, b) = node.sizes, np.broadcast_arrays(*arrays)
    for x, y in zip(a.flat, b.flat):
        if sizes.less(y, 1) is not False or sizes.less(x, 0) is not False:
            return None
        if node.kind == "Div" and sizes.equal(x % y, 0) is not True:
            return None
    return arrays


def _broadcast(sizes: Sizes, scalar: _Scalar, a: Any, b: Any) -> np.ndarray:
    left, right = np.broadcast_arrays(a, b)
    result = np.empty(left.size, object)
    result[:] = [scalar(sizes, x, y) for x, y in zip(left.flat, right.flat)]
    return result.reshape(left.shape)


def _whole(operands: Sequence[Host]) -> list[np.ndarray] | None:
    """The elements as Python ints and sizes; None where one is a broken number."""
    arrays = [_objects(operand.array) for operand in operands]
    items = [item for array in arrays for item in array.flat]
    fits = all(is_symbolic(item) or isinstance(item, int) for item in items)
    return arrays if fits else None


def _objects(array: np.ndarray) -> np.ndarray:
    result = np.empty(array.size, object)
    result[:] = [_int_if_whole(item) for item in array.reshape(-1).tolist()]
    return result.reshape(array.shape)


def _int_if_whole(item: Any) -> Any:
    return int(item) if isinstance(item, float) and item.is_integer() else item


def _reduce(node: Node) -> list[Host] | None:
    operand = _operand(node, 0)
    if operand.array.ndim != 1 or (arrays := _whole([operand])) is None:
        return None
    node.axes(1, 1)
    items = list(arrays[0])
    total = items[0]
    for item in items[1:]:
        total = _REDUCE[node.kind](node.sizes, total, item)
    result = np.empty(1, object)
    result[0] = total
    return [values.host(result if node.attr("keepdims") else result.reshape(()), operand.dtype)]


def _cast(node: Node) -> list[Host] | None:
    dtype = values.element_type(node.attr("to"), str(node))
    return None if dtype == "bool" else [values.host(_operand(node, 0).array, dtype)]


def _negated(truth: bool | None) -> bool | None:
    return None if truth is None else not truth
