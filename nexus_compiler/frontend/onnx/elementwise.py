"""Operators that work element by element: arithmetic, comparison, logic, bits, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.broadcast import align
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Host, R, Value, element_type, is_float

UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Abs": R.abs,
    "Acos": R.acos,
    "Acosh": R.acosh,
    "Asin": R.asin,
    "Asinh": R.asinh,
    "Atan": R.atan,
    "Atanh": R.atanh,
    "BitwiseNot": R.bitwise_not,
    "Ceil": R.ceil,
    "Cos": R.cos,
    "Cosh": R.cosh,
    "Erf": R.erf,
    "Exp": R.exp,
    "Floor": R.floor,
    "IsNaN": R.isnan,
    "Log": R.log,
    "Neg": R.negative,
    "Not": R.logical_not,
    "Round": R.round,
    "Sigmoid": R.sigmoid,
    "Sign": R.sign,
    "Sin": R.sin,
    "Sinh": R.sinh,
    "Sqrt": R.sqrt,
    "Tan": R.tan,
    "Tanh": R.tanh,
}

BINARY: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Add": R.add,
    "And": R.logical_and,
    "BitwiseAnd": R.bitwise_and,
    "BitwiseOr": R.bitwise_or,
    "BitwiseXor": R.bitwise_xor,
    "Div": R.divide,
    "Equal": R.equal,
    "Greater": R.greater,
    "GreaterOrEqual": R.greater_equal,
    "Less": R.less,
    "LessOrEqual": R.less_equal,
    "Mul": R.multiply,
    "Or": R.logical_or,
    "Sub": R.subtract,
    "Xor": R.logical_xor,
}

VARIADIC: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Max": R.maximum,
    "Mean": R.add,
    "Min": R.minimum,
    "Sum": R.add,
}


def _unary(make: Callable[[relax.Expr], relax.Expr], node: Node) -> Value:
    return make(node.tensor(0))


def _binary(make: Callable[[relax.Expr, relax.Expr], relax.Expr], node: Node) -> Value:
    left, right = align(node, _operands(node))
    return make(left, right)


def _operands(node: Node) -> list[relax.Expr]:
    """The inputs; before opset 7 a second input may be told where to broadcast."""
    tensors = node.tensors()
    if node.opset >= 7 or node.domain or len(tensors) != 2:
        return tensors
    legacy, axis = node.attr("broadcast", 0), node.attr("axis")
    if legacy and axis is not None:
        trailing = node.rank(tensors[0]) - node.axis(node.rank(tensors[0]), axis)
        missing = trailing - node.rank(tensors[1])
        if missing > 0:
            last = node.rank(tensors[1])
            axes = list(range(last, last + missing))
            tensors[1] = node.emit(R.expand_dims(tensors[1], axes))
    return tensors


for _name, _make in UNARY.items():
    op(_name)(partial(_unary, _make))
for _name, _pair in BINARY.items():
    op(_name)(partial(_binary, _pair))


@op(*VARIADIC)
def variadic(node: Node) -> Value:
    """Max, Min, Sum and Mean of any number of tensors."""
    tensors = align(node, node.tensors())
    total = reduce(VARIADIC[node.kind], tensors)
    if node.kind != "Mean" or len(tensors) == 1:
        return total
    return R.divide(total, node.scalar(len(tensors), node.dtype(tensors[0])))


@op("Reciprocal")
def reciprocal(node: Node) -> Value:
    """1 / x."""
    x = node.tensor(0)
    return R.divide(node.scalar(1, node.dtype(x)), x)


@op("Pow")
def power(node: Node) -> Value:
    """x ** y, of x's type. A square is a product: `pow` is a slow call per element."""
    exponent = node.value(1)
    x = node.tensor(0)
    dtype = node.dtype(x)
    if isinstance(exponent, Host) and not exponent.symbolic and exponent.array.ndim == 0:
        node.value(1)
        number = float(exponent.array)
        if number in {1.0, 2.0, 3.0}:
            return reduce(R.multiply, [x] * int(number))
        if number == 0.5 and is_float(dtype):
            return R.sqrt(x)
    x, y = align(node, [x, node.tensor(1)])
    if is_float(dtype):
        return R.power(x, R.astype(y, dtype) if node.dtype(y) != dtype else y)
    wide = [R.astype(t, "float64") for t in (x, y)]
    return R.astype(R.power(*wide), dtype)


@op("Mod")
def modulo(node: Node) -> Value:
    """The rest of a division: with `fmod` it has the sign of x, else the sign of y."""
    x, y = align(node, node.tensors())
    if not node.attr("fmod"):
        return R.floor_mod(x, y)
    if is_float(node.dtype(x)):
        return R.subtract(x, R.multiply(y, R.trunc(R.divide(x, y))))
    return R.subtract(x, R.multiply(y, R.divide(x, y)))


@op("BitShift")
def bit_shift(node: Node) -> Value:
    """Shifts; as far as the type is wide, which LLVM leaves undefined, gives 0."""
    x, y = align(node, node.tensors())
    dtype = node.dtype(x)
    shift = R.left_shift if node.attr("direction") == "LEFT" else R.right_shift
    width = node.scalar(np.dtype(dtype).itemsize * 8, dtype)
    zero = node.scalar(0, dtype)
    inside = node.emit(R.less(y, width))
    return R.where(inside, shift(x, R.where(inside, y, zero)), zero)


@op("IsInf")
def is_inf(node: Node) -> Value:
    """Whether x is infinite, on the sides asked for."""
    x = node.tensor(0)
    zero = node.scalar(0, node.dtype(x))
    result = node.emit(R.isinf(x))
    if not node.attr("detect_negative"):
        result = node.emit(R.logical_and(result, R.greater(x, zero)))
    if not node.attr("detect_positive"):
        result = node.emit(R.logical_and(result, R.less(x, zero)))
    return result


@op("Where")
def where(node: Node) -> Value:
    """Chooses between two tensors, element by element."""
    condition, x, y = align(node, node.tensors())
    return R.where(condition, x, y)


@op("Clip")
def clip(node: Node) -> Value:
    """Limits x to [min, max]; the limits are attributes before opset 11, then inputs."""
    x = node.tensor(0)
    if node.opset < 11:
        limits = node.attr("min"), node.attr("max")
        dtype = node.dtype(x)
        low, high = (None if v is None else node.scalar(v, dtype) for v in limits)
    else:
        low, high = (node.tensor(i) if node.has(i) else None for i in (1, 2))
    if low is not None:
        x = node.emit(R.maximum(x, low))
    return x if high is None else R.minimum(x, high)


@op("Cast", "CastLike")
def cast(node: Node) -> Value:
    """Converts the element type."""
    x = node.tensor(0)
    if node.kind == "Cast":
        dtype = element_type(node.attr("to"), str(node))
    else:
        dtype = node.dtype(1)
    node.ignore("saturate", "round_mode")  # they concern float8 only, which `element_type` refuses
    if dtype == node.dtype(x):
        return x
    if dtype == "bool":  # TVM's own cast of 0.5 to bool is false
        return R.not_equal(x, node.scalar(0, node.dtype(x)))
    return R.astype(x, dtype)
