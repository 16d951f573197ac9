"""The dtypes of the standard and how they promote: strictly, within one kind."""

from __future__ import annotations

from typing import Any

import numpy as np

SIGNED = tuple(np.dtype(name) for name in ("int8", "int16", "int32", "int64"))
UNSIGNED = tuple(np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64"))
FLOATS = (np.dtype("float32"), np.dtype("float64"))
BOOL = np.dtype("bool")
ALL = (BOOL, *SIGNED, *UNSIGNED, *FLOATS)

DEFAULT_FLOAT, DEFAULT_INT = np.dtype("float32"), np.dtype("int64")

KINDS: dict[str, tuple[np.dtype, ...]] = {
    "bool": (BOOL,),
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": (*SIGNED, *UNSIGNED),
    "real floating": FLOATS,
    "complex floating": (),
    "numeric": (*SIGNED, *UNSIGNED, *FLOATS),
}


def known(dtype: Any) -> np.dtype:
    """`dtype` as one of the standard's.

    Raises:
        TypeError: Nexus has no such dtype (complex ones are missing).
    """
    found = np.dtype(dtype)
    if found not in ALL:
        raise TypeError(f"dtype {found} is not supported; there are {', '.join(map(str, ALL))}")
    return found


def is_kind(dtype: np.dtype, *kinds: str) -> bool:
    """Whether `dtype` is of one of `kinds` ("bool", "integral", "numeric", ...)."""
    return any(dtype in KINDS[kind] for kind in kinds)


def promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """The dtype that both promote to.

    Raises:
        TypeError: the standard leaves the mix undefined (an integer and a float, bool and a number,
            uint64 and a signed integer).
    """
    if a == b:
        return a
    if BOOL in (a, b) or (a in FLOATS) != (b in FLOATS):
        raise TypeError(f"{a} and {b} do not promote to one dtype; convert one with astype")
    if a.kind == b.kind:
        return a if a.itemsize >= b.itemsize else b
    unsigned, signed = (a, b) if a.kind == "u" else (b, a)
    if unsigned.itemsize == 8:
        raise TypeError(f"{a} and {b} do not promote to one dtype; convert one with astype")
    return signed if signed.itemsize > unsigned.itemsize else SIGNED[UNSIGNED.index(unsigned) + 1]


def of_scalar(value: Any, dtype: np.dtype) -> np.dtype:
    """The dtype that the Python scalar `value` takes beside an array of `dtype`.

    Raises:
        TypeError: the scalar is of a higher kind than the array.
    """
    fits = (
        dtype == BOOL
        if isinstance(value, bool)
        else is_kind(dtype, "numeric")
        if isinstance(value, int)
        else dtype in FLOATS
    )
    if not fits or isinstance(value, complex):
        kind = type(value).__name__
        raise TypeError(f"the Python {kind} {value!r} does not fit an array of {dtype}")
    if isinstance(value, int) and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= value <= limits.max:
            raise OverflowError(f"the Python int {value} does not fit {dtype}")
    return dtype
