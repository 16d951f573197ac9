"""Integers in the order of elements, for kernels that sort.

Signed integers are compared, and split into digits, by one instruction on every target, and have no
NaN. -0 and 0 have one key, and all NaN have one, behind infinity: sorts keep the order of equals.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx


def kind(dtype: str) -> str:
    """The type of the keys of elements of `dtype`."""
    return "int64" if tvm.DataType(dtype).bits > 32 else "int32"


def bits(dtype: str) -> int:
    """How many bits of a key differ between elements; the others follow from the sign."""
    exact = tvm.DataType(dtype).bits
    if "float" in dtype:
        return max(exact, 32)
    # The sign of an unsigned number of fewer bits takes one more.
    return min(exact + (dtype.startswith("uint") and exact not in (32, 64)), 64)


def last(dtype: str) -> Any:
    """What is behind every key of `dtype`, one that stands for no float."""
    return tirx.max_value(kind(dtype))


def has_spare(dtype: str) -> bool:
    """Whether `last` is the key of no element, in either order."""
    return "float" in dtype or tvm.DataType(dtype).bits < 32


def key(value: Any, *, down: bool) -> Any:
    """The key of `value`; with `down` the largest comes first."""
    dtype = str(value.ty)
    made = _float(value, dtype) if "float" in dtype else _integer(value, dtype)
    return tirx.bitwise_not(made) if down else made


def _float(value: Any, dtype: str) -> Any:
    if tvm.DataType(dtype).bits < 32:
        value, dtype = tirx.Cast("float32", value), "float32"
    wide = kind(dtype)
    mantissa = 52 if wide == "int64" else 23
    number = lambda plain: tirx.const(plain, wide)  # noqa: E731
    size = tvm.DataType(wide).bits
    most = 2 ** (size - 1) - 1
    infinity = (most >> mantissa) << mantissa
    raw = tirx.reinterpret(wide, value)
    magnitude = tirx.bitwise_and(raw, number(most))
    # Of two negative numbers the one with more set bits is the smaller one.
    ordered = tirx.bitwise_xor(
        raw, tirx.bitwise_and(tirx.shift_right(raw, number(size - 1)), number(most))
    )
    ordered = tirx.Select(magnitude == number(0), number(0), ordered)
    return tirx.Select(magnitude > number(infinity), number(most - 1), ordered)


def _integer(value: Any, dtype: str) -> Any:
    wide = kind(dtype)
    if dtype in ("uint32", "uint64"):
        # With the highest bit flipped, signed numbers are in the order of the unsigned ones.
        return tirx.bitwise_xor(tirx.reinterpret(wide, value), tirx.min_value(wide))
    return value if dtype == wide else tirx.Cast(wide, value)
