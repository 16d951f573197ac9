"""Elementwise arithmetic, comparison, logic and casts.

Relax gives both operands of an operator one dtype; `lax` functions are used where `jnp` would
promote (`jnp.divide` of integers is a float, `jnp.sum` of int32 is int64).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax, nn

from nexus_compiler.codegen.xla.registry import Handler, Node, operator, table


def _unary(function: Callable[[Any], Any]) -> Handler:
    return lambda node: function(node[0])


def _binary(function: Callable[[Any, Any], Any]) -> Handler:
    def handle(node: Node) -> Any:
        # A scalar operand (R.prim_value) has no tensor dtype of its own; it takes the other's.
        dtype = next(value.dtype for value in node.inputs if hasattr(value, "dtype"))
        left, right = node.array(0, dtype), node.array(1, dtype)
        if left.dtype != right.dtype:
            raise node.refuse(f"operands of {left.dtype} and {right.dtype}")
        return function(*jnp.broadcast_arrays(left, right))

    return handle


def _is_integer(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.integer))


def _round(x: Any) -> Any:
    return x if _is_integer(x) else lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def _floor_divide(x: Any, y: Any) -> Any:
    return jnp.floor_divide(x, y) if _is_integer(x) else lax.floor(lax.div(x, y))


def _floor_mod(x: Any, y: Any) -> Any:
    return jnp.mod(x, y) if _is_integer(x) else x - lax.floor(lax.div(x, y)) * y


def _right_shift(x: Any, y: Any) -> Any:
    unsigned = jnp.issubdtype(x.dtype, jnp.unsignedinteger)
    return lax.shift_right_logical(x, y) if unsigned else lax.shift_right_arithmetic(x, y)


table(
    {
        "abs": jnp.abs,
        "acos": lax.acos,
        "acosh": lax.acosh,
        "asin": lax.asin,
        "asinh": lax.asinh,
        "atan": lax.atan,
        "atanh": lax.atanh,
        "bitwise_not": lax.bitwise_not,
        "ceil": lambda x: x if _is_integer(x) else lax.ceil(x),
        "cos": lax.cos,
        "cosh": lax.cosh,
        "erf": lax.erf,
        "exp": lax.exp,
        "floor": lambda x: x if _is_integer(x) else lax.floor(x),
        "isfinite": jnp.isfinite,
        "isinf": jnp.isinf,
        "isnan": jnp.isnan,
        "log": lax.log,
        "logical_not": jnp.logical_not,
        "negative": lax.neg,
        "round": _round,
        "rsqrt": lax.rsqrt,
        "sigmoid": nn.sigmoid,
        "sign": jnp.sign,
        "sin": lax.sin,
        "sinh": lax.sinh,
        "sqrt": lax.sqrt,
        "square": lax.square,
        "tan": lax.tan,
        "tanh": lax.tanh,
        "trunc": jnp.trunc,
    },
    _unary,
)
table(
    {
        "add": lax.add,
        "atan2": lax.atan2,
        "bitwise_and": lax.bitwise_and,
        "bitwise_or": lax.bitwise_or,
        "bitwise_xor": lax.bitwise_xor,
        "divide": lax.div,
        "equal": lax.eq,
        "floor_divide": _floor_divide,
        "floor_mod": _floor_mod,
        "greater": lax.gt,
        "greater_equal": lax.ge,
        "left_shift": lax.shift_left,
        "less": lax.lt,
        "less_equal": lax.le,
        "log_add_exp": jnp.logaddexp,
        "logical_and": jnp.logical_and,
        "logical_or": jnp.logical_or,
        "logical_xor": jnp.logical_xor,
        "maximum": lax.max,
        "minimum": lax.min,
        "mod": lax.rem,
        "multiply": lax.mul,
        "not_equal": lax.ne,
        "power": jnp.power,
        "right_shift": _right_shift,
        "subtract": lax.sub,
    },
    _binary,
)


@operator("ewise_fma")
def fused_multiply_add(node: Node) -> Any:
    """`x1 * x2 + x3`; XLA decides whether it is fused."""
    return jnp.multiply(node[0], node[1]) + node[2]


@operator("where")
def where(node: Node) -> Any:
    """Select by a bool condition; all three broadcast against each other."""
    return jnp.where(node[0], node.array(1, node.dtype), node.array(2, node.dtype))


@operator("clip")
def clip(node: Node) -> Any:
    """Limit to scalar bounds, which are brought to the dtype of the tensor."""
    x = node[0]
    return lax.min(lax.max(x, jnp.full_like(x, node[1])), jnp.full_like(x, node[2]))


@operator("astype", "wrap_param")
def astype(node: Node) -> Any:
    """Cast; to bool it is a test against zero."""
    return lax.convert_element_type(node.array(0, node.dtype), node.dtype)


@operator(
    "grad.no_grad",
    "grad.start_checkpoint",
    "grad.end_checkpoint",
    "builtin.stop_lift_params",
    "hint_on_device",
)
def identity(node: Node) -> Any:
    """Marks for TVM's own passes; there is nothing left to do for them here."""
    return node[0]
