"""Reductions and searches along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.order import sortable
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value, is_float

Reduction = Callable[[Node, relax.Expr, list[int], bool], relax.Expr]


def _log_sum_exp(node: Node, x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    """Log(sum(exp(x))), from the largest element on, so that nothing overflows."""
    top = node.emit(R.max(x, axes, True))
    finite = R.where(R.isinf(top), node.scalar(0, node.dtype(x)), top)
    top = node.emit(finite)
    total = R.add(R.log(R.sum(R.exp(R.subtract(x, top)), axes, True)), top)
    return total if keep else R.squeeze(total, axes)


def _squares(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    return R.sum(R.multiply(x, x), axes, keep)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda node, x, axes, keep: R.sum(R.abs(x), axes, keep),
    "ReduceL2": lambda node, x, axes, keep: R.sqrt(_squares(x, axes, keep)),
    "ReduceLogSum": lambda node, x, axes, keep: R.log(R.sum(x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda node, x, axes, keep: R.max(x, axes, keep),
    "ReduceMean": lambda node, x, axes, keep: R.mean(x, axes, keep),
    "ReduceMin": lambda node, x, axes, keep: R.min(x, axes, keep),
    "ReduceProd": lambda node, x, axes, keep: R.prod(x, axes, keep),
    "ReduceSum": lambda node, x, axes, keep: R.sum(x, axes, keep),
    "ReduceSumSquare": lambda node, x, axes, keep: _squares(x, axes, keep),
}


@op(*REDUCTIONS)
def reduction(node: Node) -> Value:
    """A reduction; the axes are an attribute in older opsets, an input in newer ones."""
    x = node.tensor(0)
    rank = node.rank(x)
    axes = node.axes(1, rank)
    keep, nothing = bool(node.attr("keepdims")), bool(node.attr("noop_with_empty_axes", 0))
    axes = axes or ([] if nothing else list(range(rank)))
    if node.dtype(x) == "bool":
        number = _reduced(node, R.astype(x, "int8"), axes, keep)
        return R.greater(number, node.scalar(0, "int8"))
    return _reduced(node, x, axes, keep)


def _reduced(node: Node, x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    x = node.emit(x)
    dtype = node.dtype(x)
    if not axes:
        return _pointwise(node, x)
    if node.kind in {"ReduceMax", "ReduceMin"} and _is_empty(node, x, axes):
        return _extreme(node, x, axes, keep)
    if not is_float(dtype) and node.kind in {"ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}:
        wide = node.emit(R.astype(x, "float64"))
        return R.astype(REDUCTIONS[node.kind](node, wide, axes, keep), dtype)
    if not is_float(dtype) and node.kind == "ReduceMean":
        raise node.refuse(f"its input is {dtype}", "cast it to a floating-point type first")
    if node.kind in {"ReduceMax", "ReduceMin"}:
        return REDUCTIONS[node.kind](node, x, axes, keep)
    return summed(node, lambda x: REDUCTIONS[node.kind](node, x, axes, keep), x)


def _is_empty(node: Node, x: relax.Expr, axes: list[int]) -> bool:
    shape = node.shape(x)
    return any(isinstance(shape[axis], int) and shape[axis] == 0 for axis in axes)


def _extreme(node: Node, x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    """The largest or smallest of no elements, which TVM leaves undefined."""
    shape, dtype = node.shape(x), node.dtype(x)
    sizes = [1 if axis in axes else size for axis, size in enumerate(shape)]
    if not keep:
        sizes = [size for axis, size in enumerate(shape) if axis not in axes]
    top = node.kind == "ReduceMin"
    if is_float(dtype):
        number: float = np.inf if top else -np.inf
    else:
        number = np.iinfo(dtype).max if top else np.iinfo(dtype).min
    return R.broadcast_to(node.scalar(number, dtype), sizes)


def _pointwise(node: Node, x: relax.Expr) -> relax.Expr:
    """A reduction over no axes: what is done to each element remains."""
    if node.kind in {"ReduceL1", "ReduceL2"}:
        return R.abs(x)
    if node.kind == "ReduceLogSum":
        return R.log(x)
    return R.multiply(x, x) if node.kind == "ReduceSumSquare" else x


@op("ArgMax", "ArgMin")
def arg(node: Node) -> Value:
    """The place of the largest or smallest element: of several the first, or the last on demand."""
    x = node.tensor(0)
    if node.dtype(x) == "bfloat16":  # TVM widens no pair of a place and such a number
        x = node.emit(R.astype(x, "float32"))
    axis = node.axis(node.rank(x))
    keep = bool(node.attr("keepdims"))
    last = node.attr("select_last_index", 0)
    search = R.argmax if node.kind == "ArgMax" else R.argmin
    if not last:
        return R.astype(search(x, axis, keep), "int64")
    size = node.shape(x)[axis]
    if not isinstance(size, int):
        raise node.refuse("select_last_index needs an axis of fixed size")
    found = R.astype(search(R.flip(x, axis), axis, keep), "int64")
    return R.subtract(node.scalar(size - 1, "int64"), found)


@op("CumSum", "CumProd")
def cumulative(node: Node) -> Value:
    """Running sums or products."""
    x = node.tensor(0)
    axis = node.axis(node.rank(x), int(node.array(1).reshape(-1)[0]))
    exclusive = bool(node.attr("exclusive"))
    make = R.cumsum if node.kind == "CumSum" else R.cumprod
    if not node.attr("reverse"):
        return make(x, axis, node.dtype(x), exclusive)
    return R.flip(make(R.flip(x, axis), axis, node.dtype(x), exclusive), axis)


@op("TopK")
def top_k(node: Node) -> list[Value]:
    """The k largest or smallest elements of an axis and their places."""
    x = node.tensor(0)
    k = node.attr("k") if node.opset < 10 else int(node.array(1).reshape(-1)[0])
    largest = bool(node.attr("largest", 1))
    node.attr("sorted")  # ours are always sorted, which satisfies both values
    axis = node.axis(node.rank(x))
    x = node.emit(x)
    keys = sortable(node, x)
    both = node.emit(R.topk(keys, k, axis, "both", largest, "int64"))
    places = node.emit(relax.TupleGetItem(both, 1))
    if keys is x:
        return [relax.TupleGetItem(both, 0), places]
    return [R.gather_elements(x, places, axis), places]
