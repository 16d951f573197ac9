"""Operators that work element by element: arithmetic, comparison, logic, bits, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import narrow
from nexus_compiler.frontend.onnx.broadcast import align
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import (
    Host,
    R,
    Value,
    element_type,
    host,
    is_float,
    numpy_dtype,
)
from nexus_runtime.tensors import BITS

UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Abs": R.abs,
    "Acos": R.acos,
    "Acosh": R.acosh,
    "Asin": R.asin,
    "Asinh": R.asinh,
    "Atan": R.atan,
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
    # Bound one by one: TVM walks nested expressions on the stack, which thousands overflow.
    total = reduce(lambda a, b: node.emit(VARIADIC[node.kind](a, b)), tensors)
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
    fmod = node.attr("fmod")
    if is_float(node.dtype(x)):
        return _float_modulo(node, x, y, bool(fmod))
    if not fmod:
        return R.floor_mod(x, y)
    return R.subtract(x, R.multiply(y, R.divide(x, y)))


def _float_modulo(node: Node, x: relax.Expr, y: relax.Expr, fmod: bool) -> relax.Expr:
    """In float64: in the type itself the quotient of far apart numbers has no whole part."""
    dtype = node.dtype(x)
    x, y = (node.emit(R.astype(tensor, "float64")) for tensor in (x, y))
    rest = R.subtract(x, R.multiply(y, R.trunc(R.divide(x, y))))
    far = R.logical_and(R.isinf(y), R.isfinite(x))  # 0 * infinity would be no number
    rest = node.emit(R.where(far, x, rest))
    zero = node.scalar(0, "float64")
    if not fmod:
        opposite = R.less(R.multiply(R.sign(rest), R.sign(y)), zero)
        rest = node.emit(R.where(opposite, R.add(rest, y), rest))
    return R.astype(rest, dtype)


@op("BitShift")
def bit_shift(node: Node) -> Value:
    """Shifts; backwards or by the whole width, which LLVM leaves undefined, all bits go out."""
    x, y = align(node, node.tensors())
    dtype = node.dtype(x)
    shift = R.left_shift if node.attr("direction") == "LEFT" else R.right_shift
    bits = np.dtype(dtype).itemsize * 8
    zero, last = node.scalar(0, dtype), node.scalar(bits - 1, dtype)
    inside = R.logical_and(R.less_equal(y, last), R.greater_equal(y, zero))
    if node.attr("direction") == "RIGHT" and dtype.startswith("int"):
        return shift(x, R.where(inside, y, last))  # all that is left is the sign
    inside = node.emit(inside)
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
    source = node.value(0)
    if node.kind == "Cast":
        dtype = element_type(node.attr("to"), str(node))
    else:
        dtype = node.dtype(1)
    saturate, mode = bool(node.attr("saturate", 1)), node.attr("round_mode", "up")
    if dtype == node.dtype(0):
        return source
    if isinstance(source, Host) and not (source.symbolic or source.weight or dtype in BITS):
        return host(source.array.astype(numpy_dtype(dtype)))  # CastLike of a constant
    own = node.dtype(0)
    x = narrow.decode(node, node.bits(0), own) if own in BITS else node.tensor(0)
    if dtype in BITS:
        bits = narrow.encode(node, x, dtype, saturate=saturate, round_mode=mode)
        return node.importer.labelled(bits, dtype)
    if node.dtype(x) == dtype:
        return x
    if dtype == "bool":  # TVM's own cast of 0.5 to bool is false
        return R.not_equal(x, node.scalar(0, node.dtype(x)))
    return R.astype(x, dtype)
