"""Elementwise operations of two arrays that Relax lacks, or has otherwise than the standard."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.tracing.emission.operation import Operation, emitter

op = relax.op


def _extreme_of(name: str) -> Any:
    def emit(it: Operation) -> Any:
        found = getattr(op, name)(*it.inputs)
        if it.kind != "f":
            return found
        found = it.emit(found)
        for one in it.inputs:
            # One NaN makes the result NaN; x86's instruction gives the second operand.
            odd = it.emit(op.isnan(one))
            found = it.emit(op.where(odd, it.emit(op.add(one, found)), found))
        return found

    return emit


emitter("maximum")(_extreme_of("maximum"))
emitter("minimum")(_extreme_of("minimum"))


def _safe_divisor(it: Operation) -> tuple[Any, Any]:
    """Where the divisor of integers ends the process (0, and -1 for the least), and one without."""
    left, right = it.inputs
    bad = it.emit(op.equal(right, it.number(0)))
    if it.kind == "i":
        least = it.number(np.iinfo(it.dtype).min)
        over = it.emit(op.logical_and(_is(it, left, least), _is(it, right, it.number(-1))))
        return bad, it.emit(op.where(it.emit(op.logical_or(bad, over)), it.number(1), right))
    return bad, it.emit(op.where(bad, it.number(1), right))


def _is(it: Operation, value: Any, number: Any) -> Any:
    return it.emit(op.equal(value, number))


def _floor_of_quotient(it: Operation) -> Any:
    """The quotient less the remainder, which is exact: the rounded one may be too large."""
    left, right = it.inputs
    rough = it.emit(op.floor(it.emit(op.divide(left, right))))
    less = it.emit(op.subtract(left, it.emit(_remainder(it))))
    exact = it.emit(op.round(it.emit(op.divide(less, right))))
    finite = it.emit(op.logical_and(it.emit(op.isfinite(left)), it.emit(op.isfinite(right))))
    plain = it.emit(op.logical_and(finite, it.emit(op.isfinite(rough))))
    small = it.emit(op.less(it.emit(op.abs(rough)), it.number(1)))
    use = it.emit(op.logical_and(plain, it.emit(op.logical_not(small))))
    return op.where(use, exact, rough)


@emitter("floor_divide")
def _floor_divide(it: Operation) -> Any:
    if it.kind == "f":
        return _floor_of_quotient(it)
    bad, divisor = _safe_divisor(it)
    return op.where(bad, it.number(0), it.emit(op.floor_divide(it.inputs[0], divisor)))


@emitter("remainder")
def _remainder(it: Operation) -> Any:
    left, right = it.inputs
    if it.kind != "f":
        bad, divisor = _safe_divisor(it)
        return op.where(bad, it.number(0), it.emit(op.floor_mod(left, divisor)))
    rest = it.emit(op.mod(left, right))  # C's fmod: exact, with the sign of the left
    zero = it.number(0)
    crossed = it.emit(op.logical_xor(it.emit(op.less(rest, zero)), it.emit(op.less(right, zero))))
    turn = it.emit(op.logical_and(crossed, it.emit(op.not_equal(rest, zero))))
    turned = it.emit(op.where(turn, it.emit(op.add(rest, right)), rest))
    below = it.emit(op.less(right, zero))
    nothing = it.emit(op.where(below, it.number(-0.0), zero))  # the sign is the divisor's here too
    return op.where(it.emit(op.equal(rest, zero)), nothing, turned)


@emitter("pow")
def _pow(it: Operation) -> Any:
    base, exponent = it.inputs
    if it.kind == "f":
        return op.power(base, exponent)
    # By squaring: one turn for each bit that an exponent with a 64-bit result can have.
    wide = "uint64" if it.kind == "u" else "int64"
    base, exponent = it.cast(base, wide), it.cast(exponent, wide)
    one, found = it.number(1, wide), None
    for bit in range(6):
        digit = it.emit(op.right_shift(exponent, it.number(bit, wide)))
        odd = it.emit(op.equal(it.emit(op.bitwise_and(digit, one)), one))
        factor = it.emit(op.where(odd, base, one))
        found = factor if found is None else it.emit(op.multiply(found, factor))
        base = it.emit(op.multiply(base, base))
    return op.astype(found, it.dtype)


def _shift_of(name: str) -> Any:
    def emit(it: Operation) -> Any:
        left, right = it.inputs
        bits = 8 * np.dtype(it.dtype).itemsize
        over = it.emit(op.greater_equal(right, it.number(bits)))
        # Shifting by the width or more is undefined for LLVM.
        by = it.emit(op.where(over, it.number(bits - 1), right))
        shifted = it.emit(getattr(op, name)(left, by))
        if name == "right_shift" and it.kind == "i":
            return shifted
        return op.where(over, it.number(0), shifted)

    return emit


emitter("bitwise_left_shift")(_shift_of("left_shift"))
emitter("bitwise_right_shift")(_shift_of("right_shift"))


def _negative_sign(it: Operation, x: Any) -> Any:
    # atan2(-0.0, -1) is -pi and atan2(0.0, -1) is pi: it sees the sign that comparisons do not.
    angle = it.emit(op.atan2(x, relax.const(-1, str(x.ty.dtype))))
    return op.less(angle, relax.const(0, str(x.ty.dtype)))


@emitter("signbit")
def _signbit(it: Operation) -> Any:
    return _negative_sign(it, it.x)


@emitter("copysign")
def _copysign(it: Operation) -> Any:
    size = it.emit(op.abs(it.inputs[0]))
    below = it.emit(_negative_sign(it, it.inputs[1]))
    return op.where(below, it.emit(op.negative(size)), size)


@emitter("hypot")
def _hypot(it: Operation) -> Any:
    a, b = (it.emit(op.abs(one)) for one in it.inputs)
    large, small = it.emit(op.maximum(a, b)), it.emit(op.minimum(a, b))
    zero = it.emit(op.equal(large, it.number(0)))
    ratio = it.emit(op.divide(small, it.emit(op.where(zero, it.number(1), large))))
    square = it.emit(op.multiply(ratio, ratio))
    found = it.emit(op.multiply(large, it.emit(op.sqrt(it.emit(op.add(square, it.number(1)))))))
    sums = it.emit(op.add(a, b))
    found = it.emit(op.where(it.emit(op.isnan(sums)), sums, found))
    infinite = it.emit(op.logical_or(it.emit(op.isinf(a)), it.emit(op.isinf(b))))
    return op.where(infinite, it.number(float("inf")), found)


@emitter("logaddexp")
def _logaddexp(it: Operation) -> Any:
    a, b = it.inputs
    large, small = it.emit(op.maximum(a, b)), it.emit(op.minimum(a, b))
    same = it.emit(op.equal(a, b))  # also two equal infinities, whose difference is NaN
    gap = it.emit(op.where(same, it.number(0), it.emit(op.subtract(small, large))))
    tail = it.emit(op.log(it.emit(op.add(it.number(1), it.emit(op.exp(gap))))))
    found = it.emit(op.add(large, tail))
    sums = it.emit(op.add(a, b))
    odd = it.emit(op.logical_or(it.emit(op.isnan(a)), it.emit(op.isnan(b))))
    return op.where(odd, sums, found)
