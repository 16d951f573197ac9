"""Non-maximum suppression: a loop that takes the best box left of every batch and class at once."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.loop import Body, Turn
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.recursion import repeat
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


@op("NonMaxSuppression")
def non_max_suppression(node: Node) -> Value:
    """Triples (batch, class, box): of overlapping boxes only the one with the best score."""
    boxes, scores = node.emit(node.tensor(0)), node.emit(node.tensor(1))
    batch, classes, number = node.shape(scores)
    corners = _corners(node, boxes)
    threshold = _optional(node, 3, "float32")
    left = node.emit(R.ones_like(R.astype(scores, "bool")))
    if node.has(4):
        left = node.emit(R.greater(scores, _optional(node, 4, "float32")))
    most = _optional(node, 2, "int64")
    limit = node.emit(R.minimum(most, counting.scalar(node, number)))
    low = node.scalar(-float("inf"), "float32")

    def step(_: relax.Var, state: Sequence[relax.Var]) -> Turn:
        open_ = state[0]
        best = node.emit(R.argmax(R.where(open_, scores, low), 2, True))
        best = node.emit(R.astype(best, "int64"))
        found = node.emit(R.max(R.astype(open_, "int8"), [2], False))
        overlap = _overlap(node, corners, best)
        rest = R.logical_and(open_, R.less_equal(overlap, threshold))
        # Even a box without an area, which overlaps nothing, is taken only once.
        itself = R.equal(counting.count(node, number), best)
        rest = node.emit(R.logical_and(rest, R.logical_not(itself)))
        more = R.greater(R.max(R.astype(rest, "int8")), node.scalar(0, "int8"))
        return Turn(more, [rest], [R.squeeze(best, [2]), found])

    body = Body(node.importer, "suppression", [left], step)
    _, (best, found) = repeat(node.importer, body, limit, [left])
    order = [1, 2, 0]
    rounds = node.shape(best)[0]
    total = node.sizes.product([batch, classes, rounds])
    flat = R.reshape(R.permute_dims(found, order), [total])
    places, _ = counting.positions(node, node.emit(R.greater(flat, node.scalar(0, "int8"))))
    chosen = node.emit(R.reshape(R.permute_dims(best, order), [total]))
    group = node.emit(R.floor_divide(places, counting.scalar(node, rounds)))
    count = counting.scalar(node, classes)
    columns = [R.floor_divide(group, count), R.floor_mod(group, count)]
    columns.append(counting.at(node, chosen, places))
    return R.concat([node.emit(R.expand_dims(column, [1])) for column in columns], 1)


def _optional(node: Node, index: int, dtype: str) -> relax.Expr:
    """An input of one element; 0 where it is not given."""
    if not node.has(index):
        return node.scalar(0, dtype)
    return node.emit(R.astype(R.reshape(node.tensor(index), []), dtype))


def _corners(node: Node, boxes: relax.Expr) -> list[relax.Expr]:
    """Lower and upper y, lower and upper x, each [batch, boxes]."""
    parts = [node.emit(R.squeeze(R.strided_slice(boxes, [2], [i], [i + 1]), [2])) for i in range(4)]
    if node.attr("center_point_box"):
        x, y, width, height = parts
        half = node.scalar(0.5, node.dtype(boxes))
        pairs = [(y, height), (x, width)]
        return [
            node.emit(sign(center, R.multiply(size, half)))
            for center, size in pairs
            for sign in (R.subtract, R.add)
        ]
    pairs = [(parts[0], parts[2]), (parts[1], parts[3])]
    return [node.emit(pick(*pair)) for pair in pairs for pick in (R.minimum, R.maximum)]


def _overlap(node: Node, corners: Sequence[relax.Expr], best: relax.Expr) -> relax.Expr:
    """Intersection over union of every box with box `best` [batch, classes, 1]."""
    wide = [node.emit(R.expand_dims(corner, [1])) for corner in corners]
    shape = [*node.shape(best)[:2], node.shape(corners[0])[1]]
    own = [node.emit(R.gather_elements(R.broadcast_to(corner, shape), best, 2)) for corner in wide]
    zero = node.scalar(0, node.dtype(corners[0]))
    sides = [
        R.maximum(R.subtract(R.minimum(wide[i + 1], own[i + 1]), R.maximum(wide[i], own[i])), zero)
        for i in (0, 2)
    ]
    shared = node.emit(R.multiply(*sides))
    areas = [R.multiply(R.subtract(c[1], c[0]), R.subtract(c[3], c[2])) for c in (wide, own)]
    union = node.emit(R.subtract(R.add(*areas), shared))
    # Boxes without an area overlap nothing.
    some = R.greater(union, zero)
    return node.emit(R.where(some, R.divide(shared, R.where(some, union, zero)), zero))
