"""Sums, quotients with their roundings and rests, and powers."""

from __future__ import annotations

from functools import reduce
from typing import Any

from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R, is_float


@op("add", "sub", "rsub")
def add(node: Node) -> Any:
    """self +- alpha * other."""
    x, y = node.tensor("self"), node.tensor("other")
    kind = node.kind
    alpha = node.get("alpha", 1)
    if alpha != 1:
        if kind == "rsub":
            x = node.emit(R.multiply(x, node.scalar(alpha, node.dtype)))
        else:
            y = node.emit(R.multiply(y, node.scalar(alpha, node.dtype)))
    if kind == "add":
        return R.logical_or(x, y) if node.dtype == "bool" else R.add(x, y)
    return R.subtract(x, y) if kind == "sub" else R.subtract(y, x)


@op("div", "true_divide")
def divide(node: Node) -> Any:
    """A quotient; with a mode, rounded."""
    x, y = node.tensor("self"), node.tensor("other")
    mode = node.get("rounding_mode")
    if mode is None:
        return R.divide(x, y)
    if mode == "floor":
        return _floor_divide(node, x, y)
    quotient = R.divide(x, y)  # of integers: towards zero already
    return R.trunc(quotient) if is_float(node.dtype) else quotient


def _floor_divide(node: Node, x: Any, y: Any) -> Any:
    if is_float(node.dtype):
        # As Python: from the remainder, for the quotient may be rounded up to the next integer.
        rest = _float_remainder(node, x, y)
        return R.round(R.divide(R.subtract(x, rest), y))
    return R.floor_divide(x, y)


@op("floor_divide")
def floor_divide(node: Node) -> Any:
    """A quotient, rounded down."""
    return _floor_divide(node, node.tensor("self"), node.tensor("other"))


def _float_remainder(node: Node, x: Any, y: Any) -> Any:
    rest = node.emit(R.subtract(x, R.multiply(y, R.trunc(R.divide(x, y)))))
    opposite = R.less(R.multiply(rest, y), node.scalar(0, node.dtype))
    return node.emit(R.where(opposite, R.add(rest, y), rest))


@op("remainder")
def remainder(node: Node) -> Any:
    """The rest of a division, with the sign of the divisor."""
    x, y = node.tensor("self"), node.tensor("other")
    return _float_remainder(node, x, y) if is_float(node.dtype) else R.floor_mod(x, y)


@op("fmod")
def fmod(node: Node) -> Any:
    """The rest of a division, with the sign of the dividend."""
    x, y = node.tensor("self"), node.tensor("other")
    quotient = R.divide(x, y)
    quotient = R.trunc(quotient) if is_float(node.dtype) else quotient
    return R.subtract(x, R.multiply(y, quotient))


@op("pow")
def power(node: Node) -> Any:
    """A power; small whole exponents are products: `pow` is a slow call per element."""
    exponent = node["exponent"]
    x = node.tensor("self")
    if exponent in {1, 2, 3}:
        return reduce(R.multiply, [x] * int(exponent))
    if exponent == 0.5 and is_float(node.dtype):
        return R.sqrt(x)
    if exponent == -0.5 and is_float(node.dtype):
        return R.rsqrt(x)
    if exponent == -1 and is_float(node.dtype):
        return R.divide(node.scalar(1, node.dtype), x)
    if is_float(node.dtype):
        return R.power(x, node.cast(exponent, node.dtype))
    wide = R.power(node.cast(x, "float64"), node.cast(exponent, "float64"))
    return node.cast(node.emit(wide), node.dtype)


@op("reciprocal")
def reciprocal(node: Node) -> Any:
    """1 / x."""
    return R.divide(node.scalar(1, node.dtype), node.tensor("self"))
