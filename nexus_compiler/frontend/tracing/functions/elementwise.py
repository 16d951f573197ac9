"""Elementwise functions: which dtypes they take, and what they make of them."""

from __future__ import annotations

from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions.operands import (
    Operand,
    binary,
    check,
    convert,
    fitting,
    operands,
    unary,
)
from nexus_compiler.frontend.tracing.recording import array_of, node_of, record

acos = unary("acos", "real floating")
acosh = unary("acosh", "real floating")
asin = unary("asin", "real floating")
asinh = unary("asinh", "real floating")
atan = unary("atan", "real floating")
atanh = unary("atanh", "real floating")
cos = unary("cos", "real floating")
cosh = unary("cosh", "real floating")
exp = unary("exp", "real floating")
expm1 = unary("expm1", "real floating")
log = unary("log", "real floating")
log1p = unary("log1p", "real floating")
log2 = unary("log2", "real floating")
log10 = unary("log10", "real floating")
reciprocal = unary("reciprocal", "real floating")
sin = unary("sin", "real floating")
sinh = unary("sinh", "real floating")
sqrt = unary("sqrt", "real floating")
tan = unary("tan", "real floating")
tanh = unary("tanh", "real floating")
abs = unary("abs", "numeric")
negative = unary("negative", "numeric")
positive = unary("positive", "numeric")
sign = unary("sign", "numeric")
square = unary("square", "numeric")
ceil = unary("ceil", "numeric")
floor = unary("floor", "numeric")
round = unary("round", "numeric")
trunc = unary("trunc", "numeric")
logical_not = unary("logical_not", "bool")
bitwise_invert = unary("bitwise_invert", "bool", "integral")
isfinite = unary("isfinite", "numeric", test=True)
isinf = unary("isinf", "numeric", test=True)
isnan = unary("isnan", "numeric", test=True)
signbit = unary("signbit", "real floating", test=True)
add = binary("add", "numeric")
subtract = binary("subtract", "numeric")
multiply = binary("multiply", "numeric")
floor_divide = binary("floor_divide", "numeric")
remainder = binary("remainder", "numeric")
_power = binary("pow", "numeric")
maximum = binary("maximum", "numeric")
minimum = binary("minimum", "numeric")
divide = binary("divide", "real floating")
atan2 = binary("atan2", "real floating")
copysign = binary("copysign", "real floating")
hypot = binary("hypot", "real floating")
logaddexp = binary("logaddexp", "real floating")
bitwise_and = binary("bitwise_and", "bool", "integral")
bitwise_or = binary("bitwise_or", "bool", "integral")
bitwise_xor = binary("bitwise_xor", "bool", "integral")
bitwise_left_shift = binary("bitwise_left_shift", "integral")
bitwise_right_shift = binary("bitwise_right_shift", "integral")
logical_and = binary("logical_and", "bool")
logical_or = binary("logical_or", "bool")
logical_xor = binary("logical_xor", "bool")
less = binary("less", "numeric", test=True)
less_equal = binary("less_equal", "numeric", test=True)
greater = binary("greater", "numeric", test=True)
greater_equal = binary("greater_equal", "numeric", test=True)
equal = binary("equal", "bool", "numeric", test=True)
not_equal = binary("not_equal", "bool", "numeric", test=True)


def pow(x1: Operand, x2: Operand, /) -> Array:
    """`x1` to the power `x2`; small integer exponents become products."""
    if isinstance(x1, Array) and isinstance(x2, int | float) and x2 in (1, 2, 3, 4):
        operands("pow", x1, x2)
        if x2 == 1:
            return positive(x1)
        square = multiply(x1, x1)
        return square if x2 == 2 else multiply(square, x1 if x2 == 3 else square)
    return _power(x1, x2)


def where(condition: Array, x1: Operand, x2: Operand, /) -> Array:
    """`x1` where the condition holds, else `x2`."""
    test = node_of(condition, what="the condition of where")
    check("where", test.dtype, ("bool",))
    left, right = operands("where", x1, x2)
    shape = fitting("where", test.shape, left.shape, right.shape)
    return record("where", (test, left, right), shape, left.dtype)


def clip(x: Array, /, min: Operand | None = None, max: Operand | None = None) -> Array:
    """`x`, but at least `min` and at most `max`; of the dtype of `x`."""
    node = node_of(x)
    check("clip", node.dtype, ("numeric",))
    found = x
    for bound, function in ((min, maximum), (max, minimum)):
        if isinstance(bound, Array):
            found = function(found, array_of(convert(node_of(bound), node.dtype)))
        elif bound is not None:
            found = function(found, bound)
    return positive(found)


def real(x: Array, /) -> Array:
    """The real part: the array itself, as complex dtypes are missing."""
    return positive(x)


def imag(x: Array, /) -> Array:
    """Refused: complex dtypes are missing."""
    raise TypeError(f"imag takes complex dtypes, not {x.dtype}")


conj = unary("positive", "numeric")
