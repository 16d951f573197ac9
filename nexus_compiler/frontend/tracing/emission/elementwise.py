"""Elementwise operations.

Integers narrower than 64 bits go through 64: TVM tells LLVM that no sum or product of integers
overflows. 64-bit integers that overflow are undefined, as in the standard.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.tracing.emission.operation import EMITTERS, Operation, emitter, simple
from nexus_compiler.ir.near_zero import NearZero, near_zero

op = relax.op

simple(
    identity=lambda x: x,
    acos=op.acos,
    acosh=op.acosh,
    asin=op.asin,
    atan=op.atan,
    cos=op.cos,
    cosh=op.cosh,
    exp=op.exp,
    log=op.log,
    sin=op.sin,
    sqrt=op.sqrt,
    tan=op.tan,
    negative=op.negative,
    ceil=op.ceil,
    floor=op.floor,
    round=op.round,
    trunc=op.trunc,
    divide=op.divide,
    atan2=op.atan2,
    logical_not=op.logical_not,
    logical_and=op.logical_and,
    logical_or=op.logical_or,
    logical_xor=op.logical_xor,
    bitwise_and=op.bitwise_and,
    bitwise_or=op.bitwise_or,
    bitwise_xor=op.bitwise_xor,
    bitwise_invert=op.bitwise_not,
    where=op.where,
)


def different(it: Operation, left: Any, right: Any) -> Any:
    """Where two values differ; TVM's own comparison, or "not equal", is false beside NaN."""
    if it.kind != "f":
        return op.not_equal(left, right)
    apart = it.emit(op.logical_or(it.emit(op.less(left, right)), it.emit(op.greater(left, right))))
    odd = it.emit(op.logical_or(it.emit(op.isnan(left)), it.emit(op.isnan(right))))
    return op.logical_or(apart, odd)


@emitter("astype")
def _astype(it: Operation) -> Any:
    if it.dtype == "bool":
        return different(it, it.x, it.number(0, it.of))
    return op.astype(it.x, it.dtype)


def _wide(operator: Any, wide: str) -> Any:
    def emit(it: Operation) -> Any:
        dtype = np.dtype(it.dtype)
        if dtype.kind == "f" or dtype.itemsize == 8:
            return operator(*it.inputs)
        found = it.emit(operator(*(it.cast(one, wide) for one in it.inputs)))
        if dtype.kind == "u":
            mask = it.number(2 ** (8 * dtype.itemsize) - 1, wide)
            found = it.emit(op.bitwise_and(found, mask))
        return op.astype(found, it.dtype)

    return emit


EMITTERS["add"] = _wide(op.add, "int64")
EMITTERS["subtract"] = _wide(op.subtract, "int64")
EMITTERS["multiply"] = lambda it: _wide(op.multiply, "uint64" if it.kind == "u" else "int64")(it)


@emitter("abs")
def _abs(it: Operation) -> Any:
    return it.x if it.kind == "u" else op.abs(it.x)


@emitter("square")
def _square(it: Operation) -> Any:
    return EMITTERS["multiply"](Operation((it.x, it.x), it.attrs, it.sizes, it.dtype, it.emit))


@emitter("reciprocal")
def _reciprocal(it: Operation) -> Any:
    return op.divide(it.number(1), it.x)


@emitter("sign")
def _sign(it: Operation) -> Any:
    zero = it.number(0)
    above = it.cast(it.emit(op.greater(it.x, zero)), it.dtype)
    if it.kind == "u":
        return above
    sign = it.emit(op.subtract(above, it.cast(it.emit(op.less(it.x, zero)), it.dtype)))
    return op.where(it.emit(op.isnan(it.x)), it.x, sign) if it.kind == "f" else sign


def _exact(name: str) -> Any:
    return lambda it: near_zero(name, it.x, it.emit)


for _name in ("log1p", "expm1", "atanh"):
    emitter(_name)(_exact(_name))


def _odd(it: Operation, magnitude: Any) -> Any:
    return NearZero(it.emit, it.dtype).odd(it.x, magnitude)


def _of(it: Operation, name: str, *inputs: Any) -> Any:
    return it.emit(EMITTERS[name](Operation(inputs, it.attrs, it.sizes, it.dtype, it.emit)))


@emitter("tanh")
def _tanh(it: Operation) -> Any:
    found = it.emit(op.tanh(it.x))
    return op.where(it.emit(op.equal(it.x, it.number(0))), it.x, found)  # TVM's loses -0.0


@emitter("asinh")
def _asinh(it: Operation) -> Any:
    # log1p(a + a^2 / (1 + sqrt(a^2 + 1))), and log(a) + log(2) where a^2 overflows.
    a = it.emit(op.abs(it.x))
    large = it.emit(op.greater(a, it.number(1e9)))
    safe = it.emit(op.where(large, it.number(1), a))
    square = it.emit(op.multiply(safe, safe))
    root = it.emit(op.sqrt(it.emit(op.add(square, it.number(1)))))
    part = it.emit(op.divide(square, it.emit(op.add(root, it.number(1)))))
    near = _of(it, "log1p", it.emit(op.add(safe, part)))
    far = it.emit(op.add(it.emit(op.log(a)), it.number(math.log(2))))
    return _odd(it, it.emit(op.where(large, far, near)))


@emitter("sinh")
def _sinh(it: Operation) -> Any:
    a = it.emit(op.abs(it.x))
    large = it.emit(op.greater(a, it.number(20)))
    e = _of(it, "expm1", it.emit(op.where(large, it.number(1), a)))
    near = it.emit(op.add(e, it.emit(op.divide(e, it.emit(op.add(e, it.number(1)))))))
    half = it.emit(op.exp(it.emit(op.multiply(a, it.number(0.5)))))
    far = it.emit(op.multiply(it.emit(op.multiply(half, it.number(0.5))), half))
    return _odd(it, it.emit(op.where(large, far, it.emit(op.multiply(near, it.number(0.5))))))


def _test(name: str) -> Any:
    def emit(it: Operation) -> Any:
        if it.kind == "f":
            return getattr(op, name)(it.x)
        same = it.emit(op.equal(it.x, it.x))
        return same if name == "isfinite" else op.logical_not(same)

    return emit


def _comparison(name: str) -> Any:
    def emit(it: Operation) -> Any:
        if it.of == "bool":
            differ = op.logical_xor(*it.inputs)
            return differ if name == "not_equal" else op.logical_not(it.emit(differ))
        if name == "not_equal":
            return different(it, *it.inputs)
        return getattr(op, name)(*it.inputs)

    return emit


for _name in ("isnan", "isinf", "isfinite"):
    EMITTERS[_name] = _test(_name)
for _name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    EMITTERS[_name] = _comparison(_name)


def _logarithm(base: int) -> Any:
    return lambda it: op.multiply(it.emit(op.log(it.x)), it.number(1 / math.log(base)))


EMITTERS["log2"], EMITTERS["log10"] = _logarithm(2), _logarithm(10)
