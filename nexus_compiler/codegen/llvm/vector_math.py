"""Elementary functions as arithmetic that LLVM can put into vectors.

A call of `expf` is taken apart into one call a lane. These are sums and products only: no branch,
no table, and no conversion of a float to an integer, whose result is undefined for NaN. The
polynomials are minimax approximations of Cephes (S. L. Moshier, `expf`, `logf`), of Eigen
(`generic_fast_tanh_float`) and of XLA (`erf`); all keep NaN, infinities and the sign of zero.
Measured over random bits: exp and log within 1 unit in the last place, tanh and erf within 6,
sigmoid within 3 where it is at least 2^-126, below which it may be 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Op
from tvm.ir.expr import Call

_F32, _I32 = "float32", "int32"
_INFINITY = float("inf")
# Added to a float of magnitude below 2^22 it rounds it to an integer, which stands in its low bits.
_ROUND = 12582912.0


def expand(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with the calls that this file knows replaced, for float32.

    Kernels that touch bfloat16 stay: TVM does not lower a cast to it inside of a `Let`.
    """
    if _touches_bfloat16(function):
        return function

    def replace(call: Call) -> Any:
        name = call.op.name if isinstance(call.op, Op) else ""
        make = _FUNCTIONS.get(name.rsplit(".", 1)[-1])
        if make is None or str(call.ty) != _F32:
            return call
        return _let(call.args[0], make)

    body = tvm_ffi.structural_map(function.body, (Call, replace))
    return function if body.same_as(function.body) else function.with_body(body)


def _touches_bfloat16(function: tirx.PrimFunc) -> bool:
    found: list[Any] = []

    def visit(cast: tirx.Cast) -> Any:
        if "bfloat16" in (str(cast.ty), str(cast.value.ty)):
            found.append(cast)
        return cast

    tvm_ffi.structural_map(function.body, (tirx.Cast, visit))
    return bool(found)


def _let(value: Any, make: Callable[[Any], Any], dtype: str = _F32) -> Any:
    """`make` of a variable for `value`, which is computed once, however often it is used."""
    variable = tirx.Var("v", dtype)
    return tirx.Let(variable, value, make(variable))


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


def _exp(x: Any) -> Any:
    """exp(x) = 2^n exp(r) with |r| <= log(2) / 2."""

    def reduced(z: Any) -> Any:
        return _let(z * _f(1.44269504088896341) + _f(_ROUND), lambda t: scaled(z, t))

    def scaled(z: Any, t: Any) -> Any:
        def rest(n: Any) -> Any:
            return z - n * _f(0.693359375) + n * _f(2.12194440e-4)

        exponent = _bits(t) - _i(_bits_of(_ROUND))
        value = _let(_let(t - _f(_ROUND), rest), _exp_of_rest)
        return _let(exponent, lambda n: _scale(value, n), _I32)

    return _let(_clamp(x, -105.0, 89.0), reduced)


def _bits_of(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def _exp_of_rest(r: Any) -> Any:
    high = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3]
    series = _polynomial(r, [*high, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1])
    return series * (r * r) + r + _f(1.0)


def _scale(value: Any, exponent: Any) -> Any:
    """value * 2^exponent in two steps, since 2^-140 and 2^128 are no floats of full precision."""

    def steps(half: Any) -> Any:
        return value * _power_of_two(half) * _power_of_two(exponent - half)

    return _let(tirx.shift_right(exponent, _i(1)), steps, _I32)


def _sigmoid(x: Any) -> Any:
    return _f(1.0) / (_f(1.0) + _let(_f(0.0) - x, _exp))


def _tanh(x: Any) -> Any:
    def rational(z: Any) -> Any:
        return _let(z * z, lambda square: z * above(square) / below(square))

    def above(square: Any) -> Any:
        high = [-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11]
        middle = [5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04]
        return _polynomial(square, [*high, *middle, 4.89352455891786e-03])

    def below(square: Any) -> Any:
        high = [1.19825839466702e-06, 1.18534705686654e-04]
        return _polynomial(square, [*high, 2.26843463243900e-03, 4.89352518554385e-03])

    small = tirx.Select(x < _f(0.0), _f(0.0) - x, x) < _f(0.0004)
    # Not the small ones: their squares have no full precision, which processors take long for.
    large = tirx.Select(small, _f(0.0), _clamp(x, -7.99881172, 7.99881172))
    return tirx.Select(small, x, _let(large, rational))


def _erf(x: Any) -> Any:
    def rational(z: Any) -> Any:
        return _let(z * z, lambda square: z * above(square) / below(square))

    def above(square: Any) -> Any:
        high = [0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861]
        return _polynomial(square, [*high, 0.18520832239976145, 1.128379143519084])

    def below(square: Any) -> Any:
        high = [-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885]
        middle = [0.014070470171167667, 0.11098505178285362, 0.49746925110067538]
        return _polynomial(square, [*high, *middle, 1.0])

    return _let(_clamp(x, -3.832506856900711, 3.832506856900711), rational)


def _log(x: Any) -> Any:
    """log(m 2^e) = log(m) + e log(2) with sqrt(1/2) <= m < sqrt(2)."""

    def scaled(tiny: Any, positive: Any) -> Any:
        return _let(
            _bits(positive),
            lambda bits: _let(_mantissa(bits), lambda m: parts(tiny, bits, m)),
            _I32,
        )

    def parts(tiny: Any, bits: Any, mantissa: Any) -> Any:
        low = mantissa < _f(0.70710678118654752)
        exponent = tirx.shift_right(bits, _i(23)) - _i(126) - tirx.Select(tiny, _i(23), _i(0))
        whole = tirx.Cast(_F32, exponent - tirx.Select(low, _i(1), _i(0)))
        rest = tirx.Select(low, mantissa + mantissa, mantissa) - _f(1.0)
        return _let(whole, lambda e: _let(rest, lambda r: _log_of_rest(r, e)))

    # Numbers below 2^-126 have no exponent of their own.
    tiny = x < _f(1.17549435e-38)
    value = _let(tirx.Select(tiny, x * _f(8388608.0), x), lambda positive: scaled(tiny, positive))
    value = tirx.Select(x == _f(0.0), _f(-_INFINITY), value)
    value = tirx.Select(x < _f(_INFINITY), value, x)
    return tirx.Select(x < _f(0.0), _f(float("nan")), value)


def _mantissa(bits: Any) -> Any:
    return _float(tirx.bitwise_or(tirx.bitwise_and(bits, _i(0x007FFFFF)), _i(0x3F000000)))


def _log_of_rest(r: Any, exponent: Any) -> Any:
    high = [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1]
    middle = [1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1]
    series = _polynomial(r, [*high, *middle, 3.3333331174e-1])

    def total(square: Any) -> Any:
        small = series * square * r + exponent * _f(-2.12194440e-4) - square * _f(0.5)
        return r + small + exponent * _f(0.693359375)

    return _let(r * r, total)


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": _exp,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
    "log": _log,
}
