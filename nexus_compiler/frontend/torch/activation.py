"""Activation functions; what is not here is decomposed by PyTorch."""

from __future__ import annotations

from typing import Any

from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R
from nexus_compiler.ir.near_zero import near_zero


@op("relu")
def relu(node: Node) -> Any:
    """max(x, 0)."""
    return R.nn.relu(node.tensor("self"))


@op("silu")
def silu(node: Node) -> Any:
    """x * sigmoid(x)."""
    return R.nn.silu(node.tensor("self"))


@op("gelu")
def gelu(node: Node) -> Any:
    """The Gaussian error linear unit, exact or by tanh."""
    x = node.tensor("self")
    return R.nn.gelu_tanh(x) if node["approximate"] == "tanh" else R.nn.gelu(x)


@op("leaky_relu")
def leaky_relu(node: Node) -> Any:
    """x, or a part of it below zero."""
    return R.nn.leakyrelu(node.tensor("self"), float(node["negative_slope"]))


@op("elu")
def elu(node: Node) -> Any:
    """x, or a falling exponential below zero."""
    x, dtype = node.tensor("self"), node.dtype
    alpha, scale, inner = (node[name] for name in ("alpha", "scale", "input_scale"))
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    # The branch that is not taken must not overflow.
    below = R.minimum(R.multiply(x, node.scalar(inner, dtype)), zero)
    fall = R.multiply(R.subtract(R.exp(below), one), node.scalar(alpha, dtype))
    return R.multiply(R.where(R.greater(x, zero), x, fall), node.scalar(scale, dtype))


@op("softplus")
def softplus(node: Node) -> Any:
    """log(1 + exp(beta x)) / beta, and x itself where that is all but the same."""
    x, dtype = node.tensor("self"), node.dtype
    beta, threshold = node["beta"], node["threshold"]
    scaled = node.emit(R.multiply(x, node.scalar(beta, dtype)))
    soft = R.divide(_log1p_exp(node, scaled), node.scalar(beta, dtype))
    return R.where(R.greater(scaled, node.scalar(threshold, dtype)), x, soft)


def _log1p_exp(node: Node, x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    small = node.emit(R.exp(R.negative(R.abs(x))))
    tail = near_zero("log1p", small, node.emit)
    return node.emit(R.add(R.maximum(x, node.scalar(0, node.dtype)), tail))


@op("log_sigmoid_forward")
def log_sigmoid(node: Node) -> list[Any]:
    """log(sigmoid(x)); the second result is of no use on a CPU but for its backward."""
    x = node.tensor("self")
    result = R.negative(_log1p_exp(node, node.emit(R.negative(x))))
    shape = node.shapes(1)
    return [
        result,
        node.full(shape, 0, node.dtype) if shape == [0] else R.exp(R.negative(R.abs(x))),
    ]


@op("mish")
def mish(node: Node) -> Any:
    """x * tanh(softplus(x))."""
    x = node.tensor("self")
    return R.multiply(x, R.tanh(_log1p_exp(node, x)))


@op("_softmax", "softmax", "_safe_softmax")
def softmax(node: Node) -> Any:
    """Softmax over an axis."""
    x = node.tensor("self")
    return R.nn.softmax(x, node.axis()) if node.rank() else node.full([], 1, node.dtype)


@op("_log_softmax", "log_softmax")
def log_softmax(node: Node) -> Any:
    """The logarithm of softmax over an axis."""
    x = node.tensor("self")
    return R.nn.log_softmax(x, node.axis()) if node.rank() else node.full([], 0, node.dtype)
