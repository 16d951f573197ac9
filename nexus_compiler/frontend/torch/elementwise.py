"""Operators that work element by element: arithmetic, comparison, logic, bits, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from tvm import relax

from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R, dtype_name, is_float

UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": R.abs,
    "acos": R.acos,
    "acosh": R.acosh,
    "asin": R.asin,
    "asinh": R.asinh,
    "atan": R.atan,
    "atanh": R.atanh,
    "bitwise_not": R.bitwise_not,
    "ceil": R.ceil,
    "cos": R.cos,
    "cosh": R.cosh,
    "erf": R.erf,
    "exp": R.exp,
    "floor": R.floor,
    "log": R.log,
    "neg": R.negative,
    "round": R.round,
    "rsqrt": R.rsqrt,
    "sigmoid": R.sigmoid,
    "sign": R.sign,
    "sin": R.sin,
    "sinh": R.sinh,
    "sqrt": R.sqrt,
    "tan": R.tan,
    "tanh": R.tanh,
    "trunc": R.trunc,
}
_WHOLE = {"ceil", "floor", "round", "trunc"}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "atan2": R.atan2,
    "bitwise_and": R.bitwise_and,
    "bitwise_left_shift": R.left_shift,
    "bitwise_or": R.bitwise_or,
    "bitwise_right_shift": R.right_shift,
    "bitwise_xor": R.bitwise_xor,
    "__lshift__": R.left_shift,
    "__rshift__": R.right_shift,
    "fmax": R.maximum,
    "fmin": R.minimum,
    "maximum": R.maximum,
    "minimum": R.minimum,
    "mul": R.multiply,
}

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": R.equal,
    "ge": R.greater_equal,
    "gt": R.greater,
    "le": R.less_equal,
    "lt": R.less,
    "ne": R.not_equal,
}

LOGICAL: dict[str, Callable[[Any, Any], Any]] = {
    "logical_and": R.logical_and,
    "logical_or": R.logical_or,
    "logical_xor": R.logical_xor,
}


def _unary(name: str, make: Callable[[Any], Any], node: Node) -> Any:
    x = node.tensor("self")
    if name == "bitwise_not" and node.dtype == "bool":
        return R.logical_not(x)
    if name in _WHOLE and not is_float(node.dtype):
        return x
    return make(x)


def _binary(name: str, make: Callable[[Any, Any], Any], node: Node) -> Any:
    if node.dtype == "bool":
        name = {"mul": "bitwise_and", "maximum": "bitwise_or", "minimum": "bitwise_and"}.get(
            name, name
        )
        make = LOGICAL["logical_" + name.removeprefix("bitwise_")]
    return make(node.tensor("self"), node.tensor("other"))


def common(node: Node, *names: str) -> list[relax.Expr]:
    """Arguments as tensors of the dtype that PyTorch would compute in."""
    metas = [node.meta(name) for name in names]
    kind = metas[0].dtype if isinstance(metas[0], torch.Tensor) else torch.result_type(*metas[:2])
    if len(metas) > 1:
        kind = torch.result_type(metas[0], metas[1])
    return [node.cast(node[name], dtype_name(kind)) for name in names]


def _compare(make: Callable[[Any, Any], Any], node: Node) -> Any:
    return make(*common(node, "self", "other"))


def _logical(make: Callable[[Any, Any], Any], node: Node) -> Any:
    return make(node.cast(node["self"], "bool"), node.cast(node["other"], "bool"))


for _name, _make in UNARY.items():
    op(_name)(partial(_unary, _name, _make))
for _name, _pair in BINARY.items():
    op(_name)(partial(_binary, _name, _pair))
for _name, _pair in COMPARE.items():
    op(_name)(partial(_compare, _pair))
for _name, _pair in LOGICAL.items():
    op(_name)(partial(_logical, _pair))


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


@op("where.self")
def where(node: Node) -> Any:
    """Chooses between two tensors, element by element."""
    condition = node.cast(node["condition"], "bool")
    return R.where(condition, node.tensor("self"), node.tensor("other"))


@op("masked_fill")
def masked_fill(node: Node) -> Any:
    """A value where a mask is set."""
    return R.where(node.cast(node["mask"], "bool"), node.tensor("value"), node.tensor("self"))


@op("clamp", "clamp_min", "clamp_max", "hardtanh")
def clamp(node: Node) -> Any:
    """Limits to an interval."""
    x = node.tensor("self")
    for name, make in (("min", R.maximum), ("min_val", R.maximum), ("max", R.minimum)):
        if name in node:
            x = make(x, node.tensor(name))
    return R.minimum(x, node.tensor("max_val")) if "max_val" in node else x


@op("logical_not")
def logical_not(node: Node) -> Any:
    """Not."""
    return R.logical_not(node.cast(node["self"], "bool"))


@op("isnan", "isinf", "isfinite")
def is_special(node: Node) -> Any:
    """Whether elements are no numbers, infinite, or finite."""
    x = node["self"]
    kind = node.kind
    if not is_float(dtype_of(x)):
        return node.full(node.shape, kind == "isfinite", "bool")
    return {"isnan": R.isnan, "isinf": R.isinf, "isfinite": R.isfinite}[kind](x)


@op("reciprocal")
def reciprocal(node: Node) -> Any:
    """1 / x."""
    return R.divide(node.scalar(1, node.dtype), node.tensor("self"))


@op("exp2", "log2", "log10")
def other_bases(node: Node) -> Any:
    """Powers of and logarithms to other bases than e."""
    x = node.tensor("self")
    kind = node.kind
    if kind == "exp2":
        return R.power(node.scalar(2, node.dtype), x)
    base = node.scalar(math.log(2 if kind == "log2" else 10), node.dtype)
    return R.divide(R.log(x), base)


@op("log1p")
def log1p(node: Node) -> Any:
    """log(1 + x), exact for small x too: the error of 1 + x cancels (W. Kahan)."""
    x = node.tensor("self")
    one = node.scalar(1, node.dtype)
    above = node.emit(R.add(x, one))
    rounded = node.emit(R.subtract(above, one))
    same = R.equal(rounded, node.scalar(0, node.dtype))
    exact = node.emit(R.multiply(R.log(above), R.divide(x, rounded)))
    return R.where(same, x, R.where(R.isinf(above), above, exact))


@op("expm1")
def expm1(node: Node) -> Any:
    """exp(x) - 1, exact for small x too: the error of exp(x) cancels (W. Kahan)."""
    x = node.tensor("self")
    one = node.scalar(1, node.dtype)
    power_ = node.emit(R.exp(x))
    less = node.emit(R.subtract(power_, one))
    near = R.multiply(less, R.divide(x, R.log(power_)))
    small = R.less(R.abs(x), node.scalar(0.5, node.dtype))
    exact = R.where(R.equal(less, node.scalar(0, node.dtype)), x, near)
    return R.where(small, exact, less)


@op("erfc")
def erfc(node: Node) -> Any:
    """1 - erf(x)."""
    return R.subtract(node.scalar(1, node.dtype), R.erf(node.tensor("self")))


@op("signbit")
def signbit(node: Node) -> Any:
    """Whether elements are below zero."""
    x = node["self"]
    return R.less(x, node.scalar(0, dtype_of(x)))


@op(
    "_to_copy",
    "alias",
    "clone",
    "detach",
    "lift_fresh_copy",
    "prims::convert_element_type",
    "to.dtype",
    "lift_fresh",
    "contiguous",
    "prims::device_put",
    "prims::clone",
)
def copy(node: Node) -> Any:
    """The same elements, perhaps of another dtype."""
    names = ("self", "a")
    return node.cast(next(node[name] for name in names if name in node), node.dtype)


@op("copy")
def copy_from(node: Node) -> Any:
    """Another tensor's elements in the shape and dtype of this one."""
    return node.broadcast(node.tensor("src"), node.shape)


@op("bitwise_and.Scalar_Tensor", "pow.Scalar")
def scalar_first(node: Node) -> Any:
    """A number on the left."""
    if "exponent" in node:
        return R.power(node.cast(node["self"], node.dtype), node.tensor("exponent"))
    return R.bitwise_and(node.tensor("self"), node.tensor("other"))


@op("nan_to_num")
def nan_to_num(node: Node) -> Any:
    """Numbers for what is none."""
    x, dtype = node.tensor("self"), node.dtype
    if not is_float(dtype):
        return x
    limits = np.finfo(np.float32 if dtype in {"float32", "bfloat16"} else dtype)
    high = node["posinf"] if "posinf" in node else float(limits.max)
    low = node["neginf"] if "neginf" in node else float(limits.min)
    zero = node.scalar(0, dtype)
    infinite = R.where(R.greater(x, zero), node.scalar(high, dtype), node.scalar(low, dtype))
    nan = node.scalar(node.get("nan", 0.0), dtype)
    return R.where(R.isnan(x), nan, R.where(R.isinf(x), infinite, x))
