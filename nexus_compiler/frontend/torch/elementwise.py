"""Operators that work element by element: functions, comparison, logic, bits, choice, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

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
