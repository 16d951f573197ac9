"""Elementary functions as arithmetic that LLVM can put into vectors.

A call of `expf` is taken apart into one call a lane. These are sums and products only: no branch,
no table, and no conversion of a float to an integer, whose result is undefined for NaN. The
polynomials are minimax approximations of Cephes (S. L. Moshier, `expf`, `logf`, `atanf`, `sinhf`),
of Eigen (`generic_fast_tanh_float`) and of XLA (`erf`); all keep NaN, infinities and the sign of
zero. Measured over random bits: exp and log within 1 unit in the last place, tanh and erf within 6,
atan within 3, sinh and cosh within 4, sigmoid within 3 where it is at least 2^-126, below which it
may be 0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import Call

from nexus_compiler.codegen.llvm.schedules.kernel import operator, variables

_F32, _I32 = "float32", "int32"
_INFINITY = float("inf")
# Added to a float of magnitude below 2^22 it rounds it to an integer, which stands in its low bits.
_ROUND = 12582912.0
# TVM's simplifier puts in the value of every name: its time grows by powers of how many functions
# stand in each other (two: 0.1 to 1 s; three: minutes). A logarithm counts for two.
_DEEPEST = 2


def expand(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with the calls that this file knows replaced, for float32 and, in it, float16.

    Kernels that touch bfloat16 stay: TVM does not lower a cast to it inside of a `Let`.
    """
    if _touches_bfloat16(function):
        return function

    def rewrite(store: tirx.BufferStore) -> Any:
        if _depth(store.value) > _DEEPEST:
            return store
        scope = _Scope()
        value = tvm_ffi.structural_map(store.value, (Call, scope.replace))
        if value.same_as(store.value):
            return store
        return tirx.BufferStore(store.buffer, scope.closed(value), store.indices)

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, rewrite))
    return function if body.same_as(function.body) else function.with_body(body)


def _depth(value: Any) -> int:
    """How many of the calls that this file knows stand in each other."""
    deepest: dict[Any, int] = {}

    def visit(call: Call) -> None:
        below: list[int] = [0]
        for argument in call.args:
            tvm_ffi.structural_walk(argument, (Call, lambda inner: below.append(deepest[inner])))
        name = operator(call)
        deepest[call] = max(below) + (name in _FUNCTIONS) + (name == "log")

    tvm_ffi.structural_walk(value, (Call, visit), order="post")
    return max(deepest.values(), default=0)


Let = Callable[..., Any]
"""Names a value: it is computed once, however often the name is used."""


class _Scope:
    """The named values of one store.

    They stand one behind the other, never within each other's value, which TVM's simplifier visits
    several times.
    """

    def __init__(self) -> None:
        self._named: list[tuple[tirx.Var, Any]] = []

    def replace(self, call: Call) -> Any:
        """What stands for `call`, whose arguments have been replaced."""
        name = operator(call)
        if name == "if_then_else":
            # What only a branch computes stays in it: it may load from where nothing is.
            condition, *branches = call.args
            return tirx.if_then_else(condition, *map(self.closed, branches))
        make, dtype = _FUNCTIONS.get(name), str(call.ty)
        if make is None or dtype not in {_F32, "float16"}:
            return call
        value = make(self._let, self._let(_as(_F32, call.args[0])))
        return _as(dtype, value)

    def _let(self, value: Any, dtype: str = _F32) -> Any:
        variable = tirx.Var("v", dtype)
        self._named.append((variable, value))
        return variable

    def closed(self, value: Any) -> Any:
        """`value` within the names that it needs, which are forgotten here."""
        needed = variables(value)
        kept: list[tuple[tirx.Var, Any]] = []
        for variable, meaning in reversed(self._named):
            if variable in needed:
                value = tirx.Let(variable, meaning, value)
                needed |= variables(meaning)
            else:
                kept.append((variable, meaning))
        self._named = kept[::-1]
        return value


def _touches_bfloat16(function: tirx.PrimFunc) -> bool:
    found: list[Any] = []

    def visit(cast: tirx.Cast) -> None:
        if "bfloat16" in (str(cast.ty), str(cast.value.ty)):
            found.append(cast)

    tvm_ffi.structural_walk(function.body, (tirx.Cast, visit))
    return bool(found)


def _as(dtype: str, value: Any) -> Any:
    return value if str(value.ty) == dtype else tirx.Cast(dtype, value)


def _f(value: float) -> Any:
    return tirx.const(value, _F32)


def _i(value: int) -> Any:
    return tirx.const(value, _I32)


def _bits(value: Any) -> Any:
    return tirx.reinterpret(_I32, value)


def _float(bits: Any) -> Any:
    return tirx.reinterpret(_F32, bits)


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's scheme, the highest power first."""
    total = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f(coefficient)
    return total


def _clamp(x: Any, low: float, high: float) -> Any:
    """NaN stays NaN: no comparison with it holds."""
    return tirx.Select(x < _f(low), _f(low), tirx.Select(x > _f(high), _f(high), x))


def _power_of_two(exponent: Any) -> Any:
    return _float(tirx.shift_left(exponent + _i(127), _i(23)))


def _exp(let: Let, x: Any) -> Any:
    """exp(x) = 2^n exp(r) with |r| <= log(2) / 2."""
    z = let(_clamp(x, -105.0, 89.0))
    rounded = let(z * _f(1.44269504088896341) + _f(_ROUND))
    n = let(rounded - _f(_ROUND))
    r = let(z - n * _f(0.693359375) + n * _f(2.12194440e-4))
    high = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3]
    series = _polynomial(r, [*high, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1])
    # In two steps, since 2^-140 and 2^128 are no floats of full precision.
    exponent = let(_bits(rounded) - _i(_bits_of(_ROUND)), _I32)
    half = let(tirx.shift_right(exponent, _i(1)), _I32)
    return (series * (r * r) + r + _f(1.0)) * _power_of_two(half) * _power_of_two(exponent - half)


def _bits_of(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def _sigmoid(let: Let, x: Any) -> Any:
    return _f(1.0) / (_f(1.0) + _exp(let, let(_f(0.0) - x)))


def _tanh(let: Let, x: Any) -> Any:
    small = tirx.Select(x < _f(0.0), _f(0.0) - x, x) < _f(0.0004)
    # Not the small ones: their squares have no full precision, which processors take long for.
    z = let(tirx.Select(small, _f(0.0), _clamp(x, -7.99881172, 7.99881172)))
    square = let(z * z)
    high = [-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11]
    middle = [5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04]
    above = _polynomial(square, [*high, *middle, 4.89352455891786e-03])
    high = [1.19825839466702e-06, 1.18534705686654e-04]
    below = _polynomial(square, [*high, 2.26843463243900e-03, 4.89352518554385e-03])
    return tirx.Select(small, x, z * above / below)


def _erf(let: Let, x: Any) -> Any:
    z = let(_clamp(x, -3.832506856900711, 3.832506856900711))
    square = let(z * z)
    high = [0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861]
    above = _polynomial(square, [*high, 0.18520832239976145, 1.128379143519084])
    high = [-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885]
    middle = [0.014070470171167667, 0.11098505178285362, 0.49746925110067538]
    return z * above / _polynomial(square, [*high, *middle, 1.0])


def _log(let: Let, x: Any) -> Any:
    """log(m 2^e) = log(m) + e log(2) with sqrt(1/2) <= m < sqrt(2)."""
    # Numbers below 2^-126 have no exponent of their own.
    tiny = x < _f(1.17549435e-38)
    bits = let(_bits(tirx.Select(tiny, x * _f(8388608.0), x)), _I32)
    mantissa = let(_mantissa(bits))
    low = mantissa < _f(0.70710678118654752)
    exponent = tirx.shift_right(bits, _i(23)) - _i(126) - tirx.Select(tiny, _i(23), _i(0))
    e = let(tirx.Cast(_F32, exponent - tirx.Select(low, _i(1), _i(0))))
    r = let(tirx.Select(low, mantissa + mantissa, mantissa) - _f(1.0))
    square = let(r * r)
    high = [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1]
    middle = [1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1]
    series = _polynomial(r, [*high, *middle, 3.3333331174e-1])
    small = series * square * r + e * _f(-2.12194440e-4) - square * _f(0.5)
    value = r + small + e * _f(0.693359375)
    value = tirx.Select(x == _f(0.0), _f(-_INFINITY), value)
    value = tirx.Select(x < _f(_INFINITY), value, x)
    return tirx.Select(x < _f(0.0), _f(float("nan")), value)


def _magnitude(x: Any) -> Any:
    return _float(tirx.bitwise_and(_bits(x), _i(0x7FFFFFFF)))


def _signed(value: Any, x: Any) -> Any:
    """`value`, which has no sign, with that of `x`."""
    return _float(tirx.bitwise_or(_bits(value), tirx.bitwise_and(_bits(x), _i(-(2**31)))))


def _atan(let: Let, x: Any) -> Any:
    """By atan(a) = pi / 4 + atan((a - 1) / (a + 1)) = pi / 2 - atan(1 / a), with one division."""
    a = let(_magnitude(x))
    large, middle = a > _f(2.414213562373095), a > _f(0.4142135623730950)
    above = tirx.Select(large, _f(-1.0), tirx.Select(middle, a - _f(1.0), a))
    below = tirx.Select(large, a, tirx.Select(middle, a + _f(1.0), _f(1.0)))
    z = let(above / below)
    square = let(z * z)
    high = [8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1]
    turned = tirx.Select(large, _f(math.pi / 2), tirx.Select(middle, _f(math.pi / 4), _f(0.0)))
    return _signed(turned + (_polynomial(square, high) * square * z + z), x)


def _halves(let: Let, a: Any) -> tuple[Any, Any]:
    """exp(a) / 2 and exp(-a) / 2; the former is finite wherever it is a float."""
    root = let(_exp(let, let(a * _f(0.5))))
    return root * _f(0.5) * root, _f(0.5) / (root * root)


def _sinh(let: Let, x: Any) -> Any:
    a = let(_magnitude(x))
    grows, falls = _halves(let, a)
    # Of large numbers the square, which nobody reads, would be an infinity.
    small = let(tirx.Select(a < _f(1.0), a, _f(0.0)))
    square = let(small * small)
    series = _polynomial(square, [2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1])
    near = series * square * small + small
    return _signed(tirx.Select(a < _f(1.0), near, grows - falls), x)


def _cosh(let: Let, x: Any) -> Any:
    grows, falls = _halves(let, let(_magnitude(x)))
    return grows + falls


def _mantissa(bits: Any) -> Any:
    return _float(tirx.bitwise_or(tirx.bitwise_and(bits, _i(0x007FFFFF)), _i(0x3F000000)))


_FUNCTIONS: dict[str, Callable[[Let, Any], Any]] = {
    "exp": _exp,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
    "log": _log,
    "atan": _atan,
    "sinh": _sinh,
    "cosh": _cosh,
}
