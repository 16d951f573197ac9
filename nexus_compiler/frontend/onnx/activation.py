"""Activations. Those with a Relax operator use it; the rest are spelled out."""

from __future__ import annotations

import numpy as np

from nexus_compiler.frontend.onnx import randomness
from nexus_compiler.frontend.onnx.broadcast import align
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Host, R, Value, host
from nexus_compiler.ir.near_zero import near_zero


@op("Relu")
def relu(node: Node) -> Value:
    """max(x, 0)."""
    x = node.tensor(0)
    return R.nn.relu(x)


@op("LeakyRelu")
def leaky_relu(node: Node) -> Value:
    """x where positive, else alpha * x."""
    return R.nn.leakyrelu(node.tensor(0), node.attr("alpha"))


@op("PRelu")
def prelu(node: Node) -> Value:
    """x where positive, else slope * x; the slope broadcasts."""
    x, slope = align(node, node.tensors())
    zero = node.scalar(0, node.dtype(x))
    return R.where(R.less(x, zero), R.multiply(x, slope), x)


@op("Elu", "Celu", "Selu")
def elu(node: Node) -> Value:
    """x where positive, else a scaled exp(x) - 1."""
    x = node.tensor(0)
    dtype = node.dtype(x)
    alpha = node.attr("alpha")
    gamma = node.attr("gamma") if node.kind == "Selu" else 1.0
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    below = node.emit(R.minimum(x, zero))
    if node.kind == "Celu":
        below = node.emit(R.divide(below, node.scalar(alpha, dtype)))
    negative = R.multiply(node.scalar(alpha, dtype), R.subtract(R.exp(below), one))
    result = node.emit(R.where(R.greater(x, zero), x, negative))
    return result if gamma == 1.0 else R.multiply(result, node.scalar(gamma, dtype))


@op("HardSigmoid", "HardSwish")
def hard_sigmoid(node: Node) -> Value:
    """clip(alpha * x + beta, 0, 1); HardSwish is x times that."""
    x = node.tensor(0)
    dtype = node.dtype(x)
    swish = node.kind == "HardSwish"
    alpha, beta = (1 / 6, 0.5) if swish else (node.attr("alpha"), node.attr("beta"))
    line = R.add(R.multiply(x, node.scalar(alpha, dtype)), node.scalar(beta, dtype))
    gate = R.minimum(R.maximum(line, node.scalar(0, dtype)), node.scalar(1, dtype))
    return R.multiply(x, gate) if swish else gate


@op("Swish")
def swish(node: Node) -> Value:
    """x * sigmoid(alpha * x)."""
    x = node.tensor(0)
    alpha = node.attr("alpha")
    if alpha == 1.0:
        return R.nn.silu(x)
    return R.multiply(x, R.sigmoid(R.multiply(x, node.scalar(alpha, node.dtype(x)))))


@op("Gelu")
def gelu(node: Node) -> Value:
    """Gelu, exact or by tanh."""
    x = node.tensor(0)
    return R.nn.gelu_tanh(x) if node.attr("approximate") == "tanh" else R.nn.gelu(x)


@op("Softplus")
def softplus(node: Node) -> Value:
    """log(1 + exp(x)), written so that large x do not overflow."""
    x = node.tensor(0)
    small = node.emit(R.exp(R.negative(R.abs(x))))
    tail = near_zero("log1p", small, node.emit)
    return R.add(R.maximum(x, node.scalar(0, node.dtype(x))), tail)


@op("Atanh")
def atanh(node: Node) -> Value:
    """The inverse of tanh, exact for small x too."""
    return near_zero("atanh", node.emit(node.tensor(0)), node.emit)


@op("Softsign")
def softsign(node: Node) -> Value:
    """x / (1 + |x|)."""
    x = node.tensor(0)
    return R.divide(x, R.add(node.scalar(1, node.dtype(x)), R.abs(x)))


@op("ThresholdedRelu")
def thresholded_relu(node: Node) -> Value:
    """x above alpha, else 0."""
    x = node.tensor(0)
    dtype = node.dtype(x)
    return R.where(R.greater(x, node.scalar(node.attr("alpha"), dtype)), x, node.scalar(0, dtype))


@op("Shrink")
def shrink(node: Node) -> Value:
    """x moved by `bias` towards 0, and 0 within `lambd` of it."""
    x = node.tensor(0)
    dtype = node.dtype(x)
    limit, bias = node.attr("lambd"), node.scalar(node.attr("bias"), dtype)
    above = R.greater(x, node.scalar(limit, dtype))
    below = R.less(x, node.scalar(-limit, dtype))
    inner = R.where(below, R.add(x, bias), node.scalar(0, dtype))
    return R.where(above, R.subtract(x, bias), inner)


@op("Softmax", "LogSoftmax")
def softmax(node: Node) -> Value:
    """Softmax over one axis; before opset 13 over all axes from `axis` on, as if they were one."""
    x = node.tensor(0)
    make = R.nn.softmax if node.kind == "Softmax" else R.nn.log_softmax
    rank = node.rank(x)
    axis = node.axis(rank)
    if node.opset >= 13 or axis == rank - 1:
        return summed(node, lambda x: make(x, axis), x)
    shape = node.shape(x)
    sizes = node.sizes
    flat = node.emit(R.reshape(x, [sizes.product(shape[:axis]), sizes.product(shape[axis:])]))
    return R.reshape(summed(node, lambda x: make(x, 1), flat), shape)


@op("Dropout")
def dropout(node: Node) -> list[Value]:
    """The identity, and a mask that keeps everything; random where it is in training mode."""
    node.ignore("ratio", "seed", "is_test", "consumed_inputs")
    x = node.emit(node.tensor(0))
    ratio = node.value(1) if node.has(1) else host(np.array(0.5, "float32"))
    training = node.value(2) if node.has(2) else host(np.array(False))
    never = isinstance(training, Host) and not training.array.any()
    dtype = "bool" if node.opset >= 10 else node.dtype(x)
    whole = node.emit(R.full(node.shape(x), node.scalar(1, dtype), dtype))
    if never or (isinstance(ratio, Host) and not ratio.array.any()):
        return [x, whole]
    dropped, kept = randomness.drop(node, x, node.importer.tensor(ratio))
    if isinstance(training, Host):
        return [dropped, kept]
    flag = node.emit(R.reshape(training, []))
    return [R.where(flag, dropped, x), R.where(flag, kept, whole)]


@op("Hardmax")
def hardmax(node: Node) -> Value:
    """1 at the first largest element of an axis, 0 elsewhere."""
    x = node.tensor(0)
    rank = node.rank(x)
    axis = node.axis(rank)
    shape, sizes = node.shape(x), node.sizes
    if node.opset < 13:
        flat = [sizes.product(shape[:axis]), sizes.product(shape[axis:])]
        x, axis, rank = node.emit(R.reshape(x, flat)), 1, 2
    length = node.shape(x)[axis]
    places = R.reshape(
        R.arange(0, length, 1, "int64"), [length if i == axis else 1 for i in range(rank)]
    )
    best = R.equal(R.astype(R.argmax(x, axis, True), "int64"), places)
    result = R.astype(best, node.dtype(x))
    return result if node.opset >= 13 else R.reshape(result, shape)
