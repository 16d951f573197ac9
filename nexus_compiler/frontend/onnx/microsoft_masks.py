"""Which keys a query of ONNX Runtime's attention operators sees."""

from __future__ import annotations

import math

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.sampling import number
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R


def hidden(node: Node, seen: relax.Expr, value: float) -> relax.Expr:
    """What to add to scores: `value`, within float32, where `seen` is false."""
    return node.emit(
        R.where(seen, node.scalar(0, "float32"), node.scalar(max(value, -3e38), "float32"))
    )


def masks(node: Node, index: int, length: Size, total: Size) -> list[relax.Expr]:
    """What is added to scores `[batch, heads, length, total]` by the mask input and causality."""
    value = float(node.attr("mask_filter_value", -10000.0))
    found: list[relax.Expr] = []
    everything = R.arange(0, total, 1, "int64")
    if node.has(index):
        given = node.tensor(index)
        rank = node.rank(given)
        if rank == 1:
            seen = R.expand_dims(_between(node, given, everything), [1, 2])
        elif rank in {2, 3}:
            seen = R.expand_dims(R.not_equal(given, node.scalar(0, node.dtype(given))), [1])
            seen = R.expand_dims(seen, [1]) if rank == 2 else seen
        else:
            raise node.refuse(f"a mask of rank {rank} is not handled")
        found.append(hidden(node, node.emit(seen), value))
    if node.attr("unidirectional", 0):
        own = R.arange(0, length, 1, "int64")
        own = R.add(own, number(node, node.sizes.simple(total - length), "int64"))
        seen = R.less_equal(everything, R.expand_dims(node.emit(own), [1]))
        found.append(hidden(node, node.emit(seen), -math.inf))
    return found


def _between(node: Node, limits: relax.Expr, places: relax.Expr) -> relax.Expr:
    """Which places lie before an end, and behind a start where those follow all ends."""
    batch, count = node.shape(0)[0], node.shape(limits)[0]
    limits = node.emit(R.astype(R.expand_dims(limits, [1]), "int64"))
    if node.sizes.equal(count, batch) is True:
        return R.less(places, limits)
    if node.sizes.equal(count, 2 * batch) is not True:
        raise node.refuse(f"its mask has {count} limits for {batch} sequences")
    parts = node.emit(R.split(limits, 2, 0))
    ends, starts = (relax.TupleGetItem(parts, i) for i in range(2))
    return R.logical_and(R.less(places, ends), R.greater_equal(places, starts))
