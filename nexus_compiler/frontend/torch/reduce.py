"""Operators that reduce axes, and running sums."""

from __future__ import annotations

from typing import Any

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op("sum", "mean", "prod")
def total(node: Node) -> Any:
    """A sum, mean or product over axes."""
    kind = node.kind
    make = {"sum": R.sum, "mean": R.mean, "prod": R.prod}[kind]
    return _reduced(node, make, node.tensor("self"))


def _reduced(node: Node, make: Any, x: Any) -> Any:
    if node.rank() == 0:
        return x
    return make(x, node.axes(), bool(node.get("keepdim", False)))


@op("amax", "amin", "max.default", "min.default", "max", "min")
def extreme(node: Node) -> Any:
    """The largest or smallest element over axes."""
    kind = node.kind
    return _reduced(node, R.max if kind.endswith("max") else R.min, node.tensor("self"))


@op("max.dim", "min.dim")
def extreme_with_index(node: Node) -> list[Any]:
    """The largest or smallest element of an axis, and where it is."""
    x = node["self"]
    keep, axis = node["keepdim"], node.axis()
    if node.rank() == 0:
        return [x, node.full([], 0, "int64")]
    large = node.kind == "max"
    value = (R.max if large else R.min)(x, [axis], keep)
    if not node.reads(1):
        return [value, None]
    return [value, (R.argmax if large else R.argmin)(x, axis, keep)]


@op("argmax", "argmin")
def place(node: Node) -> Any:
    """Where the largest or smallest element is."""
    make = R.argmax if node.kind == "argmax" else R.argmin
    x = node["self"]
    if "dim" in node and node.rank():
        return make(x, node.axis(), node["keepdim"])
    flat = node.reshape(x, [sizes.product(node.shape_of("self"))])
    return node.reshape(node.emit(make(flat, 0)), node.shape)


@op("any", "all")
def logical(node: Node) -> Any:
    """Whether any or all elements over axes are set."""
    make = R.max if node.kind == "any" else R.min
    bits = node.cast(node.cast(node["self"], "bool"), "int8")
    return node.cast(node.emit(_reduced(node, make, bits)), node.dtype)


def variance(
    node: Node, x: Any, axes: list[int], lengths: list[Any], correction: Any, *, keep: bool
) -> Any:
    """Mean of squared distances from the mean, in two passes; with `count - correction` below."""
    dtype = dtype_of(x)
    mean = node.emit(R.mean(x, axes, True))
    away = node.emit(R.subtract(x, mean))
    squares = node.emit(R.sum(R.multiply(away, away), axes, keep))
    count = sizes.product(lengths) - correction
    return R.divide(squares, node.scalar(count, dtype))


@op("var.correction", "std.correction")
def spread(node: Node) -> Any:
    """Variance or standard deviation over axes."""
    correction = node.get("correction", 1)
    axes = node.axes()
    lengths = [node.shape_of("self")[axis] for axis in axes]
    found = variance(node, node["self"], axes, lengths, correction, keep=node["keepdim"])
    return R.sqrt(found) if node.kind == "std" else found


@op("var_mean.correction")
def variance_and_mean(node: Node) -> list[Any]:
    """Variance and mean over axes."""
    correction = node.get("correction", 1)
    x, axes, keep = node["self"], node.axes(), node["keepdim"]
    lengths = [node.shape_of("self")[axis] for axis in axes]
    return [variance(node, x, axes, lengths, correction, keep=keep), R.mean(x, axes, keep)]


def log_sum_exp(node: Node, x: Any, axes: list[int], *, keep: bool) -> Any:
    """log(sum(exp(x))), without overflow; -inf where all of x is."""
    top = node.emit(R.max(x, axes, True))
    finite = node.emit(R.where(R.isinf(top), node.scalar(0, dtype_of(x)), top))
    inner = R.log(R.sum(R.exp(R.subtract(x, finite)), axes, True))
    found = node.emit(R.add(inner, finite))
    return found if keep else R.squeeze(found, axes)


@op("logsumexp")
def logsumexp(node: Node) -> Any:
    """log(sum(exp(x))) over axes."""
    return log_sum_exp(node, node.tensor("self"), node.axes(), keep=node["keepdim"])


@op("cumsum", "cumprod")
def running(node: Node) -> Any:
    """Running sums or products along an axis."""
    make = R.cumsum if node.kind == "cumsum" else R.cumprod
    x = node.tensor("self")
    return make(x, node.axis()) if node.rank() else x
