"""Losses over classes."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


@op("NegativeLogLikelihoodLoss")
def negative_log_likelihood(node: Node) -> Value:
    """Minus the logarithm that axis 1 holds for the right class, times that class's weight."""
    return _loss(node, node.tensor(0))


@op("SoftmaxCrossEntropyLoss")
def cross_entropy(node: Node) -> list[Value]:
    """The same of the log-softmax of the input, which is the second output."""
    logs = node.emit(R.nn.log_softmax(node.tensor(0), 1))
    return [_loss(node, logs), logs]


def _loss(node: Node, logs: relax.Expr) -> relax.Expr:
    dtype, zero = node.dtype(logs), node.scalar(0, node.dtype(logs))
    classes = node.shape(logs)[1]
    # In int64, for the comparison with an `ignore_index` that an id of 8 bits cannot hold.
    target = node.emit(R.astype(node.tensor(1), "int64"))
    ignored = node.attr("ignore_index")
    kept: relax.Expr | None = None
    safe = target
    if ignored is not None:
        kept = node.emit(R.not_equal(target, node.scalar(ignored, "int64")))
        # Any class will do where nothing counts; the id itself may be out of bounds.
        safe = node.emit(R.where(kept, target, node.scalar(0, "int64")))
    if not isinstance(classes, int):
        raise node.refuse(f"the number of classes, {classes}, depends on the input")
    # No id may reach outside of the tensor.
    first, last = node.scalar(0, "int64"), node.scalar(classes - 1, "int64")
    safe = node.emit(R.minimum(R.maximum(safe, first), last))
    picked = R.gather_elements(logs, R.expand_dims(safe, [1]), 1)
    loss = node.emit(R.negative(R.squeeze(picked, [1])))
    weight = node.emit(R.take(node.tensor(2), safe, 0, mode="clip")) if node.has(2) else None
    if kept is not None:
        ones = node.scalar(1, dtype) if weight is None else weight
        weight = node.emit(R.where(kept, ones, zero))
        loss = node.emit(R.where(kept, loss, zero))
    return _reduced(node, loss, weight)


def _reduced(node: Node, loss: relax.Expr, weight: relax.Expr | None) -> relax.Expr:
    reduction = node.attr("reduction")
    if reduction not in {"none", "sum", "mean"}:
        raise node.refuse(f"its reduction is '{reduction}'")
    if weight is not None:
        loss = node.emit(R.multiply(loss, weight))
    if reduction == "none":
        return loss
    if reduction == "sum":
        return R.sum(loss)
    return R.mean(loss) if weight is None else R.divide(R.sum(loss), R.sum(weight))
